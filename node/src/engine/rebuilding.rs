//! The last step of a restore: archive pages and inbox envelopes become an account again, in one
//! transaction. Where they came from is in `restoring`; what is said to contacts about lines in
//! `resuming`.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::archive::{
    ArchivedContact, ArchivedText, Call, CheckedVolume, Granted, Mark, Page, PageKeys, Record, open,
};
use pumasi_protocol::chat::{Arrival, Chat, Position};
use pumasi_protocol::codec;
use pumasi_protocol::crypto::{Secret, Signed};
use pumasi_protocol::delivery::State;
use pumasi_protocol::envelope::{
    Body, Capability, CapabilityId, Content, Encapsulation, Envelope, Payload, SealFor,
};
use pumasi_protocol::identity::RootKeys;
use pumasi_protocol::line::Entry;
use pumasi_protocol::mailbox::{Action, IDS_MAX};
use pumasi_protocol::placement::safe_copies_for;
use pumasi_protocol::record::CheckedRecord;
use pumasi_protocol::seal;
use pumasi_protocol::types::{AccountId, EnvelopeId, Hash, MessageId, Time};
use rusqlite::params;

use super::accounts::sign_record;
use super::contacts::{Contact, ContactSecrets};
use super::outgoing::{CONTENT, NewMessage};
use super::segmenting::{DELETED_CONTACT, DELETED_INVITATION, DELETED_MESSAGE};
use super::types::Own;
use super::{Engine, blob};
use crate::error::Result;
use crate::ratchet::PeerSessions;
use crate::read;
use crate::view::RestoreReport;

/// Sentences about what is missing, at most.
const MISSING_MAX: usize = 32;

/// What the pages of an archive come to.
#[derive(Default)]
pub(super) struct Model {
    name: Option<String>,
    contacts: BTreeMap<AccountId, ArchivedContact>,
    removed: BTreeSet<AccountId>,
    invitations: BTreeMap<[u8; 16], (Granted, Option<String>, Time)>,
    texts: BTreeMap<MessageId, FoundText>,
    pub(super) entries: BTreeMap<Hash, FoundEntry>,
    marks: BTreeMap<MessageId, Mark>,
    deleted: BTreeSet<MessageId>,
    ended: BTreeSet<[u8; 16]>,
    /// What could not be read, in sentences.
    missing: Vec<String>,
}

/// A text as an archive page has it.
struct FoundText {
    text: ArchivedText,
    content: Content,
    /// Volume and page.
    place: (u64, u64),
}

/// A line entry as an archive page has it.
pub(super) struct FoundEntry {
    pub(super) signed: Signed<Entry>,
    pub(super) entry: Entry,
    /// Epoch of the device that signed it.
    pub(super) epoch: u64,
    pub(super) call: Option<Call>,
    /// Volume and page.
    pub(super) place: (u64, u64),
}

impl Model {
    pub(super) fn miss(&mut self, sentence: String) {
        if self.missing.len() < MISSING_MAX {
            self.missing.push(sentence);
        }
    }

    /// Takes a record in. Records come in the order in which they were written; a segment may tell
    /// again what is known.
    fn take(&mut self, record: Record, place: (u64, u64)) {
        match record {
            Record::Contact(contact) => {
                let Ok(record) = CheckedRecord::check(contact.record.clone()) else {
                    return;
                };
                self.removed.remove(&record.account());
                self.contacts.insert(record.account(), *contact);
            }
            Record::ContactRemoved(contact) => {
                self.contacts.remove(&contact);
                self.removed.insert(contact);
                self.texts.retain(|_, found| {
                    found.content.sender != contact && found.content.recipient != contact
                });
            }
            Record::Invitation {
                granted,
                name,
                expires,
            } => {
                self.invitations
                    .insert(granted.capability.0, (granted, name, expires));
            }
            Record::InvitationEnded(capability) => {
                self.invitations.remove(&capability.0);
                self.ended.insert(capability.0);
            }
            Record::Text(text) => {
                let id = Content::id_of(&text.content);
                if let Some(mark) = text.mark {
                    self.mark(id, mark);
                }
                if let Ok(content) = codec::decode::<Content>(&text.content) {
                    let text = *text;
                    self.texts.insert(
                        id,
                        FoundText {
                            text,
                            content,
                            place,
                        },
                    );
                }
            }
            Record::Entry { entry, epoch, call } => {
                if let Ok(fields) = entry.unverified() {
                    self.entries.insert(
                        entry.hash(),
                        FoundEntry {
                            signed: *entry,
                            entry: fields,
                            epoch,
                            call,
                            place,
                        },
                    );
                }
            }
            Record::Marks { mark, messages } => {
                for message in messages {
                    self.mark(message, mark);
                }
            }
            Record::Deleted(messages) => self.deleted.extend(messages),
            Record::Name(name) => self.name = Some(name),
        }
    }

    fn mark(&mut self, message: MessageId, mark: Mark) {
        let slot = self.marks.entry(message).or_insert(mark);
        *slot = mark.max(*slot);
    }
}

impl Engine {
    /// Everything is read: the account lives here from now on.
    pub(super) fn finish_restore(&mut self, account: AccountId, complete: bool) -> Result<()> {
        let Some(mut restoring) = self.restoring.remove(&account) else {
            return Ok(());
        };
        let Some(mut own) = restoring.device.take() else {
            return Ok(());
        };
        let began = restoring.began;
        let mut model = self.read_pages(&account, &restoring.root)?;
        if !complete {
            model.miss(
                "fewer keepers could be read than needed: something that was safe may be missing, and new debts wait for the other side of each line"
                    .into(),
            );
        }
        if !complete {
            // Keepers that could not be read may be gone for good, and waiting for them would leave the
            // account without repair. What is lost with them was said; the rest begins from here.
            let mut record = own.record.record.clone();
            let read = restoring.read_nodes();
            record
                .keepers
                .retain(|keeper| read.contains(&keeper.place.node));
            for keeper in &mut record.keepers {
                keeper.joining = true;
            }
            record.safe_copies = safe_copies_for(record.keepers.len());
            record.version = record.version.saturating_add(1);
            own.record = sign_record(&record, &own.device)?;
        }
        own.name = self.name_here(restoring.name.clone().or(model.name.take()), &own);
        if self.kept.contains_key(&account) || self.kept_mut(&account)?.is_some() {
            self.stop_keeping(&account)?;
        }
        self.due.own_sets.remove(&account);
        let name = own.name.clone();
        self.insert_account(own)?;
        self.db.execute(
            "DELETE FROM capabilities WHERE mailbox = ?1",
            params![account.0],
        )?;
        self.archive(account, Record::Name(name.clone()));
        self.rebuild_contacts(account, &model)?;
        self.rebuild_texts(account, &model)?;
        self.archive_again(account, &model)?;
        let lines = self.rebuild_lines(account, &mut model, complete)?;
        self.mark_ious(account, &model)?;
        let unopened = self.open_by_phrase(account, &restoring.root)?;
        if unopened > 0 {
            model.miss(format!(
                "{unopened} envelopes in the mailbox could not be opened, even with the words: their senders are asked again"
            ));
        }
        self.resume_lines(account)?;
        let sent_again = self.go_on(account, &model)?;
        let sets = self.load_sets(&account)?;
        self.due.own_sets.insert(account, sets);
        let messages: usize = self.db.query_row(
            "SELECT count(*) FROM messages WHERE account = ?1",
            params![account.0],
            |row| row.get(0),
        )?;
        let report = RestoreReport {
            name,
            complete,
            contacts: model.contacts.len(),
            messages,
            lines,
            sent_again,
            missing: model.missing,
        };
        self.event(Some(account), "account.restored", &report)?;
        let keepers = restoring.keepers_now();
        self.restore_ended(account, began, keepers, Ok(report));
        Ok(())
    }

    /// What the account is called here: as wanted or before, with a number where that is taken.
    fn name_here(&self, wanted: Option<String>, own: &Own) -> String {
        let base = wanted.unwrap_or_else(|| own.name.clone());
        let taken = |name: &str| self.accounts.values().any(|own| own.name == name);
        (1_u32..)
            .map(|number| match number {
                1 => base.clone(),
                more => format!("{base} {more}"),
            })
            .find(|name| !taken(name))
            .unwrap_or(base)
    }

    /// This node kept the mailbox itself: now it is its own.
    fn stop_keeping(&mut self, account: &AccountId) -> Result<()> {
        self.kept.remove(account);
        self.step.dirty_kept.remove(account);
        for sql in [
            "DELETE FROM kept WHERE mailbox = ?1",
            "DELETE FROM one_time_keys WHERE mailbox = ?1",
            "DELETE FROM acknowledged WHERE mailbox = ?1",
            "DELETE FROM outbox WHERE kind = 1 AND item IN
               (SELECT id FROM statements WHERE mailbox = ?1)",
            "DELETE FROM statements WHERE mailbox = ?1",
            "UPDATE envelopes SET hidden = NULL WHERE mailbox = ?1 AND covered = 0",
        ] {
            self.db.execute(sql, params![account.0])?;
        }
        Ok(())
    }

    /// Opens all pages with the phrase, oldest first.
    fn read_pages(&self, account: &AccountId, root: &RootKeys) -> Result<Model> {
        let mut model = Model::default();
        let heads: Vec<Vec<u8>> = self
            .db
            .prepare("SELECT bytes FROM volumes WHERE mailbox = ?1 ORDER BY epoch, certificate")?
            .query_map(params![account.0], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for head in heads {
            let volume = codec::decode(&head)
                .ok()
                .and_then(|signed| CheckedVolume::check(signed).ok());
            let Some(volume) = volume else { continue };
            let key = volume
                .signed
                .unverified()
                .ok()
                .and_then(|head| seal::receive(&head.key, &root.recovery).ok());
            let Some((_, link)) = key else {
                model.miss(format!(
                    "the archive of the device of epoch {} cannot be opened with these words",
                    volume.epoch
                ));
                continue;
            };
            self.read_volume(&volume, PageKeys::first(link), &mut model)?;
        }
        Ok(model)
    }

    fn read_volume(
        &self,
        volume: &CheckedVolume,
        mut keys: PageKeys,
        model: &mut Model,
    ) -> Result<()> {
        let mut query = self.db.prepare(
            "SELECT bytes FROM pages WHERE mailbox = ?1 AND epoch = ?2 AND hidden IS NULL
             ORDER BY number",
        )?;
        let mut rows = query.query(params![volume.account.0, volume.epoch])?;
        let mut numbers = BTreeSet::new();
        let mut runs = Vec::new();
        let mut unreadable = 0_u64;
        while let Some(row) = rows.next()? {
            let bytes: Vec<u8> = row.get(0)?;
            let page = codec::decode::<Signed<Page>>(&bytes)
                .ok()
                .and_then(|signed| volume.page(&signed).ok());
            let Some(page) = page else {
                unreadable += 1;
                continue;
            };
            while keys.number < page.number {
                keys = keys.next();
            }
            numbers.insert(page.number);
            runs.extend(page.replaces.filter(|run| run.epoch == volume.epoch));
            match open(&page, &keys) {
                Ok(records) => {
                    let place = (volume.epoch, page.number);
                    for record in records {
                        model.take(record, place);
                    }
                }
                Err(error) => {
                    unreadable += 1;
                    tracing::warn!(page = page.number, %error, "an archive page cannot be read");
                }
            }
        }
        if unreadable > 0 {
            model.miss(format!(
                "{unreadable} archive pages of the device of epoch {} cannot be read",
                volume.epoch
            ));
        }
        let last = numbers.last().copied().unwrap_or(0);
        let mut lost = 0_u64;
        let mut next = 1;
        for number in numbers.iter().copied().chain([last + 1]) {
            for gap in next..number {
                let run = runs.iter().find(|run| run.first <= gap && gap <= run.last);
                if run.is_none() {
                    lost += 1;
                }
                if lost > 1_000_000 {
                    break;
                }
            }
            next = number + 1;
        }
        if lost > 0 {
            model.miss(format!(
                "{lost} steps of the device of epoch {} were written and not yet safe when it was lost: no keeper that was read has them",
                volume.epoch
            ));
        }
        Ok(())
    }

    fn rebuild_contacts(&mut self, account: AccountId, model: &Model) -> Result<()> {
        for (id, archived) in &model.contacts {
            let Ok(record) = CheckedRecord::check(archived.record.clone()) else {
                continue;
            };
            self.hint(&record);
            let mut entry = Contact {
                id: *id,
                name: archived.name.clone(),
                active: archived.active,
                record,
                keys: None,
                secrets: ContactSecrets {
                    write: archived.write.clone(),
                    granted: archived.granted.capability,
                    invited_by: archived
                        .invited_by
                        .as_ref()
                        .map(|granted| granted.capability),
                    device_seal: None,
                    recovery_seal: None,
                },
                chat: Chat::default(),
                sessions: PeerSessions::empty(),
                introduced: 0,
                former: archived.former.clone(),
                verified: archived.verified,
                blocked: archived.blocked,
                added: archived.added,
                keys_asked: Time(0),
                repair_asked: Time(0),
                archived: None,
            };
            self.replay_chat(account, *id, model, &mut entry.chat);
            self.contacts.insert((account, *id), entry);
            self.store_contact(account, *id)?;
            self.touch(account, *id);
            let granted = [Some(&archived.granted), archived.invited_by.as_ref()];
            for granted in granted.into_iter().flatten() {
                let action = if archived.blocked {
                    Action::Revoke {
                        capability: granted.capability,
                    }
                } else {
                    Action::Grant {
                        capability: granted.capability,
                        tag_key: granted.tag_key.clone(),
                    }
                };
                self.state(account, action)?;
            }
        }
        for (granted, name, expires) in model.invitations.values() {
            if *expires <= self.now {
                continue;
            }
            let used_by = model.contacts.iter().find(|(_, contact)| {
                contact
                    .invited_by
                    .as_ref()
                    .is_some_and(|by| by.capability == granted.capability)
            });
            self.db.execute(
                "INSERT OR REPLACE INTO invitations (account, capability, name, used_by, expires)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    account.0,
                    granted.capability.0,
                    name,
                    used_by.map(|(id, _)| id.0),
                    expires.0
                ],
            )?;
            if used_by.is_none() {
                self.state(
                    account,
                    Action::Grant {
                        capability: granted.capability,
                        tag_key: granted.tag_key.clone(),
                    },
                )?;
            }
        }
        Ok(())
    }

    /// What of the other side's texts has come, as it was known before.
    fn replay_chat(&self, account: AccountId, contact: AccountId, model: &Model, chat: &mut Chat) {
        let mut texts: Vec<(u64, u64, Time, MessageId, &Content)> = model
            .texts
            .iter()
            .filter(|(_, found)| {
                found.content.sender == contact || found.content.recipient == contact
            })
            .filter_map(|(id, found)| match &found.content.body {
                Body::Text {
                    epoch, sequence, ..
                } => Some((*epoch, *sequence, found.text.shown, *id, &found.content)),
                _ => None,
            })
            .collect();
        texts.sort_unstable_by_key(|(epoch, sequence, _, id, _)| (*epoch, *sequence, *id));
        for (epoch, sequence, shown, id, content) in texts {
            if content.sender == account {
                chat.seen(content.time);
                continue;
            }
            let at = Position {
                id,
                epoch,
                sequence,
                time: shown,
            };
            if let Body::Text { heads, .. } = &content.body {
                let _: Arrival = chat.receive(&at, heads, self.now);
            }
        }
    }

    fn rebuild_texts(&mut self, account: AccountId, model: &Model) -> Result<()> {
        for (id, found) in &model.texts {
            let FoundText {
                text,
                content,
                place,
            } = found;
            let outgoing = content.sender == account;
            let contact = if outgoing {
                content.recipient
            } else {
                content.sender
            };
            if model.deleted.contains(id) || !model.contacts.contains_key(&contact) {
                continue;
            }
            let Body::Text {
                epoch, sequence, ..
            } = &content.body
            else {
                continue;
            };
            let mark = model.marks.get(id).copied();
            let call = match &text.call {
                Some(call) => self.restore_call(account, "message", call, &id.0)?,
                None => None,
            };
            let row = self.insert_message(&NewMessage {
                account,
                contact,
                message: *id,
                outgoing,
                kind: read::TEXT,
                epoch: *epoch,
                page: *place,
                sequence: *sequence,
                time: text.shown,
                content: &text.content,
                payment: None,
                state: state_of(outgoing, mark),
                gap: 0,
                envelope: None,
                call,
            })?;
            if outgoing && mark.is_some() {
                // It was proven once; the proofs are gone with the old device.
                self.db
                    .prepare_cached("UPDATE messages SET safe = 1 WHERE id = ?1")?
                    .execute(params![row])?;
            }
        }
        Ok(())
    }

    /// How far IOUs had come, as the archive knows it.
    fn mark_ious(&mut self, account: AccountId, model: &Model) -> Result<()> {
        for (message, mark) in &model.marks {
            self.db
                .prepare_cached(
                    "UPDATE messages SET state = max(state, ?3), safe = 1
                     WHERE account = ?1 AND message = ?2 AND kind = 1 AND outgoing = 1",
                )?
                .execute(params![
                    account.0,
                    message.0,
                    state_of(true, Some(*mark)).code()
                ])?;
        }
        // Of those received: what keepers gave back is safe there.
        let volume = self.own(&account)?.archive.volume.epoch;
        self.db.execute(
            "UPDATE messages SET safe = 1
             WHERE account = ?1 AND kind = 1 AND outgoing = 0 AND volume BETWEEN 1 AND ?2",
            params![account.0, volume.saturating_sub(1)],
        )?;
        Ok(())
    }

    /// What the new device says again in its own volume: small, and then true wherever old volumes
    /// are tidied away.
    fn archive_again(&mut self, account: AccountId, model: &Model) -> Result<()> {
        for (message, mark) in &model.marks {
            let own_mark = model
                .texts
                .get(message)
                .is_some_and(|found| found.text.mark == Some(*mark));
            if !own_mark {
                self.archive_mark(account, *mark, *message);
            }
        }
        let deleted: Vec<MessageId> = model.deleted.iter().copied().collect();
        for messages in deleted.chunks(IDS_MAX) {
            let (_, page) = self.archive(account, Record::Deleted(messages.to_vec()));
            for message in messages {
                self.remember_deleted(account, &message.0, DELETED_MESSAGE, page)?;
            }
        }
        for contact in &model.removed {
            let (_, page) = self.archive(account, Record::ContactRemoved(*contact));
            self.remember_deleted(account, &contact.0, DELETED_CONTACT, page)?;
        }
        for capability in &model.ended {
            let record = Record::InvitationEnded(CapabilityId(*capability));
            let (_, page) = self.archive(account, record);
            self.remember_deleted(account, capability, DELETED_INVITATION, page)?;
        }
        for (granted, name, expires) in model.invitations.values() {
            let record = Record::Invitation {
                granted: granted.clone(),
                name: name.clone(),
                expires: *expires,
            };
            let (_, page) = self.archive(account, record);
            self.db.execute(
                "UPDATE invitations SET page = ?3 WHERE account = ?1 AND capability = ?2",
                params![account.0, granted.capability.0, page],
            )?;
        }
        Ok(())
    }

    /// Remembers a call of an earlier device. Returns its row, unless its key is known already.
    pub(super) fn restore_call(
        &mut self,
        account: AccountId,
        scope: &str,
        call: &Call,
        result: &[u8; 32],
    ) -> Result<Option<i64>> {
        let rows = self
            .db
            .prepare_cached(
                "INSERT INTO idempotency (account, scope, key, request, result, time)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                account.0,
                scope,
                call.key,
                call.request.0,
                result,
                self.now.0
            ])?;
        Ok((rows > 0).then(|| self.db.last_insert_rowid()))
    }

    /// Opens what waits in the mailbox by the recovery copies. Returns how many cannot be opened.
    pub(super) fn open_by_phrase(&mut self, account: AccountId, root: &RootKeys) -> Result<usize> {
        type Waiting = (i64, [u8; 32], Vec<u8>, Vec<u8>);
        let rows: Vec<Waiting> = self
            .db
            .prepare(
                "SELECT id, envelope, bytes, seals FROM envelopes
                 WHERE mailbox = ?1 AND hidden IS NULL ORDER BY created, id",
            )?
            .query_map(params![account.0], |row| {
                Ok((row.get(0)?, blob(row, 1)?, row.get(2)?, row.get(3)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut unopened = 0;
        let mut keys: BTreeMap<[u8; 16], Option<(AccountId, Secret)>> = BTreeMap::new();
        for (row, id, bytes, names) in rows {
            let Ok(envelope) = codec::decode::<Envelope>(&bytes) else {
                continue;
            };
            let opened = envelope.sealed.recovery_seal.and_then(|name| {
                keys.entry(name.0)
                    .or_insert_with(|| {
                        let seals = self.stored_seals(&account, &names).ok()?;
                        let seal = seals.into_iter().find(|seal: &Encapsulation| {
                            seal.name() == name && seal.for_key == SealFor::Recovery
                        })?;
                        seal::receive(&seal, &root.recovery).ok()
                    })
                    .clone()
            });
            let payload = opened.and_then(|(sender, key)| {
                let content_key = seal::open_recovery(&envelope.sealed, &key).ok()?;
                let payload = seal::open_body(&envelope.sealed, &content_key).ok()?;
                Some((sender, content_key, payload))
            });
            let Some((sender, content_key, payload)) = payload else {
                unopened += 1;
                continue;
            };
            let id = EnvelopeId(id);
            self.take_by_phrase(account, sender, id, &envelope, payload, &content_key)?;
            self.db
                .prepare_cached("DELETE FROM envelopes WHERE id = ?1")?
                .execute(params![row])?;
            self.covered(account, id);
            self.step
                .delivered
                .entry((account, sender))
                .or_default()
                .push(id);
        }
        Ok(unopened)
    }

    fn take_by_phrase(
        &mut self,
        account: AccountId,
        sender: AccountId,
        id: EnvelopeId,
        envelope: &Envelope,
        payload: Payload,
        content_key: &Secret,
    ) -> Result<()> {
        let capability = envelope.sealed.capability;
        if self.contact(account, sender)?.is_some() {
            self.take_payload(account, sender, id, capability, payload, content_key)?;
            return Ok(());
        }
        if let Some((
            message,
            Body::Hello {
                record,
                keys,
                capability: theirs,
            },
        )) = self.open_letter_of_stranger(account, sender, payload, content_key)
            && let Ok(record) = CheckedRecord::check(*record)
            && record.account() == sender
        {
            self.first_time(account, message)?;
            let sessions = PeerSessions::empty();
            self.receive_hello(account, capability, record, *keys, theirs, sessions)?;
        }
        Ok(())
    }

    /// Tells contacts of the new device, and sends again what may not have arrived.
    fn go_on(&mut self, account: AccountId, model: &Model) -> Result<usize> {
        let own = self.own(&account)?;
        let record = own.record.clone();
        let keys = own.keys.clone();
        let contacts: Vec<(AccountId, bool)> = model
            .contacts
            .iter()
            .filter(|(_, contact)| !contact.blocked)
            .map(|(id, contact)| (*id, contact.active))
            .collect();
        for (contact, active) in contacts {
            let body = if active {
                Body::Record(Box::new(record.signed.clone()))
            } else {
                // It never answered: introduce yourself again.
                let capability = Capability(Secret(self.random()));
                self.grant(account, &capability)?;
                self.known_contact(account, contact)?.secrets.granted = capability.id();
                Body::Hello {
                    record: Box::new(record.signed.clone()),
                    keys: Box::new(keys.clone()),
                    capability,
                }
            };
            self.send_content(account, contact, body)?;
        }
        let mut again: Vec<(Time, u64, MessageId, AccountId, Vec<u8>)> = model
            .texts
            .iter()
            .filter(|(id, found)| {
                found.content.sender == account
                    && !model.deleted.contains(id)
                    && model.contacts.contains_key(&found.content.recipient)
                    && model.marks.get(id).copied() < Some(Mark::Delivered)
            })
            .map(|(id, found)| {
                (
                    found.content.time,
                    0,
                    *id,
                    found.content.recipient,
                    found.text.content.0.clone(),
                )
            })
            .collect();
        again.sort_unstable();
        let count = again.len();
        for (_, _, message, contact, bytes) in again {
            self.dispatch(account, contact, message, CONTENT, bytes)?;
        }
        self.share(&record);
        self.due.keepers_now();
        self.due.locate_soon(self.now);
        for keeper in &record.record.keepers {
            self.tell_keeper(&account, keeper.place.node)?;
            self.compare_at(account, keeper.place.node, self.now.plus(50));
        }
        Ok(count)
    }
}

/// The state that a mark stands for.
fn state_of(outgoing: bool, mark: Option<Mark>) -> State {
    match (outgoing, mark) {
        (_, Some(Mark::Read)) => State::Read,
        (true, Some(Mark::Delivered)) | (false, _) => State::Delivered,
        (true, Some(Mark::Safe)) => State::Safe,
        (true, None) => State::Saved,
    }
}
