//! Closes and opens envelopes: seal keys (HPKE, RFC 9180, base mode, with the X-Wing KEM) and the
//! three encrypted parts. Who may read or keep an envelope is not decided here, and neither is
//! whether its sender is who it says: that is checked on the opened payload.
//!
//! Every part is bound to the envelope's header (suite, mailbox, record version, dates, capability,
//! seal names), and the body to the two other parts as well: nothing can be moved from one envelope
//! to another.

use std::convert::Infallible;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::codec::{self, Bytes, DecodeError, Wire};
use crate::crypto::{self, CannotOpen, Secret, TAG_LENGTH};
use crate::envelope::{
    Capability, ENCAPSULATED_LENGTH, Encapsulation, Envelope, Payload, SUITE, SealFor, SealName,
    Sealed,
};
use crate::record::RecordVersion;
use crate::types::{AccountId, Hash, Time};

/// Info string of the HPKE context, before suite, key and mailbox.
const INFO: &[u8] = b"pumasi seal v1";
/// Exporter context of the seal key.
const EXPORT: &[u8] = b"pumasi seal key v1";
/// Length of the sender's account id under a seal key.
const SENDER_LENGTH: usize = 32 + TAG_LENGTH;

/// Why something cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not an X-Wing public key.
    #[error("the recipient's seal key is not a valid X-Wing key")]
    PublicKey,
    /// Sealed in a way this program does not know.
    #[error("sealed with suite {0}, this program knows suite {SUITE}: update it to read this")]
    Suite(u8),
    /// Too long for an envelope.
    #[error("the envelope would be {length} bytes long; at most {max} are allowed")]
    TooLong {
        /// Bytes it would have.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Another key, another mailbox, or changed on the way.
    #[error(transparent)]
    CannotOpen(#[from] CannotOpen),
    /// The envelope carries no recovery copy.
    #[error("the envelope carries no recovery copy")]
    NoRecoveryCopy,
    /// Opened, but not what it should be: its sender made a mistake, or means harm.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// A seal key with the name by which envelopes call it. `Debug` shows the name only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealKey {
    /// The name: [`Encapsulation::name`].
    pub name: SealName,
    /// The key.
    pub key: Secret,
}

/// The X-Wing public key of a seed: [`crate::record::SEAL_PUBLIC_KEY_LENGTH`] bytes.
#[must_use]
pub fn public_key(seed: &Secret) -> Vec<u8> {
    XWing::sk_to_pk(&private_key(seed)).to_bytes().to_vec()
}

fn private_key(seed: &Secret) -> <XWing as Kem>::PrivateKey {
    #[expect(clippy::expect_used, reason = "an X-Wing private key is any 32 bytes")]
    <XWing as Kem>::PrivateKey::from_bytes(&seed.0).expect("32 bytes are a key")
}

/// What both ends must agree on for a seal key to come out the same.
fn info(for_key: SealFor, mailbox: &AccountId) -> Vec<u8> {
    let key = match for_key {
        SealFor::Device => 0,
        SealFor::Recovery => 1,
        SealFor::Archive => 2,
    };
    [INFO, &[0, SUITE, key], &mailbox.0].concat()
}

/// The random bytes that HPKE asks for: HKDF-SHA256 of those given, a new label per request.
struct Given<'a> {
    random: &'a [u8; 32],
    requests: u64,
}

impl TryRng for Given<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for block in to.chunks_mut(32) {
            let bytes = crypto::derive(self.random, &format!("seal random {}", self.requests));
            self.requests = self.requests.saturating_add(1);
            if let Some(part) = bytes.0.get(..block.len()) {
                block.copy_from_slice(part);
            }
        }
        Ok(())
    }
}

impl TryCryptoRng for Given<'_> {}

/// Agrees a new seal key with the owner of an X-Wing public key. `random` must never be used twice.
///
/// The sender's account id travels inside, readable for the owner alone. HPKE's base mode does not
/// prove it: it is a claim until a payload that `sender` signed was opened.
///
/// # Errors
/// [`SealError::PublicKey`] when `public` is not a valid key.
pub fn agree(
    public: &[u8],
    for_key: SealFor,
    mailbox: &AccountId,
    sender: &AccountId,
    random: &[u8; 32],
) -> Result<(Encapsulation, Secret), SealError> {
    let public = <XWing as Kem>::PublicKey::from_bytes(public).map_err(|_| SealError::PublicKey)?;
    let mut rng = Given {
        random,
        requests: 0,
    };
    let (encapsulated, mut context) = hpke::setup_sender_with_rng::<
        ChaCha20Poly1305,
        HkdfSha256,
        XWing,
    >(
        &OpModeS::Base, &public, &info(for_key, mailbox), &mut rng
    )
    .map_err(|_| SealError::PublicKey)?;
    let sender = context
        .seal(&sender.0, &[])
        .map_err(|_| SealError::PublicKey)?;
    let mut key = Secret([0; 32]);
    context
        .export(EXPORT, &mut key.0)
        .map_err(|_| SealError::PublicKey)?;
    let encapsulation = Encapsulation {
        suite: SUITE,
        mailbox: *mailbox,
        for_key,
        encapsulated: encapsulated.to_bytes().to_vec().into(),
        sender: sender.into(),
    };
    Ok((encapsulation, key))
}

/// The seal key that an encapsulation brings, and the account that says it agreed it (see [`agree`]).
/// Mailbox and kind of key are those the encapsulation names: the caller checks that they are its own.
///
/// # Errors
/// [`SealError::Suite`], or [`SealError::CannotOpen`] when it is not for this seed, mailbox and kind
/// of key, or was changed.
pub fn receive(
    encapsulation: &Encapsulation,
    seed: &Secret,
) -> Result<(AccountId, Secret), SealError> {
    if encapsulation.suite != SUITE {
        return Err(SealError::Suite(encapsulation.suite));
    }
    if encapsulation.encapsulated.len() != ENCAPSULATED_LENGTH
        || encapsulation.sender.len() != SENDER_LENGTH
    {
        return Err(CannotOpen.into());
    }
    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(&encapsulation.encapsulated)
        .map_err(|_| CannotOpen)?;
    let mut context = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, XWing>(
        &OpModeR::Base,
        &private_key(seed),
        &encapsulated,
        &info(encapsulation.for_key, &encapsulation.mailbox),
    )
    .map_err(|_| CannotOpen)?;
    let sender = context
        .open(&encapsulation.sender, &[])
        .map_err(|_| CannotOpen)?;
    let sender = <[u8; 32]>::try_from(sender).map_err(|_| CannotOpen)?;
    let mut key = Secret([0; 32]);
    context.export(EXPORT, &mut key.0).map_err(|_| CannotOpen)?;
    Ok((AccountId(sender), key))
}

/// What goes into an envelope.
#[derive(Debug, Clone, Copy)]
pub struct Sealing<'a> {
    /// Whose mailbox.
    pub mailbox: AccountId,
    /// The version of the recipient's account record that the sender knows.
    pub record: RecordVersion,
    /// Now.
    pub created: Time,
    /// How long it is tried and kept.
    pub expires: Time,
    /// The sender's permission to write.
    pub capability: &'a Capability,
    /// Seal key agreed with the recipient's device.
    pub device: &'a SealKey,
    /// Seal key agreed with the recipient's phrase, unless it refuses recovery copies.
    pub recovery: Option<&'a SealKey>,
    /// 32 random bytes, new for every envelope.
    pub content_key: &'a Secret,
    /// Random, new for every envelope.
    pub nonce: [u8; 24],
    /// The ratchet message that carries the content key: its type byte and its bytes.
    pub ratchet_message: &'a [u8],
    /// What it says.
    pub payload: &'a Payload,
}

/// What each part of an envelope is bound to.
fn context(part: &str, sealed: &Sealed) -> Hash {
    crypto::hash(
        part,
        &[
            &[sealed.suite],
            &sealed.mailbox.0,
            &sealed.record.epoch.to_be_bytes(),
            &sealed.record.version.to_be_bytes(),
            &sealed.created.0.to_be_bytes(),
            &sealed.expires.0.to_be_bytes(),
            &sealed.capability.0,
            &sealed.device_seal.0,
            sealed
                .recovery_seal
                .as_ref()
                .map_or(&[], |name| name.0.as_slice()),
        ],
    )
}

fn outer_context(sealed: &Sealed) -> Hash {
    context("seal-outer", sealed)
}

fn recovery_context(sealed: &Sealed) -> Hash {
    context("seal-recovery", sealed)
}

/// The body is bound to the two other parts as well.
fn body_context(sealed: &Sealed) -> Hash {
    let header = context("seal-body-header", sealed);
    crypto::hash("seal-body", &[&header.0, &sealed.outer, &sealed.recovery])
}

/// Closes a payload. Equal arguments give equal bytes.
///
/// # Errors
/// [`SealError::TooLong`] when the envelope would exceed [`Envelope::MAX`].
pub fn seal(sealing: &Sealing<'_>) -> Result<Envelope, SealError> {
    let nonce = &sealing.nonce;
    let mut sealed = Sealed {
        suite: SUITE,
        mailbox: sealing.mailbox,
        record: sealing.record,
        created: sealing.created,
        expires: sealing.expires,
        capability: sealing.capability.id(),
        device_seal: sealing.device.name,
        recovery_seal: sealing.recovery.map(|seal| seal.name),
        nonce: *nonce,
        outer: Bytes::default(),
        recovery: Bytes::default(),
        body: Bytes::default(),
    };
    let bind = outer_context(&sealed);
    let outer = crypto::encrypt(&sealing.device.key, nonce, &bind.0, sealing.ratchet_message);
    sealed.outer = outer.into();
    if let Some(seal) = sealing.recovery {
        let bind = recovery_context(&sealed);
        let copy = crypto::encrypt(&seal.key, nonce, &bind.0, &sealing.content_key.0);
        sealed.recovery = copy.into();
    }
    let bind = body_context(&sealed);
    let payload = Zeroizing::new(codec::encode(sealing.payload));
    sealed.body = crypto::encrypt(sealing.content_key, nonce, &bind.0, &payload).into();
    let envelope = Envelope::close(sealed, &sealing.capability.tag_key());
    let length = codec::encode(&envelope).len();
    if length > Envelope::MAX {
        return Err(SealError::TooLong {
            length,
            max: Envelope::MAX,
        });
    }
    Ok(envelope)
}

fn known(sealed: &Sealed) -> Result<(), SealError> {
    if sealed.suite == SUITE {
        Ok(())
    } else {
        Err(SealError::Suite(sealed.suite))
    }
}

/// Takes the outer seal off: the ratchet message (type byte and bytes) that carries the content key.
///
/// # Errors
/// [`SealError::Suite`], or [`SealError::CannotOpen`] with another key or a changed envelope.
pub fn open_outer(sealed: &Sealed, device_key: &Secret) -> Result<Vec<u8>, SealError> {
    known(sealed)?;
    let bind = outer_context(sealed);
    Ok(crypto::decrypt(
        device_key,
        &sealed.nonce,
        &bind.0,
        &sealed.outer,
    )?)
}

/// The content key, from the recovery copy.
///
/// # Errors
/// [`SealError::NoRecoveryCopy`], [`SealError::Suite`], or [`SealError::CannotOpen`] with another key
/// or a changed envelope.
pub fn open_recovery(sealed: &Sealed, recovery_key: &Secret) -> Result<Secret, SealError> {
    known(sealed)?;
    if sealed.recovery_seal.is_none() {
        return Err(SealError::NoRecoveryCopy);
    }
    let bind = recovery_context(sealed);
    let mut opened = crypto::decrypt(recovery_key, &sealed.nonce, &bind.0, &sealed.recovery)?;
    let key = <[u8; 32]>::try_from(opened.as_slice()).map(Secret);
    opened.zeroize();
    Ok(key.map_err(|_| CannotOpen)?)
}

/// The payload. Its signature, and whom it is from and for, are still to be checked.
///
/// # Errors
/// [`SealError::Suite`], [`SealError::CannotOpen`] with another key or a changed envelope,
/// [`SealError::Decode`] when the sender put something else in.
pub fn open_body(sealed: &Sealed, content_key: &Secret) -> Result<Payload, SealError> {
    known(sealed)?;
    let bind = body_context(sealed);
    let opened = crypto::decrypt(content_key, &sealed.nonce, &bind.0, &sealed.body)?;
    Ok(codec::decode(&Zeroizing::new(opened))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Signed, SigningKey};
    use crate::envelope::{Body, Content, Conversation, Head, Letter, TEXT_MAX, key_commitment};
    use crate::mailbox::CustodyReceipt;
    use crate::record::SEAL_PUBLIC_KEY_LENGTH;
    use crate::types::{DAY, EnvelopeId, NodeId};

    const HANA: AccountId = AccountId([0xaa; 32]);
    const DURI: AccountId = AccountId([0xbb; 32]);
    const DEVICE_SEED: Secret = Secret([1; 32]);
    const PHRASE_SEED: Secret = Secret([2; 32]);
    static CONTENT_KEY: Secret = Secret([3; 32]);
    /// As long as a ratchet message of a session that runs.
    const RATCHET_MESSAGE: [u8; 96] = [7; 96];

    fn payload(text: &str) -> Payload {
        let content = Content {
            sender: HANA,
            recipient: DURI,
            time: Time(1_795_000_000_000),
            body: Body::Text {
                epoch: 1_795_000_000,
                conversation: Conversation::Direct,
                sequence: 300,
                heads: vec![Head([1; 16]), Head([2; 16]), Head([3; 16])],
                text: text.into(),
            },
        };
        let letter = Letter {
            content: codec::encode(&content).into(),
            key: key_commitment(&CONTENT_KEY),
        };
        let device = SigningKey::from_seed(&[4; 32]);
        Payload::Letter {
            epoch: 1_795_000_000,
            record: None,
            letter: Signed::sign(&letter, &device),
        }
    }

    fn seal_key(seed: &Secret, for_key: SealFor) -> SealKey {
        let random = [5; 32];
        let (encapsulation, key) =
            agree(&public_key(seed), for_key, &DURI, &HANA, &random).unwrap();
        SealKey {
            name: encapsulation.name(),
            key,
        }
    }

    struct Keys {
        capability: Capability,
        device: SealKey,
        recovery: SealKey,
    }

    fn keys() -> Keys {
        Keys {
            capability: Capability(Secret([6; 32])),
            device: seal_key(&DEVICE_SEED, SealFor::Device),
            recovery: seal_key(&PHRASE_SEED, SealFor::Recovery),
        }
    }

    fn sealing<'a>(keys: &'a Keys, payload: &'a Payload) -> Sealing<'a> {
        let created = Time(1_795_000_000_001);
        Sealing {
            mailbox: DURI,
            record: RecordVersion {
                epoch: 1_794_000_000,
                version: 3,
            },
            created,
            expires: created.plus(30 * DAY),
            capability: &keys.capability,
            device: &keys.device,
            recovery: Some(&keys.recovery),
            content_key: &CONTENT_KEY,
            nonce: [8; 24],
            ratchet_message: &RATCHET_MESSAGE,
            payload,
        }
    }

    /// What the recipient's device and phrase do together; `None` when anything fails.
    fn open_all(bytes: &[u8], keys: &Keys) -> Option<Payload> {
        let envelope: Envelope = codec::decode(bytes).ok()?;
        if !envelope.tag_fits(&keys.capability.tag_key()) {
            return None;
        }
        open_parts(&envelope.sealed, keys)
    }

    fn open_parts(sealed: &Sealed, keys: &Keys) -> Option<Payload> {
        let message = open_outer(sealed, &keys.device.key).ok()?;
        let key = open_recovery(sealed, &keys.recovery.key).ok()?;
        assert_eq!((message, &key), (RATCHET_MESSAGE.to_vec(), &CONTENT_KEY));
        open_body(sealed, &key).ok()
    }

    #[test]
    fn both_ends_come_to_the_same_seal_key_and_the_sender_is_named() {
        let public = public_key(&DEVICE_SEED);
        assert_eq!(public.len(), SEAL_PUBLIC_KEY_LENGTH);
        let (encapsulation, key) = agree(&public, SealFor::Device, &DURI, &HANA, &[9; 32]).unwrap();
        assert_eq!(encapsulation.encapsulated.len(), ENCAPSULATED_LENGTH);
        assert_eq!(receive(&encapsulation, &DEVICE_SEED).unwrap(), (HANA, key));
        let bytes = codec::encode(&encapsulation);
        assert!(bytes.len() <= Encapsulation::MAX);
        assert_eq!(
            codec::decode::<Encapsulation>(&bytes).unwrap(),
            encapsulation
        );
    }

    #[test]
    fn an_encapsulation_opens_for_its_seed_its_mailbox_and_its_kind_of_key_only() {
        let public = public_key(&DEVICE_SEED);
        let (good, _) = agree(&public, SealFor::Device, &DURI, &HANA, &[9; 32]).unwrap();
        assert_eq!(receive(&good, &PHRASE_SEED), Err(CannotOpen.into()));
        let mut other = good.clone();
        other.mailbox = HANA;
        assert_eq!(receive(&other, &DEVICE_SEED), Err(CannotOpen.into()));
        let mut other = good.clone();
        other.for_key = SealFor::Recovery;
        assert_eq!(receive(&other, &DEVICE_SEED), Err(CannotOpen.into()));
        let mut other = good;
        other.suite = SUITE + 1;
        assert_eq!(
            receive(&other, &DEVICE_SEED),
            Err(SealError::Suite(SUITE + 1))
        );
    }

    #[test]
    fn seal_keys_differ_by_random_bytes_mailbox_and_kind() {
        let public = public_key(&DEVICE_SEED);
        let key =
            |for_key, mailbox, random| agree(&public, for_key, mailbox, &HANA, random).unwrap().1;
        let one = key(SealFor::Device, &DURI, &[1; 32]);
        assert_eq!(one, key(SealFor::Device, &DURI, &[1; 32]));
        assert_ne!(one, key(SealFor::Device, &DURI, &[2; 32]));
        assert_ne!(one, key(SealFor::Device, &HANA, &[1; 32]));
        assert_ne!(one, key(SealFor::Recovery, &DURI, &[1; 32]));
    }

    #[test]
    fn changed_encapsulations_and_wrong_lengths_are_errors() {
        let public = public_key(&DEVICE_SEED);
        let (good, _) = agree(&public, SealFor::Device, &DURI, &HANA, &[9; 32]).unwrap();
        for place in (0..ENCAPSULATED_LENGTH)
            .step_by(37)
            .chain([ENCAPSULATED_LENGTH - 1])
        {
            let mut changed = good.clone();
            changed.encapsulated.0[place] ^= 1;
            assert_eq!(
                receive(&changed, &DEVICE_SEED),
                Err(CannotOpen.into()),
                "byte {place}"
            );
        }
        for place in 0..good.sender.len() {
            let mut changed = good.clone();
            changed.sender.0[place] ^= 1;
            assert_eq!(
                receive(&changed, &DEVICE_SEED),
                Err(CannotOpen.into()),
                "byte {place}"
            );
        }
        for length in [
            0,
            1,
            32,
            ENCAPSULATED_LENGTH - 1,
            ENCAPSULATED_LENGTH + 1,
            1_216,
        ] {
            let mut changed = good.clone();
            changed.encapsulated.0.resize(length, 0);
            assert_eq!(
                receive(&changed, &DEVICE_SEED),
                Err(CannotOpen.into()),
                "{length}"
            );
        }
        for length in [0, 16, 47, 49] {
            let mut changed = good.clone();
            changed.sender.0.resize(length, 0);
            assert_eq!(
                receive(&changed, &DEVICE_SEED),
                Err(CannotOpen.into()),
                "{length}"
            );
        }
        // Low-order and all-one points: no panic, and nothing opens.
        for byte in [0, 0xff] {
            let mut changed = good.clone();
            changed.encapsulated.0.fill(byte);
            assert_eq!(receive(&changed, &DEVICE_SEED), Err(CannotOpen.into()));
        }
    }

    #[test]
    fn public_keys_of_the_wrong_length_or_out_of_range_are_errors() {
        let with = |public: &[u8]| agree(public, SealFor::Device, &DURI, &HANA, &[9; 32]);
        for length in [0, 1, 32, 1_215, 1_217] {
            assert_eq!(
                with(&vec![0; length]),
                Err(SealError::PublicKey),
                "{length}"
            );
        }
        // Coefficients above the modulus (FIPS 203, section 7.2).
        assert_eq!(
            with(&[0xff; SEAL_PUBLIC_KEY_LENGTH]),
            Err(SealError::PublicKey)
        );
    }

    #[test]
    fn what_is_sealed_opens_with_device_and_phrase() {
        let (keys, payload) = (keys(), payload("안녕, 두리!"));
        let envelope = seal(&sealing(&keys, &payload)).unwrap();
        let bytes = codec::encode(&envelope);
        assert_eq!(open_all(&bytes, &keys), Some(payload));
    }

    #[test]
    fn without_a_recovery_key_there_is_no_recovery_copy() {
        let (keys, payload) = (keys(), payload("hello"));
        let envelope = seal(&Sealing {
            recovery: None,
            ..sealing(&keys, &payload)
        })
        .unwrap();
        assert!(envelope.sealed.recovery.is_empty());
        let copy = open_recovery(&envelope.sealed, &keys.recovery.key);
        assert_eq!(copy, Err(SealError::NoRecoveryCopy));
        assert!(open_outer(&envelope.sealed, &keys.device.key).is_ok());
        assert_eq!(open_body(&envelope.sealed, &CONTENT_KEY), Ok(payload));
    }

    #[test]
    fn a_single_changed_bit_anywhere_makes_opening_fail() {
        let (keys, payload) = (keys(), payload("hello"));
        let bytes = codec::encode(&seal(&sealing(&keys, &payload)).unwrap());
        assert!(open_all(&bytes, &keys).is_some());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_all(&changed, &keys), None, "bit {bit}");
        }
    }

    #[test]
    fn a_keeper_that_makes_a_new_tag_still_changes_nothing_unseen() {
        let (keys, payload) = (keys(), payload("hello"));
        let sealed = seal(&sealing(&keys, &payload)).unwrap().sealed;
        let bytes = codec::encode(&sealed);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = codec::decode::<Sealed>(&changed) else {
                continue;
            };
            assert_eq!(open_parts(&changed, &keys), None, "bit {bit}");
        }
    }

    #[test]
    fn no_part_can_be_moved_to_another_envelope() {
        let (keys, payload) = (keys(), payload("hello"));
        let one = seal(&sealing(&keys, &payload)).unwrap().sealed;
        let second = Sealing {
            created: Time(1_795_000_000_002),
            ..sealing(&keys, &payload)
        };
        let two = seal(&second).unwrap().sealed;
        let mut mixed = two.clone();
        mixed.outer = one.outer.clone();
        assert!(open_outer(&mixed, &keys.device.key).is_err());
        assert!(open_body(&mixed, &CONTENT_KEY).is_err());
        let mut mixed = two.clone();
        mixed.recovery = one.recovery.clone();
        assert!(open_recovery(&mixed, &keys.recovery.key).is_err());
        assert!(open_body(&mixed, &CONTENT_KEY).is_err());
        let mut mixed = two.clone();
        mixed.body = one.body;
        assert!(open_body(&mixed, &CONTENT_KEY).is_err());
        // The recovery copy taken away.
        let mut mixed = two;
        mixed.recovery_seal = None;
        mixed.recovery = Bytes::default();
        assert!(open_outer(&mixed, &keys.device.key).is_err());
        assert!(open_body(&mixed, &CONTENT_KEY).is_err());
    }

    #[test]
    fn another_suite_is_named_as_such() {
        let (keys, payload) = (keys(), payload("hello"));
        let mut sealed = seal(&sealing(&keys, &payload)).unwrap().sealed;
        sealed.suite = 2;
        assert_eq!(
            open_outer(&sealed, &keys.device.key),
            Err(SealError::Suite(2))
        );
        assert_eq!(
            open_recovery(&sealed, &keys.recovery.key),
            Err(SealError::Suite(2))
        );
        assert_eq!(open_body(&sealed, &CONTENT_KEY), Err(SealError::Suite(2)));
    }

    #[test]
    fn a_well_sealed_body_that_is_no_payload_is_an_error() {
        let (keys, payload) = (keys(), payload("hello"));
        let mut sealed = seal(&sealing(&keys, &payload)).unwrap().sealed;
        let bind = body_context(&sealed);
        sealed.body = crypto::encrypt(&CONTENT_KEY, &sealed.nonce, &bind.0, &[1, 99]).into();
        assert!(matches!(
            open_body(&sealed, &CONTENT_KEY),
            Err(SealError::Decode(_))
        ));
        let bind = recovery_context(&sealed);
        sealed.recovery =
            crypto::encrypt(&keys.recovery.key, &sealed.nonce, &bind.0, &[1; 31]).into();
        assert_eq!(
            open_recovery(&sealed, &keys.recovery.key),
            Err(CannotOpen.into())
        );
    }

    #[test]
    fn an_envelope_with_a_text_of_100_bytes_has_at_most_660_and_870_with_a_receipt() {
        let (keys, payload) = (keys(), payload(&"x".repeat(100)));
        let envelope = codec::encode(&seal(&sealing(&keys, &payload)).unwrap());
        assert!(envelope.len() <= 660, "{} bytes", envelope.len());
        let receipt = CustodyReceipt {
            mailbox: DURI,
            record: RecordVersion {
                epoch: 1_794_000_000,
                version: 3,
            },
            keeper: NodeId([1; 32]),
            until: Time(1_795_000_000_001).plus(30 * DAY),
            ids: vec![EnvelopeId([2; 32])],
        };
        let signed = Signed::sign(&receipt, &SigningKey::from_seed(&[4; 32]));
        let both = envelope.len() + codec::encode(&signed).len();
        assert!(both <= 870, "{both} bytes");
    }

    #[test]
    fn the_longest_text_fits_and_a_longer_payload_is_told_its_length() {
        let (keys, longest) = (keys(), payload(&"x".repeat(TEXT_MAX)));
        assert!(seal(&sealing(&keys, &longest)).is_ok());
        let longer = payload(&"x".repeat(Envelope::MAX));
        let error = seal(&sealing(&keys, &longer)).unwrap_err();
        assert!(matches!(error, SealError::TooLong { length, max }
            if length > max && max == Envelope::MAX));
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes_in_every_version_of_the_program() {
        let (keys, payload) = (keys(), payload("hello"));
        let bytes = codec::encode(&seal(&sealing(&keys, &payload)).unwrap());
        assert_eq!(
            bytes,
            codec::encode(&seal(&sealing(&keys, &payload)).unwrap())
        );
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(&crypto::hash("", &[bytes]).0);
        let public = public_key(&DEVICE_SEED);
        let (encapsulation, key) = agree(&public, SealFor::Device, &DURI, &HANA, &[9; 32]).unwrap();
        let found = [
            hex(&public),
            hex(&codec::encode(&encapsulation)),
            hex(&key.0),
            hex(&bytes),
        ];
        // A change here is a new suite.
        let expected = [
            "25602048d8e1c370f7afa761801815f066cd54558bea06c2d4dc424e1f45fb7c",
            "d35f2ab7148a0818a0501093ce710af6ccba5c5c38b1091dcc645e4e5846e9ca",
            "c741a10211a63914d52779cb1e90cf225a6ebc5c500c199bc42db41e62ea2596",
            "567daf48bed696da8f5333b7e7666e7e35f1c5fcaa6477d6e049e67e25520f79",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let text = format!("{:?}", sealing(&keys(), &payload("hello")));
        assert!(!text.contains("[3, 3"), "{text}");
        let key = SealKey {
            name: SealName([1; 16]),
            key: Secret([66; 32]),
        };
        assert!(!format!("{key:?}").contains("66"));
    }
}
