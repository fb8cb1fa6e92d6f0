//! What the node says about itself as a whole: status, lists of accounts and peers, cursors.

use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::line::line_id;
use pumasi_protocol::record::{KEEPERS, NodeRecord};
use pumasi_protocol::types::{AccountId, NodeId, Unit};
use rusqlite::params;

use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};
use crate::read;
use crate::view::{AccountStatusView, AccountView, LineView, NodeView, PeerView, StatusView};

/// Nodes listed at most.
const PEERS_SHOWN: i64 = 500;

impl Engine {
    pub(crate) fn has_accounts(&self) -> bool {
        !self.accounts.is_empty()
    }

    pub(crate) fn account_views(&self) -> Vec<AccountView> {
        let mut list: Vec<AccountView> = self.accounts.values().map(read::account_view).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    pub(crate) fn account_view(&self, account: &AccountId) -> Result<AccountView> {
        Ok(read::account_view(self.own(account)?))
    }

    /// The account that a person means.
    pub(crate) fn find_account(&self, which: Option<&str>) -> Result<AccountId> {
        let Some(which) = which.map(str::trim).filter(|which| !which.is_empty()) else {
            return match self.accounts.len() {
                1 => self.accounts.keys().next().copied().ok_or_else(no_account),
                0 => Err(no_account()),
                _ => Err(Error::new(
                    ErrorKind::Ambiguous,
                    format!(
                        "several accounts are on this node ({}): name one",
                        self.names()
                    ),
                )),
            };
        };
        let by_id = which
            .parse::<AccountId>()
            .ok()
            .filter(|id| self.accounts.contains_key(id));
        let by_name = || {
            self.accounts
                .values()
                .find(|own| own.name == which)
                .map(|own| own.id())
        };
        by_id.or_else(by_name).ok_or_else(|| {
            let names = self.names();
            let shown: String = which.chars().take(80).collect();
            Error::not_found(if names.is_empty() {
                format!("no account `{shown}`: this node has none yet")
            } else {
                format!("no account `{shown}` on this node; there is {names}")
            })
        })
    }

    fn names(&self) -> String {
        let names: Vec<String> = self
            .account_views()
            .into_iter()
            .map(|view| view.name)
            .collect();
        names.join(", ")
    }

    /// The line with a contact.
    pub(crate) fn line_of(
        &mut self,
        account: &AccountId,
        who: &str,
        unit: &str,
    ) -> Result<LineView> {
        let unit: Unit = unit
            .parse()
            .map_err(|error: pumasi_protocol::types::ParseError| {
                Error::invalid(error.to_string())
            })?;
        let contact = self.find_contact(account, who)?;
        self.line_view(account, line_id(*account, contact, &unit))
    }

    /// Everything at one look.
    pub(crate) fn status(
        &mut self,
        node: NodeView,
        uptime: u64,
        bytes_in: u64,
        bytes_out: u64,
    ) -> Result<StatusView> {
        let ids: Vec<AccountId> = self.accounts.keys().copied().collect();
        let mut accounts = Vec::new();
        let mut alarms = Vec::new();
        for id in ids {
            let status = self.account_status(&id)?;
            alarms.extend(self.alarms_of(&id)?);
            accounts.push(status);
        }
        accounts.sort_by(|a, b| a.account.name.cmp(&b.account.name));
        if accounts.is_empty() {
            alarms.push("no account yet: make one with `pumasi account add NAME`".into());
        }
        if self.settings.building.trim().is_empty() {
            alarms.push(
                "this node does not say where it stands, so nobody will ask it to keep: set a building"
                    .into(),
            );
        }
        let (keeping, kept_items) = self.kept_count()?;
        let count = |sql: &str| self.db.query_row(sql, [], |row| row.get::<_, u64>(0));
        Ok(StatusView {
            node,
            accounts,
            connected: self.sessions().len(),
            known_nodes: count("SELECT count(*) FROM nodes")?,
            keeping,
            kept_items,
            outbox: count("SELECT count(*) FROM outbox")?,
            bytes_in,
            bytes_out,
            uptime,
            alarms,
        })
    }

    /// What of an account needs a person, in sentences.
    pub(super) fn alarms_of(&self, account: &AccountId) -> Result<Vec<String>> {
        let own = self.own(account)?;
        let name = &own.name;
        let mut alarms = Vec::new();
        if let Err(error) = self.may_sign(account) {
            alarms.push(format!("{name}: {error}"));
        }
        if own.record.record.keepers.len() < KEEPERS {
            let missing = self.missing(account)?.unwrap_or_default();
            alarms.push(format!("{name}: {missing}"));
        }
        if let Some((keeper, _)) = self.gone_keeper(account)
            && let Err(why) = self.replaceable(account, &keeper)?
        {
            alarms.push(format!("{name}: a keeper is gone, and {why}"));
        }
        Ok(alarms)
    }

    fn account_status(&self, account: &AccountId) -> Result<AccountStatusView> {
        let keepers = self.keepers_view(account)?;
        let count = |sql: &str| {
            self.db.prepare_cached(sql).and_then(|mut query| {
                query.query_row(params![account.0], |row| row.get::<_, u64>(0))
            })
        };
        let mut balances: BTreeMap<String, i128> = BTreeMap::new();
        for line in read::lines(&self.db, account)? {
            let slot = balances.entry(line.unit).or_default();
            *slot = slot.saturating_add(line.balance.parse().unwrap_or(0));
        }
        let (archive_behind, since) = self.archive_behind(account)?;
        Ok(AccountStatusView {
            account: self.account_view(account)?,
            keepers: keepers.keepers.len(),
            keepers_wanted: keepers.wanted,
            buildings: keepers.buildings,
            contacts: count("SELECT count(*) FROM contacts WHERE account = ?1")?,
            unread: count(
                "SELECT count(*) FROM messages WHERE account = ?1 AND outgoing = 0 AND state < 4",
            )?,
            waiting: count(
                "SELECT count(*) FROM messages WHERE account = ?1 AND outgoing = 1 AND safe = 0",
            )?,
            archive_behind,
            archive_behind_ms: since.map_or(0, |since| self.now().since(since)),
            unopened: self.unopened(account)?,
            balances: balances
                .into_iter()
                .map(|(unit, sum)| (unit, sum.to_string()))
                .collect(),
        })
    }

    /// Nodes that are known or connected.
    pub(crate) fn peer_views(&self) -> Result<Vec<PeerView>> {
        let rows: Vec<([u8; 32], Vec<u8>)> = self
            .db
            .prepare_cached(
                "SELECT node, record FROM nodes WHERE expires > ?1 ORDER BY node LIMIT ?2",
            )?
            .query_map(params![self.now().0, PEERS_SHOWN], |row| {
                Ok((blob(row, 0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let sessions = self.sessions();
        let blocked: BTreeSet<NodeId> = self.blocked_nodes().into_iter().collect();
        let mut shown = BTreeSet::new();
        let mut list = Vec::new();
        for (node, record) in rows {
            let node = NodeId(node);
            shown.insert(node);
            let record = codec::decode::<Signed<NodeRecord>>(&record)
                .ok()
                .and_then(|signed| signed.unverified().ok());
            let connected = sessions.contains(&node);
            list.push(read::peer_view(
                node,
                record.as_ref(),
                connected,
                blocked.contains(&node),
            ));
        }
        for node in sessions
            .union(&blocked)
            .filter(|node| !shown.contains(node))
        {
            let connected = sessions.contains(node);
            list.push(read::peer_view(
                *node,
                None,
                connected,
                blocked.contains(node),
            ));
        }
        list.sort_by_key(|peer| (!peer.connected, peer.building.clone(), peer.node.clone()));
        Ok(list)
    }

    /// Whether the store takes writes: writes a row.
    pub(crate) fn probe(&mut self) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', ?1)")?
            .execute(params![self.now().0.to_be_bytes()])?;
        Ok(())
    }

    /// The node is up.
    pub(crate) fn ready_event(&mut self) -> Result<()> {
        let data = serde_json::json!({ "node": self.me().to_string() });
        self.event(None, "node.ready", &data)
    }

    /// What a subscription acknowledged.
    pub(crate) fn event_cursor(&self, name: &str) -> Result<u64> {
        let bytes: Option<Vec<u8>> = one(self.db.query_row(
            "SELECT value FROM meta WHERE key = ?1",
            params![format!("cursor:{name}")],
            |row| row.get(0),
        ))?;
        let seq = bytes
            .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok())
            .map(u64::from_be_bytes);
        Ok(match seq {
            Some(seq) => seq,
            // A new subscription begins with what is still kept.
            None => {
                self.db
                    .query_row("SELECT coalesce(min(seq), 1) - 1 FROM events", [], |row| {
                        row.get(0)
                    })?
            }
        })
    }

    /// Remembers what a subscription acknowledged.
    pub(crate) fn set_event_cursor(&mut self, name: &str, seq: u64) -> Result<()> {
        let seq = seq.min(self.last_event());
        self.db.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)",
            params![format!("cursor:{name}"), seq.to_be_bytes()],
        )?;
        Ok(())
    }
}

fn no_account() -> Error {
    Error::not_found("this node has no account yet: make one with `pumasi account add NAME`")
}
