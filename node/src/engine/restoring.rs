//! Restoring an account from its 24 words: finding the keepers, making them refuse every older
//! device, reading them. What is made of what they hold is in `rebuilding`. Nothing here is stored
//! but pages and envelopes: a restore that is cut off is begun again from the words.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::crypto::Signed;
use pumasi_protocol::identity::{Phrase, RootKeys, next_epoch};
use pumasi_protocol::locator::{self, Locator};
use pumasi_protocol::record::{AccountRecord, CheckedRecord, KeeperEntry, Place};
use pumasi_protocol::succession;
use pumasi_protocol::types::{AccountId, EnvelopeId, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Request, Set};
use rusqlite::params;

use super::accounts::checked_name;
use super::level::{is_reading, readers};
use super::peers::Purpose;
use super::types::Own;
use super::{Effect, Engine};
use crate::check::CheckedParcel;
use crate::error::{Error, ErrorKind, Result};
use crate::view::{RestoreReport, RestoreView};

/// Restores under way on one node at most.
const RESTORES_MAX: usize = 64;
/// After the last news of where keepers are, this long is waited for newer ones.
const NEWS_PATIENCE: u64 = 3 * SECOND;
/// Keepers that do not answer are done without after this long, if others can be read.
const KEEPER_PATIENCE: u64 = 20 * SECOND;
/// Unanswered questions are asked again this often.
const ASK_AGAIN: u64 = 3 * SECOND;
/// Addresses to begin with that are remembered for one restore at most.
const HINTS_MAX: usize = 64;
/// Nodes that are asked for a locator at most.
const NODES_MAX: usize = 256;
/// What is read of each keeper.
const SETS: [Set; 2] = [Set::Archive, Set::Envelopes];

/// How far a restore has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Looking for the keepers.
    Locating,
    /// Asking keepers to refuse older devices.
    Fencing,
    /// Reading what they hold.
    Reading,
}

/// A restore under way.
#[derive(Debug)]
pub(super) struct Restoring {
    pub(super) root: RootKeys,
    /// What the account is to be called here; else what it was called before.
    pub(super) name: Option<String>,
    pub(super) phase: Phase,
    pub(super) began: Time,
    /// When something of the phase was learned last. Mail that merely comes in does not count: it would
    /// put off for ever what is done without those that are gone.
    news: Time,
    /// Who was asked for what, and when.
    asked: BTreeMap<(NodeId, bool), Time>,
    places: BTreeMap<NodeId, Vec<String>>,
    /// Addresses to begin with, and when they were tried last.
    hints: Vec<String>,
    hinted: Time,
    /// The newest record found: names the keepers.
    pub(super) found: Option<CheckedRecord>,
    /// The new device.
    pub(super) device: Option<Own>,
    /// Keepers that refuse older devices from now on.
    fenced: BTreeSet<NodeId>,
    fence_asked: BTreeMap<NodeId, Time>,
    /// When each of them last brought reading forward.
    heard: BTreeMap<NodeId, Time>,
    /// What is still to be read: of whom, and how many items were needed in the round under way.
    reads: BTreeMap<(NodeId, Set), Read>,
    missing: BTreeMap<(NodeId, Set), Missing>,
    /// Items read so far.
    pub(super) items: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// To be begun at this time.
    Due(Time),
    /// A round is under way since then.
    Running(Time),
    /// Everything that the keeper held when it was fenced is here.
    Done,
}

/// What rounds of reading found missing here, of one set at one keeper.
#[derive(Debug, Default)]
struct Missing {
    /// In the first round: what the keeper held when it was fenced, and a little more.
    first: Option<BTreeSet<EnvelopeId>>,
    /// In the round under way.
    now: BTreeSet<EnvelopeId>,
}

impl Restoring {
    /// The record of the new device, once it is made.
    pub(super) fn record(&self) -> Option<&CheckedRecord> {
        self.device.as_ref().map(|own| &own.record)
    }

    /// Whether a node is read.
    pub(super) fn reads_from(&self, node: &NodeId) -> bool {
        self.fenced.contains(node)
    }

    /// Keepers that the account had, those that are read, and how many must be.
    pub(super) fn keepers_now(&self) -> [usize; 3] {
        let keepers = self.keepers();
        let read = keepers
            .iter()
            .filter(|keeper| self.fenced.contains(&keeper.place.node))
            .count();
        [keepers.len(), read, self.needed()]
    }

    /// Who is to refuse older devices, and is read then: the keepers, and the old home, should it live.
    fn sources(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.keepers().iter().map(|k| k.place.node).collect();
        nodes.extend(self.found.as_ref().map(|found| found.record.home.node));
        nodes
    }

    fn keepers(&self) -> Vec<KeeperEntry> {
        self.found
            .as_ref()
            .map(|record| record.record.keepers.clone())
            .unwrap_or_default()
    }

    /// How many keepers must be read.
    fn needed(&self) -> usize {
        self.found.as_ref().map_or(1, readers).max(1)
    }

    /// Whether what the keepers hold that are read shows everything that was safe.
    fn complete(&self, me: &NodeId, kept_here: bool) -> bool {
        let mut read = self.fenced.clone();
        if kept_here {
            read.insert(*me);
        }
        self.found
            .as_ref()
            .is_some_and(|found| is_reading(found, &read))
            && !read.is_empty()
    }

    /// Whether a node is read from now on.
    pub(super) fn read_nodes(&self) -> &BTreeSet<NodeId> {
        &self.fenced
    }

    /// Keepers whose word counts for reading: those that are not being filled.
    fn counted(&self, me: &NodeId, kept_here: bool) -> usize {
        self.keepers()
            .iter()
            .filter(|keeper| !keeper.joining)
            .filter(|keeper| {
                let node = keeper.place.node;
                self.fenced.contains(&node) || (kept_here && node == *me)
            })
            .count()
    }
}

impl Engine {
    /// Begins to restore an account from its words.
    pub(crate) fn begin_restore(
        &mut self,
        words: &str,
        name: Option<&str>,
        hints: &[String],
    ) -> Result<RestoreView> {
        let phrase = Phrase::parse(words).map_err(|error| {
            Error::invalid(format!("these are not the words of an account: {error}"))
        })?;
        let name = name.map(checked_name).transpose()?;
        let root = phrase.keys();
        let account = root.account();
        if self.accounts.contains_key(&account) {
            return Err(Error::new(
                ErrorKind::Exists,
                "this account is on this node already: nothing is to be restored",
            ));
        }
        if let Some(name) = &name
            && self.accounts.values().any(|own| own.name == *name)
        {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("there is an account called `{name}` on this node already"),
            ));
        }
        if self.restoring.len() >= RESTORES_MAX {
            return Err(Error::new(
                ErrorKind::Busy,
                "too many restores are under way: wait until one has ended",
            ));
        }
        if !self.restoring.contains_key(&account) {
            let restoring = Restoring {
                root,
                name,
                phase: Phase::Locating,
                began: self.now,
                news: self.now,
                asked: BTreeMap::new(),
                places: BTreeMap::new(),
                hints: Vec::new(),
                hinted: Time(0),
                found: None,
                device: None,
                fenced: BTreeSet::new(),
                fence_asked: BTreeMap::new(),
                heard: BTreeMap::new(),
                reads: BTreeMap::new(),
                missing: BTreeMap::new(),
                items: 0,
            };
            self.restoring.insert(account, restoring);
            self.due.restored.remove(&account);
            self.due.own_sets.remove(&account);
        }
        if let Some(restoring) = self.restoring.get_mut(&account) {
            for hint in hints {
                if !restoring.hints.contains(hint) && restoring.hints.len() < HINTS_MAX {
                    restoring.hints.push(hint.clone());
                }
            }
            restoring.hinted = Time(0);
        }
        let addresses = self.settings.bootstrap.clone();
        for address in addresses {
            self.step.effects.push(Effect::ConnectAddress(address));
        }
        self.restore_view(&account)
    }

    /// Gives a restore up. What keepers were told stays: the words begin it again.
    pub(crate) fn cancel_restore(&mut self, account: &AccountId) -> Result<()> {
        match self.restoring.remove(account) {
            Some(_) => Ok(()),
            None => Err(Error::not_found("no such restore is under way")),
        }
    }

    /// Everything that a restore waits for.
    pub(super) fn tick_restore(&mut self) -> Result<()> {
        let accounts: Vec<AccountId> = self.restoring.keys().copied().collect();
        for account in accounts {
            let Some(restoring) = self.restoring.get(&account) else {
                continue;
            };
            match restoring.phase {
                Phase::Locating => self.locate(account)?,
                Phase::Fencing => self.fence(account)?,
                Phase::Reading => self.read(account)?,
            }
        }
        Ok(())
    }

    fn locate(&mut self, account: AccountId) -> Result<()> {
        let now = self.now;
        if let Some(record) = self.kept_here(&account)? {
            self.note_record(account, record);
        }
        let Some(restoring) = self.restoring.get(&account) else {
            return Ok(());
        };
        let name = restoring.root.locator.public();
        if let Some(locator) = self.stored_locator(&name)? {
            self.note_locator(account, &locator)?;
        }
        let Some(restoring) = self.restoring.get(&account) else {
            return Ok(());
        };
        let mut nodes = self.sessions();
        if restoring.found.is_none() {
            self.try_hints(account);
            // Whoever is known at all may have the locator.
            for node in self.known_nodes(NODES_MAX)? {
                self.want(node);
            }
        }
        let places: Vec<(NodeId, Vec<String>)> = self
            .restoring
            .get(&account)
            .map(|restoring| restoring.places.clone().into_iter().collect())
            .unwrap_or_default();
        for (node, addresses) in places {
            self.due.hints.entry(node).or_insert(addresses);
            self.want(node);
        }
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return Ok(());
        };
        nodes.retain(|node| {
            let slot = restoring.asked.entry((*node, true)).or_insert(Time(0));
            let due = now.since(*slot) >= ASK_AGAIN;
            if due {
                *slot = now;
            }
            due
        });
        for node in nodes {
            self.ask(node, Request::FindLocator(name), Purpose::Locate(account));
            self.ask(node, Request::FindRecord(account), Purpose::Find(account));
        }
        let me = self.me;
        let Some(restoring) = self.restoring.get(&account) else {
            return Ok(());
        };
        let all = restoring.found.is_some()
            && restoring.keepers().iter().all(|keeper| {
                let node = keeper.place.node;
                node == me || restoring.asked.contains_key(&(node, false))
            });
        let patient = now.since(restoring.news) < NEWS_PATIENCE;
        if restoring.found.is_some() && (all || !patient) {
            self.make_device(account)?;
            return self.fence(account);
        }
        Ok(())
    }

    fn try_hints(&mut self, account: AccountId) {
        let now = self.now;
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return;
        };
        if now.since(restoring.hinted) < ASK_AGAIN {
            return;
        }
        restoring.hinted = now;
        for hint in restoring.hints.clone() {
            self.step.effects.push(Effect::ConnectAddress(hint));
        }
    }

    /// The record under which this node keeps the account's mailbox itself.
    fn kept_here(&mut self, account: &AccountId) -> Result<Option<CheckedRecord>> {
        let me = self.me;
        let record = self.kept_mut(account)?.map(|kept| kept.record.clone());
        Ok(record.filter(|record| record.keeper(&me).is_some()))
    }

    pub(super) fn locator_found(
        &mut self,
        account: AccountId,
        _node: NodeId,
        locator: Option<Signed<Locator>>,
    ) -> Result<()> {
        match locator {
            Some(locator) => self.note_locator(account, &locator),
            None => Ok(()),
        }
    }

    fn note_locator(&mut self, account: AccountId, signed: &Signed<Locator>) -> Result<()> {
        let now = self.now;
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return Ok(());
        };
        let Ok(locator) = locator::check(signed) else {
            return Ok(());
        };
        let Ok(whereabouts) = locator::read(&locator, &restoring.root.locator) else {
            return Ok(());
        };
        if whereabouts.account != account {
            return Ok(());
        }
        for place in whereabouts.keepers {
            if restoring.places.len() < NODES_MAX
                && restoring
                    .places
                    .insert(place.node, place.addresses)
                    .is_none()
            {
                restoring.news = now;
            }
        }
        Ok(())
    }

    pub(super) fn record_found(
        &mut self,
        account: AccountId,
        node: NodeId,
        record: Option<Signed<AccountRecord>>,
    ) -> Result<()> {
        let now = self.now;
        if let Some(restoring) = self.restoring.get_mut(&account) {
            restoring.asked.insert((node, false), now);
        }
        let checked = record.and_then(|signed| CheckedRecord::check(signed).ok());
        if let Some(record) = checked.filter(|record| record.account() == account) {
            self.note_record(account, record);
        }
        Ok(())
    }

    fn note_record(&mut self, account: AccountId, record: CheckedRecord) {
        let now = self.now;
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return;
        };
        if restoring
            .record()
            .is_some_and(|own| own.device() == record.device())
        {
            return;
        }
        let newer = restoring
            .found
            .as_ref()
            .is_none_or(|known| record.replaces(known));
        if !newer {
            return;
        }
        // The keepers are others than was thought: begin anew with those, under a higher epoch.
        restoring.phase = Phase::Locating;
        restoring.news = now;
        let keepers = record.record.keepers.iter().map(|keeper| &keeper.place);
        for place in keepers.chain([&record.record.home]) {
            let Place { node, addresses } = place.clone();
            restoring.places.insert(node, addresses);
        }
        restoring.found = Some(record);
    }

    /// The new device, whose certificate is higher than every one seen.
    fn make_device(&mut self, account: AccountId) -> Result<()> {
        let me = self.me;
        let Some(mut restoring) = self.restoring.remove(&account) else {
            return Ok(());
        };
        let seen = [restoring.found.as_ref(), restoring.record()];
        let highest = seen
            .into_iter()
            .flatten()
            .map(|record| record.certificate.epoch)
            .max()
            .unwrap_or(0);
        let epoch = next_epoch(highest, self.now);
        let name = restoring
            .found
            .as_ref()
            .map(|record| record.record.name.clone())
            .unwrap_or_default();
        let mut keepers = restoring.keepers();
        if keepers.iter().any(|keeper| keeper.place.node == me) {
            // This node leaves the list, as its home: the others are joining where R falls by that.
            let copies = restoring
                .found
                .as_ref()
                .map_or(0, |record| record.record.safe_copies);
            let next = succession::successor(&keepers, copies, Some(&me), None);
            keepers = next.map(|(keepers, _)| keepers).unwrap_or_else(|| {
                keepers.retain(|keeper| keeper.place.node != me);
                for keeper in &mut keepers {
                    keeper.joining = true;
                }
                keepers
            });
        }
        let device = self.new_device(&restoring.root, &name, epoch, keepers);
        restoring.phase = Phase::Fencing;
        restoring.news = self.now;
        restoring.fenced.clear();
        restoring.fence_asked.clear();
        restoring.heard.clear();
        restoring.reads.clear();
        restoring.missing.clear();
        match device {
            Ok(device) => {
                restoring.device = Some(device);
                self.restoring.insert(account, restoring);
            }
            Err(error) => {
                let keepers = restoring.keepers_now();
                self.restore_ended(account, restoring.began, keepers, Err(error.to_string()));
            }
        }
        Ok(())
    }

    fn fence(&mut self, account: AccountId) -> Result<()> {
        let (now, me) = (self.now, self.me);
        let here = self.kept_here(&account)?.is_some();
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return Ok(());
        };
        let Some(device) = &restoring.device else {
            return Ok(());
        };
        let request = Request::Record {
            record: device.record.signed.clone(),
            keys: device.keys.clone(),
        };
        let mut nodes = restoring.sources();
        nodes.retain(|node| *node != me && !restoring.fenced.contains(node));
        let places = restoring.places.clone();
        // First each says which record it has: one that knows of other keepers must be heard.
        let asked = restoring.asked.clone();
        let (heard, unheard): (Vec<NodeId>, Vec<NodeId>) = nodes
            .into_iter()
            .partition(|node| asked.contains_key(&(*node, false)));
        nodes = heard;
        nodes.retain(|node| {
            let slot = restoring.fence_asked.entry(*node).or_insert(Time(0));
            let due = now.since(*slot) >= ASK_AGAIN;
            let connected = self.peers.get(node).is_some_and(|peer| peer.connected);
            if due && connected {
                *slot = now;
            }
            due
        });
        let enough = restoring.complete(&me, here);
        let all = restoring.keepers().iter().all(|keeper| {
            let node = keeper.place.node;
            restoring.fenced.contains(&node) || (here && node == me)
        });
        // A little patience for the others: what only they hold may not be safe, but is welcome.
        let patience = if enough { SECOND } else { KEEPER_PATIENCE };
        let waited = now.since(restoring.news) >= patience;
        let some = here || !restoring.fenced.is_empty();
        let begin = all || (waited && (enough || some));
        for node in nodes {
            self.ask(node, request.clone(), Purpose::Fence(account));
        }
        for node in unheard {
            if let Some(addresses) = places.get(&node) {
                self.due.hints.entry(node).or_insert(addresses.clone());
            }
            self.ask(node, Request::FindRecord(account), Purpose::Find(account));
        }
        if begin {
            let Some(restoring) = self.restoring.get_mut(&account) else {
                return Ok(());
            };
            restoring.phase = Phase::Reading;
            restoring.news = now;
            for node in restoring.fenced.clone() {
                restoring.heard.insert(node, now);
                for set in SETS {
                    restoring.reads.insert((node, set), Read::Due(now));
                }
            }
            return self.read(account);
        }
        Ok(())
    }

    /// A keeper refuses older devices from now on.
    pub(super) fn fenced(&mut self, account: AccountId, node: NodeId) -> Result<()> {
        let now = self.now;
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return Ok(());
        };
        restoring.news = now;
        restoring.fenced.insert(node);
        restoring.heard.insert(node, now);
        if restoring.phase == Phase::Reading {
            for set in SETS {
                restoring.reads.entry((node, set)).or_insert(Read::Due(now));
            }
        }
        self.tick_restore()
    }

    /// A keeper knows a device with a higher certificate: another restore won.
    pub(super) fn restore_outrun(
        &mut self,
        account: AccountId,
        record: CheckedRecord,
    ) -> Result<()> {
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return Ok(());
        };
        let Some(own) = restoring.record() else {
            return Ok(());
        };
        if record.account() != account || !record.replaces(own) {
            return Ok(());
        }
        let why = format!(
            "another device took this account over while it was being restored: it is on node {} now. If that was you, use it there; if not, restore again: the last one wins",
            record.record.home.node
        );
        let (began, keepers) = (restoring.began, restoring.keepers_now());
        self.restoring.remove(&account);
        self.restore_ended(account, began, keepers, Err(why));
        Ok(())
    }

    fn read(&mut self, account: AccountId) -> Result<()> {
        let now = self.now;
        let here = self.kept_here(&account)?.is_some();
        let me = self.me;
        let Some(restoring) = self.restoring.get_mut(&account) else {
            return Ok(());
        };
        // When all others are read, keepers that stopped answering are done without.
        let unread: BTreeSet<NodeId> = restoring
            .reads
            .iter()
            .filter(|(_, read)| **read != Read::Done)
            .map(|((node, _), _)| *node)
            .collect();
        let gone = unread.iter().all(|node| {
            let heard = restoring.heard.get(node).copied().unwrap_or_default();
            now.since(heard) >= KEEPER_PATIENCE
        });
        if gone {
            restoring.fenced.retain(|node| !unread.contains(node));
            restoring
                .reads
                .retain(|(node, _), _| !unread.contains(node));
        }
        let mut begin = Vec::new();
        for ((node, set), read) in &mut restoring.reads {
            let connected = self.peers.get(node).is_some_and(|peer| peer.connected);
            match read {
                Read::Due(at) if *at <= now && connected => {
                    *read = Read::Running(now);
                    begin.push((*node, *set));
                }
                Read::Running(since) if now.since(*since) > KEEPER_PATIENCE / 2 => {
                    *read = Read::Due(now);
                }
                _ => {}
            }
        }
        let done = restoring.reads.values().all(|read| *read == Read::Done);
        let some = here || !restoring.reads.is_empty();
        if done && some {
            let complete = restoring.complete(&me, here);
            return self.finish_restore(account, complete);
        }
        if !some {
            restoring.phase = Phase::Locating;
            restoring.news = now;
        }
        for (node, set) in begin {
            if let Some(restoring) = self.restoring.get_mut(&account) {
                restoring
                    .missing
                    .entry((node, set))
                    .or_default()
                    .now
                    .clear();
            }
            self.begin(account, node, set)?;
        }
        Ok(())
    }

    /// A step of a round of reading found items that are missing here.
    pub(super) fn restore_needs(
        &mut self,
        account: &AccountId,
        node: NodeId,
        set: Set,
        need: &[EnvelopeId],
    ) {
        let now = self.now;
        let Some(restoring) = self.restoring.get_mut(account) else {
            return;
        };
        if let Some(Read::Running(since)) = restoring.reads.get_mut(&(node, set)) {
            restoring.heard.insert(node, now);
            *since = now;
            let missing = restoring.missing.entry((node, set)).or_default();
            missing.now.extend(need);
        }
    }

    /// A round of reconciliation ended, with these items needed in its last step. Mail goes on coming
    /// in while a mailbox is read: what counts is what was missing in the first round.
    pub(super) fn reconciled(
        &mut self,
        mailbox: AccountId,
        node: NodeId,
        set: Set,
        need: &[EnvelopeId],
    ) -> Result<()> {
        self.restore_needs(&mailbox, node, set, need);
        let now = self.now;
        let Some(restoring) = self.restoring.get_mut(&mailbox) else {
            return Ok(());
        };
        let Some(read) = restoring.reads.get_mut(&(node, set)) else {
            return Ok(());
        };
        if !matches!(read, Read::Running(_)) {
            return Ok(());
        }
        let missing = restoring.missing.entry((node, set)).or_default();
        let found = std::mem::take(&mut missing.now);
        let here = match &missing.first {
            None => found.is_empty(),
            Some(first) => first.is_disjoint(&found),
        };
        *read = if here {
            Read::Done
        } else {
            missing.first.get_or_insert(found);
            // What is needed is on its way: look again when it should be here.
            Read::Due(now.plus(SECOND / 4))
        };
        self.tick_restore()
    }

    /// An envelope of a mailbox that is being restored: it is opened at the end.
    pub(super) fn hold_for_restore(&mut self, from: NodeId, parcel: CheckedParcel) -> Result<()> {
        let mailbox = parcel.envelope.sealed.mailbox;
        let now = self.now;
        let Some(restoring) = self.restoring.get_mut(&mailbox) else {
            return Ok(());
        };
        if !restoring.reads_from(&from) {
            return Ok(());
        }
        let wanted = |missing: &Missing| {
            let first = missing.first.as_ref();
            missing.now.contains(&parcel.id) || first.is_some_and(|ids| ids.contains(&parcel.id))
        };
        let read = restoring.missing.get(&(from, Set::Envelopes));
        if read.is_some_and(wanted) {
            restoring.heard.insert(from, now);
        }
        restoring.items = restoring.items.saturating_add(1);
        let sealed = &parcel.envelope.sealed;
        self.store_own_envelope(mailbox, parcel.id, sealed, &parcel.bytes, &parcel.seals)?;
        Ok(())
    }

    /// Remembers how a restore ended. The keys of the phrase are gone with it.
    pub(super) fn restore_ended(
        &mut self,
        account: AccountId,
        began: Time,
        [keepers, keepers_read, keepers_needed]: [usize; 3],
        result: std::result::Result<RestoreReport, String>,
    ) {
        let (state, text, report) = match result {
            Ok(report) => ("done", format!("`{}` is back", report.name), Some(report)),
            Err(why) => ("failed", why, None),
        };
        let view = RestoreView {
            account: account.to_string(),
            state: state.to_owned(),
            text,
            keepers,
            keepers_read,
            keepers_needed,
            pages: 0,
            envelopes: 0,
            millis: self.now.since(began),
            report,
        };
        if self.due.restored.len() >= RESTORES_MAX {
            self.due.restored.clear();
        }
        self.due.restored.insert(account, view);
    }

    /// How a restore stands, in words.
    pub(crate) fn restore_view(&mut self, account: &AccountId) -> Result<RestoreView> {
        let here = self.kept_here(account)?.is_some();
        let me = self.me;
        if let Some(ended) = self.due.restored.get(account) {
            return Ok(ended.clone());
        }
        let Some(restoring) = self.restoring.get(account) else {
            return Err(Error::not_found("no such restore is under way"));
        };
        let pages: u64 = self.db.query_row(
            "SELECT count(*) FROM pages WHERE mailbox = ?1",
            params![account.0],
            |row| row.get(0),
        )?;
        let keepers = restoring.keepers().len();
        let counted = restoring.counted(&me, here);
        let needed = restoring.needed();
        let (state, text) = match &restoring.phase {
            Phase::Locating if restoring.found.is_none() => (
                "locating",
                "looking for the keepers: no node asked so far knows this account".to_owned(),
            ),
            Phase::Locating => (
                "locating",
                format!("{keepers} keepers found: asking each for its newest record"),
            ),
            Phase::Fencing => (
                "fencing",
                format!(
                    "{counted} of {keepers} keepers refuse the old device now ({needed} are needed)"
                ),
            ),
            Phase::Reading => (
                "reading",
                format!(
                    "reading {counted} keepers: {pages} archive pages and {} envelopes so far",
                    restoring.items
                ),
            ),
        };
        Ok(RestoreView {
            account: account.to_string(),
            state: state.to_owned(),
            text,
            keepers,
            keepers_read: counted,
            keepers_needed: needed,
            pages,
            envelopes: restoring.items,
            millis: self.now.since(restoring.began),
            report: None,
        })
    }
}
