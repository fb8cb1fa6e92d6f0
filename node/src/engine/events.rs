//! The node's one event sequence: written in the transaction of what it tells of.

use pumasi_protocol::types::{AccountId, DAY};
use rusqlite::params;
use serde::Serialize;

use super::Engine;
use crate::error::{Error, ErrorKind, Result};

/// Events are kept this long.
const EVENTS_LIFE: u64 = 7 * DAY;
/// Events are kept at most this many.
const EVENTS_MAX: u64 = 1_000_000;

impl Engine {
    pub(super) fn load_last_event(&mut self) -> Result<()> {
        self.last_event =
            self.db
                .query_row("SELECT coalesce(max(seq), 0) FROM events", [], |row| {
                    row.get(0)
                })?;
        Ok(())
    }

    /// The highest sequence number.
    pub(crate) fn last_event(&self) -> u64 {
        self.last_event
    }

    /// Adds an event.
    pub(super) fn event<T: Serialize>(
        &mut self,
        account: Option<AccountId>,
        kind: &str,
        data: &T,
    ) -> Result<()> {
        if self.step.quiet.is_some() {
            return Ok(());
        }
        let data = serde_json::to_string(data)
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        self.db
            .prepare_cached(
                "INSERT INTO events (time, account, kind, data) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![self.now.0, account.map(|id| id.0), kind, data])?;
        self.last_event = u64::try_from(self.db.last_insert_rowid()).unwrap_or(self.last_event);
        self.step.events = true;
        Ok(())
    }

    /// Drops events past their time, a bounded number at once.
    pub(super) fn trim_events(&mut self) -> Result<()> {
        let oldest = self.now.0.saturating_sub(EVENTS_LIFE);
        let least = self.last_event.saturating_sub(EVENTS_MAX);
        self.db
            .prepare_cached(
                "DELETE FROM events WHERE seq < (SELECT min(seq) FROM events) + 1000
                   AND (seq <= ?2 OR time < ?1)",
            )?
            .execute(params![oldest, least])?;
        Ok(())
    }
}
