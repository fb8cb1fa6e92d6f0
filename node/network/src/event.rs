//! What a node tells its owner, and the small types that go with it.

use libp2p::{PeerId, gossipsub::MessageId};

use crate::PeerKey;

/// Something that happened. Frames of one peer come in order; every `Connected` is followed by
/// exactly one `Disconnected` of the same session, before the next `Connected` of that peer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// An address is being listened on.
    Listening {
        /// The address with its real port, without the peer.
        address: String,
    },
    /// A session is open: frames can go both ways.
    Connected {
        /// The peer.
        peer: PeerKey,
        /// The address at the other end. Of an incoming connection this is where it came from,
        /// which need not be an address that can be dialled.
        address: String,
        /// Number of the session, unique while this node runs.
        session: u64,
    },
    /// A session has ended. Frames that were sent on it may be lost.
    Disconnected {
        /// The peer.
        peer: PeerKey,
        /// The session of the `Connected` before.
        session: u64,
        /// Why, for people; text from the other side is not in it.
        reason: String,
    },
    /// A connect did not lead to a session.
    ConnectFailed {
        /// The peer.
        peer: PeerKey,
        /// Why, for people.
        reason: String,
    },
    /// An address that was dialled without knowing its peer did not answer as it should.
    AddressFailed {
        /// The address as given.
        address: String,
        /// Why, for people.
        reason: String,
    },
    /// Frames from a peer, at least one: those that arrived together, so that what their sender sent
    /// at once can be taken at once.
    Frames {
        /// The peer.
        peer: PeerKey,
        /// The session on which they came.
        session: u64,
        /// In order; each 1 to `max_frame` bytes, whose meaning is not known here. All but the first
        /// have 16 KiB together at most.
        frames: Vec<Vec<u8>>,
    },
    /// A message on a topic. It goes on to other peers only after
    /// [`Network::judge`](crate::Network::judge) with [`Verdict::Accept`]; one that is never
    /// judged is never passed on.
    Gossip {
        /// Who passed it on; this says nothing about its author.
        from: PeerKey,
        /// The topic.
        topic: Topic,
        /// The payload, unchecked.
        bytes: Vec<u8>,
        /// For the answer.
        ticket: Ticket,
    },
    /// A node on the local network announced itself. Anybody there can announce anything.
    Found {
        /// The peer that it says it is.
        peer: PeerKey,
        /// Where.
        address: String,
    },
}

/// A gossip topic. The set is small and fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Topic {
    /// Records of nodes.
    Nodes,
}

impl Topic {
    /// All topics, each subscribed to by every node.
    pub(crate) const ALL: [Self; 1] = [Self::Nodes];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
        }
    }
}

/// What to do with a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Valid and new: pass it on.
    Accept,
    /// Do not pass it on, nobody is at fault (old, overloaded, not of interest).
    Ignore,
    /// Provably bad.
    Reject,
}

/// Names one gossip message until it is judged.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) message: MessageId,
    pub(crate) source: PeerId,
}

/// Who began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The peer dialled.
    Incoming,
    /// This node dialled.
    Outgoing,
}

/// A connected peer, as [`Network::peers`](crate::Network::peers) shows it.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The peer.
    pub peer: PeerKey,
    /// The address at the other end.
    pub address: String,
    /// Whether its session is open.
    pub session: bool,
    /// Since when it is connected.
    pub since: std::time::Instant,
    /// Who dialled.
    pub direction: Direction,
    /// Bytes of frames received on this session.
    pub bytes_in: u64,
    /// Bytes of frames handed to the transport on this session.
    pub bytes_out: u64,
}

/// Too much is waiting already, or the network has stopped. Try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network is busy")]
pub struct Busy;

/// Why [`Network::connect_address`](crate::Network::connect_address) did not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not an address of the forms `/host/tcp/port` and `/host/udp/port/quic-v1`, with or without
    /// `/p2p/peer`.
    #[error("not an address that can be dialled")]
    Invalid,
    /// Too much is waiting already, or the network has stopped.
    #[error("the network is busy")]
    Busy,
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no open session with this peer.
    #[error("not connected")]
    NotConnected,
    /// 256 frames or 4 MiB wait for this peer already.
    #[error("the queue of this peer is full")]
    Busy,
    /// Empty, or longer than `max_frame`.
    #[error("a frame must be between 1 byte and the largest frame size")]
    Size,
}

/// Why a gossip message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Longer than [`MAX_GOSSIP`](crate::MAX_GOSSIP).
    #[error("too long for gossip")]
    Size,
    /// Too much is waiting already, or the network has stopped.
    #[error("the network is busy")]
    Busy,
}
