//! Stories of fires: a machine is gone, and its people come back elsewhere from their words.

use pumasi_protocol::delivery::State;
use pumasi_protocol::types::AccountId;

use super::network::{FOUR, Net};
use crate::read;

#[test]
fn contacts_and_texts_come_back_on_another_machine() {
    let (mut net, ids) = Net::with_spares(101, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.meet((0, ids[0]), (2, ids[2]));
    for number in 0..10 {
        net.send((0, ids[0]), ids[1], &format!("there {number}"));
        net.send((1, ids[1]), ids[0], &format!("back {number}"));
        net.run(50);
    }
    net.run(5_000);
    net.burn(0);
    // Written to the burned one: waits for it.
    net.send((1, ids[1]), ids[0], "are you well?");
    net.run(1_000);
    let view = net.restore(4, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    let report = view.report.expect("a report");
    assert!(report.complete, "{report:?}");
    assert_eq!(report.missing, Vec::<String>::new());
    assert_eq!(report.contacts, 2);
    let back: Vec<String> = (0..10)
        .map(|number| format!("back {number}"))
        .chain(["are you well?".to_owned()])
        .collect();
    assert_eq!(net.received(4, ids[0], ids[1]), back);
    let sent: Vec<String> = net
        .messages(4, ids[0], ids[1])
        .into_iter()
        .filter(|message| message.direction == "out")
        .map(|message| message.text)
        .collect();
    assert_eq!(
        sent,
        (0..10)
            .map(|number| format!("there {number}"))
            .collect::<Vec<_>>()
    );
    // Life goes on, both ways, and nothing is shown twice.
    net.send((4, ids[0]), ids[1], "I am back");
    net.send((1, ids[1]), ids[0], "good");
    net.until("both hear of each other", 60, |net| {
        net.received(1, ids[1], ids[0]).last().map(String::as_str) == Some("I am back")
            && net.received(4, ids[0], ids[1]).last().map(String::as_str) == Some("good")
    });
    assert_eq!(net.received(1, ids[1], ids[0]).len(), 11);
    assert_eq!(net.received(4, ids[0], ids[1]).len(), 12);
}

#[test]
fn what_was_written_and_not_delivered_goes_out_after_the_restore() {
    let (mut net, ids) = Net::with_spares(102, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(3_000);
    // The reader and its keepers cannot be reached; the writer's keepers can.
    net.kill(1);
    let sent = net.send((0, ids[0]), ids[1], "before the fire");
    net.run(3_000);
    net.burn(0);
    net.restart(1);
    net.run(5_000);
    let view = net.restore(4, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    net.until("it is there once", 60, |net| {
        net.received(1, ids[1], ids[0]) == ["before the fire"]
    });
    net.until("its writer knows", 60, |net| {
        net.message(4, ids[0], &sent.id).state == State::Delivered
    });
    net.run(20_000);
    assert_eq!(net.received(1, ids[1], ids[0]), ["before the fire"]);
}

#[test]
fn an_iou_that_its_payee_accepted_is_shown_as_delivered_after_a_restore() {
    // Two nodes: nothing is ever safe, so no mark says how far it came.
    let (mut net, ids) = Net::with(140, &FOUR[..2]);
    net.meet((0, ids[0]), (1, ids[1]));
    let (me, who) = (ids[1], ids[0].to_string());
    net.call(1, move |engine| engine.set_limit(&me, &who, "KRW", "1000"))
        .unwrap();
    net.run(2_000);
    net.pay((0, ids[0]), ids[1], 700, "lunch").unwrap();
    net.run(2_000);
    for building in ["busan", "jeju", "ulsan"] {
        let spare = net.add(building);
        for other in 0..spare {
            net.link(spare, other);
        }
    }
    net.settle_keepers(3);
    net.run(10_000);
    net.burn(0);
    let view = net.restore(4, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    let iou = net
        .messages(4, ids[0], ids[1])
        .into_iter()
        .find(|message| message.kind == "iou");
    assert_eq!(iou.expect("the IOU").state, State::Delivered);
}

#[test]
fn the_old_device_learns_that_it_was_replaced_and_signs_nothing_more() {
    let (mut net, ids) = Net::with_spares(103, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(3_000);
    net.kill(0);
    let view = net.restore(4, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    net.restart(0);
    net.run(10_000);
    let refused = net
        .call(0, {
            let (me, other) = (ids[0], ids[1].to_string());
            move |engine| engine.send_text(&me, &other, "from the grave", None)
        })
        .unwrap_err();
    assert!(refused.to_string().contains("was replaced"), "{refused}");
    net.send((4, ids[0]), ids[1], "alive");
    net.until("the living one is heard", 60, |net| {
        net.received(1, ids[1], ids[0]) == ["alive"]
    });
    let alarms = net.events(0);
    assert!(alarms.iter().any(|event| event.kind == "node.alarm"));
}

#[test]
fn an_older_copy_of_the_database_is_noticed_before_anything_is_signed() {
    let (mut net, ids) = Net::with_spares(104, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "one");
    net.run(5_000);
    let image = net.snapshot(0);
    net.send((0, ids[0]), ids[1], "two");
    net.run(5_000);
    net.kill(0);
    net.roll_back(0, &image);
    net.restart(0);
    net.run(10_000);
    let refused = net
        .call(0, {
            let (me, other) = (ids[0], ids[1].to_string());
            move |engine| engine.send_text(&me, &other, "two, again", None)
        })
        .unwrap_err();
    assert!(refused.to_string().contains("older copy"), "{refused}");
    assert_eq!(net.received(1, ids[1], ids[0]), ["one", "two"]);
    // The words bring it back, with what the copy lacked.
    let view = net.restore(4, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    let texts: Vec<String> = net
        .messages(4, ids[0], ids[1])
        .into_iter()
        .map(|message| message.text)
        .collect();
    assert_eq!(texts, ["one", "two"]);
}

#[test]
fn of_two_restores_at_once_one_wins_and_the_other_learns_it() {
    let (mut net, ids) = Net::with_spares(105, &["ulsan"]);
    let second = net.add("sejong");
    for other in 0..second {
        net.link(second, other);
    }
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(5_000);
    net.burn(0);
    let words = net.phrases[&ids[0]].clone();
    for node in [4, second] {
        let words = words.clone();
        net.call(node, move |engine| engine.begin_restore(&words, None, &[]))
            .unwrap();
    }
    net.run(60_000);
    let level = |net: &Net, node: usize| net.members[node].engine.is_level(&ids[0]);
    let winners = [4, second]
        .into_iter()
        .filter(|node| level(&net, *node))
        .count();
    assert_eq!(winners, 1);
}

#[test]
fn a_node_that_kept_the_mailbox_itself_can_restore_it() {
    let (mut net, ids) = Net::with_spares(106, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((1, ids[1]), ids[0], "hello");
    net.run(5_000);
    let keeper = net
        .members
        .iter()
        .position(|member| member.engine.kept.contains_key(&ids[0]))
        .expect("a keeper");
    net.burn(0);
    net.send((1, ids[1]), ids[0], "later");
    net.run(2_000);
    let view = net.restore(keeper, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    assert_eq!(net.received(keeper, ids[0], ids[1]), ["hello", "later"]);
    net.until("three keepers again", 120, |net| {
        let own = &net.members[keeper].engine.accounts[&ids[0]];
        own.record.record.keepers.len() == 3 && own.record.keeper(&net.members[keeper].id).is_none()
    });
}

#[test]
fn everything_is_archived_within_moments_and_the_archive_is_safe() {
    let (mut net, ids) = Net::with_spares(107, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..20 {
        net.send((0, ids[0]), ids[1], &number.to_string());
    }
    net.until("the archive is level", 10, |net| {
        net.members[0]
            .engine
            .archive_behind(&ids[0])
            .is_ok_and(|(pages, _)| pages == 0)
    });
}

#[test]
fn wrong_words_are_refused_and_unknown_ones_find_nobody() {
    let (mut net, ids) = Net::with_spares(108, &["ulsan"]);
    let refused = net
        .call(4, |engine| {
            engine.begin_restore("abandon abandon", None, &[])
        })
        .unwrap_err();
    assert!(refused.to_string().contains("a phrase has 24"), "{refused}");
    let nobody = pumasi_protocol::identity::Phrase::from_entropy(&[77; 32]);
    let words: Vec<&str> = nobody.words().collect();
    let words = words.join(" ");
    let view = net
        .call(4, move |engine| engine.begin_restore(&words, None, &[]))
        .unwrap();
    let account: AccountId = view.account.parse().unwrap();
    net.run(30_000);
    let view = net
        .call(4, move |engine| engine.restore_view(&account))
        .unwrap();
    assert_eq!(view.state, "locating");
    assert!(
        view.text.contains("no node asked so far knows"),
        "{}",
        view.text
    );
    assert!(read::find_contact(&net.members[0].engine.db, &ids[0], "nobody").is_err());
}

#[test]
fn a_long_archive_is_put_together_and_restores_the_same() {
    let (mut net, ids) = Net::with_spares(109, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    for number in 0..60 {
        net.send((0, ids[0]), ids[1], &format!("there {number}"));
        net.send((1, ids[1]), ids[0], &format!("back {number}"));
        net.run(10);
    }
    net.run(5_000);
    let pages = |net: &Net| -> u64 {
        net.members[0]
            .engine
            .db
            .query_row(
                "SELECT count(*) FROM pages WHERE mailbox = ?1 AND hidden IS NULL",
                [ids[0].0],
                |row| row.get(0),
            )
            .unwrap()
    };
    let many = pages(&net);
    for _ in 0..6 {
        let me = ids[0];
        net.call(0, move |engine| engine.put_together(me, 20))
            .unwrap();
    }
    assert!(pages(&net) + 60 < many, "{} of {many}", pages(&net));
    net.run(30_000);
    let before = texts(&net, 0, ids[0], ids[1]);
    assert_eq!(before.len(), 120);
    net.burn(0);
    let view = net.restore(4, ids[0]);
    let report = view.report.expect("a report");
    assert!(report.complete && report.missing.is_empty(), "{report:?}");
    assert_eq!(report.sent_again, 0);
    assert_eq!(texts(&net, 4, ids[0], ids[1]), before);
}

/// Texts in the order shown, with how far they have come.
fn texts(net: &Net, node: usize, me: AccountId, other: AccountId) -> Vec<(String, String)> {
    let mut list = Vec::new();
    let mut page = crate::node::Page {
        limit: 500,
        ..crate::node::Page::default()
    };
    loop {
        let some = read::messages(&net.members[node].engine.db, &me, &other, &page).unwrap();
        let Some(first) = some.first() else { break };
        page.before = Some(first.id.clone());
        let shown = some
            .iter()
            .map(|message| (message.direction.clone(), message.text.clone()));
        list.splice(0..0, shown);
    }
    list
}

/// What each end of a line sees of it: balance, and both limits.
fn line(net: &Net, node: usize, me: AccountId, other: AccountId) -> (i128, u64, u64) {
    let engine = &net.members[node].engine;
    let bytes: Vec<u8> = engine
        .db
        .query_row(
            "SELECT state FROM lines WHERE account = ?1 AND contact = ?2",
            [me.0, other.0],
            |row| row.get(0),
        )
        .unwrap();
    let line: pumasi_protocol::line::Line = pumasi_protocol::codec::decode(&bytes).unwrap();
    let view = line.view();
    (view.balance, view.limit_given.0, view.limit_received.0)
}

fn limit(net: &mut Net, node: usize, me: AccountId, other: AccountId, amount: u64) {
    let (who, amount) = (other.to_string(), amount.to_string());
    net.settle_level(node, me);
    net.call(node, move |engine| {
        engine.set_limit(&me, &who, "KRW", &amount)
    })
    .unwrap();
}

/// Both ends agree, and this is what the first one has.
fn agreed(net: &Net, a: (usize, AccountId), b: (usize, AccountId)) -> Option<i128> {
    let (here, there) = (line(net, a.0, a.1, b.1), line(net, b.0, b.1, a.1));
    (here.0 == -there.0 && here.1 == there.2 && here.2 == there.1).then_some(here.0)
}

#[test]
fn balances_come_back_and_payments_go_on() {
    let (mut net, ids) = Net::with_spares(110, &["ulsan"]);
    let (a, b) = (ids[0], ids[1]);
    net.meet((0, a), (1, b));
    limit(&mut net, 0, a, b, 10_000);
    limit(&mut net, 1, b, a, 10_000);
    net.run(2_000);
    net.pay((0, a), b, 3_000, "one").unwrap();
    net.pay((1, b), a, 500, "two").unwrap();
    net.run(5_000);
    assert_eq!(agreed(&net, (0, a), (1, b)), Some(-2_500));
    net.burn(0);
    net.pay((1, b), a, 100, "while-away").unwrap();
    net.run(2_000);
    let view = net.restore(4, a);
    let report = view.report.expect("a report");
    assert!(report.complete && report.missing.is_empty(), "{report:?}");
    assert_eq!(report.lines, 1);
    net.until("both ends agree again", 30, |net| {
        agreed(net, (4, a), (1, b)) == Some(-2_400)
    });
    let ious = net.messages(4, a, b);
    let first = ious
        .iter()
        .find(|message| message.direction == "out")
        .unwrap();
    assert_eq!((first.state, first.safe), (State::Delivered, true));
    // The same call again pays nothing more; a new one does.
    net.pay((4, a), b, 3_000, "one").unwrap();
    net.pay((4, a), b, 1_000, "three").unwrap();
    net.pay((1, b), a, 50, "four").unwrap();
    net.until("both ends agree", 30, |net| {
        agreed(net, (4, a), (1, b)) == Some(-3_350)
    });
    net.run(10_000);
    assert_eq!(agreed(&net, (4, a), (1, b)), Some(-3_350));
}

#[test]
fn two_ends_that_both_burned_agree_again() {
    let (mut net, ids) = Net::with(
        111,
        &[
            ("hana", "pangyo"),
            ("bora", "anyang"),
            ("daon", "busan"),
            ("gaon", "jeju"),
            ("nari", "ulsan"),
            ("miso", "sejong"),
        ],
    );
    let (a, b) = (ids[0], ids[1]);
    let spare = net.add("gwangju");
    for other in 0..spare {
        net.link(spare, other);
    }
    net.settle_keepers(3);
    net.meet((0, a), (1, b));
    limit(&mut net, 0, a, b, 10_000);
    limit(&mut net, 1, b, a, 10_000);
    net.run(2_000);
    for number in 0..5 {
        net.pay((0, a), b, 100, &format!("there-{number}")).unwrap();
        net.pay((1, b), a, 30, &format!("back-{number}")).unwrap();
        net.run(300);
    }
    net.run(5_000);
    net.burn(0);
    net.burn(1);
    net.run(5_000);
    let first = net.restore(spare, a);
    assert_eq!(first.state, "done", "{first:?}");
    // It does not wait for the other.
    net.pay((spare, a), b, 1, "alone").unwrap();
    net.run(3_000);
    let second = net.restore(5, b);
    assert_eq!(second.state, "done", "{second:?}");
    net.until("both ends agree again", 60, |net| {
        agreed(net, (spare, a), (5, b)) == Some(-351)
    });
}

#[test]
fn what_only_the_other_side_has_comes_back_from_it() {
    let (mut net, ids) = Net::with_spares(112, &["ulsan"]);
    let (a, b) = (ids[0], ids[1]);
    net.meet((0, a), (1, b));
    limit(&mut net, 1, b, a, 10_000);
    net.run(3_000);
    // No keeper of the payer can be reached, but the payee can: the IOU is not safe, and accepted.
    for other in 2..5 {
        net.cut(0, other);
    }
    net.pay((0, a), b, 700, "not-safe").unwrap();
    net.run(3_000);
    net.burn(0);
    for other in 2..5 {
        net.mend(0, other);
    }
    let view = net.restore(4, a);
    assert_eq!(view.state, "done", "{view:?}");
    net.until("the debt is there again", 60, |net| {
        agreed(net, (4, a), (1, b)) == Some(-700)
    });
    // A retry of the same payment has no second effect.
    let again = net.pay((4, a), b, 700, "not-safe");
    net.run(5_000);
    assert_eq!(agreed(&net, (4, a), (1, b)), Some(-700), "{again:?}");
}

#[test]
fn a_line_that_a_restored_account_never_used_refuses_without_stopping_the_node() {
    let (mut net, ids) = Net::with_spares(113, &["ulsan"]);
    let (a, b) = (ids[0], ids[1]);
    net.meet((0, a), (1, b));
    net.run(3_000);
    net.burn(0);
    let view = net.restore(4, a);
    assert_eq!(view.state, "done", "{view:?}");
    // No credit yet: refused, and nothing is signed.
    let refused = net.pay((4, a), b, 5, "early").unwrap_err();
    assert!(
        refused.to_string().contains("more than is left"),
        "{refused}"
    );
    limit(&mut net, 1, b, a, 1_000);
    net.run(3_000);
    net.pay((4, a), b, 5, "now").unwrap();
    limit(&mut net, 4, a, b, 70);
    net.until("both ends agree", 30, |net| {
        agreed(net, (4, a), (1, b)) == Some(-5) && line(net, 1, b, a).2 == 70
    });
}

/// Everything that a node ever had to send: rises with each letter.
fn letters(net: &Net, node: usize) -> i64 {
    let db = &net.members[node].engine.db;
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outgoing'";
    db.query_row(sql, [], |row| row.get(0)).expect("a count")
}

#[test]
fn two_who_both_came_back_fall_silent_when_everything_is_said() {
    let (mut net, ids) = Net::with_spares(131, &["ulsan"]);
    let second = net.add("sejong");
    for other in 0..second {
        net.link(second, other);
    }
    net.meet((0, ids[0]), (1, ids[1]));
    limit(&mut net, 0, ids[0], ids[1], 100_000);
    limit(&mut net, 1, ids[1], ids[0], 100_000);
    net.run(3_000);
    for number in 0..3 {
        net.send((0, ids[0]), ids[1], &format!("there {number}"));
        net.send((1, ids[1]), ids[0], &format!("back {number}"));
        net.pay((0, ids[0]), ids[1], 100, &format!("p{number}"))
            .unwrap();
        net.pay((1, ids[1]), ids[0], 30, &format!("q{number}"))
            .unwrap();
        net.run(300);
    }
    net.run(2_000);
    let keeper = (2..6)
        .find(|node| net.members[*node].engine.kept.contains_key(&ids[0]))
        .expect("a keeper");
    net.burn(0);
    net.burn(1);
    // At the same time, one of them on a node that was its keeper.
    for (node, account) in [(keeper, ids[0]), (second, ids[1])] {
        let words = net.phrases[&account].clone();
        net.call(node, move |engine| engine.begin_restore(&words, None, &[]))
            .unwrap();
    }
    net.until("both are back", 60, |net| {
        [(keeper, ids[0]), (second, ids[1])]
            .iter()
            .all(|(node, account)| net.members[*node].engine.is_level(account))
    });
    net.run(30_000);
    let before = [keeper, second].map(|node| letters(&net, node));
    net.run(30_000);
    let after = [keeper, second].map(|node| letters(&net, node));
    assert_eq!(before, after);
}

#[test]
fn a_restore_ends_while_mail_keeps_coming_in() {
    let (mut net, ids) = Net::with_spares(132, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.meet((0, ids[0]), (2, ids[2]));
    net.run(3_000);
    let keeper = (1..5)
        .find(|node| net.members[*node].engine.kept.contains_key(&ids[0]))
        .expect("a keeper");
    net.burn(0);
    let words = net.phrases[&ids[0]].clone();
    net.call(keeper, move |engine| {
        engine.begin_restore(&words, None, &[])
    })
    .unwrap();
    let mut sent = 0;
    while !net.members[keeper].engine.accounts.contains_key(&ids[0]) {
        assert!(sent < 800, "the restore does not end");
        for from in [1, 2] {
            net.send((from, ids[from]), ids[0], &format!("mail {sent}"));
        }
        sent += 1;
        net.run(50);
    }
    net.until("all of it is there, once and in order", 60, |net| {
        [1, 2].iter().all(|from| {
            let all: Vec<String> = (0..sent).map(|number| format!("mail {number}")).collect();
            net.received(keeper, ids[0], ids[*from]) == all
        })
    });
}

#[test]
fn what_the_restoring_node_had_hidden_as_a_keeper_is_read_again() {
    let (mut net, ids) = Net::with_spares(133, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(3_000);
    let keeper = (2..5)
        .find(|node| net.members[*node].engine.kept.contains_key(&ids[0]))
        .expect("a keeper");
    net.burn(0);
    for number in 0..5 {
        net.send((1, ids[1]), ids[0], &format!("mail {number}"));
    }
    net.run(3_000);
    // It heard that they were acknowledged; the others show them again for the new device.
    let hidden = net.members[keeper]
        .engine
        .db
        .execute(
            "UPDATE envelopes SET hidden = 1, covered = 1 WHERE mailbox = ?1",
            [ids[0].0],
        )
        .unwrap();
    assert!(hidden >= 5);
    let view = net.restore(keeper, ids[0]);
    assert_eq!(view.state, "done", "{view:?}");
    assert_eq!(net.received(keeper, ids[0], ids[1]).len(), 5);
}

#[test]
fn a_keeper_counts_what_a_restore_that_was_given_up_left_with_it() {
    let (mut net, ids) = Net::with_spares(134, &["ulsan"]);
    net.meet((0, ids[0]), (1, ids[1]));
    net.run(3_000);
    let keeper = (2..5)
        .find(|node| net.members[*node].engine.kept.contains_key(&ids[0]))
        .expect("a keeper");
    net.burn(0);
    net.kill(keeper);
    for number in 0..5 {
        net.send((1, ids[1]), ids[0], &format!("mail {number}"));
    }
    net.run(3_000);
    net.restart(keeper);
    let words = net.phrases[&ids[0]].clone();
    net.call(keeper, move |engine| {
        engine.begin_restore(&words, None, &[])
    })
    .unwrap();
    for other in 1..5 {
        net.link(keeper, other);
    }
    // Some of the mail is there, and the restore is not over.
    while net.members[keeper]
        .engine
        .load_sets(&ids[0])
        .unwrap()
        .inbox
        .items
        < 5
    {
        let engine = &net.members[keeper].engine;
        assert!(engine.restoring.contains_key(&ids[0]), "it is over");
        net.run(10);
    }
    let engine = &mut net.members[keeper].engine;
    engine.cancel_restore(&ids[0]).unwrap();
    let rows = engine.load_sets(&ids[0]).unwrap();
    assert_eq!(engine.sets(&ids[0]).unwrap(), Some(&rows));
}
