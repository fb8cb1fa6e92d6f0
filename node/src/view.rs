//! What API, command line and embedding programs see: plain structs in text and numbers. One set for
//! all three, so that a field has one name everywhere.

use std::collections::BTreeMap;

use pumasi_protocol::delivery::State;
use serde::{Deserialize, Serialize};

/// Money: a whole number of the unit's smallest part, as text (JSON numbers lose digits).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Digits only; a minus sign where a balance may be negative.
    pub amount: String,
    /// The unit, such as `KRW`.
    pub currency: String,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Node id, `pn1...`.
    pub id: String,
    /// The same key as libp2p writes it, for addresses: `12D3Koo...`.
    pub peer_id: String,
    /// Program version.
    pub version: String,
    /// Network id.
    pub network: String,
    /// Addresses with the peer id, as others can dial them.
    pub addresses: Vec<String>,
    /// Who runs it.
    pub operator: String,
    /// Where it stands.
    pub building: String,
    /// Whether it keeps mailboxes of its accounts' contacts.
    pub keeps_for_contacts: bool,
    /// How many newcomers' mailboxes it keeps at most.
    pub newcomers: u32,
}

/// An account on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Account id, `pm1...`.
    pub id: String,
    /// Its name on this node and in its record.
    pub name: String,
    /// Thirty digits to compare with what a contact sees.
    pub fingerprint: String,
    /// Epoch of the device on this node.
    pub epoch: u64,
    /// Version of the account record.
    pub record_version: u64,
    /// When it was made here (RFC 3339).
    pub created: String,
    /// `active`; `checking` until it was compared with its keepers after a start; `behind` or
    /// `replaced` when it never signs again.
    pub state: String,
}

/// A new account: the only time its words are seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewAccountView {
    /// The account.
    pub account: AccountView,
    /// Its 24 words, in order. Not stored anywhere.
    pub phrase: Vec<String>,
}

/// What burning a building would leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossView {
    /// The building.
    pub building: String,
    /// Keepers in it.
    pub keepers: usize,
    /// Buildings with keepers that would be left.
    pub left: usize,
    /// Whether what is safe would survive.
    pub survives: bool,
    /// The same in a sentence.
    pub text: String,
}

/// A keeper of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperView {
    /// Node id.
    pub node: String,
    /// Who runs it.
    pub operator: String,
    /// Where it stands.
    pub building: String,
    /// Whether there is a session with it now.
    pub connected: bool,
    /// Since when there is none, as far as this run of the node has seen.
    pub silent_since: Option<String>,
    /// It is being filled: what it signs for counts, but a restore does not rely on it alone.
    pub joining: bool,
    /// While it is joining: items that it still lacks, once that is known.
    pub lacks: Option<u64>,
    /// Why it counts as gone, if it does.
    pub gone: Option<String>,
    /// Archive pages that it has signed for, by receipts held here.
    pub pages: u64,
    /// It has signed that it holds all archive pages that there were at this time.
    pub level_at: Option<String>,
}

/// Where an account's mailbox is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepersView {
    /// Account id.
    pub account: String,
    /// How many keepers are wanted (N).
    pub wanted: usize,
    /// How many buildings make an item safe (W).
    pub safe_copies: u8,
    /// Distinct buildings now.
    pub buildings: usize,
    /// Distinct operators now, of those that say who they are.
    pub operators: usize,
    /// The keepers.
    pub keepers: Vec<KeeperView>,
    /// Per building: what would be lost if it burned.
    pub losses: Vec<LossView>,
    /// What stands in the way of more keepers, if fewer than wanted.
    pub missing: Option<String>,
    /// Archive pages that must be held.
    pub pages: u64,
    /// Repairs under way, or why they wait, in sentences.
    pub repairs: Vec<String>,
}

/// What would be left of one account if a building burned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillAccountView {
    /// Account id.
    pub account: String,
    /// What it is called here.
    pub name: String,
    /// Its keepers in the building.
    pub keepers_lost: usize,
    /// Its keepers elsewhere.
    pub keepers_left: usize,
    /// The buildings these stand in.
    pub buildings_left: usize,
    /// Whether its words would bring everything back that is safe.
    pub restorable: bool,
    /// Archive pages called safe.
    pub pages_safe: u64,
    /// Those of them not proven to stand elsewhere.
    pub pages_at_risk: u64,
    /// Sent texts called safe and not delivered yet.
    pub messages_safe: u64,
    /// Those of them not proven to stand elsewhere.
    pub messages_at_risk: u64,
    /// The first few ids of what is at risk.
    pub at_risk: Vec<String>,
    /// Contacts whose node stands in the building.
    pub contacts_there: Vec<String>,
    /// The same in a sentence.
    pub text: String,
}

/// What would be left if a building burned now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillView {
    /// The building.
    pub building: String,
    /// Whether this node stands in it.
    pub here: bool,
    /// Whether everything that is safe would survive, for every account here.
    pub survives: bool,
    /// Per account.
    pub accounts: Vec<DrillAccountView>,
    /// The same in a sentence.
    pub text: String,
}

/// A mailbox that this node keeps for somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptView {
    /// Account id of its owner.
    pub account: String,
    /// Whether its owner is a contact of an account here (else a newcomer).
    pub contact: bool,
    /// Envelopes waiting for the owner.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pages of the owner's archive.
    pub pages: u64,
    /// Their bytes.
    pub page_bytes: u64,
}

/// What a copy of a database holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// The file.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was made.
    pub made: String,
    /// Version of the program that made it.
    pub program: String,
    /// Version of the database's form.
    pub schema: i64,
    /// Rows in all tables.
    pub rows: u64,
    /// The accounts in it.
    pub accounts: Vec<BackupAccountView>,
}

/// An account in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupAccountView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationView {
    /// The link to send.
    pub link: String,
    /// The same for a QR code (capitals).
    pub qr: String,
    /// What the other side compares.
    pub fingerprint: String,
    /// When it ends (RFC 3339).
    pub expires: String,
    /// A warning, when fewer keepers than wanted would take an answer.
    pub warning: Option<String>,
}

/// A contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactView {
    /// Account id.
    pub id: String,
    /// The name you gave (unique per account).
    pub name: String,
    /// The name it gives itself.
    pub own_name: String,
    /// Thirty digits to compare.
    pub fingerprint: String,
    /// `invited` until the other side answered, then `active`.
    pub state: String,
    /// Whether you compared fingerprints.
    pub verified: bool,
    /// Whether you blocked it.
    pub blocked: bool,
    /// Its home node.
    pub node: String,
    /// How many keepers its record lists.
    pub keepers: usize,
    /// When it was added (RFC 3339).
    pub added: String,
}

/// A message, from the side of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageView {
    /// Message id, `msg1...`: the same at sender and recipient.
    pub id: String,
    /// Account id of the contact.
    pub contact: String,
    /// The contact's name.
    pub contact_name: String,
    /// `out` or `in`.
    pub direction: String,
    /// `text` or `iou`.
    pub kind: String,
    /// The text; of an IOU its purpose.
    pub text: String,
    /// Of an IOU: how much.
    pub amount: Option<Money>,
    /// Of an IOU: the payment it makes.
    pub payment: Option<String>,
    /// Counts the sender's texts in this chat from 1; 0 for IOUs.
    pub sequence: u64,
    /// By the sender's clock (RFC 3339).
    pub time: String,
    /// How far it has come: `saved`, `one_building`, `safe`, `delivered`, `read`.
    pub state: State,
    /// Whether it was ever proven safe (a delivered message may have been delivered first).
    pub safe: bool,
    /// How many buildings signed for it.
    pub buildings: usize,
    /// Until when it is safe at least (RFC 3339), where it is.
    pub safe_until: Option<String>,
    /// How many of the sender's messages right before this one are missing.
    pub gap: u64,
}

/// One conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatView {
    /// Account id of the contact.
    pub contact: String,
    /// The contact's name.
    pub name: String,
    /// Received and not marked read.
    pub unread: u64,
    /// Own messages not yet safe.
    pub waiting: u64,
    /// The latest message.
    pub last: Option<MessageView>,
}

/// A line with a contact in one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineView {
    /// Line id.
    pub id: String,
    /// Account id of the contact.
    pub contact: String,
    /// The contact's name.
    pub name: String,
    /// The unit.
    pub unit: String,
    /// What the contact owes you; negative: you owe.
    pub balance: String,
    /// How much you let the contact owe you.
    pub limit_given: String,
    /// How much the contact lets you owe.
    pub limit_received: String,
    /// What you can pay now.
    pub available: String,
    /// Your IOUs not yet accepted.
    pub held_out: String,
    /// The contact's IOUs that you have not accepted yet.
    pub held_in: String,
    /// Your locks that the contact accepted and holds room for.
    pub reserved_out: String,
    /// The contact's locks that you accepted and hold room for.
    pub reserved_in: String,
    /// Your locks that no room is held for any more: owed all the same when they are opened.
    pub freed_out: String,
    /// The contact's locks that you hold no room for any more.
    pub freed_in: String,
    /// All of yours that were accepted.
    pub settled_out: String,
    /// All of the contact's that you accepted.
    pub settled_in: String,
    /// New debt is stopped: one side signed two entries in one place.
    pub frozen: bool,
    /// Both sides closed it.
    pub closed: bool,
}

/// A payment, from the side of one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentView {
    /// Payment id, `pay1...`: the same at payer and payee.
    pub id: String,
    /// Account id of the contact.
    pub contact: String,
    /// The contact's name.
    pub contact_name: String,
    /// `out` (you pay) or `in`.
    pub direction: String,
    /// How much.
    pub amount: Money,
    /// The purpose.
    pub note: String,
    /// `held` until the payee's node accepts, then `accepted`, or `declined`.
    pub state: String,
    /// Why it was declined.
    pub reason: Option<String>,
    /// How far the IOU has come as an item: the same states as a message.
    pub delivery: State,
    /// Whether the debt is proven safe.
    pub safe: bool,
    /// How many buildings signed for it.
    pub buildings: usize,
    /// By the payer's clock (RFC 3339).
    pub time: String,
}

/// An event of the node's one durable sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventView {
    /// Rises by 1; no holes within retention.
    pub seq: u64,
    /// `evt_<seq>`: stable.
    pub id: String,
    /// Such as `message.received`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When (RFC 3339).
    pub time: String,
    /// Account id it concerns, where it concerns one.
    pub account: Option<String>,
    /// The object it is about: a message, payment, contact, ...
    pub data: serde_json::Value,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Node id.
    pub node: String,
    /// An address.
    pub address: Option<String>,
    /// Who runs it, by its record.
    pub operator: String,
    /// Where it stands, by its record.
    pub building: String,
    /// How many newcomers it offers to keep for.
    pub newcomers: u32,
    /// Whether there is a session now.
    pub connected: bool,
    /// Whether you blocked it.
    pub blocked: bool,
}

/// One account's part of the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStatusView {
    /// The account.
    pub account: AccountView,
    /// Keepers now, and wanted.
    pub keepers: usize,
    /// Keepers wanted.
    pub keepers_wanted: usize,
    /// Distinct buildings of the keepers.
    pub buildings: usize,
    /// Contacts.
    pub contacts: u64,
    /// Unread messages.
    pub unread: u64,
    /// Own items not yet safe.
    pub waiting: u64,
    /// Pages of the archive that are not safe yet: what a restore might lack.
    pub archive_behind: u64,
    /// Milliseconds since the oldest of them was written; 0 when there is none.
    pub archive_behind_ms: u64,
    /// Envelopes in the mailbox that this device could not open. Their senders are asked to seal them
    /// again; the account's words open them, too.
    pub unopened: u64,
    /// Balance per unit over all lines.
    pub balances: BTreeMap<String, String>,
}

/// The status of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// The node.
    pub node: NodeView,
    /// Its accounts.
    pub accounts: Vec<AccountStatusView>,
    /// Sessions now.
    pub connected: usize,
    /// Nodes known.
    pub known_nodes: u64,
    /// Mailboxes kept for others.
    pub keeping: u64,
    /// Envelopes in them.
    pub kept_items: u64,
    /// Sendings that wait for another node.
    pub outbox: u64,
    /// Bytes of frames received from other nodes since the start.
    pub bytes_in: u64,
    /// Bytes of frames sent to other nodes since the start.
    pub bytes_out: u64,
    /// Seconds since start.
    pub uptime: u64,
    /// What is wrong, in words, each with what to do.
    pub alarms: Vec<String>,
}

/// What the words of an account opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedView {
    /// Envelopes that were opened. What they held may have come by another way before.
    pub opened: u64,
    /// Envelopes that could not be opened, even so.
    pub unopened: u64,
}

/// How restoring an account stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreView {
    /// The account's id.
    pub account: String,
    /// `locating`, `fencing`, `reading`, `done` or `failed`.
    pub state: String,
    /// What is going on, or why it failed, in a sentence.
    pub text: String,
    /// Keepers that the account had.
    pub keepers: usize,
    /// Of these, how many refuse the old device and are read.
    pub keepers_read: usize,
    /// How many must be read so that everything that was safe is found.
    pub keepers_needed: usize,
    /// Archive pages here so far.
    pub pages: u64,
    /// Inbox envelopes read so far.
    pub envelopes: u64,
    /// Milliseconds since it was begun.
    pub millis: u64,
    /// What came back, once it is done.
    pub report: Option<RestoreReport>,
}

/// What a restore brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The account as it is here now.
    pub name: String,
    /// Enough keepers were read: everything that was safe is here.
    pub complete: bool,
    /// Contacts.
    pub contacts: usize,
    /// Texts and IOUs.
    pub messages: usize,
    /// Lines.
    pub lines: usize,
    /// Messages that are sent again, because nothing shows that they arrived.
    pub sent_again: usize,
    /// What cannot be complete, and why; a sentence each.
    pub missing: Vec<String>,
}
