//! Whole networks of engines on in-memory stores, with a virtual clock and links that can be cut.
//! Stories of delivery and money; the seeded simulator builds on the same idea.

mod delivery;
mod hostile;
mod network;
mod opening;
mod payments;
mod proofs;
mod replace;
mod restore;
mod returning;
mod storage;
