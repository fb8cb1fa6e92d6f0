//! Replays what the fuzz targets start from and what they once found, with many changes to
//! each file. It needs no fuzzer; `protocol/fuzz` is where one runs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that is wrong may panic"
)]
#![allow(clippy::disallowed_methods, reason = "the corpus is in files")]

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic;
use std::path::PathBuf;

use bodies::decode::KINDS;
use bodies::{reconcile, samples};
use data_encoding::HEXLOWER;
use pumasi_protocol::reconcile::SetView;

/// Set it to write the files that start the corpus anew.
const WRITE: &str = "PUMASI_WRITE_CORPUS";

fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target]
        .iter()
        .collect()
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
                let lie: &[u8] = [
                    &[0x80, 0][..],
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0xff, 0x7f],
                ][self.below(3)];
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
        panic!(
            "target `{target}`, from file `{file}`: {}",
            HEXLOWER.encode(input)
        );
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

/// What each target starts from: valid encodings, and what its writer knows to be awkward.
fn starts(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut random = Random(target.len() as u64);
    let mut starts = Vec::new();
    let mut add = |name: &str, first: u8, rest: &[u8]| {
        starts.push((name.to_owned(), [&[first], rest].concat()));
    };
    match target {
        "decode" => {
            for (kind, name, bytes) in samples::all() {
                let place = KINDS.iter().position(|(known, _)| *known == kind).unwrap();
                add(&format!("{kind}-{name}"), place as u8, &bytes);
            }
        }
        "reconcile" => {
            let set = |numbers: Range<u64>| SetView::new(numbers.map(reconcile::item)).unwrap();
            for (name, ours) in [
                ("none", 0..0),
                ("few", 0..4),
                ("some", 20..60),
                ("many", 900..1_900),
            ] {
                let first = set(ours.clone()).begin().unwrap();
                let answer = set(0..1_500).answer(&first).unwrap();
                add(&format!("begin-{name}"), 0, &first);
                add(
                    &format!("answer-{name}"),
                    0,
                    &answer[..answer.len().min(3_000)],
                );
            }
            // Infinity, "ids", 2^63 of them; an id prefix of 33 bytes; many empty ranges; times that
            // add up to more than there is.
            let lie = [&[0, 0, 2, 0x81][..], &[0x80; 8], &[0]].concat();
            add("count-lies", 1, &lie);
            add("long-prefix", 1, &[&[1, 33][..], &[7; 33], &[0]].concat());
            add("empty-ranges", 1, &[1, 0, 2, 0].repeat(200));
            add(
                "late",
                1,
                &[&[0x81][..], &[0xff; 8], &[0x7f, 0, 1], &[3; 16]]
                    .concat()
                    .repeat(3),
            );
            add("everything", 1, &[0, 0, 2, 0]);
            for size in [1, 20, 300] {
                let bytes: Vec<u8> = (0..size * 3).map(|_| random.next() as u8).collect();
                add(&format!("awkward-{size}"), 2, &bytes);
            }
        }
        "line" => {
            for number in 0..36 {
                // The last kinds of action are dishonest: a third of the histories has none of them.
                let kinds = [14, 15, 16][number % 3];
                let locks = number >= 24;
                let mut action = || {
                    let (end, kind) = (random.below(2) << 7, random.below(kinds));
                    let about_locks = if locks { random.below(2) << 5 } else { 0 };
                    let what = (end | kind | about_locks) as u8;
                    [what, random.next() as u8, random.next() as u8]
                };
                let begin = [[0, 0, 200], [0x80, 0, 150], [13, 0, 0], [0x8d, 0, 0]];
                let rest: Vec<_> = (0..20 + 4 * number).map(|_| action()).collect();
                starts.push((
                    format!("history-{number:02}"),
                    [&begin[..], &rest].concat().concat(),
                ));
            }
        }
        _ => {
            for (kind, name, bytes) in samples::all() {
                match kind {
                    "encapsulation" => add(&format!("{kind}-{name}"), 0, &bytes),
                    "sealed" => add(&format!("{kind}-{name}"), 1, &bytes),
                    "payload" => add(&format!("{kind}-{name}"), 4, &bytes),
                    "content" => add(&format!("{kind}-{name}"), 5, &bytes),
                    _ => {}
                }
            }
            for mode in [2, 3, 6] {
                for size in [1, 3, 6, 9] {
                    let bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
                    add(&format!("changes-{mode}-{size}"), mode, &bytes);
                }
                add(&format!("unchanged-{mode}"), mode, &[]);
            }
            add("cut-2", 2, &[0, 0, 0, 1]);
            add("cut-3", 3, &[0, 0, 0, 1]);
            add("zero-key", 6, &[0; 1_216]);
        }
    }
    starts
}

#[test]
fn the_corpus_starts_from_every_object_as_it_is_written_today() {
    let write = std::env::var(WRITE).is_ok();
    for target in ["decode", "reconcile", "line", "seal"] {
        if write {
            std::fs::create_dir_all(folder(target)).unwrap();
        }
        for (name, bytes) in starts(target) {
            let file = folder(target).join(&name);
            if write {
                std::fs::write(&file, &bytes).unwrap();
            }
            assert!(
                std::fs::read(&file).is_ok_and(|found| found == bytes),
                "{} is not what it should be: when a format was changed on purpose, or an object is \
                 new, run `{WRITE}=1 cargo test -p pumasi-protocol --test corpus` and commit the files",
                file.display(),
            );
        }
    }
    let samples = samples::all();
    for (kind, _) in KINDS {
        let known = samples.iter().any(|(sample, _, _)| *sample == kind);
        assert!(known, "there is no sample of `{kind}`");
    }
}

#[test]
fn hostile_bytes_never_decode_to_something_that_does_harm() {
    replay_all("decode", bodies::decode::run, 250);
}

#[test]
fn hostile_reconciliation_is_an_error_or_harmless() {
    replay_all("reconcile", reconcile::run, 100);
}

#[test]
fn no_history_lets_the_ends_of_a_line_disagree() {
    replay_all("line", bodies::line::run, 12);
}

#[test]
fn what_was_changed_on_the_way_does_not_open() {
    replay_all("seal", bodies::seal::run, 20);
}
