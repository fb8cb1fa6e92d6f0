//! The locator: a signed, sealed hint by which the 24 words alone find the keepers. It lies at
//! keepers and other nodes under a name that only the phrase reveals, and tells them nothing: neither
//! whose it is nor where the keepers are. Where it is put and looked for is the node's business.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::codec::{self, Bytes, DecodeError, Wire};
use crate::crypto::{self, CannotOpen, OpenError, Secret, Signable, Signed, SigningKey};
use crate::record::{KEEPERS_MAX, Place, RecordVersion};
use crate::types::{AccountId, DAY, Time};

/// Longest locator in bytes.
pub const LOCATOR_MAX: usize = 8 * 1024;
/// Nodes forget a locator that was not put again for this long.
pub const LOCATOR_LIFE: u64 = 90 * DAY;

/// What nodes see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locator {
    /// The locator key's public half: the name, and what signs.
    pub name: [u8; 32],
    /// Of two, the higher counts: milliseconds since 1970 when it was written, by the owner's clock.
    pub version: u64,
    /// Nonce of the body.
    pub nonce: [u8; 24],
    /// The [`Whereabouts`], sealed.
    pub body: Bytes,
}

impl Wire for Locator {
    const NAME: &'static str = "a locator";
    const MAX: usize = LOCATOR_MAX;
}

impl Signable for Locator {
    const CONTEXT: &'static str = "locator";
}

/// What the phrase reads in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The account.
    pub account: AccountId,
    /// The version of the account's record when it was written.
    pub record: RecordVersion,
    /// Its keepers then.
    pub keepers: Vec<Place>,
}

impl Wire for Whereabouts {
    const NAME: &'static str = "the body of a locator";
    const MAX: usize = LOCATOR_MAX;
}

/// The key that locators are sealed under: of the locator key's secret half, so that a device can
/// write them and a phrase can read them.
fn sealing_key(key: &SigningKey) -> Secret {
    crypto::derive(&key.seed().0, "locator seal v1")
}

/// Writes a locator.
#[must_use]
pub fn write(
    key: &SigningKey,
    whereabouts: &Whereabouts,
    now: Time,
    nonce: [u8; 24],
) -> Signed<Locator> {
    let plain = Zeroizing::new(codec::encode(whereabouts));
    let name = key.public();
    let body = crypto::encrypt(&sealing_key(key), &nonce, &name, &plain).into();
    let locator = Locator {
        name,
        version: now.0,
        nonce,
        body,
    };
    Signed::sign(&locator, key)
}

/// A locator whose signature fits its name.
///
/// # Errors
/// [`OpenError`] when it is malformed or signed by another key.
pub fn check(signed: &Signed<Locator>) -> Result<Locator, OpenError> {
    let locator = signed.unverified()?;
    signed.check(&locator.name)?;
    Ok(locator)
}

/// Why a locator tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Another key.
    #[error(transparent)]
    CannotOpen(#[from] CannotOpen),
    /// Not what it should be.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Reads a checked locator with the phrase's locator key.
///
/// # Errors
/// [`Unreadable`] when it is another phrase's, or malformed.
pub fn read(locator: &Locator, key: &SigningKey) -> Result<Whereabouts, Unreadable> {
    let plain = crypto::decrypt(
        &sealing_key(key),
        &locator.nonce,
        &locator.name,
        &locator.body,
    )?;
    let mut whereabouts: Whereabouts = codec::decode(&Zeroizing::new(plain))?;
    whereabouts.keepers.truncate(KEEPERS_MAX);
    Ok(whereabouts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    #[test]
    fn only_the_phrase_reads_a_locator_and_nobody_else_can_write_it() {
        let key = SigningKey::from_seed(&[1; 32]);
        let whereabouts = Whereabouts {
            account: AccountId([2; 32]),
            record: RecordVersion {
                epoch: 3,
                version: 4,
            },
            keepers: vec![Place {
                node: NodeId([5; 32]),
                addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
            }],
        };
        let signed = write(&key, &whereabouts, Time(6), [7; 24]);
        let locator = check(&signed).unwrap();
        assert_eq!(read(&locator, &key).unwrap(), whereabouts);
        let other = SigningKey::from_seed(&[8; 32]);
        assert!(read(&locator, &other).is_err());
        let mut forged = locator;
        forged.version += 1;
        assert!(check(&Signed::sign(&forged, &other)).is_err());
    }
}
