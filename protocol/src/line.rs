//! The rules of money between two accounts: a line, as seen from one end. Two signed chains go in,
//! balances and refusals come out. Not here: keys and signatures ([`crate::crypto`]), storage,
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
//! sign after entries of the other side. The state is the join of both chains: it depends on which
//! entries were applied, not on their order between the chains. `docs/ledger.md` has the rules.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::Wire;
use crate::types::{AccountId, Amount, Hash, LineId, PaymentId, Unit};

mod entry;
mod propose;
mod receive;
mod record;
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
    DeclineReason, Entry, EquivocationProof, MAX_ACCEPT, MAX_PURPOSE, Malformed, NO_ENTRY,
    Operation, ProofFault, Seen, chain_id, line_id,
};
pub use propose::{Answers, Refusal, Stamp};
pub use receive::{EntryFault, Equivocation, Known, Needs, Received};
pub use record::{EntryRecord, IouRecord, IouStatus};

use record::Terms;

/// The most IOUs per direction that wait for an answer.
pub const MAX_HELD: usize = 1_000;
/// The most contradicting branches of one chain that are kept and count.
pub const MAX_BRANCHES: usize = 8;

/// The state of one line, as seen from one end. Its size does not depend on its history: settled
/// amounts are sums, and only IOUs that wait for an answer are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    id: LineId,
    unit: Unit,
    me: AccountId,
    other: AccountId,
    mine: Side,
    theirs: Side,
}

impl Wire for Line {
    const NAME: &'static str = "the state of a line";
    // 2 * MAX_HELD IOUs of at most 52 bytes, 2 * MAX_BRANCHES branches of at most 196, and 400 more.
    const MAX: usize = 128 * 1024;
}

/// What one end has brought about: its chain, and its debts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Side {
    chain: Option<Chain>,
    /// Gross: all that this side's accepted IOUs came to. Only grows.
    settled: u128,
    /// Its IOUs that wait for an answer.
    held: BTreeMap<PaymentId, Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    amount: Amount,
    sequence: u64,
}

/// The entries of one device on one line. An honest one has a single branch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chain {
    certificate: Hash,
    branches: Vec<Branch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Branch {
    /// The branch it leaves; `None` when it begins with a first entry.
    parent: Option<u8>,
    /// The entry that its first one contradicts; `None` for the branch known first.
    rival: Option<Hash>,
    /// The sequence and the hash of its first entry.
    from: u64,
    first: Hash,
    /// The sequence and the hash of its last entry.
    sequence: u64,
    tip: Hash,
    terms: Terms,
}

impl Branch {
    fn new(
        parent: Option<u8>,
        rival: Option<Hash>,
        sequence: u64,
        hash: Hash,
        terms: Terms,
    ) -> Self {
        Self {
            parent,
            rival,
            from: sequence,
            first: hash,
            sequence,
            tip: hash,
            terms,
        }
    }
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
    /// What I can pay now.
    pub available: Amount,
    /// All that my IOUs came to, gross.
    pub settled_out: u128,
    /// All that the other side's IOUs came to, gross.
    pub settled_in: u128,
    /// My IOUs that wait for an answer.
    pub held_out: u128,
    /// The other side's IOUs that wait for mine.
    pub held_in: u128,
    /// New debt is stopped: somebody signed two entries for one place.
    pub frozen: bool,
    /// My offer to close stands.
    pub closing_mine: bool,
    /// The other side's offer to close stands.
    pub closing_theirs: bool,
    /// Both offers bind: nothing is owed, nothing is open.
    pub closed: bool,
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
        View {
            balance: self.balance(),
            limit_given: self.mine.limit(),
            limit_received: self.theirs.limit(),
            available: self.available(),
            settled_out: self.mine.settled,
            settled_in: self.theirs.settled,
            held_out: sum_held(&self.mine),
            held_in: sum_held(&self.theirs),
            frozen: self.is_frozen(),
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

    /// Whether new debt is stopped because one end signed two entries for one place.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.mine.forked() || self.theirs.forked()
    }

    /// Whether both ends have offered to close, each naming the other's last debt entry, and nothing
    /// is owed or open.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.is_frozen()
            && self.mine.close() == Some(self.theirs.last_debt())
            && self.theirs.close() == Some(self.mine.last_debt())
            && self.mine.settled == self.theirs.settled
            && self.mine.held.is_empty()
            && self.theirs.held.is_empty()
    }

    /// IOUs of an end that wait for an answer, with their amounts, in the order of their ids. Empty
    /// for anybody else.
    pub fn held(&self, debtor: AccountId) -> impl Iterator<Item = (PaymentId, Amount)> + '_ {
        let side = self.side(debtor).into_iter();
        side.flat_map(|side| side.held.iter().map(|(id, held)| (*id, held.amount)))
    }

    /// The ends of an author's chain, in order: none, one, or several when it contradicted itself.
    #[must_use]
    pub fn heads(&self, author: AccountId) -> Vec<Head> {
        let chain = self.side(author).and_then(|side| side.chain.as_ref());
        let branches = chain
            .map(|chain| chain.branches.as_slice())
            .unwrap_or_default();
        let mut heads: Vec<_> = branches
            .iter()
            .map(|b| Head {
                sequence: b.sequence,
                hash: b.tip,
            })
            .collect();
        heads.sort_unstable();
        heads
    }

    /// The certificate of the device whose chain of this author is known, `None` before its first
    /// entry.
    #[must_use]
    pub fn certificate(&self, author: AccountId) -> Option<Hash> {
        Some(self.side(author)?.chain.as_ref()?.certificate)
    }

    /// The evidence why the line is frozen: one pair of entries for each contradicting branch. Fetch
    /// both by their hashes to make an [`EquivocationProof`].
    #[must_use]
    pub fn evidence(&self) -> Vec<Equivocation> {
        let sides = [(self.me, &self.mine), (self.other, &self.theirs)];
        let chains = sides
            .into_iter()
            .filter_map(|(author, s)| Some((author, s.chain.as_ref()?)));
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

impl Side {
    fn branches(&self) -> &[Branch] {
        self.chain
            .as_ref()
            .map(|chain| chain.branches.as_slice())
            .unwrap_or_default()
    }

    fn forked(&self) -> bool {
        self.branches().len() > 1
    }

    /// How much this side lets the other owe: of contradicting limits the lowest.
    fn limit(&self) -> Amount {
        self.branches()
            .iter()
            .map(|branch| branch.terms.limit)
            .min()
            .unwrap_or_default()
    }

    /// This side's last debt entry. A chain with branches has no single one, and cannot close.
    fn last_debt(&self) -> Option<Hash> {
        match self.branches() {
            [only] => only.terms.last_debt,
            _ => None,
        }
    }

    /// The standing offer to close.
    fn close(&self) -> Option<Option<Hash>> {
        match self.branches() {
            [only] => only.terms.close,
            _ => None,
        }
    }

    fn closing(&self) -> bool {
        self.close().is_some()
    }

    /// Whether a sequence is at or before the first place where this side contradicted itself. Those
    /// entries count; what comes after is new debt.
    fn up_to_fork(&self, sequence: u64) -> bool {
        let forks = self.branches().iter().skip(1).map(|branch| branch.from);
        forks.min().is_some_and(|first| sequence <= first)
    }
}

impl Chain {
    /// The branch to go on with: the longest, of equal ones that with the lowest hash.
    fn longest(&self) -> Option<&Branch> {
        self.branches
            .iter()
            .min_by_key(|branch| (std::cmp::Reverse(branch.sequence), branch.tip))
    }
}

fn sum_held(side: &Side) -> u128 {
    // At most MAX_HELD times 2^64: it fits.
    side.held.values().fold(0, |sum: u128, held| {
        sum.saturating_add(u128::from(held.amount.0))
    })
}
