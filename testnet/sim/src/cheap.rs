//! A stand-in for signatures and key agreement: hashes that anybody could make. Nobody in the simulated
//! world forges; what is checked is whether checks are made at all. Off in seeds with real cryptography.

use std::cell::Cell;

use crate::protocol::crypto;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
}

/// Chooses for this thread's run.
pub(crate) fn choose(on: bool) {
    ON.set(on);
}

/// Whether this thread's run uses the stand-in.
pub(crate) fn on() -> bool {
    ON.get()
}

/// The public half of a signing key.
pub(crate) fn public(seed: &[u8; 32]) -> [u8; 32] {
    crypto::hash("sim-public", &[seed]).0
}

/// A signature.
pub(crate) fn sign(public: &[u8; 32], context: &str, bytes: &[u8]) -> [u8; 64] {
    let hash = crypto::hash("sim-signature", &[public, context.as_bytes(), bytes]).0;
    std::array::from_fn(|place| hash[place % 32])
}

/// The public half of a seal key, as long as a real one.
pub(crate) fn seal_public(seed: &[u8; 32], length: usize) -> Vec<u8> {
    let hash = crypto::hash("sim-seal-public", &[seed]).0;
    hash.iter().copied().cycle().take(length).collect()
}

/// What travels when a key is agreed, as long as the real thing.
pub(crate) fn encapsulated(random: &[u8; 32], length: usize) -> Vec<u8> {
    let hash = crypto::hash("sim-encapsulated", &[random]).0;
    hash.iter().copied().cycle().take(length).collect()
}

/// The key that is agreed.
pub(crate) fn agreed(public: &[u8], encapsulated: &[u8], info: &[u8]) -> [u8; 32] {
    let public = public.get(..32).unwrap_or_default();
    let encapsulated = encapsulated.get(..32).unwrap_or_default();
    crypto::hash("sim-agreed", &[public, encapsulated, info]).0
}

/// The sender's name under an agreed key, and its tag.
pub(crate) fn sender(key: &[u8; 32], sender: &[u8; 32]) -> Vec<u8> {
    let mut bytes = sender.to_vec();
    bytes.extend(crypto::mac(key, "sim-sender", sender));
    bytes
}
