//! The seeded simulator: whole networks of the real engine in one thread, with a virtual clock, virtual
//! links and disks in memory. One seed decides all. Never part of a node: the engine's sources are
//! compiled here a second time (see `build.rs`), with planted bugs behind a switch.

include!(concat!(env!("OUT_DIR"), "/copied/modules.rs"));

mod cheap;
mod command;
mod dice;
mod disk;
mod faults;
mod judge;
mod links;
mod listen;
mod node;
mod people;
mod plan;
mod planted;
mod ratchet;
mod restore;
mod run;
mod shrink;
#[cfg(test)]
mod tests;
mod trace;
mod watch;
mod world;

pub use command::{SimOptions, main};
