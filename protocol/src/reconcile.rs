//! Finds out how two sets of ids differ, in few bytes (range-based set reconciliation, negentropy
//! protocol version 1), and a digest to see that they do. Holds no storage and no state between steps:
//! the view of the own set is built anew for each step, and items that came or went meanwhile are
//! merely seen in the next round.

use std::fmt;

use negentropy::{Id, Negentropy, NegentropyStorageBase, NegentropyStorageVector};
use serde::{Deserialize, Serialize};

use crate::crypto;
use crate::types::{Hash, Time};

/// Longest message in bytes, made or read.
pub const MESSAGE_MAX: usize = 32 * 1024;
/// Steps after which whoever began should act on what it learned and begin again later. In each step
/// the sides learn of up to about a thousand differences.
pub const STEPS_MAX: usize = 64;
/// First byte of a message: the protocol version.
const VERSION: u8 = 0x61;
/// Beginning of a message whose only range is everything (infinite time, no id prefix), described by a
/// fingerprint.
const ONE_RANGE: [u8; 4] = [VERSION, 0, 0, 1];
/// Sets of these sizes begin with one fingerprint. The crate sends all ids of a set below 32, and the
/// other side sends them back: for a few that is shorter.
const ONE_FINGERPRINT: std::ops::Range<usize> = 6..32;

/// Why a set cannot be reconciled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// Longer than [`MESSAGE_MAX`]; nothing was read.
    #[error("a reconciliation message of {0} bytes: at most {MESSAGE_MAX} are allowed")]
    TooLong(usize),
    /// Not of the protocol version known here.
    #[error("a reconciliation message of another protocol version")]
    Version,
    /// Not a reconciliation message.
    #[error("a malformed reconciliation message: {0}")]
    Malformed(String),
}

impl From<negentropy::Error> for ReconcileError {
    fn from(error: negentropy::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// One element of a set. Both must come out of the element itself, the same on every node: an id with
/// two times counts as two elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Orders the set; recent differences are found in fewer bytes.
    pub time: Time,
    /// Names the element.
    pub id: [u8; 32],
}

/// What one side holds, sorted. 40 bytes per item.
pub struct SetView(NegentropyStorageVector);

impl fmt::Debug for SetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetView").finish_non_exhaustive()
    }
}

/// What the side that began has learned in a step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// What the other side lacks, sorted.
    pub have: Vec<[u8; 32]>,
    /// What the other side has and this one lacks, sorted. At most as many as fit a message.
    pub need: Vec<[u8; 32]>,
    /// What to send next; none when all differences are known.
    pub next: Option<Vec<u8>>,
}

impl SetView {
    /// The view of these items, in any order; equal ones count once.
    ///
    /// # Errors
    /// None in practice: the crate's signature admits one.
    pub fn new(items: impl IntoIterator<Item = Item>) -> Result<Self, ReconcileError> {
        let mut set = NegentropyStorageVector::new();
        for item in items {
            // The last millisecond stands for infinity in the protocol.
            let time = item.time.0.min(u64::MAX - 1);
            set.insert(time, Id::from_byte_array(item.id))?;
        }
        set.seal()?;
        Ok(Self(set))
    }

    fn session(&self) -> Result<Negentropy<'_, NegentropyStorageVector>, ReconcileError> {
        Ok(Negentropy::borrowed(&self.0, MESSAGE_MAX as u64)?)
    }

    /// The first message, at most about a kilobyte.
    ///
    /// # Errors
    /// None in practice: the crate's signature admits one.
    pub fn begin(&self) -> Result<Vec<u8>, ReconcileError> {
        let size = self.0.size()?;
        if ONE_FINGERPRINT.contains(&size) {
            let fingerprint = self.0.fingerprint(0, size)?.to_bytes();
            return Ok([ONE_RANGE.as_slice(), &fingerprint].concat());
        }
        Ok(self.session()?.initiate()?)
    }

    /// The answer of the side that was asked. Costs two passes over the set at most.
    ///
    /// # Errors
    /// [`ReconcileError`] when the message is too long, malformed or of another version.
    pub fn answer(&self, message: &[u8]) -> Result<Vec<u8>, ReconcileError> {
        check(message)?;
        Ok(self.session()?.reconcile(message)?)
    }

    /// What the side that began learns from an answer. A peer can make this go on for ever: stop after
    /// [`STEPS_MAX`] steps.
    ///
    /// # Errors
    /// [`ReconcileError`] when the message is too long, malformed or of another version.
    pub fn advance(&self, message: &[u8]) -> Result<Progress, ReconcileError> {
        check(message)?;
        let mut session = self.session()?;
        session.set_initiator();
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = session.reconcile_with_ids(message, &mut have, &mut need)?;
        Ok(Progress {
            have: sorted(&have),
            need: sorted(&need),
            next,
        })
    }
}

/// Sorted, because the crate gives some in the random order of a hash set.
fn sorted(ids: &[Id]) -> Vec<[u8; 32]> {
    let mut sorted: Vec<[u8; 32]> = ids.iter().map(|id| id.to_bytes()).collect();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

/// Reads a message's structure strictly before the crate does: that one takes numbers which end early or
/// overflow for others, and answers messages of other versions as if there were no difference.
fn check(message: &[u8]) -> Result<(), ReconcileError> {
    let malformed = |why: &str| ReconcileError::Malformed(why.to_owned());
    if message.len() > MESSAGE_MAX {
        return Err(ReconcileError::TooLong(message.len()));
    }
    let (version, mut rest) = message
        .split_first()
        .ok_or_else(|| malformed("it is empty"))?;
    if *version != VERSION {
        return Err(ReconcileError::Version);
    }
    while !rest.is_empty() {
        number(&mut rest).ok_or_else(|| malformed("a time is no number"))?;
        let prefix = number(&mut rest).ok_or_else(|| malformed("a length is no number"))?;
        if prefix > 32 {
            return Err(malformed("an id prefix is longer than an id"));
        }
        skip(&mut rest, prefix).ok_or_else(|| malformed("it ends in a bound"))?;
        let mode = number(&mut rest).ok_or_else(|| malformed("a mode is no number"))?;
        let length = match mode {
            0 => Some(0),
            1 => Some(negentropy::FINGERPRINT_SIZE as u64),
            2 => number(&mut rest).and_then(|count| count.checked_mul(32)),
            _ => None,
        };
        let length = length.ok_or_else(|| malformed("a mode is unknown"))?;
        skip(&mut rest, length).ok_or_else(|| malformed("it ends in a range"))?;
    }
    Ok(())
}

/// A number in base 128, most significant part first, at most 64 bits; no leading zero part.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for place in 0.. {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        if value > u64::MAX >> 7 || (place == 0 && *byte == 0x80) {
            return None;
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn skip(rest: &mut &[u8], length: u64) -> Option<()> {
    *rest = rest.get(usize::try_from(length).ok()?..)?;
    Some(())
}

/// A digest of a set that can be kept up to date one id at a time: the sum modulo 2^256 of a hash of
/// each id. Order does not matter.
///
/// Two sets with equal digests are equal unless somebody worked for it: who may choose thousands of ids
/// can find colliding sums with far less than 2^128 work (generalised birthday problem, Wagner 2002).
/// Negentropy's own fingerprints are sums, too, and share the limit. What such a sender can hide from
/// one keeper are ids that it chose itself, its own envelopes. It does not notice an id that is added twice and removed once: keep
/// to the changes that the store really made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SetDigest([u8; 32]);

impl SetDigest {
    /// Adds an id that was not in the set.
    pub fn add(&mut self, id: &[u8; 32]) {
        self.plus(&crypto::hash("set-item", &[id]).0);
    }

    /// Takes away an id that was in the set.
    pub fn remove(&mut self, id: &[u8; 32]) {
        // Minus x is not x plus one.
        self.plus(&crypto::hash("set-item", &[id]).0.map(|byte| !byte));
        let mut one = [0; 32];
        one[0] = 1;
        self.plus(&one);
    }

    /// Adds another set, of which no id is in this one.
    pub fn merge(&mut self, other: &Self) {
        self.plus(&other.0);
    }

    /// The hash to compare: of the sum and the number of ids.
    #[must_use]
    pub fn hash(&self, count: u64) -> Hash {
        crypto::hash("set", &[&self.0, &count.to_be_bytes()])
    }

    /// Little-endian addition modulo 2^256.
    fn plus(&mut self, other: &[u8; 32]) {
        let mut carry = 0_u16;
        for (byte, add) in self.0.iter_mut().zip(other) {
            let [low, high] = (u16::from(*byte) + u16::from(*add) + carry).to_le_bytes();
            *byte = low;
            carry = u16::from(high);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Ids = BTreeSet<[u8; 32]>;

    fn item(number: u64) -> Item {
        Item {
            time: Time(number / 3),
            id: crypto::hash("item", &[&number.to_be_bytes()]).0,
        }
    }

    fn view(items: impl IntoIterator<Item = u64>) -> SetView {
        SetView::new(items.into_iter().map(item)).unwrap()
    }

    fn ids(items: impl IntoIterator<Item = u64>) -> Ids {
        items.into_iter().map(|number| item(number).id).collect()
    }

    /// What a whole reconciliation found, and what it cost.
    #[derive(Debug, PartialEq)]
    struct Outcome {
        have: Ids,
        need: Ids,
        steps: usize,
        bytes: usize,
    }

    /// Runs to the end; each step uses views built anew, as from storage.
    fn run(ours: &[u64], theirs: &[u64]) -> Outcome {
        let mut message = view(ours.iter().copied()).begin().unwrap();
        let mut outcome = Outcome {
            have: Ids::new(),
            need: Ids::new(),
            steps: 0,
            bytes: message.len(),
        };
        loop {
            outcome.steps += 1;
            assert!(outcome.steps <= STEPS_MAX);
            let answer = view(theirs.iter().copied()).answer(&message).unwrap();
            assert!(message.len() <= MESSAGE_MAX && answer.len() <= MESSAGE_MAX);
            let progress = view(ours.iter().copied()).advance(&answer).unwrap();
            outcome.bytes += answer.len();
            outcome.have.extend(progress.have);
            outcome.need.extend(progress.need);
            let Some(next) = progress.next else {
                return outcome;
            };
            outcome.bytes += next.len();
            message = next;
        }
    }

    #[test]
    fn equal_sets_cost_one_round_trip_and_less_than_400_bytes() {
        for size in (0..40).chain([100, 1_000, 10_000]) {
            let set: Vec<u64> = (0..size).collect();
            let outcome = run(&set, &set);
            assert!(outcome.have.is_empty() && outcome.need.is_empty());
            // Below 32 items their ids are sent.
            let limit = if size < 32 { 1_100 } else { 400 };
            assert!(
                outcome.bytes < limit,
                "{size} items: {} bytes",
                outcome.bytes
            );
            assert_eq!(outcome.steps, 1);
        }
    }

    #[test]
    fn nothing_on_one_side_is_found_from_both_sides() {
        let all: Vec<u64> = (0..5_000).collect();
        let outcome = run(&[], &all);
        assert_eq!((outcome.have, outcome.need), (Ids::new(), ids(0..5_000)));
        let outcome = run(&all, &[]);
        assert_eq!((outcome.have, outcome.need), (ids(0..5_000), Ids::new()));
    }

    #[test]
    fn a_full_inbox_of_differences_converges_within_the_steps() {
        let ours: Vec<u64> = (0..20_000).filter(|number| number % 2 == 0).collect();
        let theirs: Vec<u64> = (0..20_000).filter(|number| number % 2 == 1).collect();
        let outcome = run(&ours, &theirs);
        assert_eq!(outcome.have, ids(ours));
        assert_eq!(outcome.need, ids(theirs));
    }

    #[test]
    fn an_item_at_the_end_of_time_is_not_forgotten() {
        let last = Item {
            time: Time(u64::MAX),
            id: [9; 32],
        };
        let (with, without) = (SetView::new([last]).unwrap(), SetView::new([]).unwrap());
        let answer = with.answer(&without.begin().unwrap()).unwrap();
        assert_eq!(without.advance(&answer).unwrap().need, [[9; 32]]);
        let answer = without.answer(&with.begin().unwrap()).unwrap();
        assert_eq!(with.advance(&answer).unwrap().have, [[9; 32]]);
    }

    #[test]
    fn other_versions_and_long_messages_are_named_as_such() {
        let set = view(0..10);
        for message in [[0x60].as_slice(), &[0x62], &[0x00], &[0xff]] {
            assert_eq!(set.answer(message), Err(ReconcileError::Version));
            assert_eq!(set.advance(message), Err(ReconcileError::Version));
        }
        let long = vec![VERSION; MESSAGE_MAX + 1];
        assert_eq!(
            set.answer(&long),
            Err(ReconcileError::TooLong(MESSAGE_MAX + 1))
        );
        assert!(matches!(set.answer(&[]), Err(ReconcileError::Malformed(_))));
    }

    #[test]
    fn a_count_that_lies_is_an_error() {
        let set = view(0..100);
        // Infinity, mode "ids", and 2^63 of them, or 2^59 of 32 bytes each, or one, and none follows.
        let lies: [&[u8]; 4] = [
            &[0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            &[0x88, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            &[0x01],
            &[],
        ];
        for count in lies {
            let message = [&[VERSION, 0, 0, 2], count].concat();
            assert!(set.answer(&message).is_err());
            assert!(set.advance(&message).is_err());
        }
        // An id prefix of 33 bytes.
        let message = [[VERSION, 1, 33].as_slice(), &[7; 33], &[0]].concat();
        assert!(set.answer(&message).is_err());
    }

    #[test]
    fn truncated_and_random_messages_are_errors_or_harmless() {
        let set = view(0..2_000);
        let first = view(1_000..3_000).begin().unwrap();
        let answer = set.answer(&first).unwrap();
        let mut seed = 7_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        let harmless = |message: &[u8]| {
            if let Ok(answer) = set.answer(message) {
                assert!(answer.len() <= MESSAGE_MAX);
            }
            if let Ok(progress) = set.advance(message) {
                assert!(progress.next.is_none_or(|next| next.len() <= MESSAGE_MAX));
                assert!(progress.have.len() <= 2_000);
                assert!(progress.need.len() <= MESSAGE_MAX / 32);
            }
        };
        for message in [&first, &answer] {
            for cut in 0..message.len().min(600) {
                harmless(&message[..cut]);
            }
            for _ in 0..600 {
                let mut changed = message.clone();
                for _ in 0..=random() % 4 {
                    let place = random() % changed.len();
                    changed[place] = random() as u8;
                }
                changed[0] = VERSION;
                harmless(&changed);
            }
        }
        for _ in 0..2_000 {
            let mut message: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
            // Small numbers give more that can be read as ranges.
            if random() % 2 == 0 {
                message.iter_mut().for_each(|byte| *byte %= 4);
            }
            message.insert(0, VERSION);
            harmless(&message);
        }
        // As many ranges as fit, each of them empty, and one that asks for everything.
        harmless(&[[VERSION].as_slice(), &[1, 0, 0].repeat(10_000)].concat());
        harmless(
            &[
                [VERSION].as_slice(),
                &[1, 0, 2, 0].repeat(4_000),
                &[0, 0, 2, 0],
            ]
            .concat(),
        );
    }

    #[test]
    fn the_digest_does_not_depend_on_order_and_forgets_what_is_removed() {
        let mut forward = SetDigest::default();
        let mut backward = SetDigest::default();
        (0..100).for_each(|number| forward.add(&item(number).id));
        (0..100)
            .rev()
            .for_each(|number| backward.add(&item(number).id));
        assert_eq!(forward, backward);
        let mut halves = SetDigest::default();
        let mut other = SetDigest::default();
        (0..50).for_each(|number| halves.add(&item(number).id));
        (50..100).for_each(|number| other.add(&item(number).id));
        halves.merge(&other);
        assert_eq!(halves, forward);
        backward.remove(&item(7).id);
        assert_ne!(backward.hash(99), forward.hash(100));
        (0..100)
            .filter(|number| *number != 7)
            .for_each(|number| backward.remove(&item(number).id));
        assert_eq!(backward, SetDigest::default());
        assert_ne!(backward.hash(0), backward.hash(1));
    }

    #[test]
    fn the_digest_adds_modulo_two_to_the_256() {
        let mut digest = SetDigest([0xff; 32]);
        let mut one = [0; 32];
        one[0] = 1;
        digest.plus(&one);
        assert_eq!(digest, SetDigest::default());
    }

    fn set() -> impl Strategy<Value = Vec<u64>> {
        // Runs of common items, and scattered ones.
        (
            0_u64..1_500,
            prop::collection::btree_set(0_u64..4_000, 0..200),
        )
            .prop_map(|(common, scattered)| {
                (0..common)
                    .chain(scattered)
                    .collect::<BTreeSet<u64>>()
                    .into_iter()
                    .collect()
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_two_sets_find_their_exact_differences(ours in set(), theirs in set()) {
            let outcome = run(&ours, &theirs);
            let (ours, theirs) = (ids(ours), ids(theirs));
            prop_assert_eq!(outcome.have, ours.difference(&theirs).copied().collect::<Ids>());
            prop_assert_eq!(outcome.need, theirs.difference(&ours).copied().collect::<Ids>());
        }
    }
}
