//! The life of a world: it is built up in calm, goes through the storm, is healed, settles, is judged.

use std::collections::{BTreeMap, BTreeSet};

use crate::dice::Dice;
use crate::error::Result;
use crate::people::{Deed, Known, Person, UNIT};
use crate::plan::Plan;
use crate::protocol::types::AccountId;
use crate::read;
use crate::trace::Trace;
use crate::world::{DAWN, Failure, Happening, World};
use crate::{cheap, listen, planted, ratchet};

/// Building up takes at most so many simulated milliseconds.
const BUILD_WITHIN: u64 = 300_000;
/// After healing everything settles within so many simulated milliseconds (L1).
const SETTLE_WITHIN: u64 = 120_000;
/// Calm between building up and storm, and after settling.
const CALM: u64 = 3_000;

/// What became of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) failure: Option<Failure>,
    pub(crate) digest: String,
    pub(crate) story: Vec<String>,
    pub(crate) hits: BTreeMap<&'static str, u64>,
    /// Simulated milliseconds.
    pub(crate) age: u64,
    /// Operations that were done.
    pub(crate) done: usize,
    /// Simulated milliseconds from healing to rest.
    pub(crate) settled: u64,
}

/// Runs a plan on this thread.
pub(crate) fn run(plan: Plan, bug: Option<usize>, story: bool) -> Outcome {
    ratchet::choose(plan.options.real_ratchet, plan.seed);
    cheap::choose(!plan.options.real_ratchet);
    planted::turn_on(None);
    let seed = plan.seed;
    let mut outcome = Outcome {
        seed,
        failure: None,
        digest: String::new(),
        story: vec![],
        hits: BTreeMap::new(),
        age: 0,
        done: 0,
        settled: 0,
    };
    let mut world = match World::new(plan, Trace::new(story)) {
        Ok(world) => world,
        Err(error) => {
            outcome.failure = Some(Failure {
                invariant: "Q1",
                what: format!("the world cannot be made: {error}"),
                at: 0,
            });
            return outcome;
        }
    };
    planted::turn_on(bug);
    if story {
        listen::listening(|| live(&mut world, &mut outcome));
    } else {
        live(&mut world, &mut outcome);
    }
    planted::turn_on(None);
    outcome.digest = world.trace.digest();
    outcome.story = world.trace.lines().to_vec();
    outcome.age = world.now - DAWN;
    outcome.done = world
        .deeds
        .iter()
        .filter(|deed| matches!(deed.known, Known::Done(_)))
        .count();
    outcome.hits = std::mem::take(&mut world.hits);
    outcome.failure = world.failure.take();
    outcome
}

fn live(world: &mut World, outcome: &mut Outcome) {
    if let Err(error) = build_up(world) {
        return world.fail("Q1", format!("the world cannot be built up: {error}"));
    }
    if world.failure.is_some() {
        return;
    }
    storm(world);
    if world.failure.is_some() {
        return;
    }
    world.heal();
    let healed = world.now;
    let end = healed + SETTLE_WITHIN;
    loop {
        let step = (world.now + 1_000).min(end);
        world.run_until(step);
        if world.failure.is_some() {
            return;
        }
        let Some(what) = world.unsettled() else { break };
        if world.now >= end {
            return world.fail(
                "L1",
                format!(
                    "not settled {} s after healing: {what}",
                    SETTLE_WITHIN / 1_000
                ),
            );
        }
    }
    outcome.settled = world.now - healed;
    world.run_until(world.now + CALM);
    if world.failure.is_none() {
        world.judge();
    }
}

/// Accounts, keepers, contacts, limits: in calm, so that the storm meets a world worth wrecking.
fn build_up(world: &mut World) -> Result<()> {
    let nodes = world.machines.len();
    let mut dice = Dice::new(world.plan.seed, "people");
    for number in 0..world.plan.options.accounts {
        let node = number % nodes;
        let name = format!("person {number}");
        let made = world.call_now(node, move |engine| engine.create_account(&name))?;
        let id: AccountId = made.account.id.parse().unwrap_or(AccountId([0; 32]));
        world.people.push(Person {
            node,
            id,
            contacts: vec![],
            set_back: false,
            restored: false,
            lost: false,
            partial: false,
            homes: BTreeSet::from([node]),
            restoring: None,
            words: made.phrase.join(" "),
        });
    }
    let start = world.now;
    wait(world, start, "keepers are placed", |world| {
        world.machines.iter().all(|machine| {
            machine.engine.as_ref().is_some_and(|engine| {
                engine
                    .own_accounts()
                    .all(|(_, own)| own.record.record.keepers.len() >= 2)
            })
        })
    });
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    let accounts = world.people.len();
    for one in 0..accounts {
        for _ in 0..world.plan.options.contacts {
            let other = dice.index(accounts);
            if one != other && !world.people[one].contacts.contains(&other) {
                world.people[one].contacts.push(other);
                world.people[other].contacts.push(one);
                pairs.push((one, other));
            }
        }
    }
    for (one, other) in &pairs {
        let (a, b) = (world.people[*one].clone(), world.people[*other].clone());
        let link = world
            .call_now(a.node, move |engine| engine.invite(&a.id, None))?
            .link;
        world.call_now(b.node, move |engine| engine.add_contact(&b.id, &link, None))?;
    }
    let now = world.now;
    let known = pairs.clone();
    wait(world, now, "all contacts have met", move |world| {
        known
            .iter()
            .all(|(one, other)| met(world, *one, *other) && met(world, *other, *one))
    });
    for (one, other) in &pairs {
        for (from, to) in [(*one, *other), (*other, *one)] {
            let limit = dice.range(200, 5_000).to_string();
            let (me, who) = (world.people[from].clone(), world.people[to].id.to_string());
            world.call_now(me.node, move |engine| {
                engine.set_limit(&me.id, &who, UNIT, &limit)
            })?;
        }
    }
    let now = world.now;
    world.run_until(now + CALM);
    Ok(())
}

/// Whether one of two people knows the other as somebody who answered.
pub(crate) fn met(world: &World, one: usize, other: usize) -> bool {
    let (a, b) = (&world.people[one], &world.people[other]);
    world.machines[a.node].committed().is_some_and(|db| {
        read::contact(db, &a.id, &b.id).is_ok_and(|contact| contact.state == "active")
    })
}

fn wait(world: &mut World, from: u64, what: &str, holds: impl Fn(&World) -> bool) {
    while world.failure.is_none() && !holds(world) {
        if world.now > from + BUILD_WITHIN {
            return world.fail(
                "L1",
                format!("in calm, not within {} s: {what}", BUILD_WITHIN / 1_000),
            );
        }
        let next = world.now + 500;
        world.run_until(next);
    }
}

/// The safety phase: everything in the plan.
fn storm(world: &mut World) {
    world.stormy = true;
    world.safety_from = world.now;
    let operations = world.plan.operations.clone();
    for (place, operation) in operations.into_iter().enumerate() {
        let at = operation.at;
        world.deeds.push(Deed {
            operation,
            known: Known::Nothing,
            whom: None,
            asked_in: 0,
            in_doubt: false,
        });
        world.later(at, Happening::Act { place });
    }
    for place in 0..world.plan.faults.len() {
        let at = world.plan.faults[place].at;
        world.later(at, Happening::Wrong { place });
    }
    let end = world.now + world.plan.options.length;
    world.run_until(end);
}
