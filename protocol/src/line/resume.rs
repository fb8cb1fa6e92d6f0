//! Going on with a line after a restore: what a new device says about the chains before its own, and
//! what each end then lacks. Not here: reading the archive, sending.

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Rank};
use super::entry::{Adopted, Entry, MAX_ADOPTED, Operation, Seen, chain_id};
use super::propose::{Refusal, Stamp};
use super::side::{Side, adopt};
use super::{Line, MAX_CHAINS};
use crate::types::{AccountId, Hash};

/// What a restored account knows about its own restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restore {
    /// The certificate of the new device: its chain begins with a `Resume`.
    pub(super) certificate: Hash,
    /// New debt waits until the other side has answered that `Resume`.
    pub(super) waiting: bool,
    /// All that the other side knows of earlier devices is known here: what they accepted, too.
    pub(super) heard: bool,
}

/// Entries of one chain: on all its branches, from one sequence to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Who signed them.
    pub author: AccountId,
    /// Hash of the certificate of the device that signed them.
    pub certificate: Hash,
    /// The id of the chain, see [`chain_id`].
    pub chain: Hash,
    /// The first sequence, from 1.
    pub from: u64,
    /// The last sequence, at least `from`.
    pub to: u64,
}

impl Line {
    /// Says that this account was restored from its words and that `certificate` is its new device's.
    /// The line's next own entry must then be a `Resume`, even where no earlier entry is known. Call it
    /// on every line known from the archive, and on every new line that a once restored account opens:
    /// it may have been forgotten. `incomplete`: fewer keepers than needed could be read; new debt then
    /// waits until the other side has answered the `Resume`. Store the line afterwards.
    pub fn mark_restored(&mut self, certificate: Hash, incomplete: bool) {
        self.restore = Some(Restore {
            certificate,
            waiting: incomplete,
            heard: false,
        });
    }

    /// Whether I may decline or waive: after a restore not before the other side has told what it knows of
    /// my earlier devices. What they accepted and I forgot would be lost, since a decline is final.
    #[must_use]
    pub fn may_refuse(&self) -> bool {
        self.restore.is_none_or(|restore| restore.heard)
    }

    /// Whether this account is known to have been restored: see [`Self::mark_restored`].
    #[must_use]
    pub const fn was_restored(&self) -> bool {
        self.restore.is_some()
    }

    /// Whether new debt of mine waits: for my `Resume`, or, after an incomplete restore, for the other
    /// side's answer to it.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.restore.is_some_and(|restore| {
            restore.waiting || self.mine.rank_of(restore.certificate).is_none()
        })
    }

    /// Takes the other side's view of my chains (its [`Self::holds`] of me), an answer to my `Resume`
    /// that is no entry. The wait of an incomplete restore ends when it has seen the `Resume` and
    /// everything it names is known here, and I may refuse again. An entry of the other side that has
    /// seen the `Resume` ends the wait, too.
    pub fn answered(&mut self, view: &[Adopted]) {
        let known = |one: &Adopted| {
            let rank = self.mine.rank_of(one.certificate);
            let chain = rank.and_then(|rank| self.mine.chains.get(&rank));
            chain.is_some_and(|chain| chain.top() >= one.sequence)
        };
        if let Some(mut restore) = self.restore
            && view
                .iter()
                .any(|one| one.certificate == restore.certificate)
            && view.iter().all(known)
        {
            restore.waiting = false;
            restore.heard = true;
            self.restore = Some(restore);
        }
    }

    /// The same by what an entry of the other side has seen.
    pub(super) fn answered_by(&mut self, seen: &Seen) {
        if let Some(restore) = &mut self.restore
            && restore.waiting
            && chain_id(self.id, self.me, restore.certificate) == seen.chain
        {
            restore.waiting = false;
        }
    }

    /// Whether [`Self::propose_resume`] has something to say: the device has not begun on this line and
    /// must begin with a `Resume`, or more of its predecessors' entries became known. Ask after each
    /// applied entry of one's own account, and before anything else is signed.
    #[must_use]
    pub fn resume_due(&self, stamp: Stamp) -> bool {
        self.propose_resume(stamp).is_ok()
    }

    /// Says what is known of the chains of my earlier devices, as first entry of a new device and again
    /// whenever more is known.
    ///
    /// # Errors
    /// [`Refusal::NothingToResume`] when it would say nothing new, [`Refusal::Replaced`],
    /// [`Refusal::TooManyDevices`] or [`Refusal::Exhausted`].
    pub fn propose_resume(&self, stamp: Stamp) -> Result<Entry, Refusal> {
        let begun = self.mine.rank_of(stamp.certificate);
        let rank = begun.unwrap_or(stamp.rank());
        let chains = self.mine.adoptable(rank);
        let due = match begun {
            None => self.restore.is_some() || !self.mine.chains.is_empty(),
            Some(_) => {
                let mut adopted = self.mine.adopted.clone();
                for one in &chains {
                    let named = adopted.entry(one.certificate).or_default();
                    adopt(named, one.sequence, one.hash, true);
                }
                adopted != self.mine.adopted
            }
        };
        // First whether it may sign at all: a replaced device is told so.
        let entry = self.draft(stamp, Operation::Resume { chains })?;
        if !due {
            return Err(Refusal::NothingToResume);
        }
        if begun.is_none() && self.mine.chains.len() >= MAX_CHAINS {
            return Err(Refusal::TooManyDevices);
        }
        Ok(entry)
    }

    /// The ends of all chains of an author as they are known here, ascending. Sent to the other side, it
    /// is the view that [`Self::answered`] takes.
    #[must_use]
    pub fn holds(&self, author: AccountId) -> Vec<Adopted> {
        let mut ends: Vec<_> = self
            .side(author)
            .into_iter()
            .flat_map(|side| side.chains.iter())
            .flat_map(|(rank, chain)| ends(*rank, chain))
            .collect();
        ends.sort_unstable();
        ends
    }

    /// What the other side lacks after a `Resume` of its was applied here: entries of mine after the
    /// one that it had seen, and its own old entries beyond those that it named, which stand because
    /// they were here in time. Load and send them; entries that it has are harmless.
    #[must_use]
    pub fn after_resume(&self, resume: &Entry) -> Vec<Span> {
        let Operation::Resume { chains } = &resume.operation else {
            return Vec::new();
        };
        let Some(rank) = self.theirs.rank_of(resume.certificate) else {
            return Vec::new();
        };
        if resume.author != self.other {
            return Vec::new();
        }
        let mut spans = Vec::new();
        let seen = resume.seen.and_then(|seen| {
            let rank = self.mine.rank_of_chain(self.id, self.me, seen.chain)?;
            Some((rank, seen.sequence))
        });
        for (mine, chain) in &self.mine.chains {
            let from = match seen {
                // It has seen a later chain of mine; what that names of this one, it asks for.
                Some((seen, _)) if *mine < seen => continue,
                Some((seen, sequence)) if *mine == seen => sequence.saturating_add(1),
                _ => 1,
            };
            spans.extend(self.span(self.me, *mine, chain, from));
        }
        for (theirs, chain) in self.theirs.chains.range(..rank) {
            let named = chains
                .iter()
                .filter(|one| one.certificate == theirs.certificate);
            let last = named.max_by_key(|one| one.sequence);
            let from = match last {
                // It names another entry than the one here: somewhere below, the chain parts.
                Some(last) if self.theirs.awaits(last) => 1,
                Some(last) => last.sequence.saturating_add(1),
                None => 1,
            };
            if last.is_none_or(|last| last.sequence <= chain.top()) {
                spans.extend(self.span(self.other, *theirs, chain, from));
            }
        }
        spans
    }

    /// Entries of the other side's earlier devices that its newest one names and that are not here: ask
    /// for them.
    #[must_use]
    pub fn wants(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (certificate, named) in &self.theirs.adopted {
            let rank = self.theirs.rank_of(*certificate);
            let chain = rank.and_then(|rank| self.theirs.chains.get(&rank));
            let top = chain.map_or(0, Chain::top);
            let missing: Vec<_> = named.iter().filter(|one| !one.here).collect();
            let to = missing.iter().map(|one| one.sequence).max();
            // Below the end of what is here, the chain parts somewhere.
            let parts = missing.iter().any(|one| one.sequence <= top);
            let from = if parts { 1 } else { top.saturating_add(1) };
            spans.extend(to.map(|to| Span {
                author: self.other,
                certificate: *certificate,
                chain: chain_id(self.id, self.other, *certificate),
                from,
                to,
            }));
        }
        spans
    }

    /// What is known of a chain from a sequence on, and all of it from where it contradicts itself.
    fn span(&self, author: AccountId, rank: Rank, chain: &Chain, from: u64) -> Option<Span> {
        let from = chain.first_fork().map_or(from, |fork| fork.min(from));
        let to = chain.top();
        (from <= to).then(|| Span {
            author,
            certificate: rank.certificate,
            chain: chain_id(self.id, author, rank.certificate),
            from,
            to,
        })
    }
}

impl Side {
    /// The ends of the chains before this one: as many as one `Resume` names, of the newest first.
    fn adoptable(&self, rank: Rank) -> Vec<Adopted> {
        let earlier = self.chains.range(..rank).rev();
        let ends = earlier.flat_map(|(rank, chain)| ends(*rank, chain));
        let mut chains: Vec<_> = ends.take(MAX_ADOPTED).collect();
        chains.sort_unstable();
        chains
    }

    /// Whether this entry is named and not here.
    fn awaits(&self, one: &Adopted) -> bool {
        let named = self.adopted.get(&one.certificate).into_iter().flatten();
        named
            .filter(|named| !named.here)
            .any(|named| named.hash == one.hash)
    }
}

fn ends(rank: Rank, chain: &Chain) -> impl Iterator<Item = Adopted> + '_ {
    chain.branches.iter().map(move |branch| Adopted {
        certificate: rank.certificate,
        sequence: branch.sequence,
        hash: branch.tip,
    })
}
