//! Keeping mailboxes for others: agreement, admission, custody receipts, what owners say, prekeys,
//! retention. Comparing mailboxes with other keepers is in `reconciling`.

use std::collections::BTreeSet;

use pumasi_protocol::codec::{self, Wire as _};
use pumasi_protocol::crypto::{self, Signed};
use pumasi_protocol::envelope::{CapabilityId, Encapsulation, SealName};
use pumasi_protocol::mailbox::{
    Action, CAPABILITIES_MAX, CLOCK_AHEAD_MAX, CustodyReceipt, ERASE_AFTER, IDS_MAX, NotAdmitted,
    RETENTION_MAX, Statement, Usage, admit, admit_shape,
};
use pumasi_protocol::reconcile::SetDigest;
use pumasi_protocol::record::{CheckedRecord, KeyBundle, OneTimeKey};
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, Hash, NodeId, Time};
use pumasi_protocol::wire::{Frame, Parcel, Response, keys_tag_text};
use rusqlite::params;

use super::{Engine, blob, one};
use crate::check::CheckedParcel;
use crate::error::Result;

/// One-time keys kept per account at most.
const POOL_MAX: u32 = 100;
/// Names of seal keys remembered per mailbox; the store knows the others.
const SEALS_REMEMBERED: usize = 1_024;
/// Envelopes passed on whose receipts are waited for, at most.
const RELAYS_MAX: usize = 10_000;
/// Answers to calls are remembered this long.
const IDEMPOTENCY_LIFE: u64 = 30 * DAY;
/// Rows that one round of cleaning drops at most, per table.
const CLEAN_ROWS: u32 = 500;

/// `lasting` column of statements.
const PASSING: i64 = 0;
const LASTING: i64 = 1;
/// For one sender only; keepers never see it.
const PRIVATE: i64 = 2;

/// A mailbox kept for somebody.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) record: CheckedRecord,
    pub(super) keys: Signed<KeyBundle>,
    pub(super) contact: bool,
    pub(super) usage: Usage,
    pub(super) since: Time,
    /// Seal keys whose encapsulations are stored.
    seals: BTreeSet<SealName>,
    pub(super) sets: Sets,
}

/// Running digests of a mailbox's two sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Sets {
    pub(super) statements: SetDigest,
    pub(super) statement_count: u64,
    pub(super) envelopes: SetDigest,
    pub(super) envelope_count: u64,
}

impl Engine {
    pub(super) fn kept_mut(&mut self, mailbox: &AccountId) -> Result<Option<&mut Kept>> {
        if !self.kept.contains_key(mailbox) {
            let Some(loaded) = self.load_kept(mailbox)? else {
                return Ok(None);
            };
            self.kept.insert(*mailbox, loaded);
        }
        Ok(self.kept.get_mut(mailbox))
    }

    pub(super) fn kept_record(&mut self, mailbox: &AccountId) -> Result<Option<CheckedRecord>> {
        Ok(self.kept_mut(mailbox)?.map(|kept| kept.record.clone()))
    }

    #[expect(clippy::type_complexity, reason = "one row of one query")]
    fn load_kept(&self, mailbox: &AccountId) -> Result<Option<Kept>> {
        let row: Option<(bool, Vec<u8>, Vec<u8>, u64, u64, u64)> = one(self
            .db
            .prepare_cached(
                "SELECT contact, record, keys, items, bytes, since FROM kept WHERE mailbox = ?1",
            )?
            .query_row(params![mailbox.0], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                ))
            }))?;
        let Some((contact, record, keys, items, bytes, since)) = row else {
            return Ok(None);
        };
        let (Ok(record), Ok(keys)) = (codec::decode(&record), codec::decode(&keys)) else {
            return Ok(None);
        };
        let Ok(record) = CheckedRecord::check(record) else {
            return Ok(None);
        };
        let sets = self.load_sets(mailbox)?;
        Ok(Some(Kept {
            record,
            keys,
            contact,
            usage: Usage { items, bytes },
            since: Time(since),
            seals: BTreeSet::new(),
            sets,
        }))
    }

    /// The digests of a mailbox's sets, from the store: once, then they are kept up to date.
    pub(super) fn load_sets(&self, mailbox: &AccountId) -> Result<Sets> {
        let mut sets = Sets::default();
        let mut query = self
            .db
            .prepare_cached("SELECT hash FROM statements WHERE mailbox = ?1 AND lasting < 2")?;
        let mut rows = query.query(params![mailbox.0])?;
        while let Some(row) = rows.next()? {
            sets.statements.add(&blob(row, 0)?);
            sets.statement_count += 1;
        }
        drop(rows);
        let mut query = self.db.prepare_cached(
            "SELECT envelope FROM envelopes WHERE mailbox = ?1 AND hidden IS NULL",
        )?;
        let mut rows = query.query(params![mailbox.0])?;
        while let Some(row) = rows.next()? {
            sets.envelopes.add(&blob(row, 0)?);
            sets.envelope_count += 1;
        }
        Ok(sets)
    }

    pub(super) fn store_kept(&mut self, mailbox: AccountId) -> Result<()> {
        let Some(kept) = self.kept.get(&mailbox) else {
            return Ok(());
        };
        self.db
            .prepare_cached(
                "INSERT INTO kept (mailbox, contact, record, keys, items, bytes, since)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (mailbox) DO UPDATE SET
                   contact = ?2, record = ?3, keys = ?4, items = ?5, bytes = ?6",
            )?
            .execute(params![
                mailbox.0,
                kept.contact,
                codec::encode(&kept.record.signed),
                codec::encode(&kept.keys),
                kept.usage.items,
                kept.usage.bytes,
                kept.since.0
            ])?;
        Ok(())
    }

    /// Stores an envelope for somebody, and promises a receipt once it is committed.
    pub(super) fn keep(
        &mut self,
        from: NodeId,
        parcel: CheckedParcel,
        pass_on: &[NodeId],
    ) -> Result<std::result::Result<(), NotAdmitted>> {
        let CheckedParcel {
            id,
            envelope,
            bytes,
            seals,
        } = parcel;
        let sealed = &envelope.sealed;
        let mailbox = sealed.mailbox;
        let (me, now) = (self.me, self.now);
        let Some(kept) = self.kept_mut(&mailbox)? else {
            return Ok(Err(NotAdmitted::NotKept));
        };
        if kept.record.keeper(&me).is_none() {
            return Ok(Err(NotAdmitted::NotKept));
        }
        let version = kept.record.version();
        let fellow = kept.record.keeper(&from).is_some() || kept.record.record.home.node == from;
        let usage = kept.usage;
        let known: Option<Option<i64>> = one(self
            .db
            .prepare_cached("SELECT hidden FROM envelopes WHERE envelope = ?1")?
            .query_row(params![id.0], |row| row.get(0)))?;
        let acknowledged: Option<[u8; 32]> = one(self
            .db
            .prepare_cached(
                "SELECT s.hash FROM acknowledged a JOIN statements s ON s.id = a.statement
                 WHERE a.envelope = ?1 AND a.mailbox = ?2",
            )?
            .query_row(params![id.0, mailbox.0], |row| blob(row, 0)))?;
        if let Some(statement) = acknowledged {
            self.send_stored_statements(from, &[Hash(statement)])?;
        }
        if known.is_some() {
            self.custody(from, mailbox, id, sealed.expires);
            return Ok(Ok(()));
        }
        if let Err(why) = admit_shape(sealed, now) {
            return Ok(Err(why));
        }
        let row: Option<([u8; 32], u64, u64)> = one(self
            .db
            .prepare_cached(
                "SELECT tag_key, items, bytes FROM capabilities
                 WHERE mailbox = ?1 AND capability = ?2 AND revoked = 0",
            )?
            .query_row(params![mailbox.0, sealed.capability.0], |row| {
                Ok((blob(row, 0)?, row.get(1)?, row.get(2)?))
            }))?;
        let tag_key = row.map(|(key, _, _)| crypto::Secret(key));
        let share = row.map_or(Usage::default(), |(_, items, bytes)| Usage { items, bytes });
        // What another keeper of this mailbox took under an older record stays welcome.
        let under = if fellow {
            sealed.record.min(version)
        } else {
            version
        };
        if let Err(why) = admit(
            &envelope,
            bytes.len(),
            under,
            tag_key.as_ref(),
            usage,
            share,
        ) {
            return Ok(Err(why));
        }
        if !self.hold_seals(&mailbox, sealed, &seals)? {
            return Ok(Err(NotAdmitted::MissingSeals));
        }
        let size = bytes.len() as u64;
        let hidden = acknowledged.map(|_| now.0);
        let mut names = sealed.device_seal.0.to_vec();
        names.extend(sealed.recovery_seal.iter().flat_map(|name| name.0));
        self.db
            .prepare_cached(
                "INSERT INTO envelopes
                   (mailbox, envelope, created, expires, hidden, capability, seals, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                mailbox.0,
                id.0,
                sealed.created.0,
                sealed.expires.0,
                hidden,
                sealed.capability.0,
                names,
                bytes.0
            ])?;
        if hidden.is_none() {
            self.db
                .prepare_cached(
                    "UPDATE capabilities SET items = items + 1, bytes = bytes + ?3
                     WHERE mailbox = ?1 AND capability = ?2",
                )?
                .execute(params![mailbox.0, sealed.capability.0, size])?;
            if let Some(kept) = self.kept.get_mut(&mailbox) {
                kept.usage.items += 1;
                kept.usage.bytes += size;
                kept.sets.envelopes.add(&id.0);
                kept.sets.envelope_count += 1;
            }
            self.step.dirty_kept.insert(mailbox);
            self.compare_soon(&mailbox);
        }
        self.custody(from, mailbox, id, sealed.expires);
        self.pass_on(from, mailbox, id, bytes, seals, pass_on);
        Ok(Ok(()))
    }

    fn custody(&mut self, from: NodeId, mailbox: AccountId, id: EnvelopeId, expires: Time) {
        self.step
            .custody
            .entry((from, mailbox))
            .or_default()
            .push((id, expires));
    }

    /// Whether every encapsulation that an envelope names is held, with those that came along.
    fn hold_seals(
        &mut self,
        mailbox: &AccountId,
        sealed: &pumasi_protocol::envelope::Sealed,
        given: &[(SealName, Encapsulation)],
    ) -> Result<bool> {
        let named = [Some(sealed.device_seal), sealed.recovery_seal];
        for name in named.into_iter().flatten() {
            if self
                .kept
                .get(mailbox)
                .is_some_and(|kept| kept.seals.contains(&name))
            {
                continue;
            }
            let held = self
                .db
                .prepare_cached("SELECT 1 FROM encapsulations WHERE mailbox = ?1 AND name = ?2")?
                .exists(params![mailbox.0, name.0])?;
            if !held {
                let given = given
                    .iter()
                    .find(|(given, seal)| *given == name && seal.mailbox == *mailbox);
                let Some((_, encapsulation)) = given else {
                    return Ok(false);
                };
                // Kept as long as any envelope that may name it: those of its day, to their date.
                let expires = self.now.plus(RETENTION_MAX + 2 * CLOCK_AHEAD_MAX + 2 * DAY);
                self.db
                    .prepare_cached(
                        "INSERT INTO encapsulations (mailbox, name, expires, bytes)
                         VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![
                        mailbox.0,
                        name.0,
                        expires.0,
                        codec::encode(encapsulation)
                    ])?;
            }
            if let Some(kept) = self.kept.get_mut(mailbox) {
                if kept.seals.len() >= SEALS_REMEMBERED {
                    kept.seals.clear();
                }
                kept.seals.insert(name);
            }
        }
        Ok(true)
    }

    /// The encapsulations that a kept envelope names.
    pub(super) fn stored_seals(
        &self,
        mailbox: &AccountId,
        names: &[u8],
    ) -> Result<Vec<Encapsulation>> {
        let mut seals = Vec::new();
        for name in names.chunks_exact(16) {
            let bytes: Option<Vec<u8>> = one(self
                .db
                .prepare_cached(
                    "SELECT bytes FROM encapsulations WHERE mailbox = ?1 AND name = ?2",
                )?
                .query_row(params![mailbox.0, name], |row| row.get(0)))?;
            seals.extend(bytes.and_then(|bytes| codec::decode(&bytes).ok()));
        }
        Ok(seals)
    }

    /// Hands an envelope to keepers that its sender cannot reach, and remembers who wants the receipt.
    fn pass_on(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        id: EnvelopeId,
        bytes: codec::Bytes,
        seals: Vec<(SealName, Encapsulation)>,
        wanted: &[NodeId],
    ) {
        let Some(kept) = self.kept.get(&mailbox) else {
            return;
        };
        let home = kept.record.record.home.node;
        let record = &kept.record;
        let reachable: Vec<NodeId> = wanted
            .iter()
            .filter(|node| **node != self.me && **node != from)
            .filter(|node| record.keeper(node).is_some() || **node == home)
            .filter(|node| self.peers.get(node).is_some_and(|peer| peer.connected))
            .copied()
            .collect();
        if reachable.is_empty() {
            return;
        }
        if self.relays.len() >= RELAYS_MAX {
            self.relays.clear();
        }
        self.relays.insert(id, from);
        let seals: Vec<Encapsulation> = seals.into_iter().map(|(_, seal)| seal).collect();
        for node in reachable {
            let parcels = vec![Parcel {
                envelope: bytes.clone(),
                seals: seals.clone(),
            }];
            self.send(
                node,
                &Frame::Put {
                    parcels,
                    pass_on: vec![],
                },
            );
        }
    }

    /// A receipt for something passed on goes back to who brought it.
    pub(super) fn relay_receipt(
        &mut self,
        from: NodeId,
        receipt: &CustodyReceipt,
        signed: &Signed<CustodyReceipt>,
    ) {
        if self.relays.is_empty() {
            return;
        }
        let wanting: BTreeSet<NodeId> = receipt
            .ids
            .iter()
            .filter_map(|id| self.relays.get(id))
            .filter(|node| **node != from)
            .copied()
            .collect();
        for node in wanting {
            if self.peers.get(&node).is_some_and(|peer| peer.connected) {
                self.send(node, &Frame::Receipts(vec![signed.clone()]));
            }
        }
    }

    /// Signs for what this step stores: one receipt per bringer and mailbox. They leave only after
    /// the commit, like every effect.
    pub(super) fn sign_custody(&mut self) -> Result<()> {
        for ((from, mailbox), items) in std::mem::take(&mut self.step.custody) {
            let Some(kept) = self.kept_mut(&mailbox)? else {
                continue;
            };
            let record = kept.record.version();
            for chunk in items.chunks(IDS_MAX) {
                let until = chunk
                    .iter()
                    .map(|(_, until)| *until)
                    .min()
                    .unwrap_or(self.now);
                let ids = chunk.iter().map(|(id, _)| *id).collect();
                let receipt = CustodyReceipt {
                    mailbox,
                    record,
                    keeper: self.me,
                    until,
                    ids,
                };
                let signed = Signed::sign(&receipt, &self.key);
                self.send(from, &Frame::Receipts(vec![signed]));
            }
        }
        Ok(())
    }

    /// Someone asks for receipts for what is kept: signed again for what is here.
    pub(super) fn attest(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        ids: &[EnvelopeId],
    ) -> Result<()> {
        for id in ids.iter().take(IDS_MAX) {
            let expires: Option<u64> = one(self
                .db
                .prepare_cached(
                    "SELECT expires FROM envelopes WHERE envelope = ?1 AND mailbox = ?2",
                )?
                .query_row(params![id.0, mailbox.0], |row| row.get(0)))?;
            if let Some(expires) = expires {
                self.custody(from, mailbox, *id, Time(expires));
            }
        }
        Ok(())
    }

    /// What owners said: of kept mailboxes, and to own accounts as senders.
    pub(super) fn statements(&mut self, from: NodeId, list: Vec<Signed<Statement>>) -> Result<()> {
        let mut noted = Vec::with_capacity(list.len());
        for signed in list {
            let hash = signed.hash();
            let Ok(statement) = signed.unverified() else {
                noted.push(hash);
                continue;
            };
            if self.take_statement(&statement, &signed, hash)? {
                noted.push(hash);
            }
        }
        self.send(from, &Frame::Noted(noted));
        Ok(())
    }

    /// False when it cannot be judged yet, because the account's newer record is missing.
    fn take_statement(
        &mut self,
        statement: &Statement,
        signed: &Signed<Statement>,
        hash: Hash,
    ) -> Result<bool> {
        let account = statement.account;
        if statement.time > self.now.plus(CLOCK_AHEAD_MAX) {
            tracing::info!(%account, "a statement is dated in the future");
            return Ok(true);
        }
        let old = statement.time.plus(RETENTION_MAX) < self.now;
        let mut judged = true;
        let kept = self
            .kept_mut(&account)?
            .map(|kept| (kept.record.device(), kept.record.certificate.epoch));
        if let Some((device, epoch)) = kept {
            let known = self
                .db
                .prepare_cached("SELECT 1 FROM statements WHERE hash = ?1")?
                .exists(params![hash.0])?;
            let private = matches!(statement.action, Action::Read { .. });
            if known || private || (old && lasting(&statement.action) == PASSING) {
                // Nothing new for a keeper.
            } else if statement.epoch > epoch {
                judged = false;
            } else if statement.epoch == epoch && signed.check(&device.0).is_ok() {
                self.store_statement(statement, signed)?;
            }
        }
        let (Action::Delivered { .. } | Action::Read { .. }) = &statement.action else {
            return Ok(judged);
        };
        let writers: Vec<AccountId> = self.accounts.keys().copied().collect();
        let mut checked = None;
        for own in writers {
            let Some(contact) = self.contact(own, account)? else {
                continue;
            };
            let device = contact.record.device();
            if statement.epoch > contact.record.certificate.epoch {
                judged = false;
                continue;
            }
            let fits = *checked.get_or_insert_with(|| signed.check(&device.0).is_ok());
            if !fits {
                continue;
            }
            match &statement.action {
                Action::Delivered { ids } => {
                    self.delivered(account, ids)?;
                    break;
                }
                Action::Read { messages } => self.was_read(own, account, messages)?,
                Action::Grant { .. } | Action::Revoke { .. } => {}
            }
        }
        Ok(judged)
    }

    /// Stores a statement of an own or kept account and applies it.
    pub(super) fn store_statement(
        &mut self,
        statement: &Statement,
        signed: &Signed<Statement>,
    ) -> Result<i64> {
        let mailbox = statement.account;
        let hash = signed.hash();
        self.db
            .prepare_cached(
                "INSERT INTO statements (mailbox, hash, time, lasting, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                mailbox.0,
                hash.0,
                statement.time.0,
                lasting(&statement.action),
                codec::encode(signed)
            ])?;
        let row = self.db.last_insert_rowid();
        if lasting(&statement.action) != PRIVATE {
            let sets = match self.kept.get_mut(&mailbox) {
                Some(kept) => Some(&mut kept.sets),
                None => self.due.own_sets.get_mut(&mailbox),
            };
            if let Some(sets) = sets {
                sets.statements.add(&hash.0);
                sets.statement_count += 1;
            }
        }
        match &statement.action {
            Action::Delivered { ids } => {
                for id in ids {
                    self.acknowledge(&mailbox, id, row)?;
                }
            }
            Action::Grant {
                capability,
                tag_key,
            } => {
                let count: u64 = self
                    .db
                    .prepare_cached("SELECT count(*) FROM capabilities WHERE mailbox = ?1")?
                    .query_row(params![mailbox.0], |row| row.get(0))?;
                if count < CAPABILITIES_MAX {
                    self.db
                        .prepare_cached(
                            "INSERT INTO capabilities (mailbox, capability, tag_key)
                             VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                        )?
                        .execute(params![mailbox.0, capability.0, tag_key.0])?;
                }
            }
            Action::Revoke { capability } => self.revoke(&mailbox, capability)?,
            Action::Read { .. } => {}
        }
        Ok(row)
    }

    fn revoke(&mut self, mailbox: &AccountId, capability: &CapabilityId) -> Result<()> {
        // Also when the grant has not arrived: a grant that comes later is void.
        self.db
            .prepare_cached(
                "INSERT INTO capabilities (mailbox, capability, tag_key, revoked)
                 VALUES (?1, ?2, x'0000000000000000000000000000000000000000000000000000000000000000', 1)
                 ON CONFLICT DO UPDATE SET revoked = 1",
            )?
            .execute(params![mailbox.0, capability.0])?;
        Ok(())
    }

    /// Hides an envelope that its owner has.
    fn acknowledge(&mut self, mailbox: &AccountId, id: &EnvelopeId, statement: i64) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO acknowledged (envelope, mailbox, statement) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![id.0, mailbox.0, statement])?;
        let live: Option<(i64, [u8; 16], u64)> = one(self
            .db
            .prepare_cached(
                "SELECT id, capability, length(bytes) FROM envelopes
                 WHERE envelope = ?1 AND mailbox = ?2 AND hidden IS NULL",
            )?
            .query_row(params![id.0, mailbox.0], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            }))?;
        let Some((row, capability, size)) = live else {
            return Ok(());
        };
        self.db
            .prepare_cached("UPDATE envelopes SET hidden = ?2 WHERE id = ?1")?
            .execute(params![row, self.now.0])?;
        self.left_inbox(mailbox, id, &capability, size)
    }

    /// Counts an envelope out of an inbox.
    fn left_inbox(
        &mut self,
        mailbox: &AccountId,
        id: &EnvelopeId,
        capability: &[u8; 16],
        size: u64,
    ) -> Result<()> {
        self.db
            .prepare_cached(
                "UPDATE capabilities SET items = max(items - 1, 0), bytes = max(bytes - ?3, 0)
                 WHERE mailbox = ?1 AND capability = ?2",
            )?
            .execute(params![mailbox.0, capability, size])?;
        if let Some(kept) = self.kept_mut(mailbox)? {
            kept.usage.items = kept.usage.items.saturating_sub(1);
            kept.usage.bytes = kept.usage.bytes.saturating_sub(size);
            kept.sets.envelopes.remove(&id.0);
            kept.sets.envelope_count = kept.sets.envelope_count.saturating_sub(1);
            self.step.dirty_kept.insert(*mailbox);
        } else if let Some(sets) = self.due.own_sets.get_mut(mailbox) {
            sets.envelopes.remove(&id.0);
            sets.envelope_count = sets.envelope_count.saturating_sub(1);
        }
        Ok(())
    }

    /// Sends stored statements again, by hash.
    pub(super) fn send_stored_statements(&mut self, to: NodeId, hashes: &[Hash]) -> Result<()> {
        let mut batch = Vec::new();
        let mut size = 0;
        for hash in hashes {
            let bytes: Option<Vec<u8>> = one(self
                .db
                .prepare_cached("SELECT bytes FROM statements WHERE hash = ?1")?
                .query_row(params![hash.0], |row| row.get(0)))?;
            let Some(bytes) = bytes else { continue };
            let Ok(signed) = codec::decode::<Signed<Statement>>(&bytes) else {
                continue;
            };
            if size > 0 && size + bytes.len() > pumasi_protocol::wire::BATCH_BYTES {
                self.send(to, &Frame::Statements(std::mem::take(&mut batch)));
                size = 0;
            }
            size += bytes.len();
            batch.push(signed);
        }
        if !batch.is_empty() {
            self.send(to, &Frame::Statements(batch));
        }
        Ok(())
    }

    /// Someone asks this node to keep its mailboxes.
    pub(super) fn asked_to_keep(
        &mut self,
        from: NodeId,
        record: Signed<pumasi_protocol::record::AccountRecord>,
        keys: Signed<KeyBundle>,
    ) -> Result<Response> {
        let no = |why: &str, retry| {
            Ok(Response::No {
                why: why.to_owned(),
                retry,
            })
        };
        let Ok(record) = CheckedRecord::check(record) else {
            return no("the account record does not check out", false);
        };
        if KeyBundle::open_for(&keys, &record).is_err() {
            return no("the key bundle does not belong to the record", false);
        }
        let account = record.account();
        if record.record.home.node != from || self.accounts.contains_key(&account) {
            return no("only an account's own node asks for it", false);
        }
        if let Some(kept) = self.kept_mut(&account)? {
            if record.replaces(&kept.record) {
                kept.record = record;
                kept.keys = keys;
                self.step.dirty_kept.insert(account);
            }
            return Ok(Response::Done);
        }
        let contact = self
            .db
            .prepare_cached("SELECT 1 FROM contacts WHERE contact = ?1 AND blocked = 0 LIMIT 1")?
            .exists(params![account.0])?;
        let welcome = contact && self.settings.keep_for_contacts;
        if !welcome && self.places_left()? == 0 {
            return no("no places for newcomers are left here", true);
        }
        self.hint(&record);
        self.share(&record);
        self.kept.insert(
            account,
            Kept {
                record,
                keys,
                contact: welcome,
                usage: Usage::default(),
                since: self.now,
                seals: BTreeSet::new(),
                sets: self.load_sets(&account)?,
            },
        );
        self.step.dirty_kept.insert(account);
        self.due.publish_soon(self.now);
        Ok(Response::Done)
    }

    /// How many more newcomers' mailboxes this node would keep.
    pub(super) fn places_left(&self) -> Result<u32> {
        let taken: u32 =
            self.db
                .query_row("SELECT count(*) FROM kept WHERE contact = 0", [], |row| {
                    row.get(0)
                })?;
        let pending = self
            .step
            .dirty_kept
            .iter()
            .filter(|id| {
                self.kept
                    .get(id)
                    .is_some_and(|kept| !kept.contact && kept.since == self.now)
            })
            .count();
        let pending = u32::try_from(pending).unwrap_or(u32::MAX);
        Ok(self
            .settings
            .newcomers
            .saturating_sub(taken.saturating_add(pending)))
    }

    /// A newer record of a kept account.
    pub(super) fn told_record(
        &mut self,
        record: Signed<pumasi_protocol::record::AccountRecord>,
        keys: Signed<KeyBundle>,
    ) -> Result<Response> {
        let Ok(record) = CheckedRecord::check(record) else {
            return Ok(Response::No {
                why: "the record does not check out".into(),
                retry: false,
            });
        };
        self.newer_record_everywhere(&record)?;
        let account = record.account();
        self.hint(&record);
        let Some(kept) = self.kept_mut(&account)? else {
            return Ok(Response::No {
                why: "that mailbox is not kept here".into(),
                retry: false,
            });
        };
        if kept.record.replaces(&record) {
            return Ok(Response::Newer(kept.record.signed.clone()));
        }
        if record.replaces(&kept.record) && KeyBundle::open_for(&keys, &record).is_ok() {
            kept.record = record.clone();
            kept.keys = keys;
            self.step.dirty_kept.insert(account);
            self.share(&record);
        }
        Ok(Response::Done)
    }

    /// Keys to seal to an account that is kept or lives here.
    pub(super) fn give_keys(
        &mut self,
        from: NodeId,
        account: AccountId,
        capability: CapabilityId,
        tag: [u8; 16],
    ) -> Result<Response> {
        let no = |why: &str| {
            Ok(Response::No {
                why: why.to_owned(),
                retry: true,
            })
        };
        let Some(tag_key) = self.tag_key(&account, &capability)? else {
            return no("that capability is not known here");
        };
        let right = crypto::mac(&tag_key.0, "keys", &keys_tag_text(&account, &from));
        if !crypto::equal(&right, &tag) {
            return no("the tag does not fit");
        }
        if let Some(own) = self.accounts.get_mut(&account) {
            let key = own.ratchet.generate_one_time(1).first().copied();
            let epoch = own.record.certificate.epoch;
            let one_time = key.map(|key| {
                Signed::sign(
                    &OneTimeKey {
                        account,
                        epoch,
                        key,
                    },
                    &own.device,
                )
            });
            let (record, keys) = (own.record.signed.clone(), own.keys.clone());
            self.step.dirty_ratchets.insert(account);
            return Ok(Response::Keys {
                record,
                keys,
                one_time,
            });
        }
        let Some(kept) = self.kept_mut(&account)? else {
            return no("that mailbox is not kept here");
        };
        let (record, keys) = (kept.record.signed.clone(), kept.keys.clone());
        let row: Option<(i64, Vec<u8>)> = one(self
            .db
            .prepare_cached(
                "SELECT id, bytes FROM one_time_keys WHERE mailbox = ?1 ORDER BY id LIMIT 1",
            )?
            .query_row(params![account.0], |row| Ok((row.get(0)?, row.get(1)?))))?;
        let mut one_time = None;
        if let Some((id, bytes)) = row {
            self.db
                .execute("DELETE FROM one_time_keys WHERE id = ?1", params![id])?;
            one_time = codec::decode(&bytes).ok();
        }
        Ok(Response::Keys {
            record,
            keys,
            one_time,
        })
    }

    /// One-time keys for this node's own pool.
    pub(super) fn stock_keys(
        &mut self,
        from: NodeId,
        account: AccountId,
        keys: Vec<Signed<OneTimeKey>>,
    ) -> Result<Response> {
        let Some(kept) = self.kept_mut(&account)? else {
            return Ok(Response::No {
                why: "that mailbox is not kept here".into(),
                retry: false,
            });
        };
        if kept.record.record.home.node != from {
            return Ok(Response::No {
                why: "only the owner's node stocks keys".into(),
                retry: false,
            });
        }
        let (device, epoch) = (kept.record.device(), kept.record.certificate.epoch);
        let mut count: u32 = self.db.query_row(
            "SELECT count(*) FROM one_time_keys WHERE mailbox = ?1",
            params![account.0],
            |row| row.get(0),
        )?;
        for signed in keys {
            let Ok(key) = signed.open(&device.0) else {
                continue;
            };
            if count >= POOL_MAX || key.account != account || key.epoch != epoch {
                continue;
            }
            self.db
                .prepare_cached("INSERT INTO one_time_keys (mailbox, bytes) VALUES (?1, ?2)")?
                .execute(params![account.0, codec::encode(&signed)])?;
            count += 1;
        }
        Ok(Response::Stock(count))
    }

    /// Drops what is past its date, a bounded number of rows at once.
    pub(super) fn clean(&mut self) -> Result<()> {
        let now = self.now.0;
        type Expired = (i64, [u8; 32], [u8; 32], [u8; 16], u64, bool);
        let expired: Vec<Expired> = self
            .db
            .prepare_cached(
                "SELECT id, mailbox, envelope, capability, length(bytes), hidden IS NOT NULL
                 FROM envelopes WHERE expires <= ?1 LIMIT ?2",
            )?
            .query_map(params![now, CLEAN_ROWS], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                ))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (row, mailbox, envelope, capability, size, hidden) in expired {
            self.db
                .execute("DELETE FROM envelopes WHERE id = ?1", params![row])?;
            if !hidden {
                self.left_inbox(
                    &AccountId(mailbox),
                    &EnvelopeId(envelope),
                    &capability,
                    size,
                )?;
            }
        }
        let before = |age: u64| now.saturating_sub(age);
        let drops: [(&str, u64); 10] = [
            (
                "DELETE FROM acted_on WHERE (account, message) IN
                   (SELECT account, message FROM acted_on WHERE time < ?1 LIMIT ?2)",
                before(RETENTION_MAX + 2 * DAY),
            ),
            (
                "DELETE FROM envelopes WHERE id IN
                   (SELECT id FROM envelopes WHERE hidden IS NOT NULL AND hidden < ?1 LIMIT ?2)",
                before(ERASE_AFTER),
            ),
            (
                "DELETE FROM encapsulations WHERE (mailbox, name) IN
                   (SELECT mailbox, name FROM encapsulations WHERE expires < ?1 LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM seal_keys WHERE (account, name) IN
                   (SELECT account, name FROM seal_keys WHERE expires < ?1 LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM receipt_items WHERE receipt IN
                   (SELECT id FROM receipts WHERE until < ?1 LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM receipts WHERE id IN
                   (SELECT id FROM receipts WHERE until < ?1 LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM idempotency WHERE (account, scope, key) IN
                   (SELECT account, scope, key FROM idempotency WHERE time < ?1 LIMIT ?2)",
                before(IDEMPOTENCY_LIFE),
            ),
            (
                "DELETE FROM nodes WHERE node IN
                   (SELECT node FROM nodes WHERE expires < ?1 LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM outbox WHERE kind = 0 AND item IN
                   (SELECT id FROM outgoing WHERE expires < ?1 LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM outgoing WHERE id IN
                   (SELECT id FROM outgoing WHERE expires < ?1 LIMIT ?2)",
                now,
            ),
        ];
        for (sql, limit) in drops {
            self.db
                .prepare_cached(sql)?
                .execute(params![limit, CLEAN_ROWS])?;
        }
        self.clean_statements(before(RETENTION_MAX + 2 * DAY))?;
        self.trim_events()
    }

    fn clean_statements(&mut self, before: u64) -> Result<()> {
        let old: Vec<(i64, [u8; 32], [u8; 32], i64)> = self
            .db
            .prepare_cached(
                "SELECT id, mailbox, hash, lasting FROM statements
                 WHERE lasting <> 1 AND time < ?1 LIMIT ?2",
            )?
            .query_map(params![before, CLEAN_ROWS], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (row, mailbox, hash, kind) in old {
            self.db.execute(
                "DELETE FROM acknowledged WHERE statement = ?1",
                params![row],
            )?;
            self.db.execute(
                "DELETE FROM outbox WHERE kind = 1 AND item = ?1",
                params![row],
            )?;
            self.db
                .execute("DELETE FROM statements WHERE id = ?1", params![row])?;
            if kind == PRIVATE {
                continue;
            }
            let sets = match self.kept.get_mut(&AccountId(mailbox)) {
                Some(kept) => Some(&mut kept.sets),
                None => self.due.own_sets.get_mut(&AccountId(mailbox)),
            };
            if let Some(sets) = sets {
                sets.statements.remove(&hash);
                sets.statement_count = sets.statement_count.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// How long a statement is kept.
const fn lasting(action: &Action) -> i64 {
    match action {
        Action::Delivered { .. } => PASSING,
        Action::Read { .. } => PRIVATE,
        Action::Grant { .. } | Action::Revoke { .. } => LASTING,
    }
}

/// Size bound of what is stored of an encapsulation; checked at decoding.
const _: () = assert!(Encapsulation::MAX < 2_048);
