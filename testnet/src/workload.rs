//! What people do in a run: every text and IOU with its moment, drawn from a seed, plain data.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::society::Friendship;

/// IOUs per hundred operations.
const IOU_PERCENT: u32 = 30;
/// One operation in so many is sent twice on purpose, with the same key.
const TWICE_ONE_IN: u32 = 12;
/// One text in so many is long.
const LONG_ONE_IN: u32 = 25;

/// What somebody who came back pays each contact first.
const FIRST_AMOUNT: u64 = 1_000;

const PHRASES: [&str; 10] = [
    "점심 먹었어요?",
    "내일 봐요",
    "택시 지금 출발해요",
    "잘 받았습니다 👍",
    "회의는 세 시로 옮겼어요",
    "see you at the station",
    "고마워요, 다음엔 제가 살게요",
    "비 온대요, 우산 챙겨요",
    "주문하신 것 나왔습니다",
    "오늘 모임 장소가 바뀌었어요. 시청역 3번 출구 앞에서 만나요",
];
const PURPOSES: [&str; 6] = ["점심", "택시", "커피", "장보기", "영화", "책"];

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A text; `place` counts the texts of this sender to this recipient from 1.
    Text { place: u32, text: String },
    /// An IOU: the sender owes the recipient `amount` more.
    Iou { amount: u64, note: String },
}

/// One thing that somebody does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    /// Its place in the list; also written into text or note, so that it is known again anywhere.
    pub(crate) number: usize,
    /// Microseconds after the start of traffic.
    pub(crate) at: u64,
    /// Account that does it.
    pub(crate) from: usize,
    /// Account it is for.
    pub(crate) to: usize,
    pub(crate) what: What,
    /// Whether it is sent twice with the same key.
    pub(crate) twice: bool,
}

impl Operation {
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.what, What::Text { .. })
    }
}

/// The frame of a workload.
#[derive(Debug, Clone)]
pub(crate) struct Frame<'a> {
    pub(crate) friendships: &'a [Friendship],
    /// Per account: whether it burns.
    pub(crate) burns: &'a [bool],
    /// Microseconds after the start of traffic at which this part of it begins.
    pub(crate) start: u64,
    pub(crate) seconds: u64,
    /// Operations a second.
    pub(crate) rate: u32,
    /// When it burns, in microseconds after `start`.
    pub(crate) fire_at: u64,
    /// When the burned come back, the same.
    pub(crate) back_at: u64,
}

/// What was planned before: numbers and places go on from there.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    operations: usize,
    /// Texts of a sender to a recipient.
    places: BTreeMap<(usize, usize), u32>,
}

/// All operations around one fire, in order of time. The moments are those of many people who do not
/// wait for each other: exponential pauses. After the fire only survivors act, to anybody, until the
/// burned come back; then these pay each of their contacts a little, and everybody acts again.
pub(crate) fn operations(seed: u64, frame: &Frame<'_>, planned: &mut Planned) -> Vec<Operation> {
    let past = planned.operations as u64;
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5045_4f50_4c45 ^ (past << 32));
    let ends: Vec<(usize, usize)> = frame
        .friendships
        .iter()
        .flat_map(|f| [(f.a, f.b), (f.b, f.a)])
        .collect();
    let alive: Vec<_> = ends
        .iter()
        .copied()
        .filter(|&(from, _)| !frame.burns[from])
        .collect();
    let first = planned.operations;
    let places = &mut planned.places;
    let mut all = Vec::new();
    let mut returned = false;
    let mut at = 0.0_f64;
    loop {
        at -= (1.0 - rng.random_range(0.0..1.0_f64)).ln() / f64::from(frame.rate) * 1e6;
        if at >= frame.seconds as f64 * 1e6 {
            planned.operations = first + all.len();
            return all;
        }
        if !returned && at as u64 >= frame.back_at {
            returned = true;
            for &(from, to) in ends.iter().filter(|&&(from, _)| frame.burns[from]) {
                let number = first + all.len();
                all.push(Operation {
                    number,
                    at: frame.start + frame.back_at,
                    from,
                    to,
                    what: What::Iou {
                        amount: FIRST_AMOUNT,
                        note: format!("#{number} 다시 왔어요"),
                    },
                    twice: false,
                });
            }
        }
        let choice = if (frame.fire_at..frame.back_at).contains(&(at as u64)) {
            &alive
        } else {
            &ends
        };
        let (from, to) = choice[rng.random_range(0..choice.len())];
        let number = first + all.len();
        let what = if rng.random_range(0..100) < IOU_PERCENT {
            let purpose = PURPOSES[rng.random_range(0..PURPOSES.len())];
            let amount = rng.random_range(10..=300) * 100;
            What::Iou {
                amount,
                note: format!("#{number} {purpose}"),
            }
        } else {
            let place = places.entry((from, to)).or_insert(0);
            *place += 1;
            let mut text = format!("#{number} {}", PHRASES[rng.random_range(0..PHRASES.len())]);
            if rng.random_range(0..LONG_ONE_IN) == 0 {
                text.push_str(&" 그리고 또".repeat(rng.random_range(10..300)));
            }
            What::Text {
                place: *place,
                text,
            }
        };
        let twice = rng.random_range(0..TWICE_ONE_IN) == 0;
        all.push(Operation {
            number,
            at: frame.start + at as u64,
            from,
            to,
            what,
            twice,
        });
    }
}

/// The number of the operation that a text or note comes from; `None`: from none of ours.
pub(crate) fn number_in(text: &str) -> Option<usize> {
    text.strip_prefix('#')?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::society::friendships;

    fn sample(seed: u64) -> Vec<Operation> {
        let friendships = friendships(seed, 24);
        let burns: Vec<_> = (0..24).map(|account| account % 12 < 3).collect();
        let frame = Frame {
            friendships: &friendships,
            burns: &burns,
            start: 0,
            seconds: 60,
            rate: 50,
            fire_at: 20_000_000,
            back_at: 40_000_000,
        };
        operations(seed, &frame, &mut Planned::default())
    }

    #[test]
    fn the_same_seed_makes_the_same_operations() {
        assert_eq!(sample(3), sample(3));
        assert_ne!(sample(3), sample(4));
    }

    #[test]
    fn rate_and_shares_are_as_asked() {
        let all = sample(1);
        assert!((2_700..3_300).contains(&all.len()), "{}", all.len());
        let texts = all.iter().filter(|operation| operation.is_text()).count() * 100 / all.len();
        assert!((65..=75).contains(&texts), "{texts} %");
        assert!(all.iter().any(|operation| operation.twice));
        assert!(all.is_sorted_by_key(|operation| operation.at));
    }

    #[test]
    fn between_fire_and_return_the_burned_are_written_to_but_do_not_write() {
        let all = sample(1);
        let burned = |account: usize| account % 12 < 3;
        let after: Vec<_> = all
            .iter()
            .filter(|operation| (20_000_000..40_000_000).contains(&operation.at))
            .collect();
        assert!(after.iter().all(|operation| !burned(operation.from)));
        assert!(after.iter().any(|operation| burned(operation.to)));
        assert!(
            all.iter()
                .any(|operation| operation.at < 20_000_000 && burned(operation.from))
        );
    }

    #[test]
    fn everybody_who_comes_back_pays_each_contact_first() {
        let all = sample(1);
        let friendships = friendships(1, 24);
        for account in (0..24).filter(|account| account % 12 < 3) {
            let contacts = friendships
                .iter()
                .filter(|f| f.a == account || f.b == account)
                .count();
            let first = all
                .iter()
                .filter(|operation| operation.from == account && operation.at == 40_000_000);
            assert_eq!(
                first.filter(|operation| !operation.is_text()).count(),
                contacts
            );
        }
    }

    #[test]
    fn a_second_part_goes_on_with_numbers_and_places() {
        let friendships = friendships(1, 4);
        let mut planned = Planned::default();
        let mut frame = Frame {
            friendships: &friendships,
            burns: &[true, false, false, false],
            start: 0,
            seconds: 6,
            rate: 50,
            fire_at: 2_000_000,
            back_at: 4_000_000,
        };
        let first = operations(1, &frame, &mut planned);
        frame.start = 9_000_000;
        let second = operations(1, &frame, &mut planned);
        assert!(second.iter().all(|operation| operation.at >= 9_000_000));
        let mut places = BTreeMap::new();
        for (number, operation) in first.iter().chain(&second).enumerate() {
            assert_eq!(operation.number, number);
            if let What::Text { place, .. } = operation.what {
                let last = places.insert((operation.from, operation.to), place);
                assert_eq!(place, last.unwrap_or(0) + 1);
            }
        }
    }

    #[test]
    fn every_text_and_note_names_its_operation() {
        for operation in sample(2) {
            let (What::Text { text: words, .. } | What::Iou { note: words, .. }) = &operation.what;
            assert_eq!(number_in(words), Some(operation.number));
        }
        assert_eq!(number_in("hello"), None);
        assert_eq!(number_in("#x y"), None);
    }
}
