//! A row of accounts: the first pays the last, everybody else is in the middle.

use pumasi_protocol::condition::Opening;
use pumasi_protocol::crypto::{Secret, Signed, SigningKey};
use pumasi_protocol::line::DebtStatus;
use pumasi_protocol::payment::{Cancellation, Fraud, Hop, Offer, Part, opening_of, payee, plan};
use pumasi_protocol::types::{AccountId, Amount, Hash};

use super::account::{Account, FEE};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// One entry arrives.
    Deliver,
    /// One account does what is due.
    Step,
    /// The payer pays.
    Pay,
    /// Time passes.
    Wait,
    /// An account falls silent, or wakes up.
    Silence,
    /// The payee cancels an attempt.
    Cancel,
    /// Somebody hears an opening from elsewhere, cancelled or not.
    Leak,
    /// Somebody lowers a limit.
    LowerLimit,
    /// Somebody is restored.
    Restore,
}

pub(crate) struct World {
    accounts: Vec<Account>,
    /// On its way: to whom, and what.
    network: Vec<(AccountId, pumasi_protocol::line::Entry)>,
    asleep: Vec<bool>,
    attempts: u8,
    leaked: Vec<Opening>,
    cancelled: Vec<Signed<Cancellation>>,
}

const LIMIT: u64 = 1_000;

fn account(n: usize) -> AccountId {
    AccountId([n as u8 + 1; 32])
}

impl World {
    pub(crate) fn new(count: usize) -> Self {
        let neighbours = |n: usize| {
            let before = n.checked_sub(1).map(account);
            let after = (n + 1 < count).then(|| account(n + 1));
            before.into_iter().chain(after).collect::<Vec<_>>()
        };
        let accounts = (0..count).map(|n| Account::new(account(n), &neighbours(n)));
        let mut world = Self {
            accounts: accounts.collect(),
            network: Vec::new(),
            asleep: vec![false; count],
            attempts: 0,
            leaked: Vec::new(),
            cancelled: Vec::new(),
        };
        for n in 0..count {
            let ids: Vec<_> = world.accounts[n].lines.keys().copied().collect();
            for id in ids {
                let one = &mut world.accounts[n];
                let draft = one.lines[&id].propose_limit(one.stamp(), Amount(LIMIT), Amount(LIMIT));
                assert!(one.sign(draft));
            }
        }
        world.rest();
        world
    }

    fn last(&self) -> usize {
        self.accounts.len() - 1
    }

    /// An offer of the payee's, and the payer's lock for it.
    pub(crate) fn pay(&mut self, amount: u64) -> bool {
        self.attempts += 1;
        let attempt = Hash([self.attempts; 32]);
        let (last, now) = (self.last(), self.accounts[0].now);
        let opening = opening_of(&Secret([7; 32]), &attempt, 0);
        let offer = Offer {
            invoice: None,
            attempt,
            payer: account(0),
            payee: account(last),
            unit: "KRW".parse().unwrap(),
            parts: vec![Part {
                condition: opening.condition(),
                amount: Amount(amount),
            }],
            purpose: String::new(),
            expires: now.plus(600_000),
        };
        offer.check().unwrap();
        let offers = &mut self.accounts[last].offers;
        offers.push((offer, vec![opening], payee::Stage::Offered));
        let way: Vec<_> = (1..=last)
            .map(|n| Hop {
                account: account(n),
                unit: "KRW".parse().unwrap(),
                fee: FEE,
            })
            .collect();
        let planned = plan(account(0), &way, Amount(amount), Amount(50), attempt, now).unwrap();
        assert_eq!(planned.fees.0, last as u64 - 1);
        let payer = &mut self.accounts[0];
        let lock = pumasi_protocol::line::NewLock {
            id: attempt,
            amount: planned.amount,
            condition: opening.condition(),
            until: planned.until,
            instructions: planned.instructions,
        };
        let line = payer.line_with(planned.next).unwrap();
        let draft = line.propose_lock(payer.stamp(), &lock, None);
        let done = payer.sign(draft);
        self.post();
        done
    }

    /// What accounts signed is on its way.
    fn post(&mut self) {
        for account in &mut self.accounts {
            self.network.append(&mut account.out);
        }
    }

    fn index(&self, id: AccountId) -> usize {
        usize::from(id.0[0]) - 1
    }

    fn deliver(&mut self, pick: u16) -> bool {
        let awake: Vec<_> = (0..self.network.len())
            .filter(|n| !self.asleep[self.index(self.network[*n].0)])
            .collect();
        let Some(at) = awake.get(usize::from(pick) % awake.len().max(1)) else {
            return false;
        };
        let (to, entry) = self.network.remove(*at);
        let to = self.index(to);
        self.accounts[to].receive(entry);
        self.post();
        true
    }

    fn step(&mut self, n: usize) -> bool {
        if self.asleep[n] {
            return false;
        }
        let moved = self.accounts[n].step(true);
        self.post();
        moved
    }

    pub(crate) fn run(&mut self, acts: &[(Act, u8, u16)]) {
        for (act, who, pick) in acts {
            let n = usize::from(*who) % self.accounts.len();
            match act {
                Act::Deliver => {
                    self.deliver(*pick);
                }
                Act::Step => {
                    self.step(n);
                }
                Act::Pay => {
                    if self.attempts < 60 && !self.asleep[0] {
                        self.pay(u64::from(pick % 400) + 1);
                    }
                }
                Act::Wait => {
                    for account in &mut self.accounts {
                        account.now = account.now.plus(u64::from(*pick) * 2);
                    }
                }
                Act::Silence => self.asleep[n] = !self.asleep[n],
                Act::Cancel => self.cancel(*pick),
                Act::Leak => self.leak(n, *pick),
                Act::LowerLimit => {
                    let one = &mut self.accounts[n];
                    let lines: Vec<_> = one.lines.keys().copied().collect();
                    let id = lines[usize::from(*pick) % lines.len()];
                    let limit = Amount(u64::from(pick % 1_000));
                    let draft = one.lines[&id].propose_limit(one.stamp(), limit, limit);
                    one.sign(draft);
                    self.post();
                }
                Act::Restore => {
                    if self.accounts[n].epoch < 6 {
                        self.accounts[n].restore();
                        self.post();
                    }
                }
            }
        }
    }

    fn cancel(&mut self, pick: u16) {
        let last = self.last();
        let offers = &mut self.accounts[last].offers;
        let open = offers
            .iter_mut()
            .filter(|(_, _, stage)| *stage == payee::Stage::Offered);
        let mut open: Vec<_> = open.collect();
        let count = open.len().max(1);
        if let Some((offer, _, stage)) = open.get_mut(usize::from(pick) % count) {
            *stage = payee::Stage::Cancelled;
            let cancellation = Cancellation {
                offer: offer.attempt,
                conditions: offer.parts.iter().map(|part| part.condition).collect(),
            };
            self.cancelled.push(Signed::sign(&cancellation, &key()));
        }
    }

    /// Somebody in the middle, or the payer, hears an opening that was released or cancelled.
    fn leak(&mut self, n: usize, pick: u16) {
        let offers = &self.accounts[self.last()].offers;
        let released = offers
            .iter()
            .filter(|(_, _, stage)| *stage != payee::Stage::Offered);
        let released: Vec<_> = released.map(|(_, openings, _)| openings[0]).collect();
        if let Some(opening) = released.get(usize::from(pick) % released.len().max(1)) {
            self.accounts[n].evidence.push(*opening);
            self.leaked.push(*opening);
        }
    }

    pub(crate) fn cancel_and_leak(&mut self, seed: u16) {
        self.cancel(0);
        for n in 0..usize::from(seed % 37) {
            self.deliver(seed.wrapping_mul(31).wrapping_add(n as u16));
            self.step((usize::from(seed) + n) % self.accounts.len());
        }
        for n in 0..self.last() {
            if (seed >> n) & 1 == 1 || n == usize::from(seed) % self.last() {
                self.leak(n, 0);
            }
        }
    }

    pub(crate) fn fraud_is_proven(&self) -> bool {
        let device = key().public();
        self.leaked.iter().all(|opening| {
            self.cancelled.iter().any(|cancellation| {
                let fraud = Fraud {
                    cancellation: cancellation.clone(),
                    opening: *opening,
                };
                fraud.check(&device).is_ok()
            })
        })
    }

    pub(crate) fn until_the_payee_accepted(&mut self) {
        let last = self.last();
        for round in 0_u16.. {
            assert!(round < 2_000, "the lock never reached the payee");
            let debts = self.accounts[last].debts.values();
            let mut open = debts.filter(|debt| debt.status() == DebtStatus::Open);
            if open.next().is_some() {
                return;
            }
            self.deliver(round);
            for n in 0..=last {
                // The payee decides later.
                let opens = self.accounts[n]
                    .offers
                    .iter()
                    .any(|o| o.2 != payee::Stage::Offered);
                assert!(!opens);
                self.step(n);
            }
        }
    }

    pub(crate) fn only(&mut self, n: usize) {
        self.asleep = (0..self.accounts.len()).map(|other| other != n).collect();
    }

    pub(crate) fn wake_in_order(&mut self, seed: u16) {
        let count = self.accounts.len();
        for n in 0..count {
            let one = (n * 3 + usize::from(seed)) % count;
            self.asleep[one] = false;
            for k in 0..seed % 5 {
                self.deliver(seed.wrapping_add(k));
                self.step(one);
            }
        }
    }

    pub(crate) fn rest_of_those_awake(&mut self) {
        for round in 0.. {
            assert!(round < 20_000, "it never comes to rest");
            let mut moved = false;
            while self.deliver(0) {
                moved = true;
            }
            for n in 0..self.accounts.len() {
                moved |= self.step(n);
            }
            if !moved && !self.catch_up() {
                return;
            }
        }
    }

    /// Neighbours compare lines, as after a `Resume`.
    fn catch_up(&mut self) -> bool {
        let mut moved = false;
        for n in 0..self.last() {
            for (a, b) in [(n, n + 1), (n + 1, n)] {
                if self.asleep[a] || self.asleep[b] {
                    continue;
                }
                let line = self.accounts[a].line_with(account(b)).unwrap();
                let (id, wants) = (line.id(), line.wants());
                let found = self.accounts[b].load(&wants);
                moved |= !found.is_empty();
                self.network
                    .extend(found.into_iter().map(|entry| (account(a), entry)));
                let view = self.accounts[b].lines[&id].holds(account(a));
                let line = self.accounts[a].lines.get_mut(&id).unwrap();
                let before = line.clone();
                line.answered(&view);
                moved |= *line != before;
            }
        }
        moved
    }

    /// Everybody is awake, the payee cancels what it did not decide, and all that is due is done.
    pub(crate) fn rest(&mut self) {
        self.asleep.fill(false);
        self.rest_of_those_awake();
        let last = self.last();
        for n in 0..self.accounts[last].offers.len() {
            if self.accounts[last].offers[n].2 == payee::Stage::Offered {
                self.accounts[last].offers[n].2 = payee::Stage::Cancelled;
            }
        }
        self.rest_of_those_awake();
    }

    pub(crate) fn net(&self, n: usize) -> i128 {
        self.accounts[n].net()
    }

    pub(crate) fn received(&self) -> i128 {
        self.net(self.last())
    }

    pub(crate) fn check(&self) {
        for pair in self.accounts.windows(2) {
            let [a, b] = pair else { continue };
            let (a, b) = (a.line_with(b.id).unwrap(), b.line_with(a.id).unwrap());
            let (va, vb) = (a.view(), b.view());
            assert_eq!(va.balance, -vb.balance, "two ends of a line disagree");
            let out = (va.settled_out, va.reserved_out, va.freed_out, va.held_out);
            assert_eq!(
                out,
                (vb.settled_in, vb.reserved_in, vb.freed_in, vb.held_in)
            );
        }
        let nets: Vec<_> = self.accounts.iter().map(Account::net).collect();
        assert_eq!(nets.iter().sum::<i128>(), 0);
        for (n, net) in nets.iter().enumerate().skip(1) {
            assert!(*net >= 0, "account {n} lost {net}: {nets:?}");
        }
        // Everything that was opened or cancelled came to its end, on every line.
        for (n, account) in self.accounts.iter().enumerate() {
            assert_eq!(account.open(), 0, "something is left open at account {n}");
        }
        let last = &self.accounts[self.last()];
        let owed: u64 = last
            .offers
            .iter()
            .filter(|(_, _, stage)| *stage == payee::Stage::Opening)
            .map(|(offer, ..)| offer.parts[0].amount.0)
            .sum();
        assert_eq!(last.net(), i128::from(owed), "the payee got what it opened");
    }

    /// The payer paid what arrived and the fees for it, and everybody in the middle has its fee.
    pub(crate) fn check_all_or_none(&self) {
        let last = self.last();
        let paid = self.accounts[last].offers.iter();
        let paid = paid
            .filter(|(_, _, stage)| *stage == payee::Stage::Opening)
            .count() as i128;
        for n in 1..last {
            assert_eq!(self.net(n), paid);
        }
        assert_eq!(-self.net(0), self.received() + paid * (last as i128 - 1));
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[9; 32])
}
