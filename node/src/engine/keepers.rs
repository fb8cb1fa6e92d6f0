//! Own accounts' keepers: asking nodes, apart from each other, until there are enough; stocking them
//! with prekeys; the keys of contacts that come back.

use std::collections::BTreeSet;

use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::placement::{Candidate, losses, next_keeper};
use pumasi_protocol::record::{
    AccountRecord, CheckedRecord, KEEPERS, KEEPERS_MAX, KeeperEntry, KeyBundle, NodeRecord,
    OneTimeKey,
};
use pumasi_protocol::succession::successor;
use pumasi_protocol::types::{AccountId, NodeId, SECOND};
use pumasi_protocol::wire::{Request, Response};
use rusqlite::params;

use super::Engine;
use super::peers::Purpose;
use crate::error::{Error, ErrorKind, Result};
use crate::read::rfc3339;
use crate::view::{KeeperView, KeepersView, LossView};

/// Keys that a keeper should hold; refilled when fewer than half are left.
const POOL: u32 = 50;
/// A keeper that was asked has this long to answer.
const ASK_FOR: u64 = 10 * SECOND;
/// A node that refused is not asked again for this long.
const REFUSED_FOR: u64 = 60 * SECOND;
/// Candidates looked at, per round.
const CANDIDATES_MAX: i64 = 256;

impl Engine {
    /// Asks one more keeper for every account that has fewer than wanted, or one that is gone.
    pub(super) fn place_keepers(&mut self) -> Result<()> {
        let now = self.now;
        self.due.nodes_from = self.random();
        self.due.refusing.retain(|_, until| *until > now);
        let silent: Vec<(AccountId, NodeId)> = self
            .due
            .asking_keeper
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(account, (node, _))| (*account, *node))
            .collect();
        for (account, node) in silent {
            self.due.asking_keeper.remove(&account);
            self.due.repairs.replacing.remove(&account);
            self.due
                .refusing
                .insert((account, node), now.plus(REFUSED_FOR));
        }
        let accounts: Vec<AccountId> = self.accounts.keys().copied().collect();
        for account in accounts {
            if !self.is_level(&account) {
                continue;
            }
            if self.due.asking_keeper.contains_key(&account) {
                self.ask_again(&account)?;
                continue;
            }
            let gone = match self.gone_keeper(&account) {
                Some((node, _)) if self.replaceable(&account, &node)?.is_err() => continue,
                Some((node, _)) => Some(node),
                None => None,
            };
            let few = self.own(&account)?.record.record.keepers.len() < KEEPERS;
            if !few && gone.is_none() {
                continue;
            }
            if let Some(node) = self.best_candidate(&account, gone.as_ref())? {
                if let Some(gone) = gone {
                    self.due.repairs.replacing.insert(account, gone);
                }
                self.ask_to_keep(account, node)?;
            }
        }
        Ok(())
    }

    /// The best node to ask next, in the place of one that is gone.
    fn best_candidate(&self, account: &AccountId, gone: Option<&NodeId>) -> Result<Option<NodeId>> {
        let candidates: Vec<Candidate> = self
            .candidates(account)?
            .into_iter()
            .filter(|candidate| {
                let node = candidate.entry.place.node;
                !self.due.refusing.contains_key(&(*account, node))
                    && !self.due.blocked.contains(&node)
                    && Some(&node) != gone
            })
            .collect();
        let mut keepers = self.own(account)?.record.record.keepers.clone();
        keepers.retain(|keeper| Some(&keeper.place.node) != gone);
        let sites = if self.settings.local {
            BTreeSet::new()
        } else {
            same_sites(&keepers, &candidates)
        };
        Ok(next_keeper(
            account,
            &self.me,
            &self.settings.building,
            &keepers,
            &candidates,
            &sites,
        ))
    }

    /// Nodes that may keep for an account: contacts' homes, and those that offer it to newcomers.
    fn candidates(&self, account: &AccountId) -> Result<Vec<Candidate>> {
        let rows: Vec<Vec<u8>> = self
            .db
            .prepare_cached(
                "SELECT record FROM nodes WHERE expires > ?1 ORDER BY node < ?3, node LIMIT ?2",
            )?
            .query_map(
                params![self.now.0, CANDIDATES_MAX, self.due.nodes_from],
                |row| row.get(0),
            )?
            .collect::<rusqlite::Result<_>>()?;
        let friends: Vec<Vec<u8>> = self
            .db
            .prepare_cached(
                "SELECT record FROM contacts WHERE account = ?1 AND active = 1 AND blocked = 0
                 LIMIT ?2",
            )?
            .query_map(params![account.0, CANDIDATES_MAX], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let friends: BTreeSet<NodeId> = friends
            .iter()
            .filter_map(|bytes| codec::decode::<Signed<AccountRecord>>(bytes).ok())
            .filter_map(|signed| signed.unverified().ok())
            .map(|record| record.home.node)
            .collect();
        Ok(rows
            .into_iter()
            .filter_map(|bytes| codec::decode::<Signed<NodeRecord>>(&bytes).ok())
            .filter_map(|signed| signed.unverified().ok())
            .map(|record| Candidate {
                contact: friends.contains(&record.place.node),
                entry: entry_of(&record),
            })
            .zip(0..CANDIDATES_MAX)
            .map(|(candidate, _)| candidate)
            .filter(|candidate| {
                candidate.contact || self.offers(&candidate.entry.place.node).unwrap_or(false)
            })
            .collect())
    }

    fn offers(&self, node: &NodeId) -> Result<bool> {
        Ok(self
            .node_record(node)?
            .is_some_and(|record| record.newcomers > 0))
    }

    fn ask_to_keep(&mut self, account: AccountId, node: NodeId) -> Result<()> {
        self.due
            .asking_keeper
            .insert(account, (node, self.now.plus(ASK_FOR)));
        self.ask_again(&account)
    }

    /// Asks the chosen node, once there is a session with it.
    fn ask_again(&mut self, account: &AccountId) -> Result<()> {
        let Some((node, _)) = self.due.asking_keeper.get(account).copied() else {
            return Ok(());
        };
        let own = self.own(account)?;
        let request = Request::Keep {
            record: own.record.signed.clone(),
            keys: own.keys.clone(),
        };
        self.ask(node, request, Purpose::Keep(*account));
        Ok(())
    }

    /// A session that a question was waiting for is open.
    pub(super) fn ask_waiting_keepers(&mut self, node: NodeId) -> Result<()> {
        let waiting: Vec<AccountId> = self
            .due
            .asking_keeper
            .iter()
            .filter(|(_, (asked, _))| *asked == node)
            .map(|(account, _)| *account)
            .collect();
        for account in waiting {
            self.ask_again(&account)?;
        }
        Ok(())
    }

    pub(super) fn keep_answer(
        &mut self,
        account: AccountId,
        node: NodeId,
        response: Response,
    ) -> Result<()> {
        self.due.asking_keeper.remove(&account);
        let gone = self.due.repairs.replacing.remove(&account);
        if let Response::No { why, .. } = response {
            tracing::debug!(keeper = ?node, %why, "a node does not keep");
            self.due
                .refusing
                .insert((account, node), self.now.plus(REFUSED_FOR));
            self.due.keepers_now();
            return Ok(());
        }
        let Some(record) = self.node_record(&node)? else {
            return Ok(());
        };
        let own = self.own(&account)?;
        if own.record.keeper(&node).is_some() || !self.is_level(&account) {
            return Ok(());
        }
        match gone {
            // It came back while the other was asked: nothing to repair.
            Some(gone) if self.gone(&account, &gone).is_none() => return Ok(()),
            None if own.record.record.keepers.len() >= KEEPERS_MAX => return Ok(()),
            _ => {}
        }
        if !self.list_keeper(account, gone, &entry_of(&record))? {
            return Ok(());
        }
        if let Some(gone) = gone {
            let view = serde_json::json!({ "node": gone.to_string(), "by": node.to_string() });
            self.event(Some(account), "keeper.replaced", &view)?;
        }
        self.compare_at(account, node, self.now.plus(SECOND / 20));
        self.due.keepers_now();
        let view = self.keepers_view(&account)?;
        self.event(Some(account), "keeper.added", &view)
    }

    /// A keeper holds so many one-time keys: more, when it runs low.
    pub(super) fn stock_answer(
        &mut self,
        account: AccountId,
        keeper: NodeId,
        count: u32,
    ) -> Result<()> {
        if count >= POOL / 2 {
            return Ok(());
        }
        let Some(own) = self.accounts.get_mut(&account) else {
            return Ok(());
        };
        if own.record.keeper(&keeper).is_none() {
            return Ok(());
        }
        let epoch = own.record.certificate.epoch;
        let wanted = usize::try_from(POOL - count).unwrap_or(0);
        let keys = own
            .ratchet
            .generate_one_time(wanted)
            .into_iter()
            .map(|key| {
                Signed::sign(
                    &OneTimeKey {
                        account,
                        epoch,
                        key,
                    },
                    &own.device,
                )
            })
            .collect();
        self.step.dirty_ratchets.insert(account);
        self.ask(
            keeper,
            Request::OneTimeKeys { account, keys },
            Purpose::Release,
        );
        Ok(())
    }

    /// Keys of a contact arrived: what waited can be sealed.
    pub(super) fn keys_answer(
        &mut self,
        account: AccountId,
        contact: AccountId,
        record: Signed<AccountRecord>,
        keys: Signed<KeyBundle>,
        one_time: Option<Signed<OneTimeKey>>,
    ) -> Result<()> {
        let Ok(record) = CheckedRecord::check(record) else {
            return Ok(());
        };
        if record.account() != contact {
            return Ok(());
        }
        self.hint(&record);
        self.newer_record(account, record.clone())?;
        let (Some(own), Some(entry)) = (
            self.accounts.get(&account),
            self.contacts.get_mut(&(account, contact)),
        ) else {
            return Ok(());
        };
        if record.version() < entry.record.version() {
            return Ok(());
        }
        let Ok(bundle) = KeyBundle::open_for(&keys, &entry.record) else {
            return Ok(());
        };
        let epoch = entry.record.certificate.epoch;
        let prekey = one_time
            .and_then(|signed| signed.open(&entry.record.device().0).ok())
            .filter(|key| key.account == contact && key.epoch == epoch)
            .map_or(bundle.last_resort, |key| key.key);
        if entry.sessions.is_empty()
            && let Err(error) = entry
                .sessions
                .start(&own.ratchet, bundle.ratchet_identity, prekey)
        {
            tracing::warn!(%contact, %error, "a contact's keys cannot be used");
            return Ok(());
        }
        entry.keys = Some((keys, bundle));
        self.due.wanting_keys.remove(&(account, contact));
        self.touch(account, contact);
        self.seal_waiting(account, contact)
    }

    /// Where an account's mailbox is kept, and what would be lost.
    pub(crate) fn keepers_view(&self, account: &AccountId) -> Result<KeepersView> {
        let own = self.own(account)?;
        let record = &own.record.record;
        let losses: Vec<LossView> = losses(&record.keepers, record.safe_copies)
            .into_iter()
            .map(|loss| {
                let text = match (loss.survives, loss.left) {
                    (true, left) => format!(
                        "if {} burned, nothing that is safe would be lost: {} would still hold it",
                        loss.building,
                        if left == 1 { "1 other building".into() } else { format!("{left} other buildings") }
                    ),
                    (false, _) => format!(
                        "if {} burned, everything not yet delivered would be lost: it is the only building, so nothing is called safe",
                        loss.building
                    ),
                };
                LossView {
                    building: loss.building,
                    keepers: loss.keepers,
                    left: loss.left,
                    survives: loss.survives,
                    text,
                }
            })
            .collect();
        let operators: BTreeSet<String> = record
            .keepers
            .iter()
            .map(|keeper| pumasi_protocol::record::normal(&keeper.operator))
            .filter(|operator| !operator.is_empty())
            .collect();
        let missing = self.missing(account)?;
        Ok(KeepersView {
            account: account.to_string(),
            wanted: KEEPERS,
            safe_copies: record.safe_copies,
            buildings: losses.len(),
            operators: operators.len(),
            keepers: record
                .keepers
                .iter()
                .map(|keeper| self.keeper_view(account, keeper))
                .collect::<Result<_>>()?,
            losses,
            missing,
            pages: 0,
            repairs: self.repairs_view(account)?,
        })
    }

    /// The same, with how many archive pages are proven to stand where: looks at every live page of the
    /// archive (at most its quota) and its receipts.
    pub(crate) fn keepers_report(&self, account: &AccountId) -> Result<KeepersView> {
        let mut view = self.keepers_view(account)?;
        view.pages = self.db.query_row(
            "SELECT count(*) FROM pages WHERE mailbox = ?1 AND hidden IS NULL",
            params![account.0],
            |row| row.get(0),
        )?;
        let nodes: Vec<NodeId> = self.own(account)?.keepers().collect();
        for (keeper, node) in view.keepers.iter_mut().zip(nodes) {
            let shelf = self.shelf_signed(account, &node)?.unwrap_or_default();
            keeper.pages = self
                .db
                .prepare_cached(
                    "SELECT count(*) FROM pages p
                     WHERE p.mailbox = ?1 AND p.hidden IS NULL AND (p.time < ?3 OR EXISTS (
                       SELECT 1 FROM receipt_items i
                       WHERE i.kind = ?4 AND i.item = p.id AND i.keeper = ?2))",
                )?
                .query_row(
                    params![account.0, node.0, shelf.0, super::proofs::ITEM_PAGE],
                    |row| row.get(0),
                )?;
        }
        Ok(view)
    }

    fn keeper_view(&self, account: &AccountId, keeper: &KeeperEntry) -> Result<KeeperView> {
        let node = keeper.place.node;
        Ok(KeeperView {
            node: node.to_string(),
            operator: keeper.operator.clone(),
            building: keeper.building.clone(),
            connected: self.is_connected(&node),
            silent_since: self.due.repairs.silent.get(&node).map(|at| rfc3339(*at)),
            joining: keeper.joining,
            lacks: keeper
                .joining
                .then(|| self.still_lacks(account, &node))
                .flatten(),
            gone: self.gone(account, &node).map(|gone| gone.text().to_owned()),
            pages: 0,
            level_at: self.shelf_signed(account, &node)?.map(rfc3339),
        })
    }

    /// What stands in the way of enough keepers.
    pub(super) fn missing(&self, account: &AccountId) -> Result<Option<String>> {
        let have = self.own(account)?.record.record.keepers.len();
        if have >= KEEPERS {
            return Ok(None);
        }
        let sentence = if let Some((node, _)) = self.due.asking_keeper.get(account) {
            format!("{have} of {KEEPERS} keepers; asking {} now", node.short())
        } else if self.best_candidate(account, None)?.is_some() {
            format!("{have} of {KEEPERS} keepers; the next one will be asked in a moment")
        } else {
            format!(
                "{have} of {KEEPERS} keepers; no known node in another building offers to keep: ask a friend in another building to run a node, or add bootstrap addresses"
            )
        };
        Ok(Some(sentence))
    }

    /// Asks a node or a contact's node to keep, as its owner wants.
    pub(crate) fn add_keeper(&mut self, account: &AccountId, who: &str) -> Result<KeepersView> {
        self.own(account)?;
        let node = match who.parse::<NodeId>() {
            Ok(node) => node,
            Err(_) => {
                let contact = self.find_contact(account, who)?;
                self.known_contact(*account, contact)?
                    .record
                    .record
                    .home
                    .node
            }
        };
        let own = self.own(account)?;
        if node == self.me {
            return Err(Error::invalid(
                "a node cannot keep its own account's mailbox",
            ));
        }
        if own.record.keeper(&node).is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{node} keeps for you already"),
            ));
        }
        if own.record.record.keepers.len() >= KEEPERS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("an account has at most {KEEPERS_MAX} keepers: remove one first"),
            ));
        }
        self.refuse_unknown(&node)?;
        self.due.refusing.remove(&(*account, node));
        self.ask_to_keep(*account, node)?;
        self.keepers_view(account)
    }

    /// Does without a keeper from now on. What it signed for it keeps to its date.
    pub(crate) fn remove_keeper(&mut self, account: &AccountId, who: &str) -> Result<KeepersView> {
        let node: NodeId = who
            .parse()
            .map_err(|error: pumasi_protocol::types::ParseError| {
                Error::invalid(error.to_string())
            })?;
        if self.own(account)?.record.keeper(&node).is_none() {
            return Err(Error::not_found(format!(
                "{node} does not keep for this account"
            )));
        }
        self.may_sign(account)?;
        let record = &self.own(account)?.record.record;
        let next = successor(&record.keepers, record.safe_copies, Some(&node), None);
        let Some((keepers, copies)) = next else {
            return Err(Error::new(
                ErrorKind::Refused,
                "too few other keepers hold everything without it: wait until those that are joining are filled (pumasi keeper list), or restore the account with its words",
            ));
        };
        self.due
            .refusing
            .insert((*account, node), self.now.plus(10 * REFUSED_FOR));
        self.change_record(account, |record| {
            record.keepers = keepers;
            record.safe_copies = copies;
        })?;
        self.let_go(*account, node)?;
        let view = self.keepers_view(account)?;
        self.event(Some(*account), "keeper.removed", &view)?;
        Ok(view)
    }

    /// An owner does without this node: nothing new is taken, what was signed for stays.
    pub(super) fn released(
        &mut self,
        from: NodeId,
        record: Signed<AccountRecord>,
    ) -> Result<Response> {
        let Ok(record) = CheckedRecord::check(record) else {
            return Ok(Response::No {
                why: "the record does not check out".into(),
                retry: false,
            });
        };
        let account = record.account();
        let me = self.me;
        let Some(kept) = self.kept_mut(&account)? else {
            return Ok(Response::Done);
        };
        let leaves = record.record.home.node == from && record.keeper(&me).is_none();
        if leaves && record.replaces(&kept.record) {
            self.take_record(&account, record);
        }
        Ok(Response::Done)
    }

    /// Mailboxes kept here: for the owner of the node.
    pub(crate) fn kept_count(&self) -> Result<(u64, u64)> {
        Ok(self.db.query_row(
            "SELECT count(*), (SELECT count(*) FROM envelopes e JOIN kept k ON k.mailbox = e.mailbox
               WHERE e.hidden IS NULL) FROM kept",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?)
    }
}

fn entry_of(record: &NodeRecord) -> KeeperEntry {
    KeeperEntry {
        place: record.place.clone(),
        operator: record.operator.clone(),
        building: record.building.clone(),
        joining: false,
    }
}

/// Pairs of nodes that can be reached at one public IP address: they may stand in one building,
/// whatever they say.
fn same_sites(keepers: &[KeeperEntry], candidates: &[Candidate]) -> BTreeSet<(NodeId, NodeId)> {
    let address = |entry: &KeeperEntry| -> BTreeSet<String> {
        entry
            .place
            .addresses
            .iter()
            .filter_map(|text| {
                let mut parts = text.split('/').skip(1);
                match parts.next() {
                    Some("ip4" | "ip6") => parts.next().map(str::to_owned),
                    _ => None,
                }
            })
            .collect()
    };
    let mut pairs = BTreeSet::new();
    for keeper in keepers {
        let taken = address(keeper);
        for candidate in candidates {
            if !address(&candidate.entry).is_disjoint(&taken) {
                pairs.insert((candidate.entry.place.node, keeper.place.node));
            }
        }
    }
    pairs
}
