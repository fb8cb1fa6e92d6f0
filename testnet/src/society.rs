//! Who there is and who knows whom: drawn from a seed, plain data.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// The unit of all lines.
pub(crate) const UNIT: &str = "KRW";
/// Most contacts that one account gets, where the ring allows it.
const CONTACTS_MAX: usize = 6;
/// Contacts of an account on average: edges per account, times two.
const CONTACTS_MEAN: usize = 5;
/// One limit in so many is so low that refusals must happen.
const LOW_LIMIT_ONE_IN: u32 = 12;

const NAMES: [&str; 24] = [
    "하나", "다온", "보라", "가람", "나래", "누리", "다솜", "도담", "두리", "라온", "마루", "미르",
    "바다", "벼리", "새봄", "소리", "아라", "예솔", "우람", "이든", "찬솔", "초롱", "하늘", "한결",
];

/// The name of an account, unique in its network.
pub(crate) fn name(account: usize) -> String {
    let name = NAMES[account % NAMES.len()];
    match account / NAMES.len() {
        0 => name.to_owned(),
        round => format!("{name}{}", round + 1),
    }
}

/// Two accounts that are contacts and open a line both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Friendship {
    /// The one that invites. Always the smaller index.
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// How much `a` lets `b` owe.
    pub(crate) a_gives: u64,
    /// How much `b` lets `a` owe.
    pub(crate) b_gives: u64,
}

impl Friendship {
    /// How much `debtor` may owe the other one.
    pub(crate) fn limit_for(&self, debtor: usize) -> u64 {
        if debtor == self.a {
            self.b_gives
        } else {
            self.a_gives
        }
    }
}

/// A connected graph: a ring through everybody in random order, and random friendships until each
/// account has about five.
pub(crate) fn friendships(seed: u64, accounts: usize) -> Vec<Friendship> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ring: Vec<usize> = (0..accounts).collect();
    ring.shuffle(&mut rng);
    let mut pairs = BTreeSet::new();
    let mut degree = vec![0; accounts];
    let mut connect = |x: usize, y: usize, degree: &mut Vec<usize>| {
        if x != y && pairs.insert((x.min(y), x.max(y))) {
            degree[x] += 1;
            degree[y] += 1;
        }
    };
    for (place, &account) in ring.iter().enumerate() {
        connect(account, ring[(place + 1) % accounts], &mut degree);
    }
    // Bounded: in small networks there are not enough pairs.
    for _ in 0..accounts * 40 {
        if degree.iter().sum::<usize>() >= accounts * CONTACTS_MEAN {
            break;
        }
        let (x, y) = (rng.random_range(0..accounts), rng.random_range(0..accounts));
        if degree[x] < CONTACTS_MAX && degree[y] < CONTACTS_MAX {
            connect(x, y, &mut degree);
        }
    }
    let mut limit = || {
        if rng.random_range(0..LOW_LIMIT_ONE_IN) == 0 {
            rng.random_range(2..=5) * 10_000
        } else {
            rng.random_range(20..=100) * 10_000
        }
    };
    pairs
        .iter()
        .map(|&(a, b)| Friendship {
            a,
            b,
            a_gives: limit(),
            b_gives: limit(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_reachable_and_has_a_handful_of_contacts() {
        for (seed, accounts) in [(1, 24), (2, 8), (3, 2), (4, 100)] {
            let all = friendships(seed, accounts);
            let mut reached = BTreeSet::from([0]);
            for _ in 0..accounts {
                for one in &all {
                    if reached.contains(&one.a) || reached.contains(&one.b) {
                        reached.extend([one.a, one.b]);
                    }
                }
            }
            assert_eq!(reached.len(), accounts);
            for account in 0..accounts {
                let contacts = all
                    .iter()
                    .filter(|f| f.a == account || f.b == account)
                    .count();
                assert!((1..=CONTACTS_MAX).contains(&contacts));
            }
        }
        let edges = friendships(1, 24).len();
        assert!((48..=72).contains(&edges), "{edges}");
    }

    #[test]
    fn the_same_seed_makes_the_same_friends_and_limits() {
        assert_eq!(friendships(7, 24), friendships(7, 24));
        assert_ne!(friendships(7, 24), friendships(8, 24));
    }

    #[test]
    fn names_are_unique() {
        assert_eq!((0..200).map(name).collect::<BTreeSet<_>>().len(), 200);
    }
}
