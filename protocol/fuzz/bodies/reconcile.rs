//! Hostile messages of set reconciliation, and sets that are as awkward as their chooser can make them.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use pumasi_protocol::crypto;
use pumasi_protocol::reconcile::{Item, MESSAGE_MAX, STEPS_MAX, SetView};
use pumasi_protocol::types::Time;

/// First byte of every message of the version known.
const VERSION: u8 = 0x61;
/// Bytes that describe one item of an awkward set.
const ITEM_BYTES: usize = 3;

/// Sets of the sizes where the way they are described changes.
static SETS: LazyLock<Vec<(usize, SetView)>> = LazyLock::new(|| {
    let set = |size: u64| SetView::new((0..size).map(item)).unwrap();
    [0, 1, 40, 1_500]
        .map(|size| (size as usize, set(size)))
        .into()
});

/// Item of a fixed set. Three share a time.
pub(crate) fn item(number: u64) -> Item {
    let id = crypto::hash("item", &[&number.to_be_bytes()]).0;
    Item {
        time: Time(number / 3),
        id,
    }
}

/// The target. The first byte says what the rest is.
pub(crate) fn run(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    match mode % 3 {
        0 => hostile(rest),
        1 => hostile(&[&[VERSION], rest].concat()),
        _ => awkward(rest),
    }
}

/// A message by somebody who means harm, to either side: an error, or a bounded answer.
pub(crate) fn hostile(message: &[u8]) {
    for (size, set) in SETS.iter() {
        if message.first() != Some(&VERSION) {
            assert!(set.answer(message).is_err() && set.advance(message).is_err());
        }
        if let Ok(answer) = set.answer(message) {
            assert!(answer.len() <= MESSAGE_MAX);
            // What an honest side answers, an honest side can read.
            set.advance(&answer).unwrap();
        }
        match set.advance(message) {
            Ok(progress) => {
                assert!(progress.have.len() <= *size);
                assert!(progress.need.len() <= message.len() / 32);
                assert!(progress.next.is_none_or(|next| next.len() <= MESSAGE_MAX));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Two sets of ids that begin alike, at times that are close or at the ends of the range:
/// both sides find exactly what differs.
fn awkward(bytes: &[u8]) {
    let mut sides: [BTreeSet<Item>; 2] = Default::default();
    for piece in bytes.chunks_exact(ITEM_BYTES).take(1_000) {
        let time = match piece[1] >> 6 {
            0 => Time(u64::from(piece[1])),
            1 => Time(1 << (piece[1] & 63)),
            2 => Time(u64::MAX - 1 - u64::from(piece[1] & 7)),
            _ => Time(7),
        };
        // Long common beginnings, and an end that makes sums of ids differ: fingerprints are made of
        // sums, so ids must be hashes. An id has one time.
        let name = [piece[0] >> 2, piece[1], piece[2]];
        let mut id = [0xff; 32];
        id[usize::from(piece[2] >> 4)] = 0;
        id[16..].copy_from_slice(&crypto::hash("awkward", &[&name]).0[16..]);
        let item = Item { time, id };
        for (side, set) in sides.iter_mut().enumerate() {
            // Bit 0 or bit 1 takes it from one side; most are on both.
            if piece[0] & 3 != side as u8 + 1 {
                set.insert(item);
            }
        }
    }
    let views = sides
        .each_ref()
        .map(|side| SetView::new(side.iter().copied()).unwrap());
    let ids = |a: &BTreeSet<Item>, b: &BTreeSet<Item>| -> BTreeSet<[u8; 32]> {
        a.difference(b).map(|item| item.id).collect()
    };
    let (mut have, mut need) = (BTreeSet::new(), BTreeSet::new());
    let mut next = Some(views[0].begin().unwrap());
    for _ in 0..STEPS_MAX {
        let Some(message) = next else { break };
        let progress = views[0]
            .advance(&views[1].answer(&message).unwrap())
            .unwrap();
        have.extend(progress.have);
        need.extend(progress.need);
        next = progress.next;
    }
    assert!(next.is_none(), "it does not end");
    assert!(
        have.is_superset(&ids(&sides[0], &sides[1])),
        "something the other side lacks is missed"
    );
    assert!(
        need.is_superset(&ids(&sides[1], &sides[0])),
        "something this side lacks is missed"
    );
}
