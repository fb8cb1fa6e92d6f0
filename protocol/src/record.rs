//! The signed records that say who is where: account records, key bundles, node records. Plain data
//! with its checks; how records spread is the node's business.

use serde::{Deserialize, Serialize};

use crate::codec::{Bytes, DecodeError, Wire};
use crate::crypto::{self, BadSignature, OpenError, Signable, Signed};
use crate::identity::DeviceCertificate;
use crate::types::{AccountId, DAY, DeviceKey, Hash, NodeId, Time};

/// Longest name, operator or building, in bytes.
pub const NAME_MAX: usize = 64;
/// Most addresses a node is listed with.
pub const ADDRESSES_MAX: usize = 8;
/// Longest multiaddress, in bytes.
pub const ADDRESS_MAX: usize = 128;
/// Most keepers an account may have.
pub const KEEPERS_MAX: usize = 5;
/// Keepers an account has by default (N).
pub const KEEPERS: usize = 3;
/// Fewest buildings that may make an item safe (W): one building is one fire.
pub const SAFE_COPIES_MIN: usize = 2;
/// Longest life of a node record, in milliseconds.
pub const NODE_RECORD_LIFE_MAX: u64 = 2 * DAY;
/// Length of an X-Wing public key in bytes (draft-connolly-cfrg-xwing-kem).
pub const SEAL_PUBLIC_KEY_LENGTH: usize = 1_216;

/// Buildings and operators are compared in this form: lower case, inner white space and hyphens as
/// one space.
#[must_use]
pub fn normal(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| c.is_whitespace() || c == '-' || c == '_')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join(" ")
}

/// Where a node can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Multiaddresses, best first; hints, checked when used.
    pub addresses: Vec<String>,
}

/// A keeper as an account record lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperEntry {
    /// The node and how to reach it.
    pub place: Place,
    /// Who runs it: a claim, signed by the node in its own record.
    pub operator: String,
    /// Where it stands: a claim, signed by the node in its own record.
    pub building: String,
    /// It took the place of another and is being filled: what it signs for counts, but it does not
    /// count among those from whom a restore must read (R).
    pub joining: bool,
}

/// Names one state of an account record; a higher one replaces a lower.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct RecordVersion {
    /// Epoch of the device that signed it.
    pub epoch: u64,
    /// Counts from 1 within the epoch.
    pub version: u64,
}

/// What an account tells everyone who may write to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// The device that speaks for the account, certified by its root key.
    pub certificate: Signed<DeviceCertificate>,
    /// Counts from 1 within the certificate's epoch.
    pub version: u64,
    /// How the person calls itself; a contact may use another name for it.
    pub name: String,
    /// The node that hosts the device.
    pub home: Place,
    /// Who keeps its mailboxes: at most [`KEEPERS_MAX`].
    pub keepers: Vec<KeeperEntry>,
    /// How many buildings make an item safe (W).
    pub safe_copies: u8,
    /// The hash of the [`KeyBundle`] that belongs to this record.
    pub keys: Hash,
}

impl Wire for AccountRecord {
    const NAME: &'static str = "an account record";
    const MAX: usize = 8 * 1024;
}

impl Signable for AccountRecord {
    const CONTEXT: &'static str = "account-record";
}

/// An account record whose certificate, signature and bounds were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRecord {
    /// The fields.
    pub record: AccountRecord,
    /// The certificate inside.
    pub certificate: DeviceCertificate,
    /// The record as it travels.
    pub signed: Signed<AccountRecord>,
}

/// Why a record cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Malformed, or a signature that does not fit.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A bound is exceeded.
    #[error("{what} is out of bounds: {why}")]
    Bounds {
        /// Which field.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl From<DecodeError> for RecordError {
    fn from(error: DecodeError) -> Self {
        Self::Open(error.into())
    }
}

impl From<BadSignature> for RecordError {
    fn from(error: BadSignature) -> Self {
        Self::Open(error.into())
    }
}

fn check_name(what: &'static str, name: &str) -> Result<(), RecordError> {
    let bad = |why: String| Err(RecordError::Bounds { what, why });
    if name.len() > NAME_MAX {
        return bad(format!(
            "{} bytes, at most {NAME_MAX} are allowed",
            name.len()
        ));
    }
    if name.chars().any(char::is_control) {
        return bad("it has control characters".into());
    }
    Ok(())
}

fn check_place(place: &Place) -> Result<(), RecordError> {
    let bad = |why: String| {
        Err(RecordError::Bounds {
            what: "an address list",
            why,
        })
    };
    if place.addresses.len() > ADDRESSES_MAX {
        return bad(format!(
            "{} addresses, at most {ADDRESSES_MAX} are allowed",
            place.addresses.len()
        ));
    }
    if place
        .addresses
        .iter()
        .any(|address| address.len() > ADDRESS_MAX)
    {
        return bad(format!("an address is longer than {ADDRESS_MAX} bytes"));
    }
    Ok(())
}

impl CheckedRecord {
    /// Checks certificate, signature and bounds.
    ///
    /// # Errors
    /// [`RecordError`] says what is wrong.
    pub fn check(signed: Signed<AccountRecord>) -> Result<Self, RecordError> {
        let record = signed.unverified()?;
        let certificate = DeviceCertificate::open(&record.certificate)?;
        signed.check(&certificate.device.0)?;
        record.check_bounds()?;
        Ok(Self {
            record,
            certificate,
            signed,
        })
    }

    /// The account.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.certificate.account
    }

    /// The device key that signs for the account.
    #[must_use]
    pub fn device(&self) -> DeviceKey {
        self.certificate.device
    }

    /// Epoch and version.
    #[must_use]
    pub fn version(&self) -> RecordVersion {
        RecordVersion {
            epoch: self.certificate.epoch,
            version: self.record.version,
        }
    }

    /// Whether this record replaces `other` of the same account: by (epoch, certificate hash), then
    /// by version.
    #[must_use]
    pub fn replaces(&self, other: &Self) -> bool {
        let key = |record: &Self| {
            (
                record.certificate.epoch,
                record.record.certificate.hash(),
                record.record.version,
            )
        };
        self.account() == other.account() && key(self) > key(other)
    }

    /// The keeper entry of a node.
    #[must_use]
    pub fn keeper(&self, node: &NodeId) -> Option<&KeeperEntry> {
        self.record
            .keepers
            .iter()
            .find(|keeper| keeper.place.node == *node)
    }
}

impl AccountRecord {
    /// Checks lengths and counts, before signing as well as after receiving.
    ///
    /// # Errors
    /// [`RecordError::Bounds`] names the field.
    pub fn check_bounds(&self) -> Result<(), RecordError> {
        check_name("the name", &self.name)?;
        check_place(&self.home)?;
        if self.keepers.len() > KEEPERS_MAX {
            return Err(RecordError::Bounds {
                what: "the keeper list",
                why: format!(
                    "{} keepers, at most {KEEPERS_MAX} are allowed",
                    self.keepers.len()
                ),
            });
        }
        for (place, keeper) in self.keepers.iter().enumerate() {
            check_place(&keeper.place)?;
            check_name("an operator", &keeper.operator)?;
            check_name("a building", &keeper.building)?;
            let node = keeper.place.node;
            if self
                .keepers
                .iter()
                .skip(place + 1)
                .any(|other| other.place.node == node)
            {
                return Err(RecordError::Bounds {
                    what: "the keeper list",
                    why: format!("{} is named twice", node.short()),
                });
            }
        }
        if !(SAFE_COPIES_MIN..=KEEPERS_MAX).contains(&usize::from(self.safe_copies)) {
            return Err(RecordError::Bounds {
                what: "the number of safe copies",
                why: format!(
                    "{} is not between {SAFE_COPIES_MIN} and {KEEPERS_MAX}",
                    self.safe_copies
                ),
            });
        }
        Ok(())
    }
}

/// The public keys that others seal to. Too large for a QR code, so the record names it by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBundle {
    /// The account.
    pub account: AccountId,
    /// Epoch of the device.
    pub epoch: u64,
    /// X-Wing key of the device: opens the outer seal.
    pub device_seal: Bytes,
    /// X-Wing key of the phrase: opens recovery copies.
    pub recovery_seal: Bytes,
    /// Curve25519 identity key of the device's ratchet account (Olm).
    pub ratchet_identity: [u8; 32],
    /// Last-resort prekey (Olm fallback key): used when one-time prekeys ran out.
    pub last_resort: [u8; 32],
}

impl Wire for KeyBundle {
    const NAME: &'static str = "a key bundle";
    const MAX: usize = 4 * 1024;
}

impl Signable for KeyBundle {
    const CONTEXT: &'static str = "key-bundle";
}

impl KeyBundle {
    /// Opens a bundle that must be the one a record names.
    ///
    /// # Errors
    /// [`RecordError`] when signature, account, epoch, hash or key lengths do not fit the record.
    pub fn open_for(signed: &Signed<Self>, record: &CheckedRecord) -> Result<Self, RecordError> {
        let wrong = |why: &str| RecordError::Bounds {
            what: "a key bundle",
            why: why.to_owned(),
        };
        let bundle = signed.open(&record.device().0)?;
        if signed.hash() != record.record.keys {
            return Err(wrong("it is not the one the account record names"));
        }
        if bundle.account != record.account() || bundle.epoch != record.certificate.epoch {
            return Err(wrong("it belongs to another account or device"));
        }
        if bundle.device_seal.len() != SEAL_PUBLIC_KEY_LENGTH
            || bundle.recovery_seal.len() != SEAL_PUBLIC_KEY_LENGTH
        {
            return Err(wrong("a seal key has the wrong length"));
        }
        Ok(bundle)
    }
}

/// A one-time prekey: given out once, by one keeper, whose pool is its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeKey {
    /// The account.
    pub account: AccountId,
    /// Epoch of the device.
    pub epoch: u64,
    /// Curve25519 key (Olm one-time key).
    pub key: [u8; 32],
}

impl Wire for OneTimeKey {
    const NAME: &'static str = "a one-time key";
    const MAX: usize = 96;
}

impl Signable for OneTimeKey {
    const CONTEXT: &'static str = "one-time-key";
}

/// What a node says of itself to the network. Spread by gossip, bounded, expiring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node and its addresses.
    pub place: Place,
    /// Who runs it.
    pub operator: String,
    /// Where it stands.
    pub building: String,
    /// How many more newcomers' mailboxes it offers to keep; 0 when it does not.
    pub newcomers: u32,
    /// When it was signed; of two records of one node the later counts.
    pub signed_at: Time,
    /// When it ends; at most [`NODE_RECORD_LIFE_MAX`] after `signed_at`.
    pub expires: Time,
}

impl Wire for NodeRecord {
    const NAME: &'static str = "a node record";
    const MAX: usize = 2 * 1024;
}

impl Signable for NodeRecord {
    const CONTEXT: &'static str = "node-record";
}

impl NodeRecord {
    /// Opens a record: signature by the node it names, bounds, not expired, not from the future.
    ///
    /// # Errors
    /// [`RecordError`] says what is wrong.
    pub fn open(signed: &Signed<Self>, now: Time) -> Result<Self, RecordError> {
        let record = signed.unverified()?;
        signed.check(&record.place.node.0)?;
        check_place(&record.place)?;
        check_name("an operator", &record.operator)?;
        check_name("a building", &record.building)?;
        let bad = |why: &str| RecordError::Bounds {
            what: "a node record",
            why: why.to_owned(),
        };
        if record.expires <= now {
            return Err(bad("it has expired"));
        }
        if record.signed_at > now.plus(DAY) {
            return Err(bad(
                "it is dated more than a day in the future: check the clocks",
            ));
        }
        if record.expires.since(record.signed_at) > NODE_RECORD_LIFE_MAX {
            return Err(bad("it lives longer than two days"));
        }
        Ok(record)
    }
}

/// The digest of a record's bytes, for logs and comparisons.
#[must_use]
pub fn digest(bytes: &[u8]) -> Hash {
    crypto::hash("record", &[bytes])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SigningKey;
    use crate::identity::Phrase;

    fn record(version: u64, epoch: u64) -> Signed<AccountRecord> {
        let keys = Phrase::from_entropy(&[1; 32]).keys();
        let device = SigningKey::from_seed(&[2; 32]);
        let certificate = DeviceCertificate::issue(&keys, DeviceKey(device.public()), epoch);
        let record = AccountRecord {
            certificate,
            version,
            name: "hana".into(),
            home: Place {
                node: NodeId([3; 32]),
                addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
            },
            keepers: vec![],
            safe_copies: 2,
            keys: Hash([0; 32]),
        };
        Signed::sign(&record, &device)
    }

    #[test]
    fn a_higher_epoch_wins_over_any_version() {
        let old = CheckedRecord::check(record(9, 1)).unwrap();
        let new = CheckedRecord::check(record(1, 2)).unwrap();
        assert!(new.replaces(&old));
        assert!(!old.replaces(&new));
        assert!(!new.replaces(&new.clone()));
    }

    #[test]
    fn a_record_by_an_uncertified_device_is_refused() {
        let good = record(1, 1).unverified().unwrap();
        let stranger = SigningKey::from_seed(&[9; 32]);
        assert!(CheckedRecord::check(Signed::sign(&good, &stranger)).is_err());
    }

    #[test]
    fn bounds_of_a_record_are_kept() {
        let device = SigningKey::from_seed(&[2; 32]);
        let good = record(1, 1).unverified().unwrap();
        let sign = |record: &AccountRecord| CheckedRecord::check(Signed::sign(record, &device));
        let mut long = good.clone();
        long.name = "x".repeat(NAME_MAX + 1);
        assert!(sign(&long).is_err());
        let mut many = good.clone();
        many.home.addresses = vec!["/ip4/1.2.3.4/tcp/1".into(); ADDRESSES_MAX + 1];
        assert!(sign(&many).is_err());
        let mut none = good;
        none.safe_copies = 0;
        assert!(sign(&none).is_err());
    }

    #[test]
    fn node_records_end_and_belong_to_their_node() {
        let key = SigningKey::from_seed(&[5; 32]);
        let now = Time(1_000_000_000);
        let mut record = NodeRecord {
            place: Place {
                node: NodeId(key.public()),
                addresses: vec![],
            },
            operator: "kim".into(),
            building: "Pangyo".into(),
            newcomers: 4,
            signed_at: now,
            expires: now.plus(DAY),
        };
        assert!(NodeRecord::open(&Signed::sign(&record, &key), now).is_ok());
        assert!(NodeRecord::open(&Signed::sign(&record, &key), now.plus(DAY)).is_err());
        record.expires = now.plus(NODE_RECORD_LIFE_MAX + 1);
        assert!(NodeRecord::open(&Signed::sign(&record, &key), now).is_err());
        record.expires = now.plus(DAY);
        record.place.node = NodeId([0; 32]);
        assert!(NodeRecord::open(&Signed::sign(&record, &key), now).is_err());
    }

    #[test]
    fn buildings_are_compared_after_normalising() {
        assert_eq!(normal("  Pangyo-SK  C&C "), normal("pangyo sk c&c"));
        assert_ne!(normal("pangyo"), normal("anyang"));
    }
}
