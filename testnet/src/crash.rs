//! Crash: a daemon killed at its K-th write for many K, its syncs and writes failing, and power cuts put
//! together from a record of its writes. Other daemons and the traffic go on meanwhile; at the end the
//! auditor reckons, and nothing acknowledged may be lost or doubled.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

use crate::faults::{Fault, Faults};
use crate::images;
use crate::layout::Layout;
use crate::network::{Network, RunDirectory};
use crate::options::CrashOptions;
use crate::process::Process;
use crate::storm::{Storm, Weather};
use crate::table::{Table, say, thousands};
use crate::traffic::Stage;
use crate::trial::{self, Finding};

/// The node that crashes; the first one is where others begin.
const VICTIM: usize = 1;
/// Nodes, each in a building of its own.
const NODES: usize = 3;
const ACCOUNTS: usize = 6;
/// The length of the script whose every write is a crash point.
const SCRIPT: u64 = 200;
/// Crash points of `--quick`.
const QUICK_POINTS: usize = 200;
/// Power cuts of `--quick`, and otherwise.
const QUICK_IMAGES: usize = 500;
const IMAGES: usize = 10_000;
/// Points after which a network is reckoned with, and a new one begins: the more it holds, the longer
/// each start and the reckoning take, and no crash needs much to be there.
const ROUND: usize = 50;
/// A daemon that has not come to its point after so long never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// A daemon whose disk fails ends within this time, milliseconds.
const STOPS_WITHIN_MS: u64 = 1_000;
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What came of the points of one kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Points {
    /// Daemons that came to their point.
    points: u64,
    /// The longest from the fault to the end of the process, milliseconds.
    slowest_ms: u64,
}

/// Everything that was found.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    ok: bool,
    seed: u64,
    /// Writes of the script.
    writes: u64,
    points: BTreeMap<&'static str, Points>,
    /// Points that no daemon came to.
    missed: u64,
    operations: u64,
    chores: u64,
    repeated: u64,
    lost: u64,
    shown_twice: u64,
    disagreements: u64,
    images: images::Outcome,
    broken: Vec<String>,
}

/// Runs all of it; whether everything promised held.
pub(crate) async fn run(options: CrashOptions) -> Result<bool> {
    ensure!(
        cfg!(target_os = "linux"),
        "crash works on Linux only: it puts a library of its own before the system's"
    );
    trial::run("crash", options.trial.json.as_deref(), async |run| {
        let outcome = crash(&options, run).await?;
        Ok(Finding {
            table: table(&outcome),
            json: serde_json::to_value(&outcome)?,
            broken: outcome.broken,
        })
    })
    .await
}

async fn crash(options: &CrashOptions, run: &RunDirectory) -> Result<Outcome> {
    ensure!(
        (1..=5_000).contains(&options.rate),
        "--rate must be 1 to 5000, not {}",
        options.rate
    );
    let faults = Faults::compile(run.path())?;
    let mut outcome = Outcome {
        seed: options.trial.seed,
        ..Outcome::default()
    };
    let images = options
        .images
        .unwrap_or(if options.quick { QUICK_IMAGES } else { IMAGES });
    let mut first = begin(options, 0, run).await?;
    outcome.writes = calibrate(&mut first.0, &faults).await?;
    let plan = points_of(options, outcome.writes);
    say(&format!(
        "  {SCRIPT} operations are {} writes; {} points",
        thousands(i128::from(outcome.writes)),
        plan.len()
    ));
    let mut first = Some(first);
    let mut done = 0;
    for (round, points) in (0_u64..).zip(plan.chunks(ROUND)) {
        let (mut storm, path) = match first.take() {
            Some(first) => first,
            None => begin(options, round, run).await?,
        };
        for &(fault, at) in points {
            point(&mut storm, &faults, fault, at, &mut outcome).await?;
            done += 1;
        }
        say(&format!(
            "  {done} of {} points; {} operations answered in this network",
            plan.len(),
            thousands(i128::from(storm.answered()))
        ));
        storm.network.kill(VICTIM);
        storm.network.start_again(VICTIM, &[]).await?;
        storm.network.ready(VICTIM).await?;
        let (network, _) = reckon(storm, &mut outcome).await?;
        network.stop().await;
        forget(&path, &outcome)?;
    }
    if images > 0 {
        // A network of its own, with little in it: each power cut is a copy of a whole disk.
        let (storm, path) = begin(options, u64::from(u32::MAX), run).await?;
        answered(&storm, SCRIPT).await?;
        let (mut network, stage) = reckon(storm, &mut outcome).await?;
        let recorded = images::record(&mut network, VICTIM, &stage, &faults, run.path()).await?;
        network.stop().await;
        let (seed, broken) = (options.trial.seed, &mut outcome.broken);
        outcome.images = images::check(&recorded, images, seed, run.path(), broken).await?;
        forget(&path, &outcome)?;
    }
    outcome.ok = outcome.broken.is_empty();
    Ok(outcome)
}

/// A new network under traffic, and its directory.
async fn begin(options: &CrashOptions, round: u64, run: &RunDirectory) -> Result<(Storm, PathBuf)> {
    let path = run.path().join(format!("{round}"));
    std::fs::create_dir(&path)?;
    let seed = options.trial.seed.wrapping_add(round << 32);
    let layout = Layout::even(NODES, NODES, ACCOUNTS * 6, &format!("crash-{seed}"));
    let weather = Weather {
        accounts: ACCOUNTS,
        seed,
        rate: options.rate,
        seconds: (ROUND as u64) * 20 + 60,
    };
    let storm = Storm::begin(&layout, weather, &path, Some(VICTIM)).await?;
    Ok((storm, path))
}

/// Ends the traffic and adds up what came of it.
async fn reckon(storm: Storm, outcome: &mut Outcome) -> Result<(Network, Stage)> {
    outcome.operations += storm.answered();
    let (reckoning, network, stage, chores) = storm.end().await?;
    outcome.chores += chores;
    outcome.repeated += reckoning.repeated;
    outcome.lost += reckoning.messages.lost_safe + reckoning.ious.lost_safe;
    outcome.shown_twice += reckoning.messages.shown_twice;
    outcome.disagreements += reckoning.ledger.disagreements;
    outcome.broken.extend(reckoning.broken);
    Ok((network, stage))
}

/// Removes a network's directory, unless something is to be looked at.
fn forget(path: &Path, outcome: &Outcome) -> Result<()> {
    if outcome.broken.is_empty() {
        std::fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Waits until so many operations more were answered.
async fn answered(storm: &Storm, more: u64) -> Result<()> {
    let before = storm.answered();
    let begun = Instant::now();
    while storm.answered() < before + more {
        ensure!(
            begun.elapsed() < PATIENCE * 4,
            "{more} operations take too long"
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Counts the writes of a start and of the script's operations, while nothing goes wrong.
async fn calibrate(storm: &mut Storm, faults: &Faults) -> Result<u64> {
    storm.network.kill(VICTIM);
    let data = storm.network.nodes[VICTIM].spec.data.clone();
    let variables = faults.environment(&data, Fault::None, 0, None)?;
    storm.network.start_again(VICTIM, &variables).await?;
    storm.network.ready(VICTIM).await?;
    answered(storm, SCRIPT).await?;
    let writes = faults.calls()?;
    ensure!(
        writes > SCRIPT,
        "only {writes} writes were seen: the library has no effect"
    );
    Ok(writes)
}

/// Which fault at which write, in the order of the run.
fn points_of(options: &CrashOptions, writes: u64) -> Vec<(Fault, u64)> {
    let mut rng = StdRng::seed_from_u64(options.trial.seed ^ 0x43_5241_5348);
    let wanted = match (options.points, options.quick) {
        (Some(points), _) => points.max(1),
        (None, true) => QUICK_POINTS,
        (None, false) => usize::try_from(writes).unwrap_or(usize::MAX),
    };
    let mut plan = Vec::new();
    for number in 0..wanted {
        let at = 1 + number as u64 * writes / wanted as u64;
        let fault = match rng.random_range(0..4) {
            0..=1 => Fault::KillBefore,
            2 => Fault::KillAfter,
            _ => Fault::KillTorn,
        };
        plan.push((fault, at));
        // One failing disk on top for every ten deaths.
        if number % 10 == 5 {
            let fault = if number % 20 == 5 {
                Fault::SyncFails
            } else {
                Fault::DiskFull
            };
            plan.push((fault, 1 + at / 4));
        }
    }
    plan
}

/// One daemon that comes to its point and ends.
async fn point(
    storm: &mut Storm,
    faults: &Faults,
    fault: Fault,
    at: u64,
    outcome: &mut Outcome,
) -> Result<()> {
    storm.network.kill(VICTIM);
    let spec = storm.network.nodes[VICTIM].spec.clone();
    let log_length = std::fs::metadata(&spec.log).map_or(0, |file| file.len());
    let variables = faults.environment(&spec.data, fault, at, None)?;
    storm.network.start_again(VICTIM, &variables).await?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = storm.network.process(VICTIM).and_then(Process::ended) {
            break Some(status);
        }
        if begun.elapsed() > PATIENCE {
            break None;
        }
        tokio::time::sleep(LOOK).await;
    };
    let Some(hit) = faults.hit()? else {
        if status.is_none() {
            outcome.missed += 1;
        } else {
            let what = format!(
                "the daemon ended before it came to its write {at}:\n{}",
                spec.log_tail()
            );
            outcome.broken.push(what);
        }
        return Ok(());
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let took = u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(hit);
    let what = format!("write {at}: {}", fault.words());
    let points = outcome.points.entry(fault.words()).or_default();
    points.points += 1;
    let Some(status) = status else {
        outcome
            .broken
            .push(format!("{what}, and the daemon goes on"));
        return Ok(());
    };
    points.slowest_ms = points.slowest_ms.max(took);
    if fault.kills() {
        if status.signal() != Some(9) {
            outcome
                .broken
                .push(format!("{what}, but it ended with {status}"));
        }
        return Ok(());
    }
    let log = std::fs::read(&spec.log).unwrap_or_default();
    let said = String::from_utf8_lossy(
        log.get(usize::try_from(log_length).unwrap_or(0)..)
            .unwrap_or_default(),
    )
    .into_owned();
    if status.code() != Some(1) {
        outcome
            .broken
            .push(format!("{what}, and it ended with {status}, not with 1"));
    }
    if took > STOPS_WITHIN_MS {
        outcome
            .broken
            .push(format!("{what}, and it took {took} ms to stop"));
    }
    if !said.contains("pumasi: ") {
        outcome.broken.push(format!(
            "{what}, and it did not say why it stopped:\n{said}"
        ));
    }
    Ok(())
}

fn table(outcome: &Outcome) -> Table {
    let mut table = Table::new(&["", "points", "ended within ms"]);
    for (what, points) in &outcome.points {
        table.row([
            (*what).to_owned(),
            points.points.to_string(),
            points.slowest_ms.to_string(),
        ]);
    }
    table.row([
        "not reached".to_owned(),
        outcome.missed.to_string(),
        String::new(),
    ]);
    let images = &outcome.images;
    let figures = [
        ("operations answered", outcome.operations),
        ("other things done", outcome.chores),
        ("repeated with their key", outcome.repeated),
        ("lost", outcome.lost),
        ("shown twice", outcome.shown_twice),
        ("lines whose ends disagree", outcome.disagreements),
        ("power cuts", images.images),
        ("with unsynced sectors left out", images.torn),
        ("acknowledged before them, looked for", images.looked_for),
        ("of these missing", images.missing),
    ];
    for (what, figure) in figures {
        table.row([
            what.to_owned(),
            thousands(i128::from(figure)),
            String::new(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::TrialOptions;

    fn options(quick: bool, points: Option<usize>) -> CrashOptions {
        CrashOptions {
            quick,
            points,
            images: None,
            rate: 60,
            trial: TrialOptions {
                seed: 7,
                json: None,
            },
        }
    }

    #[test]
    fn the_full_run_comes_to_every_write_and_the_quick_one_to_two_hundred() {
        let deaths = |plan: &[(Fault, u64)]| -> Vec<u64> {
            let kills = plan.iter().filter(|(fault, _)| fault.kills());
            kills.map(|(_, at)| *at).collect()
        };
        let full = points_of(&options(false, None), 1_500);
        assert_eq!(deaths(&full), (1..=1_500).collect::<Vec<_>>());
        let quick = points_of(&options(true, None), 1_500);
        assert_eq!(deaths(&quick).len(), 200);
        assert_eq!(quick.len(), 220);
        assert!(quick.iter().all(|(_, at)| (1..=1_500).contains(at)));
        assert_eq!(quick, points_of(&options(true, None), 1_500));
    }
}
