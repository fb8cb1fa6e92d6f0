//! Sessions with other nodes, and the small state that is rebuilt after a restart.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::archive::Mark;
use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::envelope::SealName;
use pumasi_protocol::record::{CheckedRecord, RecordVersion};
use pumasi_protocol::types::{AccountId, EnvelopeId, Hash, MessageId, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Frame, Request, Set};
use rand::Rng as _;
use rusqlite::params;

use super::outgoing::WINDOW;
use super::sets::Sets;
use super::shelving::Shelf;
use super::{Effect, Engine, blob, one};
use crate::error::Result;

/// Retries of a connection: full jitter between 0 and this, doubling (design: 0.5 s to 60 s).
const BACKOFF_FIRST: u64 = SECOND / 2;
pub(super) const BACKOFF_MAX: u64 = 60 * SECOND;
/// Refused envelopes that may be taken later are tried again after this long.
const RETRY_REFUSED: u64 = 5 * SECOND;
/// Envelopes that a node may bring per second; beyond, it hears "busy" and tries again.
const BROUGHT_PER_SECOND: u32 = 20_000;
/// Envelopes with a wrong tag, shape or capability that a node may bring per second; beyond, the
/// session ends (Tor and Lighthouse cut off peers that cost more than they bring, too).
const BAD_PER_SECOND: u32 = 1_000;
/// Seal keys, and heads of volumes, remembered per session.
const SEALS_REMEMBERED: usize = 4_096;

/// What this node knows of a session with another.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) connected: bool,
    /// Envelopes handed over and not answered, with their outbox rows.
    pub(super) inflight: BTreeMap<EnvelopeId, i64>,
    /// Statements handed over and not noted.
    pub(super) noting: BTreeMap<Hash, i64>,
    /// Outbox rows up to this one were handed over in this session.
    pub(super) cursor: i64,
    /// There may be rows beyond the cursor.
    pub(super) backlog: bool,
    /// Seal keys that the node was given in this session.
    pub(super) seals: BTreeSet<SealName>,
    /// Heads of archive volumes that the node was given in this session.
    pub(super) volumes: BTreeSet<(AccountId, u64)>,
    /// When something was last answered.
    pub(super) progress: Time,
    /// Envelopes it brought in the running second, and those of them that were not admitted.
    rate: Rate,
    /// When to try refused envelopes again.
    pub(super) retry_at: Option<Time>,
    /// Somebody wants a session with it.
    pub(super) wanted: bool,
    pub(super) dialing: bool,
    pub(super) attempts: u32,
    pub(super) next_try: Time,
}

/// What a node brought lately.
#[derive(Debug, Default)]
struct Rate {
    second: u64,
    brought: u32,
    bad: u32,
}

impl Peer {
    /// Counts an envelope; false when the node brings too many.
    pub(super) fn may_bring(&mut self, now: Time) -> bool {
        let second = now.0 / SECOND;
        if self.rate.second != second {
            self.rate = Rate {
                second,
                brought: 0,
                bad: 0,
            };
        }
        self.rate.brought = self.rate.brought.saturating_add(1);
        self.rate.brought <= BROUGHT_PER_SECOND
    }

    /// Counts an envelope that was not admitted; true when the session should end.
    pub(super) fn brought_bad(&mut self) -> bool {
        self.rate.bad = self.rate.bad.saturating_add(1);
        self.rate.bad > BAD_PER_SECOND
    }

    /// This node as its own peer: frames to itself come straight back.
    pub(super) fn myself() -> Self {
        Self {
            connected: true,
            backlog: true,
            ..Self::default()
        }
    }

    /// Whether the node has a seal key; it is counted as given from now on.
    pub(super) fn knows_seal(&mut self, name: SealName) -> bool {
        if self.seals.len() >= SEALS_REMEMBERED {
            self.seals.clear();
        }
        !self.seals.insert(name)
    }

    pub(super) fn retry_refused(&mut self, now: Time) {
        self.retry_at.get_or_insert(now.plus(RETRY_REFUSED));
    }

    /// Everything in the outbox is to be handed over again.
    pub(super) fn start_over(&mut self, now: Time) {
        self.inflight.clear();
        self.noting.clear();
        self.seals.clear();
        self.volumes.clear();
        self.cursor = 0;
        self.backlog = true;
        self.progress = now;
        self.retry_at = None;
    }
}

/// Why a question was asked.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// Will you keep for this account?
    Keep(AccountId),
    /// A keeper is told a record.
    TellKeeper(AccountId, RecordVersion),
    /// How many one-time keys does a keeper hold?
    Stock(AccountId),
    /// Keys of a contact.
    Keys(AccountId, AccountId),
    /// Which nodes do you know?
    Nodes,
    /// Are these mailboxes the same? Which pages were there when it was asked.
    Compare(AccountId, Shelf),
    /// A step of reconciliation; of a repair's round, or 0.
    Reconcile(AccountId, Set, u64, Time),
    /// Does a keeper still hold a page? The right answer.
    Audit(AccountId, Hash),
    /// Missing things were asked for.
    Fetch,
    /// Nothing hangs on the answer.
    Release,
    /// How far does this keeper know the archive?
    Head(AccountId),
    /// Where are the keepers of an account that is being restored?
    Locate(AccountId),
    /// Which record of it do you have?
    Find(AccountId),
    /// Its new device, which this keeper must accept before it is read.
    Fence(AccountId),
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) node: NodeId,
    pub(super) purpose: Purpose,
    pub(super) until: Time,
}

/// How far back a mailbox is compared with a node: all of it at first, then what is recent, and all
/// of it again when that does not explain a difference.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// When it was compared last.
    pub(super) compared: Time,
    /// When all was compared.
    pub(super) full: Time,
    /// Something was found in the round under way.
    pub(super) found: bool,
    /// The last round found nothing, though the digests differed.
    pub(super) fruitless: bool,
}

/// What is due when, and small state that is rebuilt after a restart.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Own addresses, as others may dial them.
    pub(super) addresses: Vec<String>,
    /// A call changed something and then failed: the step must not be committed.
    pub(super) broken: bool,
    /// Sendings under way per account.
    pub(super) under_way: BTreeMap<AccountId, u64>,
    /// What is known of messages by now and not archived yet; lost in a crash, it is found out again.
    pub(super) later: BTreeMap<AccountId, BTreeMap<MessageId, Mark>>,
    /// When that is written.
    pub(super) write_later: Time,
    /// Conversations with holes, and when to ask.
    pub(super) holes: BTreeMap<(AccountId, AccountId), Time>,
    /// Contacts to begin a new session with, and when.
    pub(super) resets: BTreeMap<(AccountId, AccountId), Time>,
    /// Envelopes that could not be opened and were not named in a reset yet.
    pub(super) unopened: BTreeMap<(AccountId, AccountId), Vec<EnvelopeId>>,
    /// Digests of own mailboxes' sets.
    pub(super) own_sets: BTreeMap<AccountId, Sets>,
    /// Mailboxes shared with a node: own ones that it keeps, or ones both keep.
    pub(super) sharing: BTreeMap<NodeId, BTreeSet<AccountId>>,
    /// When which mailbox is compared with which node.
    pub(super) compare: BTreeSet<(Time, AccountId, NodeId)>,
    pub(super) compare_at: BTreeMap<(AccountId, NodeId), Time>,
    /// Addresses from account records.
    pub(super) hints: BTreeMap<NodeId, Vec<String>>,
    /// Nodes that refused to keep, and until when they are not asked again.
    pub(super) refusing: BTreeMap<(AccountId, NodeId), Time>,
    /// Keepers being asked now.
    pub(super) asking_keeper: BTreeMap<AccountId, (NodeId, Time)>,
    pub(super) blocked: BTreeSet<NodeId>,
    /// Where the list of known nodes is begun, so that no node is always looked at first.
    pub(super) nodes_from: [u8; 32],
    /// Contacts whose keys are missing, and when to ask again.
    pub(super) wanting_keys: BTreeMap<(AccountId, AccountId), Time>,
    pub(super) keepers: Time,
    pub(super) publish: Time,
    pub(super) clean: Time,
    pub(super) bootstrap: Time,
    pub(super) attest: Time,
    /// How far back mailboxes are compared with which node.
    pub(super) windows: BTreeMap<(AccountId, NodeId), Window>,
    /// New devices of accounts that live here, and were restored elsewhere.
    pub(super) successors: BTreeMap<AccountId, CheckedRecord>,
    /// Restores that ended, until they are begun again.
    pub(super) restored: BTreeMap<AccountId, crate::view::RestoreView>,
    /// Keepers that are gone, and those that take their place.
    pub(super) repairs: super::replacing::Repairs,
    /// Possession audits.
    pub(super) audits: super::auditing::Audits,
    /// What leaves soon, by node.
    pub(super) bundles: BTreeMap<NodeId, super::bundling::Bundle>,
    /// When locators are put again.
    pub(super) locate: Time,
    pub(super) pins: BTreeSet<NodeId>,
}

impl Due {
    pub(super) fn start(&mut self, now: Time) {
        self.clean = now.plus(10 * SECOND);
        self.write_later = Time(u64::MAX);
    }

    pub(super) fn keepers_now(&mut self) {
        self.keepers = Time(0);
    }

    pub(super) fn publish_now(&mut self) {
        self.publish = Time(0);
    }

    pub(super) fn publish_soon(&mut self, now: Time) {
        self.publish = self.publish.min(now.plus(2 * SECOND));
    }
}

impl Engine {
    /// Rebuilds what is not stored as such.
    pub(crate) fn load_due(&mut self) -> Result<()> {
        let records: Vec<Vec<u8>> = self
            .db
            .prepare("SELECT record FROM contacts UNION ALL SELECT record FROM kept")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for record in records {
            if let Some(record) = codec::decode(&record)
                .ok()
                .and_then(|signed| CheckedRecord::check(signed).ok())
            {
                self.hint(&record);
            }
        }
        let kept: Vec<[u8; 32]> = self
            .db
            .prepare("SELECT mailbox FROM kept")?
            .query_map([], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for mailbox in kept {
            if let Some(record) = self.kept_record(&AccountId(mailbox))? {
                self.share(&record);
            }
        }
        let own: Vec<CheckedRecord> = self
            .accounts
            .values()
            .map(|own| own.record.clone())
            .collect();
        for record in own {
            self.hint(&record);
            self.share(&record);
            let sets = self.load_sets(&record.account())?;
            self.due.own_sets.insert(record.account(), sets);
        }
        let counts: Vec<([u8; 32], u64)> = self
            .db
            .prepare("SELECT account, count(*) FROM outgoing GROUP BY account")?
            .query_map([], |row| Ok((blob(row, 0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        self.due.under_way = counts
            .into_iter()
            .map(|(id, count)| (AccountId(id), count))
            .collect();
        let blocked: Vec<[u8; 32]> = self
            .db
            .prepare("SELECT node FROM blocked_nodes")?
            .query_map([], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        self.due.blocked = blocked.into_iter().map(NodeId).collect();
        let nodes: Vec<[u8; 32]> = self
            .db
            .prepare("SELECT DISTINCT node FROM outbox")?
            .query_map([], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        // Also those who share mailboxes with this node: they may have given up dialling it for now.
        let sharing = self.due.sharing.keys().copied();
        let nodes: BTreeSet<NodeId> = nodes.into_iter().map(NodeId).chain(sharing).collect();
        // No effect can leave from here: the next tick dials.
        for node in nodes {
            if node != self.me && !self.due.blocked.contains(&node) {
                self.peers.entry(node).or_default().wanted = true;
            }
        }
        let unsealed: Vec<([u8; 32], [u8; 32])> = self
            .db
            .prepare("SELECT DISTINCT account, contact FROM outgoing WHERE envelope IS NULL")?
            .query_map([], |row| Ok((blob(row, 0)?, blob(row, 1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (account, contact) in unsealed {
            let pair = (AccountId(account), AccountId(contact));
            self.due.wanting_keys.insert(pair, Time(0));
        }
        Ok(())
    }

    /// Remembers which nodes share a mailbox with this one.
    pub(super) fn share(&mut self, record: &CheckedRecord) {
        let account = record.account();
        let keeps = record.keeper(&self.me).is_some();
        let own = record.record.home.node == self.me;
        if !keeps && !own {
            return;
        }
        let mut nodes: Vec<NodeId> = record
            .record
            .keepers
            .iter()
            .map(|keeper| keeper.place.node)
            .collect();
        nodes.push(record.record.home.node);
        for node in nodes {
            if node == self.me {
                continue;
            }
            self.due.sharing.entry(node).or_default().insert(account);
            if self.peers.get(&node).is_some_and(|peer| peer.connected) {
                self.compare_at(account, node, self.now.plus(SECOND));
            }
        }
    }

    /// Schedules a comparison, unless one is due before.
    pub(super) fn compare_at(&mut self, mailbox: AccountId, node: NodeId, at: Time) {
        if let Some(before) = self.due.compare_at.get(&(mailbox, node)).copied() {
            if before <= at {
                return;
            }
            self.due.compare.remove(&(before, mailbox, node));
        }
        self.due.compare_at.insert((mailbox, node), at);
        self.due.compare.insert((at, mailbox, node));
    }

    /// Wants a session with a node; dials as soon as the back-off allows.
    pub(super) fn want(&mut self, node: NodeId) {
        if node == self.me || self.due.blocked.contains(&node) {
            return;
        }
        let now = self.now;
        let peer = self.peers.entry(node).or_default();
        peer.wanted = true;
        if !peer.connected && !peer.dialing && peer.next_try <= now {
            self.dial(node);
        }
    }

    pub(super) fn dial(&mut self, node: NodeId) {
        let addresses = self.addresses(&node);
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        if addresses.is_empty() {
            peer.next_try = now.plus(5 * SECOND);
            return;
        }
        peer.dialing = true;
        self.step.effects.push(Effect::Connect(node, addresses));
    }

    pub(super) fn connected(&mut self, node: NodeId) -> Result<()> {
        let now = self.now;
        let peer = self.peers.entry(node).or_default();
        peer.connected = true;
        peer.dialing = false;
        peer.attempts = 0;
        peer.start_over(now);
        self.due.bundles.remove(&node);
        self.due.windows.retain(|(_, with), _| *with != node);
        let record = self.own_node_record()?;
        self.send(node, &Frame::Hello { record });
        self.ask(node, Request::Nodes, Purpose::Nodes);
        for mailbox in self.due.sharing.get(&node).cloned().unwrap_or_default() {
            self.compare_at(mailbox, node, now.plus(SECOND / 20));
            if self.accounts.contains_key(&mailbox) {
                self.tell_keeper(&mailbox, node)?;
            }
        }
        self.ask_waiting_keepers(node)?;
        self.tick_level()?;
        self.pump(node)?;
        let view = self.peer_view(&node)?;
        self.event(None, "peer.up", &view)
    }

    pub(super) fn disconnected(&mut self, node: NodeId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.connected = false;
        peer.dialing = false;
        peer.start_over(now);
        peer.next_try = now.plus(BACKOFF_FIRST / 5);
        // Whoever opened it: the next tick finds out whether there is a reason to open it again.
        peer.wanted = true;
        self.asked.retain(|_, asked| asked.node != node);
        if let Ok(view) = self.peer_view(&node) {
            let _ = self.event(None, "peer.down", &view);
        }
    }

    pub(super) fn unreachable(&mut self, node: NodeId) {
        let now = self.now;
        let random = self.rng.next_u64();
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.dialing = false;
        peer.attempts = peer.attempts.saturating_add(1);
        let ceiling = (BACKOFF_FIRST << peer.attempts.min(7)).min(BACKOFF_MAX);
        // Full jitter, and never at once.
        peer.next_try = now.plus(100 + random % ceiling);
    }

    /// Sessions now, without this node itself.
    pub(crate) fn sessions(&self) -> BTreeSet<NodeId> {
        self.peers
            .iter()
            .filter(|(node, peer)| peer.connected && **node != self.me)
            .map(|(node, _)| *node)
            .collect()
    }

    /// Continues with a node's queue when its window has room again.
    pub(super) fn pump_soon(&mut self, node: NodeId) -> Result<()> {
        let half = WINDOW / 2;
        let room = self
            .peers
            .get(&node)
            .is_some_and(|peer| peer.inflight.len() < half);
        if room { self.pump(node) } else { Ok(()) }
    }

    /// Hands statements over, in one frame.
    pub(super) fn send_statements(&mut self, node: NodeId, rows: &[(i64, i64)]) -> Result<()> {
        let mut list = Vec::new();
        let mut size = 0;
        for (outbox, statement) in rows {
            let bytes: Option<Vec<u8>> = one(self
                .db
                .prepare_cached("SELECT bytes FROM statements WHERE id = ?1")?
                .query_row(params![statement], |row| row.get(0)))?;
            let signed = bytes.and_then(|bytes| {
                size += bytes.len();
                codec::decode::<Signed<pumasi_protocol::mailbox::Statement>>(&bytes).ok()
            });
            let Some(signed) = signed else {
                self.db
                    .execute("DELETE FROM outbox WHERE id = ?1", params![outbox])?;
                continue;
            };
            let now = self.now;
            if let Some(peer) = self.peers.get_mut(&node) {
                if peer.noting.is_empty() && peer.inflight.is_empty() {
                    peer.progress = now;
                }
                peer.noting.insert(signed.hash(), *outbox);
            }
            list.push(signed);
            if size > pumasi_protocol::wire::BATCH_BYTES / 2 {
                self.send(node, &Frame::Statements(std::mem::take(&mut list)));
                size = 0;
            }
        }
        if !list.is_empty() {
            self.send(node, &Frame::Statements(list));
        }
        Ok(())
    }

    pub(super) fn noted(&mut self, from: NodeId, hashes: &[Hash]) -> Result<()> {
        let now = self.now;
        for hash in hashes {
            let row = self.peers.get_mut(&from).and_then(|peer| {
                let row = peer.noting.remove(hash)?;
                peer.progress = now;
                Some(row)
            });
            if let Some(row) = row {
                self.db
                    .prepare_cached("DELETE FROM outbox WHERE id = ?1")?
                    .execute(params![row])?;
            }
        }
        self.pump_soon(from)
    }
}
