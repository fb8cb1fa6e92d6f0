//! The bytes of every object as they are in the field, with what they were made from, for other programs
//! and against changes by mistake. `vectors/README.md` says how to read the files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that is wrong may panic"
)]
#![allow(clippy::disallowed_methods, reason = "the vectors are in files")]

mod samples;

use std::fmt::Debug;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use pumasi_protocol::chat;
use pumasi_protocol::codec::{self, Wire};
use pumasi_protocol::crypto::{self, Secret, Signable, Signed, SigningKey};
use pumasi_protocol::envelope::{Capability, Content, Envelope, Letter, SealFor, key_commitment};
use pumasi_protocol::identity::fingerprint;
use pumasi_protocol::line::{Entry, chain_id, line_id};
use pumasi_protocol::reconcile::{Item, SetDigest, SetView};
use pumasi_protocol::seal;
use pumasi_protocol::types::{AccountId, Time};
use pumasi_protocol::wire::keys_tag_text;
use serde::Serialize;
use serde_json::{Map, Value, json};

use samples::{
    CAPABILITY, CONTENT_KEY, DURI, HANA, NONCE, Person, RATCHET_MESSAGE, SEAL_RANDOM, SEYEON, money,
};

/// Set it to write the files anew.
const WRITE: &str = "PUMASI_WRITE_VECTORS";
/// What to do when bytes differ.
const ADVICE: &str = "Nodes in the field store, sign and compare these bytes. If the change is a \
    mistake, undo it. If it is meant: raise `Wire::VERSION` of the object (for an id, a key or a tag: \
    its domain or label), keep reading the former version, keep the former vector in a test of its \
    own, then run `PUMASI_WRITE_VECTORS=1 cargo test -p pumasi-protocol --test vectors` and commit \
    the files.";

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

/// An object's fields as JSON, with every byte string in hexadecimal.
fn fields<T: Serialize>(object: &T) -> Value {
    plain(serde_json::to_value(object).unwrap())
}

fn plain(value: Value) -> Value {
    match value {
        Value::Array(list) => {
            let byte = |value: &Value| value.as_u64().and_then(|number| u8::try_from(number).ok());
            match list.iter().map(byte).collect::<Option<Vec<u8>>>() {
                // No object has a list of small numbers.
                Some(bytes) if !bytes.is_empty() => json!(hex(bytes)),
                _ => list.into_iter().map(plain).collect(),
            }
        }
        Value::Object(object) => {
            let mut object: Map<_, _> = object
                .into_iter()
                .map(|(name, value)| (name, plain(value)))
                .collect();
            // A signature travels as two halves.
            if let Some(Value::Array(halves)) = object.get("signature") {
                let whole: String = halves.iter().filter_map(Value::as_str).collect();
                object.insert("signature".into(), json!(whole));
            }
            Value::Object(object)
        }
        other => other,
    }
}

/// The vectors of one file.
struct File {
    name: &'static str,
    vectors: Vec<Value>,
}

impl File {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            vectors: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, inputs: Value, outputs: Value) {
        self.vectors
            .push(json!({ "name": name, "inputs": inputs, "outputs": outputs }));
    }

    /// An object that travels, or is stored, as it is.
    fn object<T: Wire + Debug + PartialEq>(&mut self, name: &str, object: &T) {
        let bytes = codec::encode(object);
        assert_eq!(codec::decode::<T>(&bytes).as_ref(), Ok(object), "{name}");
        let outputs = json!({ "version": T::VERSION, "max": T::MAX, "bytes": hex(bytes) });
        self.add(name, json!({ "fields": fields(object) }), outputs);
    }

    /// An object that its signer signs.
    fn signed<T: Signable + Debug + PartialEq>(
        &mut self,
        name: &str,
        seed: &[u8; 32],
        signed: &Signed<T>,
    ) {
        let key = SigningKey::from_seed(seed);
        let object = signed.open(&key.public()).unwrap();
        assert_eq!(Signed::sign(&object, &key), *signed);
        let whole = codec::encode(signed);
        assert_eq!(
            codec::decode::<Signed<T>>(&whole).as_ref(),
            Ok(signed),
            "{name}"
        );
        let inputs = json!({
            "signer_seed": hex(seed),
            "context": T::CONTEXT,
            "fields": fields(&object),
        });
        let outputs = json!({
            "version": T::VERSION,
            "max": T::MAX,
            "bytes": hex(signed.bytes()),
            "signer": hex(key.public()),
            "signature": fields(signed)["signature"],
            "signed_bytes": hex(whole),
            "hash": hex(signed.hash().0),
        });
        self.add(name, inputs, outputs);
    }

    /// Compares with the file, vector by vector and output by output.
    fn check(self) {
        let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "vectors", self.name]
            .iter()
            .collect();
        let made = Value::Array(self.vectors);
        if std::env::var(WRITE).is_ok() {
            let text = serde_json::to_string_pretty(&made).unwrap();
            std::fs::write(&path, text + "\n").unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let known: Value = serde_json::from_str(&text).unwrap();
        let by_name = |list: &Value| -> Vec<(String, Value)> {
            let name = |vector: &Value| vector["name"].as_str().unwrap().to_owned();
            list.as_array()
                .unwrap()
                .iter()
                .map(|one| (name(one), one.clone()))
                .collect()
        };
        let (made, known) = (by_name(&made), by_name(&known));
        for (name, known) in &known {
            let Some((_, made)) = made.iter().find(|(other, _)| other == name) else {
                panic!(
                    "{}: nothing makes the vector `{name}` any more. {ADVICE}",
                    self.name
                );
            };
            for part in ["inputs", "outputs"] {
                for (key, value) in known[part].as_object().unwrap() {
                    let now = &made[part][key];
                    assert!(
                        now == value,
                        "{}: the vector `{name}` has changed in {part}.{key}:\nit was {value}\nit is  \
                         {now}\n{ADVICE}",
                        self.name,
                    );
                }
            }
        }
        assert_eq!(
            made.len(),
            known.len(),
            "{}: a vector is new. {ADVICE}",
            self.name
        );
        for ((name, made), (_, known)) in made.iter().zip(&known) {
            assert_eq!(
                made, known,
                "{}: the vector `{name}` has something new. {ADVICE}",
                self.name
            );
        }
    }
}

#[test]
fn signatures_hashes_and_keys_are_made_as_in_the_field() {
    let mut file = File::new("crypto.json");
    let (seed, secret) = ([0x0a; 32], [0x0b; 32]);
    let key = SigningKey::from_seed(&seed);
    file.add(
        "signature",
        json!({ "seed": hex(seed), "context": "example", "bytes": hex(b"pumasi") }),
        json!({ "public": hex(key.public()), "signature": hex(key.sign("example", b"pumasi").0) }),
    );
    file.add(
        "hash",
        json!({ "domain": "example", "parts": [hex(b"pu"), "", hex(b"masi")] }),
        json!({ "hash": hex(crypto::hash("example", &[b"pu", b"", b"masi"]).0) }),
    );
    file.add(
        "derived key",
        json!({ "secret": hex(secret), "label": "example v1" }),
        json!({ "key": hex(crypto::derive(&secret, "example v1").0) }),
    );
    file.add(
        "authentication tag",
        json!({ "key": hex(secret), "domain": "example", "bytes": hex(b"pumasi") }),
        json!({ "tag": hex(crypto::mac(&secret, "example", b"pumasi")) }),
    );
    file.add(
        "encryption",
        json!({
            "key": hex(secret),
            "nonce": hex(NONCE),
            "associated_data": hex(b"here"),
            "plaintext": hex(b"pumasi"),
        }),
        json!({ "ciphertext": hex(crypto::encrypt(&Secret(secret), &NONCE, b"here", b"pumasi")) }),
    );
    file.check();
}

fn person(file: &mut File, name: &str, person: &Person) {
    let keys = person.keys();
    let words: Vec<_> = person.phrase().words().collect();
    let account = person.account();
    file.add(
        &format!("phrase of {name}"),
        json!({ "entropy": hex(person.entropy), "words": words.join(" ") }),
        json!({
            "root_seed": hex(keys.root.seed().0),
            "recovery_seed": hex(keys.recovery.0),
            "locator_seed": hex(keys.locator.seed().0),
            "account": hex(account.0),
            "account_text": account.to_string(),
            "fingerprint": fingerprint(&account),
        }),
    );
}

#[test]
fn the_words_give_the_same_account_and_the_same_records() {
    let mut file = File::new("identity.json");
    person(&mut file, "hana", &HANA);
    person(&mut file, "duri", &DURI);
    let root = HANA.keys().root.seed().0;
    file.signed("device certificate", &root, &HANA.certificate());
    file.signed(
        "key bundle",
        &HANA.device_seed,
        &HANA.by_device(&HANA.bundle()),
    );
    file.signed("account record", &HANA.device_seed, &HANA.signed_record());
    file.signed(
        "one-time key",
        &HANA.device_seed,
        &HANA.by_device(&HANA.one_time_key()),
    );
    file.signed(
        "node record",
        &HANA.node_seed,
        &HANA.by_node(&HANA.node_record()),
    );
    let node = HANA.node();
    file.add(
        "node",
        json!({ "seed": hex(HANA.node_seed) }),
        json!({ "node": hex(node.0), "node_text": node.to_string() }),
    );
    let invitation = samples::invitation();
    file.object("invitation", &invitation);
    file.add(
        "invitation link",
        json!({ "bytes": hex(codec::encode(&invitation)) }),
        json!({ "link": invitation.link(), "qr_text": invitation.qr_text() }),
    );
    file.check();
}

#[test]
fn envelopes_are_sealed_as_in_the_field() {
    let mut file = File::new("envelope.json");
    let Capability(secret) = &CAPABILITY;
    file.add(
        "capability",
        json!({ "secret": hex(secret.0) }),
        json!({ "id": hex(CAPABILITY.id().0), "tag_key": hex(CAPABILITY.tag_key().0) }),
    );
    let seeds = [DURI.seal_seed, DURI.keys().recovery];
    let seals = samples::seals();
    for (((encapsulation, seal_key), seed), random) in seals.iter().zip(&seeds).zip(SEAL_RANDOM) {
        let device = encapsulation.for_key == SealFor::Device;
        let what = if device { "device" } else { "recovery" };
        let received = seal::receive(encapsulation, seed);
        assert_eq!(received, Ok((HANA.account(), seal_key.key.clone())));
        file.add(
            &format!("seal key for the {what}"),
            json!({
                "private_seed": hex(seed.0),
                "random": hex(random),
                "sender": hex(HANA.account().0),
                "mailbox": hex(DURI.account().0),
                "for_key": what,
            }),
            json!({
                "public": hex(seal::public_key(seed)),
                "encapsulation": hex(codec::encode(encapsulation)),
                "name": hex(seal_key.name.0),
                "key": hex(seal_key.key.0),
            }),
        );
    }
    for (name, content) in samples::contents() {
        file.object(&format!("content: {name}"), &content);
        let bytes = codec::encode(&content);
        let id = Content::id_of(&bytes);
        file.add(
            &format!("message id: {name}"),
            json!({ "content": hex(&bytes) }),
            json!({ "id": hex(id.0), "id_text": id.to_string() }),
        );
    }
    file.add(
        "commitment to a content key",
        json!({ "key": hex(CONTENT_KEY.0) }),
        json!({ "hash": hex(key_commitment(&CONTENT_KEY).0) }),
    );
    let letter: Signed<Letter> = HANA.by_device(&samples::letter());
    file.signed("letter", &HANA.device_seed, &letter);
    for (name, payload) in samples::payloads() {
        file.object(&format!("payload: {name}"), &payload);
        let recovery_copy = name == "letter";
        let envelope = samples::envelope(&payload, recovery_copy);
        let [(_, device), (_, recovery)] = &seals;
        assert_eq!(
            seal::open_body(&envelope.sealed, &CONTENT_KEY).as_ref(),
            Ok(&payload)
        );
        let bytes = codec::encode(&envelope);
        file.add(
            &format!("envelope: {name}"),
            json!({
                "payload": hex(codec::encode(&payload)),
                "content_key": hex(CONTENT_KEY.0),
                "nonce": hex(NONCE),
                "ratchet_message": hex(RATCHET_MESSAGE),
                "capability": hex(secret.0),
                "device_seal_key": hex(device.key.0),
                "recovery_seal_key": recovery_copy.then(|| hex(recovery.key.0)),
                "header": {
                    "suite": envelope.sealed.suite,
                    "mailbox": hex(envelope.sealed.mailbox.0),
                    "record": fields(&envelope.sealed.record),
                    "created": envelope.sealed.created.0,
                    "expires": envelope.sealed.expires.0,
                },
            }),
            json!({
                "outer": hex(&envelope.sealed.outer.0),
                "recovery": hex(&envelope.sealed.recovery.0),
                "body": hex(&envelope.sealed.body.0),
                "sealed": hex(codec::encode(&envelope.sealed)),
                "tag": hex(envelope.tag),
                "bytes": hex(&bytes),
                "id": hex(Envelope::id_of(&bytes).0),
            }),
        );
    }
    let conversation = chat::direct(&HANA.account(), &DURI.account());
    file.add(
        "conversation",
        json!({ "accounts": [hex(HANA.account().0), hex(DURI.account().0)] }),
        json!({ "id": hex(conversation.0), "id_text": conversation.to_string() }),
    );
    file.check();
}

#[test]
fn keepers_and_owners_sign_as_in_the_field() {
    let mut file = File::new("mailbox.json");
    let receipt = SEYEON.by_node(&samples::receipt());
    file.signed("custody receipt", &SEYEON.node_seed, &receipt);
    let shelf = SEYEON.by_node(&samples::shelf_receipt());
    file.signed("shelf receipt", &SEYEON.node_seed, &shelf);
    for (name, statement) in samples::statements() {
        let signed = DURI.by_device(&statement);
        file.signed(&format!("statement: {name}"), &DURI.device_seed, &signed);
    }
    file.signed(
        "archive volume",
        &HANA.device_seed,
        &samples::archive::volume().signed,
    );
    file.signed("archive page", &HANA.device_seed, &samples::archive::page());
    let records = codec::encode(&samples::archive::records());
    file.add(
        "records of the archive page",
        json!({ "phrase_entropy": hex(HANA.entropy) }),
        json!({ "bytes": hex(records) }),
    );
    file.signed(
        "locator",
        &HANA.keys().locator.seed().0,
        &samples::archive::locator(),
    );
    let (account, asker) = (DURI.account(), HANA.node());
    let tag = crypto::mac(
        &CAPABILITY.tag_key().0,
        "keys",
        &keys_tag_text(&account, &asker),
    );
    file.add(
        "tag of a request for keys",
        json!({
            "tag_key": hex(CAPABILITY.tag_key().0),
            "account": hex(account.0),
            "asker": hex(asker.0),
        }),
        json!({ "tag": hex(tag) }),
    );
    reconciliation(&mut file);
    file.check();
}

/// Two sets, the messages that find their differences, and the digests that tell them apart.
fn reconciliation(file: &mut File) {
    let item = |n: u8| Item {
        time: Time(samples::NOW.0 + u64::from(n)),
        id: [n; 32],
    };
    let sets: [Vec<Item>; 2] = [(1..20).map(item).collect(), (4..60).map(item).collect()];
    let [ours, theirs] = sets
        .each_ref()
        .map(|set| SetView::new(set.iter().copied()).unwrap());
    let mut messages = Vec::new();
    let mut next = Some(ours.begin().unwrap());
    while let Some(message) = next {
        let answer = theirs.answer(&message).unwrap();
        let progress = ours.advance(&answer).unwrap();
        messages.push(json!({
            "message": hex(message),
            "answer": hex(answer),
            "have": progress.have.iter().map(hex).collect::<Vec<_>>(),
            "need": progress.need.iter().map(hex).collect::<Vec<_>>(),
        }));
        next = progress.next;
    }
    let listed = |set: &[Item]| -> Value {
        set.iter()
            .map(|item| json!({ "time": item.time.0, "id": hex(item.id) }))
            .collect()
    };
    let digest = |set: &[Item]| {
        let mut digest = SetDigest::default();
        set.iter().for_each(|item| digest.add(&item.id));
        hex(digest.hash(set.len() as u64).0)
    };
    file.add(
        "reconciliation",
        json!({ "ours": listed(&sets[0]), "theirs": listed(&sets[1]) }),
        json!({ "steps": messages, "digests": [digest(&sets[0]), digest(&sets[1])] }),
    );
}

#[test]
fn frames_are_written_as_in_the_field() {
    let mut file = File::new("frames.json");
    for (name, frame) in samples::frames::all() {
        file.object(name, &frame);
    }
    file.check();
}

#[test]
fn lines_are_signed_as_in_the_field() {
    let mut file = File::new("line.json");
    let (hana, duri) = (HANA.account(), DURI.account());
    let line = line_id(hana, duri, &money::unit());
    file.add(
        "line id",
        json!({ "accounts": [hex(hana.0), hex(duri.0)], "unit": "KRW" }),
        json!({ "id": hex(line.0), "id_text": line.to_string() }),
    );
    let payment = money::payment_id(&hana, "rice");
    file.add(
        "payment id",
        json!({ "account": hex(hana.0), "idempotency_key": "rice" }),
        json!({ "id": hex(payment.0), "id_text": payment.to_string() }),
    );
    let certificate = HANA.certificate().hash();
    file.add(
        "chain id",
        json!({ "line": hex(line.0), "author": hex(hana.0), "certificate": hex(certificate.0) }),
        json!({ "id": hex(chain_id(line, hana, certificate).0) }),
    );
    let story = money::story();
    for (name, signed) in &story.signed {
        let by = signed.unverified().unwrap().author;
        let seed = if by == hana {
            HANA.device_seed
        } else {
            DURI.device_seed
        };
        file.signed(&format!("entry: {name}"), &seed, signed);
    }
    file.object("proof of equivocation", &money::proof());
    end(&mut file, "hana", &story.hana, &story.signed);
    end(&mut file, "duri", &story.duri, &story.signed);
    file.check();
}

/// What an end shows after the entries, and what it stores. Only the figures concern other programs.
fn end(file: &mut File, name: &str, end: &money::End, signed: &[(&'static str, Signed<Entry>)]) {
    let view = end.line.view();
    let states: Vec<String> = end
        .debts
        .values()
        .map(|debt| hex(codec::encode(debt)))
        .collect();
    let entry = |signed: &Signed<Entry>| hex(codec::encode(&end.entries[&signed.hash()].1));
    let by_hash: Vec<String> = signed.iter().map(|(_, signed)| entry(signed)).collect();
    let id = |account: AccountId| hex(account.0);
    file.add(
        &format!("line as {name} sees it"),
        json!({
            "me": id(end.line.me()),
            "other": id(end.line.other()),
            "entries": signed.iter().map(|(_, signed)| hex(signed.bytes())).collect::<Vec<_>>(),
        }),
        json!({
            "balance": view.balance.to_string(),
            "limit_given": view.limit_given.0,
            "limit_received": view.limit_received.0,
            "available": view.available.0,
            "settled_out": view.settled_out.to_string(),
            "settled_in": view.settled_in.to_string(),
            "closing_mine": view.closing_mine,
            "closing_theirs": view.closing_theirs,
            "stored_line": hex(codec::encode(&end.line)),
            "stored_debts": states,
            "stored_entries": by_hash,
        }),
    );
}

#[test]
fn chats_are_stored_as_in_the_field() {
    let mut file = File::new("chat.json");
    let chat = samples::chat();
    file.object("state of a chat", &chat);
    file.check();
}
