//! The checker must be able to fail: made-up findings, each with one thing wrong.

use std::collections::BTreeMap;

use pumasi_node::view::{ContactView, LineView, MessageView, Money, PaymentView};
use pumasi_protocol::delivery::State;

use super::{Reckoning, reckon};
use crate::auditor::{Auditor, NO_CREDIT, Outcome, Who};
use crate::findings::{Account, Findings};
use crate::society::{Friendship, UNIT};
use crate::workload::{Operation, What};

const FIRE: u64 = 3_500;

/// Three accounts: 0 and 1 survive, 2 burned. Two texts and one IOU on every path.
fn world() -> (Auditor, Findings) {
    let people = (0..3)
        .map(|i| Who::new(&format!("p{i}"), &format!("pm1{i}")))
        .collect();
    let friendships = [(0, 1), (0, 2), (1, 2)]
        .map(|(a, b)| Friendship {
            a,
            b,
            a_gives: 1_000,
            b_gives: 2_000,
        })
        .to_vec();
    let mut operations = Vec::new();
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0)] {
        for place in 1..=3_u32 {
            let number = operations.len();
            let what = if place == 3 {
                What::Iou {
                    amount: 100,
                    note: format!("#{number} tea"),
                }
            } else {
                What::Text {
                    place,
                    text: format!("#{number} hello"),
                }
            };
            // The one who burns acts before the fire.
            let at = number as u64 * if from == 2 { 100 } else { 1_000 };
            operations.push(Operation {
                number,
                at,
                from,
                to,
                what,
                twice: false,
            });
        }
    }
    let mut record = Auditor::new(people, friendships.clone(), operations);
    record.burn(&[2], FIRE);
    for number in 0..record.entries.len() {
        let at = record.entries[number].operation.at;
        record.call(number, at);
        record.answered(number, &format!("id{number}"), false, at + 5);
        record.said.entry(format!("id{number}")).or_default().safe = Some(at + 10);
    }
    let mut findings = Findings::default();
    findings
        .accounts
        .extend([(0, Account::default()), (1, Account::default())]);
    for entry in &record.entries {
        let (from, to) = (entry.operation.from, entry.operation.to);
        for (account, other, direction) in [(from, to, "out"), (to, from, "in")] {
            let Some(found) = findings.accounts.get_mut(&account) else {
                continue;
            };
            let id = format!("id{}", entry.operation.number);
            match &entry.operation.what {
                What::Text { text, .. } => {
                    let message = message(&id, other, direction, text, to != 2);
                    found
                        .chats
                        .entry(format!("pm1{other}"))
                        .or_default()
                        .push(message);
                }
                What::Iou { amount, note } => {
                    let accepted = to != 2;
                    found
                        .payments
                        .push(payment(&id, other, direction, *amount, note, accepted));
                }
            }
        }
    }
    for friendship in &friendships {
        for (account, other) in [(friendship.a, friendship.b), (friendship.b, friendship.a)] {
            if let Some(found) = findings.accounts.get_mut(&account) {
                found.contacts.push(contact(other));
            }
        }
        for (account, other) in [(friendship.a, friendship.b), (friendship.b, friendship.a)] {
            if let Some(found) = findings.accounts.get_mut(&account) {
                let line = line(
                    found,
                    other,
                    friendship.limit_for(other),
                    friendship.limit_for(account),
                );
                found.lines.push(line);
            }
        }
    }
    (record, findings)
}

fn message(id: &str, other: usize, direction: &str, text: &str, delivered: bool) -> MessageView {
    MessageView {
        id: id.to_owned(),
        contact: format!("pm1{other}"),
        contact_name: String::new(),
        direction: direction.to_owned(),
        kind: "text".to_owned(),
        text: text.to_owned(),
        amount: None,
        payment: None,
        sequence: 0,
        time: String::new(),
        state: if delivered {
            State::Delivered
        } else {
            State::Safe
        },
        safe: true,
        buildings: 2,
        safe_until: None,
        gap: 0,
    }
}

fn payment(
    id: &str,
    other: usize,
    direction: &str,
    amount: u64,
    note: &str,
    accepted: bool,
) -> PaymentView {
    PaymentView {
        id: id.to_owned(),
        contact: format!("pm1{other}"),
        contact_name: String::new(),
        direction: direction.to_owned(),
        amount: Money {
            amount: amount.to_string(),
            currency: UNIT.to_owned(),
        },
        note: note.to_owned(),
        state: if accepted { "accepted" } else { "held" }.to_owned(),
        reason: None,
        delivery: State::Safe,
        safe: true,
        buildings: 2,
        time: String::new(),
    }
}

fn contact(other: usize) -> ContactView {
    ContactView {
        id: format!("pm1{other}"),
        name: format!("p{other}"),
        own_name: String::new(),
        fingerprint: String::new(),
        state: "active".to_owned(),
        verified: false,
        blocked: false,
        node: String::new(),
        keepers: 3,
        added: String::new(),
    }
}

fn line(found: &Account, other: usize, given: u64, received: u64) -> LineView {
    let contact = format!("pm1{other}");
    let sum = |direction: &str, state: &str| {
        found
            .payments
            .iter()
            .filter(|p| p.contact == contact && p.direction == direction && p.state == state)
            .map(|p| p.amount.amount.parse::<i128>().unwrap())
            .sum::<i128>()
    };
    LineView {
        id: String::new(),
        contact: contact.clone(),
        name: String::new(),
        unit: UNIT.to_owned(),
        balance: (sum("in", "accepted") - sum("out", "accepted")).to_string(),
        limit_given: given.to_string(),
        limit_received: received.to_string(),
        available: "0".to_owned(),
        held_out: sum("out", "held").to_string(),
        held_in: sum("in", "held").to_string(),
        reserved_out: "0".to_owned(),
        reserved_in: "0".to_owned(),
        freed_out: "0".to_owned(),
        freed_in: "0".to_owned(),
        settled_out: sum("out", "accepted").to_string(),
        settled_in: sum("in", "accepted").to_string(),
        frozen: false,
        closed: false,
    }
}

/// The reckoning after one thing was changed.
fn after(change: impl FnOnce(&mut Auditor, &mut Findings)) -> Reckoning {
    let (mut record, mut findings) = world();
    change(&mut record, &mut findings);
    reckon(&record, &findings)
}

fn chat(findings: &mut Findings, account: usize, other: usize) -> &mut Vec<MessageView> {
    findings
        .accounts
        .get_mut(&account)
        .unwrap()
        .chats
        .get_mut(&format!("pm1{other}"))
        .unwrap()
}

fn first_line(findings: &mut Findings, account: usize) -> &mut LineView {
    &mut findings.accounts.get_mut(&account).unwrap().lines[0]
}

#[track_caller]
fn assert_says(reckoning: &Reckoning, words: &str) {
    assert!(
        reckoning.broken.iter().any(|text| text.contains(words)),
        "{:#?}",
        reckoning.broken
    );
}

#[test]
fn a_run_in_which_everything_held_is_clean() {
    let reckoning = after(|_, _| {});
    assert_eq!(reckoning.broken, Vec::<String>::new());
    assert_eq!((reckoning.messages.sent, reckoning.messages.safe), (8, 8));
    // The two to the burned account are not delivered.
    assert_eq!(reckoning.messages.delivered, 6);
    assert_eq!(
        (
            reckoning.ious.signed,
            reckoning.ious.accepted,
            reckoning.ious.held
        ),
        (4, 3, 1)
    );
    // The line between 1 and 2 is seen from one end, as is that between 0 and 2.
    assert_eq!(reckoning.ledger.lines, 3);
    assert_eq!(reckoning.ledger.sum, BTreeMap::from([(UNIT.to_owned(), 0)]));
}

#[test]
fn a_lost_safe_message_is_found() {
    let reckoning = after(|_, findings| drop(chat(findings, 1, 0).remove(0)));
    assert_eq!(reckoning.messages.lost_safe, 1);
    assert_says(
        &reckoning,
        "was called safe, and its reader does not have it",
    );
}

#[test]
fn a_message_of_the_burned_that_was_safe_before_the_fire_is_missed() {
    let gone = |_: &mut Auditor, findings: &mut Findings| {
        chat(findings, 0, 2).retain(|message| message.id != "id9");
    };
    assert_eq!(after(gone).messages.lost_safe, 1);
    // One that nobody had called safe may be gone.
    let reckoning = after(|record, findings| {
        gone(record, findings);
        record.said.remove("id9");
    });
    assert_eq!(
        (reckoning.messages.lost_safe, reckoning.broken.len()),
        (0, 0)
    );
}

#[test]
fn a_message_that_its_own_sender_forgot_is_lost() {
    let reckoning = after(|_, findings| chat(findings, 0, 2).retain(|m| m.id != "id6"));
    assert_eq!(reckoning.messages.lost_safe, 1);
    assert_says(&reckoning, "gone from its sender's own list");
}

#[test]
fn a_message_shown_twice_is_found_under_one_id_or_two() {
    for id in ["id0", "another"] {
        let reckoning = after(|_, findings| {
            let mut copy = chat(findings, 1, 0)[0].clone();
            copy.id = id.to_owned();
            chat(findings, 1, 0).push(copy);
        });
        assert_eq!(reckoning.messages.shown_twice, 1);
        assert_says(&reckoning, "twice");
    }
}

#[test]
fn messages_out_of_order_are_found() {
    let reckoning = after(|_, findings| {
        let list = chat(findings, 1, 0);
        let places: Vec<_> = (0..list.len())
            .filter(|&i| list[i].direction == "in")
            .collect();
        list.swap(places[0], places[1]);
    });
    assert_eq!(reckoning.messages.out_of_order, 1);
    assert_says(&reckoning, "after a later one");
}

#[test]
fn changed_words_and_messages_from_nowhere_are_found() {
    let reckoning = after(|_, findings| chat(findings, 1, 0)[0].text.push('!'));
    assert_says(&reckoning, "with other words");
    let reckoning = after(|_, findings| chat(findings, 1, 0)[0].text = "buy gold".to_owned());
    assert_says(&reckoning, "never accepted");
}

#[test]
fn a_message_to_the_burned_must_become_safe() {
    let reckoning = after(|record, findings| {
        record.said.remove("id6");
        let message = chat(findings, 0, 2)
            .iter_mut()
            .find(|m| m.id == "id6")
            .unwrap();
        (message.state, message.safe) = (State::OneBuilding, false);
    });
    assert_says(&reckoning, "has not become safe");
    assert_eq!(reckoning.messages.safe, 7);
}

#[test]
fn a_message_called_safe_without_two_buildings_is_found() {
    let reckoning = after(|_, findings| {
        let message = chat(findings, 0, 1)
            .iter_mut()
            .find(|m| m.id == "id0")
            .unwrap();
        message.buildings = 1;
    });
    assert_says(&reckoning, "is called safe with 1 buildings");
}

#[test]
fn ends_that_disagree_are_found_and_so_is_money_made() {
    let reckoning = after(|_, findings| first_line(findings, 0).balance = "50".to_owned());
    assert_eq!(reckoning.ledger.disagreements, 1);
    assert_eq!(reckoning.ledger.sum[UNIT], 50);
    assert_says(&reckoning, "disagree on the balance");
    assert_says(&reckoning, "came from nowhere");
}

#[test]
fn limits_must_be_known_at_both_ends() {
    let reckoning = after(|_, findings| first_line(findings, 0).limit_received = "7".to_owned());
    assert_eq!(reckoning.ledger.disagreements, 1);
    assert_says(&reckoning, "limit received is 7");
}

#[test]
fn a_line_is_compared_with_the_auditor_also_where_the_other_end_burned() {
    let reckoning = after(|_, findings| {
        let line = &mut findings.accounts.get_mut(&0).unwrap().lines[1];
        line.balance = "900".to_owned();
        line.settled_in = "900".to_owned();
    });
    assert_eq!(reckoning.ledger.disagreements, 1);
    assert_eq!(reckoning.ledger.sum[UNIT], 800);
}

#[test]
fn a_lost_iou_and_one_from_nowhere_are_found() {
    let reckoning = after(|_, findings| {
        findings
            .accounts
            .get_mut(&1)
            .unwrap()
            .payments
            .retain(|payment| payment.id != "id2");
    });
    assert_eq!(reckoning.ious.lost_safe, 1);
    assert!(reckoning.ledger.disagreements > 0);
    let reckoning = after(|_, findings| {
        let payments = &mut findings.accounts.get_mut(&1).unwrap().payments;
        let mut made = payments[0].clone();
        (made.id, made.note) = ("id99".to_owned(), "#99 free money".to_owned());
        payments.push(made);
    });
    assert_says(&reckoning, "that nobody made");
}

#[test]
fn an_accepted_iou_to_the_burned_must_stay_accepted() {
    let reckoning = after(|record, _| {
        record.said.entry("id8".to_owned()).or_default().accepted = Some(8_100);
    });
    assert_says(&reckoning, "is still held at p0");
}

#[test]
fn one_key_with_two_effects_is_found() {
    let reckoning = after(|record, _| {
        record.call(0, 9_000);
        record.answered(0, "second", false, 9_010);
    });
    assert_says(&reckoning, "called again with its key, was made once more");
}

#[test]
fn unknown_outcomes_are_forgiven_only_where_the_node_burned() {
    let reckoning = after(|record, _| {
        record.entries[0].outcome = Outcome::Unknown;
        record.entries[9].outcome = Outcome::Unknown;
    });
    assert_says(&reckoning, "could not be learned");
    assert_eq!((reckoning.broken.len(), reckoning.unknown), (1, 1));
}

#[test]
fn refusals_must_have_been_needed() {
    let refuse = |record: &mut Auditor, amount: u64, code: &str| {
        record.entries[8].operation.what = What::Iou {
            amount,
            note: "#8 tea".to_owned(),
        };
        record.entries[8].outcome = Outcome::Refused(code.to_owned(), String::new());
    };
    let forget = |findings: &mut Findings| {
        let found = findings.accounts.get_mut(&0).unwrap();
        found.payments.retain(|payment| payment.id != "id8");
        found.lines[1].held_out = "0".to_owned();
    };
    let right = after(|record, findings| {
        refuse(record, 5_000, NO_CREDIT);
        forget(findings);
    });
    assert_eq!((right.broken.len(), right.ious.refused), (0, 1));
    let wrong = after(|record, findings| {
        refuse(record, 1_000, NO_CREDIT);
        forget(findings);
    });
    assert_says(&wrong, "though at most");
    let other = after(|record, findings| {
        refuse(record, 1_000, "not_permitted");
        forget(findings);
    });
    assert_says(&other, "refused without need");
}

#[test]
fn an_iou_past_the_limit_is_found() {
    let reckoning = after(|record, _| {
        record.friendships[0].b_gives = 50;
    });
    assert_says(&reckoning, "was taken, though");
}

#[test]
fn a_long_wait_after_the_fire_is_found() {
    let reckoning = after(|record, _| {
        record.said.entry("id4".to_owned()).or_default().safe = Some(4_000_000);
    });
    assert!(reckoning.wait_ms > 3_000);
    assert_says(&reckoning, "waited");
}

#[test]
fn a_survivor_that_does_not_answer_is_a_broken_promise_by_itself() {
    let reckoning = after(|_, findings| {
        findings.accounts.remove(&1);
        findings.trouble.push("p1 does not answer".to_owned());
    });
    assert_eq!(reckoning.broken, ["p1 does not answer"]);
}

/// The account that burned, back on another node, with everything that it had.
fn bring_back(record: &mut Auditor, findings: &mut Findings) {
    record.back(2, 20_000);
    let mut back = Account::default();
    for other in [0, 1] {
        back.contacts.push(contact(other));
        let theirs = findings.accounts.get_mut(&other).unwrap();
        let list = theirs.chats.get_mut("pm12");
        let mut chat: Vec<_> = list.map(|list| list.clone()).unwrap_or_default();
        for message in &mut chat {
            message.contact = format!("pm1{other}");
            message.direction = if message.direction == "in" {
                "out"
            } else {
                "in"
            }
            .to_owned();
        }
        if !chat.is_empty() {
            back.chats.insert(format!("pm1{other}"), chat);
        }
        for payment in theirs.payments.iter_mut().filter(|p| p.contact == "pm12") {
            payment.state = "accepted".to_owned();
            let mut copy = payment.clone();
            copy.contact = format!("pm1{other}");
            copy.direction = if payment.direction == "in" {
                "out"
            } else {
                "in"
            }
            .to_owned();
            back.payments.push(copy);
        }
    }
    for (other, place) in [(0, 1), (1, 1)] {
        let friendship = record
            .friendships
            .iter()
            .find(|f| (f.a, f.b) == (other, 2))
            .copied()
            .unwrap();
        let given = friendship.limit_for(other);
        let received = friendship.limit_for(2);
        back.lines.push(line(&back, other, given, received));
        let theirs = findings.accounts.get_mut(&other).unwrap();
        theirs.lines[place] = line(theirs, 2, received, given);
    }
    findings.accounts.insert(2, back);
    for said in record.said.values_mut() {
        said.delivered = Some(21_000);
    }
}

#[test]
fn one_who_came_back_with_everything_is_clean_and_counted_at_both_ends() {
    let reckoning = after(bring_back);
    assert_eq!(reckoning.broken, Vec::<String>::new());
    assert_eq!((reckoning.messages.delivered, reckoning.ious.held), (8, 0));
    assert_eq!(reckoning.missing_safe, 0);
}

#[test]
fn a_safe_item_that_a_restored_account_lacks_is_found_in_both_directions() {
    for (id, words) in [
        ("id6", "its reader does not have it"),
        ("id9", "gone from its sender's own list"),
    ] {
        let reckoning = after(|record, findings| {
            bring_back(record, findings);
            chat(findings, 2, 0).retain(|message| message.id != id);
        });
        assert_eq!(reckoning.missing_safe, 1);
        assert_says(&reckoning, words);
    }
    let reckoning = after(|record, findings| {
        bring_back(record, findings);
        let found = findings.accounts.get_mut(&2).unwrap();
        found.payments.retain(|payment| payment.id != "id8");
    });
    assert_eq!(reckoning.missing_safe, 1);
    assert_says(&reckoning, "its payee does not have it");
}

#[test]
fn a_text_that_nobody_called_safe_may_be_gone_with_the_node_of_its_sender() {
    let reckoning = after(|record, findings| {
        bring_back(record, findings);
        *record.said.get_mut("id9").unwrap() = crate::auditor::Said::default();
        chat(findings, 2, 0).retain(|message| message.id != "id9");
        chat(findings, 0, 2).retain(|message| message.id != "id9");
    });
    assert_eq!(reckoning.broken, Vec::<String>::new());
    assert_eq!((reckoning.never_safe, reckoning.missing_safe), (1, 0));
}

#[test]
fn a_contact_that_a_restored_account_forgot_is_found() {
    let reckoning = after(|record, findings| {
        bring_back(record, findings);
        findings.accounts.get_mut(&2).unwrap().contacts.remove(0);
    });
    assert_says(&reckoning, "p0 is gone from the contacts of p2");
}
