//! The 24 words, the keys they give, and device certificates. Neither storage nor sessions: what a
//! node keeps of this is decided elsewhere (root and recovery secrets are not kept).

use std::cmp::Ordering;
use std::fmt;

use bip39::{Language, Mnemonic};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::codec::Wire;
use crate::crypto::{self, OpenError, Secret, Signable, Signed, SigningKey};
use crate::types::{AccountId, DeviceKey, Hash, Time};

/// Words in a phrase.
pub const WORDS: usize = 24;

/// A phrase as typed is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Not 24 words.
    #[error("{0} words given: a phrase has 24")]
    Count(usize),
    /// A word that is not in the BIP39 English list; its place counts from 1.
    #[error("word {0} is not in the list: check its spelling")]
    Word(usize),
    /// All words exist, but they do not belong together.
    #[error("the words do not belong together: two may be swapped, or one is a similar word")]
    Checksum,
}

/// The 24 words (BIP39 English, 256 bits). The only holder of the root and recovery keys.
pub struct Phrase(Mnemonic);

impl Phrase {
    /// The phrase of 32 random bytes.
    #[must_use]
    pub fn from_entropy(entropy: &[u8; 32]) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "BIP39 takes exactly 32 bytes for 24 words"
        )]
        Self(Mnemonic::from_entropy(entropy).expect("32 bytes are a valid length"))
    }

    /// Reads 24 words separated by white space, in any case.
    ///
    /// # Errors
    /// [`PhraseError`] names the first thing wrong.
    pub fn parse(text: &str) -> Result<Self, PhraseError> {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        if words.len() != WORDS {
            return Err(PhraseError::Count(words.len()));
        }
        let list = Language::English.word_list();
        for (place, word) in words.iter().enumerate() {
            if list.binary_search(&word.as_str()).is_err() {
                return Err(PhraseError::Word(place.saturating_add(1)));
            }
        }
        let mut joined = words.join(" ");
        let phrase = Mnemonic::parse_in_normalized(Language::English, &joined)
            .map(Self)
            .map_err(|_| PhraseError::Checksum);
        joined.zeroize();
        phrase
    }

    /// The words in order.
    pub fn words(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.words()
    }

    /// The keys of this phrase (HKDF-SHA256 over the 256 bits, one label per key).
    #[must_use]
    pub fn keys(&self) -> RootKeys {
        let mut entropy = self.0.to_entropy();
        let keys = RootKeys {
            root: SigningKey::from_seed(&crypto::derive(&entropy, "root v1").0),
            recovery: crypto::derive(&entropy, "recovery v1"),
            locator: SigningKey::from_seed(&crypto::derive(&entropy, "locator v1").0),
        };
        entropy.zeroize();
        keys
    }
}

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Phrase").finish_non_exhaustive()
    }
}

/// What a phrase gives. Lives in memory during set-up and restore only.
#[derive(Debug)]
pub struct RootKeys {
    /// Signs device certificates; its public half is the account id.
    pub root: SigningKey,
    /// Seed of the recovery seal key: opens recovery copies and, later, the archive.
    pub recovery: Secret,
    /// Signs the locator, by which the words alone find the keepers.
    pub locator: SigningKey,
}

impl RootKeys {
    /// The account of this phrase.
    #[must_use]
    pub fn account(&self) -> AccountId {
        AccountId(self.root.public())
    }
}

/// The root key's word that a device speaks for the account. Of two, the higher wins for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCertificate {
    /// The account whose root key signs.
    pub account: AccountId,
    /// The device.
    pub device: DeviceKey,
    /// Only rises: max(highest seen + 1, seconds since 1970).
    pub epoch: u64,
}

impl Wire for DeviceCertificate {
    const NAME: &'static str = "a device certificate";
    const MAX: usize = 96;
}

impl Signable for DeviceCertificate {
    const CONTEXT: &'static str = "device-certificate";
}

impl DeviceCertificate {
    /// Certifies a device with the root key.
    #[must_use]
    pub fn issue(keys: &RootKeys, device: DeviceKey, epoch: u64) -> Signed<Self> {
        Signed::sign(
            &Self {
                account: keys.account(),
                device,
                epoch,
            },
            &keys.root,
        )
    }

    /// The certificate, if the account that it names signed it.
    ///
    /// # Errors
    /// [`OpenError`] when it is malformed or signed by another key.
    pub fn open(signed: &Signed<Self>) -> Result<Self, OpenError> {
        let claimed = signed.unverified()?;
        signed.check(&claimed.account.0)?;
        Ok(claimed)
    }
}

/// The epoch of a new device: higher than every one seen, and never below the clock's seconds.
#[must_use]
pub fn next_epoch(highest_seen: u64, now: Time) -> u64 {
    highest_seen.saturating_add(1).max(now.0 / 1_000)
}

/// Orders certificates of one account by (epoch, hash); the greater wins everywhere.
#[must_use]
pub fn order(a: (u64, Hash), b: (u64, Hash)) -> Ordering {
    a.cmp(&b)
}

/// What two people compare to know that no one stands between them: 30 digits in six groups, about
/// 100 bits of a hash of the account id.
#[must_use]
pub fn fingerprint(account: &AccountId) -> String {
    let hash = crypto::hash("fingerprint", &[&account.0]);
    let groups: Vec<String> = hash
        .0
        .chunks_exact(5)
        .take(6)
        .map(|chunk| {
            let number = chunk
                .iter()
                .fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
            format!("{:05}", number % 100_000)
        })
        .collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrase() -> Phrase {
        Phrase::from_entropy(&[7; 32])
    }

    #[test]
    fn words_give_the_same_account_again() {
        let words: Vec<_> = phrase().words().collect();
        assert_eq!(words.len(), WORDS);
        let again = Phrase::parse(&words.join("  ").to_uppercase()).unwrap();
        assert_eq!(again.keys().account(), phrase().keys().account());
    }

    #[test]
    fn wrong_words_are_named() {
        let mut words: Vec<_> = phrase().words().collect();
        assert_eq!(Phrase::parse("abandon").unwrap_err(), PhraseError::Count(1));
        let right = words[4];
        words[4] = "pumasi";
        assert_eq!(
            Phrase::parse(&words.join(" ")).unwrap_err(),
            PhraseError::Word(5)
        );
        words[4] = if right == "zoo" { "zone" } else { "zoo" };
        assert_eq!(
            Phrase::parse(&words.join(" ")).unwrap_err(),
            PhraseError::Checksum
        );
    }

    #[test]
    fn root_recovery_and_locator_differ() {
        let keys = phrase().keys();
        assert_ne!(keys.root.seed(), keys.recovery);
        assert_ne!(keys.root.seed(), keys.locator.seed());
        assert_ne!(keys.recovery, keys.locator.seed());
    }

    #[test]
    fn only_the_root_key_certifies_a_device() {
        let keys = phrase().keys();
        let good = DeviceCertificate::issue(&keys, DeviceKey([1; 32]), 5);
        assert_eq!(DeviceCertificate::open(&good).unwrap().epoch, 5);
        let thief = Phrase::from_entropy(&[8; 32]).keys();
        let forged = Signed::sign(
            &DeviceCertificate {
                account: keys.account(),
                device: DeviceKey([2; 32]),
                epoch: 9,
            },
            &thief.root,
        );
        assert!(DeviceCertificate::open(&forged).is_err());
    }

    #[test]
    fn epochs_only_rise() {
        assert_eq!(next_epoch(0, Time(5_000)), 5);
        assert_eq!(next_epoch(100, Time(5_000)), 101);
    }

    #[test]
    fn fingerprints_are_thirty_digits() {
        let text = fingerprint(&AccountId([1; 32]));
        assert_eq!(text.len(), 35);
        assert!(text.chars().all(|c| c.is_ascii_digit() || c == ' '));
        assert_ne!(text, fingerprint(&AccountId([2; 32])));
    }

    #[test]
    fn a_phrase_does_not_show_in_debug() {
        assert_eq!(format!("{:?}", phrase()), "Phrase { .. }");
    }
}
