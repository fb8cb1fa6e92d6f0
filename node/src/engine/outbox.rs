//! The outbox: what is to be handed to which node, in frames, as far as each node's window allows.

use std::collections::BTreeSet;

use pumasi_protocol::codec::{self, Wire};
use pumasi_protocol::envelope::{Encapsulation, Envelope, SealName};
use pumasi_protocol::types::{AccountId, EnvelopeId, NodeId};
use pumasi_protocol::wire::{BATCH_BYTES, Frame, Parcel};
use rusqlite::params;

use super::outgoing::OUTBOX_ENVELOPE;
use super::outgoing::OUTBOX_STATEMENT;
use super::outgoing::Parcelled;
use super::outgoing::WINDOW;
use super::outgoing::targets;
use super::{Engine, blob, one};
use crate::error::Result;

impl Engine {
    pub(super) fn queue_for(&mut self, node: NodeId, kind: i64, item: i64) -> Result<i64> {
        self.db
            .prepare_cached("INSERT INTO outbox (node, kind, item) VALUES (?1, ?2, ?3)")?
            .execute(params![node.0, kind, item])?;
        Ok(self.db.last_insert_rowid())
    }

    /// Takes a sending out of every node's queue.
    pub(super) fn forget_outbox(&mut self, outgoing: i64) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2")?
            .execute(params![OUTBOX_ENVELOPE, outgoing])?;
        for parcels in self.step.fresh.values_mut() {
            // A parcel sealed in this very step must not leave either.
            parcels.retain(|parcel| parcel.sending != outgoing);
        }
        Ok(())
    }

    /// Hands what was sealed in this step to the nodes that are connected.
    pub(super) fn flush_fresh(&mut self) -> Result<()> {
        for (node, parcels) in std::mem::take(&mut self.step.fresh) {
            let Some(peer) = self.peers.get_mut(&node).filter(|peer| peer.connected) else {
                self.want(node);
                continue;
            };
            if peer.backlog || peer.inflight.len() + parcels.len() > WINDOW {
                peer.backlog = true;
                self.pump(node)?;
                continue;
            }
            if let Some(last) = parcels.last() {
                peer.cursor = peer.cursor.max(last.outbox);
            }
            self.put(node, parcels);
        }
        Ok(())
    }

    /// Sends parcels in frames, with the seal keys that the node may lack.
    pub(super) fn put(&mut self, node: NodeId, parcels: Vec<Parcelled>) {
        let pass_on = self.unreachable_targets(&parcels);
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let mut frames: Vec<Vec<Parcel>> = vec![vec![]];
        let mut size = 0;
        for parcel in parcels {
            if peer.inflight.is_empty() {
                peer.progress = now;
            }
            peer.inflight.insert(parcel.id, parcel.outbox);
            let mut seals = Vec::new();
            for (name, encapsulation) in parcel.seals {
                if peer.knows_seal(name) {
                    continue;
                }
                seals.push(encapsulation);
            }
            let bytes = parcel.bytes.len() + seals.len() * Encapsulation::MAX;
            if size > 0 && size + bytes > BATCH_BYTES {
                frames.push(vec![]);
                size = 0;
            }
            size += bytes;
            if let Some(frame) = frames.last_mut() {
                frame.push(Parcel {
                    envelope: parcel.bytes,
                    seals,
                });
            }
        }
        for parcels in frames {
            if !parcels.is_empty() {
                self.send(
                    node,
                    &Frame::Put {
                        parcels,
                        pass_on: pass_on.clone(),
                    },
                );
            }
        }
    }

    /// Keepers that these parcels should reach and that this node cannot reach now.
    pub(super) fn unreachable_targets(&self, parcels: &[Parcelled]) -> Vec<NodeId> {
        let mut list = BTreeSet::new();
        for parcel in parcels.iter().take(1) {
            let Ok(envelope) = codec::decode::<Envelope>(&parcel.bytes) else {
                continue;
            };
            let mailbox = envelope.sealed.mailbox;
            let record = self
                .contacts
                .range((AccountId([0; 32]), mailbox)..)
                .find(|((_, contact), _)| *contact == mailbox)
                .map(|(_, contact)| &contact.record);
            let Some(record) = record else { continue };
            for target in targets(record) {
                if !self.peers.get(&target).is_some_and(|peer| peer.connected) {
                    list.insert(target);
                }
            }
        }
        list.into_iter().collect()
    }

    /// Sends what waits for a node, as far as the window allows.
    pub(super) fn pump(&mut self, node: NodeId) -> Result<()> {
        loop {
            let Some(peer) = self
                .peers
                .get(&node)
                .filter(|peer| peer.connected && peer.backlog)
            else {
                return Ok(());
            };
            let room = WINDOW.saturating_sub(peer.inflight.len() + peer.noting.len());
            if room == 0 {
                return Ok(());
            }
            let rows: Vec<(i64, i64, i64)> = self
                .db
                .prepare_cached(
                    "SELECT id, kind, item FROM outbox WHERE node = ?1 AND id > ?2
                     ORDER BY id LIMIT ?3",
                )?
                .query_map(params![node.0, peer.cursor, room.min(64) as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            let last = rows.last().map(|(id, _, _)| *id);
            let mut parcels = Vec::new();
            let mut statements = Vec::new();
            for (outbox, kind, item) in rows {
                if kind == OUTBOX_STATEMENT {
                    statements.push((outbox, item));
                } else if let Some(parcel) = self.parcel(outbox, item)? {
                    parcels.push(parcel);
                }
            }
            let Some(peer) = self.peers.get_mut(&node) else {
                return Ok(());
            };
            match last {
                Some(last) => peer.cursor = last,
                None => peer.backlog = false,
            }
            self.put(node, parcels);
            self.send_statements(node, &statements)?;
        }
    }

    pub(super) fn parcel(&mut self, outbox: i64, outgoing: i64) -> Result<Option<Parcelled>> {
        let row = one(self
            .db
            .prepare_cached(
                "SELECT envelope, bytes, account, contact FROM outgoing
                 WHERE id = ?1 AND envelope IS NOT NULL",
            )?
            .query_row(params![outgoing], |row| {
                Ok((
                    blob(row, 0)?,
                    row.get::<_, Vec<u8>>(1)?,
                    blob(row, 2)?,
                    blob(row, 3)?,
                ))
            }))?;
        let Some((envelope, bytes, account, contact)) = row else {
            self.db
                .prepare_cached("DELETE FROM outbox WHERE id = ?1")?
                .execute(params![outbox])?;
            return Ok(None);
        };
        let seals = self.seals_of(AccountId(account), AccountId(contact), &bytes)?;
        Ok(Some(Parcelled {
            outbox,
            sending: outgoing,
            id: EnvelopeId(envelope),
            bytes: bytes.into(),
            seals,
        }))
    }

    /// The encapsulations that an own envelope names: today's from memory; older ones are sealed anew
    /// when a keeper lacks them.
    pub(super) fn seals_of(
        &mut self,
        account: AccountId,
        contact: AccountId,
        bytes: &[u8],
    ) -> Result<Vec<(SealName, Encapsulation)>> {
        let Ok(envelope) = codec::decode::<Envelope>(bytes) else {
            return Ok(vec![]);
        };
        let Some(entry) = self.contact(account, contact)? else {
            return Ok(vec![]);
        };
        let named = [
            Some(envelope.sealed.device_seal),
            envelope.sealed.recovery_seal,
        ];
        let held = [&entry.secrets.device_seal, &entry.secrets.recovery_seal];
        Ok(held
            .into_iter()
            .flatten()
            .filter(|seal| named.contains(&Some(seal.seal.name)))
            .map(|seal| (seal.seal.name, seal.encapsulation.clone()))
            .collect())
    }
}
