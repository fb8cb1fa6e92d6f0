//! Replacing keepers that are gone: who counts as gone, the next list, who has accepted it, and
//! filling the new keeper until its word counts. Which lists may follow each other, and why, is in
//! `pumasi_protocol::succession`; choosing and asking nodes is in `keepers`.
//!
//! Everything that matters is in the account's record: a list in which somebody is `joining` is a
//! repair under way. The rest is here, in memory, and found out again after a restart.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::reconcile::Progress;
use pumasi_protocol::record::{CheckedRecord, KeeperEntry, RecordVersion};
use pumasi_protocol::succession::{fence, settle, successor};
use pumasi_protocol::types::{AccountId, DAY, EnvelopeId, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Request, Response, Set};
use rusqlite::params;

use super::Engine;
use super::peers::Purpose;
use crate::error::Result;

/// A round of reading or checking that has not ended after this long is begun again.
const ROUND_PATIENCE: u64 = 10 * SECOND;
/// What the old keepers held is read anew after this long, if the new one is not level by then: some
/// of it may have ended meanwhile.
const READ_AGAIN: u64 = 60 * SECOND;
/// Between two checks of a keeper that is being filled; and per four missing items, a millisecond.
const CHECK_EVERY: u64 = SECOND / 4;
/// Envelopes that old keepers held, remembered per account until the new one has them: five full
/// inboxes.
const WANTED_MAX: usize = 50_000;
/// What a joining keeper lacks is looked at one by one up to so many items.
const LOOKED_AT: usize = 256;
/// Passing statements older than this may be dropped by some and not by others.
const STATEMENTS_FRESH: u64 = 30 * DAY;
/// A keeper that failed or refused is not asked again for this long.
pub(super) const GONE_FOR: u64 = 60 * 60 * SECOND;

/// What to do when too few keepers are left for a change of the list.
const WORDS_GO_ON: &str = "If they burned, only the account's 24 words go on: run `pumasi restore` with an empty data directory, here or on another machine, and an address of this node behind --bootstrap, while this node runs";

/// Why a keeper counts as gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// No session for longer than `replace_after`; since when.
    Silent(Time),
    /// It could not prove that it holds what it signed for.
    Failed,
    /// It says that it does not keep the mailbox.
    Refused,
}

impl Gone {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Silent(_) => "has been silent for too long",
            Self::Failed => "could not prove that it holds what it signed for",
            Self::Refused => "says that it does not keep the mailbox",
        }
    }
}

/// Repairs under way; rebuilt after a restart.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// Keepers without a session, and since when.
    pub(super) silent: BTreeMap<NodeId, Time>,
    /// Keepers that failed an audit or said no.
    pub(super) gone: BTreeMap<(AccountId, NodeId), Gone>,
    /// Which keeper the node that is being asked would replace.
    pub(super) replacing: BTreeMap<AccountId, NodeId>,
    /// Keepers that have accepted the account's current record.
    accepted: BTreeMap<AccountId, (RecordVersion, BTreeSet<NodeId>)>,
    fills: BTreeMap<AccountId, Fill>,
    rounds: u64,
}

/// How far an account's joining keepers are filled.
#[derive(Debug)]
struct Fill {
    version: RecordVersion,
    began: Time,
    /// Old keepers, read after they had accepted the list: the round under way, or `None` when read.
    sources: BTreeMap<NodeId, Option<(u64, Time)>>,
    /// Envelopes that they held, and this node did not.
    wanted: BTreeSet<EnvelopeId>,
    checks: BTreeMap<NodeId, Check>,
}

/// What a joining keeper lacks.
#[derive(Debug, Default)]
struct Check {
    /// The next check is begun then, or given up if one is under way.
    at: Time,
    round: u64,
    /// Only what was there at this time must be held.
    cut: Time,
    /// Sets that are still being compared.
    open: BTreeSet<Set>,
    lacks: usize,
    /// Envelopes that it holds and this node does not.
    holds: BTreeSet<EnvelopeId>,
    /// What the last whole check found missing.
    last: Option<usize>,
}

impl Engine {
    /// Why a keeper counts as gone, if it does.
    pub(super) fn gone(&self, account: &AccountId, node: &NodeId) -> Option<Gone> {
        let repairs = &self.due.repairs;
        if let Some(gone) = repairs.gone.get(&(*account, *node)) {
            return Some(*gone);
        }
        let since = *repairs.silent.get(node)?;
        (self.now.since(since) >= self.settings.replace_after).then_some(Gone::Silent(since))
    }

    /// The first keeper of an account that counts as gone.
    pub(super) fn gone_keeper(&self, account: &AccountId) -> Option<(NodeId, Gone)> {
        let own = self.accounts.get(account)?;
        own.keepers()
            .find_map(|node| Some((node, self.gone(account, &node)?)))
    }

    /// Whether a keeper can be replaced now, or why not, in words.
    pub(super) fn replaceable(
        &self,
        account: &AccountId,
        gone: &NodeId,
    ) -> Result<std::result::Result<(), String>> {
        let record = &self.own(account)?.record.record;
        let Some((next, copies)) = successor(
            &record.keepers,
            record.safe_copies,
            Some(gone),
            // Who comes changes nothing about who must be there.
            Some(&placeholder()),
        ) else {
            return Ok(Err(format!(
                "too few other keepers are left that hold everything: it cannot be replaced before they are filled. {WORDS_GO_ON}"
            )));
        };
        let needed = fence(&next, copies);
        let able = next
            .iter()
            .filter(|keeper| !keeper.joining && keeper.place.node != placeholder().place.node)
            .filter(|keeper| self.gone(account, &keeper.place.node).is_none())
            .filter(|keeper| self.is_connected(&keeper.place.node))
            .count();
        Ok(if able < needed {
            Err(format!(
                "{able} of the {needed} other keepers that are needed for it can be reached. {WORDS_GO_ON}"
            ))
        } else {
            Ok(())
        })
    }

    pub(super) fn is_connected(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.connected)
    }

    /// The list with a node that agreed to keep, in the place of one that is gone or beside the others.
    /// Tells who must know; what `joining` stands for begins here.
    pub(super) fn list_keeper(
        &mut self,
        account: AccountId,
        gone: Option<NodeId>,
        entry: &KeeperEntry,
    ) -> Result<bool> {
        let record = &self.own(&account)?.record.record;
        let next = successor(
            &record.keepers,
            record.safe_copies,
            gone.as_ref(),
            Some(entry),
        );
        let Some((keepers, copies)) = next else {
            return Ok(false);
        };
        self.change_record(&account, |record| {
            record.keepers = keepers;
            record.safe_copies = copies;
        })?;
        if let Some(gone) = gone {
            self.let_go(account, gone)?;
        }
        let record = self.own(&account)?.record.clone();
        self.hint(&record);
        self.share(&record);
        Ok(true)
    }

    /// A node is not listed any more: it is told so, if it can hear it.
    pub(super) fn let_go(&mut self, account: AccountId, node: NodeId) -> Result<()> {
        if let Some(shared) = self.due.sharing.get_mut(&node) {
            shared.remove(&account);
        }
        for table in ["failed_keepers", "shelf_receipts"] {
            self.db
                .prepare_cached(&format!(
                    "DELETE FROM {table} WHERE account = ?1 AND keeper = ?2"
                ))?
                .execute(params![account.0, node.0])?;
        }
        if self.due.repairs.gone.remove(&(account, node)).is_some() {
            let until = self.now.plus(GONE_FOR);
            self.due.refusing.insert((account, node), until);
        }
        if self.is_connected(&node) {
            let record = self.own(&account)?.record.signed.clone();
            self.ask(node, Request::Release { record }, Purpose::Release);
        }
        Ok(())
    }

    /// Whether a keeper must not know the list yet: a joining one before enough of the old ones have
    /// accepted it. Else it could sign under a list that a reading of the older one never meets.
    pub(super) fn held_back(&self, account: &AccountId, node: &NodeId) -> bool {
        let Some(own) = self.accounts.get(account) else {
            return false;
        };
        let record = &own.record.record;
        let joining = own.record.keeper(node).is_some_and(|keeper| keeper.joining);
        let others = record.keepers.iter().any(|keeper| !keeper.joining);
        joining && others && !self.is_accepted(&own.record)
    }

    fn is_accepted(&self, record: &CheckedRecord) -> bool {
        let needed = fence(&record.record.keepers, record.record.safe_copies);
        self.accepted(record).len() >= needed
    }

    /// Keepers that may be read to fill others, and have accepted the list.
    fn accepted(&self, record: &CheckedRecord) -> BTreeSet<NodeId> {
        let all = record.record.keepers.iter().all(|keeper| keeper.joining);
        match self.due.repairs.accepted.get(&record.account()) {
            Some((version, nodes)) if *version == record.version() => nodes
                .iter()
                .filter(|node| {
                    record
                        .keeper(node)
                        .is_some_and(|keeper| all || !keeper.joining)
                })
                .copied()
                .collect(),
            _ => BTreeSet::new(),
        }
    }

    /// A keeper answered to a record that it was told.
    pub(super) fn told(
        &mut self,
        account: AccountId,
        version: RecordVersion,
        node: NodeId,
        response: &Response,
    ) -> Result<()> {
        let Some(own) = self.accounts.get(&account) else {
            return Ok(());
        };
        if own.record.version() != version || own.record.keeper(&node).is_none() {
            return Ok(());
        }
        let record = own.record.clone();
        match response {
            Response::Done => {
                let repairs = &mut self.due.repairs;
                if repairs.gone.get(&(account, node)) == Some(&Gone::Refused) {
                    repairs.gone.remove(&(account, node));
                }
                let slot = repairs.accepted.entry(account).or_default();
                if slot.0 != version {
                    *slot = (version, BTreeSet::new());
                }
                let news = slot.1.insert(node);
                if news && self.is_accepted(&record) {
                    let joining = record.record.keepers.iter().filter(|k| k.joining);
                    for keeper in joining {
                        let node = keeper.place.node;
                        if !self.has_accepted(&account, &node) {
                            self.tell_keeper(&account, node)?;
                            self.compare_at(account, node, self.now.plus(SECOND / 20));
                        }
                    }
                }
            }
            Response::No { retry: false, why } if self.is_level(&account) => {
                tracing::warn!(keeper = ?node, %why, "a keeper does not keep any more");
                self.due.repairs.gone.insert((account, node), Gone::Refused);
                self.due.keepers_now();
            }
            _ => {}
        }
        Ok(())
    }

    fn has_accepted(&self, account: &AccountId, node: &NodeId) -> bool {
        let accepted = self.due.repairs.accepted.get(account);
        accepted.is_some_and(|(_, nodes)| nodes.contains(node))
    }

    /// Notes who is silent, and goes on filling.
    pub(super) fn tick_repairs(&mut self) -> Result<()> {
        let mut listed: BTreeSet<(AccountId, NodeId)> = BTreeSet::new();
        let mut filling = Vec::new();
        for (account, own) in &self.accounts {
            listed.extend(own.keepers().map(|node| (*account, node)));
            let record = &own.record.record;
            if record.keepers.iter().any(|keeper| keeper.joining) && self.is_level(account) {
                filling.push(*account);
            }
        }
        let nodes: BTreeSet<NodeId> = listed.iter().map(|(_, node)| *node).collect();
        let silent: Vec<NodeId> = nodes
            .iter()
            .filter(|node| !self.is_connected(node))
            .copied()
            .collect();
        let repairs = &mut self.due.repairs;
        repairs.silent.retain(|node, _| silent.contains(node));
        for node in silent {
            repairs.silent.entry(node).or_insert(self.now);
        }
        repairs.gone.retain(|pair, _| listed.contains(pair));
        repairs.fills.retain(|account, _| filling.contains(account));
        for account in filling {
            self.fill(account)?;
        }
        Ok(())
    }

    /// Fills an account's joining keepers. What the old ones hold, once they have accepted the list, is
    /// read first; then the joining ones are compared until they lack nothing of it and nothing of what
    /// this node holds.
    fn fill(&mut self, account: AccountId) -> Result<()> {
        let now = self.now;
        let record = self.own(&account)?.record.clone();
        if !self.is_accepted(&record) {
            return Ok(());
        }
        let sources = self.accepted(&record);
        let version = record.version();
        let mut begin: Vec<(NodeId, Set, u64)> = Vec::new();
        let connected: BTreeSet<NodeId> = record
            .record
            .keepers
            .iter()
            .map(|keeper| keeper.place.node)
            .filter(|node| self.is_connected(node))
            .collect();
        let repairs = &mut self.due.repairs;
        let fresh = || Fill {
            version,
            began: now,
            sources: BTreeMap::new(),
            wanted: BTreeSet::new(),
            checks: BTreeMap::new(),
        };
        let fill = repairs.fills.entry(account).or_insert_with(fresh);
        if fill.version != version || now.since(fill.began) > READ_AGAIN {
            let checks = std::mem::take(&mut fill.checks);
            let same = fill.version == version;
            *fill = fresh();
            if same {
                // How far it is, is still worth saying.
                fill.checks = checks;
            }
        }
        for node in sources.intersection(&connected) {
            let due = match fill.sources.get(node) {
                None => true,
                Some(None) => false,
                Some(Some((_, since))) => now.since(*since) > ROUND_PATIENCE,
            };
            if due {
                repairs.rounds += 1;
                let round = repairs.rounds;
                fill.sources.insert(*node, Some((round, now)));
                begin.push((*node, Set::Envelopes, round));
            }
        }
        let read = fill
            .sources
            .values()
            .filter(|round| round.is_none())
            .count();
        let needed = fence(&record.record.keepers, record.record.safe_copies);
        let mut checking = false;
        if read >= needed {
            let joining = record.record.keepers.iter().filter(|k| k.joining);
            for node in joining.map(|keeper| keeper.place.node) {
                if !connected.contains(&node) {
                    continue;
                }
                let check = fill.checks.entry(node).or_default();
                if check.at > now {
                    continue;
                }
                repairs.rounds += 1;
                let round = repairs.rounds;
                *check = Check {
                    at: now.plus(ROUND_PATIENCE),
                    round,
                    cut: now,
                    open: [Set::Statements, Set::Envelopes, Set::Archive].into(),
                    last: check.last,
                    ..Check::default()
                };
                checking = true;
                begin.extend(check.open.iter().map(|set| (node, *set, round)));
            }
        }
        if checking {
            self.drop_archived(account)?;
        }
        for (node, set, round) in begin {
            let first = self.first_message(&account, set)?;
            let request = Request::Reconcile {
                mailbox: account,
                set,
                since: Time(0),
                message: first.into(),
            };
            self.ask(
                node,
                request,
                Purpose::Reconcile(account, set, round, Time(0)),
            );
        }
        Ok(())
    }

    /// What this node has opened meanwhile stands in its archive, before the cut of the next check.
    fn drop_archived(&mut self, account: AccountId) -> Result<()> {
        let Some(fill) = self.due.repairs.fills.get_mut(&account) else {
            return Ok(());
        };
        let mut query = self
            .db
            .prepare_cached("SELECT 1 FROM acknowledged WHERE envelope = ?1 AND mailbox = ?2")?;
        let mut left = BTreeSet::new();
        for id in std::mem::take(&mut fill.wanted) {
            if !query.exists(params![id.0, account.0])? {
                left.insert(id);
            }
        }
        fill.wanted = left;
        Ok(())
    }

    /// A step of a round that a repair began.
    pub(super) fn fill_step(
        &mut self,
        account: AccountId,
        node: NodeId,
        set: Set,
        round: u64,
        progress: &Progress,
    ) -> Result<()> {
        let ended = progress.next.is_none();
        let now = self.now;
        let lacking = self.lacking(&account, node, set, round, &progress.have)?;
        let Some(fill) = self.due.repairs.fills.get_mut(&account) else {
            return Ok(());
        };
        let needed = progress.need.iter().copied().map(EnvelopeId);
        match fill.sources.get_mut(&node) {
            Some(source) if source.is_some_and(|(under_way, _)| under_way == round) => {
                let room = WANTED_MAX.saturating_sub(fill.wanted.len());
                fill.wanted.extend(needed.take(room));
                *source = (!ended).then_some((round, now));
                return Ok(());
            }
            _ => {}
        }
        let Some(check) = fill.checks.get_mut(&node).filter(|c| c.round == round) else {
            return Ok(());
        };
        check.at = now.plus(ROUND_PATIENCE);
        check.lacks += lacking;
        if set == Set::Envelopes {
            let room = WANTED_MAX.saturating_sub(check.holds.len());
            check.holds.extend(needed.take(room));
        }
        if ended {
            check.open.remove(&set);
        }
        if !check.open.is_empty() {
            return Ok(());
        }
        self.checked(account, node)
    }

    /// How many of these, which a joining keeper lacks, it should hold by now.
    fn lacking(
        &self,
        account: &AccountId,
        node: NodeId,
        set: Set,
        round: u64,
        have: &[[u8; 32]],
    ) -> Result<usize> {
        let fills = &self.due.repairs.fills;
        let check = fills
            .get(account)
            .and_then(|fill| fill.checks.get(&node))
            .filter(|check| check.round == round);
        let Some(check) = check else { return Ok(0) };
        if have.len() > LOOKED_AT {
            return Ok(have.len());
        }
        let now = self.now.0;
        let (sql, from, until) = match set {
            Set::Statements => (
                "SELECT 1 FROM statements WHERE hash = ?1 AND time > ?2 AND time <= ?3",
                now.saturating_sub(STATEMENTS_FRESH),
                check.cut.0,
            ),
            Set::Envelopes => (
                "SELECT 1 FROM envelopes WHERE envelope = ?1 AND hidden IS NULL
                   AND expires > ?2 AND created < ?3",
                now,
                i64::MAX.unsigned_abs(),
            ),
            Set::Archive => (
                "SELECT 1 FROM pages WHERE page = ?1 AND hidden IS NULL
                   AND time >= ?2 AND time <= ?3",
                0,
                check.cut.0,
            ),
        };
        let mut query = self.db.prepare_cached(sql)?;
        let mut count = 0;
        for id in have {
            count += usize::from(query.exists(params![id, from, until])?);
        }
        Ok(count)
    }

    /// A joining keeper was compared: it is filled, or is looked at again soon.
    fn checked(&mut self, account: AccountId, node: NodeId) -> Result<()> {
        let now = self.now;
        let Some(fill) = self.due.repairs.fills.get_mut(&account) else {
            return Ok(());
        };
        let Some(check) = fill.checks.get_mut(&node) else {
            return Ok(());
        };
        let mut lacks = check.lacks;
        for id in fill.wanted.difference(&check.holds) {
            // What cannot be opened here is kept here: it was compared like the rest.
            let here = self
                .db
                .prepare_cached(
                    "SELECT 1 FROM envelopes
                     WHERE envelope = ?1 AND mailbox = ?2 AND hidden IS NULL",
                )?
                .exists(params![id.0, account.0])?;
            lacks += usize::from(!here);
        }
        check.last = Some(lacks);
        check.round = 0;
        check.at = now.plus(CHECK_EVERY + lacks as u64 / 4);
        if lacks > 0 {
            return Ok(());
        }
        let record = &self.own(&account)?.record.record;
        let filled: BTreeSet<NodeId> = [node].into();
        let Some(keepers) = settle(&record.keepers, record.safe_copies, &filled) else {
            return Ok(());
        };
        self.change_record(&account, |record| record.keepers = keepers)?;
        let view = self.keepers_view(&account)?;
        self.event(Some(account), "keeper.filled", &view)
    }

    /// What is under way for an account, in sentences.
    pub(super) fn repairs_view(&self, account: &AccountId) -> Result<Vec<String>> {
        let own = self.own(account)?;
        let mut lines = Vec::new();
        for keeper in &own.record.record.keepers {
            let node = keeper.place.node;
            let name = format!("{} ({})", node.short(), keeper.building);
            if let Some(gone) = self.gone(account, &node) {
                let next = match self.replaceable(account, &node)? {
                    Err(why) => why,
                    Ok(()) => match self.due.asking_keeper.get(account) {
                        Some((asked, _)) => format!("{} is asked to take its place", asked.short()),
                        None => "another node in another building is looked for".into(),
                    },
                };
                lines.push(format!("{name} {}: {next}", gone.text()));
            } else if keeper.joining {
                let lacks = self
                    .due
                    .repairs
                    .fills
                    .get(account)
                    .and_then(|fill| fill.checks.get(&node))
                    .and_then(|check| check.last);
                lines.push(if self.held_back(account, &node) {
                    format!("{name} is joining: it begins when enough of the other keepers have accepted the new list")
                } else {
                    match lacks {
                        None => format!("{name} is joining: what the other keepers hold is being read"),
                        Some(lacks) => format!("{name} is joining: {lacks} items are still to be copied"),
                    }
                });
            }
        }
        Ok(lines)
    }

    /// What a joining keeper still lacks, as far as is known.
    pub(super) fn still_lacks(&self, account: &AccountId, node: &NodeId) -> Option<u64> {
        let fill = self.due.repairs.fills.get(account)?;
        fill.checks.get(node)?.last.map(|lacks| lacks as u64)
    }
}

/// Stands for whoever will agree to keep.
fn placeholder() -> KeeperEntry {
    KeeperEntry {
        place: pumasi_protocol::record::Place {
            node: NodeId([0; 32]),
            addresses: vec![],
        },
        operator: String::new(),
        building: String::new(),
        joining: false,
    }
}
