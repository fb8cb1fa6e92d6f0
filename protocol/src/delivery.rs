//! The state of something sent, as a pure function of the signatures held for it. States only rise.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::mailbox::CustodyReceipt;
use crate::record::{CheckedRecord, normal};
use crate::types::{NodeId, Time};

/// How far something has come; each step is proven by signatures.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Committed on the sender's disk.
    #[default]
    Saved,
    /// Durable at keepers in one building.
    OneBuilding,
    /// Durable at keepers in as many buildings as the recipient's record asks for (W).
    Safe,
    /// Signed for by the recipient's device.
    Delivered,
    /// Signed as read.
    Read,
}

impl State {
    /// The number that stores keep; never renumber.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The state of a stored number; an unknown one reads as [`State::Saved`].
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::OneBuilding,
            2 => Self::Safe,
            3 => Self::Delivered,
            4 => Self::Read,
            _ => Self::Saved,
        }
    }
}

/// Whether a receipt counts: its keeper is listed in the record version that it names.
#[must_use]
pub fn counts(receipt: &CustodyReceipt, record: &CheckedRecord) -> bool {
    receipt.mailbox == record.account()
        && receipt.record == record.version()
        && record.keeper(&receipt.keeper).is_some()
}

/// How many buildings hold something, given the keepers whose receipts under this record count. The
/// owner's own node never counts.
#[must_use]
pub fn buildings(record: &CheckedRecord, holders: &BTreeSet<NodeId>) -> usize {
    let names: BTreeSet<String> = record
        .record
        .keepers
        .iter()
        .filter(|keeper| holders.contains(&keeper.place.node))
        .filter(|keeper| keeper.place.node != record.record.home.node)
        .map(|keeper| normal(&keeper.building))
        .collect();
    names.len()
}

/// The state that receipts alone prove.
#[must_use]
pub fn kept(record: &CheckedRecord, holders: &BTreeSet<NodeId>) -> State {
    match buildings(record, holders) {
        0 => State::Saved,
        count if count >= usize::from(record.record.safe_copies) => State::Safe,
        _ => State::OneBuilding,
    }
}

/// Until when something is safe, given the keepers whose receipts under this record count and the dates
/// that they name: the W-th latest of one date per building. The owner's own node never counts.
#[must_use]
pub fn safe_until(record: &CheckedRecord, holders: &BTreeMap<NodeId, Time>) -> Option<Time> {
    let mut per_building: BTreeMap<String, Time> = BTreeMap::new();
    for keeper in &record.record.keepers {
        let home = keeper.place.node == record.record.home.node;
        if let Some(until) = holders.get(&keeper.place.node).filter(|_| !home) {
            let slot = per_building.entry(normal(&keeper.building)).or_default();
            *slot = (*slot).max(*until);
        }
    }
    let mut dates: Vec<Time> = per_building.into_values().collect();
    dates.sort_unstable_by(|a, b| b.cmp(a));
    let place = usize::from(record.record.safe_copies).checked_sub(1)?;
    dates.get(place).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Signed, SigningKey};
    use crate::identity::{DeviceCertificate, Phrase};
    use crate::record::{AccountRecord, KeeperEntry, Place};
    use crate::types::{DeviceKey, Hash};

    fn record(buildings: &[&str], home: u8) -> CheckedRecord {
        let keys = Phrase::from_entropy(&[1; 32]).keys();
        let device = SigningKey::from_seed(&[2; 32]);
        let place = |node: u8| Place {
            node: NodeId([node; 32]),
            addresses: vec![],
        };
        let keepers = buildings
            .iter()
            .zip(1_u8..)
            .map(|(building, node)| KeeperEntry {
                place: place(node),
                operator: "o".into(),
                building: (*building).into(),
                joining: false,
            })
            .collect();
        let record = AccountRecord {
            certificate: DeviceCertificate::issue(&keys, DeviceKey(device.public()), 1),
            version: 1,
            name: String::new(),
            home: place(home),
            keepers,
            safe_copies: 2,
            keys: Hash([0; 32]),
        };
        CheckedRecord::check(Signed::sign(&record, &device)).unwrap()
    }

    fn nodes(list: &[u8]) -> BTreeSet<NodeId> {
        list.iter().map(|node| NodeId([*node; 32])).collect()
    }

    #[test]
    fn two_keepers_in_one_building_are_one_building() {
        let record = record(&["pangyo", "Pangyo ", "anyang"], 9);
        assert_eq!(kept(&record, &nodes(&[])), State::Saved);
        assert_eq!(kept(&record, &nodes(&[1, 2])), State::OneBuilding);
        assert_eq!(kept(&record, &nodes(&[1, 3])), State::Safe);
    }

    #[test]
    fn the_owners_node_and_strangers_never_count() {
        let record = record(&["pangyo", "anyang"], 1);
        assert_eq!(kept(&record, &nodes(&[1])), State::Saved);
        assert_eq!(kept(&record, &nodes(&[2, 7])), State::OneBuilding);
    }

    #[test]
    fn a_receipt_under_another_record_version_does_not_count() {
        let record = record(&["pangyo"], 9);
        let mut receipt = CustodyReceipt {
            mailbox: record.account(),
            record: record.version(),
            keeper: NodeId([1; 32]),
            until: Time(1),
            ids: vec![],
        };
        assert!(counts(&receipt, &record));
        receipt.record.version += 1;
        assert!(!counts(&receipt, &record));
    }

    fn dates(list: &[(u8, u64)]) -> BTreeMap<NodeId, Time> {
        let dated = list
            .iter()
            .map(|(node, at)| (NodeId([*node; 32]), Time(*at)));
        dated.collect()
    }

    #[test]
    fn the_date_is_that_of_the_last_building_needed() {
        let record = record(&["pangyo", "anyang", "busan", "Busan"], 9);
        assert_eq!(record.record.safe_copies, 2);
        let all = dates(&[(1, 10), (2, 30), (3, 5), (4, 20)]);
        assert_eq!(safe_until(&record, &all), Some(Time(20)));
        assert_eq!(safe_until(&record, &dates(&[(3, 5), (4, 20)])), None);
        assert_eq!(safe_until(&record, &dates(&[(1, 10), (7, 20)])), None);
    }

    #[test]
    fn a_home_that_is_its_own_keeper_gives_no_date_either() {
        let record = record(&["pangyo", "anyang", "busan"], 1);
        assert_eq!(safe_until(&record, &dates(&[(1, 10), (2, 20)])), None);
        assert_eq!(
            safe_until(&record, &dates(&[(1, 10), (2, 20), (3, 30)])),
            Some(Time(20))
        );
    }

    #[test]
    fn state_codes_come_back() {
        for state in [
            State::Saved,
            State::OneBuilding,
            State::Safe,
            State::Delivered,
            State::Read,
        ] {
            assert_eq!(State::from_code(state.code()), state);
        }
    }
}
