//! Stories of what is shown and what is not: deleted texts, and mail that only the words open.

use super::network::Net;
use crate::error::ErrorKind;

#[test]
fn a_deleted_text_is_not_shown_when_it_comes_again_nor_after_a_restore() {
    let (mut net, ids) = Net::with_spares(201, &["ulsan"]);
    let (hana, bora) = (ids[0], ids[1]);
    net.meet((0, hana), (1, bora));
    net.send((1, bora), hana, "stays");
    let slip = net.send((1, bora), hana, "a slip");
    net.send((1, bora), hana, "stays, too");
    net.until("all are there", 30, |net| {
        net.received(0, hana, bora).len() == 3
    });
    let own = net.send((0, hana), bora, "an own slip");
    net.run(3_000);
    for id in [slip.id, own.id] {
        let id = id.parse().unwrap();
        net.call(0, move |engine| engine.delete_message(&hana, &id))
            .unwrap();
        let again = net
            .call(0, move |engine| engine.delete_message(&hana, &id))
            .unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotFound);
    }
    // Its envelope comes again, sealed anew.
    let epoch = net.members[1].engine.accounts[&bora]
        .record
        .certificate
        .epoch;
    net.call(1, move |engine| engine.resend(bora, hana, epoch, 1, 3))
        .unwrap();
    net.run(5_000);
    assert_eq!(net.received(0, hana, bora), ["stays", "stays, too"]);
    let deleted = net.events(0);
    let deleted = deleted
        .iter()
        .filter(|event| event.kind == "message.deleted");
    assert_eq!(deleted.count(), 2);

    net.burn(0);
    let view = net.restore(4, hana);
    assert_eq!(view.state, "done", "{view:?}");
    net.call(1, move |engine| engine.resend(bora, hana, epoch, 1, 3))
        .unwrap();
    net.run(30_000);
    let texts: Vec<String> = net
        .messages(4, hana, bora)
        .into_iter()
        .map(|message| message.text)
        .collect();
    assert_eq!(texts, ["stays", "stays, too"]);
    let holes = net
        .call(4, move |engine| {
            Ok(engine.known_contact(hana, bora)?.chat.holes().len())
        })
        .unwrap();
    assert_eq!(holes, 0, "nobody is asked for what was deleted");
}

#[test]
fn mail_that_the_device_cannot_open_is_kept_and_opened_by_the_words() {
    let (mut net, ids) = Net::with_spares(202, &["ulsan"]);
    let (hana, bora) = (ids[0], ids[1]);
    net.meet((0, hana), (1, bora));
    net.send((1, bora), hana, "one");
    net.send((0, hana), bora, "answer");
    net.run(5_000);
    // The session is lost here, and bora's building burns before it can begin another.
    net.call(0, move |engine| {
        engine.known_contact(hana, bora)?.sessions = crate::ratchet::PeerSessions::empty();
        engine.touch(hana, bora);
        Ok(())
    })
    .unwrap();
    net.kill(0);
    net.send((1, bora), hana, "two");
    net.run(3_000);
    net.burn(1);
    net.restart(0);
    net.settle_level(0, hana);
    let unopened = |net: &Net| net.members[0].engine.unopened(&hana).unwrap();
    net.until("the envelope is here", 60, |net| unopened(net) == 1);
    assert_eq!(net.received(0, hana, bora), ["one"]);

    let wrong = net.phrases[&bora].clone();
    let refused = net
        .call(0, move |engine| engine.open_with_words(&hana, &wrong))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let words = net.phrases[&hana].clone();
    let opened = net
        .call(0, move |engine| engine.open_with_words(&hana, &words))
        .unwrap();
    assert_eq!((opened.opened, opened.unopened), (1, 0));
    assert_eq!(net.received(0, hana, bora), ["one", "two"]);
    assert_eq!(unopened(&net), 0);
    net.run(20_000);
    assert_eq!(net.received(0, hana, bora), ["one", "two"]);
    assert_eq!(unopened(&net), 0, "it is acknowledged, and does not return");
}

#[test]
fn late_mail_for_a_device_that_is_gone_is_opened_by_the_words() {
    let (mut net, ids) = Net::with_spares(203, &["ulsan"]);
    let (hana, bora) = (ids[0], ids[1]);
    net.meet((0, hana), (1, bora));
    net.run(3_000);
    let record = net.members[0].engine.accounts[&hana].record.clone();
    let dark = (2..4)
        .find(|node| record.keeper(&net.members[*node].id).is_some())
        .expect("a keeper in another building");
    net.burn(0);
    // One keeper and bora do not hear of the restore.
    let others: Vec<usize> = (2..5).filter(|other| *other != dark).collect();
    for other in &others {
        net.cut(1, *other);
        net.cut(dark, *other);
    }
    let view = net.restore(4, hana);
    assert_eq!(view.state, "done", "{view:?}");
    net.send((1, bora), hana, "late");
    net.run(5_000);
    net.burn(1);
    for other in &others {
        net.mend(dark, *other);
    }
    let unopened = |net: &Net| net.members[4].engine.unopened(&hana).unwrap();
    net.until("the envelope is here", 120, |net| unopened(net) == 1);
    assert_eq!(net.received(4, hana, bora), Vec::<String>::new());
    let words = net.phrases[&hana].clone();
    net.call(4, move |engine| engine.open_with_words(&hana, &words))
        .unwrap();
    assert_eq!(net.received(4, hana, bora), ["late"]);
    net.run(20_000);
    assert_eq!(net.received(4, hana, bora), ["late"]);
    assert_eq!(unopened(&net), 0, "it is acknowledged, and does not return");
}
