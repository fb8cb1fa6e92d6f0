//! The task that owns the swarm. It never waits for anything but its own inputs: what cannot be
//! handed on at once is kept in a bounded queue, ignored or refused.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use futures::StreamExt as _;
use libp2p::{
    Swarm,
    core::transport::ListenerId,
    gossipsub, identify, mdns,
    swarm::{self, ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    Event, PeerKey, StartError, Topic, Verdict, address,
    behaviour::{self, Behaviour, Happening},
    connections::Connection,
    dial::{Attempt, Unknown},
    handle::Command,
    limits,
    session::Note,
    sessions::Greeted,
    shared::{Permit, Shared, add},
    start::root_cause,
};

/// A shutdown under way.
#[derive(Debug)]
pub(crate) struct Closing {
    since: Instant,
    done: Vec<oneshot::Sender<()>>,
}

/// The state of the task.
pub(crate) struct Task {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) outbox: mpsc::Sender<(Event, Option<Permit>)>,
    pub(crate) notes: mpsc::Sender<Note>,
    pub(crate) connections: HashMap<ConnectionId, Connection>,
    pub(crate) attempts: HashMap<PeerKey, Attempt>,
    pub(crate) unknown: HashMap<ConnectionId, Unknown>,
    pub(crate) greetings: HashMap<PeerKey, Greeted>,
    /// Session and greeting tasks. They die with this task.
    pub(crate) tasks: JoinSet<()>,
    pub(crate) size: limits::Size,
    pub(crate) network: String,
    pub(crate) listeners: HashMap<ListenerId, String>,
    pub(crate) ready: Option<oneshot::Sender<Result<(), StartError>>>,
    pub(crate) next_session: u64,
    pub(crate) next_trim: Instant,
    pub(crate) closing: Option<Closing>,
    pub(crate) failed: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        // Also when a panic unwinds: no handle may believe that there is a network.
        self.shared.stop();
    }
}

impl Task {
    /// Runs until the end, see the crate documentation.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut notes: mpsc::Receiver<Note>,
    ) {
        let mut some_commands = Vec::with_capacity(limits::COMMANDS_AT_ONCE);
        let mut some_notes = Vec::with_capacity(limits::COMMANDS_AT_ONCE);
        let mut tick = time::interval(limits::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = self.events.clone();
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                count = commands.recv_many(&mut some_commands, limits::COMMANDS_AT_ONCE) => {
                    if count == 0 {
                        tracing::debug!("every handle is gone: the network stops");
                        break;
                    }
                    for command in some_commands.drain(..) {
                        self.on_command(command);
                    }
                }
                count = notes.recv_many(&mut some_notes, limits::COMMANDS_AT_ONCE) => {
                    // Never 0: this task holds a sender.
                    debug_assert!(count > 0);
                    for note in some_notes.drain(..) {
                        self.on_note(note);
                    }
                }
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                () = shared.wake.notified() => self.on_wishes(),
                _ = tick.tick() => self.on_tick(),
                () = events.closed() => {
                    tracing::debug!("nobody reads the events: the network stops");
                    break;
                }
            }
            if self.failed || self.is_closed() {
                break;
            }
        }
        // Senders that wait for these must not wait any longer.
        drop((commands, notes));
        self.finish().await;
    }

    /// Hands an event on without waiting. Room for answers to connects is certain, because each
    /// holds a permit; a listen address that finds no room is only logged.
    pub(crate) fn tell(&self, event: Event, permit: Option<Permit>) {
        if let Err(error) = self.outbox.try_send((event, permit)) {
            tracing::warn!(%error, "an event could not be told");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect {
                peer,
                addresses,
                permit,
            } => self.connect(peer, addresses, permit),
            Command::ConnectAddress {
                address,
                text,
                permit,
            } => {
                self.connect_unknown(address, text, permit);
            }
            Command::Publish { topic, bytes } => {
                let topic = behaviour::topic(&self.network, topic);
                match self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
                    Ok(_) | Err(gossipsub::PublishError::Duplicate) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a gossip message was not sent");
                        add(&self.shared.tally.gossip_unsent, 1);
                    }
                }
            }
            Command::Judge { ticket, verdict } => {
                let verdict = match verdict {
                    Verdict::Accept => gossipsub::MessageAcceptance::Accept,
                    Verdict::Ignore => gossipsub::MessageAcceptance::Ignore,
                    Verdict::Reject => gossipsub::MessageAcceptance::Reject,
                };
                // False means that the message is too old to matter.
                self.swarm
                    .behaviour_mut()
                    .gossip
                    .report_message_validation_result(&ticket.message, &ticket.source, verdict);
            }
            Command::Shutdown { done } => self.close(done),
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<Happening>) {
        match event {
            SwarmEvent::Behaviour(Happening::Stream(event)) => self.on_stream(event),
            SwarmEvent::Behaviour(Happening::Identify(event)) => self.on_identify(&event),
            SwarmEvent::Behaviour(Happening::Mdns(event)) => self.on_mdns(event),
            SwarmEvent::Behaviour(Happening::Gossip(event)) => self.on_gossip(*event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let Some(peer) = address::peer_key(&peer_id) else {
                    self.swarm.close_connection(connection_id);
                    return;
                };
                self.on_connection(peer, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed {
                connection_id,
                cause,
                ..
            } => {
                self.on_connection_closed(connection_id, cause.as_ref().map(|e| root_cause(e)));
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                if matches!(error, swarm::ListenError::Denied { .. }) {
                    add(&self.shared.tally.connections_refused, 1);
                }
            }
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                self.listeners.remove(&listener_id);
                let address = address.to_string();
                self.shared
                    .listening
                    .write()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(address.clone());
                self.tell(Event::Listening { address }, None);
                self.tell_ready();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.forget_listening(&[address]),
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                self.forget_listening(&addresses);
                let reason = reason
                    .err()
                    .map_or_else(|| "closed".to_owned(), |e| root_cause(&e));
                self.refuse_listener(listener_id, reason);
            }
            SwarmEvent::ListenerError { listener_id, error } => {
                self.refuse_listener(listener_id, root_cause(&error));
            }
            _ => {}
        }
    }

    /// Tells the starter that all listeners are bound, once.
    pub(crate) fn tell_ready(&mut self) {
        if self.listeners.is_empty()
            && let Some(ready) = self.ready.take()
        {
            let _ = ready.send(Ok(()));
        }
    }

    fn refuse_listener(&mut self, id: ListenerId, reason: String) {
        if let Some(address) = self.listeners.remove(&id)
            && let Some(ready) = self.ready.take()
        {
            self.failed = true;
            let _ = ready.send(Err(StartError::Listen { address, reason }));
        }
    }

    fn forget_listening(&self, gone: &[libp2p::Multiaddr]) {
        let gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
        let mut listening = self
            .shared
            .listening
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        listening.retain(|address| !gone.contains(address));
    }

    /// Identify is used for one thing: to notice a node of another network early, on both sides,
    /// and with the same words. Everything else in it is ignored.
    fn on_identify(&mut self, event: &identify::Event) {
        if let identify::Event::Received {
            connection_id,
            info,
            ..
        } = event
            && info.protocol_version != behaviour::protocol_version(&self.network)
        {
            self.on_stranger(*connection_id);
        }
    }

    fn on_mdns(&self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else {
            return;
        };
        for (peer, address) in found {
            let Some(peer) = address::peer_key(&peer) else {
                continue;
            };
            let Some((_, address)) = address::split(&address.to_string()) else {
                continue;
            };
            let event = Event::Found {
                peer,
                address: address.to_string(),
            };
            if self.events.try_send(event).is_err() {
                add(&self.shared.tally.found_dropped, 1);
            }
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message {
            propagation_source,
            message_id,
            message,
        } = event
        else {
            return;
        };
        let from = address::peer_key(&propagation_source);
        let topic = Topic::ALL
            .into_iter()
            .find(|kind| behaviour::topic(&self.network, *kind).hash() == message.topic);
        if let (Some(from), Some(topic)) = (from, topic)
            && let Ok(place) = self.events.try_reserve()
        {
            let ticket = crate::Ticket {
                message: message_id,
                source: propagation_source,
            };
            place.send(Event::Gossip {
                from,
                topic,
                bytes: message.data,
                ticket,
            });
            add(&self.shared.tally.gossip_in, 1);
        } else {
            add(&self.shared.tally.gossip_ignored, 1);
            self.swarm
                .behaviour_mut()
                .gossip
                .report_message_validation_result(
                    &message_id,
                    &propagation_source,
                    gossipsub::MessageAcceptance::Ignore,
                );
        }
    }

    /// Brings the block list in line with what callers want, and disconnects whom they named.
    fn on_wishes(&mut self) {
        let (blocked, disconnect) = {
            let mut wishes = self.shared.wishes();
            (
                wishes.blocked.clone(),
                std::mem::take(&mut wishes.disconnect),
            )
        };
        let wanted: std::collections::HashSet<_> =
            blocked.iter().filter_map(address::peer_id).collect();
        let present = self.swarm.behaviour().blocked.blocked_peers().clone();
        for peer in wanted.difference(&present) {
            self.swarm.behaviour_mut().blocked.block_peer(*peer);
            if let Some(key) = address::peer_key(peer) {
                if let Some(session) = self.shared.live(&key) {
                    session.stop(false, "blocked by this node");
                }
                self.close_peer(key, "blocked by this node");
            }
        }
        for peer in present.difference(&wanted) {
            self.swarm.behaviour_mut().blocked.unblock_peer(*peer);
        }
        for peer in disconnect {
            // A session's end closes its connection, after the last frames; the rest goes now.
            let (carrying, idle): (Vec<_>, Vec<_>) =
                self.connections_of(peer).into_iter().partition(|id| {
                    self.connections
                        .get(id)
                        .is_some_and(|c| c.session.is_some())
                });
            for id in idle {
                self.close_connection(id, "disconnected by this node");
            }
            if carrying.is_empty() {
                self.close_peer(peer, "disconnected by this node");
            }
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.close_late(now);
        self.expire_attempts(now);
        while let Some(result) = self.tasks.try_join_next() {
            self.on_task_end(result);
        }
        if self.closing.is_none() && now >= self.next_trim {
            self.next_trim = now + limits::TRIM_EVERY;
            self.trim();
        }
    }

    /// A panic in a session task would leave a peer without `Disconnected`: the network ends, so
    /// that its owner starts it anew.
    fn on_task_end(&mut self, result: Result<(), tokio::task::JoinError>) {
        if let Err(error) = result
            && error.is_panic()
        {
            tracing::error!(%error, "a task of the network panicked: the network stops");
            self.failed = true;
        }
    }

    /// Begins a shutdown.
    fn close(&mut self, done: oneshot::Sender<()>) {
        if let Some(closing) = &mut self.closing {
            closing.done.push(done);
            return;
        }
        self.closing = Some(Closing {
            since: Instant::now(),
            done: vec![done],
        });
        for session in self.shared.all_live() {
            session.stop(true, "this node is shutting down");
        }
        for kind in Topic::ALL {
            let topic = behaviour::topic(&self.network, kind);
            self.swarm.behaviour_mut().gossip.unsubscribe(&topic);
        }
        let idle: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.session.is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.close_connection(id, "this node is shutting down");
        }
        let waiting: Vec<PeerKey> = self.attempts.keys().copied().collect();
        for peer in waiting {
            self.close_peer(peer, "this node is shutting down");
        }
    }

    pub(crate) const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Whether a shutdown has come to its end. Until then the swarm is polled: connections close
    /// properly only that way.
    fn is_closed(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| {
            closing.since.elapsed() >= limits::SHUTDOWN_WITHIN
                || (self.connections.is_empty() && self.shared.sessions() == 0)
        })
    }

    /// The end: lets session tasks tell their last events, if this is a shutdown.
    async fn finish(mut self) {
        let Some(closing) = self.closing.take() else {
            return;
        };
        self.shared.stop();
        let until = closing.since + limits::SHUTDOWN_WITHIN;
        let mut tasks = std::mem::take(&mut self.tasks);
        // Drops the swarm, its listeners and the outbox: the pump ends when it has told all.
        drop(self);
        let rest = async { while tasks.join_next().await.is_some() {} };
        if time::timeout_at(until, rest).await.is_err() {
            tracing::debug!("some events of the shutdown were not read in time");
        }
        drop(tasks);
        for done in closing.done {
            let _ = done.send(());
        }
    }
}
