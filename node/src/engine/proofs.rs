//! What comes back for things sent: receipts, acknowledgements, refusals; and how far it raises what
//! people are shown.

use pumasi_protocol::archive::Mark;
use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::delivery::{self, State};
use pumasi_protocol::mailbox::{CLOCK_AHEAD_MAX, CustodyReceipt, NotAdmitted, RETENTION_MAX};
use pumasi_protocol::record::CheckedRecord;
use pumasi_protocol::types::{AccountId, EnvelopeId, MessageId, NodeId, Time};
use pumasi_protocol::wire::Refused;
use rusqlite::params;

use super::outgoing::Holders;
use super::outgoing::OUTBOX_ENVELOPE;
use super::{Engine, blob, one};
use crate::error::Result;
use crate::read;

/// Kinds of rows in the `receipt_items` table.
pub(super) const ITEM_MESSAGE: i64 = 0;
pub(super) const ITEM_PAGE: i64 = 1;

/// A sending under way, as far as answers need it.
pub(super) struct UnderWay {
    pub(super) id: i64,
    pub(super) account: AccountId,
    pub(super) contact: AccountId,
    /// Row of the message that people see, if they see one.
    pub(super) shown: Option<i64>,
    pub(super) holders: Holders,
    pub(super) delivered: bool,
}

impl Engine {
    /// Receipts came back.
    pub(super) fn receipts(
        &mut self,
        from: NodeId,
        receipts: Vec<(CustodyReceipt, Signed<CustodyReceipt>)>,
    ) -> Result<()> {
        for (mut receipt, signed) in receipts {
            receipt.until = receipt
                .until
                .min(self.now.plus(RETENTION_MAX + CLOCK_AHEAD_MAX));
            self.relay_receipt(from, &receipt, &signed);
            if let Some(peer) = self.peers.get_mut(&receipt.keeper) {
                peer.progress = self.now;
                for id in &receipt.ids {
                    peer.inflight.remove(id);
                }
            }
            self.page_receipt(&receipt, &signed)?;
            let mut stored = None;
            for id in &receipt.ids {
                let Some(sending) = self.under_way(id)? else {
                    continue;
                };
                let entry = self.known_contact(sending.account, sending.contact)?;
                if !delivery::counts(&receipt, &entry.record) {
                    continue;
                }
                if let Some(shown) = sending.shown {
                    let row = match stored {
                        Some(row) => row,
                        None => self.store_receipt(&receipt, &signed)?,
                    };
                    stored = Some(row);
                    self.db
                        .prepare_cached(
                            "INSERT OR REPLACE INTO receipt_items (kind, item, keeper, receipt)
                             VALUES (?1, ?2, ?3, ?4)",
                        )?
                        .execute(params![ITEM_MESSAGE, shown, receipt.keeper.0, row])?;
                }
                self.one_receipt(sending, &receipt)?;
            }
            self.pump_soon(receipt.keeper)?;
        }
        Ok(())
    }

    pub(super) fn store_receipt(
        &mut self,
        receipt: &CustodyReceipt,
        signed: &Signed<CustodyReceipt>,
    ) -> Result<i64> {
        self.db
            .prepare_cached("INSERT INTO receipts (until, bytes) VALUES (?1, ?2)")?
            .execute(params![receipt.until.0, codec::encode(signed)])?;
        Ok(self.db.last_insert_rowid())
    }

    pub(super) fn under_way(&self, envelope: &EnvelopeId) -> Result<Option<UnderWay>> {
        let row = one(self
            .db
            .prepare_cached(
                "SELECT id, account, contact, shown, receipts, delivered
                 FROM outgoing WHERE envelope = ?1",
            )?
            .query_row(params![envelope.0], |row| {
                Ok((
                    row.get(0)?,
                    blob(row, 1)?,
                    blob(row, 2)?,
                    row.get(3)?,
                    row.get::<_, Vec<u8>>(4)?,
                    row.get(5)?,
                ))
            }))?;
        Ok(row.map(
            |(id, account, contact, shown, receipts, delivered)| UnderWay {
                id,
                account: AccountId(account),
                contact: AccountId(contact),
                shown,
                holders: codec::decode(&receipts).unwrap_or_default(),
                delivered,
            },
        ))
    }

    pub(super) fn one_receipt(
        &mut self,
        mut sending: UnderWay,
        receipt: &CustodyReceipt,
    ) -> Result<()> {
        sending.holders.0.insert(receipt.keeper, receipt.until);
        let entry = self.known_contact(sending.account, sending.contact)?;
        let (state, buildings, until) = sending.holders.prove(&entry.record);
        self.db
            .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2 AND node = ?3")?
            .execute(params![OUTBOX_ENVELOPE, sending.id, receipt.keeper.0])?;
        let done = state >= State::Safe || !self.has_targets(sending.id)?;
        if sending.delivered && done {
            self.end_sending(&sending)?;
        } else {
            self.db
                .prepare_cached("UPDATE outgoing SET receipts = ?2 WHERE id = ?1")?
                .execute(params![sending.id, codec::encode(&sending.holders)])?;
        }
        self.raise(sending.shown, state, buildings, until)
    }

    /// Whether some node has not answered for a sending yet.
    pub(super) fn has_targets(&self, outgoing: i64) -> Result<bool> {
        Ok(self
            .db
            .prepare_cached("SELECT 1 FROM outbox WHERE kind = ?1 AND item = ?2 LIMIT 1")?
            .exists(params![OUTBOX_ENVELOPE, outgoing])?)
    }

    pub(super) fn end_sending(&mut self, sending: &UnderWay) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM outgoing WHERE id = ?1")?
            .execute(params![sending.id])?;
        self.db
            .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2")?
            .execute(params![OUTBOX_ENVELOPE, sending.id])?;
        if let Some(count) = self.due.under_way.get_mut(&sending.account) {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }

    /// The recipient's device signed that envelopes reached it.
    pub(super) fn delivered(&mut self, contact: AccountId, ids: &[EnvelopeId]) -> Result<()> {
        for id in ids {
            let Some(mut sending) = self.under_way(id)? else {
                continue;
            };
            if sending.contact != contact {
                continue;
            }
            let epoch = self.own(&sending.account)?.record.certificate.epoch;
            let entry = self.known_contact(sending.account, contact)?;
            if entry.introduced != epoch {
                // It read something of this device, so it knows the device.
                entry.introduced = epoch;
                self.touch(sending.account, contact);
            }
            let entry = self.known_contact(sending.account, contact)?;
            let home = entry.record.record.home.node;
            let (state, buildings, until) = sending.holders.prove(&entry.record);
            if let Some(peer) = self.peers.get_mut(&home) {
                peer.inflight.remove(id);
                peer.progress = self.now;
            }
            sending.delivered = true;
            self.db
                .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND item = ?2 AND node = ?3")?
                .execute(params![OUTBOX_ENVELOPE, sending.id, home.0])?;
            if state >= State::Safe || !self.has_targets(sending.id)? {
                self.end_sending(&sending)?;
            } else {
                self.db
                    .prepare_cached("UPDATE outgoing SET delivered = 1 WHERE id = ?1")?
                    .execute(params![sending.id])?;
            }
            self.raise(sending.shown, State::Delivered, buildings, until)?;
            self.pump_soon(home)?;
        }
        Ok(())
    }

    /// The recipient read messages.
    pub(super) fn was_read(
        &mut self,
        account: AccountId,
        contact: AccountId,
        messages: &[MessageId],
    ) -> Result<()> {
        for message in messages {
            let ours: Option<i64> = one(self
                .db
                .prepare_cached(
                    "SELECT id FROM messages
                     WHERE account = ?1 AND message = ?2 AND contact = ?3 AND outgoing = 1",
                )?
                .query_row(params![account.0, message.0, contact.0], |row| row.get(0)))?;
            self.raise(ours, State::Read, 0, None)?;
        }
        Ok(())
    }

    /// Raises what is shown of a message, by its row; it never goes back. Says so in events.
    pub(super) fn raise(
        &mut self,
        shown: Option<i64>,
        state: State,
        buildings: usize,
        until: Option<Time>,
    ) -> Result<()> {
        type Shown = (u8, bool, u32, i64, (u64, u64), bool, [[u8; 32]; 2]);
        let Some(id) = shown else { return Ok(()) };
        let row: Option<Shown> = one(self
            .db
            .prepare_cached(
                "SELECT state, safe, buildings, kind, volume, page, outgoing, account, message
                 FROM messages WHERE id = ?1",
            )?
            .query_row(params![id], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    (row.get(4)?, row.get(5)?),
                    row.get(6)?,
                    [blob(row, 7)?, blob(row, 8)?],
                ))
            }))?;
        let Some((code, safe, known_buildings, kind, page, outgoing, [account, message])) = row
        else {
            return Ok(());
        };
        let (account, message) = (AccountId(account), MessageId(message));
        // A debt is safe only when its entry is safe in the archive, and all before it.
        let archived = self
            .accounts
            .get(&account)
            .is_some_and(|own| own.archive.holds(page));
        let (state, until) = if kind == read::IOU && !archived {
            let held = if state == State::Safe {
                State::OneBuilding
            } else {
                state
            };
            (held, None)
        } else {
            (state, until)
        };
        let before = State::from_code(code);
        // Delivered says nothing about keepers: `safe` rises by receipts alone.
        let now_safe = safe || until.is_some();
        let buildings = u32::try_from(buildings)
            .unwrap_or(u32::MAX)
            .max(known_buildings);
        let after = before.max(state);
        if after == before && now_safe == safe && buildings == known_buildings {
            return Ok(());
        }
        self.db
            .prepare_cached(
                "UPDATE messages SET state = ?2, safe = ?3, buildings = ?4,
                   safe_until = coalesce(?5, safe_until)
                 WHERE id = ?1",
            )?
            .execute(params![
                id,
                after.code(),
                now_safe,
                buildings,
                until.map(|until| until.0)
            ])?;
        let mut news = Vec::new();
        if after > before {
            match after {
                State::OneBuilding => news.push("message.held"),
                State::Delivered => news.push("message.delivered"),
                State::Read => news.push("message.read"),
                State::Saved | State::Safe => {}
            }
        }
        if now_safe && !safe {
            news.insert(0, "message.safe");
        }
        // A mark says that a message was safe, and how far it came. What arrived and was never safe has
        // none: a restore sends it once more, and its reader shows it once.
        if outgoing && now_safe && (after > before || !safe) {
            let mark = match after {
                State::Saved | State::OneBuilding | State::Safe => Mark::Safe,
                State::Delivered => Mark::Delivered,
                State::Read => Mark::Read,
            };
            self.archive_mark(account, mark, message);
        }
        if news.is_empty() {
            return Ok(());
        }
        let view = read::message_at(&self.db, id)?;
        for kind in news {
            self.event(Some(account), kind, &view)?;
        }
        if kind == read::IOU
            && now_safe
            && !safe
            && let Some(payment) = &view.payment
        {
            let payment = read::payment(&self.db, &account, payment)?;
            self.event(Some(account), "payment.safe", &payment)?;
        }
        Ok(())
    }

    /// A node did not take envelopes.
    pub(super) fn refused(
        &mut self,
        from: NodeId,
        items: Vec<Refused>,
        records: Vec<CheckedRecord>,
    ) -> Result<()> {
        for item in &items {
            tracing::debug!(node = ?from, envelope = ?item.id, why = %item.why, "envelope refused");
            let Some(peer) = self.peers.get_mut(&from) else {
                continue;
            };
            peer.progress = self.now;
            let Some(outbox) = peer.inflight.remove(&item.id) else {
                continue;
            };
            match item.why {
                NotAdmitted::MissingSeals => {
                    peer.seals.clear();
                    let _ = outbox;
                    if let Some(sending) = self.under_way(&item.id)? {
                        let (account, contact) = (sending.account, sending.contact);
                        let bytes: Vec<u8> = self.db.query_row(
                            "SELECT bytes FROM outgoing WHERE id = ?1",
                            params![sending.id],
                            |row| row.get(0),
                        )?;
                        if self.seals_of(account, contact, &bytes)?.len() < 2 {
                            // Its day is over: seal it again under today's keys.
                            self.reseal_where(account, contact, Some(item.id))?;
                        } else if let Some(parcel) = self.parcel(outbox, sending.id)? {
                            self.put(from, vec![parcel]);
                        }
                    }
                }
                _ => peer.retry_refused(self.now),
            }
        }
        for record in records {
            self.newer_record_everywhere(&record)?;
            let account = record.account();
            if self.accounts.contains_key(&account) {
                self.newer_own_record(account, record.signed)?;
            }
        }
        self.pump_soon(from)
    }
}
