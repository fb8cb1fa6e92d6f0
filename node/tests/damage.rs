//! Damaged data directories: each is refused in words, and left as it was.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::{Daemon, befriend, command, text, wait_for};

/// Starts a daemon that must refuse; what it says.
fn refusal(dir: &Path) -> String {
    let mut child = command(dir)
        .args([
            "run",
            "--listen",
            "/ip4/127.0.0.1/udp/0/quic-v1",
            "--mdns",
            "false",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the daemon runs on a damaged directory");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let said = text(&output).1;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A directory with an account and three more, stopped by a signal.
fn stopped(dir: &Path, signal: Signal) -> PathBuf {
    let data = dir.join("hana");
    let hana = Daemon::with_account(&data, "hana");
    for name in ["a", "b", "c"] {
        hana.post("/api/v1/accounts", &json!({ "name": name }), 201);
    }
    hana.end(signal);
    data
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_directory_that_lost_its_database_is_never_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = stopped(dir.path(), Signal::TERM);
    let key = std::fs::read(data.join("identity.key")).unwrap();
    std::fs::write(data.join("node.db"), b"").unwrap();
    assert!(refusal(&data).contains("is empty, but"));
    std::fs::remove_file(data.join("node.db")).unwrap();
    let said = refusal(&data);
    assert!(
        said.contains("is gone, but") && said.contains("24 words"),
        "{said}"
    );
    assert!(!data.join("node.db").exists());
    assert_eq!(std::fs::read(data.join("identity.key")).unwrap(), key);
}

#[test]
fn a_first_start_that_was_cut_short_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("hana");
    Daemon::start(&data, &[]).end(Signal::TERM);
    // As it is between key file and database.
    for name in ["node.db", "node.db-wal", "node.db-shm", "node.db-sums"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    std::fs::write(data.join("beginning"), b"This directory is being set up.\n").unwrap();
    let node = Daemon::start(&data, &[]);
    assert_eq!(node.get("/api/v1/accounts")["items"], json!([]));
    assert!(!data.join("beginning").exists());
}

#[test]
fn a_missing_or_foreign_key_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = stopped(dir.path(), Signal::TERM);
    let other = dir.path().join("other");
    Daemon::start(&other, &[]).end(Signal::TERM);
    std::fs::copy(other.join("identity.key"), data.join("identity.key")).unwrap();
    assert!(refusal(&data).contains("that of another data directory"));
    std::fs::remove_file(data.join("identity.key")).unwrap();
    assert!(refusal(&data).contains("identity.key is missing"));
    std::fs::write(
        data.join("identity.key"),
        b"version = 1\nkind = \"clear\"\n",
    )
    .unwrap();
    assert!(refusal(&data).contains("is damaged"));
}

#[test]
fn flipped_bits_cut_files_and_foreign_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = stopped(dir.path(), Signal::TERM);
    let path = data.join("node.db");
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 18, 30, 5_000, whole.len() / 2, whole.len() - 1] {
        change(&path, |bytes| bytes[at] ^= 0x10);
        let said = refusal(&data);
        assert!(said.contains("does not match its checksum"), "{at}: {said}");
        change(&path, |bytes| bytes.clone_from(&whole));
    }
    change(&path, |bytes| bytes.truncate(whole.len() - 5_000));
    assert!(refusal(&data).contains("is cut off"));
    std::fs::write(&path, [0x5a; 30_000]).unwrap();
    assert!(refusal(&data).contains("pages"));
    std::fs::write(&path, &whole).unwrap();
    let node = Daemon::start(&data, &[]);
    assert_eq!(
        node.get("/api/v1/accounts")["items"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn a_lost_or_changed_log_is_refused_and_a_torn_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let data = stopped(dir.path(), Signal::KILL);
    let log = data.join("node.db-wal");
    let whole = std::fs::read(&log).unwrap();
    assert!(whole.len() > 40_000);
    std::fs::remove_file(&log).unwrap();
    assert!(refusal(&data).contains("write-ahead log is missing"));
    std::fs::write(&log, &whole).unwrap();
    change(&log, |bytes| bytes[10_000] ^= 1);
    assert!(refusal(&data).contains("damaged write-ahead log"));
    std::fs::write(&log, &whole).unwrap();
    change(&log, |bytes| bytes.extend_from_slice(&whole[32..2_000]));
    let node = Daemon::start(&data, &[]);
    assert_eq!(
        node.get("/api/v1/accounts")["items"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

/// Lines of what was said that are commands to type.
fn commands(said: &str) -> Vec<String> {
    let typed = |line: &&str| line.starts_with("  mv ") || line.starts_with("  pumasi ");
    said.lines()
        .filter(typed)
        .map(|line| match line.split_once("     (") {
            Some((command, _)) => command.trim().to_owned(),
            None => line.trim().to_owned(),
        })
        .collect()
}

#[test]
fn the_commands_that_a_damaged_node_names_bring_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("hana's node");
    let hana = Daemon::with_account(&data, "hana");
    let bora = Daemon::with_account(&dir.path().join("bora"), "bora");
    let dana = Daemon::with_account(&dir.path().join("dana"), "dana");
    befriend([&hana, &bora], ["hana", "bora"]);
    befriend([&hana, &dana], ["hana", "dana"]);
    wait_for("two keepers", || {
        (hana.get("/api/v1/keepers")["buildings"] == 2).then_some(())
    });
    let body = json!({ "text": "before the damage" });
    hana.post("/api/v1/chats/bora/messages", &body, 202);
    wait_for("the archive to be safe", || {
        let status = hana.get("/api/v1/node/status");
        (status["accounts"][0]["archive_behind"] == 0).then_some(())
    });
    hana.end(Signal::TERM);
    let path = data.join("node.db");
    change(&path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });

    let address = bora.get("/api/v1/node")["addresses"][0].clone();
    let flags = [
        "run",
        "--listen",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "--local",
        "true",
        "--building",
        "hana's house",
        "--bootstrap",
        address.as_str().unwrap(),
    ];
    let refused = support::pumasi(&data, &flags);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused).1;
    assert!(said.contains("1 of its pages does not match"), "{said}");
    let commands = commands(&said);
    let [away, restore, run] = commands.as_slice() else {
        panic!("{said}")
    };

    let words = data.with_extension("words");
    let typed = format!(
        "pumasi() {{ '{}' \"$@\"; }}; {away} && {restore} --key-file --phrase-file '{}'",
        support::PUMASI,
        words.display().to_string().replace('\'', "'\\''")
    );
    let done = std::process::Command::new("sh")
        .args(["-c", &typed])
        .env_remove("PUMASI_DATA_DIR")
        .output()
        .unwrap();
    assert!(support::ok(&done).contains("Complete"), "{done:?}");
    // Every flag of the run is in the last one, so the support's daemon is that one.
    for flag in &flags[1..] {
        let quoted = flag.replace('\'', "'\\''");
        assert!(run.contains(flag) || run.contains(&quoted), "{flag}: {run}");
    }
    let hana = Daemon::start(&data, &["--building", "hana's house"]);
    let texts = hana.get("/api/v1/chats/bora/messages")["items"].to_string();
    assert!(texts.contains("before the damage"), "{texts}");
}
