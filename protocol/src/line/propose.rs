//! What an owner may sign on its line: admission, and the answers that are due. Nothing changes here;
//! the entry that comes back is signed, then goes through [`Line::receive`] like any other.

use std::collections::BTreeMap;

use super::chain::Rank;
use super::entry::{
    DebtId, DeclineReason, Entry, MAX_INSTRUCTIONS, MAX_NAMED, MAX_PURPOSE, MAX_SETTLED, NO_ENTRY,
    Operation, Seen, chain_id,
};
use super::record::{DebtRecord, DebtStatus};
use super::side::Side;
use super::{Line, MAX_CHAINS, MAX_CLAIMS, MAX_HELD, MAX_RESERVED};
use crate::types::{Amount, Hash, PaymentId, Time, Unit};

/// Who signs, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Hash of the certificate of the device that will sign.
    pub certificate: Hash,
    /// The epoch of that certificate: a chain of a lower one is by an earlier device.
    pub epoch: u64,
    /// The time now.
    pub now: Time,
}

impl Stamp {
    pub(super) fn rank(self) -> Rank {
        Rank {
            epoch: self.epoch,
            certificate: self.certificate,
        }
    }
}

/// Why an owner's own action is refused. Nothing was changed or signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A line with oneself.
    #[error("a line needs two different accounts: you cannot owe yourself")]
    SameAccount,
    /// An amount of 0.
    #[error("there is nothing to pay: the amount must be above 0")]
    Zero,
    /// The purpose is too long.
    #[error("the purpose is {length} bytes long; at most {MAX_PURPOSE} are allowed: shorten it")]
    PurposeTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The other side has not let me owe that much.
    #[error(
        "{amount} {unit} is more than is left: the other side lets you owe {limit} {unit}, and {available} {unit} can be paid now; pay less, wait for answers, or ask for a higher limit"
    )]
    AboveLimit {
        /// What was to be paid.
        amount: Amount,
        /// What can be paid now.
        available: Amount,
        /// What the other side lets me owe.
        limit: Amount,
        /// The unit.
        unit: Unit,
    },
    /// An IOU cannot be accepted within my own limit.
    #[error(
        "accepting {amount} {unit} would pass your limit of {limit} {unit}: {available} {unit} are left; raise the limit first, or decline"
    )]
    AboveMyLimit {
        /// The sum of the IOUs.
        amount: u128,
        /// What is left of the limit.
        available: Amount,
        /// The limit I set.
        limit: Amount,
        /// The unit.
        unit: Unit,
    },
    /// Somebody contradicted itself on this line.
    #[error(
        "new debt on this line is stopped: two contradicting entries were signed for one place; what is owed stays owed and can be accepted"
    )]
    Frozen,
    /// The other side offered to close.
    #[error(
        "the other side is closing this line and takes only what repays its credit: {available} {unit} can be paid now; ask for a new limit to go on"
    )]
    Closing {
        /// What can be paid now.
        available: Amount,
        /// The unit.
        unit: Unit,
    },
    /// My own closing offer already stands and names the other side's last debt.
    #[error("your offer to close this line already stands; the other side has not answered it yet")]
    CloseStands,
    /// Too many debts wait for an answer.
    #[error("{MAX_HELD} of your debts wait for an answer on this line: wait for the other side")]
    TooManyHeld,
    /// Too many locks are under way.
    #[error(
        "{MAX_RESERVED} payments are under way on this line, or {MAX_CLAIMS} were left open: wait until some are settled or cancelled"
    )]
    TooManyLocks,
    /// The instructions of a lock are too long.
    #[error("the instructions are {length} bytes long; at most {MAX_INSTRUCTIONS} are allowed")]
    InstructionsTooLong {
        /// Their length in bytes.
        length: usize,
    },
    /// Freeing would pass what I let freed claims come to.
    #[error(
        "freeing {amount} {unit} would pass the overhang of {overhang} {unit}: {available} {unit} are left; wait until freed payments are settled or cancelled"
    )]
    AboveOverhang {
        /// The sum of the locks to free.
        amount: u128,
        /// What is left.
        available: Amount,
        /// The overhang I set.
        overhang: Amount,
        /// The unit.
        unit: Unit,
    },
    /// Not a lock of the other side whose claim is open.
    #[error("lock {id} is not open: it is unknown, settled or void, or was freed before")]
    NotOpen {
        /// Which one.
        id: crate::types::LockId,
    },
    /// This payment was made before, with the same amount: answer with what is stored.
    #[error("this payment was already signed and is {status:?}; it is not made twice")]
    AlreadySigned {
        /// How far it has come.
        status: DebtStatus,
    },
    /// This id stands for something else.
    #[error(
        "the id of this payment was already used for another amount or answered before: use a new idempotency key"
    )]
    IdUsed,
    /// Not a debt that waits for my answer.
    #[error("{id} does not wait for your answer: it is unknown or was answered before")]
    NotHeld {
        /// Which one.
        id: DebtId,
    },
    /// None or too many ids for one entry.
    #[error(
        "{count} debts cannot be named in one entry: 1 to {MAX_NAMED} can, and 1 to {MAX_SETTLED} opened"
    )]
    Count {
        /// How many were given.
        count: usize,
    },
    /// This device is new on the line, or the account was restored: `Resume` first, see
    /// [`Line::propose_resume`].
    #[error(
        "this line is being brought level with the other side after a restore: try again in a moment"
    )]
    Resume,
    /// The restore was incomplete and the other side has not answered yet.
    #[error(
        "this line is being brought level with the other side after a restore: new debt and refusals wait for its answer, what settles does not"
    )]
    Waiting,
    /// A `Resume` that would say nothing new.
    #[error("everything known of this account's earlier devices is named already")]
    NothingToResume,
    /// A newer device of this account signs here.
    #[error("a newer device of this account signs on this line: this one was replaced")]
    Replaced,
    /// Too many devices of this account signed here.
    #[error(
        "{MAX_CHAINS} devices of this account have signed on this line, which is the most: settle it outside and open one in another unit"
    )]
    TooManyDevices,
    /// The chain is full.
    #[error("this chain has no sequence numbers left")]
    Exhausted,
}

/// The automatic answers to the other side's debts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// To accept, in the order they were signed. Sign them in pieces of at most [`MAX_NAMED`].
    pub accept: Vec<DebtId>,
    /// To decline, and why.
    pub decline: Vec<(DebtId, DeclineReason)>,
}

impl Line {
    /// Sets how much the other side may owe me, and how much its freed claims may come to beyond
    /// that. Below what it owes, it only stops new debt.
    ///
    /// # Errors
    /// [`Refusal::Resume`], [`Refusal::Replaced`] or [`Refusal::Exhausted`].
    pub fn propose_limit(
        &self,
        stamp: Stamp,
        amount: Amount,
        overhang: Amount,
    ) -> Result<Entry, Refusal> {
        self.draft(stamp, Operation::Limit { amount, overhang })
    }

    /// Signs that I owe `amount` more. `known` is the stored record of this id among my IOUs on this
    /// line.
    ///
    /// # Errors
    /// [`Refusal`] says what stands against it; [`Refusal::AlreadySigned`] means that it was done
    /// before.
    pub fn propose_iou(
        &self,
        stamp: Stamp,
        id: PaymentId,
        amount: Amount,
        purpose: &str,
        known: Option<&DebtRecord>,
    ) -> Result<Entry, Refusal> {
        if let Some(record) = known {
            return Err(if record.amount() == Some(amount) {
                Refusal::AlreadySigned {
                    status: record.status(),
                }
            } else {
                Refusal::IdUsed
            });
        }
        if purpose.len() > MAX_PURPOSE {
            return Err(Refusal::PurposeTooLong {
                length: purpose.len(),
            });
        }
        self.may_owe(stamp, amount)?;
        self.draft(
            stamp,
            Operation::Iou {
                id,
                amount,
                purpose: purpose.to_owned(),
            },
        )
    }

    /// Whether I may sign a new debt of this amount.
    pub(super) fn may_owe(&self, stamp: Stamp, amount: Amount) -> Result<(), Refusal> {
        if amount == Amount::ZERO {
            return Err(Refusal::Zero);
        }
        self.next_place(stamp, false)?;
        if self.is_waiting() {
            return Err(Refusal::Waiting);
        }
        if self.is_frozen() {
            return Err(Refusal::Frozen);
        }
        if self.mine.held.len() >= MAX_HELD {
            return Err(Refusal::TooManyHeld);
        }
        let available = self.available();
        if amount <= available {
            return Ok(());
        }
        let unit = self.unit.clone();
        Err(if self.theirs.closing() {
            Refusal::Closing { available, unit }
        } else {
            Refusal::AboveLimit {
                amount,
                available,
                limit: self.theirs.limit(),
                unit,
            }
        })
    }

    /// Accepts debts of the other side: all that [`Self::answers_due`] names, or some. Also works on a
    /// frozen line: settlement never stops.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`], [`Refusal::AboveMyLimit`], [`Refusal::TooManyLocks`], [`Refusal::Count`]
    /// or what [`Self::propose_limit`] refuses.
    pub fn propose_accept(&self, stamp: Stamp, debts: &[DebtId]) -> Result<Entry, Refusal> {
        let debts = listed(debts, MAX_NAMED)?;
        let mut sum: u128 = 0;
        for id in &debts {
            let held = self
                .theirs
                .held
                .get(id)
                .ok_or(Refusal::NotHeld { id: *id })?;
            // At most 64 times 2^64: it fits.
            sum = sum.saturating_add(u128::from(held.amount.0));
        }
        let room = self.room_to_accept();
        if sum > room {
            return Err(Refusal::AboveMyLimit {
                amount: sum,
                available: clamped(room),
                limit: self.mine.limit(),
                unit: self.unit.clone(),
            });
        }
        let locks = debts.iter().filter(|id| matches!(id, DebtId::Lock(_)));
        if locks.count() > self.locks_to_accept() {
            return Err(Refusal::TooManyLocks);
        }
        self.draft(stamp, Operation::Accept { debts })
    }

    /// Declines a debt of the other side that waits for my answer.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`], [`Refusal::Waiting`] (I may have accepted it before the restore) or what
    /// [`Self::propose_limit`] refuses.
    pub fn propose_decline(
        &self,
        stamp: Stamp,
        debt: DebtId,
        reason: DeclineReason,
    ) -> Result<Entry, Refusal> {
        if !self.theirs.held.contains_key(&debt) {
            return Err(Refusal::NotHeld { id: debt });
        }
        self.next_place(stamp, false)?;
        if !self.may_refuse() {
            return Err(Refusal::Waiting);
        }
        self.draft(stamp, Operation::Decline { debt, reason })
    }

    /// Offers to close the line. It binds once the other side offers it, too, and nothing is owed or
    /// open.
    ///
    /// # Errors
    /// [`Refusal::CloseStands`] when it would change nothing, [`Refusal::Frozen`], or what
    /// [`Self::propose_limit`] refuses.
    pub fn propose_close(&self, stamp: Stamp) -> Result<Entry, Refusal> {
        if self.is_frozen() {
            return Err(Refusal::Frozen);
        }
        let last = self.theirs.last_debt();
        if self.mine.offer() == Some(last) {
            return Err(Refusal::CloseStands);
        }
        self.draft(stamp, Operation::Close { last })
    }

    /// How each debt that waits for my answer is to be answered, by my limit alone: nobody has to be
    /// asked. `refused` are those that are declined for another reason. Empty when nothing waits. Sign
    /// and apply the answers, in the order given here, after a `Resume` that is due. After a restore,
    /// declines wait for the other side's answer.
    #[must_use]
    pub fn answers_due(&self, refused: &BTreeMap<DebtId, DeclineReason>) -> Answers {
        let mut waiting: Vec<_> = self.theirs.held.iter().collect();
        waiting.sort_unstable_by_key(|(id, held)| (held.at, **id));
        let mut answers = Answers::default();
        let mut room = self.room_to_accept();
        let mut locks = self.locks_to_accept();
        let repaid = self.theirs.settled;
        let repaid = repaid.saturating_add(self.theirs.sums_open().reserved);
        let mut repays = self.mine.settled.saturating_sub(repaid);
        let frozen = self.is_frozen();
        let fork = self.theirs.open_fork(self.id, self.other, &self.mine);
        let waits = !self.may_refuse();
        for (id, held) in waiting {
            let amount = u128::from(held.amount.0);
            let is_lock = matches!(id, DebtId::Lock(_));
            let reason = if frozen && fork.is_none_or(|fork| held.at > fork) {
                Some(DeclineReason::Frozen)
            } else if let Some(reason) = refused.get(id) {
                Some(*reason)
            } else if self.mine.closing() && amount > repays {
                Some(DeclineReason::Closing)
            } else if amount > room {
                Some(DeclineReason::AboveLimit)
            } else if is_lock && locks == 0 {
                Some(DeclineReason::TooMany)
            } else {
                None
            };
            match reason {
                Some(_) if waits => {}
                Some(reason) => answers.decline.push((*id, reason)),
                None => {
                    answers.accept.push(*id);
                    room = room.saturating_sub(amount);
                    repays = repays.saturating_sub(amount);
                    locks = locks.saturating_sub(usize::from(is_lock));
                }
            }
        }
        answers
    }

    /// What I can pay now: settled + held + reserved + amount - what the other side settled <= its
    /// limit, and with what it freed <= limit + overhang. What it holds for me never counts.
    #[must_use]
    pub fn available(&self) -> Amount {
        if self.is_frozen() || self.is_waiting() {
            return Amount::ZERO;
        }
        // A side that is closing takes repayment only, as if its limit were 0.
        let limit = if self.theirs.closing() {
            0
        } else {
            u128::from(self.theirs.limit().0)
        };
        let held = self.mine.sum_held();
        clamped(room(limit, &self.theirs, &self.mine, held))
    }

    /// How much of the other side's debts I can accept within my limit: what is settled and what is
    /// reserved counts, what is held in either direction does not.
    fn room_to_accept(&self) -> u128 {
        let limit = u128::from(self.mine.limit().0);
        room(limit, &self.mine, &self.theirs, 0)
    }

    /// How many more locks I can accept.
    fn locks_to_accept(&self) -> usize {
        let reserved = MAX_RESERVED.saturating_sub(self.theirs.sums_open().reservations);
        reserved.min(MAX_CLAIMS.saturating_sub(self.theirs.open.len()))
    }

    /// Where the next entry of this device goes: its sequence, and the hash of the entry before it.
    pub(super) fn next_place(&self, stamp: Stamp, resumes: bool) -> Result<(u64, Hash), Refusal> {
        match self.mine.newest() {
            Some((rank, chain)) if rank.certificate == stamp.certificate => {
                let tip = chain.longest().ok_or(Refusal::Exhausted)?;
                let sequence = tip.sequence.checked_add(1).ok_or(Refusal::Exhausted)?;
                Ok((sequence, tip.tip))
            }
            Some((rank, _)) if *rank > stamp.rank() => Err(Refusal::Replaced),
            Some(_) if !resumes => Err(Refusal::Resume),
            None if self.restore.is_some() && !resumes => Err(Refusal::Resume),
            _ => Ok((1, NO_ENTRY)),
        }
    }

    /// The next entry of this device.
    pub(super) fn draft(&self, stamp: Stamp, operation: Operation) -> Result<Entry, Refusal> {
        let resumes = matches!(operation, Operation::Resume { .. });
        let (sequence, previous) = self.next_place(stamp, resumes)?;
        let seen = self.theirs.newest().and_then(|(rank, chain)| {
            let tip = chain.longest()?;
            Some(Seen {
                chain: chain_id(self.id, self.other, rank.certificate),
                sequence: tip.sequence,
                hash: tip.tip,
            })
        });
        Ok(Entry {
            line: self.id,
            unit: self.unit.clone(),
            author: self.me,
            counterparty: self.other,
            certificate: stamp.certificate,
            sequence,
            previous,
            seen,
            time: stamp.now,
            operation,
        })
    }
}

/// How much more `debtor` may come to owe under `limit` and the creditor's overhang, where `held` counts
/// as owed.
fn room(limit: u128, creditor: &Side, debtor: &Side, held: u128) -> u128 {
    // No sum comes near 2^128 (see `receive`), and 0 is the meaning below 0: nothing is left.
    let open = debtor.sums_open();
    let used = debtor.settled.saturating_add(held);
    let used = used.saturating_add(open.reserved);
    let allowed = limit.saturating_add(creditor.settled);
    let overhang = u128::from(creditor.overhang().0);
    let with_freed = allowed.saturating_add(overhang);
    let used_with_freed = used.saturating_add(open.freed);
    let within = allowed.saturating_sub(used);
    within.min(with_freed.saturating_sub(used_with_freed))
}

/// A list for one entry: ascending, each once, 1 to `most`.
pub(super) fn listed<T: Ord + Copy>(items: &[T], most: usize) -> Result<Vec<T>, Refusal> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    if (1..=most).contains(&items.len()) {
        Ok(items)
    } else {
        Err(Refusal::Count { count: items.len() })
    }
}

/// An amount for showing and comparing with one payment, which is never above `u64::MAX`.
pub(super) fn clamped(value: u128) -> Amount {
    Amount(u64::try_from(value).unwrap_or(u64::MAX))
}
