//! What is signed on a line: the entry, its operations, and the proof that two entries contradict
//! each other. Whether an entry has an effect is decided in `receive`, not here.

use serde::{Deserialize, Serialize};

use crate::codec::Wire;
use crate::crypto::{BadSignature, OpenError, Signable, Signed, hash};
use crate::types::{AccountId, Amount, Hash, LineId, PaymentId, Time, Unit};

/// The longest purpose of an IOU in bytes of UTF-8.
pub const MAX_PURPOSE: usize = 512;
/// The most IOUs that one [`Operation::Accept`] names.
pub const MAX_ACCEPT: usize = 64;
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

/// Why a creditor refuses an IOU. Variants are only ever appended.
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
}

/// What an entry does. The order of the variants is the wire format: new ones go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// By the creditor: how much the other side may owe me from now on.
    Limit {
        /// The limit; 0 stops new debt.
        amount: Amount,
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
    /// By the creditor: I have these IOUs.
    Accept {
        /// 1 to [`MAX_ACCEPT`] ids, ascending, each once.
        ious: Vec<PaymentId>,
    },
    /// By the creditor: I refuse this IOU; it is void.
    Decline {
        /// Which IOU.
        iou: PaymentId,
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
    /// An IOU of nothing.
    #[error("an IOU of 0 says nothing: its amount must be above 0")]
    Zero,
    /// The purpose is too long.
    #[error("the purpose is {0} bytes long; at most {MAX_PURPOSE} are allowed")]
    Purpose(usize),
    /// No ids, too many, or not ascending.
    #[error("an Accept names 1 to {MAX_ACCEPT} IOUs, ascending and each once; this one names {0}")]
    Accept(usize),
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
            Operation::Iou { amount, .. } if *amount == Amount::ZERO => Err(Malformed::Zero),
            Operation::Iou { purpose, .. } if purpose.len() > MAX_PURPOSE => {
                Err(Malformed::Purpose(purpose.len()))
            }
            Operation::Accept { ious }
                if !(1..=MAX_ACCEPT).contains(&ious.len()) || !ious.is_sorted_by(|a, b| a < b) =>
            {
                Err(Malformed::Accept(ious.len()))
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
