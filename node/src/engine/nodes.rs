//! Node records and addresses: who is out there, how it is learned, who is blocked.

use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::record::{ADDRESSES_MAX, CheckedRecord, NodeRecord, Place};
use pumasi_protocol::types::{DAY, NodeId};
use pumasi_protocol::wire::NODES_MAX;
use rusqlite::params;

use super::peers::BACKOFF_MAX;
use super::{Effect, Engine, blob, one};
use crate::check::{Arrival, CheckedNode};
use crate::error::{Error, ErrorKind, Result};
use crate::read;

/// Nodes remembered at most.
const NODES_KNOWN_MAX: u64 = 10_000;
/// Sessions that a node keeps up at the least, so that it hears of others.
const SESSIONS_WANTED: usize = 4;
const RECORD_LIFE: u64 = DAY;

impl Engine {
    /// Remembers where a record's nodes can be reached.
    pub(super) fn hint(&mut self, record: &CheckedRecord) {
        let keepers = record.record.keepers.iter().map(|keeper| &keeper.place);
        for place in keepers.chain([&record.record.home]) {
            if !place.addresses.is_empty() && place.node != self.me {
                self.due.hints.insert(place.node, place.addresses.clone());
            }
        }
    }

    /// The record of a node, if it is known and not expired.
    pub(super) fn node_record(&self, node: &NodeId) -> Result<Option<NodeRecord>> {
        let bytes: Option<Vec<u8>> = one(self
            .db
            .prepare_cached("SELECT record FROM nodes WHERE node = ?1 AND expires > ?2")?
            .query_row(params![node.0, self.now.0], |row| row.get(0)))?;
        Ok(bytes
            .and_then(|bytes| codec::decode::<Signed<NodeRecord>>(&bytes).ok())
            .and_then(|signed| signed.unverified().ok()))
    }

    /// Where a node can be reached: by its own record, else by account records.
    pub(super) fn addresses(&self, node: &NodeId) -> Vec<String> {
        let mut addresses = self
            .node_record(node)
            .ok()
            .flatten()
            .map(|record| record.place.addresses)
            .unwrap_or_default();
        for hint in self.due.hints.get(node).into_iter().flatten() {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(hint) {
                addresses.push(hint.clone());
            }
        }
        addresses
    }

    /// Nodes that are known at all.
    pub(super) fn known_nodes(&self, most: usize) -> Result<Vec<NodeId>> {
        let nodes = self
            .db
            .prepare_cached("SELECT node FROM nodes WHERE expires > ?1 ORDER BY node LIMIT ?2")?
            .query_map(params![self.now.0, most as i64], |row| {
                Ok(NodeId(blob(row, 0)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(nodes)
    }

    /// Records of other nodes, newest first, for someone who is new.
    pub(super) fn some_nodes(&self) -> Result<Vec<Signed<NodeRecord>>> {
        let rows: Vec<Vec<u8>> = self
            .db
            .prepare_cached(
                "SELECT record FROM nodes WHERE expires > ?1 ORDER BY expires DESC LIMIT ?2",
            )?
            .query_map(params![self.now.0, NODES_MAX as i64], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut size = 0;
        Ok(rows
            .into_iter()
            .take_while(|bytes| {
                size += bytes.len();
                size < pumasi_protocol::wire::BATCH_BYTES
            })
            .filter_map(|bytes| codec::decode(&bytes).ok())
            .collect())
    }

    /// Takes a node record if it is news. `None`: known already.
    pub(super) fn learn_node(&mut self, node: CheckedNode) -> Result<Option<bool>> {
        let id = node.record.place.node;
        if id == self.me {
            return Ok(None);
        }
        let known: Option<u64> = one(self
            .db
            .prepare_cached("SELECT signed FROM nodes WHERE node = ?1")?
            .query_row(params![id.0], |row| row.get(0)))?;
        if known.is_some_and(|signed| signed >= node.record.signed_at.0) {
            return Ok(None);
        }
        if known.is_none() {
            let count: u64 = self
                .db
                .query_row("SELECT count(*) FROM nodes", [], |row| row.get(0))?;
            if count >= NODES_KNOWN_MAX {
                return Ok(Some(false));
            }
        }
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO nodes (node, record, signed, expires)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                id.0,
                codec::encode(&node.signed),
                node.record.signed_at.0,
                node.record.expires.0
            ])?;
        if known.is_none() {
            self.due.keepers_now();
        }
        Ok(Some(true))
    }

    pub(super) fn gossip(
        &mut self,
        ticket: u64,
        arrival: std::result::Result<Box<Arrival>, ()>,
    ) -> Result<()> {
        let verdict = match arrival {
            Ok(arrival) => match *arrival {
                Arrival::Node(node) => self.learn_node(node)?,
                _ => Some(false),
            },
            Err(()) => Some(false),
        };
        self.step.effects.push(Effect::Judge(ticket, verdict));
        Ok(())
    }

    /// What this node says of itself now.
    pub(super) fn own_node_record(&self) -> Result<Signed<NodeRecord>> {
        let addresses = self
            .due
            .addresses
            .iter()
            .take(ADDRESSES_MAX)
            .cloned()
            .collect();
        let record = NodeRecord {
            place: Place {
                node: self.me,
                addresses,
            },
            operator: self.settings.operator.clone(),
            building: self.settings.building.clone(),
            newcomers: self.places_left()?,
            signed_at: self.now,
            expires: self.now.plus(RECORD_LIFE),
        };
        Ok(Signed::sign(&record, &self.key))
    }

    /// A node that the owner names by address.
    pub(crate) fn connect_address(&mut self, address: String) {
        self.step.effects.push(Effect::ConnectAddress(address));
    }

    /// A node was found on the local network.
    pub(crate) fn found(&mut self, node: NodeId, address: String) {
        self.due
            .hints
            .entry(node)
            .or_default()
            .retain(|known| *known != address);
        let hints = self.due.hints.entry(node).or_default();
        hints.insert(0, address);
        hints.truncate(ADDRESSES_MAX);
        self.want(node);
    }

    /// Ends a session.
    pub(crate) fn disconnect(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.wanted = false;
            peer.next_try = self.now.plus(BACKOFF_MAX);
        }
        self.step.effects.push(Effect::Disconnect(node));
    }

    /// Blocks a node, or lets it in again.
    pub(crate) fn block_node(&mut self, node: NodeId, blocked: bool) -> Result<()> {
        if node == self.me {
            return Err(Error::invalid("this is the node itself"));
        }
        let sql = if blocked {
            self.due.blocked.insert(node);
            "INSERT OR IGNORE INTO blocked_nodes (node) VALUES (?1)"
        } else {
            self.due.blocked.remove(&node);
            "DELETE FROM blocked_nodes WHERE node = ?1"
        };
        self.db.execute(sql, params![node.0])?;
        self.step.effects.push(Effect::Block(node, blocked));
        Ok(())
    }

    pub(super) fn peer_view(&self, node: &NodeId) -> Result<crate::view::PeerView> {
        let record = self.node_record(node)?;
        let connected = self.peers.get(node).is_some_and(|peer| peer.connected);
        Ok(read::peer_view(
            *node,
            record.as_ref(),
            connected,
            self.due.blocked.contains(node),
        ))
    }

    /// Something about a node's session that a caller waits for.
    pub(crate) fn refuse_unknown(&self, node: &NodeId) -> Result<()> {
        if self.peers.contains_key(node) || self.node_record(node)?.is_some() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("node {node} is not known here"),
        ))
    }

    /// Nodes blocked by the owner.
    pub(crate) fn blocked_nodes(&self) -> Vec<NodeId> {
        self.due.blocked.iter().copied().collect()
    }

    /// Keeps up a few sessions, so that this node hears of others: bootstrap first, then any known.
    pub(super) fn stay_connected(&mut self) -> Result<()> {
        let sessions = self.sessions();
        if sessions.len() >= SESSIONS_WANTED {
            return Ok(());
        }
        for address in self.settings.bootstrap.clone() {
            self.step.effects.push(Effect::ConnectAddress(address));
        }
        let from = self.random();
        let known: Vec<[u8; 32]> = self
            .db
            .prepare_cached(
                "SELECT node FROM nodes WHERE expires > ?1 ORDER BY node < ?2, node LIMIT 8",
            )?
            .query_map(params![self.now.0, from], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        let missing = SESSIONS_WANTED - sessions.len();
        let candidates = known
            .into_iter()
            .map(NodeId)
            .filter(|node| !sessions.contains(node));
        for node in candidates.take(missing).collect::<Vec<_>>() {
            if !self.due.blocked.contains(&node) {
                let now = self.now;
                let peer = self.peers.entry(node).or_default();
                if !peer.dialing && peer.next_try <= now {
                    self.dial(node);
                }
            }
        }
        Ok(())
    }
}
