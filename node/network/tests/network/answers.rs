//! Every connect is answered once, and says why it failed.

use std::time::Duration;

use pumasi_network::{AddressError, Event, Network, StartError, address_with_peer};

use crate::common::{BOTH, Node, Transport, config, join, ordered_pair};

/// All events until the node has been quiet for a moment.
async fn rest(node: &mut Node) -> Vec<Event> {
    let mut events = Vec::new();
    while let Ok(Some(event)) =
        tokio::time::timeout(Duration::from_millis(500), node.events.recv()).await
    {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn a_connect_to_nobody_fails_once_and_names_the_address() {
    let mut a = Node::start(config(1, Transport::Tcp)).await;
    let b = Node::start(config(2, Transport::Tcp)).await;
    let (key, addresses) = (b.key(), b.net.listening());
    b.net.shutdown().await;
    a.net.connect(key, addresses.clone()).unwrap();
    let reason = a.refused(key).await;
    assert!(reason.contains(&addresses[0]), "{reason}");
    assert!(rest(&mut a).await.is_empty());
}

#[tokio::test]
async fn a_connect_without_usable_addresses_fails_at_once() {
    let mut a = Node::start(config(1, Transport::Quic)).await;
    let b = Node::start(config(2, Transport::Quic)).await;
    let elsewhere = address_with_peer("/ip4/127.0.0.1/tcp/1", a.key());
    for addresses in [
        vec![],
        vec!["nonsense".to_owned(), "/ip4/1.2.3.4".to_owned(), elsewhere],
    ] {
        a.net.connect(b.key(), addresses).unwrap();
        assert_eq!(a.refused(b.key()).await, "no address that can be dialled");
    }
    a.net.connect(a.key(), b.net.listening()).unwrap();
    assert_eq!(a.refused(a.key()).await, "that is this node itself");
    // Not a point on the curve.
    a.net.connect([2; 32], b.net.listening()).unwrap();
    assert_eq!(a.refused([2; 32]).await, "not an Ed25519 key");
}

#[tokio::test]
async fn another_peer_at_the_address_is_not_accepted() {
    for transport in BOTH {
        let (mut a, b) = ordered_pair(transport).await;
        let c = Node::start(config(3, transport)).await;
        a.net.connect(c.key(), b.net.listening()).unwrap();
        a.refused(c.key()).await;
        assert_eq!(a.net.counters().sessions_opened, 0);
    }
}

#[tokio::test]
async fn a_connect_to_a_connected_peer_is_quiet_and_many_connects_have_one_answer() {
    let (mut a, mut b) = ordered_pair(Transport::Quic).await;
    for _ in 0..20 {
        a.connect(&b);
    }
    a.connected(b.key()).await;
    b.connected(a.key()).await;
    a.connect(&b);
    b.connect(&a);
    for node in [&mut a, &mut b] {
        let events = rest(node).await;
        assert!(
            events.iter().all(|e| matches!(e, Event::Listening { .. })),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn too_many_waiting_connects_are_refused_and_room_comes_back() {
    let mut a = Node::start(config(1, Transport::Quic)).await;
    let unusable = || a.net.connect([2; 32], Vec::new());
    let accepted = (0..1_000).filter(|_| unusable().is_ok()).count();
    assert_eq!(
        accepted, 256,
        "nothing is read meanwhile on this one thread"
    );
    for _ in 0..accepted {
        a.refused([2; 32]).await;
    }
    assert!(a.net.connect([2; 32], Vec::new()).is_ok());
    a.refused([2; 32]).await;
}

#[tokio::test]
async fn an_address_without_a_key_connects_to_whoever_answers() {
    for transport in BOTH {
        for seed in [1, 5] {
            let mut a = Node::start(config(seed, transport)).await;
            let mut b = Node::start(config(2, transport)).await;
            let address = b.net.listening().remove(0);
            a.net.connect_address(address.clone()).unwrap();
            a.connected(b.key()).await;
            b.connected(a.key()).await;
            a.net
                .connect_address(address_with_peer(&address, b.key()))
                .unwrap();
            a.talk(&mut b, "known now").await;
        }
    }
}

#[tokio::test]
async fn an_address_without_a_key_where_nobody_answers_is_told() {
    let mut a = Node::start(config(1, Transport::Tcp)).await;
    let b = Node::start(config(2, Transport::Tcp)).await;
    let gone = b.net.listening().remove(0);
    b.net.shutdown().await;
    a.net.connect_address(gone.clone()).unwrap();
    let told = a
        .wait("address failed", |event| match event {
            Event::AddressFailed { address, .. } => Some(address),
            _ => None,
        })
        .await;
    assert_eq!(told, gone);
    for bad in ["", "/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/1/ws", "example.org:1"] {
        assert_eq!(
            a.net.connect_address(bad.to_owned()),
            Err(AddressError::Invalid)
        );
    }
}

#[tokio::test]
async fn a_name_is_resolved() {
    let mut a = Node::start(config(1, Transport::Tcp)).await;
    let mut b = Node::start(config(2, Transport::Tcp)).await;
    let named = b
        .net
        .listening()
        .remove(0)
        .replace("/ip4/127.0.0.1", "/dns4/localhost");
    a.net.connect(b.key(), vec![named]).unwrap();
    a.connected(b.key()).await;
    b.connected(a.key()).await;
}

#[tokio::test]
async fn a_peer_of_another_network_is_refused_with_the_same_words_on_both_sides() {
    for transport in BOTH {
        for (seed, other) in [(1, 2), (2, 1)] {
            let mut a = Node::start(config(seed, transport)).await;
            let mut b = Node::start(pumasi_network::Config {
                network: "other".to_owned(),
                ..config(other, transport)
            })
            .await;
            a.connect(&b);
            assert_eq!(
                a.refused(b.key()).await,
                "speaks another network or version"
            );
            assert_eq!(a.net.counters().strangers, 1);
            assert_eq!(a.net.counters().sessions_opened, 0);
            assert_eq!(b.net.counters().sessions_opened, 0);
            let theirs = rest(&mut b).await;
            assert!(
                theirs.iter().all(|e| matches!(e, Event::Listening { .. })),
                "{theirs:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused_with_advice() {
    for transport in BOTH {
        let a = Node::start(config(1, transport)).await;
        let taken = a.net.listening().remove(0);
        let mut second = config(2, transport);
        second.listen = vec![taken.clone()];
        match Network::start(second).await {
            Err(error @ StartError::Listen { .. }) => {
                let text = error.to_string();
                assert!(
                    text.contains(&taken) && text.contains("choose another port"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    let mut third = config(3, Transport::Tcp);
    third.listen = vec!["/ip4/127.0.0.1/sctp/1".to_owned()];
    let error = Network::start(third).await.unwrap_err();
    assert!(error.to_string().contains("form of address"), "{error}");
}

#[tokio::test]
async fn several_addresses_of_one_peer_are_tried_and_a_dead_one_does_no_harm() {
    let mut a = Node::start(config(1, Transport::Tcp)).await;
    let mut both = config(2, Transport::Tcp);
    both.listen.push(Transport::Quic.any_port());
    let mut b = Node::start(both).await;
    let mut addresses = vec!["/ip4/127.0.0.1/tcp/1".to_owned()];
    addresses.extend(b.net.listening());
    assert_eq!(addresses.len(), 3);
    a.net.connect(b.key(), addresses).unwrap();
    let address = a
        .wait("connected", |event| match event {
            Event::Connected { address, .. } => Some(address),
            _ => None,
        })
        .await;
    assert!(
        address.ends_with("/quic-v1"),
        "QUIC goes before TCP: {address}"
    );
    b.connected(a.key()).await;
    join(&mut a, &mut Node::start(config(3, Transport::Tcp)).await).await;
}
