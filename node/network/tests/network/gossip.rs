//! Gossip over several nodes.

use std::{collections::HashMap, time::Duration};

use pumasi_network::{Event, MAX_GOSSIP, PublishError, Topic, Verdict};

use crate::common::{BOTH, Node, PATIENCE, Transport, config, join, until};

/// Nodes connected one to the next.
async fn line(count: u8, transport: Transport) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for seed in 0..count {
        let mut node = Node::start(config(seed + 1, transport)).await;
        if let Some(last) = nodes.last_mut() {
            join(last, &mut node).await;
        }
        nodes.push(node);
    }
    nodes
}

/// Publishes until the other end has it: before the mesh is built, a message goes nowhere.
async fn warm_up(nodes: &mut [Node]) {
    let (first, rest) = nodes.split_first_mut().unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut last_has_it = false;
    let mut round = 0_u32;
    while !last_has_it {
        assert!(
            tokio::time::Instant::now() < until,
            "gossip never reached the end of the line"
        );
        first
            .net
            .publish(Topic::Nodes, format!("warm-up {round}").into_bytes())
            .unwrap();
        round += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        for (n, node) in rest.iter_mut().enumerate().collect::<Vec<_>>() {
            while let Ok(event) = node.events.try_recv() {
                if let Event::Gossip { ticket, .. } = event {
                    node.net.judge(ticket, Verdict::Accept);
                    last_has_it |= n + 2 == 5;
                }
            }
        }
    }
}

#[tokio::test]
async fn gossip_reaches_five_nodes_in_a_line_and_everybody_hears_it_once() {
    for transport in BOTH {
        let mut nodes = line(5, transport).await;
        warm_up(&mut nodes).await;
        // A ring: from now on everything arrives by two ways.
        let (first, rest) = nodes.split_first_mut().unwrap();
        join(first, rest.last_mut().unwrap()).await;
        for number in 0..20_u8 {
            first.net.publish(Topic::Nodes, vec![number; 600]).unwrap();
        }
        let mut heard: Vec<HashMap<Vec<u8>, u32>> = vec![HashMap::new(); rest.len()];
        let until = tokio::time::Instant::now() + PATIENCE;
        while heard.iter().any(|node| node.len() < 20) {
            assert!(
                tokio::time::Instant::now() < until,
                "not everybody heard everything"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
            for (node, heard) in rest.iter_mut().zip(&mut heard) {
                collect(node, heard);
            }
        }
        // Duplicates, if they were told, would come within the next heartbeats.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        for (node, heard) in rest.iter_mut().zip(&mut heard) {
            collect(node, heard);
            assert!(heard.values().all(|times| *times == 1), "{heard:?}");
        }
    }
}

fn collect(node: &mut Node, heard: &mut HashMap<Vec<u8>, u32>) {
    while let Ok(event) = node.events.try_recv() {
        if let Event::Gossip {
            bytes,
            ticket,
            topic,
            ..
        } = event
        {
            assert_eq!(topic, Topic::Nodes);
            node.net.judge(ticket, Verdict::Accept);
            if bytes.len() == 600 {
                *heard.entry(bytes).or_default() += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_message_that_is_not_accepted_goes_no_further() {
    let mut nodes = line(5, Transport::Quic).await;
    warm_up(&mut nodes).await;
    let mut judged = 0;
    for number in 0..30_u8 {
        nodes[0]
            .net
            .publish(Topic::Nodes, vec![number; 300])
            .unwrap();
    }
    while judged < 30 {
        let net = nodes[1].net.clone();
        let (size, ticket) = nodes[1]
            .wait("gossip", |event| match event {
                Event::Gossip { ticket, bytes, .. } => Some((bytes.len(), ticket)),
                _ => None,
            })
            .await;
        if size == 300 {
            judged += 1;
            net.judge(
                ticket,
                if judged % 2 == 0 {
                    Verdict::Ignore
                } else {
                    Verdict::Reject
                },
            );
        } else {
            net.judge(ticket, Verdict::Accept);
        }
    }
    nodes[1].net.publish(Topic::Nodes, vec![1; 301]).unwrap();
    let before = nodes[2]
        .wait("gossip", |event| match event {
            Event::Gossip { bytes, .. } if bytes.len() == 300 || bytes.len() == 301 => {
                Some(bytes.len())
            }
            _ => None,
        })
        .await;
    assert_eq!(before, 301);
}

#[tokio::test]
async fn publishing_alone_is_no_error_and_too_much_is() {
    let node = Node::start(config(1, Transport::Quic)).await;
    node.net.publish(Topic::Nodes, vec![1; MAX_GOSSIP]).unwrap();
    let net = node.net.clone();
    until("counted", || net.counters().gossip_unsent == 1).await;
    assert_eq!(
        node.net.publish(Topic::Nodes, vec![1; MAX_GOSSIP + 1]),
        Err(PublishError::Size)
    );
}

#[tokio::test]
async fn the_largest_message_passes() {
    let mut nodes = line(5, Transport::Tcp).await;
    warm_up(&mut nodes).await;
    nodes[0]
        .net
        .publish(Topic::Nodes, vec![9; MAX_GOSSIP])
        .unwrap();
    let (_, rest) = nodes.split_first_mut().unwrap();
    rest[0]
        .wait("the large one", |event| match event {
            Event::Gossip { bytes, .. } if bytes.len() == MAX_GOSSIP => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn gossip_is_ignored_and_counted_when_events_are_not_read() {
    let mut nodes = line(2, Transport::Quic).await;
    let (a, b) = nodes.split_at_mut(1);
    let (a, b) = (&mut a[0], &mut b[0]);
    let mut number = 0_u64;
    until("something is ignored", || {
        for _ in 0..20 {
            number += 1;
            // What finds no room is published again under the next number.
            let _ = a.net.publish(Topic::Nodes, number.to_be_bytes().to_vec());
        }
        b.net.counters().gossip_ignored > 0
    })
    .await;
    // The swarm is alive all the same.
    assert!(b.net.counters().gossip_in <= 256);
    b.net.send(a.key(), b"alive".to_vec()).unwrap();
    assert_eq!(a.frame().await.bytes, b"alive");
}
