//! The arithmetic of admission at its edges, in tables.

use super::*;
use crate::line::side::Held;

type AdmissionRow = (u64, u128, &'static [u64], u128, u64, bool);
type AnswerRow = (u64, u128, u128, &'static [u64], &'static [bool]);

#[test]
fn admission_holds_at_every_edge() {
    const MAX: u64 = u64::MAX;
    // limit, settled by me, held by me, settled by the creditor, amount: admitted?
    #[rustfmt::skip]
    let table: &[AdmissionRow] = &[
        (0,   0,                  &[],         0,                  1,   false),
        (1,   0,                  &[],         0,                  1,   true),
        (100, 0,                  &[],         0,                  100, true),
        (100, 0,                  &[],         0,                  101, false),
        (100, 60,                 &[],         0,                  40,  true),
        (100, 60,                 &[],         0,                  41,  false),
        (100, 60,                 &[30],       0,                  10,  true),
        (100, 60,                 &[30],       0,                  11,  false),
        (100, 60,                 &[30],       50,                 60,  true),
        (100, 60,                 &[30],       50,                 61,  false),
        (0,   10,                 &[],         30,                 20,  true),
        (0,   10,                 &[],         30,                 21,  false),
        (50,  90,                 &[],         0,                  1,   false), // limit lowered below use
        (100, 0,                  &[],         0,                  MAX, false),
        (MAX, 0,                  &[],         0,                  MAX, true),
        (MAX, 1,                  &[],         0,                  MAX, false),
        (MAX, 0,                  &[1],        0,                  MAX, false),
        (MAX, 1,                  &[],         1,                  MAX, true),
        (MAX, MAX as u128,        &[],         0,                  1,   false),
        (MAX, MAX as u128,        &[],         MAX as u128,        MAX, true),
        (MAX, 0,                  &[MAX, MAX], 0,                  1,   false), // the sum wraps 64 bits
        (1,   0,                  &[MAX, 1],   0,                  1,   false), // it would wrap to 0
        (0,   1 << 70,            &[],         (1 << 70) + 5,      5,   true),
        (0,   1 << 70,            &[],         (1 << 70) + 5,      6,   false),
        (MAX, 0,                  &[],         1 << 70,            MAX, true),
        (100, 0,                  &[],         0,                  0,   false), // nothing to pay
    ];
    for (row, (limit, settled, held, returned, amount, admitted)) in table.iter().enumerate() {
        let mut end = Pair::with_limit(*limit).alice;
        end.line.mine.settled = *settled;
        end.line.theirs.settled = *returned;
        for (n, amount) in (100..).zip(*held) {
            end.line.mine.held.insert(
                DebtId::Iou(pay(n)),
                Held {
                    amount: Amount(*amount),
                    at: (stamp(ALICE).rank(), 1),
                },
            );
        }
        // What the creditor holds must never make room, nor take it.
        for incoming in [0, 7, MAX] {
            end.line.theirs.held.insert(
                debt(99),
                Held {
                    amount: Amount(incoming),
                    at: (stamp(ALICE).rank(), 1),
                },
            );
            let result = end.iou(1, *amount);
            assert_eq!(result.is_ok(), *admitted, "row {row}: {result:?}");
        }
    }
}

#[test]
fn a_creditor_accepts_up_to_its_limit_and_declines_above() {
    const MAX: u64 = u64::MAX;
    // limit, settled by the debtor, settled by the creditor, IOUs in order: which are accepted
    #[rustfmt::skip]
    let table: &[AnswerRow] = &[
        (0,   0,   0,       &[1],           &[false]),
        (100, 0,   0,       &[100],         &[true]),
        (100, 0,   0,       &[101],         &[false]),
        (100, 0,   0,       &[60, 41, 40],  &[true, false, true]),
        (100, 100, 0,       &[1],           &[false]),
        (100, 150, 0,       &[1],           &[false]),
        (0,   0,   30,      &[10, 21, 20],  &[true, false, true]),
        (MAX, 0,   0,       &[MAX, 1],      &[true, false]),
        (MAX, 1,   0,       &[MAX, 1],      &[false, true]),
        (1,   0,   0,       &[MAX, MAX, 1], &[false, false, true]),
        (MAX, 0,   1 << 66, &[MAX, MAX],    &[true, true]),
    ];
    for (row, (limit, settled, returned, ious, accepted)) in table.iter().enumerate() {
        let mut line = Pair::with_limit(*limit).bob.line;
        line.theirs.settled = *settled;
        line.mine.settled = *returned;
        for (n, amount) in (1u8..).zip(*ious) {
            // Ids against the order of signing: only the order of signing may count.
            let held = Held {
                amount: Amount(*amount),
                at: (stamp(ALICE).rank(), u64::from(n)),
            };
            line.theirs.held.insert(debt(200 - n), held);
        }
        let answers = line.answers_due(&BTreeMap::new());
        for (n, expected) in (1u8..).zip(*accepted) {
            assert_eq!(
                answers.accept.contains(&debt(200 - n)),
                *expected,
                "row {row}, IOU {n}"
            );
            let declined = answers
                .decline
                .contains(&(debt(200 - n), DeclineReason::AboveLimit));
            assert_eq!(declined, !expected, "row {row}, IOU {n}");
        }
        assert!(
            answers.accept.is_empty() || line.propose_accept(stamp(BOB), &answers.accept).is_ok(),
            "row {row}"
        );
    }
}

#[test]
fn sums_that_no_longer_fit_are_refused_and_change_nothing() {
    let mut pair = Pair::with_limit(u64::MAX);
    pair.both(&pair.alice.iou(1, 5).unwrap());
    let accept = pair
        .bob
        .line
        .propose_accept(stamp(BOB), &[debt(1)])
        .unwrap();
    pair.bob.line.theirs.settled = u128::MAX - 4;
    let before = pair.bob.line.clone();
    assert_eq!(pair.bob.take(&accept).unwrap_err(), EntryFault::Overflow);
    assert_eq!(pair.bob.line, before);
}
