//! Sessions between two well-behaved nodes.

use std::time::{Duration, Instant};

use pumasi_network::{Direction, Event, SendError};

use crate::common::{BOTH, Node, Transport, config, join, ordered_pair, until};

#[tokio::test]
async fn frames_go_both_ways_whoever_dials_over_quic_and_tcp() {
    for transport in BOTH {
        for lower_dials in [true, false] {
            let (mut low, mut high) = ordered_pair(transport).await;
            if lower_dials {
                join(&mut low, &mut high).await;
            } else {
                join(&mut high, &mut low).await;
            }
            low.talk(&mut high, "from the lower key").await;
            high.talk(&mut low, "from the higher key").await;

            let seen = low.net.peers();
            assert_eq!(seen.len(), 1);
            assert!(seen[0].session && seen[0].peer == high.key());
            assert_eq!(seen[0].direction == Direction::Outgoing, lower_dials);
            assert_eq!((seen[0].bytes_in, seen[0].bytes_out), (37, 37));
            assert_eq!(low.net.counters().frames_in, 2);
        }
    }
}

#[tokio::test]
async fn two_thousand_frames_arrive_in_order() {
    for transport in BOTH {
        let (mut a, mut b) = ordered_pair(transport).await;
        join(&mut a, &mut b).await;
        let to = b.key();
        let net = a.net.clone();
        // From a thread without a runtime, as the engine does it.
        let sender = std::thread::spawn(move || {
            for number in 0..2_000_u32 {
                let mut bytes = vec![0; 1_024];
                bytes[..4].copy_from_slice(&number.to_be_bytes());
                while let Err(error) = net.send(to, bytes.clone()) {
                    assert_eq!(error, SendError::Busy);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        for number in 0..2_000_u32 {
            let frame = b.frame().await;
            assert_eq!(frame.bytes.len(), 1_024);
            assert_eq!(frame.bytes[..4], number.to_be_bytes());
        }
        sender.join().unwrap();
    }
}

#[tokio::test]
async fn frames_of_the_largest_size_pass_and_larger_or_empty_ones_are_not_taken() {
    let (mut a, mut b) = ordered_pair(Transport::Quic).await;
    join(&mut a, &mut b).await;
    let largest: Vec<u8> = (0..72 << 10).map(|n: u32| n.to_le_bytes()[0]).collect();
    a.net.send(b.key(), largest.clone()).unwrap();
    assert_eq!(b.frame().await.bytes, largest);
    assert_eq!(
        a.net.send(b.key(), vec![0; (72 << 10) + 1]),
        Err(SendError::Size)
    );
    assert_eq!(a.net.send(b.key(), Vec::new()), Err(SendError::Size));
    assert_eq!(a.net.send([9; 32], vec![1]), Err(SendError::NotConnected));
}

#[tokio::test]
async fn a_slow_reader_makes_the_sender_busy_and_loses_nothing() {
    for transport in BOTH {
        let (mut a, mut b) = ordered_pair(transport).await;
        join(&mut a, &mut b).await;
        // Far more than all windows and channels hold, and the reader does not read.
        let mut sent = 0_u32;
        loop {
            let mut bytes = vec![7; 32 << 10];
            bytes[..4].copy_from_slice(&sent.to_be_bytes());
            match a.net.send(b.key(), bytes) {
                Ok(()) => sent += 1,
                Err(SendError::Busy) => {
                    let before = a.net.counters().frames_out;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    if a.net.counters().frames_out == before {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
            assert!(sent < 20_000, "nothing pushes back");
        }
        assert!(a.net.counters().frames_refused > 0);
        for number in 0..sent {
            assert_eq!(b.frame().await.bytes[..4], number.to_be_bytes());
        }
        a.talk(&mut b, "still here").await;
    }
}

#[tokio::test]
async fn crossing_dials_end_in_one_session_that_works_both_ways() {
    for transport in BOTH {
        for _ in 0..3 {
            let (mut a, mut b) = ordered_pair(transport).await;
            a.connect(&b);
            b.connect(&a);
            let first = a.connected(b.key()).await;
            let second = b.connected(a.key()).await;
            a.talk(&mut b, "hello").await;
            // The extra connection, if there was one, goes, and the session does not notice.
            let (x, y) = (a.net.clone(), b.net.clone());
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            until("one link each", || {
                x.peers().len() == 1 && y.peers().len() == 1
            })
            .await;
            a.net.send(b.key(), b"again".to_vec()).unwrap();
            let frame = b.frame().await;
            assert_eq!(
                (frame.session, frame.bytes.as_slice()),
                (second, b"again".as_slice())
            );
            b.net.send(a.key(), b"and back".to_vec()).unwrap();
            let frame = a.frame().await;
            assert_eq!(
                (frame.session, frame.bytes.as_slice()),
                (first, b"and back".as_slice())
            );
            assert_eq!(a.net.counters().sessions_opened, 1);
            assert_eq!(b.net.counters().sessions_opened, 1);
        }
    }
}

#[tokio::test]
async fn a_disconnect_writes_queued_frames_first_and_is_told_once_to_both() {
    for transport in BOTH {
        let (mut a, mut b) = ordered_pair(transport).await;
        join(&mut a, &mut b).await;
        for number in 0..40_u8 {
            a.net.send(b.key(), vec![number; 2_048]).unwrap();
        }
        a.net.disconnect(b.key());
        for number in 0..40_u8 {
            assert_eq!(b.frame().await.bytes, vec![number; 2_048]);
        }
        assert_eq!(b.disconnected(a.key()).await.1, "closed by the peer");
        assert_eq!(a.disconnected(b.key()).await.1, "disconnected by this node");
        assert_eq!(a.net.send(b.key(), vec![1]), Err(SendError::NotConnected));
        // And it can come back at once.
        join(&mut a, &mut b).await;
        a.talk(&mut b, "back").await;
    }
}

#[tokio::test]
async fn a_shutdown_is_seen_by_the_peer_within_two_seconds() {
    for transport in BOTH {
        let (mut a, mut b) = ordered_pair(transport).await;
        join(&mut a, &mut b).await;
        a.net.send(b.key(), b"last words".to_vec()).unwrap();
        let began = Instant::now();
        a.net.shutdown().await;
        assert_eq!(b.frame().await.bytes, b"last words");
        b.disconnected(a.key()).await;
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );

        assert_eq!(a.net.send(b.key(), vec![1]), Err(SendError::NotConnected));
        assert!(a.net.connect(b.key(), b.net.listening()).is_err());
        let mut ended = 0;
        while let Some(event) = a.events.recv().await {
            if let Event::Disconnected { .. } = event {
                ended += 1;
            }
        }
        assert_eq!(ended, 1);
        // Asking again is harmless.
        a.net.shutdown().await;
    }
}

#[tokio::test]
async fn dropping_every_handle_ends_the_network_and_peers_notice() {
    for transport in BOTH {
        let (mut a, mut b) = ordered_pair(transport).await;
        join(&mut a, &mut b).await;
        let Node {
            net, mut events, ..
        } = a;
        let key = net.local();
        drop(net);
        while events.recv().await.is_some() {}
        b.disconnected(key).await;
    }
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_network() {
    let Node { net, events, .. } = Node::start(config(1, Transport::Quic)).await;
    drop(events);
    until("stopped", || net.connect([1; 32], Vec::new()).is_err()).await;
    net.shutdown().await;
}
