//! The connections of a node: a part of the swarm task. Keeps the table of them, closes the late
//! and the surplus ones.

use libp2p::{core::ConnectedPoint, swarm::ConnectionId};
use tokio::time::Instant;

use crate::{
    Direction, PeerKey, address, limits,
    shared::{Link, add},
    swarm::Task,
    trim::{self, Candidate},
};

/// An established connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: PeerKey,
    pub(crate) address: String,
    pub(crate) direction: Direction,
    pub(crate) since: std::time::Instant,
    /// When it is closed, unless it carries a session by then.
    pub(crate) deadline: Option<Instant>,
    /// Whether a session stream has been asked for on it.
    pub(crate) asked: bool,
    /// The session that it carries.
    pub(crate) session: Option<u64>,
    pub(crate) closing: bool,
    /// The first reason why it carries no session, or is being closed.
    pub(crate) reason: Option<String>,
}

impl Task {
    pub(crate) fn on_connection(
        &mut self,
        peer: PeerKey,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let mut far = endpoint.get_remote_address().clone();
        if matches!(far.iter().last(), Some(libp2p::multiaddr::Protocol::P2p(_))) {
            far.pop();
        }
        let connection = Connection {
            peer,
            address: far.to_string(),
            direction: if endpoint.is_dialer() {
                Direction::Outgoing
            } else {
                Direction::Incoming
            },
            since: std::time::Instant::now(),
            deadline: Some(Instant::now() + limits::SESSION_WITHIN),
            asked: false,
            session: None,
            closing: false,
            reason: None,
        };
        tracing::debug!(peer = %crate::peer_text(peer), address = %connection.address, "connected");
        self.connections.insert(id, connection);
        self.show_link(peer);
        self.on_dialled(peer, id);
        if self.closing.is_some() {
            self.close_connection(id, "shutting down");
        } else {
            self.ensure_session(peer);
        }
    }

    pub(crate) fn on_connection_closed(&mut self, id: ConnectionId, cause: Option<String>) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        let peer = connection.peer;
        self.greeting_over(peer, id);
        self.show_link(peer);
        let reason = connection.reason.or(cause).unwrap_or_else(|| {
            "the peer closed the connection before a session was open".to_owned()
        });
        tracing::debug!(peer = %crate::peer_text(peer), %reason, "connection closed");
        self.settle(peer, &reason);
        self.ensure_session(peer);
    }

    /// Closes a connection for a reason that is shown if a connect waits for it.
    pub(crate) fn close_connection(&mut self, id: ConnectionId, reason: &str) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.closing = true;
            connection.reason.get_or_insert_with(|| reason.to_owned());
        }
        self.swarm.close_connection(id);
    }

    /// Closes all connections of a peer, dials under way included.
    pub(crate) fn close_peer(&mut self, peer: PeerKey, reason: &str) {
        for id in self.connections_of(peer) {
            self.close_connection(id, reason);
        }
        if let Some(id) = address::peer_id(&peer) {
            // An error says that it was not connected; dials are aborted all the same.
            let _ = self.swarm.disconnect_peer_id(id);
        }
    }

    pub(crate) fn connections_of(&self, peer: PeerKey) -> Vec<ConnectionId> {
        let mut ids: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.peer == peer)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Shows the newest connection of a peer to callers of `peers`.
    fn show_link(&self, peer: PeerKey) {
        let newest = self
            .connections_of(peer)
            .pop()
            .and_then(|id| self.connections.get(&id));
        let link = newest.map(|connection| Link {
            address: connection.address.clone(),
            direction: connection.direction,
            since: connection.since,
        });
        self.shared.set_link(peer, link);
    }

    /// Closes connections that carry no session in time.
    pub(crate) fn close_late(&mut self, now: Instant) {
        let late: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, c)| !c.closing && c.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.close_connection(id, "no session was opened in time");
        }
    }

    /// Lets go of idle peers when there are too many.
    pub(crate) fn trim(&self) {
        let now = self.shared.now_ms();
        let candidates: Vec<Candidate> = self
            .shared
            .all_live()
            .iter()
            .map(|session| Candidate {
                peer: session.peer,
                idle_ms: now
                    .saturating_sub(session.active_ms.load(std::sync::atomic::Ordering::Relaxed)),
            })
            .collect();
        let spare = u64::try_from(limits::IDLE_AFTER.as_millis()).unwrap_or(u64::MAX);
        // Those who carry our gossip stay, too; the mesh of a topic has 8 peers at most.
        let mut kept = self.shared.wishes().pinned.clone();
        kept.extend(
            self.swarm
                .behaviour()
                .gossip
                .all_mesh_peers()
                .filter_map(address::peer_key),
        );
        let chosen = trim::choose(candidates, &kept, self.size.low_water, spare);
        for peer in chosen {
            if let Some(session) = self.shared.live(&peer) {
                session.stop(true, "closed by this node: idle, and it has too many peers");
                add(&self.shared.tally.peers_trimmed, 1);
            }
        }
    }
}
