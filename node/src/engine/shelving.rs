//! Pages of archives in the store: those of own accounts, and those kept for others. Admission,
//! receipts, and which pages a segment takes the place of. Writing own pages is in `archiving`.

use pumasi_protocol::archive::{
    ARCHIVE_BYTES, ARCHIVE_PAGES, CheckedVolume, Page, VOLUMES_MAX, Volume, page_id,
};
use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::mailbox::{
    CLOCK_AHEAD_MAX, IDS_MAX, NotAdmitted, RETENTION_MAX, ShelfReceipt,
};
use pumasi_protocol::types::{AccountId, EnvelopeId, Hash, NodeId, Time};
use pumasi_protocol::wire::{Frame, Refused, Response};
use rusqlite::params;

use super::sets::Moved;
use super::{Engine, one};
use crate::error::Result;

/// A shelf receipt is asked for again when what is left of its time is less than this.
const SHELF_FRESH: u64 = RETENTION_MAX / 2;

/// The live pages of an own archive when a keeper was asked about them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shelf {
    /// Hash over the set.
    pub(super) pages: Hash,
    pub(super) at: Time,
}

impl Engine {
    /// Pages came from a node.
    pub(super) fn pages_arrived(
        &mut self,
        from: NodeId,
        volumes: Vec<CheckedVolume>,
        pages: Vec<Signed<Page>>,
    ) -> Result<()> {
        for volume in &volumes {
            self.take_volume(from, volume)?;
        }
        let mut refused = Vec::new();
        let mut records = std::collections::BTreeMap::new();
        for signed in pages {
            let id = page_id(&signed);
            let Ok(claimed) = signed.unverified() else {
                refused.push(Refused {
                    id,
                    why: NotAdmitted::Malformed,
                });
                continue;
            };
            let mailbox = claimed.account;
            let came_along = volumes
                .iter()
                .any(|volume| volume.account == mailbox && volume.page(&signed).is_ok());
            let why = if came_along || self.fits_volume(&signed, &claimed)? {
                self.shelve(from, &claimed, &signed)?
            } else {
                Some(NotAdmitted::MissingSeals)
            };
            let Some(why) = why else { continue };
            if why == NotAdmitted::OldRecord
                && let Some(record) = self.record_of(&mailbox)?
            {
                records.insert(mailbox, record.signed);
            }
            refused.push(Refused { id, why });
        }
        if !refused.is_empty() {
            let records = records.into_values().take(4).collect();
            self.send(
                from,
                &Frame::Refused {
                    items: refused,
                    records,
                },
            );
        }
        Ok(())
    }

    /// The head of a volume, if its mailbox is here.
    fn take_volume(&mut self, from: NodeId, volume: &CheckedVolume) -> Result<()> {
        let mailbox = volume.account;
        if !self.takes_part(&mailbox, &from)? {
            return Ok(());
        }
        self.store_volume(volume)
    }

    pub(super) fn store_volume(&mut self, volume: &CheckedVolume) -> Result<()> {
        let count: usize = self
            .db
            .prepare_cached("SELECT count(*) FROM volumes WHERE mailbox = ?1")?
            .query_row(params![volume.account.0], |row| row.get(0))?;
        if count >= VOLUMES_MAX {
            return Ok(());
        }
        self.volumes.remove(&(volume.account, volume.epoch));
        self.db
            .prepare_cached(
                "INSERT INTO volumes (mailbox, epoch, certificate, bytes) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                volume.account.0,
                volume.epoch,
                volume.certificate.0,
                codec::encode(&volume.signed)
            ])?;
        Ok(())
    }

    /// Whether a page belongs to a stored volume.
    fn fits_volume(&mut self, signed: &Signed<Page>, claimed: &Page) -> Result<bool> {
        if claimed.epoch > pumasi_protocol::archive::EPOCH_MAX {
            return Ok(false);
        }
        let place = (claimed.account, claimed.epoch);
        if !self.volumes.contains_key(&place) {
            let heads = self.volumes_of(&claimed.account, claimed.epoch)?;
            let heads: Vec<CheckedVolume> = heads
                .into_iter()
                .filter_map(|head: Signed<Volume>| CheckedVolume::check(head).ok())
                .collect();
            if heads.is_empty() {
                return Ok(false);
            }
            self.volumes.insert(place, heads);
        }
        let mut heads = self.volumes.get(&place).into_iter().flatten();
        Ok(heads.any(|volume| volume.page(signed).is_ok()))
    }

    /// Stores a page whose signature fits its volume. Says why not.
    fn shelve(
        &mut self,
        from: NodeId,
        page: &Page,
        signed: &Signed<Page>,
    ) -> Result<Option<NotAdmitted>> {
        let mailbox = page.account;
        let id = page_id(signed);
        if !self.takes_part(&mailbox, &from)? {
            let newer = self.record_of(&mailbox)?.is_some();
            return Ok(Some(if newer {
                NotAdmitted::OldRecord
            } else {
                NotAdmitted::NotKept
            }));
        }
        let Some(record) = self.record_of(&mailbox)? else {
            return Ok(Some(NotAdmitted::NotKept));
        };
        let kept = !self.accounts.contains_key(&mailbox) && !self.restoring.contains_key(&mailbox);
        if kept && record.keeper(&self.me).is_none() {
            return Ok(Some(NotAdmitted::NotKept));
        }
        if page.epoch > record.certificate.epoch {
            return Ok(Some(NotAdmitted::Busy));
        }
        let known = self
            .db
            .prepare_cached("SELECT 1 FROM pages WHERE page = ?1")?
            .exists(params![id.0])?;
        let until = self.now.plus(RETENTION_MAX);
        if !known {
            if kept {
                let usage = self
                    .kept_mut(&mailbox)?
                    .map(|kept| kept.sets.archive)
                    .unwrap_or_default();
                let bytes = usage.bytes.saturating_add(signed.bytes().len() as u64);
                if usage.items >= ARCHIVE_PAGES || bytes > ARCHIVE_BYTES {
                    return Ok(Some(NotAdmitted::Full));
                }
            }
            self.store_page(page, signed)?;
            if kept {
                self.compare_soon(&mailbox);
            }
        }
        if kept {
            self.custody(from, mailbox, id, until);
        }
        Ok(None)
    }

    /// Stores a page, hides what it takes the place of, and marks the envelopes it covers.
    pub(super) fn store_page(&mut self, page: &Page, signed: &Signed<Page>) -> Result<()> {
        let mailbox = page.account;
        let id = page_id(signed);
        let replaced = self
            .db
            .prepare_cached(
                "SELECT 1 FROM pages WHERE mailbox = ?1 AND run_epoch = ?2 AND run_first <= ?3
                   AND run_last >= ?3 AND hidden IS NULL",
            )?
            .exists(params![mailbox.0, page.epoch, page.number])?;
        let hidden = replaced.then_some(self.now.0);
        let run = page.replaces;
        let bytes = codec::encode(signed);
        self.db
            .prepare_cached(
                "INSERT INTO pages (mailbox, page, epoch, number, run_epoch, run_first, run_last,
                   time, hidden, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                mailbox.0,
                id.0,
                page.epoch,
                page.number,
                run.map(|run| run.epoch),
                run.map(|run| run.first),
                run.map(|run| run.last),
                page.time.0,
                hidden,
                bytes
            ])?;
        if !replaced {
            self.count_page(&mailbox, &id, bytes.len() as u64, Moved::In);
        }
        for envelope in &page.covers {
            self.db
                .prepare_cached(
                    "UPDATE envelopes SET covered = 1 WHERE envelope = ?1 AND mailbox = ?2",
                )?
                .execute(params![envelope.0, mailbox.0])?;
        }
        let Some(run) = run else { return Ok(()) };
        let old: Vec<(i64, [u8; 32], u64)> = self
            .db
            .prepare_cached(
                "SELECT id, page, length(bytes) FROM pages
                 WHERE mailbox = ?1 AND epoch = ?2 AND number BETWEEN ?3 AND ?4
                   AND hidden IS NULL AND page <> ?5",
            )?
            .query_map(
                params![mailbox.0, run.epoch, run.first, run.last, id.0],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )?
            .collect::<rusqlite::Result<_>>()?;
        for (row, page, size) in old {
            self.db
                .prepare_cached("UPDATE pages SET hidden = ?2 WHERE id = ?1")?
                .execute(params![row, self.now.0])?;
            self.count_page(&mailbox, &EnvelopeId(page), size, Moved::Out);
        }
        Ok(())
    }

    /// Counts a page into a mailbox's sets and quota, or out of them.
    fn count_page(&mut self, mailbox: &AccountId, id: &EnvelopeId, size: u64, moved: Moved) {
        if let Some(sets) = self.sets_in_memory(mailbox) {
            sets.page(moved, &id.0, size);
        }
    }

    /// Someone who has a part in a mailbox lacks pages.
    pub(super) fn fetch_pages(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        ids: &[EnvelopeId],
    ) -> Result<Response> {
        if !self.takes_part(&mailbox, &from)? {
            return Ok(super::reconciling::no_part());
        }
        let ids: Vec<EnvelopeId> = ids.iter().take(IDS_MAX).copied().collect();
        self.send_stored_pages(from, mailbox, &ids)?;
        Ok(Response::Done)
    }

    /// Sends stored pages, oldest first.
    pub(super) fn send_stored_pages(
        &mut self,
        to: NodeId,
        mailbox: AccountId,
        ids: &[EnvelopeId],
    ) -> Result<()> {
        let mut rows: Vec<(u64, u64, Vec<u8>)> = Vec::new();
        for id in ids {
            let row = one(self
                .db
                .prepare_cached(
                    "SELECT epoch, number, bytes FROM pages
                     WHERE page = ?1 AND mailbox = ?2 AND hidden IS NULL",
                )?
                .query_row(params![id.0, mailbox.0], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                }))?;
            rows.extend(row);
        }
        rows.sort_unstable_by_key(|(epoch, number, _)| (*epoch, *number));
        let pages = rows
            .iter()
            .filter_map(|(_, _, bytes)| codec::decode(bytes).ok())
            .collect();
        self.send_pages(to, mailbox, pages)
    }

    /// Whether a keeper of an own account has not signed yet for all pages that are live now.
    pub(super) fn wants_shelf(
        &self,
        account: &AccountId,
        keeper: &NodeId,
        pages: Hash,
    ) -> Result<bool> {
        if !self.accounts.contains_key(account) {
            return Ok(false);
        }
        let fresh = self.now.plus(SHELF_FRESH);
        let signed = self
            .db
            .prepare_cached(
                // A page of the very moment of the question is not counted as meant by it.
                "SELECT 1 FROM shelf_receipts
                 WHERE account = ?1 AND keeper = ?2 AND pages = ?3 AND until > ?4
                   AND NOT EXISTS (SELECT 1 FROM pages
                     WHERE mailbox = ?1 AND hidden IS NULL AND time >= asked)",
            )?
            .exists(params![account.0, keeper.0, pages.0, fresh.0])?;
        Ok(!signed)
    }

    /// Signs that every page is here which the owner of a kept mailbox has: the sets are the same.
    pub(super) fn sign_shelf(
        &mut self,
        mailbox: &AccountId,
        pages: Hash,
    ) -> Result<Option<Signed<ShelfReceipt>>> {
        let keeper = self.me;
        let Some(record) = self.kept_record(mailbox)? else {
            return Ok(None);
        };
        if record.keeper(&keeper).is_none() {
            return Ok(None);
        }
        let receipt = ShelfReceipt {
            mailbox: *mailbox,
            record: record.version(),
            keeper,
            until: self.now.plus(RETENTION_MAX),
            pages,
        };
        Ok(Some(Signed::sign(&receipt, &self.key)))
    }

    /// A keeper signed for all pages of an own archive that were live when it was asked.
    pub(super) fn shelf_receipt(
        &mut self,
        account: AccountId,
        node: NodeId,
        asked: Shelf,
        signed: &Signed<ShelfReceipt>,
    ) -> Result<()> {
        let Some(own) = self.accounts.get(&account) else {
            return Ok(());
        };
        let Ok(receipt) = signed.open(&node.0) else {
            tracing::info!(?node, "a shelf receipt is not signed by its keeper");
            return Ok(());
        };
        let fits = receipt.mailbox == account
            && receipt.keeper == node
            && receipt.pages == asked.pages
            && receipt.record == own.record.version()
            && own.record.keeper(&node).is_some();
        if !fits {
            return Ok(());
        }
        let until = receipt
            .until
            .min(self.now.plus(RETENTION_MAX + CLOCK_AHEAD_MAX));
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO shelf_receipts (account, keeper, pages, asked, until, bytes)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                account.0,
                node.0,
                receipt.pages.0,
                asked.at.0,
                until.0,
                codec::encode(signed)
            ])?;
        Ok(())
    }

    /// Until when pages were written for all of which a keeper has signed at once.
    pub(super) fn shelf_signed(
        &self,
        account: &AccountId,
        keeper: &NodeId,
    ) -> Result<Option<Time>> {
        let asked: Option<u64> = one(self
            .db
            .prepare_cached(
                "SELECT asked FROM shelf_receipts WHERE account = ?1 AND keeper = ?2 AND until > ?3",
            )?
            .query_row(params![account.0, keeper.0, self.now.0], |row| row.get(0)))?;
        Ok(asked.map(Time))
    }

    /// How far the archive goes that is kept for an account.
    pub(super) fn archive_head(&mut self, from: NodeId, mailbox: AccountId) -> Result<Response> {
        if !self.takes_part(&mailbox, &from)? {
            return Ok(match self.record_of(&mailbox)? {
                Some(record) => Response::Newer(record.signed),
                None => super::reconciling::no_part(),
            });
        }
        let head: Option<(u64, u64)> = one(self
            .db
            .prepare_cached(
                "SELECT epoch, number FROM pages WHERE mailbox = ?1
                 ORDER BY epoch DESC, number DESC LIMIT 1",
            )?
            .query_row(params![mailbox.0], |row| Ok((row.get(0)?, row.get(1)?))))?;
        let (epoch, number) = head.unwrap_or_default();
        Ok(Response::Head { epoch, number })
    }

    /// An owner tests whether what it gave is still here.
    pub(super) fn audit(
        &mut self,
        from: NodeId,
        mailbox: AccountId,
        id: EnvelopeId,
        nonce: &[u8; 32],
    ) -> Result<Response> {
        if !self.takes_part(&mailbox, &from)? {
            return Ok(super::reconciling::no_part());
        }
        let bytes: Option<Vec<u8>> = one(self
            .db
            .prepare_cached("SELECT bytes FROM pages WHERE page = ?1 AND mailbox = ?2")?
            .query_row(params![id.0, mailbox.0], |row| row.get(0)))?;
        Ok(Response::Proof(bytes.map(|bytes| {
            pumasi_protocol::wire::audit_proof(nonce, &bytes)
        })))
    }
}
