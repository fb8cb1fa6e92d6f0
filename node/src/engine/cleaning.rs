//! Dropping what is past its date, a bounded number of rows at once.

use pumasi_protocol::envelope::CapabilityId;
use pumasi_protocol::locator::LOCATOR_LIFE;
use pumasi_protocol::mailbox::{ERASE_AFTER, RETENTION_MAX};
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, SECOND};
use rusqlite::params;

use super::sets::Moved;
use super::statements::PRIVATE;
use super::{Engine, blob};
use crate::error::Result;

/// Rows that one round of cleaning drops at most, per table.
const CLEAN_ROWS: u32 = 500;
/// Who asked to be kept for has this long to list this node.
const AGREED_FOR: u64 = 60 * 60 * SECOND;
/// Ended mailboxes that one round of cleaning looks at.
const ENDED_AT_ONCE: u32 = 64;
/// Answers to calls are remembered this long.
const IDEMPOTENCY_LIFE: u64 = 30 * DAY;

impl Engine {
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
                    CapabilityId(capability),
                    size,
                );
            }
        }
        let before = |age: u64| now.saturating_sub(age);
        let drops: [(&str, u64); 12] = [
            (
                "DELETE FROM acted_on WHERE (account, message) IN
                   (SELECT account, message FROM acted_on WHERE time < ?1 LIMIT ?2)",
                before(RETENTION_MAX + 2 * DAY),
            ),
            (
                "DELETE FROM envelopes WHERE id IN
                   (SELECT id FROM envelopes
                    WHERE hidden IS NOT NULL AND covered = 1 AND hidden < ?1 LIMIT ?2)",
                before(ERASE_AFTER),
            ),
            (
                "DELETE FROM pages WHERE id IN
                   (SELECT id FROM pages WHERE hidden IS NOT NULL AND hidden < ?1 LIMIT ?2)",
                before(ERASE_AFTER),
            ),
            (
                "DELETE FROM locators WHERE name IN
                   (SELECT name FROM locators WHERE put < ?1 LIMIT ?2)",
                before(LOCATOR_LIFE),
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
                   (SELECT id FROM (SELECT id, until FROM receipts ORDER BY id LIMIT ?2)
                    WHERE until < ?1)",
                now,
            ),
            (
                "DELETE FROM receipts WHERE until < ?1 AND id IN
                   (SELECT id FROM receipts ORDER BY id LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM idempotency WHERE time < ?1 AND id IN
                   (SELECT id FROM idempotency ORDER BY id LIMIT ?2)",
                before(IDEMPOTENCY_LIFE),
            ),
            (
                "DELETE FROM nodes WHERE node IN
                   (SELECT node FROM nodes WHERE expires < ?1 LIMIT ?2)",
                now,
            ),
            (
                "DELETE FROM outbox WHERE kind = 0 AND item IN
                   (SELECT id FROM (SELECT id, expires FROM outgoing ORDER BY id LIMIT ?2)
                    WHERE expires < ?1)",
                now,
            ),
            (
                "DELETE FROM outgoing WHERE expires < ?1 AND id IN
                   (SELECT id FROM outgoing ORDER BY id LIMIT ?2)",
                now,
            ),
        ];
        for (sql, limit) in drops {
            self.db
                .prepare_cached(sql)?
                .execute(params![limit, CLEAN_ROWS])?;
        }
        self.clean_ended()?;
        self.clean_statements(before(RETENTION_MAX + 2 * DAY))?;
        self.trim_events()
    }

    /// Mailboxes whose owner has other keepers go when the last promise has ended: at once where nothing
    /// was taken, else when receipts signed on the last day are over. Their places are free again.
    fn clean_ended(&mut self) -> Result<()> {
        let ended: Vec<([u8; 32], u64)> = self
            .db
            .prepare_cached(
                "SELECT mailbox, ended FROM kept WHERE ended < ?1 ORDER BY ended LIMIT ?2",
            )?
            .query_map(
                params![self.now.0.saturating_sub(AGREED_FOR), ENDED_AT_ONCE],
                |row| Ok((blob(row, 0)?, row.get(1)?)),
            )?
            .collect::<rusqlite::Result<_>>()?;
        for (mailbox, since) in ended {
            let held = self.db.query_row(
                "SELECT EXISTS (SELECT 1 FROM pages WHERE mailbox = ?1)
                   OR EXISTS (SELECT 1 FROM envelopes WHERE mailbox = ?1 AND hidden IS NULL)",
                params![mailbox],
                |row| row.get::<_, bool>(0),
            )?;
            if held && since > self.now.0.saturating_sub(RETENTION_MAX) {
                continue;
            }
            for sql in [
                "DELETE FROM acknowledged WHERE mailbox = ?1",
                "DELETE FROM outbox WHERE kind = 1 AND item IN
                   (SELECT id FROM statements WHERE mailbox = ?1)",
                "DELETE FROM statements WHERE mailbox = ?1",
                "DELETE FROM capabilities WHERE mailbox = ?1",
                "DELETE FROM one_time_keys WHERE mailbox = ?1",
                "DELETE FROM encapsulations WHERE mailbox = ?1",
                "DELETE FROM envelopes WHERE mailbox = ?1",
                "DELETE FROM pages WHERE mailbox = ?1",
                "DELETE FROM volumes WHERE mailbox = ?1",
                "DELETE FROM kept WHERE mailbox = ?1",
            ] {
                self.db.prepare_cached(sql)?.execute(params![mailbox])?;
            }
            self.kept.remove(&AccountId(mailbox));
            self.volumes.retain(|(of, _), _| of.0 != mailbox);
            self.step.dirty_kept.remove(&AccountId(mailbox));
            self.due.publish_soon(self.now);
        }
        Ok(())
    }

    pub(super) fn clean_statements(&mut self, before: u64) -> Result<()> {
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
            if let Some(sets) = self.sets_in_memory(&AccountId(mailbox)) {
                sets.statement(Moved::Out, &hash);
            }
        }
        Ok(())
    }
}
