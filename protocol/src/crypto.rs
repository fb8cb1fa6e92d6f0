//! Signatures, hashes, key derivation and authenticated encryption, each with its domain. This file
//! and [`crate::seal`] are the only ones that name cryptography crates; no primitive is our own.

use std::fmt;
use std::marker::PhantomData;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use ed25519_dalek::{Signer, VerifyingKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::codec::{self, Bytes, DecodeError, Wire};
use crate::types::Hash;

/// Length of an Ed25519 signature in bytes (RFC 8032).
pub const SIGNATURE_LENGTH: usize = 64;

/// An Ed25519 signature as carried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; SIGNATURE_LENGTH]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature")
    }
}

// Serde knows arrays up to 32 elements: a signature travels as two halves, without a length.
impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut halves = [[0; 32]; 2];
        halves[0].copy_from_slice(&self.0[..32]);
        halves[1].copy_from_slice(&self.0[32..]);
        halves.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let halves = <[[u8; 32]; 2]>::deserialize(deserializer)?;
        let mut bytes = [0; SIGNATURE_LENGTH];
        bytes[..32].copy_from_slice(&halves[0]);
        bytes[32..].copy_from_slice(&halves[1]);
        Ok(Self(bytes))
    }
}

/// The signature does not fit key, context and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// An Ed25519 signing key. `Debug` shows the public half only; the secret is wiped on drop.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of a 32-byte seed (RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The seed, for sealing it at rest.
    #[must_use]
    pub fn seed(&self) -> Secret {
        Secret(self.0.to_bytes())
    }

    /// Signs bytes in a context. The public key is part of what is signed, so that a signature can
    /// never be claimed for another key (RUSTSEC-2022-0093).
    #[must_use]
    pub fn sign(&self, context: &str, bytes: &[u8]) -> Signature {
        Signature(
            self.0
                .sign(&signed_text(&self.public(), context, bytes))
                .to_bytes(),
        )
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

fn signed_text(public: &[u8; 32], context: &str, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(48 + context.len() + bytes.len());
    text.extend_from_slice(b"pumasi-signature\0");
    text.extend_from_slice(context.as_bytes());
    text.push(0);
    text.extend_from_slice(public);
    text.extend_from_slice(bytes);
    text
}

/// Checks a signature strictly: small-order keys and non-canonical signatures are refused.
///
/// # Errors
/// [`BadSignature`] when key, context, bytes and signature do not belong together.
pub fn verify(
    public: &[u8; 32],
    context: &str,
    bytes: &[u8],
    signature: &Signature,
) -> Result<(), BadSignature> {
    let key = VerifyingKey::from_bytes(public).map_err(|_| BadSignature)?;
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(&signed_text(public, context, bytes), &signature)
        .map_err(|_| BadSignature)
}

/// 32 secret bytes, wiped on drop and absent from `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// Derives a named secret from another (HKDF-SHA256, RFC 5869; the label is the info string).
#[must_use]
pub fn derive(secret: &[u8], label: &str) -> Secret {
    let mut out = [0; 32];
    let info = format!("pumasi {label}");
    #[expect(clippy::expect_used, reason = "HKDF-SHA256 gives up to 8160 bytes")]
    Hkdf::<Sha256>::new(None, secret)
        .expand(info.as_bytes(), &mut out)
        .expect("32 bytes fit");
    Secret(out)
}

/// SHA-256 over a domain and parts, each with its length, so that no two inputs run together.
#[must_use]
pub fn hash(domain: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(b"pumasi-hash\0");
    hasher.update((domain.len() as u64).to_be_bytes());
    hasher.update(domain.as_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Hash(hasher.finalize().into())
}

/// HMAC-SHA256 over a domain and bytes, cut to 16 bytes.
#[must_use]
pub fn mac(key: &[u8; 32], domain: &str, bytes: &[u8]) -> [u8; 16] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any key length");
    mac.update(domain.as_bytes());
    mac.update(&[0]);
    mac.update(bytes);
    let full = mac.finalize().into_bytes();
    let mut short = [0; 16];
    short.copy_from_slice(&full[..16]);
    short
}

/// Whether two byte strings are equal, in time that does not depend on where they differ.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}

/// The ciphertext was changed, or belongs to another key or context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be opened with this key")]
pub struct CannotOpen;

/// Bytes that a [`encrypt`] adds: the tag. The nonce is the caller's.
pub const TAG_LENGTH: usize = 16;

/// Encrypts with XChaCha20-Poly1305. A key and nonce pair must never be used for two plaintexts.
#[must_use]
pub fn encrypt(key: &Secret, nonce: &[u8; 24], context: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let cipher = XChaCha20Poly1305::new(&Key::from(key.0));
    #[expect(clippy::expect_used, reason = "fails only above 256 GiB of plaintext")]
    cipher
        .encrypt(
            &XNonce::from(*nonce),
            Payload {
                msg: plaintext,
                aad: context,
            },
        )
        .expect("plaintext below 256 GiB")
}

/// Opens what [`encrypt`] made.
///
/// # Errors
/// [`CannotOpen`] when key, nonce, context or ciphertext differ.
pub fn decrypt(
    key: &Secret,
    nonce: &[u8; 24],
    context: &[u8],
    ciphertext: &[u8],
) -> Result<Vec<u8>, CannotOpen> {
    XChaCha20Poly1305::new(&Key::from(key.0))
        .decrypt(
            &XNonce::from(*nonce),
            Payload {
                msg: ciphertext,
                aad: context,
            },
        )
        .map_err(|_| CannotOpen)
}

/// A wire object that carries its own signing context.
pub trait Signable: Wire {
    /// The context that is signed along; no two kinds of object share one.
    const CONTEXT: &'static str;
}

/// Why a signed object cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bytes are not the object.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The signature is not by the expected key.
    #[error(transparent)]
    Signature(#[from] BadSignature),
}

/// An object as its signer wrote it: the very bytes that were signed, and the signature.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    bytes: Bytes,
    signature: Signature,
    #[serde(skip)]
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            signature: self.signature,
            kind: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T: Signable> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed<{}>({} bytes)", T::NAME, self.bytes.len())
    }
}

impl<T: Signable> Signed<T> {
    /// Signs an object.
    #[must_use]
    pub fn sign(object: &T, key: &SigningKey) -> Self {
        let bytes = codec::encode(object);
        let signature = key.sign(T::CONTEXT, &bytes);
        Self {
            bytes: bytes.into(),
            signature,
            kind: PhantomData,
        }
    }

    /// The object, if `signer` signed it.
    ///
    /// # Errors
    /// [`OpenError`] when the bytes are not the object or the signature is not by `signer`.
    pub fn open(&self, signer: &[u8; 32]) -> Result<T, OpenError> {
        self.check(signer)?;
        self.unverified().map_err(OpenError::from)
    }

    /// Checks the signature only.
    ///
    /// # Errors
    /// [`BadSignature`] when `signer` did not sign these bytes.
    pub fn check(&self, signer: &[u8; 32]) -> Result<(), BadSignature> {
        verify(signer, T::CONTEXT, &self.bytes, &self.signature)
    }

    /// The object without checking the signature: for reading who claims to have signed, or where
    /// the signature was checked before.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not the object.
    pub fn unverified(&self) -> Result<T, DecodeError> {
        codec::decode(&self.bytes)
    }

    /// The signed bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hash that names this object: over its bytes, not its signature.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash(T::CONTEXT, &[&self.bytes])
    }
}

impl<T: Signable> Wire for Signed<T> {
    const NAME: &'static str = T::NAME;
    // Version byte, length of the bytes, signature.
    const MAX: usize = T::MAX + 1 + 10 + SIGNATURE_LENGTH;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note(u32);
    impl Wire for Note {
        const NAME: &'static str = "a note";
        const MAX: usize = 16;
    }
    impl Signable for Note {
        const CONTEXT: &'static str = "note";
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Other(u32);
    impl Wire for Other {
        const NAME: &'static str = "another";
        const MAX: usize = 16;
    }
    impl Signable for Other {
        const CONTEXT: &'static str = "other";
    }

    #[test]
    fn a_signed_object_opens_for_its_signer_only() {
        let key = SigningKey::from_seed(&[1; 32]);
        let stranger = SigningKey::from_seed(&[2; 32]);
        let signed = Signed::sign(&Note(5), &key);
        assert_eq!(signed.open(&key.public()).unwrap(), Note(5));
        assert!(signed.open(&stranger.public()).is_err());
        assert!(signed.open(&[0; 32]).is_err());
    }

    #[test]
    fn a_signature_of_another_context_is_refused() {
        let key = SigningKey::from_seed(&[1; 32]);
        let bytes = codec::encode(&Signed::sign(&Note(5), &key));
        let other: Signed<Other> = codec::decode(&bytes).unwrap();
        assert_eq!(
            other.open(&key.public()),
            Err(OpenError::Signature(BadSignature))
        );
    }

    #[test]
    fn a_changed_bit_is_noticed_wherever_it_is() {
        let key = SigningKey::from_seed(&[1; 32]);
        let bytes = codec::encode(&Signed::sign(&Note(5), &key));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(signed) = codec::decode::<Signed<Note>>(&changed) {
                assert!(signed.open(&key.public()).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn ciphertext_is_bound_to_key_nonce_and_context() {
        let key = Secret([3; 32]);
        let sealed = encrypt(&key, &[0; 24], b"here", b"hello");
        assert_eq!(decrypt(&key, &[0; 24], b"here", &sealed).unwrap(), b"hello");
        assert!(decrypt(&Secret([4; 32]), &[0; 24], b"here", &sealed).is_err());
        assert!(decrypt(&key, &[1; 24], b"here", &sealed).is_err());
        assert!(decrypt(&key, &[0; 24], b"there", &sealed).is_err());
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        assert_eq!(format!("{:?}", Secret([42; 32])), "Secret { .. }");
        assert_eq!(
            format!("{:?}", SigningKey::from_seed(&[42; 32])),
            "SigningKey { .. }"
        );
    }

    #[test]
    fn hash_parts_do_not_run_together() {
        assert_ne!(hash("a", &[b"bc", b"d"]), hash("a", &[b"b", b"cd"]));
        assert_ne!(hash("ab", &[b"c"]), hash("a", &[b"bc"]));
    }
}
