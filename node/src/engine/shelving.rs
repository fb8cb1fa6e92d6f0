//! Pages of archives in the store: those of own accounts, and those kept for others. Admission,
//! receipts, and which pages a segment takes the place of. Writing own pages is in `archiving`.

use pumasi_protocol::archive::{
    ARCHIVE_BYTES, ARCHIVE_PAGES, CheckedVolume, Page, VOLUMES_MAX, Volume, page_id,
};
use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::mailbox::{IDS_MAX, NotAdmitted, RETENTION_MAX};
use pumasi_protocol::types::{AccountId, EnvelopeId, NodeId};
use pumasi_protocol::wire::{Frame, Refused, Response};
use rusqlite::params;

use super::{Engine, one};
use crate::error::Result;

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
                    .map(|kept| kept.archive)
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
            self.count_page(&mailbox, &id, bytes.len() as u64, true);
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
            self.count_page(&mailbox, &EnvelopeId(page), size, false);
        }
        Ok(())
    }

    /// Counts a page into a mailbox's sets and quota, or out of them.
    fn count_page(&mut self, mailbox: &AccountId, id: &EnvelopeId, size: u64, more: bool) {
        let sets = match self.kept.get_mut(mailbox) {
            Some(kept) => {
                if more {
                    kept.archive.items += 1;
                    kept.archive.bytes += size;
                } else {
                    kept.archive.items = kept.archive.items.saturating_sub(1);
                    kept.archive.bytes = kept.archive.bytes.saturating_sub(size);
                }
                Some(&mut kept.sets)
            }
            None => self.due.own_sets.get_mut(mailbox),
        };
        let Some(sets) = sets else { return };
        if more {
            sets.archive.add(&id.0);
            sets.archive_count += 1;
        } else {
            sets.archive.remove(&id.0);
            sets.archive_count = sets.archive_count.saturating_sub(1);
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
