//! The archives of own accounts: every step that changes what an account knows appends a page, sealed
//! to its phrase, in the transaction of the step. What keepers do with pages is in `shelving`; how old
//! pages are tidied in `segmenting`; reading them is in `rebuilding`.

use std::collections::BTreeMap;

use pumasi_protocol::archive::{
    self, ArchivedContact, CheckedVolume, Granted, Mark, PAGE_FILL, Page, PageKeys, Record,
    Records, Run, SUITE, Volume, page_id,
};
use pumasi_protocol::codec::{self, Bytes, Wire as _};
use pumasi_protocol::crypto::{Secret, Signed, SigningKey};
use pumasi_protocol::delivery::{self, State};
use pumasi_protocol::envelope::{CapabilityId, SealFor};
use pumasi_protocol::mailbox::{CustodyReceipt, IDS_MAX};
use pumasi_protocol::seal;
use pumasi_protocol::types::{AccountId, EnvelopeId, MessageId, NodeId, SECOND, Time};
use pumasi_protocol::wire::Frame;
use rusqlite::params;

use super::outgoing::Holders;
use super::proofs::{ITEM_MESSAGE, ITEM_PAGE};
use super::{Engine, blob, one};
use crate::error::{Error, ErrorKind, Result};

/// What can wait for company waits this long at most.
const LATER: u64 = SECOND;
/// Marks that wait, per account; beyond, they are written at once.
const LATER_MAX: usize = 256;
/// Pages not proven safe that keepers are asked about at once.
const ATTEST_MAX: usize = 256;

/// The archive of an own account, as its device knows it.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) volume: CheckedVolume,
    /// The key of the next page.
    pub(super) keys: PageKeys,
    /// Pages up to this one are safe.
    pub(super) safe: u64,
    /// Pages that are not proven safe, and who holds them.
    waiting: BTreeMap<u64, (EnvelopeId, Holders)>,
    numbers: BTreeMap<EnvelopeId, u64>,
    /// Live pages that are no segments.
    pub(super) small: u64,
}

impl Archive {
    pub(super) fn new(volume: CheckedVolume, keys: PageKeys, safe: u64) -> Self {
        Self {
            volume,
            keys,
            safe,
            waiting: BTreeMap::new(),
            numbers: BTreeMap::new(),
            small: 0,
        }
    }

    /// Whether everything up to a place is safe: of an earlier volume, what was read is.
    pub(super) const fn holds(&self, (volume, page): (u64, u64)) -> bool {
        volume < self.volume.epoch || page <= self.safe
    }

    /// The last page written; 0 before the first.
    pub(super) const fn last(&self) -> u64 {
        self.keys.number.saturating_sub(1)
    }

    fn wait_for(&mut self, number: u64, id: EnvelopeId) {
        self.waiting.insert(number, (id, Holders::default()));
        self.numbers.insert(id, number);
    }
}

/// What one step adds to an archive: at least one page's worth, each below [`PAGE_FILL`].
#[derive(Debug, Default)]
pub(super) struct Pending {
    full: Vec<Draft>,
    draft: Draft,
    /// Somebody waits until it is safe, or keepers hold it nowhere else: it leaves with this step.
    urgent: bool,
}

#[derive(Debug, Default)]
struct Draft {
    records: Vec<Record>,
    covers: Vec<EnvelopeId>,
    size: usize,
}

/// A new volume for a device, and the key of its first page.
pub(super) fn new_volume(
    certificate: Signed<pumasi_protocol::identity::DeviceCertificate>,
    account: AccountId,
    recovery_public: &[u8],
    device: &SigningKey,
    random: &[u8; 32],
) -> Result<(CheckedVolume, PageKeys)> {
    let wrong = |why: String| Error::new(ErrorKind::Internal, why);
    let (key, link) = seal::agree(
        recovery_public,
        SealFor::Archive,
        &account,
        &account,
        random,
    )
    .map_err(|error| wrong(error.to_string()))?;
    let signed = Signed::sign(&Volume { certificate, key }, device);
    let volume = CheckedVolume::check(signed).map_err(|error| wrong(error.to_string()))?;
    Ok((volume, PageKeys::first(link)))
}

impl Engine {
    /// Volume and number of the page that this step writes next for an account.
    pub(super) fn page_place(&self, account: &AccountId) -> (u64, u64) {
        if let Some(place) = self.step.quiet {
            return place;
        }
        let Some(own) = self.accounts.get(account) else {
            return (0, 0);
        };
        let full = self
            .step
            .archive
            .get(account)
            .map_or(0, |pending| pending.full.len());
        let number = own.archive.keys.number.saturating_add(full as u64);
        (own.archive.volume.epoch, number)
    }

    /// Adds a record to the page of this step, which leaves with the step. Returns its place.
    pub(super) fn archive(&mut self, account: AccountId, record: Record) -> (u64, u64) {
        if self.step.quiet.is_none() {
            self.step.archive.entry(account).or_default().urgent = true;
        }
        self.archive_received(account, record)
    }

    /// The same for what is in the mailbox, too, until a page covers it, and for what is found out again:
    /// a page of nothing else leaves soon.
    pub(super) fn archive_received(&mut self, account: AccountId, record: Record) -> (u64, u64) {
        if let Some(place) = self.step.quiet {
            return place;
        }
        let size = size_of(&record);
        let pending = self.step.archive.entry(account).or_default();
        if !pending.draft.records.is_empty() && pending.draft.size + size > PAGE_FILL {
            let full = std::mem::take(&mut pending.draft);
            pending.full.push(full);
        }
        pending.draft.size += size;
        pending.draft.records.push(record);
        self.page_place(&account)
    }

    /// The content of an inbox envelope is in this step's page.
    pub(super) fn covered(&mut self, account: AccountId, envelope: EnvelopeId) {
        let pending = self.step.archive.entry(account).or_default();
        if pending.draft.covers.len() >= archive::COVERS_MAX {
            let full = std::mem::take(&mut pending.draft);
            pending.full.push(full);
        }
        pending.draft.covers.push(envelope);
    }

    /// Notes how far messages have come: with the next page, or soon.
    pub(super) fn archive_mark(&mut self, account: AccountId, mark: Mark, message: MessageId) {
        let later = self.due.later.entry(account).or_default();
        later
            .entry(message)
            .and_modify(|known| *known = mark.max(*known))
            .or_insert(mark);
        let full = later.len() >= LATER_MAX;
        if full {
            self.due.write_later = Time(0);
        } else if self.due.write_later == Time(u64::MAX) {
            self.due.write_later = self.now.plus(LATER);
        }
    }

    /// Marks that waited long enough get a page of their own.
    pub(super) fn tick_archive(&mut self) -> Result<()> {
        if self.due.write_later <= self.now {
            self.due.write_later = Time(u64::MAX);
            let accounts: Vec<AccountId> = self.due.later.keys().copied().collect();
            for account in accounts {
                self.step.archive.entry(account).or_default();
            }
        }
        if self.due.attest <= self.now {
            self.due.attest = self.now.plus(2 * SECOND);
            self.ask_for_page_receipts();
        }
        Ok(())
    }

    fn take_marks(&mut self, account: AccountId) -> Result<()> {
        let Some(later) = self.due.later.remove(&account) else {
            return Ok(());
        };
        let mut by_mark: BTreeMap<Mark, Vec<MessageId>> = BTreeMap::new();
        for (message, mark) in later {
            by_mark.entry(mark).or_default().push(message);
        }
        for (mark, messages) in by_mark {
            for messages in messages.chunks(IDS_MAX) {
                let record = Record::Marks {
                    mark,
                    messages: messages.to_vec(),
                };
                let (_, page) = self.archive_received(account, record);
                for message in messages {
                    self.db
                        .prepare_cached(
                            "UPDATE messages SET marked = ?3 WHERE account = ?1 AND message = ?2",
                        )?
                        .execute(params![account.0, message.0, page])?;
                }
            }
        }
        Ok(())
    }

    /// Seals, signs and stores what this step archives; keepers that are connected get it after the
    /// commit or soon, the others when mailboxes are compared.
    pub(super) fn write_pages(&mut self) -> Result<()> {
        while let Some((account, _)) = self.step.archive.first_key_value() {
            let account = *account;
            if self.accounts.contains_key(&account) {
                self.take_marks(account)?;
            }
            let Some(pending) = self.step.archive.remove(&account) else {
                continue;
            };
            let urgent = pending.urgent;
            let mut pages = Vec::new();
            for draft in pending.full.into_iter().chain([pending.draft]) {
                if !draft.records.is_empty() || !draft.covers.is_empty() {
                    pages.push(self.write_page(account, draft.records, draft.covers, None)?);
                }
            }
            self.send_new_pages(account, &pages, urgent)?;
        }
        Ok(())
    }

    /// One page, or a segment that stands for a run of older ones.
    pub(super) fn write_page(
        &mut self,
        account: AccountId,
        records: Vec<Record>,
        covers: Vec<EnvelopeId>,
        replaces: Option<Run>,
    ) -> Result<Signed<Page>> {
        let nonce = self.nonce();
        let time = self.now;
        let Some(own) = self.accounts.get_mut(&account) else {
            return Err(Error::not_found("no such account"));
        };
        let keys = own.archive.keys.clone();
        let page = Page {
            suite: SUITE,
            account,
            epoch: own.archive.volume.epoch,
            number: keys.number,
            replaces,
            covers,
            time,
            nonce,
            body: Bytes::default(),
        };
        let page = archive::close(page, &keys, &Records(records));
        let signed = Signed::sign(&page, &own.device);
        let id = page_id(&signed);
        own.archive.keys = keys.next();
        own.archive.wait_for(page.number, id);
        if replaces.is_none() {
            own.archive.small = own.archive.small.saturating_add(1);
        }
        self.step.dirty_archives.insert(account);
        self.store_page(&page, &signed)?;
        Ok(signed)
    }

    pub(super) fn send_new_pages(
        &mut self,
        account: AccountId,
        pages: &[Signed<Page>],
        urgent: bool,
    ) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        let keepers: Vec<NodeId> = self.own(&account)?.keepers().collect();
        for keeper in keepers {
            if self.peers.get(&keeper).is_some_and(|peer| peer.connected) {
                self.shelve_soon(keeper, account, pages);
                if urgent {
                    // Behind those before it: an entry is safe only when they are.
                    self.send_bundle(keeper)?;
                }
            }
        }
        Ok(())
    }

    /// Sends pages with the heads of their volumes, in frames.
    pub(super) fn send_pages(
        &mut self,
        to: NodeId,
        mailbox: AccountId,
        pages: Vec<Signed<Page>>,
    ) -> Result<()> {
        let mut batch: Vec<Signed<Page>> = Vec::new();
        let mut volumes: Vec<Signed<Volume>> = Vec::new();
        let mut size = 0;
        for page in pages {
            let Ok(fields) = page.unverified() else {
                continue;
            };
            let given = self
                .peers
                .get_mut(&to)
                .is_some_and(|peer| !peer.volumes.insert((mailbox, fields.epoch)));
            let mut extra = if given {
                vec![]
            } else {
                self.volumes_of(&mailbox, fields.epoch)?
            };
            let length = page.bytes().len() + 80 + extra.len() * Volume::MAX;
            let full = size + length > pumasi_protocol::wire::BATCH_BYTES || volumes.len() >= 2;
            if size > 0 && full {
                let frame = Frame::Pages {
                    volumes: std::mem::take(&mut volumes),
                    pages: std::mem::take(&mut batch),
                };
                self.send(to, &frame);
                size = 0;
            }
            size += length;
            volumes.append(&mut extra);
            batch.push(page);
        }
        if !batch.is_empty() {
            self.send(
                to,
                &Frame::Pages {
                    volumes,
                    pages: batch,
                },
            );
        }
        Ok(())
    }

    pub(super) fn volumes_of(
        &self,
        mailbox: &AccountId,
        epoch: u64,
    ) -> Result<Vec<Signed<Volume>>> {
        let rows: Vec<Vec<u8>> = self
            .db
            .prepare_cached("SELECT bytes FROM volumes WHERE mailbox = ?1 AND epoch = ?2 LIMIT 2")?
            .query_map(params![mailbox.0, epoch], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(rows
            .iter()
            .filter_map(|bytes| codec::decode(bytes).ok())
            .collect())
    }

    /// Writes back how far an own archive goes.
    pub(super) fn store_archive(&mut self, account: AccountId) -> Result<()> {
        let nonce = self.nonce();
        let Some(own) = self.accounts.get(&account) else {
            return Ok(());
        };
        let sealed = super::types::with_encoded(&StoredKeys(own.archive.keys.clone()), |plain| {
            self.vault.seal("archives", &account.0, nonce, plain)
        });
        self.db
            .prepare_cached(
                "INSERT INTO archives (account, epoch, keys, safe) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (account) DO UPDATE SET epoch = ?2, keys = ?3, safe = ?4",
            )?
            .execute(params![
                account.0,
                own.archive.volume.epoch,
                sealed,
                own.archive.safe
            ])?;
        Ok(())
    }

    /// The archive of an own account from the store.
    pub(super) fn load_archive(&self, account: &AccountId) -> Result<Archive> {
        let damaged = || {
            Error::new(
                ErrorKind::Storage,
                "the archive state in the database is damaged: restore the account from its words",
            )
        };
        let row: Option<(u64, Vec<u8>, u64)> = one(self.db.query_row(
            "SELECT epoch, keys, safe FROM archives WHERE account = ?1",
            params![account.0],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        ))?;
        let (epoch, sealed, safe) = row.ok_or_else(damaged)?;
        let plain = self.vault.open("archives", &account.0, &sealed)?;
        let keys: StoredKeys = codec::decode(&plain).map_err(|_| damaged())?;
        let volume = self
            .volumes_of(account, epoch)?
            .into_iter()
            .find_map(|signed| CheckedVolume::check(signed).ok())
            .ok_or_else(damaged)?;
        let mut archive = Archive::new(volume, keys.0, safe);
        let rows: Vec<(u64, [u8; 32])> = self
            .db
            .prepare(
                "SELECT number, page FROM pages WHERE mailbox = ?1 AND epoch = ?2 AND number > ?3",
            )?
            .query_map(params![account.0, epoch, safe], |row| {
                Ok((row.get(0)?, blob(row, 1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        for (number, id) in rows {
            archive.wait_for(number, EnvelopeId(id));
        }
        archive.small = self.small_pages(account)?;
        Ok(archive)
    }

    /// A keeper signed for own pages. Returns whether the receipt was for one of them.
    pub(super) fn page_receipt(
        &mut self,
        receipt: &CustodyReceipt,
        signed: &Signed<CustodyReceipt>,
    ) -> Result<()> {
        let account = receipt.mailbox;
        let Some(own) = self.accounts.get_mut(&account) else {
            return Ok(());
        };
        if !delivery::counts(receipt, &own.record) {
            return Ok(());
        }
        let mut held = Vec::new();
        let joining = own
            .record
            .keeper(&receipt.keeper)
            .is_some_and(|keeper| keeper.joining);
        for id in &receipt.ids {
            let Some(number) = own.archive.numbers.get(id).copied() else {
                // Safe already; the receipts of a keeper that is being filled are its proof.
                if joining {
                    held.push(*id);
                }
                continue;
            };
            let Some((_, holders)) = own.archive.waiting.get_mut(&number) else {
                continue;
            };
            holders.0.insert(receipt.keeper, receipt.until);
            let (state, _, _) = holders.prove(&own.record);
            if state >= State::Safe {
                own.archive.waiting.remove(&number);
                own.archive.numbers.remove(id);
            }
            held.push(*id);
        }
        if held.is_empty() {
            return Ok(());
        }
        let before = own.archive.safe;
        let after = own
            .archive
            .waiting
            .first_key_value()
            .map_or(own.archive.last(), |(number, _)| number.saturating_sub(1));
        own.archive.safe = after.max(before);
        let row = self.store_receipt(receipt, signed)?;
        for id in held {
            self.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO receipt_items (kind, item, keeper, receipt)
                     SELECT ?5, id, ?3, ?4 FROM pages WHERE page = ?2 AND mailbox = ?1",
                )?
                .execute(params![account.0, id.0, receipt.keeper.0, row, ITEM_PAGE])?;
        }
        if after > before {
            self.step.dirty_archives.insert(account);
            self.archive_advanced(account, before, after, receipt.until)?;
        }
        Ok(())
    }

    /// Pages became safe: so did the entries in them, as far as that is what they waited for.
    fn archive_advanced(
        &mut self,
        account: AccountId,
        before: u64,
        after: u64,
        until: Time,
    ) -> Result<()> {
        let volume = self.own(&account)?.archive.volume.epoch;
        let rows: Vec<(i64, [u8; 32], bool)> = self
            .db
            .prepare_cached(
                "SELECT id, contact, outgoing FROM messages
                 WHERE account = ?1 AND kind = 1 AND safe = 0 AND volume = ?4
                   AND page > ?2 AND page <= ?3",
            )?
            .query_map(params![account.0, before, after, volume], |row| {
                Ok((row.get(0)?, blob(row, 1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let copies = usize::from(self.own(&account)?.record.record.safe_copies);
        for (message, contact, outgoing) in rows {
            if outgoing {
                let holders = self.proven_holders(message)?;
                let record = self
                    .known_contact(account, AccountId(contact))?
                    .record
                    .clone();
                let (state, buildings, until) = holders.prove(&record);
                self.raise(Some(message), state, buildings, until)?;
            } else {
                self.raise(Some(message), State::Delivered, copies, Some(until))?;
            }
        }
        Ok(())
    }

    /// Who signed for the message of a row, and until when.
    fn proven_holders(&self, message: i64) -> Result<Holders> {
        let rows: Vec<([u8; 32], u64)> = self
            .db
            .prepare_cached(
                "SELECT i.keeper, r.until FROM receipt_items i JOIN receipts r ON r.id = i.receipt
                 WHERE i.kind = ?1 AND i.item = ?2",
            )?
            .query_map(params![ITEM_MESSAGE, message], |row| {
                Ok((blob(row, 0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut holders = Holders::default();
        for (keeper, until) in rows {
            holders.0.insert(NodeId(keeper), Time(until));
        }
        Ok(holders)
    }

    /// Asks keepers to sign for pages that are not proven safe: they may have them by another way.
    fn ask_for_page_receipts(&mut self) {
        let mut questions = Vec::new();
        for (account, own) in &self.accounts {
            let ids: Vec<EnvelopeId> = own
                .archive
                .waiting
                .values()
                .take(ATTEST_MAX)
                .map(|(id, _)| *id)
                .collect();
            if ids.is_empty() {
                continue;
            }
            for keeper in own.keepers() {
                if self.peers.get(&keeper).is_some_and(|peer| peer.connected) {
                    questions.push((keeper, *account, ids.clone()));
                }
            }
        }
        for (keeper, mailbox, ids) in questions {
            self.send(keeper, &Frame::Attest { mailbox, ids });
        }
    }

    /// After another record version: what was proven under the old one is proven anew.
    pub(super) fn archive_under(&mut self, account: &AccountId) {
        if let Some(own) = self.accounts.get_mut(account) {
            for (_, holders) in own.archive.waiting.values_mut() {
                holders.0.clear();
            }
        }
        self.due.attest = Time(0);
    }

    /// A permission that was given, with what tags are checked with.
    pub(super) fn granted(
        &self,
        account: &AccountId,
        capability: CapabilityId,
    ) -> Result<Option<Granted>> {
        let key: Option<[u8; 32]> = one(self
            .db
            .prepare_cached(
                "SELECT tag_key FROM capabilities WHERE mailbox = ?1 AND capability = ?2",
            )?
            .query_row(params![account.0, capability.0], |row| blob(row, 0)))?;
        Ok(key.map(|key| Granted {
            capability,
            tag_key: Secret(key),
        }))
    }

    /// A contact as the archive keeps it.
    pub(super) fn archived_contact(
        &mut self,
        account: AccountId,
        contact: AccountId,
    ) -> Result<Option<ArchivedContact>> {
        let Some(entry) = self.contact(account, contact)? else {
            return Ok(None);
        };
        let mut archived = ArchivedContact {
            name: entry.name.clone(),
            active: entry.active,
            record: entry.record.signed.clone(),
            former: entry.former.clone(),
            write: entry.secrets.write.clone(),
            granted: Granted {
                capability: entry.secrets.granted,
                tag_key: Secret([0; 32]),
            },
            invited_by: None,
            verified: entry.verified,
            blocked: entry.blocked,
            added: entry.added,
        };
        let invited_by = entry.secrets.invited_by;
        if let Some(granted) = self.granted(&account, archived.granted.capability)? {
            archived.granted = granted;
        }
        if let Some(capability) = invited_by {
            archived.invited_by = self.granted(&account, capability)?;
        }
        Ok(Some(archived))
    }

    /// Archives contacts whose lasting parts changed in this step.
    pub(super) fn archive_contact(&mut self, account: AccountId, contact: AccountId) -> Result<()> {
        let Some(archived) = self.archived_contact(account, contact)? else {
            return Ok(());
        };
        let record = Record::Contact(Box::new(archived));
        let hash = pumasi_protocol::crypto::hash(
            "archived",
            &[&codec::encode(&Records(vec![record.clone()]))],
        );
        let entry = self.known_contact(account, contact)?;
        if entry.archived == Some(hash) {
            return Ok(());
        }
        entry.archived = Some(hash);
        let (_, page) = self.archive(account, record);
        self.db
            .prepare_cached("UPDATE contacts SET page = ?3 WHERE account = ?1 AND contact = ?2")?
            .execute(params![account.0, contact.0, page])?;
        Ok(())
    }

    /// How far the archive of an own account is behind: pages that are not safe, and since when the
    /// oldest of them waits.
    pub(crate) fn archive_behind(&self, account: &AccountId) -> Result<(u64, Option<Time>)> {
        let own = self.own(account)?;
        let pages = own.archive.last().saturating_sub(own.archive.safe);
        let Some((_, (id, _))) = own.archive.waiting.first_key_value() else {
            return Ok((pages, None));
        };
        let time: Option<u64> = one(self.db.query_row(
            "SELECT time FROM pages WHERE page = ?1",
            params![id.0],
            |row| row.get(0),
        ))?;
        Ok((pages, time.map(Time)))
    }
}

/// About the encoded size of a record; never less than a few bytes below it.
fn size_of(record: &Record) -> usize {
    /// What stands around content or entry: ids, times, the call's hash.
    const AROUND: usize = 96;
    match record {
        Record::Text(text) => {
            let call = text.call.as_ref().map_or(0, |call| call.key.len());
            text.content.len() + call + AROUND
        }
        Record::Entry { entry, call, .. } => {
            let call = call.as_ref().map_or(0, |call| call.key.len());
            entry.bytes().len() + call + AROUND
        }
        other => codec::encode(&Records(vec![other.clone()])).len(),
    }
}

/// The page keys as they are sealed at rest.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct StoredKeys(pub(super) PageKeys);

impl codec::Wire for StoredKeys {
    const NAME: &'static str = "archive keys";
    const MAX: usize = 64;
}
