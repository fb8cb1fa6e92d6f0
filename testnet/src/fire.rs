//! The fire: a network under load, one building of it killed and wiped, and the reckoning after it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::auditor::{Auditor, Who};
use crate::checker::{Reckoning, reckon};
use crate::findings::collect;
use crate::network::{Network, RunDirectory};
use crate::options::{FireOptions, Plan};
use crate::people::{Person, arrive, befriend};
use crate::process::{Stopped, stopped};
use crate::report::{Report, Times};
use crate::society::friendships;
use crate::table::{Paint, is_terminal, say};
use crate::traffic::{Stage, listen, perform};
use crate::view::{Board, show};
use crate::workload::{Frame, operations};

/// How long after the end of traffic everything owed must be there.
const SETTLE: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Runs a fire; whether everything promised held.
pub(crate) async fn run(options: FireOptions) -> Result<bool> {
    let plan = options.check()?;
    let paint = Paint::for_stdout();
    for note in &plan.notes {
        say(&format!("note: {note}"));
    }
    let mut run = RunDirectory::new("fire")?;
    if plan.keep {
        run.keep();
    }
    let title = format!(
        "Pumasi: {} nodes in {} buildings, {} accounts, {} operations a second, seed {}",
        plan.layout.places.len(),
        plan.layout.buildings.len(),
        plan.accounts,
        plan.rate,
        plan.seed
    );
    let board = Board::new(&title, &plan.layout, plan.seconds);
    let plain = plan.plain || !is_terminal();
    if plain {
        say(&title);
    }
    // Ends with its value: nothing is drawn after the last line of the view.
    let mut view = JoinSet::new();
    view.spawn(show(board.clone(), plain, paint));
    let result = tokio::select! {
        result = burn(&plan, &run, &board) => result,
        error = stopped() => Err(error),
    };
    view.shutdown().await;
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            if !error.is::<Stopped>() {
                keep(&mut run);
            }
            return Err(error);
        }
    };
    if let Some(file) = &plan.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    say(&report.text(&plan.layout.buildings[plan.burn], paint));
    if !report.ok || plan.keep {
        keep(&mut run);
    }
    Ok(report.ok)
}

fn keep(run: &mut RunDirectory) {
    run.keep();
    say(&format!(
        "  Logs, data and the record are kept in {}",
        run.path().display()
    ));
}

/// From the first process to the reckoning.
async fn burn(plan: &Plan, run: &RunDirectory, board: &Board) -> Result<Report> {
    board.phase(format!("starting {} nodes", plan.layout.places.len()));
    let mut network = Network::start(&plan.layout, run.path(), false).await?;
    let begun = Instant::now();
    let friendships = friendships(plan.seed, plan.accounts);
    let homes: Vec<_> = (0..plan.accounts)
        .map(|a| a % plan.layout.places.len())
        .collect();
    let people = arrive(&network, plan.layout.buildings.len(), &homes, board).await?;
    let names: Vec<_> = people.iter().map(|person| person.name.clone()).collect();
    board.people(&homes, &names);
    befriend(&people, &friendships, board).await?;
    let mut times = Times {
        start_ms: millis(network.start),
        setup_ms: millis(begun.elapsed()),
        settle_ms: 0,
    };

    let burning = plan.layout.nodes_in(plan.burn);
    let burns: Vec<_> = homes.iter().map(|home| burning.contains(home)).collect();
    let fire_at = plan.seconds * 1_000_000 / 3;
    let operations = operations(
        plan.seed,
        &Frame {
            friendships: &friendships,
            burns: &burns,
            seconds: plan.seconds,
            rate: plan.rate,
            fire_at,
        },
    );
    let who = people
        .iter()
        .zip(&burns)
        .map(|(person, &burns)| Who {
            name: person.name.clone(),
            id: person.id.clone(),
            burns,
        })
        .collect();
    let stage = Stage::new(
        people,
        Auditor::new(who, friendships, operations.clone()),
        plan.seed,
    );
    let mut listeners = JoinSet::new();
    for node in &network.nodes {
        listeners.spawn(listen(stage.clone(), node.client.clone()));
    }
    board.begin(stage.clone());
    board.phase("warming up");
    let mut traffic = JoinSet::new();
    let players = stage.clone();
    traffic.spawn(async move { perform(&players, operations).await });
    stage.at(fire_at).await;
    stage.burn();
    network.burn(plan.burn)?;
    board.burn(&burning, stage.now());
    board.phase("fire!");
    while let Some(result) = traffic.join_next().await {
        result??;
    }

    board.phase("settling");
    let begun = Instant::now();
    let mut reckoning = settle(&stage).await?;
    times.settle_ms = millis(begun.elapsed());
    for (node, text) in network.fallen() {
        board.fallen(node);
        reckoning.broken.push(text);
    }
    if plan.keep || !reckoning.broken.is_empty() {
        let file = run.path().join("record.jsonl");
        std::fs::write(&file, stage.auditor().lines())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    board.phase("stopping");
    for name in network.stop().await {
        reckoning.broken.push(format!(
            "{name} did not stop when asked, and had to be killed"
        ));
    }
    Ok(Report::new(plan, times, reckoning))
}

/// Asks the survivors until everything owed is there, or the time for it is over.
pub(crate) async fn settle(stage: &Stage) -> Result<Reckoning> {
    let survivors: Vec<(usize, Person)> = {
        let auditor = stage.auditor();
        let people = stage.people.iter().cloned().enumerate();
        people
            .filter(|(account, _)| !auditor.people[*account].burns)
            .collect()
    };
    let begun = Instant::now();
    loop {
        let findings = collect(&survivors).await?;
        let reckoning = reckon(&stage.auditor(), &findings);
        if reckoning.broken.is_empty() || begun.elapsed() > SETTLE {
            return Ok(reckoning);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
