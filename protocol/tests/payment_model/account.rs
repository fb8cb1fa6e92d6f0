//! One account with its lines and what a node would store: everything that comes next is read off that.

use std::collections::BTreeMap;

use pumasi_protocol::condition::Opening;
use pumasi_protocol::crypto::{Signable, hash};
use pumasi_protocol::line::{
    DebtId, DebtRecord, DebtStatus, DeclineReason, Entry, EntryFault, EntryRecord, Known, Line,
    MAX_NAMED, Operation, Refusal, Span, Stamp, lock_id,
};
use pumasi_protocol::payment::{self, Fee, Instructions, Offer, hop, payee};
use pumasi_protocol::types::{AccountId, Amount, Hash, LineId, LockId, Time};

pub(crate) const FEE: Fee = Fee {
    base: Amount(1),
    per_million: 0,
};

/// A lock as its entry says it.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) line: LineId,
    pub(crate) debtor: AccountId,
    pub(crate) instructions: Instructions,
}

#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) id: AccountId,
    pub(crate) device: Hash,
    pub(crate) epoch: u64,
    pub(crate) lines: BTreeMap<LineId, Line>,
    pub(crate) entries: BTreeMap<Hash, (Entry, EntryRecord)>,
    pub(crate) debts: BTreeMap<(LineId, AccountId, DebtId), DebtRecord>,
    pub(crate) locks: BTreeMap<LockId, Signed>,
    pub(crate) waiting: Vec<Entry>,
    /// Openings that came from elsewhere: the payee, or an evidence store.
    pub(crate) evidence: Vec<Opening>,
    /// What this account offered as a payee, with its openings, and how far that is.
    pub(crate) offers: Vec<(Offer, Vec<Opening>, payee::Stage)>,
    pub(crate) out: Vec<(AccountId, Entry)>,
    pub(crate) now: Time,
}

pub(crate) fn hash_of(entry: &Entry) -> Hash {
    hash(Entry::CONTEXT, &[&pumasi_protocol::codec::encode(entry)])
}

/// Restored devices have a mark and their epoch at the end of their certificate hash.
fn epoch_of(certificate: Hash) -> u64 {
    match certificate.0 {
        [.., 0xee, last] => u64::from(last),
        _ => 1,
    }
}

impl Account {
    pub(crate) fn new(id: AccountId, others: &[AccountId]) -> Self {
        let lines = others.iter().map(|other| {
            let line = Line::new(id, *other, "KRW".parse().unwrap()).unwrap();
            (line.id(), line)
        });
        Self {
            id,
            device: Hash(id.0),
            epoch: 1,
            lines: lines.collect(),
            entries: BTreeMap::new(),
            debts: BTreeMap::new(),
            locks: BTreeMap::new(),
            waiting: Vec::new(),
            evidence: Vec::new(),
            offers: Vec::new(),
            out: Vec::new(),
            now: Time(1_000),
        }
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            certificate: self.device,
            epoch: self.epoch,
            now: self.now,
        }
    }

    pub(crate) fn line_with(&self, other: AccountId) -> Option<&Line> {
        self.lines.values().find(|line| line.other() == other)
    }

    fn take(&mut self, entry: &Entry) -> Result<(), EntryFault> {
        let line = &self.lines[&entry.line];
        let needs = line.needs(entry);
        let mut known = Known {
            epoch: epoch_of(entry.certificate),
            ..Known::default()
        };
        let here = |hash: &Hash| self.entries.contains_key(hash);
        known.adopted = needs.adopted.into_iter().filter(here).collect();
        for (debtor, id) in needs.debts {
            if let Some(record) = self.debts.get(&(entry.line, debtor, id)) {
                known.debts.insert((debtor, id), record.clone());
            }
        }
        if needs.place {
            let at = (entry.chain(), entry.sequence);
            let same = self
                .entries
                .iter()
                .filter(|(_, (e, _))| (e.chain(), e.sequence) == at);
            known.here = same.map(|(hash, _)| *hash).collect();
            known.previous = self.entries.get(&entry.previous).map(|(_, record)| *record);
        }
        let hash = hash_of(entry);
        let received = line.receive(entry, hash, &known)?;
        self.entries.insert(hash, (entry.clone(), received.entry));
        for ((debtor, id), record) in &received.records {
            let key = (entry.line, *debtor, *id);
            self.debts.insert(key, record.clone());
        }
        self.lines.get_mut(&entry.line).unwrap().apply(received);
        if let Operation::Lock {
            id,
            amount,
            condition,
            instructions,
            ..
        } = &entry.operation
        {
            let lock = lock_id(entry.chain(), *id, *amount, condition);
            let signed = Signed {
                line: entry.line,
                debtor: entry.author,
                instructions: pumasi_protocol::codec::decode(&instructions.0).unwrap(),
            };
            self.locks.insert(lock, signed);
        }
        Ok(())
    }

    /// Signs, applies and sends.
    pub(crate) fn sign(&mut self, draft: Result<Entry, Refusal>) -> bool {
        let Ok(entry) = draft else { return false };
        self.take(&entry).unwrap();
        self.out.push((entry.counterparty, entry));
        true
    }

    pub(crate) fn receive(&mut self, entry: Entry) {
        self.waiting.push(entry);
        loop {
            let before = self.waiting.len();
            for entry in std::mem::take(&mut self.waiting) {
                match self.take(&entry) {
                    Ok(()) if matches!(entry.operation, Operation::Resume { .. }) => {
                        self.answer_resume(&entry);
                    }
                    Ok(()) | Err(EntryFault::Duplicate | EntryFault::NotNamed { .. }) => {}
                    Err(EntryFault::Gap { .. }) => self.waiting.push(entry),
                    Err(fault) => panic!("{fault}"),
                }
            }
            if self.waiting.len() == before {
                break;
            }
        }
        self.resume();
    }

    fn answer_resume(&mut self, resume: &Entry) {
        if resume.author == self.id {
            return;
        }
        let spans = self.lines[&resume.line].after_resume(resume);
        let found = self.load(&spans);
        let to = found.into_iter().map(|entry| (resume.author, entry));
        self.out.extend(to);
    }

    pub(crate) fn load(&self, spans: &[Span]) -> Vec<Entry> {
        let wanted = |entry: &&Entry| {
            spans.iter().any(|span| {
                span.chain == entry.chain() && (span.from..=span.to).contains(&entry.sequence)
            })
        };
        let entries = self.entries.values().map(|(entry, _)| entry);
        entries.filter(wanted).cloned().collect()
    }

    /// Signs the `Resume` that is due on any line.
    pub(crate) fn resume(&mut self) {
        for id in self.lines.keys().copied().collect::<Vec<_>>() {
            let draft = self.lines[&id].propose_resume(self.stamp());
            self.sign(draft);
        }
    }

    /// A new device, on what the archive has: all of it.
    pub(crate) fn restore(&mut self) {
        self.epoch += 1;
        self.device.0[30] = 0xee;
        self.device.0[31] = self.epoch as u8;
        for line in self.lines.values_mut() {
            line.mark_restored(self.device, false);
        }
        self.resume();
    }

    fn debt(&self, line: LineId, debtor: AccountId, lock: LockId) -> Option<&DebtRecord> {
        self.debts.get(&(line, debtor, DebtId::Lock(lock)))
    }

    /// The lock onward for one that came in: by this device, or an earlier one.
    fn onward(&self, lock: LockId) -> Option<(LineId, LockId)> {
        let id = hop::onward_id(lock);
        let found = self.debts.iter().find(|((_, debtor, _), record)| {
            *debtor == self.id && record.lock().is_some_and(|terms| terms.id == id)
        });
        found.and_then(|((line, _, debt), _)| match debt {
            DebtId::Lock(lock) => Some((*line, *lock)),
            DebtId::Iou(_) => None,
        })
    }

    /// Does one thing that is due, if anything is: as a hop, as a payee, as a creditor.
    pub(crate) fn step(&mut self, refuse: bool) -> bool {
        self.resume();
        let incoming: Vec<_> = self
            .locks
            .iter()
            .filter(|(_, signed)| signed.debtor != self.id)
            .map(|(lock, signed)| (*lock, signed.clone()))
            .collect();
        let mut refused = BTreeMap::new();
        for (lock, signed) in &incoming {
            let moved = match &signed.instructions {
                Instructions::PassOn(onward) => self.pass_on(*lock, signed, onward, &mut refused),
                Instructions::Payee { offer } => {
                    self.take_as_payee(*lock, signed, *offer, &mut refused)
                }
            };
            if moved {
                return true;
            }
        }
        if self.answer(&refused, refuse) {
            return true;
        }
        self.settle_as_payer()
    }

    fn answer(&mut self, refused: &BTreeMap<DebtId, DeclineReason>, refuse: bool) -> bool {
        for id in self.lines.keys().copied().collect::<Vec<_>>() {
            let mut answers = self.lines[&id].answers_due(refused);
            // What nobody decided about waits.
            answers.accept.retain(|debt| !refused.contains_key(debt));
            answers.accept.truncate(MAX_NAMED);
            if !answers.accept.is_empty() {
                let draft = self.lines[&id].propose_accept(self.stamp(), &answers.accept);
                return self.sign(draft);
            }
            if let Some((debt, reason)) = answers.decline.first().filter(|_| refuse) {
                let draft = self.lines[&id].propose_decline(self.stamp(), *debt, *reason);
                if self.sign(draft) {
                    return true;
                }
            }
        }
        false
    }

    fn opening_for(&self, record: &DebtRecord) -> Option<Opening> {
        let condition = record.lock()?.condition;
        let known = self.debts.values().filter_map(DebtRecord::opening);
        let known = known.chain(self.evidence.iter().copied());
        known
            .into_iter()
            .find(|opening| opening.condition() == condition)
    }

    fn pass_on(
        &mut self,
        lock: LockId,
        signed: &Signed,
        onward: &payment::Onward,
        refused: &mut BTreeMap<DebtId, DeclineReason>,
    ) -> bool {
        let incoming = self.debt(signed.line, signed.debtor, lock).unwrap().clone();
        let out = self.onward(lock);
        let outgoing = out
            .and_then(|(line, lock)| self.debt(line, self.id, lock))
            .cloned();
        let line = self.line_with(onward.next).cloned();
        let next = hop::next(&hop::Facts {
            incoming: &incoming,
            lock,
            onward,
            outgoing: outgoing.as_ref(),
            line: line.as_ref(),
            terms: hop::Terms {
                transit: true,
                fee: FEE,
            },
            load: hop::Load::default(),
            opening: self.opening_for(&incoming),
            safe: true,
            complete: self.lines.values().all(Line::may_refuse),
            now: self.now,
        });
        let (stamp, line_in) = (self.stamp(), &self.lines[&signed.line]);
        match next {
            hop::Next::Wait | hop::Next::Accept => false,
            hop::Next::Decline(reason) => {
                refused.insert(DebtId::Lock(lock), reason);
                false
            }
            hop::Next::Lock(new) => {
                let draft = line.unwrap().propose_lock(stamp, &new, None);
                self.sign(draft)
            }
            hop::Next::Settle {
                incoming: on_in,
                outgoing: on_out,
            } => {
                let opening = self.opening_for(&incoming).unwrap();
                if on_in {
                    let opened = incoming.opened(false, opening).unwrap();
                    let draft = line_in.propose_settle(stamp, &[opened]);
                    assert!(self.sign(draft));
                }
                if on_out {
                    let opened = outgoing.unwrap().opened(true, opening).unwrap();
                    let (id, _) = out.unwrap();
                    let draft = self.lines[&id].propose_settle(stamp, &[opened]);
                    assert!(self.sign(draft));
                }
                true
            }
            hop::Next::Free => {
                let draft = line_in.propose_free(stamp, &[lock]);
                self.sign(draft)
            }
            hop::Next::Waive => {
                let draft = line_in.propose_waive(stamp, &[lock]);
                self.sign(draft)
            }
        }
    }

    fn take_as_payee(
        &mut self,
        lock: LockId,
        signed: &Signed,
        offer: Hash,
        refused: &mut BTreeMap<DebtId, DeclineReason>,
    ) -> bool {
        let Some(at) = self
            .offers
            .iter()
            .position(|(known, ..)| known.attempt == offer)
        else {
            refused.insert(DebtId::Lock(lock), DeclineReason::Unexpected);
            return false;
        };
        let record = self.debt(signed.line, signed.debtor, lock).unwrap().clone();
        let (offer, openings, stage) = self.offers[at].clone();
        let (stamp, line) = (self.stamp(), &self.lines[&signed.line]);
        match payee::next(&offer, stage, &[Some(&record)], self.now) {
            payee::Next::Wait | payee::Next::Accept(_) => false,
            payee::Next::Decline(_, reason) => {
                refused.insert(DebtId::Lock(lock), reason);
                false
            }
            payee::Next::Decide => {
                self.offers[at].2 = payee::Stage::Opening;
                true
            }
            payee::Next::Open(part) => {
                let opened = record.opened(false, openings[part]).unwrap();
                let draft = line.propose_settle(stamp, &[opened]);
                self.sign(draft)
            }
            payee::Next::Waive(_) => {
                let draft = line.propose_waive(stamp, &[lock]);
                self.sign(draft)
            }
        }
    }

    /// The payer says what it heard from the payee on its own line.
    fn settle_as_payer(&mut self) -> bool {
        let own = self
            .debts
            .iter()
            .filter(|((_, debtor, _), _)| *debtor == self.id);
        let own = own.map(|((line, ..), record)| (*line, record.clone()));
        let own: Vec<_> = own.collect();
        for (line, record) in own {
            let evidence = self.evidence.clone();
            for opening in evidence {
                let passed_on = record.lock().is_some_and(|terms| {
                    self.locks
                        .keys()
                        .any(|lock| hop::onward_id(*lock) == terms.id)
                });
                if passed_on {
                    continue;
                }
                if let Some(opened) = record.opened(true, opening) {
                    let draft = self.lines[&line].propose_settle(self.stamp(), &[opened]);
                    return self.sign(draft);
                }
            }
        }
        false
    }

    /// What others owe this account, less what it owes, over all lines.
    pub(crate) fn net(&self) -> i128 {
        self.lines.values().map(Line::balance).sum()
    }

    /// Locks in either direction that may still be opened.
    pub(crate) fn open(&self) -> usize {
        let open = self.debts.values().map(DebtRecord::status);
        open.filter(|status| matches!(status, DebtStatus::Open | DebtStatus::Held))
            .count()
    }
}
