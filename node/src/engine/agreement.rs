//! The agreement to keep a mailbox: being asked, records, and the keys handed out for its owner.

use std::collections::BTreeSet;

use pumasi_protocol::codec;
use pumasi_protocol::crypto::{self, Signed};
use pumasi_protocol::envelope::CapabilityId;
use pumasi_protocol::record::{CheckedRecord, KeyBundle, OneTimeKey};
use pumasi_protocol::types::{AccountId, NodeId};
use pumasi_protocol::wire::{Response, keys_tag_text};
use rusqlite::params;

use super::keeping::Kept;
use super::{Engine, one};
use crate::error::Result;

/// One-time keys kept per account at most.
const POOL_MAX: u32 = 100;

impl Engine {
    /// Someone asks this node to keep its mailboxes.
    pub(super) fn asked_to_keep(
        &mut self,
        from: NodeId,
        record: Signed<pumasi_protocol::record::AccountRecord>,
        keys: Signed<KeyBundle>,
    ) -> Result<Response> {
        let no = |why: &str, retry| {
            Ok(Response::No {
                why: why.to_owned(),
                retry,
            })
        };
        let Ok(record) = CheckedRecord::check(record) else {
            return no("the account record does not check out", false);
        };
        if KeyBundle::open_for(&keys, &record).is_err() {
            return no("the key bundle does not belong to the record", false);
        }
        let account = record.account();
        if record.record.home.node != from || self.accounts.contains_key(&account) {
            return no("only an account's own node asks for it", false);
        }
        if let Some(kept) = self.kept_mut(&account)? {
            if record.replaces(&kept.record) {
                kept.keys = keys;
                self.take_record(&account, record);
            }
            return Ok(Response::Done);
        }
        let contact = self
            .db
            .prepare_cached("SELECT 1 FROM contacts WHERE contact = ?1 AND blocked = 0 LIMIT 1")?
            .exists(params![account.0])?;
        let welcome = contact && self.settings.keep_for_contacts;
        if !welcome && self.places_left()? == 0 {
            return no("no places for newcomers are left here", true);
        }
        self.hint(&record);
        self.share(&record);
        self.kept.insert(
            account,
            Kept {
                record,
                keys,
                contact: welcome,
                since: self.now,
                ended: Some(self.now),
                seals: BTreeSet::new(),
                sets: self.load_sets(&account)?,
            },
        );
        self.step.dirty_kept.insert(account);
        self.due.publish_soon(self.now);
        Ok(Response::Done)
    }

    /// How many more newcomers' mailboxes this node would keep.
    pub(super) fn places_left(&self) -> Result<u32> {
        let taken: u32 =
            self.db
                .query_row("SELECT count(*) FROM kept WHERE contact = 0", [], |row| {
                    row.get(0)
                })?;
        let pending = self
            .step
            .dirty_kept
            .iter()
            .filter(|id| {
                self.kept
                    .get(id)
                    .is_some_and(|kept| !kept.contact && kept.since == self.now)
            })
            .count();
        let pending = u32::try_from(pending).unwrap_or(u32::MAX);
        Ok(self
            .settings
            .newcomers
            .saturating_sub(taken.saturating_add(pending)))
    }

    /// A newer record of a kept account.
    pub(super) fn told_record(
        &mut self,
        record: Signed<pumasi_protocol::record::AccountRecord>,
        keys: Signed<KeyBundle>,
    ) -> Result<Response> {
        let Ok(record) = CheckedRecord::check(record) else {
            return Ok(Response::No {
                why: "the record does not check out".into(),
                retry: false,
            });
        };
        self.newer_record_everywhere(&record)?;
        let account = record.account();
        if self.accounts.contains_key(&account) {
            return self.succeeded_by(record);
        }
        self.hint(&record);
        let Some(kept) = self.kept_mut(&account)? else {
            return Ok(Response::No {
                why: "that mailbox is not kept here".into(),
                retry: false,
            });
        };
        if kept.record.replaces(&record) {
            return Ok(Response::Newer(kept.record.signed.clone()));
        }
        if record.replaces(&kept.record) && KeyBundle::open_for(&keys, &record).is_ok() {
            let other_device = record.device() != kept.record.device();
            kept.keys = keys;
            self.take_record(&account, record);
            if other_device {
                self.begin_epoch(&account)?;
            }
        }
        Ok(Response::Done)
    }

    /// A newer record of a kept account, which may not name this node any more: then nothing new is
    /// taken, what was signed for stays to its date (see `cleaning`), and the sharing ends.
    pub(super) fn take_record(&mut self, account: &AccountId, record: CheckedRecord) {
        let named = record.keeper(&self.me).is_some();
        let now = self.now;
        let Some(kept) = self.kept.get_mut(account) else {
            return;
        };
        kept.record = record.clone();
        kept.ended = match kept.ended {
            _ if named => None,
            None => Some(now),
            since => since,
        };
        self.step.dirty_kept.insert(*account);
        for shared in self.due.sharing.values_mut() {
            shared.remove(account);
        }
        self.share(&record);
        if !named {
            self.due.publish_soon(now);
        }
    }

    /// The owner has a new device. It says anew what holds; one-time keys of the old one are void; and
    /// what only the old one is known to have is there to be read again.
    fn begin_epoch(&mut self, account: &AccountId) -> Result<()> {
        for sql in [
            "DELETE FROM one_time_keys WHERE mailbox = ?1",
            "DELETE FROM outbox WHERE kind = 1 AND item IN
               (SELECT id FROM statements WHERE mailbox = ?1)",
            "DELETE FROM acknowledged WHERE mailbox = ?1",
            "DELETE FROM statements WHERE mailbox = ?1",
        ] {
            self.db.execute(sql, params![account.0])?;
        }
        self.db.execute(
            "UPDATE envelopes SET hidden = NULL
             WHERE mailbox = ?1 AND hidden IS NOT NULL AND covered = 0",
            params![account.0],
        )?;
        let sets = self.load_sets(account)?;
        if let Some(kept) = self.kept.get_mut(account) {
            kept.sets = sets;
        }
        Ok(())
    }

    /// Keys to seal to an account that is kept or lives here.
    pub(super) fn give_keys(
        &mut self,
        from: NodeId,
        account: AccountId,
        capability: CapabilityId,
        tag: [u8; 16],
    ) -> Result<Response> {
        let no = |why: &str| {
            Ok(Response::No {
                why: why.to_owned(),
                retry: true,
            })
        };
        let Some(tag_key) = self.tag_key(&account, &capability)? else {
            return no("that capability is not known here");
        };
        let right = crypto::mac(&tag_key.0, "keys", &keys_tag_text(&account, &from));
        if !crypto::equal(&right, &tag) {
            return no("the tag does not fit");
        }
        if let Some(own) = self.accounts.get_mut(&account) {
            let key = own.ratchet.generate_one_time(1).first().copied();
            let epoch = own.record.certificate.epoch;
            let one_time = key.map(|key| {
                Signed::sign(
                    &OneTimeKey {
                        account,
                        epoch,
                        key,
                    },
                    &own.device,
                )
            });
            let (record, keys) = (own.record.signed.clone(), own.keys.clone());
            self.step.dirty_ratchets.insert(account);
            return Ok(Response::Keys {
                record,
                keys,
                one_time,
            });
        }
        let Some(kept) = self.kept_mut(&account)? else {
            return no("that mailbox is not kept here");
        };
        let (record, keys) = (kept.record.signed.clone(), kept.keys.clone());
        let row: Option<(i64, Vec<u8>)> = one(self
            .db
            .prepare_cached(
                "SELECT id, bytes FROM one_time_keys WHERE mailbox = ?1 ORDER BY id LIMIT 1",
            )?
            .query_row(params![account.0], |row| Ok((row.get(0)?, row.get(1)?))))?;
        let mut one_time = None;
        if let Some((id, bytes)) = row {
            self.db
                .execute("DELETE FROM one_time_keys WHERE id = ?1", params![id])?;
            one_time = codec::decode(&bytes).ok();
        }
        Ok(Response::Keys {
            record,
            keys,
            one_time,
        })
    }

    /// One-time keys for this node's own pool.
    pub(super) fn stock_keys(
        &mut self,
        from: NodeId,
        account: AccountId,
        keys: Vec<Signed<OneTimeKey>>,
    ) -> Result<Response> {
        let Some(kept) = self.kept_mut(&account)? else {
            return Ok(Response::No {
                why: "that mailbox is not kept here".into(),
                retry: false,
            });
        };
        if kept.record.record.home.node != from {
            return Ok(Response::No {
                why: "only the owner's node stocks keys".into(),
                retry: false,
            });
        }
        let (device, epoch) = (kept.record.device(), kept.record.certificate.epoch);
        let mut count: u32 = self.db.query_row(
            "SELECT count(*) FROM one_time_keys WHERE mailbox = ?1",
            params![account.0],
            |row| row.get(0),
        )?;
        for signed in keys {
            let Ok(key) = signed.open(&device.0) else {
                continue;
            };
            if count >= POOL_MAX || key.account != account || key.epoch != epoch {
                continue;
            }
            self.db
                .prepare_cached("INSERT INTO one_time_keys (mailbox, bytes) VALUES (?1, ?2)")?
                .execute(params![account.0, codec::encode(&signed)])?;
            count += 1;
        }
        Ok(Response::Stock(count))
    }
}
