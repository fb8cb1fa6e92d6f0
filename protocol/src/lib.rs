//! The rules of Pumasi, as pure functions: no I/O, no clock, no randomness of its own, no async.
//! Time ([`types::Time`]) and random bytes come in as arguments; changes and answers go out as values.
//!
//! Modules in reading order: [`types`], [`codec`], [`crypto`], [`identity`], [`record`],
//! [`invitation`], [`envelope`], [`seal`], [`mailbox`], [`reconcile`], [`delivery`], [`placement`],
//! [`chat`], [`condition`], [`mod@line`], [`payment`], [`wire`].

pub mod archive;
pub mod chat;
pub mod codec;
pub mod condition;
pub mod crypto;
pub mod delivery;
pub mod envelope;
pub mod identity;
pub mod invitation;
pub mod line;
pub mod locator;
pub mod mailbox;
pub mod payment;
pub mod placement;
pub mod reconcile;
pub mod record;
pub mod seal;
pub mod succession;
pub mod types;
pub mod wire;
