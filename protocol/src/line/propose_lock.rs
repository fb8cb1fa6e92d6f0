//! What an owner may sign about locks: making one, opening, freeing and waiving it. As in `propose`
//! nothing changes here. Whether a lock may be waived depends on what was passed on: that is decided
//! where both lines are known, not here.

use super::entry::{
    DebtId, Entry, MAX_INSTRUCTIONS, MAX_NAMED, MAX_SETTLED, Opened, Operation, lock_id,
};
use super::propose::{Refusal, Stamp, clamped, listed};
use super::record::{DebtRecord, DebtStatus};
use super::{Line, MAX_CLAIMS, MAX_RESERVED, chain_id};
use crate::codec::Bytes;
use crate::condition::{Condition, Opening};
use crate::types::{Amount, Hash, LockId, Time};

/// A lock that is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLock {
    /// What its author calls it. An honest program never uses one for two locks.
    pub id: Hash,
    /// Above 0.
    pub amount: Amount,
    /// What must be opened.
    pub condition: Condition,
    /// Until when the creditor is asked to hold room for it.
    pub until: Time,
    /// What the creditor is to do next, at most [`MAX_INSTRUCTIONS`] bytes.
    pub instructions: Vec<u8>,
}

impl DebtRecord {
    /// This lock with its opening, for [`Line::propose_settle`]: `mine` when I am its debtor. `None` when
    /// that would say nothing: it is no lock, another opening's, opened already, or void.
    #[must_use]
    pub fn opened(&self, mine: bool, opening: Opening) -> Option<Opened> {
        let lock = self.lock.as_ref()?;
        let says_something = matches!(self.status(), DebtStatus::Held | DebtStatus::Open);
        let fits = self.opening.is_none() && opening.condition() == lock.condition;
        (says_something && fits).then_some(Opened {
            mine,
            certificate: lock.certificate,
            id: lock.id,
            amount: self.amount?,
            opening,
        })
    }
}

impl Line {
    /// The id that a lock of this device will have.
    #[must_use]
    pub fn lock_id(&self, stamp: Stamp, lock: &NewLock) -> LockId {
        let chain = chain_id(self.id, self.me, stamp.certificate);
        lock_id(chain, lock.id, lock.amount, &lock.condition)
    }

    /// Signs that I owe an amount once a condition is opened. `known` is the stored record of this lock
    /// ([`Self::lock_id`]) among my debts on this line.
    ///
    /// # Errors
    /// [`Refusal`] says what stands against it; [`Refusal::AlreadySigned`] means that it was done
    /// before.
    pub fn propose_lock(
        &self,
        stamp: Stamp,
        lock: &NewLock,
        known: Option<&DebtRecord>,
    ) -> Result<Entry, Refusal> {
        if let Some(record) = known.filter(|record| record.amount().is_some()) {
            return Err(Refusal::AlreadySigned {
                status: record.status(),
            });
        }
        if lock.instructions.len() > MAX_INSTRUCTIONS {
            return Err(Refusal::InstructionsTooLong {
                length: lock.instructions.len(),
            });
        }
        self.may_owe(stamp, lock.amount)?;
        let held = self.mine.held_locks();
        let reserved = held.saturating_add(self.mine.sums_open().reservations);
        let claims = held.saturating_add(self.mine.open.len());
        if reserved >= MAX_RESERVED || claims >= MAX_CLAIMS {
            return Err(Refusal::TooManyLocks);
        }
        self.draft(
            stamp,
            Operation::Lock {
                id: lock.id,
                amount: lock.amount,
                condition: lock.condition,
                until: lock.until,
                instructions: Bytes(lock.instructions.clone()),
            },
        )
    }

    /// Says that locks are opened, those of either side: see [`DebtRecord::opened`]. Works on a frozen
    /// line and while it waits: settlement never stops.
    ///
    /// # Errors
    /// [`Refusal::Count`] or what [`Self::propose_limit`] refuses.
    pub fn propose_settle(&self, stamp: Stamp, locks: &[Opened]) -> Result<Entry, Refusal> {
        let locks = listed(locks, MAX_SETTLED)?;
        self.draft(stamp, Operation::Settle { locks })
    }

    /// No longer holds room for locks of the other side: their time passed, or their payee cancelled.
    /// They are still owed if they are opened.
    ///
    /// # Errors
    /// [`Refusal::NotOpen`], [`Refusal::AboveOverhang`], [`Refusal::Count`] or what
    /// [`Self::propose_limit`] refuses.
    pub fn propose_free(&self, stamp: Stamp, locks: &[LockId]) -> Result<Entry, Refusal> {
        let locks = listed(locks, MAX_NAMED)?;
        let mut sum: u128 = 0;
        for id in &locks {
            let open = self.theirs.open.get(id).filter(|open| !open.freed);
            let open = open.ok_or(Refusal::NotOpen { id: *id })?;
            // At most 64 times 2^64: it fits.
            sum = sum.saturating_add(u128::from(open.amount.0));
        }
        let left = self.room_to_free();
        if sum > left {
            return Err(Refusal::AboveOverhang {
                amount: sum,
                available: clamped(left),
                overhang: self.mine.overhang(),
                unit: self.unit.clone(),
            });
        }
        self.draft(stamp, Operation::Free { locks })
    }

    /// How much more can be freed: the overhang, less what was freed and is still open.
    #[must_use]
    pub fn room_to_free(&self) -> u128 {
        let overhang = u128::from(self.mine.overhang().0);
        overhang.saturating_sub(self.theirs.sums_open().freed)
    }

    /// Gives up claims on the other side for good, whatever opens later. Only for locks that were not
    /// passed on, or whose next hop waived, or of which I am the payee.
    ///
    /// # Errors
    /// [`Refusal::NotOpen`], [`Refusal::Waiting`] (I may have passed it on before the restore),
    /// [`Refusal::Count`] or what [`Self::propose_limit`] refuses.
    pub fn propose_waive(&self, stamp: Stamp, locks: &[LockId]) -> Result<Entry, Refusal> {
        let locks = listed(locks, MAX_NAMED)?;
        for id in &locks {
            let held = self.theirs.held.contains_key(&DebtId::Lock(*id));
            if !held && !self.theirs.open.contains_key(id) {
                return Err(Refusal::NotOpen { id: *id });
            }
        }
        self.next_place(stamp, false)?;
        if !self.may_refuse() {
            return Err(Refusal::Waiting);
        }
        self.draft(stamp, Operation::Waive { locks })
    }
}
