//! The one error type of library, API and command line: a stable code, words that say what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A result with the node's error.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of error it is. Codes, HTTP statuses and exit codes hang on it; they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked is not well-formed.
    Invalid,
    /// An argument is longer or larger than its bound.
    TooLarge,
    /// An idempotency key is needed and missing.
    IdempotencyKeyMissing,
    /// The idempotency key was used for something else.
    IdempotencyKeyReused,
    /// No such thing.
    NotFound,
    /// Several accounts are here and none was named, or a name is ambiguous.
    Ambiguous,
    /// It exists already.
    Exists,
    /// The rules or the other side refuse it.
    Refused,
    /// More than the credit that the other side gives.
    CreditLimitExceeded,
    /// The line is frozen or closed.
    LineStopped,
    /// Who asks may not.
    NotPermitted,
    /// Too much at once; try again.
    Busy,
    /// The account was just started and is being compared with its keepers: try again in a moment.
    Checking,
    /// Took too long; the outcome is unknown, the same key may be used again.
    TimedOut,
    /// The daemon cannot be reached or is stopping.
    Unavailable,
    /// The store failed; the node stops.
    Storage,
    /// Something that should not happen.
    Internal,
}

impl ErrorKind {
    /// Every kind, for documentation and tests.
    pub const ALL: [Self; 17] = [
        Self::Invalid,
        Self::TooLarge,
        Self::IdempotencyKeyMissing,
        Self::IdempotencyKeyReused,
        Self::NotFound,
        Self::Ambiguous,
        Self::Exists,
        Self::Refused,
        Self::CreditLimitExceeded,
        Self::LineStopped,
        Self::NotPermitted,
        Self::Busy,
        Self::Checking,
        Self::TimedOut,
        Self::Unavailable,
        Self::Storage,
        Self::Internal,
    ];

    /// The stable code, as in problem documents.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::IdempotencyKeyMissing => "idempotency_key_missing",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::NotFound => "not_found",
            Self::Ambiguous => "ambiguous",
            Self::Exists => "exists",
            Self::Refused => "refused",
            Self::CreditLimitExceeded => "credit_limit_exceeded",
            Self::LineStopped => "line_stopped",
            Self::NotPermitted => "not_permitted",
            Self::Busy => "busy",
            Self::Checking => "checking",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Storage => "storage",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid | Self::IdempotencyKeyMissing | Self::Ambiguous => 400,
            Self::NotPermitted => 403,
            Self::NotFound => 404,
            Self::Exists | Self::Refused | Self::CreditLimitExceeded | Self::LineStopped => 409,
            Self::TooLarge => 413,
            Self::IdempotencyKeyReused => 422,
            Self::Busy => 429,
            Self::Storage | Self::Internal => 500,
            Self::Unavailable | Self::Checking => 503,
            Self::TimedOut => 504,
        }
    }

    /// The exit code of the command line.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Storage | Self::Internal | Self::Busy | Self::Checking | Self::Exists => 1,
            Self::Invalid
            | Self::TooLarge
            | Self::IdempotencyKeyMissing
            | Self::IdempotencyKeyReused
            | Self::Ambiguous => 2,
            Self::Unavailable => 3,
            Self::NotFound => 4,
            Self::Refused | Self::LineStopped => 5,
            Self::CreditLimitExceeded => 6,
            Self::TimedOut => 7,
            Self::NotPermitted => 8,
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(
            self,
            Self::Busy | Self::Checking | Self::TimedOut | Self::Unavailable
        )
    }
}

/// The detail that marks damage to the data directory.
const DAMAGED: &str = "damaged";

/// An error: its kind, a sentence that says what was wrong and what to do, and figures where they help.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    details: serde_json::Map<String, serde_json::Value>,
}

impl Error {
    /// An error of a kind, with its sentence.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            details: serde_json::Map::new(),
        }
    }

    /// The same with a figure, such as `available`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Figures.
    #[must_use]
    pub const fn details(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.details
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Something in the data directory was changed, or is gone: the way back is the 24 words.
    pub(crate) fn damage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Storage, message).with(DAMAGED, true)
    }

    /// Whether the data directory is damaged, so that its accounts must be restored from their 24 words
    /// in an empty one. Always of the kind [`ErrorKind::Storage`].
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.details.contains_key(DAMAGED)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::new(ErrorKind::Storage, format!("the store failed: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_a_code_of_its_own_and_sensible_numbers() {
        let codes: BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            assert!((400..600).contains(&kind.status()));
            assert!((1..=8).contains(&kind.exit_code()));
        }
    }
}
