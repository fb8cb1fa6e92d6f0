//! The rules of money between two accounts: a line, as seen from one end. Signed chains, one per device
//! of each end, go in, balances and refusals come out. Not here: keys and signatures ([`crate::crypto`]), storage,
//! delivery, payments over several lines.
//!
//! Every entry, one's own too, takes the same way:
//!
//! 1. [`Line::needs`] says which records to look up;
//! 2. [`Line::receive`] decides, and changes nothing;
//! 3. the caller stores the entry with [`Received::entry`] and [`Received::records`], calls
//!    [`Line::apply`], and stores the line, in one transaction.
//!
//! The `propose_*` functions draft one's own entries, [`Line::answers_due`] says which answers to
//! sign after entries of the other side. The state is the join of all chains: it depends on which
//! entries were applied, not on their order between the chains. `docs/ledger.md` has the rules.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing
)]

use serde::{Deserialize, Serialize};

use crate::codec::Wire;
use crate::types::{AccountId, Amount, Hash, LineId, LockId, Unit};

mod chain;
mod entry;
mod propose;
mod propose_lock;
mod receive;
mod record;
mod resume;
mod side;
#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that is wrong may panic"
)]
mod tests;

pub use entry::{
    Adopted, DebtId, DeclineReason, Entry, EquivocationProof, MAX_ADOPTED, MAX_INSTRUCTIONS,
    MAX_NAMED, MAX_PURPOSE, MAX_SETTLED, Malformed, NO_ENTRY, Opened, Operation, ProofFault, Seen,
    chain_id, line_id, lock_id,
};
pub use propose::{Answers, Refusal, Stamp};
pub use propose_lock::NewLock;
pub use receive::{EntryFault, Equivocation, Known, Needs, Received};
pub use record::{DebtRecord, DebtStatus, EntryRecord, LockTerms};
pub use resume::Span;

use resume::Restore;
use side::Side;

/// The most debts per direction that wait for an answer.
pub const MAX_HELD: usize = 1_000;
/// The most locks per direction that room is held for: an eighth of it, 30, is what comes in by one
/// other line.
pub const MAX_RESERVED: usize = 240;
/// The most locks per direction whose claims are open, freed ones too.
pub const MAX_CLAIMS: usize = 1_000;
/// The most contradicting branches of one chain that are kept and count.
pub const MAX_BRANCHES: usize = 8;
/// The most devices of one account that are known on one line.
pub const MAX_CHAINS: usize = 64;

/// The state of one line, as seen from one end. Its size does not depend on its history: settled
/// amounts are sums, and only debts that wait for an answer or an opening are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    id: LineId,
    unit: Unit,
    me: AccountId,
    other: AccountId,
    mine: Side,
    theirs: Side,
    /// Set for an account that was restored from its words.
    restore: Option<Restore>,
}

impl Wire for Line {
    const NAME: &'static str = "the state of a line";
    // Per side MAX_HELD debts of at most 95 bytes and MAX_CLAIMS locks of 43, MAX_CHAINS chains of at
    // most MAX_BRANCHES branches of 243 bytes, and as many named entries of 43; and 16 KiB more.
    const MAX: usize =
        2 * (MAX_HELD * 95 + MAX_CLAIMS * 43 + MAX_CHAINS * MAX_BRANCHES * (243 + 43)) + 16 * 1024;
}

/// The end of a branch of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Head {
    /// The sequence of its last entry, from 1.
    pub sequence: u64,
    /// The hash of its last entry.
    pub hash: Hash,
}

/// The figures of a line, from one end. "Out" is what I owe, "in" what the other side owes me.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// What the other side owes me minus what I owe: below 0 I am the debtor.
    pub balance: i128,
    /// How much I let the other side owe.
    pub limit_given: Amount,
    /// How much the other side lets me owe.
    pub limit_received: Amount,
    /// How much the other side's freed claims may come to beyond its limit.
    pub overhang_given: Amount,
    /// How much my freed claims may come to beyond my limit.
    pub overhang_received: Amount,
    /// What I can pay now: 0 while the line is frozen or waits.
    pub available: Amount,
    /// All that my IOUs came to, gross.
    pub settled_out: u128,
    /// All that the other side's IOUs came to, gross.
    pub settled_in: u128,
    /// My debts that wait for an answer.
    pub held_out: u128,
    /// The other side's debts that wait for mine.
    pub held_in: u128,
    /// My accepted locks that the other side holds room for.
    pub reserved_out: u128,
    /// The other side's accepted locks that I hold room for.
    pub reserved_in: u128,
    /// My accepted locks that the other side freed: owed all the same once they are opened.
    pub freed_out: u128,
    /// The other side's accepted locks that I freed.
    pub freed_in: u128,
    /// New debt is stopped: somebody signed two entries for one place.
    pub frozen: bool,
    /// New debt of mine waits: the line is being brought level with the other side after a restore.
    pub waiting: bool,
    /// My offer to close stands.
    pub closing_mine: bool,
    /// The other side's offer to close stands.
    pub closing_theirs: bool,
    /// Both offers bind: nothing is owed, nothing is open.
    pub closed: bool,
}

impl View {
    /// Whether some debt waits for an answer or an opening.
    #[must_use]
    pub const fn under_way(&self) -> bool {
        let held = self.held_out != 0 || self.held_in != 0;
        let reserved = self.reserved_out != 0 || self.reserved_in != 0;
        held || reserved || self.freed_out != 0 || self.freed_in != 0
    }
}

impl Line {
    /// A line without entries: no credit in either direction.
    ///
    /// # Errors
    /// [`Refusal::SameAccount`] when both ends are one account.
    pub fn new(me: AccountId, other: AccountId, unit: Unit) -> Result<Self, Refusal> {
        if me == other {
            return Err(Refusal::SameAccount);
        }
        let id = line_id(me, other, &unit);
        Ok(Self {
            id,
            unit,
            me,
            other,
            mine: Side::default(),
            theirs: Side::default(),
            restore: None,
        })
    }

    /// The id, the same from both ends.
    #[must_use]
    pub fn id(&self) -> LineId {
        self.id
    }

    /// What it counts in.
    #[must_use]
    pub fn unit(&self) -> &Unit {
        &self.unit
    }

    /// The end whose view this is.
    #[must_use]
    pub fn me(&self) -> AccountId {
        self.me
    }

    /// The other end.
    #[must_use]
    pub fn other(&self) -> AccountId {
        self.other
    }

    /// All figures.
    #[must_use]
    pub fn view(&self) -> View {
        let (open_out, open_in) = (self.mine.sums_open(), self.theirs.sums_open());
        View {
            balance: self.balance(),
            limit_given: self.mine.limit(),
            limit_received: self.theirs.limit(),
            overhang_given: self.mine.overhang(),
            overhang_received: self.theirs.overhang(),
            available: self.available(),
            settled_out: self.mine.settled,
            settled_in: self.theirs.settled,
            held_out: self.mine.sum_held(),
            held_in: self.theirs.sum_held(),
            reserved_out: open_out.reserved,
            reserved_in: open_in.reserved,
            freed_out: open_out.freed,
            freed_in: open_in.freed,
            frozen: self.is_frozen(),
            waiting: self.is_waiting(),
            closing_mine: self.mine.closing(),
            closing_theirs: self.theirs.closing(),
            closed: self.is_closed(),
        }
    }

    /// What the other side owes me minus what I owe.
    #[must_use]
    pub fn balance(&self) -> i128 {
        // Both sums are far below 2^126 (see `receive`): neither saturates.
        let gross = |sum| i128::try_from(sum).unwrap_or(i128::MAX);
        gross(self.theirs.settled).saturating_sub(gross(self.mine.settled))
    }

    /// Whether new debt is stopped because one end signed two entries for one place. It ends when that
    /// end has a newer device, which begins with a `Resume`, and the other one has signed a limit after
    /// having seen it.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let fork = |side: &Side, account, other| side.open_fork(self.id, account, other).is_some();
        fork(&self.mine, self.me, &self.theirs) || fork(&self.theirs, self.other, &self.mine)
    }

    /// Whether both ends have offered to close, each naming the other's last debt entry, and nothing
    /// is owed or open.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.is_frozen()
            && self.mine.offer() == Some(self.theirs.last_debt())
            && self.theirs.offer() == Some(self.mine.last_debt())
            && self.mine.settled == self.theirs.settled
            && [&self.mine, &self.theirs]
                .iter()
                .all(|side| side.held.is_empty() && side.open.is_empty())
    }

    /// Debts of an end that wait for an answer, with their amounts, in the order of their ids. Empty
    /// for anybody else.
    pub fn held(&self, debtor: AccountId) -> impl Iterator<Item = (DebtId, Amount)> + '_ {
        let side = self.side(debtor).into_iter();
        side.flat_map(|side| side.held.iter().map(|(id, held)| (*id, held.amount)))
    }

    /// Locks of an end that were accepted and whose claims are open, each with its amount and whether
    /// it was freed, in the order of their ids. Empty for anybody else.
    pub fn open(&self, debtor: AccountId) -> impl Iterator<Item = (LockId, Amount, bool)> + '_ {
        let side = self.side(debtor).into_iter();
        side.flat_map(|side| {
            side.open
                .iter()
                .map(|(id, open)| (*id, open.amount, open.freed))
        })
    }

    /// The ends of an author's chains, in order: one per device, more where one contradicted itself.
    #[must_use]
    pub fn heads(&self, author: AccountId) -> Vec<Head> {
        let ends = self.holds(author).into_iter();
        let mut heads: Vec<_> = ends
            .map(|end| Head {
                sequence: end.sequence,
                hash: end.hash,
            })
            .collect();
        heads.sort_unstable();
        heads
    }

    /// The certificate of the newest device of this author that is known here, `None` before its first
    /// entry.
    #[must_use]
    pub fn certificate(&self, author: AccountId) -> Option<Hash> {
        let (rank, _) = self.side(author)?.newest()?;
        Some(rank.certificate)
    }

    /// The evidence that an end contradicted itself: one pair of entries for each contradicting branch.
    /// Fetch both by their hashes to make an [`EquivocationProof`]. It stays when the line is no longer
    /// frozen.
    #[must_use]
    pub fn evidence(&self) -> Vec<Equivocation> {
        let sides = [(self.me, &self.mine), (self.other, &self.theirs)];
        let chains = sides
            .into_iter()
            .flat_map(|(author, side)| side.chains.values().map(move |chain| (author, chain)));
        chains
            .flat_map(|(author, chain)| {
                chain.branches.iter().filter_map(move |branch| {
                    Some(Equivocation {
                        author,
                        sequence: branch.from,
                        first: branch.rival?,
                        second: branch.first,
                    })
                })
            })
            .collect()
    }

    fn side(&self, account: AccountId) -> Option<&Side> {
        if account == self.me {
            Some(&self.mine)
        } else if account == self.other {
            Some(&self.theirs)
        } else {
            None
        }
    }
}
