//! One end of one line with its store.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::codec::{decode, encode};
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::line::{
    DebtId, DebtRecord, Entry, EntryFault, EntryRecord, Known, Line, Operation, Span,
};
use pumasi_protocol::types::{AccountId, Hash, Unit};

use super::model::{Model, epoch_of};

/// One line at one end, with what a node would keep in its store.
#[derive(Clone)]
pub(crate) struct Book {
    pub(crate) line: Line,
    pub(crate) entries: BTreeMap<Hash, Entry>,
    pub(crate) records: BTreeMap<Hash, EntryRecord>,
    pub(crate) debts: BTreeMap<(AccountId, DebtId), DebtRecord>,
    pub(crate) waiting: Vec<Signed<Entry>>,
}

impl Book {
    pub(crate) fn new(me: AccountId, other: AccountId, unit: &str) -> Self {
        let unit: Unit = unit.parse().unwrap();
        Self {
            line: Line::new(me, other, unit).unwrap(),
            entries: BTreeMap::new(),
            records: BTreeMap::new(),
            debts: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, signed: &Signed<Entry>) -> Result<(), EntryFault> {
        let (entry, hash) = (signed.unverified().unwrap(), signed.hash());
        let needs = self.line.needs(&entry);
        let mut known = Known {
            epoch: epoch_of(entry.certificate),
            ..Known::default()
        };
        let applied = |hash: &Hash| self.entries.contains_key(hash);
        known.adopted = needs.adopted.into_iter().filter(applied).collect();
        for key in needs.debts {
            if let Some(record) = self.debts.get(&key) {
                known.debts.insert(key, record.clone());
            }
        }
        if needs.place {
            let here = self
                .entries
                .iter()
                .filter(|(_, e)| (e.chain(), e.sequence) == (entry.chain(), entry.sequence));
            known.here = here.map(|(hash, _)| *hash).collect();
            known.previous = self.records.get(&entry.previous).copied();
        }
        let before = self.line.clone();
        let received = self.line.receive(&entry, hash, &known)?;
        assert_eq!(self.line, before, "deciding changes nothing");
        if let Some(found) = received.equivocation {
            assert!(self.entries.contains_key(&found.first) && found.second == hash);
        }
        self.entries.insert(hash, entry);
        self.records.insert(hash, received.entry);
        self.debts.extend(received.records.clone());
        self.line.apply(received);
        self.check();
        Ok(())
    }

    /// Takes an entry, or keeps it until those before it came. Whatever else happens is a mistake.
    pub(crate) fn deliver(&mut self, signed: &Signed<Entry>) {
        self.waiting.push(signed.clone());
        loop {
            let before = self.waiting.len();
            for signed in std::mem::take(&mut self.waiting) {
                match self.take(&signed) {
                    Ok(()) | Err(EntryFault::Duplicate) => {}
                    Err(EntryFault::Gap { .. }) => self.waiting.push(signed),
                    // Too late, and sent again if a later Resume names it.
                    Err(EntryFault::NotNamed { .. }) => assert!(self.is_old(&signed)),
                    Err(fault) => panic!("{fault}"),
                }
            }
            if self.waiting.len() == before {
                return;
            }
        }
    }

    pub(crate) fn is_old(&self, signed: &Signed<Entry>) -> bool {
        let entry = signed.unverified().unwrap();
        self.line.certificate(entry.author) != Some(entry.certificate)
    }

    /// The other side's `Resume` entries that are applied.
    pub(crate) fn resumes(&self) -> Vec<Hash> {
        let mut found = Vec::new();
        for (hash, entry) in &self.entries {
            let resumes = matches!(entry.operation, Operation::Resume { .. });
            if resumes && entry.author == self.line.other() {
                found.push(*hash);
            }
        }
        found
    }

    /// The entries of some spans.
    pub(crate) fn load(&self, spans: &[Span]) -> Vec<Entry> {
        let wanted = |entry: &&Entry| {
            spans.iter().any(|span| {
                span.chain == entry.chain() && (span.from..=span.to).contains(&entry.sequence)
            })
        };
        self.entries.values().filter(wanted).cloned().collect()
    }

    /// What holds at any time: the line says what the model reads from the entries applied so far.
    pub(crate) fn check(&self) {
        let (me, other) = (self.line.me(), self.line.other());
        let model = Model {
            entries: &self.entries,
        };
        assert_eq!(
            self.line.view(),
            model.view(me, other, self.line.is_waiting())
        );
        for (debtor, creditor) in [(me, other), (other, me)] {
            let debts = model.debts(debtor, creditor);
            assert_eq!(
                self.line.held(debtor).collect::<BTreeMap<_, _>>(),
                debts.held
            );
            let open = self.line.open(debtor);
            let open: BTreeMap<_, _> = open
                .map(|(id, amount, freed)| (id, (amount, freed)))
                .collect();
            assert_eq!(open, debts.open);
            for (id, status) in debts.status {
                assert_eq!(self.debts[&(debtor, id)].status(), status);
            }
            let heads: BTreeSet<_> = self
                .line
                .heads(debtor)
                .into_iter()
                .map(|head| head.hash)
                .collect();
            assert_eq!(heads, model.leaves(debtor).into_iter().collect());
        }
        assert_eq!(decode::<Line>(&encode(&self.line)).unwrap(), self.line);
    }
}
