//! The handle by which the rest of the node uses the network. Nothing here waits, except starting
//! and shutting down.

use std::sync::{Arc, PoisonError};

use libp2p::{Multiaddr, identity};
use tokio::sync::{mpsc, oneshot};

use crate::{
    AddressError, Busy, Config, EventReceiver, PeerInfo, PeerKey, PublishError, SendError,
    StartError, Ticket, Topic, Verdict, address, limits,
    shared::{Permit, Shared, add},
    start,
};

/// Work for the swarm task.
#[derive(Debug)]
pub(crate) enum Command {
    Connect {
        peer: PeerKey,
        addresses: Vec<Multiaddr>,
        permit: Permit,
    },
    ConnectAddress {
        address: Multiaddr,
        text: String,
        permit: Permit,
    },
    Publish {
        topic: Topic,
        bytes: Vec<u8>,
    },
    Judge {
        ticket: Ticket,
        verdict: Verdict,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// A running network. Clones are handles of the same network; when the last one is dropped, it
/// stops at once, without saying goodbye. All methods may be called from any thread.
#[derive(Debug, Clone)]
pub struct Network {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

impl Network {
    /// Starts a network; returns when all addresses are being listened on. A port that is in use
    /// is waited for, 5 s at most: a network that has just ended holds its ports a little. Needs a tokio runtime
    /// with time and I/O enabled.
    ///
    /// # Errors
    /// A setting that cannot work, or an address that cannot be bound: the text says what to do.
    pub async fn start(config: Config) -> Result<(Self, EventReceiver), StartError> {
        config.check()?;
        let keypair = identity::Keypair::ed25519_from_bytes(config.secret)
            .map_err(|error| StartError::Config(error.to_string()))?;
        let local = address::peer_key(&keypair.public().to_peer_id())
            .ok_or_else(|| StartError::Config("the secret gives no usable key".to_owned()))?;
        // 0 means "no session" in a greeting.
        let instance = rand::random::<u64>().max(1);
        let shared = Arc::new(Shared::new(local, instance, config.max_frame));
        {
            let mut wishes = shared.wishes();
            wishes
                .blocked
                .extend(config.blocked.iter().take(limits::NAMED_PEERS));
        }
        let (commands, receiver) = mpsc::channel(limits::COMMANDS);
        let events = start::start(&config, &keypair, Arc::clone(&shared), receiver).await?;
        Ok((Self { shared, commands }, events))
    }

    /// This node's key.
    #[must_use]
    pub fn local(&self) -> PeerKey {
        self.shared.local
    }

    /// The addresses that are listened on, with their real ports, without the peer.
    #[must_use]
    pub fn listening(&self) -> Vec<String> {
        self.shared
            .listening
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Connects to a peer at one of these addresses, QUIC before TCP. Answered by one `Connected`
    /// or one `ConnectFailed` within 30 s (longer only when events are not read); several connects
    /// that wait for the same peer are answered together. Nothing happens when a session is open
    /// already. At most 16 addresses are tried; those that cannot be dialled or name another peer
    /// are left out.
    ///
    /// # Errors
    /// 256 connects wait already, or the network has stopped. No event follows.
    pub fn connect(&self, peer: PeerKey, addresses: Vec<String>) -> Result<(), Busy> {
        let permit = self.permit().ok_or(Busy)?;
        let mut usable: Vec<Multiaddr> = Vec::new();
        for text in addresses {
            if usable.len() == limits::ADDRESSES {
                break;
            }
            if let Some((named, address)) = address::split(&text)
                && named.is_none_or(|named| named == peer)
                && !usable.contains(&address)
            {
                usable.push(address);
            }
        }
        self.command(Command::Connect {
            peer,
            addresses: usable,
            permit,
        })
    }

    /// Connects to whoever answers at an address, as a list of first addresses has it. With
    /// `/p2p/...` at its end it is the same as [`Network::connect`]; without, a failure before the
    /// peer is known is told as `AddressFailed`.
    ///
    /// # Errors
    /// The address is none that can be dialled, or too many connects wait already. No event
    /// follows.
    pub fn connect_address(&self, address: String) -> Result<(), AddressError> {
        let (peer, parsed) = address::split(&address).ok_or(AddressError::Invalid)?;
        let permit = self.permit().ok_or(AddressError::Busy)?;
        let command = match peer {
            Some(peer) => Command::Connect {
                peer,
                addresses: vec![parsed],
                permit,
            },
            None => Command::ConnectAddress {
                address: parsed,
                text: address,
                permit,
            },
        };
        self.command(command).map_err(|Busy| AddressError::Busy)
    }

    /// Queues a frame for a peer. Frames arrive in the order of these calls, as long as the session
    /// lives; whether one arrived is known only from what the peer answers.
    ///
    /// # Errors
    /// No session, a full queue, or a frame of a wrong size.
    pub fn send(&self, peer: PeerKey, bytes: Vec<u8>) -> Result<(), SendError> {
        if bytes.is_empty() || bytes.len() > self.shared.max_frame {
            return Err(SendError::Size);
        }
        let session = self.shared.live(&peer).ok_or(SendError::NotConnected)?;
        // Before `Connected` has been told the caller cannot know of the session.
        if !session.is_announced() {
            return Err(SendError::NotConnected);
        }
        session
            .send(bytes)
            .inspect_err(|_| add(&self.shared.tally.frames_refused, 1))
    }

    /// Ends the session with a peer in good order, and its connections; queued frames are still
    /// written for up to 1 s. A connect that waits is answered by `ConnectFailed`.
    pub fn disconnect(&self, peer: PeerKey) {
        if let Some(session) = self.shared.live(&peer) {
            session.stop(true, "disconnected by this node");
        }
        {
            let mut wishes = self.shared.wishes();
            if wishes.disconnect.len() < limits::NAMED_PEERS {
                wishes.disconnect.insert(peer);
            }
        }
        self.shared.wake.notify_one();
    }

    /// Sets the peers that the connection manager must not trim; replaces the set before. At most
    /// 65,536 count.
    pub fn pin(&self, peers: Vec<PeerKey>) {
        self.shared.wishes().pinned = peers.into_iter().take(limits::NAMED_PEERS).collect();
    }

    /// Refuses a peer from now on, and ends what is open with it. At most 65,536 are kept.
    pub fn block(&self, peer: PeerKey) {
        {
            let mut wishes = self.shared.wishes();
            if wishes.blocked.len() < limits::NAMED_PEERS {
                wishes.blocked.insert(peer);
            }
        }
        if let Some(session) = self.shared.live(&peer) {
            session.stop(false, "blocked by this node");
        }
        self.shared.wake.notify_one();
    }

    /// Takes a peer from the block list.
    pub fn unblock(&self, peer: PeerKey) {
        self.shared.wishes().blocked.remove(&peer);
        self.shared.wake.notify_one();
    }

    /// Gives a message to the gossip of a topic, as its author. Without peers it is dropped and
    /// counted: publish again later. The same bytes again within 5 minutes are dropped too.
    ///
    /// # Errors
    /// The message is too long, or too much waits already.
    pub fn publish(&self, topic: Topic, bytes: Vec<u8>) -> Result<(), PublishError> {
        if bytes.len() > limits::MAX_GOSSIP {
            return Err(PublishError::Size);
        }
        self.command(Command::Publish { topic, bytes })
            .map_err(|Busy| PublishError::Busy)
    }

    /// Says what becomes of a gossip message. If too much waits already, the message is not passed
    /// on, as if it had been ignored.
    pub fn judge(&self, ticket: Ticket, verdict: Verdict) {
        if self.command(Command::Judge { ticket, verdict }).is_err() {
            add(&self.shared.tally.judgements_lost, 1);
        }
    }

    /// The peers that are connected now, by key.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.peers()
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.tally.snapshot()
    }

    /// Ends the network in good order: sessions are closed with their queued frames written, peers
    /// are told. Returns after about 2 s at most; then the receiver of events, once read to its
    /// end, is closed. Later calls return when the first one has ended.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            // An error means that the task is over, which is what was asked for.
            let _ = ended.await;
        }
    }

    fn permit(&self) -> Option<Permit> {
        if self.shared.is_stopped() {
            None
        } else {
            self.shared.permit()
        }
    }

    fn command(&self, command: Command) -> Result<(), Busy> {
        self.commands.try_send(command).map_err(|_| Busy)
    }
}

/// Counts since the start of the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Bytes of frames received.
    pub bytes_in: u64,
    /// Bytes of frames handed to the transport.
    pub bytes_out: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Frames handed to the transport.
    pub frames_out: u64,
    /// Frames refused by `send`, because a queue was full or the session had just ended.
    pub frames_refused: u64,
    /// Sessions opened.
    pub sessions_opened: u64,
    /// Connections refused by a limit or the block list.
    pub connections_refused: u64,
    /// Session streams refused: opened by the wrong side, or more than one on a connection.
    pub streams_refused: u64,
    /// Connections that turned out to belong to another network or version.
    pub strangers: u64,
    /// Sessions ended by the connection manager.
    pub peers_trimmed: u64,
    /// Gossip messages handed to the reader of events.
    pub gossip_in: u64,
    /// Gossip messages dropped, because events were not read fast enough.
    pub gossip_ignored: u64,
    /// Own gossip messages that no peer could take.
    pub gossip_unsent: u64,
    /// Verdicts that could not be queued.
    pub judgements_lost: u64,
    /// mDNS finds dropped, because events were not read fast enough.
    pub found_dropped: u64,
}
