//! The network crate over real sockets on the loopback interface.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on must fail"
)]

mod answers;
mod common;
mod gossip;
mod hostile;
mod limits;
mod restart;
mod sessions;
