//! Contacts: meeting by invitation, records, names, blocking. The sealing state of a contact is kept
//! with it, because both change together.

use pumasi_protocol::archive::{CheckedVolume, FORMER_MAX, Granted, Record};
use pumasi_protocol::chat::Chat;
use pumasi_protocol::codec::{self, Wire};
use pumasi_protocol::crypto::{Secret, Signed};
use pumasi_protocol::envelope::{Body, Capability, CapabilityId, Encapsulation};
use pumasi_protocol::identity::{DeviceCertificate, fingerprint};
use pumasi_protocol::invitation::{DAYS, Invitation};
use pumasi_protocol::mailbox::Action;
use pumasi_protocol::record::{CheckedRecord, KEEPERS, KeyBundle};
use pumasi_protocol::seal::SealKey;
use pumasi_protocol::types::{AccountId, DAY, DeviceKey, Hash, Time};
use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::accounts::checked_name;
use super::segmenting::{DELETED_CONTACT, DELETED_INVITATION};
use super::types::with_encoded;
use super::{Engine, blob, one, secret_row};
use crate::error::{Error, ErrorKind, Result};
use crate::ratchet::PeerSessions;
use crate::read;
use crate::view::{ContactView, InvitationView};

/// Contacts of one account at most.
const CONTACTS_MAX: u64 = 10_000;
/// Open invitations of one account at most.
const INVITATIONS_MAX: u64 = 256;

/// A seal key that this account agreed with a contact for one day.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DaySeal {
    pub(super) day: u64,
    pub(super) seal: SealKey,
    pub(super) encapsulation: Encapsulation,
}

/// What of a contact is sealed at rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ContactSecrets {
    /// What this account writes to the contact with.
    pub(super) write: Capability,
    /// What the contact writes to this account with.
    pub(super) granted: CapabilityId,
    /// The invitation's capability, until the contact uses its own.
    pub(super) invited_by: Option<CapabilityId>,
    pub(super) device_seal: Option<DaySeal>,
    pub(super) recovery_seal: Option<DaySeal>,
}

impl Wire for ContactSecrets {
    const NAME: &'static str = "secrets of a contact";
    const MAX: usize = 8 * 1024;
}

/// A contact of an own account.
#[derive(Debug)]
pub(super) struct Contact {
    pub(super) id: AccountId,
    pub(super) name: String,
    pub(super) active: bool,
    pub(super) record: CheckedRecord,
    pub(super) keys: Option<(Signed<KeyBundle>, KeyBundle)>,
    pub(super) secrets: ContactSecrets,
    pub(super) chat: Chat,
    pub(super) sessions: PeerSessions,
    /// Epoch of the own device that it is known to know.
    pub(super) introduced: u64,
    /// Certificates of its earlier devices, oldest first.
    pub(super) former: Vec<Signed<DeviceCertificate>>,
    pub(super) verified: bool,
    pub(super) blocked: bool,
    pub(super) added: Time,
    /// When keys were last asked for, so that a silent contact is not asked at every step.
    pub(super) keys_asked: Time,
    /// When a reset or resend was last asked of it.
    pub(super) repair_asked: Time,
    /// Hash of what the archive has of it.
    pub(super) archived: Option<Hash>,
}

/// The certificates of earlier devices, as stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Former(pub(super) Vec<Signed<DeviceCertificate>>);

impl Wire for Former {
    const NAME: &'static str = "certificates of earlier devices";
    const MAX: usize = FORMER_MAX * 256;
}

impl Engine {
    /// A contact, from memory or the store.
    pub(super) fn contact(
        &mut self,
        account: AccountId,
        contact: AccountId,
    ) -> Result<Option<&mut Contact>> {
        if !self.contacts.contains_key(&(account, contact)) {
            let Some(loaded) = self.load_contact(account, contact)? else {
                return Ok(None);
            };
            self.contacts.insert((account, contact), loaded);
        }
        Ok(self.contacts.get_mut(&(account, contact)))
    }

    /// The same, where it must exist.
    pub(super) fn known_contact(
        &mut self,
        account: AccountId,
        contact: AccountId,
    ) -> Result<&mut Contact> {
        self.contact(account, contact)?
            .ok_or_else(|| Error::not_found(format!("{contact} is not a contact")))
    }

    fn load_contact(&self, account: AccountId, contact: AccountId) -> Result<Option<Contact>> {
        struct Row {
            name: String,
            active: bool,
            record: Vec<u8>,
            keys: Option<Vec<u8>>,
            secrets: Vec<u8>,
            chat: Vec<u8>,
            sessions: Option<Vec<u8>>,
            verified: bool,
            blocked: bool,
            added: u64,
            former: Vec<u8>,
            introduced: u64,
        }
        let row = one(self
            .db
            .prepare_cached(
                "SELECT c.name, c.active, c.record, c.keys, c.secrets, t.chat, t.sessions,
                   c.verified, c.blocked, c.added, c.former, c.introduced
                 FROM contacts c JOIN conversations t USING (account, contact)
                 WHERE c.account = ?1 AND c.contact = ?2",
            )?
            .query_row(params![account.0, contact.0], |row| {
                Ok(Row {
                    name: row.get(0)?,
                    active: row.get(1)?,
                    record: row.get(2)?,
                    keys: row.get(3)?,
                    secrets: row.get(4)?,
                    chat: row.get(5)?,
                    sessions: row.get(6)?,
                    verified: row.get(7)?,
                    blocked: row.get(8)?,
                    added: row.get(9)?,
                    former: row.get(10)?,
                    introduced: row.get(11)?,
                })
            }))?;
        let Some(row) = row else { return Ok(None) };
        let damaged = |what: &str| {
            Error::new(
                ErrorKind::Storage,
                format!("{what} of contact {} in the database is damaged", row.name),
            )
        };
        let name_of_row = secret_row(&account.0, &contact.0);
        let secrets = self.vault.open("contacts", &name_of_row, &row.secrets)?;
        let sessions = match &row.sessions {
            None => PeerSessions::empty(),
            Some(sealed) => {
                let plain = self.vault.open("sessions", &name_of_row, sealed)?;
                PeerSessions::from_bytes(&plain).map_err(|_| damaged("the session state"))?
            }
        };
        let keys = match &row.keys {
            None => None,
            Some(bytes) => {
                let signed: Signed<KeyBundle> =
                    codec::decode(bytes).map_err(|_| damaged("the key bundle"))?;
                let bundle = signed.unverified().map_err(|_| damaged("the key bundle"))?;
                Some((signed, bundle))
            }
        };
        let record = codec::decode(&row.record).map_err(|_| damaged("the record"))?;
        Ok(Some(Contact {
            id: contact,
            name: row.name.clone(),
            active: row.active,
            record: CheckedRecord::check(record).map_err(|_| damaged("the record"))?,
            keys,
            secrets: codec::decode(&secrets).map_err(|_| damaged("the capabilities"))?,
            chat: codec::decode(&row.chat).map_err(|_| damaged("the conversation"))?,
            sessions,
            introduced: row.introduced,
            former: codec::decode::<Former>(&row.former)
                .map_err(|_| damaged("the earlier devices"))?
                .0,
            verified: row.verified,
            blocked: row.blocked,
            added: Time(row.added),
            keys_asked: Time(0),
            repair_asked: Time(0),
            archived: None,
        }))
    }

    /// Marks the conversation with a contact as changed: written back at the end of the step.
    pub(super) fn touch_conversation(&mut self, account: AccountId, contact: AccountId) {
        self.step.dirty_conversations.insert((account, contact));
    }

    /// Marks a contact as changed, its conversation included: written back at the end of the step.
    pub(super) fn touch(&mut self, account: AccountId, contact: AccountId) {
        self.step.dirty_contacts.insert((account, contact));
    }

    /// Writes back what changes with every message.
    pub(super) fn store_conversation(
        &mut self,
        account: AccountId,
        contact: AccountId,
    ) -> Result<()> {
        let row = secret_row(&account.0, &contact.0);
        let nonce = self.nonce();
        let Some(entry) = self.contacts.get(&(account, contact)) else {
            return Ok(());
        };
        let sessions = if entry.sessions.is_empty() {
            None
        } else {
            let plain = entry.sessions.to_bytes();
            Some(self.vault.seal("sessions", &row, nonce, &plain))
        };
        self.db
            .prepare_cached(
                "INSERT INTO conversations (account, contact, chat, sessions)
                 VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (account, contact) DO UPDATE SET chat = ?3, sessions = ?4",
            )?
            .execute(params![
                account.0,
                contact.0,
                codec::encode(&entry.chat),
                sessions
            ])?;
        Ok(())
    }

    pub(super) fn store_contact(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
        let row = secret_row(&account.0, &contact.0);
        let secret_nonce = self.nonce();
        let Some(entry) = self.contacts.get(&(account, contact)) else {
            return Ok(());
        };
        let secrets = with_encoded(&entry.secrets, |plain| {
            self.vault.seal("contacts", &row, secret_nonce, plain)
        });
        self.db
            .prepare_cached(
                "INSERT INTO contacts
                   (account, contact, name, active, record, keys, secrets, verified, blocked, added,
                    former, introduced)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT (account, contact) DO UPDATE SET
                   name = ?3, active = ?4, record = ?5, keys = ?6, secrets = ?7, verified = ?8,
                   blocked = ?9, former = ?11, introduced = ?12",
            )?
            .execute(params![
                account.0,
                contact.0,
                entry.name,
                entry.active,
                codec::encode(&entry.record.signed),
                entry.keys.as_ref().map(|(signed, _)| codec::encode(signed)),
                secrets,
                entry.verified,
                entry.blocked,
                entry.added.0,
                codec::encode(&Former(entry.former.clone())),
                entry.introduced
            ])?;
        self.store_conversation(account, contact)
    }

    /// The contacts of an account that answered and are not blocked.
    pub(super) fn active_contacts(&self, account: &AccountId) -> Result<Vec<AccountId>> {
        let list = self
            .db
            .prepare_cached(
                "SELECT contact FROM contacts WHERE account = ?1 AND active = 1 AND blocked = 0",
            )?
            .query_map(params![account.0], |row| blob(row, 0))?
            .map(|id| id.map(AccountId))
            .collect::<rusqlite::Result<_>>()?;
        Ok(list)
    }

    /// The contact that a person means: by name, id, or the first 8 or more characters of the id.
    pub(crate) fn find_contact(&self, account: &AccountId, who: &str) -> Result<AccountId> {
        read::find_contact(&self.db, account, who)
    }

    /// A new invitation of an account.
    pub(crate) fn invite(
        &mut self,
        account: &AccountId,
        name: Option<&str>,
    ) -> Result<InvitationView> {
        let name = name.map(checked_name).transpose()?;
        self.may_sign(account)?;
        let own = self.own(account)?;
        let record = own.record.signed.clone();
        let keepers = own.record.record.keepers.len();
        let open: u64 = self.db.query_row(
            "SELECT count(*) FROM invitations WHERE account = ?1 AND used_by IS NULL AND expires > ?2",
            params![account.0, self.now.0],
            |row| row.get(0),
        )?;
        if open >= INVITATIONS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{INVITATIONS_MAX} invitations are open: wait until some are used or end"),
            ));
        }
        let capability = Capability(Secret(self.random()));
        let expires = self.now.plus(DAYS * DAY);
        self.db.execute(
            "INSERT INTO invitations (account, capability, name, expires) VALUES (?1, ?2, ?3, ?4)",
            params![account.0, capability.id().0, name, expires.0],
        )?;
        self.grant(*account, &capability)?;
        let granted = Granted {
            capability: capability.id(),
            tag_key: capability.tag_key(),
        };
        let (_, page) = self.archive(
            *account,
            Record::Invitation {
                granted,
                name,
                expires,
            },
        );
        self.db.execute(
            "UPDATE invitations SET page = ?3 WHERE account = ?1 AND capability = ?2",
            params![account.0, capability.id().0, page],
        )?;
        let invitation = Invitation {
            record,
            capability,
            expires,
        };
        let warning = (keepers < KEEPERS).then(|| {
            let held = match keepers {
                0 => "no keeper holds your mailbox yet".to_owned(),
                some => format!("only {some} of {KEEPERS} keepers hold your mailbox yet"),
            };
            format!("{held}: an answer may have to wait until this node is online")
        });
        Ok(InvitationView {
            link: invitation.link(),
            qr: invitation.qr_text(),
            fingerprint: fingerprint(account),
            expires: read::rfc3339(expires),
            warning,
        })
    }

    /// Lets whoever holds a capability write to an own mailbox.
    pub(super) fn grant(&mut self, account: AccountId, capability: &Capability) -> Result<()> {
        let action = Action::Grant {
            capability: capability.id(),
            tag_key: capability.tag_key(),
        };
        self.state(account, action).map(|_| ())
    }

    /// Becomes a contact of whoever made an invitation.
    pub(crate) fn add_contact(
        &mut self,
        account: &AccountId,
        link: &str,
        name: Option<&str>,
    ) -> Result<ContactView> {
        let name = name.map(checked_name).transpose()?;
        let (invitation, record) =
            Invitation::parse(link, self.now).map_err(|error| Error::invalid(error.to_string()))?;
        self.may_sign(account)?;
        let own = self.own(account)?;
        let (own_record, own_keys) = (own.record.signed.clone(), own.keys.clone());
        let contact = record.account();
        if contact == *account {
            return Err(Error::invalid(
                "this is your own invitation: give it to the person you want to meet",
            ));
        }
        if let Some(known) = self.contact(*account, contact)? {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{} is a contact already", known.name),
            ));
        }
        let count: u64 = self.db.query_row(
            "SELECT count(*) FROM contacts WHERE account = ?1",
            params![account.0],
            |row| row.get(0),
        )?;
        if count >= CONTACTS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("an account has at most {CONTACTS_MAX} contacts"),
            ));
        }
        let name = match name {
            Some(name) => {
                self.check_name_free(account, &name, None)?;
                name
            }
            None => self.free_name(account, &record)?,
        };
        let granted = Capability(Secret(self.random()));
        let epoch = self.own(account)?.record.certificate.epoch;
        let entry = Contact {
            id: contact,
            name,
            active: false,
            record,
            keys: None,
            secrets: ContactSecrets {
                write: invitation.capability,
                granted: granted.id(),
                invited_by: None,
                device_seal: None,
                recovery_seal: None,
            },
            chat: Chat::default(),
            sessions: PeerSessions::empty(),
            introduced: epoch,
            former: vec![],
            verified: false,
            blocked: false,
            added: self.now,
            keys_asked: Time(0),
            repair_asked: Time(0),
            archived: None,
        };
        self.contacts.insert((*account, contact), entry);
        self.db.execute(
            "DELETE FROM deleted WHERE account = ?1 AND id = ?2",
            params![account.0, contact.0],
        )?;
        self.store_contact(*account, contact)?;
        self.touch(*account, contact);
        self.grant(*account, &granted)?;
        let body = Body::Hello {
            record: Box::new(own_record),
            keys: Box::new(own_keys),
            capability: granted,
        };
        self.send_content(*account, contact, body)?;
        let view = self.contact_view(account, contact)?;
        self.event(Some(*account), "contact.added", &view)?;
        Ok(view)
    }

    fn check_name_free(
        &self,
        account: &AccountId,
        name: &str,
        except: Option<AccountId>,
    ) -> Result<()> {
        let taken: Option<[u8; 32]> = one(self.db.query_row(
            "SELECT contact FROM contacts WHERE account = ?1 AND name = ?2",
            params![account.0, name],
            |row| row.get(0),
        ))?;
        match taken {
            Some(id) if Some(AccountId(id)) != except => Err(Error::new(
                ErrorKind::Exists,
                format!("a contact is called `{name}` already: choose another name"),
            )),
            _ => Ok(()),
        }
    }

    /// The name a new contact gives itself, with a number behind it where that is taken.
    fn free_name(&self, account: &AccountId, record: &CheckedRecord) -> Result<String> {
        let base = match checked_name(&record.record.name) {
            Ok(name) => name,
            Err(_) => record.account().short(),
        };
        for number in 1..=CONTACTS_MAX + 1 {
            let name = if number == 1 {
                base.clone()
            } else {
                format!("{base} {number}")
            };
            if self.check_name_free(account, &name, None).is_ok() {
                return Ok(name);
            }
        }
        Ok(record.account().to_string())
    }

    pub(super) fn contact_view(
        &mut self,
        account: &AccountId,
        contact: AccountId,
    ) -> Result<ContactView> {
        let entry = self.known_contact(*account, contact)?;
        Ok(ContactView {
            id: entry.id.to_string(),
            name: entry.name.clone(),
            own_name: entry.record.record.name.clone(),
            fingerprint: fingerprint(&entry.id),
            state: if entry.active { "active" } else { "invited" }.into(),
            verified: entry.verified,
            blocked: entry.blocked,
            node: entry.record.record.home.node.to_string(),
            keepers: entry.record.record.keepers.len(),
            added: read::rfc3339(entry.added),
        })
    }

    /// Gives a contact another name.
    pub(crate) fn rename_contact(
        &mut self,
        account: &AccountId,
        who: &str,
        name: &str,
    ) -> Result<ContactView> {
        let name = checked_name(name)?;
        self.may_sign(account)?;
        let contact = self.find_contact(account, who)?;
        self.check_name_free(account, &name, Some(contact))?;
        self.known_contact(*account, contact)?.name = name;
        self.changed_contact(account, contact)
    }

    /// Notes that the fingerprint was compared, if it is the right one.
    pub(crate) fn verify_contact(
        &mut self,
        account: &AccountId,
        who: &str,
        given: &str,
    ) -> Result<ContactView> {
        self.may_sign(account)?;
        let contact = self.find_contact(account, who)?;
        let digits = |text: &str| {
            text.chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
        };
        if digits(given) != digits(&fingerprint(&contact)) {
            return Err(Error::new(
                ErrorKind::Refused,
                "the fingerprint is another one: somebody may stand between you; compare it again, face to face",
            ));
        }
        self.known_contact(*account, contact)?.verified = true;
        self.changed_contact(account, contact)
    }

    fn changed_contact(&mut self, account: &AccountId, contact: AccountId) -> Result<ContactView> {
        self.store_contact(*account, contact)?;
        self.touch(*account, contact);
        let view = self.contact_view(account, contact)?;
        self.event(Some(*account), "contact.changed", &view)?;
        Ok(view)
    }

    /// Blocks a contact at the keepers, or lets it write again.
    pub(crate) fn block_contact(
        &mut self,
        account: &AccountId,
        who: &str,
        blocked: bool,
    ) -> Result<ContactView> {
        self.may_sign(account)?;
        let contact = self.find_contact(account, who)?;
        let fresh = Capability(Secret(self.random()));
        let entry = self.known_contact(*account, contact)?;
        if entry.blocked == blocked {
            return self.contact_view(account, contact);
        }
        entry.blocked = blocked;
        let old = [Some(entry.secrets.granted), entry.secrets.invited_by.take()];
        if blocked {
            for capability in old.into_iter().flatten() {
                self.state(*account, Action::Revoke { capability })?;
            }
        } else {
            entry.secrets.granted = fresh.id();
            self.grant(*account, &fresh)?;
            let record = Box::new(self.own(account)?.record.signed.clone());
            self.send_content(
                *account,
                contact,
                Body::Welcome {
                    record,
                    capability: fresh,
                },
            )?;
        }
        self.changed_contact(account, contact)
    }

    /// Ends with a contact: nothing owed may be left. Its messages go too.
    pub(crate) fn remove_contact(&mut self, account: &AccountId, who: &str) -> Result<()> {
        self.may_sign(account)?;
        let contact = self.find_contact(account, who)?;
        if let Some(line) = self.open_line(account, contact)? {
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "something is still owed in {line}: settle it before you remove the contact"
                ),
            ));
        }
        let entry = self.known_contact(*account, contact)?;
        let old = [Some(entry.secrets.granted), entry.secrets.invited_by];
        for capability in old.into_iter().flatten() {
            self.state(*account, Action::Revoke { capability })?;
        }
        self.contacts.remove(&(*account, contact));
        self.step.dirty_contacts.remove(&(*account, contact));
        self.step.dirty_conversations.remove(&(*account, contact));
        for sql in [
            "DELETE FROM outbox WHERE kind = 0 AND item IN
               (SELECT id FROM outgoing WHERE account = ?1 AND contact = ?2)",
            "DELETE FROM outgoing WHERE account = ?1 AND contact = ?2",
            "DELETE FROM messages WHERE account = ?1 AND contact = ?2",
            "DELETE FROM conversations WHERE account = ?1 AND contact = ?2",
            "DELETE FROM contacts WHERE account = ?1 AND contact = ?2",
        ] {
            self.db.execute(sql, params![account.0, contact.0])?;
        }
        let (_, page) = self.archive(*account, Record::ContactRemoved(contact));
        self.remember_deleted(*account, &contact.0, DELETED_CONTACT, page)
    }

    /// Someone came with an invitation.
    pub(super) fn receive_hello(
        &mut self,
        account: AccountId,
        used: CapabilityId,
        record: CheckedRecord,
        keys: Signed<KeyBundle>,
        capability: Capability,
        sessions: PeerSessions,
    ) -> Result<bool> {
        let contact = record.account();
        let Ok(bundle) = KeyBundle::open_for(&keys, &record) else {
            return Ok(false);
        };
        let fresh = Capability(Secret(self.random()));
        let epoch = self.own(&account)?.record.certificate.epoch;
        if let Some(known) = self.contact(account, contact)? {
            if known.blocked {
                return Ok(false);
            }
            let newer = record.replaces(&known.record);
            known.secrets.write = capability;
            known.secrets.granted = fresh.id();
            known.active = true;
            known.sessions.adopt(sessions);
            if newer || known.keys.is_none() {
                known.record = record;
                known.keys = Some((keys, bundle));
            }
        } else {
            let invitation: Option<(Option<String>, Option<[u8; 32]>, u64)> =
                one(self.db.query_row(
                    "SELECT name, used_by, expires FROM invitations
                     WHERE account = ?1 AND capability = ?2",
                    params![account.0, used.0],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
                ))?;
            let Some((name, used_by, expires)) = invitation else {
                return Ok(false);
            };
            let other = used_by.is_some_and(|id| AccountId(id) != contact);
            if other || expires <= self.now.0 {
                return Ok(false);
            }
            self.db.execute(
                "UPDATE invitations SET used_by = ?3 WHERE account = ?1 AND capability = ?2",
                params![account.0, used.0, contact.0],
            )?;
            let name = match name {
                Some(name) if self.check_name_free(&account, &name, None).is_ok() => name,
                _ => self.free_name(&account, &record)?,
            };
            let entry = Contact {
                id: contact,
                name,
                active: true,
                record,
                keys: Some((keys, bundle)),
                secrets: ContactSecrets {
                    write: capability,
                    granted: fresh.id(),
                    invited_by: Some(used),
                    device_seal: None,
                    recovery_seal: None,
                },
                chat: Chat::default(),
                sessions,
                introduced: epoch,
                former: vec![],
                verified: false,
                blocked: false,
                added: self.now,
                keys_asked: Time(0),
                repair_asked: Time(0),
                archived: None,
            };
            self.contacts.insert((account, contact), entry);
            self.db.execute(
                "DELETE FROM deleted WHERE account = ?1 AND id = ?2",
                params![account.0, contact.0],
            )?;
        }
        self.store_contact(account, contact)?;
        self.touch(account, contact);
        self.grant(account, &fresh)?;
        let record = Box::new(self.own(&account)?.record.signed.clone());
        self.send_content(
            account,
            contact,
            Body::Welcome {
                record,
                capability: fresh,
            },
        )?;
        let view = self.contact_view(&account, contact)?;
        self.event(Some(account), "contact.added", &view)?;
        Ok(true)
    }

    /// The inviter answered.
    pub(super) fn receive_welcome(
        &mut self,
        account: AccountId,
        contact: AccountId,
        record: CheckedRecord,
        capability: Capability,
    ) -> Result<()> {
        let entry = self.known_contact(account, contact)?;
        let other = entry.secrets.write != capability;
        entry.secrets.write = capability;
        entry.active = true;
        self.touch(account, contact);
        self.newer_record(account, record)?;
        if other {
            self.reseal(account, contact)?;
        }
        let view = self.contact_view(&account, contact)?;
        self.event(Some(account), "contact.changed", &view)?;
        Ok(())
    }

    /// A contact uses the capability it was given: the invitation's ends.
    pub(super) fn used_own_capability(
        &mut self,
        account: AccountId,
        contact: AccountId,
        used: CapabilityId,
    ) -> Result<()> {
        let entry = self.known_contact(account, contact)?;
        if entry.secrets.granted != used {
            return Ok(());
        }
        if let Some(capability) = entry.secrets.invited_by.take() {
            self.touch(account, contact);
            self.state(account, Action::Revoke { capability })?;
            let (_, page) = self.archive(account, Record::InvitationEnded(capability));
            self.remember_deleted(account, &capability.0, DELETED_INVITATION, page)?;
            self.db.execute(
                "DELETE FROM invitations WHERE account = ?1 AND capability = ?2",
                params![account.0, capability.0],
            )?;
        }
        Ok(())
    }

    /// The device of an account, own or a contact's, whose certificate has this hash: the one it has
    /// now or an earlier one. With its epoch.
    pub(super) fn device_of(
        &mut self,
        account: AccountId,
        author: AccountId,
        certificate: Hash,
    ) -> Result<Option<(u64, DeviceKey)>> {
        if author == account {
            let own = self.own(&account)?;
            if own.certificate() == certificate {
                let now = &own.record.certificate;
                return Ok(Some((now.epoch, now.device)));
            }
            return self.earlier_own_device(&account, certificate);
        }
        let contact = self.known_contact(account, author)?;
        if contact.record.record.certificate.hash() == certificate {
            let now = &contact.record.certificate;
            return Ok(Some((now.epoch, now.device)));
        }
        let former = contact
            .former
            .iter()
            .find(|former| former.hash() == certificate)
            .and_then(|former| DeviceCertificate::open(former).ok())
            .filter(|former| former.account == author);
        Ok(former.map(|former| (former.epoch, former.device)))
    }

    /// An earlier device of an own account, by the head of its archive volume.
    fn earlier_own_device(
        &self,
        account: &AccountId,
        certificate: Hash,
    ) -> Result<Option<(u64, DeviceKey)>> {
        let bytes: Option<Vec<u8>> = one(self
            .db
            .prepare_cached("SELECT bytes FROM volumes WHERE mailbox = ?1 AND certificate = ?2")?
            .query_row(params![account.0, certificate.0], |row| row.get(0)))?;
        let volume = bytes
            .and_then(|bytes| codec::decode(&bytes).ok())
            .and_then(|signed| CheckedVolume::check(signed).ok());
        Ok(volume.map(|volume| (volume.epoch, volume.device)))
    }

    /// A newer record of a contact: what is under way is sealed again for it.
    pub(super) fn newer_record(&mut self, account: AccountId, record: CheckedRecord) -> Result<()> {
        let contact = record.account();
        let Some(entry) = self.contact(account, contact)? else {
            return Ok(());
        };
        if !record.replaces(&entry.record) {
            return Ok(());
        }
        let other_device = record.device() != entry.record.device();
        let other_keys = record.record.keys != entry.record.record.keys;
        if other_device {
            entry.former.push(entry.record.record.certificate.clone());
            let beyond = entry.former.len().saturating_sub(FORMER_MAX);
            entry.former.drain(..beyond);
        }
        entry.record = record;
        if other_device || other_keys {
            entry.keys = None;
            entry.secrets.device_seal = None;
            entry.secrets.recovery_seal = None;
        }
        if other_device {
            entry.sessions = PeerSessions::empty();
        }
        self.touch(account, contact);
        self.reseal(account, contact)?;
        let view = self.contact_view(&account, contact)?;
        self.event(Some(account), "contact.changed", &view)
    }

    /// A newer record of anybody: for every own account whose contact it is.
    pub(super) fn newer_record_everywhere(&mut self, record: &CheckedRecord) -> Result<()> {
        let accounts: Vec<AccountId> = self.accounts.keys().copied().collect();
        for account in accounts {
            self.newer_record(account, record.clone())?;
        }
        Ok(())
    }
}
