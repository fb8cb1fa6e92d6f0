//! Keeping mailboxes for others: admission, storing, custody receipts. What owners say is in
//! `statements`, comparing with other keepers in `reconciling`.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::codec::{self, Wire as _};
use pumasi_protocol::crypto::{self, Signed};
use pumasi_protocol::envelope::{Encapsulation, SealName};
use pumasi_protocol::mailbox::{
    CLOCK_AHEAD_MAX, CustodyReceipt, IDS_MAX, NotAdmitted, RETENTION_MAX, admit, admit_shape,
};
use pumasi_protocol::record::{CheckedRecord, KeyBundle};
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, Hash, NodeId, Time};
use pumasi_protocol::wire::{BATCH_BYTES, Frame, Parcel};
use rusqlite::params;

use super::sets::{Moved, Sets};
use super::{Engine, blob, one};
use crate::check::CheckedParcel;
use crate::error::Result;

/// Names of seal keys remembered per mailbox; the store knows the others.
const SEALS_REMEMBERED: usize = 1_024;
/// Receipts in one frame; half of what is read.
const RECEIPTS_TOGETHER: usize = 32;
/// Envelopes passed on whose receipts are waited for, at most.
const RELAYS_MAX: usize = 10_000;

/// A mailbox kept for somebody.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) record: CheckedRecord,
    pub(super) keys: Signed<KeyBundle>,
    pub(super) contact: bool,
    pub(super) since: Time,
    /// Since when its record does not name this node.
    pub(super) ended: Option<Time>,
    /// Seal keys whose encapsulations are stored.
    pub(super) seals: BTreeSet<SealName>,
    pub(super) sets: Sets,
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

    fn load_kept(&self, mailbox: &AccountId) -> Result<Option<Kept>> {
        type Row = (bool, Vec<u8>, Vec<u8>, u64, Option<u64>);
        let row: Option<Row> = one(self
            .db
            .prepare_cached(
                "SELECT contact, record, keys, since, ended FROM kept WHERE mailbox = ?1",
            )?
            .query_row(params![mailbox.0], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            }))?;
        let Some((contact, record, keys, since, ended)) = row else {
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
            since: Time(since),
            ended: ended.map(Time),
            seals: BTreeSet::new(),
            sets,
        }))
    }

    pub(super) fn store_kept(&mut self, mailbox: AccountId) -> Result<()> {
        let Some(kept) = self.kept.get(&mailbox) else {
            return Ok(());
        };
        self.db
            .prepare_cached(
                "INSERT INTO kept (mailbox, contact, record, keys, since, ended)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (mailbox) DO UPDATE SET
                   contact = ?2, record = ?3, keys = ?4, ended = ?6",
            )?
            .execute(params![
                mailbox.0,
                kept.contact,
                codec::encode(&kept.record.signed),
                codec::encode(&kept.keys),
                kept.since.0,
                kept.ended.map(|ended| ended.0)
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
        let (usage, share) = (kept.sets.inbox, kept.sets.share(&sealed.capability));
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
        let tag_key: Option<[u8; 32]> = one(self
            .db
            .prepare_cached(
                "SELECT tag_key FROM capabilities
                 WHERE mailbox = ?1 AND capability = ?2 AND revoked = 0",
            )?
            .query_row(params![mailbox.0, sealed.capability.0], |row| blob(row, 0)))?;
        let tag_key = tag_key.map(crypto::Secret);
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
            if let Some(kept) = self.kept.get_mut(&mailbox) {
                kept.sets
                    .envelope(Moved::In, &id.0, sealed.capability, size);
            }
            self.compare_soon(&mailbox);
        }
        self.custody(from, mailbox, id, sealed.expires);
        self.pass_on(from, mailbox, id, bytes, seals, pass_on);
        Ok(Ok(()))
    }

    pub(super) fn custody(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        id: EnvelopeId,
        expires: Time,
    ) {
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

    /// Signs for what this step stores: one receipt per bringer and mailbox, one frame per bringer. They
    /// leave only after the commit, like every effect.
    pub(super) fn sign_custody(&mut self) -> Result<()> {
        let mut frames: BTreeMap<NodeId, Vec<Signed<CustodyReceipt>>> = BTreeMap::new();
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
                let frame = frames.entry(from).or_default();
                frame.push(signed);
                let size: usize = frame.iter().map(|signed| signed.bytes().len()).sum();
                if size >= BATCH_BYTES / 2 || frame.len() >= RECEIPTS_TOGETHER {
                    let full = std::mem::take(frame);
                    self.send(from, &Frame::Receipts(full));
                }
            }
        }
        for (from, receipts) in frames {
            if !receipts.is_empty() {
                self.send(from, &Frame::Receipts(receipts));
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
            let until = match expires {
                Some(expires) => Some(Time(expires)),
                None => self
                    .db
                    .prepare_cached("SELECT 1 FROM pages WHERE page = ?1 AND mailbox = ?2")?
                    .exists(params![id.0, mailbox.0])?
                    .then(|| self.now.plus(RETENTION_MAX)),
            };
            if let Some(until) = until {
                self.custody(from, mailbox, *id, until);
            }
        }
        Ok(())
    }
}

/// Size bound of what is stored of an encapsulation; checked at decoding.
const _: () = assert!(Encapsulation::MAX < 2_048);
