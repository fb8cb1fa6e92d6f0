//! The archive of an account: what its device appends, sealed so that only the phrase opens it, and
//! what a restore makes of it. Plain data and its checks; storing, sending and reading are the node's
//! business.
//!
//! All pages that one device writes are a **volume**. Its head carries a key, sealed to the phrase;
//! page *n* is sealed under the *n*-th key of a one-way chain that begins with it. The device keeps
//! only the key of its next page, so it appends and cannot read back.
//!
//! A **page** holds the records of one commit. A **segment** is a page that stands for a run of older
//! ones: it holds what is still true of them, and a keeper that holds it drops those. Either names
//! the inbox envelopes whose contents it holds: a keeper erases an envelope only while it holds such a
//! page, so every keeper always holds the one or the other.

use serde::{Deserialize, Serialize};

use crate::codec::{self, Bytes, DecodeError, Wire};
use crate::crypto::{self, CannotOpen, OpenError, Secret, Signable, Signed};
use crate::envelope::{Capability, CapabilityId, Encapsulation, SealFor};
use crate::identity::DeviceCertificate;
use crate::line::Entry;
use crate::record::AccountRecord;
use crate::types::{AccountId, DeviceKey, EnvelopeId, Hash, MessageId, Time};

/// How pages are sealed: XChaCha20-Poly1305 under keys derived by HKDF-SHA256; the volume's key by
/// HPKE with X-Wing.
pub const SUITE: u8 = 1;
/// Longest page in bytes, signature included: what fits a frame beside a volume's head.
pub const PAGE_MAX: usize = 64 * 1024;
/// Records of one page take at most this many bytes before sealing; a single longer one stands alone.
pub const PAGE_FILL: usize = 40 * 1024;
/// Inbox envelopes that one page names at most.
pub const COVERS_MAX: usize = 512;
/// Live bytes of one archive at one keeper.
pub const ARCHIVE_BYTES: u64 = 256 * 1024 * 1024;
/// Live pages of one archive at one keeper.
pub const ARCHIVE_PAGES: u64 = 100_000;
/// Volumes of one archive: one for each time its owner was restored since the last tidying.
pub const VOLUMES_MAX: usize = 64;
/// Pages of one volume at most: so many steps of its key chain a restore may have to take.
pub const NUMBER_MAX: u64 = 1 << 32;
/// Highest epoch: what every store can count to.
pub const EPOCH_MAX: u64 = 1 << 62;
/// Certificates of earlier devices that are remembered of one contact.
pub const FORMER_MAX: usize = 16;

/// The head of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The device that writes it.
    pub certificate: Signed<DeviceCertificate>,
    /// Brings the first key of the chain to the phrase.
    pub key: Encapsulation,
}

impl Wire for Volume {
    const NAME: &'static str = "the head of an archive volume";
    const MAX: usize = 2 * 1024;
}

impl Signable for Volume {
    const CONTEXT: &'static str = "archive-volume";
}

/// A volume's head whose certificate and signature were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedVolume {
    /// The account whose root key certified the device.
    pub account: AccountId,
    /// The device's epoch: names the volume.
    pub epoch: u64,
    /// The device, which signs the pages.
    pub device: DeviceKey,
    /// The hash of the certificate: a clone's volume of the same epoch has another.
    pub certificate: Hash,
    /// The head as it travels.
    pub signed: Signed<Volume>,
}

impl CheckedVolume {
    /// Checks certificate, signature and what the key is for.
    ///
    /// # Errors
    /// [`OpenError`] when something does not fit.
    pub fn check(signed: Signed<Volume>) -> Result<Self, OpenError> {
        let volume = signed.unverified()?;
        let certificate = DeviceCertificate::open(&volume.certificate)?;
        signed.check(&certificate.device.0)?;
        if volume.key.mailbox != certificate.account
            || volume.key.for_key != SealFor::Archive
            || certificate.epoch > EPOCH_MAX
        {
            return Err(DecodeError::Malformed(Volume::NAME).into());
        }
        Ok(Self {
            account: certificate.account,
            epoch: certificate.epoch,
            device: certificate.device,
            certificate: volume.certificate.hash(),
            signed,
        })
    }

    /// Opens a page that must belong to this volume.
    ///
    /// # Errors
    /// [`OpenError`] when it is of another account or epoch, out of bounds, or not signed by the device.
    pub fn page(&self, signed: &Signed<Page>) -> Result<Page, OpenError> {
        let page = signed.open(&self.device.0)?;
        let wrong = || Err(DecodeError::Malformed(Page::NAME).into());
        if page.account != self.account || page.epoch != self.epoch {
            return wrong();
        }
        if page.number == 0 || page.number > NUMBER_MAX || page.covers.len() > COVERS_MAX {
            return wrong();
        }
        if let Some(run) = &page.replaces
            && (run.first == 0 || run.first > run.last || run.epoch > page.epoch)
        {
            return wrong();
        }
        if page
            .replaces
            .is_some_and(|run| run.epoch == page.epoch && run.last >= page.number)
        {
            return wrong();
        }
        Ok(page)
    }
}

/// A run of pages of one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// The volume.
    pub epoch: u64,
    /// The first page, from 1.
    pub first: u64,
    /// The last page.
    pub last: u64,
}

/// One page, as keepers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// How it is sealed; see [`SUITE`].
    pub suite: u8,
    /// Whose archive.
    pub account: AccountId,
    /// Which volume.
    pub epoch: u64,
    /// Place in the volume, from 1, without holes.
    pub number: u64,
    /// The pages that this segment stands for.
    pub replaces: Option<Run>,
    /// Inbox envelopes whose contents are in here, at most [`COVERS_MAX`].
    pub covers: Vec<EnvelopeId>,
    /// When it was written, by the device's clock.
    pub time: Time,
    /// Nonce of the body.
    pub nonce: [u8; 24],
    /// The [`Records`], sealed.
    pub body: Bytes,
}

impl Wire for Page {
    const NAME: &'static str = "an archive page";
    const MAX: usize = PAGE_MAX;
}

impl Signable for Page {
    const CONTEXT: &'static str = "archive-page";
}

/// The id of a page, as receipts and sets name it.
#[must_use]
pub fn page_id(page: &Signed<Page>) -> EnvelopeId {
    EnvelopeId(page.hash().0)
}

/// What a page holds once opened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Records(pub Vec<Record>);

impl Wire for Records {
    const NAME: &'static str = "the records of an archive page";
    const MAX: usize = PAGE_MAX;
}

/// One thing that an account knows. The order is the wire format: new kinds go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A contact as it is now: replaces what was said of it before.
    Contact(Box<ArchivedContact>),
    /// A contact was removed, with all its messages.
    ContactRemoved(AccountId),
    /// An invitation was given out.
    Invitation {
        /// What its holder writes with.
        granted: Granted,
        /// What the one who comes will be called.
        name: Option<String>,
        /// Until when.
        expires: Time,
    },
    /// An invitation is used up or withdrawn.
    InvitationEnded(CapabilityId),
    /// A text, written or received.
    Text(Box<ArchivedText>),
    /// A line entry, one's own or the other side's. Whether it has an effect follows from the chain.
    Entry {
        /// The entry as it was signed.
        entry: Box<Signed<Entry>>,
        /// Epoch of the device that signed it.
        epoch: u64,
        /// The call that made it.
        call: Option<Call>,
    },
    /// What is known of messages by now.
    Marks {
        /// How far they have come.
        mark: Mark,
        /// At most [`COVERS_MAX`].
        messages: Vec<MessageId>,
    },
    /// The person deleted these: they are not shown again, whatever else is found.
    Deleted(Vec<MessageId>),
    /// What the account calls itself on its own node.
    Name(String),
}

/// How far a message has come, as the archive remembers it. Of an own message a mark says, whichever it
/// is, that it was safe: what arrived without ever having been safe has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mark {
    /// An own message was safe.
    Safe,
    /// An own message reached its reader's device: it need not be sent again.
    Delivered,
    /// Read: by the other side if it is an own message, else by the person.
    Read,
}

/// A contact with everything that is needed to go on writing with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedContact {
    /// What the person calls it.
    pub name: String,
    /// Whether it answered.
    pub active: bool,
    /// Its record as known.
    pub record: Signed<AccountRecord>,
    /// Certificates of its earlier devices, oldest first, at most [`FORMER_MAX`].
    pub former: Vec<Signed<DeviceCertificate>>,
    /// What the account writes to it with.
    pub write: Capability,
    /// What it writes to the account with.
    pub granted: Granted,
    /// The invitation's capability, until the contact uses its own.
    pub invited_by: Option<Granted>,
    /// The fingerprint was compared.
    pub verified: bool,
    /// It may not write.
    pub blocked: bool,
    /// Since when it is a contact.
    pub added: Time,
}

/// A permission that was given, as keepers know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Its name on envelopes.
    pub capability: CapabilityId,
    /// What tags are checked with.
    pub tag_key: Secret,
}

/// A text of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedText {
    /// The encoded [`crate::envelope::Content`]: it names sender and recipient.
    pub content: Bytes,
    /// Where it is shown; see [`crate::chat::Order`].
    pub shown: Time,
    /// How far it has come, `None` where that is not known.
    pub mark: Option<Mark>,
    /// The call that made it.
    pub call: Option<Call>,
}

/// A call with an idempotency key: the same call again, also after a restore, has no second effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The key.
    pub key: String,
    /// Hash of what was asked.
    pub request: Hash,
}

/// The keys of a volume's pages: a one-way chain. `Debug` does not show the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageKeys {
    /// The number of the page that the key is for.
    pub number: u64,
    /// Its link of the chain.
    pub link: Secret,
}

impl PageKeys {
    /// The chain of a new volume.
    #[must_use]
    pub const fn first(link: Secret) -> Self {
        Self { number: 1, link }
    }

    /// The key of this page.
    #[must_use]
    pub fn key(&self) -> Secret {
        crypto::derive(&self.link.0, "archive page v1")
    }

    /// The next link. The one before cannot be computed from it.
    #[must_use]
    pub fn next(&self) -> Self {
        Self {
            number: self.number.saturating_add(1),
            link: crypto::derive(&self.link.0, "archive next v1"),
        }
    }
}

/// What each page's body is bound to.
fn context(page: &Page) -> Hash {
    let (epoch, first, last) = page
        .replaces
        .map_or((0, 0, 0), |run| (run.epoch, run.first, run.last));
    crypto::hash(
        "archive-body",
        &[
            &[page.suite],
            &page.account.0,
            &page.epoch.to_be_bytes(),
            &page.number.to_be_bytes(),
            &epoch.to_be_bytes(),
            &first.to_be_bytes(),
            &last.to_be_bytes(),
        ],
    )
}

/// Fills in a page's body. The page's number must be that of the keys.
#[must_use]
pub fn close(mut page: Page, keys: &PageKeys, records: &Records) -> Page {
    let plain = zeroize::Zeroizing::new(codec::encode(records));
    page.body = crypto::encrypt(&keys.key(), &page.nonce, &context(&page).0, &plain).into();
    page
}

/// Why a page cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Sealed in a way this program does not know.
    #[error("the page is sealed with suite {0}, this program knows suite {SUITE}: update it")]
    Suite(u8),
    /// Another key, or changed.
    #[error(transparent)]
    CannotOpen(#[from] CannotOpen),
    /// Opened, but not records.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The records of a page.
///
/// # Errors
/// [`Unreadable`] with the wrong key, or when the page was changed or written by a newer program.
pub fn open(page: &Page, keys: &PageKeys) -> Result<Vec<Record>, Unreadable> {
    if page.suite != SUITE {
        return Err(Unreadable::Suite(page.suite));
    }
    let plain = crypto::decrypt(&keys.key(), &page.nonce, &context(page).0, &page.body)?;
    let records: Records = codec::decode(&zeroize::Zeroizing::new(plain))?;
    Ok(records.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SigningKey;
    use crate::identity::Phrase;
    use crate::seal;

    const NOW: Time = Time(1_795_000_000_000);

    fn volume() -> (CheckedVolume, SigningKey, PageKeys) {
        let keys = Phrase::from_entropy(&[1; 32]).keys();
        let device = SigningKey::from_seed(&[2; 32]);
        let account = keys.account();
        let public = seal::public_key(&keys.recovery);
        let (key, link) =
            seal::agree(&public, SealFor::Archive, &account, &account, &[3; 32]).unwrap();
        let volume = Volume {
            certificate: DeviceCertificate::issue(&keys, DeviceKey(device.public()), 7),
            key,
        };
        let checked = CheckedVolume::check(Signed::sign(&volume, &device)).unwrap();
        (checked, device, PageKeys::first(link))
    }

    fn page(volume: &CheckedVolume, keys: &PageKeys, name: &str) -> Page {
        let page = Page {
            suite: SUITE,
            account: volume.account,
            epoch: volume.epoch,
            number: keys.number,
            replaces: None,
            covers: vec![],
            time: NOW,
            nonce: [9; 24],
            body: Bytes::default(),
        };
        close(page, keys, &Records(vec![Record::Name(name.into())]))
    }

    #[test]
    fn the_phrase_opens_every_page_and_the_device_only_those_to_come() {
        let (volume, device, keys) = volume();
        let first = page(&volume, &keys, "one");
        let second = page(&volume, &keys.next(), "two");
        let signed = Signed::sign(&second, &device);
        assert_eq!(volume.page(&signed).unwrap(), second);
        let head = volume.signed.unverified().unwrap();
        let phrase = Phrase::from_entropy(&[1; 32]).keys();
        let (sender, link) = seal::receive(&head.key, &phrase.recovery).unwrap();
        assert_eq!(sender, volume.account);
        let restored = PageKeys::first(link);
        assert_eq!(
            open(&first, &restored).unwrap(),
            [Record::Name("one".into())]
        );
        assert_eq!(
            open(&second, &restored.next()).unwrap(),
            [Record::Name("two".into())]
        );
        assert!(open(&first, &keys.next()).is_err());
    }

    #[test]
    fn a_page_cannot_be_moved_to_another_place_or_signed_by_another_device() {
        let (volume, device, keys) = volume();
        let good = page(&volume, &keys, "one");
        let mut moved = good.clone();
        moved.number = 2;
        assert!(open(&moved, &keys).is_err());
        let stranger = SigningKey::from_seed(&[8; 32]);
        assert!(volume.page(&Signed::sign(&good, &stranger)).is_err());
        let mut foreign = good;
        foreign.account = AccountId([4; 32]);
        assert!(volume.page(&Signed::sign(&foreign, &device)).is_err());
    }

    #[test]
    fn a_segment_stands_only_for_pages_before_it() {
        let (volume, device, keys) = volume();
        let mut own = page(&volume, &keys.next().next(), "one");
        own.replaces = Some(Run {
            epoch: 7,
            first: 1,
            last: 2,
        });
        assert!(volume.page(&Signed::sign(&own, &device)).is_ok());
        own.replaces = Some(Run {
            epoch: 7,
            first: 1,
            last: 3,
        });
        assert!(volume.page(&Signed::sign(&own, &device)).is_err());
        own.replaces = Some(Run {
            epoch: 8,
            first: 1,
            last: 1,
        });
        assert!(volume.page(&Signed::sign(&own, &device)).is_err());
    }
}
