//! The sealed unit that nodes pass on and keepers store, and what travels inside it. How it is sealed
//! is in [`crate::seal`]; who may leave one in a mailbox is in [`crate::mailbox`].

use serde::{Deserialize, Serialize};

use crate::codec::{self, Bytes, Wire};
use crate::crypto::{self, Secret, Signable, Signed};
use crate::line::{Adopted, Entry};
use crate::record::{AccountRecord, KeyBundle, RecordVersion};
use crate::types::{AccountId, EnvelopeId, Hash, LineId, MessageId, Time};

/// Longest envelope in bytes.
pub const ENVELOPE_MAX: usize = 64 * 1024;
/// Longest text in bytes: what fits an envelope beside everything else in it.
pub const TEXT_MAX: usize = 60 * 1024;
/// Runs of entries that one [`Body::LineView`] asks for at most.
pub const WANTS_MAX: usize = 64;
/// Predecessors that a message names at most.
pub const HEADS_MAX: usize = 3;
/// Suite: Olm double ratchet (vodozemac), HPKE X-Wing / HKDF-SHA256 / ChaCha20-Poly1305 seal keys,
/// XChaCha20-Poly1305 for the parts.
pub const SUITE: u8 = 1;
/// Length of an X-Wing encapsulated key in bytes.
pub const ENCAPSULATED_LENGTH: usize = 1_120;

/// Names a contact's permission to write into a mailbox: pseudonymous, the same for keeper and writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CapabilityId(pub [u8; 16]);

/// The secret that a contact holds: gives the id by which keepers know it and the key that makes tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability(pub Secret);

impl Capability {
    /// The id that keepers see.
    #[must_use]
    pub fn id(&self) -> CapabilityId {
        let hash = crypto::hash("capability-id", &[&self.0.0]);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.0[..16]);
        CapabilityId(id)
    }

    /// The key that keepers check tags with. It does not reveal the capability.
    #[must_use]
    pub fn tag_key(&self) -> Secret {
        crypto::derive(&self.0.0, "capability tag")
    }
}

/// Names a seal key by the hash of its encapsulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SealName(pub [u8; 16]);

/// Which key a seal key was agreed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SealFor {
    /// The recipient's device: the outer seal.
    Device,
    /// The recipient's phrase: the recovery copy.
    Recovery,
    /// The owner's own phrase: a volume of its archive (see [`crate::archive`]).
    Archive,
}

/// How a seal key reaches its owner: HPKE in base mode, once per pair and day. Its first ciphertext
/// is the sender's account id, so the key comes with the name of who agreed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encapsulation {
    /// Suite of the envelopes that name it.
    pub suite: u8,
    /// Whose mailbox.
    pub mailbox: AccountId,
    /// Which of its keys.
    pub for_key: SealFor,
    /// Encapsulated X-Wing key, [`ENCAPSULATED_LENGTH`] bytes.
    pub encapsulated: Bytes,
    /// The sender's account id under the key (32 bytes and tag).
    pub sender: Bytes,
}

impl Wire for Encapsulation {
    const NAME: &'static str = "an encapsulation";
    const MAX: usize = 1_300;
}

impl Encapsulation {
    /// The name by which envelopes call it.
    #[must_use]
    pub fn name(&self) -> SealName {
        let hash = crypto::hash("seal-name", &[&codec::encode(self)]);
        let mut name = [0; 16];
        name.copy_from_slice(&hash.0[..16]);
        SealName(name)
    }
}

/// Everything of an envelope that its tag covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// How it is sealed; see [`SUITE`].
    pub suite: u8,
    /// Whose mailbox it is for.
    pub mailbox: AccountId,
    /// The version of the recipient's account record that the sender knew.
    pub record: RecordVersion,
    /// When it was sealed, by the sender's clock.
    pub created: Time,
    /// How long the outbox tries and keepers keep.
    pub expires: Time,
    /// The sender's permission.
    pub capability: CapabilityId,
    /// Names the seal key of `outer`.
    pub device_seal: SealName,
    /// Names the seal key of `recovery`; absent where the recipient refuses recovery copies.
    pub recovery_seal: Option<SealName>,
    /// Nonce of the three parts; each has a key of its own.
    pub nonce: [u8; 24],
    /// The ratchet message that carries the content key, under the device seal key.
    pub outer: Bytes,
    /// The content key under the recovery seal key; empty without `recovery_seal`.
    pub recovery: Bytes,
    /// The [`Payload`] under the content key.
    pub body: Bytes,
}

/// The sealed, size-bounded unit. Its id is the hash of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// What the tag covers.
    pub sealed: Sealed,
    /// HMAC by the capability's tag key over `sealed`: shows a keeper that a contact left it.
    pub tag: [u8; 16],
}

impl Wire for Envelope {
    const NAME: &'static str = "an envelope";
    const MAX: usize = ENVELOPE_MAX;
}

impl Wire for Sealed {
    const NAME: &'static str = "a sealed part";
    const MAX: usize = ENVELOPE_MAX;
}

impl Envelope {
    /// Closes a sealed part with the tag of a capability.
    #[must_use]
    pub fn close(sealed: Sealed, tag_key: &Secret) -> Self {
        let tag = crypto::mac(&tag_key.0, "admission", &codec::encode(&sealed));
        Self { sealed, tag }
    }

    /// Whether the tag was made with this key.
    #[must_use]
    pub fn tag_fits(&self, tag_key: &Secret) -> bool {
        let tag = crypto::mac(&tag_key.0, "admission", &codec::encode(&self.sealed));
        crypto::equal(&tag, &self.tag)
    }

    /// The id of encoded envelope bytes.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> EnvelopeId {
        EnvelopeId(crypto::hash("envelope", &[bytes]).0)
    }
}

/// A short name of a predecessor: the first half of its message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Head(pub [u8; 16]);

impl From<MessageId> for Head {
    fn from(id: MessageId) -> Self {
        let mut head = [0; 16];
        head.copy_from_slice(&id.0[..16]);
        Self(head)
    }
}

/// Which conversation a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Conversation {
    /// The one of sender and recipient.
    Direct,
}

/// What a device says to another account, before it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Who says it.
    pub sender: AccountId,
    /// To whom, alone.
    pub recipient: AccountId,
    /// When, by the sender's hybrid clock: never below any time the sender had seen in the conversation.
    pub time: Time,
    /// What.
    pub body: Body,
}

impl Wire for Content {
    const NAME: &'static str = "a content";
    const MAX: usize = ENVELOPE_MAX;
}

impl Content {
    /// The id of encoded content bytes: the same in every envelope that carries them.
    #[must_use]
    pub fn id_of(bytes: &[u8]) -> MessageId {
        MessageId(crypto::hash("content", &[bytes]).0)
    }
}

/// The kinds of content. The order is the wire format: new kinds go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A chat text.
    Text {
        /// Which conversation.
        conversation: Conversation,
        /// Epoch of the device that wrote it: each counts for itself.
        epoch: u64,
        /// Counts this device's texts in this conversation from 1, without holes.
        sequence: u64,
        /// The latest messages of the conversation that the sender had seen, at most [`HEADS_MAX`].
        heads: Vec<Head>,
        /// At most [`TEXT_MAX`] bytes.
        text: String,
    },
    /// First word of someone who was invited: who I am, and your permission to write to me.
    Hello {
        /// The sender's account record.
        record: Box<Signed<AccountRecord>>,
        /// The keys that the record names.
        keys: Box<Signed<KeyBundle>>,
        /// What the recipient writes to the sender with.
        capability: Capability,
    },
    /// Answer to a Hello: a permission of the sender's own in place of the invitation's.
    Welcome {
        /// The inviter's account record.
        record: Box<Signed<AccountRecord>>,
        /// What the recipient writes to the sender with from now on.
        capability: Capability,
    },
    /// The sender's account record changed (new keeper, new address, new name).
    Record(Box<Signed<AccountRecord>>),
    /// Some envelopes could not be opened: this message begins a new session; please seal again
    /// what they carried.
    Reset {
        /// The envelopes, at most 64 per message.
        unopened: Vec<EnvelopeId>,
    },
    /// A hole in what you sent: please seal these texts again.
    Resend {
        /// Epoch of the device that wrote them.
        epoch: u64,
        /// First missing sequence.
        first: u64,
        /// Last missing sequence, at most 256 after the first.
        last: u64,
    },
    /// The answer to the recipient's `Resume` on a line: how far its chains are known here, and which of
    /// its entries are missing.
    LineView {
        /// Which line.
        line: LineId,
        /// The ends of the recipient's chains as they are known here, at most
        /// [`crate::line::MAX_ADOPTED`].
        yours: Vec<Adopted>,
        /// Entries of the recipient's that are named and not here, at most [`WANTS_MAX`].
        wants: Vec<Wanted>,
    },
}

/// Entries of one of the recipient's chains on a line, from one sequence to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Wanted {
    /// Hash of the certificate of the device that signed them.
    pub certificate: Hash,
    /// The first, from 1.
    pub from: u64,
    /// The last.
    pub to: u64,
}

/// A content with the commitment to the key that it is sealed under; this is what the device signs.
/// The content's own bytes stay the same when it is sealed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The encoded [`Content`].
    pub content: Bytes,
    /// The hash of the content key.
    pub key: Hash,
}

impl Wire for Letter {
    const NAME: &'static str = "a letter";
    const MAX: usize = ENVELOPE_MAX;
}

impl Signable for Letter {
    const CONTEXT: &'static str = "letter";
}

/// The hash by which a letter commits to its content key.
#[must_use]
pub fn key_commitment(key: &Secret) -> Hash {
    crypto::hash("content-key", &[&key.0])
}

/// What the body of an envelope holds once opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A signed content.
    Letter {
        /// Epoch of the sender's device.
        epoch: u64,
        /// The sender's record, until the recipient is known to know the device.
        record: Option<Box<Signed<AccountRecord>>>,
        /// The letter, signed by that device.
        letter: Signed<Letter>,
    },
    /// A line entry. Its own signature serves; it binds sender, recipient and line itself.
    Entry {
        /// Epoch of the sender's device.
        epoch: u64,
        /// The sender's record, until the recipient is known to know the device.
        record: Option<Box<Signed<AccountRecord>>>,
        /// The entry, signed by that device.
        entry: Signed<Entry>,
    },
}

impl Payload {
    /// The sender's record, where it came along.
    #[must_use]
    pub fn record(&self) -> Option<&Signed<AccountRecord>> {
        let (Self::Letter { record, .. } | Self::Entry { record, .. }) = self;
        record.as_deref()
    }

    /// The same without the record; `None` where there is none.
    #[must_use]
    pub fn without_record(mut self) -> Option<Self> {
        let (Self::Letter { record, .. } | Self::Entry { record, .. }) = &mut self;
        record.take().map(|_| self)
    }
}

impl Wire for Payload {
    const NAME: &'static str = "a payload";
    const MAX: usize = ENVELOPE_MAX;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Sealed {
        Sealed {
            suite: SUITE,
            mailbox: AccountId([1; 32]),
            record: RecordVersion {
                epoch: 1,
                version: 1,
            },
            created: Time(1),
            expires: Time(2),
            capability: CapabilityId([2; 16]),
            device_seal: SealName([3; 16]),
            recovery_seal: None,
            nonce: [0; 24],
            outer: vec![1].into(),
            recovery: Bytes::default(),
            body: vec![2].into(),
        }
    }

    #[test]
    fn a_tag_fits_only_its_capability_and_its_bytes() {
        let capability = Capability(Secret([5; 32]));
        let envelope = Envelope::close(sealed(), &capability.tag_key());
        assert!(envelope.tag_fits(&capability.tag_key()));
        assert!(!envelope.tag_fits(&Capability(Secret([6; 32])).tag_key()));
        let mut changed = envelope;
        changed.sealed.mailbox = AccountId([9; 32]);
        assert!(!changed.tag_fits(&capability.tag_key()));
    }

    #[test]
    fn the_id_covers_the_tag() {
        let a = Envelope::close(sealed(), &Secret([5; 32]));
        let b = Envelope::close(sealed(), &Secret([6; 32]));
        assert_ne!(
            Envelope::id_of(&codec::encode(&a)),
            Envelope::id_of(&codec::encode(&b))
        );
    }
}
