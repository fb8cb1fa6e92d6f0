//! The way back of an account with much in it, measured: restore, payments after it, repair, and a
//! keeper that was away meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pumasi_node::ErrorKind;
use pumasi_node::client::Client;
use pumasi_node::view::{KeepersView, PaymentView, RestoreReport, RestoreView, StatusView};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::findings::read;
use crate::layout::{BUILDINGS, Layout, Place};
use crate::machine::Machine;
use crate::network::{Network, RunDirectory};
use crate::options::{BenchOptions, KEEPERS, REPLACE_AFTER};
use crate::people::{Person, arrive, befriend, until};
use crate::repair::is_whole;
use crate::society::{Friendship, UNIT};
use crate::table::{Paint, Table, say, thousands};
use crate::view::Board;

/// Connections that fill an account.
const CONNECTIONS: usize = 32;
/// One item in so many is an IOU.
const IOU_ONE_IN: usize = 10;
/// How long each step may take.
const STEP: Duration = Duration::from_secs(300);
/// A credit limit that no bench reaches.
const LIMIT: u64 = 1_000_000_000;
/// Indexes of the nodes: four keepers first.
const HOME: usize = 4;
const FRIENDS: usize = 5;
const SPARE: usize = 6;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) command: String,
    pub(crate) machine: Machine,
    /// Texts and IOUs of the account.
    pub(crate) items: usize,
    pub(crate) lines: usize,
    /// Seconds of silence after which a keeper is replaced, in these measurements.
    pub(crate) replace_after: u64,
    /// Items a second while filling.
    pub(crate) fill_per_second: f64,
    /// From the call to the end of the restore.
    pub(crate) restore_ms: u64,
    /// From the call until all its lists were read.
    pub(crate) readable_ms: u64,
    pub(crate) report: RestoreReport,
    /// From the end of the restore until a payment on each line was accepted: the median, the slowest.
    pub(crate) paid_ms: (u64, u64),
    /// From the fire until the account had all keepers again, restored meanwhile.
    pub(crate) repair_ms: u64,
    /// The same, until everybody had.
    pub(crate) repair_all_ms: u64,
    /// From the start of a keeper that was away while all this was written until it holds all.
    pub(crate) away_ms: u64,
    /// Archive pages that the keeper lacked then.
    pub(crate) away_pages: u64,
}

/// Measures and prints.
pub(crate) async fn run(options: &BenchOptions) -> Result<()> {
    ensure!(
        (1..=64).contains(&options.lines)
            && (options.lines..=1_000_000).contains(&options.messages),
        "--lines must be 1 to 64, and --messages at least as many"
    );
    let figures = measure(options.messages, options.lines).await?;
    figures.print();
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&figures)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Four keepers in buildings of their own; the home; the friends' node; a node to come back on.
fn layout(replace_after: Option<u64>) -> Layout {
    let names = [
        "keeper-1", "keeper-2", "keeper-3", "keeper-4", "home", "friends", "spare",
    ];
    let places = names
        .into_iter()
        .enumerate()
        .map(|(building, name)| Place {
            name: name.to_owned(),
            building,
            newcomers: if building < HOME { 200 } else { 0 },
        })
        .collect();
    Layout {
        network: "testnet-bench".to_owned(),
        buildings: BUILDINGS[..names.len()].to_vec(),
        places,
        replace_after,
    }
}

/// One account and its contacts.
struct Scene {
    network: Network,
    people: Vec<Person>,
    _run: RunDirectory,
}

impl Scene {
    async fn new(lines: usize, replace_after: Option<u64>) -> Result<Self> {
        say(&format!(
            "Starting seven nodes, one account with {lines} contacts and lines ..."
        ));
        let run = RunDirectory::new("bench")?;
        let layout = layout(replace_after);
        let board = Board::new("", &layout, 0);
        let network = Network::start(&layout, run.path(), false).await?;
        let homes: Vec<_> = std::iter::once(HOME)
            .chain(std::iter::repeat_n(FRIENDS, lines))
            .collect();
        let people = arrive(&network, KEEPERS + 1, &homes, &board).await?;
        let friendships: Vec<_> = (1..=lines)
            .map(|b| Friendship {
                a: 0,
                b,
                a_gives: LIMIT,
                b_gives: LIMIT,
            })
            .collect();
        befriend(&people, &friendships, &board).await?;
        Ok(Self {
            network,
            people,
            _run: run,
        })
    }

    /// Writes so many texts and IOUs, in both directions, and waits until all are there. Returns how
    /// many seconds it took.
    async fn fill(&self, items: usize) -> Result<f64> {
        say(&format!(
            "Filling it with {} texts and IOUs ...",
            thousands(items as i128)
        ));
        let begun = Instant::now();
        let mut workers = JoinSet::new();
        for worker in 0..CONNECTIONS {
            let people = self.people.clone();
            workers.spawn(async move {
                for item in (worker..items).step_by(CONNECTIONS) {
                    let friend = &people[1 + item % (people.len() - 1)];
                    let (from, to) = if (item / (people.len() - 1)).is_multiple_of(2) {
                        (&people[0], friend)
                    } else {
                        (friend, &people[0])
                    };
                    write(from, &to.id, item).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(result) = workers.join_next().await {
            result??;
        }
        for node in [HOME, FRIENDS] {
            let client = &self.network.nodes[node].client;
            until("everything is safe and archived", STEP, || async {
                let view: StatusView = client.get("/node/status").await?;
                let quiet = |a: &pumasi_node::view::AccountStatusView| {
                    a.waiting == 0 && a.archive_behind == 0
                };
                Ok(view.accounts.iter().all(quiet).then_some(()))
            })
            .await?;
        }
        let passed = begun.elapsed().as_secs_f64();
        let here = read(&self.people[0]).await?;
        let shown: usize = here.chats.values().map(Vec::len).sum();
        ensure!(shown == items, "{shown} of {items} items are shown");
        Ok(passed)
    }

    /// The indexes of the account's keepers.
    async fn keepers(&self) -> Result<Vec<usize>> {
        let view: KeepersView = self.people[0].client.get("/keepers").await?;
        let nodes: BTreeSet<_> = view.keepers.iter().map(|k| k.node.as_str()).collect();
        Ok((0..HOME)
            .filter(|&node| nodes.contains(self.network.nodes[node].id.as_str()))
            .collect())
    }
}

async fn write(from: &Person, to: &str, item: usize) -> Result<()> {
    let key = format!("fill-{item}");
    let (path, body) = if item.is_multiple_of(IOU_ONE_IN) {
        let amount = json!({"amount": "100", "currency": UNIT});
        (
            "/payments".to_owned(),
            json!({"to": to, "amount": amount, "note": format!("#{item}")}),
        )
    } else {
        let text = format!("{:<100}", format!("#{item} a text of one hundred bytes"));
        (format!("/chats/{to}/messages"), json!({"text": text}))
    };
    loop {
        match from.client.post_with_key::<Value>(&path, &body, &key).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Busy => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

async fn measure(items: usize, lines: usize) -> Result<Figures> {
    let (away_ms, away_pages) = away(items, lines).await?;

    let mut scene = Scene::new(lines, Some(REPLACE_AFTER)).await?;
    let fill = scene.fill(items).await?;
    let keepers = scene.keepers().await?;
    let lost = *keepers.first().context("no keeper")?;
    say("Burning its home and the building of one of its keepers ...");
    let fire = Instant::now();
    scene.network.burn(HOME)?;
    scene.network.burn(lost)?;
    let ashes: BTreeSet<String> = [HOME, lost]
        .map(|node| scene.network.nodes[node].id.clone())
        .into();

    say("Restoring it from its words ...");
    let client = scene.network.nodes[SPARE].client.clone();
    let (restore_ms, readable_ms, report) = restore(&client, &mut scene.people[0], items).await?;
    let back = Instant::now();
    let paid_ms = pay_all(&scene.people, back).await?;

    say("Waiting until all copies are there again ...");
    let own = &scene.people[..1];
    wait_whole(own, &ashes).await?;
    let repair_ms = millis(fire);
    wait_whole(&scene.people, &ashes).await?;
    let repair_all_ms = millis(fire);
    scene.network.stop().await;
    Ok(Figures {
        command: format!(
            "cargo run --release -p pumasi-testnet -- bench --restore --messages {items} --lines {lines}"
        ),
        machine: Machine::here(),
        items,
        lines,
        replace_after: REPLACE_AFTER,
        fill_per_second: (items as f64 / fill).round(),
        restore_ms,
        readable_ms,
        report,
        paid_ms,
        repair_ms,
        repair_all_ms,
        away_ms,
        away_pages,
    })
}

/// The restore; milliseconds until it ended and until all lists were read.
async fn restore(
    client: &Client,
    person: &mut Person,
    items: usize,
) -> Result<(u64, u64, RestoreReport)> {
    let begun = Instant::now();
    let body = json!({"phrase": person.phrase});
    let _: RestoreView = client.post("/restores", &body).await?;
    let path = format!("/restores/{}", person.id);
    let report = until("the account is back", STEP, || async {
        let view: RestoreView = client.get(&path).await?;
        ensure!(view.state != "failed", "{}", view.text);
        Ok(view.report)
    })
    .await?;
    let restore_ms = millis(begun);
    person.client = client.clone().with_account(Some(&person.id));
    let here = read(person).await?;
    let readable_ms = millis(begun);
    let shown: usize = here.chats.values().map(Vec::len).sum();
    ensure!(
        report.complete && shown == items,
        "{shown} of {items} items came back: {report:?}"
    );
    Ok((restore_ms, readable_ms, report))
}

/// Pays on all lines at once; milliseconds after `back` until accepted: the median, the slowest.
async fn pay_all(people: &[Person], back: Instant) -> Result<(u64, u64)> {
    let mut work = JoinSet::new();
    for friend in &people[1..] {
        let (payer, friend) = (people[0].client.clone(), friend.id.clone());
        work.spawn(async move {
            let amount = json!({"amount": "100", "currency": UNIT});
            let body = json!({"to": friend, "amount": amount, "note": "back"});
            let key = format!("back-{friend}");
            let payment: PaymentView = until("a payment is taken", STEP, || async {
                match payer.post_with_key("/payments", &body, &key).await {
                    Ok(payment) => Ok(Some(payment)),
                    Err(error) if error.kind() == ErrorKind::Busy => Ok(None),
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
            let path = format!("/payments/{}", payment.id);
            until("a payment is accepted", STEP, || async {
                let view: PaymentView = payer.get(&path).await?;
                Ok((view.state == "accepted").then_some(()))
            })
            .await?;
            Ok::<_, anyhow::Error>(millis(back))
        });
    }
    let mut times = Vec::new();
    while let Some(result) = work.join_next().await {
        times.push(result??);
    }
    times.sort_unstable();
    Ok((times[times.len() / 2], times[times.len() - 1]))
}

/// Waits until these have all their keepers again.
async fn wait_whole(people: &[Person], ashes: &BTreeSet<String>) -> Result<()> {
    for person in people {
        until("all keepers are there again", STEP, || async {
            Ok(is_whole(person, KEEPERS, ashes).await?.then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// A keeper is away while everything is written, and comes back: milliseconds until it holds all, and how
/// many pages it lacked.
async fn away(items: usize, lines: usize) -> Result<(u64, u64)> {
    // Longer than the filling takes: it is to come back, not to be replaced.
    let mut scene = Scene::new(lines, Some(STEP.as_secs())).await?;
    let keeper = *scene.keepers().await?.last().context("no keeper")?;
    let id = scene.network.nodes[keeper].id.clone();
    let held = |view: &KeepersView| {
        let keeper = view.keepers.iter().find(|k| k.node == id);
        keeper.map(|k| (k.pages, k.level_at.clone()))
    };
    let before: KeepersView = scene.people[0].client.get("/keepers").await?;
    let (_, level) = held(&before).context("the keeper is gone")?;
    say("One keeper goes away ...");
    scene.network.kill(keeper);
    scene.fill(items).await?;
    let away: KeepersView = scene.people[0].client.get("/keepers").await?;
    let (pages, _) = held(&away).context("the keeper was replaced")?;
    let lacked = away.pages.saturating_sub(pages);
    say("... and comes back ...");
    let begun = Instant::now();
    scene.network.start_again(keeper, &[]).await?;
    until("the keeper holds everything", STEP, || async {
        let view: KeepersView = scene.people[0].client.get("/keepers").await?;
        let whole = held(&view).is_some_and(|(pages, at)| pages >= view.pages && at != level);
        Ok(whole.then_some(()))
    })
    .await?;
    let took = millis(begun);
    scene.network.stop().await;
    Ok((took, lacked))
}

impl Figures {
    fn print(&self) {
        let paint = Paint::for_stdout();
        let machine = &self.machine;
        say("");
        say(&format!("  {}", self.command));
        say(&format!(
            "  {} cores of {}, {}",
            machine.cores, machine.processor, machine.system
        ));
        if !machine.release {
            say(&paint.red("  This is not a release build: the figures mean nothing."));
        }
        say("");
        let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1e3);
        let mut table = Table::new(&["", "measured", "aim"]);
        let items = thousands(self.items as i128);
        let mut row = |what: String, figure: String, aim: &str| {
            table.row([what, figure, aim.to_owned()]);
        };
        row(
            format!("restore of {items} items and {} lines", self.lines),
            seconds(self.restore_ms),
            "20 s",
        );
        row(
            "the same, and all lists read".to_owned(),
            seconds(self.readable_ms),
            "",
        );
        let (median, slowest) = self.paid_ms;
        row(
            "a payment on each line accepted after it".to_owned(),
            format!("p50 {}, slowest {}", seconds(median), seconds(slowest)),
            "2 s",
        );
        row(
            "all copies again, from the fire".to_owned(),
            seconds(self.repair_ms),
            "60 s",
        );
        row(
            "the same, of all contacts, too".to_owned(),
            seconds(self.repair_all_ms),
            "",
        );
        row(
            format!(
                "a keeper back that lacks {} pages",
                thousands(i128::from(self.away_pages))
            ),
            seconds(self.away_ms),
            "10 s",
        );
        row(
            "filled, items a second".to_owned(),
            format!("{:.0}", self.fill_per_second),
            "",
        );
        table.lines(paint).iter().for_each(|line| say(line));
        say("");
        say(&format!(
            "  Two of the three keepers survived. A keeper counts as gone after {} s of silence.",
            self.replace_after
        ));
        let report = &self.report;
        say(&format!(
            "  Back: {} contacts, {} items, {} lines, {} sent again; complete: {}.",
            report.contacts, report.messages, report.lines, report.sent_again, report.complete
        ));
        report
            .missing
            .iter()
            .for_each(|text| say(&format!("  - {text}")));
    }
}
