//! Hostile bytes as every object that travels, is signed or is stored.
#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::decode::run(input));
