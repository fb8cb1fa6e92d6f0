//! Stories of proofs: what keepers have signed for, what that is worth in a drill, and who failed.

use pumasi_protocol::archive::Record;
use pumasi_protocol::crypto::{Signed, SigningKey};
use pumasi_protocol::mailbox::{RETENTION_MAX, ShelfReceipt};
use pumasi_protocol::types::{AccountId, Hash, NodeId};

use super::super::replacing::Gone;
use super::super::shelving::Shelf;
use super::network::{FOUR, Net};
use super::replace::{keepers, members_of};
use crate::view::KeepersView;

fn report(net: &Net, account: AccountId) -> KeepersView {
    net.members[0].engine.keepers_report(&account).unwrap()
}

#[test]
fn every_keeper_signs_for_the_whole_archive_whoever_answers_first() {
    let (mut net, ids) = Net::with_spares(216, &[]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..20 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.until("all three have signed for every page", 60, |net| {
        let view = report(net, ids[0]);
        view.pages > 0 && view.keepers.iter().all(|keeper| keeper.pages == view.pages)
    });
    // The word outlives a restart.
    net.restart(0);
    let view = report(&net, ids[0]);
    assert!(view.keepers.iter().all(|keeper| keeper.pages == view.pages));
}

#[test]
fn a_page_of_the_very_moment_of_the_question_is_signed_for_by_all_in_the_end() {
    let (mut net, ids) = Net::with_spares(220, &[]);
    net.run(60_000);
    let me = ids[0];
    net.call(0, move |engine| {
        engine.archive(me, Record::Name("hana".into()));
        Ok(())
    })
    .unwrap();
    for keeper in keepers(&net, 0, me) {
        net.call(0, move |engine| engine.compare(me, keeper.place.node))
            .unwrap();
    }
    net.until("all three have signed for every page", 60, |net| {
        let view = report(net, me);
        view.keepers.iter().all(|keeper| keeper.pages == view.pages)
    });
}

#[test]
fn a_keeper_that_comes_back_signs_for_what_was_written_meanwhile() {
    let (mut net, ids) = Net::with_spares(217, &[]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(30_000);
    let away = members_of(&net, 0, ids[0])[2];
    let name = net.members[away].id.to_string();
    net.kill(away);
    for number in 0..40 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.run(30_000);
    let pages = |net: &Net| {
        let view = report(net, ids[0]);
        let keeper = view.keepers.iter().find(|keeper| keeper.node == name);
        (keeper.expect("listed").pages, view.pages)
    };
    let (held, all) = pages(&net);
    assert!(held + 10 < all, "{held} of {all}");
    net.restart(away);
    net.until("it has signed for everything", 30, |net| {
        let (held, all) = pages(net);
        held == all
    });
}

#[test]
fn a_shelf_receipt_counts_only_from_the_keeper_that_was_asked_and_for_what_it_was_asked() {
    let (mut net, ids) = Net::with_spares(218, &[]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_000);
    let me = ids[0];
    let keeper = keepers(&net, 0, me)[0].place.node;
    let record = net.members[0].engine.accounts[&me].record.version();
    let at = net.now;
    let right = ShelfReceipt {
        mailbox: me,
        record,
        keeper,
        until: at.plus(RETENTION_MAX),
        pages: Hash([7; 32]),
    };
    let member = members_of(&net, 0, me)[0];
    let key = SigningKey::from_seed(&net.members[member].engine.node_secret().0);
    let other = SigningKey::from_seed(&[9; 32]);
    let mut old = right.clone();
    old.record.version -= 1;
    let mut elsewhere = right.clone();
    elsewhere.mailbox = ids[1];
    let mut stranger = right.clone();
    stranger.keeper = NodeId([3; 32]);
    let wrong = [
        Signed::sign(&right, &other),
        Signed::sign(&old, &key),
        Signed::sign(&elsewhere, &key),
        Signed::sign(&stranger, &key),
    ];
    let engine = &mut net.members[0].engine;
    engine.db.execute("DELETE FROM shelf_receipts", []).unwrap();
    let mut take = |pages: Hash, signed: Signed<ShelfReceipt>| {
        let asked = Shelf { pages, at };
        net.call(0, move |engine| {
            engine.shelf_receipt(me, keeper, asked, &signed)?;
            engine.shelf_signed(&me, &keeper)
        })
        .unwrap()
    };
    for signed in wrong {
        assert_eq!(take(right.pages, signed), None);
    }
    let signed = Signed::sign(&right, &key);
    assert_eq!(take(Hash([8; 32]), signed.clone()), None);
    assert_eq!(take(right.pages, signed), Some(at));
}

#[test]
fn a_keeper_that_failed_an_audit_stays_failed_after_a_restart() {
    // Nobody else is there to take its place.
    let (mut net, ids) = Net::with(219, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(60_000);
    let me = ids[0];
    let liar = members_of(&net, 0, me)[0];
    let node = net.members[liar].id;
    net.members[liar]
        .engine
        .db
        .execute("DELETE FROM pages WHERE mailbox = ?1", [me.0])
        .unwrap();
    net.members[0].engine.due.audits.due.clear();
    net.until("it failed", 120, |net| {
        net.members[0].engine.gone(&me, &node) == Some(Gone::Failed)
    });
    net.restart(0);
    assert_eq!(net.members[0].engine.gone(&me, &node), Some(Gone::Failed));
}

#[test]
fn an_idle_check_of_equal_sets_costs_400_bytes_at_most() {
    let (mut net, ids) = Net::with_spares(213, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..20 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.run(60_000);
    // One comparison, and nothing else.
    let keeper = net.members[members_of(&net, 0, ids[0])[0]].id;
    let me = ids[0];
    let before = net.bytes + net.archive_bytes;
    net.call(0, move |engine| engine.compare(me, keeper))
        .unwrap();
    net.run(20);
    let cost = net.bytes + net.archive_bytes - before;
    assert!(cost > 0 && cost <= 400, "{cost} bytes");
}

#[test]
fn a_drill_says_what_a_fire_would_leave_and_notices_what_is_not_proven() {
    let (mut net, ids) = Net::with_spares(214, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..10 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.run(60_000);
    let drill = |net: &mut Net, building: &str| {
        let building = building.to_owned();
        net.call(0, move |engine| engine.drill(&building)).unwrap()
    };
    let place = keepers(&net, 0, ids[0])[0].building.clone();
    let view = drill(&mut net, &place);
    let one = &view.accounts[0];
    assert!(view.survives && !view.here && one.restorable, "{view:?}");
    assert_eq!((one.keepers_lost, one.keepers_left), (1, 2));
    assert!(one.pages_safe > 0);
    let here = drill(&mut net, " Pangyo");
    assert!(here.here && here.survives, "{here:?}");
    assert!(
        here.text.contains("restored from its words"),
        "{}",
        here.text
    );
    let there = drill(&mut net, "anyang");
    assert_eq!(there.accounts[0].contacts_there, vec!["bora".to_owned()]);
    // Without the proofs nothing is claimed.
    let engine = &mut net.members[0].engine;
    engine.db.execute("DELETE FROM receipt_items", []).unwrap();
    engine.db.execute("DELETE FROM shelf_receipts", []).unwrap();
    let view = drill(&mut net, &place);
    assert!(!view.survives);
    let one = &view.accounts[0];
    assert_eq!(one.pages_at_risk, one.pages_safe);
    assert!(!one.at_risk.is_empty() && one.at_risk.len() <= 5);
    // Two of three gone: too few for a restore once the third would burn.
    let list = members_of(&net, 0, ids[0]);
    net.burn(list[1]);
    net.run(1_000);
    let report = net
        .call(0, {
            let me = ids[0];
            move |engine| engine.keepers_report(&me)
        })
        .unwrap();
    assert!(report.keepers[1].silent_since.is_some() && !report.keepers[1].connected);
    assert!(net.call(0, |engine| engine.drill("  ")).is_err());
}
