//! What must hold when the storm is over and everything has settled. Reads through the same functions
//! that people's calls use.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};

use crate::node::Page;
use crate::people::{Deed, Known, Person, number_of};
use crate::plan::Act;
use crate::protocol::delivery::State;
use crate::protocol::types::{AccountId, MessageId};
use crate::read;
use crate::run::met;
use crate::view::{MessageView, PaymentView};
use crate::watch::holds;
use crate::world::{Standing, World};

impl World {
    /// A person whose machine runs and remembers everything.
    pub(crate) fn sound(&self, person: usize) -> bool {
        let here = &self.people[person];
        self.machines[here.node].standing == Standing::Up && !here.set_back && !self.away(person)
    }

    fn committed(&self, person: &Person) -> Option<&Connection> {
        self.machines[person.node].committed()
    }

    /// Pairs where one blocked the other, once: what is written meanwhile is meant not to arrive.
    fn blocked_pairs(&self) -> BTreeSet<(usize, usize)> {
        self.deeds
            .iter()
            .filter(|deed| matches!(deed.operation.act, Act::Block { on: true, .. }))
            .filter(|deed| deed.known != Known::Nothing)
            .filter_map(|deed| {
                let (a, b) = (deed.operation.who, deed.whom?);
                Some((a.min(b), a.max(b)))
            })
            .collect()
    }

    /// Whether one of two people holds an invitation of the other's that burned before it was safe.
    fn never_met(&self, one: usize, other: usize) -> bool {
        [(one, other), (other, one)]
            .iter()
            .any(|pair| self.burned_invitations.contains(pair) && !met(self, pair.0, pair.1))
    }

    /// Pairs of contacts whose machines run and remember everything, and who never blocked each other.
    pub(crate) fn sound_pairs(&self) -> Vec<(usize, usize)> {
        let blocked = self.blocked_pairs();
        let mut pairs = BTreeSet::new();
        for (one, person) in self.people.iter().enumerate() {
            for other in &person.contacts {
                let pair = (one.min(*other), one.max(*other));
                let apart = blocked.contains(&pair) || self.never_met(one, *other);
                if self.sound(one) && self.sound(*other) && !apart {
                    pairs.insert(pair);
                }
            }
        }
        pairs.into_iter().collect()
    }

    /// What still keeps the world from rest, in words; `None` when everything has settled.
    pub(crate) fn unsettled(&self) -> Option<String> {
        for deed in &self.deeds {
            let who = deed.operation.who;
            let open = matches!(deed.known, Known::Asked)
                || (deed.known == Known::Unknown && deed.operation.key);
            if open && self.machines[self.people[who].node].standing == Standing::Up {
                return Some(format!(
                    "operation {} of person {who} has no answer",
                    deed.operation.number
                ));
            }
        }
        let unsettled = |person: &usize| self.away(*person) || self.people[*person].partial;
        if let Some(person) = (0..self.people.len()).find(unsettled) {
            return Some(format!("person {person} is not back with everything"));
        }
        for (one, other) in self.sound_pairs() {
            for (from, to) in [(one, other), (other, one)] {
                let (sender, recipient) = (&self.people[from], &self.people[to]);
                let waiting = self.committed(sender).and_then(|db| {
                    db.prepare_cached(
                        "SELECT count(*) FROM outgoing WHERE account = ?1 AND contact = ?2 AND delivered = 0",
                    )
                    .and_then(|mut query| query.query_row(params![sender.id.0, recipient.id.0], |row| row.get::<_, u64>(0)))
                    .ok()
                });
                if waiting != Some(0) {
                    let how = self.waiting_items(sender, recipient);
                    return Some(format!(
                        "{waiting:?} items of person {from} (machine {}) have not reached person {to} (machine {}): {how}",
                        sender.node, recipient.node
                    ));
                }
                let line = self.line_of(sender.node, sender.id, &recipient.id.to_string());
                if line.is_some_and(|line| line.held_out != "0" || line.held_in != "0") {
                    return Some(format!(
                        "payments of person {from} to person {to} wait for an answer"
                    ));
                }
            }
        }
        self.unequal()
    }

    /// What waits of one person for another, for the story.
    fn waiting_items(&self, sender: &Person, recipient: &Person) -> String {
        let rows = |db: &Connection| -> rusqlite::Result<Vec<String>> {
            db.prepare(
                "SELECT g.kind, g.envelope, (SELECT group_concat(hex(o.node), ' ') FROM outbox o
                   WHERE o.kind = 0 AND o.item = g.id)
                 FROM outgoing g WHERE account = ?1 AND contact = ?2 AND delivered = 0",
            )?
            .query_map(params![sender.id.0, recipient.id.0], |row| {
                let kind: i64 = row.get(0)?;
                let envelope: Option<[u8; 32]> = row.get(1)?;
                let targets: Option<String> = row.get(2)?;
                let targets: Vec<usize> = targets
                    .unwrap_or_default()
                    .split(' ')
                    .filter_map(|hex| {
                        self.machines.iter().position(|machine| {
                            data_encoding::HEXUPPER.encode(&machine.id.0) == hex
                        })
                    })
                    .collect();
                let there = envelope.map(|id| {
                    let count = |sql: &str| {
                        self.committed(recipient).and_then(|db| {
                            db.query_row(sql, params![id], |row| row.get::<_, u64>(0))
                                .ok()
                        })
                    };
                    format!(
                        "{} at its home: acknowledged {:?}, kept {:?}, message {:?}",
                        crate::protocol::types::EnvelopeId(id),
                        count("SELECT count(*) FROM acknowledged WHERE envelope = ?1"),
                        count("SELECT count(*) FROM envelopes WHERE envelope = ?1"),
                        count("SELECT count(*) FROM messages WHERE envelope = ?1"),
                    )
                });
                Ok(format!("kind {kind}, to machines {targets:?}, {there:?}"))
            })?
            .collect()
        };
        let items = self.committed(sender).and_then(|db| rows(db).ok());
        let about = |from: usize, to: usize| {
            let engine = self.machines[from].engine.as_ref();
            engine
                .map(|engine| engine.about(&self.machines[to].id))
                .unwrap_or_default()
        };
        format!(
            "{}; the one machine of the other: {}; the other of the one: {}",
            items.unwrap_or_default().join("; "),
            about(sender.node, recipient.node),
            about(recipient.node, sender.node)
        )
    }

    /// Everything.
    pub(crate) fn judge(&mut self) {
        self.judge_receipts();
        self.judge_safe();
        self.judge_deeds();
        for (one, other) in self.sound_pairs() {
            self.judge_line(one, other);
            self.judge_chat(one, other);
            self.judge_chat(other, one);
            self.judge_answers(one, other);
            self.judge_answers(other, one);
            if self.failure.is_some() {
                return;
            }
        }
        self.judge_counts();
    }

    /// S1: what an honest keeper signed for is still there; or its owner has it, on that very machine.
    fn judge_receipts(&mut self) {
        let mut lost = None;
        for (node, receipts) in &self.watch.receipts {
            let machine = &self.machines[*node];
            if machine.liar || machine.set_back {
                continue;
            }
            let Some(db) = machine.committed() else {
                continue;
            };
            let missing = receipts
                .iter()
                .filter(|(id, mailbox)| !holds(db, id) && !self.lives_at(mailbox, *node))
                .count();
            if missing > 0 {
                lost = Some(format!(
                    "machine {node} signed for {missing} envelopes that it no longer has"
                ));
            }
        }
        if let Some(what) = lost {
            self.fail("S1", what);
        }
    }

    /// What a keeper signed for becomes its owner's when the account is restored on that very machine;
    /// then it is opened, also when the account moves on.
    fn lives_at(&self, account: &AccountId, node: usize) -> bool {
        let person = self.people.iter().find(|person| person.id == *account);
        let here = |person: &Person| person.homes.contains(&node) || person.restoring == Some(node);
        // A restore may be whole on the disk when the power is cut before anybody sees it.
        let stands = self.machines[node].committed().is_some_and(|db| {
            db.prepare_cached("SELECT 1 FROM accounts WHERE account = ?1")
                .and_then(|mut query| query.exists(params![account.0]))
                .unwrap_or(false)
        });
        stands || person.is_some_and(here)
    }

    /// Whether the one to whom a message was written has it, where the account lives now.
    fn has_come(&self, message: MessageId) -> bool {
        self.people.iter().any(|person| {
            self.committed(person).is_some_and(|db| {
                db.prepare_cached(
                    "SELECT 1 FROM messages WHERE account = ?1 AND message = ?2 AND outgoing = 0",
                )
                .and_then(|mut query| query.exists(params![person.id.0, message.0]))
                .unwrap_or(false)
            })
        })
    }

    /// S1: what was called safe is still somewhere outside of the cursed building, or with its recipient.
    fn judge_safe(&mut self) {
        let mut lost = None;
        for (account, message) in &self.watch.safe {
            let Some(envelopes) = self.watch.envelopes.get(&(*account, *message)) else {
                continue;
            };
            let kept = self
                .machines
                .iter()
                .filter_map(|machine| machine.committed())
                .any(|db| envelopes.iter().any(|envelope| holds(db, envelope)));
            if !kept && !self.has_come(*message) {
                lost = Some(format!("{message} was called safe, and no keeper has it"));
            }
        }
        if let Some(what) = lost {
            self.fail("S1", what);
        }
    }

    fn texts(&self, me: &Person, other: AccountId) -> Vec<MessageView> {
        let mut all: Vec<MessageView> = Vec::new();
        let Some(db) = self.committed(me) else {
            return all;
        };
        let mut page = Page {
            limit: 500,
            ..Page::default()
        };
        while let Ok(mut list) = read::messages(db, &me.id, &other, &page) {
            let full = list.len() == 500;
            page.before = list.first().map(|first| first.id.clone());
            list.append(&mut all);
            all = list;
            if !full {
                break;
            }
        }
        all
    }

    fn payments(&self, me: &Person) -> Vec<PaymentView> {
        let mut all: Vec<PaymentView> = Vec::new();
        let Some(db) = self.committed(me) else {
            return all;
        };
        let mut page = Page {
            limit: 500,
            ..Page::default()
        };
        while let Ok(list) = read::payments(db, &me.id, &page) {
            let full = list.len() == 500;
            page.before = list.last().map(|last| last.id.clone());
            all.extend(list);
            if !full {
                break;
            }
        }
        all
    }

    /// M6: every operation had the effect that its person was told of, once.
    fn judge_deeds(&mut self) {
        let mut wrong = None;
        for (one, person) in self.people.iter().enumerate() {
            if !self.sound(one) {
                continue;
            }
            let mut made: BTreeMap<usize, u64> = BTreeMap::new();
            for payment in self.payments(person) {
                if payment.direction == "out" {
                    *made
                        .entry(number_of(&payment.note).unwrap_or(usize::MAX))
                        .or_insert(0) += 1;
                }
            }
            for other in &person.contacts {
                for text in self.texts(person, self.people[*other].id) {
                    if text.direction == "out" && text.kind == "text" {
                        *made
                            .entry(number_of(&text.text).unwrap_or(usize::MAX))
                            .or_insert(0) += 1;
                    }
                }
            }
            for deed in self.deeds.iter().filter(|deed| deed.operation.who == one) {
                wrong = wrong.or_else(|| {
                    one_effect(
                        person.restored,
                        deed,
                        made.get(&deed.operation.number).copied().unwrap_or(0),
                    )
                });
            }
        }
        if let Some(what) = wrong {
            self.fail("M6", what);
        }
    }

    /// M1, M2, M3: both ends of a line agree, and it is what the people did.
    fn judge_line(&mut self, one: usize, other: usize) {
        let (a, b) = (self.people[one].clone(), self.people[other].clone());
        let here = self.line_of(a.node, a.id, &b.id.to_string());
        let there = self.line_of(b.node, b.id, &a.id.to_string());
        let (here, there) = match (here, there) {
            (None, None) => return,
            (Some(here), Some(there)) => (here, there),
            (Some(line), None) | (None, Some(line)) => {
                if line.balance != "0" || line.limit_given != "0" {
                    self.fail(
                        "M1",
                        format!("only one end of the line of persons {one} and {other} knows it"),
                    );
                }
                return;
            }
        };
        let number = |text: &str| text.parse::<i128>().unwrap_or(i128::MAX);
        let fits = number(&here.balance) == -number(&there.balance)
            && here.settled_out == there.settled_in
            && here.settled_in == there.settled_out
            && here.limit_given == there.limit_received
            && here.limit_received == there.limit_given
            && here.frozen == there.frozen;
        if !fits {
            return self.fail("M1", format!("the ends of the line of persons {one} and {other} disagree: {here:?}, {there:?}"));
        }
        if here.frozen {
            return self.fail(
                "M5",
                format!("the line of persons {one} and {other} is stopped, though both are honest"),
            );
        }
        for (me, view, contact) in [(&a, &here, &b), (&b, &there, &a)] {
            let contact = contact.id.to_string();
            let (mut sum_out, mut sum_in) = (0_i128, 0_i128);
            for payment in self.payments(me) {
                if payment.contact != contact || payment.state != "accepted" {
                    continue;
                }
                let amount = number(&payment.amount.amount);
                if payment.direction == "out" {
                    sum_out += amount;
                } else {
                    sum_in += amount;
                }
            }
            if sum_out != number(&view.settled_out) || sum_in != number(&view.settled_in) {
                let what = format!(
                    "persons {one} and {other}: payments of {sum_out} out and {sum_in} in were accepted, and {} and {} are settled",
                    view.settled_out, view.settled_in
                );
                return self.fail("M2", what);
            }
        }
    }

    /// L1, S3: everything that was written has arrived, in the writer's order, unchanged.
    fn judge_chat(&mut self, from: usize, to: usize) {
        let (sender, recipient) = (self.people[from].clone(), self.people[to].clone());
        let sent: Vec<MessageView> = self
            .texts(&sender, recipient.id)
            .into_iter()
            .filter(|text| text.direction == "out")
            .collect();
        let came: Vec<MessageView> = self
            .texts(&recipient, sender.id)
            .into_iter()
            .filter(|text| text.direction == "in")
            .collect();
        let mut last = 0;
        for text in came.iter().filter(|text| text.kind == "text") {
            if text.sequence <= last && !sender.restored {
                return self.fail("S3", format!("person {to} is shown the texts of person {from} out of order: {} after {last}", text.sequence));
            }
            last = text.sequence;
        }
        let known: BTreeMap<&str, &MessageView> =
            came.iter().map(|text| (text.id.as_str(), text)).collect();
        for text in &sent {
            if recipient.restored && !text.safe && !known.contains_key(text.id.as_str()) {
                // Told as delivered, but never as safe: it may have burned with its reader.
                continue;
            }
            let Some(arrived) = known.get(text.id.as_str()) else {
                return self.fail(
                    "L1",
                    format!("`{}` of person {from} never reached person {to}", text.text),
                );
            };
            if arrived.text != text.text
                || arrived.amount != text.amount
                || arrived.sequence != text.sequence
            {
                return self.fail(
                    "S3",
                    format!("`{}` reached person {to} as `{}`", text.text, arrived.text),
                );
            }
            if text.state < State::Delivered && !sender.restored {
                return self.fail(
                    "L1",
                    format!("person {from} is not told that `{}` arrived", text.text),
                );
            }
        }
        if came.len() > sent.len() && !sender.restored {
            self.fail(
                "S3",
                format!(
                    "person {to} was shown {} items of person {from}, who sent {}",
                    came.len(),
                    sent.len()
                ),
            );
        }
    }

    /// S3: what a person wrote stands below everything that was shown to them before.
    fn judge_answers(&mut self, one: usize, other: usize) {
        let (me, them) = (&self.people[one], &self.people[other]);
        if me.restored {
            // Their rows were made anew, in another order.
            return;
        }
        let above = self.committed(me).and_then(|db| {
            db.query_row(
                "SELECT count(*) FROM messages o JOIN messages i
                   ON i.account = o.account AND i.contact = o.contact
                 WHERE o.account = ?1 AND o.contact = ?2 AND o.outgoing = 1 AND o.kind = 0
                   AND i.outgoing = 0 AND i.kind = 0 AND i.id < o.id AND i.time > o.time",
                params![me.id.0, them.id.0],
                |row| row.get::<_, u64>(0),
            )
            .ok()
        });
        if above != Some(0) {
            self.fail(
                "S3",
                format!(
                    "{above:?} answers of person {one} stand above the texts of person {other} that they answer"
                ),
            );
        }
    }

    /// L2: the keepers of an account hold the same; the first that differs, in words. Envelopes under a
    /// revoked permission are left out (one keeper took what another, who had heard of it, refuses), and
    /// those who came back from their words (mail to the earlier device that one keeper shows again and
    /// another, who holds its page, does not).
    fn unequal(&self) -> Option<String> {
        for (number, person) in self.people.iter().enumerate() {
            if !self.sound(number) || person.restored {
                continue;
            }
            let engine = self.machines[person.node].engine.as_ref()?;
            let Some((_, own)) = engine.own_accounts().find(|(id, _)| **id == person.id) else {
                continue;
            };
            let mut first = None;
            for keeper in &own.record.record.keepers {
                let Some(&node) = self.by_id.get(&keeper.place.node) else {
                    continue;
                };
                let machine = &self.machines[node];
                let (Some(engine), false, false) = (
                    &machine.engine,
                    keeper.joining,
                    machine.liar || machine.set_back,
                ) else {
                    continue;
                };
                let holdings = engine.holdings(&person.id)?;
                match &first {
                    Some((other, known)) if *known != holdings => {
                        return Some(format!(
                            "machines {other} and {node} do not hold the same of person {number}"
                        ));
                    }
                    Some(_) => {}
                    None => first = Some((node, holdings)),
                }
            }
        }
        None
    }

    /// R1: what a node counts of a mailbox is what it holds.
    fn judge_counts(&mut self) {
        for node in 0..self.machines.len() {
            let machine = &self.machines[node];
            if machine.standing != Standing::Up || machine.liar {
                continue;
            }
            let wrong = machine
                .engine
                .as_ref()
                .map(crate::engine::Engine::miscounted)
                .unwrap_or_default();
            if !wrong.is_empty() {
                let whose: Vec<Option<usize>> = wrong
                    .iter()
                    .map(|id| self.people.iter().position(|person| person.id == *id))
                    .collect();
                return self.fail(
                    "R1",
                    format!("machine {node} counts the mailboxes of persons {whose:?} wrongly"),
                );
            }
        }
    }
}

fn one_effect(restored: bool, deed: &Deed, made: u64) -> Option<String> {
    if !matches!(deed.operation.act, Act::Text { .. } | Act::Pay { .. }) {
        return None;
    }
    let number = deed.operation.number;
    let right = match &deed.known {
        // What was not safe may have burned with the machine.
        _ if restored => made <= 1,
        Known::Done(_) => made == 1,
        Known::Refused(_) if !deed.in_doubt => made == 0,
        Known::Nothing => made == 0,
        Known::Unknown | Known::Asked | Known::Refused(_) => made <= 1,
    };
    (!right).then(|| {
        format!(
            "operation {number} is known as {:?} and had {made} effects",
            deed.known
        )
    })
}
