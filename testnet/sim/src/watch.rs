//! What is watched while a world runs: after each step, what it committed and what it lets out. The
//! whole is judged at the end, in `judge`.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::engine::Effect;
use crate::people::{UNIT, number_of};
use crate::plan::Act;
use crate::protocol::codec;
use crate::protocol::crypto::Signed;
use crate::protocol::envelope::Envelope;
use crate::protocol::line::{Entry, Line, line_id};
use crate::protocol::mailbox::Action;
use crate::protocol::record::AccountRecord;
use crate::protocol::types::{AccountId, EnvelopeId, MessageId};
use crate::protocol::wire::Frame;
use crate::view::{LineView, MessageView, PaymentView};
use crate::world::World;

/// Second byte of an encoded `Frame::Receipts`.
const RECEIPTS: u8 = 2;
/// Steps between looks at what grows in memory.
const SIZES_EVERY: u64 = 64;
/// Buildings that something safe stands in at least, where no record says more.
const SAFE_BUILDINGS: usize = 2;

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The last event and the last entry seen, per machine.
    events: BTreeMap<usize, i64>,
    entries: BTreeMap<usize, i64>,
    steps: u64,
    /// The envelopes that carried a message.
    pub(crate) envelopes: BTreeMap<(AccountId, MessageId), BTreeSet<EnvelopeId>>,
    /// What each machine signed for.
    pub(crate) receipts: BTreeMap<usize, BTreeMap<EnvelopeId, AccountId>>,
    /// The same with what it signed before its disk was set back.
    claimed: BTreeMap<usize, BTreeSet<EnvelopeId>>,
    /// What stands at each place of each chain.
    places: BTreeMap<([u8; 32], i64), [u8; 32]>,
    /// Texts and payments that were shown to somebody.
    pub(crate) shown: BTreeSet<(AccountId, MessageId)>,
    /// How much an account might owe on a line when its machine last stepped.
    limits: BTreeMap<(AccountId, String), i128>,
    /// Messages that were called safe.
    pub(crate) safe: BTreeSet<(AccountId, MessageId)>,
    /// W of the record that an account knew of a contact when it last called something safe.
    copies: BTreeMap<(AccountId, String), usize>,
}

impl World {
    /// After a commit, before anything leaves.
    pub(crate) fn observe(
        &mut self,
        node: usize,
        effects: &[Effect],
        sealed: Vec<(i64, EnvelopeId)>,
    ) {
        self.watch.steps += 1;
        for (row, envelope) in sealed {
            self.note_envelope(node, row, envelope);
        }
        if self.watch.steps.is_multiple_of(SIZES_EVERY) {
            self.look_at_sizes(node);
        }
        if effects
            .iter()
            .any(|effect| matches!(effect, Effect::Events(_)))
        {
            self.look_at_events(node);
            self.look_at_entries(node);
        }
    }

    fn note_envelope(&mut self, node: usize, row: i64, envelope: EnvelopeId) {
        let Some(db) = self.machines[node].committed() else {
            return;
        };
        let found: Option<([u8; 32], [u8; 32])> = db
            .prepare_cached("SELECT account, message FROM outgoing WHERE id = ?1")
            .and_then(|mut query| {
                query
                    .query_row(params![row], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .unwrap_or_default();
        if let Some((account, message)) = found {
            let key = (AccountId(account), MessageId(message));
            self.watch
                .envelopes
                .entry(key)
                .or_default()
                .insert(envelope);
        }
    }

    fn look_at_sizes(&mut self, node: usize) {
        let sizes = self.machines[node]
            .engine
            .as_ref()
            .map(crate::engine::Engine::sizes)
            .unwrap_or_default();
        for (what, size, bound) in sizes {
            if size > bound {
                self.fail(
                    "R1",
                    format!("machine {node} holds {size} {what}; the bound is {bound}"),
                );
            }
        }
    }

    fn look_at_events(&mut self, node: usize) {
        let since = self.watch.events.get(&node).copied().unwrap_or(0);
        let Some(db) = self.machines[node].committed() else {
            return;
        };
        let rows = match events_after(db, since) {
            Ok(rows) => rows,
            Err(error) => return self.fail("Q1", format!("events of machine {node}: {error}")),
        };
        for (seq, account, kind, data) in rows {
            self.watch.events.insert(node, seq);
            self.trace.hash(kind.as_bytes());
            let Some(account) = account.map(AccountId) else {
                continue;
            };
            match kind.as_str() {
                "message.received" => self.text_shown(node, account, &data),
                "message.safe" => self.called_safe(node, account, &data),
                "payment.received" => self.payment_shown(account, &data),
                "payment.created" => self.payment_made(node, account, &data),
                "payment.accepted" => self.payment_accepted(node, account, &data),
                "credit.changed" => {
                    if let Ok(view) = serde_json::from_str::<LineView>(&data) {
                        self.note_limit(account, &view);
                    }
                }
                _ => {}
            }
        }
    }

    /// S3: shown once, by whom it was written, to whom it was written.
    fn text_shown(&mut self, node: usize, account: AccountId, data: &str) {
        let Ok(view) = serde_json::from_str::<MessageView>(data) else {
            return;
        };
        let at = self.age();
        self.trace.say(at, || {
            format!(
                "machine {node} shows `{}` of {}",
                view.text, view.contact_name
            )
        });
        self.trace.hash(view.text.as_bytes());
        let Some(person) = self.people.iter().position(|person| person.id == account) else {
            return;
        };
        let number = number_of(&view.text);
        let deed = number.and_then(|number| {
            self.deeds
                .iter()
                .find(|deed| deed.operation.number == number)
        });
        let Some(deed) = deed else {
            return self.fail(
                "S3",
                format!(
                    "person {person} is shown a text that nobody wrote: {}",
                    view.text
                ),
            );
        };
        let here = &self.people[person];
        if here.node != node && here.restoring != Some(node) {
            // An earlier device of the account, which does not know yet that it was replaced.
            return;
        }
        let writer = self.people[deed.operation.who].id.to_string();
        if deed.whom != Some(person)
            || writer != view.contact
            || !matches!(deed.operation.act, Act::Text { .. })
        {
            let what = format!(
                "`{}` is shown to person {person} as a text of {}",
                view.text, view.contact_name
            );
            return self.fail("S3", what);
        }
        if let Ok(message) = view.id.parse::<MessageId>()
            && !self.watch.shown.insert((account, message))
            && !self.people[person].set_back
        {
            self.fail(
                "S3",
                format!("`{}` is shown to person {person} twice", view.text),
            );
        }
    }

    /// In how many buildings something for a mailbox must stand before a machine calls it safe: W of the
    /// record that it knows.
    fn copies_needed(&self, node: usize, account: AccountId, view: &MessageView) -> usize {
        let Some(db) = self.machines[node].committed() else {
            return SAFE_BUILDINGS;
        };
        let record: rusqlite::Result<Vec<u8>> = match view.contact.parse::<AccountId>() {
            Ok(contact) if view.direction == "out" => db.query_row(
                "SELECT record FROM contacts WHERE account = ?1 AND contact = ?2",
                params![account.0, contact.0],
                |row| row.get(0),
            ),
            _ => db.query_row(
                "SELECT record FROM accounts WHERE account = ?1",
                params![account.0],
                |row| row.get(0),
            ),
        };
        record
            .ok()
            .and_then(|bytes| codec::decode::<Signed<AccountRecord>>(&bytes).ok())
            .and_then(|signed| signed.unverified().ok())
            .map_or(SAFE_BUILDINGS, |record| usize::from(record.safe_copies))
    }

    /// S2: what is called safe stands on the committed disks of as many buildings as its reader asks
    /// for. The cursed one, whose keepers may lie or lose, counts once for what its keepers signed.
    fn called_safe(&mut self, node: usize, account: AccountId, data: &str) {
        let Ok(view) = serde_json::from_str::<MessageView>(data) else {
            return;
        };
        let Ok(message) = view.id.parse::<MessageId>() else {
            return;
        };
        let mut envelopes: BTreeSet<EnvelopeId> = BTreeSet::new();
        if view.direction == "out" {
            envelopes.extend(
                self.watch
                    .envelopes
                    .get(&(account, message))
                    .into_iter()
                    .flatten(),
            );
        } else if let Some(db) = self.machines[node].committed() {
            let page: Option<[u8; 32]> = db
                .query_row(
                    "SELECT p.page FROM messages m JOIN pages p
                       ON p.mailbox = m.account AND p.epoch = m.volume AND p.number = m.page
                     WHERE m.account = ?1 AND m.message = ?2",
                    params![account.0, message.0],
                    |row| row.get(0),
                )
                .optional()
                .unwrap_or_default();
            // Tidied away into a segment meanwhile: nothing to compare with.
            let Some(page) = page else { return };
            envelopes.insert(EnvelopeId(page));
        }
        if view.direction == "out" {
            self.watch.safe.insert((account, message));
        }
        let buildings = self.buildings_holding(&envelopes);
        // Receipts and a newer record may come in one step: it was safe under the record before.
        let now = self.copies_needed(node, account, &view);
        let pair = (account, view.contact.clone());
        let before = self.watch.copies.insert(pair, now);
        let needed = now.min(before.unwrap_or(SAFE_BUILDINGS));
        if buildings.len() < needed && !self.machines[node].set_back {
            let signers = self.signers(node, account, message);
            let what = format!(
                "`{}` ({}) is called safe at machine {node}, and stands in buildings {buildings:?} only, of {needed}; signed by machines {signers:?}",
                view.text, view.direction
            );
            self.fail("S2", what);
        }
    }

    /// The machines whose receipts a machine shows for a message.
    fn signers(&self, node: usize, account: AccountId, message: MessageId) -> Vec<usize> {
        let Some(db) = self.machines[node].committed() else {
            return vec![];
        };
        let keepers: rusqlite::Result<Vec<[u8; 32]>> = db
            .prepare_cached(
                "SELECT i.keeper FROM messages m
                 JOIN receipt_items i ON i.kind = 0 AND i.item = m.id
                 WHERE m.account = ?1 AND m.message = ?2",
            )
            .and_then(|mut query| {
                query
                    .query_map(params![account.0, message.0], |row| row.get(0))?
                    .collect()
            });
        keepers
            .unwrap_or_default()
            .into_iter()
            .filter_map(|id| self.by_id.get(&crate::protocol::types::NodeId(id)).copied())
            .collect()
    }

    /// The buildings where one of some envelopes is stored; the cursed one also where its keepers only
    /// signed.
    pub(crate) fn buildings_holding(&self, envelopes: &BTreeSet<EnvelopeId>) -> BTreeSet<usize> {
        let options = &self.plan.options;
        let mut buildings = BTreeSet::new();
        for (node, machine) in self.machines.iter().enumerate() {
            let building = crate::plan::building_of(node, options);
            let signed = self.watch.claimed.get(&node);
            let holds = envelopes.iter().any(|envelope| {
                let claimed = building == options.cursed
                    && signed.is_some_and(|signed| signed.contains(envelope));
                claimed || machine.committed().is_some_and(|db| holds(db, envelope))
            });
            if holds {
                buildings.insert(building);
            }
        }
        buildings
    }

    fn payment_shown(&mut self, account: AccountId, data: &str) {
        let Ok(view) = serde_json::from_str::<PaymentView>(data) else {
            return;
        };
        let Some(person) = self.people.iter().position(|person| person.id == account) else {
            return;
        };
        let number = number_of(&view.note);
        let deed = number.and_then(|number| {
            self.deeds
                .iter()
                .find(|deed| deed.operation.number == number)
        });
        let right = deed.is_some_and(|deed| {
            let amount = match deed.operation.act {
                Act::Pay { amount, .. } => amount.to_string(),
                _ => String::new(),
            };
            deed.whom == Some(person)
                && self.people[deed.operation.who].id.to_string() == view.contact
                && amount == view.amount.amount
        });
        if !right {
            let what = format!(
                "person {person} is shown a payment of {} that nobody made: {}",
                view.amount.amount, view.note
            );
            self.fail("S3", what);
        }
    }

    /// M3: a debtor never signs past what it may owe, with what waits counted.
    fn payment_made(&mut self, node: usize, account: AccountId, data: &str) {
        let Ok(payment) = serde_json::from_str::<PaymentView>(data) else {
            return;
        };
        let Some(view) = self.line_of(node, account, &payment.contact) else {
            return;
        };
        let number = |text: &str| text.parse::<i128>().unwrap_or(0);
        let used = number(&view.held_out) - number(&view.balance);
        let before = self
            .watch
            .limits
            .get(&(account, view.id.clone()))
            .copied()
            .unwrap_or(0);
        let limit = number(&view.limit_received).max(before);
        if used > limit && !view.frozen && !self.machines[node].set_back {
            let what = format!(
                "after {} ({}) machine {node} owes {used} with what waits, and may owe {limit}",
                payment.note, payment.amount.amount
            );
            self.fail("M3", what);
        }
        self.note_limit(account, &view);
    }

    /// M3: nothing accepted passes the limit.
    fn payment_accepted(&mut self, node: usize, account: AccountId, data: &str) {
        let Ok(payment) = serde_json::from_str::<PaymentView>(data) else {
            return;
        };
        let Some(view) = self.line_of(node, account, &payment.contact) else {
            return;
        };
        let number = |text: &str| text.parse::<i128>().unwrap_or(0);
        if payment.direction == "in"
            && number(&view.balance) > number(&view.limit_given)
            && !view.frozen
            && !self.machines[node].set_back
        {
            let what = format!(
                "machine {node} accepted {} ({}): it is owed {}, and its limit is {}",
                payment.note, payment.amount.amount, view.balance, view.limit_given
            );
            self.fail("M3", what);
        }
        self.note_limit(account, &view);
    }

    fn note_limit(&mut self, account: AccountId, view: &LineView) {
        let limit = view.limit_received.parse().unwrap_or(0);
        self.watch.limits.insert((account, view.id.clone()), limit);
    }

    /// A line as it is committed.
    pub(crate) fn line_of(
        &self,
        node: usize,
        account: AccountId,
        contact: &str,
    ) -> Option<LineView> {
        let other: AccountId = contact.parse().ok()?;
        let id = line_id(account, other, &UNIT.parse().ok()?);
        let state: Vec<u8> = self.machines[node]
            .committed()?
            .prepare_cached("SELECT state FROM lines WHERE account = ?1 AND line = ?2")
            .ok()?
            .query_row(params![account.0, id.0], |row| row.get(0))
            .ok()?;
        let line: Line = codec::decode(&state).ok()?;
        Some(crate::read::line_view(&line, ""))
    }

    /// M5: no device signs two entries for one place, and all who hold a place hold the same.
    fn look_at_entries(&mut self, node: usize) {
        let since = self.watch.entries.get(&node).copied().unwrap_or(0);
        let Some(db) = self.machines[node].committed() else {
            return;
        };
        let rows = entries_after(db, since).unwrap_or_default();
        for (id, chain, sequence, hash, bytes) in rows {
            self.watch.entries.insert(node, id);
            let known = *self.watch.places.entry((chain, sequence)).or_insert(hash);
            if known == hash {
                continue;
            }
            let author = codec::decode::<Signed<Entry>>(&bytes)
                .ok()
                .and_then(|signed| signed.unverified().ok())
                .and_then(|entry| self.people.iter().find(|person| person.id == entry.author));
            if author.is_some_and(|person| !person.set_back) {
                self.fail(
                    "M5",
                    format!(
                        "two entries stand at place {sequence} of one chain, seen at machine {node}"
                    ),
                );
            }
        }
    }

    /// What a machine lets out: receipts must be for what is committed there.
    pub(crate) fn inspect_frame(&mut self, node: usize, to: usize, bytes: &[u8]) {
        self.tell_frame(node, to, bytes);
        if bytes.get(1) != Some(&RECEIPTS) {
            return;
        }
        let Ok(Frame::Receipts(list)) = codec::decode::<Frame>(bytes) else {
            return;
        };
        for signed in list {
            let Ok(receipt) = signed.unverified() else {
                continue;
            };
            if receipt.keeper != self.machines[node].id {
                continue;
            }
            for id in receipt.ids {
                let held = self.machines[node]
                    .committed()
                    .is_some_and(|db| holds(db, &id));
                if !held && !self.machines[node].liar {
                    let what =
                        format!("machine {node} signs for an envelope that it has not committed");
                    return self.fail("S2", what);
                }
                let page = self.machines[node]
                    .committed()
                    .is_some_and(|db| is_page(db, &id));
                if !page {
                    // Pages may be tidied away, once a segment stands for them.
                    let receipts = self.watch.receipts.entry(node).or_default();
                    receipts.insert(id, receipt.mailbox);
                }
                self.watch.claimed.entry(node).or_default().insert(id);
            }
        }
    }

    /// A frame in the story.
    fn tell_frame(&mut self, node: usize, to: usize, bytes: &[u8]) {
        let at = self.age();
        let there = node == to || self.machines[node].views.contains_key(&to);
        self.trace.say(at, || {
            let text = match codec::decode::<Frame>(bytes) {
                Ok(Frame::Put { parcels, .. }) => {
                    let ids = parcels
                        .iter()
                        .map(|parcel| Envelope::id_of(&parcel.envelope).short());
                    format!("envelopes {}", ids.collect::<Vec<_>>().join(" "))
                }
                Ok(Frame::Statements(list)) => {
                    let list = list.iter().filter_map(|signed| signed.unverified().ok());
                    let list = list.map(|statement| match statement.action {
                        Action::Delivered { ids } => {
                            let ids: Vec<_> = ids.iter().map(EnvelopeId::short).collect();
                            format!("{} has {}", statement.account.short(), ids.join(" "))
                        }
                        Action::Read { .. } => format!("{} read", statement.account.short()),
                        Action::Grant { .. } => format!("{} grants", statement.account.short()),
                        Action::Revoke { .. } => format!("{} revokes", statement.account.short()),
                    });
                    format!("statements: {}", list.collect::<Vec<_>>().join(", "))
                }
                Ok(Frame::Receipts(list)) => {
                    let list = list.iter().filter_map(|signed| signed.unverified().ok());
                    let ids = list.flat_map(|receipt| receipt.ids).map(|id| id.short());
                    format!("receipts for {}", ids.collect::<Vec<_>>().join(" "))
                }
                Ok(Frame::Request { request, .. }) => {
                    let text = format!("{request:?}");
                    format!("request {}", text.chars().take(40).collect::<String>())
                }
                Ok(Frame::Response { response, .. }) => {
                    let text = format!("{response:?}");
                    format!("response {}", text.chars().take(40).collect::<String>())
                }
                Ok(other) => format!("{other:?}").chars().take(60).collect(),
                Err(error) => error.to_string(),
            };
            format!(
                "machine {node} {} machine {to}: {text}",
                if there { "to" } else { "in vain to" }
            )
        });
    }

    /// A machine's disk was set back: what it shows from now on is compared with what is there.
    pub(crate) fn watch_again(&mut self, node: usize) {
        let accounts: BTreeSet<AccountId> = self
            .people
            .iter()
            .filter(|person| person.node == node)
            .map(|person| person.id)
            .collect();
        self.watch
            .shown
            .retain(|(account, _)| !accounts.contains(account));
        self.watch.receipts.remove(&node);
        let Some(db) = self.machines[node].committed() else {
            return;
        };
        let last = |table: &str, column: &str| -> i64 {
            db.query_row(
                &format!("SELECT coalesce(max({column}), 0) FROM {table}"),
                [],
                |row| row.get(0),
            )
            .unwrap_or(0)
        };
        let (events, entries) = (last("events", "seq"), last("entries", "id"));
        self.watch.events.insert(node, events);
        self.watch.entries.insert(node, entries);
    }
}

fn is_page(db: &Connection, id: &EnvelopeId) -> bool {
    db.prepare_cached("SELECT 1 FROM pages WHERE page = ?1")
        .and_then(|mut query| query.exists(params![id.0]))
        .unwrap_or(false)
}

/// Whether an envelope is stored with all the encapsulations that it names, or is a page of an
/// archive.
pub(crate) fn holds(db: &Connection, envelope: &EnvelopeId) -> bool {
    if is_page(db, envelope) {
        return true;
    }
    let found: rusqlite::Result<Option<([u8; 32], Vec<u8>)>> = db
        .prepare_cached("SELECT mailbox, seals FROM envelopes WHERE envelope = ?1")
        .and_then(|mut query| {
            query
                .query_row(params![envelope.0], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        });
    let Ok(Some((mailbox, seals))) = found else {
        return false;
    };
    seals.chunks_exact(16).all(|name| {
        db.prepare_cached("SELECT 1 FROM encapsulations WHERE mailbox = ?1 AND name = ?2")
            .and_then(|mut query| query.exists(params![mailbox, name]))
            .unwrap_or(false)
    })
}

type EventRow = (i64, Option<[u8; 32]>, String, String);

fn events_after(db: &Connection, since: i64) -> rusqlite::Result<Vec<EventRow>> {
    db.prepare_cached("SELECT seq, account, kind, data FROM events WHERE seq > ?1 ORDER BY seq")?
        .query_map(params![since], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect()
}

type EntryRow = (i64, [u8; 32], i64, [u8; 32], Vec<u8>);

fn entries_after(db: &Connection, since: i64) -> rusqlite::Result<Vec<EntryRow>> {
    db.prepare_cached(
        "SELECT id, chain, sequence, hash, bytes FROM entries WHERE id > ?1 ORDER BY id",
    )?
    .query_map(params![since], |row| {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
        ))
    })?
    .collect()
}
