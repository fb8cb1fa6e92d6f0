//! Small types and helpers that the parts of the engine share.

use pumasi_protocol::codec::Wire;
use pumasi_protocol::crypto::{Secret, Signed, SigningKey};
use pumasi_protocol::record::{CheckedRecord, KeyBundle};
use pumasi_protocol::types::{AccountId, Hash, NodeId, Time};
use rusqlite::{OptionalExtension as _, Row};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use crate::error::Result;
use crate::ratchet::RatchetAccount;

/// What the engine needs to know of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Network id.
    pub(crate) network: String,
    /// Who runs the node.
    pub(crate) operator: String,
    /// Where it stands.
    pub(crate) building: String,
    /// Whether contacts' mailboxes are kept.
    pub(crate) keep_for_contacts: bool,
    /// How many newcomers' mailboxes are kept at most.
    pub(crate) newcomers: u32,
    /// Whether nodes behind one public address count as apart.
    pub(crate) local: bool,
    /// Milliseconds without a session after which a keeper is replaced.
    pub(crate) replace_after: u64,
    /// Addresses to begin with.
    pub(crate) bootstrap: Vec<String>,
}

/// An account whose device is here.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) name: String,
    pub(crate) record: CheckedRecord,
    pub(crate) keys: Signed<KeyBundle>,
    pub(crate) device: SigningKey,
    /// Seed of the device's seal key.
    pub(crate) seal: Secret,
    pub(crate) ratchet: RatchetAccount,
    pub(crate) created: Time,
    /// Signs and seals the hint by which the phrase finds the keepers.
    pub(super) locator: SigningKey,
    pub(super) archive: super::archiving::Archive,
    pub(super) level: super::level::Level,
}

impl Own {
    /// Whether it may sign, in a word: see [`crate::view::AccountView::state`].
    pub(crate) const fn state_word(&self) -> &'static str {
        self.level.word()
    }

    pub(crate) fn id(&self) -> AccountId {
        self.record.account()
    }

    /// The nodes that keep its mailboxes.
    pub(super) fn keepers(&self) -> impl Iterator<Item = NodeId> + '_ {
        let keepers = self.record.record.keepers.iter();
        keepers.map(|keeper| keeper.place.node)
    }

    /// Hash of the device certificate: begins every chain that this device signs.
    pub(crate) fn certificate(&self) -> Hash {
        self.record.record.certificate.hash()
    }
}

/// The device's secrets as they are sealed at rest.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeviceSecrets {
    pub(crate) device: Secret,
    pub(crate) seal: Secret,
    pub(crate) locator: Secret,
}

impl Wire for DeviceSecrets {
    const NAME: &'static str = "device secrets";
    const MAX: usize = 256;
}

/// The row name under which a secret of two accounts is sealed.
pub(crate) fn secret_row(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(a.len() + b.len());
    row.extend_from_slice(a);
    row.extend_from_slice(b);
    row
}

/// Encodes a secret object and wipes the plain bytes after `seal` has used them.
pub(crate) fn with_encoded<T: Wire, R>(object: &T, seal: impl FnOnce(&[u8]) -> R) -> R {
    let mut bytes = pumasi_protocol::codec::encode(object);
    let result = seal(&bytes);
    bytes.zeroize();
    result
}

/// A 32-byte column.
pub(crate) fn blob(row: &Row<'_>, index: usize) -> rusqlite::Result<[u8; 32]> {
    row.get(index)
}

/// At most one row.
pub(crate) fn one<T>(result: rusqlite::Result<T>) -> Result<Option<T>> {
    Ok(result.optional()?)
}
