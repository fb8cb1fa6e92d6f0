//! The one owner of the store. Takes inputs, applies the rules of `pumasi_protocol`, commits, and only
//! then gives out effects. Synchronous: no network, no clock, no task lives here; the simulator and
//! the daemon run this same file.

mod accounts;
mod acknowledging;
mod agreement;
mod archiving;
mod auditing;
mod bundling;
mod cleaning;
mod contacts;
mod deleting;
mod drilling;
mod events;
mod idempotency;
mod incoming;
mod keepers;
mod keeping;
mod level;
mod locating;
mod money;
mod nodes;
mod outbox;
mod outgoing;
mod overview;
mod peers;
mod proofs;
mod questions;
mod rebuilding;
mod reconciling;
mod repair;
mod replacing;
mod restoring;
mod resuming;
mod segmenting;
mod sets;
mod shelving;
mod statements;
#[cfg(test)]
mod tests;
mod ticking;
mod types;

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::archive::CheckedVolume;
use pumasi_protocol::codec;
use pumasi_protocol::crypto::{Secret, SigningKey};
use pumasi_protocol::line::Line;
use pumasi_protocol::types::{AccountId, EnvelopeId, LineId, NodeId, Time};
use pumasi_protocol::wire::Frame;
use rand::Rng as _;
use rand::rngs::StdRng;
use rusqlite::Connection;

use crate::check::Arrival;
use crate::error::{Error, ErrorKind, Result};
use crate::store::pages::Pages;
use crate::vault::Vault;

use contacts::Contact;
use keeping::Kept;
use peers::{Asked, Peer};
pub(crate) use types::{Own, Settings, blob, one, secret_row};

/// Something that happened outside.
pub(crate) enum Input {
    /// A call of the embedding program or the API. It answers by the closure it returns, which runs
    /// after the commit.
    Call(Box<dyn FnOnce(&mut Engine) -> Reply + Send>),
    /// A session with a node is open.
    Connected(NodeId),
    /// The session ended.
    Disconnected(NodeId),
    /// A node could not be reached.
    Unreachable(NodeId),
    /// A checked frame.
    Frame(NodeId, Box<Arrival>),
    /// A node record by gossip; answered by [`Effect::Judge`].
    Gossip(u64, std::result::Result<Box<Arrival>, ()>),
    /// Own addresses, as others may dial them.
    Addresses(Vec<String>),
    /// Time passed.
    Tick,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(_) => f.write_str("Call"),
            Self::Connected(node) => write!(f, "Connected({node:?})"),
            Self::Disconnected(node) => write!(f, "Disconnected({node:?})"),
            Self::Unreachable(node) => write!(f, "Unreachable({node:?})"),
            Self::Frame(node, arrival) => write!(f, "Frame({node:?}, {arrival:?})"),
            Self::Gossip(ticket, _) => write!(f, "Gossip({ticket})"),
            Self::Addresses(list) => write!(f, "Addresses({list:?})"),
            Self::Tick => f.write_str("Tick"),
        }
    }
}

/// The answer of a call; runs after the commit.
pub(crate) type Reply = Box<dyn FnOnce() + Send>;

/// Something to do outside, released only after the commit.
pub(crate) enum Effect {
    /// Hand a frame to a connected node.
    Send(NodeId, Vec<u8>),
    /// Try to reach a node.
    Connect(NodeId, Vec<String>),
    /// Try to reach an address whose node is not known yet.
    ConnectAddress(String),
    /// End the session with a node, and refuse new ones while it is blocked.
    Block(NodeId, bool),
    /// End the session with a node.
    Disconnect(NodeId),
    /// Nodes whose sessions must not be trimmed.
    Pin(Vec<NodeId>),
    /// Publish the own node record.
    Publish(Vec<u8>),
    /// What became of a gossiped record: `None` when it was known already.
    Judge(u64, Option<bool>),
    /// Answer a call.
    Reply(Reply),
    /// Accounts that are still compared with their keepers; told when it changes.
    Checking(Vec<AccountId>),
    /// New events; the highest sequence number.
    Events(u64),
}

impl std::fmt::Debug for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Send(node, bytes) => write!(f, "Send({node:?}, {} bytes)", bytes.len()),
            Self::Connect(node, _) => write!(f, "Connect({node:?})"),
            Self::ConnectAddress(address) => write!(f, "ConnectAddress({address})"),
            Self::Block(node, on) => write!(f, "Block({node:?}, {on})"),
            Self::Disconnect(node) => write!(f, "Disconnect({node:?})"),
            Self::Pin(nodes) => write!(f, "Pin({nodes:?})"),
            Self::Publish(bytes) => write!(f, "Publish({} bytes)", bytes.len()),
            Self::Judge(ticket, verdict) => write!(f, "Judge({ticket}, {verdict:?})"),
            Self::Reply(_) => f.write_str("Reply"),
            Self::Checking(list) => write!(f, "Checking({list:?})"),
            Self::Events(seq) => write!(f, "Events({seq})"),
        }
    }
}

/// What one step gathers before it ends.
#[derive(Default)]
struct Step {
    effects: Vec<Effect>,
    replies: Vec<Reply>,
    /// Stored for a mailbox, to be signed for in one receipt per bringer and mailbox.
    custody: BTreeMap<(NodeId, AccountId), Vec<(EnvelopeId, Time)>>,
    /// Reached an own device, to be acknowledged in one statement per account and sender.
    delivered: BTreeMap<(AccountId, AccountId), Vec<EnvelopeId>>,
    /// Lines with IOUs to answer.
    answers: BTreeSet<(AccountId, LineId)>,
    /// Envelopes sealed in this step, by node, so that they need not be read back to be sent.
    fresh: BTreeMap<NodeId, Vec<outgoing::Parcelled>>,
    dirty_contacts: BTreeSet<(AccountId, AccountId)>,
    dirty_conversations: BTreeSet<(AccountId, AccountId)>,
    dirty_lines: BTreeSet<(AccountId, LineId)>,
    dirty_kept: BTreeSet<AccountId>,
    dirty_ratchets: BTreeSet<AccountId>,
    /// What own accounts learned: written as pages of their archives.
    archive: BTreeMap<AccountId, archiving::Pending>,
    dirty_archives: BTreeSet<AccountId>,
    /// What an archive has at this volume and page is told again: no events, nothing to archive.
    quiet: Option<(u64, u64)>,
    /// `Resume` entries of contacts that were applied, to be answered.
    resumed: Vec<(AccountId, AccountId, pumasi_protocol::line::Entry)>,
    /// The call that makes the next own entry.
    call: Option<pumasi_protocol::archive::Call>,
    /// Its row among the idempotency keys.
    call_row: Option<i64>,
    events: bool,
    /// An account may sign now, or never again.
    levels: bool,
}

/// The engine. One per node; whoever calls [`Engine::step`] owns it.
pub(crate) struct Engine {
    db: Connection,
    /// Checksums of the pages on disk; none where there is no disk to mistrust.
    pages: Option<Pages>,
    vault: Vault,
    rng: StdRng,
    me: NodeId,
    key: SigningKey,
    settings: Settings,
    now: Time,
    /// Own accounts.
    accounts: BTreeMap<AccountId, Own>,
    /// Contacts that were used lately; the rest is in the store.
    contacts: BTreeMap<(AccountId, AccountId), Contact>,
    /// Lines that were used lately.
    lines: BTreeMap<(AccountId, LineId), Line>,
    /// Accounts that are being restored here.
    restoring: BTreeMap<AccountId, restoring::Restoring>,
    /// Mailboxes kept here that were used lately.
    kept: BTreeMap<AccountId, Kept>,
    /// Heads of archive volumes that were used lately.
    volumes: BTreeMap<(AccountId, u64), Vec<CheckedVolume>>,
    peers: BTreeMap<NodeId, Peer>,
    /// Questions that wait for an answer.
    asked: BTreeMap<u64, Asked>,
    next_request: u64,
    /// Envelopes passed on for someone: who wants the receipt.
    relays: BTreeMap<EnvelopeId, NodeId>,
    /// When something is due.
    due: peers::Due,
    /// The highest event sequence number.
    last_event: u64,
    step: Step,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

/// Contacts, lines, mailboxes and volumes held in memory at most; beyond, the caches are emptied.
const CACHE_MAX: usize = 20_000;

impl Engine {
    /// Loads what the store holds.
    ///
    /// # Errors
    /// `Storage` when it cannot be read, or was sealed under another key.
    pub(crate) fn open(
        db: Connection,
        vault: Vault,
        rng: StdRng,
        settings: Settings,
        now: Time,
    ) -> Result<Self> {
        let mut engine = Self {
            db,
            pages: None,
            vault,
            rng,
            me: NodeId([0; 32]),
            key: SigningKey::from_seed(&[0; 32]),
            settings,
            now,
            accounts: BTreeMap::new(),
            contacts: BTreeMap::new(),
            lines: BTreeMap::new(),
            restoring: BTreeMap::new(),
            kept: BTreeMap::new(),
            volumes: BTreeMap::new(),
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_request: 1,
            relays: BTreeMap::new(),
            due: peers::Due::default(),
            last_event: 0,
            step: Step::default(),
        };
        engine.load_node_key()?;
        engine.load_accounts()?;
        engine.load_failed_keepers()?;
        engine.load_last_event()?;
        engine.peers.insert(engine.me, Peer::myself());
        engine.due.start(now);
        Ok(engine)
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// The node's secret seed, for the network.
    pub(crate) fn node_secret(&self) -> Secret {
        self.key.seed()
    }

    /// The time of the step under way.
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// One step: all inputs in one transaction, then the effects.
    ///
    /// # Errors
    /// Only when the store failed: the outcome of the transaction is unknown, nothing may be
    /// answered, the node must stop.
    pub(crate) fn step(&mut self, inputs: Vec<Input>, now: Time) -> Result<Vec<Effect>> {
        self.now = self.now.max(now);
        self.step = Step::default();
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for input in inputs {
            self.input(input)?;
        }
        self.finish()?;
        if self.due.broken {
            return Err(Error::new(
                ErrorKind::Storage,
                "a call failed half-way; nothing was committed",
            ));
        }
        self.db.prepare_cached("COMMIT")?.execute([])?;
        let mut step = std::mem::take(&mut self.step);
        if step.levels {
            step.effects.push(Effect::Checking(self.checking()));
        }
        if step.events {
            step.effects.push(Effect::Events(self.last_event));
        }
        step.effects
            .extend(step.replies.into_iter().map(Effect::Reply));
        let cached = self.contacts.len() + self.lines.len() + self.kept.len() + self.volumes.len();
        if cached > CACHE_MAX {
            self.contacts.clear();
            self.lines.clear();
            self.kept.clear();
            self.volumes.clear();
        }
        Ok(step.effects)
    }

    fn input(&mut self, input: Input) -> Result<()> {
        let changes = self.db.total_changes();
        let result = match input {
            Input::Call(call) => {
                let reply = call(self);
                self.step.replies.push(reply);
                Ok(())
            }
            Input::Connected(node) => self.connected(node),
            Input::Disconnected(node) => {
                self.disconnected(node);
                Ok(())
            }
            Input::Unreachable(node) => {
                self.unreachable(node);
                Ok(())
            }
            Input::Frame(node, arrival) => self.frame(node, *arrival),
            Input::Gossip(ticket, arrival) => self.gossip(ticket, arrival),
            Input::Addresses(addresses) => self.own_addresses(addresses),
            Input::Tick => self.tick(),
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Storage => Err(error),
            Err(error) => {
                // A refusal comes before the first change; anything else is a bug that must not be
                // committed.
                if self.db.total_changes() != changes {
                    return Err(Error::new(
                        ErrorKind::Storage,
                        format!("an input was refused half-way ({error}); nothing was committed"),
                    ));
                }
                tracing::debug!(%error, "input refused");
                Ok(())
            }
        }
    }

    /// Everything that is done once per step: answers to IOUs, acknowledgements, receipts, writing
    /// back what changed in memory.
    fn finish(&mut self) -> Result<()> {
        self.answer_ious()?;
        self.acknowledge_delivered()?;
        for (account, contact) in self.step.dirty_contacts.clone() {
            self.archive_contact(account, contact)?;
        }
        self.write_pages()?;
        self.flush_fresh()?;
        self.sign_custody()?;
        self.send_along()?;
        let whole = std::mem::take(&mut self.step.dirty_contacts);
        for pair in std::mem::take(&mut self.step.dirty_conversations) {
            if !whole.contains(&pair) {
                self.store_conversation(pair.0, pair.1)?;
            }
        }
        for (account, contact) in whole {
            self.store_contact(account, contact)?;
        }
        for (account, line) in std::mem::take(&mut self.step.dirty_lines) {
            self.store_line(account, line)?;
        }
        for mailbox in std::mem::take(&mut self.step.dirty_kept) {
            self.store_kept(mailbox)?;
        }
        for account in std::mem::take(&mut self.step.dirty_ratchets) {
            self.store_ratchet(account)?;
        }
        for account in std::mem::take(&mut self.step.dirty_archives) {
            self.store_archive(account)?;
        }
        Ok(())
    }

    /// Runs what a call wants and answers after the commit. Refusals answer too; a store failure is
    /// not answered: the node stops.
    pub(crate) fn call<T: Send + 'static>(
        work: impl FnOnce(&mut Self) -> Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Input {
        Input::Call(Box::new(move |engine| {
            let changes = engine.db.total_changes();
            let result = work(engine);
            let broken = match &result {
                Err(error) if error.kind() == ErrorKind::Storage => true,
                Err(_) => engine.db.total_changes() != changes,
                Ok(_) => false,
            };
            if broken {
                engine.due.broken = true;
            }
            Box::new(move || answer(result))
        }))
    }

    /// 32 random bytes.
    fn random(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// A 24-byte nonce.
    fn nonce(&mut self) -> [u8; 24] {
        let mut bytes = [0; 24];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// Seals a secret for a table row.
    fn seal_secret(&mut self, table: &str, row: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let nonce = self.nonce();
        self.vault.seal(table, row, nonce, plaintext)
    }

    /// Queues a frame for a node, after the commit.
    fn send(&mut self, node: NodeId, frame: &Frame) {
        self.step
            .effects
            .push(Effect::Send(node, codec::encode(frame)));
    }

    /// An account of this node.
    fn own(&self, account: &AccountId) -> Result<&Own> {
        self.accounts
            .get(account)
            .ok_or_else(|| Error::not_found(format!("account {account} is not on this node")))
    }

    /// From now on, checkpoints keep these checksums.
    pub(crate) fn guard(&mut self, pages: Pages) {
        self.pages = Some(pages);
    }

    /// Looks at some pages of the database on disk.
    ///
    /// # Errors
    /// `Storage` when one was damaged: the node must stop.
    pub(crate) fn scrub(&mut self, pages: u32) -> Result<()> {
        self.pages.as_mut().map_or(Ok(()), |sums| sums.scrub(pages))
    }

    /// Writes the WAL back into the database when it has grown; on a clean stop, all of it.
    ///
    /// # Errors
    /// `Storage` when that fails: the node must stop.
    pub(crate) fn checkpoint(&mut self, stop: bool) -> Result<()> {
        if let Some(pages) = &mut self.pages {
            if !stop && !pages.is_due(&self.db)? {
                return Ok(());
            }
            return pages.checkpoint(&self.db, stop);
        }
        let mode = if stop { "TRUNCATE" } else { "PASSIVE" };
        self.db
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))?;
        Ok(())
    }
}
