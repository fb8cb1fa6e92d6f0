//! "If this building burned now": what would be left of everything that was called safe, from the
//! receipts that are held here. Nothing is changed and nobody is asked.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::delivery::State;
use pumasi_protocol::record::{AccountRecord, KeeperEntry, normal};
use pumasi_protocol::succession::is_reading;
use pumasi_protocol::types::{AccountId, EnvelopeId, MessageId, NodeId, Time};
use rusqlite::params;

use super::proofs::{ITEM_MESSAGE, ITEM_PAGE};
use super::{Engine, blob};
use crate::error::{Error, Result};
use crate::view::{DrillAccountView, DrillView};

/// Ids named per account at most.
const NAMED_MAX: usize = 5;

impl Engine {
    /// What would be left if a building burned now, for every account of this node. Looks at every live
    /// page and every sent text that is not delivered: some milliseconds per thousand.
    pub(crate) fn drill(&self, building: &str) -> Result<DrillView> {
        let burned = normal(building);
        if burned.is_empty() {
            return Err(Error::invalid(
                "name a building, as its nodes write it: `pumasi keeper list` shows those of your keepers",
            ));
        }
        let here = normal(&self.settings.building) == burned;
        let mut accounts = Vec::new();
        for account in self.accounts.keys() {
            accounts.push(self.drill_account(account, &burned, here)?);
        }
        accounts.sort_by(|a, b| a.name.cmp(&b.name));
        let survives = accounts
            .iter()
            .all(|one| one.restorable && one.pages_at_risk == 0 && one.messages_at_risk == 0);
        let text = match (here, survives) {
            (true, true) => format!(
                "If {building} burned now, this node would burn with it, and every account on it could be restored from its words elsewhere: nothing that is safe would be lost."
            ),
            (true, false) => format!(
                "If {building} burned now, this node would burn with it, and NOT everything that is safe would come back: see below."
            ),
            (false, true) => {
                format!("If {building} burned now, nothing that is safe would be lost.")
            }
            (false, false) => format!(
                "If {building} burned now, NOT everything that was called safe would stand elsewhere: see below."
            ),
        };
        Ok(DrillView {
            building: building.to_owned(),
            here,
            survives,
            accounts,
            text,
        })
    }

    fn drill_account(
        &self,
        account: &AccountId,
        burned: &str,
        here: bool,
    ) -> Result<DrillAccountView> {
        let own = self.own(account)?;
        let record = &own.record.record;
        let left: Vec<&KeeperEntry> = outside(&record.keepers, burned);
        let nodes: BTreeSet<NodeId> = left.iter().map(|keeper| keeper.place.node).collect();
        let buildings: BTreeSet<String> = left.iter().map(|k| normal(&k.building)).collect();
        // One keeper is no reading by itself, as long as nothing was ever safe with it.
        let restorable =
            !nodes.is_empty() && is_reading(&record.keepers, record.safe_copies, &nodes);
        let mut at_risk = Vec::new();
        let (pages_safe, pages_at_risk) = self.drill_pages(account, &left, &mut at_risk)?;
        let (messages_safe, messages_at_risk) =
            self.drill_messages(account, burned, &mut at_risk)?;
        let contacts_there = self.homes_in(account, burned)?;
        let lost = record.keepers.len() - left.len();
        let name = own.name.clone();
        let mut text = match lost {
            0 => format!("{name}: no keeper stands there"),
            1 => format!("{name}: 1 of {} keepers would burn", record.keepers.len()),
            more => format!(
                "{name}: {more} of {} keepers would burn",
                record.keepers.len()
            ),
        };
        text.push_str(&format!(
            "; {pages_safe} pages of its archive and {messages_safe} texts on their way are safe"
        ));
        text.push_str(&match pages_at_risk + messages_at_risk {
            0 => ", and all of them would still stand elsewhere".to_owned(),
            some => format!(", and {some} of them are not proven to stand elsewhere"),
        });
        text.push_str(match (restorable, here) {
            (true, true) => ". It could be restored from its words, complete.",
            (true, false) => ". It goes on here, and could be restored from its words, complete.",
            (false, true) => ". It could NOT be restored completely: too few keepers would be left.",
            (false, false) => ". It goes on here, but could NOT be restored completely until it is repaired: too few keepers would be left.",
        });
        if !contacts_there.is_empty() {
            text.push_str(&format!(
                " The nodes of these contacts stand there: {}.",
                contacts_there.join(", ")
            ));
        }
        Ok(DrillAccountView {
            account: account.to_string(),
            name,
            keepers_lost: lost,
            keepers_left: left.len(),
            buildings_left: buildings.len(),
            restorable,
            pages_safe,
            pages_at_risk,
            messages_safe,
            messages_at_risk,
            at_risk,
            contacts_there,
            text,
        })
    }

    /// Safe pages, and those of them that no building outside is proven to hold.
    fn drill_pages(
        &self,
        account: &AccountId,
        left: &[&KeeperEntry],
        at_risk: &mut Vec<String>,
    ) -> Result<(u64, u64)> {
        let own = self.own(account)?;
        let (epoch, safe_to) = (own.archive.volume.epoch, own.archive.safe);
        let enough = usize::from(own.record.record.safe_copies)
            .saturating_sub(1)
            .max(1);
        let mut query = self.db.prepare_cached(
            "SELECT page, time, id FROM pages WHERE mailbox = ?1 AND hidden IS NULL
               AND (epoch < ?2 OR (epoch = ?2 AND number <= ?3))",
        )?;
        let rows: Vec<([u8; 32], u64, i64)> = query
            .query_map(params![account.0, epoch, safe_to], |row| {
                Ok((blob(row, 0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut shelves = BTreeMap::new();
        for keeper in left {
            let node = keeper.place.node;
            shelves.insert(node, self.shelf_signed(account, &node)?);
        }
        let (mut safe, mut risk) = (0, 0);
        for (page, time, row) in rows {
            safe += 1;
            let signed = self.signers(ITEM_PAGE, row)?;
            let mut buildings = BTreeSet::new();
            for keeper in left {
                let node = keeper.place.node;
                let shelf = shelves.get(&node).copied().flatten() > Some(Time(time));
                if shelf || signed.contains(&node) {
                    buildings.insert(normal(&keeper.building));
                }
            }
            if buildings.len() < enough {
                risk += 1;
                name(at_risk, &EnvelopeId(page).to_string());
            }
        }
        Ok((safe, risk))
    }

    /// Texts that are safe at keepers of their recipients and not delivered, and those of them that no
    /// building outside is proven to hold.
    fn drill_messages(
        &self,
        account: &AccountId,
        burned: &str,
        at_risk: &mut Vec<String>,
    ) -> Result<(u64, u64)> {
        let mut query = self.db.prepare_cached(
            "SELECT message, contact, id FROM messages
             WHERE account = ?1 AND outgoing = 1 AND safe = 1 AND state < ?2",
        )?;
        let rows: Vec<([u8; 32], [u8; 32], i64)> = query
            .query_map(params![account.0, State::Delivered.code()], |row| {
                Ok((blob(row, 0)?, blob(row, 1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut records: BTreeMap<AccountId, (Vec<KeeperEntry>, u8)> = BTreeMap::new();
        let (mut safe, mut risk) = (0, 0);
        for (message, contact, row) in rows {
            safe += 1;
            let contact = AccountId(contact);
            let (keepers, copies) = match records.entry(contact) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(slot) => slot.insert(self.contact_record(account, &contact)?),
            };
            let signed = self.signers(ITEM_MESSAGE, row)?;
            let buildings: BTreeSet<String> = outside(keepers, burned)
                .into_iter()
                .filter(|keeper| signed.contains(&keeper.place.node))
                .map(|keeper| normal(&keeper.building))
                .collect();
            if buildings.len() < usize::from(*copies).saturating_sub(1).max(1) {
                risk += 1;
                name(at_risk, &MessageId(message).to_string());
            }
        }
        Ok((safe, risk))
    }

    /// Who signed for something, by the receipts held here.
    fn signers(&self, kind: i64, item: i64) -> Result<BTreeSet<NodeId>> {
        Ok(self
            .db
            .prepare_cached("SELECT keeper FROM receipt_items WHERE kind = ?1 AND item = ?2")?
            .query_map(params![kind, item], |row| Ok(NodeId(blob(row, 0)?)))?
            .collect::<rusqlite::Result<_>>()?)
    }

    fn contact_record(
        &self,
        account: &AccountId,
        contact: &AccountId,
    ) -> Result<(Vec<KeeperEntry>, u8)> {
        let bytes: Vec<u8> = self
            .db
            .prepare_cached("SELECT record FROM contacts WHERE account = ?1 AND contact = ?2")?
            .query_row(params![account.0, contact.0], |row| row.get(0))?;
        Ok(record_in(&bytes).map_or((vec![], 2), |record| (record.keepers, record.safe_copies)))
    }

    /// Names of contacts whose node says that it stands in a building.
    fn homes_in(&self, account: &AccountId, burned: &str) -> Result<Vec<String>> {
        let rows: Vec<(String, Vec<u8>)> = self
            .db
            .prepare_cached("SELECT name, record FROM contacts WHERE account = ?1 ORDER BY name")?
            .query_map(params![account.0], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut names = Vec::new();
        for (name, bytes) in rows {
            let Some(record) = record_in(&bytes) else {
                continue;
            };
            let home = self.node_record(&record.home.node)?;
            if home.is_some_and(|home| normal(&home.building) == burned) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn record_in(bytes: &[u8]) -> Option<AccountRecord> {
    let signed: Signed<AccountRecord> = codec::decode(bytes).ok()?;
    signed.unverified().ok()
}

fn outside<'a>(keepers: &'a [KeeperEntry], burned: &str) -> Vec<&'a KeeperEntry> {
    keepers
        .iter()
        .filter(|keeper| normal(&keeper.building) != burned)
        .collect()
}

fn name(list: &mut Vec<String>, id: &str) {
    if list.len() < NAMED_MAX {
        list.push(id.to_owned());
    }
}
