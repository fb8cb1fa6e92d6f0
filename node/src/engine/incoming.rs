//! What arrives for accounts of this node: opening envelopes, texts, control contents. Keeping for
//! others is in `keeping`.

use std::collections::BTreeSet;

use pumasi_protocol::archive::{ArchivedText, Record};
use pumasi_protocol::chat::{Arrival as Place, Position};
use pumasi_protocol::codec;
use pumasi_protocol::crypto::{Secret, Signed};
use pumasi_protocol::delivery::State;
use pumasi_protocol::envelope::{Body, Content, Letter, Payload, SealFor, key_commitment};
use pumasi_protocol::identity::DeviceCertificate;
use pumasi_protocol::mailbox::{NotAdmitted, admit_shape};
use pumasi_protocol::record::CheckedRecord;
use pumasi_protocol::seal;
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, Hash, MessageId, NodeId, SECOND};
use pumasi_protocol::wire::{Frame, Refused};
use rusqlite::params;

use super::outgoing::NewMessage;
use super::{Engine, blob, one, secret_row};
use crate::check::CheckedParcel;
use crate::error::Result;
use crate::ratchet::{self, PeerSessions, RatchetError};
use crate::read;

/// Envelopes named in one reset at most (see `Body::Reset`).
pub(super) const RESET_MAX: usize = 64;
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
            let outcome = if self.restoring.contains_key(&mailbox) {
                self.hold_for_restore(from, parcel)?;
                continue;
            } else if own_record.is_some() && !self.is_level(&mailbox) {
                Outcome::Refused(NotAdmitted::Busy)
            } else if let Some(version) = own_record {
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
                    self.covered(mailbox, id);
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
            if self.for_earlier_device(&account, &envelope.sealed, &seals) {
                self.store_own_envelope(account, id, &envelope.sealed, &bytes, &seals)?;
                return Ok(Outcome::Unopened);
            }
            return Ok(Outcome::Refused(NotAdmitted::MissingSeals));
        };
        let opened = self.open_envelope(account, contact, &envelope.sealed, &seal_key)?;
        let (payload, content_key, new_sessions) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                tracing::info!(envelope = ?id, node = ?from, %why, "an envelope cannot be opened");
                let from = (account, contact);
                self.keep_unopened(from, id, &envelope.sealed, &bytes, &seals)?;
                self.ask_reset(account, contact)?;
                return Ok(Outcome::Unopened);
            }
        };
        let capability = envelope.sealed.capability;
        let known = self.contact(account, contact)?.is_some();
        let new_sessions = match new_sessions {
            Some(sessions) if known => {
                // A contact's new device, if the record that came along says so.
                self.record_along(account, contact, &payload)?;
                let entry = self.known_contact(account, contact)?;
                entry.sessions.adopt(sessions);
                self.touch_conversation(account, contact);
                None
            }
            other => other,
        };
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
                (Some((_, bundle)), Some(identity)) if bundle.ratchet_identity != identity => {
                    // Another device than the one known: whose it is, the payload must say.
                    let mut sessions = PeerSessions::empty();
                    let opened = sessions.decrypt(&mut own.ratchet, &identity, &message);
                    return Ok(match opened {
                        Ok(opened) => {
                            self.step.dirty_ratchets.insert(account);
                            let content_key = Secret(opened.content_key);
                            seal::open_body(sealed, &content_key)
                                .map(|payload| (payload, content_key, Some(sessions)))
                                .map_err(|error| error.to_string())
                        }
                        Err(error) => Err(error.to_string()),
                    });
                }
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
            self.touch_conversation(account, contact);
        }
        let content_key = Secret(opened.content_key);
        match seal::open_body(sealed, &content_key) {
            Ok(payload) => Ok(Ok((payload, content_key, sessions))),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// The body of a letter by someone unknown, signed by the device that its own record names.
    pub(super) fn open_letter_of_stranger(
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

    /// Whether the person deleted a message, or removed a contact with all of its.
    pub(super) fn was_deleted(&self, account: &AccountId, id: &[u8; 32]) -> Result<bool> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM deleted WHERE account = ?1 AND id = ?2")?
            .exists(params![account.0, id])?)
    }

    /// Notes that a content was acted on; false when it was before.
    pub(super) fn first_time(&mut self, account: AccountId, message: MessageId) -> Result<bool> {
        let rows = self
            .db
            .prepare_cached(
                "INSERT INTO acted_on (account, message, time) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![account.0, message.0, self.now.0])?;
        Ok(rows > 0)
    }

    /// The sender's record came along: it may have a new device. The sessions stay: this envelope was
    /// opened with them.
    fn record_along(
        &mut self,
        account: AccountId,
        contact: AccountId,
        payload: &Payload,
    ) -> Result<()> {
        let Some(record) = payload.record().cloned() else {
            return Ok(());
        };
        let Ok(record) = CheckedRecord::check(record) else {
            return Ok(());
        };
        if record.account() != contact {
            return Ok(());
        }
        let entry = self.known_contact(account, contact)?;
        if !record.replaces(&entry.record) {
            return Ok(());
        }
        let sessions = std::mem::take(&mut entry.sessions);
        self.hint(&record);
        self.newer_record(account, record)?;
        self.known_contact(account, contact)?
            .sessions
            .adopt(sessions);
        Ok(())
    }

    /// What an opened envelope says. False when it is refused: then it changes nothing.
    pub(super) fn take_payload(
        &mut self,
        account: AccountId,
        contact: AccountId,
        envelope: EnvelopeId,
        used: pumasi_protocol::envelope::CapabilityId,
        payload: Payload,
        content_key: &Secret,
    ) -> Result<bool> {
        self.record_along(account, contact, &payload)?;
        let entry = self.known_contact(account, contact)?;
        if entry.blocked {
            return Ok(false);
        }
        match payload {
            Payload::Entry { entry: signed, .. } => {
                self.receive_entry(account, contact, Some(envelope), signed)
            }
            Payload::Letter { letter, .. } => {
                let checked = check_letter(&letter, &entry.record, content_key, contact, account)
                    .or_else(|| newer_device(&letter, &entry.record, content_key, contact, account))
                    .or_else(|| earlier_device(&letter, entry, content_key, account));
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
                epoch,
                sequence,
                heads,
                ..
            } => {
                let now = self.now;
                let entry = self.known_contact(account, contact)?;
                if epoch > entry.record.certificate.epoch {
                    tracing::info!(sender = %contact, "a text of a device that is not known");
                    return Ok(false);
                }
                let deleted = self.was_deleted(&account, &message.0)?;
                let entry = self.known_contact(account, contact)?;
                let mut may_fill = !entry.chat.holes().is_empty();
                let at = Position {
                    id: message,
                    epoch,
                    sequence,
                    time: content.time,
                };
                if deleted {
                    // Not shown again; its place is taken, so that nobody is asked for it.
                    let _: Place = entry.chat.receive(&at, &heads, now);
                    self.touch_conversation(account, contact);
                    self.fill_gap(account, contact, epoch, sequence)?;
                    return Ok(true);
                }
                let (gap, shown) = match entry.chat.receive(&at, &heads, now) {
                    Place::New { gap, shown } => (
                        gap.map_or(0, |(first, last)| last.saturating_sub(first) + 1),
                        shown,
                    ),
                    Place::Late { shown } => {
                        may_fill = true;
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
                self.touch_conversation(account, contact);
                if holes {
                    self.due
                        .holes
                        .entry((account, contact))
                        .or_insert(now.plus(HOLE_PATIENCE));
                }
                let page = self.archive_received(
                    account,
                    Record::Text(Box::new(ArchivedText {
                        content: bytes.to_vec().into(),
                        shown,
                        mark: None,
                        call: None,
                    })),
                );
                let row = self.insert_message(&NewMessage {
                    account,
                    contact,
                    message,
                    outgoing: false,
                    kind: read::TEXT,
                    epoch,
                    page,
                    sequence,
                    time: shown,
                    content: bytes,
                    payment: None,
                    state: State::Delivered,
                    gap,
                    envelope: Some(envelope),
                    call: None,
                })?;
                if may_fill {
                    self.fill_gap(account, contact, epoch, sequence)?;
                }
                let view = read::message_at(&self.db, row)?;
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
            Body::LineView { line, yours, wants } => {
                self.line_answer(account, contact, line, &yours, &wants)?;
                Ok(true)
            }
            Body::Resend { epoch, first, last } => {
                self.resend(account, contact, epoch, first, last)?;
                Ok(true)
            }
        }
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

/// The same where an earlier device of the sender wrote it: a text that waited in the mailbox while
/// the sender was restored. Nothing else of such a device counts.
fn earlier_device(
    letter: &Signed<Letter>,
    entry: &super::contacts::Contact,
    content_key: &Secret,
    recipient: AccountId,
) -> Option<Content> {
    let claimed = letter.unverified().ok()?;
    let content: Content = codec::decode(&claimed.content).ok()?;
    let Body::Text { epoch, .. } = &content.body else {
        return None;
    };
    let device = entry
        .former
        .iter()
        .filter_map(|certificate| DeviceCertificate::open(certificate).ok())
        .find(|certificate| certificate.epoch == *epoch && certificate.account == entry.id)?;
    letter.check(&device.device.0).ok()?;
    let fits = claimed.key == key_commitment(content_key)
        && content.sender == entry.id
        && content.recipient == recipient;
    fits.then_some(content)
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
