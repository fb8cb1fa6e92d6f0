//! Soak: everything that can happen to a running network short of losing a disk, at random, for as long as
//! one likes; then the reckoning.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::Signal;
use serde_json::json;

use crate::network::RunDirectory;
use crate::options::SoakOptions;
use crate::process::signal;
use crate::storm::{Storm, Weather};
use crate::table::{Table, say, thousands};
use crate::trial::{self, Finding};

/// The longest soak in minutes.
const MINUTES_MAX: f64 = 7.0 * 24.0 * 60.0;
/// Between two blows, milliseconds.
const BETWEEN: std::ops::Range<u64> = 300..3_000;
/// How long something stays away, milliseconds. Callers try for 40 s.
const AWAY: std::ops::Range<u64> = 100..8_000;

/// Runs a soak; whether everything promised held.
pub(crate) async fn run(options: SoakOptions) -> Result<bool> {
    ensure!(
        options.minutes > 0.0 && options.minutes <= MINUTES_MAX,
        "--minutes must be above 0 and at most {MINUTES_MAX}"
    );
    trial::run("soak", options.json.as_deref(), async |run| {
        soak(&options, run).await
    })
    .await
}

async fn soak(options: &SoakOptions, run: &RunDirectory) -> Result<Finding> {
    let size = &options.size;
    let layout = size.layout(&format!("soak-{}", size.seed))?;
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    say(&format!(
        "soak: {} nodes in {} buildings, {} accounts, {} operations a second, {:.1} minutes, seed {}",
        size.nodes, size.buildings, size.accounts, options.rate, options.minutes, size.seed
    ));
    let weather = Weather {
        accounts: size.accounts,
        seed: size.seed,
        rate: options.rate,
        seconds: time.as_secs() + 60,
    };
    let mut storm = Storm::begin(&layout, weather, run.path(), Some(1)).await?;
    let mut rng = StdRng::seed_from_u64(size.seed ^ 0x50_4f41_4b21);
    let begun = Instant::now();
    let mut blows: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut trouble = Vec::new();
    let mut said = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(rng.random_range(BETWEEN))).await;
        if begun.elapsed() >= time {
            break;
        }
        let away = Duration::from_millis(rng.random_range(AWAY));
        let node = rng.random_range(0..size.nodes);
        let what = match rng.random_range(0..10) {
            0..=3 => {
                storm.network.kill(node);
                tokio::time::sleep(away / 3).await;
                "kill -9, then a start"
            }
            4..=5 => {
                if let Some(process) = storm.network.process(node) {
                    let id = process.id();
                    signal(id, Signal::STOP);
                    tokio::time::sleep(away).await;
                    signal(id, Signal::CONT);
                }
                "stopped and continued"
            }
            6..=7 => {
                if !storm.network.stop_one(node).await {
                    trouble.push(format!(
                        "{} did not stop when asked",
                        layout.places[node].name
                    ));
                }
                tokio::time::sleep(away / 3).await;
                "restarted in order"
            }
            _ => {
                let dark = layout.nodes_in(layout.places[node].building);
                for &node in &dark {
                    storm.network.kill(node);
                }
                tokio::time::sleep(away).await;
                "building dark, then back"
            }
        };
        *blows.entry(what).or_default() += 1;
        for (index, text) in storm.network.fallen() {
            trouble.push(text);
            storm.network.kill(index);
        }
        revive(&mut storm).await?;
        if said.elapsed() > Duration::from_secs(15) {
            said = Instant::now();
            say(&format!(
                "  {:4.1} minutes: {} operations answered, {} blows",
                begun.elapsed().as_secs_f64() / 60.0,
                thousands(i128::from(storm.answered())),
                blows.values().sum::<u64>()
            ));
        }
    }
    let (mut reckoning, network, _, chores) = storm.end().await?;
    reckoning.broken.extend(trouble);
    for name in network.stop().await {
        reckoning
            .broken
            .push(format!("{name} did not stop when asked"));
    }
    let mut table = Table::new(&["", "times"]);
    for (what, times) in &blows {
        table.row([(*what).to_owned(), times.to_string()]);
    }
    let messages = &reckoning.messages;
    let figures = [
        ("texts accepted", messages.sent),
        ("texts safe", messages.safe),
        ("IOUs accepted by the payer's node", reckoning.ious.signed),
        ("IOUs accepted by the payee's node", reckoning.ious.accepted),
        ("other things done", chores),
        ("repeated with their key", reckoning.repeated),
        ("lost", messages.lost_safe + reckoning.ious.lost_safe),
        ("shown twice", messages.shown_twice),
        ("lines whose ends disagree", reckoning.ledger.disagreements),
    ];
    for (what, figure) in figures {
        table.row([what.to_owned(), thousands(i128::from(figure))]);
    }
    let json = json!({
        "ok": reckoning.broken.is_empty(), "seed": size.seed, "minutes": options.minutes,
        "blows": blows, "messages": messages, "ious": reckoning.ious, "ledger": reckoning.ledger,
        "chores": chores, "broken": reckoning.broken,
    });
    Ok(Finding {
        table,
        json,
        broken: reckoning.broken,
    })
}

/// Starts every node that does not run, and waits until all are ready.
async fn revive(storm: &mut Storm) -> Result<()> {
    let gone: Vec<usize> = (0..storm.network.nodes.len())
        .filter(|&node| storm.network.process(node).is_none())
        .collect();
    for &node in &gone {
        storm.network.start_again(node, &[]).await?;
    }
    for node in gone {
        storm.network.ready(node).await?;
    }
    Ok(())
}
