//! A store that fails: nothing is answered, nothing leaves, and what was answered before is there.

use pumasi_protocol::types::Time;
use pumasi_protocol::wire::Set;

use super::super::reconciling::items_sql;
use super::network::{FOUR, Net};
use crate::ErrorKind;
use crate::engine::{Effect, Engine};

#[test]
fn a_full_disk_stops_the_node_without_an_answer_and_loses_nothing_answered() {
    let (mut net, ids) = Net::with(80, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "before the disk was full");
    net.run(1_000);
    // SQLite answers a full disk with SQLITE_FULL; a page limit brings the same answer.
    let db = &net.members[0].engine.db;
    let pages: i64 = db
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    let _: i64 = db
        .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| {
            row.get(0)
        })
        .unwrap();
    let (me, other) = (ids[0], ids[1].to_string());
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut failure = None;
    for number in 0..200 {
        let (sender, other) = (sender.clone(), other.clone());
        let call = Engine::call(
            move |engine| {
                engine.send_text(
                    &me,
                    &other,
                    &format!("{number} {}", "x".repeat(50_000)),
                    None,
                )
            },
            move |result| sender.send((number, result.is_ok())).unwrap(),
        );
        match net.members[0].engine.step(vec![call], net.now) {
            Ok(effects) => {
                for effect in effects {
                    if let Effect::Reply(reply) = effect {
                        reply();
                    }
                }
            }
            Err(error) => {
                failure = Some((number, error));
                break;
            }
        }
    }
    let (failed, error) = failure.expect("the limit is reached");
    assert_eq!(error.kind(), ErrorKind::Storage);
    let answered: Vec<(i32, bool)> = receiver.try_iter().collect();
    assert!(answered.iter().all(|(number, ok)| *ok && *number < failed));
    net.kill(0);
    net.restart(0);
    let shown = net
        .messages(0, ids[0], ids[1])
        .into_iter()
        .filter(|message| message.direction == "out")
        .count();
    assert_eq!(shown, answered.len() + 1);
}

#[test]
fn a_call_that_is_refused_changes_nothing_and_is_answered() {
    let (mut net, ids) = Net::with(81, &FOUR);
    let before = net.members[0].engine.db.total_changes();
    let me = ids[0];
    let error = net
        .call(0, move |engine| {
            engine.send_text(&me, "nobody", "hello", None)
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(net.members[0].engine.db.total_changes(), before);
}

#[test]
fn the_clock_of_the_engine_never_runs_backwards() {
    let (mut net, _) = Net::with(82, &FOUR);
    let now = net.now;
    net.members[0].engine.step(vec![], Time(5)).unwrap();
    assert!(net.members[0].engine.now() >= now);
}

#[test]
fn a_text_of_the_greatest_length_fits_an_envelope() {
    let (mut net, ids) = Net::with(83, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    let text = "힣".repeat(pumasi_protocol::envelope::TEXT_MAX / 3);
    net.send((0, ids[0]), ids[1], &text);
    net.run(2_000);
    assert_eq!(net.received(1, ids[1], ids[0]), [text]);
    let (me, other) = (ids[0], ids[1].to_string());
    let long = "x".repeat(pumasi_protocol::envelope::TEXT_MAX + 1);
    let error = net
        .call(0, move |engine| engine.send_text(&me, &other, &long, None))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[test]
fn a_wrong_key_for_the_stored_secrets_is_refused_with_a_clear_word() {
    let (net, _) = Net::with(84, &FOUR);
    let directory = net.members[0].directory.path().to_owned();
    let other = tempfile::tempdir().unwrap();
    drop(crate::vault::Vault::open_or_create(other.path(), &crate::node::Unlock::KeyFile).unwrap());
    let vault =
        crate::vault::Vault::open_or_create(other.path(), &crate::node::Unlock::KeyFile).unwrap();
    let db = crate::store::open(&directory).unwrap();
    let rng = crate::clock::generator().unwrap();
    let settings = net.members[0].settings.clone();
    let error = Engine::open(db, vault, rng, settings, net.now).unwrap_err();
    assert!(!error.message().is_empty());
}

#[test]
fn a_node_for_which_something_waits_is_dialled_after_a_restart() {
    let (mut net, ids) = Net::with(85, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.kill(1);
    net.send((0, ids[0]), ids[1], "while the other node was away");
    let away = net.members[1].engine.me();
    net.kill(0);
    net.restart(0);
    let now = net.now;
    let effects = net.members[0]
        .engine
        .step(vec![crate::engine::Input::Tick], now)
        .unwrap();
    let dialled = effects
        .iter()
        .any(|effect| matches!(effect, Effect::Connect(node, _) if *node == away));
    assert!(dialled, "{effects:?}");
}

#[test]
fn comparing_mailboxes_reads_indexes_and_no_contents() {
    let directory = tempfile::tempdir().unwrap();
    let db = crate::store::open(directory.path()).unwrap();
    for set in [Set::Statements, Set::Envelopes, Set::Archive] {
        let plan: String = db
            .query_row(
                &format!("EXPLAIN QUERY PLAN {}", items_sql(set)),
                rusqlite::params![[0_u8; 32], 0],
                |row| row.get(3),
            )
            .unwrap();
        assert!(plan.contains("COVERING INDEX"), "{set:?}: {plan}");
    }
}
