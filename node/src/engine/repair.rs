//! Making good: envelopes that cannot be opened, holes in a conversation.

use pumasi_protocol::codec;
use pumasi_protocol::envelope::{Body, Encapsulation, SealFor, SealName, Sealed};
use pumasi_protocol::identity::Phrase;
use pumasi_protocol::types::{AccountId, EnvelopeId, MessageId, SECOND, Time};
use rusqlite::params;

use super::incoming::RESET_MAX;
use super::sets::Moved;
use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};
use crate::ratchet::PeerSessions;
use crate::view::OpenedView;

/// A contact is asked to repair at most this often, in milliseconds.
const REPAIR_EVERY: u64 = 15 * SECOND;
/// Texts sent again on one request at most (see `Body::Resend`).
const RESEND_MAX: u64 = 256;

impl Engine {
    /// A text closed a hole: the next one shown after it has a smaller gap before it.
    pub(super) fn fill_gap(
        &mut self,
        account: AccountId,
        contact: AccountId,
        epoch: u64,
        sequence: u64,
    ) -> Result<()> {
        self.db
            .prepare_cached(
                "UPDATE messages SET gap = sequence - ?4 - 1
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND kind = 0 AND gap > 0
                   AND epoch = ?3
                   AND sequence = (SELECT min(sequence) FROM messages
                     WHERE account = ?1 AND contact = ?2 AND outgoing = 0 AND kind = 0
                       AND epoch = ?3 AND sequence > ?4)",
            )?
            .execute(params![account.0, contact.0, epoch, sequence])?;
        Ok(())
    }

    /// An envelope that this device cannot open stays: its recovery copy may be all there is.
    pub(super) fn keep_unopened(
        &mut self,
        (account, contact): (AccountId, AccountId),
        id: EnvelopeId,
        sealed: &Sealed,
        bytes: &[u8],
        seals: &[(SealName, Encapsulation)],
    ) -> Result<()> {
        self.store_own_envelope(account, id, sealed, bytes, seals)?;
        let named = self.due.unopened.entry((account, contact));
        named.or_default().push(id);
        Ok(())
    }

    /// Whether an envelope was sealed to an earlier device of an own account, by a sender that had not
    /// heard of this one: only the words open it.
    pub(super) fn for_earlier_device(
        &self,
        account: &AccountId,
        sealed: &Sealed,
        seals: &[(SealName, Encapsulation)],
    ) -> bool {
        let version = self.accounts.get(account).map(|own| own.record.version());
        version.is_some_and(|version| sealed.record < version)
            && seals.iter().any(|(name, seal)| {
                sealed.recovery_seal == Some(*name)
                    && seal.for_key == SealFor::Recovery
                    && seal.mailbox == *account
            })
    }

    /// Stores an envelope of an own mailbox with the encapsulations that open it. False when it was
    /// here already.
    pub(super) fn store_own_envelope(
        &mut self,
        mailbox: AccountId,
        id: EnvelopeId,
        sealed: &Sealed,
        bytes: &[u8],
        seals: &[(SealName, Encapsulation)],
    ) -> Result<bool> {
        let mut names = sealed.device_seal.0.to_vec();
        names.extend(sealed.recovery_seal.iter().flat_map(|name| name.0));
        // Kept here before and hidden, because an earlier device acknowledged it: its word may have
        // burned with it.
        let rows = self
            .db
            .prepare_cached(
                "INSERT INTO envelopes
                   (mailbox, envelope, created, expires, capability, seals, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (envelope) DO UPDATE SET hidden = NULL WHERE hidden IS NOT NULL",
            )?
            .execute(params![
                mailbox.0,
                id.0,
                sealed.created.0,
                sealed.expires.0,
                sealed.capability.0,
                names,
                bytes
            ])?;
        if rows > 0
            && let Some(sets) = self.sets_in_memory(&mailbox)
        {
            let size = bytes.len() as u64;
            sets.envelope(Moved::In, &id.0, sealed.capability, size);
        }
        for (name, encapsulation) in seals {
            if encapsulation.mailbox != mailbox {
                continue;
            }
            self.db
                .prepare_cached(
                    "INSERT INTO encapsulations (mailbox, name, expires, bytes)
                     VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET expires = max(expires, excluded.expires)",
                )?
                .execute(params![
                    mailbox.0,
                    name.0,
                    sealed.expires.0,
                    codec::encode(encapsulation)
                ])?;
        }
        Ok(rows > 0)
    }

    /// Opens what waits in an own mailbox by the account's words.
    pub(crate) fn open_with_words(
        &mut self,
        account: &AccountId,
        words: &str,
    ) -> Result<OpenedView> {
        let phrase = Phrase::parse(words).map_err(|error| {
            Error::invalid(format!("these are not the words of an account: {error}"))
        })?;
        self.may_sign(account)?;
        let root = phrase.keys();
        if root.account() != *account {
            return Err(Error::new(
                ErrorKind::Refused,
                "these are the words of another account",
            ));
        }
        let before = self.unopened(account)?;
        let unopened = self.open_by_phrase(*account, &root)? as u64;
        if self.due.own_sets.contains_key(account) {
            let sets = self.load_sets(account)?;
            self.due.own_sets.insert(*account, sets);
        }
        Ok(OpenedView {
            opened: before.saturating_sub(unopened),
            unopened,
        })
    }

    /// Envelopes of an own mailbox that could not be opened.
    pub(super) fn unopened(&self, account: &AccountId) -> Result<u64> {
        Ok(self
            .db
            .prepare_cached("SELECT count(*) FROM envelopes WHERE mailbox = ?1 AND hidden IS NULL")?
            .query_row(params![account.0], |row| row.get(0))?)
    }

    /// Begins a new session with a contact and says which envelopes could not be opened.
    pub(super) fn ask_reset(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
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
        let named = self.due.unopened.remove(&(account, contact));
        let mut unopened = named.unwrap_or_default();
        let rest = unopened.split_off(unopened.len().min(RESET_MAX));
        if !rest.is_empty() {
            self.due.unopened.insert((account, contact), rest);
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
            if !self.is_level(&pair.0) {
                continue;
            }
            self.due.resets.remove(&pair);
            self.ask_reset(pair.0, pair.1)?;
        }
        for pair in due(&self.due.holes) {
            if !self.is_level(&pair.0) {
                continue;
            }
            self.due.holes.remove(&pair);
            let (account, contact) = pair;
            let Some(entry) = self.contact(account, contact)? else {
                continue;
            };
            let Some((first, last)) = entry.chat.holes().first().copied() else {
                continue;
            };
            let last = last.min(first.saturating_add(RESEND_MAX - 1));
            let epoch = entry.chat.epoch();
            self.send_content(account, contact, Body::Resend { epoch, first, last })?;
            self.due.holes.insert(pair, now.plus(REPAIR_EVERY));
        }
        Ok(())
    }

    /// A contact misses texts: they are sealed again, unless they are still under way.
    pub(super) fn resend(
        &mut self,
        account: AccountId,
        contact: AccountId,
        epoch: u64,
        first: u64,
        last: u64,
    ) -> Result<()> {
        let epoch = epoch.min(pumasi_protocol::archive::EPOCH_MAX);
        let first = first.min(u64::from(u32::MAX));
        let last = last.min(first + RESEND_MAX - 1);
        let rows: Vec<([u8; 32], Vec<u8>)> = self
            .db
            .prepare_cached(
                "SELECT message, content FROM messages
                 WHERE account = ?1 AND contact = ?2 AND outgoing = 1 AND kind = 0
                   AND epoch = ?5 AND sequence BETWEEN ?3 AND ?4 ORDER BY sequence",
            )?
            .query_map(params![account.0, contact.0, first, last, epoch], |row| {
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
}
