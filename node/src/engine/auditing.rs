//! Possession audits: whether the keepers of own accounts still hold the archive pages that they
//! signed for. Silence is no failure; a wrong answer is.

use std::collections::BTreeMap;

use pumasi_protocol::types::{AccountId, EnvelopeId, Hash, NodeId, SECOND, Time};
use pumasi_protocol::wire::{Request, Response, audit_proof};
use rand::Rng as _;
use rusqlite::params;

use super::peers::Purpose;
use super::replacing::Gone;
use super::{Engine, blob, one};
use crate::error::Result;

/// Each keeper is challenged about this often: half of it at the least, one and a half at the most.
const AUDIT_EVERY: u64 = 60 * 60 * SECOND;
/// The first challenge comes within this time after a keeper was first seen connected.
const FIRST_WITHIN: u64 = 30 * SECOND;
/// Pages looked at for one that the keeper is known to hold.
const TRIES: usize = 8;

/// When who is challenged; begun anew after a restart.
#[derive(Debug, Default)]
pub(super) struct Audits {
    pub(super) due: BTreeMap<(AccountId, NodeId), Time>,
}

impl Engine {
    /// After the start: a keeper that failed once does not get its place back by a restart here.
    pub(super) fn load_failed_keepers(&mut self) -> Result<()> {
        let failed: Vec<([u8; 32], [u8; 32])> = self
            .db
            .prepare("SELECT account, keeper FROM failed_keepers")?
            .query_map([], |row| Ok((blob(row, 0)?, blob(row, 1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (account, keeper) in failed {
            let pair = (AccountId(account), NodeId(keeper));
            self.due.repairs.gone.insert(pair, Gone::Failed);
        }
        Ok(())
    }

    pub(super) fn tick_audits(&mut self) -> Result<()> {
        let now = self.now;
        let mut keepers = Vec::new();
        for (account, own) in &self.accounts {
            if !self.is_level(account) {
                continue;
            }
            let settled = own.record.record.keepers.iter().filter(|k| !k.joining);
            keepers.extend(settled.map(|keeper| (*account, keeper.place.node)));
        }
        let audits = &mut self.due.audits;
        audits.due.retain(|pair, _| keepers.contains(pair));
        for (account, node) in keepers {
            if node == self.me || !self.is_connected(&node) {
                continue;
            }
            let wait = match self.due.audits.due.get(&(account, node)) {
                Some(at) if *at > now => continue,
                Some(_) => {
                    self.challenge(account, node)?;
                    AUDIT_EVERY / 2 + self.rng.next_u64() % AUDIT_EVERY
                }
                None => self.rng.next_u64() % FIRST_WITHIN,
            };
            self.due.audits.due.insert((account, node), now.plus(wait));
        }
        Ok(())
    }

    /// Asks a keeper for the proof of one page, taken at random from those it has signed for: alone, or
    /// with all that were there then. Pages that a segment took the place of are not asked for: they may
    /// be erased.
    fn challenge(&mut self, account: AccountId, node: NodeId) -> Result<()> {
        let last: Option<i64> = self.db.query_row(
            "SELECT max(id) FROM pages WHERE mailbox = ?1 AND hidden IS NULL",
            params![account.0],
            |row| row.get(0),
        )?;
        let Some(last) = last.and_then(|last| u64::try_from(last).ok()) else {
            return Ok(());
        };
        let shelf = self.shelf_signed(&account, &node)?;
        for _ in 0..TRIES {
            let from = self.rng.next_u64() % (last + 1);
            let row: Option<([u8; 32], u64, Vec<u8>, i64)> = one(self
                .db
                .prepare_cached(
                    "SELECT page, time, bytes, id FROM pages
                     WHERE id >= ?2 AND mailbox = ?1 AND hidden IS NULL ORDER BY id LIMIT 1",
                )?
                .query_row(params![account.0, from], |row| {
                    Ok((blob(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                }))?;
            let Some((page, time, bytes, id)) = row else {
                continue;
            };
            let signed = self
                .db
                .prepare_cached(
                    "SELECT 1 FROM receipt_items
                     WHERE kind = ?1 AND item = ?2 AND keeper = ?3",
                )?
                .exists(params![super::proofs::ITEM_PAGE, id, node.0])?;
            if !signed && shelf.is_none_or(|until| until.0 <= time) {
                continue;
            }
            let nonce = self.random();
            let right = audit_proof(&nonce, &bytes);
            let request = Request::Audit {
                mailbox: account,
                id: EnvelopeId(page),
                nonce,
            };
            self.ask(node, request, Purpose::Audit(account, right));
            return Ok(());
        }
        Ok(())
    }

    pub(super) fn audit_answer(
        &mut self,
        account: AccountId,
        node: NodeId,
        right: Hash,
        response: &Response,
    ) -> Result<()> {
        let Response::Proof(proof) = response else {
            // It has another record, or no part: asking about the record settles which.
            return self.no_part_there(account, node);
        };
        let listed = self
            .accounts
            .get(&account)
            .is_some_and(|own| own.record.keeper(&node).is_some());
        if !listed || *proof == Some(right) {
            return Ok(());
        }
        let what = if proof.is_some() {
            "answered wrongly"
        } else {
            "does not have it any more"
        };
        let why = format!(
            "keeper {} was asked to prove that it holds a page of the archive that it had signed for, and {what}: it counts as gone and is replaced",
            node.short()
        );
        tracing::warn!(keeper = ?node, "{why}");
        self.db
            .prepare_cached(
                "INSERT OR IGNORE INTO failed_keepers (account, keeper) VALUES (?1, ?2)",
            )?
            .execute(params![account.0, node.0])?;
        self.due.repairs.gone.insert((account, node), Gone::Failed);
        self.due.keepers_now();
        let view = serde_json::json!({ "node": node.to_string(), "why": why });
        self.event(Some(account), "keeper.failed", &view)?;
        self.event(
            Some(account),
            "node.alarm",
            &serde_json::json!({ "alarm": why }),
        )
    }
}
