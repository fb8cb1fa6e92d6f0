//! One example of every object that is signed, sent or stored, made from fixed seeds: what the vectors
//! write down and what the fuzz targets start from. Nothing is checked here.
#![allow(dead_code, reason = "every test that includes this uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a sample that cannot be made must stop the test"
)]

use pumasi_protocol::chat::{Chat, Position};
use pumasi_protocol::codec;
use pumasi_protocol::crypto::{Secret, Signable, Signed, SigningKey};
use pumasi_protocol::envelope::{
    Body, Capability, Content, Conversation, Encapsulation, Envelope, Head, Letter, Payload,
    SealFor, key_commitment,
};
use pumasi_protocol::identity::{DeviceCertificate, Phrase, RootKeys};
use pumasi_protocol::invitation::Invitation;
use pumasi_protocol::mailbox::{Action, CustodyReceipt, RETENTION, ShelfReceipt, Statement};
use pumasi_protocol::record::{
    AccountRecord, KeeperEntry, KeyBundle, NodeRecord, OneTimeKey, Place, RecordVersion,
};
use pumasi_protocol::seal::{self, SealKey, Sealing};
use pumasi_protocol::types::{
    AccountId, DAY, DeviceKey, EnvelopeId, Hash, MessageId, NodeId, Time,
};

pub(crate) mod archive;
pub(crate) mod frames;
pub(crate) mod money;

/// The time of all samples: 2026-11-18.
pub(crate) const NOW: Time = Time(1_795_000_000_000);
/// The epoch of all sample devices.
pub(crate) const EPOCH: u64 = 1_795_000_000;
/// The content key of the sample envelopes.
pub(crate) const CONTENT_KEY: Secret = Secret([0x61; 32]);
/// Their nonce.
pub(crate) const NONCE: [u8; 24] = [0x62; 24];
/// The randomness of the sample seal keys: device, then recovery.
pub(crate) const SEAL_RANDOM: [[u8; 32]; 2] = [[0x63; 32], [0x64; 32]];
/// The secret of Duri's capability, which Hana writes with.
pub(crate) const CAPABILITY: Capability = Capability(Secret([0x65; 32]));
/// Stands for a ratchet message: its type byte and its bytes. The rules here do not look into it.
pub(crate) const RATCHET_MESSAGE: [u8; 96] = [0x66; 96];

/// A person with all its keys.
pub(crate) struct Person {
    /// The entropy of its phrase.
    pub(crate) entropy: [u8; 32],
    /// The seed of its device's signing key.
    pub(crate) device_seed: [u8; 32],
    /// The seed of its device's seal key.
    pub(crate) seal_seed: Secret,
    /// The seed of its node's key.
    pub(crate) node_seed: [u8; 32],
    name: &'static str,
    operator: &'static str,
    building: &'static str,
}

/// Who writes and pays.
pub(crate) const HANA: Person = person(0x01, "하나", "kim", "Pangyo A");
/// Who receives and lends.
pub(crate) const DURI: Person = person(0x02, "두리", "lee", "Haeundae-3");
/// Who keeps mailboxes for both.
pub(crate) const SEYEON: Person = person(0x03, "세연", "park", "Sejong");

const fn person(
    n: u8,
    name: &'static str,
    operator: &'static str,
    building: &'static str,
) -> Person {
    Person {
        entropy: [n; 32],
        device_seed: [0x10 + n; 32],
        seal_seed: Secret([0x20 + n; 32]),
        node_seed: [0x30 + n; 32],
        name,
        operator,
        building,
    }
}

impl Person {
    /// The 24 words.
    pub(crate) fn phrase(&self) -> Phrase {
        Phrase::from_entropy(&self.entropy)
    }

    /// The keys of the words.
    pub(crate) fn keys(&self) -> RootKeys {
        self.phrase().keys()
    }

    /// The account.
    pub(crate) fn account(&self) -> AccountId {
        self.keys().account()
    }

    /// The device's signing key.
    pub(crate) fn device(&self) -> SigningKey {
        SigningKey::from_seed(&self.device_seed)
    }

    /// The node's key.
    pub(crate) fn node_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.node_seed)
    }

    /// The node.
    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node_key().public())
    }

    /// The device certificate.
    pub(crate) fn certificate(&self) -> Signed<DeviceCertificate> {
        DeviceCertificate::issue(&self.keys(), DeviceKey(self.device().public()), EPOCH)
    }

    fn place(&self) -> Place {
        let port = 4_000 + u16::from(self.entropy[0]);
        let addresses = vec![
            format!("/ip4/192.0.2.{}/udp/{port}/quic-v1", self.entropy[0]),
            format!("/dns4/node{}.example/tcp/{port}", self.entropy[0]),
        ];
        Place {
            node: self.node(),
            addresses,
        }
    }

    fn keeper(&self) -> KeeperEntry {
        KeeperEntry {
            place: self.place(),
            operator: self.operator.into(),
            building: self.building.into(),
            joining: false,
        }
    }

    /// The key bundle.
    pub(crate) fn bundle(&self) -> KeyBundle {
        KeyBundle {
            account: self.account(),
            epoch: EPOCH,
            device_seal: seal::public_key(&self.seal_seed).into(),
            recovery_seal: seal::public_key(&self.keys().recovery).into(),
            ratchet_identity: [0x40 + self.entropy[0]; 32],
            last_resort: [0x50 + self.entropy[0]; 32],
        }
    }

    /// The account record: two keepers, one of them Seyeon.
    pub(crate) fn record(&self) -> AccountRecord {
        let other = if self.entropy == HANA.entropy {
            DURI
        } else {
            HANA
        };
        AccountRecord {
            certificate: self.certificate(),
            version: 3,
            name: self.name.into(),
            home: self.place(),
            keepers: vec![SEYEON.keeper(), other.keeper()],
            safe_copies: 2,
            keys: self.by_device(&self.bundle()).hash(),
        }
    }

    /// The signed account record.
    pub(crate) fn signed_record(&self) -> Signed<AccountRecord> {
        self.by_device(&self.record())
    }

    /// Signs with the device.
    pub(crate) fn by_device<T: Signable>(&self, object: &T) -> Signed<T> {
        Signed::sign(object, &self.device())
    }

    /// Signs with the node.
    pub(crate) fn by_node<T: Signable>(&self, object: &T) -> Signed<T> {
        Signed::sign(object, &self.node_key())
    }

    /// The node record.
    pub(crate) fn node_record(&self) -> NodeRecord {
        NodeRecord {
            place: self.place(),
            operator: self.operator.into(),
            building: self.building.into(),
            newcomers: 12,
            signed_at: NOW,
            expires: NOW.plus(DAY),
        }
    }

    /// A one-time key.
    pub(crate) fn one_time_key(&self) -> OneTimeKey {
        OneTimeKey {
            account: self.account(),
            epoch: EPOCH,
            key: [0x70 + self.entropy[0]; 32],
        }
    }
}

/// The version of Duri's record that samples name.
pub(crate) const VERSION: RecordVersion = RecordVersion {
    epoch: EPOCH,
    version: 3,
};

/// Seyeon keeps two envelopes for Duri.
pub(crate) fn receipt() -> CustodyReceipt {
    CustodyReceipt {
        mailbox: DURI.account(),
        record: VERSION,
        keeper: SEYEON.node(),
        until: NOW.plus(RETENTION),
        ids: vec![EnvelopeId([0x81; 32]), EnvelopeId([0x82; 32])],
    }
}

/// Seyeon keeps Duri's whole archive.
pub(crate) fn shelf_receipt() -> ShelfReceipt {
    ShelfReceipt {
        mailbox: DURI.account(),
        record: VERSION,
        keeper: SEYEON.node(),
        until: NOW.plus(RETENTION),
        pages: Hash([0x83; 32]),
    }
}

/// Duri says everything that can be said of a mailbox.
pub(crate) fn statements() -> Vec<(&'static str, Statement)> {
    let statement = |action| Statement {
        account: DURI.account(),
        epoch: EPOCH,
        time: NOW,
        action,
    };
    let capability = CAPABILITY.id();
    vec![
        (
            "delivered",
            statement(Action::Delivered { ids: receipt().ids }),
        ),
        (
            "read",
            statement(Action::Read {
                messages: vec![MessageId([0x83; 32])],
            }),
        ),
        (
            "grant",
            statement(Action::Grant {
                capability,
                tag_key: CAPABILITY.tag_key(),
            }),
        ),
        ("revoke", statement(Action::Revoke { capability })),
    ]
}

/// Duri invites.
pub(crate) fn invitation() -> Invitation {
    Invitation {
        record: DURI.signed_record(),
        capability: CAPABILITY,
        expires: NOW.plus(7 * DAY),
    }
}

/// Hana says everything that can be said to Duri.
pub(crate) fn contents() -> Vec<(&'static str, Content)> {
    let content = |body| Content {
        sender: HANA.account(),
        recipient: DURI.account(),
        time: NOW,
        body,
    };
    let record = || Box::new(HANA.signed_record());
    let text = Body::Text {
        epoch: EPOCH,
        conversation: Conversation::Direct,
        sequence: 300,
        heads: vec![Head([0x91; 16]), Head([0x92; 16])],
        text: "내일 품앗이 어때?".into(),
    };
    let keys = Box::new(HANA.by_device(&HANA.bundle()));
    let hello = Body::Hello {
        record: record(),
        keys,
        capability: CAPABILITY,
    };
    vec![
        ("text", content(text)),
        ("hello", content(hello)),
        (
            "welcome",
            content(Body::Welcome {
                record: record(),
                capability: CAPABILITY,
            }),
        ),
        ("record", content(Body::Record(record()))),
        (
            "reset",
            content(Body::Reset {
                unopened: vec![EnvelopeId([0x93; 32])],
            }),
        ),
        (
            "resend",
            content(Body::Resend {
                epoch: EPOCH,
                first: 7,
                last: 9,
            }),
        ),
    ]
}

/// The letter with Hana's text.
pub(crate) fn letter() -> Letter {
    let (_, text) = contents().swap_remove(0);
    Letter {
        content: codec::encode(&text).into(),
        key: key_commitment(&CONTENT_KEY),
    }
}

/// What an envelope can hold.
pub(crate) fn payloads() -> Vec<(&'static str, Payload)> {
    let entry = money::story().signed.swap_remove(1).1;
    vec![
        (
            "letter",
            Payload::Letter {
                epoch: EPOCH,
                record: None,
                letter: HANA.by_device(&letter()),
            },
        ),
        (
            "entry",
            Payload::Entry {
                epoch: EPOCH,
                record: None,
                entry,
            },
        ),
    ]
}

/// The seal keys that Hana agrees with Duri, with the encapsulations: device, then recovery.
pub(crate) fn seals() -> [(Encapsulation, SealKey); 2] {
    let seal = |for_key, seed: &Secret, random| {
        let (mailbox, sender) = (DURI.account(), HANA.account());
        let public = seal::public_key(seed);
        let (encapsulation, key) =
            seal::agree(&public, for_key, &mailbox, &sender, random).unwrap();
        let name = encapsulation.name();
        (encapsulation, SealKey { name, key })
    };
    [
        seal(SealFor::Device, &DURI.seal_seed, &SEAL_RANDOM[0]),
        seal(SealFor::Recovery, &DURI.keys().recovery, &SEAL_RANDOM[1]),
    ]
}

/// An envelope from Hana to Duri.
pub(crate) fn envelope(payload: &Payload, recovery_copy: bool) -> Envelope {
    let [(_, device), (_, recovery)] = seals();
    let sealing = Sealing {
        mailbox: DURI.account(),
        record: VERSION,
        created: NOW,
        expires: NOW.plus(RETENTION),
        capability: &CAPABILITY,
        device: &device,
        recovery: recovery_copy.then_some(&recovery),
        content_key: &CONTENT_KEY,
        nonce: NONCE,
        ratchet_message: &RATCHET_MESSAGE,
        payload,
    };
    seal::seal(&sealing).unwrap()
}

/// The state of a chat that sent, received, and misses two texts.
pub(crate) fn chat() -> Chat {
    let mut chat = Chat::default();
    chat.compose(NOW);
    chat.sent(MessageId([0x94; 32]));
    for sequence in [1, 4] {
        let id = MessageId([0x95 + sequence as u8; 32]);
        let at = Position {
            id,
            epoch: EPOCH,
            sequence,
            time: NOW.plus(sequence),
        };
        chat.receive(&at, &[], NOW);
    }
    chat
}

/// An encoded sample: what kind of object, its name, its bytes.
pub(crate) type Encoded = (&'static str, String, Vec<u8>);

/// Every object with all its variants, encoded. The kinds are those of the fuzz target `decode`.
pub(crate) fn all() -> Vec<Encoded> {
    let mut all = Vec::new();
    let one = |kind, bytes| (kind, String::from("sample"), bytes);
    for (name, frame) in frames::all() {
        all.push(("frame", name.into(), codec::encode(&frame)));
    }
    for (name, content) in contents() {
        all.push(("content", name.into(), codec::encode(&content)));
    }
    for (name, payload) in payloads() {
        all.push(("payload", name.into(), codec::encode(&payload)));
        let envelope = envelope(&payload, name == "letter");
        all.push(("envelope", name.into(), codec::encode(&envelope)));
        all.push(("sealed", name.into(), codec::encode(&envelope.sealed)));
    }
    all.push((
        "signed-volume",
        "hana".into(),
        codec::encode(&archive::volume().signed),
    ));
    all.push((
        "signed-page",
        "hana".into(),
        codec::encode(&archive::page()),
    ));
    all.push(("records", "hana".into(), codec::encode(&archive::records())));
    all.push((
        "signed-locator",
        "hana".into(),
        codec::encode(&archive::locator()),
    ));
    for (name, statement) in statements() {
        all.push(("statement", name.into(), codec::encode(&statement)));
        all.push((
            "signed-statement",
            name.into(),
            codec::encode(&DURI.by_device(&statement)),
        ));
    }
    let [(device, _), (recovery, _)] = seals();
    all.push(("encapsulation", "device".into(), codec::encode(&device)));
    all.push(("encapsulation", "recovery".into(), codec::encode(&recovery)));
    let (letter, record, bundle) = (letter(), HANA.record(), HANA.bundle());
    let (one_time, node, receipt) = (HANA.one_time_key(), HANA.node_record(), receipt());
    all.push(one("letter", codec::encode(&letter)));
    all.push(one(
        "signed-letter",
        codec::encode(&HANA.by_device(&letter)),
    ));
    all.push(one("account-record", codec::encode(&record)));
    all.push(one(
        "signed-account-record",
        codec::encode(&HANA.by_device(&record)),
    ));
    all.push(one("key-bundle", codec::encode(&bundle)));
    all.push(one(
        "signed-key-bundle",
        codec::encode(&HANA.by_device(&bundle)),
    ));
    all.push(one("one-time-key", codec::encode(&one_time)));
    all.push(one(
        "signed-one-time-key",
        codec::encode(&HANA.by_device(&one_time)),
    ));
    all.push(one("node-record", codec::encode(&node)));
    all.push(one(
        "signed-node-record",
        codec::encode(&HANA.by_node(&node)),
    ));
    all.push(one("custody-receipt", codec::encode(&receipt)));
    all.push(one(
        "signed-custody-receipt",
        codec::encode(&SEYEON.by_node(&receipt)),
    ));
    let shelf = shelf_receipt();
    all.push(one("shelf-receipt", codec::encode(&shelf)));
    all.push(one(
        "signed-shelf-receipt",
        codec::encode(&SEYEON.by_node(&shelf)),
    ));
    let certificate = HANA.certificate();
    all.push(one("device-certificate", certificate.bytes().to_vec()));
    all.push(one(
        "signed-device-certificate",
        codec::encode(&certificate),
    ));
    all.push(one("invitation", codec::encode(&invitation())));
    all.push(one("chat", codec::encode(&chat())));
    all.push(one("invitation-link", invitation().link().into_bytes()));
    all.extend(money::all());
    for text in [
        HANA.account().to_string(),
        HANA.node().to_string(),
        "15,000".into(),
    ] {
        all.push(("text", text.chars().take(5).collect(), text.into_bytes()));
    }
    let words: Vec<_> = HANA.phrase().words().collect();
    all.push(("text", "phrase".into(), words.join(" ").into_bytes()));
    let unit = format!("hour@{}", HANA.account());
    all.push(("text", "unit".into(), unit.into_bytes()));
    all
}

/// A hash that only fills a place.
pub(crate) const fn filler(n: u8) -> Hash {
    Hash([n; 32])
}
