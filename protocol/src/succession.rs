//! How one list of keepers follows another without anything safe being lost to a reader: who stands as
//! `joining`, how many must be read, how many must have accepted a list. Choosing nodes is in
//! [`crate::placement`].
//!
//! What is safe stands at W of N keepers, so any R = N - W + 1 of them show it. A *reading* of a list
//! is either R keepers that are not joining, or all that are listed. Every step here keeps this: **each
//! reading of the new list contains a reading of the old one**, so whoever reads the new list sees what
//! was safe under every list before. Where a change would break that, it marks keepers as joining, so
//! that their word alone does not make a reading, until they hold what the others hold.

use std::collections::BTreeSet;

use crate::placement::safe_copies_for;
use crate::record::KeeperEntry;
use crate::types::NodeId;

/// R: how many keepers must be read so that everything safe is seen.
#[must_use]
pub fn readers(keepers: usize, safe_copies: u8) -> usize {
    (keepers + 1).saturating_sub(usize::from(safe_copies))
}

fn settled(keepers: &[KeeperEntry]) -> impl Iterator<Item = NodeId> + '_ {
    keepers
        .iter()
        .filter(|keeper| !keeper.joining)
        .map(|keeper| keeper.place.node)
}

/// Whether what these nodes hold shows everything that was ever safe.
#[must_use]
pub fn is_reading(keepers: &[KeeperEntry], safe_copies: u8, read: &BTreeSet<NodeId>) -> bool {
    if keepers
        .iter()
        .all(|keeper| read.contains(&keeper.place.node))
    {
        return true;
    }
    let count = settled(keepers).filter(|node| read.contains(node)).count();
    settled(keepers).next().is_some() && count >= readers(keepers.len(), safe_copies)
}

/// How many keepers that are not joining must have accepted a list before a joining one is told it:
/// from then on too few are left under the older list to make anything safe, and no reading of the
/// older list misses all of those who know the newer. Where all are joining, all of them.
#[must_use]
pub fn fence(keepers: &[KeeperEntry], safe_copies: u8) -> usize {
    let able = settled(keepers).count();
    if able == 0 {
        return keepers.len();
    }
    readers(keepers.len(), safe_copies)
        .max(usize::from(safe_copies))
        .min(able)
}

/// The list after one keeper leaves, one comes, or both, and its W. `None` when those who are left do
/// not make a reading: then only a restore with the words goes on.
///
/// The new keeper stands as joining unless enough old ones are in every reading without it. Where R
/// falls (three keepers become two), all are joining: until they are level, all must be read. A single
/// keeper that is left over stays so: a list of one that is not joining says that nothing was safe yet.
#[must_use]
pub fn successor(
    keepers: &[KeeperEntry],
    safe_copies: u8,
    gone: Option<&NodeId>,
    added: Option<&KeeperEntry>,
) -> Option<(Vec<KeeperEntry>, u8)> {
    let all_joining = !keepers.is_empty() && settled(keepers).next().is_none();
    let before = if all_joining {
        keepers.len()
    } else {
        readers(keepers.len(), safe_copies)
    };
    let mut next: Vec<KeeperEntry> = keepers
        .iter()
        .filter(|keeper| Some(&keeper.place.node) != gone)
        .cloned()
        .collect();
    let left: BTreeSet<NodeId> = next.iter().map(|keeper| keeper.place.node).collect();
    if !is_reading(keepers, safe_copies, &left) {
        return None;
    }
    let old = next.len();
    next.extend(added.cloned());
    let copies = safe_copies_for(next.len());
    let after = readers(next.len(), copies);
    if after < before {
        for keeper in &mut next {
            keeper.joining = true;
        }
        return Some((next, copies));
    }
    if all_joining {
        // Whoever reads so many of the old ones reads all of them.
        for keeper in next.iter_mut().take(old) {
            keeper.joining = false;
        }
    }
    if let Some(last) = next.get_mut(old) {
        last.joining = before > 0 && after < before + 1;
    }
    Some((next, copies))
}

/// The list after joining keepers were found to hold everything that a reading of it held. `None` when
/// nothing changes: a single keeper goes on as joining, because R of one is zero.
#[must_use]
pub fn settle(
    keepers: &[KeeperEntry],
    safe_copies: u8,
    filled: &BTreeSet<NodeId>,
) -> Option<Vec<KeeperEntry>> {
    if readers(keepers.len(), safe_copies) == 0 {
        return None;
    }
    let mut next = keepers.to_vec();
    for keeper in &mut next {
        keeper.joining &= !filled.contains(&keeper.place.node);
    }
    (next != keepers).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Place;

    fn entry(node: u8) -> KeeperEntry {
        KeeperEntry {
            place: Place {
                node: NodeId([node; 32]),
                addresses: vec![],
            },
            operator: String::new(),
            building: format!("building {node}"),
            joining: false,
        }
    }

    fn list(nodes: &[u8]) -> Vec<KeeperEntry> {
        nodes.iter().map(|node| entry(*node)).collect()
    }

    fn joining(keepers: &[KeeperEntry]) -> Vec<u8> {
        keepers
            .iter()
            .filter(|keeper| keeper.joining)
            .map(|keeper| keeper.place.node.0[0])
            .collect()
    }

    /// All sets of the numbered nodes.
    fn subsets(nodes: &[NodeId]) -> impl Iterator<Item = BTreeSet<NodeId>> + '_ {
        (0_u32..1 << nodes.len()).map(|bits| {
            nodes
                .iter()
                .enumerate()
                .filter(|(place, _)| bits >> place & 1 == 1)
                .map(|(_, node)| *node)
                .collect()
        })
    }

    fn nodes(keepers: &[KeeperEntry]) -> Vec<NodeId> {
        keepers.iter().map(|keeper| keeper.place.node).collect()
    }

    #[test]
    fn a_replacement_joins_until_it_is_filled() {
        let (next, copies) = successor(
            &list(&[1, 2, 3]),
            2,
            Some(&NodeId([1; 32])),
            Some(&entry(4)),
        )
        .unwrap();
        assert_eq!((joining(&next), copies), (vec![4], 2));
        assert_eq!(fence(&next, copies), 2);
    }

    #[test]
    fn the_first_keepers_need_not_join() {
        let (one, _) = successor(&[], 2, None, Some(&entry(1))).unwrap();
        let (two, _) = successor(&one, 2, None, Some(&entry(2))).unwrap();
        let (three, copies) = successor(&two, 2, None, Some(&entry(3))).unwrap();
        assert_eq!((joining(&three), copies), (vec![], 2));
    }

    #[test]
    fn two_left_of_three_must_both_be_read_until_they_are_level() {
        let (two, copies) = successor(&list(&[1, 2, 3]), 2, Some(&NodeId([1; 32])), None).unwrap();
        assert_eq!(joining(&two), vec![2, 3]);
        let one: BTreeSet<NodeId> = [NodeId([2; 32])].into();
        assert!(!is_reading(&two, copies, &one));
        // With a third one, the two are read anyway.
        let (three, _) = successor(&two, copies, None, Some(&entry(4))).unwrap();
        assert_eq!(joining(&three), vec![4]);
    }

    #[test]
    fn with_two_of_three_gone_nothing_goes_on() {
        let (next, copies) = successor(
            &list(&[1, 2, 3]),
            2,
            Some(&NodeId([1; 32])),
            Some(&entry(4)),
        )
        .unwrap();
        assert!(successor(&next, copies, Some(&NodeId([2; 32])), Some(&entry(5))).is_none());
    }

    /// Every walk of a few steps: whatever was safe under any list before is seen by every reading of
    /// the list now. Those who join hold nothing older, and are settled only when `filled`: then they
    /// hold what a reading held.
    #[test]
    fn every_reading_of_every_successor_sees_all_that_was_safe() {
        // What is known to stand at which nodes.
        fn walk(
            keepers: &[KeeperEntry],
            copies: u8,
            safe: &[BTreeSet<NodeId>],
            fresh: u8,
            depth: u32,
        ) {
            let here = nodes(keepers);
            let mut safe = safe.to_vec();
            // All that can become safe under this list.
            for set in subsets(&here) {
                if set.len() >= usize::from(copies) && !safe.contains(&set) {
                    safe.push(set);
                }
            }
            for read in subsets(&here).filter(|read| is_reading(keepers, copies, read)) {
                for set in &safe {
                    assert!(
                        !set.is_disjoint(&read),
                        "{keepers:?} {copies}: {read:?} misses what stands at {set:?}"
                    );
                }
            }
            if depth == 0 {
                return;
            }
            // Filled: they hold everything safe. One at a time, and all at once.
            let filled = subsets(&here).filter(|set| !set.is_empty());
            for filled in filled {
                let Some(next) = settle(keepers, copies, &filled) else {
                    continue;
                };
                let mut more = safe.clone();
                for (old, new) in keepers.iter().zip(&next) {
                    if old.joining && !new.joining {
                        for set in &mut more {
                            set.insert(old.place.node);
                        }
                    }
                }
                more.sort();
                more.dedup();
                walk(&next, copies, &more, fresh, depth - 1);
            }
            let gone = here.iter().map(Some).chain([None]);
            for gone in gone {
                let grows = here.len() < 5 || gone.is_some();
                for added in [None, grows.then(|| entry(fresh))] {
                    if gone.is_none() && added.is_none() {
                        continue;
                    }
                    if let Some((next, copies)) = successor(keepers, copies, gone, added.as_ref()) {
                        walk(&next, copies, &safe, fresh + 1, depth - 1);
                    }
                }
            }
        }
        for count in 2..=5_u8 {
            let keepers = list(&(1..=count).collect::<Vec<_>>());
            walk(&keepers, safe_copies_for(keepers.len()), &[], 10, 3);
        }
    }
}
