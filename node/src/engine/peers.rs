//! Other nodes: sessions, questions and answers, node records, and everything that is due by time.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::codec;
use pumasi_protocol::crypto::{self, Signed};
use pumasi_protocol::envelope::SealName;
use pumasi_protocol::mailbox::RECONCILE_EVERY;
use pumasi_protocol::record::{ADDRESSES_MAX, CheckedRecord, NodeRecord, Place};
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, Hash, MessageId, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Frame, NODES_MAX, Request, Response, Set, keys_tag_text};
use rand::Rng as _;
use rusqlite::params;

use super::keeping::Sets;
use super::outgoing::WINDOW;
use super::{Effect, Engine, blob, one};
use crate::check::{Arrival, CheckedNode};
use crate::error::{Error, ErrorKind, Result};
use crate::read;

/// Retries of a connection: full jitter between 0 and this, doubling (design: 0.5 s to 60 s).
const BACKOFF_FIRST: u64 = SECOND / 2;
const BACKOFF_MAX: u64 = 60 * SECOND;
/// A question is given up after this long.
const ANSWER_WITHIN: u64 = 15 * SECOND;
/// Envelopes without an answer are sent again after this long without any progress.
const RESEND_AFTER: u64 = 10 * SECOND;
/// Refused envelopes that may be taken later are tried again after this long.
const RETRY_REFUSED: u64 = 5 * SECOND;
/// Envelopes that a node may bring per second; beyond, it hears "busy" and tries again.
const BROUGHT_PER_SECOND: u32 = 20_000;
/// Envelopes with a wrong tag, shape or capability that a node may bring per second; beyond, the
/// session ends (Tor and Lighthouse cut off peers that cost more than they bring, too).
const BAD_PER_SECOND: u32 = 1_000;
/// Seal keys remembered per session.
const SEALS_REMEMBERED: usize = 4_096;
/// The own node record is signed anew this often, and lives this long.
const PUBLISH_EVERY: u64 = 30 * 60 * SECOND;
const RECORD_LIFE: u64 = DAY;
/// Sessions that a node keeps up at the least, so that it hears of others.
const SESSIONS_WANTED: usize = 4;
/// Nodes remembered at most.
const NODES_KNOWN_MAX: u64 = 10_000;
/// Contacts' keys are asked for at most this often.
const KEYS_EVERY: u64 = SECOND;
/// Questions under way at most.
const ASKED_MAX: usize = 10_000;

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
    /// When something was last answered.
    pub(super) progress: Time,
    /// Envelopes it brought in the running second, and those of them that were not admitted.
    rate: Rate,
    /// When to try refused envelopes again.
    retry_at: Option<Time>,
    /// Somebody wants a session with it.
    wanted: bool,
    dialing: bool,
    attempts: u32,
    next_try: Time,
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
    fn start_over(&mut self, now: Time) {
        self.inflight.clear();
        self.noting.clear();
        self.seals.clear();
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
    TellKeeper(AccountId),
    /// How many one-time keys does a keeper hold?
    Stock(AccountId),
    /// Keys of a contact.
    Keys(AccountId, AccountId),
    /// Which nodes do you know?
    Nodes,
    /// Are these mailboxes the same?
    Compare(AccountId),
    /// A step of reconciliation.
    Reconcile(AccountId, Set),
    /// Missing things were asked for.
    Fetch,
    /// Nothing hangs on the answer.
    Release,
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) node: NodeId,
    pub(super) purpose: Purpose,
    until: Time,
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
    /// Received IOUs whose safety is not proven yet.
    pub(super) attesting: BTreeMap<EnvelopeId, (AccountId, MessageId)>,
    /// Conversations with holes, and when to ask.
    pub(super) holes: BTreeMap<(AccountId, AccountId), Time>,
    /// Contacts to begin a new session with, and when.
    pub(super) resets: BTreeMap<(AccountId, AccountId), Time>,
    /// Envelopes that could not be opened and were not named in a reset yet.
    pub(super) unopened: BTreeMap<AccountId, Vec<EnvelopeId>>,
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
    /// Contacts whose keys are missing, and when to ask again.
    pub(super) wanting_keys: BTreeMap<(AccountId, AccountId), Time>,
    keepers: Time,
    publish: Time,
    clean: Time,
    bootstrap: Time,
    attest: Time,
    pins: BTreeSet<NodeId>,
}

impl Due {
    pub(super) fn start(&mut self, now: Time) {
        self.clean = now.plus(10 * SECOND);
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
        let nodes: Vec<[u8; 32]> = self
            .db
            .prepare("SELECT DISTINCT node FROM outbox")?
            .query_map([], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for node in nodes {
            self.want(NodeId(node));
        }
        let blocked: Vec<[u8; 32]> = self
            .db
            .prepare("SELECT node FROM blocked_nodes")?
            .query_map([], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        self.due.blocked = blocked.into_iter().map(NodeId).collect();
        let unsafe_ious: Vec<([u8; 32], [u8; 32], [u8; 32])> = self
            .db
            .prepare(
                "SELECT envelope, account, message FROM messages
                 WHERE outgoing = 0 AND kind = 1 AND safe = 0 AND envelope IS NOT NULL
                 ORDER BY id DESC LIMIT 10000",
            )?
            .query_map([], |row| Ok((blob(row, 0)?, blob(row, 1)?, blob(row, 2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (envelope, account, message) in unsafe_ious {
            self.due.attesting.insert(
                EnvelopeId(envelope),
                (AccountId(account), MessageId(message)),
            );
        }
        Ok(())
    }

    /// Nodes blocked by the owner.
    pub(crate) fn blocked_nodes(&self) -> Vec<NodeId> {
        self.due.blocked.iter().copied().collect()
    }

    /// Remembers where a record's nodes can be reached.
    pub(super) fn hint(&mut self, record: &CheckedRecord) {
        let keepers = record.record.keepers.iter().map(|keeper| &keeper.place);
        for place in keepers.chain([&record.record.home]) {
            if !place.addresses.is_empty() && place.node != self.me {
                self.due.hints.insert(place.node, place.addresses.clone());
            }
        }
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

    fn dial(&mut self, node: NodeId) {
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

    /// Where a node can be reached: by its own record, else by account records.
    fn addresses(&self, node: &NodeId) -> Vec<String> {
        let mut addresses = self
            .node_record(node)
            .ok()
            .flatten()
            .map(|record| record.place.addresses)
            .unwrap_or_default();
        for hint in self.due.hints.get(node).into_iter().flatten() {
            if addresses.len() < ADDRESSES_MAX && !addresses.contains(hint) {
                addresses.push(hint.clone());
            }
        }
        addresses
    }

    /// The record of a node, if it is known and not expired.
    pub(super) fn node_record(&self, node: &NodeId) -> Result<Option<NodeRecord>> {
        let bytes: Option<Vec<u8>> = one(self
            .db
            .prepare_cached("SELECT record FROM nodes WHERE node = ?1 AND expires > ?2")?
            .query_row(params![node.0, self.now.0], |row| row.get(0)))?;
        Ok(bytes
            .and_then(|bytes| codec::decode::<Signed<NodeRecord>>(&bytes).ok())
            .and_then(|signed| signed.unverified().ok()))
    }

    pub(super) fn connected(&mut self, node: NodeId) -> Result<()> {
        let now = self.now;
        let peer = self.peers.entry(node).or_default();
        peer.connected = true;
        peer.dialing = false;
        peer.attempts = 0;
        peer.start_over(now);
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

    /// Asks a connected node; otherwise the question is dropped: whoever asked is asked again by time.
    pub(super) fn ask(&mut self, node: NodeId, request: Request, purpose: Purpose) -> bool {
        if !self.peers.get(&node).is_some_and(|peer| peer.connected) {
            self.want(node);
            return false;
        }
        if self.asked.len() >= ASKED_MAX {
            return false;
        }
        let id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        let until = self.now.plus(ANSWER_WITHIN);
        self.asked.insert(
            id,
            Asked {
                node,
                purpose,
                until,
            },
        );
        self.send(node, &Frame::Request { id, request });
        true
    }

    pub(super) fn frame(&mut self, from: NodeId, arrival: Arrival) -> Result<()> {
        match arrival {
            Arrival::Hello(node) => self.learn_node(node).map(|_| ()),
            Arrival::Node(node) => self.learn_node(node).map(|_| ()),
            Arrival::Nodes(id, nodes) => {
                if self.answered(id, from).is_some() {
                    for node in nodes {
                        self.learn_node(node)?;
                    }
                }
                Ok(())
            }
            Arrival::Put {
                parcels,
                malformed,
                pass_on,
            } => self.put_arrived(from, parcels, malformed, &pass_on),
            Arrival::Receipts(receipts) => self.receipts(from, receipts),
            Arrival::Other(frame) => self.other_frame(from, frame),
        }
    }

    fn other_frame(&mut self, from: NodeId, frame: Frame) -> Result<()> {
        match frame {
            Frame::Refused { items, records } => {
                let records = records
                    .into_iter()
                    .filter_map(|signed| CheckedRecord::check(signed).ok());
                self.refused(from, items, records.collect())
            }
            Frame::Statements(list) => self.statements(from, list),
            Frame::Noted(hashes) => self.noted(from, &hashes),
            Frame::Attest { mailbox, ids } => self.attest(from, mailbox, &ids),
            Frame::Request { id, request } => {
                if let Some(response) = self.request(from, request)? {
                    self.send(from, &Frame::Response { id, response });
                }
                Ok(())
            }
            Frame::Response { id, response } => match self.answered(id, from) {
                Some(asked) => self.response(asked, response),
                None => Ok(()),
            },
            // Checked forms of these arrive as their own kinds.
            Frame::Hello { .. } | Frame::Put { .. } | Frame::Receipts(_) => Ok(()),
        }
    }

    /// The question that an answer belongs to, if that node was asked.
    fn answered(&mut self, id: u64, from: NodeId) -> Option<Asked> {
        if self.asked.get(&id)?.node != from {
            return None;
        }
        self.asked.remove(&id)
    }

    fn request(&mut self, from: NodeId, request: Request) -> Result<Option<Response>> {
        let response = match request {
            Request::Keep { record, keys } => self.asked_to_keep(from, record, keys)?,
            Request::Release { record } => self.released(from, record)?,
            Request::Record { record, keys } => self.told_record(record, keys)?,
            Request::FindRecord(account) => {
                let record = match self.accounts.get(&account) {
                    Some(own) => Some(own.record.signed.clone()),
                    None => self.kept_record(&account)?.map(|record| record.signed),
                };
                Response::Record(record)
            }
            Request::Keys {
                account,
                capability,
                tag,
            } => self.give_keys(from, account, capability, tag)?,
            Request::OneTimeKeys { account, keys } => self.stock_keys(from, account, keys)?,
            Request::Nodes => Response::Nodes(self.some_nodes()?),
            Request::Digest {
                mailbox,
                record: _,
                statements,
                envelopes,
            } => {
                return self
                    .compare_answer(from, mailbox, statements, envelopes)
                    .map(Some);
            }
            Request::Reconcile {
                mailbox,
                set,
                message,
            } => self.reconcile_answer(from, mailbox, set, &message)?,
            Request::FetchStatements { mailbox, ids } => {
                self.fetch_statements(from, mailbox, &ids)?
            }
            Request::FetchEnvelopes { mailbox, ids } => {
                self.fetch_envelopes(from, mailbox, &ids)?
            }
        };
        Ok(Some(response))
    }

    fn response(&mut self, asked: Asked, response: Response) -> Result<()> {
        let node = asked.node;
        match (asked.purpose, response) {
            (Purpose::Keep(account), response) => self.keep_answer(account, node, response),
            (Purpose::TellKeeper(account), Response::Newer(record)) => {
                self.newer_own_record(account, record)
            }
            (Purpose::Stock(account), Response::Stock(count)) => {
                self.stock_answer(account, node, count)
            }
            (
                Purpose::Keys(account, contact),
                Response::Keys {
                    record,
                    keys,
                    one_time,
                },
            ) => self.keys_answer(account, contact, record, keys, one_time),
            (
                Purpose::Compare(mailbox),
                Response::Digest {
                    statements,
                    envelopes,
                },
            ) => self.compare_result(mailbox, node, statements, envelopes),
            (Purpose::Reconcile(mailbox, set), Response::Reconcile(message)) => {
                self.reconcile_step(mailbox, node, set, &message)
            }
            _ => Ok(()),
        }
    }

    /// Records of other nodes, newest first, for someone who is new.
    fn some_nodes(&self) -> Result<Vec<Signed<NodeRecord>>> {
        let rows: Vec<Vec<u8>> = self
            .db
            .prepare_cached(
                "SELECT record FROM nodes WHERE expires > ?1 ORDER BY expires DESC LIMIT ?2",
            )?
            .query_map(params![self.now.0, NODES_MAX as i64], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut size = 0;
        Ok(rows
            .into_iter()
            .take_while(|bytes| {
                size += bytes.len();
                size < pumasi_protocol::wire::BATCH_BYTES
            })
            .filter_map(|bytes| codec::decode(&bytes).ok())
            .collect())
    }

    /// Takes a node record if it is news. `None`: known already.
    fn learn_node(&mut self, node: CheckedNode) -> Result<Option<bool>> {
        let id = node.record.place.node;
        if id == self.me {
            return Ok(None);
        }
        let known: Option<u64> = one(self
            .db
            .prepare_cached("SELECT signed FROM nodes WHERE node = ?1")?
            .query_row(params![id.0], |row| row.get(0)))?;
        if known.is_some_and(|signed| signed >= node.record.signed_at.0) {
            return Ok(None);
        }
        if known.is_none() {
            let count: u64 = self
                .db
                .query_row("SELECT count(*) FROM nodes", [], |row| row.get(0))?;
            if count >= NODES_KNOWN_MAX {
                return Ok(Some(false));
            }
        }
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO nodes (node, record, signed, expires)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                id.0,
                codec::encode(&node.signed),
                node.record.signed_at.0,
                node.record.expires.0
            ])?;
        if known.is_none() {
            self.due.keepers_now();
        }
        Ok(Some(true))
    }

    pub(super) fn gossip(
        &mut self,
        ticket: u64,
        arrival: std::result::Result<Box<Arrival>, ()>,
    ) -> Result<()> {
        let verdict = match arrival {
            Ok(arrival) => match *arrival {
                Arrival::Node(node) => self.learn_node(node)?,
                _ => Some(false),
            },
            Err(()) => Some(false),
        };
        self.step.effects.push(Effect::Judge(ticket, verdict));
        Ok(())
    }

    /// What this node says of itself now.
    pub(super) fn own_node_record(&self) -> Result<Signed<NodeRecord>> {
        let addresses = self
            .due
            .addresses
            .iter()
            .take(ADDRESSES_MAX)
            .cloned()
            .collect();
        let record = NodeRecord {
            place: Place {
                node: self.me,
                addresses,
            },
            operator: self.settings.operator.clone(),
            building: self.settings.building.clone(),
            newcomers: self.places_left()?,
            signed_at: self.now,
            expires: self.now.plus(RECORD_LIFE),
        };
        Ok(Signed::sign(&record, &self.key))
    }

    /// A node that the owner names by address.
    pub(crate) fn connect_address(&mut self, address: String) {
        self.step.effects.push(Effect::ConnectAddress(address));
    }

    /// A node was found on the local network.
    pub(crate) fn found(&mut self, node: NodeId, address: String) {
        self.due
            .hints
            .entry(node)
            .or_default()
            .retain(|known| *known != address);
        let hints = self.due.hints.entry(node).or_default();
        hints.insert(0, address);
        hints.truncate(ADDRESSES_MAX);
        self.want(node);
    }

    /// Ends a session.
    pub(crate) fn disconnect(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.wanted = false;
            peer.next_try = self.now.plus(BACKOFF_MAX);
        }
        self.step.effects.push(Effect::Disconnect(node));
    }

    /// Blocks a node, or lets it in again.
    pub(crate) fn block_node(&mut self, node: NodeId, blocked: bool) -> Result<()> {
        if node == self.me {
            return Err(Error::invalid("this is the node itself"));
        }
        let sql = if blocked {
            self.due.blocked.insert(node);
            "INSERT OR IGNORE INTO blocked_nodes (node) VALUES (?1)"
        } else {
            self.due.blocked.remove(&node);
            "DELETE FROM blocked_nodes WHERE node = ?1"
        };
        self.db.execute(sql, params![node.0])?;
        self.step.effects.push(Effect::Block(node, blocked));
        Ok(())
    }

    fn peer_view(&self, node: &NodeId) -> Result<crate::view::PeerView> {
        let record = self.node_record(node)?;
        let connected = self.peers.get(node).is_some_and(|peer| peer.connected);
        Ok(read::peer_view(
            *node,
            record.as_ref(),
            connected,
            self.due.blocked.contains(node),
        ))
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
            if let Some(peer) = self.peers.get_mut(&node) {
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

    fn noted(&mut self, from: NodeId, hashes: &[Hash]) -> Result<()> {
        for hash in hashes {
            let row = self
                .peers
                .get_mut(&from)
                .and_then(|peer| peer.noting.remove(hash));
            if let Some(row) = row {
                self.db
                    .prepare_cached("DELETE FROM outbox WHERE id = ?1")?
                    .execute(params![row])?;
            }
        }
        self.pump_soon(from)
    }

    /// Asks for a contact's keys: its home and keepers, whoever is connected first.
    pub(super) fn ask_for_keys(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
        let now = self.now;
        let me = self.me;
        let entry = self.known_contact(account, contact)?;
        if now.since(entry.keys_asked) < KEYS_EVERY {
            return Ok(());
        }
        entry.keys_asked = now;
        let capability = entry.secrets.write.clone();
        let record = &entry.record.record;
        let mut nodes = vec![record.home.node];
        nodes.extend(record.keepers.iter().map(|keeper| keeper.place.node));
        let places: Vec<Place> = record
            .keepers
            .iter()
            .map(|keeper| keeper.place.clone())
            .chain([record.home.clone()])
            .collect();
        for place in places {
            self.due.hints.entry(place.node).or_insert(place.addresses);
        }
        let tag = crypto::mac(
            &capability.tag_key().0,
            "keys",
            &keys_tag_text(&contact, &me),
        );
        self.due
            .wanting_keys
            .insert((account, contact), now.plus(KEYS_EVERY));
        for node in nodes {
            let request = Request::Keys {
                account: contact,
                capability: capability.id(),
                tag,
            };
            if self.ask(node, request, Purpose::Keys(account, contact)) {
                break;
            }
        }
        Ok(())
    }

    /// Everything that is due.
    pub(super) fn tick(&mut self) -> Result<()> {
        let now = self.now;
        self.tick_peers()?;
        self.asked.retain(|_, asked| asked.until > now);
        self.tick_keys()?;
        self.tick_compare()?;
        self.repair()?;
        if self.due.keepers <= now {
            self.due.keepers = now.plus(5 * SECOND);
            self.place_keepers()?;
            self.pin();
        }
        if self.due.publish <= now && !self.due.addresses.is_empty() {
            let jitter = self.rng.next_u64() % (PUBLISH_EVERY / 4);
            self.due.publish = now.plus(PUBLISH_EVERY - PUBLISH_EVERY / 8 + jitter);
            let record = self.own_node_record()?;
            self.step
                .effects
                .push(Effect::Publish(codec::encode(&record)));
        }
        if self.due.attest <= now {
            self.due.attest = now.plus(SECOND / 2);
            self.ask_attestations();
        }
        if self.due.bootstrap <= now {
            self.due.bootstrap = now.plus(2 * SECOND);
            self.stay_connected()?;
        }
        if self.due.clean <= now {
            self.due.clean = now.plus(60 * SECOND);
            self.clean()?;
        }
        Ok(())
    }

    fn tick_keys(&mut self) -> Result<()> {
        let now = self.now;
        let due: Vec<(AccountId, AccountId)> = self
            .due
            .wanting_keys
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(pair, _)| *pair)
            .collect();
        for (account, contact) in due {
            self.due.wanting_keys.remove(&(account, contact));
            let Some(entry) = self.contact(account, contact)? else {
                continue;
            };
            if entry.keys.is_none() || entry.sessions.is_empty() {
                self.ask_for_keys(account, contact)?;
            }
        }
        Ok(())
    }

    fn tick_peers(&mut self) -> Result<()> {
        let now = self.now;
        let mut dial = Vec::new();
        let mut again = Vec::new();
        for (node, peer) in &mut self.peers {
            if !peer.connected {
                if peer.wanted && !peer.dialing && peer.next_try <= now {
                    dial.push(*node);
                }
                continue;
            }
            let waiting = !peer.inflight.is_empty() || !peer.noting.is_empty();
            let stuck = waiting && now.since(peer.progress) > RESEND_AFTER;
            let retry = peer.retry_at.is_some_and(|at| at <= now);
            if stuck || retry {
                peer.start_over(now);
                again.push(*node);
            }
        }
        for node in dial {
            let needed = self.due.sharing.contains_key(&node)
                || self.has_outbox(&node)?
                || self.asked_for(&node);
            if needed {
                self.dial(node);
            } else if let Some(peer) = self.peers.get_mut(&node) {
                peer.wanted = false;
            }
        }
        for node in again {
            self.pump(node)?;
        }
        Ok(())
    }

    fn asked_for(&self, node: &NodeId) -> bool {
        self.due
            .asking_keeper
            .values()
            .any(|(asked, _)| asked == node)
            || self.due.wanting_keys.keys().any(|pair| {
                self.contacts.get(pair).is_some_and(|contact| {
                    contact.record.record.home.node == *node
                        || contact.record.keeper(node).is_some()
                })
            })
    }

    fn has_outbox(&self, node: &NodeId) -> Result<bool> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM outbox WHERE node = ?1 LIMIT 1")?
            .exists(params![node.0])?)
    }

    /// Keeps up a few sessions, so that this node hears of others: bootstrap first, then any known.
    fn stay_connected(&mut self) -> Result<()> {
        let sessions = self.sessions();
        if sessions.len() >= SESSIONS_WANTED {
            return Ok(());
        }
        for address in self.settings.bootstrap.clone() {
            self.step.effects.push(Effect::ConnectAddress(address));
        }
        let known: Vec<[u8; 32]> = self
            .db
            .prepare_cached("SELECT node FROM nodes WHERE expires > ?1 ORDER BY random() LIMIT 8")?
            .query_map(params![self.now.0], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        let missing = SESSIONS_WANTED - sessions.len();
        let candidates = known
            .into_iter()
            .map(NodeId)
            .filter(|node| !sessions.contains(node));
        for node in candidates.take(missing).collect::<Vec<_>>() {
            if !self.due.blocked.contains(&node) {
                let now = self.now;
                let peer = self.peers.entry(node).or_default();
                if !peer.dialing && peer.next_try <= now {
                    self.dial(node);
                }
            }
        }
        Ok(())
    }

    /// Own keepers and the nodes that share mailboxes stay connected.
    fn pin(&mut self) {
        let mut pins: BTreeSet<NodeId> = BTreeSet::new();
        for own in self.accounts.values() {
            pins.extend(
                own.record
                    .record
                    .keepers
                    .iter()
                    .map(|keeper| keeper.place.node),
            );
        }
        for node in pins.clone() {
            self.want(node);
        }
        pins.extend(self.due.sharing.keys().copied());
        if pins != self.due.pins {
            self.due.pins.clone_from(&pins);
            self.step
                .effects
                .push(Effect::Pin(pins.into_iter().collect()));
        }
    }

    fn tick_compare(&mut self) -> Result<()> {
        let now = self.now;
        while let Some((at, mailbox, node)) = self.due.compare.first().copied() {
            if at > now {
                break;
            }
            self.due.compare.remove(&(at, mailbox, node));
            self.due.compare_at.remove(&(mailbox, node));
            if !self.peers.get(&node).is_some_and(|peer| peer.connected) {
                continue;
            }
            self.compare(mailbox, node)?;
            let jitter = self.rng.next_u64() % (RECONCILE_EVERY / 2);
            let next = now.plus(RECONCILE_EVERY * 3 / 4 + jitter);
            self.compare_at(mailbox, node, next);
        }
        Ok(())
    }

    /// Something about a node's session that a caller waits for.
    pub(crate) fn refuse_unknown(&self, node: &NodeId) -> Result<()> {
        if self.peers.contains_key(node) || self.node_record(node)?.is_some() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("node {node} is not known here"),
        ))
    }
}
