//! Bringing keepers of one mailbox, and its owner, level: digests first, then range-based set
//! reconciliation, statements before envelopes. Every step is stateless but for the question itself.

use std::collections::BTreeSet;

use pumasi_protocol::mailbox::IDS_MAX;
use pumasi_protocol::reconcile::{Item, Progress, SetView};
use pumasi_protocol::record::{CheckedRecord, RecordVersion};
use pumasi_protocol::types::{AccountId, EnvelopeId, Hash, NodeId, SECOND, Time};
use pumasi_protocol::wire::{BATCH_BYTES, Frame, Parcel, Request, Response, Set};
use rusqlite::params;

use super::peers::Purpose;
use super::shelving::Shelf;
use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};

/// A new envelope waits this long for its sender to reach the other keepers by itself.
const FAN_OUT_AFTER: u64 = 3 * SECOND / 2;
/// While more and more comes, a mailbox is compared with a node this often: something is always under
/// way then, so that the sets differ each time.
const FAN_OUT_EVERY: u64 = 6 * SECOND;
/// What is younger than this is compared first.
const RECENT: u64 = 60 * SECOND;
/// All is compared at most this often, after the first time in a session.
const FULL_EVERY: u64 = 60 * SECOND;

impl Engine {
    /// Whether a node has a part in a mailbox: its owner's home, also the next one, or one of its keepers.
    pub(super) fn takes_part(&mut self, mailbox: &AccountId, node: &NodeId) -> Result<bool> {
        if let Some(own) = self.accounts.get(mailbox) {
            return Ok(own.record.keeper(node).is_some() || self.is_successor(mailbox, node));
        }
        if let Some(restoring) = self.restoring.get(mailbox) {
            return Ok(restoring.reads_from(node));
        }
        Ok(self.kept_mut(mailbox)?.is_some_and(|kept| {
            kept.record.keeper(node).is_some() || kept.record.record.home.node == *node
        }))
    }

    /// The record of a mailbox that is here: an own account's, one being restored, or a kept one's.
    pub(super) fn record_of(&mut self, mailbox: &AccountId) -> Result<Option<CheckedRecord>> {
        if let Some(own) = self.accounts.get(mailbox) {
            return Ok(Some(own.record.clone()));
        }
        if let Some(restoring) = self.restoring.get(mailbox) {
            return Ok(restoring.record().cloned());
        }
        self.kept_record(mailbox)
    }

    fn version(&mut self, mailbox: &AccountId) -> Result<RecordVersion> {
        Ok(self
            .record_of(mailbox)?
            .map(|record| record.version())
            .unwrap_or_default())
    }

    /// Something new is in a mailbox: the other keepers are asked soon whether they have it.
    pub(super) fn compare_soon(&mut self, mailbox: &AccountId) {
        let Some(kept) = self.kept.get(mailbox) else {
            return;
        };
        let mut nodes: Vec<NodeId> = kept
            .record
            .record
            .keepers
            .iter()
            .map(|keeper| keeper.place.node)
            .collect();
        nodes.push(kept.record.record.home.node);
        let soon = self.now.plus(FAN_OUT_AFTER);
        for node in nodes {
            if node != self.me && self.peers.get(&node).is_some_and(|peer| peer.connected) {
                let window = self.due.windows.get(&(*mailbox, node));
                let next = window.map_or(Time(0), |window| window.compared.plus(FAN_OUT_EVERY));
                self.compare_at(*mailbox, node, soon.max(next));
            }
        }
    }

    /// Asks a node whether its sets of a mailbox are the same.
    pub(super) fn compare(&mut self, mailbox: AccountId, node: NodeId) -> Result<()> {
        if !self.takes_part(&mailbox, &node)? {
            return Ok(());
        }
        if self.held_back(&mailbox, &node) {
            return Ok(());
        }
        let now = self.now;
        let window = self.due.windows.entry((mailbox, node)).or_default();
        window.compared = now;
        // What waits for this node would only be found missing.
        self.send_bundle(node)?;
        let record = self.version(&mailbox)?;
        let Some(sets) = self.sets(&mailbox)? else {
            return Ok(());
        };
        let [statements, envelopes, archive] = sets.hashes();
        let request = Request::Digest {
            mailbox,
            record,
            statements,
            envelopes,
            archive,
            sign: self.wants_shelf(&mailbox, &node, archive)?,
        };
        let asked = Shelf {
            pages: archive,
            at: self.now,
        };
        self.ask(node, request, Purpose::Compare(mailbox, asked));
        Ok(())
    }

    pub(super) fn compare_answer(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        theirs: RecordVersion,
        [statements, envelopes, archive]: [Hash; 3],
        sign: bool,
    ) -> Result<Response> {
        let ours = self.version(&mailbox)?;
        if theirs < ours && theirs > RecordVersion::default() {
            // It cannot come level under its older record: statements and pages of a newer device do
            // not check out there, and it may not be a keeper any more.
            return self.tell_newer(from, mailbox);
        }
        if !self.takes_part(&mailbox, &from)? {
            return Ok(no_part());
        }
        if theirs > ours {
            // Its answer to our own question brings the newer record.
            self.compare_at(mailbox, from, self.now.plus(SECOND / 20));
        }
        let Some(sets) = self.sets(&mailbox)? else {
            return Ok(no_part());
        };
        let ours = sets.hashes();
        let level = ours[2] == archive;
        let shelf = if sign && level {
            self.sign_shelf(&mailbox, archive)?
        } else {
            None
        };
        Ok(Response::Digest {
            statements: ours[0] != statements,
            envelopes: ours[1] != envelopes,
            archive: !level,
            shelf,
        })
    }

    /// Gives a node that has an older record of a mailbox the newer one, with its keys. A joining keeper
    /// waits for the owner: it must not know the list before enough others have accepted it.
    fn tell_newer(&mut self, to: NodeId, mailbox: AccountId) -> Result<Response> {
        let newer = match self.accounts.get(&mailbox) {
            Some(own) => Some((own.record.clone(), own.keys.clone())),
            None => self
                .kept_mut(&mailbox)?
                .map(|kept| (kept.record.clone(), kept.keys.clone())),
        };
        let Some((record, keys)) = newer else {
            return Ok(no_part());
        };
        if record.keeper(&to).is_some_and(|keeper| keeper.joining) {
            if self.accounts.contains_key(&mailbox) {
                self.tell_keeper(&mailbox, to)?;
            }
            return Ok(no_part());
        }
        let signed = record.signed;
        let request = Request::Record {
            record: signed.clone(),
            keys,
        };
        self.ask(to, request, Purpose::Release);
        Ok(Response::Newer(signed))
    }

    /// A node said that it has no part in a mailbox. Of an own account: does it still keep it?
    pub(super) fn no_part_there(&mut self, mailbox: AccountId, node: NodeId) -> Result<()> {
        if self.accounts.contains_key(&mailbox) {
            return self.tell_keeper(&mailbox, node);
        }
        Ok(())
    }

    pub(super) fn compare_result(
        &mut self,
        mailbox: AccountId,
        node: NodeId,
        statements: bool,
        envelopes: bool,
        archive: bool,
    ) -> Result<()> {
        if !self.takes_part(&mailbox, &node)? {
            return Ok(());
        }
        let since = if statements || envelopes || archive {
            self.window(mailbox, node)
        } else {
            Time(0)
        };
        // Statements first: what they hide is not fetched. Envelopes follow at the next comparison.
        if statements {
            self.begin_since(mailbox, node, Set::Statements, since)?;
            self.compare_at(mailbox, node, self.now.plus(SECOND / 4));
        } else if envelopes {
            self.begin_since(mailbox, node, Set::Envelopes, since)?;
        }
        if archive {
            self.begin_since(mailbox, node, Set::Archive, since)?;
        }
        Ok(())
    }

    /// From when on the sets are compared that were found to differ. While much is written they
    /// nearly always do, by what is under way: looking through all of them each time would cost more
    /// the more there is.
    fn window(&mut self, mailbox: AccountId, node: NodeId) -> Time {
        let now = self.now;
        let window = self.due.windows.entry((mailbox, node)).or_default();
        let overdue = window.fruitless && now.since(window.full) >= FULL_EVERY;
        window.found = false;
        if window.full == Time(0) || overdue {
            window.full = now;
            window.fruitless = false;
            return Time(0);
        }
        Time(now.0.saturating_sub(RECENT))
    }

    /// Begins a round over all of a set.
    pub(super) fn begin(&mut self, mailbox: AccountId, node: NodeId, set: Set) -> Result<()> {
        self.begin_since(mailbox, node, set, Time(0))
    }

    fn begin_since(
        &mut self,
        mailbox: AccountId,
        node: NodeId,
        set: Set,
        since: Time,
    ) -> Result<()> {
        let message = self.view(&mailbox, set, since)?.begin().map_err(internal)?;
        let request = Request::Reconcile {
            mailbox,
            set,
            since,
            message: message.into(),
        };
        self.ask(node, request, Purpose::Reconcile(mailbox, set, 0, since));
        Ok(())
    }

    /// What a round of reconciliation over all of a set begins with.
    pub(super) fn first_message(&self, mailbox: &AccountId, set: Set) -> Result<Vec<u8>> {
        self.view(mailbox, set, Time(0))?.begin().map_err(internal)
    }

    fn view(&self, mailbox: &AccountId, set: Set, since: Time) -> Result<SetView> {
        let since = i64::try_from(since.0).unwrap_or(i64::MAX);
        let items: Vec<Item> = self
            .db
            .prepare_cached(items_sql(set))?
            .query_map(params![mailbox.0, since], |row| {
                Ok(Item {
                    time: Time(row.get(0)?),
                    id: blob(row, 1)?,
                })
            })?
            .collect::<rusqlite::Result<_>>()?;
        SetView::new(items).map_err(internal)
    }

    pub(super) fn reconcile_answer(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        set: Set,
        since: Time,
        message: &[u8],
    ) -> Result<Response> {
        if !self.takes_part(&mailbox, &from)? {
            return Ok(no_part());
        }
        match self.view(&mailbox, set, since)?.answer(message) {
            Ok(answer) => Ok(Response::Reconcile(answer.into())),
            Err(error) => Ok(Response::No {
                why: error.to_string(),
                retry: false,
            }),
        }
    }

    pub(super) fn reconcile_step(
        &mut self,
        mailbox: AccountId,
        node: NodeId,
        set: Set,
        (round, since): (u64, Time),
        message: &[u8],
    ) -> Result<()> {
        if !self.takes_part(&mailbox, &node)? {
            return Ok(());
        }
        if message.is_empty() {
            self.window_ends(mailbox, node);
            self.fill_step(mailbox, node, set, round, &Progress::default())?;
            return self.reconciled(mailbox, node, set, &[]);
        }
        let progress = match self.view(&mailbox, set, since)?.advance(message) {
            Ok(progress) => progress,
            Err(error) => {
                tracing::info!(%error, node = ?node, "a reconciliation message is wrong");
                return Ok(());
            }
        };
        if round > 0 {
            self.fill_step(mailbox, node, set, round, &progress)?;
        }
        if let Some(window) = self.due.windows.get_mut(&(mailbox, node)) {
            window.found |= !progress.need.is_empty() || !progress.have.is_empty();
        }
        let need: Vec<EnvelopeId> = progress.need.iter().copied().map(EnvelopeId).collect();
        let have: Vec<EnvelopeId> = progress.have.iter().copied().map(EnvelopeId).collect();
        match set {
            Set::Statements => {
                let have: Vec<Hash> = have.iter().map(|id| Hash(id.0)).collect();
                self.send_stored_statements(node, &have)?;
            }
            Set::Envelopes => self.send_kept(node, mailbox, &have)?,
            Set::Archive => self.send_stored_pages(node, mailbox, &have)?,
        }
        for chunk in need.chunks(IDS_MAX) {
            let ids = chunk.to_vec();
            let request = match set {
                Set::Statements => Request::FetchStatements {
                    mailbox,
                    ids: ids.iter().map(|id| Hash(id.0)).collect(),
                },
                Set::Envelopes => Request::FetchEnvelopes { mailbox, ids },
                Set::Archive => Request::FetchPages { mailbox, ids },
            };
            self.ask(node, request, Purpose::Fetch);
        }
        let Some(next) = progress.next else {
            self.window_ends(mailbox, node);
            return self.reconciled(mailbox, node, set, &need);
        };
        self.restore_needs(&mailbox, node, set, &need);
        let request = Request::Reconcile {
            mailbox,
            set,
            since,
            message: next.into(),
        };
        self.ask(
            node,
            request,
            Purpose::Reconcile(mailbox, set, round, since),
        );
        Ok(())
    }

    fn window_ends(&mut self, mailbox: AccountId, node: NodeId) {
        if let Some(window) = self.due.windows.get_mut(&(mailbox, node)) {
            window.fruitless = !window.found;
        }
    }

    pub(super) fn fetch_statements(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        ids: &[Hash],
    ) -> Result<Response> {
        if !self.takes_part(&mailbox, &from)? {
            return Ok(no_part());
        }
        let mut mine = Vec::new();
        for id in ids.iter().take(IDS_MAX) {
            let ours = self
                .db
                .prepare_cached(
                    "SELECT 1 FROM statements WHERE hash = ?1 AND mailbox = ?2 AND lasting < 2",
                )?
                .exists(params![id.0, mailbox.0])?;
            if ours {
                mine.push(*id);
            }
        }
        self.send_stored_statements(from, &mine)?;
        Ok(Response::Done)
    }

    pub(super) fn fetch_envelopes(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        ids: &[EnvelopeId],
    ) -> Result<Response> {
        if !self.takes_part(&mailbox, &from)? {
            return Ok(no_part());
        }
        let ids: Vec<EnvelopeId> = ids.iter().take(IDS_MAX).copied().collect();
        self.send_kept(from, mailbox, &ids)?;
        Ok(Response::Done)
    }

    /// Sends kept envelopes with the encapsulations they name, oldest first: what was sealed in order
    /// opens in order.
    fn send_kept(&mut self, to: NodeId, mailbox: AccountId, ids: &[EnvelopeId]) -> Result<()> {
        let mut rows: Vec<(u64, i64, Vec<u8>, Vec<u8>)> = Vec::new();
        for id in ids {
            let row = one(self
                .db
                .prepare_cached(
                    "SELECT created, id, bytes, seals FROM envelopes
                     WHERE envelope = ?1 AND mailbox = ?2 AND hidden IS NULL",
                )?
                .query_row(params![id.0, mailbox.0], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                }))?;
            rows.extend(row);
        }
        rows.sort_by_key(|(created, id, _, _)| (*created, *id));
        let mut parcels = Vec::new();
        let mut size = 0;
        let mut given: BTreeSet<[u8; 16]> = BTreeSet::new();
        for (_, _, bytes, names) in rows {
            let fresh: Vec<u8> = names
                .chunks_exact(16)
                .filter_map(|name| <[u8; 16]>::try_from(name).ok())
                .filter(|name| given.insert(*name))
                .flatten()
                .collect();
            let seals = self.stored_seals(&mailbox, &fresh)?;
            let length = bytes.len() + seals.len() * 1_300;
            if size > 0 && size + length > BATCH_BYTES {
                let parcels = std::mem::take(&mut parcels);
                self.send(
                    to,
                    &Frame::Put {
                        parcels,
                        pass_on: vec![],
                    },
                );
                size = 0;
            }
            size += length;
            parcels.push(Parcel {
                envelope: bytes.into(),
                seals,
            });
        }
        if !parcels.is_empty() {
            self.send(
                to,
                &Frame::Put {
                    parcels,
                    pass_on: vec![],
                },
            );
        }
        Ok(())
    }
}

/// The items of a set. An index holds each answer whole: read row by row from the tables, a mailbox
/// would be read from the disk with all its contents at every comparison after a reconnect.
pub(super) const fn items_sql(set: Set) -> &'static str {
    match set {
        Set::Statements => {
            "SELECT time, hash FROM statements
             WHERE mailbox = ?1 AND time >= ?2 AND lasting < 2"
        }
        Set::Envelopes => {
            "SELECT created, envelope FROM envelopes
             WHERE mailbox = ?1 AND created >= ?2 AND hidden IS NULL"
        }
        Set::Archive => {
            "SELECT time, page FROM pages
             WHERE mailbox = ?1 AND time >= ?2 AND hidden IS NULL"
        }
    }
}

pub(super) fn no_part() -> Response {
    Response::No {
        why: "this node has no part in that mailbox".into(),
        retry: false,
    }
}

fn internal(error: pumasi_protocol::reconcile::ReconcileError) -> Error {
    Error::new(ErrorKind::Internal, error.to_string())
}
