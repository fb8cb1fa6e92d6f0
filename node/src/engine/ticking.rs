//! Everything that is due by time.

use std::collections::BTreeSet;

use pumasi_protocol::codec;
use pumasi_protocol::mailbox::RECONCILE_EVERY;
use pumasi_protocol::types::{AccountId, NodeId, SECOND};
use rand::Rng as _;
use rusqlite::params;

use super::{Effect, Engine};
use crate::error::Result;

/// The own node record is signed anew this often, and lives this long.
const PUBLISH_EVERY: u64 = 30 * 60 * SECOND;
/// Envelopes without an answer are sent again after this long without any progress.
const RESEND_AFTER: u64 = 10 * SECOND;

impl Engine {
    /// Everything that is due.
    pub(super) fn tick(&mut self) -> Result<()> {
        let now = self.now;
        self.send_bundles()?;
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
        if self.due.locate <= now {
            self.put_locators()?;
        }
        self.tick_archive()?;
        self.tick_segments()?;
        self.tick_level()?;
        self.tick_repairs()?;
        self.tick_audits()?;
        self.tick_restore()?;
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

    pub(super) fn tick_keys(&mut self) -> Result<()> {
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
            } else {
                // The contact began a session meanwhile: what waited can be sealed.
                self.seal_waiting(account, contact)?;
            }
        }
        Ok(())
    }

    pub(super) fn tick_peers(&mut self) -> Result<()> {
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

    pub(super) fn asked_for(&self, node: &NodeId) -> bool {
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

    pub(super) fn has_outbox(&self, node: &NodeId) -> Result<bool> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM outbox WHERE node = ?1 LIMIT 1")?
            .exists(params![node.0])?)
    }

    /// Own keepers and the nodes that share mailboxes stay connected.
    pub(super) fn pin(&mut self) {
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

    pub(super) fn tick_compare(&mut self) -> Result<()> {
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
}
