//! Joins engine and network: one thread steps the engine, one task carries network events to it.
//! Decides nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use pumasi_network::{Event, EventReceiver, Network, Ticket, Topic, Verdict};
use pumasi_protocol::types::{AccountId, NodeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::check;
use crate::clock::{Clock, wall};
use crate::engine::{Effect, Engine, Input};
use crate::error::Error;
use crate::store::{self, DirectoryLock};

/// Inputs that wait for the engine; beyond, senders wait and callers hear "busy".
pub(crate) const INPUTS: usize = 4_096;
/// Inputs of one transaction, with those that came together with the last: what is queued is committed
/// together.
const BATCH: usize = 256;
/// Bundles of frames of one peer that wait to be checked.
const UNCHECKED: usize = 256;
/// How often time is told to the engine.
const TICK: std::time::Duration = std::time::Duration::from_millis(250);
/// Pages of the database on disk that are looked at per tick: 0.5 MiB a second.
const SCRUB_PAGES: u32 = 32;
/// Steps between looks at the size of the write-ahead log.
const STEPS_BETWEEN_CHECKS: u32 = 64;
/// Gossip messages that wait for a verdict.
const TICKETS_MAX: usize = 1_024;

/// What the engine's thread takes.
pub(crate) enum Message {
    /// An input.
    Input(Input),
    /// Inputs that came together and are taken in one step.
    Inputs(Vec<Input>),
    /// Stop after what came before, and say when done.
    Stop(oneshot::Sender<()>),
}

/// Gossip messages under judgement.
#[derive(Default)]
struct Tickets {
    next: u64,
    waiting: BTreeMap<u64, Ticket>,
}

/// What outlives the engine's thread.
pub(crate) struct Outcome {
    /// Highest event sequence number.
    pub(crate) events: watch::Sender<u64>,
    /// Accounts that are being compared with their keepers.
    pub(crate) checking: watch::Sender<Vec<AccountId>>,
    /// Why the engine stopped by itself.
    pub(crate) failure: watch::Sender<Option<Error>>,
}

/// Runs the engine until it is told to stop or the store fails.
pub(crate) fn spawn_engine(
    engine: Engine,
    lock: DirectoryLock,
    directory: PathBuf,
    network: Option<Network>,
    outcome: Outcome,
    inputs: mpsc::Receiver<Message>,
    tickets: Arc<SharedTickets>,
) -> std::io::Result<()> {
    let worker = Worker {
        engine,
        directory,
        network,
        outcome,
        tickets,
        clock: Clock::default(),
    };
    std::thread::Builder::new()
        .name("pumasi-engine".into())
        .spawn(move || {
            worker.run(inputs);
            drop(lock);
        })?;
    Ok(())
}

struct Worker {
    engine: Engine,
    directory: PathBuf,
    network: Option<Network>,
    outcome: Outcome,
    tickets: Arc<SharedTickets>,
    clock: Clock,
}

impl Worker {
    fn run(mut self, mut inputs: mpsc::Receiver<Message>) {
        let mut batch: Vec<Input> = Vec::new();
        let mut steps = 0_u32;
        let mut scrubbed = Instant::now();
        let stopped = loop {
            // Frames to this node itself are next; otherwise wait for something to do.
            if batch.is_empty() {
                match inputs.blocking_recv() {
                    Some(Message::Input(input)) => batch.push(input),
                    Some(Message::Inputs(inputs)) => batch = inputs,
                    Some(Message::Stop(done)) => break Some(done),
                    None => break None,
                }
            }
            let mut stop = None;
            while batch.len() < BATCH {
                match inputs.try_recv() {
                    Ok(Message::Input(input)) => batch.push(input),
                    Ok(Message::Inputs(inputs)) => batch.extend(inputs),
                    Ok(Message::Stop(done)) => {
                        stop = Some(done);
                        break;
                    }
                    Err(_) => break,
                }
            }
            let effects = match self
                .engine
                .step(std::mem::take(&mut batch), self.clock.now())
            {
                Ok(effects) => effects,
                Err(error) => return self.fail(&error),
            };
            self.perform(effects, &mut batch);
            if let Some(done) = stop {
                break Some(done);
            }
            if scrubbed.elapsed() >= TICK {
                scrubbed = Instant::now();
                if let Err(error) = self.engine.scrub(SCRUB_PAGES) {
                    return self.fail(&error);
                }
            }
            steps += 1;
            if steps >= STEPS_BETWEEN_CHECKS {
                steps = 0;
                if wal_is_long(&self.directory)
                    && let Err(error) = self.engine.checkpoint(false)
                {
                    return self.fail(&error);
                }
            }
        };
        if let Err(error) = self.engine.checkpoint(true) {
            tracing::warn!(%error, "the last checkpoint failed; the next start does it");
        }
        drop(self.engine);
        if let Some(done) = stopped {
            let _ = done.send(());
        }
    }

    /// A failed commit has an unknown outcome: answer nothing, stop. Whoever starts the node again
    /// finds on disk what is true.
    fn fail(self, error: &Error) {
        tracing::error!(%error, "the store failed: the node stops");
        let _ = self.outcome.failure.send(Some(error.clone()));
    }

    fn perform(&self, effects: Vec<Effect>, loopback: &mut Vec<Input>) {
        for effect in effects {
            match effect {
                Effect::Send(node, bytes) if node == self.engine.me() => {
                    match check::frame(node, &bytes, wall()) {
                        Ok(arrival) => loopback.push(Input::Frame(node, Box::new(arrival))),
                        Err(fault) => tracing::error!(%fault, "an own frame does not check out"),
                    }
                }
                Effect::Reply(reply) => reply(),
                Effect::Checking(accounts) => {
                    self.outcome.checking.send_replace(accounts);
                }
                Effect::Events(seq) => {
                    self.outcome.events.send_replace(seq);
                }
                other => self.on_network(other),
            }
        }
    }

    fn on_network(&self, effect: Effect) {
        let Some(network) = &self.network else { return };
        match effect {
            Effect::Send(node, bytes) => {
                // Not connected or busy: the outbox has it, and sends it again.
                if let Err(error) = network.send(node.0, bytes) {
                    tracing::debug!(?node, %error, "a frame was not sent");
                }
            }
            Effect::Connect(node, addresses) => {
                if let Err(error) = network.connect(node.0, addresses) {
                    tracing::debug!(?node, %error, "not dialled");
                }
            }
            Effect::ConnectAddress(address) => {
                if let Err(error) = network.connect_address(address.clone()) {
                    tracing::debug!(%address, %error, "not dialled");
                }
            }
            Effect::Block(node, true) => network.block(node.0),
            Effect::Block(node, false) => network.unblock(node.0),
            Effect::Disconnect(node) => network.disconnect(node.0),
            Effect::Pin(nodes) => network.pin(nodes.into_iter().map(|node| node.0).collect()),
            Effect::Publish(bytes) => {
                if let Err(error) = network.publish(Topic::Nodes, bytes) {
                    tracing::debug!(%error, "the node record was not published");
                }
            }
            Effect::Judge(number, verdict) => {
                if let Some(ticket) = self.tickets.take(number) {
                    let verdict = match verdict {
                        Some(true) => Verdict::Accept,
                        Some(false) => Verdict::Reject,
                        None => Verdict::Ignore,
                    };
                    network.judge(ticket, verdict);
                }
            }
            Effect::Reply(_) | Effect::Events(_) | Effect::Checking(_) => {}
        }
    }
}

fn wal_is_long(directory: &Path) -> bool {
    let wal = store::database(directory).with_extension("db-wal");
    let pages = std::fs::metadata(wal).map_or(0, |file| file.len() / 4_096);
    i64::try_from(pages).unwrap_or(i64::MAX) > store::CHECKPOINT_PAGES
}

/// Gossip tickets shared by the task that receives and the thread that judges.
#[derive(Default)]
pub(crate) struct SharedTickets(Mutex<Tickets>);

impl SharedTickets {
    fn put(&self, ticket: Ticket) -> Option<u64> {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.waiting.len() >= TICKETS_MAX {
            return None;
        }
        tickets.next += 1;
        let number = tickets.next;
        tickets.waiting.insert(number, ticket);
        Some(number)
    }

    fn take(&self, number: u64) -> Option<Ticket> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .remove(&number)
    }
}

/// Tells the engine the time, until it is gone.
pub(crate) async fn tick(engine: mpsc::Sender<Message>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        // A full queue means that the engine has enough to do: it hears the time with the next one.
        if let Err(mpsc::error::TrySendError::Closed(_)) =
            engine.try_send(Message::Input(Input::Tick))
        {
            return;
        }
    }
}

/// What one peer's task takes, in the order in which it happened.
enum FromPeer {
    Connected,
    Disconnected,
    Frames(Vec<Vec<u8>>),
}

/// Carries network events to the engine, until either is gone. Frames are decoded and checked in one
/// task per peer, so that a slow one does not hold up the others.
pub(crate) async fn carry(
    network: Network,
    mut events: EventReceiver,
    engine: mpsc::Sender<Message>,
    tickets: Arc<SharedTickets>,
) {
    let mut peers: BTreeMap<NodeId, (mpsc::Sender<FromPeer>, JoinHandle<()>)> = BTreeMap::new();
    // Tasks of ended sessions that may still have something to say.
    let mut ending: BTreeMap<NodeId, JoinHandle<()>> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        let sent = match event {
            Event::Connected { peer, .. } => {
                let node = NodeId(peer);
                let (sender, receiver) = mpsc::channel(UNCHECKED);
                let before = match peers.remove(&node) {
                    Some((_, task)) => Some(task),
                    None => ending.remove(&node),
                };
                let task = after(
                    before,
                    check_peer(node, receiver, engine.clone(), network.clone()),
                );
                let sent = sender.send(FromPeer::Connected).await.is_ok();
                peers.insert(node, (sender, task));
                sent
            }
            Event::Disconnected { peer, reason, .. } => {
                tracing::debug!(peer = ?NodeId(peer), %reason, "session ended");
                match peers.remove(&NodeId(peer)) {
                    Some((sender, task)) => {
                        ending.retain(|_, task| !task.is_finished());
                        ending.insert(NodeId(peer), task);
                        sender.send(FromPeer::Disconnected).await.is_ok()
                    }
                    None => true,
                }
            }
            Event::Frames { peer, frames, .. } => match peers.get(&NodeId(peer)) {
                Some((sender, _)) => sender.send(FromPeer::Frames(frames)).await.is_ok(),
                None => true,
            },
            Event::ConnectFailed { peer, reason } => {
                tracing::debug!(peer = ?NodeId(peer), %reason, "not reached");
                let input = Input::Unreachable(NodeId(peer));
                engine.send(Message::Input(input)).await.is_ok()
            }
            Event::Gossip { bytes, ticket, .. } => match tickets.put(ticket) {
                Some(number) => {
                    let checked = check::gossip(&bytes, wall()).map(Box::new).map_err(|_| ());
                    let input = Input::Gossip(number, checked);
                    engine.send(Message::Input(input)).await.is_ok()
                }
                None => true,
            },
            Event::Found { peer, address } => {
                let found = Engine::call(
                    move |engine| {
                        engine.found(NodeId(peer), address);
                        Ok(())
                    },
                    |_| {},
                );
                engine.send(Message::Input(found)).await.is_ok()
            }
            Event::AddressFailed { address, reason } => {
                tracing::debug!(%address, %reason, "not reached");
                true
            }
            _ => true,
        };
        if !sent && engine.is_closed() {
            return;
        }
    }
}

/// Runs a session's task behind that of the session before it: the engine must not hear of the end of the
/// old one after the beginning of the new one, or it takes a connected node for a lost one.
fn after(
    before: Option<JoinHandle<()>>,
    task: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Some(before) = before {
            // It ends by itself: its sender is gone. A panic of it is no reason to stop here.
            let _ = before.await;
        }
        task.await;
    })
}

async fn check_peer(
    node: NodeId,
    mut events: mpsc::Receiver<FromPeer>,
    engine: mpsc::Sender<Message>,
    network: Network,
) {
    while let Some(event) = events.recv().await {
        let message = match event {
            FromPeer::Connected => Message::Input(Input::Connected(node)),
            FromPeer::Disconnected => Message::Input(Input::Disconnected(node)),
            FromPeer::Frames(frames) => {
                let mut inputs = Vec::with_capacity(frames.len());
                for bytes in frames {
                    match check::frame(node, &bytes, wall()) {
                        Ok(arrival) => inputs.push(Input::Frame(node, Box::new(arrival))),
                        Err(fault) => {
                            tracing::warn!(peer = ?node, %fault, "a frame does not check out: session ended");
                            network.disconnect(node.0);
                            break;
                        }
                    }
                }
                Message::Inputs(inputs)
            }
        };
        if engine.send(message).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_session_is_told_after_the_end_of_the_one_it_replaces() {
        let network = Network::start(pumasi_network::Config {
            secret: [7; 32],
            network: "order".into(),
            listen: Vec::new(),
            mdns: false,
            small: true,
            agent: "test".into(),
            max_frame: 1_024,
            blocked: Vec::new(),
            allow_private: true,
        })
        .await
        .unwrap()
        .0;
        let node = NodeId([1; 32]);
        // The old session's task has to wait for room, as it has on a busy node.
        let (engine, mut inputs) = mpsc::channel(1);
        engine.send(Message::Input(Input::Tick)).await.unwrap();
        let (old, from_old) = mpsc::channel(UNCHECKED);
        let task = after(
            None,
            check_peer(node, from_old, engine.clone(), network.clone()),
        );
        old.send(FromPeer::Connected).await.unwrap();
        old.send(FromPeer::Disconnected).await.unwrap();
        drop(old);
        let (new, from_new) = mpsc::channel(UNCHECKED);
        new.send(FromPeer::Connected).await.unwrap();
        after(
            Some(task),
            check_peer(node, from_new, engine, network.clone()),
        );
        // Until both have as much in the queue as they can.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let mut told = Vec::new();
        while told.len() < 4 {
            let Some(Message::Input(input)) = inputs.recv().await else {
                panic!("the tasks end");
            };
            told.push(format!("{input:?}").chars().take(9).collect::<String>());
        }
        assert_eq!(told, ["Tick", "Connected", "Disconnec", "Connected"]);
        drop(new);
        network.shutdown().await;
    }
}
