//! The simulated world: machines that run the real engine, one queue of what happens when. Links are in
//! `links`, faults in `faults`, people in `people`, what is watched in `watch`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rusqlite::Connection;

use crate::check;
use crate::dice::Dice;
use crate::disk;
use crate::engine::{Effect, Engine, Input, Settings};
use crate::error::Result;
use crate::links::Link;
use crate::listen;
use crate::people::{Answer, Deed, Person};
use crate::plan::{Plan, Point, building_of};
use crate::protocol::crypto::Secret;
use crate::protocol::envelope::CapabilityId;
use crate::protocol::types::{NodeId, Time};
use crate::store;
use crate::trace::Trace;
use crate::vault::Vault;
use crate::watch::Watch;

/// Inputs of one step at most, as in the daemon.
const BATCH: usize = 256;
/// Steps that a crash waits for one with a call.
const CRASH_WAITS: u32 = 100;
/// When the world begins.
pub(crate) const DAWN: u64 = 1_700_000_000_000;

/// What is to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A machine steps.
    Step { node: usize, life: u64 },
    /// Time is told to a machine.
    Tick { node: usize, life: u64 },
    /// A frame arrives.
    Frame {
        from: usize,
        to: usize,
        session: u64,
        bytes: Vec<u8>,
        again: bool,
    },
    /// One side hears that a session is there, or gone.
    Notice {
        node: usize,
        peer: usize,
        session: u64,
        up: bool,
    },
    /// A dialling comes to its end.
    Dial { from: usize, life: u64, to: usize },
    /// A gossiped record arrives.
    Gossip {
        from: usize,
        to: usize,
        bytes: Arc<Vec<u8>>,
    },
    /// A machine starts again.
    Start { node: usize },
    /// A person acts: by its place in the plan.
    Act { place: usize },
    /// Something goes wrong: by its place in the plan.
    Wrong { place: usize },
    /// A partition ends.
    Heal { side: u64, one_way: bool },
    /// A person restores an account.
    Restore { person: usize },
    /// A person whose restore was not complete begins anew.
    Complete { person: usize },
    /// A person looks how far it is.
    Look {
        person: usize,
        node: usize,
        life: u64,
    },
    /// A person looks whether the account still signs.
    Level { person: usize },
    /// A slow machine is quick again.
    Quick { node: usize, factor: u64 },
}

/// How a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Up,
    /// Its disk is there.
    Down,
    /// For ever.
    Gone,
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) engine: Option<Engine>,
    /// The disk of a machine that is down.
    pub(crate) disk: Option<Connection>,
    pub(crate) snapshot: Option<Connection>,
    pub(crate) vault: Vault,
    pub(crate) settings: Settings,
    pub(crate) address: String,
    pub(crate) standing: Standing,
    /// Counts starts: what was meant for an earlier life is void.
    pub(crate) life: u64,
    pub(crate) skew: i64,
    /// The greatest skew since the start: the process never goes back.
    pub(crate) ahead: i64,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) stepping: bool,
    pub(crate) paused: u64,
    pub(crate) crash: Option<(Point, u64)>,
    /// Steps since the crash was due.
    pub(crate) crash_waits: u32,
    /// It keeps nothing that it signs for.
    pub(crate) liar: bool,
    /// Its disk was set back once: what it signs may contradict what it signed before.
    pub(crate) set_back: bool,
    pub(crate) slow: u64,
    /// Sessions as this machine sees them.
    pub(crate) views: BTreeMap<usize, u64>,
    /// Gossip by ticket, and what was heard before.
    pub(crate) tickets: BTreeMap<u64, (usize, Arc<Vec<u8>>)>,
    pub(crate) next_ticket: u64,
    pub(crate) heard: BTreeSet<[u8; 32]>,
    pub(crate) blocked: BTreeSet<usize>,
}

impl Machine {
    /// What is committed, for reading. `None` when it is gone.
    pub(crate) fn committed(&self) -> Option<&Connection> {
        match &self.engine {
            Some(engine) => Some(engine.disk()),
            None => self.disk.as_ref(),
        }
    }
}

/// What did not hold.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// The invariant's id in the list.
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
    /// Milliseconds since the beginning.
    pub(crate) at: u64,
}

/// Everything.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    pub(crate) queue: BTreeMap<(u64, u64), Happening>,
    pub(crate) number: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) by_id: BTreeMap<NodeId, usize>,
    pub(crate) links: BTreeMap<(usize, usize), Link>,
    pub(crate) sessions: u64,
    pub(crate) dice: Dice,
    pub(crate) people: Vec<Person>,
    /// Invitations that were handed over: who invited whom, and the capability in it.
    pub(crate) invitations: BTreeMap<(usize, usize), CapabilityId>,
    /// Of those, the ones that burned before they were safe.
    pub(crate) burned_invitations: BTreeSet<(usize, usize)>,
    pub(crate) deeds: Vec<Deed>,
    pub(crate) answers: Arc<Mutex<Vec<Answer>>>,
    pub(crate) watch: Watch,
    pub(crate) trace: Trace,
    /// How often which fault was met.
    pub(crate) hits: BTreeMap<&'static str, u64>,
    /// When the safety phase began; faults of links happen only in it.
    pub(crate) stormy: bool,
    pub(crate) safety_from: u64,
    pub(crate) failure: Option<Failure>,
}

impl World {
    /// The machines of a plan, all running, nobody on them yet.
    pub(crate) fn new(plan: Plan, trace: Trace) -> Result<Self> {
        let mut world = Self {
            now: DAWN,
            queue: BTreeMap::new(),
            number: 0,
            machines: vec![],
            by_id: BTreeMap::new(),
            links: BTreeMap::new(),
            sessions: 0,
            dice: Dice::new(plan.seed, "world"),
            people: vec![],
            invitations: BTreeMap::new(),
            burned_invitations: BTreeSet::new(),
            deeds: vec![],
            answers: Arc::new(Mutex::new(vec![])),
            watch: Watch::default(),
            trace,
            hits: BTreeMap::new(),
            stormy: false,
            safety_from: 0,
            failure: None,
            plan,
        };
        for node in 0..world.plan.options.nodes {
            world.build(node)?;
        }
        Ok(world)
    }

    fn build(&mut self, node: usize) -> Result<()> {
        let options = &self.plan.options;
        let building = building_of(node, options);
        let settings = Settings {
            network: "sim".into(),
            operator: format!("operator {}", building % options.operators),
            building: format!("building {building}"),
            keep_for_contacts: true,
            newcomers: 100,
            local: true,
            replace_after: options.replace_after,
            bootstrap: (0..2).map(address_of).collect(),
        };
        let skew = options.skew;
        let mut key = [0; 32];
        for byte in &mut key {
            *byte = self.dice.any().to_le_bytes()[0];
        }
        let skew = i64::try_from(self.dice.below(2 * skew + 1)).unwrap_or(0)
            - i64::try_from(skew).unwrap_or(0);
        self.machines.push(Machine {
            id: NodeId([0; 32]),
            engine: None,
            disk: Some(store::open_in_memory()?),
            snapshot: None,
            vault: Vault::with_key(Secret(key)),
            settings,
            address: address_of(node),
            standing: Standing::Down,
            life: 0,
            skew,
            ahead: skew,
            inbox: VecDeque::new(),
            stepping: false,
            paused: 0,
            crash: None,
            crash_waits: 0,
            liar: false,
            set_back: false,
            slow: 1,
            views: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            heard: BTreeSet::new(),
            blocked: BTreeSet::new(),
        });
        self.start(node);
        Ok(())
    }

    /// A machine's own clock: like the daemon's, it goes on from where it was when it is set back, until
    /// the next start.
    pub(crate) fn clock(&self, node: usize) -> Time {
        let machine = &self.machines[node];
        Time(
            self.now
                .saturating_add_signed(machine.skew.max(machine.ahead)),
        )
    }

    /// Milliseconds since the beginning.
    pub(crate) fn age(&self) -> u64 {
        self.now - DAWN
    }

    /// Schedules something.
    pub(crate) fn later(&mut self, after: u64, what: Happening) {
        self.number += 1;
        self.queue.insert((self.now + after, self.number), what);
    }

    /// Counts a fault that was met.
    pub(crate) fn hit(&mut self, kind: &'static str) {
        *self.hits.entry(kind).or_insert(0) += 1;
    }

    /// The first broken invariant ends the run.
    pub(crate) fn fail(&mut self, invariant: &'static str, what: impl Into<String>) {
        let what = what.into();
        self.trace
            .say(self.now - DAWN, || format!("FAILED {invariant}: {what}"));
        if self.failure.is_none() {
            self.failure = Some(Failure {
                invariant,
                what,
                at: self.age(),
            });
        }
    }

    /// Starts a machine that is down, from what is committed.
    pub(crate) fn start(&mut self, node: usize) {
        if self.machines[node].standing != Standing::Down {
            return;
        }
        let seed = self.dice.any();
        self.machines[node].ahead = self.machines[node].skew;
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        let Some(db) = machine.disk.take() else {
            return;
        };
        let opened = Engine::open(
            db,
            machine.vault.clone(),
            StdRng::seed_from_u64(seed),
            machine.settings.clone(),
            now,
        )
        .and_then(|mut engine| engine.load_due().map(|()| engine));
        let engine = match opened {
            Ok(engine) => engine,
            Err(error) => {
                return self.fail("Q1", format!("machine {node} does not start: {error}"));
            }
        };
        machine.id = engine.me();
        machine.engine = Some(engine);
        machine.standing = Standing::Up;
        machine.life += 1;
        machine.stepping = false;
        machine.crash = None;
        let life = machine.life;
        let addresses = vec![machine.address.clone()];
        self.by_id.insert(self.machines[node].id, node);
        self.trace.say(self.now - DAWN, || {
            format!("machine {node} starts (life {life})")
        });
        self.input(node, Input::Addresses(addresses));
        let tick = self.plan.options.tick;
        let first = self.dice.below(tick);
        self.later(first, Happening::Tick { node, life });
        self.retry_deeds_of(node);
    }

    /// A machine stops dead: what is committed stays.
    pub(crate) fn stop(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.standing != Standing::Up {
            return;
        }
        machine.standing = Standing::Down;
        machine.disk = machine.engine.take().map(Engine::into_disk);
        machine.inbox.clear();
        machine.tickets.clear();
        machine.heard.clear();
        machine.crash = None;
        machine.paused = 0;
        let peers: Vec<usize> = machine.views.keys().copied().collect();
        machine.views.clear();
        for peer in peers {
            self.cut(node, peer);
        }
        self.forget_answers_of(node);
        self.trace
            .say(self.now - DAWN, || format!("machine {node} stops"));
    }

    /// Gives a machine something to do.
    pub(crate) fn input(&mut self, node: usize, input: Input) {
        let commit = self.plan.options.commit;
        let machine = &mut self.machines[node];
        if machine.standing != Standing::Up {
            return;
        }
        machine.inbox.push_back(input);
        if !machine.stepping {
            machine.stepping = true;
            let life = machine.life;
            let after = self.dice.below(commit + 1);
            self.later(after, Happening::Step { node, life });
        }
    }

    /// Lets the world go on until a time, or until something fails.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.failure.is_none() {
            let Some((&(at, _), _)) = self.queue.first_key_value() else {
                break;
            };
            if at > end {
                break;
            }
            self.now = self.now.max(at);
            if let Some((_, what)) = self.queue.pop_first() {
                self.happen(what);
            }
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Step { node, life } => {
                if self.machines[node].life == life && self.machines[node].standing == Standing::Up
                {
                    self.step(node);
                }
            }
            Happening::Tick { node, life } => {
                if self.machines[node].life == life && self.machines[node].standing == Standing::Up
                {
                    if self.machines[node].paused <= self.now {
                        self.input(node, Input::Tick);
                    }
                    let tick = self.plan.options.tick;
                    self.later(tick, Happening::Tick { node, life });
                }
            }
            Happening::Frame {
                from,
                to,
                session,
                bytes,
                again,
            } => {
                self.frame_arrives(from, to, session, bytes, again);
            }
            Happening::Notice {
                node,
                peer,
                session,
                up,
            } => self.notice(node, peer, session, up),
            Happening::Dial { from, life, to } => self.dial_ends(from, life, to),
            Happening::Gossip { from, to, bytes } => self.gossip_arrives(from, to, &bytes),
            Happening::Start { node } => self.start(node),
            Happening::Act { place } => self.act(place),
            Happening::Wrong { place } => self.go_wrong(place),
            Happening::Heal { side, one_way } => self.partition(side, one_way, false),
            Happening::Restore { person } => self.restore(person),
            Happening::Complete { person } => self.complete(person),
            Happening::Look { person, node, life } => self.look_at_restore(person, node, life),
            Happening::Level { person } => self.look_at_level(person),
            Happening::Quick { node, factor } => {
                let machine = &mut self.machines[node];
                machine.slow = (machine.slow / factor).max(1);
            }
        }
    }

    /// One step of a machine: its inputs in one transaction, then what leaves.
    fn step(&mut self, node: usize) {
        let now = self.clock(node);
        let machine = &mut self.machines[node];
        if machine.paused > self.now {
            let (after, life) = (machine.paused - self.now, machine.life);
            return self.later(after, Happening::Step { node, life });
        }
        machine.stepping = false;
        let count = machine.inbox.len().min(BATCH);
        let inputs: Vec<Input> = machine.inbox.drain(..count).collect();
        // A crash waits for a step with a call in it, where there is something to be told wrongly.
        let called = inputs.iter().any(|input| matches!(input, Input::Call(_)));
        let patient = machine.crash_waits < CRASH_WAITS && !called;
        let crash = if patient { None } else { machine.crash.take() };
        machine.crash_waits = match machine.crash {
            Some(_) => machine.crash_waits + 1,
            None => 0,
        };
        disk::crash_before_commit(matches!(crash, Some((Point::BeforeCommit, _))));
        let Some(engine) = machine.engine.as_mut() else {
            return;
        };
        let stepped = catch_unwind(AssertUnwindSafe(|| engine.step(inputs, now)));
        disk::crash_before_commit(false);
        let sealed = disk::take_sealed();
        let early = disk::take_early();
        self.trace.count(node, count);
        let at = self.age();
        for line in listen::take() {
            self.trace.say(at, || format!("machine {node} logs {line}"));
        }
        if !matches!(stepped, Ok(Ok(_)))
            && let Some(engine) = &self.machines[node].engine
        {
            // What was not committed is gone, for everybody who looks.
            let _ = engine.disk().execute_batch("ROLLBACK");
        }
        self.perform(node, early);
        match (stepped, crash) {
            (Ok(Ok(effects)), None) => {
                self.observe(node, &effects, sealed);
                self.perform(node, effects);
            }
            (Ok(Ok(mut effects)), Some((point, down))) => {
                self.hit(match point {
                    Point::AmongEffects => "crash among effects",
                    _ => "crash after commit",
                });
                self.observe(node, &effects, sealed);
                if point == Point::AmongEffects {
                    let some = self.dice.index(effects.len() + 1);
                    effects.truncate(some);
                    self.perform(node, effects);
                }
                self.stop(node);
                return self.later(down, Happening::Start { node });
            }
            (Ok(Err(_)), Some((Point::BeforeCommit, down))) => {
                self.hit("crash before commit");
                self.stop(node);
                return self.later(down, Happening::Start { node });
            }
            (Ok(Err(error)), _) => {
                return self.fail("Q1", format!("machine {node} halts: {error}"));
            }
            (Err(panic), _) => {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                return self.fail("Q1", format!("machine {node} panics: {text}"));
            }
        }
        self.lie(node);
        let machine = &mut self.machines[node];
        if machine.standing == Standing::Up && !machine.inbox.is_empty() && !machine.stepping {
            machine.stepping = true;
            let life = machine.life;
            self.later(0, Happening::Step { node, life });
        }
    }

    /// What leaves a machine.
    fn perform(&mut self, node: usize, effects: Vec<Effect>) {
        let me = self.machines[node].id;
        for effect in effects {
            match effect {
                Effect::Send(to, bytes) if to == me => {
                    self.inspect_frame(node, node, &bytes);
                    match check::frame(me, &bytes, self.clock(node)) {
                        Ok(arrival) => self.input(node, Input::Frame(me, Box::new(arrival))),
                        Err(fault) => {
                            self.fail("Q1", format!("an own frame does not check out: {fault}"))
                        }
                    }
                }
                Effect::Send(to, bytes) => {
                    self.trace.hash(&bytes);
                    if let Some(&other) = self.by_id.get(&to) {
                        self.inspect_frame(node, other, &bytes);
                        self.fly(node, other, bytes);
                    }
                }
                Effect::Connect(to, _) => {
                    let Some(&to) = self.by_id.get(&to) else {
                        continue;
                    };
                    self.dial(node, to);
                }
                Effect::ConnectAddress(address) => {
                    let to = self
                        .machines
                        .iter()
                        .position(|machine| machine.address == address);
                    if let Some(to) = to.filter(|to| *to != node) {
                        self.dial(node, to);
                    }
                }
                Effect::Block(to, on) => {
                    let Some(&to) = self.by_id.get(&to) else {
                        continue;
                    };
                    if on {
                        self.machines[node].blocked.insert(to);
                        self.cut(node, to);
                    } else {
                        self.machines[node].blocked.remove(&to);
                    }
                }
                Effect::Disconnect(to) => {
                    if let Some(&to) = self.by_id.get(&to) {
                        self.cut(node, to);
                    }
                }
                Effect::Publish(bytes) => self.spread(node, None, &Arc::new(bytes)),
                Effect::Judge(ticket, verdict) => self.judged(node, ticket, verdict),
                Effect::Reply(reply) => reply(),
                Effect::Pin(_) | Effect::Events(_) | Effect::Checking(_) => {}
            }
        }
        self.take_answers();
    }

    /// Runs a call on a machine at once, outside of any fault: for building the world up.
    pub(crate) fn call_now<T: Send + 'static>(
        &mut self,
        node: usize,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::new(Mutex::new(None));
        let answer = Arc::clone(&place);
        let call = Engine::call(work, move |result| {
            if let Ok(mut slot) = answer.lock() {
                *slot = Some(result);
            }
        });
        self.machines[node].inbox.push_back(call);
        while !self.machines[node].inbox.is_empty() && self.failure.is_none() {
            self.step(node);
        }
        let result = place.lock().ok().and_then(|mut slot| slot.take());
        result.unwrap_or_else(|| Err(crate::error::Error::not_found("the call was not answered")))
    }
}

fn address_of(node: usize) -> String {
    format!("/ip4/10.0.0.{}/tcp/4040", node + 1)
}
