//! An account that comes back from its 24 words, on real daemons: over the API and by the command.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod support;

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Daemon, befriend, wait_for};

/// hana in one building, and two friends in two others who keep for her.
struct Street {
    hana: Daemon,
    bora: Daemon,
    dana: Daemon,
    words: String,
    id: String,
}

fn street(dir: &Path) -> Street {
    let hana = Daemon::with_account(&dir.join("hana"), "hana");
    let bora = Daemon::with_account(&dir.join("bora"), "bora");
    let dana = Daemon::with_account(&dir.join("dana"), "dana");
    befriend([&hana, &bora], ["hana", "bora"]);
    befriend([&hana, &dana], ["hana", "dana"]);
    wait_for("two keepers", || {
        let keepers = hana.get("/api/v1/keepers");
        (keepers["buildings"] == 2).then_some(())
    });
    let words = std::fs::read_to_string(dir.join("hana.words")).unwrap();
    let id = hana.get("/api/v1/accounts")["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    Street {
        hana,
        bora,
        dana,
        words: words.trim().to_owned(),
        id,
    }
}

fn address(node: &Daemon) -> String {
    node.get("/api/v1/node")["addresses"][0]
        .as_str()
        .unwrap()
        .to_owned()
}

fn say(node: &Daemon, who: &str, text: &str) -> String {
    let path = format!("/api/v1/chats/{who}/messages");
    let sent = node.post(&path, &json!({ "text": text }), 202);
    sent["id"].as_str().unwrap().to_owned()
}

fn wait_until_safe(node: &Daemon, message: &str) {
    wait_for("the message to be safe", || {
        (node.get(&format!("/api/v1/messages/{message}"))["safe"] == true).then_some(())
    });
}

fn texts(node: &Daemon, who: &str) -> Vec<String> {
    let list = node.get(&format!("/api/v1/chats/{who}/messages"));
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|message| message["text"].as_str().unwrap().to_owned())
        .collect()
}

fn restored(node: &Daemon, id: &str) -> Value {
    wait_for("the restore to end", || {
        let view = node.get(&format!("/api/v1/restores/{id}"));
        assert_ne!(view["state"], "failed", "{view}");
        (view["state"] == "done").then_some(view)
    })
}

#[test]
fn a_burned_account_comes_back_over_the_api_of_another_node() {
    let dir = tempfile::tempdir().unwrap();
    let street = street(dir.path());
    let (hana, bora) = (street.hana, &street.bora);
    let first = say(&hana, "bora", "before the fire");
    say(bora, "hana", "I am here");
    wait_for("the answer", || {
        (texts(&hana, "bora").len() == 2).then_some(())
    });
    wait_until_safe(&hana, &first);

    let burned = hana.dir.clone();
    hana.end(Signal::KILL);
    std::fs::remove_dir_all(&burned).unwrap();

    let path = dir.path().join("new");
    let new = Daemon::start(&path, &["--building", "new"]);
    let body = json!({ "phrase": street.words, "hints": [address(bora)] });
    let begun = new.post("/api/v1/restores", &body, 202);
    assert_eq!(begun["account"], street.id.as_str());
    assert!(!begun.to_string().contains(&street.words), "{begun}");
    let view = restored(&new, &street.id);
    assert_eq!(view["report"]["complete"], true, "{view}");
    assert_eq!(view["report"]["contacts"], 2, "{view}");

    assert_eq!(new.get("/api/v1/accounts")["items"][0]["name"], "hana");
    let back = texts(&new, "bora");
    assert!(back.contains(&"before the fire".to_owned()), "{back:?}");
    assert!(back.contains(&"I am here".to_owned()), "{back:?}");
    say(&new, "bora", "and back");
    wait_for("the first words after the fire", || {
        texts(bora, "hana")
            .contains(&"and back".to_owned())
            .then_some(())
    });
    drop(street.dana);
}
