//! Stories of nodes that come back, and of sessions that end: nothing that is owed waits for somebody
//! else to call. Each of these was first a seed of the simulator that did not settle.

use super::network::{FOUR, Net, REPLACE_AFTER};
use super::replace::{keepers, members_of};

/// Six buildings: then there are nodes that do not keep for each other.
const SIX: [(&str, &str); 6] = [
    ("hana", "pangyo"),
    ("bora", "anyang"),
    ("daon", "busan"),
    ("gaon", "jeju"),
    ("nari", "daejeon"),
    ("sora", "gwangju"),
];

/// How often a node has tried to reach another in vain.
fn attempts(net: &Net, from: usize, to: usize) -> u32 {
    let peer = net.members[from].engine.peers.get(&net.members[to].id);
    peer.map_or(0, |peer| peer.attempts)
}

#[test]
fn a_restarted_node_calls_those_whom_it_owes_something() {
    let (mut net, ids) = Net::with(31, &FOUR);
    net.settle_keepers(3);
    let (hana, bora) = ((0, ids[0]), (1, ids[1]));
    net.meet(hana, bora);
    net.kill(1);
    net.send(hana, ids[1], "text");
    net.run(1_000);
    net.kill(0);
    net.restart(0);
    net.run(1_000);
    assert!(attempts(&net, 0, 1) > 0);
}

#[test]
fn a_node_calls_again_when_a_session_ends_that_the_other_had_begun() {
    let (mut net, ids) = Net::with(32, &SIX);
    net.settle_keepers(3);
    // Somebody whose node hana's does not need for anything but the text.
    let hana = &net.members[0].engine.accounts[&ids[0]].record;
    let other = (1..SIX.len())
        .find(|node| hana.keeper(&net.members[*node].id).is_none())
        .unwrap();
    let (hana, other) = ((0, ids[0]), (other, ids[other]));
    net.meet(hana, other);
    net.send(hana, other.1, "text");
    net.cut(0, other.0);
    net.run(1_000);
    assert!(attempts(&net, 0, other.0) > 0);
}

#[test]
fn a_first_word_that_waits_for_keys_goes_out_after_a_restart() {
    let (mut net, ids) = Net::with(33, &FOUR);
    net.settle_keepers(3);
    let (me, bora) = (ids[0], ids[1]);
    let link = net
        .call(1, move |engine| engine.invite(&bora, None))
        .unwrap()
        .link;
    for other in 1..FOUR.len() {
        net.cut(0, other);
    }
    net.call(0, move |engine| engine.add_contact(&me, &link, None))
        .unwrap();
    net.kill(0);
    net.restart(0);
    for other in 1..FOUR.len() {
        net.mend(0, other);
    }
    net.until("both are contacts", 30, |net| {
        let known = crate::read::contact(&net.members[0].engine.db, &me, &bora);
        known.is_ok_and(|contact| contact.state == "active")
    });
}

#[test]
fn when_every_keeper_burned_the_node_says_so_and_the_words_go_on_from_the_living_home() {
    let (mut net, ids) = Net::with_spares(34, &["ulsan", "sejong", "wonju", "suwon"]);
    let me = ids[0];
    let kept_by = members_of(&net, 0, me);
    let friend = (1..4).find(|node| !kept_by.contains(node)).expect("one");
    let spare = (4..8).find(|node| !kept_by.contains(node)).expect("one");
    net.meet((0, me), (friend, ids[friend]));
    for number in 0..5 {
        net.send((0, me), ids[friend], &format!("there {number}"));
        net.send((friend, ids[friend]), me, &format!("back {number}"));
        net.run(100);
    }
    net.run(5_000);
    let texts = |net: &Net, node: usize| {
        let list = net.messages(node, me, ids[friend]);
        let mut texts: Vec<String> = list.into_iter().map(|message| message.text).collect();
        texts.sort();
        texts
    };
    let before = texts(&net, 0);
    for node in kept_by.clone() {
        net.burn(node);
    }
    net.run(REPLACE_AFTER + 2_000);
    let alarms = net.members[0].engine.alarms_of(&me).unwrap();
    let says = |words: &str| alarms.iter().any(|alarm| alarm.contains(words));
    for words in ["a keeper is gone", "24 words", "pumasi restore"] {
        assert!(says(words), "{words}: {alarms:?}");
    }
    assert_eq!(members_of(&net, 0, me), kept_by, "nobody can be replaced");

    let view = net.restore(spare, me);
    assert_eq!(view.state, "done", "{view:?}");
    let report = view.report.expect("a report");
    assert!(!report.complete, "{report:?}");
    assert_eq!(texts(&net, spare), before);
    let old = &net.members[0].engine.accounts[&me];
    assert_eq!(old.state_word(), "replaced");
    // It has keepers again, and life goes on.
    net.until("two keepers", 120, |net| keepers(net, spare, me).len() > 1);
    net.send((spare, me), ids[friend], "elsewhere now");
    net.send((friend, ids[friend]), me, "good");
    net.until("both arrived", 60, |net| {
        let there = net.received(friend, ids[friend], me);
        let here = net.received(spare, me, ids[friend]);
        there.last().is_some_and(|text| text == "elsewhere now")
            && here.last().is_some_and(|text| text == "good")
    });
}
