//! Random histories of two ends with two lines, against a model that knows no state: it reads the
//! plain list of entries from the beginning each time, in the words of `docs/ledger.md`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that is wrong may panic"
)]

use proptest::prelude::*;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::line::{DebtId, EquivocationProof, Refusal};
use pumasi_protocol::types::{AccountId, Amount};

mod book;
mod model;
mod world;

use world::{World, key, pay_id, rogue};

const ENDS: [AccountId; 2] = [AccountId([1; 32]), AccountId([2; 32])];
const UNITS: [&str; 2] = ["KRW", "USD"];

// ---- random histories ----

#[derive(Debug, Clone, Copy)]
enum Kind {
    Limit,
    Pay,
    Rogue,
    RogueAnswer,
    Fork,
    Lock,
    RogueLock,
    Settle,
    Free,
    Waive,
    Decline,
    Close,
    Answer,
    Restore,
    Deliver { twice: bool },
}

#[derive(Debug, Clone)]
struct Action {
    kind: Kind,
    end: usize,
    unit: usize,
    id: u8,
    amount: u64,
    pick: u8,
}

fn action(kinds: &'static [(u32, Kind)]) -> impl Strategy<Value = Action> {
    let kinds = kinds
        .iter()
        .map(|(weight, kind)| (*weight, Just(*kind)))
        .collect();
    let amount = prop_oneof![
        12 => 0..120u64,
        1 => Just(u64::MAX),
    ];
    // Mostly one unit: the other one shows that lines do not mix.
    let unit = prop_oneof![3 => Just(0usize), 1 => Just(1usize)];
    (
        prop::strategy::Union::new_weighted(kinds),
        0..2usize,
        unit,
        0..12u8,
        amount,
        any::<u8>(),
    )
        .prop_map(|(kind, end, unit, id, amount, pick)| Action {
            kind,
            end,
            unit,
            id,
            amount,
            pick,
        })
}

const HONEST: &[(u32, Kind)] = &[
    (2, Kind::Limit),
    (5, Kind::Pay),
    (6, Kind::Lock),
    (3, Kind::Settle),
    (2, Kind::Free),
    (1, Kind::Waive),
    (1, Kind::Decline),
    (1, Kind::Close),
    (5, Kind::Answer),
    (9, Kind::Deliver { twice: false }),
    (2, Kind::Deliver { twice: true }),
];
const CARELESS: &[(u32, Kind)] = &[
    (2, Kind::Limit),
    (4, Kind::Pay),
    (6, Kind::Lock),
    (3, Kind::Settle),
    (2, Kind::Free),
    (1, Kind::Waive),
    (4, Kind::Rogue),
    (4, Kind::RogueAnswer),
    (3, Kind::RogueLock),
    (1, Kind::Decline),
    (1, Kind::Close),
    (5, Kind::Answer),
    (9, Kind::Deliver { twice: false }),
    (2, Kind::Deliver { twice: true }),
];
const CONTRADICTING: &[(u32, Kind)] = &[
    (2, Kind::Limit),
    (4, Kind::Pay),
    (6, Kind::Lock),
    (3, Kind::Settle),
    (2, Kind::Free),
    (1, Kind::Waive),
    (2, Kind::Rogue),
    (2, Kind::RogueAnswer),
    (2, Kind::RogueLock),
    (2, Kind::Fork),
    (1, Kind::Decline),
    (4, Kind::Answer),
    (8, Kind::Deliver { twice: false }),
    (2, Kind::Deliver { twice: true }),
];

const RESTORED: &[(u32, Kind)] = &[
    (2, Kind::Limit),
    (5, Kind::Pay),
    (6, Kind::Lock),
    (3, Kind::Settle),
    (2, Kind::Free),
    (1, Kind::Waive),
    (1, Kind::Decline),
    (1, Kind::Close),
    (5, Kind::Answer),
    (3, Kind::Restore),
    (9, Kind::Deliver { twice: false }),
    (2, Kind::Deliver { twice: true }),
];

fn run(actions: &[Action], order: &[u16]) -> World {
    let mut world = World::new();
    world.restores = actions.iter().any(|a| matches!(a.kind, Kind::Restore));
    // Some credit to begin with, so that most histories pay.
    for end in [0, 1] {
        for unit in [0, 1] {
            let stamp = world.stamp(end);
            let entry = world
                .line(end, unit)
                .propose_limit(stamp, Amount(150), Amount(75))
                .unwrap();
            world.sign(end, unit, &entry);
        }
    }
    for action in actions {
        world.act(action);
    }
    world.settle();
    world.check_agreement(order);
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn honest_ends_agree_whatever_the_network_does(
        actions in prop::collection::vec(action(HONEST), 0..80),
        order in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        run(&actions, &order);
    }

    #[test]
    fn restored_ends_agree_whatever_they_forgot_and_the_network_does(
        actions in prop::collection::vec(action(RESTORED), 0..80),
        order in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        run(&actions, &order);
    }

    #[test]
    fn ends_agree_though_programs_sign_what_they_should_not(
        actions in prop::collection::vec(action(CARELESS), 0..60),
        order in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        run(&actions, &order);
    }

    #[test]
    fn ends_agree_though_one_contradicts_itself_and_settlement_goes_on(
        actions in prop::collection::vec(action(CONTRADICTING), 0..60),
        order in prop::collection::vec(any::<u16>(), 1..40),
    ) {
        let mut world = run(&actions, &order);
        for unit in [0, 1] {
            if !world.line(0, unit).is_frozen() {
                continue;
            }
            for end in [0, 1] {
                let book = &world.books[end][unit];
                // Each piece of evidence is a proof that anyone can check.
                for found in book.line.evidence() {
                    let sign = |hash| Signed::sign(&book.entries[hash], &key(found.author));
                    let proof = EquivocationProof::new(sign(&found.first), sign(&found.second));
                    let proven = proof.check(&key(found.author).public()).unwrap();
                    prop_assert_eq!(proven.sequence, found.sequence);
                }
                let stamp = world.stamp(end);
                let refused = world.line(end, unit)
                    .propose_iou(stamp, pay_id(99), Amount(1), "", None);
                prop_assert_eq!(refused, Err(Refusal::Frozen));
            }
            // Debt that was under way when the line froze can still be accepted.
            let stamp = world.stamp(0);
            let mut entry = world.line(0, unit).propose_limit(stamp, Amount(0), Amount(0)).unwrap();
            entry.operation = rogue(pay_id(98), Amount(1));
            world.sign(0, unit, &entry);
            for signed in std::mem::take(&mut world.network[1]) {
                world.deliver(1, &signed);
            }
            let view = world.line(1, unit).view();
            let used = view.balance + (view.reserved_in + view.freed_in) as i128;
            if used < i128::from(view.limit_given.0) {
                world.accept(1, unit, &[DebtId::Iou(pay_id(98))]);
                prop_assert_eq!(world.line(1, unit).balance(), view.balance + 1);
            }
            world.settle();
            world.check_agreement(&order);
        }
    }
}
