//! What arrives for accounts of this node: opening envelopes, texts, control contents, acknowledging.
//! Keeping for others is in `keeping`.

use std::collections::BTreeSet;

use pumasi_protocol::chat::{Arrival as Place, Position};
use pumasi_protocol::codec;
use pumasi_protocol::crypto::{Secret, Signed};
use pumasi_protocol::delivery::State;
use pumasi_protocol::envelope::{Body, Content, Letter, Payload, SealFor, key_commitment};
use pumasi_protocol::mailbox::{Action, IDS_MAX, NotAdmitted, Statement, admit_shape};
use pumasi_protocol::record::CheckedRecord;
use pumasi_protocol::seal;
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, Hash, MessageId, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Frame, Refused};
use rusqlite::params;

use super::outgoing::{NewMessage, OUTBOX_STATEMENT};
use super::{Engine, blob, one, secret_row};
use crate::check::CheckedParcel;
use crate::error::Result;
use crate::ratchet::{self, PeerSessions, RatchetError};
use crate::read;

/// Envelopes named in one reset at most (see `Body::Reset`).
const RESET_MAX: usize = 64;
/// Texts sent again on one request at most (see `Body::Resend`).
const RESEND_MAX: u64 = 256;
/// A contact is asked to repair at most this often, in milliseconds.
const REPAIR_EVERY: u64 = 15 * SECOND;
/// A hole must last this long before its sender is asked: another path may bring it.
const HOLE_PATIENCE: u64 = 3 * SECOND;
/// Seal keys of contacts are kept this long after the day they were agreed.
const SEAL_KEY_LIFE: u64 = 40 * DAY;

/// What became of an envelope at its owner's device.
enum Outcome {
    /// Its content is here now: acknowledge.
    Taken(AccountId),
    /// Acknowledged before: the same statement again.
    Known(Hash),
    /// Kept for its recovery copy, or known as one that cannot be opened.
    Unopened,
    /// Not taken.
    Refused(NotAdmitted),
}

impl Engine {
    /// Envelopes came from a node.
    pub(super) fn put_arrived(
        &mut self,
        from: NodeId,
        parcels: Vec<CheckedParcel>,
        malformed: Vec<EnvelopeId>,
        pass_on: &[NodeId],
    ) -> Result<()> {
        let mut refused: Vec<Refused> = malformed
            .into_iter()
            .map(|id| Refused {
                id,
                why: NotAdmitted::Malformed,
            })
            .collect();
        let mut again = BTreeSet::new();
        let mut records: BTreeSet<AccountId> = BTreeSet::new();
        for parcel in parcels {
            let id = parcel.id;
            let mailbox = parcel.envelope.sealed.mailbox;
            let now = self.now;
            if self
                .peers
                .get_mut(&from)
                .is_some_and(|peer| !peer.may_bring(now))
            {
                refused.push(Refused {
                    id,
                    why: NotAdmitted::Busy,
                });
                continue;
            }
            let own_record = self.accounts.get(&mailbox).map(|own| own.record.version());
            let outcome = if let Some(version) = own_record {
                if parcel.envelope.sealed.record < version {
                    records.insert(mailbox);
                }
                self.deliver(from, parcel)?
            } else {
                match self.keep(from, parcel, pass_on)? {
                    Ok(()) => continue,
                    Err(why) => Outcome::Refused(why),
                }
            };
            match outcome {
                Outcome::Taken(contact) => {
                    self.step
                        .delivered
                        .entry((mailbox, contact))
                        .or_default()
                        .push(id);
                }
                Outcome::Known(statement) => {
                    again.insert(statement);
                }
                Outcome::Unopened => {}
                Outcome::Refused(why) => {
                    if why == NotAdmitted::OldRecord {
                        records.insert(mailbox);
                    }
                    refused.push(Refused { id, why });
                }
            }
        }
        let bad = |item: &Refused| {
            matches!(
                item.why,
                NotAdmitted::Malformed
                    | NotAdmitted::WrongTag
                    | NotAdmitted::NoCapability
                    | NotAdmitted::NotKept
                    | NotAdmitted::Dates
            )
        };
        for _ in refused.iter().filter(|item| bad(item)) {
            let over = self
                .peers
                .get_mut(&from)
                .is_some_and(super::peers::Peer::brought_bad);
            if over && from != self.me {
                tracing::warn!(node = ?from, "too many envelopes that nobody wants: session ended");
                self.disconnect(from);
                return Ok(());
            }
        }
        let again: Vec<Hash> = again.into_iter().collect();
        self.send_stored_statements(from, &again)?;
        if refused.is_empty() && records.is_empty() {
            return Ok(());
        }
        let mut newer = Vec::new();
        for mailbox in records {
            match self.accounts.get(&mailbox) {
                Some(own) => newer.push(own.record.signed.clone()),
                None => newer.extend(self.kept_record(&mailbox)?.map(|record| record.signed)),
            }
        }
        // Records are up to 8 KiB each: a few per frame.
        for chunk in newer.chunks(4) {
            let records = chunk.to_vec();
            self.send(
                from,
                &Frame::Refused {
                    items: std::mem::take(&mut refused),
                    records,
                },
            );
        }
        if !refused.is_empty() {
            self.send(
                from,
                &Frame::Refused {
                    items: refused,
                    records: vec![],
                },
            );
        }
        Ok(())
    }

    /// One envelope for an own account.
    fn deliver(&mut self, from: NodeId, parcel: CheckedParcel) -> Result<Outcome> {
        let CheckedParcel {
            id,
            envelope,
            bytes,
            seals,
        } = parcel;
        let account = envelope.sealed.mailbox;
        let before: Option<[u8; 32]> = one(self
            .db
            .prepare_cached(
                "SELECT s.hash FROM acknowledged a JOIN statements s ON s.id = a.statement
                 WHERE a.envelope = ?1",
            )?
            .query_row(params![id.0], |row| blob(row, 0)))?;
        if let Some(hash) = before {
            return Ok(Outcome::Known(Hash(hash)));
        }
        let already = self
            .step
            .delivered
            .iter()
            .find(|(_, ids)| ids.contains(&id));
        if let Some(((_, contact), _)) = already {
            // Twice in one step, by two paths: one acknowledgement.
            let _ = contact;
            return Ok(Outcome::Unopened);
        }
        let unopened = self
            .db
            .prepare_cached("SELECT 1 FROM envelopes WHERE envelope = ?1")?
            .exists(params![id.0])?;
        if unopened {
            return Ok(Outcome::Unopened);
        }
        if let Err(why) = admit_shape(&envelope.sealed, self.now) {
            return Ok(Outcome::Refused(why));
        }
        let Some(tag_key) = self.tag_key(&account, &envelope.sealed.capability)? else {
            return Ok(Outcome::Refused(NotAdmitted::NoCapability));
        };
        if !envelope.tag_fits(&tag_key) {
            return Ok(Outcome::Refused(NotAdmitted::WrongTag));
        }
        // The seal key tells who sealed it.
        let Some((contact, seal_key)) = self.seal_key(&account, &envelope.sealed, &seals)? else {
            return Ok(Outcome::Refused(NotAdmitted::MissingSeals));
        };
        let opened = self.open_envelope(account, contact, &envelope.sealed, &seal_key)?;
        let (payload, content_key, new_sessions) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                tracing::info!(envelope = ?id, node = ?from, %why, "an envelope cannot be opened");
                self.keep_unopened(account, id, &envelope.sealed, &bytes)?;
                self.ask_reset(account, contact)?;
                return Ok(Outcome::Unopened);
            }
        };
        let capability = envelope.sealed.capability;
        if let Some(sessions) = new_sessions {
            // Someone whom we do not know: only a Hello under an invitation.
            let taken = match self.open_letter_of_stranger(account, contact, payload, &content_key)
            {
                Some((
                    message,
                    Body::Hello {
                        record,
                        keys,
                        capability: theirs,
                    },
                )) => {
                    self.first_time(account, message)?;
                    match CheckedRecord::check(*record) {
                        Ok(record) if record.account() == contact => self
                            .receive_hello(account, capability, record, *keys, theirs, sessions)?,
                        _ => false,
                    }
                }
                _ => false,
            };
            // Taken or not, it never becomes anything else: acknowledge, so that it is not kept on.
            if !taken {
                tracing::info!(envelope = ?id, "a stranger's envelope was not a usable Hello");
            }
            return Ok(Outcome::Taken(contact));
        }
        self.used_own_capability(account, contact, capability)?;
        if !self.take_payload(account, contact, id, capability, payload, &content_key)? {
            tracing::info!(envelope = ?id, sender = %contact, "the content of an envelope was refused");
        }
        Ok(Outcome::Taken(contact))
    }

    /// The tag key of a capability that may write to a mailbox, own or kept.
    pub(super) fn tag_key(
        &self,
        mailbox: &AccountId,
        capability: &pumasi_protocol::envelope::CapabilityId,
    ) -> Result<Option<Secret>> {
        let key: Option<[u8; 32]> = one(self
            .db
            .prepare_cached(
                "SELECT tag_key FROM capabilities
                 WHERE mailbox = ?1 AND capability = ?2 AND revoked = 0",
            )?
            .query_row(params![mailbox.0, capability.0], |row| blob(row, 0)))?;
        Ok(key.map(Secret))
    }

    /// The seal key that an envelope names, and who agreed it: stored, or from the encapsulation that
    /// came along.
    fn seal_key(
        &mut self,
        account: &AccountId,
        sealed: &pumasi_protocol::envelope::Sealed,
        seals: &[(
            pumasi_protocol::envelope::SealName,
            pumasi_protocol::envelope::Encapsulation,
        )],
    ) -> Result<Option<(AccountId, Secret)>> {
        let name = sealed.device_seal;
        let row = secret_row(&account.0, &name.0);
        let stored: Option<([u8; 32], Vec<u8>)> = one(self
            .db
            .prepare_cached("SELECT contact, key FROM seal_keys WHERE account = ?1 AND name = ?2")?
            .query_row(params![account.0, name.0], |row| {
                Ok((blob(row, 0)?, row.get(1)?))
            }))?;
        if let Some((contact, key)) = stored {
            let plain = self.vault.open("seal_keys", &row, &key)?;
            if let Ok(key) = <[u8; 32]>::try_from(plain.as_slice()) {
                return Ok(Some((AccountId(contact), Secret(key))));
            }
        }
        let Some((_, encapsulation)) = seals.iter().find(|(given, _)| *given == name) else {
            return Ok(None);
        };
        if encapsulation.mailbox != *account || encapsulation.for_key != SealFor::Device {
            return Ok(None);
        }
        let Ok((contact, key)) = seal::receive(encapsulation, &self.own(account)?.seal) else {
            return Ok(None);
        };
        let sealed_key = self.seal_secret("seal_keys", &row, &key.0);
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO seal_keys (account, name, contact, key, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                account.0,
                name.0,
                contact.0,
                sealed_key,
                self.now.plus(SEAL_KEY_LIFE).0
            ])?;
        Ok(Some((contact, key)))
    }

    /// Opens outer seal, ratchet and body. The sessions of someone unknown come back apart.
    #[expect(
        clippy::type_complexity,
        reason = "what opening gives, or why it does not"
    )]
    fn open_envelope(
        &mut self,
        account: AccountId,
        contact: AccountId,
        sealed: &pumasi_protocol::envelope::Sealed,
        seal_key: &Secret,
    ) -> Result<std::result::Result<(Payload, Secret, Option<PeerSessions>), String>> {
        let message = match seal::open_outer(sealed, seal_key) {
            Ok(message) => message,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let stranger = self.contact(account, contact)?.is_none();
        let (opened, sessions) = if stranger {
            let Some(identity) = ratchet::sender_identity(&message) else {
                return Ok(Err(RatchetError::Undecryptable.to_string()));
            };
            let mut sessions = PeerSessions::empty();
            let Some(own) = self.accounts.get_mut(&account) else {
                return Ok(Err("no such account".into()));
            };
            (
                sessions.decrypt(&mut own.ratchet, &identity, &message),
                Some(sessions),
            )
        } else {
            let (Some(own), Some(entry)) = (
                self.accounts.get_mut(&account),
                self.contacts.get_mut(&(account, contact)),
            ) else {
                return Ok(Err("no such contact".into()));
            };
            let identity = match (&entry.keys, ratchet::sender_identity(&message)) {
                (Some((_, bundle)), _) => bundle.ratchet_identity,
                // Its keys were not fetched yet; the letter's signature still tells who wrote.
                (None, Some(identity)) => identity,
                (None, None) => return Ok(Err(RatchetError::NoSession.to_string())),
            };
            (
                entry
                    .sessions
                    .decrypt(&mut own.ratchet, &identity, &message),
                None,
            )
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if opened.new_session {
            self.step.dirty_ratchets.insert(account);
        }
        if !stranger {
            self.touch(account, contact);
        }
        let content_key = Secret(opened.content_key);
        match seal::open_body(sealed, &content_key) {
            Ok(payload) => Ok(Ok((payload, content_key, sessions))),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// The body of a letter by someone unknown, signed by the device that its own record names.
    fn open_letter_of_stranger(
        &self,
        account: AccountId,
        sender: AccountId,
        payload: Payload,
        content_key: &Secret,
    ) -> Option<(MessageId, Body)> {
        let Payload::Letter { letter, .. } = payload else {
            return None;
        };
        let claimed = letter.unverified().ok()?;
        let content: Content = codec::decode(&claimed.content).ok()?;
        let Body::Hello { record, .. } = &content.body else {
            return None;
        };
        let record = CheckedRecord::check((**record).clone()).ok()?;
        let content = check_letter(&letter, &record, content_key, sender, account)?;
        Some((Content::id_of(&claimed.content), content.body))
    }

    /// Notes that a content was acted on; false when it was before.
    fn first_time(&mut self, account: AccountId, message: MessageId) -> Result<bool> {
        let rows = self
            .db
            .prepare_cached(
                "INSERT INTO acted_on (account, message, time) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![account.0, message.0, self.now.0])?;
        Ok(rows > 0)
    }

    /// What an opened envelope says. False when it is refused: then it changes nothing.
    fn take_payload(
        &mut self,
        account: AccountId,
        contact: AccountId,
        envelope: EnvelopeId,
        used: pumasi_protocol::envelope::CapabilityId,
        payload: Payload,
        content_key: &Secret,
    ) -> Result<bool> {
        let entry = self.known_contact(account, contact)?;
        if entry.blocked {
            return Ok(false);
        }
        match payload {
            Payload::Entry { entry: signed, .. } => {
                self.receive_entry(account, contact, envelope, signed)
            }
            Payload::Letter { letter, .. } => {
                let checked = check_letter(&letter, &entry.record, content_key, contact, account)
                    .or_else(|| {
                        newer_device(&letter, &entry.record, content_key, contact, account)
                    });
                let Some(content) = checked else {
                    return Ok(false);
                };
                let bytes = letter
                    .unverified()
                    .map(|letter| letter.content.0)
                    .unwrap_or_default();
                self.take_content(account, contact, envelope, used, content, &bytes)
            }
        }
    }

    fn take_content(
        &mut self,
        account: AccountId,
        contact: AccountId,
        envelope: EnvelopeId,
        used: pumasi_protocol::envelope::CapabilityId,
        content: Content,
        bytes: &[u8],
    ) -> Result<bool> {
        let message = Content::id_of(bytes);
        let text = matches!(content.body, Body::Text { .. });
        if !text && !self.first_time(account, message)? {
            return Ok(true);
        }
        match content.body {
            Body::Text {
                sequence, heads, ..
            } => {
                let now = self.now;
                let entry = self.known_contact(account, contact)?;
                let epoch = entry.record.certificate.epoch;
                let at = Position {
                    id: message,
                    epoch,
                    sequence,
                    time: content.time,
                };
                let (gap, shown) = match entry.chat.receive(&at, &heads, now) {
                    Place::New { gap, shown } => (
                        gap.map_or(0, |(first, last)| last.saturating_sub(first) + 1),
                        shown,
                    ),
                    Place::Late { shown } => {
                        let stored = self
                            .db
                            .prepare_cached(
                                "SELECT 1 FROM messages WHERE account = ?1 AND message = ?2",
                            )?
                            .exists(params![account.0, message.0])?;
                        if stored {
                            return Ok(true);
                        }
                        (0, shown)
                    }
                    Place::Duplicate => return Ok(true),
                    Place::Refused(why) => {
                        tracing::info!(sender = %contact, ?why, "a text is out of place");
                        return Ok(false);
                    }
                };
                let holes = self
                    .contacts
                    .get(&(account, contact))
                    .is_some_and(|entry| !entry.chat.holes().is_empty());
                self.touch(account, contact);
                if holes {
                    self.due
                        .holes
                        .entry((account, contact))
                        .or_insert(now.plus(HOLE_PATIENCE));
                }
                self.insert_message(&NewMessage {
                    account,
                    contact,
                    message,
                    outgoing: false,
                    kind: read::TEXT,
                    sequence,
                    time: shown,
                    content: bytes,
                    payment: None,
                    state: State::Delivered,
                    gap,
                    envelope: Some(envelope),
                })?;
                self.fill_gap(account, contact, sequence)?;
                let view = read::message(&self.db, &account, &message)?;
                self.event(Some(account), "message.received", &view)?;
                Ok(true)
            }
            Body::Hello {
                record,
                keys,
                capability,
            } => {
                let Ok(record) = CheckedRecord::check(*record) else {
                    return Ok(false);
                };
                if record.account() != contact {
                    return Ok(false);
                }
                let sessions = PeerSessions::empty();
                self.receive_hello(account, used, record, *keys, capability, sessions)
            }
            Body::Welcome { record, capability } => {
                let Ok(record) = CheckedRecord::check(*record) else {
                    return Ok(false);
                };
                if record.account() != contact {
                    return Ok(false);
                }
                self.receive_welcome(account, contact, record, capability)?;
                Ok(true)
            }
            Body::Record(record) => {
                let Ok(record) = CheckedRecord::check(*record) else {
                    return Ok(false);
                };
                if record.account() != contact {
                    return Ok(false);
                }
                self.newer_record(account, record)?;
                Ok(true)
            }
            Body::Reset { unopened } => {
                for id in unopened.into_iter().take(RESET_MAX) {
                    self.reseal_where(account, contact, Some(id))?;
                }
                Ok(true)
            }
            Body::Resend { first, last } => {
                self.resend(account, contact, first, last)?;
                Ok(true)
            }
        }
    }

    /// A text closed a hole: the next one shown after it has a smaller gap before it.
    fn fill_gap(&mut self, account: AccountId, contact: AccountId, sequence: u64) -> Result<()> {
        self.db
            .prepare_cached(
                "UPDATE messages SET gap = sequence - ?3 - 1
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND kind = 0 AND gap > 0
                   AND sequence = (SELECT min(sequence) FROM messages
                     WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND kind = 0
                       AND sequence > ?3)",
            )?
            .execute(params![account.0, contact.0, sequence])?;
        Ok(())
    }

    /// An envelope that this device cannot open stays: its recovery copy may be all there is.
    fn keep_unopened(
        &mut self,
        account: AccountId,
        id: EnvelopeId,
        sealed: &pumasi_protocol::envelope::Sealed,
        bytes: &[u8],
    ) -> Result<()> {
        self.db.execute(
            "INSERT OR IGNORE INTO envelopes
               (mailbox, envelope, created, expires, capability, seals, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, x'', ?6)",
            params![
                account.0,
                id.0,
                sealed.created.0,
                sealed.expires.0,
                sealed.capability.0,
                bytes
            ],
        )?;
        self.due.unopened.entry(account).or_default().push(id);
        Ok(())
    }

    /// Begins a new session with a contact and says which envelopes could not be opened.
    fn ask_reset(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
        let now = self.now;
        let Some(entry) = self.contact(account, contact)? else {
            return Ok(());
        };
        if now.since(entry.repair_asked) < REPAIR_EVERY {
            self.due
                .resets
                .entry((account, contact))
                .or_insert(now.plus(REPAIR_EVERY));
            return Ok(());
        }
        entry.repair_asked = now;
        entry.sessions = PeerSessions::empty();
        self.touch(account, contact);
        let mut unopened = self.due.unopened.remove(&account).unwrap_or_default();
        let rest = unopened.split_off(unopened.len().min(RESET_MAX));
        if !rest.is_empty() {
            self.due.unopened.insert(account, rest);
            self.due
                .resets
                .insert((account, contact), now.plus(REPAIR_EVERY));
        }
        self.send_content(account, contact, Body::Reset { unopened })
    }

    /// Asks for what is still missing: sessions to begin anew, holes that lasted.
    pub(super) fn repair(&mut self) -> Result<()> {
        let now = self.now;
        let due = |map: &std::collections::BTreeMap<(AccountId, AccountId), Time>| -> Vec<_> {
            map.iter()
                .filter(|(_, at)| **at <= now)
                .map(|(pair, _)| *pair)
                .collect()
        };
        for pair in due(&self.due.resets) {
            self.due.resets.remove(&pair);
            self.ask_reset(pair.0, pair.1)?;
        }
        for pair in due(&self.due.holes) {
            self.due.holes.remove(&pair);
            let (account, contact) = pair;
            let Some(entry) = self.contact(account, contact)? else {
                continue;
            };
            let Some((first, last)) = entry.chat.holes().first().copied() else {
                continue;
            };
            let last = last.min(first.saturating_add(RESEND_MAX - 1));
            self.send_content(account, contact, Body::Resend { first, last })?;
            self.due.holes.insert(pair, now.plus(REPAIR_EVERY));
        }
        Ok(())
    }

    /// A contact misses texts: they are sealed again, unless they are still under way.
    fn resend(
        &mut self,
        account: AccountId,
        contact: AccountId,
        first: u64,
        last: u64,
    ) -> Result<()> {
        let first = first.min(u64::from(u32::MAX));
        let last = last.min(first + RESEND_MAX - 1);
        let rows: Vec<([u8; 32], Vec<u8>)> = self
            .db
            .prepare_cached(
                "SELECT message, content FROM messages
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 1 AND kind = 0
                   AND sequence BETWEEN ?3 AND ?4 ORDER BY sequence",
            )?
            .query_map(params![account.0, contact.0, first, last], |row| {
                Ok((blob(row, 0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (message, content) in rows {
            let envelope: Option<Option<[u8; 32]>> = one(self.db.query_row(
                "SELECT envelope FROM outgoing WHERE account = ?1 AND contact = ?2 AND message = ?3",
                params![account.0, contact.0, message],
                |row| row.get(0),
            ))?;
            match envelope {
                Some(Some(envelope)) => {
                    self.reseal_where(account, contact, Some(EnvelopeId(envelope)))?;
                }
                Some(None) => {}
                None => self.dispatch_again(account, contact, MessageId(message), content)?,
            }
        }
        Ok(())
    }

    /// One statement per account and sender for everything that reached the device in this step: to
    /// the sender's home, and to the keepers, who hide it.
    pub(super) fn acknowledge_delivered(&mut self) -> Result<()> {
        for ((account, contact), ids) in std::mem::take(&mut self.step.delivered) {
            for ids in ids.chunks(IDS_MAX) {
                let action = Action::Delivered { ids: ids.to_vec() };
                let statement = self.state(account, action)?;
                let home = self
                    .contact(account, contact)?
                    .map(|c| c.record.record.home.node);
                if let Some(home) = home {
                    self.statement_for(home, statement)?;
                }
            }
        }
        Ok(())
    }

    /// Signs and stores a statement of an own account, applies it here, and gives it to the keepers
    /// that are connected; the others get it when mailboxes are compared. Returns its row.
    pub(super) fn state(&mut self, account: AccountId, action: Action) -> Result<i64> {
        let own = self.own(&account)?;
        let statement = Statement {
            account,
            epoch: own.record.certificate.epoch,
            time: self.now,
            action,
        };
        let signed = Signed::sign(&statement, &own.device);
        let keepers: Vec<NodeId> = own
            .record
            .record
            .keepers
            .iter()
            .map(|keeper| keeper.place.node)
            .collect();
        let private = matches!(statement.action, Action::Read { .. });
        let row = self.store_statement(&statement, &signed)?;
        if !private {
            for keeper in keepers {
                if self.peers.get(&keeper).is_some_and(|peer| peer.connected) {
                    self.send(keeper, &Frame::Statements(vec![signed.clone()]));
                }
            }
        }
        Ok(row)
    }

    /// Hands a statement to a sender's home node, reliably.
    pub(super) fn statement_for(&mut self, node: NodeId, statement: i64) -> Result<()> {
        let outbox = self.queue_for(node, OUTBOX_STATEMENT, statement)?;
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.connected) else {
            self.want(node);
            return Ok(());
        };
        if peer.backlog {
            return Ok(());
        }
        peer.cursor = peer.cursor.max(outbox);
        self.send_statements(node, &[(outbox, statement)])
    }

    /// Marks what a contact wrote as read, and tells it.
    pub(crate) fn mark_read(&mut self, account: &AccountId, who: &str) -> Result<u64> {
        let contact = self.find_contact(account, who)?;
        self.own(account)?;
        let rows: Vec<[u8; 32]> = self
            .db
            .prepare_cached(
                "SELECT message FROM messages
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND state < 4 ORDER BY id",
            )?
            .query_map(params![account.0, contact.0], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        self.db
            .prepare_cached(
                "UPDATE messages SET state = 4
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND state < 4",
            )?
            .execute(params![account.0, contact.0])?;
        let home = self
            .known_contact(*account, contact)?
            .record
            .record
            .home
            .node;
        for messages in rows.chunks(IDS_MAX) {
            let messages = messages.iter().copied().map(MessageId).collect();
            let statement = self.state(*account, Action::Read { messages })?;
            self.statement_for(home, statement)?;
        }
        Ok(rows.len() as u64)
    }
}

/// The content of a letter, if the sender's device signed it for this recipient under this key.
fn check_letter(
    letter: &Signed<Letter>,
    record: &CheckedRecord,
    content_key: &Secret,
    sender: AccountId,
    recipient: AccountId,
) -> Option<Content> {
    if record.account() != sender {
        return None;
    }
    let letter = letter.open(&record.device().0).ok()?;
    if letter.key != key_commitment(content_key) {
        return None;
    }
    let content: Content = codec::decode(&letter.content).ok()?;
    (content.sender == sender && content.recipient == recipient).then_some(content)
}

/// The same where the sender has a newer device, whose record the content itself carries.
fn newer_device(
    letter: &Signed<Letter>,
    known: &CheckedRecord,
    content_key: &Secret,
    sender: AccountId,
    recipient: AccountId,
) -> Option<Content> {
    let claimed = letter.unverified().ok()?;
    let content: Content = codec::decode(&claimed.content).ok()?;
    let (Body::Hello { record, .. } | Body::Welcome { record, .. } | Body::Record(record)) =
        content.body
    else {
        return None;
    };
    let record = CheckedRecord::check(*record).ok()?;
    if !record.replaces(known) {
        return None;
    }
    check_letter(letter, &record, content_key, sender, recipient)
}
