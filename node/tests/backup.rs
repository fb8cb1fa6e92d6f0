//! Copies of the database, as users meet them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use support::{Daemon, friends, ok, pumasi, text};

fn names(directory: &Path) -> Vec<String> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_copy_of_a_running_node_is_whole_private_and_verified_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, bora) = friends(dir.path());
    hana.post(
        "/api/v1/chats/bora/messages",
        &json!({"text": "kept for later"}),
        202,
    );
    let copies = dir.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let file = copies.join("monday.db");
    let name = file.to_str().unwrap();
    let said = hana.cli(&["backup", "create", name]);
    assert!(ok(&said).contains("Copied and verified") && ok(&said).contains("hana"));
    assert!(text(&said).1.contains("The way back is the 24 words"));
    assert_eq!(names(&copies), ["monday.db"]);
    assert!(!names(&hana.dir).iter().any(|name| name.contains("part")));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    drop((hana, bora));
    let view = ok(&pumasi(dir.path(), &["backup", "verify", name, "--json"]));
    let view: Value = serde_json::from_str(&view).unwrap();
    assert_eq!(view["accounts"][0]["name"], "hana");
    assert!(
        view["accounts"][0]["id"]
            .as_str()
            .unwrap()
            .starts_with("pm1")
    );
    assert!(view["rows"].as_u64().unwrap() > 10);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.windows(14).any(|part| part == b"kept for later"));
}

#[test]
fn a_stopped_directory_is_copied_as_it_is_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    hana.post(
        "/api/v1/chats/bora/messages",
        &json!({"text": "only in the log"}),
        202,
    );
    let data = hana.dir.clone();
    hana.end(rustix::process::Signal::KILL);
    let file = dir.path().join("after.db");
    ok(&pumasi(
        &data,
        &["backup", "create", file.to_str().unwrap()],
    ));
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.windows(15).any(|part| part == b"only in the log"));
    // The directory is as good as before.
    let hana = Daemon::start(&data, &[]);
    let last = hana.get("/api/v1/chats/bora/messages")["items"][0].clone();
    assert_eq!(last["text"], "only in the log");
}

#[test]
fn a_copy_never_replaces_a_file_and_needs_something_to_copy() {
    let dir = tempfile::tempdir().unwrap();
    let hana = Daemon::with_account(&dir.path().join("hana"), "hana");
    let file = dir.path().join("taken");
    std::fs::write(&file, "mine").unwrap();
    let said = hana.cli(&["backup", "create", file.to_str().unwrap()]);
    assert_eq!(said.status.code(), Some(1));
    assert!(text(&said).1.contains("never replaces"), "{said:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    let nobody = dir.path().join("nobody");
    let said = pumasi(
        &nobody,
        &["backup", "create", dir.path().join("new").to_str().unwrap()],
    );
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    assert!(!nobody.exists() && !dir.path().join("new").exists());
}

#[test]
fn a_changed_copy_is_refused_with_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    hana.post(
        "/api/v1/chats/bora/messages",
        &json!({"text": "I owe you nothing"}),
        202,
    );
    let file = dir.path().join("copy.db");
    ok(&hana.cli(&["backup", "create", file.to_str().unwrap()]));
    let whole = std::fs::read(&file).unwrap();
    let refused = |bytes: &[u8], why: &str| {
        std::fs::write(&file, bytes).unwrap();
        let said = pumasi(dir.path(), &["backup", "verify", file.to_str().unwrap()]);
        assert_eq!(said.status.code(), Some(1), "{why}: {said:?}");
        assert!(text(&said).1.contains(why), "{why}: {said:?}");
    };
    let at = whole
        .windows(17)
        .position(|part| part == b"I owe you nothing")
        .unwrap();
    let mut changed = whole.clone();
    changed[at] = b'i';
    refused(&changed, "table `messages` is not what it was");
    refused(&whole[..whole.len() / 2], "no sound copy");
    refused(&[], "not a Pumasi database");
    refused(&[7; 9_000], "no sound copy");
    let data = std::fs::read(hana.dir.join("node.db")).unwrap();
    drop(hana);
    refused(&data, "no sound copy");
    std::fs::write(&file, &whole).unwrap();
    ok(&pumasi(
        dir.path(),
        &["backup", "verify", file.to_str().unwrap()],
    ));
}
