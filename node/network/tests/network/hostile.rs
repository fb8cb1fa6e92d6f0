//! Peers that break the rules. They are built by hand on libp2p, with keys below and above ours.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, identity, noise, tcp, yamux,
};
use libp2p_stream as stream;
use pumasi_network::{Event, PeerKey};

use crate::common::{Node, PATIENCE, Transport, config, join, until};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/pumasi/test/session/1");

/// A hand-made peer that is connected to a node.
struct Peer {
    key: PeerKey,
    node: PeerId,
    control: stream::Control,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// A peer whose key is lower than the node's (so that it opens the session), or higher.
    async fn connect(node: &Node, lower: bool) -> Self {
        let (pair, key) = (1_u8..=255)
            .map(|seed| identity::Keypair::ed25519_from_bytes([seed; 32]).unwrap())
            .map(|pair| {
                let key = pair.public().try_into_ed25519().unwrap().to_bytes();
                (pair, key)
            })
            .find(|(_, key)| *key != node.key() && (*key < node.key()) == lower)
            .unwrap();
        let mut swarm: Swarm<stream::Behaviour> = SwarmBuilder::with_existing_identity(pair)
            .with_tokio()
            .with_tcp(
                tcp::Config::default(),
                noise::Config::new,
                yamux::Config::default,
            )
            .unwrap()
            .with_behaviour(|_| stream::Behaviour::new())
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let control = swarm.behaviour().new_control();
        let address: Multiaddr = node.net.listening()[0].parse().unwrap();
        swarm.dial(address).unwrap();
        let node = loop {
            if let libp2p::swarm::SwarmEvent::ConnectionEstablished { peer_id, .. } =
                swarm.select_next_some().await
            {
                break peer_id;
            }
        };
        let task = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self {
            key,
            node,
            control,
            task,
        }
    }

    async fn open(&mut self) -> Stream {
        self.control.open_stream(self.node, PROTOCOL).await.unwrap()
    }

    /// A stream with a good greeting on it: a session.
    async fn session(&mut self) -> Stream {
        let mut stream = self.open().await;
        stream.write_all(&greeting(7, 0)).await.unwrap();
        stream.flush().await.unwrap();
        let mut reply = [0; 9];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[0], 1);
        stream
    }
}

fn greeting(instance: u64, with: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&instance.to_be_bytes());
    bytes[8..].copy_from_slice(&with.to_be_bytes());
    bytes
}

async fn write(stream: &mut Stream, bytes: &[u8]) {
    // The node may have closed already.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}

/// A node with an honest guest, who must not notice what the others do.
async fn node_and_guest() -> (Node, Node) {
    let mut node = Node::start(config(1, Transport::Tcp)).await;
    let mut guest = Node::start(config(77, Transport::Tcp)).await;
    join(&mut guest, &mut node).await;
    (node, guest)
}

#[tokio::test]
async fn a_frame_that_is_too_long_or_lies_about_it_ends_only_that_session() {
    let (mut node, mut guest) = node_and_guest().await;
    for length in [u32::MAX, (72 << 10) + 1, 1 << 31] {
        let mut peer = Peer::connect(&node, true).await;
        let mut stream = peer.session().await;
        node.connected(peer.key).await;
        write(&mut stream, &[0, 0, 0, 2, 5, 6]).await;
        assert_eq!(node.frame().await.bytes, [5, 6]);
        write(&mut stream, &length.to_be_bytes()).await;
        write(&mut stream, &[1; 100]).await;
        let (_, reason) = node.disconnected(peer.key).await;
        assert!(
            reason.contains(&format!("announced a frame of {length} bytes")),
            "{reason}"
        );
        guest.talk(&mut node, "not my business").await;
    }
    assert_eq!(node.net.counters().frames_in, 6);
}

#[tokio::test]
async fn a_frame_cut_in_the_middle_is_not_delivered() {
    let (mut node, _guest) = node_and_guest().await;
    let mut peer = Peer::connect(&node, true).await;
    let mut stream = peer.session().await;
    node.connected(peer.key).await;
    write(&mut stream, &[0, 0, 0, 9, 1, 2, 3]).await;
    stream.close().await.unwrap();
    let reason = node
        .wait("disconnected", |event| match event {
            Event::Disconnected {
                peer: who, reason, ..
            } if who == peer.key => Some(reason),
            Event::Frames { .. } => panic!("half a frame was delivered"),
            _ => None,
        })
        .await;
    assert!(reason.contains("inside a frame"), "{reason}");
}

#[tokio::test]
async fn frames_that_arrive_together_are_told_together_and_in_order() {
    let (mut node, _guest) = node_and_guest().await;
    let mut peer = Peer::connect(&node, true).await;
    let mut stream = peer.session().await;
    node.connected(peer.key).await;
    // The last one is whole only later.
    write(
        &mut stream,
        &[0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0, 2, 6, 7, 0, 0, 0, 1],
    )
    .await;
    let frames = node
        .wait("frames", |event| match event {
            Event::Frames { frames, .. } => Some(frames),
            _ => None,
        })
        .await;
    assert_eq!(frames, [vec![5], vec![6, 7]]);
    write(&mut stream, &[8]).await;
    assert_eq!(node.frame().await.bytes, [8]);
    assert_eq!(node.net.counters().frames_in, 3);
}

#[tokio::test]
async fn signs_of_life_are_not_frames_and_a_frame_may_come_byte_by_byte() {
    let (mut node, _guest) = node_and_guest().await;
    let mut peer = Peer::connect(&node, true).await;
    let mut stream = peer.session().await;
    node.connected(peer.key).await;
    write(&mut stream, &[0; 4 * 1_000]).await;
    for byte in [0, 0, 0, 3, 7, 8, 9] {
        write(&mut stream, &[byte]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.frame().await.bytes, [7, 8, 9]);
}

#[tokio::test]
async fn a_silent_session_ends_and_a_node_shows_signs_of_life() {
    let (mut node, _guest) = node_and_guest().await;
    let mut peer = Peer::connect(&node, true).await;
    let mut stream = peer.session().await;
    node.connected(peer.key).await;
    let began = Instant::now();
    let mut sign = [1; 4];
    stream.read_exact(&mut sign).await.unwrap();
    assert_eq!(sign, [0; 4]);
    let (_, reason) = node.disconnected(peer.key).await;
    assert!(reason.starts_with("silent"), "{reason}");
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(15),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_connection_without_a_session_is_closed() {
    let (node, _guest) = node_and_guest().await;
    for lower in [true, false] {
        let peer = Peer::connect(&node, lower).await;
        let net = node.net.clone();
        until("connected", || {
            net.peers().iter().any(|info| info.peer == peer.key)
        })
        .await;
        until("closed", || {
            net.peers().iter().all(|info| info.peer != peer.key)
        })
        .await;
    }
    assert_eq!(node.net.counters().sessions_opened, 1);
}

#[tokio::test]
async fn a_greeting_that_does_not_come_ends_the_connection() {
    let (node, _guest) = node_and_guest().await;
    let mut peer = Peer::connect(&node, true).await;
    let mut stream = peer.open().await;
    write(&mut stream, &[1, 2, 3]).await;
    let net = node.net.clone();
    until("closed", || {
        net.peers().iter().all(|info| info.peer != peer.key)
    })
    .await;
}

#[tokio::test]
async fn the_side_with_the_higher_key_cannot_open_a_session() {
    let (node, _guest) = node_and_guest().await;
    let mut peer = Peer::connect(&node, false).await;
    let mut stream = peer.open().await;
    write(&mut stream, &greeting(7, 0)).await;
    let net = node.net.clone();
    until("refused", || net.counters().streams_refused > 0).await;
    assert_eq!(net.counters().sessions_opened, 1);
}

#[tokio::test]
async fn more_streams_on_a_connection_are_refused_and_do_not_disturb_its_session() {
    let (mut node, _guest) = node_and_guest().await;
    let mut peer = Peer::connect(&node, true).await;
    let mut stream = peer.session().await;
    node.connected(peer.key).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut more = peer.open().await;
        write(&mut more, &greeting(8, 0)).await;
        held.push(more);
    }
    let net = node.net.clone();
    until("refused", || net.counters().streams_refused > 0).await;
    write(&mut stream, &[0, 0, 0, 1, 42]).await;
    assert_eq!(node.frame().await.bytes, [42]);
    assert_eq!(net.counters().sessions_opened, 2);
}

#[tokio::test]
async fn a_new_run_of_a_peer_replaces_its_session_and_a_second_connection_does_not() {
    let (mut node, _guest) = node_and_guest().await;
    let mut first = Peer::connect(&node, true).await;
    let mut stream = first.open().await;
    stream.write_all(&greeting(7, 0)).await.unwrap();
    stream.flush().await.unwrap();
    let mut reply = [0; 9];
    stream.read_exact(&mut reply).await.unwrap();
    let instance = u64::from_be_bytes(reply[1..].try_into().unwrap());
    let session = node.connected(first.key).await;

    // The same run, with a session: the older one stays.
    let mut second = Peer::connect(&node, true).await;
    assert_eq!(second.key, first.key);
    let mut extra = second.open().await;
    extra.write_all(&greeting(7, instance)).await.unwrap();
    extra.flush().await.unwrap();
    extra.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[0], 0);
    let mut end = [0; 1];
    // The extra connection is closed; the session is not.
    assert!(matches!(extra.read(&mut end).await, Ok(0) | Err(_)));
    write(&mut stream, &[0, 0, 0, 1, 1]).await;
    assert_eq!(node.frame().await.session, session);

    // Another run: the older one goes.
    let net = node.net.clone();
    drop(second);
    let mut third = Peer::connect(&node, true).await;
    let mut fresh = third.session().await;
    let (ended, reason) = node.disconnected(first.key).await;
    assert_eq!(ended, session);
    assert!(
        reason.contains("replaced") || reason.contains("closed"),
        "{reason}"
    );
    let renewed = node.connected(first.key).await;
    write(&mut fresh, &[0, 0, 0, 1, 2]).await;
    assert_eq!(node.frame().await.session, renewed);
    assert_eq!(net.counters().sessions_opened, 3);
}
