//! Chooses keepers: buildings apart first, operators apart where possible. Counts buildings, never
//! nodes. Asking the chosen nodes is the node's business.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto;
use crate::record::{KeeperEntry, normal};
use crate::types::{AccountId, NodeId};

/// A node that may be asked to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// As it would be listed.
    pub entry: KeeperEntry,
    /// A contact's node: asked before strangers' nodes.
    pub contact: bool,
}

/// The best node to ask next, or `None` when nothing would add a building.
///
/// In order: not the home node and not a keeper already; a building that no keeper stands in; not the
/// home's building; an operator that no keeper has; a contact's node; then spread by a hash of account
/// and node, so that newcomers do not all ask the same neighbour. `same_site` names pairs behind one
/// public address; it is empty where a network test lifts that rule.
#[must_use]
pub fn next_keeper(
    account: &AccountId,
    home: &NodeId,
    home_building: &str,
    keepers: &[KeeperEntry],
    candidates: &[Candidate],
    same_site: &BTreeSet<(NodeId, NodeId)>,
) -> Option<NodeId> {
    let buildings: BTreeSet<String> = keepers.iter().map(|k| normal(&k.building)).collect();
    let operators: BTreeSet<String> = keepers.iter().map(|k| normal(&k.operator)).collect();
    let home_building = normal(home_building);
    let beside = |node: &NodeId| {
        keepers.iter().any(|keeper| {
            let other = keeper.place.node;
            same_site.contains(&(*node, other)) || same_site.contains(&(other, *node))
        })
    };
    candidates
        .iter()
        .filter(|candidate| candidate.entry.place.node != *home)
        .filter(|candidate| !candidate.entry.building.trim().is_empty())
        .filter(|candidate| !buildings.contains(&normal(&candidate.entry.building)))
        .filter(|candidate| !beside(&candidate.entry.place.node))
        .min_by_key(|candidate| {
            let node = candidate.entry.place.node;
            (
                normal(&candidate.entry.building) == home_building,
                operators.contains(&normal(&candidate.entry.operator)),
                !candidate.contact,
                crypto::hash("placement", &[&account.0, &node.0]),
            )
        })
        .map(|candidate| candidate.entry.place.node)
}

/// What burning one building would leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The building, as its keepers write it.
    pub building: String,
    /// Keepers in it.
    pub keepers: usize,
    /// Buildings with keepers that would be left.
    pub left: usize,
    /// Whether everything that is safe now would survive, and new items could still become safe.
    pub survives: bool,
}

/// For each building that holds a keeper: what would be left if it burned. Something safe stands in
/// `safe_copies` buildings, so it survives one fire when that number is at least 2.
#[must_use]
pub fn losses(keepers: &[KeeperEntry], safe_copies: u8) -> Vec<Loss> {
    let mut buildings: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for keeper in keepers {
        let slot = buildings
            .entry(normal(&keeper.building))
            .or_insert_with(|| (keeper.building.clone(), 0));
        slot.1 += 1;
    }
    let total = buildings.len();
    buildings
        .into_values()
        .map(|(building, count)| Loss {
            building,
            keepers: count,
            left: total - 1,
            survives: safe_copies >= 2 && total > 1,
        })
        .collect()
}

/// W for a number of keepers: half of them rounded down, and one; at least 2, because what stands in
/// one building does not survive a fire. So with one keeper nothing is called safe.
#[must_use]
pub const fn safe_copies_for(keepers: usize) -> u8 {
    match keepers {
        0..=3 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Place;

    fn entry(node: u8, building: &str, operator: &str) -> KeeperEntry {
        KeeperEntry {
            place: Place {
                node: NodeId([node; 32]),
                addresses: vec![],
            },
            operator: operator.into(),
            building: building.into(),
            joining: false,
        }
    }

    fn candidate(node: u8, building: &str, operator: &str) -> Candidate {
        Candidate {
            entry: entry(node, building, operator),
            contact: false,
        }
    }

    fn next(keepers: &[KeeperEntry], candidates: &[Candidate]) -> Option<u8> {
        let account = AccountId([1; 32]);
        let home = NodeId([9; 32]);
        next_keeper(
            &account,
            &home,
            "pangyo",
            keepers,
            candidates,
            &BTreeSet::new(),
        )
        .map(|node| node.0[0])
    }

    #[test]
    fn a_second_keeper_in_the_same_building_is_never_chosen() {
        let keepers = [entry(1, "anyang", "a")];
        let candidates = [candidate(2, "Anyang ", "b"), candidate(3, "busan", "a")];
        assert_eq!(next(&keepers, &candidates), Some(3));
        assert_eq!(next(&keepers, &candidates[..1]), None);
    }

    #[test]
    fn the_home_node_is_never_its_own_keeper_and_its_building_comes_last() {
        assert_eq!(next(&[], &[candidate(9, "busan", "a")]), None);
        let candidates = [candidate(2, "pangyo", "a"), candidate(3, "busan", "a")];
        assert_eq!(next(&[], &candidates), Some(3));
        assert_eq!(next(&[], &candidates[..1]), Some(2));
    }

    #[test]
    fn another_operator_is_preferred_and_then_a_contact() {
        let keepers = [entry(1, "anyang", "kim")];
        let mut candidates = vec![candidate(2, "busan", "Kim"), candidate(3, "daegu", "lee")];
        assert_eq!(next(&keepers, &candidates), Some(3));
        let mut friend = candidate(4, "jeju", "park");
        friend.contact = true;
        candidates.push(friend);
        assert_eq!(next(&keepers, &candidates), Some(4));
    }

    #[test]
    fn a_node_that_does_not_say_where_it_stands_is_not_asked() {
        assert_eq!(next(&[], &[candidate(2, "  ", "a")]), None);
    }

    #[test]
    fn nodes_behind_one_address_are_not_apart() {
        let keepers = [entry(1, "anyang", "a")];
        let pair = BTreeSet::from([(NodeId([1; 32]), NodeId([2; 32]))]);
        let chosen = next_keeper(
            &AccountId([1; 32]),
            &NodeId([9; 32]),
            "pangyo",
            &keepers,
            &[candidate(2, "busan", "b")],
            &pair,
        );
        assert_eq!(chosen, None);
    }

    #[test]
    fn losses_are_told_per_building() {
        let keepers = [
            entry(1, "anyang", "a"),
            entry(2, "busan", "b"),
            entry(3, "busan", "c"),
        ];
        let losses = losses(&keepers, 2);
        assert_eq!(losses.len(), 2);
        assert!(losses.iter().all(|loss| loss.survives && loss.left == 1));
        assert!(!super::losses(&keepers[..1], 2)[0].survives);
    }

    #[test]
    fn half_of_the_keepers_and_one_make_safe() {
        let copies: Vec<u8> = (0..=5).map(safe_copies_for).collect();
        assert_eq!(copies, [2, 2, 2, 2, 3, 3]);
    }
}
