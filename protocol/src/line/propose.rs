//! What an owner may sign on its line: admission, and the answers that are due. Nothing changes here;
//! the entry that comes back is signed, then goes through [`Line::receive`] like any other.

use super::chain::Rank;
use super::entry::{
    DeclineReason, Entry, MAX_ACCEPT, MAX_PURPOSE, NO_ENTRY, Operation, Seen, chain_id,
};
use super::record::{IouRecord, IouStatus};
use super::{Line, MAX_CHAINS, MAX_HELD};
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
    /// Too many IOUs wait for an answer.
    #[error("{MAX_HELD} of your IOUs wait for an answer on this line: wait for the other side")]
    TooManyHeld,
    /// This payment was made before, with the same amount: answer with what is stored.
    #[error("this payment was already signed and is {status:?}; it is not made twice")]
    AlreadySigned {
        /// How far it has come.
        status: IouStatus,
    },
    /// This id stands for something else.
    #[error(
        "the id of this payment was already used for another amount or answered before: use a new idempotency key"
    )]
    IdUsed,
    /// Not an IOU that waits for my answer.
    #[error("IOU {id} does not wait for your answer: it is unknown or was answered before")]
    NotHeld {
        /// Which one.
        id: PaymentId,
    },
    /// None or too many ids to accept at once.
    #[error("{count} IOUs cannot be accepted in one entry: 1 to {MAX_ACCEPT} can")]
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

/// The automatic answers to the other side's IOUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// To accept, in the order they were signed. Sign them in pieces of at most [`MAX_ACCEPT`].
    pub accept: Vec<PaymentId>,
    /// To decline, and why.
    pub decline: Vec<(PaymentId, DeclineReason)>,
}

impl Line {
    /// Sets how much the other side may owe me. Below what it owes, it only stops new debt.
    ///
    /// # Errors
    /// [`Refusal::Resume`], [`Refusal::Replaced`] or [`Refusal::Exhausted`].
    pub fn propose_limit(&self, stamp: Stamp, amount: Amount) -> Result<Entry, Refusal> {
        self.draft(stamp, Operation::Limit { amount })
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
        known: Option<&IouRecord>,
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
        if amount == Amount::ZERO {
            return Err(Refusal::Zero);
        }
        if purpose.len() > MAX_PURPOSE {
            return Err(Refusal::PurposeTooLong {
                length: purpose.len(),
            });
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
        if amount > available {
            let unit = self.unit.clone();
            return Err(if self.theirs.closing() {
                Refusal::Closing { available, unit }
            } else {
                Refusal::AboveLimit {
                    amount,
                    available,
                    limit: self.theirs.limit(),
                    unit,
                }
            });
        }
        self.draft(
            stamp,
            Operation::Iou {
                id,
                amount,
                purpose: purpose.to_owned(),
            },
        )
    }

    /// Accepts IOUs of the other side: all that [`Self::answers_due`] names, or some. Also works on a
    /// frozen line: settlement never stops.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`], [`Refusal::AboveMyLimit`], [`Refusal::Count`] or what
    /// [`Self::propose_limit`] refuses.
    pub fn propose_accept(&self, stamp: Stamp, ious: &[PaymentId]) -> Result<Entry, Refusal> {
        let mut ious = ious.to_vec();
        ious.sort_unstable();
        ious.dedup();
        if !(1..=MAX_ACCEPT).contains(&ious.len()) {
            return Err(Refusal::Count { count: ious.len() });
        }
        let mut sum: u128 = 0;
        for id in &ious {
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
        self.draft(stamp, Operation::Accept { ious })
    }

    /// Declines an IOU of the other side that waits for my answer.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`], [`Refusal::Waiting`] (I may have accepted it before the restore) or what [`Self::propose_limit`] refuses.
    pub fn propose_decline(
        &self,
        stamp: Stamp,
        iou: PaymentId,
        reason: DeclineReason,
    ) -> Result<Entry, Refusal> {
        if !self.theirs.held.contains_key(&iou) {
            return Err(Refusal::NotHeld { id: iou });
        }
        self.next_place(stamp, false)?;
        if self.is_waiting() {
            return Err(Refusal::Waiting);
        }
        self.draft(stamp, Operation::Decline { iou, reason })
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

    /// How each IOU that waits for my answer is to be answered, by my limit alone: nobody has to be
    /// asked. Empty when nothing waits. Sign and apply the answers, in the order given here, after a
    /// `Resume` that is due. After an incomplete restore, declines wait for the other side's answer.
    #[must_use]
    pub fn answers_due(&self) -> Answers {
        let mut waiting: Vec<_> = self.theirs.held.iter().collect();
        waiting.sort_unstable_by_key(|(id, held)| (held.at, **id));
        let mut answers = Answers::default();
        let mut room = self.room_to_accept();
        let mut repays = self.mine.settled.saturating_sub(self.theirs.settled);
        let frozen = self.is_frozen();
        let fork = self.theirs.open_fork(self.id, self.other, &self.mine);
        let waits = self.is_waiting();
        for (id, held) in waiting {
            let amount = u128::from(held.amount.0);
            let reason = if frozen && fork.is_none_or(|fork| held.at > fork) {
                Some(DeclineReason::Frozen)
            } else if self.mine.closing() && amount > repays {
                Some(DeclineReason::Closing)
            } else if amount > room {
                Some(DeclineReason::AboveLimit)
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
                }
            }
        }
        answers
    }

    /// What I can pay now: settled + held + amount - what the other side settled <= its limit. What
    /// it holds for me never counts.
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
        let allowed = limit.saturating_add(self.theirs.settled);
        let used = self.mine.settled.saturating_add(self.mine.sum_held());
        // Saturation at 0 is the meaning: nothing is left.
        clamped(allowed.saturating_sub(used))
    }

    /// How much of the other side's IOUs I can accept within my limit: what is settled counts, what
    /// is held in either direction does not.
    fn room_to_accept(&self) -> u128 {
        let allowed = u128::from(self.mine.limit().0).saturating_add(self.mine.settled);
        allowed.saturating_sub(self.theirs.settled)
    }

    /// Where the next entry of this device goes: its sequence, and the hash of the entry before it.
    fn next_place(&self, stamp: Stamp, resumes: bool) -> Result<(u64, Hash), Refusal> {
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

/// An amount for showing and comparing with one payment, which is never above `u64::MAX`.
fn clamped(value: u128) -> Amount {
    Amount(u64::try_from(value).unwrap_or(u64::MAX))
}
