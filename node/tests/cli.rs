//! The command line of the real program: what it prints, how it ends, and what it never does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use support::{Daemon, command, friends, ok, pumasi, text, wait_for};

fn code(output: &std::process::Output) -> i32 {
    output.status.code().unwrap()
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(&ok(output)).unwrap()
}

#[test]
fn init_makes_one_account_and_is_content_the_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let words = dir.path().join("words");
    let args = [
        "init",
        "--name",
        "하나",
        "--key-file",
        "--phrase-out",
        words.to_str().unwrap(),
        "--json",
    ];
    let made = json(&pumasi(&path, &args));
    assert_eq!(made["created"], true);
    assert_eq!(made["account"]["name"], "하나");
    assert!(made.get("phrase").is_none(), "words go to the file only");
    assert_eq!(
        fs::read_to_string(&words)
            .unwrap()
            .split_whitespace()
            .count(),
        24
    );
    assert_eq!(fs::metadata(&words).unwrap().mode() & 0o777, 0o600);

    let again = pumasi(
        &path,
        &["init", "--name", "x", "--key-file", "--phrase-shown"],
    );
    assert!(ok(&again).contains("set up already"), "{again:?}");
    // The same while a daemon runs, which then says who is there.
    let node = Daemon::start(&path, &[]);
    let again = ok(&node.cli(&["init", "--name", "x", "--key-file", "--phrase-shown"]));
    assert!(
        again.contains("하나") && !again.contains("words"),
        "{again}"
    );
    assert_eq!(
        json(&node.cli(&["account", "list", "--json"]))
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn init_asks_nothing_without_a_terminal_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let full = ["init", "--name", "hana", "--key-file", "--phrase-shown"];
    for (missing, words) in [(1, "--name"), (3, "--key-file"), (4, "--phrase-out")] {
        let mut args = full.to_vec();
        args.drain(missing..if missing == 1 { 3 } else { missing + 1 });
        let output = pumasi(&path, &args);
        assert_eq!(code(&output), 2, "{output:?}");
        assert!(text(&output).1.contains(words), "{output:?}");
    }
    let words = dir.path().join("words");
    fs::write(&words, "mine").unwrap();
    let words = words.to_str().unwrap();
    let output = pumasi(
        &path,
        &[
            "init",
            "--name",
            "hana",
            "--key-file",
            "--phrase-out",
            words,
        ],
    );
    assert_eq!(code(&output), 1, "{output:?}");
    assert_eq!(fs::read_to_string(words).unwrap(), "mine");
    let shown = ok(&pumasi(&path, &full));
    let line = shown.lines().find(|line| line.contains("words")).unwrap();
    assert_eq!(line.split_whitespace().count(), 25);
}

#[test]
fn a_passphrase_is_needed_again_and_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "열려라 참깨\n"), file("wrong", "참깨\n"));
    let empty = file("empty", "\n");
    let args = [
        "init",
        "--name",
        "hana",
        "--passphrase-file",
        &right,
        "--phrase-shown",
    ];
    ok(&pumasi(&path, &args));
    for (args, expected, words) in [
        (vec!["run"], 2, "locked with a passphrase"),
        (vec!["run", "--passphrase-file", &wrong], 8, "does not open"),
        (
            vec!["run", "--passphrase-file", &empty],
            2,
            "first line is empty",
        ),
        (vec!["run", "--passphrase-file", "/nowhere"], 2, "/nowhere"),
    ] {
        let output = pumasi(&path, &args);
        assert_eq!(code(&output), expected, "{output:?}");
        assert!(text(&output).1.contains(words), "{output:?}");
    }
    let node = Daemon::start(&path, &["--passphrase-file", &right]);
    assert!(ok(&node.cli(&["status"])).contains("hana"));
}

#[test]
fn people_meet_write_and_pay_by_commands() {
    let dir = tempfile::tempdir().unwrap();
    let hana = Daemon::with_account(&dir.path().join("hana"), "hana");
    let bora = Daemon::with_account(&dir.path().join("bora"), "bora");
    let invited = hana.cli(&["contact", "invite", "--name", "보라"]);
    let link = ok(&invited).trim().to_owned();
    assert_eq!(
        link.lines().count(),
        1,
        "nothing but the link without a terminal"
    );
    let own = hana.cli(&["contact", "add", &link]);
    assert!(text(&own).1.contains("your own"), "{own:?}");
    ok(&bora.cli(&["contact", "add", &link, "--name", "hana"]));
    wait_for("the contact", || {
        hana.cli(&["contact", "show", "보라"])
            .status
            .success()
            .then_some(())
    });

    let me = json(&bora.cli(&["id", "--json"]));
    let digits = me["accounts"][0]["fingerprint"].as_str().unwrap();
    let other = hana.cli(&["contact", "verify", "보라", "00000", "00000"]);
    assert!(!other.status.success());
    let groups: Vec<&str> = digits.split(' ').collect();
    let verify = [vec!["contact", "verify", "보라"], groups].concat();
    assert!(ok(&hana.cli(&verify)).contains("verified"));
    let table = ok(&hana.cli(&["contact", "list"]));
    assert!(table.contains("verified"), "{table}");

    let sent = hana.cli(&[
        "send",
        "보라",
        "안녕",
        "하세요",
        "--wait",
        "delivered",
        "--json",
    ]);
    assert_eq!(json(&sent)["text"], "안녕 하세요");
    let mut child = command(&hana.dir)
        .args(["send", "보라", "-", "--wait", "delivered"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all("둘째 줄\n".as_bytes())
        .unwrap();
    ok(&child.wait_with_output().unwrap());
    let chat = ok(&bora.cli(&["chat", "show", "hana"]));
    assert!(
        chat.contains("hana: 안녕 하세요") && chat.contains("hana: 둘째 줄"),
        "{chat}"
    );
    assert!(ok(&bora.cli(&["chat", "read", "hana"])).contains("2 messages"));

    ok(&bora.cli(&["credit", "open", "hana", "--limit", "50,000원"]));
    wait_for("the limit", || {
        let lines = json(&hana.cli(&["credit", "list", "--json"]));
        (lines[0]["available"] == "50000").then_some(())
    });
    let pay = [
        "pay",
        "보라",
        "KRW 12000",
        "--note",
        "점심",
        "--wait",
        "accepted",
    ];
    let paid = hana.cli(&pay);
    assert!(
        ok(&paid).contains("12,000 KRW to 보라: accepted"),
        "{paid:?}"
    );
    assert!(text(&paid).1.contains("idempotency key cli-"), "{paid:?}");
    let twice = ["pay", "보라", "5", "--idempotency-key", "k", "--json"];
    assert_eq!(json(&hana.cli(&twice))["id"], json(&hana.cli(&twice))["id"]);
    let much = hana.cli(&["pay", "보라", "1,000,000", "--json"]);
    assert_eq!(code(&much), 6);
    let (stdout, stderr) = text(&much);
    assert_eq!(stdout, "");
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "credit_limit_exceeded");
    let lines = ok(&hana.cli(&["credit", "list"]));
    assert!(lines.contains("you owe 12,005 KRW"), "{lines}");
    let status = ok(&hana.cli(&["status"]));
    assert!(status.contains("you owe 12,005 KRW"), "{status}");
}

#[test]
fn a_declined_amount_or_unknown_name_has_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    for (args, expected) in [
        (vec!["send", "nobody", "x"], 4),
        (vec!["send", "bora"], 2),
        (vec!["send", "bora", ""], 2),
        (vec!["pay", "bora", "0"], 2),
        (vec!["pay", "bora", "1.5"], 2),
        (vec!["pay", "bora", "--", "-5"], 2),
        (vec!["pay", "bora", "18446744073709551616"], 2),
        (vec!["pay", "bora", "5", "--idempotency-key", "a b"], 2),
        (vec!["contact", "add", "nonsense"], 2),
        (vec!["contact", "show", "nobody"], 4),
        (vec!["--account", "nobody", "contact", "list"], 4),
        (vec!["nonsense"], 2),
        (
            vec!["send", "bora", "late", "--wait", "read", "--timeout", "1"],
            7,
        ),
    ] {
        let output = hana.cli(&args);
        assert_eq!(code(&output), expected, "{args:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_daemon_commands_say_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let output = pumasi(&path, &["status"]);
    assert_eq!(code(&output), 3);
    assert!(text(&output).1.contains("pumasi run"), "{output:?}");
    assert_eq!(code(&pumasi(&path, &["health"])), 1);
    assert!(!path.exists(), "asking makes nothing");
}

#[test]
fn health_and_version_are_for_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let node = Daemon::start(&dir.path().join("d"), &[]);
    assert_eq!(ok(&node.cli(&["health", "--ready"])), "ok\n");
    assert!(ok(&node.cli(&["status"])).contains("pumasi account add"));
    let version = json(&pumasi(&node.dir, &["version", "--json"]));
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(ok(&pumasi(&node.dir, &["--version"])).starts_with("pumasi "));
}

#[test]
fn the_same_commands_work_over_tcp_with_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let node = Daemon::with_account(&dir.path().join("d"), "hana");
    let url = format!("http://{}", node.tcp.as_ref().unwrap());
    let elsewhere = dir.path().join("elsewhere");
    let token = node.dir.join("api.token");
    let args = [
        "--remote",
        &url,
        "--token-file",
        token.to_str().unwrap(),
        "account",
        "list",
    ];
    assert!(ok(&pumasi(&elsewhere, &args)).contains("hana"));
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "0".repeat(64)).unwrap();
    let args = [
        "--remote",
        &url,
        "--token-file",
        wrong.to_str().unwrap(),
        "account",
        "list",
    ];
    assert_eq!(code(&pumasi(&elsewhere, &args)), 8);
    let far = [
        "--remote",
        "http://192.0.2.1:4041",
        "--token-file",
        wrong.to_str().unwrap(),
        "status",
    ];
    let output = pumasi(&elsewhere, &far);
    assert_eq!(code(&output), 2);
    assert!(text(&output).1.contains("ssh -L"), "{output:?}");
}

#[test]
fn events_are_json_lines_with_rising_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, _bora) = friends(dir.path());
    let numbers = |args: &[&str]| -> Vec<u64> {
        ok(&hana.cli(args))
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["seq"]
                    .as_u64()
                    .unwrap()
            })
            .collect()
    };
    let all = numbers(&["events"]);
    assert_eq!(all[0], 1);
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "{all:?}");
    let some = numbers(&["events", "--type", "contact.", "--since", "1"]);
    assert!(!some.is_empty() && some.len() < all.len());
}

/// Runs with some environment.
fn with_env(path: &Path, env: &[(&str, &str)], args: &[&str]) -> std::process::Output {
    command(path)
        .envs(env.iter().copied())
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn the_example_checks_and_every_value_knows_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let example = ok(&pumasi(&path, &["config", "init"]));
    let mut child = command(&path)
        .args(["config", "check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(example.as_bytes())
        .unwrap();
    assert_eq!(ok(&child.wait_with_output().unwrap()), "stdin: ok\n");

    // In its place in the home directory, which the tests' home is.
    let written = ok(&pumasi(&path, &["config", "init", "--write"]));
    let file = dir.path().join(".config/pumasi/config.toml");
    assert!(written.contains(file.to_str().unwrap()), "{written}");
    assert_eq!(
        code(&pumasi(&path, &["config", "init", "--write"])),
        1,
        "never overwrites"
    );
    assert_eq!(
        ok(&pumasi(&path, &["config", "path"])).trim(),
        file.to_str().unwrap()
    );

    let text = "[node]\nbuilding = \"file\"\noperator = \"file\"\nnewcomers = 3\n";
    fs::write(&file, text).unwrap();
    let env = [
        ("PUMASI_NODE_OPERATOR", "env"),
        ("PUMASI_NODE_NEWCOMERS", "4"),
    ];
    let args = ["config", "show", "--origin", "--newcomers", "5", "--json"];
    let shown = json(&with_env(&path, &env, &args));
    let entry = |key: &str| {
        let found = shown
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["key"] == key)
            .unwrap();
        (
            found["value"].as_str().unwrap().to_owned(),
            found["origin"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(
        entry("node.building"),
        ("\"file\"".into(), format!("file {}", file.display()))
    );
    assert_eq!(
        entry("node.operator"),
        ("\"env\"".into(), "environment PUMASI_NODE_OPERATOR".into())
    );
    assert_eq!(
        entry("node.newcomers"),
        ("5".into(), "flag --newcomers".into())
    );
    assert_eq!(entry("node.network"), ("\"main\"".into(), "default".into()));
    assert_eq!(entry("node.data_dir").1, "flag --data-dir");
}

#[test]
fn a_mistyped_key_is_an_error_with_a_suggestion() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let file = dir.path().join("c.toml");
    fs::write(&file, "[api]\nlisen = \"off\"\n").unwrap();
    let file = file.to_str().unwrap();
    for args in [vec!["config", "check", file], vec!["run", "--config", file]] {
        let output = pumasi(&path, &args);
        assert_eq!(code(&output), 2, "{output:?}");
        assert!(
            text(&output).1.contains("(did you mean api.listen?)"),
            "{output:?}"
        );
    }
    let missing = pumasi(&path, &["run", "--config", "/nowhere.toml"]);
    assert_eq!(code(&missing), 4, "{missing:?}");
    assert!(!path.exists());
}

#[test]
fn the_log_says_nothing_of_texts_amounts_or_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let (hana, bora) = (dir.path().join("hana"), dir.path().join("bora"));
    let words = dir.path().join("w");
    let log = dir.path().join("log");
    let args = [
        "init",
        "--name",
        "hana",
        "--key-file",
        "--phrase-out",
        words.to_str().unwrap(),
    ];
    ok(&pumasi(&hana, &args));
    let mut child = command(&hana)
        .args([
            "run",
            "--listen",
            "/ip4/127.0.0.1/udp/0/quic-v1",
            "--mdns",
            "false",
        ])
        .args(["--local", "true", "--log-format", "json"])
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait_for("the daemon", || {
        pumasi(&hana, &["health", "--ready"])
            .status
            .success()
            .then_some(())
    });
    let other = Daemon::with_account(&bora, "bora");
    let link = ok(&pumasi(&hana, &["contact", "invite", "--name", "bora"]));
    ok(&other.cli(&["contact", "add", link.trim(), "--name", "hana"]));
    wait_for("the contact", || {
        pumasi(&hana, &["contact", "show", "bora"])
            .status
            .success()
            .then_some(())
    });
    ok(&other.cli(&["credit", "open", "hana", "--limit", "7654321"]));
    ok(&pumasi(
        &hana,
        &["send", "bora", "geheimnis", "--wait", "delivered"],
    ));
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(log).unwrap();
    for secret in ["geheimnis", "7654321", "127.0.0.1", "bora", "12D3"] {
        assert!(!log.contains(secret), "{secret} in\n{log}");
    }
}
