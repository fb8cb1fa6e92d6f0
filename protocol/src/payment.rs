//! The rules of a payment that passes through other hands: what the payee asks for and promises, what
//! each hop is told, what each one may sign next, and what proves it all in the end. Not here: what a
//! single line makes of an entry ([`mod@crate::line`]), finding a way, storing, sending.
//!
//! 1. The payee signs an [`Invoice`], or the payer just asks.
//! 2. For each attempt the payee signs an [`Offer`]: conditions that only it can open.
//! 3. The payer [plans](plan) amounts and instructions along a way, and locks on its first line.
//! 4. Each hop does what [`hop::next`] says: accept, lock onward, and carry back what came of it.
//! 5. The payee does what [`payee::next`] says: it opens at most what the invoice asks for.
//! 6. Openings with the offer are a [`Receipt`].
//!
//! Nobody remembers a stage: what comes next is read off the debts that lines hold, so a device that
//! lost its memory goes on where it was. One attempt has its own conditions, so "may I pay again?" is
//! always answered with yes.
#![warn(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::indexing_slicing
)]

pub mod hop;
mod invoice;
mod offer;
pub mod payee;
mod receipt;
#[cfg(test)]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that is wrong may panic"
)]
mod tests;
mod way;

pub use invoice::{Invoice, InvoiceFault, MAX_REACH, Payable};
pub use offer::{Cancellation, Fraud, Offer, OfferFault, Part, opening_of};
pub use receipt::{Paid, Receipt, ReceiptFault};
pub use way::{Fee, Hop, Instructions, Onward, PlanFault, Planned, plan};

use crate::types::DAY;

/// The longest purpose of an invoice in bytes of UTF-8, as that of an IOU.
pub const MAX_PURPOSE: usize = crate::line::MAX_PURPOSE;
/// The longest order id in bytes of UTF-8.
pub const MAX_ORDER: usize = 128;
/// The most parts of one attempt, each over its own way.
pub const MAX_PARTS: usize = 4;
/// The most accounts that one part passes through, the payee included.
pub const MAX_HOPS: usize = 20;
/// The longest that a hop is asked to hold room, in milliseconds.
pub const MAX_HOLD: u64 = DAY;
/// How much earlier the room that a hop asks for onward ends than the room that it gives, at least: time
/// to carry back what came of it. In milliseconds.
pub const HOLD_MARGIN: u64 = 5_000;
