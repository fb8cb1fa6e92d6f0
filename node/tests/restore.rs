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
use support::{Daemon, befriend, friends, ok, pumasi, text, wait_for};

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

fn status(node: &Daemon) -> Value {
    node.get("/api/v1/node/status")["accounts"][0].clone()
}

/// Everything that the account knows is safe at its keepers.
fn wait_until_safe(node: &Daemon) {
    wait_for("the archive to be safe", || {
        (status(node)["archive_behind"] == 0).then_some(())
    });
}

fn krw(amount: &str) -> Value {
    json!({ "amount": amount, "currency": "KRW" })
}

/// hana owes bora 12,000 won.
fn owe(hana: &Daemon, bora: &Daemon) {
    let body = json!({ "with": "hana", "limit": krw("50000") });
    bora.post("/api/v1/credit-lines", &body, 200);
    wait_for("the limit to arrive", || {
        let line = hana.http("GET", "/api/v1/credit-lines/bora/KRW", None, &[]);
        (line.status == 200 && line.json()["available"] == "50000").then_some(())
    });
    let body = json!({ "to": "bora", "amount": krw("12000") });
    let key = ["Idempotency-Key: k-1"];
    let paid = hana
        .http("POST", "/api/v1/payments", Some(&body), &key)
        .expect(202);
    let path = format!("/api/v1/payments/{}", paid["id"].as_str().unwrap());
    wait_for("the payment to be accepted", || {
        (hana.get(&path)["state"] == "accepted").then_some(())
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
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
fn a_burned_account_comes_back_over_the_api_and_its_old_device_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let street = street(dir.path());
    let (hana, bora) = (street.hana, &street.bora);
    say(&hana, "bora", "before the fire");
    say(bora, "hana", "I am here");
    wait_for("the answer", || {
        (texts(&hana, "bora").len() == 2).then_some(())
    });
    owe(&hana, bora);
    wait_until_safe(&hana);

    let burned = hana.dir.clone();
    hana.end(Signal::KILL);
    let image = dir.path().join("image");
    copy(&burned, &image);
    std::fs::remove_dir_all(&burned).unwrap();

    let new = Daemon::start(&dir.path().join("new"), &["--building", "new"]);
    let body = json!({ "phrase": street.words, "hints": [address(bora)] });
    let begun = new.post("/api/v1/restores", &body, 202);
    assert_eq!(begun["account"], street.id.as_str());
    assert!(!begun.to_string().contains(&street.words), "{begun}");
    let view = restored(&new, &street.id);
    assert_eq!(view["report"]["complete"], true, "{view}");
    assert_eq!(view["report"]["contacts"], 2, "{view}");
    new.http("POST", "/api/v1/restores", Some(&body), &[])
        .problem(409, "exists");

    assert_eq!(new.get("/api/v1/accounts")["items"][0]["name"], "hana");
    assert_eq!(new.get("/api/v1/accounts")["items"][0]["state"], "active");
    let back = texts(&new, "bora");
    assert!(back.contains(&"before the fire".to_owned()), "{back:?}");
    assert!(back.contains(&"I am here".to_owned()), "{back:?}");
    assert_eq!(
        new.get("/api/v1/credit-lines/bora/KRW")["balance"],
        "-12000"
    );
    say(&new, "bora", "and back");
    wait_for("the first words after the fire", || {
        texts(bora, "hana")
            .contains(&"and back".to_owned())
            .then_some(())
    });

    // Somebody starts the machine that was thought lost.
    let old = Daemon::start(
        &image,
        &["--building", "hana", "--bootstrap", &address(bora)],
    );
    wait_for("the old device to learn that it was replaced", || {
        (status(&old)["account"]["state"] == "replaced").then_some(())
    });
    let body = json!({ "text": "from the grave" });
    let refused = old
        .http("POST", "/api/v1/chats/bora/messages", Some(&body), &[])
        .problem(409, "refused");
    assert!(refused["detail"].as_str().unwrap().contains("replaced"));
    let alarms = old.get("/api/v1/node/status")["alarms"].to_string();
    assert!(alarms.contains("replaced"), "{alarms}");
    drop(street.dana);
}

#[test]
fn wrong_words_are_refused_and_unknown_ones_are_looked_for_until_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let node = Daemon::start(&dir.path().join("d"), &[]);
    let post = |body: &Value| node.http("POST", "/api/v1/restores", Some(body), &[]);
    let wrong = "abandon ".repeat(23) + "secretword";
    let refused = post(&json!({ "phrase": wrong })).problem(400, "invalid");
    assert!(!refused.to_string().contains("secretword"), "{refused}");
    post(&json!({ "phrase": "abandon" })).problem(400, "invalid");
    post(&json!({})).problem(400, "invalid");
    let unknown = "abandon ".repeat(23) + "art";
    let body = json!({ "phrase": unknown, "hints": ["nonsense"] });
    post(&body).problem(400, "invalid");
    post(&json!({ "phrase": unknown, "hints": "no list" })).problem(400, "invalid");
    let begun = post(&json!({ "phrase": unknown })).expect(202);
    assert_eq!(begun["state"], "locating");
    let path = format!("/api/v1/restores/{}", begun["account"].as_str().unwrap());
    assert_eq!(node.get(&path)["state"], "locating");
    assert_eq!(node.http("DELETE", &path, None, &[]).status, 204);
    node.http("GET", &path, None, &[]).problem(404, "not_found");
    node.http("DELETE", &path, None, &[])
        .problem(404, "not_found");
    node.http("GET", "/api/v1/restores/x", None, &[])
        .problem(400, "invalid");
}

#[test]
fn pumasi_restore_brings_an_account_back_into_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let street = street(dir.path());
    let (hana, bora) = (street.hana, &street.bora);
    say(&hana, "bora", "before the fire");
    owe(&hana, bora);
    wait_until_safe(&hana);
    let burned = hana.dir.clone();
    hana.end(Signal::KILL);
    std::fs::remove_dir_all(&burned).unwrap();

    let words = dir.path().join("hana.words");
    let bootstrap = address(bora);
    let local = [
        "--listen",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "--local",
        "true",
        "--bootstrap",
        &bootstrap,
    ];
    let restore = |name: &str, words: &Path, more: &[&str]| {
        let mut args = vec!["restore", "--key-file", "--phrase-file"];
        args.push(words.to_str().unwrap());
        args.extend(local);
        args.extend(more);
        pumasi(&dir.path().join(name), &args)
    };
    // A wrong word is told before anything is made; words that nobody knows are given up in time.
    let wrong = dir.path().join("wrong");
    std::fs::write(&wrong, "abandon ".repeat(24)).unwrap();
    let output = restore("w", &wrong, &[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!dir.path().join("w").exists());
    std::fs::write(&wrong, "abandon ".repeat(23) + "art").unwrap();
    let output = restore("w", &wrong, &["--timeout", "2"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(text(&output).1.contains("knows an account"), "{output:?}");

    let output = restore("again", &words, &["--building", "new", "--timeout", "60"]);
    let told = ok(&output);
    assert!(told.starts_with("hana is back."), "{told}");
    assert!(told.contains("you owe 12,000"), "{told}");
    assert!(told.contains("Complete:"), "{told}");
    assert!(told.contains("pumasi run --data-dir"), "{told}");
    assert!(text(&output).1.contains("reading"), "{output:?}");
    // Once more: it is here already.
    let output = restore("again", &words, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");

    // The same for programs, elsewhere: the last one wins.
    let output = restore("third", &words, &["--name", "mine", "--json"]);
    let told: Value = serde_json::from_str(&ok(&output)).unwrap();
    assert_eq!(told["state"], "done", "{told}");
    assert_eq!(told["report"]["complete"], true, "{told}");
    assert_eq!(told["report"]["name"], "mine", "{told}");
    assert_eq!(told["balances"]["KRW"], "-12000", "{told}");

    let new = Daemon::start(&dir.path().join("third"), &local[4..]);
    assert!(texts(&new, "bora").contains(&"before the fire".to_owned()));
    // A call that signs waits until the account is compared with its keepers.
    say(&new, "bora", "and back");
    wait_for("the first words after the fire", || {
        texts(bora, "hana")
            .contains(&"and back".to_owned())
            .then_some(())
    });
    // With the daemon running, the words open mail there, and nothing else.
    let open = ["restore", "--open-mail", "--phrase-file"];
    let mut args = open.to_vec();
    args.push(words.to_str().unwrap());
    assert!(ok(&new.cli(&args)).contains("Nothing waited"));
    args[3] = wrong.to_str().unwrap();
    assert_eq!(new.cli(&args).status.code(), Some(4));
    drop(street.dana);
}

#[test]
fn a_node_without_its_keepers_is_not_ready_and_its_account_does_not_sign() {
    let dir = tempfile::tempdir().unwrap();
    let street = street(dir.path());
    let burned = street.hana.dir.clone();
    street.hana.end(Signal::KILL);
    drop((street.bora, street.dana));
    let hana = Daemon::start(&burned, &["--building", "hana"]);
    let not = hana
        .http("GET", "/readyz", None, &[])
        .problem(503, "checking");
    assert!(not["detail"].as_str().unwrap().contains("hana"), "{not}");
    assert_eq!(hana.get("/livez")["status"], "ok");
    assert_eq!(status(&hana)["account"]["state"], "checking");
    let body = json!({ "text": "not yet" });
    let answer = hana.http("POST", "/api/v1/chats/bora/messages", Some(&body), &[]);
    let problem = answer.problem(503, "checking");
    assert_eq!(problem["retryable"], true);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    // What reads goes on.
    assert_eq!(hana.get("/api/v1/contacts")["items"][0]["name"], "bora");
}

#[test]
fn a_deleted_text_is_gone_and_an_iou_cannot_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, bora) = friends(dir.path());
    let id = say(&hana, "bora", "a slip of the tongue");
    wait_for("the text", || {
        (texts(&bora, "hana").len() == 1).then_some(())
    });
    let path = format!("/api/v1/messages/{id}");
    assert_eq!(bora.http("DELETE", &path, None, &[]).status, 204);
    bora.http("GET", &path, None, &[]).problem(404, "not_found");
    bora.http("DELETE", &path, None, &[])
        .problem(404, "not_found");
    assert_eq!(texts(&bora, "hana"), Vec::<String>::new());
    assert_eq!(hana.get(&path)["text"], "a slip of the tongue");
    assert_eq!(ok(&hana.cli(&["message", "delete", &id])).trim(), "deleted");
    owe(&hana, &bora);
    let list = hana.get("/api/v1/chats/bora/messages");
    let iou = format!(
        "/api/v1/messages/{}",
        list["items"][0]["id"].as_str().unwrap()
    );
    hana.http("DELETE", &iou, None, &[]).problem(409, "refused");
}
