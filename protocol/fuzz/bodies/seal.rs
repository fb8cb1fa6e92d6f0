//! Hostile envelopes and encapsulations, by a stranger who has none of the keys, by somebody on the way
//! who changes what passes, and by a contact who seals what it should not.

use std::sync::LazyLock;

use pumasi_protocol::codec;
use pumasi_protocol::crypto::Secret;
use pumasi_protocol::envelope::{
    Content, Encapsulation, Envelope, Letter, Payload, SealFor, Sealed, key_commitment,
};
use pumasi_protocol::record::RecordVersion;
use pumasi_protocol::seal::{self, SealError, SealKey, Sealing};
use pumasi_protocol::types::{AccountId, Time};

use super::samples::{self, CAPABILITY, CONTENT_KEY, DURI, HANA, RATCHET_MESSAGE};

/// What is made once.
struct Fixed {
    sender: AccountId,
    mailbox: AccountId,
    /// Duri's public seal key.
    public: Vec<u8>,
    recovery_seed: Secret,
    device: (Encapsulation, SealKey),
    recovery: (Encapsulation, SealKey),
    /// One with and one without a recovery copy.
    real: [(Payload, Envelope); 2],
}

static FIXED: LazyLock<Fixed> = LazyLock::new(|| {
    let [device, recovery] = samples::seals();
    let real = [0, 1].map(|number| {
        let (_, payload) = samples::payloads().swap_remove(number);
        let envelope = samples::envelope(&payload, number == 0);
        (payload, envelope)
    });
    Fixed {
        sender: HANA.account(),
        mailbox: DURI.account(),
        public: seal::public_key(&DURI.seal_seed),
        recovery_seed: DURI.keys().recovery,
        device,
        recovery,
        real,
    }
});

/// The target. The first byte says what the rest is.
pub(crate) fn run(input: &[u8]) {
    let Some((mode, rest)) = input.split_first() else {
        return;
    };
    match mode % 7 {
        0 => strange_encapsulation(rest),
        1 => strange_sealed(rest),
        2 => changed_encapsulation(rest),
        3 => changed_envelope(rest),
        4 => sealed_payload(rest),
        5 => sealed_content(rest),
        _ => public_key(rest),
    }
}

fn strange_encapsulation(bytes: &[u8]) {
    if let Ok(encapsulation) = codec::decode::<Encapsulation>(bytes) {
        receive(&encapsulation);
    }
}

/// Opens only if it is one of the two that were really made.
fn receive(encapsulation: &Encapsulation) {
    let fixed = &*FIXED;
    for seed in [&DURI.seal_seed, &fixed.recovery_seed] {
        match seal::receive(encapsulation, seed) {
            Ok((sender, key)) => {
                let made = if encapsulation.for_key == SealFor::Device {
                    &fixed.device
                } else {
                    &fixed.recovery
                };
                assert_eq!(*encapsulation, made.0, "a changed encapsulation was taken");
                assert!(sender == fixed.sender && key == made.1.key);
            }
            Err(SealError::Suite(suite)) => assert_eq!(suite, encapsulation.suite),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

fn strange_sealed(bytes: &[u8]) {
    if let Ok(sealed) = codec::decode::<Sealed>(bytes) {
        open(&sealed);
    }
}

/// Nothing but a real envelope opens with all keys.
fn open(sealed: &Sealed) {
    let fixed = &*FIXED;
    let outer = seal::open_outer(sealed, &fixed.device.1.key);
    let copy = seal::open_recovery(sealed, &fixed.recovery.1.key);
    let body = seal::open_body(sealed, &CONTENT_KEY);
    if let Some((payload, _)) = fixed.real.iter().find(|(_, real)| real.sealed == *sealed) {
        assert_eq!(outer.unwrap(), RATCHET_MESSAGE);
        assert_eq!(copy.is_ok(), sealed.recovery_seal.is_some());
        assert!(copy.is_err() || copy == Ok(CONTENT_KEY));
        assert_eq!(body.unwrap(), *payload);
        return;
    }
    assert!(body.is_err(), "a changed envelope was taken");
    // These two do not cover the body, but all of the header.
    let header = |of: &Sealed| Sealed {
        outer: Default::default(),
        recovery: Default::default(),
        body: Default::default(),
        ..of.clone()
    };
    let of_real = |part: fn(&Sealed) -> &[u8]| {
        let same = |real: &Sealed| header(real) == header(sealed) && part(real) == part(sealed);
        fixed.real.iter().any(|(_, real)| same(&real.sealed))
    };
    assert!(outer.is_err() || of_real(|sealed| &sealed.outer));
    assert!(copy.is_err() || of_real(|sealed| &sealed.recovery));
}

/// Changes bytes: three bytes of input give a place, and what it is changed by.
fn changed(bytes: &mut Vec<u8>, changes: &[u8]) {
    for change in changes.chunks_exact(3).take(16) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(place) {
            *byte ^= change[2];
        }
    }
    if changes.len() % 3 == 1 {
        let cut = usize::from(changes[changes.len() - 1]);
        bytes.truncate(bytes.len().saturating_sub(cut));
    }
}

fn changed_encapsulation(changes: &[u8]) {
    let mut bytes = codec::encode(&FIXED.device.0);
    changed(&mut bytes, changes);
    if let Ok(encapsulation) = codec::decode::<Encapsulation>(&bytes) {
        receive(&encapsulation);
        // The parts alone, so that lengths can change, too.
        let mut parts = FIXED.device.0.clone();
        changed(&mut parts.encapsulated.0, changes);
        receive(&parts);
        let mut parts = FIXED.device.0.clone();
        changed(&mut parts.sender.0, changes);
        receive(&parts);
    }
}

fn changed_envelope(changes: &[u8]) {
    let real = &FIXED.real[0].1;
    let mut bytes = codec::encode(real);
    changed(&mut bytes, changes);
    if let Ok(envelope) = codec::decode::<Envelope>(&bytes) {
        let tag_fits = envelope.tag_fits(&CAPABILITY.tag_key());
        assert!(
            !tag_fits || envelope == *real,
            "a changed envelope keeps its tag"
        );
        open(&envelope.sealed);
    }
    for part in 0..3 {
        let mut sealed = real.sealed.clone();
        let bytes = match part {
            0 => &mut sealed.outer.0,
            1 => &mut sealed.recovery.0,
            _ => &mut sealed.body.0,
        };
        changed(bytes, changes);
        open(&sealed);
    }
}

/// A contact seals a payload of its own making.
fn sealed_payload(bytes: &[u8]) {
    if let Ok(payload) = codec::decode::<Payload>(bytes) {
        seal_and_open(&payload);
    }
}

/// A contact seals any bytes as a content, well signed.
fn sealed_content(bytes: &[u8]) {
    let letter = Letter {
        content: bytes.to_vec().into(),
        key: key_commitment(&CONTENT_KEY),
    };
    let payload = Payload::Letter {
        epoch: samples::EPOCH,
        record: None,
        letter: HANA.by_device(&letter),
    };
    seal_and_open(&payload);
    let _ = codec::decode::<Content>(bytes);
}

fn seal_and_open(payload: &Payload) {
    let fixed = &*FIXED;
    let sealing = Sealing {
        mailbox: fixed.mailbox,
        record: RecordVersion {
            epoch: u64::MAX,
            version: u64::MAX,
        },
        created: Time(u64::MAX),
        expires: Time(u64::MAX),
        capability: &CAPABILITY,
        device: &fixed.device.1,
        recovery: Some(&fixed.recovery.1),
        content_key: &CONTENT_KEY,
        nonce: samples::NONCE,
        ratchet_message: &[],
        payload,
    };
    match seal::seal(&sealing) {
        Ok(envelope) => {
            let bytes = codec::encode(&envelope);
            assert_eq!(codec::decode::<Envelope>(&bytes).unwrap(), envelope);
            assert_eq!(
                seal::open_body(&envelope.sealed, &CONTENT_KEY).unwrap(),
                *payload
            );
            assert_eq!(
                seal::open_outer(&envelope.sealed, &fixed.device.1.key).unwrap(),
                []
            );
        }
        Err(SealError::TooLong { length, max }) => assert!(length > max),
        Err(error) => panic!("{error}"),
    }
}

/// Somebody publishes a seal key that is none.
fn public_key(bytes: &[u8]) {
    let mut key = FIXED.public.clone();
    if bytes.len() > 64 {
        key = bytes.to_vec();
    } else {
        changed(&mut key, bytes);
    }
    let (mailbox, sender) = (FIXED.mailbox, AccountId([9; 32]));
    let agreed = seal::agree(&key, SealFor::Device, &mailbox, &sender, &[8; 32]);
    if let Ok((encapsulation, made)) = agreed {
        assert_eq!(
            codec::decode(&codec::encode(&encapsulation)),
            Ok(encapsulation.clone())
        );
        if key == FIXED.public {
            assert_eq!(
                seal::receive(&encapsulation, &DURI.seal_seed),
                Ok((sender, made))
            );
        }
    }
}
