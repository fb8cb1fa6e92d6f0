//! Invitations: how two people meet. A link or QR text with who invites, a one-time permission to
//! write, and what to compare.

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError, Wire};
use crate::crypto::Signed;
use crate::envelope::Capability;
use crate::record::{AccountRecord, CheckedRecord, RecordError};
use crate::types::Time;

/// What every Pumasi link begins with.
pub const SCHEME: &str = "pumasi:";
/// Path of an invitation.
const PATH: &str = "i/";
/// Days an invitation lives by default.
pub const DAYS: u64 = 7;

/// One-time invitation of an account. Whoever holds it first may become a contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Who invites.
    pub record: Signed<AccountRecord>,
    /// The permission to write the first messages.
    pub capability: Capability,
    /// When it ends.
    pub expires: Time,
}

impl Wire for Invitation {
    const NAME: &'static str = "an invitation";
    const MAX: usize = 10 * 1024;
}

/// Why a text is not an invitation that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvitationError {
    /// Not a Pumasi link.
    #[error("this is not an invitation: it must begin with `pumasi:i/`")]
    NotALink,
    /// Characters were lost or changed on the way.
    #[error("the invitation is damaged: copy it again, whole")]
    Damaged,
    /// Written by a newer program, or malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The record inside does not check out.
    #[error("the invitation's account record is wrong: {0}")]
    Record(#[from] RecordError),
    /// Too late.
    #[error("the invitation has expired: ask for a new one")]
    Expired,
}

impl Invitation {
    /// The link: lower case, for copying.
    #[must_use]
    pub fn link(&self) -> String {
        self.qr_text().to_lowercase()
    }

    /// The same in capitals: only characters of the QR alphanumeric mode, which makes smaller codes.
    #[must_use]
    pub fn qr_text(&self) -> String {
        let mut bytes = codec::encode(self);
        bytes.extend_from_slice(&checksum(&bytes));
        format!("{}{}{}", SCHEME, PATH, BASE32_NOPAD.encode(&bytes)).to_uppercase()
    }

    /// Reads a link or QR text, in any case, and checks the record inside.
    ///
    /// # Errors
    /// [`InvitationError`] says what is wrong and what to do.
    pub fn parse(text: &str, now: Time) -> Result<(Self, CheckedRecord), InvitationError> {
        let upper = text.trim().to_ascii_uppercase();
        let data = upper
            .strip_prefix(&SCHEME.to_uppercase())
            .and_then(|rest| rest.strip_prefix(&PATH.to_uppercase()))
            .ok_or(InvitationError::NotALink)?;
        if data.len() > Self::MAX * 2 {
            return Err(InvitationError::Damaged);
        }
        let bytes = BASE32_NOPAD
            .decode(data.as_bytes())
            .map_err(|_| InvitationError::Damaged)?;
        let split = bytes.len().checked_sub(4).ok_or(InvitationError::Damaged)?;
        let (body, sum) = bytes.split_at(split);
        if checksum(body) != sum {
            return Err(InvitationError::Damaged);
        }
        let invitation: Self = codec::decode(body)?;
        let record = CheckedRecord::check(invitation.record.clone())?;
        if invitation.expires <= now {
            return Err(InvitationError::Expired);
        }
        Ok((invitation, record))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let hash = crate::crypto::hash("invitation-checksum", &[bytes]);
    [hash.0[0], hash.0[1], hash.0[2], hash.0[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Secret, SigningKey};
    use crate::identity::{DeviceCertificate, Phrase};
    use crate::record::Place;
    use crate::types::{DeviceKey, Hash, NodeId};

    fn invitation() -> Invitation {
        let keys = Phrase::from_entropy(&[1; 32]).keys();
        let device = SigningKey::from_seed(&[2; 32]);
        let record = AccountRecord {
            certificate: DeviceCertificate::issue(&keys, DeviceKey(device.public()), 1),
            version: 1,
            name: "하나".into(),
            home: Place {
                node: NodeId([3; 32]),
                addresses: vec!["/ip4/1.2.3.4/tcp/1".into()],
            },
            keepers: vec![],
            safe_copies: 2,
            keys: Hash([0; 32]),
        };
        Invitation {
            record: Signed::sign(&record, &device),
            capability: Capability(Secret([4; 32])),
            expires: Time(1_000),
        }
    }

    #[test]
    fn link_and_qr_text_read_back() {
        let invitation = invitation();
        assert!(invitation.link().starts_with("pumasi:i/"));
        for text in [
            invitation.link(),
            invitation.qr_text(),
            format!(" {}\n", invitation.link()),
        ] {
            assert_eq!(Invitation::parse(&text, Time(1)).unwrap().0, invitation);
        }
        let alphanumeric =
            |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || ":/".contains(c);
        assert!(invitation.qr_text().chars().all(alphanumeric));
    }

    #[test]
    fn wrong_texts_say_what_to_do() {
        let link = invitation().link();
        assert_eq!(
            Invitation::parse("hello", Time(1)),
            Err(InvitationError::NotALink)
        );
        let cut = &link[..link.len() - 3];
        assert_eq!(
            Invitation::parse(cut, Time(1)),
            Err(InvitationError::Damaged)
        );
        assert_eq!(
            Invitation::parse("pumasi:i/", Time(1)),
            Err(InvitationError::Damaged)
        );
        assert_eq!(
            Invitation::parse(&link, Time(1_000)),
            Err(InvitationError::Expired)
        );
    }
}
