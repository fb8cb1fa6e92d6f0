//! Whom a node refuses or lets go.

use std::collections::HashSet;

use pumasi_network::{Config, Event, PeerKey, SendError};

use crate::common::{BOTH, Node, Transport, config, join, ordered_pair, until};

#[tokio::test]
async fn a_blocked_peer_gets_no_session_and_an_unblocked_one_does() {
    for transport in BOTH {
        let mut b = Node::start(config(2, transport)).await;
        let mut a = Node::start(Config {
            blocked: vec![b.key()],
            ..config(1, transport)
        })
        .await;
        a.connect(&b);
        assert_eq!(a.refused(b.key()).await, "blocked by this node");
        b.connect(&a);
        b.refused(a.key()).await;
        assert_eq!(a.net.counters().sessions_opened, 0);

        a.net.unblock(b.key());
        until("unblocked", || a.net.counters().connections_refused > 0).await;
        let (mut tries, mut joined) = (0, false);
        while !joined {
            // The unblocking takes effect soon, not at once.
            a.connect(&b);
            tries += 1;
            assert!(tries < 1_000);
            joined = a
                .wait("an answer", |event| match event {
                    Event::Connected { .. } => Some(true),
                    Event::ConnectFailed { .. } => Some(false),
                    _ => None,
                })
                .await;
        }
        b.connected(a.key()).await;
        a.talk(&mut b, "welcome").await;
    }
}

#[tokio::test]
async fn blocking_a_connected_peer_ends_its_session() {
    for transport in BOTH {
        let (mut a, mut b) = ordered_pair(transport).await;
        join(&mut a, &mut b).await;
        a.net.block(b.key());
        assert_eq!(a.disconnected(b.key()).await.1, "blocked by this node");
        b.disconnected(a.key()).await;
        assert_eq!(a.net.send(b.key(), vec![1]), Err(SendError::NotConnected));
        b.connect(&a);
        b.refused(a.key()).await;
    }
}

#[tokio::test]
async fn private_addresses_are_not_dialled_unless_allowed() {
    for transport in BOTH {
        let mut a = Node::start(Config {
            allow_private: false,
            ..config(1, transport)
        })
        .await;
        let b = Node::start(config(2, transport)).await;
        a.connect(&b);
        a.refused(b.key()).await;
        let named = b
            .net
            .listening()
            .remove(0)
            .replace("/ip4/127.0.0.1", "/dns4/localhost");
        a.net.connect(b.key(), vec![named]).unwrap();
        a.refused(b.key()).await;
        assert_eq!(b.net.counters().connections_refused, 0);
        assert!(b.net.peers().is_empty());
    }
}

#[tokio::test]
async fn the_ninth_connection_from_one_address_is_refused() {
    for transport in BOTH {
        let mut hub = Node::start(Config {
            allow_private: false,
            ..config(100, transport)
        })
        .await;
        let mut guests = Vec::new();
        for seed in 1..=8 {
            let mut guest = Node::start(config(seed, transport)).await;
            join(&mut guest, &mut hub).await;
            guests.push(guest);
        }
        let mut ninth = Node::start(config(9, transport)).await;
        ninth.connect(&hub);
        ninth.refused(hub.key()).await;
        assert!(hub.net.counters().connections_refused > 0);

        let gone = guests.remove(0);
        gone.net.shutdown().await;
        hub.disconnected(gone.key()).await;
        let net = hub.net.clone();
        until("the link is gone", || net.peers().len() == 7).await;
        join(&mut ninth, &mut hub).await;
    }
}

#[tokio::test]
async fn a_small_node_trims_idle_peers_and_keeps_the_pinned_ones() {
    let mut hub = Node::start(Config {
        small: true,
        ..config(100, Transport::Tcp)
    })
    .await;
    let mut guests: Vec<Node> = Vec::new();
    for seed in 1..=20 {
        let mut guest = Node::start(config(seed, Transport::Tcp)).await;
        join(&mut guest, &mut hub).await;
        guests.push(guest);
    }
    // The oldest would go first.
    let pinned: Vec<PeerKey> = guests.iter().take(4).map(Node::key).collect();
    hub.net.pin(pinned.clone());
    assert_eq!(hub.net.peers().len(), 20);
    let mut gone = HashSet::new();
    while gone.len() < 4 {
        let (peer, reason) = hub
            .wait("trimmed", |event| match event {
                Event::Disconnected { peer, reason, .. } => Some((peer, reason)),
                _ => None,
            })
            .await;
        assert!(reason.contains("too many peers"), "{reason}");
        assert!(!pinned.contains(&peer));
        gone.insert(peer);
    }
    let net = hub.net.clone();
    until("16 are left", || {
        net.peers().iter().filter(|info| info.session).count() == 16
    })
    .await;
    let left: HashSet<PeerKey> = net.peers().iter().map(|info| info.peer).collect();
    assert!(pinned.iter().all(|peer| left.contains(peer)));
    assert_eq!(net.counters().peers_trimmed, 4);
    hub.talk(&mut guests[0], "still pinned").await;
}
