//! One example of every frame, request and response.

use pumasi_protocol::codec;
use pumasi_protocol::crypto;
use pumasi_protocol::mailbox::NotAdmitted;
use pumasi_protocol::types::EnvelopeId;
use pumasi_protocol::wire::{Frame, Parcel, Refused, Request, Response, Set, keys_tag_text};

use super::{
    CAPABILITY, DURI, HANA, SEYEON, VERSION, archive, envelope, filler, payloads, receipt, seals,
    shelf_receipt, statements,
};

/// All of them, by name.
pub(crate) fn all() -> Vec<(&'static str, Frame)> {
    let request = |request| Frame::Request { id: 77, request };
    let response = |response| Frame::Response { id: 77, response };
    let (mailbox, ids) = (DURI.account(), receipt().ids);
    let record = || DURI.signed_record();
    let keys = || DURI.by_device(&DURI.bundle());
    let (_, letter) = payloads().swap_remove(0);
    let parcel = Parcel {
        envelope: codec::encode(&envelope(&letter, true)).into(),
        seals: seals().map(|(encapsulation, _)| encapsulation).to_vec(),
    };
    let said = statements()
        .into_iter()
        .map(|(_, statement)| DURI.by_device(&statement))
        .collect();
    let refused = Refused {
        id: EnvelopeId([0x81; 32]),
        why: NotAdmitted::OldRecord,
    };
    let text = keys_tag_text(&mailbox, &HANA.node());
    let tag = crypto::mac(&CAPABILITY.tag_key().0, "keys", &text);
    let hashes = vec![filler(0xa1), filler(0xa2)];
    let one_time = DURI.by_device(&DURI.one_time_key());
    let node = |person: super::Person| person.by_node(&person.node_record());
    vec![
        ("hello", Frame::Hello { record: node(HANA) }),
        (
            "put",
            Frame::Put {
                parcels: vec![parcel],
                pass_on: vec![SEYEON.node()],
            },
        ),
        (
            "receipts",
            Frame::Receipts(vec![SEYEON.by_node(&receipt())]),
        ),
        (
            "refused",
            Frame::Refused {
                items: vec![refused],
                records: vec![record()],
            },
        ),
        ("statements", Frame::Statements(said)),
        ("noted", Frame::Noted(hashes.clone())),
        (
            "attest",
            Frame::Attest {
                mailbox,
                ids: ids.clone(),
            },
        ),
        (
            "keep",
            request(Request::Keep {
                record: record(),
                keys: keys(),
            }),
        ),
        ("release", request(Request::Release { record: record() })),
        (
            "record",
            request(Request::Record {
                record: record(),
                keys: keys(),
            }),
        ),
        ("find-record", request(Request::FindRecord(mailbox))),
        (
            "keys",
            request(Request::Keys {
                account: mailbox,
                capability: CAPABILITY.id(),
                tag,
            }),
        ),
        (
            "one-time-keys",
            request(Request::OneTimeKeys {
                account: mailbox,
                keys: vec![one_time.clone()],
            }),
        ),
        ("nodes", request(Request::Nodes)),
        (
            "digest",
            request(Request::Digest {
                mailbox,
                record: VERSION,
                statements: filler(0xa3),
                envelopes: filler(0xa4),
                archive: filler(0xa5),
                sign: true,
            }),
        ),
        (
            "reconcile",
            request(Request::Reconcile {
                mailbox,
                set: Set::Envelopes,
                since: super::NOW,
                message: vec![0x61, 0, 0, 0].into(),
            }),
        ),
        (
            "fetch-statements",
            request(Request::FetchStatements {
                mailbox,
                ids: hashes,
            }),
        ),
        (
            "fetch-envelopes",
            request(Request::FetchEnvelopes { mailbox, ids }),
        ),
        (
            "pages",
            Frame::Pages {
                volumes: vec![archive::volume().signed],
                pages: vec![archive::page()],
            },
        ),
        (
            "fetch-pages",
            request(Request::FetchPages {
                mailbox,
                ids: vec![archive::id()],
            }),
        ),
        (
            "put-locator",
            request(Request::PutLocator(archive::locator())),
        ),
        ("find-locator", request(Request::FindLocator([0xa6; 32]))),
        ("archive-head", request(Request::ArchiveHead { mailbox })),
        (
            "audit",
            request(Request::Audit {
                mailbox,
                id: archive::id(),
                nonce: [0xa7; 32],
            }),
        ),
        (
            "answer-locator",
            response(Response::Locator(Some(archive::locator()))),
        ),
        (
            "answer-head",
            response(Response::Head {
                epoch: super::EPOCH,
                number: 7,
            }),
        ),
        (
            "answer-proof",
            response(Response::Proof(Some(filler(0xa8)))),
        ),
        ("answer-done", response(Response::Done)),
        (
            "answer-no",
            response(Response::No {
                why: "not now".into(),
                retry: true,
            }),
        ),
        ("answer-newer", response(Response::Newer(record()))),
        ("answer-record", response(Response::Record(Some(record())))),
        (
            "answer-keys",
            response(Response::Keys {
                record: record(),
                keys: keys(),
                one_time: Some(one_time),
            }),
        ),
        ("answer-stock", response(Response::Stock(100))),
        (
            "answer-nodes",
            response(Response::Nodes(vec![node(HANA), node(SEYEON)])),
        ),
        (
            "answer-digest",
            response(Response::Digest {
                statements: true,
                envelopes: false,
                archive: true,
                shelf: None,
            }),
        ),
        (
            "answer-digest-signed",
            response(Response::Digest {
                statements: false,
                envelopes: false,
                archive: false,
                shelf: Some(SEYEON.by_node(&shelf_receipt())),
            }),
        ),
        (
            "answer-reconcile",
            response(Response::Reconcile(vec![0x61].into())),
        ),
    ]
}
