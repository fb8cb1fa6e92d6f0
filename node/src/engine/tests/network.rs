//! The network that the stories run on: engines, virtual links, a virtual clock, one seed.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::types::{AccountId, NodeId, Time};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::check;
use crate::engine::{Effect, Engine, Input, Settings};
use crate::error::Result;
use crate::node::{EventQuery, Page};
use crate::read;
use crate::store;
use crate::vault::Vault;
use crate::view::{EventView, MessageView, Money, NewAccountView, PaymentView, RestoreView};

/// Milliseconds that a frame takes.
const LATENCY: u64 = 5;
/// The second byte of a frame with archive pages, and of one with statements.
pub(super) const PAGES: u8 = 9;
pub(super) const STATEMENTS: u8 = 4;
/// Milliseconds of silence after which a keeper is replaced.
pub(super) const REPLACE_AFTER: u64 = 60_000;
/// Milliseconds between ticks.
const TICK: u64 = 250;

/// Four people in four buildings.
pub(super) const FOUR: [(&str, &str); 4] = [
    ("hana", "pangyo"),
    ("bora", "anyang"),
    ("daon", "busan"),
    ("gaon", "jeju"),
];

/// One node of the network.
pub(super) struct Member {
    pub(super) engine: Engine,
    pub(super) id: NodeId,
    pub(super) directory: tempfile::TempDir,
    pub(super) settings: Settings,
    pub(super) alive: bool,
}

/// A network under a virtual clock.
pub(super) struct Net {
    pub(super) members: Vec<Member>,
    pub(super) now: Time,
    /// Frames under way: when, number, from, to, bytes.
    flying: BTreeMap<(Time, u64), (NodeId, NodeId, Vec<u8>)>,
    number: u64,
    linked: BTreeSet<(NodeId, NodeId)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    rng: StdRng,
    /// One frame in so many is lost with its session; 0: none.
    pub(super) loss: u64,
    /// Bytes of all frames but archive pages.
    pub(super) bytes: u64,
    /// Bytes of frames with archive pages.
    pub(super) archive_bytes: u64,
    /// Frames sent from one node to another, by the second byte: their kind.
    frames: BTreeMap<(NodeId, NodeId, u8), u64>,
    /// The words of every account.
    pub(super) phrases: BTreeMap<AccountId, String>,
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            members: vec![],
            now: Time(1_700_000_000_000),
            flying: BTreeMap::new(),
            number: 0,
            linked: BTreeSet::new(),
            cut: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            loss: 0,
            bytes: 0,
            archive_bytes: 0,
            frames: BTreeMap::new(),
            phrases: BTreeMap::new(),
        }
    }

    /// One node per building, each keeping for newcomers, with one account each.
    pub(super) fn with(seed: u64, places: &[(&str, &str)]) -> (Self, Vec<AccountId>) {
        let mut net = Self::new(seed);
        let accounts = places
            .iter()
            .map(|(name, building)| {
                let node = net.add(building);
                net.account(node, name)
            })
            .collect();
        for a in 0..net.members.len() {
            for b in 0..a {
                net.link(a, b);
            }
        }
        (net, accounts)
    }

    /// The four people, and empty nodes in buildings of their own, that offer to keep: to come back on,
    /// or to take the place of a keeper. Everybody has three keepers.
    pub(super) fn with_spares(seed: u64, buildings: &[&str]) -> (Self, Vec<AccountId>) {
        let (mut net, accounts) = Self::with(seed, &FOUR);
        for building in buildings {
            let spare = net.add(building);
            for other in 0..spare {
                net.link(spare, other);
            }
        }
        net.settle_keepers(3);
        (net, accounts)
    }

    pub(super) fn add(&mut self, building: &str) -> usize {
        let settings = Settings {
            network: "story".into(),
            operator: format!("operator of {building}"),
            building: building.into(),
            keep_for_contacts: true,
            newcomers: 100,
            local: true,
            replace_after: REPLACE_AFTER,
            bootstrap: vec![],
        };
        let directory = tempfile::tempdir().unwrap();
        let engine = open(&directory, &settings, self.now, self.rng.next_u64());
        let id = engine.me();
        self.members.push(Member {
            engine,
            id,
            directory,
            settings,
            alive: true,
        });
        let index = self.members.len() - 1;
        self.step(
            index,
            vec![Input::Addresses(vec![format!(
                "/ip4/127.0.0.1/tcp/{}",
                index + 1
            )])],
        );
        index
    }

    /// Kills a node; what it had committed stays on its disk.
    pub(super) fn kill(&mut self, index: usize) {
        let id = self.members[index].id;
        self.members[index].alive = false;
        self.flying
            .retain(|_, (from, to, _)| *from != id && *to != id);
        for other in 0..self.members.len() {
            self.drop_session(index, other);
        }
    }

    /// Starts a node again from its disk; one that still runs is killed first, and its sessions end.
    pub(super) fn restart(&mut self, index: usize) {
        if self.members[index].alive {
            self.kill(index);
        }
        let seed = self.rng.next_u64();
        let now = self.now;
        let member = &mut self.members[index];
        // The old engine's connection must be closed first, as a dead process's would be.
        let spare = tempfile::tempdir().unwrap();
        let placeholder = open(&spare, &member.settings, now, seed);
        drop(std::mem::replace(&mut member.engine, placeholder));
        member.engine = open(&member.directory, &member.settings, now, seed);
        member.alive = true;
        self.step(
            index,
            vec![Input::Addresses(vec![format!(
                "/ip4/127.0.0.1/tcp/{}",
                index + 1
            )])],
        );
    }

    pub(super) fn account(&mut self, node: usize, name: &str) -> AccountId {
        let name = name.to_owned();
        let view: NewAccountView = self
            .call(node, move |engine| engine.create_account(&name))
            .unwrap();
        assert_eq!(view.phrase.len(), 24);
        let id: AccountId = view.account.id.parse().unwrap();
        self.phrases.insert(id, view.phrase.join(" "));
        id
    }

    /// Runs until an account of a node may sign: after a start it is compared with its keepers.
    pub(super) fn settle_level(&mut self, node: usize, account: AccountId) {
        self.until("the account is compared with its keepers", 120, |net| {
            net.members[node].engine.is_level(&account)
        });
    }

    /// A copy of a node's database as it is now.
    pub(super) fn snapshot(&self, node: usize) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        let to = copy.path().join(store::DATABASE);
        let db = &self.members[node].engine.db;
        db.execute("VACUUM INTO ?1", [to.to_str().unwrap()])
            .unwrap();
        copy
    }

    /// Puts an older copy in the place of a killed node's database.
    pub(super) fn roll_back(&mut self, node: usize, copy: &tempfile::TempDir) {
        let member = &mut self.members[node];
        let spare = tempfile::tempdir().unwrap();
        let placeholder = open(&spare, &member.settings, self.now, 1);
        drop(std::mem::replace(&mut member.engine, placeholder));
        let to = member.directory.path().join(store::DATABASE);
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", to.display()));
        }
        std::fs::copy(copy.path().join(store::DATABASE), to).unwrap();
    }

    /// Burns a node: it and its disk are gone for ever.
    pub(super) fn burn(&mut self, node: usize) {
        self.kill(node);
    }

    /// Begins to restore an account on a node and runs until that has ended.
    pub(super) fn restore(&mut self, node: usize, account: AccountId) -> RestoreView {
        let words = self.phrases[&account].clone();
        self.call(node, move |engine| engine.begin_restore(&words, None, &[]))
            .unwrap();
        let ended = |net: &mut Self| {
            net.call(node, move |engine| engine.restore_view(&account))
                .unwrap()
        };
        for _ in 0..1_200 {
            let view = ended(self);
            if view.state == "done" || view.state == "failed" {
                return view;
            }
            self.run(100);
        }
        panic!("the restore did not end: {:?}", ended(self));
    }

    /// Runs a call on a node and its effects.
    pub(super) fn call<T: Send + 'static>(
        &mut self,
        node: usize,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let input = Engine::call(work, move |result| {
            let _ = sender.send(result);
        });
        self.step(node, vec![input]);
        receiver.try_recv().expect("every call is answered")
    }

    /// Opens a session between two nodes, if both are alive and the link is whole.
    pub(super) fn link(&mut self, a: usize, b: usize) {
        let (x, y) = self.pair(a, b);
        let alive = self.members[a].alive && self.members[b].alive;
        if a == b || !alive || self.cut.contains(&(x, y)) || !self.linked.insert((x, y)) {
            return;
        }
        let (id_a, id_b) = (self.members[a].id, self.members[b].id);
        self.step(a, vec![Input::Connected(id_b)]);
        self.step(b, vec![Input::Connected(id_a)]);
    }

    fn drop_session(&mut self, a: usize, b: usize) {
        let pair = self.pair(a, b);
        if !self.linked.remove(&pair) {
            return;
        }
        let (id_a, id_b) = (self.members[a].id, self.members[b].id);
        self.flying.retain(|_, (from, to, _)| {
            !((*from == id_a && *to == id_b) || (*from == id_b && *to == id_a))
        });
        if self.members[a].alive {
            self.step(a, vec![Input::Disconnected(id_b)]);
        }
        if self.members[b].alive {
            self.step(b, vec![Input::Disconnected(id_a)]);
        }
    }

    /// Cuts the link of two nodes until [`Net::mend`].
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.drop_session(a, b);
        let pair = self.pair(a, b);
        self.cut.insert(pair);
    }

    pub(super) fn mend(&mut self, a: usize, b: usize) {
        let pair = self.pair(a, b);
        self.cut.remove(&pair);
        self.link(a, b);
    }

    fn pair(&self, a: usize, b: usize) -> (NodeId, NodeId) {
        let (a, b) = (self.members[a].id, self.members[b].id);
        (a.min(b), a.max(b))
    }

    fn index(&self, id: NodeId) -> usize {
        self.members
            .iter()
            .position(|member| member.id == id)
            .expect("a member")
    }

    pub(super) fn step(&mut self, index: usize, inputs: Vec<Input>) {
        if !self.members[index].alive {
            return;
        }
        let mut inputs = inputs;
        let me = self.members[index].id;
        while !inputs.is_empty() {
            let effects = self.members[index]
                .engine
                .step(inputs, self.now)
                .expect("the store works");
            inputs = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Send(to, bytes) if to == me => {
                        let arrival = check::frame(me, &bytes, self.now).expect("own frames check");
                        inputs.push(Input::Frame(me, Box::new(arrival)));
                    }
                    Effect::Send(to, bytes) => self.fly(me, to, bytes),
                    Effect::Connect(to, _) => {
                        let other = self.index(to);
                        let pair = self.pair(index, other);
                        if self.members[other].alive && !self.cut.contains(&pair) {
                            self.number += 1;
                            let at = (self.now.plus(LATENCY), self.number);
                            self.flying.insert(at, (me, to, vec![]));
                        } else {
                            inputs.push(Input::Unreachable(to));
                        }
                    }
                    Effect::Reply(reply) => reply(),
                    _ => {}
                }
            }
        }
    }

    fn fly(&mut self, from: NodeId, to: NodeId, bytes: Vec<u8>) {
        let pair = (from.min(to), from.max(to));
        if !self.linked.contains(&pair) {
            return;
        }
        let kind = bytes.get(1).copied().unwrap_or_default();
        *self.frames.entry((from, to, kind)).or_default() += 1;
        if kind == PAGES {
            self.archive_bytes += bytes.len() as u64;
        } else {
            self.bytes += bytes.len() as u64;
        }
        self.number += 1;
        self.flying
            .insert((self.now.plus(LATENCY), self.number), (from, to, bytes));
    }

    /// Lets time pass: frames arrive, ticks tick.
    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now.plus(millis);
        while self.now < end {
            let next_tick = Time((self.now.0 / TICK + 1) * TICK);
            let next = self
                .flying
                .keys()
                .next()
                .map_or(next_tick, |(at, _)| (*at).min(next_tick));
            self.now = next.max(self.now).min(end);
            while let Some((key, _)) = self.flying.iter().next().map(|(k, v)| (*k, v.0)) {
                if key.0 > self.now {
                    break;
                }
                if let Some((from, to, bytes)) = self.flying.remove(&key) {
                    self.arrive(from, to, &bytes);
                }
            }
            if self.now.0.is_multiple_of(TICK) {
                for index in 0..self.members.len() {
                    self.step(index, vec![Input::Tick]);
                }
            }
        }
    }

    /// How many frames of a kind one node has sent another.
    pub(super) fn frames(&self, from: usize, to: usize, kind: u8) -> u64 {
        let (from, to) = (self.members[from].id, self.members[to].id);
        self.frames.get(&(from, to, kind)).copied().unwrap_or(0)
    }

    fn arrive(&mut self, from: NodeId, to: NodeId, bytes: &[u8]) {
        let (a, b) = (self.index(from), self.index(to));
        if bytes.is_empty() {
            self.link(a, b);
            return;
        }
        if self.loss > 0 && self.rng.next_u64().is_multiple_of(self.loss) {
            self.drop_session(a, b);
            return;
        }
        let arrival = check::frame(from, bytes, self.now).expect("honest frames check out");
        self.step(b, vec![Input::Frame(from, Box::new(arrival))]);
    }

    /// Runs until something holds, at most so many seconds of virtual time.
    pub(super) fn until(&mut self, what: &str, seconds: u64, holds: impl Fn(&Self) -> bool) {
        let end = self.now.plus(seconds * 1_000);
        while !holds(self) {
            assert!(self.now < end, "not within {seconds} s: {what}");
            self.run(100);
        }
    }

    /// Runs until every account has its keepers.
    pub(super) fn settle_keepers(&mut self, wanted: usize) {
        self.until("keepers are placed", 60, |net| {
            net.members
                .iter()
                .filter(|member| member.alive)
                .all(|member| {
                    member
                        .engine
                        .accounts
                        .values()
                        .all(|own| own.record.record.keepers.len() >= wanted)
                })
        });
        self.run(1_000);
    }

    /// Two accounts become contacts, each under the other's name.
    pub(super) fn meet(&mut self, a: (usize, AccountId), b: (usize, AccountId)) {
        let link = self
            .call(a.0, move |engine| engine.invite(&a.1, None))
            .unwrap()
            .link;
        self.call(b.0, move |engine| engine.add_contact(&b.1, &link, None))
            .unwrap();
        self.until("both are active contacts", 60, |net| {
            let active = |node: usize, me: AccountId, other: AccountId| {
                read::contact(&net.members[node].engine.db, &me, &other)
                    .is_ok_and(|contact| contact.state == "active")
            };
            active(a.0, a.1, b.1) && active(b.0, b.1, a.1)
        });
    }

    pub(super) fn send(
        &mut self,
        from: (usize, AccountId),
        to: AccountId,
        text: &str,
    ) -> MessageView {
        let text = text.to_owned();
        self.settle_level(from.0, from.1);
        self.call(from.0, move |engine| {
            engine.send_text(&from.1, &to.to_string(), &text, None)
        })
        .unwrap()
    }

    pub(super) fn pay(
        &mut self,
        from: (usize, AccountId),
        to: AccountId,
        amount: u64,
        key: &str,
    ) -> Result<PaymentView> {
        let key = key.to_owned();
        let money = Money {
            amount: amount.to_string(),
            currency: "KRW".into(),
        };
        self.call(from.0, move |engine| {
            engine.pay(&from.1, &to.to_string(), &money, "a test", &key)
        })
    }

    pub(super) fn messages(
        &self,
        node: usize,
        me: AccountId,
        other: AccountId,
    ) -> Vec<MessageView> {
        let page = Page {
            limit: 500,
            ..Page::default()
        };
        read::messages(&self.members[node].engine.db, &me, &other, &page).unwrap()
    }

    /// The texts that one account received from another, in the order shown.
    pub(super) fn received(&self, node: usize, me: AccountId, other: AccountId) -> Vec<String> {
        self.messages(node, me, other)
            .into_iter()
            .filter(|message| message.direction == "in" && message.kind == "text")
            .map(|message| message.text)
            .collect()
    }

    pub(super) fn message(&self, node: usize, me: AccountId, id: &str) -> MessageView {
        read::message(&self.members[node].engine.db, &me, &id.parse().unwrap()).unwrap()
    }

    pub(super) fn events(&self, node: usize) -> Vec<EventView> {
        let query = EventQuery {
            limit: 1_000,
            ..EventQuery::default()
        };
        read::events(&self.members[node].engine.db, &query).unwrap()
    }
}

fn open(directory: &tempfile::TempDir, settings: &Settings, now: Time, seed: u64) -> Engine {
    let vault = Vault::open_or_create(directory.path(), &crate::node::Unlock::KeyFile).unwrap();
    let db = store::open(directory.path()).unwrap();
    db.execute_batch("PRAGMA synchronous = OFF").unwrap();
    let rng = StdRng::seed_from_u64(seed);
    let mut engine = Engine::open(db, vault, rng, settings.clone(), now).unwrap();
    engine.load_due().unwrap();
    engine
}
