//! Lines after a restore: the entries of the archive applied again, and `Resume` on each line before
//! anything else is signed there. The rules are in `pumasi_protocol::line`.

use pumasi_protocol::types::{AccountId, LineId};

use super::Engine;
use super::rebuilding::Model;
use crate::error::Result;

impl Engine {
    /// Applies what the archive has of all lines. Returns how many there are.
    pub(super) fn rebuild_lines(
        &mut self,
        account: AccountId,
        model: &mut Model,
        _complete: bool,
    ) -> Result<usize> {
        let mut lines = std::collections::BTreeSet::new();
        let mut entries: Vec<_> = std::mem::take(&mut model.entries).into_iter().collect();
        entries.sort_by_key(|(_, found)| (found.epoch, found.entry.sequence));
        for (hash, found) in entries {
            let (signed, entry) = (&found.signed, &found.entry);
            self.step.quiet = Some(found.place);
            let contact = if entry.author == account {
                entry.counterparty
            } else {
                entry.author
            };
            if self
                .line_with(account, contact, entry.unit.clone())
                .is_err()
            {
                continue;
            }
            lines.insert(entry.line);
            self.try_entry(account, entry, signed, hash, None)?;
        }
        self.step.quiet = Some((0, 0));
        for line in &lines {
            self.try_waiting(account, *line)?;
        }
        self.step.quiet = None;
        let count: Vec<LineId> = lines.into_iter().collect();
        Ok(count.len())
    }
}
