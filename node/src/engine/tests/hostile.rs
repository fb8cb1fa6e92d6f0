//! What other nodes may send: nothing they say is believed without proof, nothing they send ends the
//! node.

use pumasi_protocol::codec;
use pumasi_protocol::crypto::{Secret, Signed, SigningKey};
use pumasi_protocol::delivery::State;
use pumasi_protocol::envelope::Envelope;
use pumasi_protocol::mailbox::{Action, CustodyReceipt, Statement};
use pumasi_protocol::types::{EnvelopeId, NodeId, Time};
use pumasi_protocol::wire::{Frame, Parcel};

use super::network::{FOUR, Net};
use crate::check::{self, Fault};
use crate::engine::accounts::sign_record;
use crate::engine::{Effect, Input};
use crate::ratchet::PeerSessions;

fn deliver(net: &mut Net, to: usize, from: usize, frame: &Frame) {
    let from = net.members[from].id;
    let arrival = check::frame(from, &codec::encode(frame), net.now).unwrap();
    net.step(to, vec![Input::Frame(from, Box::new(arrival))]);
}

fn stored(net: &Net, node: usize) -> Vec<Vec<u8>> {
    net.members[node]
        .engine
        .db
        .prepare("SELECT bytes FROM envelopes")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap()
}

#[test]
fn a_receipt_by_somebody_who_is_no_keeper_makes_nothing_safe() {
    let (mut net, ids) = Net::with(60, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    for other in 1..4 {
        net.cut(0, other);
    }
    let sent = net.send((0, ids[0]), ids[1], "alone");
    let envelope: [u8; 32] = net.members[0]
        .engine
        .db
        .query_row(
            "SELECT envelope FROM outgoing ORDER BY id DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let record = net.members[1].engine.accounts[&ids[1]].record.version();
    for seed in 1..5_u8 {
        let key = SigningKey::from_seed(&[seed; 32]);
        let receipt = CustodyReceipt {
            mailbox: ids[1],
            record,
            keeper: NodeId(key.public()),
            until: Time(u64::MAX),
            ids: vec![EnvelopeId(envelope)],
        };
        deliver(
            &mut net,
            0,
            2,
            &Frame::Receipts(vec![Signed::sign(&receipt, &key)]),
        );
    }
    let message = net.message(0, ids[0], &sent.id);
    // Hana's own node may be one of bora's keepers: one building at the most.
    assert!(message.state <= State::OneBuilding && !message.safe && message.buildings <= 1);
}

#[test]
fn a_receipt_in_a_keepers_name_that_it_did_not_sign_ends_the_session() {
    let (net, ids) = Net::with(61, &FOUR);
    let key = SigningKey::from_seed(&[9; 32]);
    let receipt = CustodyReceipt {
        mailbox: ids[1],
        record: pumasi_protocol::record::RecordVersion {
            epoch: 1,
            version: 1,
        },
        keeper: net.members[2].id,
        until: net.now,
        ids: vec![],
    };
    let frame = Frame::Receipts(vec![Signed::sign(&receipt, &key)]);
    let fault = check::frame(net.members[2].id, &codec::encode(&frame), net.now).unwrap_err();
    assert_eq!(fault, Fault::Receipt);
}

#[test]
fn an_acknowledgement_by_anybody_but_the_recipient_changes_nothing() {
    let (mut net, ids) = Net::with(62, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.kill(1);
    let sent = net.send((0, ids[0]), ids[1], "not yet");
    net.run(1_000);
    let envelope = Envelope::id_of(&stored(&net, 2).pop().expect("a keeper has it"));
    let key = SigningKey::from_seed(&[7; 32]);
    let statement = Statement {
        account: ids[1],
        epoch: net.members[1].engine.accounts[&ids[1]]
            .record
            .certificate
            .epoch,
        time: net.now,
        action: Action::Delivered {
            ids: vec![envelope],
        },
    };
    let forged = Signed::sign(&statement, &key);
    deliver(&mut net, 0, 3, &Frame::Statements(vec![forged.clone()]));
    deliver(&mut net, 2, 3, &Frame::Statements(vec![forged]));
    assert_eq!(net.message(0, ids[0], &sent.id).state, State::Safe);
    net.restart(1);
    net.until("it is delivered all the same", 60, |net| {
        net.received(1, ids[1], ids[0]) == ["not yet"]
    });
}

#[test]
fn a_replayed_envelope_is_shown_once_and_a_changed_one_never() {
    let (mut net, ids) = Net::with(63, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "once");
    net.run(1_000);
    for bytes in stored(&net, 2).into_iter().chain(stored(&net, 3)) {
        let put = |bytes: Vec<u8>| Frame::Put {
            parcels: vec![Parcel {
                envelope: bytes.into(),
                seals: vec![],
            }],
            pass_on: vec![],
        };
        deliver(&mut net, 1, 2, &put(bytes.clone()));
        for place in (0..bytes.len()).step_by(7) {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            deliver(&mut net, 1, 2, &put(changed.clone()));
            deliver(&mut net, 3, 2, &put(changed));
        }
    }
    net.run(2_000);
    assert_eq!(net.received(1, ids[1], ids[0]), ["once"]);
}

#[test]
fn a_stranger_without_an_invitation_leaves_nothing() {
    let (mut net, ids) = Net::with(64, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.send((0, ids[0]), ids[1], "mine");
    net.run(1_000);
    let bytes = stored(&net, 2)
        .into_iter()
        .chain(stored(&net, 3))
        .next()
        .expect("an envelope");
    let envelope: Envelope = codec::decode(&bytes).unwrap();
    let before = stored(&net, 2).len() + stored(&net, 3).len();
    let forged = Envelope::close(
        pumasi_protocol::envelope::Sealed {
            created: net.now,
            ..envelope.sealed
        },
        &Secret([1; 32]),
    );
    let frame = Frame::Put {
        parcels: vec![Parcel {
            envelope: codec::encode(&forged).into(),
            seals: vec![],
        }],
        pass_on: vec![],
    };
    for node in 0..4 {
        deliver(&mut net, node, 2, &frame);
    }
    assert_eq!(stored(&net, 2).len() + stored(&net, 3).len(), before);
}

#[test]
fn garbage_frames_are_faults_and_never_panics() {
    let (net, _) = Net::with(65, &FOUR);
    let peer = net.members[1].id;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    for length in 0..600_usize {
        let mut bytes: Vec<u8> = (0..length).map(|_| byte()).collect();
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        if let Some(second) = bytes.get_mut(1) {
            *second %= 9;
        }
        let _ = check::frame(peer, &bytes, net.now);
        let _ = check::gossip(&bytes, net.now);
    }
}

#[test]
fn a_frame_of_a_newer_program_is_named_as_such() {
    let (net, _) = Net::with(66, &FOUR);
    let mut bytes = codec::encode(&Frame::Noted(vec![]));
    bytes[0] = 2;
    let fault = check::frame(net.members[1].id, &bytes, net.now)
        .unwrap_err()
        .to_string();
    assert!(fault.contains("update"), "{fault}");
}

#[test]
fn statements_dated_far_ahead_do_not_enter_the_store() {
    let (mut net, ids) = Net::with(67, &FOUR);
    net.settle_keepers(3);
    let device_seed = net.members[1].engine.accounts[&ids[1]].device.seed();
    let device = SigningKey::from_seed(&device_seed.0);
    let statement = Statement {
        account: ids[1],
        epoch: net.members[1].engine.accounts[&ids[1]]
            .record
            .certificate
            .epoch,
        time: Time(u64::MAX),
        action: Action::Delivered { ids: vec![] },
    };
    for node in [0, 2, 3] {
        deliver(
            &mut net,
            node,
            1,
            &Frame::Statements(vec![Signed::sign(&statement, &device)]),
        );
    }
    net.run(1_000);
}

#[test]
fn a_frame_with_too_many_envelopes_is_a_fault() {
    let (net, _) = Net::with(68, &FOUR);
    let parcel = Parcel {
        envelope: vec![1].into(),
        seals: vec![],
    };
    let put = |count: usize| Frame::Put {
        parcels: vec![parcel.clone(); count],
        pass_on: vec![],
    };
    let peer = net.members[1].id;
    assert!(check::frame(peer, &codec::encode(&put(512)), net.now).is_ok());
    let fault = check::frame(peer, &codec::encode(&put(513)), net.now).unwrap_err();
    assert_eq!(fault, Fault::List);
}

#[test]
fn a_node_that_brings_thousands_of_unwanted_envelopes_loses_its_session() {
    let (mut net, _) = Net::with(69, &FOUR);
    net.settle_keepers(3);
    let from = net.members[1].id;
    let mut ended = false;
    for _ in 0..4 {
        let parcels = vec![
            Parcel {
                envelope: vec![1].into(),
                seals: vec![],
            };
            512
        ];
        let frame = Frame::Put {
            parcels,
            pass_on: vec![],
        };
        let arrival = check::frame(from, &codec::encode(&frame), net.now).unwrap();
        let effects = net.members[0]
            .engine
            .step(vec![Input::Frame(from, Box::new(arrival))], net.now)
            .unwrap();
        ended |= effects
            .iter()
            .any(|effect| matches!(effect, Effect::Disconnect(node) if *node == from));
    }
    assert!(ended);
}

#[test]
fn a_contact_whose_keys_cannot_be_used_stops_nobody() {
    let (mut net, ids) = Net::with(69, &FOUR);
    net.settle_keepers(3);
    net.meet((0, ids[0]), (1, ids[1]));
    net.meet((0, ids[0]), (2, ids[2]));
    let own = &net.members[1].engine.accounts[&ids[1]];
    let mut bundle = own.keys.unverified().unwrap();
    // Points of small order: every secret agreed with them is known to everybody.
    bundle.ratchet_identity = [0; 32];
    bundle.last_resort = [0; 32];
    let keys = Signed::sign(&bundle, &own.device);
    let mut record = own.record.record.clone();
    record.version += 100;
    record.keys = keys.hash();
    let record = Signed::sign(&record, &own.device);
    let (me, contact) = (ids[0], ids[1]);
    net.call(0, move |engine| {
        // No session yet, so one must be begun with those keys.
        engine.known_contact(me, contact)?.sessions = PeerSessions::empty();
        engine.keys_answer(me, contact, record, keys, None)
    })
    .unwrap();
    let stuck = net.send((0, ids[0]), ids[1], "to nobody");
    let sent = net.send((0, ids[0]), ids[2], "to somebody");
    net.until("others are written to", 30, |net| {
        net.message(0, ids[0], &sent.id).state == State::Delivered
    });
    assert_eq!(net.message(0, ids[0], &stuck.id).state, State::Saved);
}

#[test]
fn a_contact_whose_ratchet_key_cannot_be_used_does_not_stop_the_node() {
    let (mut net, ids) = Net::with(75, &FOUR);
    net.settle_keepers(3);
    let (hana, bora) = (ids[0], ids[1]);
    net.meet((0, hana), (1, bora));
    net.run(5_000);
    // Bora's device signs that its ratchet key is a point of small order.
    let own = &net.members[1].engine.accounts[&bora];
    let mut bundle = own.keys.unverified().unwrap();
    bundle.ratchet_identity = [0; 32];
    let keys = Signed::sign(&bundle, &own.device);
    let mut record = own.record.record.clone();
    record.version += 1;
    record.keys = keys.hash();
    let record = sign_record(&record, &own.device).unwrap().signed;
    net.call(0, move |engine| {
        engine.known_contact(hana, bora)?.sessions = PeerSessions::empty();
        engine.keys_answer(hana, bora, record, keys, None)
    })
    .unwrap();
    let sent = net.send((0, hana), bora, "waits for a key");
    net.run(2_000);
    assert_eq!(net.message(0, hana, &sent.id).state, State::Saved);
    // With a record that is newer still, and right, everything goes on.
    for name in ["bora of anyang", "bora"] {
        net.call(1, move |engine| {
            engine.change_record(&bora, |record| record.name = name.into())
        })
        .unwrap();
    }
    net.until("it arrived", 60, |net| {
        net.received(1, bora, hana) == ["waits for a key"]
    });
}
