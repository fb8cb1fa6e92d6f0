//! Tidying own archives: many old pages become one segment that holds what is still true of them, so
//! that a restore does not replay years and deleted things leave the keepers. What a segment does at
//! a keeper is in `shelving`.

use pumasi_protocol::archive::{
    ArchivedText, Call, Granted, Mark, PAGE_FILL, PAGE_MAX, Record, Records, Run,
};
use pumasi_protocol::codec;
use pumasi_protocol::crypto::{Secret, Signed};
use pumasi_protocol::delivery::State;
use pumasi_protocol::envelope::CapabilityId;
use pumasi_protocol::line::{Entry, Operation};
use pumasi_protocol::mailbox::IDS_MAX;
use pumasi_protocol::types::{AccountId, Hash, MessageId, PaymentId, Time};
use rusqlite::params;

use super::{Engine, blob, one};
use crate::error::Result;

/// Kinds in the `deleted` table.
pub(super) const DELETED_MESSAGE: i64 = 0;
pub(super) const DELETED_CONTACT: i64 = 1;
pub(super) const DELETED_INVITATION: i64 = 2;
/// Live pages that are no segments, beyond which the oldest are put together.
const SMALL_MAX: u64 = 1_000;
/// The latest pages stay as they are: much of what they say changes soon.
const RECENT: u64 = 256;
/// Pages that one segment stands for at most.
const RUN_MAX: u64 = 2_048;
/// Bytes left for the page around its records.
const MARGIN: usize = 1_024;

impl Engine {
    /// Live pages of an archive that are no segments.
    pub(super) fn small_pages(&self, account: &AccountId) -> Result<u64> {
        Ok(self.db.query_row(
            "SELECT count(*) FROM pages
             WHERE mailbox = ?1 AND hidden IS NULL AND run_epoch IS NULL",
            params![account.0],
            |row| row.get(0),
        )?)
    }

    /// Puts the oldest pages of one archive together, a segment per tick.
    pub(super) fn tick_segments(&mut self) -> Result<()> {
        let due: Vec<AccountId> = self
            .accounts
            .iter()
            .filter(|(_, own)| own.archive.small > SMALL_MAX)
            .map(|(account, _)| *account)
            .collect();
        for account in due {
            if self.is_level(&account) {
                self.put_together(account, RECENT)?;
            }
        }
        Ok(())
    }

    /// One segment out of the oldest pages that are safe, but for so many of the latest.
    pub(super) fn put_together(&mut self, account: AccountId, recent: u64) -> Result<()> {
        let own = self.own(&account)?;
        let (volume, safe, last) = (
            own.archive.volume.epoch,
            own.archive.safe,
            own.archive.last(),
        );
        let newest = safe.min(last.saturating_sub(recent));
        let pages: Vec<(u64, u64, usize)> = self
            .db
            .prepare_cached(
                "SELECT epoch, number, length(bytes) FROM pages
                 WHERE mailbox = ?1 AND hidden IS NULL AND run_epoch IS NULL
                 ORDER BY epoch, number LIMIT ?2",
            )?
            .query_map(params![account.0, RUN_MAX as i64], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let Some((epoch, first, _)) = pages.first().copied() else {
            return Ok(());
        };
        let mut size = 0;
        let mut end = first;
        for (at, number, bytes) in pages {
            let recent = at == volume && number > newest;
            // What lies between may be a segment, or lost: a run has no holes.
            let gap = number > end.saturating_add(1);
            if at != epoch || recent || gap || (size > 0 && size + bytes > PAGE_FILL) {
                break;
            }
            size += bytes;
            end = number;
        }
        if epoch == volume && first > newest {
            // Nothing is old enough. Ask again when more is.
            if let Some(own) = self.accounts.get_mut(&account) {
                own.archive.small = 0;
            }
            return Ok(());
        }
        self.write_segment(
            account,
            Run {
                epoch,
                first,
                last: end,
            },
        )
    }

    /// Writes a segment for a run of pages, or for the first half of it where the whole is too long.
    pub(super) fn write_segment(&mut self, account: AccountId, mut run: Run) -> Result<()> {
        let records = loop {
            let records = Records(self.records_of(account, run)?);
            if codec::encode(&records).len() + MARGIN <= PAGE_MAX || run.first == run.last {
                break records;
            }
            run.last = run.first + (run.last - run.first) / 2;
        };
        if codec::encode(&records).len() + MARGIN > PAGE_MAX {
            tracing::error!(%account, page = run.first, "a page of the archive cannot be tidied");
            return Ok(());
        }
        let page = self.write_page(account, records.0, vec![], Some(run))?;
        let own = self.own(&account)?;
        let (volume, number) = (own.archive.volume.epoch, own.archive.last());
        for sql in [
            "UPDATE messages SET volume = ?5, page = ?6
             WHERE account = ?1 AND volume = ?2 AND page BETWEEN ?3 AND ?4",
            "UPDATE entries SET volume = ?5, page = ?6
             WHERE account = ?1 AND volume = ?2 AND page BETWEEN ?3 AND ?4",
        ] {
            self.db.prepare_cached(sql)?.execute(params![
                account.0, run.epoch, run.first, run.last, volume, number
            ])?;
        }
        if run.epoch == volume {
            for sql in [
                "UPDATE messages SET marked = ?4
                 WHERE account = ?1 AND marked > 0 AND marked BETWEEN ?2 AND ?3",
                "UPDATE contacts SET page = ?4 WHERE account = ?1 AND page BETWEEN ?2 AND ?3",
                "UPDATE invitations SET page = ?4 WHERE account = ?1 AND page BETWEEN ?2 AND ?3",
                "UPDATE deleted SET page = ?4 WHERE account = ?1 AND page BETWEEN ?2 AND ?3",
            ] {
                self.db
                    .prepare_cached(sql)?
                    .execute(params![account.0, run.first, run.last, number])?;
            }
        }
        let small = self.small_pages(&account)?;
        if let Some(own) = self.accounts.get_mut(&account) {
            own.archive.small = small;
        }
        self.send_new_pages(account, &[page], true)
    }

    /// What is still true of a run of pages.
    fn records_of(&mut self, account: AccountId, run: Run) -> Result<Vec<Record>> {
        let own = self.own(&account)?;
        let mut records = vec![Record::Name(own.name.clone())];
        let current = run.epoch == own.archive.volume.epoch;
        let place = params![account.0, run.epoch, run.first, run.last];
        type Text = (Vec<u8>, u64, u8, bool, bool, Option<Call>);
        let texts: Vec<Text> = self
            .db
            .prepare_cached(
                "SELECT m.content, m.time, m.state, m.outgoing, m.safe, i.key, i.request
                 FROM messages m LEFT JOIN idempotency i ON i.id = m.call
                 WHERE m.account = ?1 AND m.volume = ?2 AND m.page BETWEEN ?3 AND ?4 AND m.kind = 0
                 ORDER BY m.id",
            )?
            .query_map(place, |row| {
                let call = match row.get(5)? {
                    Some(key) => Some(Call {
                        key,
                        request: Hash(blob(row, 6)?),
                    }),
                    None => None,
                };
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    call,
                ))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (content, shown, state, outgoing, safe, call) in texts {
            records.push(Record::Text(Box::new(ArchivedText {
                content: content.into(),
                shown: Time(shown),
                mark: mark_of(State::from_code(state), outgoing, safe),
                call,
            })));
        }
        let entries: Vec<(Vec<u8>, u64)> = self
            .db
            .prepare_cached(
                "SELECT bytes, epoch FROM entries
                 WHERE account = ?1 AND volume = ?2 AND page BETWEEN ?3 AND ?4 ORDER BY id",
            )?
            .query_map(params![account.0, run.epoch, run.first, run.last], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (bytes, epoch) in entries {
            let Ok(entry) = codec::decode::<Signed<Entry>>(&bytes) else {
                continue;
            };
            let payment = entry
                .unverified()
                .ok()
                .and_then(|entry| match entry.operation {
                    Operation::Iou { id, .. } if entry.author == account => Some(id),
                    _ => None,
                });
            let call = match payment {
                Some(payment) => self.call_of_payment(&account, &payment)?,
                None => None,
            };
            records.push(Record::Entry {
                entry: Box::new(entry),
                epoch,
                call,
            });
        }
        if current {
            self.small_records(account, run, &mut records)?;
        }
        Ok(records)
    }

    /// What of a run of the own volume is neither text nor entry.
    fn small_records(
        &mut self,
        account: AccountId,
        run: Run,
        records: &mut Vec<Record>,
    ) -> Result<()> {
        let place = [run.first, run.last];
        let marked: Vec<([u8; 32], u8, bool, bool)> = self
            .db
            .prepare_cached(
                "SELECT message, state, outgoing, safe FROM messages
                 WHERE account = ?1 AND marked > 0 AND marked BETWEEN ?2 AND ?3
                   AND NOT (kind = 0 AND volume = ?4 AND page BETWEEN ?2 AND ?3)",
            )?
            .query_map(params![account.0, place[0], place[1], run.epoch], |row| {
                Ok((blob(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for mark in [Mark::Safe, Mark::Delivered, Mark::Read] {
            let messages: Vec<MessageId> = marked
                .iter()
                .filter(|(_, state, outgoing, safe)| {
                    mark_of(State::from_code(*state), *outgoing, *safe) == Some(mark)
                })
                .map(|(message, _, _, _)| MessageId(*message))
                .collect();
            for messages in messages.chunks(IDS_MAX) {
                records.push(Record::Marks {
                    mark,
                    messages: messages.to_vec(),
                });
            }
        }
        let contacts: Vec<[u8; 32]> = self
            .db
            .prepare_cached(
                "SELECT contact FROM contacts WHERE account = ?1 AND page BETWEEN ?2 AND ?3",
            )?
            .query_map(params![account.0, place[0], place[1]], |row| blob(row, 0))?
            .collect::<rusqlite::Result<_>>()?;
        for contact in contacts {
            let archived = self.archived_contact(account, AccountId(contact))?;
            records.extend(archived.map(|contact| Record::Contact(Box::new(contact))));
        }
        type Invited = ([u8; 16], Option<String>, u64, [u8; 32]);
        let invitations: Vec<Invited> = self
            .db
            .prepare_cached(
                "SELECT i.capability, i.name, i.expires, c.tag_key
                 FROM invitations i JOIN capabilities c
                   ON c.mailbox = i.account AND c.capability = i.capability
                 WHERE i.account = ?1 AND i.page BETWEEN ?2 AND ?3",
            )?
            .query_map(params![account.0, place[0], place[1]], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, blob(row, 3)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (capability, name, expires, tag_key) in invitations {
            records.push(Record::Invitation {
                granted: Granted {
                    capability: CapabilityId(capability),
                    tag_key: Secret(tag_key),
                },
                name,
                expires: Time(expires),
            });
        }
        let deleted: Vec<(Vec<u8>, i64)> = self
            .db
            .prepare_cached(
                "SELECT id, kind FROM deleted WHERE account = ?1 AND page BETWEEN ?2 AND ?3",
            )?
            .query_map(params![account.0, place[0], place[1]], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut messages = Vec::new();
        for (id, kind) in deleted {
            match (kind, <[u8; 32]>::try_from(id.as_slice())) {
                (DELETED_MESSAGE, Ok(id)) => messages.push(MessageId(id)),
                (DELETED_CONTACT, Ok(id)) => records.push(Record::ContactRemoved(AccountId(id))),
                _ => {
                    if let Ok(id) = <[u8; 16]>::try_from(id.as_slice()) {
                        records.push(Record::InvitationEnded(CapabilityId(id)));
                    }
                }
            }
        }
        for messages in messages.chunks(IDS_MAX) {
            records.push(Record::Deleted(messages.to_vec()));
        }
        Ok(())
    }

    fn call_of_payment(&self, account: &AccountId, payment: &PaymentId) -> Result<Option<Call>> {
        let row: Option<(String, [u8; 32])> = one(self
            .db
            .prepare_cached(
                "SELECT i.key, i.request FROM messages m JOIN idempotency i ON i.id = m.call
                 WHERE m.account = ?1 AND m.payment = ?2 AND m.outgoing = 1",
            )?
            .query_row(params![account.0, payment.0], |row| {
                Ok((row.get(0)?, blob(row, 1)?))
            }))?;
        Ok(row.map(|(key, request)| Call {
            key,
            request: Hash(request),
        }))
    }

    /// Remembers that something was deleted.
    pub(super) fn remember_deleted(
        &mut self,
        account: AccountId,
        id: &[u8],
        kind: i64,
        page: u64,
    ) -> Result<()> {
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO deleted (account, id, kind, page) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![account.0, id, kind, page])?;
        Ok(())
    }
}

/// What the archive says of a state. Of an own message: only when it was safe.
const fn mark_of(state: State, outgoing: bool, safe: bool) -> Option<Mark> {
    match (outgoing, state) {
        (true, _) if !safe => None,
        (_, State::Read) => Some(Mark::Read),
        (true, State::Delivered) => Some(Mark::Delivered),
        (true, _) => Some(Mark::Safe),
        (false, _) => None,
    }
}
