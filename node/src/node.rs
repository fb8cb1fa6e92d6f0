//! The handle that embedding programs, API and command line hold: cheap to clone, every call async.
//! It decides nothing: writes go to the engine's thread, reads to a read-only connection.

mod account;
mod events;
mod options;
mod restore;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pumasi_network::{Config, Network, address_with_peer, peer_text};
use pumasi_protocol::types::{AccountId, MessageId, NodeId};
use pumasi_protocol::wire::FRAME_MAX;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::{self, INPUTS, Message, Outcome, SharedTickets};
use crate::engine::{Engine, Input, Settings};
use crate::error::{Error, ErrorKind, Result};
use crate::vault::Vault;
use crate::view::{
    AccountView, EventView, KeptView, NewAccountView, NodeView, PeerView, StatusView,
};
use crate::{backup, clock, read, store};

pub use account::Account;
pub use events::Events;
pub use options::{Builder, EventQuery, Options, Page, Unlock};
pub use restore::Restore;

/// A call waits this long for a place in the engine's queue before it hears "busy".
const QUEUE_WITHIN: Duration = Duration::from_secs(5);
/// A call that signs waits this long for an account that is being compared with its keepers.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);
/// Read-only connections.
const READERS: usize = 2;
/// From this many connections on, a node is a community node.
const COMMUNITY_NEWCOMERS: u32 = 64;

/// A running node. Clones are handles to the same node; it stops with [`Node::shutdown`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    options: Options,
    engine: mpsc::Sender<Message>,
    network: Network,
    readers: Vec<Mutex<Connection>>,
    next_reader: AtomicUsize,
    events: watch::Receiver<u64>,
    checking: watch::Receiver<Vec<AccountId>>,
    failure: watch::Receiver<Option<Error>>,
    stopping: AtomicBool,
    started: Instant,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.inner.id)
            .finish_non_exhaustive()
    }
}

fn settings(options: &Options) -> Settings {
    Settings {
        network: options.network.clone(),
        operator: options.operator.clone(),
        building: options.building.clone(),
        keep_for_contacts: options.keep_for_contacts,
        newcomers: options.newcomers,
        local: options.local,
        replace_after: options.replace_after.saturating_mul(1_000),
        bootstrap: options.bootstrap.clone(),
    }
}

/// Opens everything that is on disk. Blocking.
fn open(options: &Options) -> Result<(Engine, store::DirectoryLock)> {
    options.check()?;
    let lock = store::lock(&options.data_dir)?;
    store::begin(&options.data_dir)?;
    let vault = Vault::open_or_create(&options.data_dir, &options.unlock)?;
    let checked = store::pages::check(&options.data_dir)?;
    let db = store::open(&options.data_dir)?;
    if !checked.complete {
        store::check_structure(&db, &options.data_dir)?;
    }
    let pages = checked.begin(&db)?;
    let mut engine = Engine::open(
        db,
        vault,
        clock::generator()?,
        settings(options),
        clock::wall(),
    )?;
    engine.guard(pages);
    engine.load_due()?;
    store::begun(&options.data_dir)?;
    Ok((engine, lock))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?
}

impl Node {
    /// Sets a node up step by step; every step has a default.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Makes the data directory and its first account, without starting a node.
    ///
    /// # Errors
    /// `Unavailable` when a daemon holds the directory, `Exists` when it has an account already,
    /// `Storage` when it cannot be written.
    pub async fn init(options: &Options, name: &str) -> Result<NewAccountView> {
        let (options, name) = (options.clone(), name.to_owned());
        blocking(move || {
            let (mut engine, _lock) = open(&options)?;
            if engine.has_accounts() {
                return Err(Error::new(
                    ErrorKind::Exists,
                    "this data directory has an account already: add another with `pumasi account add`",
                )
                .with("accounts", serde_json::json!(engine.account_views())));
            }
            let (sender, receiver) = std::sync::mpsc::channel();
            let call = Engine::call(
                move |engine| engine.create_account(&name),
                move |result| {
                    let _ = sender.send(result);
                },
            );
            for effect in engine.step(vec![call], clock::wall())? {
                if let crate::engine::Effect::Reply(reply) = effect {
                    reply();
                }
            }
            engine.checkpoint(true)?;
            receiver
                .try_recv()
                .map_err(|_| Error::new(ErrorKind::Internal, "the account was not made"))?
        })
        .await
    }

    /// Starts a node: opens or makes the data directory, starts engine and network.
    ///
    /// # Errors
    /// `Unavailable` when another daemon holds the directory or an address is taken, `Invalid` for
    /// options that cannot work, `NotPermitted` for a wrong passphrase, `Storage` when the directory
    /// cannot be used.
    pub async fn start(options: Options) -> Result<Self> {
        let for_engine = options.clone();
        let (engine, lock) = blocking(move || open(&for_engine)).await?;
        let id = engine.me();
        let config = Config {
            secret: engine.node_secret().0,
            network: options.network.clone(),
            listen: options.listen.clone(),
            mdns: options.mdns,
            small: options.newcomers < COMMUNITY_NEWCOMERS,
            agent: concat!("pumasi/", env!("CARGO_PKG_VERSION")).into(),
            max_frame: FRAME_MAX,
            blocked: engine
                .blocked_nodes()
                .into_iter()
                .map(|node| node.0)
                .collect(),
            // What is found on the local network has private addresses.
            allow_private: options.local || options.mdns,
        };
        let (network, events) = Network::start(config)
            .await
            .map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))?;
        let readers = (0..READERS)
            .map(|_| store::open_reader(&options.data_dir).map(Mutex::new))
            .collect::<Result<_>>()?;
        let (sender, inputs) = mpsc::channel(INPUTS);
        let (seen, seen_by_handles) = watch::channel(engine.last_event());
        let (checking, checking_by_handles) = watch::channel(engine.checking());
        let (failure, failure_by_handles) = watch::channel(None);
        let tickets = Arc::new(SharedTickets::default());
        driver::spawn_engine(
            engine,
            lock,
            options.data_dir.clone(),
            Some(network.clone()),
            Outcome {
                events: seen,
                checking,
                failure,
            },
            inputs,
            Arc::clone(&tickets),
        )
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        tokio::spawn(driver::carry(
            network.clone(),
            events,
            sender.clone(),
            tickets,
        ));
        tokio::spawn(driver::tick(sender.clone()));
        let node = Self {
            inner: Arc::new(Inner {
                id,
                options,
                engine: sender,
                network,
                readers,
                next_reader: AtomicUsize::new(0),
                events: seen_by_handles,
                checking: checking_by_handles,
                failure: failure_by_handles,
                stopping: AtomicBool::new(false),
                started: Instant::now(),
            }),
        };
        let addresses = node.addresses();
        node.input(Input::Addresses(addresses)).await?;
        node.ask(|engine| engine.ready_event()).await?;
        Ok(node)
    }

    /// Stops it: sessions are closed, the store is written back. Handles left over answer
    /// `Unavailable`.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.network.shutdown().await;
        let (done, stopped) = oneshot::channel();
        if self.inner.engine.send(Message::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }

    /// Waits until the node stops by itself because its store failed, and says why. Never returns
    /// while the node is well.
    pub async fn failed(&self) -> Error {
        let mut failure = self.inner.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(error) => error
                .clone()
                .unwrap_or_else(|| Error::new(ErrorKind::Internal, "the engine stopped")),
            Err(_) if self.inner.stopping.load(Ordering::Acquire) => std::future::pending().await,
            // The thread ended and nobody asked for it: a bug, told as such.
            Err(_) => Error::new(ErrorKind::Internal, "the engine stopped unexpectedly"),
        }
    }

    /// Addresses to tell others: those announced, else those listened on.
    fn addresses(&self) -> Vec<String> {
        if !self.inner.options.announce.is_empty() {
            return self.inner.options.announce.clone();
        }
        let loopback =
            |address: &String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
        let mut addresses = self.inner.network.listening();
        if !self.inner.options.local {
            addresses.retain(|address| !loopback(address));
        }
        addresses
    }

    async fn input(&self, input: Input) -> Result<()> {
        match tokio::time::timeout(QUEUE_WITHIN, self.inner.engine.send(Message::Input(input)))
            .await
        {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(Error::new(
                ErrorKind::Busy,
                "the node has too much to do: try again in a moment",
            )),
        }
    }

    fn gone(&self) -> Error {
        match &*self.inner.failure.borrow() {
            Some(error) => Error::new(
                ErrorKind::Unavailable,
                format!("the node has stopped because its store failed: {error}"),
            ),
            None => Error::new(ErrorKind::Unavailable, "the node is stopping"),
        }
    }

    /// Runs something on the engine; the answer comes after its commit. Cancelling the call does not
    /// undo it.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let call = Engine::call(work, move |result| {
            let _ = sender.send(result);
        });
        self.input(call).await?;
        receiver.await.map_err(|_| self.gone())?
    }

    /// The same for what signs: an account that was just started is compared with its keepers first,
    /// which takes a moment and is waited for.
    pub(crate) async fn ask_to_sign<T: Send + 'static>(
        &self,
        account: AccountId,
        work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut checking = self.inner.checking.clone();
        // Not in time, or the engine is gone: the call itself says so.
        let _ = tokio::time::timeout(
            CHECKED_WITHIN,
            checking.wait_for(|accounts| !accounts.contains(&account)),
        )
        .await;
        self.ask(work).await
    }

    /// Runs something on a read-only connection.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let next = inner.next_reader.fetch_add(1, Ordering::Relaxed);
            let reader = inner
                .readers
                .get(next % READERS)
                .ok_or_else(|| Error::new(ErrorKind::Internal, "there is no reader"))?;
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            work(&reader)
        })
        .await
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// What this node is and where it can be reached.
    #[must_use]
    pub fn info(&self) -> NodeView {
        let options = &self.inner.options;
        let peer = self.inner.id.0;
        NodeView {
            id: self.inner.id.to_string(),
            peer_id: peer_text(peer),
            version: env!("CARGO_PKG_VERSION").into(),
            network: options.network.clone(),
            addresses: self
                .addresses()
                .iter()
                .map(|address| address_with_peer(address, peer))
                .collect(),
            operator: options.operator.clone(),
            building: options.building.clone(),
            keeps_for_contacts: options.keep_for_contacts,
            newcomers: options.newcomers,
        }
    }

    /// One look at everything.
    ///
    /// # Errors
    /// `Unavailable` when the node is stopping.
    pub async fn status(&self) -> Result<StatusView> {
        let node = self.info();
        let uptime = self.inner.started.elapsed().as_secs();
        let (bytes_in, bytes_out) = self.traffic();
        self.ask(move |engine| engine.status(node, uptime, bytes_in, bytes_out))
            .await
    }

    /// What would be left if a building burned now, for every account of this node.
    ///
    /// # Errors
    /// `Invalid` for an empty name.
    pub async fn drill(&self, building: &str) -> Result<crate::view::DrillView> {
        let building = building.to_owned();
        self.ask(move |engine| engine.drill(&building)).await
    }

    /// Bytes of frames since the start: received, sent.
    fn traffic(&self) -> (u64, u64) {
        let counters = self.inner.network.counters();
        (counters.bytes_in, counters.bytes_out)
    }

    /// Whether the engine answers, the store takes writes, and every account was compared with its
    /// keepers since the start. A node whose accounts have no keepers is ready without peers.
    ///
    /// # Errors
    /// `Unavailable` when it is stopping, `Busy` when it cannot keep up, `Checking` while an account
    /// is being compared.
    pub async fn ready(&self) -> Result<()> {
        self.ask(|engine| {
            engine.probe()?;
            Ok(engine.all_checked())
        })
        .await?
    }

    /// Makes an account with fresh words, which are in the answer and nowhere else.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` for the name, `Exists` when it is taken.
    pub async fn create_account(&self, name: &str) -> Result<NewAccountView> {
        let name = name.to_owned();
        self.ask(move |engine| engine.create_account(&name)).await
    }

    /// The accounts on this node, by name.
    ///
    /// # Errors
    /// `Unavailable` when the node is stopping.
    pub async fn accounts(&self) -> Result<Vec<AccountView>> {
        self.ask(|engine| Ok(engine.account_views())).await
    }

    /// An account by id or name; without one, the only account.
    ///
    /// # Errors
    /// `NotFound`, or `Ambiguous` when several are here and none was named.
    pub async fn account(&self, which: Option<&str>) -> Result<Account> {
        let which = which.map(str::to_owned);
        let id = self
            .ask(move |engine| engine.find_account(which.as_deref()))
            .await?;
        Ok(Account::new(self.clone(), id))
    }

    /// Other nodes that are known or connected.
    ///
    /// # Errors
    /// `Unavailable` when the node is stopping.
    pub async fn peers(&self) -> Result<Vec<PeerView>> {
        self.ask(|engine| engine.peer_views()).await
    }

    /// Connects to a multiaddress, with or without `/p2p/...` at its end. Returns at once.
    ///
    /// # Errors
    /// `Invalid` when it is not an address that can be dialled.
    pub async fn connect(&self, address: &str) -> Result<()> {
        let address = address.trim().to_owned();
        self.inner.network.connect_address(address.clone()).map_err(|error| match error {
            pumasi_network::AddressError::Invalid => Error::invalid(format!(
                "`{address}` is not an address that can be dialled: write it like /ip4/192.0.2.1/udp/4040/quic-v1"
            )),
            pumasi_network::AddressError::Busy => Error::new(ErrorKind::Busy, error.to_string()),
        })?;
        if pumasi_network::parse_address(&address).is_some() {
            self.ask(move |engine| {
                engine.connect_address(address);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Ends the session with a node. It may come back by itself; block it to prevent that.
    ///
    /// # Errors
    /// `Invalid` for a wrong id, `NotFound` for an unknown node.
    pub async fn disconnect(&self, node: &str) -> Result<()> {
        let node = node_id(node)?;
        self.ask(move |engine| {
            engine.refuse_unknown(&node)?;
            engine.disconnect(node);
            Ok(())
        })
        .await
    }

    /// Blocks a node, or lets it in again.
    ///
    /// # Errors
    /// `Invalid` for a wrong id or this node itself.
    pub async fn block_node(&self, node: &str, blocked: bool) -> Result<()> {
        let node = node_id(node)?;
        self.ask(move |engine| engine.block_node(node, blocked))
            .await
    }

    /// Mailboxes kept for others.
    ///
    /// # Errors
    /// `Storage` when the store cannot be read.
    pub async fn keeping(&self) -> Result<Vec<KeptView>> {
        self.read(read::keeping).await
    }

    /// A copy of the database as it is now, in a file that nobody else can open. The daemon goes on
    /// meanwhile.
    pub(crate) async fn backup(&self) -> Result<std::fs::File> {
        let directory = self.inner.options.data_dir.clone();
        blocking(move || {
            let part = directory.join("backup.part");
            let file = backup::copy(&directory, &part).and_then(|()| {
                std::fs::File::open(&part).map_err(|error| {
                    Error::new(
                        ErrorKind::Storage,
                        format!("cannot read {}: {error}", part.display()),
                    )
                })
            });
            let _ = std::fs::remove_file(&part);
            file
        })
        .await
    }

    /// Events after a sequence number, oldest first.
    ///
    /// # Errors
    /// `NotFound` with the detail `oldest` when `since` is before what is still kept.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<EventView>> {
        self.read(move |db| read::events(db, &query)).await
    }

    /// The highest event sequence number.
    #[must_use]
    pub fn last_event(&self) -> u64 {
        *self.inner.events.borrow()
    }

    /// Changes whenever events were added: the highest sequence number.
    #[must_use]
    pub fn watch_events(&self) -> watch::Receiver<u64> {
        self.inner.events.clone()
    }

    /// A stream of events that remembers, under a name, what was acknowledged: after a restart it
    /// goes on behind the last acknowledged one, so every event is seen at least once.
    ///
    /// # Errors
    /// `Invalid` for an empty or long name.
    pub async fn subscribe(&self, name: &str) -> Result<Events> {
        Events::open(self.clone(), name, None).await
    }
}

fn node_id(text: &str) -> Result<NodeId> {
    text.trim()
        .parse()
        .map_err(|error: pumasi_protocol::types::ParseError| Error::invalid(error.to_string()))
}

fn parse_message(text: &str) -> Result<MessageId> {
    text.trim()
        .parse()
        .map_err(|error: pumasi_protocol::types::ParseError| Error::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_engine_that_ends_unasked_is_told_as_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let node = Node::builder()
            .data_dir(directory.path())
            .stands_in("pangyo", "hana")
            .listen(["/ip4/127.0.0.1/tcp/0"])
            .start()
            .await
            .unwrap();
        node.input(Input::Call(Box::new(|_| panic!("a bug"))))
            .await
            .unwrap();
        let error = node.failed().await;
        assert!(error.to_string().contains("stopped"), "{error}");
        let refused = node.create_account("hana").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
    }
}
