//! Hostile bytes as every object that travels, is signed or is stored. What decodes encodes back to the
//! same bytes, and may then be checked, shown and used without harm.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::LazyLock;

use pumasi_protocol::archive::{self, CheckedVolume, Page, PageKeys, Records, Volume};
use pumasi_protocol::chat::{Arrival, Chat, HOLES_MAX, Position};
use pumasi_protocol::codec::{self, Wire};
use pumasi_protocol::condition::Opening;
use pumasi_protocol::crypto::{self, Secret, Signable, Signed};
use pumasi_protocol::delivery;
use pumasi_protocol::envelope::{
    Body, Content, Encapsulation, Envelope, HEADS_MAX, Head, Letter, Payload, Sealed,
};
use pumasi_protocol::identity::{DeviceCertificate, Phrase};
use pumasi_protocol::invitation::Invitation;
use pumasi_protocol::line::{
    DebtId, DebtRecord, Entry, EntryRecord, EquivocationProof, Known, Line, Stamp, line_id,
};
use pumasi_protocol::locator::{self, Locator};
use pumasi_protocol::mailbox::{self, Action, CustodyReceipt, ShelfReceipt, Statement, Usage};
use pumasi_protocol::record::{AccountRecord, CheckedRecord, KeyBundle, NodeRecord, OneTimeKey};
use pumasi_protocol::types::{
    AccountId, Amount, ConversationId, DeviceKey, EnvelopeId, Hash, LineId, LockId, MessageId,
    NodeId, PaymentId, Time, Unit,
};
use pumasi_protocol::wire::{Frame, Request, Response};

use super::samples::{CAPABILITY, DURI, EPOCH, HANA, NOW, VERSION, money};

/// The public keys of devices that sign whatever they are given.
static SIGNERS: LazyLock<[[u8; 32]; 2]> =
    LazyLock::new(|| [HANA.device().public(), DURI.device().public()]);
/// A history that ends know already.
static STORY: LazyLock<money::Story> = LazyLock::new(money::story);
/// Account records that are known already.
static RECORDS: LazyLock<[CheckedRecord; 2]> =
    LazyLock::new(|| [HANA, DURI].map(|who| CheckedRecord::check(who.signed_record()).unwrap()));

/// What is done with the bytes of one kind of object.
type Check = fn(&[u8]);

/// The kinds by name. The first byte of an input is a place in this list, so new ones go to the end.
pub(crate) const KINDS: [(&str, Check); 38] = [
    ("frame", frame),
    ("envelope", envelope),
    ("sealed", sealed),
    ("encapsulation", encapsulation),
    ("payload", payload),
    ("content", content),
    ("letter", letter),
    ("signed-letter", signed::<Letter>),
    ("account-record", account_record),
    ("signed-account-record", signed_account_record),
    ("device-certificate", same_only::<DeviceCertificate>),
    ("signed-device-certificate", certificate),
    ("key-bundle", key_bundle),
    ("signed-key-bundle", signed::<KeyBundle>),
    ("one-time-key", same_only::<OneTimeKey>),
    ("signed-one-time-key", signed::<OneTimeKey>),
    ("node-record", node_record),
    ("signed-node-record", signed_node_record),
    ("custody-receipt", custody_receipt),
    ("signed-custody-receipt", signed::<CustodyReceipt>),
    ("statement", statement),
    ("signed-statement", signed::<Statement>),
    ("signed-volume", signed_volume),
    ("signed-page", signed_page),
    ("records", same_only::<Records>),
    ("signed-locator", signed_locator),
    ("invitation", invitation),
    ("invitation-link", invitation_link),
    ("entry", entry),
    ("signed-entry", signed::<Entry>),
    ("equivocation-proof", equivocation_proof),
    ("line", line),
    ("debt-record", debt_record),
    ("entry-record", same_only::<EntryRecord>),
    ("chat", chat),
    ("text", text),
    ("shelf-receipt", same_only::<ShelfReceipt>),
    ("signed-shelf-receipt", signed::<ShelfReceipt>),
];

/// The target.
pub(crate) fn run(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    let (_, check) = KINDS[usize::from(*kind) % KINDS.len()];
    check(bytes);
}

/// Decodes. What decodes has this encoding and no other, and can be written to a log.
fn same<T: Wire + Debug + PartialEq>(bytes: &[u8]) -> Option<T> {
    match codec::decode::<T>(bytes) {
        Ok(object) => {
            assert!(bytes.len() <= T::MAX, "{} is longer than allowed", T::NAME);
            assert_eq!(
                codec::encode(&object),
                bytes,
                "{} has two encodings",
                T::NAME
            );
            assert!(!format!("{object:?}").is_empty());
            Some(object)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

fn same_only<T: Wire + Debug + PartialEq>(bytes: &[u8]) {
    same::<T>(bytes);
}

/// The same for something signed, and for what is in it. Nobody signed it, or the samples did.
fn signed<T: Signable + Debug + PartialEq>(bytes: &[u8]) {
    if let Some(signed) = same::<Signed<T>>(bytes) {
        inside(&signed);
    }
}

fn inside<T: Signable + Debug + PartialEq>(signed: &Signed<T>) -> Option<T> {
    let object = signed.unverified().ok();
    assert_eq!(same::<T>(signed.bytes()), object);
    for signer in &*SIGNERS {
        if let Ok(opened) = signed.open(signer) {
            assert_eq!(signed.hash(), signer_hash(&opened));
            assert_eq!(Some(opened), object);
        }
    }
    object
}

fn signer_hash<T: Signable>(object: &T) -> Hash {
    crypto::hash(T::CONTEXT, &[&codec::encode(object)])
}

/// As the node takes a frame apart.
fn frame(bytes: &[u8]) {
    let Some(frame) = same::<Frame>(bytes) else {
        return;
    };
    match &frame {
        Frame::Hello { record } => open_node(record),
        Frame::Put { parcels, .. } => {
            for parcel in parcels.iter().take(8) {
                envelope(&parcel.envelope);
                for seal in parcel.seals.iter().take(2) {
                    let _ = seal.name();
                }
            }
        }
        Frame::Receipts(list) => list.iter().take(4).for_each(|one| {
            inside(one);
        }),
        Frame::Refused { records, .. } => records.iter().take(4).for_each(check_record),
        Frame::Statements(list) => list.iter().take(4).for_each(|one| {
            inside(one);
        }),
        Frame::Request { request, .. } => match request {
            Request::Keep { record, keys } | Request::Record { record, keys } => {
                check_record(record);
                check_bundle(keys, record);
            }
            Request::Release { record } => check_record(record),
            Request::OneTimeKeys { keys, .. } => keys.iter().take(4).for_each(|one| {
                inside(one);
            }),
            Request::Reconcile { message, .. } => {
                super::reconcile::hostile(message);
            }
            _ => {}
        },
        Frame::Response { response, .. } => match response {
            Response::Newer(record) | Response::Record(Some(record)) => check_record(record),
            Response::Keys {
                record,
                keys,
                one_time,
            } => {
                check_record(record);
                check_bundle(keys, record);
                if let Some(one) = one_time {
                    inside(one);
                }
            }
            Response::Nodes(list) => list.iter().take(4).for_each(open_node),
            Response::Reconcile(message) => {
                super::reconcile::hostile(message);
            }
            _ => {}
        },
        Frame::Pages { volumes, pages } => {
            for volume in volumes.iter().take(2) {
                inside(volume);
                if let Ok(checked) = CheckedVolume::check(volume.clone()) {
                    pages.iter().take(4).for_each(|page| {
                        let _ = checked.page(page);
                    });
                }
            }
            pages.iter().take(4).for_each(|page| {
                inside(page);
            });
        }
        Frame::Noted(_) | Frame::Attest { .. } => {}
    }
}

/// A head of a volume is whose it says, or refused.
fn signed_volume(bytes: &[u8]) {
    if let Some(signed) = same::<Signed<Volume>>(bytes) {
        inside(&signed);
        let _ = CheckedVolume::check(signed);
    }
}

/// A page: of the sample's volume, or refused; opened, or not.
fn signed_page(bytes: &[u8]) {
    let Some(signed) = same::<Signed<Page>>(bytes) else {
        return;
    };
    inside(&signed);
    if let Ok(page) = super::samples::archive::volume().page(&signed) {
        let keys = PageKeys::first(Secret([7; 32]));
        assert!(archive::open(&page, &keys).is_err());
    }
}

fn signed_locator(bytes: &[u8]) {
    if let Some(signed) = same::<Signed<Locator>>(bytes)
        && let Ok(locator) = locator::check(&signed)
    {
        assert_eq!(locator.name, HANA.keys().locator.public());
        assert!(locator::read(&locator, &HANA.keys().locator).is_ok());
    }
}

fn envelope(bytes: &[u8]) {
    let Some(envelope) = same::<Envelope>(bytes) else {
        return;
    };
    let _ = Envelope::id_of(bytes);
    let key = CAPABILITY.tag_key();
    let closed_again = Envelope::close(envelope.sealed.clone(), &key);
    assert_eq!(envelope.tag_fits(&key), closed_again == envelope);
    let none = Usage::default();
    let admitted = mailbox::admit(&envelope, bytes.len(), VERSION, Some(&key), none, none).is_ok();
    assert!(!admitted || envelope.tag_fits(&key));
    shape(&envelope.sealed);
}

fn sealed(bytes: &[u8]) {
    if let Some(sealed) = same::<Sealed>(bytes) {
        shape(&sealed);
    }
}

/// What is admitted is kept for a while, and not for ever.
fn shape(sealed: &Sealed) {
    if mailbox::admit_shape(sealed, NOW).is_ok() {
        let longest = mailbox::RETENTION_MAX + mailbox::CLOCK_AHEAD_MAX;
        assert!(sealed.expires > NOW && sealed.expires.since(NOW) <= longest);
    }
}

fn encapsulation(bytes: &[u8]) {
    if let Some(encapsulation) = same::<Encapsulation>(bytes) {
        let _ = encapsulation.name();
    }
}

fn payload(bytes: &[u8]) {
    match same::<Payload>(bytes) {
        Some(Payload::Letter { letter: signed, .. }) => {
            if let Some(letter) = inside(&signed) {
                content(&letter.content);
            }
        }
        Some(Payload::Entry { entry: signed, .. }) => {
            if let Some(entry) = inside(&signed) {
                hostile_entry(&entry);
            }
        }
        None => {}
    }
}

fn letter(bytes: &[u8]) {
    if let Some(letter) = same::<Letter>(bytes) {
        content(&letter.content);
    }
}

fn content(bytes: &[u8]) {
    let Some(content) = same::<Content>(bytes) else {
        return;
    };
    let id = Content::id_of(bytes);
    match &content.body {
        Body::Hello { record, keys, .. } => {
            check_record(record);
            check_bundle(keys, record);
        }
        Body::Welcome { record, .. } | Body::Record(record) => check_record(record),
        Body::Text {
            epoch,
            sequence,
            heads,
            ..
        } => {
            let at = Position {
                id,
                epoch: *epoch,
                sequence: *sequence,
                time: content.time,
            };
            receive(&mut super::samples::chat(), &at, heads);
        }
        Body::Reset { .. } | Body::Resend { .. } | Body::LineView { .. } => {}
    }
}

fn check_record(signed: &Signed<AccountRecord>) {
    inside(signed);
    let Ok(checked) = CheckedRecord::check(signed.clone()) else {
        return;
    };
    assert_eq!(checked.record.check_bounds(), Ok(()));
    assert!(!checked.replaces(&checked));
    let known = &RECORDS[0];
    assert!(!(checked.replaces(known) && known.replaces(&checked)));
    let nodes = checked
        .record
        .keepers
        .iter()
        .map(|keeper| keeper.place.node);
    let holders: BTreeSet<NodeId> = nodes.collect();
    assert!(delivery::buildings(&checked, &holders) <= holders.len());
    let _ = delivery::kept(&checked, &holders);
}

fn check_bundle(keys: &Signed<KeyBundle>, record: &Signed<AccountRecord>) {
    inside(keys);
    if let Ok(checked) = CheckedRecord::check(record.clone())
        && let Ok(bundle) = KeyBundle::open_for(keys, &checked)
    {
        assert_eq!(bundle.account, checked.account());
    }
}

/// A device that signs whatever its program says: the bounds are what remains.
fn account_record(bytes: &[u8]) {
    if let Some(record) = same::<AccountRecord>(bytes) {
        let signed = HANA.by_device(&record);
        let certified = DeviceCertificate::open(&record.certificate)
            .is_ok_and(|certificate| certificate.device == DeviceKey(SIGNERS[0]));
        let passes = certified && record.check_bounds().is_ok();
        assert_eq!(CheckedRecord::check(signed.clone()).is_ok(), passes);
        check_record(&signed);
    }
}

fn signed_account_record(bytes: &[u8]) {
    if let Some(signed) = same::<Signed<AccountRecord>>(bytes) {
        check_record(&signed);
    }
}

fn certificate(bytes: &[u8]) {
    if let Some(signed) = same::<Signed<DeviceCertificate>>(bytes)
        && let Ok(certificate) = DeviceCertificate::open(&signed)
    {
        assert_eq!(signed.check(&certificate.account.0), Ok(()));
    }
}

/// A bundle signed by the device, with a record that names it.
fn key_bundle(bytes: &[u8]) {
    if let Some(bundle) = same::<KeyBundle>(bytes) {
        let signed = HANA.by_device(&bundle);
        let mut record = HANA.record();
        record.keys = signed.hash();
        check_bundle(&signed, &HANA.by_device(&record));
    }
}

/// A record signed by the node that it names.
fn node_record(bytes: &[u8]) {
    if let Some(mut record) = same::<NodeRecord>(bytes) {
        record.place.node = HANA.node();
        let signed = HANA.by_node(&record);
        open_node(&signed);
        let long =
            record.expires.since(record.signed_at) > pumasi_protocol::record::NODE_RECORD_LIFE_MAX;
        assert!(!long || NodeRecord::open(&signed, NOW).is_err());
    }
}

fn signed_node_record(bytes: &[u8]) {
    if let Some(signed) = same::<Signed<NodeRecord>>(bytes) {
        open_node(&signed);
    }
}

fn open_node(signed: &Signed<NodeRecord>) {
    inside(signed);
    if let Ok(record) = NodeRecord::open(signed, NOW) {
        assert_eq!(signed.check(&record.place.node.0), Ok(()));
        assert!(record.expires > NOW);
    }
}

fn custody_receipt(bytes: &[u8]) {
    if let Some(receipt) = same::<CustodyReceipt>(bytes) {
        let record = &RECORDS[1];
        if delivery::counts(&receipt, record) {
            assert!(record.keeper(&receipt.keeper).is_some());
        }
    }
}

fn statement(bytes: &[u8]) {
    if let Some(statement) = same::<Statement>(bytes)
        && let Action::Grant { tag_key, .. } = &statement.action
    {
        // Keepers get it from the owner: any key must do.
        assert!(!format!("{statement:?}").contains(&format!("{:?}", tag_key.0)));
    }
}

/// The link is as good as the bytes.
fn invitation(bytes: &[u8]) {
    if let Some(invitation) = same::<Invitation>(bytes) {
        let link = invitation.link();
        let checked = CheckedRecord::check(invitation.record.clone());
        let alive = invitation.expires > NOW;
        match Invitation::parse(&link, NOW) {
            Ok((again, record)) => {
                assert!(alive && checked.as_ref() == Ok(&record));
                assert_eq!(again, invitation);
            }
            Err(_) => assert!(!alive || checked.is_err()),
        }
    }
}

fn invitation_link(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Invitation::parse(&text, NOW) {
        Ok((invitation, _)) => assert_eq!(invitation.qr_text(), text.trim().to_uppercase()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn entry(bytes: &[u8]) {
    if let Some(entry) = same::<Entry>(bytes) {
        hostile_entry(&entry);
    }
}

/// An entry that its author signed, at an end that knows the samples' history.
fn hostile_entry(entry: &Entry) {
    let well_formed = entry.check().is_ok();
    let _ = entry.chain();
    for end in [&STORY.hana, &STORY.duri] {
        let mut end = end.clone();
        let before = end.line.clone();
        let taken = end.take(entry);
        assert!(well_formed || taken.is_err());
        assert!(
            taken.is_ok() || end.line == before,
            "a refused entry changed the line"
        );
    }
    // The same entry for the right line, as far as one field after the other goes.
    let mut fitting = entry.clone();
    fitting.author = RECORDS[0].account();
    fitting.counterparty = RECORDS[1].account();
    fitting.unit = money::unit();
    fitting.line = line_id(fitting.author, fitting.counterparty, &fitting.unit);
    let mut end = money::End::new(fitting.counterparty, fitting.author);
    let first = end.take(&fitting);
    let again = end.take(&fitting);
    assert!(first.is_err() || again == Err(pumasi_protocol::line::EntryFault::Duplicate));
    let _ = end.line.answers_due(&BTreeMap::new());
    assert_eq!(
        codec::decode::<Line>(&codec::encode(&end.line)).unwrap(),
        end.line
    );
}

fn equivocation_proof(bytes: &[u8]) {
    if let Some(proof) = same::<EquivocationProof>(bytes) {
        inside(&proof.first);
        inside(&proof.second);
        if let Ok(entry) = proof.check(&SIGNERS[0]) {
            assert_ne!(proof.first, proof.second);
            // One entry twice proves nothing, and there is one order.
            let (first, second) = (proof.first.clone(), proof.second.clone());
            for (first, second) in [(first.clone(), first.clone()), (second, first)] {
                let none = EquivocationProof { first, second };
                assert!(none.check(&SIGNERS[0]).is_err());
            }
            assert_eq!(proof.second.unverified().unwrap().sequence, entry.sequence);
            let turned = EquivocationProof::new(proof.second.clone(), proof.first.clone());
            assert_eq!(turned, proof);
        }
    }
}

/// A state from a damaged store: reading it must not stop the program.
fn line(bytes: &[u8]) {
    let Some(line) = same::<Line>(bytes) else {
        return;
    };
    let view = line.view();
    assert_eq!(view.balance, line.balance());
    let _ = line.evidence();
    let _ = line.certificate(line.other());
    assert_eq!(line.holds(line.me()).len(), line.heads(line.me()).len());
    for span in line.wants() {
        assert!(span.from <= span.to);
    }
    let stamp = Stamp {
        epoch: 1,
        certificate: RECORDS[0].record.certificate.hash(),
        now: NOW,
    };
    let answers = line.answers_due(&BTreeMap::new());
    let one = answers
        .accept
        .first()
        .copied()
        .unwrap_or(DebtId::Iou(PaymentId([7; 32])));
    let lock = LockId([9; 32]);
    let drafts = [
        line.propose_limit(stamp, Amount(u64::MAX), Amount(u64::MAX)),
        line.propose_free(stamp, &[lock]),
        line.propose_waive(stamp, &[lock]),
        line.propose_iou(stamp, PaymentId([8; 32]), Amount(1), "", None),
        line.propose_accept(stamp, &[one]),
        line.propose_close(stamp),
        line.propose_resume(stamp),
    ];
    for draft in drafts.into_iter().flatten() {
        let hash = money::hash_of(&draft);
        if let Ok(received) = line.receive(&draft, hash, &Known::default()) {
            let _ = received.line().view();
        }
    }
}

fn debt_record(bytes: &[u8]) {
    if let Some(record) = same::<DebtRecord>(bytes) {
        let awaited = record.status() == pumasi_protocol::line::DebtStatus::Awaited;
        assert_eq!(awaited, record.amount().is_none());
        let _ = (
            record.is_accepted(),
            record.opened(true, Opening::Preimage([1; 32])),
        );
    }
}

fn chat(bytes: &[u8]) {
    let Some(mut chat) = same::<Chat>(bytes) else {
        return;
    };
    chat.compose(NOW);
    chat.sent(MessageId([1; 32]));
    let highest = chat.last_received();
    for sequence in [
        highest.saturating_add(1),
        highest.saturating_add(3),
        highest,
        1,
        0,
        u64::MAX,
    ] {
        for epoch in [0, EPOCH, u64::MAX] {
            let at = Position {
                id: MessageId([2; 32]),
                epoch,
                sequence,
                time: Time(u64::MAX),
            };
            receive(&mut chat, &at, &[Head([3; 16]); HEADS_MAX + 1]);
            receive(&mut chat, &at, &[Head([3; 16]); HEADS_MAX]);
        }
    }
}

/// A text arrives; a refused one changes nothing.
fn receive(chat: &mut Chat, at: &Position, heads: &[Head]) {
    let before = chat.clone();
    if let Arrival::Refused(_) = chat.receive(at, heads, NOW) {
        assert_eq!(*chat, before);
    }
    assert!(chat.holes().len() <= HOLES_MAX.max(before.holes().len()));
    let _ = chat.lost();
}

/// What people type.
fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    reads_back::<AccountId>(&text);
    reads_back::<NodeId>(&text);
    reads_back::<DeviceKey>(&text);
    reads_back::<EnvelopeId>(&text);
    reads_back::<MessageId>(&text);
    reads_back::<PaymentId>(&text);
    reads_back::<LineId>(&text);
    reads_back::<LockId>(&text);
    reads_back::<ConversationId>(&text);
    reads_back::<Hash>(&text);
    reads_back::<Unit>(&text);
    reads_back::<Amount>(&text);
    if let Ok(phrase) = Phrase::parse(&text) {
        let words: Vec<_> = phrase.words().collect();
        let typed: Vec<_> = text.split_whitespace().map(str::to_lowercase).collect();
        assert_eq!(words, typed);
        let _ = phrase.keys();
    }
    let plain = pumasi_protocol::record::normal(&text);
    assert_eq!(pumasi_protocol::record::normal(&plain), plain);
}

/// What a text means does not change when it is shown and typed again.
fn reads_back<T: FromStr<Err: Display> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert_eq!(value.to_string().parse::<T>().ok(), Some(value)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
