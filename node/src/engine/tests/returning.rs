//! Stories of nodes that come back, and of sessions that end: nothing that is owed waits for somebody
//! else to call. Each of these was first a seed of the simulator that did not settle.

use super::network::{FOUR, Net};

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
