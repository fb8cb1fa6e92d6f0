//! What two nodes say to each other on their session stream, with all size limits. Plain data: who
//! may say what is decided by the engine.

use serde::{Deserialize, Serialize};

use crate::archive::{Page, Volume};
use crate::codec::{Bytes, Wire};
use crate::crypto::Signed;
use crate::envelope::{CapabilityId, ENVELOPE_MAX, Encapsulation};
use crate::locator::Locator;
use crate::mailbox::{CustodyReceipt, NotAdmitted, ShelfReceipt, Statement};
use crate::record::{AccountRecord, KeyBundle, NodeRecord, OneTimeKey, RecordVersion};
use crate::types::{AccountId, EnvelopeId, Hash, NodeId, Time};

/// Longest frame in bytes: the longest envelope with two encapsulations and a header.
pub const FRAME_MAX: usize = ENVELOPE_MAX + 8 * 1024;
/// A batch is closed when it reaches this many bytes; a single longer envelope travels alone.
pub const BATCH_BYTES: usize = 48 * 1024;
/// Node records in one answer at most.
pub const NODES_MAX: usize = 64;

/// An envelope on its way, with the encapsulations that it names where the receiver may lack them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// The encoded envelope.
    pub envelope: Bytes,
    /// At most two.
    pub seals: Vec<Encapsulation>,
}

/// A refusal of one envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which.
    pub id: EnvelopeId,
    /// Why.
    pub why: NotAdmitted,
}

/// Which set of a mailbox is reconciled; statements go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Set {
    /// What the owner said.
    Statements,
    /// Envelopes not yet acknowledged by the owner.
    Envelopes,
    /// Pages of the owner's archive.
    Archive,
}

/// One frame. The order of variants is the wire format: new ones go to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First frame of a session, both ways.
    Hello {
        /// What the sender says of itself.
        record: Signed<NodeRecord>,
    },
    /// Envelopes for a mailbox. Answered per envelope, after the commit, by `Receipts`, `Statements`
    /// or `Refused`; silence means: send again.
    Put {
        /// The envelopes.
        parcels: Vec<Parcel>,
        /// Keepers that the sender cannot reach now: please pass on.
        pass_on: Vec<NodeId>,
    },
    /// Custody receipts, to whoever brought the envelopes and to the mailbox's owner.
    Receipts(Vec<Signed<CustodyReceipt>>),
    /// Envelopes that were not taken.
    Refused {
        /// Which and why.
        items: Vec<Refused>,
        /// Newer account records of mailboxes among them.
        records: Vec<Signed<AccountRecord>>,
    },
    /// What owners said: to keepers, and to senders as acknowledgement. Answered by `Noted`.
    Statements(Vec<Signed<Statement>>),
    /// Statements that are committed here, or that concern nobody here, by their hash.
    Noted(Vec<Hash>),
    /// Please sign again for these, if you hold them. Answered by `Receipts` for those held.
    Attest {
        /// Whose mailbox.
        mailbox: AccountId,
        /// At most [`crate::mailbox::IDS_MAX`].
        ids: Vec<EnvelopeId>,
    },
    /// A question that wants an answer.
    Request {
        /// Chosen by the asker, echoed in the answer.
        id: u64,
        /// The question.
        request: Request,
    },
    /// The answer.
    Response {
        /// The question's id.
        id: u64,
        /// The answer.
        response: Response,
    },
    /// Pages of an archive. Answered like `Put`, after the commit, by `Receipts` or `Refused`.
    Pages {
        /// Heads of the volumes of these pages, where the receiver may lack them.
        volumes: Vec<Signed<Volume>>,
        /// The pages.
        pages: Vec<Signed<Page>>,
    },
}

impl Wire for Frame {
    const NAME: &'static str = "a frame";
    const MAX: usize = FRAME_MAX;
}

/// Questions. The order of variants is the wire format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Will you keep my mailboxes? Answered by `Done` or `No`.
    Keep {
        /// The account that asks; its home is the asking node.
        record: Signed<AccountRecord>,
        /// The keys that belong to the record, to hand out.
        keys: Signed<KeyBundle>,
    },
    /// You need not keep for me any longer; what you signed for stays until its date.
    Release {
        /// The account's record, which no longer names the keeper.
        record: Signed<AccountRecord>,
    },
    /// Here is a newer record of an account you keep for. Answered by `Done` or `Newer`.
    Record {
        /// The record.
        record: Signed<AccountRecord>,
        /// The keys that belong to it.
        keys: Signed<KeyBundle>,
    },
    /// Which record do you have of this account? Answered by `Record`.
    FindRecord(AccountId),
    /// Keys to seal to this account, a one-time key among them. Answered by `Keys` or `No`.
    Keys {
        /// Whose.
        account: AccountId,
        /// The asker's permission to write.
        capability: CapabilityId,
        /// HMAC by the capability's tag key over account and asking node, domain "keys".
        tag: [u8; 16],
    },
    /// One-time keys for your own pool. Answered by `Stock`.
    OneTimeKeys {
        /// Whose.
        account: AccountId,
        /// At most 100.
        keys: Vec<Signed<OneTimeKey>>,
    },
    /// Node records that you know. Answered by `Nodes`.
    Nodes,
    /// Is this what you have of the mailbox? Answered by `Digest`.
    Digest {
        /// Whose.
        mailbox: AccountId,
        /// The asker's record version.
        record: RecordVersion,
        /// Hash over the set of statements.
        statements: Hash,
        /// Hash over the set of live envelopes.
        envelopes: Hash,
        /// Hash over the set of live archive pages.
        archive: Hash,
        /// The owner asks: where the pages are the same, sign for them.
        sign: bool,
    },
    /// One step of range-based set reconciliation (negentropy). Answered by `Reconcile`.
    Reconcile {
        /// Whose.
        mailbox: AccountId,
        /// Which set.
        set: Set,
        /// Only items of this time and later are compared, on both sides.
        since: Time,
        /// The negentropy message.
        message: Bytes,
    },
    /// Send me these statements. Answered by a `Statements` frame and then `Done`.
    FetchStatements {
        /// Whose.
        mailbox: AccountId,
        /// At most [`crate::mailbox::IDS_MAX`].
        ids: Vec<Hash>,
    },
    /// Send me these envelopes. Answered by `Put` frames and then `Done`.
    FetchEnvelopes {
        /// Whose.
        mailbox: AccountId,
        /// At most [`crate::mailbox::IDS_MAX`].
        ids: Vec<EnvelopeId>,
    },
    /// Send me these pages. Answered by `Pages` frames and then `Done`.
    FetchPages {
        /// Whose.
        mailbox: AccountId,
        /// At most [`crate::mailbox::IDS_MAX`].
        ids: Vec<EnvelopeId>,
    },
    /// Keep this hint, by which a phrase finds its keepers. Answered by `Done` or `No`.
    PutLocator(Signed<Locator>),
    /// The hint under this name, which only a phrase reveals. Answered by `Locator`.
    FindLocator([u8; 32]),
    /// How far does the archive go that you keep for me? Answered by `Head`.
    ArchiveHead {
        /// Whose.
        mailbox: AccountId,
    },
    /// Do you still have this? Answered by `Proof`.
    Audit {
        /// Whose.
        mailbox: AccountId,
        /// A page or envelope.
        id: EnvelopeId,
        /// Random: the answer cannot be prepared.
        nonce: [u8; 32],
    },
}

/// Answers. The order of variants is the wire format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Done, durably.
    Done,
    /// Not done.
    No {
        /// Why, in words.
        why: String,
        /// Whether asking again later may help.
        retry: bool,
    },
    /// There is a newer record.
    Newer(Signed<AccountRecord>),
    /// The record, if known.
    Record(Option<Signed<AccountRecord>>),
    /// Keys to seal to.
    Keys {
        /// The current record.
        record: Signed<AccountRecord>,
        /// Its keys.
        keys: Signed<KeyBundle>,
        /// A one-time key, while the pool lasts; else the bundle's last-resort key serves.
        one_time: Option<Signed<OneTimeKey>>,
    },
    /// How many one-time keys the pool holds now.
    Stock(u32),
    /// Node records, at most [`NODES_MAX`].
    Nodes(Vec<Signed<NodeRecord>>),
    /// Which sets differ.
    Digest {
        /// Statements differ.
        statements: bool,
        /// Envelopes differ.
        envelopes: bool,
        /// Archive pages differ.
        archive: bool,
        /// Where they do not, and the owner asked for it.
        shelf: Option<Signed<ShelfReceipt>>,
    },
    /// The next negentropy message; empty when the asker knows all it needs.
    Reconcile(Bytes),
    /// The hint, if known.
    Locator(Option<Signed<Locator>>),
    /// Where the archive ends that is kept here.
    Head {
        /// The latest volume; 0 where there is none.
        epoch: u64,
        /// Its highest page.
        number: u64,
    },
    /// The hash over nonce and bytes of what was asked for; `None` where it is not here.
    Proof(Option<Hash>),
}

/// The answer to an audit: who does not hold the bytes cannot compute it.
#[must_use]
pub fn audit_proof(nonce: &[u8; 32], bytes: &[u8]) -> Hash {
    crate::crypto::hash("audit", &[nonce, bytes])
}

/// The text that a `Keys` request's tag covers.
#[must_use]
pub fn keys_tag_text(account: &AccountId, asker: &NodeId) -> [u8; 64] {
    let mut text = [0; 64];
    text[..32].copy_from_slice(&account.0);
    text[32..].copy_from_slice(&asker.0);
    text
}
