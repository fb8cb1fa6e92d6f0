//! A libp2p behaviour that opens and accepts the raw session stream of each connection, and tells
//! on which connection it came. It does not read or write.
//!
//! It stands in the place of `libp2p-stream`, which picks a connection at random, drops incoming
//! streams when two arrive together, dials on its own, and keeps a channel for every connection
//! there ever was.

use std::{
    collections::VecDeque,
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};

use crate::limits;

/// What happened to a session stream.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The peer opened one.
    Inbound(Stream),
    /// The one that was asked for is there. It may still turn out that the peer does not know the
    /// protocol: this shows at the first read.
    Outbound(Stream),
    /// The one that was asked for cannot be had: the peer does not know the protocol.
    Unknown,
    /// The one that was asked for cannot be had, for another reason.
    Failed(String),
    /// The peer opened a second one on the same connection; it was dropped.
    Surplus,
}

/// An [`Outcome`] with its place.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) connection: ConnectionId,
    pub(crate) outcome: Outcome,
}

/// The behaviour.
#[derive(Debug)]
pub(crate) struct Behaviour {
    protocol: StreamProtocol,
    pending: VecDeque<ToSwarm<Event, Open>>,
}

/// Order to a handler: open the stream.
#[derive(Debug)]
pub(crate) struct Open;

impl Behaviour {
    pub(crate) const fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            pending: VecDeque::new(),
        }
    }

    /// Opens the stream on this connection. Answered by one event, unless the connection closes.
    /// The caller must poll the swarm afterwards.
    pub(crate) fn open(&mut self, peer_id: PeerId, connection: ConnectionId) {
        let handler = NotifyHandler::One(connection);
        self.pending.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler,
            event: Open,
        });
    }

    fn handler(&self) -> Handler {
        Handler {
            protocol: self.protocol.clone(),
            wanted: false,
            accepted: false,
            told: VecDeque::new(),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        outcome: THandlerOutEvent<Self>,
    ) {
        self.pending.push_back(ToSwarm::GenerateEvent(Event {
            connection,
            outcome,
        }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.pending.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's part.
#[derive(Debug)]
pub(crate) struct Handler {
    protocol: StreamProtocol,
    wanted: bool,
    /// Whether the peer has had its one stream.
    accepted: bool,
    told: VecDeque<Outcome>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Outcome;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let Some(outcome) = self.told.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(outcome));
        }
        if self.wanted {
            self.wanted = false;
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
                .with_timeout(limits::NEGOTIATE_WITHIN);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, Open: Open) {
        self.wanted = true;
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        let outcome = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: stream,
                ..
            }) => {
                if self.accepted {
                    // Told once at most per poll of the connection: a flood is not passed on.
                    if self.told.is_empty() {
                        Outcome::Surplus
                    } else {
                        return;
                    }
                } else {
                    self.accepted = true;
                    Outcome::Inbound(stream)
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                ..
            }) => Outcome::Outbound(stream),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => match error {
                StreamUpgradeError::Timeout => {
                    Outcome::Failed("opening the session took too long".to_owned())
                }
                StreamUpgradeError::NegotiationFailed => Outcome::Unknown,
                StreamUpgradeError::Io(error) => Outcome::Failed(error.to_string()),
                StreamUpgradeError::Apply(error) => {
                    let error: Infallible = error;
                    match error {}
                }
            },
            _ => return,
        };
        self.told.push_back(outcome);
    }
}
