//! The fire: a network under load, one building of it killed and wiped, its people back elsewhere from
//! their words, and the reckoning after it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::{AbortHandle, JoinSet};

use crate::auditor::{Auditor, Who};
use crate::checker::{Reckoning, reckon};
use crate::comeback::{Restored, choose, come_back, keepers_of};
use crate::findings::collect;
use crate::layout::Layout;
use crate::network::{Network, RunDirectory};
use crate::options::{FireOptions, KEEPERS, Plan};
use crate::people::{arrive, befriend};
use crate::process::{Stopped, stopped};
use crate::repair::{repaired, whole};
use crate::report::{Report, Times};
use crate::society::{Friendship, friendships};
use crate::table::{Paint, is_terminal, say};
use crate::traffic::{Stage, listen, perform};
use crate::view::{Board, show};
use crate::workload::{Frame, Planned, operations};

/// How long after the end of traffic everything owed must be there.
const SETTLE: Duration = Duration::from_secs(60);
/// How long after that all keepers must be whole again.
const REPAIR: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Microseconds from one part of traffic to the next.
const WARM_UP: u64 = 200_000;

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
    let network = Network::start(&plan.layout, run.path(), false).await?;
    let begun = Instant::now();
    let homes: Vec<_> = (0..plan.accounts)
        .map(|a| a % plan.layout.places.len())
        .collect();
    let burning = plan.layout.nodes_in(plan.burn);
    let friendships = friendships_with(plan, &homes, &burning);
    let people = arrive(&network, plan.layout.buildings.len(), &homes, board).await?;
    let names: Vec<_> = people.iter().map(|person| person.name.clone()).collect();
    board.people(&homes, &names);
    befriend(&people, &friendships, board).await?;
    let mut times = Times {
        start_ms: millis(network.start),
        setup_ms: millis(begun.elapsed()),
        ..Times::default()
    };
    let who = people
        .iter()
        .map(|person| Who::new(&person.name, &person.id))
        .collect();
    let stage = Stage::new(
        people,
        Auditor::new(who, friendships.clone(), Vec::new()),
        plan.seed,
    );
    let mut listeners = JoinSet::new();
    let ears = network
        .nodes
        .iter()
        .map(|node| listeners.spawn(listen(stage.clone(), node.client.clone())))
        .collect();
    board.begin(stage.clone());
    let mut story = Story {
        plan,
        run: run.path(),
        board,
        stage: stage.clone(),
        layout: plan.layout.clone(),
        network,
        friendships,
        homes,
        planned: Planned::default(),
        listeners,
        ears,
        burned: Vec::new(),
        ashes: BTreeSet::new(),
        restored: Restored::default(),
        repair_ms: Some(0),
    };
    let mut reckoning = Reckoning::default();
    for round in 0..plan.burns {
        reckoning = story.round(round, &mut times).await?;
        let fallen = story.network.fallen();
        let bad = !reckoning.broken.is_empty() || !fallen.is_empty();
        for (node, text) in fallen {
            board.fallen(node);
            reckoning.broken.push(text);
        }
        if bad {
            break;
        }
    }
    if plan.keep || !reckoning.broken.is_empty() {
        let file = run.path().join("record.jsonl");
        std::fs::write(&file, stage.auditor().lines())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    board.phase("stopping");
    let Story {
        network,
        burned,
        mut restored,
        repair_ms,
        ..
    } = story;
    for name in network.stop().await {
        reckoning.broken.push(format!(
            "{name} did not stop when asked, and had to be killed"
        ));
    }
    times.repair_ms = repair_ms;
    restored.missing_safe = reckoning.missing_safe;
    restored.never_safe = reckoning.never_safe;
    Ok(Report::new(plan, burned.len(), times, restored, reckoning))
}

/// Who knows whom; also two who live in the building that burns first.
fn friendships_with(plan: &Plan, homes: &[usize], burning: &[usize]) -> Vec<Friendship> {
    let mut all = friendships(plan.seed, plan.accounts);
    let there: Vec<_> = (0..homes.len())
        .filter(|&account| burning.contains(&homes[account]))
        .collect();
    let together = |f: &Friendship| there.contains(&f.a) && there.contains(&f.b);
    if let [a, b, ..] = there[..]
        && !all.iter().any(together)
    {
        all.push(Friendship {
            a,
            b,
            a_gives: 500_000,
            b_gives: 500_000,
        });
    }
    all
}

/// A run from fire to fire.
struct Story<'a> {
    plan: &'a Plan,
    run: &'a Path,
    board: &'a Board,
    stage: Stage,
    /// With the buildings that opened meanwhile.
    layout: Layout,
    network: Network,
    friendships: Vec<Friendship>,
    /// Per account: its node.
    homes: Vec<usize>,
    planned: Planned,
    listeners: JoinSet<()>,
    /// Per node: what listens to its events.
    ears: Vec<AbortHandle>,
    /// Buildings that burned.
    burned: Vec<usize>,
    /// Ids of the nodes that burned.
    ashes: BTreeSet<String>,
    restored: Restored,
    /// The slowest; `None` where copies did not become whole.
    repair_ms: Option<u64>,
}

impl Story<'_> {
    /// The building that burns next: the one after the last.
    fn next_building(&self) -> usize {
        let Some(&last) = self.burned.last() else {
            return self.plan.burn;
        };
        let count = self.layout.buildings.len();
        (1..=count)
            .map(|step| (last + step) % count)
            .find(|building| !self.burned.contains(building))
            .unwrap_or(last)
    }

    /// One fire: traffic, the fire, a new building, the way back, repair, the reckoning.
    async fn round(&mut self, round: usize, times: &mut Times) -> Result<Reckoning> {
        let (plan, board, stage) = (self.plan, self.board, self.stage.clone());
        let building = self.next_building();
        let burning = self.layout.nodes_in(building);
        let gone: Vec<_> = (0..plan.accounts)
            .filter(|&account| burning.contains(&self.homes[account]))
            .collect();
        let pairs = self.friendships.iter();
        let pairs = pairs.filter(|f| gone.contains(&f.a) && gone.contains(&f.b));
        self.restored.burned_pairs += pairs.count();
        let burns: Vec<_> = (0..plan.accounts).map(|a| gone.contains(&a)).collect();
        let frame = Frame {
            friendships: &self.friendships,
            burns: &burns,
            start: if round == 0 { 0 } else { stage.now() + WARM_UP },
            seconds: plan.seconds,
            rate: plan.rate,
            fire_at: plan.seconds * 1_000_000 / 3,
            back_at: plan.seconds * 2_000_000 / 3,
        };
        let operations = operations(plan.seed, &frame, &mut self.planned);
        stage.auditor().expect(operations.clone());
        board.part(frame.start);
        board.phase("all is well");
        let mut traffic = JoinSet::new();
        let players = stage.clone();
        traffic.spawn(async move { perform(&players, operations).await });

        let (fire_at, back_at) = (frame.start + frame.fire_at, frame.start + frame.back_at);
        stage.at(fire_at).await;
        let people: Vec<_> = gone.iter().map(|&account| stage.person(account)).collect();
        let keepers = keepers_of(&people).await?;
        stage.burn(&gone);
        self.network.burn(building)?;
        let fire = stage.auditor().fires.last().copied().unwrap_or(0);
        board.burn(&burning, fire);
        board.phase("fire!");
        self.burned.push(building);
        for &node in &burning {
            self.ears[node].abort();
            self.ashes.insert(self.network.nodes[node].id.clone());
        }
        self.open(burning.len()).await?;
        let mut repair = JoinSet::new();
        let wanted = KEEPERS.min(plan.layout.buildings.len() - 1);
        let (watcher, view, ashes) = (stage.clone(), board.clone(), self.ashes.clone());
        repair.spawn(async move { repaired(&watcher, wanted, &ashes, &view).await });

        stage.at(back_at).await;
        board.phase("coming back");
        let mut broken = Vec::new();
        let returns = choose(&self.network, &gone, &keepers);
        for one in &returns {
            self.homes[one.account] = one.node;
        }
        come_back(&stage, returns, board, &mut self.restored, &mut broken).await?;
        board.phase("life goes on");
        while let Some(result) = traffic.join_next().await {
            result??;
        }

        board.phase("settling");
        let begun = Instant::now();
        let mut reckoning = settle(&stage).await?;
        times.settle_ms = times.settle_ms.max(millis(begun.elapsed()));
        for &account in &gone {
            match stage.auditor().paid_after(account) {
                Some(micros) => {
                    let slowest = self.restored.paid_after_ms.unwrap_or(0);
                    self.restored.paid_after_ms = Some(slowest.max(micros / 1_000));
                }
                None => broken.push(format!(
                    "{} came back, and no payment of theirs was accepted since",
                    stage.people[account].name
                )),
            }
        }
        board.phase("until all copies are there");
        let end = tokio::time::timeout(REPAIR, repair.join_next()).await;
        self.repair_ms = match end {
            Ok(Some(moment)) => {
                let took = moment?.saturating_sub(fire) / 1_000;
                self.repair_ms.map(|slowest| slowest.max(took))
            }
            _ => None,
        };
        if self.repair_ms.is_none() {
            let whole = whole(&stage, wanted, &self.ashes).await;
            broken.push(format!(
                "only {whole} of {} accounts have {wanted} keepers in buildings apart again",
                plan.accounts
            ));
        }
        reckoning.broken.append(&mut broken);
        Ok(reckoning)
    }

    /// A building opens, with as many new nodes as burned.
    async fn open(&mut self, nodes: usize) -> Result<()> {
        let room = self.plan.accounts;
        let building = self.layout.open(nodes, room, &self.burned);
        let fresh = self.network.open(&self.layout, self.run, building).await?;
        for &node in &fresh {
            let client = self.network.nodes[node].client.clone();
            let ear = self.listeners.spawn(listen(self.stage.clone(), client));
            self.ears.push(ear);
        }
        self.board.open(&self.layout.buildings[building], &fresh);
        Ok(())
    }
}

/// Asks all who live until everything owed is there, or the time for it is over.
pub(crate) async fn settle(stage: &Stage) -> Result<Reckoning> {
    let begun = Instant::now();
    loop {
        let findings = collect(&stage.living()).await?;
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
