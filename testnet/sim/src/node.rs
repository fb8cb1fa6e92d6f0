//! The few types of the node's public face that the engine's sources name.

use crate::protocol::types::AccountId;

/// How a vault is opened; here it never is by file.
#[allow(dead_code, reason = "named by the vault, never made here")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unlock {
    /// In a file beside the database.
    KeyFile,
    /// Under a passphrase.
    Passphrase(String),
}

/// A page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// How many at most; 0 reads as 100.
    pub(crate) limit: u32,
    /// Only what comes before this id.
    pub(crate) before: Option<String>,
    /// Only what comes after this id.
    pub(crate) after: Option<String>,
}

/// Which events to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EventQuery {
    /// Only events after this sequence number.
    pub(crate) since: u64,
    /// At most so many.
    pub(crate) limit: u32,
    /// Only types that equal or begin with one of these.
    pub(crate) types: Vec<String>,
    /// Only this account's.
    pub(crate) account: Option<AccountId>,
}
