//! Locators: the hints by which 24 words alone find an account's keepers. Putting own ones, keeping
//! those of others, and answering who asks. Reading them is in `restoring`.

use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::locator::{self, Locator, Whereabouts};
use pumasi_protocol::types::{AccountId, DAY, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Request, Response};
use rand::Rng as _;
use rusqlite::params;

use super::peers::{Due, Purpose};
use super::{Engine, one};
use crate::error::Result;

/// Locators that a node keeps at most: 8 KiB each at the most, a few hundred bytes mostly.
const LOCATORS_MAX: u64 = 20_000;
/// Nodes that one locator is put to, besides the keepers.
const SPREAD: usize = 8;
/// An own locator is put again this often; a kept account's by its keepers.
const PUT_EVERY: u64 = DAY;

impl Due {
    /// The keepers changed: the locators follow in a moment.
    pub(super) fn locate_soon(&mut self, now: Time) {
        self.locate = self.locate.min(now.plus(2 * SECOND));
    }
}

impl Engine {
    /// Puts the locators of own accounts, and again those of accounts kept here whose owner may be
    /// gone.
    pub(super) fn put_locators(&mut self) -> Result<()> {
        let jitter = self.rng.next_u64() % (PUT_EVERY / 4);
        self.due.locate = self.now.plus(PUT_EVERY - PUT_EVERY / 8 + jitter);
        let accounts: Vec<AccountId> = self.accounts.keys().copied().collect();
        for account in accounts {
            if self.is_level(&account) {
                self.put_own_locator(account)?;
            }
        }
        let stored: Vec<Vec<u8>> = self
            .db
            .prepare_cached("SELECT bytes FROM locators ORDER BY put LIMIT 256")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let nodes = self.some_peers();
        for signed in stored
            .iter()
            .filter_map(|bytes| codec::decode::<Signed<Locator>>(bytes).ok())
        {
            for node in nodes.iter().take(2) {
                self.ask(*node, Request::PutLocator(signed.clone()), Purpose::Release);
            }
        }
        Ok(())
    }

    fn put_own_locator(&mut self, account: AccountId) -> Result<()> {
        let nonce = self.nonce();
        let own = self.own(&account)?;
        let record = &own.record;
        if record.record.keepers.is_empty() {
            return Ok(());
        }
        let keepers = record.record.keepers.iter();
        let whereabouts = Whereabouts {
            account,
            record: record.version(),
            keepers: keepers.map(|keeper| keeper.place.clone()).collect(),
        };
        let signed = locator::write(&own.locator, &whereabouts, self.now, nonce);
        let mut nodes: Vec<NodeId> = own.keepers().collect();
        for node in self.some_peers() {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        self.take_locator(&signed)?;
        for node in nodes {
            if self.peers.get(&node).is_some_and(|peer| peer.connected) {
                self.ask(node, Request::PutLocator(signed.clone()), Purpose::Release);
            }
        }
        Ok(())
    }

    /// A few connected nodes, the ones to begin with among them.
    fn some_peers(&mut self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.sessions().into_iter().collect();
        for place in (1..nodes.len()).rev() {
            let other = usize::try_from(self.rng.next_u64() % (place as u64 + 1)).unwrap_or(0);
            nodes.swap(place, other);
        }
        nodes.truncate(SPREAD);
        nodes
    }

    /// Someone wants a locator kept. The newest of a name stays.
    pub(super) fn take_locator(&mut self, signed: &Signed<Locator>) -> Result<Response> {
        let no = |why: &str| Response::No {
            why: why.to_owned(),
            retry: false,
        };
        let Ok(locator) = locator::check(signed) else {
            return Ok(no("the locator is not signed by its name"));
        };
        if locator.version > self.now.plus(DAY).0 {
            return Ok(no("the locator is dated in the future"));
        }
        let known: Option<u64> = one(self
            .db
            .prepare_cached("SELECT version FROM locators WHERE name = ?1")?
            .query_row(params![locator.name], |row| row.get(0)))?;
        match known {
            Some(version) if version > locator.version => return Ok(Response::Done),
            Some(_) => {}
            None => {
                let count: u64 = self
                    .db
                    .query_row("SELECT count(*) FROM locators", [], |row| row.get(0))?;
                if count >= LOCATORS_MAX {
                    return Ok(no("no more locators are kept here"));
                }
            }
        }
        self.db
            .prepare_cached(
                "INSERT INTO locators (name, version, put, bytes) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET version = ?2, put = ?3, bytes = ?4",
            )?
            .execute(params![
                locator.name,
                locator.version,
                self.now.0,
                codec::encode(signed)
            ])?;
        Ok(Response::Done)
    }

    /// The locator under a name, if it is here.
    pub(super) fn stored_locator(&self, name: &[u8; 32]) -> Result<Option<Signed<Locator>>> {
        let bytes: Option<Vec<u8>> = one(self
            .db
            .prepare_cached("SELECT bytes FROM locators WHERE name = ?1")?
            .query_row(params![name], |row| row.get(0)))?;
        Ok(bytes.and_then(|bytes| codec::decode(&bytes).ok()))
    }

    pub(super) fn find_locator(&self, name: &[u8; 32]) -> Result<Response> {
        Ok(Response::Locator(self.stored_locator(name)?))
    }
}
