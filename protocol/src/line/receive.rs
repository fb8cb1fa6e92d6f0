//! How an entry, one's own or the other side's, changes a line. Two steps that change nothing
//! ([`Line::needs`], [`Line::receive`]) and one that cannot fail ([`Line::apply`]).

use std::collections::BTreeMap;

use super::entry::{Entry, Malformed, Operation, Seen};
use super::record::{EntryRecord, IouRecord, Place, Share, Terms};
use super::{Branch, Chain, Held, Line, MAX_BRANCHES, MAX_HELD, Side};
use crate::types::{AccountId, Hash, PaymentId};

/// The highest sum of settled amounts per direction: far above 2^64 entries of an honest author, and
/// low enough that sums and differences of four of them fit an `i128`.
const MAX_GROSS: u128 = 1 << 124;

/// What to look up before [`Line::receive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Whose IOUs `ious` are.
    pub debtor: AccountId,
    /// Ids whose [`IouRecord`] is needed, if there is one. At most [`super::MAX_ACCEPT`].
    pub ious: Vec<PaymentId>,
    /// Whether [`Known::here`] and [`Known::previous`] are needed: only when the entry does not simply
    /// continue its chain.
    pub place: bool,
}

/// What was looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The stored records of the ids in [`Needs::ious`].
    pub ious: BTreeMap<PaymentId, IouRecord>,
    /// The hashes of all entries applied at the same chain and sequence, this one included if it was.
    /// Entries that are kept but not applied do not belong here.
    pub here: Vec<Hash>,
    /// The record of the applied entry whose hash is the entry's `previous`.
    pub previous: Option<EntryRecord>,
}

/// Why an entry is not applied. After [`Gap`](EntryFault::Gap), [`Full`](EntryFault::Full) and
/// [`OtherDevice`](EntryFault::OtherDevice) it is kept and tried again; after the others it is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// Applied before. Harmless.
    #[error("this entry is already known")]
    Duplicate,
    /// An entry before it is missing: keep it, ask for `missing`, and try again after that one.
    #[error(
        "entry {sequence} came before entry {missing} of its chain: it is kept until that arrives"
    )]
    Gap {
        /// The sequence of this entry.
        sequence: u64,
        /// The lowest sequence that is missing.
        missing: u64,
    },
    /// Too many IOUs wait for an answer: keep it, apply the creditor's answers, and try again.
    #[error(
        "{held} IOUs of this author wait for an answer, which is the most: it is kept until some are answered"
    )]
    Full {
        /// How many wait.
        held: usize,
    },
    /// Not an entry of this line.
    #[error("the entry belongs to another line, unit or pair of accounts")]
    WrongLine,
    /// Signed by another device than the chain known here. Keep it.
    #[error(
        "the entry is by another device of its author (certificate {found}, known: {known}); a new device must begin with Resume, which this version does not know: update, the entry is kept"
    )]
    OtherDevice {
        /// The certificate of the chain known here.
        known: Hash,
        /// The certificate of the entry.
        found: Hash,
    },
    /// One more branch than is kept. The line is frozen long since; the entry proves nothing new.
    #[error(
        "the author has signed {MAX_BRANCHES} contradicting branches of its chain; no more are kept"
    )]
    TooManyBranches,
    /// Wrong in itself.
    #[error("the entry is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A sum does not fit.
    #[error("the sums of this line would no longer fit")]
    Overflow,
}

/// Two entries at one place, found by [`Line::receive`]. Fetch both and make an
/// [`super::EquivocationProof`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equivocation {
    /// Who signed both.
    pub author: AccountId,
    /// Their place in the chain.
    pub sequence: u64,
    /// The entry applied earlier.
    pub first: Hash,
    /// The entry that came second.
    pub second: Hash,
}

/// A decided change. Store `records` and `entry`, hand it to [`Line::apply`], all in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Received {
    /// Whose IOUs `records` are.
    pub debtor: AccountId,
    /// The new record of each IOU that this entry touched.
    pub records: BTreeMap<PaymentId, IouRecord>,
    /// To store under the hash of the entry.
    pub entry: EntryRecord,
    /// Set when this entry contradicts an earlier one. Both count; new debt stops.
    pub equivocation: Option<Equivocation>,
    /// Set when the author had seen an entry of the other side that is not known here. If that side
    /// is me, I have forgotten something and must not sign.
    pub missing: Option<Seen>,
    next: Line,
}

impl Received {
    /// The line as it will be after [`Line::apply`].
    #[must_use]
    pub fn line(&self) -> &Line {
        &self.next
    }
}

impl Line {
    /// What [`Self::receive`] has to know of the store for this entry. Cheap; changes nothing.
    #[must_use]
    pub fn needs(&self, entry: &Entry) -> Needs {
        let mine = entry.author == self.me;
        let other = if mine { self.other } else { self.me };
        let (debtor, ious) = match &entry.operation {
            Operation::Iou { id, .. } => (entry.author, vec![*id]),
            Operation::Accept { ious } => (other, ious.clone()),
            Operation::Decline { iou, .. } => (other, vec![*iou]),
            Operation::Limit { .. } | Operation::Close { .. } => (other, Vec::new()),
        };
        let side = if mine { &self.mine } else { &self.theirs };
        let continues = match &side.chain {
            Some(chain) => chain.continued_by(entry).is_some(),
            None => entry.sequence == 1,
        };
        Needs {
            debtor,
            ious,
            place: !continues,
        }
    }

    /// Decides what an entry does. It must have been opened with the key of the device that its
    /// certificate names, and `hash` must be [`crate::crypto::Signed::hash`] of what carried it.
    /// Changes nothing; [`Self::apply`] does.
    ///
    /// # Errors
    /// [`EntryFault`] says why the entry is not applied (yet), and what to do with it. No entry is
    /// refused because of what the other side signed.
    pub fn receive(
        &self,
        entry: &Entry,
        hash: Hash,
        known: &Known,
    ) -> Result<Received, EntryFault> {
        let mine = entry.author == self.me;
        let pair = if mine {
            (self.me, self.other)
        } else {
            (self.other, self.me)
        };
        if entry.line != self.id || entry.unit != self.unit {
            return Err(EntryFault::WrongLine);
        }
        if (entry.author, entry.counterparty) != pair {
            return Err(EntryFault::WrongLine);
        }
        entry.check()?;
        if known.here.contains(&hash) {
            return Err(EntryFault::Duplicate);
        }

        // From here on a copy is changed. It becomes the line only in `apply`.
        let mut next = self.clone();
        let (author, opposite) = if mine {
            (&mut next.mine, &mut next.theirs)
        } else {
            (&mut next.theirs, &mut next.mine)
        };
        let (record, rival) = author.place(entry, hash, known)?;
        let equivocation = rival.map(|first| Equivocation {
            author: entry.author,
            sequence: entry.sequence,
            first,
            second: hash,
        });
        let missing = entry
            .seen
            .filter(|seen| !opposite.has_reached(self.id, pair.1, seen));

        let mut records = BTreeMap::new();
        let old = |id: &PaymentId| known.ious.get(id).cloned().unwrap_or_default();
        let debtor = match &entry.operation {
            Operation::Iou { id, amount, .. } => {
                let mut iou = old(id);
                // The id counts once. Under an equal id the larger amount counts, in whatever order
                // the two arrive: its debtor signed both.
                iou.sequence = match iou.amount {
                    Some(_) => iou.sequence.min(entry.sequence),
                    None => entry.sequence,
                };
                iou.amount = iou.amount.max(Some(*amount));
                replace(author, opposite, *id, &old(id), &iou)?;
                if author.held.len() > MAX_HELD {
                    return Err(EntryFault::Full { held: MAX_HELD });
                }
                records.insert(*id, iou);
                entry.author
            }
            Operation::Accept { ious } => {
                for id in ious {
                    let mut iou = old(id);
                    if !author.has_answered(&iou, record.place) {
                        iou.accepted.push(record.place);
                        replace(opposite, author, *id, &old(id), &iou)?;
                        records.insert(*id, iou);
                    }
                }
                pair.1
            }
            Operation::Decline { iou: id, .. } => {
                let mut iou = old(id);
                if !author.has_answered(&iou, record.place) {
                    iou.declined.push(record.place);
                    replace(opposite, author, *id, &old(id), &iou)?;
                    records.insert(*id, iou);
                }
                pair.1
            }
            Operation::Limit { .. } | Operation::Close { .. } => pair.1,
        };
        Ok(Received {
            debtor,
            records,
            entry: record,
            equivocation,
            missing,
            next,
        })
    }

    /// Makes a decided change. Cannot fail; `received` must have been decided on this very state.
    pub fn apply(&mut self, received: Received) {
        *self = received.next;
    }
}

/// Moves one IOU from its old share of the sums to its new one. Settled sums only grow.
fn replace(
    debtor: &mut Side,
    creditor: &mut Side,
    id: PaymentId,
    before: &IouRecord,
    after: &IouRecord,
) -> Result<(), EntryFault> {
    let (old, new): (Share, Share) = (before.share(), after.share());
    debtor.settled = moved(debtor.settled, old.settled, new.settled)?;
    creditor.settled = moved(creditor.settled, old.returned, new.returned)?;
    match new.held {
        Some(amount) => debtor.held.insert(
            id,
            Held {
                amount,
                sequence: after.sequence,
            },
        ),
        None => debtor.held.remove(&id),
    };
    Ok(())
}

fn moved(sum: u128, old: u128, new: u128) -> Result<u128, EntryFault> {
    sum.checked_sub(old)
        .and_then(|rest| rest.checked_add(new))
        .filter(|sum| *sum <= MAX_GROSS)
        .ok_or(EntryFault::Overflow)
}

impl Chain {
    /// The number of the branch whose last entry this one names as its previous.
    fn continued_by(&self, entry: &Entry) -> Option<usize> {
        if self.certificate != entry.certificate {
            return None;
        }
        self.branches.iter().position(|branch| {
            branch.tip == entry.previous && branch.sequence.checked_add(1) == Some(entry.sequence)
        })
    }
}

impl Side {
    /// Puts an entry into its chain; names the entry that it contradicts, if any.
    fn place(
        &mut self,
        entry: &Entry,
        hash: Hash,
        known: &Known,
    ) -> Result<(EntryRecord, Option<Hash>), EntryFault> {
        let gap = |missing| EntryFault::Gap {
            sequence: entry.sequence,
            missing,
        };
        let Some(chain) = &mut self.chain else {
            if entry.sequence != 1 {
                return Err(gap(1));
            }
            let record = continued(Terms::default(), 0, entry, hash);
            let branch = Branch::new(None, None, entry.sequence, hash, record.terms);
            self.chain = Some(Chain {
                certificate: entry.certificate,
                branches: vec![branch],
            });
            return Ok((record, None));
        };
        if chain.certificate != entry.certificate {
            return Err(EntryFault::OtherDevice {
                known: chain.certificate,
                found: entry.certificate,
            });
        }
        if let Some(number) = chain.continued_by(entry) {
            let number_u8 = u8::try_from(number).map_err(|_| EntryFault::TooManyBranches)?;
            let branch = chain
                .branches
                .get_mut(number)
                .ok_or(EntryFault::TooManyBranches)?;
            let record = continued(branch.terms, number_u8, entry, hash);
            branch.sequence = entry.sequence;
            branch.tip = hash;
            branch.terms = record.terms;
            return Ok((record, None));
        }
        if chain.branches.iter().any(|branch| branch.tip == hash) {
            return Err(EntryFault::Duplicate);
        }
        // A second entry after a known one (or a second first one), or one whose predecessor is not
        // here.
        let top = chain
            .branches
            .iter()
            .map(|branch| branch.sequence)
            .max()
            .unwrap_or_default();
        if entry
            .sequence
            .checked_sub(1)
            .is_none_or(|before| before > top)
        {
            return Err(gap(top.saturating_add(1)));
        }
        let (parent, terms) = match known.previous {
            _ if entry.sequence == 1 => (None, Terms::default()),
            Some(previous) if previous.place.sequence.checked_add(1) == Some(entry.sequence) => {
                (Some(previous.place.branch), previous.terms)
            }
            _ => return Err(gap(entry.sequence.saturating_sub(1))),
        };
        // What follows a known entry and is not the end of a branch has an applied rival. A caller that
        // looked nothing up must not freeze a line by a replay.
        let rival = *known.here.iter().min().ok_or(EntryFault::Duplicate)?;
        let number = u8::try_from(chain.branches.len()).map_err(|_| EntryFault::TooManyBranches)?;
        if chain.branches.len() >= MAX_BRANCHES {
            return Err(EntryFault::TooManyBranches);
        }
        let record = continued(terms, number, entry, hash);
        let branch = Branch::new(parent, Some(rival), entry.sequence, hash, record.terms);
        chain.branches.push(branch);
        Ok((record, Some(rival)))
    }

    /// Whether this side, as creditor, has answered the IOU on the way to `place`: the first answer
    /// on a branch counts, later ones are void.
    fn has_answered(&self, iou: &IouRecord, place: Place) -> bool {
        let branches = self.chain.as_ref().map(|chain| chain.branches.as_slice());
        let branches = branches.unwrap_or_default();
        iou.accepted
            .iter()
            .chain(&iou.declined)
            .any(|at| at.is_before(place, branches))
    }

    /// Whether this side's chain is known here as far as `seen` says it goes.
    fn has_reached(&self, line: crate::types::LineId, account: AccountId, seen: &Seen) -> bool {
        self.chain.as_ref().is_some_and(|chain| {
            super::chain_id(line, account, chain.certificate) == seen.chain
                && chain
                    .branches
                    .iter()
                    .any(|branch| branch.sequence >= seen.sequence)
        })
    }
}

/// The record of an entry that comes after `terms` on a branch.
fn continued(terms: Terms, branch: u8, entry: &Entry, hash: Hash) -> EntryRecord {
    let mut terms = terms;
    match &entry.operation {
        Operation::Limit { amount } => {
            terms.limit = *amount;
            // New credit says that the line is in use.
            if amount.0 > 0 {
                terms.close = None;
            }
        }
        Operation::Iou { .. } => {
            terms.last_debt = Some(hash);
            terms.close = None;
        }
        Operation::Close { last } => terms.close = Some(*last),
        Operation::Accept { .. } | Operation::Decline { .. } => {}
    }
    EntryRecord {
        place: Place {
            branch,
            sequence: entry.sequence,
        },
        terms,
    }
}
