//! Nodes for the tests, and waiting for what they tell.

use std::collections::VecDeque;
use std::time::Duration;

use pumasi_network::{Config, Event, EventReceiver, Network, PeerKey};
use tokio::time::{Instant, timeout_at};

/// Nothing in these tests takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The two transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Quic,
    Tcp,
}

pub(crate) const BOTH: [Transport; 2] = [Transport::Quic, Transport::Tcp];

impl Transport {
    pub(crate) fn any_port(self) -> String {
        match self {
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1".to_owned(),
            Self::Tcp => "/ip4/127.0.0.1/tcp/0".to_owned(),
        }
    }
}

/// A setup that the tests change where they need to.
pub(crate) fn config(seed: u8, transport: Transport) -> Config {
    Config {
        secret: [seed; 32],
        network: "test".to_owned(),
        listen: vec![transport.any_port()],
        mdns: false,
        small: false,
        agent: "pumasi-test".to_owned(),
        max_frame: 72 << 10,
        blocked: Vec::new(),
        allow_private: true,
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) net: Network,
    pub(crate) events: EventReceiver,
    /// Frames that arrived together with one that was asked for.
    frames: VecDeque<Frame>,
}

/// A frame and where it came from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) peer: PeerKey,
    pub(crate) session: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Node {
    pub(crate) async fn start(config: Config) -> Self {
        let (net, events) = Network::start(config).await.unwrap();
        Self {
            net,
            events,
            frames: VecDeque::new(),
        }
    }

    pub(crate) fn key(&self) -> PeerKey {
        self.net.local()
    }

    pub(crate) fn connect(&self, other: &Self) {
        self.net
            .connect(other.key(), other.net.listening())
            .unwrap();
    }

    /// The first event for which `pick` gives something; the others are dropped.
    pub(crate) async fn wait<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Event) -> Option<T>,
    ) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let event = timeout_at(until, self.events.recv())
                .await
                .unwrap_or_else(|_| panic!("did not happen in time: {what}"))
                .unwrap_or_else(|| panic!("the network ended before: {what}"));
            if let Some(found) = pick(event) {
                return found;
            }
        }
    }

    /// Waits for a session with this peer and gives its number.
    pub(crate) async fn connected(&mut self, with: PeerKey) -> u64 {
        self.wait("connected", |event| match event {
            Event::Connected { peer, session, .. } if peer == with => Some(session),
            Event::ConnectFailed { peer, reason } if peer == with => {
                panic!("connect failed: {reason}")
            }
            _ => None,
        })
        .await
    }

    /// Waits for the end of a session and gives its number and reason.
    pub(crate) async fn disconnected(&mut self, with: PeerKey) -> (u64, String) {
        self.wait("disconnected", |event| match event {
            Event::Disconnected {
                peer,
                session,
                reason,
            } if peer == with => Some((session, reason)),
            _ => None,
        })
        .await
    }

    /// Waits for a refused connect and gives its reason.
    pub(crate) async fn refused(&mut self, with: PeerKey) -> String {
        self.wait("connect failed", |event| match event {
            Event::ConnectFailed { peer, reason } if peer == with => Some(reason),
            Event::Connected { peer, .. } if peer == with => panic!("connected to a peer"),
            _ => None,
        })
        .await
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        if let Some(frame) = self.frames.pop_front() {
            return frame;
        }
        let (peer, session, frames) = self
            .wait("frame", |event| match event {
                Event::Frames {
                    peer,
                    session,
                    frames,
                } => Some((peer, session, frames)),
                _ => None,
            })
            .await;
        let mut frames = frames.into_iter().map(|bytes| Frame {
            peer,
            session,
            bytes,
        });
        let first = frames.next().expect("at least one");
        self.frames = frames.collect();
        first
    }

    /// Sends, waiting while the queue is full.
    pub(crate) async fn send(&self, to: PeerKey, bytes: Vec<u8>) {
        until("the queue has room", || {
            match self.net.send(to, bytes.clone()) {
                Ok(()) => true,
                Err(pumasi_network::SendError::Busy) => false,
                Err(error) => panic!("not sent: {error}"),
            }
        })
        .await;
    }

    /// Proves that frames go both ways.
    pub(crate) async fn talk(&mut self, other: &mut Self, text: &str) {
        self.send(other.key(), text.as_bytes().to_vec()).await;
        let frame = other.frame().await;
        assert_eq!(
            (frame.peer, frame.bytes.as_slice()),
            (self.key(), text.as_bytes())
        );
        other.send(self.key(), frame.bytes).await;
        let frame = self.frame().await;
        assert_eq!(
            (frame.peer, frame.bytes.as_slice()),
            (other.key(), text.as_bytes())
        );
    }
}

/// Connects two nodes and waits for the session on both sides.
pub(crate) async fn join(a: &mut Node, b: &mut Node) {
    a.connect(b);
    a.connected(b.key()).await;
    b.connected(a.key()).await;
}

/// Waits until something is true.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < late, "did not become true in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Two nodes, the one with the lower key first: it is the one that opens sessions.
pub(crate) async fn ordered_pair(transport: Transport) -> (Node, Node) {
    let a = Node::start(config(1, transport)).await;
    let b = Node::start(config(2, transport)).await;
    if a.key() < b.key() { (a, b) } else { (b, a) }
}
