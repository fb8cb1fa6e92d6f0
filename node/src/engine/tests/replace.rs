//! Stories of repair: a keeper is gone, and everything returns to as many copies as before, with
//! nothing safe missing at any reading of any list on the way.

use std::collections::BTreeSet;

use pumasi_protocol::record::{KeeperEntry, normal};
use pumasi_protocol::succession::is_reading;
use pumasi_protocol::types::{AccountId, NodeId};
use rusqlite::params;

use super::network::{Net, REPLACE_AFTER};

pub(super) fn keepers(net: &Net, node: usize, account: AccountId) -> Vec<KeeperEntry> {
    let own = &net.members[node].engine.accounts[&account];
    own.record.record.keepers.clone()
}

pub(super) fn members_of(net: &Net, node: usize, account: AccountId) -> Vec<usize> {
    keepers(net, node, account)
        .iter()
        .map(|keeper| member(net, &keeper.place.node))
        .collect()
}

fn member(net: &Net, id: &NodeId) -> usize {
    net.members
        .iter()
        .position(|member| member.id == *id)
        .expect("a member")
}

/// Three living keepers in three buildings, none of them joining.
fn whole(net: &Net, node: usize, account: AccountId) -> bool {
    let list = keepers(net, node, account);
    let buildings: BTreeSet<String> = list.iter().map(|k| normal(&k.building)).collect();
    buildings.len() == 3
        && list.len() == 3
        && list.iter().all(|keeper| !keeper.joining)
        && list
            .iter()
            .all(|keeper| net.members[member(net, &keeper.place.node)].alive)
}

fn settle_whole(net: &mut Net, node: usize, account: AccountId) {
    net.until("three living keepers are level", 300, |net| {
        whole(net, node, account)
    });
}

fn holds(net: &Net, node: usize, sql: &str, id: &[u8]) -> bool {
    net.members[node]
        .engine
        .db
        .prepare_cached(sql)
        .unwrap()
        .exists(params![id])
        .unwrap()
}

fn rows(net: &Net, node: usize, sql: &str, account: AccountId) -> Vec<(Vec<u8>, u64)> {
    net.members[node]
        .engine
        .db
        .prepare_cached(sql)
        .unwrap()
        .query_map(params![account.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap()
}

/// Checks that every reading of an account's list holds every safe page of its archive, and every
/// message that its writers call safe, in its envelope or in the page that it was archived in.
fn assert_nothing_safe_is_missing(
    net: &Net,
    home: usize,
    account: AccountId,
    writers: &[(usize, AccountId)],
) {
    const PAGE: &str = "SELECT 1 FROM pages WHERE page = ?1";
    const ENVELOPE: &str = "SELECT 1 FROM envelopes WHERE envelope = ?1";
    let own = &net.members[home].engine.accounts[&account];
    let record = &own.record.record;
    let all: Vec<(Vec<u8>, u64)> = rows(
        net,
        home,
        "SELECT page, number FROM pages WHERE mailbox = ?1 AND hidden IS NULL",
        account,
    );
    let mut texts: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
    for (node, writer) in writers {
        let sent: Vec<(Vec<u8>, Option<Vec<u8>>)> = net.members[*node]
            .engine
            .db
            .prepare_cached(
                "SELECT m.message, o.envelope FROM messages m
                 LEFT JOIN outgoing o ON o.account = m.account AND o.message = m.message
                 WHERE m.account = ?1 AND m.contact = ?2 AND m.outgoing = 1 AND m.safe = 1",
            )
            .unwrap()
            .query_map(params![writer.0, account.0], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        texts.extend(sent);
    }
    let nodes: Vec<usize> = members_of(net, home, account);
    for bits in 0_u32..1 << nodes.len() {
        let read: Vec<usize> = nodes
            .iter()
            .enumerate()
            .filter(|(place, _)| bits >> place & 1 == 1)
            .map(|(_, node)| *node)
            .collect();
        let ids: BTreeSet<NodeId> = read.iter().map(|node| net.members[*node].id).collect();
        if read.is_empty() || !is_reading(&record.keepers, record.safe_copies, &ids) {
            continue;
        }
        for (page, number) in &all {
            let there = read.iter().any(|node| holds(net, *node, PAGE, page));
            assert!(
                there || *number > own.archive.safe,
                "page {number} of {} safe ones is missing at {read:?} of {nodes:?}",
                own.archive.safe
            );
        }
        for (message, envelope) in &texts {
            let archived: Option<Vec<u8>> = net.members[home]
                .engine
                .db
                .query_row(
                    "SELECT p.page FROM messages m JOIN pages p
                       ON p.mailbox = m.account AND p.number = m.page
                     WHERE m.account = ?1 AND m.message = ?2",
                    params![account.0, message],
                    |row| row.get(0),
                )
                .ok();
            let there = read.iter().any(|node| {
                envelope
                    .as_ref()
                    .is_some_and(|id| holds(net, *node, ENVELOPE, id))
                    || archived
                        .as_ref()
                        .is_some_and(|id| holds(net, *node, PAGE, id))
            });
            // One that is delivered has no envelope under way: its page may be on its way, and the
            // envelope that brought it is at two of the keepers.
            assert!(
                there || envelope.is_none(),
                "a safe message is missing at {read:?} of {nodes:?}"
            );
        }
    }
}

#[test]
fn a_burned_keeper_is_replaced_and_filled_and_nothing_safe_is_missing_on_the_way() {
    let (mut net, ids) = Net::with_spares(201, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..80 {
        net.send((0, ids[0]), ids[1], &format!("before {number}"));
        net.send((1, ids[1]), ids[0], &format!("answer {number}"));
        net.run(20);
    }
    net.run(5_000);
    // Not bora's own node: it goes on writing.
    let burned = *members_of(&net, 0, ids[0])
        .iter()
        .find(|node| **node != 1)
        .expect("a keeper");
    net.burn(burned);
    let started = net.now;
    let mut number = 0;
    while !whole(&net, 0, ids[0]) {
        assert!(net.now.since(started) < 300_000, "not repaired");
        if number % 4 == 0 {
            net.send((1, ids[1]), ids[0], &format!("during {number}"));
            net.send((0, ids[0]), ids[1], &format!("during, back {number}"));
        }
        number += 1;
        let joining = keepers(&net, 0, ids[0]).iter().any(|k| k.joining);
        net.run(if joining { 10 } else { 250 });
        assert_nothing_safe_is_missing(&net, 0, ids[0], &[(1, ids[1])]);
    }
    let took = net.now.since(started);
    assert!(took >= REPLACE_AFTER, "too early: {took} ms");
    assert!(took < REPLACE_AFTER + 20_000, "too slow: {took} ms");
    assert_nothing_safe_is_missing(&net, 0, ids[0], &[(1, ids[1])]);
    let kinds: Vec<String> = net.events(0).into_iter().map(|event| event.kind).collect();
    assert!(kinds.iter().any(|kind| kind == "keeper.replaced"));
    assert!(kinds.iter().any(|kind| kind == "keeper.filled"));
    // And the proof of it: the home burns, too.
    net.run(5_000);
    net.burn(0);
    let spare = (0..net.members.len())
        .rev()
        .find(|node| net.members[*node].alive && *node > 3)
        .expect("a node");
    let view = net.restore(spare, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    let report = view.report.expect("a report");
    assert!(report.complete && report.missing.is_empty(), "{report:?}");
    settle_whole(&mut net, spare, ids[0]);
}

#[test]
fn a_keeper_that_flaps_is_not_replaced_before_its_time() {
    let (mut net, ids) = Net::with_spares(202, &["ulsan", "sejong"]);
    let before = keepers(&net, 0, ids[0]);
    let flapping = members_of(&net, 0, ids[0])[0];
    for _ in 0..4 {
        net.kill(flapping);
        net.run(REPLACE_AFTER * 3 / 4);
        net.restart(flapping);
        net.run(5_000);
    }
    assert_eq!(keepers(&net, 0, ids[0]), before);
}

#[test]
fn a_keeper_that_dropped_pages_and_says_that_it_has_them_is_found_and_replaced() {
    let (mut net, ids) = Net::with_spares(203, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..10 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.run(60_000);
    let liar = members_of(&net, 0, ids[0])[0];
    net.members[liar]
        .engine
        .db
        .execute("DELETE FROM pages WHERE mailbox = ?1", params![ids[0].0])
        .unwrap();
    net.members[0].engine.due.audits.due.clear();
    net.until("the liar is off the list", 120, |net| {
        !members_of(net, 0, ids[0]).contains(&liar)
    });
    settle_whole(&mut net, 0, ids[0]);
    let kinds: Vec<String> = net.events(0).into_iter().map(|event| event.kind).collect();
    assert!(kinds.iter().any(|kind| kind == "keeper.failed"));
    assert!(kinds.iter().any(|kind| kind == "node.alarm"));
    assert_nothing_safe_is_missing(&net, 0, ids[0], &[]);
}

#[test]
fn honest_keepers_pass_their_audits_and_silence_is_no_failure() {
    let (mut net, ids) = Net::with_spares(204, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(30_000);
    let before = keepers(&net, 0, ids[0]);
    for _ in 0..20 {
        for node in 0..4 {
            net.members[node].engine.due.audits.due.clear();
        }
        net.send((0, ids[0]), ids[1], "more");
        net.run(31_000);
        let keeper = members_of(&net, 0, ids[0])[1];
        net.cut(0, keeper);
        net.run(1_000);
        net.mend(0, keeper);
    }
    assert_eq!(keepers(&net, 0, ids[0]), before);
    let kinds: Vec<String> = net.events(0).into_iter().map(|event| event.kind).collect();
    assert!(!kinds.iter().any(|kind| kind == "keeper.failed"));
}

#[test]
fn a_keeper_that_says_no_is_replaced() {
    let (mut net, ids) = Net::with_spares(205, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_000);
    let leaver = members_of(&net, 0, ids[0])[0];
    let engine = &mut net.members[leaver].engine;
    engine.kept.remove(&ids[0]);
    engine
        .db
        .execute("DELETE FROM kept WHERE mailbox = ?1", params![ids[0].0])
        .unwrap();
    net.until("the one that said no is off the list", 60, |net| {
        !members_of(net, 0, ids[0]).contains(&leaver)
    });
    settle_whole(&mut net, 0, ids[0]);
    assert_nothing_safe_is_missing(&net, 0, ids[0], &[]);
}

#[test]
fn a_replacement_that_is_cut_off_by_restarts_goes_on() {
    for step in 0..10_u64 {
        let (mut net, ids) = Net::with_spares(206, &["ulsan", "sejong"]);
        net.meet((0, ids[0]), (1, ids[1]));
        for number in 0..20 {
            net.send((0, ids[0]), ids[1], &number.to_string());
        }
        net.run(5_000);
        let burned = *members_of(&net, 0, ids[0])
            .iter()
            .find(|node| **node != 1)
            .expect("a keeper");
        net.burn(burned);
        net.until("the list changes", 120, |net| {
            !members_of(net, 0, ids[0]).contains(&burned)
                || net.members[0]
                    .engine
                    .due
                    .asking_keeper
                    .contains_key(&ids[0])
        });
        // 5 ms is the time of one frame: each step of the replacement once.
        net.run(step * 5);
        net.kill(0);
        net.run(1_000);
        net.restart(0);
        for other in 1..net.members.len() {
            net.link(0, other);
        }
        let started = net.now;
        while !whole(&net, 0, ids[0]) {
            assert!(
                net.now.since(started) < 300_000,
                "not repaired, step {step}"
            );
            let joining = keepers(&net, 0, ids[0]).iter().any(|k| k.joining);
            net.run(if joining { 10 } else { 250 });
            assert_nothing_safe_is_missing(&net, 0, ids[0], &[]);
        }
    }
}

#[test]
fn with_two_of_three_keepers_gone_nothing_is_replaced_and_the_words_go_on() {
    let (mut net, ids) = Net::with_spares(207, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "kept");
    net.run(5_000);
    let before = keepers(&net, 0, ids[0]);
    let list = members_of(&net, 0, ids[0]);
    net.burn(list[0]);
    net.burn(list[1]);
    net.run(REPLACE_AFTER + 30_000);
    assert_eq!(keepers(&net, 0, ids[0]), before);
    let view = net
        .call(0, {
            let me = ids[0];
            move |engine| engine.keepers_view(&me)
        })
        .unwrap();
    assert!(
        view.repairs
            .iter()
            .any(|line| line.contains("pumasi restore")),
        "{view:?}"
    );
    // The words go on, and the account comes back to three.
    net.kill(0);
    let spare = (0..net.members.len())
        .rev()
        .find(|node| net.members[*node].alive && *node != list[2])
        .expect("a node");
    let view = net.restore(spare, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    let report = view.report.expect("a report");
    assert!(!report.complete && !report.missing.is_empty(), "{report:?}");
    let third = net.add("daegu");
    let fourth = net.add("incheon");
    for node in [third, fourth] {
        for other in 0..node {
            net.link(node, other);
        }
    }
    settle_whole(&mut net, spare, ids[0]);
}

#[test]
fn a_keeper_that_comes_back_after_it_was_replaced_takes_nothing_new_and_ends() {
    let (mut net, ids) = Net::with_spares(208, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "one");
    net.run(5_000);
    let away = *members_of(&net, 0, ids[0])
        .iter()
        .find(|node| **node != 1)
        .expect("a keeper");
    net.kill(away);
    net.run(1_000);
    settle_whole(&mut net, 0, ids[0]);
    net.restart(away);
    net.until("it has learned the newer list", 30, |net| {
        let engine = &net.members[away].engine;
        engine
            .kept
            .get(&ids[0])
            .is_some_and(|kept| kept.ended.is_some())
    });
    let pages = |net: &Net| {
        rows(
            net,
            away,
            "SELECT page, number FROM pages WHERE mailbox = ?1",
            ids[0],
        )
        .len()
    };
    let before = pages(&net);
    assert!(before > 0);
    for number in 0..10 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.run(30_000);
    assert_eq!(pages(&net), before);
    // When its promises are over, its place is free again.
    let engine = &mut net.members[away].engine;
    engine
        .db
        .execute(
            "UPDATE kept SET ended = 1 WHERE mailbox = ?1",
            params![ids[0].0],
        )
        .unwrap();
    net.run(61_000);
    assert_eq!(pages(&net), 0);
    assert!(!holds(
        &net,
        away,
        "SELECT 1 FROM kept WHERE mailbox = ?1",
        &ids[0].0
    ));
}

#[test]
fn a_restore_during_a_replacement_finds_everything() {
    let (mut net, ids) = Net::with_spares(209, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..30 {
        net.send((0, ids[0]), ids[1], &format!("mine {number}"));
        net.send((1, ids[1]), ids[0], &format!("hers {number}"));
    }
    net.run(5_000);
    let burned = *members_of(&net, 0, ids[0])
        .iter()
        .find(|node| **node != 1)
        .expect("a keeper");
    net.burn(burned);
    net.until("somebody is joining", 120, |net| {
        keepers(net, 0, ids[0]).iter().any(|keeper| keeper.joining)
    });
    // What waits for company leaves with the next tick; a page that burns with its device is counted.
    net.run(300);
    net.burn(0);
    let joining = keepers(&net, 0, ids[0])
        .iter()
        .find(|keeper| keeper.joining)
        .map(|keeper| member(&net, &keeper.place.node))
        .expect("one");
    let spare = (0..net.members.len())
        .find(|node| net.members[*node].alive && *node > 1 && *node != joining)
        .expect("a node");
    let view = net.restore(spare, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    let report = view.report.expect("a report");
    assert!(report.complete && report.missing.is_empty(), "{report:?}");
    assert_eq!(net.received(spare, ids[0], ids[1]).len(), 30);
    net.until(
        "as many keepers as there are buildings for, all level",
        300,
        |net| {
            let list = keepers(net, spare, ids[0]);
            list.iter()
                .all(|keeper| !keeper.joining && net.members[member(net, &keeper.place.node)].alive)
        },
    );
}

#[test]
fn a_home_that_starts_while_a_keeper_joins_and_another_burned_does_not_wait_for_ever() {
    let (mut net, ids) = Net::with_spares(216, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_000);
    for _ in 0..2 {
        let burned = keepers(&net, 0, ids[0])
            .iter()
            .filter(|keeper| !keeper.joining)
            .map(|keeper| member(&net, &keeper.place.node))
            .find(|node| *node != 1 && net.members[*node].alive)
            .expect("a keeper");
        net.burn(burned);
        net.until("somebody is joining", 120, |net| {
            keepers(net, 0, ids[0]).iter().any(|keeper| keeper.joining)
        });
    }
    net.restart(0);
    // Not before the one that burned counts as gone; then at once.
    net.run(REPLACE_AFTER / 2);
    assert!(!net.members[0].engine.is_level(&ids[0]));
    net.settle_level(0, ids[0]);
    net.send((0, ids[0]), ids[1], "still here");
    net.until("it arrives", 60, |net| {
        net.received(1, ids[1], ids[0]).last().map(String::as_str) == Some("still here")
    });
}

#[test]
fn two_keepers_that_burn_one_after_the_other_are_both_replaced() {
    let (mut net, ids) = Net::with_spares(210, &["ulsan", "sejong"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..20 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.run(5_000);
    for _ in 0..2 {
        let burned = *members_of(&net, 0, ids[0])
            .iter()
            .find(|node| **node != 1)
            .expect("a keeper");
        net.burn(burned);
        net.run(1_000);
        settle_whole(&mut net, 0, ids[0]);
        assert_nothing_safe_is_missing(&net, 0, ids[0], &[]);
    }
}

#[test]
fn a_joining_keeper_that_burns_is_replaced_itself() {
    let (mut net, ids) = Net::with_spares(211, &["ulsan", "sejong"]);
    net.run(5_000);
    let burned = members_of(&net, 0, ids[0])[0];
    net.burn(burned);
    net.until("somebody is joining", 120, |net| {
        keepers(net, 0, ids[0]).iter().any(|keeper| keeper.joining)
    });
    let joining = keepers(&net, 0, ids[0])
        .iter()
        .find(|keeper| keeper.joining)
        .map(|keeper| member(&net, &keeper.place.node))
        .expect("one");
    net.burn(joining);
    settle_whole(&mut net, 0, ids[0]);
}

#[test]
fn a_keeper_away_for_a_day_and_for_an_epoch_is_level_within_ten_seconds() {
    let (mut net, ids) = Net::with_spares(212, &["ulsan", "sejong"]);
    for node in 0..net.members.len() {
        net.members[node].engine.settings.replace_after = 7 * 24 * 3_600_000;
    }
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_000);
    let away = *members_of(&net, 0, ids[0])
        .iter()
        .find(|node| **node != 1)
        .expect("a keeper");
    net.kill(away);
    for number in 0..600 {
        net.send((0, ids[0]), ids[1], &number.to_string());
        if number % 10 == 0 {
            net.run(100);
        }
    }
    // Its owner comes back elsewhere meanwhile: another device, another record.
    net.burn(0);
    let listed = members_of(&net, 0, ids[0]);
    let home = (2..net.members.len())
        .find(|node| net.members[*node].alive && !listed.contains(node))
        .expect("a node");
    let view = net.restore(home, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    net.send((home, ids[0]), ids[1], "new device");
    net.now = net.now.plus(20 * 3_600_000);
    net.run(5_000);
    net.restart(away);
    for other in 0..net.members.len() {
        net.link(away, other);
    }
    let back = net.now;
    let digests = |net: &mut Net, node: usize| {
        let sets = net.members[node].engine.sets(&ids[0]).unwrap().unwrap();
        let [statements, _, archive] = sets.hashes();
        (statements, archive)
    };
    loop {
        if digests(&mut net, away) == digests(&mut net, home) {
            break;
        }
        assert!(net.now.since(back) < 10_000, "not level after 10 s");
        net.run(100);
    }
}

#[test]
fn a_keeper_is_not_removed_while_too_few_others_hold_everything() {
    let (mut net, ids) = Net::with_spares(215, &["ulsan", "sejong"]);
    net.run(5_000);
    let burned = members_of(&net, 0, ids[0])[0];
    net.burn(burned);
    net.until("somebody is joining", 120, |net| {
        keepers(net, 0, ids[0]).iter().any(|keeper| keeper.joining)
    });
    let settled = keepers(&net, 0, ids[0])
        .iter()
        .find(|keeper| !keeper.joining)
        .map(|keeper| keeper.place.node.to_string())
        .expect("one");
    let (me, node) = (ids[0], settled.clone());
    let refused = net
        .call(0, move |engine| engine.remove_keeper(&me, &node))
        .unwrap_err();
    assert!(refused.to_string().contains("too few"), "{refused}");
    settle_whole(&mut net, 0, ids[0]);
    let view = net
        .call(0, move |engine| engine.remove_keeper(&me, &settled))
        .unwrap();
    // R falls from two to one: until both are level, or a third is there, both must be read.
    assert!(view.keepers.iter().all(|keeper| keeper.joining), "{view:?}");
    settle_whole(&mut net, 0, ids[0]);
}
