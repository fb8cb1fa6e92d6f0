//! Stories of delivery: what is promised of messages, whatever is dead or cut.

use pumasi_protocol::delivery::State;

use super::network::{FOUR, Net, PAGES, STATEMENTS};

#[test]
fn a_text_becomes_safe_in_two_buildings_and_is_delivered_and_read() {
    let (mut net, ids) = Net::with(1, &FOUR);
    net.settle_keepers(3);
    let (hana, bora) = ((0, ids[0]), (1, ids[1]));
    net.meet(hana, bora);
    let sent = net.send(hana, ids[1], "안녕");
    assert_eq!(sent.state, State::Saved);
    net.run(200);
    let message = net.message(0, ids[0], &sent.id);
    assert_eq!(message.state, State::Delivered);
    assert!(message.safe);
    assert_eq!(message.buildings, 3);
    assert_eq!(net.received(1, ids[1], ids[0]), ["안녕"]);
    let me = ids[1];
    let hana_text = ids[0].to_string();
    assert_eq!(
        net.call(1, move |engine| engine.mark_read(&me, &hana_text))
            .unwrap(),
        1
    );
    net.run(200);
    assert_eq!(net.message(0, ids[0], &sent.id).state, State::Read);
}

#[test]
fn keepers_stand_in_other_buildings_and_never_at_home() {
    let (mut net, _) = Net::with(2, &FOUR);
    net.settle_keepers(3);
    for member in &net.members {
        for own in member.engine.accounts.values() {
            let mut buildings: Vec<&str> = own
                .record
                .record
                .keepers
                .iter()
                .map(|keeper| keeper.building.as_str())
                .collect();
            buildings.sort_unstable();
            buildings.dedup();
            assert_eq!(buildings.len(), 3);
            assert!(own.record.keeper(&member.id).is_none());
            assert!(!buildings.contains(&member.engine.settings.building.as_str()));
        }
    }
}

#[test]
fn what_waited_at_the_keepers_is_there_when_the_recipient_returns() {
    let (mut net, ids) = Net::with(3, &FOUR);
    net.settle_keepers(3);
    let (hana, bora) = ((0, ids[0]), (1, ids[1]));
    net.meet(hana, bora);
    net.kill(1);
    let texts: Vec<String> = (0..60).map(|number| format!("text {number}")).collect();
    let sent: Vec<_> = texts
        .iter()
        .map(|text| net.send(hana, ids[1], text))
        .collect();
    net.run(2_000);
    for message in &sent {
        let message = net.message(0, ids[0], &message.id);
        assert!(message.safe, "{message:?}");
        assert_eq!(message.state, State::Safe);
    }
    // The sender's machine is gone, too: the keepers alone bring it.
    net.kill(0);
    net.restart(1);
    net.until("everything is read back", 60, |net| {
        net.received(1, ids[1], ids[0]).len() == texts.len()
    });
    assert_eq!(net.received(1, ids[1], ids[0]), texts);
}

#[test]
fn a_burned_keeper_does_not_keep_a_text_from_becoming_safe() {
    let (mut net, ids) = Net::with(4, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.kill(2);
    let sent = net.send((0, ids[0]), ids[1], "still here");
    net.run(500);
    let message = net.message(0, ids[0], &sent.id);
    assert!(message.safe);
    assert_eq!(message.buildings, 2);
}

#[test]
fn with_one_keeper_left_nothing_is_called_safe() {
    let (mut net, ids) = Net::with(5, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.kill(1);
    net.kill(2);
    let sent = net.send((0, ids[0]), ids[1], "only one building");
    net.run(30_000);
    // Keepers of bora: two of the three others live (hana's own node may be one of them).
    let message = net.message(0, ids[0], &sent.id);
    let alive = [0_usize, 3];
    let keepers = net.members[1].engine.accounts[&ids[1]]
        .record
        .record
        .keepers
        .clone();
    let holding = keepers
        .iter()
        .filter(|keeper| {
            alive
                .iter()
                .any(|index| net.members[*index].id == keeper.place.node)
        })
        .count();
    assert_eq!(message.buildings, holding);
    assert_eq!(message.safe, holding >= 2);
}

#[test]
fn a_sender_that_reaches_one_keeper_only_still_gets_safe_proven() {
    let (mut net, ids) = Net::with(6, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    // hana reaches daon only; daon passes on and brings the receipts back.
    net.cut(0, 1);
    net.cut(0, 3);
    let sent = net.send((0, ids[0]), ids[1], "through one door");
    net.until("safe is proven", 30, |net| {
        net.message(0, ids[0], &sent.id).safe
    });
    net.until("it is read at the other end", 30, |net| {
        net.received(1, ids[1], ids[0]) == ["through one door"]
    });
}

#[test]
fn a_restart_loses_nothing_and_doubles_nothing() {
    let (mut net, ids) = Net::with(7, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    let mut texts = Vec::new();
    for round in 0..12 {
        for number in 0..5 {
            let text = format!("{round}.{number}");
            net.send((0, ids[0]), ids[1], &text);
            texts.push(text);
        }
        net.run(7 * round);
        let victim = [0, 1, 2, 3][usize::try_from(round % 4).unwrap()];
        net.kill(victim);
        net.run(300);
        net.restart(victim);
    }
    net.until("all texts are there", 120, |net| {
        net.received(1, ids[1], ids[0]).len() >= texts.len()
    });
    net.run(30_000);
    assert_eq!(net.received(1, ids[1], ids[0]), texts);
}

#[test]
fn lost_frames_and_broken_sessions_are_made_good() {
    for seed in 10..14 {
        let (mut net, ids) = Net::with(seed, &FOUR);
        net.settle_keepers(3);
        net.meet((0, ids[0]), (1, ids[1]));
        net.meet((1, ids[1]), (2, ids[2]));
        net.loss = 8;
        let mut there = Vec::new();
        let mut back = Vec::new();
        for number in 0..40 {
            there.push(format!("there {number}"));
            net.send((0, ids[0]), ids[1], &there[number]);
            back.push(format!("back {number}"));
            net.send((1, ids[1]), ids[0], &back[number]);
            net.run(20);
        }
        net.loss = 0;
        net.until("both ends have everything", 200, |net| {
            net.received(1, ids[1], ids[0]).len() == 40
                && net.received(0, ids[0], ids[1]).len() == 40
        });
        assert_eq!(net.received(1, ids[1], ids[0]), there, "seed {seed}");
        assert_eq!(net.received(0, ids[0], ids[1]), back, "seed {seed}");
        net.run(40_000);
        assert_eq!(net.received(1, ids[1], ids[0]).len(), 40);
        for member in &net.members {
            let waiting: u64 = member
                .engine
                .db
                .query_row("SELECT count(*) FROM outgoing", [], |row| row.get(0))
                .unwrap();
            assert_eq!(waiting, 0, "nothing is left on the way");
        }
    }
}

#[test]
fn a_lost_session_heals_by_itself() {
    let (mut net, ids) = Net::with(20, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "one");
    net.run(500);
    net.send((1, ids[1]), ids[0], "two");
    net.run(500);
    // bora's node forgets its sessions with hana, as after a damaged row.
    net.members[1]
        .engine
        .db
        .execute("UPDATE conversations SET sessions = NULL", [])
        .unwrap();
    net.members[1].engine.contacts.clear();
    net.send((0, ids[0]), ids[1], "three");
    net.until("the text came through a new session", 120, |net| {
        net.received(1, ids[1], ids[0]) == ["one", "three"]
    });
    net.send((1, ids[1]), ids[0], "four");
    net.until("and back", 60, |net| {
        net.received(0, ids[0], ids[1]) == ["two", "four"]
    });
}

#[test]
fn a_gap_is_marked_and_filled_by_asking_the_sender() {
    let (mut net, ids) = Net::with(21, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "first");
    net.run(500);
    // The second text never leaves: its envelope is taken out of everything, as by a bug.
    net.cut(0, 1);
    net.cut(0, 2);
    net.cut(0, 3);
    net.send((0, ids[0]), ids[1], "second");
    net.members[0]
        .engine
        .db
        .execute_batch("DELETE FROM outbox; DELETE FROM outgoing; DELETE FROM envelopes;")
        .unwrap();
    net.members[0].engine.kept.clear();
    for other in 1..4 {
        net.mend(0, other);
    }
    net.send((0, ids[0]), ids[1], "third");
    net.run(500);
    let shown = net.messages(1, ids[1], ids[0]);
    assert_eq!(
        shown
            .last()
            .map(|message| (message.text.as_str(), message.gap)),
        Some(("third", 1))
    );
    net.until("the hole is filled", 60, |net| {
        net.received(1, ids[1], ids[0]) == ["first", "second", "third"]
    });
    assert!(
        net.messages(1, ids[1], ids[0])
            .iter()
            .all(|message| message.gap == 0)
    );
}

#[test]
fn keepers_hear_in_company_what_nobody_waits_for() {
    let (mut net, ids) = Net::with(24, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_000);
    let sent = |net: &Net, to: usize| [STATEMENTS, PAGES].map(|kind| net.frames(1, to, kind));
    let (keeper, home) = (sent(&net, 2), sent(&net, 0));
    let mut last = String::new();
    for number in 0..50 {
        last = net.send((0, ids[0]), ids[1], &format!("text {number}")).id;
        net.run(20);
    }
    assert_eq!(net.message(0, ids[0], &last).state, State::Delivered);
    let told = |after: [u64; 2], before: [u64; 2]| [after[0] - before[0], after[1] - before[1]];
    assert!(
        told(sent(&net, 0), home)[0] >= 50,
        "the sender hears at once"
    );
    let [statements, pages] = told(sent(&net, 2), keeper);
    assert!(statements <= 6 && pages <= 6, "{statements} and {pages}");
    net.run(500);
    // Everything that the recipient's keeper holds for it is hidden and covered.
    let open: u64 = net.members[2]
        .engine
        .db
        .query_row(
            "SELECT count(*) FROM envelopes WHERE mailbox = ?1 AND (hidden IS NULL OR covered = 0)",
            [ids[1].0],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(open, 0);
}

#[test]
fn what_waits_for_company_in_a_crash_is_found_missing_afterwards() {
    let (mut net, ids) = Net::with(25, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_100);
    let sent = net.send((0, ids[0]), ids[1], "short before");
    net.run(30);
    assert_eq!(net.message(0, ids[0], &sent.id).state, State::Delivered);
    net.kill(1);
    net.run(1_000);
    let open = |net: &Net| -> u64 {
        let db = &net.members[2].engine.db;
        db.query_row(
            "SELECT count(*) FROM envelopes WHERE mailbox = ?1 AND (hidden IS NULL OR covered = 0)",
            [ids[1].0],
            |row| row.get(0),
        )
        .unwrap()
    };
    assert_eq!(open(&net), 1, "the keeper holds what no page covers");
    net.restart(1);
    net.until("the keeper has heard", 60, |net| open(net) == 0);
    assert_eq!(net.received(1, ids[1], ids[0]), ["short before"]);
}

#[test]
fn an_acknowledgement_that_was_noted_is_not_sent_again() {
    let (mut net, ids) = Net::with(26, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_000);
    let before = net.frames(1, 0, STATEMENTS);
    for number in 0..300 {
        net.send((0, ids[0]), ids[1], &format!("text {number}"));
        net.run(100);
    }
    let sent = net.frames(1, 0, STATEMENTS) - before;
    assert!((300..=310).contains(&sent), "{sent} frames for 300 texts");
}

#[test]
fn the_same_key_gives_the_same_message() {
    let (mut net, ids) = Net::with(22, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    let (me, other) = (ids[0], ids[1].to_string());
    let again = other.clone();
    let first = net
        .call(0, move |e| e.send_text(&me, &other, "once", Some("k1")))
        .unwrap();
    let second = net
        .call(0, move |e| e.send_text(&me, &again, "once", Some("k1")))
        .unwrap();
    assert_eq!(first.id, second.id);
    let other = ids[1].to_string();
    let error = net
        .call(0, move |e| e.send_text(&me, &other, "twice", Some("k1")))
        .unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::IdempotencyKeyReused);
    net.run(1_000);
    assert_eq!(net.received(1, ids[1], ids[0]), ["once"]);
}

#[test]
fn a_blocked_contact_reaches_nobody_and_comes_back_when_unblocked() {
    let (mut net, ids) = Net::with(23, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "before");
    net.run(1_000);
    let (me, other) = (ids[1], ids[0].to_string());
    let who = other.clone();
    net.call(1, move |engine| engine.block_contact(&me, &who, true))
        .unwrap();
    net.run(1_000);
    let sent = net.send((0, ids[0]), ids[1], "while blocked");
    net.run(20_000);
    assert_eq!(net.received(1, ids[1], ids[0]), ["before"]);
    assert!(!net.message(0, ids[0], &sent.id).safe);
    net.call(1, move |engine| engine.block_contact(&me, &other, false))
        .unwrap();
    net.until("it comes through", 60, |net| {
        net.received(1, ids[1], ids[0]) == ["before", "while blocked"]
    });
}

#[test]
fn events_rise_by_one_and_tell_each_step_once() {
    let (mut net, ids) = Net::with(24, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    let sent = net.send((0, ids[0]), ids[1], "told");
    net.run(2_000);
    let events = net.events(0);
    for (event, next) in events.iter().zip(events.iter().skip(1)) {
        assert_eq!(event.seq + 1, next.seq);
    }
    let mut kinds: Vec<&str> = events
        .iter()
        .filter(|event| event.data["id"] == sent.id.as_str())
        .map(|event| event.kind.as_str())
        .collect();
    assert_eq!(kinds[0], "message.queued");
    kinds.sort_unstable();
    let before = kinds.len();
    kinds.dedup();
    assert_eq!(before, kinds.len(), "{kinds:?}");
    assert!(kinds.contains(&"message.safe") && kinds.contains(&"message.delivered"));
}

#[test]
fn two_accounts_on_one_node_can_write_to_each_other() {
    let (mut net, ids) = Net::with(25, &FOUR);
    let second = net.account(0, "second");
    net.settle_keepers(3);
    net.meet((0, ids[0]), (0, second));
    let sent = net.send((0, ids[0]), second, "next door");
    net.run(1_000);
    assert_eq!(net.received(0, second, ids[0]), ["next door"]);
    let message = net.message(0, ids[0], &sent.id);
    assert_eq!((message.state, message.safe), (State::Delivered, true));
}

#[test]
fn a_short_text_costs_less_than_nine_hundred_bytes_per_copy() {
    let (mut net, ids) = Net::with(26, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    let text = "x".repeat(100);
    for _ in 0..3 {
        net.send((0, ids[0]), ids[1], &text);
        net.run(300);
        net.send((1, ids[1]), ids[0], &text);
        net.run(300);
    }
    net.run(5_000);
    // Only what one text costs: no comparisons fall into 100 ms.
    let (before, archived) = (net.bytes, net.archive_bytes);
    net.send((0, ids[0]), ids[1], &text);
    net.run(100);
    let copies = 4;
    let each = (net.bytes - before) / copies;
    assert!(each <= 1_100, "{each} bytes per copy");
    let archived = (net.archive_bytes - archived) / 3;
    assert!(
        archived <= 1_100,
        "{archived} bytes of archive per keeper, both ends"
    );
}

/// The ratchet keeps the keys of 40 skipped messages, no more.
#[test]
fn two_hundred_texts_that_waited_open_at_once_whoever_brings_them() {
    for (seed, sender_lives) in [(36, true), (37, false), (38, true), (39, false)] {
        let (mut net, ids) = Net::with(seed, &FOUR);
        net.settle_keepers(3);
        let (hana, bora) = ((0, ids[0]), (1, ids[1]));
        net.meet(hana, bora);
        net.send(hana, ids[1], "before");
        net.run(5_000);
        net.kill(1);
        for number in 0..200 {
            net.send(hana, ids[1], &number.to_string());
            if number % 50 == 49 {
                net.run(300);
                net.restart(0);
            }
        }
        net.run(10_000);
        if !sender_lives {
            net.kill(0);
        }
        net.restart(1);
        net.until("all are there", 60, |net| {
            net.received(1, ids[1], ids[0]).len() == 201
        });
        net.run(5_000);
        // What cannot be opened stays counted, also when it was sealed again.
        let unopened = net.members[1].engine.unopened(&ids[1]).unwrap();
        assert_eq!(unopened, 0, "seed {seed}");
    }
}
