//! How the cost of a message grows with what a node holds: stored messages, contacts, accounts.
//! `cargo bench -p pumasi-node --bench growth` (about five minutes; `-- quick`: one decade less).
//!
//! Prints milliseconds per message from the call to *delivered*, with 64 under way, at each size, and
//! the ratio to the smallest size. The machine's noise is in every figure; the ratio is what counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench prints and fails loudly"
)]

use std::time::Instant;

use pumasi_node::{Account, Node};

/// Messages under way at once.
const WINDOW: usize = 64;
/// Messages per measurement.
const SAMPLE: usize = 2_000;

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let sizes: &[usize] = if quick {
            &[1_000, 10_000]
        } else {
            &[1_000, 10_000, 100_000]
        };
        stored_messages(sizes).await;
        let sizes: &[usize] = if quick { &[2, 20] } else { &[2, 20, 200] };
        contacts(sizes).await;
        accounts(&[1, 10, 100]).await;
    });
}

struct Pair {
    _directory: tempfile::TempDir,
    nodes: [Node; 2],
    sender: Account,
}

async fn pair() -> Pair {
    let directory = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let at = directory.path().join(name);
        async move { Node::builder().local().data_dir(at).start().await.unwrap() }
    };
    let (one, two) = (start("one").await, start("two").await);
    one.create_account("sender").await.unwrap();
    two.create_account("reader").await.unwrap();
    let sender = one.account(None).await.unwrap();
    let reader = two.account(None).await.unwrap();
    meet(&reader, &sender, "reader").await;
    Pair {
        _directory: directory,
        nodes: [one, two],
        sender,
    }
}

/// `sender` becomes a contact of `reader`, which it calls by a name.
async fn meet(reader: &Account, sender: &Account, name: &str) {
    let link = reader.invite(None).await.unwrap().link;
    let mut news = sender.node().watch_events();
    sender.add_contact(&link, Some(name)).await.unwrap();
    while sender.contact(name).await.unwrap().state != "active" {
        news.changed().await.unwrap();
    }
}

/// Sends texts and waits until all are delivered. Returns milliseconds per text.
async fn send(sender: &Account, who: &str, count: usize) -> f64 {
    let mut events = sender.subscribe("bench").await.unwrap();
    let begun = Instant::now();
    let (mut sent, mut delivered) = (0, 0);
    while delivered < count {
        while sent < count && sent - delivered < WINDOW {
            sender
                .send(who, "a text of ordinary length, as people write them", None)
                .await
                .unwrap();
            sent += 1;
        }
        let event = events.next().await.unwrap();
        if event.kind == "message.delivered" {
            delivered += 1;
        }
        if delivered % 500 == 0 {
            events.ack(event.seq).await.unwrap();
        }
    }
    let took = begun.elapsed().as_secs_f64() * 1_000.0;
    events.ack(sender.node().last_event()).await.unwrap();
    took / count as f64
}

fn report(what: &str, results: &[(usize, f64)]) {
    println!("\n{what:>16}   ms per text   ratio");
    for (size, cost) in results {
        println!("{size:>16} {cost:>13.3} {:>7.2}", cost / results[0].1);
    }
}

async fn stop(pair: Pair) {
    for node in pair.nodes {
        node.shutdown().await;
    }
}

async fn stored_messages(sizes: &[usize]) {
    let pair = pair().await;
    let mut results = Vec::new();
    let mut stored = 0;
    for size in sizes {
        if *size > stored + SAMPLE {
            send(&pair.sender, "reader", size - stored).await;
            stored = *size;
        }
        results.push((*size, send(&pair.sender, "reader", SAMPLE).await));
        stored += SAMPLE;
    }
    report("stored messages", &results);
    stop(pair).await;
}

async fn contacts(sizes: &[usize]) {
    let pair = pair().await;
    let mut results = Vec::new();
    let mut known = 1;
    for size in sizes {
        while known < *size {
            // Many people on the other node, each a contact of the sender.
            let name = format!("friend {known}");
            let friend = friend(&pair.nodes[1], known).await;
            meet(&friend, &pair.sender, &name).await;
            known += 1;
        }
        results.push((*size, send(&pair.sender, "reader", SAMPLE).await));
    }
    report("contacts", &results);
    stop(pair).await;
}

/// A new account of the other node. A node has at most 256.
async fn friend(node: &Node, number: usize) -> Account {
    let name = format!("friend {number}");
    node.create_account(&name).await.unwrap();
    node.account(Some(&name)).await.unwrap()
}

async fn accounts(sizes: &[usize]) {
    let pair = pair().await;
    let mut results = Vec::new();
    let mut there = 1;
    for size in sizes {
        while there < *size {
            pair.nodes[0]
                .create_account(&format!("neighbour {there}"))
                .await
                .unwrap();
            there += 1;
        }
        results.push((*size, send(&pair.sender, "reader", SAMPLE).await));
    }
    report("accounts", &results);
    stop(pair).await;
}
