//! What leaves this node for a contact's mailbox: composing and sealing. Handing it over is in
//! `outbox`, what comes back in `proofs`.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::archive::{ArchivedText, Record};
use pumasi_protocol::codec::{self, Bytes, Wire};
use pumasi_protocol::crypto::{Secret, Signed};
use pumasi_protocol::delivery::{self, State};
use pumasi_protocol::envelope::{
    Body, Content, Conversation, Encapsulation, Envelope, Letter, Payload, SealFor, SealName,
    TEXT_MAX, key_commitment,
};
use pumasi_protocol::line::Entry;
use pumasi_protocol::mailbox::RETENTION;
use pumasi_protocol::record::CheckedRecord;
use pumasi_protocol::seal::{self, SealKey, Sealing};
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, MessageId, NodeId, Time};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::contacts::DaySeal;
use super::{Engine, one};
use crate::error::{Error, ErrorKind, Result};
use crate::ratchet::PeerSessions;
use crate::read;
use crate::view::MessageView;

/// Kinds of payload in the `outgoing` table.
pub(super) const CONTENT: i64 = 0;
pub(super) const ENTRY: i64 = 1;
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

/// A sending that was just sealed.
struct Ready {
    envelope: EnvelopeId,
    bytes: Bytes,
    seals: Vec<(SealName, Encapsulation)>,
    targets: BTreeSet<NodeId>,
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
        (
            delivery::kept(record, &nodes),
            delivery::buildings(record, &nodes),
            delivery::safe_until(record, &self.0),
        )
    }
}

/// The nodes that an envelope for this record goes to: the home, and every keeper.
pub(super) fn targets(record: &CheckedRecord) -> BTreeSet<NodeId> {
    let keepers = record.record.keepers.iter().map(|keeper| keeper.place.node);
    keepers.chain([record.record.home.node]).collect()
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
        self.may_sign(account)?;
        let now = self.now;
        let epoch = self.own(account)?.record.certificate.epoch;
        let entry = self.known_contact(*account, contact)?;
        let stamp = entry.chat.compose(now);
        let content = Content {
            sender: *account,
            recipient: contact,
            time: stamp.time,
            body: Body::Text {
                conversation: Conversation::Direct,
                epoch,
                sequence: stamp.sequence,
                heads: stamp.heads,
                text: text.to_owned(),
            },
        };
        let bytes = codec::encode(&content);
        let message = Content::id_of(&bytes);
        entry.chat.sent(message);
        self.touch_conversation(*account, contact);
        let page = self.archive(
            *account,
            Record::Text(Box::new(ArchivedText {
                content: bytes.clone().into(),
                shown: stamp.time,
                mark: None,
                call: Self::call_of(key, &request),
            })),
        );
        let call = self.remember_answer(account, "message", key, &request, &message.0)?;
        let row = self.insert_message(&NewMessage {
            account: *account,
            contact,
            message,
            outgoing: true,
            kind: read::TEXT,
            epoch,
            page,
            sequence: stamp.sequence,
            time: stamp.time,
            content: &bytes,
            payment: None,
            state: State::Saved,
            gap: 0,
            envelope: None,
            call,
        })?;
        self.dispatch(*account, contact, message, CONTENT, bytes)?;
        let view = read::message_at(&self.db, row)?;
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
    pub(super) fn dispatch(
        &mut self,
        account: AccountId,
        contact: AccountId,
        message: MessageId,
        kind: i64,
        payload: Vec<u8>,
    ) -> Result<()> {
        let expires = self.now.plus(RETENTION);
        let ready = self.seal_sending(account, contact, kind, &payload, expires)?;
        self.db
            .prepare_cached(
                "INSERT INTO outgoing
                   (account, contact, message, kind, payload, receipts, expires, envelope, bytes,
                    shown)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9,
                   (SELECT id FROM messages WHERE account = ?1 AND message = ?3))",
            )?
            .execute(params![
                account.0,
                contact.0,
                message.0,
                kind,
                payload,
                codec::encode(&Holders::default()),
                expires.0,
                ready.as_ref().map(|ready| ready.envelope.0),
                ready.as_ref().map(|ready| &*ready.bytes)
            ])?;
        let id = self.db.last_insert_rowid();
        *self.due.under_way.entry(account).or_insert(0) += 1;
        match ready {
            Some(ready) => self.queue(id, ready),
            None => Ok(()),
        }
    }

    /// Seals a stored sending for its contact's record as known now, and fills the outbox. Without the
    /// contact's keys it stays as it is until they arrive.
    fn seal_outgoing(
        &mut self,
        id: i64,
        account: AccountId,
        contact: AccountId,
        kind: i64,
        payload: &[u8],
        expires: Time,
    ) -> Result<()> {
        let Some(ready) = self.seal_sending(account, contact, kind, payload, expires)? else {
            return Ok(());
        };
        self.db
            .prepare_cached(
                "UPDATE outgoing SET envelope = ?2, bytes = ?3, receipts = ?4 WHERE id = ?1",
            )?
            .execute(params![
                id,
                ready.envelope.0,
                &*ready.bytes,
                codec::encode(&Holders::default())
            ])?;
        self.queue(id, ready)
    }

    /// Puts a sealed sending into the queue of every node that it goes to.
    fn queue(&mut self, id: i64, ready: Ready) -> Result<()> {
        let Ready {
            envelope,
            bytes,
            seals,
            targets,
        } = ready;
        for node in targets {
            let outbox = self.queue_for(node, OUTBOX_ENVELOPE, id)?;
            let parcel = Parcelled {
                outbox,
                sending: id,
                id: envelope,
                bytes: bytes.clone(),
                seals: seals.clone(),
            };
            self.step.fresh.entry(node).or_default().push(parcel);
        }
        Ok(())
    }

    /// Seals a payload for a contact's record as known now; `None` where that is not possible yet.
    fn seal_sending(
        &mut self,
        account: AccountId,
        contact: AccountId,
        kind: i64,
        payload: &[u8],
        expires: Time,
    ) -> Result<Option<Ready>> {
        if !self.ready_to_seal(account, contact)? {
            return Ok(None);
        }
        let content_key = Secret(self.random());
        let nonce = self.nonce();
        let introduced = self.known_contact(account, contact)?.introduced;
        let own = self.own(&account)?;
        let epoch = own.record.certificate.epoch;
        let record = (introduced != epoch).then(|| Box::new(own.record.signed.clone()));
        let damaged = || Error::new(ErrorKind::Storage, "a stored sending is damaged");
        let payload = if kind == CONTENT {
            let letter = Letter {
                content: payload.to_vec().into(),
                key: key_commitment(&content_key),
            };
            Payload::Letter {
                epoch,
                record,
                letter: Signed::sign(&letter, &own.device),
            }
        } else {
            Payload::Entry {
                epoch,
                record,
                entry: codec::decode(payload).map_err(|_| damaged())?,
            }
        };
        let now = self.now;
        let entry = self.known_contact(account, contact)?;
        let (Some(device), Some(recovery)) = (
            entry.secrets.device_seal.clone(),
            entry.secrets.recovery_seal.clone(),
        ) else {
            return Ok(None);
        };
        let ratchet_message = match entry.sessions.encrypt(&content_key.0) {
            Ok(message) => message,
            Err(error) => {
                // The contact's device gave a key that cannot be used: begin anew with its prekeys.
                tracing::warn!(%contact, %error, "a session cannot be used");
                entry.sessions = PeerSessions::empty();
                self.touch(account, contact);
                self.ask_for_keys(account, contact)?;
                return Ok(None);
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
        let sealed = seal::seal(&sealing).or_else(|error| {
            // The longest texts leave no room for the record: without it, then.
            let payload = payload.clone().without_record().ok_or(error)?;
            seal::seal(&Sealing {
                payload: &payload,
                ..sealing
            })
        });
        let envelope = match sealed {
            Ok(envelope) => envelope,
            Err(error) => {
                // Texts and entries are bounded so that they fit; a record may have grown since.
                tracing::error!(%contact, %error, "something cannot be sealed");
                return Ok(None);
            }
        };
        let targets = targets(&entry.record);
        let bytes = Bytes(codec::encode(&envelope));
        self.touch_conversation(account, contact);
        Ok(Some(Ready {
            envelope: Envelope::id_of(&bytes),
            bytes,
            seals: vec![
                (device.seal.name, device.encapsulation),
                (recovery.seal.name, recovery.encapsulation),
            ],
            targets,
        }))
    }

    /// Whether keys, a session and today's seal keys are there; asks for keys where they are not.
    fn ready_to_seal(&mut self, account: AccountId, contact: AccountId) -> Result<bool> {
        if !self.is_level(&account) {
            return Ok(false);
        }
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
        let fresh = !agreed.is_empty();
        for (for_key, seal) in agreed {
            match for_key {
                SealFor::Device => entry.secrets.device_seal = Some(seal),
                SealFor::Recovery | SealFor::Archive => entry.secrets.recovery_seal = Some(seal),
            }
        }
        if fresh {
            self.touch(account, contact);
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
            self.seal_outgoing(id, account, contact, kind, &payload, expires)?;
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
            self.seal_outgoing(id, account, contact, kind, &payload, expires)?;
        }
        Ok(())
    }

    #[expect(clippy::type_complexity, reason = "one row of one query")]
    pub(super) fn sendings(
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

    /// Adds a message that people see. Returns its row.
    pub(super) fn insert_message(&mut self, new: &NewMessage<'_>) -> Result<i64> {
        self.db
            .prepare_cached(
                "INSERT INTO messages (account, contact, message, outgoing, kind, sequence, time,
                   content, payment, state, gap, envelope, epoch, volume, page, call)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
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
                new.envelope.map(|id| id.0),
                new.epoch,
                new.page.0,
                new.page.1,
                new.call
            ])?;
        Ok(self.db.last_insert_rowid())
    }
}

/// A row of the `messages` table.
pub(super) struct NewMessage<'a> {
    pub(super) account: AccountId,
    pub(super) contact: AccountId,
    pub(super) message: MessageId,
    pub(super) outgoing: bool,
    pub(super) kind: i64,
    pub(super) epoch: u64,
    /// Volume and page of the archive that have it.
    pub(super) page: (u64, u64),
    pub(super) sequence: u64,
    pub(super) time: Time,
    pub(super) content: &'a [u8],
    pub(super) payment: Option<[u8; 32]>,
    pub(super) state: State,
    pub(super) gap: u64,
    pub(super) envelope: Option<EnvelopeId>,
    /// The call that made it, if that had a key.
    pub(super) call: Option<i64>,
}
