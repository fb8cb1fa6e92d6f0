//! The network of a Pumasi node: peers, one session stream per peer, gossip. Bytes in, bytes out.
//!
//! This crate alone names libp2p, and none of its types are in the public face: compiling a swarm
//! is slow, and the rest of the node is rebuilt without it. What the bytes mean is not known here.
//!
//! [`Network::start`] gives a handle and a receiver of [`Event`]s. The receiver is bounded. When it
//! is read slowly, the tasks that read from peers wait, so the peers wait; gossip and mDNS finds are
//! dropped; `Connected` and `Disconnected` are never dropped.
//!
//! # The end of a network
//!
//! The receiver closes (`recv` returns `None`) when the network is over: after
//! [`Network::shutdown`], when the last handle is dropped, and also when a task inside panicked.
//! An owner that did not ask for the end must treat it as a failure and start anew, with backoff;
//! sessions that were open then have no `Disconnected`. Dropping the receiver stops the network.
//!
//! # How a session comes about
//!
//! Whoever dials, the side with the lower key opens the session stream. Both sides greet with a
//! random number of their run. A greeting from a new run of a peer, or from one that lost its
//! session, replaces the old session; otherwise a second connection, as crossing dials make, is
//! left to be closed. A session owns its connection: when one ends, so does the other, and a
//! connection without a session is closed after 10 s. So no peer is ever connected without being
//! reachable.

mod address;
mod behaviour;
mod config;
mod connections;
mod dial;
mod event;
mod handle;
mod limits;
mod mux;
mod per_ip;
mod session;
mod sessions;
mod shared;
mod start;
mod streams;
mod swarm;
mod transport;
mod trim;

pub use address::{address_with_peer, is_address, parse_address, peer_text};
pub use config::{Config, StartError};
pub use event::{
    AddressError, Busy, Direction, Event, PeerInfo, PublishError, SendError, Ticket, Topic, Verdict,
};
pub use handle::{Counters, Network};
pub use limits::MAX_GOSSIP;

/// Ed25519 public key of a node: its identity on the network.
pub type PeerKey = [u8; 32];

/// Where events arrive. Bounded; see the crate documentation for what slowness does.
pub type EventReceiver = tokio::sync::mpsc::Receiver<Event>;
