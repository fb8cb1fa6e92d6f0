//! The rules of a conversation between two accounts, seen from one end: what is sent next, what has
//! come, what is missing, and in which order messages are shown. Texts are stored elsewhere, and so is
//! the decision when to ask for what is missing.
//!
//! Every device counts its texts in a conversation from 1. What has arrived is shown even when something
//! before it is missing, with the gap marked. The order is a view: nothing that matters (money,
//! membership) depends on it.

use serde::{Deserialize, Serialize};

use crate::codec::Wire;
use crate::crypto;
use crate::envelope::{HEADS_MAX, Head};
use crate::types::{AccountId, ConversationId, DAY, MessageId, Time};

/// Gaps that one chat remembers at most; beyond that the oldest is declared lost.
pub const HOLES_MAX: usize = 64;
/// How far a sequence may be ahead of the highest seen.
pub const JUMP_MAX: u64 = 1_000_000;
/// How far a message may be dated ahead of this node's clock; later ones count as dated so.
pub const AHEAD_MAX: u64 = DAY;

/// The conversation of two accounts, the same seen from both ends.
#[must_use]
pub fn direct(a: &AccountId, b: &AccountId) -> ConversationId {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    ConversationId(crypto::hash("conversation", &[&low.0, &high.0]).0)
}

/// What goes into the next text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Counts this device's texts in the conversation from 1.
    pub sequence: u64,
    /// The latest messages seen, at most [`HEADS_MAX`].
    pub heads: Vec<Head>,
    /// Now, or later where something later was seen.
    pub time: Time,
}

/// Where a text that came stands in its sender's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The text's id.
    pub id: MessageId,
    /// Epoch of the sender's device: each device counts for itself.
    pub epoch: u64,
    /// The text's number.
    pub sequence: u64,
    /// The text's time.
    pub time: Time,
}

/// What to do with a text that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// Show it.
    New {
        /// The sequences that are missing directly before it: first and last.
        gap: Option<(u64, u64)>,
        /// Where it is shown; see [`Order`].
        shown: Time,
    },
    /// This sequence came before: do not show it again.
    Duplicate,
    /// Of an older device, or of a stretch that was declared lost: what came of those is not known here
    /// any more. Show it unless the store has its id.
    Late {
        /// Where it is shown; see [`Order`].
        shown: Time,
    },
    /// Not a text that a correct sender makes. Nothing has changed.
    Refused(NotInOrder),
}

/// Why a text is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotInOrder {
    /// Sequences count from 1.
    #[error("a text with number 0")]
    Zero,
    /// More than [`JUMP_MAX`] ahead of the highest seen.
    #[error("a text numbered far ahead of all others")]
    Jump,
    /// More than [`HEADS_MAX`].
    #[error("a text that names too many others")]
    Heads,
}

/// The order in which the texts of a conversation are shown, smallest first. Texts of one sender keep
/// their order whatever times it writes into them; only for those that came [`Arrival::Late`] its
/// clock is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// For texts that came: `shown` of their [`Arrival`]; for own ones: [`Stamp::time`].
    pub shown: Time,
    /// The text's number.
    pub sequence: u64,
    /// The text's id.
    pub id: MessageId,
}

/// A run of missing sequences, and the times between which they are shown once they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Hole {
    first: u64,
    last: u64,
    after: Time,
    before: Time,
}

impl Hole {
    const fn has(&self, sequence: u64) -> bool {
        self.first <= sequence && sequence <= self.last
    }

    fn place(&self, time: Time) -> Time {
        time.min(self.before).max(self.after)
    }
}

/// One end of a conversation: small, stored with the messages in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Chat {
    /// The highest sequence given out.
    sent: u64,
    /// Epoch of the peer's device that the next four are about.
    epoch: u64,
    /// The highest sequence received.
    received: u64,
    /// Where that one is shown.
    shown: Time,
    /// What is missing below it: sorted, apart, at most [`HOLES_MAX`].
    holes: Vec<Hole>,
    /// From the first to the last sequence declared lost; of what lies between, some came.
    lost: Option<Hole>,
    /// The hybrid clock: the latest time sent or received.
    clock: Time,
    /// The latest messages: those that no other one names, the newest last.
    heads: Vec<Head>,
}

impl Wire for Chat {
    const NAME: &'static str = "the state of a chat";
    const MAX: usize = 4 * 1024;
}

impl Chat {
    /// The stamp of the next text. Store the chat in the same transaction as the text, and say
    /// [`Self::sent`] once its id is known.
    pub fn compose(&mut self, now: Time) -> Stamp {
        self.sent = self.sent.saturating_add(1);
        self.clock = now.max(self.clock.plus(1));
        Stamp {
            sequence: self.sent,
            heads: self.heads.clone(),
            time: self.clock,
        }
    }

    /// The text that was composed last has this id. It names all that was seen.
    pub fn sent(&mut self, id: MessageId) {
        self.heads = vec![id.into()];
    }

    /// A text came whose signature fits. A text that is refused changes nothing.
    pub fn receive(&mut self, at: &Position, heads: &[Head], now: Time) -> Arrival {
        if at.sequence == 0 {
            return Arrival::Refused(NotInOrder::Zero);
        }
        if heads.len() > HEADS_MAX {
            return Arrival::Refused(NotInOrder::Heads);
        }
        // A peer's clock that is wrong, or lies, moves neither ours nor the order for long.
        let time = at.time.min(now.plus(AHEAD_MAX));
        if at.epoch < self.epoch {
            self.clock = self.clock.max(time);
            return Arrival::Late { shown: time };
        }
        let highest = if at.epoch == self.epoch {
            self.received
        } else {
            0
        };
        if at.sequence > highest.saturating_add(JUMP_MAX) {
            return Arrival::Refused(NotInOrder::Jump);
        }
        if at.epoch > self.epoch {
            self.begin_epoch(at.epoch);
        }
        if at.sequence > self.received {
            return self.advance(at, heads, time);
        }
        if let Some(place) = self.holes.iter().position(|hole| hole.has(at.sequence)) {
            return self.fill(place, at.sequence, time);
        }
        match &self.lost {
            Some(lost) if lost.has(at.sequence) => Arrival::Late {
                shown: lost.place(time),
            },
            _ => Arrival::Duplicate,
        }
    }

    /// The peer has a new device. It counts from 1, and is shown after all that the old one wrote.
    fn begin_epoch(&mut self, epoch: u64) {
        self.shown = if self.received == 0 {
            self.shown
        } else {
            self.shown.plus(1)
        };
        self.epoch = epoch;
        self.received = 0;
        self.holes.clear();
        self.lost = None;
    }

    /// A text beyond the highest.
    fn advance(&mut self, at: &Position, heads: &[Head], time: Time) -> Arrival {
        let shown = time.max(self.shown);
        let next = self.received.saturating_add(1);
        let gap = (next < at.sequence).then(|| (next, at.sequence.saturating_sub(1)));
        if let Some((first, last)) = gap {
            self.holes.push(Hole {
                first,
                last,
                after: self.shown,
                before: shown,
            });
        }
        self.received = at.sequence;
        self.shown = shown;
        self.clock = self.clock.max(shown);
        self.forget_oldest();
        // A text covers all before it by its sender, so only the newest becomes a head.
        self.heads.retain(|head| !heads.contains(head));
        self.heads.push(at.id.into());
        let beyond = self.heads.len().saturating_sub(HEADS_MAX);
        self.heads.drain(..beyond);
        Arrival::New { gap, shown }
    }

    /// A text that was missing.
    fn fill(&mut self, place: usize, sequence: u64, time: Time) -> Arrival {
        let hole = self.holes.remove(place);
        let shown = hole.place(time);
        if sequence < hole.last {
            let first = sequence.saturating_add(1);
            self.holes.insert(
                place,
                Hole {
                    first,
                    after: shown,
                    ..hole
                },
            );
        }
        let mut gap = None;
        if hole.first < sequence {
            let last = sequence.saturating_sub(1);
            self.holes.insert(
                place,
                Hole {
                    last,
                    before: shown,
                    ..hole
                },
            );
            gap = Some((hole.first, last));
        }
        self.forget_oldest();
        Arrival::New { gap, shown }
    }

    /// Declares the oldest holes lost until the rest are few enough.
    fn forget_oldest(&mut self) {
        while self.holes.len() > HOLES_MAX {
            let oldest = self.holes.remove(0);
            self.lost = Some(match self.lost {
                Some(lost) => Hole {
                    first: lost.first.min(oldest.first),
                    last: lost.last.max(oldest.last),
                    after: lost.after.min(oldest.after),
                    before: lost.before.max(oldest.before),
                },
                None => oldest,
            });
        }
    }

    /// What is missing from the other side's present device: first and last sequences, sorted, at most
    /// [`HOLES_MAX`].
    #[must_use]
    pub fn holes(&self) -> Vec<(u64, u64)> {
        self.holes
            .iter()
            .map(|hole| (hole.first, hole.last))
            .collect()
    }

    /// From the first to the last sequence that was declared lost, not asked for any more. Some of what
    /// lies between may have come.
    #[must_use]
    pub fn lost(&self) -> Option<(u64, u64)> {
        self.lost.map(|lost| (lost.first, lost.last))
    }

    /// Epoch of the other side's device that holes and sequences are about.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Something of this time was seen that does not come through [`Self::receive`]: an own text of an
    /// earlier device.
    pub fn seen(&mut self, time: Time) {
        self.clock = self.clock.max(time);
    }

    /// The highest sequence given out; 0 before the first.
    #[must_use]
    pub const fn last_sent(&self) -> u64 {
        self.sent
    }

    /// The highest sequence that came from the other side's present device; 0 before the first.
    #[must_use]
    pub const fn last_received(&self) -> u64 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    const NOW: Time = Time(1_795_000_000_000);

    fn id(epoch: u64, sequence: u64) -> MessageId {
        let parts = [epoch.to_be_bytes(), sequence.to_be_bytes()];
        MessageId(crypto::hash("test", &[&parts[0], &parts[1]]).0)
    }

    fn at(epoch: u64, sequence: u64, time: Time) -> Position {
        Position {
            id: id(epoch, sequence),
            epoch,
            sequence,
            time,
        }
    }

    /// Text `sequence` of epoch 1, dated so that later ones are later.
    fn text(sequence: u64) -> Position {
        at(1, sequence, NOW.plus(sequence))
    }

    fn new(gap: Option<(u64, u64)>, shown: Time) -> Arrival {
        Arrival::New { gap, shown }
    }

    /// The runs of what is not in `came`, below its highest.
    fn missing(came: &BTreeSet<u64>) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for sequence in 1..came.last().copied().unwrap_or(0) {
            if came.contains(&sequence) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.1 + 1 == sequence => run.1 = sequence,
                _ => runs.push((sequence, sequence)),
            }
        }
        runs
    }

    #[test]
    fn a_conversation_is_the_same_from_both_ends_and_of_one_pair_only() {
        let [a, b, c] = [1, 2, 3].map(|byte| AccountId([byte; 32]));
        assert_eq!(direct(&a, &b), direct(&b, &a));
        assert_ne!(direct(&a, &b), direct(&a, &c));
        assert_ne!(direct(&a, &a), direct(&a, &b));
    }

    #[test]
    fn a_text_is_shown_at_once_and_the_gap_before_it_is_marked() {
        let mut chat = Chat::default();
        assert_eq!(chat.receive(&text(1), &[], NOW), new(None, NOW.plus(1)));
        assert_eq!(
            chat.receive(&text(5), &[], NOW),
            new(Some((2, 4)), NOW.plus(5))
        );
        assert_eq!(chat.holes(), [(2, 4)]);
        assert_eq!(
            chat.receive(&text(3), &[], NOW),
            new(Some((2, 2)), NOW.plus(3))
        );
        assert_eq!(chat.holes(), [(2, 2), (4, 4)]);
        assert_eq!(chat.receive(&text(3), &[], NOW), Arrival::Duplicate);
        assert_eq!(chat.receive(&text(2), &[], NOW), new(None, NOW.plus(2)));
        assert_eq!(chat.receive(&text(4), &[], NOW), new(None, NOW.plus(4)));
        assert!(chat.holes().is_empty());
        assert_eq!(chat.receive(&text(5), &[], NOW), Arrival::Duplicate);
        assert_eq!(chat.last_received(), 5);
    }

    #[test]
    fn what_no_correct_sender_makes_is_refused_and_changes_nothing() {
        let mut chat = Chat::default();
        chat.receive(&text(7), &[], NOW);
        let before = chat.clone();
        let zero = chat.receive(&text(0), &[], NOW);
        assert_eq!(zero, Arrival::Refused(NotInOrder::Zero));
        let jump = chat.receive(&text(7 + JUMP_MAX + 1), &[], NOW);
        assert_eq!(jump, Arrival::Refused(NotInOrder::Jump));
        let other_device = chat.receive(&at(2, JUMP_MAX + 1, NOW), &[], NOW);
        assert_eq!(other_device, Arrival::Refused(NotInOrder::Jump));
        let heads = chat.receive(&text(8), &[Head([0; 16]); HEADS_MAX + 1], NOW);
        assert_eq!(heads, Arrival::Refused(NotInOrder::Heads));
        assert_eq!(chat, before);
        let last = chat.receive(&text(7 + JUMP_MAX), &[], NOW);
        assert!(matches!(
            last,
            Arrival::New {
                gap: Some((8, _)),
                ..
            }
        ));
        for sequence in [u64::MAX, u64::MAX - 1] {
            let far = chat.receive(&at(u64::MAX, sequence, Time(u64::MAX)), &[], Time(u64::MAX));
            assert_eq!(far, Arrival::Refused(NotInOrder::Jump));
        }
    }

    #[test]
    fn own_texts_count_from_1_and_are_later_than_all_that_was_seen() {
        let mut chat = Chat::default();
        let first = chat.compose(NOW);
        assert_eq!(
            first,
            Stamp {
                sequence: 1,
                heads: vec![],
                time: NOW
            }
        );
        // The clock was set back, and the peer's is an hour ahead.
        chat.receive(&at(1, 1, NOW.plus(3_600_000)), &[], NOW);
        let second = chat.compose(Time(5));
        assert_eq!((second.sequence, second.time), (2, NOW.plus(3_600_001)));
        assert_eq!(chat.compose(Time(5)).time, NOW.plus(3_600_002));
        assert_eq!(chat.last_sent(), 3);
    }

    #[test]
    fn a_peer_cannot_push_the_clock_away() {
        let mut chat = Chat::default();
        let far = chat.receive(&at(1, 1, Time(u64::MAX)), &[], NOW);
        assert_eq!(far, new(None, NOW.plus(AHEAD_MAX)));
        assert_eq!(chat.compose(NOW).time, NOW.plus(AHEAD_MAX).plus(1));
        chat.receive(&at(0, 1, Time(u64::MAX)), &[], NOW);
        assert_eq!(chat.compose(NOW).time, NOW.plus(AHEAD_MAX).plus(2));
    }

    #[test]
    fn heads_are_the_latest_texts_that_no_other_names() {
        let head = |sequence| Head::from(id(1, sequence));
        let mut chat = Chat::default();
        chat.compose(NOW);
        let own = MessageId([9; 32]);
        chat.sent(own);
        assert_eq!(chat.compose(NOW).heads, [Head::from(own)]);
        // One that had not seen ours, one that had, and one that names the one before.
        chat.receive(&text(1), &[], NOW);
        assert_eq!(chat.compose(NOW).heads, [own.into(), head(1)]);
        chat.receive(&text(2), &[own.into(), head(1)], NOW);
        assert_eq!(chat.compose(NOW).heads, [head(2)]);
        // One from the past is covered already.
        chat.receive(&text(4), &[head(2)], NOW);
        chat.receive(&text(3), &[], NOW);
        assert_eq!(chat.compose(NOW).heads, [head(4)]);
        for sequence in 5..20 {
            chat.receive(&text(sequence), &[], NOW);
        }
        assert_eq!(chat.compose(NOW).heads, [head(17), head(18), head(19)]);
    }

    #[test]
    fn a_new_device_counts_from_1_and_is_shown_after_the_old_one() {
        let mut chat = Chat::default();
        chat.receive(&at(1, 9, NOW.plus(9)), &[], NOW);
        // Its clock is behind that of the old one.
        assert_eq!(
            chat.receive(&at(2, 1, Time(3)), &[], NOW),
            new(None, NOW.plus(10))
        );
        assert_eq!(
            chat.receive(&at(2, 2, Time(4)), &[], NOW),
            new(None, NOW.plus(10))
        );
        assert!(chat.holes().is_empty());
        let late = chat.receive(&at(1, 8, NOW.plus(8)), &[], NOW);
        assert_eq!(late, Arrival::Late { shown: NOW.plus(8) });
        assert_eq!(
            chat.receive(&at(2, 1, Time(3)), &[], NOW),
            Arrival::Duplicate
        );
    }

    #[test]
    fn gaps_are_bounded_and_the_oldest_are_declared_lost() {
        let mut chat = Chat::default();
        // Every second text is missing.
        for sequence in (2..=200).step_by(2) {
            assert!(matches!(
                chat.receive(&text(sequence), &[], NOW),
                Arrival::New { .. }
            ));
        }
        let holes: Vec<(u64, u64)> = (73..200).step_by(2).map(|one| (one, one)).collect();
        assert_eq!(holes.len(), HOLES_MAX);
        assert_eq!(chat.holes(), holes);
        assert_eq!(chat.lost(), Some((1, 71)));
        // What comes from there is still shown.
        assert_eq!(
            chat.receive(&text(31), &[], NOW),
            Arrival::Late {
                shown: NOW.plus(31)
            }
        );
        assert_eq!(chat.receive(&text(72), &[], NOW), Arrival::Duplicate);
        assert_eq!(chat.receive(&text(73), &[], NOW), new(None, NOW.plus(73)));
        // In the middle of a run: two gaps out of one.
        let mut chat = Chat::default();
        chat.receive(&text(1_000), &[], NOW);
        for sequence in (2..=200).step_by(2) {
            chat.receive(&text(sequence), &[], NOW);
        }
        assert_eq!(chat.holes().len(), HOLES_MAX);
        let bytes = codec::encode(&chat);
        assert!(bytes.len() <= Chat::MAX);
        assert_eq!(codec::decode::<Chat>(&bytes).unwrap(), chat);
    }

    #[test]
    fn the_longest_state_fits_its_bound() {
        let far = Time(u64::MAX);
        let hole = Hole {
            first: u64::MAX,
            last: u64::MAX,
            after: far,
            before: far,
        };
        let chat = Chat {
            sent: u64::MAX,
            epoch: u64::MAX,
            received: u64::MAX,
            shown: far,
            holes: vec![hole; HOLES_MAX],
            lost: Some(hole),
            clock: far,
            heads: vec![Head([9; 16]); HEADS_MAX],
        };
        assert!(codec::encode(&chat).len() <= Chat::MAX);
    }

    /// A text as the network delivers it: which one, its time, and the receiver's clock.
    type Delivery = (u64, u64, u64);

    fn deliveries(texts: u64) -> impl Strategy<Value = Vec<Delivery>> {
        let far = 2 * AHEAD_MAX;
        prop::collection::vec((1..=texts, 0..far, 0..1_000_u64), 0..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn in_any_order_with_any_times_each_text_is_new_once_and_keeps_its_place(
            deliveries in deliveries(100)
        ) {
            let mut chat = Chat::default();
            let mut came = BTreeSet::new();
            let mut shown_at = Vec::new();
            for (sequence, time, clock) in deliveries {
                let position = at(1, sequence, Time(time));
                let arrival = chat.receive(&position, &[], Time(clock));
                let expected = came.insert(sequence);
                match arrival {
                    Arrival::New { gap, shown } => {
                        prop_assert!(expected);
                        let before = missing(&came).into_iter().find(|run| run.1 + 1 == sequence);
                        prop_assert_eq!(gap, before);
                        shown_at.push(Order { shown, sequence, id: position.id });
                    }
                    Arrival::Duplicate => prop_assert!(!expected),
                    other => prop_assert!(false, "{:?}", other),
                }
                prop_assert_eq!(chat.holes(), missing(&came));
                chat = codec::decode(&codec::encode(&chat)).unwrap();
            }
            shown_at.sort();
            prop_assert!(shown_at.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
        }

        #[test]
        fn after_loss_and_repair_both_ends_show_the_same_texts_in_their_senders_order(
            lost in prop::collection::vec(any::<bool>(), 60),
            turns in prop::collection::vec(any::<bool>(), 60),
            late in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let mut ends = [Chat::default(), Chat::default()];
            let mut archive: [Vec<(Position, Vec<Head>)>; 2] = Default::default();
            let mut shown: [Vec<Order>; 2] = Default::default();
            let mut way: Vec<(usize, usize)> = Vec::new();
            let mut now = NOW;
            let deliver = |ends: &mut [Chat; 2], shown: &mut [Vec<Order>; 2],
                               to: usize, (at, heads): &(Position, Vec<Head>), now| {
                if let Arrival::New { shown: time, .. } = ends[to].receive(at, heads, now) {
                    shown[to].push(Order { shown: time, sequence: at.sequence, id: at.id });
                }
            };
            for ((turn, lost), late) in turns.iter().zip(&lost).zip(&late) {
                now = now.plus(1_000);
                let from = usize::from(*turn);
                // The second end's clock is ten hours behind.
                let own = if from == 0 { now } else { Time(now.0 - 36_000_000) };
                let stamp = ends[from].compose(own);
                let id = id(from as u64, stamp.sequence);
                ends[from].sent(id);
                let at = Position { id, epoch: 1, sequence: stamp.sequence, time: stamp.time };
                archive[from].push((at, stamp.heads));
                if !lost {
                    way.push((from, archive[from].len() - 1));
                }
                // Something that is on its way arrives, out of order, and half of it twice.
                if !way.is_empty() {
                    let (from, place) = way[late.index(way.len())];
                    deliver(&mut ends, &mut shown, 1 - from, &archive[from][place], now);
                    if place % 2 == 0 {
                        way.retain(|item| *item != (from, place));
                    }
                }
            }
            for from in [0, 1] {
                let to = 1 - from;
                // The last text always comes in the end: it shows what is missing.
                if let Some(last) = archive[from].last().cloned() {
                    deliver(&mut ends, &mut shown, to, &last, now);
                }
                for (first, last) in ends[to].holes() {
                    for sequence in first..=last {
                        let again = archive[from][sequence as usize - 1].clone();
                        deliver(&mut ends, &mut shown, to, &again, now);
                    }
                }
                prop_assert!(ends[to].holes().is_empty());
                shown[to].sort();
                let order: Vec<u64> = shown[to].iter().map(|order| order.sequence).collect();
                prop_assert_eq!(order, (1..=archive[from].len() as u64).collect::<Vec<u64>>());
            }
        }
    }
}
