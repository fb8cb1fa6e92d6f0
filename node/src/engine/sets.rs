//! What this node holds of a mailbox, in running digests and sums: derived from the rows once, then kept
//! up to date with them. The rows are the truth; nothing of this is stored.

use std::collections::BTreeMap;

use pumasi_protocol::envelope::CapabilityId;
use pumasi_protocol::mailbox::Usage;
use pumasi_protocol::reconcile::SetDigest;
use pumasi_protocol::types::{AccountId, EnvelopeId, Hash};
use rusqlite::params;

use super::{Engine, blob};
use crate::error::Result;

/// Running digests of a mailbox's sets, and what its inbox and its archive take up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sets {
    statements: SetDigest,
    statement_count: u64,
    envelopes: SetDigest,
    /// Envelopes that wait for their owner.
    pub(super) inbox: Usage,
    /// The same by capability; none stands here with nothing.
    shares: BTreeMap<CapabilityId, Usage>,
    pages: SetDigest,
    /// Pages that no segment stands for.
    pub(super) archive: Usage,
}

/// Which way something is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    In,
    Out,
}

impl Moved {
    fn apply(self, digest: &mut SetDigest, id: &[u8; 32]) {
        match self {
            Self::In => digest.add(id),
            Self::Out => digest.remove(id),
        }
    }

    fn count(self, usage: &mut Usage, size: u64) {
        match self {
            Self::In => {
                usage.items = usage.items.saturating_add(1);
                usage.bytes = usage.bytes.saturating_add(size);
            }
            Self::Out => {
                usage.items = usage.items.saturating_sub(1);
                usage.bytes = usage.bytes.saturating_sub(size);
            }
        }
    }
}

impl Sets {
    /// A statement that is not for one sender only.
    pub(super) fn statement(&mut self, moved: Moved, hash: &[u8; 32]) {
        moved.apply(&mut self.statements, hash);
        self.statement_count = match moved {
            Moved::In => self.statement_count.saturating_add(1),
            Moved::Out => self.statement_count.saturating_sub(1),
        };
    }

    /// An envelope of `size` bytes that is not hidden.
    pub(super) fn envelope(
        &mut self,
        moved: Moved,
        id: &[u8; 32],
        capability: CapabilityId,
        size: u64,
    ) {
        moved.apply(&mut self.envelopes, id);
        moved.count(&mut self.inbox, size);
        let share = self.shares.entry(capability).or_default();
        moved.count(share, size);
        if *share == Usage::default() {
            self.shares.remove(&capability);
        }
    }

    /// A page of `size` bytes that is not hidden.
    pub(super) fn page(&mut self, moved: Moved, id: &[u8; 32], size: u64) {
        moved.apply(&mut self.pages, id);
        moved.count(&mut self.archive, size);
    }

    /// What of the inbox came by a capability.
    pub(super) fn share(&self, capability: &CapabilityId) -> Usage {
        self.shares.get(capability).copied().unwrap_or_default()
    }

    /// Digests of statements, envelopes and pages, as two nodes compare them.
    pub(super) fn hashes(&self) -> [Hash; 3] {
        [
            self.statements.hash(self.statement_count),
            self.envelopes.hash(self.inbox.items),
            self.pages.hash(self.archive.items),
        ]
    }
}

impl Engine {
    /// What is held of a mailbox that is kept, one's own, or being restored: `None` for any other.
    pub(super) fn sets(&mut self, mailbox: &AccountId) -> Result<Option<&Sets>> {
        let own = self.accounts.contains_key(mailbox);
        if !own && self.kept_mut(mailbox)?.is_some() {
            return Ok(self.kept.get(mailbox).map(|kept| &kept.sets));
        }
        if (own || self.restoring.contains_key(mailbox)) && !self.due.own_sets.contains_key(mailbox)
        {
            let sets = self.load_sets(mailbox)?;
            self.due.own_sets.insert(*mailbox, sets);
        }
        Ok(self.due.own_sets.get(mailbox))
    }

    /// The sets that follow a row which has just changed. `None`: they are not in memory, and when they
    /// are needed they are read from the rows, this one included.
    pub(super) fn sets_in_memory(&mut self, mailbox: &AccountId) -> Option<&mut Sets> {
        match self.kept.get_mut(mailbox) {
            Some(kept) => Some(&mut kept.sets),
            None => self.due.own_sets.get_mut(mailbox),
        }
    }

    /// The sets of a mailbox as its rows have them now.
    pub(super) fn load_sets(&self, mailbox: &AccountId) -> Result<Sets> {
        let mut sets = Sets::default();
        let mut query = self
            .db
            .prepare_cached("SELECT hash FROM statements WHERE mailbox = ?1 AND lasting < 2")?;
        let mut rows = query.query(params![mailbox.0])?;
        while let Some(row) = rows.next()? {
            sets.statement(Moved::In, &blob(row, 0)?);
        }
        drop(rows);
        let mut query = self.db.prepare_cached(
            "SELECT envelope, capability, length(bytes) FROM envelopes
             WHERE mailbox = ?1 AND hidden IS NULL",
        )?;
        let mut rows = query.query(params![mailbox.0])?;
        while let Some(row) = rows.next()? {
            let capability = CapabilityId(row.get(1)?);
            sets.envelope(Moved::In, &blob(row, 0)?, capability, row.get(2)?);
        }
        drop(rows);
        let mut query = self.db.prepare_cached(
            "SELECT page, length(bytes) FROM pages WHERE mailbox = ?1 AND hidden IS NULL",
        )?;
        let mut rows = query.query(params![mailbox.0])?;
        while let Some(row) = rows.next()? {
            sets.page(Moved::In, &blob(row, 0)?, row.get(1)?);
        }
        Ok(sets)
    }

    /// An envelope left an inbox: its owner has it, or its date is past.
    pub(super) fn left_inbox(
        &mut self,
        mailbox: &AccountId,
        id: &EnvelopeId,
        capability: CapabilityId,
        size: u64,
    ) {
        if let Some(sets) = self.sets_in_memory(mailbox) {
            sets.envelope(Moved::Out, &id.0, capability, size);
        }
    }
}
