//! The Pumasi node: a library to embed, and the daemon `pumasi`.
//!
//! [`Node`] is a clonable handle to a running node; [`Account`] is one of its accounts. Every call is
//! async and cancel-safe; a call that was cancelled may still have happened.
//!
//! ```no_run
//! # async fn example() -> pumasi_node::Result<()> {
//! use pumasi_node::Node;
//!
//! let node = Node::builder().data_dir("./hana").start().await?;
//! let made = node.create_account("hana").await?; // its 24 words are in `made.phrase`, once
//! let hana = node.account(Some("hana")).await?;
//! println!("give this to a friend: {}", hana.invite(None).await?.link);
//! let mut events = hana.subscribe("printer").await?;
//! loop {
//!     let event = events.next().await?;
//!     if event.kind == "message.received" {
//!         println!("{}", event.data["text"]);
//!     }
//!     events.ack(event.seq).await?;
//! }
//! # }
//! ```

mod api;
mod backup;
mod check;
mod cli;
mod clock;
mod config;
mod driver;
mod engine;
mod error;
mod node;
mod ratchet;
mod read;
mod store;
mod vault;

pub mod client;
pub mod daemon;
pub mod view;

pub use error::{Error, ErrorKind, Result};
pub use node::{Account, Builder, EventQuery, Events, Node, Options, Page, Restore, Unlock};
