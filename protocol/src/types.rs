//! The small value types everything else is written with: ids, time, amounts. No rules live here.

use std::fmt;
use std::str::FromStr;

use bech32::{Bech32m, Hrp};
use serde::{Deserialize, Serialize};

/// Why a text is not the id, amount or unit it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text is not a bech32m string of the expected kind and length.
    #[error("`{text}` is not {what}: expected {expected}")]
    Id {
        /// What was asked for, e.g. "an account id".
        what: &'static str,
        /// How such a text looks.
        expected: &'static str,
        /// What was given (cut to 80 characters).
        text: String,
    },
    /// The text is not an amount.
    #[error("`{0}` is not an amount: write a whole number above 0, such as 15000")]
    Amount(String),
    /// The text is not a unit.
    #[error(
        "`{0}` is not a unit: use three capital letters (ISO 4217, such as KRW) or name@account"
    )]
    Unit(String),
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Defines a 32-byte id with a bech32m text form. Only boilerplate: no rule hides in it.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The human-readable prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// The id as bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first characters of the text form: for people, never for comparing.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string().chars().take(Self::PREFIX.len() + 7).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hrp = Hrp::parse_unchecked(Self::PREFIX);
                bech32::encode_lower_to_fmt::<Bech32m, _>(f, hrp, &self.0).map_err(|_| fmt::Error)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                let wrong = || ParseError::Id {
                    what: $what,
                    expected: concat!("a text that starts with `", $prefix, "1`"),
                    text: shortened(text),
                };
                let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
                    .map_err(|_| wrong())?;
                if !checked.hrp().as_str().eq_ignore_ascii_case(Self::PREFIX) {
                    return Err(wrong());
                }
                let bytes: Vec<u8> = checked.byte_iter().take(33).collect();
                let id = bytes.try_into().map(Self).map_err(|_| wrong())?;
                // One id has one text: left-over bits that are not zero would give it more.
                if id.to_string().eq_ignore_ascii_case(text) { Ok(id) } else { Err(wrong()) }
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }
    };
}

id!(
    /// An account: the public half of its root key. Text form `pm1...`.
    AccountId, "pm", "an account id"
);
id!(
    /// A node: the public half of its Ed25519 transport key. Text form `pn1...`.
    NodeId, "pn", "a node id"
);
id!(
    /// A device of an account: its Ed25519 signing key. Text form `pd1...`.
    DeviceKey, "pd", "a device key"
);
id!(
    /// An envelope: the hash of its bytes.
    EnvelopeId, "env", "an envelope id"
);
id!(
    /// One content (a text, a line entry): the hash of its signed bytes, the same in every envelope
    /// that carries it.
    MessageId, "msg", "a message id"
);
id!(
    /// A payment, and the id of the IOU that makes it. Derived from account and idempotency key.
    PaymentId, "pay", "a payment id"
);
id!(
    /// A lock: the hash of its chain, the id that its author gave it, its amount and its condition.
    LockId, "lock", "a lock id"
);
id!(
    /// A line: the hash of its two accounts in order and the unit.
    LineId, "line", "a line id"
);
id!(
    /// A conversation: for two people the hash of their accounts in order.
    ConversationId, "chat", "a conversation id"
);
id!(
    /// A SHA-256 hash with a domain; see [`crate::crypto::hash`].
    Hash, "hash", "a hash"
);

/// Milliseconds since 1970-01-01T00:00:00Z. Always an argument: the rules own no clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Time(pub u64);

impl Time {
    /// The time `millis` later, at most [`u64::MAX`].
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time, 0 when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One second in milliseconds.
pub const SECOND: u64 = 1_000;
/// One day in milliseconds.
pub const DAY: u64 = 24 * 60 * 60 * SECOND;

/// An amount in the unit's smallest part (won, cent). Arithmetic is checked: an overflow is a refusal.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Amount(pub u64);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum, or `None` when it does not fit.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` when it would be below zero.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Amount {
    type Err = ParseError;

    /// Reads digits with optional thousands commas. Signs, fractions and 2^64 and above are refused;
    /// 0 is an amount here, and refused where nothing can be paid with it.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::Amount(shortened(text));
        let text = text.trim();
        let grouped = text.split(',').skip(1).all(|group| group.len() == 3)
            && (!text.contains(',') || text.split(',').next().is_some_and(|g| g.len() <= 3));
        let digits: String = text.chars().filter(|c| *c != ',').collect();
        let first = text.starts_with(|c: char| c.is_ascii_digit());
        if !first || !grouped || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        digits.parse().map(Self).map_err(|_| wrong())
    }
}

/// What a line counts in: an ISO 4217 code (`KRW`) or `name@account`. At most 96 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Unit(String);

impl Unit {
    /// The longest unit, in bytes.
    pub const MAX: usize = 96;

    /// The unit as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Unit {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::Unit(shortened(text));
        if text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) {
            return Ok(Self(text.to_owned()));
        }
        let (name, account) = text.split_once('@').ok_or_else(wrong)?;
        let named = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if text.len() > Self::MAX || !named {
            return Err(wrong());
        }
        let account: AccountId = account.parse().map_err(|_| wrong())?;
        Ok(Self(format!("{name}@{account}")))
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form_and_name_their_kind() {
        let id = AccountId([7; 32]);
        let text = id.to_string();
        assert!(text.starts_with("pm1"));
        assert_eq!(text.parse::<AccountId>().unwrap(), id);
        assert_eq!(text.to_uppercase().parse::<AccountId>().unwrap(), id);
        let error = text.parse::<NodeId>().unwrap_err().to_string();
        assert!(error.contains("node id"), "{error}");
    }

    #[test]
    fn a_mistyped_id_is_refused() {
        let mut text = AccountId([9; 32]).to_string();
        let last = text.pop().unwrap();
        text.push(if last == 'q' { 'p' } else { 'q' });
        assert!(text.parse::<AccountId>().is_err());
        assert!("".parse::<AccountId>().is_err());
        assert!("pm1".parse::<AccountId>().is_err());
    }

    #[test]
    fn amounts_are_whole_and_fit_64_bits() {
        assert_eq!("15,000".parse::<Amount>().unwrap(), Amount(15_000));
        assert_eq!(
            "18446744073709551615".parse::<Amount>().unwrap(),
            Amount(u64::MAX)
        );
        for wrong in [
            "",
            "-1",
            "+1",
            "1.5",
            "18446744073709551616",
            "1e3",
            "won",
            ",100",
            "1,,5",
            "1,00",
        ] {
            assert!(wrong.parse::<Amount>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn units_are_codes_or_belong_to_an_account() {
        assert_eq!("KRW".parse::<Unit>().unwrap().as_str(), "KRW");
        let own = format!("hour@{}", AccountId([1; 32]));
        assert_eq!(own.parse::<Unit>().unwrap().as_str(), own);
        for wrong in ["krw", "KR", "hour@", "@x", "Hour@pm1", "a@b"] {
            assert!(wrong.parse::<Unit>().is_err(), "{wrong}");
        }
    }
}
