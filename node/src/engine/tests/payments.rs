//! Stories of money between real engines. The rules themselves are tested in the protocol.

use std::collections::BTreeMap;

use pumasi_protocol::condition::Opening;
use pumasi_protocol::line::{NewLock, line_id};
use pumasi_protocol::types::{Amount, Hash};

use super::network::{FOUR, Net};
use crate::ErrorKind;
use crate::read;

fn ready(seed: u64) -> (Net, Vec<pumasi_protocol::types::AccountId>) {
    let (mut net, ids) = Net::with(seed, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    for (node, me, other) in [(0, ids[0], ids[1]), (1, ids[1], ids[0])] {
        let who = other.to_string();
        net.call(node, move |engine| {
            engine.set_limit(&me, &who, "KRW", "100000")
        })
        .unwrap();
    }
    net.run(1_000);
    (net, ids)
}

fn balances(net: &Net, ids: &[pumasi_protocol::types::AccountId]) -> (i128, i128) {
    let of = |node: usize| {
        let lines = read::lines(&net.members[node].engine.db, &ids[node]).unwrap();
        lines[0].balance.parse::<i128>().unwrap()
    };
    (of(0), of(1))
}

#[test]
fn an_iou_is_accepted_and_both_ends_agree_and_see_it_safe() {
    let (mut net, ids) = ready(40);
    let payment = net.pay((0, ids[0]), ids[1], 15_000, "k1").unwrap();
    assert_eq!(payment.state, "held");
    net.run(2_000);
    assert_eq!(balances(&net, &ids), (-15_000, 15_000));
    for (node, me) in [(0, ids[0]), (1, ids[1])] {
        let view = read::payment(&net.members[node].engine.db, &me, &payment.id).unwrap();
        assert_eq!(view.state, "accepted");
        assert!(view.safe, "{view:?}");
    }
    let kinds: Vec<String> = net.events(1).into_iter().map(|event| event.kind).collect();
    assert!(kinds.contains(&"payment.received".into()) && kinds.contains(&"payment.safe".into()));
}

#[test]
fn the_same_key_pays_once() {
    let (mut net, ids) = ready(41);
    let first = net.pay((0, ids[0]), ids[1], 500, "same").unwrap();
    let again = net.pay((0, ids[0]), ids[1], 500, "same").unwrap();
    assert_eq!(first.id, again.id);
    let other = net.pay((0, ids[0]), ids[1], 501, "same").unwrap_err();
    assert_eq!(other.kind(), ErrorKind::IdempotencyKeyReused);
    net.kill(0);
    net.restart(0);
    net.pay((0, ids[0]), ids[1], 500, "same").unwrap();
    net.run(3_000);
    assert_eq!(balances(&net, &ids), (-500, 500));
}

#[test]
fn more_than_the_limit_is_refused_with_what_is_left() {
    let (mut net, ids) = ready(42);
    net.pay((0, ids[0]), ids[1], 90_000, "a").unwrap();
    let error = net.pay((0, ids[0]), ids[1], 10_001, "b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreditLimitExceeded);
    assert_eq!(error.details()["available"], "10000");
    assert!(net.pay((0, ids[0]), ids[1], 10_000, "c").is_ok());
    let zero = net.pay((0, ids[0]), ids[1], 0, "d").unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::Invalid);
}

#[test]
fn a_limit_lowered_while_an_iou_is_under_way_declines_it_and_both_agree() {
    let (mut net, ids) = ready(43);
    for other in 1..4 {
        net.cut(0, other);
    }
    let payment = net.pay((0, ids[0]), ids[1], 50_000, "late").unwrap();
    let (me, who) = (ids[1], ids[0].to_string());
    net.call(1, move |engine| engine.set_limit(&me, &who, "KRW", "1000"))
        .unwrap();
    net.run(1_000);
    for other in 1..4 {
        net.mend(0, other);
    }
    net.run(30_000);
    let view = read::payment(&net.members[0].engine.db, &ids[0], &payment.id).unwrap();
    assert_eq!(view.state, "declined");
    assert!(view.reason.is_some());
    assert_eq!(balances(&net, &ids), (0, 0));
}

#[test]
fn crossing_payments_with_crashes_and_losses_end_with_both_ends_agreeing() {
    for seed in 44..48 {
        let (mut net, ids) = ready(seed);
        net.loss = 10;
        let mut sum = 0_i128;
        let mut signed: BTreeMap<String, i128> = BTreeMap::new();
        for number in 0..30_u64 {
            let amount = 100 + number;
            if let Ok(payment) = net.pay((0, ids[0]), ids[1], amount, &format!("a{number}")) {
                signed.insert(payment.id, -i128::from(amount));
            }
            if let Ok(payment) = net.pay((1, ids[1]), ids[0], amount * 2, &format!("b{number}")) {
                signed.insert(payment.id, i128::from(amount) * 2);
            }
            net.run(30);
            if number % 7 == 3 {
                let victim = usize::try_from(number % 4).unwrap();
                net.kill(victim);
                net.run(100);
                net.restart(victim);
            }
        }
        net.loss = 0;
        net.run(60_000);
        for amount in signed.values() {
            sum += amount;
        }
        assert_eq!(balances(&net, &ids), (sum, -sum), "seed {seed}");
    }
}

#[test]
fn a_contact_with_debt_cannot_be_removed() {
    let (mut net, ids) = ready(50);
    net.pay((0, ids[0]), ids[1], 10, "x").unwrap();
    net.run(2_000);
    let (me, who) = (ids[0], ids[1].to_string());
    let error = net
        .call(0, move |engine| engine.remove_contact(&me, &who))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn a_line_closes_when_both_offer_it_at_zero() {
    let (mut net, ids) = ready(51);
    for (node, me, other) in [(0, ids[0], ids[1]), (1, ids[1], ids[0])] {
        let who = other.to_string();
        net.call(node, move |engine| engine.close_line(&me, &who, "KRW"))
            .unwrap();
        net.run(1_000);
    }
    let lines = read::lines(&net.members[0].engine.db, &ids[0]).unwrap();
    assert!(lines[0].closed, "{lines:?}");
    let error = net.pay((0, ids[0]), ids[1], 10, "after").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LineStopped);
}

#[test]
fn a_lock_that_nobody_asked_for_is_declined_and_holds_nothing() {
    let (mut net, ids) = ready(48);
    let (hana, bora) = (ids[0], ids[1]);
    let line = line_id(hana, bora, &"KRW".parse().unwrap());
    // A program that signs locks already.
    net.call(0, move |engine| {
        let stamp = engine.stamp(&hana)?;
        let lock = NewLock {
            id: Hash([7; 32]),
            amount: Amount(40_000),
            condition: Opening::Preimage([7; 32]).condition(),
            until: stamp.now.plus(60_000),
            instructions: Vec::new(),
        };
        let entry = engine
            .known_line(hana, line)?
            .propose_lock(stamp, &lock, None);
        engine.sign_entry(hana, &entry.expect("within the limit"))
    })
    .unwrap();
    let under_way = |net: &Net, node: usize| {
        let lines = read::lines(&net.members[node].engine.db, &ids[node]).unwrap();
        (lines[0].available.clone(), lines[0].held_out.clone())
    };
    assert_eq!(under_way(&net, 0), ("60000".into(), "40000".into()));
    net.run(2_000);
    assert_eq!(under_way(&net, 0), ("100000".into(), "0".into()));
    assert_eq!(balances(&net, &ids), (0, 0));
    // Money goes on, and a restart knows the same.
    net.pay((0, hana), bora, 70_000, "after").unwrap();
    net.restart(1);
    net.run(3_000);
    assert_eq!(balances(&net, &ids), (-70_000, 70_000));
}
