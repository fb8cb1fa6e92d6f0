//! Speed and size, measured: five processes (sender, recipient, three keepers in three buildings), then
//! the start of twelve. All on this machine, over the same API that everybody uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pumasi_node::ErrorKind;
use pumasi_node::view::{KeptView, StatusView};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::auditor::{Auditor, Who};
use crate::figures::Spread;
use crate::layout::{BUILDINGS, Layout, Place};
use crate::machine::{Machine, loopback_bytes, processor_seconds, resident_kib};
use crate::network::{Network, RunDirectory};
use crate::options::BenchOptions;
use crate::people::{Items, Person, arrive, befriend, until};
use crate::process::stopped;
use crate::results::{ArchiveCost, Flood, Idle, Light, Results};
use crate::society::{Friendship, UNIT};
use crate::table::say;
use crate::traffic::{Stage, listen, perform};
use crate::view::Board;
use crate::way_back;
use crate::workload::{Operation, What};

/// Connections that send at the same time.
const CONNECTIONS: usize = 16;
/// Items that are under way at most: sent and not yet safe.
const WINDOW: usize = 512;
/// How long the last ones may take to become safe.
const DRAIN: Duration = Duration::from_secs(60);
/// Operations a second at light load.
const LIGHT: u64 = 50;
/// Bytes of a text.
const TEXT: usize = 100;
/// Copies of an item: at three keepers and the recipient's node.
const COPIES: f64 = 4.0;
/// Indexes of the nodes; the keepers come first, so that one of them is the bootstrap node.
const SENDER: usize = 3;
const RECIPIENT: usize = 4;
/// A credit limit that no bench reaches.
const LIMIT: u64 = 1_000_000_000_000;

/// How long each part measures, in seconds.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    idle: u64,
    light: u64,
    flood: u64,
}

/// Measures everything and prints it.
pub(crate) async fn run(options: BenchOptions) -> Result<()> {
    if options.restore {
        return tokio::select! {
            result = way_back::run(&options) => result,
            error = stopped() => Err(error),
        };
    }
    let lengths = if options.quick {
        Lengths {
            idle: 4,
            light: 5,
            flood: 4,
        }
    } else {
        Lengths {
            idle: 20,
            light: 30,
            flood: 15,
        }
    };
    let measure = measure(lengths, options.quick);
    let results = tokio::select! {
        results = measure => results?,
        error = stopped() => return Err(error),
    };
    results.print();
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&results)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

async fn measure(lengths: Lengths, quick: bool) -> Result<Results> {
    let run = RunDirectory::new("bench")?;
    let layout = layout();
    let board = Board::new("", &layout, 0);
    say("Starting sender, recipient and three keepers ...");
    let network = Network::start(&layout, run.path(), false).await?;
    let homes = [SENDER, RECIPIENT];
    let people = arrive(&network, layout.buildings.len(), &homes, &board).await?;
    let friendship = Friendship {
        a: 0,
        b: 1,
        a_gives: LIMIT,
        b_gives: LIMIT,
    };
    befriend(&people, &[friendship], &board).await?;

    say(&format!("Idle for {} s ...", lengths.idle));
    let (mut idle, baseline) = rest(&network, lengths.idle).await;
    say(&format!(
        "{LIGHT} texts a second for {} s ...",
        lengths.light
    ));
    let light = light(&network, &people, friendship, lengths.light, baseline).await?;
    say(&format!(
        "As many texts as possible for {} s ...",
        lengths.flood
    ));
    let archived = archive(&network, &people).await?;
    let texts = flood(&network, &people, Kind::Text, lengths.flood, baseline).await?;
    let after_texts = archive(&network, &people).await?;
    say(&format!(
        "As many IOUs as possible for {} s ...",
        lengths.flood
    ));
    let ious = flood(&network, &people, Kind::Iou, lengths.flood, baseline).await?;
    let after_ious = archive(&network, &people).await?;
    let cost = |before: [u64; 2], after: [u64; 2], items: u64| {
        [0, 1].map(|end| {
            let bytes = after[end].saturating_sub(before[end]);
            (bytes as f64 / items.max(1) as f64).round()
        })
    };
    let archive_bytes = ArchiveCost {
        text: cost(archived, after_texts, texts.items),
        iou: cost(after_texts, after_ious, ious.items),
    };
    for (idle, id) in idle.iter_mut().zip(network.ids()) {
        idle.resident_after_mib = resident_mib(id);
    }
    network.stop().await;

    say("Starting twelve nodes ...");
    let twelve = RunDirectory::new("bench")?;
    let layout = Layout::even(12, 4, 24, "testnet-bench");
    let network = Network::start(&layout, twelve.path(), false).await?;
    let start_12_ms = u64::try_from(network.start.as_millis()).unwrap_or(u64::MAX);
    network.stop().await;
    let flag = if quick { " --quick" } else { "" };
    Ok(Results {
        command: format!("cargo run --release -p pumasi-testnet -- bench{flag}"),
        machine: Machine::here(),
        idle,
        idle_bytes_per_second: baseline,
        light,
        texts,
        ious,
        archive_bytes,
        start_12_ms,
    })
}

/// Three keepers, then two nodes that keep for nobody.
fn layout() -> Layout {
    let buildings = vec![
        BUILDINGS[2],
        BUILDINGS[3],
        BUILDINGS[4],
        BUILDINGS[0],
        BUILDINGS[1],
    ];
    let places = ["keeper-1", "keeper-2", "keeper-3", "sender", "recipient"]
        .into_iter()
        .enumerate()
        .map(|(building, name)| Place {
            name: name.to_owned(),
            building,
            newcomers: if building < SENDER { 8 } else { 0 },
        })
        .collect();
    Layout {
        network: "testnet-bench".to_owned(),
        buildings,
        places,
        replace_after: None,
    }
}

/// Bytes of the archives of sender and recipient at one keeper, when nothing waits any more.
async fn archive(network: &Network, people: &[Person]) -> Result<[u64; 2]> {
    for node in [SENDER, RECIPIENT] {
        let client = &network.nodes[node].client;
        until("the archive is safe", DRAIN, || async {
            let view: StatusView = client.get("/node/status").await?;
            Ok(view
                .accounts
                .iter()
                .all(|account| account.archive_behind == 0)
                .then_some(()))
        })
        .await?;
    }
    let kept: Items<KeptView> = network.nodes[0].client.get("/keeping").await?;
    let mut bytes = [0; 2];
    for (bytes, person) in bytes.iter_mut().zip(people) {
        *bytes = kept
            .items
            .iter()
            .find(|kept| kept.account == person.id)
            .map_or(0, |kept| kept.page_bytes);
    }
    Ok(bytes)
}

fn resident_mib(process: u32) -> Option<f64> {
    resident_kib(process).map(|kib| (kib as f64 / 102.4).round() / 10.0)
}

/// Watches nodes that have nothing to do; also how many bytes a second pass all the same.
async fn rest(network: &Network, seconds: u64) -> (Vec<Idle>, Option<f64>) {
    let ids = network.ids();
    let before: Vec<_> = ids.iter().map(|&id| processor_seconds(id)).collect();
    let bytes = loopback_bytes();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let passed = begun.elapsed().as_secs_f64();
    let baseline = since(bytes).map(|bytes| bytes / passed);
    let idle = ids
        .iter()
        .zip(before)
        .zip(&network.nodes)
        .map(|((&id, before), node)| Idle {
            node: node.spec.name.clone(),
            resident_mib: resident_mib(id),
            core_percent: processor_seconds(id)
                .zip(before)
                .map(|(after, before)| (after - before) / passed * 100.0),
            resident_after_mib: None,
        })
        .collect();
    (idle, baseline)
}

/// Loopback bytes since a reading.
fn since(before: Option<u64>) -> Option<f64> {
    loopback_bytes()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before) as f64)
}

/// Loopback bytes of one copy of one item: without those that pass also when nothing is sent.
fn per_copy(bytes: Option<f64>, baseline: Option<f64>, seconds: f64, items: f64) -> Option<f64> {
    let bytes = bytes? - baseline? * seconds;
    (items > 0.0).then(|| (bytes / items / COPIES).max(0.0).round())
}

/// Texts at an even pace, with the time from each call to safe and to delivered.
async fn light(
    network: &Network,
    people: &[Person],
    friendship: Friendship,
    seconds: u64,
    baseline: Option<f64>,
) -> Result<Light> {
    let operations: Vec<_> = (0..usize::try_from(seconds * LIGHT)?)
        .map(|number| Operation {
            number,
            // A little later than the listener.
            at: 200_000 + number as u64 * 1_000_000 / LIGHT,
            from: 0,
            to: 1,
            what: What::Text {
                place: u32::try_from(number).unwrap_or(u32::MAX),
                text: text(number),
            },
            twice: false,
        })
        .collect();
    let count = operations.len();
    let who = people
        .iter()
        .map(|person| Who::new(&person.name, &person.id))
        .collect();
    let auditor = Auditor::new(who, vec![friendship], operations.clone());
    let bytes = loopback_bytes();
    let begun = Instant::now();
    let stage = Stage::new(people.to_vec(), auditor, 0);
    let mut listener = JoinSet::new();
    listener.spawn(listen(stage.clone(), network.nodes[SENDER].client.clone()));
    perform(&stage, operations).await?;
    loop {
        let counts = stage.auditor().counted();
        if counts == (count as u64, count as u64) {
            break;
        }
        ensure!(
            begun.elapsed() < DRAIN + Duration::from_secs(seconds),
            "not all became safe: {counts:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let bytes = since(bytes);
    let passed = begun.elapsed().as_secs_f64();
    let auditor = stage.auditor();
    let (mut safe, mut delivered) = (Vec::new(), Vec::new());
    for entry in &auditor.entries {
        let said = entry.id().and_then(|id| auditor.said.get(id));
        let (Some(begun), Some(said)) = (entry.begun, said) else {
            continue;
        };
        safe.extend(said.safe.map(|at| at.saturating_sub(begun)));
        delivered.extend(said.delivered.map(|at| at.saturating_sub(begun)));
    }
    Ok(Light {
        texts: count,
        safe_ms: Spread::of(safe),
        delivered_ms: Spread::of(delivered),
        bytes_per_copy: per_copy(bytes, baseline, passed, count as f64),
    })
}

/// A text of a hundred bytes.
fn text(number: usize) -> String {
    format!(
        "{:<TEXT$}",
        format!("#{number} a text of one hundred bytes")
    )
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Iou,
}

/// As many as possible: several connections, a bounded number under way.
async fn flood(
    network: &Network,
    people: &[Person],
    kind: Kind,
    seconds: u64,
    baseline: Option<f64>,
) -> Result<Flood> {
    let (sender, recipient) = (&people[0], &people[1]);
    let wanted = match kind {
        Kind::Text => "message.safe",
        Kind::Iou => "payment.safe",
    };
    let mut events = sender.client.events_from_now(&[wanted]).await?;
    let room = Arc::new(Semaphore::new(WINDOW));
    let sent = Arc::new(AtomicU64::new(0));
    let bytes = loopback_bytes();
    let before = processor(network);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let mut workers = JoinSet::new();
    for worker in 0..CONNECTIONS {
        let (sender, to) = (sender.clone(), recipient.id.clone());
        let (room, sent) = (Arc::clone(&room), Arc::clone(&sent));
        workers.spawn(async move {
            let mut number = 0;
            while Instant::now() < end {
                // Given back when the item is safe.
                room.acquire().await?.forget();
                number += 1;
                let key = format!("{kind:?}-{worker}-{number}");
                while let Err(error) = send(&sender, &to, kind, &key).await {
                    ensure!(error.kind() == ErrorKind::Busy, "a call failed: {error}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                sent.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        });
    }
    let mut safe = 0;
    let mut last = begun;
    loop {
        if workers.is_empty() && safe >= sent.load(Ordering::SeqCst) {
            break;
        }
        tokio::select! {
            Some(result) = workers.join_next() => result??,
            event = tokio::time::timeout(DRAIN, events.next()) => {
                let event = event.with_context(|| format!("{safe} became safe, and no more"))??;
                let event = event.context("the event stream ended")?;
                if event.kind == wanted {
                    safe += 1;
                    last = Instant::now();
                    room.add_permits(1);
                }
            }
        }
    }
    let passed = (last - begun).as_secs_f64();
    let each = |after: f64, before: f64| ((after - before) * 1e6 / safe as f64).round();
    let processor_us = processor(network)
        .zip(before)
        .map(|(after, before)| [0, 1, 2].map(|part| each(after[part], before[part])));
    Ok(Flood {
        processor_us,
        items: safe,
        seconds: passed,
        per_second: safe as f64 / passed,
        bytes_per_copy: per_copy(since(bytes), baseline, passed, safe as f64),
    })
}

/// Processor seconds so far: sender, recipient, a keeper on average.
fn processor(network: &Network) -> Option<[f64; 3]> {
    let times: Vec<f64> = network
        .ids()
        .into_iter()
        .map(processor_seconds)
        .collect::<Option<_>>()?;
    let keepers = times[..SENDER].iter().sum::<f64>() / SENDER as f64;
    Some([times[SENDER], times[RECIPIENT], keepers])
}

async fn send(sender: &Person, to: &str, kind: Kind, key: &str) -> Result<(), pumasi_node::Error> {
    let (path, body) = match kind {
        Kind::Text => (format!("/chats/{to}/messages"), json!({"text": text(0)})),
        Kind::Iou => {
            let amount = json!({"amount": "1", "currency": UNIT});
            (
                "/payments".to_owned(),
                json!({"to": to, "amount": amount, "note": "bench"}),
            )
        }
    };
    let _: Value = sender.client.post_with_key(&path, &body, key).await?;
    Ok(())
}
