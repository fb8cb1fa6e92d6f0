//! `pumasi-testnet sim`: many seeds, a replay, one planted bug; what is printed.
#![allow(clippy::print_stdout, reason = "this is a command")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;

use crate::plan::Plan;
use crate::planted;
use crate::run::{Outcome, run};
use crate::shrink::shrink;

/// Options of `sim`.
#[derive(Debug, Clone, Args)]
pub struct SimOptions {
    /// The first seed, or the one to replay.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many seeds.
    #[arg(long)]
    pub runs: Option<u64>,
    /// How many at once; as many as there are processors when nothing is said.
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Turns a planted bug on.
    #[arg(long, value_name = "NAME")]
    pub bug: Option<String>,
    /// Lists the planted bugs.
    #[arg(long)]
    pub list_bugs: bool,
    /// Fewer people, who do less in a shorter time.
    #[arg(long)]
    pub small: bool,
    /// Does not look for a smaller plan that fails.
    #[arg(long)]
    pub no_shrink: bool,
    /// Tells the story of each run.
    #[arg(long)]
    pub story: bool,
}

impl SimOptions {
    fn plan(&self, seed: u64) -> Plan {
        if self.small {
            Plan::small(seed)
        } else {
            Plan::of(seed)
        }
    }
}

/// Runs it; true when nothing failed.
pub fn main(options: &SimOptions) -> bool {
    if options.list_bugs {
        for bug in planted::PLANTED {
            println!("{:<32} {}", bug.name, bug.breaks);
        }
        return true;
    }
    let bug = match &options.bug {
        None => None,
        Some(name) => match planted::find(name) {
            Some(bug) => Some(bug),
            None => {
                println!("there is no planted bug called {name}: see --list-bugs");
                return false;
            }
        },
    };
    let first = options.seed.unwrap_or(1);
    let runs = options
        .runs
        .unwrap_or(if options.seed.is_some() { 1 } else { 100 });
    let jobs = options
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        return;
                    }
                    let start = Instant::now();
                    let outcome = run(options.plan(first + number), bug, options.story);
                    report(options, &outcome, start.elapsed().as_millis(), runs == 1);
                    if outcome.failure.is_some()
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(outcome.seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if let Some(seed) = failed.first().copied().filter(|_| !options.no_shrink) {
        smallest(options, seed, bug);
    }
    println!(
        "{runs} seeds in {:.1} s, {} failed {failed:?}",
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    failed.is_empty()
}

/// Prints the smallest plan found that still fails, and its end.
fn smallest(options: &SimOptions, seed: u64, bug: Option<usize>) {
    let plan = options.plan(seed);
    let outcome = run(plan.clone(), bug, false);
    let small = shrink(&outcome, plan, bug);
    let end = run(small.clone(), bug, true);
    println!(
        "\nthe smallest found of seed {seed}: {} faults, {} operations",
        small.faults.len(),
        small.operations.len()
    );
    for fault in &small.faults {
        println!("  at {:>8.3} s: {:?}", fault.at as f64 / 1e3, fault.wrong);
    }
    for operation in &small.operations {
        println!(
            "  at {:>8.3} s: person {} {:?}",
            operation.at as f64 / 1e3,
            operation.who,
            operation.act
        );
    }
    println!("its end:");
    let frames = |line: &&String| !line.contains(" to machine ") && !line.contains(" logs debug");
    let lines: Vec<&String> = end.story.iter().filter(frames).collect();
    for line in lines.iter().skip(lines.len().saturating_sub(40)) {
        println!("{}", line.chars().take(400).collect::<String>());
    }
    if let Some(failure) = &end.failure {
        println!("{}: {}", failure.invariant, failure.what);
    }
    let bug = options.bug.as_ref().map(|name| format!(" --bug {name}"));
    println!(
        "replay: pumasi-testnet sim --seed {seed}{}{} --story",
        bug.unwrap_or_default(),
        if options.small { " --small" } else { "" }
    );
}

fn report(options: &SimOptions, outcome: &Outcome, millis: u128, whole: bool) {
    for line in &outcome.story {
        println!("{line}");
    }
    if whole || outcome.failure.is_some() {
        println!(
            "seed {}: {}",
            outcome.seed,
            options.plan(outcome.seed).options
        );
        println!("  faults met: {:?}", outcome.hits);
    }
    let verdict = match &outcome.failure {
        None => "ok".to_owned(),
        Some(failure) => format!(
            "FAILED {} at {:.3} s: {}",
            failure.invariant,
            failure.at as f64 / 1e3,
            failure.what
        ),
    };
    println!(
        "seed {}: {verdict}; {} done, {:.1} s simulated, settled in {:.1} s, {millis} ms, trace {}",
        outcome.seed,
        outcome.done,
        outcome.age as f64 / 1e3,
        outcome.settled as f64 / 1e3,
        outcome.digest
    );
}
