//! What the handles, the swarm task and the session tasks see at the same time. Locks are held for
//! a few instructions and never across an await.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use libp2p::swarm::ConnectionId;
use tokio::sync::{Notify, mpsc, watch};

use crate::{Counters, Direction, PeerInfo, PeerKey, SendError, limits};

/// State common to all parts of one node.
#[derive(Debug)]
pub(crate) struct Shared {
    /// This node's key.
    pub(crate) local: PeerKey,
    /// Random number of this run. A peer that greets with another one has been restarted.
    pub(crate) instance: u64,
    /// Largest frame, in bytes.
    pub(crate) max_frame: usize,
    /// Origin of the times kept in atomics.
    started: Instant,
    sessions: RwLock<HashMap<PeerKey, Arc<Session>>>,
    links: RwLock<HashMap<PeerKey, Link>>,
    pub(crate) listening: RwLock<Vec<String>>,
    wishes: Mutex<Wishes>,
    /// Tells the swarm task that the wishes changed.
    pub(crate) wake: Notify,
    connects: AtomicUsize,
    pub(crate) tally: Tally,
    stopped: AtomicBool,
}

/// A connected peer, with or without a session.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) address: String,
    pub(crate) direction: Direction,
    pub(crate) since: Instant,
}

/// What callers want to be true. Kept here and not in a queue, so that it cannot get lost when the
/// queue is full.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) pinned: HashSet<PeerKey>,
    pub(crate) blocked: HashSet<PeerKey>,
    pub(crate) disconnect: HashSet<PeerKey>,
}

impl Shared {
    pub(crate) fn new(local: PeerKey, instance: u64, max_frame: usize) -> Self {
        Self {
            local,
            instance,
            max_frame,
            started: Instant::now(),
            sessions: RwLock::default(),
            links: RwLock::default(),
            listening: RwLock::default(),
            wishes: Mutex::default(),
            wake: Notify::new(),
            connects: AtomicUsize::new(0),
            tally: Tally::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// The session of a peer, unless it is ending.
    pub(crate) fn live(&self, peer: &PeerKey) -> Option<Arc<Session>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions
            .get(peer)
            .filter(|session| !session.is_stopped())
            .cloned()
    }

    /// All sessions that are not ending.
    pub(crate) fn all_live(&self) -> Vec<Arc<Session>> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions
            .values()
            .filter(|session| !session.is_stopped())
            .cloned()
            .collect()
    }

    /// Makes a session the current one of its peer, in the announcing order of the one before,
    /// which is stopped. `None` when `room` sessions exist already.
    pub(crate) fn enter(
        &self,
        room: usize,
        make: impl FnOnce(Arc<tokio::sync::Mutex<()>>) -> Session,
        peer: PeerKey,
    ) -> Option<Arc<Session>> {
        let mut sessions = self
            .sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let old = sessions.get(&peer).cloned();
        if old.is_none() && sessions.len() >= room {
            return None;
        }
        let order = old
            .as_ref()
            .map_or_else(Arc::default, |old| Arc::clone(&old.order));
        let session = Arc::new(make(order));
        sessions.insert(peer, Arc::clone(&session));
        if let Some(old) = old {
            old.stop(false, "replaced by a newer session of the same peer");
        }
        Some(session)
    }

    /// Forgets a session that is over and told.
    pub(crate) fn leave(&self, session: &Session) {
        let mut sessions = self
            .sessions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if sessions
            .get(&session.peer)
            .is_some_and(|current| current.id == session.id)
        {
            sessions.remove(&session.peer);
        }
    }

    /// How many sessions exist, those that are ending included.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    pub(crate) fn set_link(&self, peer: PeerKey, link: Option<Link>) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        match link {
            Some(link) => links.insert(peer, link),
            None => links.remove(&peer),
        };
    }

    pub(crate) fn peers(&self) -> Vec<PeerInfo> {
        let links = self
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let mut peers: Vec<PeerInfo> = links
            .into_iter()
            .map(|(peer, link)| {
                let session = sessions
                    .get(&peer)
                    .filter(|s| s.is_announced() && !s.is_stopped());
                PeerInfo {
                    peer,
                    address: link.address,
                    session: session.is_some(),
                    since: link.since,
                    direction: link.direction,
                    bytes_in: session.map_or(0, |s| s.bytes_in.load(Ordering::Relaxed)),
                    bytes_out: session.map_or(0, |s| s.bytes_out.load(Ordering::Relaxed)),
                }
            })
            .collect();
        peers.sort_unstable_by_key(|info| info.peer);
        peers
    }

    pub(crate) fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the start.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Marks the end: nothing is sent or begun any more.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        let sessions = std::mem::take(
            &mut *self
                .sessions
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for session in sessions.values() {
            session.stop(false, "the network has stopped");
        }
        self.links
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// A place among the connects that wait for an answer.
    pub(crate) fn permit(self: &Arc<Self>) -> Option<Permit> {
        self.connects
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                (n < limits::CONNECTS).then_some(n + 1)
            })
            .ok()
            .map(|_| Permit(Arc::clone(self)))
    }
}

/// One connect that has not been answered. Dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.connects.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why and how a session is to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Whether queued frames are written first.
    pub(crate) graceful: bool,
    pub(crate) reason: String,
}

/// One session, as everybody but its own task sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) peer: PeerKey,
    pub(crate) address: String,
    /// The run of the peer that greeted.
    pub(crate) instance: u64,
    /// The connection that carries it, and ends with it.
    pub(crate) connection: ConnectionId,
    pub(crate) queue: mpsc::Sender<Vec<u8>>,
    /// Bytes in the queue.
    pub(crate) queued: AtomicUsize,
    pub(crate) stop: watch::Sender<Option<Stop>>,
    /// Held from `Connected` to `Disconnected`, so that the sessions of one peer never overlap in
    /// what the reader of events sees.
    pub(crate) order: Arc<tokio::sync::Mutex<()>>,
    pub(crate) announced: AtomicBool,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    /// When a frame last went either way.
    pub(crate) active_ms: AtomicU64,
}

impl Session {
    /// Queues a frame.
    pub(crate) fn send(&self, bytes: Vec<u8>) -> Result<(), SendError> {
        if self.is_stopped() {
            return Err(SendError::NotConnected);
        }
        let length = bytes.len();
        self.queued
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| {
                n.checked_add(length)
                    .filter(|sum| *sum <= limits::QUEUE_BYTES.max(length))
            })
            .map_err(|_| SendError::Busy)?;
        self.queue.try_send(bytes).map_err(|error| {
            self.queued.fetch_sub(length, Ordering::SeqCst);
            match error {
                mpsc::error::TrySendError::Full(_) => SendError::Busy,
                mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
            }
        })
    }

    /// Asks the session to end. The first reason stays; a hard stop overtakes a graceful one.
    pub(crate) fn stop(&self, graceful: bool, reason: &str) {
        self.stop.send_if_modified(|stop| match stop {
            None => {
                *stop = Some(Stop {
                    graceful,
                    reason: reason.to_owned(),
                });
                true
            }
            Some(stop) if stop.graceful && !graceful => {
                stop.graceful = false;
                true
            }
            Some(_) => false,
        });
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.borrow().is_some()
    }

    pub(crate) fn is_announced(&self) -> bool {
        self.announced.load(Ordering::SeqCst)
    }
}

/// Running counts behind [`Counters`].
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) frames_in: AtomicU64,
    pub(crate) frames_out: AtomicU64,
    pub(crate) frames_refused: AtomicU64,
    pub(crate) sessions_opened: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) streams_refused: AtomicU64,
    pub(crate) strangers: AtomicU64,
    pub(crate) peers_trimmed: AtomicU64,
    pub(crate) gossip_in: AtomicU64,
    pub(crate) gossip_ignored: AtomicU64,
    pub(crate) gossip_unsent: AtomicU64,
    pub(crate) judgements_lost: AtomicU64,
    pub(crate) found_dropped: AtomicU64,
}

/// Adds to a count.
pub(crate) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

impl Tally {
    pub(crate) fn snapshot(&self) -> Counters {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            bytes_in: get(&self.bytes_in),
            bytes_out: get(&self.bytes_out),
            frames_in: get(&self.frames_in),
            frames_out: get(&self.frames_out),
            frames_refused: get(&self.frames_refused),
            sessions_opened: get(&self.sessions_opened),
            connections_refused: get(&self.connections_refused),
            streams_refused: get(&self.streams_refused),
            strangers: get(&self.strangers),
            peers_trimmed: get(&self.peers_trimmed),
            gossip_in: get(&self.gossip_in),
            gossip_ignored: get(&self.gossip_ignored),
            gossip_unsent: get(&self.gossip_unsent),
            judgements_lost: get(&self.judgements_lost),
            found_dropped: get(&self.found_dropped),
        }
    }
}
