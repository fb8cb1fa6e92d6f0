//! What is signed on a line: the entry, its operations, and the proof that two entries contradict
//! each other. Whether an entry has an effect is decided in `receive`, not here.

use serde::{Deserialize, Serialize};

use crate::codec::{Bytes, Wire};
use crate::condition::{Condition, Opening};
use crate::crypto::{BadSignature, OpenError, Signable, Signed, hash};
use crate::types::{AccountId, Amount, Hash, LineId, LockId, PaymentId, Time, Unit};

/// The longest purpose of an IOU in bytes of UTF-8.
pub const MAX_PURPOSE: usize = 512;
/// The most debts that one [`Operation::Accept`], [`Operation::Free`] or [`Operation::Waive`] names.
pub const MAX_NAMED: usize = 64;
/// The most locks that one [`Operation::Settle`] opens.
pub const MAX_SETTLED: usize = 32;
/// The longest instructions of a lock in bytes.
pub const MAX_INSTRUCTIONS: usize = 4 * 1024;
/// The most entries that one [`Operation::Resume`] names.
pub const MAX_ADOPTED: usize = 64;
/// What the first entry of a chain names as its previous one.
pub const NO_ENTRY: Hash = Hash([0; 32]);

/// The id of the line of two accounts in one unit: the same from both ends.
#[must_use]
pub fn line_id(a: AccountId, b: AccountId, unit: &Unit) -> LineId {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    LineId(
        hash(
            "line",
            &[low.as_bytes(), high.as_bytes(), unit.as_str().as_bytes()],
        )
        .0,
    )
}

/// The id of a chain: what one device of one author signs on one line.
#[must_use]
pub fn chain_id(line: LineId, author: AccountId, certificate: Hash) -> Hash {
    hash(
        "chain",
        &[line.as_bytes(), author.as_bytes(), certificate.as_bytes()],
    )
}

/// The id of a lock: it names everything that decides what the lock is worth, so that nobody can mean
/// another one by it. `chain` is its author's ([`chain_id`]), `id` what its author called it.
#[must_use]
pub fn lock_id(chain: Hash, id: Hash, amount: Amount, condition: &Condition) -> LockId {
    let [tag, bytes] = condition.parts();
    let amount = amount.0.to_be_bytes();
    LockId(
        hash(
            "lock",
            &[chain.as_bytes(), id.as_bytes(), &amount, tag, bytes],
        )
        .0,
    )
}

/// A debt of one author on one line: an IOU, owed once accepted, or a lock, owed once accepted and
/// opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DebtId {
    /// An [`Operation::Iou`], by its id.
    Iou(PaymentId),
    /// An [`Operation::Lock`], see [`lock_id`].
    Lock(LockId),
}

impl std::fmt::Display for DebtId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Iou(id) => id.fmt(f),
            Self::Lock(id) => id.fmt(f),
        }
    }
}

/// A lock with its opening. It proves itself: with its chain it hashes to the id of exactly one lock,
/// whether that is known yet or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opened {
    /// Whether the lock is by the author of the entry; else it is by the other side.
    pub mine: bool,
    /// Hash of the certificate of the device that signed the lock.
    pub certificate: Hash,
    /// What its author called it.
    pub id: Hash,
    /// Its amount.
    pub amount: Amount,
    /// What opens it.
    pub opening: Opening,
}

impl Opened {
    /// The lock on a line whose `debtor` signed it.
    #[must_use]
    pub fn lock(&self, line: LineId, debtor: AccountId) -> LockId {
        let chain = chain_id(line, debtor, self.certificate);
        lock_id(chain, self.id, self.amount, &self.opening.condition())
    }
}

/// The last entry of the other side that an author had applied when it signed. It decides nothing:
/// it lets a restored device notice that it forgot something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The other side's chain, see [`chain_id`].
    pub chain: Hash,
    /// Its sequence number, from 1.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The last entry of an earlier device of one's own that is known to its successor: everything up to it
/// counts, whenever it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Adopted {
    /// Hash of the certificate of that device: with line and author it names the chain.
    pub certificate: Hash,
    /// The sequence of the entry, from 1.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
}

/// Why a creditor refuses a debt. Variants are only ever appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeclineReason {
    /// It would pass the limit in force.
    AboveLimit,
    /// New debt is stopped: somebody signed two entries at one place of a chain.
    Frozen,
    /// The creditor has offered to close the line and takes only what repays its own debt.
    Closing,
    /// The owner said no.
    Refused,
    /// Too many locks are under way on the line.
    TooMany,
    /// The creditor is the payee and expects no payment with this condition, or not this much.
    Unexpected,
    /// The creditor cannot pass it on: the next one is unknown to it, is away, or has no room.
    NoWay,
    /// Too little time is left to pass it on.
    TooLate,
    /// What is left for passing it on is less than the creditor asks for.
    TooLittle,
}

/// What an entry does. The order of the variants is the wire format: new ones go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// By the creditor: how much the other side may owe me from now on.
    Limit {
        /// The limit; 0 stops new debt.
        amount: Amount,
        /// How much freed claims that are still open may come to beyond it, see
        /// [`Operation::Free`].
        overhang: Amount,
    },
    /// By the debtor: I owe `amount` more once you accept.
    Iou {
        /// Counts once per line and author.
        id: PaymentId,
        /// Above 0.
        amount: Amount,
        /// What it is for, at most [`MAX_PURPOSE`] bytes.
        purpose: String,
    },
    /// By the creditor: I have these debts, and may act on them.
    Accept {
        /// 1 to [`MAX_NAMED`] ids, ascending, each once.
        debts: Vec<DebtId>,
    },
    /// By the creditor: I refuse this debt; it is void, whatever opens later.
    Decline {
        /// Which one.
        debt: DebtId,
        /// Why.
        reason: DeclineReason,
    },
    /// An offer to close: no new debt from me.
    Close {
        /// Hash of the other side's last debt entry, `None` when it has none.
        last: Option<Hash>,
    },
    /// By a new device of the author, as the first entry of its chain, and again whenever it learns of
    /// more: what it knows of the chains of the devices before it.
    Resume {
        /// At most [`MAX_ADOPTED`], ascending, each once. One per chain, more where a device
        /// contradicted itself, none when nothing is known.
        chains: Vec<Adopted>,
    },
    /// By the debtor: I owe `amount` more once you accept and `condition` is opened.
    Lock {
        /// What its author calls it; with chain, amount and condition it makes its [`lock_id`].
        id: Hash,
        /// Above 0.
        amount: Amount,
        /// What must be opened.
        condition: Condition,
        /// Until when the author asks the creditor to hold room for it. No rule reads it: time ends
        /// no claim.
        until: Time,
        /// What the creditor is to do next: passed on, not read, by the rules of a line. At most
        /// [`MAX_INSTRUCTIONS`] bytes.
        instructions: Bytes,
    },
    /// By either side: these locks are opened.
    Settle {
        /// 1 to [`MAX_SETTLED`], ascending, each once.
        locks: Vec<Opened>,
    },
    /// By the creditor: these locks no longer count against my limit. They are still owed if they are
    /// opened.
    Free {
        /// 1 to [`MAX_NAMED`] ids, ascending, each once.
        locks: Vec<LockId>,
    },
    /// By the creditor: I give these claims up for good, whatever opens later.
    Waive {
        /// 1 to [`MAX_NAMED`] ids, ascending, each once.
        locks: Vec<LockId>,
    },
}

/// One entry of one chain of a line. It is carried as `Signed<Entry>`; its hash is
/// [`Signed::hash`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The line, see [`line_id`].
    pub line: LineId,
    /// The unit of all amounts here.
    pub unit: Unit,
    /// Who signed.
    pub author: AccountId,
    /// The other end of the line.
    pub counterparty: AccountId,
    /// Hash of the certificate of the device that signed.
    pub certificate: Hash,
    /// Place in the chain, from 1, without gaps.
    pub sequence: u64,
    /// Hash of the entry before, [`NO_ENTRY`] for the first.
    pub previous: Hash,
    /// What the author had seen of the other side, `None` when nothing.
    pub seen: Option<Seen>,
    /// The author's clock when it signed. For people; no rule reads it.
    pub time: Time,
    /// What it does.
    pub operation: Operation,
}

impl Wire for Entry {
    const NAME: &'static str = "a line entry";
    // Fixed parts below 440 bytes, and the largest operation, 64 adopted entries, 4,738 bytes.
    const MAX: usize = 5_248;
}

impl Signable for Entry {
    const CONTEXT: &'static str = "line entry";
}

/// Why an entry is not well formed, whatever else is known. Its author's program is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The line id is not that of the two accounts and the unit.
    #[error("the line id does not belong to these two accounts and this unit")]
    LineId,
    /// Author and counterparty are one account.
    #[error("a line needs two different accounts")]
    SameAccount,
    /// Sequence 0, or a first entry with a predecessor, or a later one without.
    #[error("entry {0} of the chain names a wrong predecessor: exactly the first has none")]
    Previous(u64),
    /// What was seen has sequence 0.
    #[error("an entry cannot have seen an entry 0: sequence numbers begin at 1")]
    Seen,
    /// A debt of nothing.
    #[error("a debt of 0 says nothing: its amount must be above 0")]
    Zero,
    /// The purpose is too long.
    #[error("the purpose is {0} bytes long; at most {MAX_PURPOSE} are allowed")]
    Purpose(usize),
    /// No ids, too many, or not ascending.
    #[error(
        "Accept, Free and Waive name 1 to {MAX_NAMED} debts, ascending and each once; this one names {0}"
    )]
    Named(usize),
    /// No openings, too many, or not ascending.
    #[error("a Settle opens 1 to {MAX_SETTLED} locks, ascending and each once; this one names {0}")]
    Settle(usize),
    /// The instructions are too long.
    #[error(
        "the instructions of the lock are {0} bytes long; at most {MAX_INSTRUCTIONS} are allowed"
    )]
    Instructions(usize),
    /// Too many named entries, not ascending, of place 0, or of the same device.
    #[error(
        "a Resume names at most {MAX_ADOPTED} entries of earlier devices, ascending and each once, from sequence 1 on; this one names {0}"
    )]
    Resume(usize),
}

impl Entry {
    /// The chain this entry belongs to.
    #[must_use]
    pub fn chain(&self) -> Hash {
        chain_id(self.line, self.author, self.certificate)
    }

    /// Checks everything that can be checked on the entry alone.
    ///
    /// # Errors
    /// [`Malformed`] names the field that is wrong.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.author == self.counterparty {
            return Err(Malformed::SameAccount);
        }
        if self.line != line_id(self.author, self.counterparty, &self.unit) {
            return Err(Malformed::LineId);
        }
        if self.sequence == 0 || (self.sequence == 1) != (self.previous == NO_ENTRY) {
            return Err(Malformed::Previous(self.sequence));
        }
        if self.seen.is_some_and(|seen| seen.sequence == 0) {
            return Err(Malformed::Seen);
        }
        match &self.operation {
            Operation::Iou { amount, .. } | Operation::Lock { amount, .. }
                if *amount == Amount::ZERO =>
            {
                Err(Malformed::Zero)
            }
            Operation::Iou { purpose, .. } if purpose.len() > MAX_PURPOSE => {
                Err(Malformed::Purpose(purpose.len()))
            }
            Operation::Accept { debts } if !is_list(debts, MAX_NAMED) => {
                Err(Malformed::Named(debts.len()))
            }
            Operation::Free { locks } | Operation::Waive { locks }
                if !is_list(locks, MAX_NAMED) =>
            {
                Err(Malformed::Named(locks.len()))
            }
            Operation::Settle { locks } if !is_list(locks, MAX_SETTLED) => {
                Err(Malformed::Settle(locks.len()))
            }
            Operation::Lock { instructions, .. } if instructions.0.len() > MAX_INSTRUCTIONS => {
                Err(Malformed::Instructions(instructions.0.len()))
            }
            Operation::Resume { chains }
                if chains.len() > MAX_ADOPTED
                    || !chains.is_sorted_by(|a, b| a < b)
                    || chains
                        .iter()
                        .any(|one| one.sequence == 0 || one.certificate == self.certificate) =>
            {
                Err(Malformed::Resume(chains.len()))
            }
            _ => Ok(()),
        }
    }
}

/// Whether it has 1 to `most` items, ascending and each once.
fn is_list<T: Ord>(items: &[T], most: usize) -> bool {
    (1..=most).contains(&items.len()) && items.is_sorted_by(|a, b| a < b)
}

/// Two different entries that one device signed for one place of one chain. Anyone can check it
/// without knowing the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EquivocationProof {
    /// The entry with the lower hash.
    pub first: Signed<Entry>,
    /// The entry with the higher hash.
    pub second: Signed<Entry>,
}

impl Wire for EquivocationProof {
    const NAME: &'static str = "a proof of equivocation";
    const MAX: usize = 1 + 2 * <Signed<Entry> as Wire>::MAX;
}

/// Why two entries prove nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// A signature or an encoding is wrong.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The entries are of different chains or places.
    #[error("the two entries are not for the same place of the same chain")]
    Elsewhere,
    /// It is one entry, or the two are not in order of their hashes.
    #[error("the proof must hold two different entries, the one with the lower hash first")]
    Order,
}

impl From<BadSignature> for ProofFault {
    fn from(fault: BadSignature) -> Self {
        Self::Open(fault.into())
    }
}

impl EquivocationProof {
    /// Puts two entries into the order that the proof needs. It checks nothing.
    #[must_use]
    pub fn new(a: Signed<Entry>, b: Signed<Entry>) -> Self {
        if a.hash() <= b.hash() {
            Self {
                first: a,
                second: b,
            }
        } else {
            Self {
                first: b,
                second: a,
            }
        }
    }

    /// Checks the proof against the key of the device; returns the first of the two entries. That
    /// the key belongs to the certificate the entries name is the caller's to check.
    ///
    /// # Errors
    /// [`ProofFault`] when it does not prove that this device contradicted itself.
    pub fn check(&self, device: &[u8; 32]) -> Result<Entry, ProofFault> {
        let first = self.first.open(device)?;
        let second = self.second.open(device)?;
        if first.chain() != second.chain() || first.sequence != second.sequence {
            return Err(ProofFault::Elsewhere);
        }
        if self.first.hash() >= self.second.hash() {
            return Err(ProofFault::Order);
        }
        Ok(first)
    }
}
