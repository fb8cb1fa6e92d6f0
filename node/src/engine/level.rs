//! Whether an own account may sign: not while its database may be an older copy than what it once
//! archived, and not after another device took over. After each start it compares its archive with
//! as many keepers as a restore would read.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::crypto::Signed;
use pumasi_protocol::record::{AccountRecord, CheckedRecord};
use pumasi_protocol::succession;
use pumasi_protocol::types::{AccountId, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Request, Response};
use rusqlite::params;

use super::Engine;
use super::peers::Purpose;
use crate::error::{Error, ErrorKind, Result};

/// A keeper is asked again after this long without an answer.
const ASK_AGAIN: u64 = 2 * SECOND;

/// How an own account stands to what it once archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Level {
    /// It goes on.
    Active,
    /// Not compared yet since the start: who answered, and who was asked when.
    Unchecked {
        answered: BTreeSet<NodeId>,
        asked: BTreeMap<NodeId, Time>,
    },
    /// Keepers hold more than this database: it is an older copy. It never signs again.
    Behind,
    /// Another device has a higher certificate. It never signs again.
    Replaced,
}

impl Level {
    /// What the `accounts` table says.
    pub(super) fn from_code(code: i64) -> Self {
        match code {
            1 => Self::Behind,
            2 => Self::Replaced,
            _ => Self::Unchecked {
                answered: BTreeSet::new(),
                asked: BTreeMap::new(),
            },
        }
    }

    /// The word for it in views.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unchecked { .. } => "checking",
            Self::Behind => "behind",
            Self::Replaced => "replaced",
        }
    }
}

/// How many keepers must be read so that everything safe is seen: R = N - W + 1.
pub(super) fn readers(record: &CheckedRecord) -> usize {
    succession::readers(record.record.keepers.len(), record.record.safe_copies)
}

/// Whether what these keepers hold shows everything that was ever safe.
pub(super) fn is_reading(record: &CheckedRecord, read: &BTreeSet<NodeId>) -> bool {
    succession::is_reading(&record.record.keepers, record.record.safe_copies, read)
}

impl Engine {
    /// Whether an account may sign now.
    pub(super) fn is_level(&self, account: &AccountId) -> bool {
        self.accounts
            .get(account)
            .is_some_and(|own| own.level == Level::Active)
    }

    /// The same, with the reason.
    pub(super) fn may_sign(&self, account: &AccountId) -> Result<()> {
        let own = self.own(account)?;
        let why = match &own.level {
            Level::Active => return Ok(()),
            Level::Unchecked { answered, .. } => {
                return Err(Error::new(
                    ErrorKind::Checking,
                    format!(
                        "this account was just started and is being compared with its keepers ({} of {} have answered): try again in a moment",
                        answered.len(),
                        readers(&own.record)
                    ),
                ));
            }
            Level::Behind => {
                "this node's database is an older copy: the keepers hold more of this account than is here. Restore the account from its 24 words on an empty directory (pumasi restore)"
            }
            Level::Replaced => {
                "another device took over this account: this one was replaced and signs nothing any more. If that was not you, restore the account from its 24 words (pumasi restore)"
            }
        };
        Err(Error::new(ErrorKind::Refused, why))
    }

    /// Accounts that may not sign yet because they are being compared.
    pub(crate) fn checking(&self) -> Vec<AccountId> {
        self.accounts
            .iter()
            .filter(|(_, own)| matches!(own.level, Level::Unchecked { .. }))
            .map(|(account, _)| *account)
            .collect()
    }

    /// Refuses while any account is being compared, with the reason.
    pub(crate) fn all_checked(&self) -> Result<()> {
        for account in self.checking() {
            let name = &self.own(&account)?.name;
            self.may_sign(&account)
                .map_err(|error| Error::new(error.kind(), format!("`{name}`: {error}")))?;
        }
        Ok(())
    }

    /// After the start: accounts without enough keepers to compare with go on at once.
    pub(super) fn begin_levels(&mut self) {
        for own in self.accounts.values_mut() {
            let none = is_reading(&own.record, &BTreeSet::new());
            if matches!(own.level, Level::Unchecked { .. }) && none {
                own.level = Level::Active;
            }
        }
    }

    /// Asks keepers how far they know the archive.
    pub(super) fn tick_level(&mut self) -> Result<()> {
        let now = self.now;
        let mut questions = Vec::new();
        for (account, own) in &mut self.accounts {
            let Level::Unchecked { answered, asked } = &mut own.level else {
                continue;
            };
            for keeper in &own.record.record.keepers {
                let node = keeper.place.node;
                let waits = asked
                    .get(&node)
                    .is_some_and(|at| now.since(*at) < ASK_AGAIN);
                let connected = self.peers.get(&node).is_some_and(|peer| peer.connected);
                if connected && !waits && !answered.contains(&node) {
                    asked.insert(node, now);
                    questions.push((*account, node));
                }
            }
        }
        for (mailbox, node) in questions {
            let request = Request::ArchiveHead { mailbox };
            self.ask(node, request, Purpose::Head(mailbox));
        }
        // Others may have become gone since the last answer came.
        for account in self.checking() {
            self.level_if_compared(account)?;
        }
        Ok(())
    }

    /// A keeper said how far it knows the archive.
    pub(super) fn head_answer(
        &mut self,
        account: AccountId,
        node: NodeId,
        epoch: u64,
        number: u64,
    ) -> Result<()> {
        let Some(own) = self.accounts.get_mut(&account) else {
            return Ok(());
        };
        let Level::Unchecked { answered, .. } = &mut own.level else {
            return Ok(());
        };
        let volume = own.archive.volume.epoch;
        if epoch > volume || (epoch == volume && number > own.archive.last()) {
            return self.stop_signing(account, Level::Behind);
        }
        answered.insert(node);
        self.level_if_compared(account)
    }

    /// The account may sign once those who answered show how far its archive goes.
    fn level_if_compared(&mut self, account: AccountId) -> Result<()> {
        if !self.is_compared(&account) {
            return Ok(());
        }
        if let Some(own) = self.accounts.get_mut(&account) {
            own.level = Level::Active;
        }
        self.step.levels = true;
        self.became_level(account)
    }

    /// Whether the keepers that answered make a reading; or as many as one needs, where some of them are
    /// joining and all that have not answered are gone. A joining keeper may lack what is old, but it
    /// gets each page as it is written: it knows how far the archive goes, and a home that is whole does
    /// not wait for those who burned.
    fn is_compared(&self, account: &AccountId) -> bool {
        let Some(own) = self.accounts.get(account) else {
            return false;
        };
        let Level::Unchecked { answered, .. } = &own.level else {
            return false;
        };
        if is_reading(&own.record, answered) {
            return true;
        }
        let (here, left): (Vec<NodeId>, Vec<NodeId>) =
            own.keepers().partition(|node| answered.contains(node));
        here.len() >= readers(&own.record).max(1)
            && left.iter().all(|node| self.gone(account, node).is_some())
    }

    /// What had to wait until the account may sign.
    fn became_level(&mut self, account: AccountId) -> Result<()> {
        self.follow_addresses(&account)?;
        let contacts: Vec<[u8; 32]> = self
            .db
            .prepare_cached(
                "SELECT DISTINCT contact FROM outgoing WHERE account = ?1 AND envelope IS NULL",
            )?
            .query_map(params![account.0], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for contact in contacts {
            self.seal_waiting(account, AccountId(contact))?;
        }
        self.due.keepers_now();
        Ok(())
    }

    /// A newer record of an own account: another device took over.
    pub(super) fn newer_own_record(
        &mut self,
        account: AccountId,
        record: Signed<AccountRecord>,
    ) -> Result<()> {
        let Ok(record) = CheckedRecord::check(record) else {
            return Ok(());
        };
        if self.restoring.contains_key(&account) {
            return self.restore_outrun(account, record);
        }
        let Some(own) = self.accounts.get(&account) else {
            return Ok(());
        };
        if record.account() != account || !record.replaces(&own.record) {
            return Ok(());
        }
        let level = if record.device() == own.record.device() {
            // Signed by this very device, and unknown here.
            Level::Behind
        } else {
            Level::Replaced
        };
        self.stop_signing(account, level)
    }

    /// The account was restored from its words elsewhere while this node lives, and its new device says
    /// so itself: nothing is signed here any more, and the new home may read what is here. That is all
    /// there is to read when every keeper burned.
    pub(super) fn succeeded_by(&mut self, record: CheckedRecord) -> Result<Response> {
        let account = record.account();
        let own = self.own(&account)?;
        if !record.replaces(&own.record) {
            return Ok(if record.version() == own.record.version() {
                Response::Done
            } else {
                Response::Newer(own.record.signed.clone())
            });
        }
        if record.device() == own.record.device() {
            self.newer_own_record(account, record.signed)?;
            return Ok(Response::Done);
        }
        if let Some(known) = self.due.successors.get(&account)
            && known.replaces(&record)
        {
            return Ok(Response::Newer(known.signed.clone()));
        }
        self.newer_own_record(account, record.signed.clone())?;
        self.due.successors.insert(account, record);
        Ok(Response::Done)
    }

    /// Whether a node is the new home of an account that was restored while it lives here.
    pub(super) fn is_successor(&self, account: &AccountId, node: &NodeId) -> bool {
        let successor = self.due.successors.get(account);
        successor.is_some_and(|record| record.record.home.node == *node)
    }

    fn stop_signing(&mut self, account: AccountId, level: Level) -> Result<()> {
        let Some(own) = self.accounts.get_mut(&account) else {
            return Ok(());
        };
        if own.level == level || own.level == Level::Replaced {
            return Ok(());
        }
        let code = if level == Level::Behind { 1 } else { 2 };
        own.level = level;
        self.step.levels = true;
        let name = own.name.clone();
        let why = self
            .may_sign(&account)
            .map_or_else(|error| error.to_string(), |()| String::new());
        tracing::error!(account = %name, "{why}");
        self.db.execute(
            "UPDATE accounts SET stopped = ?2 WHERE account = ?1",
            params![account.0, code],
        )?;
        self.event(
            Some(account),
            "node.alarm",
            &serde_json::json!({ "alarm": format!("account `{name}`: {why}") }),
        )
    }
}
