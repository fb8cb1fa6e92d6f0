//! Connects and their answers: a part of the swarm task. Every accepted connect is answered once,
//! by the `Connected` of a session or by `ConnectFailed`.

use libp2p::{
    Multiaddr,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use crate::{Event, PeerKey, address, limits, shared::Permit, start::root_cause, swarm::Task};

/// A connect that waits for its answer.
#[derive(Debug)]
pub(crate) struct Attempt {
    permit: Permit,
    /// The dial under way.
    dialling: Option<ConnectionId>,
    /// Addresses that a later connect brought, not tried yet.
    more: Vec<Multiaddr>,
    deadline: Instant,
}

/// A dial to an address whose peer is not known.
#[derive(Debug)]
pub(crate) struct Unknown {
    permit: Permit,
    text: String,
}

impl Task {
    pub(crate) fn connect(&mut self, peer: PeerKey, addresses: Vec<Multiaddr>, permit: Permit) {
        if self
            .shared
            .live(&peer)
            .is_some_and(|session| session.is_announced())
        {
            return;
        }
        if self.is_closing() {
            return self.fail(peer, permit, "this node is shutting down".to_owned());
        }
        if peer == self.shared.local {
            return self.fail(peer, permit, "that is this node itself".to_owned());
        }
        if self.shared.wishes().blocked.contains(&peer) {
            return self.fail(peer, permit, "blocked by this node".to_owned());
        }
        if let Some(attempt) = self.attempts.get_mut(&peer) {
            // Answered together with the one before.
            for address in addresses {
                if attempt.more.len() < limits::ADDRESSES && !attempt.more.contains(&address) {
                    attempt.more.push(address);
                }
            }
            return;
        }
        let deadline = Instant::now() + limits::CONNECT_WITHIN;
        self.attempts.insert(
            peer,
            Attempt {
                permit,
                dialling: None,
                more: addresses,
                deadline,
            },
        );
        self.settle(peer, "no address that can be dialled");
    }

    pub(crate) fn connect_unknown(&mut self, address: Multiaddr, text: String, permit: Permit) {
        let opts = DialOpts::unknown_peer_id().address(address).build();
        let id = opts.connection_id();
        let unknown = Unknown { permit, text };
        if self.is_closing() {
            return self.fail_address(unknown, "this node is shutting down".to_owned());
        }
        match self.swarm.dial(opts) {
            Ok(()) => {
                self.unknown.insert(id, unknown);
            }
            Err(error) => self.fail_address(unknown, explain(&error)),
        }
    }

    /// Moves a waiting connect on: nothing while a dial or a connection may still lead to a
    /// session, else the next addresses, else the answer.
    pub(crate) fn settle(&mut self, peer: PeerKey, reason: &str) {
        let usable = self
            .connections
            .values()
            .any(|connection| connection.peer == peer && !connection.closing);
        if usable || self.shared.live(&peer).is_some() {
            return;
        }
        let mut reason = reason.to_owned();
        let Some(attempt) = self.attempts.get_mut(&peer) else {
            return;
        };
        if attempt.dialling.is_some() {
            return;
        }
        let addresses = std::mem::take(&mut attempt.more);
        if !addresses.is_empty() && !self.is_closing() {
            match self.dial(peer, addresses) {
                Ok(id) => {
                    if let Some(attempt) = self.attempts.get_mut(&peer) {
                        attempt.dialling = Some(id);
                    }
                    return;
                }
                Err(why) => reason = why,
            }
        }
        if let Some(attempt) = self.attempts.remove(&peer) {
            self.fail(peer, attempt.permit, reason);
        }
    }

    fn dial(&mut self, peer: PeerKey, addresses: Vec<Multiaddr>) -> Result<ConnectionId, String> {
        let id = address::peer_id(&peer).ok_or_else(|| "not an Ed25519 key".to_owned())?;
        // A connection that is closing counts as connected for libp2p, so that is not a condition.
        let opts = DialOpts::peer_id(id)
            .addresses(addresses)
            .condition(PeerCondition::NotDialing)
            .build();
        let connection = opts.connection_id();
        self.swarm
            .dial(opts)
            .map(|()| connection)
            .map_err(|error| explain(&error))
    }

    /// A dial has led to a connection.
    pub(crate) fn on_dialled(&mut self, peer: PeerKey, id: ConnectionId) {
        if let Some(attempt) = self.attempts.get_mut(&peer)
            && attempt.dialling == Some(id)
        {
            attempt.dialling = None;
        }
        let Some(unknown) = self.unknown.remove(&id) else {
            return;
        };
        // From here on it is a connect like any other, if it does not lead to somebody connected.
        if self
            .shared
            .live(&peer)
            .is_some_and(|session| session.is_announced())
        {
            return;
        }
        let deadline = Instant::now() + limits::CONNECT_WITHIN;
        self.attempts.entry(peer).or_insert_with(|| Attempt {
            permit: unknown.permit,
            dialling: None,
            more: Vec::new(),
            deadline,
        });
    }

    pub(crate) fn on_dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        let reason = explain(error);
        if let Some(unknown) = self.unknown.remove(&id) {
            return self.fail_address(unknown, reason);
        }
        let waiting = self
            .attempts
            .iter()
            .find(|(_, a)| a.dialling == Some(id))
            .map(|(peer, _)| *peer);
        if let Some(peer) = waiting {
            if let Some(attempt) = self.attempts.get_mut(&peer) {
                attempt.dialling = None;
            }
            self.settle(peer, &reason);
        }
    }

    /// Answers connects that nothing else has answered in time.
    pub(crate) fn expire_attempts(&mut self, now: Instant) {
        let late: Vec<PeerKey> = self
            .attempts
            .iter()
            .filter(|(peer, attempt)| attempt.deadline <= now && self.shared.live(peer).is_none())
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            if let Some(attempt) = self.attempts.remove(&peer) {
                self.fail(peer, attempt.permit, "no answer in time".to_owned());
            }
        }
    }

    fn fail(&self, peer: PeerKey, permit: Permit, reason: String) {
        self.tell(Event::ConnectFailed { peer, reason }, Some(permit));
    }

    fn fail_address(&self, unknown: Unknown, reason: String) {
        let event = Event::AddressFailed {
            address: unknown.text,
            reason,
        };
        self.tell(event, Some(unknown.permit));
    }
}

/// A dial error in a few words: the first three addresses with the fact behind each.
fn explain(error: &DialError) -> String {
    match error {
        DialError::LocalPeerId { .. } => "that is this node itself".to_owned(),
        DialError::NoAddresses => "no address that can be dialled".to_owned(),
        DialError::DialPeerConditionFalse(_) => "a dial to this peer is under way".to_owned(),
        DialError::Aborted => "given up".to_owned(),
        DialError::WrongPeerId { address, .. } => format!("another peer answers at {address}"),
        DialError::Denied { cause } => format!("refused by this node: {}", root_cause(cause)),
        DialError::Transport(errors) => {
            let mut parts: Vec<String> = errors
                .iter()
                .take(3)
                .map(|(address, error)| format!("{address}: {}", root_cause(error)))
                .collect();
            if errors.len() > 3 {
                parts.push(format!("and {} more", errors.len() - 3));
            }
            parts.join("; ")
        }
    }
}
