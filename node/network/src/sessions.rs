//! From a connection to a session: a part of the swarm task. Decides which side opens, which of two
//! sessions stays, and closes connections that carry none.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};

use libp2p::{Stream, swarm::ConnectionId};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    PeerKey, address, limits,
    session::{self, Greeting, GreetingError, Note, Work},
    shared::{Session, add},
    streams::{self, Outcome},
    swarm::Task,
};

/// What is told when a peer does not know our protocols.
const STRANGER: &str = "speaks another network or version";

/// A session stream that is being opened or greeted on. One per peer at a time.
#[derive(Debug)]
pub(crate) struct Greeted {
    connection: ConnectionId,
    /// The task that reads the greeting, once there is a stream.
    task: Option<AbortHandle>,
}

impl Task {
    /// Opens a session stream where it is on us to do so: on the newest connection that has not
    /// been asked. Also when a session exists elsewhere: the peer may have been restarted.
    pub(crate) fn ensure_session(&mut self, peer: PeerKey) {
        if self.shared.local >= peer || self.greetings.contains_key(&peer) || self.is_closing() {
            return;
        }
        let open = self.connections_of(peer).into_iter().rev().find(|id| {
            self.connections
                .get(id)
                .is_some_and(|c| !c.asked && !c.closing && c.session.is_none())
        });
        let (Some(id), Some(peer_id)) = (open, address::peer_id(&peer)) else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.asked = true;
        }
        self.swarm.behaviour_mut().streams.open(peer_id, id);
        self.greetings.insert(
            peer,
            Greeted {
                connection: id,
                task: None,
            },
        );
    }

    pub(crate) fn on_stream(&mut self, event: streams::Event) {
        let id = event.connection;
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (peer, closing, busy) = (
            connection.peer,
            connection.closing,
            connection.session.is_some(),
        );
        match event.outcome {
            Outcome::Inbound(stream) => {
                if self.shared.local < peer || closing || busy || self.is_closing() {
                    add(&self.shared.tally.streams_refused, 1);
                    return;
                }
                self.hear(peer, id, stream);
            }
            Outcome::Outbound(stream) => {
                if closing || busy {
                    self.greeting_over(peer, id);
                } else {
                    self.greet(peer, id, stream);
                }
            }
            Outcome::Surplus => add(&self.shared.tally.streams_refused, 1),
            Outcome::Unknown => {
                self.greeting_over(peer, id);
                self.on_stranger(id);
            }
            Outcome::Failed(reason) => {
                self.greeting_over(peer, id);
                self.close_connection(id, &reason);
            }
        }
    }

    fn greet(&mut self, peer: PeerKey, connection: ConnectionId, mut stream: Stream) {
        let instance = self.shared.instance;
        let with = self
            .shared
            .live(&peer)
            .map_or(0, |session| session.instance);
        let notes = self.notes.clone();
        let task = self.tasks.spawn(async move {
            let result = session::greet(&mut stream, instance, with).await;
            let _ = notes.send(note(peer, connection, stream, result)).await;
        });
        self.greetings.insert(
            peer,
            Greeted {
                connection,
                task: Some(task),
            },
        );
    }

    fn hear(&mut self, peer: PeerKey, connection: ConnectionId, mut stream: Stream) {
        let notes = self.notes.clone();
        let task = self.tasks.spawn(async move {
            let result = session::hear(&mut stream).await;
            let _ = notes.send(note(peer, connection, stream, result)).await;
        });
        // The newest wins: an older one may be of a run of the peer that is gone.
        let older = self.greetings.insert(
            peer,
            Greeted {
                connection,
                task: Some(task),
            },
        );
        if let Some(task) = older.and_then(|older| older.task) {
            task.abort();
        }
    }

    /// Forgets the greeting on this connection, if it is the current one of the peer.
    pub(crate) fn greeting_over(&mut self, peer: PeerKey, connection: ConnectionId) {
        if self
            .greetings
            .get(&peer)
            .is_some_and(|greeted| greeted.connection == connection)
            && let Some(Greeted {
                task: Some(task), ..
            }) = self.greetings.remove(&peer)
        {
            task.abort();
        }
    }

    /// A peer of another network. Both sides notice, each by itself; the connection stays for a
    /// moment so that both do.
    pub(crate) fn on_stranger(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.closing || connection.reason.is_some() {
            return;
        }
        connection.reason = Some(STRANGER.to_owned());
        connection.deadline = Some(Instant::now() + limits::STRANGER_FOR);
        add(&self.shared.tally.strangers, 1);
    }

    pub(crate) fn on_note(&mut self, note: Note) {
        match note {
            Note::Greeted {
                peer,
                connection,
                stream,
                greeting,
            } => {
                let current = self
                    .greetings
                    .get(&peer)
                    .is_some_and(|greeted| greeted.connection == connection);
                if !current {
                    return;
                }
                self.greeting_over(peer, connection);
                self.on_greeting(peer, connection, *stream, greeting);
                self.ensure_session(peer);
            }
            Note::NotGreeted {
                peer,
                connection,
                error,
            } => {
                self.greeting_over(peer, connection);
                match error {
                    GreetingError::Stranger => self.on_stranger(connection),
                    GreetingError::Failed(reason) => self.close_connection(connection, &reason),
                }
                self.ensure_session(peer);
            }
            Note::Opened { peer } => {
                self.attempts.remove(&peer);
            }
            Note::Ended {
                peer,
                session,
                connection,
                reason,
            } => {
                self.on_session_end(peer, session, connection, &reason);
            }
        }
    }

    fn on_greeting(
        &mut self,
        peer: PeerKey,
        id: ConnectionId,
        mut stream: Stream,
        greeting: Greeting,
    ) {
        if self.is_closing() || self.connections.get(&id).is_none_or(|c| c.closing) {
            return;
        }
        let live = self.shared.live(&peer);
        match greeting {
            Greeting::Hello { instance, with } => {
                // The older session stays only if both sides still have it, in the same runs.
                let keep = live.is_some_and(|session| {
                    session.instance == instance && with == self.shared.instance
                });
                if keep {
                    let instance = self.shared.instance;
                    self.tasks.spawn(async move {
                        // If this does not arrive, the peer closes the connection, as we will.
                        let _ = session::answer(&mut stream, false, instance).await;
                    });
                    self.is_extra(id);
                } else {
                    self.begin(peer, id, stream, instance, true);
                }
            }
            Greeting::Reply {
                open: true,
                instance,
            } => {
                self.begin(peer, id, stream, instance, false);
            }
            Greeting::Reply { open: false, .. } => {
                self.is_extra(id);
                // Our session ended while the peer still counted on it: ask again.
                if live.is_none()
                    && let Some(connection) = self.connections.get_mut(&id)
                {
                    connection.asked = false;
                }
            }
        }
    }

    /// Marks a connection as the second one of a peer.
    fn is_extra(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.deadline = Some(Instant::now() + limits::EXTRA_FOR);
        }
    }

    /// Starts a session on a greeted stream.
    fn begin(
        &mut self,
        peer: PeerKey,
        connection: ConnectionId,
        stream: Stream,
        instance: u64,
        accepting: bool,
    ) {
        let Some(address) = self.connections.get(&connection).map(|c| c.address.clone()) else {
            return;
        };
        let id = self.next_session;
        let (sender, queue) = mpsc::channel(limits::QUEUE_FRAMES);
        let now = self.shared.now_ms();
        let make = |order| Session {
            id,
            peer,
            address,
            instance,
            connection,
            queue: sender,
            queued: AtomicUsize::new(0),
            stop: watch::Sender::new(None),
            order,
            announced: AtomicBool::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            active_ms: AtomicU64::new(now),
        };
        // Ended sessions of slow readers count too, so twice the connections must be enough.
        let room = self.size.total as usize * 2;
        let Some(session) = self.shared.enter(room, make, peer) else {
            return self.close_connection(connection, "too many sessions wait to be told");
        };
        self.next_session += 1;
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.session = Some(id);
            connection.deadline = None;
        }
        let work = Work {
            stream,
            session,
            queue,
            accepting,
            shared: Arc::clone(&self.shared),
            events: self.events.clone(),
            notes: self.notes.clone(),
        };
        self.tasks.spawn(session::run(work));
    }

    /// A session is over, so its connection is, too. A second connection may take its place.
    fn on_session_end(
        &mut self,
        peer: PeerKey,
        session: u64,
        connection: ConnectionId,
        reason: &str,
    ) {
        let carried = self.connections.get(&connection).and_then(|c| c.session);
        if carried == Some(session) {
            self.close_connection(connection, reason);
        }
        if self.shared.live(&peer).is_none() {
            for id in self.connections_of(peer) {
                if let Some(other) = self.connections.get_mut(&id)
                    && !other.closing
                    && other.session.is_none()
                {
                    other.asked = false;
                    other.deadline = Some(Instant::now() + limits::SESSION_WITHIN);
                }
            }
            self.settle(peer, reason);
            self.ensure_session(peer);
        }
    }
}

/// The report of a greeting task.
fn note(
    peer: PeerKey,
    connection: ConnectionId,
    stream: Stream,
    result: Result<Greeting, GreetingError>,
) -> Note {
    match result {
        Ok(greeting) => Note::Greeted {
            peer,
            connection,
            stream: Box::new(stream),
            greeting,
        },
        Err(error) => Note::NotGreeted {
            peer,
            connection,
            error,
        },
    }
}
