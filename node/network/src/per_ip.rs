//! A libp2p behaviour that limits incoming connections per IP address: one machine must not take
//! all the places. Hosts behind one IPv6 /56 (one customer, usually) count as one.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::IpAddr,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure,
        NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::{address, limits};

/// The behaviour. Its maps are bounded by the limits on pending and established connections.
#[derive(Debug)]
pub(crate) struct Behaviour {
    /// Whether private addresses are not counted.
    exempt_near: bool,
    connections: HashMap<ConnectionId, IpAddr>,
    counts: HashMap<IpAddr, usize>,
}

/// The refusal.
#[derive(Debug)]
struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many connections from one address")
    }
}

impl std::error::Error for TooMany {}

impl Behaviour {
    pub(crate) fn new(exempt_near: bool) -> Self {
        Self {
            exempt_near,
            connections: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    fn enter(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), TooMany> {
        let Some(ip) = address::ip(remote) else {
            return Ok(());
        };
        if self.exempt_near && address::is_near(ip) {
            return Ok(());
        }
        let block = block(ip);
        let count = self.counts.entry(block).or_default();
        if *count >= limits::CONNECTIONS_PER_IP {
            return Err(TooMany);
        }
        *count += 1;
        self.connections.insert(id, block);
        Ok(())
    }

    fn leave(&mut self, id: ConnectionId) {
        let Some(block) = self.connections.remove(&id) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&block) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&block);
            }
        }
    }
}

/// The addresses that count together with this one.
fn block(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & (u128::MAX << 72)).into()),
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.enter(id, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.leave(connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_ninth_connection_from_one_address_is_refused_until_one_leaves() {
        let mut limit = Behaviour::new(false);
        let from = address("/ip4/203.0.113.7/tcp/1");
        for n in 0..8 {
            assert!(limit.enter(ConnectionId::new_unchecked(n), &from).is_ok());
        }
        assert!(limit.enter(ConnectionId::new_unchecked(8), &from).is_err());
        assert!(
            limit
                .enter(
                    ConnectionId::new_unchecked(9),
                    &address("/ip4/203.0.113.8/tcp/1")
                )
                .is_ok()
        );
        limit.leave(ConnectionId::new_unchecked(3));
        limit.leave(ConnectionId::new_unchecked(3));
        assert!(limit.enter(ConnectionId::new_unchecked(10), &from).is_ok());
        assert!(limit.enter(ConnectionId::new_unchecked(11), &from).is_err());
    }

    #[test]
    fn addresses_of_one_ipv6_block_count_together() {
        let mut limit = Behaviour::new(false);
        for n in 0..8 {
            let from = address(&format!("/ip6/2001:db8:0:{n:x}::1/udp/1/quic-v1"));
            assert!(limit.enter(ConnectionId::new_unchecked(n), &from).is_ok());
        }
        let same = address("/ip6/2001:db8:0:ff::9/udp/1/quic-v1");
        assert!(limit.enter(ConnectionId::new_unchecked(8), &same).is_err());
        let other = address("/ip6/2001:db8:0:100::9/udp/1/quic-v1");
        assert!(limit.enter(ConnectionId::new_unchecked(9), &other).is_ok());
    }

    #[test]
    fn loopback_counts_unless_private_addresses_are_allowed() {
        let from = address("/ip4/127.0.0.1/tcp/1");
        for (exempt, expected) in [(true, true), (false, false)] {
            let mut limit = Behaviour::new(exempt);
            for n in 0..8 {
                assert!(limit.enter(ConnectionId::new_unchecked(n), &from).is_ok());
            }
            assert_eq!(
                limit.enter(ConnectionId::new_unchecked(8), &from).is_ok(),
                expected
            );
        }
    }
}
