//! What leaves this node for a contact's mailbox: composing, sealing, the outbox, receipts and
//! acknowledgements that come back.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::codec::{self, Bytes, Wire};
use pumasi_protocol::crypto::{Secret, Signed};
use pumasi_protocol::delivery::{self, State};
use pumasi_protocol::envelope::{
    Body, Content, Conversation, Encapsulation, Envelope, Letter, Payload, SealFor, SealName,
    TEXT_MAX, key_commitment,
};
use pumasi_protocol::line::Entry;
use pumasi_protocol::mailbox::{
    CLOCK_AHEAD_MAX, CustodyReceipt, NotAdmitted, RETENTION, RETENTION_MAX,
};
use pumasi_protocol::record::CheckedRecord;
use pumasi_protocol::seal::{self, SealKey, Sealing};
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, MessageId, NodeId, Time};
use pumasi_protocol::wire::{BATCH_BYTES, Frame, Parcel, Refused};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::contacts::DaySeal;
use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};
use crate::ratchet::PeerSessions;
use crate::read;
use crate::view::MessageView;

/// Kinds of payload in the `outgoing` table.
const CONTENT: i64 = 0;
const ENTRY: i64 = 1;
/// Kinds of rows in the `outbox` table.
pub(super) const OUTBOX_ENVELOPE: i64 = 0;
pub(super) const OUTBOX_STATEMENT: i64 = 1;
/// Envelopes handed to a node and not yet answered, at most.
pub(super) const WINDOW: usize = 512;
/// Sendings of one account under way at most: beyond, callers hear "busy".
const UNDER_WAY_MAX: u64 = 100_000;

/// An envelope ready to be put into a frame.
#[derive(Debug, Clone)]
pub(super) struct Parcelled {
    pub(super) outbox: i64,
    pub(super) sending: i64,
    pub(super) id: EnvelopeId,
    pub(super) bytes: Bytes,
    pub(super) seals: Vec<(SealName, Encapsulation)>,
}

/// The keepers that signed for an envelope, and until when.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Holders(pub(super) BTreeMap<NodeId, Time>);

impl Wire for Holders {
    const NAME: &'static str = "a list of keepers";
    const MAX: usize = 4 * 1024;
}

impl Holders {
    /// State, buildings and date that these prove under a record.
    pub(super) fn prove(&self, record: &CheckedRecord) -> (State, usize, Option<Time>) {
        let nodes: BTreeSet<NodeId> = self.0.keys().copied().collect();
        let mut per_building: BTreeMap<String, Time> = BTreeMap::new();
        for keeper in &record.record.keepers {
            if let Some(until) = self.0.get(&keeper.place.node) {
                let slot = per_building
                    .entry(pumasi_protocol::record::normal(&keeper.building))
                    .or_default();
                *slot = (*slot).max(*until);
            }
        }
        let dates = per_building.into_values().collect();
        (
            delivery::kept(record, &nodes),
            delivery::buildings(record, &nodes),
            delivery::safe_until(dates, record.record.safe_copies),
        )
    }
}

/// The nodes that an envelope for this record goes to: the home, and every keeper.
fn targets(record: &CheckedRecord) -> BTreeSet<NodeId> {
    let keepers = record.record.keepers.iter().map(|keeper| keeper.place.node);
    keepers.chain([record.record.home.node]).collect()
}

/// A sending under way, as far as answers need it.
struct UnderWay {
    id: i64,
    account: AccountId,
    contact: AccountId,
    message: MessageId,
    holders: Holders,
    delivered: bool,
}

impl Engine {
    /// Writes a text to a contact. With a key, the same call again gives the same message.
    pub(crate) fn send_text(
        &mut self,
        account: &AccountId,
        who: &str,
        text: &str,
        key: Option<&str>,
    ) -> Result<MessageView> {
        self.own(account)?;
        if text.len() > TEXT_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the text is {} bytes long; at most {TEXT_MAX} are allowed",
                    text.len()
                ),
            ));
        }
        if text.is_empty() {
            return Err(Error::invalid("the text is empty"));
        }
        let contact = self.find_contact(account, who)?;
        let request = [contact.0.as_slice(), text.as_bytes()];
        if let Some(message) = self.answered_before(account, "message", key, &request)? {
            return read::message(&self.db, account, &MessageId(message));
        }
        if self.known_contact(*account, contact)?.blocked {
            return Err(Error::new(
                ErrorKind::Refused,
                "you blocked this contact: unblock it to write to it",
            ));
        }
        self.check_room(account)?;
        let now = self.now;
        let entry = self.known_contact(*account, contact)?;
        let stamp = entry.chat.compose(now);
        let content = Content {
            sender: *account,
            recipient: contact,
            time: stamp.time,
            body: Body::Text {
                conversation: Conversation::Direct,
                sequence: stamp.sequence,
                heads: stamp.heads,
                text: text.to_owned(),
            },
        };
        let bytes = codec::encode(&content);
        let message = Content::id_of(&bytes);
        entry.chat.sent(message);
        self.touch(*account, contact);
        self.insert_message(&NewMessage {
            account: *account,
            contact,
            message,
            outgoing: true,
            kind: read::TEXT,
            sequence: stamp.sequence,
            time: stamp.time,
            content: &bytes,
            payment: None,
            state: State::Saved,
            gap: 0,
            envelope: None,
        })?;
        self.remember_answer(account, "message", key, &request, &message.0)?;
        self.dispatch(*account, contact, message, CONTENT, bytes)?;
        let view = read::message(&self.db, account, &message)?;
        self.event(Some(*account), "message.queued", &view)?;
        Ok(view)
    }

    /// Refuses new sendings when too many are under way.
    pub(super) fn check_room(&self, account: &AccountId) -> Result<()> {
        if self.due.under_way.get(account).copied().unwrap_or(0) >= UNDER_WAY_MAX {
            return Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "{UNDER_WAY_MAX} items wait for other nodes: try again when some have left"
                ),
            ));
        }
        Ok(())
    }

    /// Sends a content that people do not see.
    pub(super) fn send_content(
        &mut self,
        account: AccountId,
        contact: AccountId,
        body: Body,
    ) -> Result<()> {
        let content = Content {
            sender: account,
            recipient: contact,
            time: self.now,
            body,
        };
        let bytes = codec::encode(&content);
        let message = Content::id_of(&bytes);
        self.dispatch(account, contact, message, CONTENT, bytes)
    }

    /// Sends a line entry.
    pub(super) fn send_entry(
        &mut self,
        account: AccountId,
        contact: AccountId,
        entry: &Signed<Entry>,
    ) -> Result<()> {
        let message = MessageId(entry.hash().0);
        self.dispatch(account, contact, message, ENTRY, codec::encode(entry))
    }

    /// Sends a text again that was delivered or lost before.
    pub(super) fn dispatch_again(
        &mut self,
        account: AccountId,
        contact: AccountId,
        message: MessageId,
        content: Vec<u8>,
    ) -> Result<()> {
        self.dispatch(account, contact, message, CONTENT, content)
    }

    /// Puts something on its way: stored, sealed if that is possible now, and into the outbox.
    fn dispatch(
        &mut self,
        account: AccountId,
        contact: AccountId,
        message: MessageId,
        kind: i64,
        payload: Vec<u8>,
    ) -> Result<()> {
        let expires = self.now.plus(RETENTION);
        self.db
            .prepare_cached(
                "INSERT INTO outgoing (account, contact, message, kind, payload, receipts, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                account.0,
                contact.0,
                message.0,
                kind,
                payload,
                codec::encode(&Holders::default()),
                expires.0
            ])?;
        let id = self.db.last_insert_rowid();
        *self.due.under_way.entry(account).or_insert(0) += 1;
        self.seal_outgoing(id, account, contact, kind, payload, expires)
    }

    /// Seals one sending for its contact's record as known now, and fills the outbox. Without the
    /// contact's keys it stays as it is until they arrive.
    fn seal_outgoing(
        &mut self,
        id: i64,
        account: AccountId,
        contact: AccountId,
        kind: i64,
        payload: Vec<u8>,
        expires: Time,
    ) -> Result<()> {
        if !self.ready_to_seal(account, contact)? {
            return Ok(());
        }
        let content_key = Secret(self.random());
        let nonce = self.nonce();
        let own = self.own(&account)?;
        let epoch = own.record.certificate.epoch;
        let damaged = || Error::new(ErrorKind::Storage, "a stored sending is damaged");
        let payload = if kind == CONTENT {
            let letter = Letter {
                content: payload.into(),
                key: key_commitment(&content_key),
            };
            Payload::Letter {
                epoch,
                letter: Signed::sign(&letter, &own.device),
            }
        } else {
            Payload::Entry {
                epoch,
                entry: codec::decode(&payload).map_err(|_| damaged())?,
            }
        };
        let now = self.now;
        let entry = self.known_contact(account, contact)?;
        let (Some(device), Some(recovery)) = (
            entry.secrets.device_seal.clone(),
            entry.secrets.recovery_seal.clone(),
        ) else {
            return Ok(());
        };
        let ratchet_message = match entry.sessions.encrypt(&content_key.0) {
            Ok(message) => message,
            Err(error) => {
                // The contact's device gave a key that cannot be used: begin anew with its prekeys.
                tracing::warn!(%contact, %error, "a session cannot be used");
                entry.sessions = PeerSessions::empty();
                self.touch(account, contact);
                return self.ask_for_keys(account, contact);
            }
        };
        let sealing = Sealing {
            mailbox: contact,
            record: entry.record.version(),
            created: now,
            expires,
            capability: &entry.secrets.write,
            device: &device.seal,
            recovery: Some(&recovery.seal),
            content_key: &content_key,
            nonce,
            ratchet_message: &ratchet_message,
            payload: &payload,
        };
        let envelope = match seal::seal(&sealing) {
            Ok(envelope) => envelope,
            Err(error) => {
                // Texts and entries are bounded so that they fit; a record may have grown since.
                tracing::error!(%contact, %error, "something cannot be sealed");
                return Ok(());
            }
        };
        let targets = targets(&entry.record);
        let bytes = codec::encode(&envelope);
        let envelope = Envelope::id_of(&bytes);
        self.touch(account, contact);
        self.db
            .prepare_cached(
                "UPDATE outgoing SET envelope = ?2, bytes = ?3, receipts = ?4 WHERE id = ?1",
            )?
            .execute(params![
                id,
                envelope.0,
                bytes,
                codec::encode(&Holders::default())
            ])?;
        let bytes = Bytes(bytes);
        for node in targets {
            let outbox = self.queue_for(node, OUTBOX_ENVELOPE, id)?;
            let parcel = Parcelled {
                outbox,
                sending: id,
                id: envelope,
                bytes: bytes.clone(),
                seals: vec![
                    (device.seal.name, device.encapsulation.clone()),
                    (recovery.seal.name, recovery.encapsulation.clone()),
                ],
            };
            self.step.fresh.entry(node).or_default().push(parcel);
        }
        Ok(())
    }

    pub(super) fn queue_for(&mut self, node: NodeId, kind: i64, item: i64) -> Result<i64> {
        self.db
            .prepare_cached("INSERT INTO outbox (node, kind, item) VALUES (?1, ?2, ?3)")?
            .execute(params![node.0, kind, item])?;
        Ok(self.db.last_insert_rowid())
    }

    /// Whether keys, a session and today's seal keys are there; asks for keys where they are not.
    fn ready_to_seal(&mut self, account: AccountId, contact: AccountId) -> Result<bool> {
        let day = self.now.0 / DAY;
        let random = [self.random(), self.random()];
        let entry = self.known_contact(account, contact)?;
        let Some((_, bundle)) = entry.keys.as_ref().filter(|_| !entry.sessions.is_empty()) else {
            self.ask_for_keys(account, contact)?;
            return Ok(false);
        };
        let stale = |seal: &Option<DaySeal>| seal.as_ref().is_none_or(|seal| seal.day != day);
        let wanted = [
            (
                SealFor::Device,
                &bundle.device_seal,
                stale(&entry.secrets.device_seal),
            ),
            (
                SealFor::Recovery,
                &bundle.recovery_seal,
                stale(&entry.secrets.recovery_seal),
            ),
        ];
        let mut agreed = Vec::new();
        for ((for_key, public, needed), random) in wanted.into_iter().zip(random) {
            if !needed {
                continue;
            }
            match seal::agree(public, for_key, &contact, &account, &random) {
                Ok((encapsulation, key)) => {
                    let seal = SealKey {
                        name: encapsulation.name(),
                        key,
                    };
                    agreed.push((
                        for_key,
                        DaySeal {
                            day,
                            seal,
                            encapsulation,
                        },
                    ));
                }
                Err(error) => {
                    tracing::warn!(%contact, %error, "a contact's seal key cannot be used");
                    return Ok(false);
                }
            }
        }
        for (for_key, seal) in agreed {
            match for_key {
                SealFor::Device => entry.secrets.device_seal = Some(seal),
                SealFor::Recovery => entry.secrets.recovery_seal = Some(seal),
            }
        }
        Ok(true)
    }

    /// Seals what waited for keys, or again what is under way, for the record as known now. Receipts
    /// under the old record stay as proof; the shown state never goes back.
    pub(super) fn reseal(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
        self.reseal_where(account, contact, None)
    }

    /// Seals those that had no envelope yet.
    pub(super) fn seal_waiting(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
        let rows = self.sendings(account, contact, true)?;
        for (id, kind, payload, expires) in rows {
            self.seal_outgoing(id, account, contact, kind, payload, expires)?;
        }
        Ok(())
    }

    /// Seals again: all, or one envelope.
    pub(super) fn reseal_where(
        &mut self,
        account: AccountId,
        contact: AccountId,
        only: Option<EnvelopeId>,
    ) -> Result<()> {
        let rows = match only {
            None => self.sendings(account, contact, false)?,
            Some(envelope) => {
                let row = one(self.db.query_row(
                    "SELECT id, kind, payload, expires FROM outgoing
                     WHERE envelope = ?1 AND account = ?2 AND contact = ?3",
                    params![envelope.0, account.0, contact.0],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, Time(row.get(3)?))),
                ))?;
                row.into_iter().collect()
            }
        };
        for (id, kind, payload, expires) in rows {
            self.forget_outbox(id)?;
            self.db
                .prepare_cached(
                    "UPDATE outgoing SET envelope = NULL, bytes = NULL, delivered = 0 WHERE id = ?1",
                )?
                .execute(params![id])?;
            self.seal_outgoing(id, account, contact, kind, payload, expires)?;
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "one row of one query")]
    fn sendings(
        &self,
        account: AccountId,
        contact: AccountId,
        unsealed: bool,
    ) -> Result<Vec<(i64, i64, Vec<u8>, Time)>> {
        let rows = self
            .db
            .prepare_cached(
                "SELECT id, kind, payload, expires FROM outgoing
                 WHERE account = ?1 AND contact = ?2 AND (envelope IS NULL OR ?3 = 0) ORDER BY id",
            )?
            .query_map(params![account.0, contact.0, unsealed], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, Time(row.get(3)?)))
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(rows)
    }

    /// Takes a sending out of every node's queue.
    fn forget_outbox(&mut self, outgoing: i64) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2")?
            .execute(params![OUTBOX_ENVELOPE, outgoing])?;
        for parcels in self.step.fresh.values_mut() {
            // A parcel sealed in this very step must not leave either.
            parcels.retain(|parcel| parcel.sending != outgoing);
        }
        Ok(())
    }

    /// Hands what was sealed in this step to the nodes that are connected.
    pub(super) fn flush_fresh(&mut self) -> Result<()> {
        for (node, parcels) in std::mem::take(&mut self.step.fresh) {
            let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.connected) else {
                self.want(node);
                continue;
            };
            if peer.backlog || peer.inflight.len() + parcels.len() > WINDOW {
                peer.backlog = true;
                self.pump(node)?;
                continue;
            }
            if let Some(last) = parcels.last() {
                peer.cursor = peer.cursor.max(last.outbox);
            }
            self.put(node, parcels);
        }
        Ok(())
    }

    /// Sends parcels in frames, with the seal keys that the node may lack.
    pub(super) fn put(&mut self, node: NodeId, parcels: Vec<Parcelled>) {
        let pass_on = self.unreachable_targets(&parcels);
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let mut frames: Vec<Vec<Parcel>> = vec![vec![]];
        let mut size = 0;
        for parcel in parcels {
            if peer.inflight.is_empty() {
                peer.progress = now;
            }
            peer.inflight.insert(parcel.id, parcel.outbox);
            let mut seals = Vec::new();
            for (name, encapsulation) in parcel.seals {
                if peer.knows_seal(name) {
                    continue;
                }
                seals.push(encapsulation);
            }
            let bytes = parcel.bytes.len() + seals.len() * Encapsulation::MAX;
            if size > 0 && size + bytes > BATCH_BYTES {
                frames.push(vec![]);
                size = 0;
            }
            size += bytes;
            if let Some(frame) = frames.last_mut() {
                frame.push(Parcel {
                    envelope: parcel.bytes,
                    seals,
                });
            }
        }
        for parcels in frames {
            if !parcels.is_empty() {
                self.send(
                    node,
                    &Frame::Put {
                        parcels,
                        pass_on: pass_on.clone(),
                    },
                );
            }
        }
    }

    /// Keepers that these parcels should reach and that this node cannot reach now.
    fn unreachable_targets(&self, parcels: &[Parcelled]) -> Vec<NodeId> {
        let mut list = BTreeSet::new();
        for parcel in parcels.iter().take(1) {
            let Ok(envelope) = codec::decode::<Envelope>(&parcel.bytes) else {
                continue;
            };
            let mailbox = envelope.sealed.mailbox;
            let record = self
                .contacts
                .range((AccountId([0; 32]), mailbox)..)
                .find(|((_, contact), _)| *contact == mailbox)
                .map(|(_, contact)| &contact.record);
            let Some(record) = record else { continue };
            for target in targets(record) {
                if !self.peers.get(&target).is_some_and(|peer| peer.connected) {
                    list.insert(target);
                }
            }
        }
        list.into_iter().collect()
    }

    /// Sends what waits for a node, as far as the window allows.
    pub(super) fn pump(&mut self, node: NodeId) -> Result<()> {
        loop {
            let Some(peer) = self
                .peers
                .get(&node)
                .filter(|peer| peer.connected && peer.backlog)
            else {
                return Ok(());
            };
            let room = WINDOW.saturating_sub(peer.inflight.len() + peer.noting.len());
            if room == 0 {
                return Ok(());
            }
            let rows: Vec<(i64, i64, i64)> = self
                .db
                .prepare_cached(
                    "SELECT id, kind, item FROM outbox WHERE node = ?1 AND id > ?2
                     ORDER BY id LIMIT ?3",
                )?
                .query_map(params![node.0, peer.cursor, room.min(64) as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            let last = rows.last().map(|(id, _, _)| *id);
            let mut parcels = Vec::new();
            let mut statements = Vec::new();
            for (outbox, kind, item) in rows {
                if kind == OUTBOX_STATEMENT {
                    statements.push((outbox, item));
                } else if let Some(parcel) = self.parcel(outbox, item)? {
                    parcels.push(parcel);
                }
            }
            let Some(peer) = self.peers.get_mut(&node) else {
                return Ok(());
            };
            match last {
                Some(last) => peer.cursor = last,
                None => peer.backlog = false,
            }
            self.put(node, parcels);
            self.send_statements(node, &statements)?;
        }
    }

    fn parcel(&mut self, outbox: i64, outgoing: i64) -> Result<Option<Parcelled>> {
        let row = one(self
            .db
            .prepare_cached(
                "SELECT envelope, bytes, account, contact FROM outgoing
                 WHERE id = ?1 AND envelope IS NOT NULL",
            )?
            .query_row(params![outgoing], |row| {
                Ok((
                    blob(row, 0)?,
                    row.get::<_, Vec<u8>>(1)?,
                    blob(row, 2)?,
                    blob(row, 3)?,
                ))
            }))?;
        let Some((envelope, bytes, account, contact)) = row else {
            self.db
                .prepare_cached("DELETE FROM outbox WHERE id = ?1")?
                .execute(params![outbox])?;
            return Ok(None);
        };
        let seals = self.seals_of(AccountId(account), AccountId(contact), &bytes)?;
        Ok(Some(Parcelled {
            outbox,
            sending: outgoing,
            id: EnvelopeId(envelope),
            bytes: bytes.into(),
            seals,
        }))
    }

    /// The encapsulations that an own envelope names: today's from memory; older ones are sealed anew
    /// when a keeper lacks them.
    fn seals_of(
        &mut self,
        account: AccountId,
        contact: AccountId,
        bytes: &[u8],
    ) -> Result<Vec<(SealName, Encapsulation)>> {
        let Ok(envelope) = codec::decode::<Envelope>(bytes) else {
            return Ok(vec![]);
        };
        let Some(entry) = self.contact(account, contact)? else {
            return Ok(vec![]);
        };
        let named = [
            Some(envelope.sealed.device_seal),
            envelope.sealed.recovery_seal,
        ];
        let held = [&entry.secrets.device_seal, &entry.secrets.recovery_seal];
        Ok(held
            .into_iter()
            .flatten()
            .filter(|seal| named.contains(&Some(seal.seal.name)))
            .map(|seal| (seal.seal.name, seal.encapsulation.clone()))
            .collect())
    }

    /// Receipts came back.
    pub(super) fn receipts(
        &mut self,
        from: NodeId,
        receipts: Vec<(CustodyReceipt, Signed<CustodyReceipt>)>,
    ) -> Result<()> {
        for (mut receipt, signed) in receipts {
            receipt.until = receipt
                .until
                .min(self.now.plus(RETENTION_MAX + CLOCK_AHEAD_MAX));
            self.relay_receipt(from, &receipt, &signed);
            if let Some(peer) = self.peers.get_mut(&receipt.keeper) {
                peer.progress = self.now;
                for id in &receipt.ids {
                    peer.inflight.remove(id);
                }
            }
            let mut stored = None;
            for id in &receipt.ids {
                let under_way = self.under_way(id)?;
                let (account, message) = match &under_way {
                    Some(sending) => {
                        let entry = self.known_contact(sending.account, sending.contact)?;
                        if !delivery::counts(&receipt, &entry.record) {
                            continue;
                        }
                        (sending.account, sending.message)
                    }
                    None => match self.due.attesting.get(id).copied() {
                        Some((account, message)) if self.attested_by_own(&account, &receipt) => {
                            (account, message)
                        }
                        _ => continue,
                    },
                };
                let row = match stored {
                    Some(row) => row,
                    None => {
                        let row = self.store_receipt(&receipt, &signed)?;
                        stored = Some(row);
                        row
                    }
                };
                self.db
                    .prepare_cached(
                        "INSERT OR REPLACE INTO receipt_items (account, message, keeper, receipt)
                         VALUES (?1, ?2, ?3, ?4)",
                    )?
                    .execute(params![account.0, message.0, receipt.keeper.0, row])?;
                match under_way {
                    Some(sending) => self.one_receipt(sending, &receipt)?,
                    None => self.one_attestation(*id, account, message, &receipt)?,
                }
            }
            self.pump_soon(receipt.keeper)?;
        }
        Ok(())
    }

    fn store_receipt(
        &mut self,
        receipt: &CustodyReceipt,
        signed: &Signed<CustodyReceipt>,
    ) -> Result<i64> {
        self.db
            .prepare_cached("INSERT INTO receipts (until, bytes) VALUES (?1, ?2)")?
            .execute(params![receipt.until.0, codec::encode(signed)])?;
        Ok(self.db.last_insert_rowid())
    }

    fn under_way(&self, envelope: &EnvelopeId) -> Result<Option<UnderWay>> {
        let row = one(self
            .db
            .prepare_cached(
                "SELECT id, account, contact, message, receipts, delivered
                 FROM outgoing WHERE envelope = ?1",
            )?
            .query_row(params![envelope.0], |row| {
                Ok((
                    row.get(0)?,
                    blob(row, 1)?,
                    blob(row, 2)?,
                    blob(row, 3)?,
                    row.get::<_, Vec<u8>>(4)?,
                    row.get(5)?,
                ))
            }))?;
        Ok(row.map(
            |(id, account, contact, message, receipts, delivered)| UnderWay {
                id,
                account: AccountId(account),
                contact: AccountId(contact),
                message: MessageId(message),
                holders: codec::decode(&receipts).unwrap_or_default(),
                delivered,
            },
        ))
    }

    fn one_receipt(&mut self, mut sending: UnderWay, receipt: &CustodyReceipt) -> Result<()> {
        sending.holders.0.insert(receipt.keeper, receipt.until);
        let entry = self.known_contact(sending.account, sending.contact)?;
        let (state, buildings, until) = sending.holders.prove(&entry.record);
        self.db
            .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2 AND node = ?3")?
            .execute(params![OUTBOX_ENVELOPE, sending.id, receipt.keeper.0])?;
        let done = state >= State::Safe || !self.has_targets(sending.id)?;
        if sending.delivered && done {
            self.end_sending(&sending)?;
        } else {
            self.db
                .prepare_cached("UPDATE outgoing SET receipts = ?2 WHERE id = ?1")?
                .execute(params![sending.id, codec::encode(&sending.holders)])?;
        }
        self.raise(sending.account, sending.message, state, buildings, until)
    }

    /// Whether some node has not answered for a sending yet.
    fn has_targets(&self, outgoing: i64) -> Result<bool> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM outbox WHERE kind = ?1 AND item = ?2 LIMIT 1")?
            .exists(params![OUTBOX_ENVELOPE, outgoing])?)
    }

    fn end_sending(&mut self, sending: &UnderWay) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM outgoing WHERE id = ?1")?
            .execute(params![sending.id])?;
        self.db
            .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2")?
            .execute(params![OUTBOX_ENVELOPE, sending.id])?;
        if let Some(count) = self.due.under_way.get_mut(&sending.account) {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }

    /// The recipient's device signed that envelopes reached it.
    pub(super) fn delivered(&mut self, contact: AccountId, ids: &[EnvelopeId]) -> Result<()> {
        for id in ids {
            let Some(mut sending) = self.under_way(id)? else {
                continue;
            };
            if sending.contact != contact {
                continue;
            }
            let entry = self.known_contact(sending.account, contact)?;
            let home = entry.record.record.home.node;
            let (state, buildings, until) = sending.holders.prove(&entry.record);
            if let Some(peer) = self.peers.get_mut(&home) {
                peer.inflight.remove(id);
                peer.progress = self.now;
            }
            sending.delivered = true;
            self.db
                .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2 AND node = ?3")?
                .execute(params![OUTBOX_ENVELOPE, sending.id, home.0])?;
            if state >= State::Safe || !self.has_targets(sending.id)? {
                self.end_sending(&sending)?;
            } else {
                self.db
                    .prepare_cached("UPDATE outgoing SET delivered = 1 WHERE id = ?1")?
                    .execute(params![sending.id])?;
            }
            let (account, message) = (sending.account, sending.message);
            self.raise(account, message, State::Delivered, buildings, until)?;
            self.pump_soon(home)?;
        }
        Ok(())
    }

    /// The recipient read messages.
    pub(super) fn was_read(
        &mut self,
        account: AccountId,
        contact: AccountId,
        messages: &[MessageId],
    ) -> Result<()> {
        for message in messages {
            let ours = self
                .db
                .prepare_cached(
                    "SELECT 1 FROM messages
                     WHERE account = ?1 AND message = ?2 AND contact = ?3 AND outgoing = 1",
                )?
                .exists(params![account.0, message.0, contact.0])?;
            if ours {
                self.raise(account, *message, State::Read, 0, None)?;
            }
        }
        Ok(())
    }

    /// Raises what is shown of a message; it never goes back. Says so in events.
    pub(super) fn raise(
        &mut self,
        account: AccountId,
        message: MessageId,
        state: State,
        buildings: usize,
        until: Option<Time>,
    ) -> Result<()> {
        let row: Option<(u8, bool, u32, i64)> = one(self
            .db
            .prepare_cached(
                "SELECT state, safe, buildings, kind FROM messages
                 WHERE account = ?1 AND message = ?2",
            )?
            .query_row(params![account.0, message.0], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            }))?;
        let Some((code, safe, known_buildings, kind)) = row else {
            return Ok(());
        };
        let before = State::from_code(code);
        // Delivered says nothing about keepers: `safe` rises by receipts alone.
        let now_safe = safe || until.is_some();
        let buildings = u32::try_from(buildings)
            .unwrap_or(u32::MAX)
            .max(known_buildings);
        let after = before.max(state);
        if after == before && now_safe == safe && buildings == known_buildings {
            return Ok(());
        }
        self.db
            .prepare_cached(
                "UPDATE messages SET state = ?3, safe = ?4, buildings = ?5,
                   safe_until = coalesce(?6, safe_until)
                 WHERE account = ?1 AND message = ?2",
            )?
            .execute(params![
                account.0,
                message.0,
                after.code(),
                now_safe,
                buildings,
                until.map(|until| until.0)
            ])?;
        let mut news = Vec::new();
        if after > before {
            match after {
                State::OneBuilding => news.push("message.held"),
                State::Delivered => news.push("message.delivered"),
                State::Read => news.push("message.read"),
                State::Saved | State::Safe => {}
            }
        }
        if now_safe && !safe {
            news.insert(0, "message.safe");
        }
        if news.is_empty() {
            return Ok(());
        }
        let view = read::message(&self.db, &account, &message)?;
        for kind in news {
            self.event(Some(account), kind, &view)?;
        }
        if kind == read::IOU
            && now_safe
            && !safe
            && let Some(payment) = &view.payment
        {
            let payment = read::payment(&self.db, &account, payment)?;
            self.event(Some(account), "payment.safe", &payment)?;
        }
        Ok(())
    }

    /// A node did not take envelopes.
    pub(super) fn refused(
        &mut self,
        from: NodeId,
        items: Vec<Refused>,
        records: Vec<CheckedRecord>,
    ) -> Result<()> {
        for item in &items {
            tracing::debug!(node = ?from, envelope = ?item.id, why = %item.why, "envelope refused");
            let Some(peer) = self.peers.get_mut(&from) else {
                continue;
            };
            peer.progress = self.now;
            let Some(outbox) = peer.inflight.remove(&item.id) else {
                continue;
            };
            match item.why {
                NotAdmitted::MissingSeals => {
                    peer.seals.clear();
                    let _ = outbox;
                    if let Some(sending) = self.under_way(&item.id)? {
                        let (account, contact) = (sending.account, sending.contact);
                        let bytes: Vec<u8> = self.db.query_row(
                            "SELECT bytes FROM outgoing WHERE id = ?1",
                            params![sending.id],
                            |row| row.get(0),
                        )?;
                        if self.seals_of(account, contact, &bytes)?.len() < 2 {
                            // Its day is over: seal it again under today's keys.
                            self.reseal_where(account, contact, Some(item.id))?;
                        } else if let Some(parcel) = self.parcel(outbox, sending.id)? {
                            self.put(from, vec![parcel]);
                        }
                    }
                }
                _ => peer.retry_refused(self.now),
            }
        }
        for record in records {
            self.newer_record_everywhere(&record)?;
        }
        self.pump_soon(from)
    }

    /// Whether a call with this key was answered before: the id of what came of it. The key stands
    /// for one request only.
    pub(super) fn answered_before(
        &self,
        account: &AccountId,
        scope: &str,
        key: Option<&str>,
        request: &[&[u8]],
    ) -> Result<Option<[u8; 32]>> {
        let Some(key) = key else { return Ok(None) };
        check_key(key)?;
        let row = one(self
            .db
            .prepare_cached(
                "SELECT request, result FROM idempotency
                 WHERE account = ?1 AND scope = ?2 AND key = ?3",
            )?
            .query_row(params![account.0, scope, key], |row| {
                Ok((blob(row, 0)?, blob(row, 1)?))
            }))?;
        match row {
            None => Ok(None),
            Some((hash, result)) if hash == request_hash(request) => Ok(Some(result)),
            Some(_) => Err(Error::new(
                ErrorKind::IdempotencyKeyReused,
                "this idempotency key was used for another request: use a new key",
            )),
        }
    }

    pub(super) fn remember_answer(
        &mut self,
        account: &AccountId,
        scope: &str,
        key: Option<&str>,
        request: &[&[u8]],
        result: &[u8; 32],
    ) -> Result<()> {
        let Some(key) = key else { return Ok(()) };
        self.db
            .prepare_cached(
                "INSERT INTO idempotency (account, scope, key, request, result, time)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                account.0,
                scope,
                key,
                request_hash(request),
                result,
                self.now.0
            ])?;
        Ok(())
    }

    pub(super) fn insert_message(&mut self, new: &NewMessage<'_>) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO messages (account, contact, message, outgoing, kind, sequence, time,
                   content, payment, state, gap, envelope)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                new.account.0,
                new.contact.0,
                new.message.0,
                new.outgoing,
                new.kind,
                new.sequence,
                new.time.0,
                new.content,
                new.payment,
                new.state.code(),
                new.gap,
                new.envelope.map(|id| id.0)
            ])?;
        Ok(())
    }
}

fn request_hash(request: &[&[u8]]) -> [u8; 32] {
    pumasi_protocol::crypto::hash("idempotency", request).0
}

/// A key is 1 to 255 visible ASCII characters.
pub(super) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > 255 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(
            "an idempotency key has 1 to 255 visible ASCII characters without spaces",
        ));
    }
    Ok(())
}

/// A row of the `messages` table.
pub(super) struct NewMessage<'a> {
    pub(super) account: AccountId,
    pub(super) contact: AccountId,
    pub(super) message: MessageId,
    pub(super) outgoing: bool,
    pub(super) kind: i64,
    pub(super) sequence: u64,
    pub(super) time: Time,
    pub(super) content: &'a [u8],
    pub(super) payment: Option<[u8; 32]>,
    pub(super) state: State,
    pub(super) gap: u64,
    pub(super) envelope: Option<EnvelopeId>,
}
