//! Every bound of this crate, with its reason. No logic.
//!
//! Two sizes of node exist: a community node, which serves many, and a small one (a shop, a home,
//! a phone). Everything else is the same for both, because peers must agree on it.

use std::time::Duration;

/// Most bytes of an address in text form that is looked at; real ones are below 120.
pub(crate) const ADDRESS_BYTES: usize = 256;
/// Most addresses of one peer that are tried in one connect; a hostile record may name thousands.
pub(crate) const ADDRESSES: usize = 16;
/// Most connects that wait for their answer; beyond it callers hear `Busy`.
pub(crate) const CONNECTS: usize = 256;
/// A connect is answered within this time even if every lower timeout is missed.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// TCP connect, Noise and Yamux together.
pub(crate) const TRANSPORT_WITHIN: Duration = Duration::from_secs(10);

/// How long a start waits for a port that is in use, as it is just after a restart.
pub(crate) const PORT_WITHIN: Duration = Duration::from_secs(5);
/// How often it looks.
pub(crate) const PORT_EVERY: Duration = Duration::from_millis(50);

/// Commands that wait for the swarm task.
pub(crate) const COMMANDS: usize = 1_024;
/// Commands taken between two looks at the swarm, so that a busy caller cannot starve it.
pub(crate) const COMMANDS_AT_ONCE: usize = 32;
/// Events that wait for the reader; at 72 KiB per frame this is 18 MiB at most.
pub(crate) const EVENTS: usize = 256;
/// Events of the swarm task that wait for room among `EVENTS`: an answer to each connect, and some
/// room for new listen addresses.
pub(crate) const OUTBOX: usize = CONNECTS + 64;
/// Reports of session tasks that wait for the swarm task.
pub(crate) const NOTES: usize = 256;
/// Peers in the pin set and in the block list that are honoured.
pub(crate) const NAMED_PEERS: usize = 65_536;

/// Largest `max_frame` that a configuration may ask for: frames are allocated whole.
pub(crate) const FRAME_CEILING: usize = 16 << 20;
/// Frames that wait to be written to one peer.
pub(crate) const QUEUE_FRAMES: usize = 256;
/// Bytes that wait to be written to one peer.
pub(crate) const QUEUE_BYTES: usize = 4 << 20;
/// Bytes gathered into one write: large enough that a flush is rare, small enough to stay fair.
pub(crate) const COALESCE_BYTES: usize = 64 << 10;
/// Read buffer of a session.
pub(crate) const READ_BUFFER: usize = 16 << 10;
/// A peer that takes nothing for this time loses its session.
pub(crate) const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// A frame that has begun must be complete within this time.
pub(crate) const FRAME_WITHIN: Duration = Duration::from_secs(20);
/// After this time without a frame to send, an empty one is sent as a sign of life.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(3);
/// A peer that sends nothing, not even a sign of life, for this time is gone. libp2p's own ping is
/// not used for this: it swallows the first failure, so it needs more than two intervals.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// Both halves of the greeting on a new session stream.
pub(crate) const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// Negotiating the protocol of a new session stream.
pub(crate) const NEGOTIATE_WITHIN: Duration = Duration::from_secs(5);
/// A connection without a session is closed after this time: it is of no use to anybody.
pub(crate) const SESSION_WITHIN: Duration = Duration::from_secs(10);
/// A second connection to a peer that has its session elsewhere is closed after this time. Both
/// sides know by then which one is the extra, because the greeting told them.
pub(crate) const EXTRA_FOR: Duration = Duration::from_secs(2);
/// A connection to another network stays this long, so that both sides learn why it goes.
pub(crate) const STRANGER_FOR: Duration = Duration::from_secs(1);
/// Queued frames are still written for this long when a session is closed in good order.
pub(crate) const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// A TCP connection that does not let itself be closed in order is dropped after this time.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// A shutdown ends after this time, whatever still hangs.
pub(crate) const SHUTDOWN_WITHIN: Duration = Duration::from_secs(2);
/// How often deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// How often the connection manager trims.
pub(crate) const TRIM_EVERY: Duration = Duration::from_secs(5);
/// A peer with traffic within this time is not idle and is not trimmed.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(10);
/// libp2p's own idle close; our rule about sessions is stricter.
pub(crate) const IDLE_CONNECTION: Duration = Duration::from_secs(60);

/// Connections to one peer. One is too few: with two crossing dials both would be closed.
pub(crate) const CONNECTIONS_PER_PEER: u32 = 2;
/// Incoming connections from one IPv4 address, or from one IPv6 /56.
pub(crate) const CONNECTIONS_PER_IP: usize = 8;
/// Incoming connections that have not finished their handshake.
pub(crate) const PENDING_IN: u32 = 64;
/// Outgoing connections that have not finished their handshake.
pub(crate) const PENDING_OUT: u32 = 32;
/// No new connection is accepted while this process holds more of the machine's memory.
pub(crate) const MEMORY_SHARE: f64 = 0.65;
/// Incoming streams that are being negotiated, per connection.
pub(crate) const NEGOTIATING_STREAMS: usize = 32;
/// Streams per connection.
pub(crate) const STREAMS: u32 = 128;
/// QUIC: bytes in flight on one stream.
pub(crate) const QUIC_STREAM_WINDOW: u32 = 1 << 20;
/// QUIC: bytes in flight on one connection.
pub(crate) const QUIC_CONNECTION_WINDOW: u32 = 4 << 20;
/// QUIC: silence that ends a connection, in milliseconds.
pub(crate) const QUIC_IDLE_MS: u32 = 20_000;
/// QUIC: silence after which a keep-alive packet goes out.
pub(crate) const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(7);
/// QUIC: handshake.
pub(crate) const QUIC_HANDSHAKE: Duration = Duration::from_secs(10);
/// Yamux: bytes that one connection may hold unread, all streams together. Must be at least
/// 256 KiB times `STREAMS`.
pub(crate) const YAMUX_WINDOW: usize = 32 << 20;

/// Largest gossip payload that `publish` takes, in bytes. `GOSSIP_TRANSMIT` less room for framing.
pub const MAX_GOSSIP: usize = 15 << 10;
/// Largest gossip message on the wire. The same on all nodes, or honest relays get punished.
pub(crate) const GOSSIP_TRANSMIT: usize = 16 << 10;
/// Gossip messages that wait for one peer.
pub(crate) const GOSSIP_QUEUE: usize = 512;
/// Gossip messages in one RPC.
pub(crate) const GOSSIP_MESSAGES: usize = 100;
/// Subscriptions per peer and per request; only known topics are counted.
pub(crate) const GOSSIP_TOPICS: usize = 32;

/// What differs between a small node and a community node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Established incoming connections.
    pub(crate) incoming: u32,
    /// Established outgoing connections.
    pub(crate) outgoing: u32,
    /// Established connections in all.
    pub(crate) total: u32,
    /// Peers to which the connection manager trims, pinned ones included.
    pub(crate) low_water: usize,
}

/// A home or a shop: it needs its keepers, its contacts and a few to gossip with.
pub(crate) const SMALL: Size = Size {
    incoming: 32,
    outgoing: 16,
    total: 48,
    low_water: 16,
};
/// A node that serves others: a third of its room stays free for newcomers.
pub(crate) const COMMUNITY: Size = Size {
    incoming: 300,
    outgoing: 100,
    total: 400,
    low_water: 256,
};
