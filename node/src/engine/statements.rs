//! What owners say about their mailboxes: storing, applying, and acknowledgements to own accounts.

use pumasi_protocol::codec::{self};
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::envelope::CapabilityId;
use pumasi_protocol::mailbox::{
    Action, CAPABILITIES_MAX, CLOCK_AHEAD_MAX, RETENTION_MAX, Statement,
};
use pumasi_protocol::types::{AccountId, EnvelopeId, Hash, NodeId};
use pumasi_protocol::wire::Frame;
use rusqlite::params;

use super::sets::Moved;
use super::{Engine, blob, one};
use crate::error::Result;

/// `lasting` column of statements: dropped after their time.
const PASSING: i64 = 0;
/// Kept for ever.
const LASTING: i64 = 1;
/// For one sender only; keepers never see it.
pub(super) const PRIVATE: i64 = 2;

impl Engine {
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
        self.note_soon(from, noted);
        Ok(())
    }

    /// False when it cannot be judged yet, because the account's newer record is missing.
    pub(super) fn take_statement(
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
        let writers: Vec<AccountId> = self
            .db
            .prepare_cached("SELECT account FROM contacts WHERE contact = ?1")?
            .query_map(params![account.0], |row| blob(row, 0))?
            .map(|id| id.map(AccountId))
            .collect::<rusqlite::Result<_>>()?;
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
        if lasting(&statement.action) != PRIVATE
            && let Some(sets) = self.sets_in_memory(&mailbox)
        {
            sets.statement(Moved::In, &hash.0);
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

    pub(super) fn revoke(&mut self, mailbox: &AccountId, capability: &CapabilityId) -> Result<()> {
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
    pub(super) fn acknowledge(
        &mut self,
        mailbox: &AccountId,
        id: &EnvelopeId,
        statement: i64,
    ) -> Result<()> {
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
        self.left_inbox(mailbox, id, CapabilityId(capability), size);
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
}

/// How long a statement is kept.
const fn lasting(action: &Action) -> i64 {
    match action {
        Action::Delivered { .. } => PASSING,
        Action::Read { .. } => PRIVATE,
        Action::Grant { .. } | Action::Revoke { .. } => LASTING,
    }
}
