//! What makes a lock due: a condition that everybody on a payment's way sees, and the opening that
//! satisfies it. Anyone can check one against the other, so an opening needs no signature. Not here:
//! what an opening does to a debt ([`mod@crate::line`]).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::crypto::hash;
use crate::types::Hash;

/// What must be opened before a lock is owed. Variants are only ever appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Condition {
    /// Opened by 32 bytes with this SHA-256 hash (FIPS 180-4; no domain, as in BOLT 4 payments).
    Sha256([u8; 32]),
}

/// What opens a condition. Secret until its payee releases it, public from then on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Opening {
    /// The preimage of [`Condition::Sha256`].
    Preimage([u8; 32]),
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opening({:?})", self.condition())
    }
}

impl Opening {
    /// The one condition that this opens.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self {
            Self::Preimage(bytes) => Condition::Sha256(Sha256::digest(bytes).into()),
        }
    }
}

impl Condition {
    /// Tag and bytes, for hashing.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        match self {
            Self::Sha256(bytes) => [&[0], bytes],
        }
    }

    /// The name under which its opening is looked for in evidence stores: it does not tell the
    /// condition to those who do not know it.
    #[must_use]
    pub fn evidence_name(&self) -> Hash {
        hash("evidence", &self.parts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_opens_its_condition_and_no_other() {
        let opening = Opening::Preimage([7; 32]);
        assert_eq!(opening.condition(), opening.condition());
        assert_ne!(opening.condition(), Opening::Preimage([8; 32]).condition());
    }

    #[test]
    fn the_condition_is_the_plain_hash() {
        // SHA-256 of 32 zero bytes.
        let Condition::Sha256(hash) = Opening::Preimage([0; 32]).condition();
        assert_eq!(hash[..4], [0x66, 0x68, 0x7a, 0xad]);
    }

    #[test]
    fn a_secret_opening_is_not_printed() {
        let text = format!("{:?}", Opening::Preimage([0xab; 32]));
        assert!(
            !text.contains("abab") && !text.contains("171, 171"),
            "{text}"
        );
    }
}
