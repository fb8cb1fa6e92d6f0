//! Replays what the fuzz targets start from and what they once found, with a few thousand changes to
//! each file. It needs no fuzzer; `protocol/fuzz` is where one runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that is wrong may panic")]
#![allow(clippy::disallowed_methods, reason = "the corpus is in files")]

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::collections::BTreeMap;
use std::panic;
use std::path::PathBuf;

use data_encoding::HEXLOWER;

/// Set it to write the files that start the corpus anew.
const WRITE: &str = "PUMASI_WRITE_CORPUS";

fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect()
}

fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder(target)).unwrap();
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        (name, std::fs::read(file.path()).unwrap())
    };
    files.map(read).collect()
}

/// SplitMix64: the same changes on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        // The first byte chooses what the rest is: it changes rarely.
        let first = usize::from(self.below(50) > 0);
        let place = first + self.below(input.len().saturating_sub(first));
        let end = input.len().min(place + 1 + self.below(40));
        match self.below(8) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(place) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                if let Some(byte) = input.get_mut(place) {
                    *byte = [0, 1, 0x7f, 0x80, 0xff][self.below(5)];
                }
            }
            3 => input.truncate(place),
            4 => drop(input.drain(place.min(end)..end)),
            5 => {
                let piece = input[place.min(end)..end].to_vec();
                input.splice(place.min(end)..place.min(end), piece);
            }
            // A length or a count that lies.
            6 => {
                let lie: &[u8] = [&[0x80, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff, 0x7f]][self.below(3)];
                input.splice(place.min(end)..end.min(place + 1), lie.iter().copied());
            }
            _ => {
                let from = self.below(other.len());
                let to = other.len().min(from + 1 + self.below(64));
                input.splice(place.min(end)..end, other[from..to].iter().copied());
            }
        }
    }
}

/// Runs one input; names it when it breaks a promise.
fn replay(target: &str, file: &str, run: fn(&[u8]), input: &[u8]) {
    if panic::catch_unwind(|| run(input)).is_err() {
        panic!("target `{target}`, from file `{file}`: {}", HEXLOWER.encode(input));
    }
}

/// All files, and `changes` changed inputs of each.
fn replay_all(target: &str, run: fn(&[u8]), changes: usize) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty(), "no corpus for `{target}`");
    let inputs: Vec<_> = corpus.values().collect();
    for (number, (file, input)) in corpus.iter().enumerate() {
        replay(target, file, run, input);
        let mut random = Random(number as u64);
        for _ in 0..changes {
            let mut changed = input.clone();
            for _ in 0..=random.below(4) {
                let other = inputs[random.below(inputs.len())];
                random.change(&mut changed, other);
            }
            replay(target, file, run, &changed);
        }
    }
}

#[test]
fn hostile_bytes_never_decode_to_something_that_does_harm() {
    replay_all("decode", bodies::decode::run, 400);
}

#[test]
fn hostile_reconciliation_is_an_error_or_harmless() {
    replay_all("reconcile", bodies::reconcile::run, 60);
}

#[test]
fn no_history_lets_the_ends_of_a_line_disagree() {
    replay_all("line", bodies::line::run, 60);
}

#[test]
fn what_was_changed_on_the_way_does_not_open() {
    replay_all("seal", bodies::seal::run, 60);
}
