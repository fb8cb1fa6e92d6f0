//! Turns wire objects into bytes and back: one version byte, then postcard. It decides nothing about
//! what the objects mean.
//!
//! Every object has exactly one encoding: what does not encode back to the same bytes is refused, so
//! a signature or a hash over the carried bytes names one object only.

use std::fmt;

use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An object with a version that travels or is signed.
pub trait Wire: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const NAME: &'static str;
    /// The version this program writes, and the highest it reads.
    const VERSION: u8 = 1;
    /// The longest encoding in bytes, version included.
    const MAX: usize;
}

/// Why bytes are not the object they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Longer than its bound; nothing was read.
    #[error("{what} is {length} bytes long; at most {max} are allowed")]
    TooLong {
        /// Which object.
        what: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Written by a newer program.
    #[error(
        "{what} has version {found}; this program knows versions up to {known}: update it to read this"
    )]
    Newer {
        /// Which object.
        what: &'static str,
        /// Version found.
        found: u8,
        /// Highest version known here.
        known: u8,
    },
    /// Not the object at all.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// Decodes, but is not written the one way it must be written.
    #[error("{0} is not in canonical form")]
    NotCanonical(&'static str),
}

/// Encodes an object: its version byte, then its fields.
#[must_use]
pub fn encode<T: Wire>(object: &T) -> Vec<u8> {
    let mut bytes = vec![T::VERSION];
    #[expect(
        clippy::expect_used,
        reason = "postcard fails only on sequences of unknown length, which no wire object has"
    )]
    let body = postcard::to_allocvec(object).expect("wire objects have known lengths");
    bytes.extend_from_slice(&body);
    bytes
}

/// Decodes an object: length, version, fields, nothing left over, canonical.
///
/// # Errors
/// [`DecodeError`] says which check failed. Memory used is bounded by `T::MAX`.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    let version = *bytes.first().ok_or(DecodeError::Empty(T::NAME))?;
    if bytes.len() > T::MAX {
        return Err(DecodeError::TooLong {
            what: T::NAME,
            length: bytes.len(),
            max: T::MAX,
        });
    }
    if version > T::VERSION {
        return Err(DecodeError::Newer {
            what: T::NAME,
            found: version,
            known: T::VERSION,
        });
    }
    if version == 0 {
        return Err(DecodeError::Malformed(T::NAME));
    }
    let (object, rest) = postcard::take_from_bytes::<T>(bytes.get(1..).unwrap_or_default())
        .map_err(|_| DecodeError::Malformed(T::NAME))?;
    if !rest.is_empty() {
        return Err(DecodeError::Malformed(T::NAME));
    }
    // The fields alone: what an older version wrote stays readable.
    if encode(&object).get(1..) != bytes.get(1..) {
        return Err(DecodeError::NotCanonical(T::NAME));
    }
    Ok(object)
}

/// A byte string. Serde would write a plain `Vec<u8>` one element at a time; this is one copy.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        number: u64,
        text: String,
        bytes: Bytes,
    }

    impl Wire for Sample {
        const NAME: &'static str = "a sample";
        const MAX: usize = 64;
    }

    fn sample() -> Sample {
        Sample {
            number: 300,
            text: "안녕".into(),
            bytes: vec![1, 2].into(),
        }
    }

    #[test]
    fn an_object_comes_back_as_it_was() {
        assert_eq!(decode::<Sample>(&encode(&sample())).unwrap(), sample());
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let mut bytes = encode(&sample());
        bytes[0] = 9;
        let error = decode::<Sample>(&bytes).unwrap_err();
        assert_eq!(
            error,
            DecodeError::Newer {
                what: "a sample",
                found: 9,
                known: 1
            }
        );
        assert!(error.to_string().contains("update"));
    }

    #[test]
    fn length_lies_trailing_bytes_and_long_input_are_refused() {
        let bytes = encode(&sample());
        for cut in 0..bytes.len() {
            assert!(decode::<Sample>(&bytes[..cut]).is_err());
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(
            decode::<Sample>(&longer),
            Err(DecodeError::Malformed("a sample"))
        );
        assert!(matches!(
            decode::<Sample>(&[1; 65]),
            Err(DecodeError::TooLong { .. })
        ));
        // A byte string that claims to be 2^63 bytes long.
        let lie = [
            1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
        ];
        assert_eq!(
            decode::<Sample>(&lie),
            Err(DecodeError::Malformed("a sample"))
        );
    }

    #[test]
    fn an_overlong_number_is_not_canonical() {
        // 0 written in two bytes.
        let bytes = [1, 0x80, 0x00, 0, 0];
        assert_eq!(
            decode::<Sample>(&bytes),
            Err(DecodeError::NotCanonical("a sample"))
        );
    }
}
