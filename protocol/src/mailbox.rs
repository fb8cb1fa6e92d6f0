//! The rules of mailboxes: what keepers sign, what owners say to them, who may leave an envelope, how
//! long it stays. Storage and network are elsewhere; sets are reconciled in [`crate::reconcile`].

use serde::{Deserialize, Serialize};

use crate::codec::Wire;
use crate::crypto::{Secret, Signable};
use crate::envelope::{CapabilityId, Envelope, SUITE, Sealed};
use crate::record::RecordVersion;
use crate::types::{AccountId, DAY, EnvelopeId, Hash, MessageId, NodeId, SECOND, Time};

/// Ids that one receipt or statement covers at most.
pub const IDS_MAX: usize = 512;
/// Live bytes of one inbox.
pub const INBOX_BYTES: u64 = 64 * 1024 * 1024;
/// Live envelopes of one inbox.
pub const INBOX_ITEMS: u64 = 10_000;
/// One capability may use one part in this many of an inbox.
pub const CAPABILITY_SHARE: u64 = 8;
/// Capabilities of one account at most.
pub const CAPABILITIES_MAX: u64 = 20_000;
/// How long envelopes are kept unless delivered before.
pub const RETENTION: u64 = 30 * DAY;
/// Longest retention that a keeper promises.
pub const RETENTION_MAX: u64 = 31 * DAY;
/// How far a sender's clock may be ahead of the keeper's.
pub const CLOCK_AHEAD_MAX: u64 = DAY;
/// Acknowledged envelopes are hidden at once and erased after this long.
pub const ERASE_AFTER: u64 = 7 * DAY;
/// How often keepers compare a mailbox at the least.
pub const RECONCILE_EVERY: u64 = 20 * SECOND;

/// A keeper's word, given only after its commit returned, that envelopes are durable on its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodyReceipt {
    /// Whose mailbox.
    pub mailbox: AccountId,
    /// The account record under which the keeper keeps.
    pub record: RecordVersion,
    /// The keeper, who signs.
    pub keeper: NodeId,
    /// Until when, at the least, for every id listed (unless its owner acknowledges it before).
    pub until: Time,
    /// The envelopes, at most [`IDS_MAX`].
    pub ids: Vec<EnvelopeId>,
}

impl Wire for CustodyReceipt {
    const NAME: &'static str = "a custody receipt";
    const MAX: usize = 128 + IDS_MAX * 32;
}

impl Signable for CustodyReceipt {
    const CONTEXT: &'static str = "custody-receipt";
}

/// A keeper's word, given only after its commit returned, that it holds a whole archive: every live page
/// that its owner has, as the owner named them by one hash. One signature, whatever their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShelfReceipt {
    /// Whose archive.
    pub mailbox: AccountId,
    /// The account record under which the keeper keeps.
    pub record: RecordVersion,
    /// The keeper, who signs.
    pub keeper: NodeId,
    /// Until when, at the least, for every page (unless a segment takes its place before).
    pub until: Time,
    /// Hash over the set of live pages, with their number: [`crate::reconcile::SetDigest::hash`].
    pub pages: Hash,
}

impl Wire for ShelfReceipt {
    const NAME: &'static str = "a shelf receipt";
    const MAX: usize = 160;
}

impl Signable for ShelfReceipt {
    const CONTEXT: &'static str = "shelf-receipt";
}

/// What an owner's device says about its mailbox: grow-only, reconciled before envelopes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The mailbox.
    pub account: AccountId,
    /// Epoch of the device that signs.
    pub epoch: u64,
    /// When, by the device's clock.
    pub time: Time,
    /// What.
    pub action: Action,
}

/// What a statement says. The order is the wire format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// These envelopes reached the device: their senders may know, keepers hide and later erase them.
    Delivered {
        /// At most [`IDS_MAX`].
        ids: Vec<EnvelopeId>,
    },
    /// These were read by the person. For their sender only; keepers never see it.
    Read {
        /// At most [`IDS_MAX`].
        messages: Vec<MessageId>,
    },
    /// Whoever holds this capability may leave envelopes.
    Grant {
        /// The name on envelopes.
        capability: CapabilityId,
        /// What tags are checked with.
        tag_key: Secret,
    },
    /// This capability ends; a grant of it, earlier or later, is void.
    Revoke {
        /// The name on envelopes.
        capability: CapabilityId,
    },
}

impl Wire for Statement {
    const NAME: &'static str = "a statement";
    const MAX: usize = 128 + IDS_MAX * 32;
}

impl Signable for Statement {
    const CONTEXT: &'static str = "statement";
}

/// Why a keeper does not take an envelope.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error,
)]
pub enum NotAdmitted {
    /// This node keeps no mailbox for that account.
    #[error("this node does not keep that mailbox")]
    NotKept,
    /// The account record that the sender used is old; the newer one comes along.
    #[error("the account has a newer record")]
    OldRecord,
    /// Sealed in a way this node does not know.
    #[error("the envelope uses a newer suite: this node must be updated")]
    UnknownSuite,
    /// No such capability, or it was revoked.
    #[error("the sender is not a contact of the mailbox's owner")]
    NoCapability,
    /// The tag does not fit.
    #[error("the admission tag does not fit")]
    WrongTag,
    /// Past its date, or dated so that it cannot be kept.
    #[error("the envelope's dates are out of range: check the clock")]
    Dates,
    /// The sender's share of the inbox is used up.
    #[error("the sender's share of the inbox is full until the owner reads it")]
    ShareFull,
    /// The inbox is full.
    #[error("the inbox is full until its owner reads it")]
    Full,
    /// It names seal keys whose encapsulations the keeper does not hold: send them along.
    #[error("the encapsulations it names are missing")]
    MissingSeals,
    /// Too fast.
    #[error("too many envelopes at once")]
    Busy,
    /// Not an envelope.
    #[error("the bytes are not an envelope")]
    Malformed,
}

impl NotAdmitted {
    /// Whether trying again later, as it is, may succeed.
    #[must_use]
    pub const fn retry(self) -> bool {
        matches!(
            self,
            Self::ShareFull | Self::Full | Self::Busy | Self::NotKept
        )
    }
}

/// What is live in an inbox, and of it by one capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Envelopes.
    pub items: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The checks of an envelope that need no lookup.
///
/// # Errors
/// [`NotAdmitted::UnknownSuite`] or [`NotAdmitted::Dates`].
pub fn admit_shape(sealed: &Sealed, now: Time) -> Result<(), NotAdmitted> {
    if sealed.suite != SUITE {
        return Err(NotAdmitted::UnknownSuite);
    }
    let too_new = sealed.created > now.plus(CLOCK_AHEAD_MAX);
    let too_long = sealed.expires > now.plus(RETENTION_MAX.saturating_add(CLOCK_AHEAD_MAX));
    if too_new || too_long || sealed.expires <= now || sealed.expires <= sealed.created {
        return Err(NotAdmitted::Dates);
    }
    Ok(())
}

/// Whether an envelope may be stored, given what the keeper knows of the mailbox: the cheap checks
/// first. `tag_key` is that of the named capability, if granted and not revoked.
///
/// # Errors
/// [`NotAdmitted`] says why not.
pub fn admit(
    envelope: &Envelope,
    length: usize,
    kept_under: RecordVersion,
    tag_key: Option<&Secret>,
    inbox: Usage,
    share: Usage,
) -> Result<(), NotAdmitted> {
    if envelope.sealed.record < kept_under {
        return Err(NotAdmitted::OldRecord);
    }
    let length = length as u64;
    if inbox.items >= INBOX_ITEMS || inbox.bytes.saturating_add(length) > INBOX_BYTES {
        return Err(NotAdmitted::Full);
    }
    if share.items >= INBOX_ITEMS / CAPABILITY_SHARE
        || share.bytes.saturating_add(length) > INBOX_BYTES / CAPABILITY_SHARE
    {
        return Err(NotAdmitted::ShareFull);
    }
    let tag_key = tag_key.ok_or(NotAdmitted::NoCapability)?;
    if !envelope.tag_fits(tag_key) {
        return Err(NotAdmitted::WrongTag);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bytes;
    use crate::envelope::SealName;

    fn envelope(key: &Secret) -> Envelope {
        let sealed = Sealed {
            suite: SUITE,
            mailbox: AccountId([1; 32]),
            record: RecordVersion {
                epoch: 1,
                version: 2,
            },
            created: Time(1_000),
            expires: Time(1_000).plus(RETENTION),
            capability: CapabilityId([2; 16]),
            device_seal: SealName([3; 16]),
            recovery_seal: None,
            nonce: [0; 24],
            outer: vec![1].into(),
            recovery: Bytes::default(),
            body: vec![2].into(),
        };
        Envelope::close(sealed, key)
    }

    #[test]
    fn a_contact_is_admitted_and_a_stranger_is_not() {
        let key = Secret([1; 32]);
        let kept = RecordVersion {
            epoch: 1,
            version: 2,
        };
        let none = Usage::default();
        let envelope = envelope(&key);
        assert_eq!(admit(&envelope, 700, kept, Some(&key), none, none), Ok(()));
        let stranger = admit(&envelope, 700, kept, None, none, none);
        assert_eq!(stranger, Err(NotAdmitted::NoCapability));
        let forged = admit(&envelope, 700, kept, Some(&Secret([2; 32])), none, none);
        assert_eq!(forged, Err(NotAdmitted::WrongTag));
    }

    #[test]
    fn an_old_record_is_told_so() {
        let key = Secret([1; 32]);
        let kept = RecordVersion {
            epoch: 1,
            version: 3,
        };
        let none = Usage::default();
        let answer = admit(&envelope(&key), 700, kept, Some(&key), none, none);
        assert_eq!(answer, Err(NotAdmitted::OldRecord));
    }

    #[test]
    fn one_contact_fills_an_eighth_of_an_inbox_and_no_more() {
        let key = Secret([1; 32]);
        let kept = RecordVersion {
            epoch: 1,
            version: 2,
        };
        let envelope = envelope(&key);
        let share = Usage {
            items: INBOX_ITEMS / 8,
            bytes: 0,
        };
        let answer = admit(&envelope, 700, kept, Some(&key), Usage::default(), share);
        assert_eq!(answer, Err(NotAdmitted::ShareFull));
        let bytes = Usage {
            items: 0,
            bytes: INBOX_BYTES,
        };
        let answer = admit(&envelope, 700, kept, Some(&key), bytes, Usage::default());
        assert_eq!(answer, Err(NotAdmitted::Full));
    }

    #[test]
    fn dates_must_be_in_range() {
        let sealed = envelope(&Secret([1; 32])).sealed;
        assert_eq!(admit_shape(&sealed, Time(1_000)), Ok(()));
        assert_eq!(
            admit_shape(&sealed, sealed.expires),
            Err(NotAdmitted::Dates)
        );
        let mut far = sealed.clone();
        far.expires = Time(u64::MAX);
        assert_eq!(admit_shape(&far, Time(1_000)), Err(NotAdmitted::Dates));
        let mut future = sealed;
        future.created = Time(1_000 + CLOCK_AHEAD_MAX + 1);
        assert_eq!(admit_shape(&future, Time(1_000)), Err(NotAdmitted::Dates));
    }
}
