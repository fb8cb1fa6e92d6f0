//! The main job, small: real daemons as processes of their own, a building that burns, its people back
//! from their words, the reckoning.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn testnet(arguments: &[&str], runtime: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pumasi-testnet"))
        .args(arguments)
        .env("XDG_RUNTIME_DIR", runtime)
        .env("TMPDIR", runtime)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Processes of daemons below a directory.
#[cfg(target_os = "linux")]
fn daemons(below: &Path) -> usize {
    let below = below.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| String::from_utf8_lossy(line).contains(below))
        .count()
}

#[test]
fn a_building_burns_its_people_come_back_and_nothing_promised_is_lost() {
    let runtime = tempfile::tempdir().unwrap();
    let json = runtime.path().join("fire.json");
    let output = testnet(
        &[
            "--nodes",
            "8",
            "--buildings",
            "4",
            "--accounts",
            "8",
            "--seconds",
            "12",
            "--rate",
            "20",
            "--json",
            json.to_str().unwrap(),
        ],
        runtime.path(),
    );
    assert!(output.status.success(), "{}", text(&output));
    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(result["ok"], true);
    assert_eq!(result["burned"]["building"], "pangyo");
    assert_eq!(
        (&result["burned"]["nodes"], &result["burned"]["accounts"]),
        (&2.into(), &2.into())
    );
    let figure = |path: &str| result.pointer(path).and_then(Value::as_i64).unwrap();
    assert!(
        figure("/messages/sent") > 100 && figure("/ious/signed") > 30,
        "{result}"
    );
    assert_eq!(figure("/messages/safe"), figure("/messages/sent"));
    for path in [
        "/messages/lost_safe",
        "/messages/shown_twice",
        "/messages/out_of_order",
        "/ious/lost_safe",
        "/ledger/disagreements",
        "/ledger/sum/KRW",
        "/restored/missing_safe",
    ] {
        assert_eq!(figure(path), 0, "{path}");
    }
    // Both came back from their words, knew each other before, and can pay again.
    assert_eq!(result["restored"]["accounts"], 2);
    assert_eq!(result["restored"]["complete"], 2);
    for path in [
        "/restored/slowest_ms",
        "/restored/paid_after_ms",
        "/restored/repeated",
        "/restored/on_keepers",
        "/restored/burned_pairs",
        "/repair_ms",
    ] {
        assert!(figure(path) > 0, "{path}: {result}");
    }
    assert!(text(&output).contains("ok: everything promised held"));
    // Nothing is left behind but the result.
    #[cfg(target_os = "linux")]
    assert_eq!(daemons(runtime.path()), 0);
    assert_eq!(std::fs::read_dir(runtime.path()).unwrap().count(), 1);
}

#[test]
fn a_network_that_is_up_is_shown_and_taken_down_with_everything_it_had() {
    let runtime = tempfile::tempdir().unwrap();
    let size = ["--nodes", "4", "--buildings", "4", "--accounts", "4"];
    let up = testnet(&[&["up"], &size[..]].concat(), runtime.path());
    let status = testnet(&["status"], runtime.path());
    let again = testnet(&["up"], runtime.path());
    let down = testnet(&["down"], runtime.path());
    assert!(up.status.success(), "{}", text(&up));
    assert!(
        text(&up).contains("send") && text(&up).contains("--socket"),
        "{}",
        text(&up)
    );
    assert!(status.status.success(), "{}", text(&status));
    for name in ["pangyo-1", "anyang-1", "busan-1", "jeju-1"] {
        assert!(text(&status).contains(name), "{}", text(&status));
    }
    assert!(
        !again.status.success() && text(&again).contains("up already"),
        "{}",
        text(&again)
    );
    assert!(
        down.status.success() && text(&down).contains("Stopped 4 nodes"),
        "{}",
        text(&down)
    );
    #[cfg(target_os = "linux")]
    assert_eq!(daemons(runtime.path()), 0);
    assert!(!testnet(&["status"], runtime.path()).status.success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_test_that_is_killed_leaves_no_daemon_behind() {
    let runtime = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pumasi-testnet"))
        .args(["--nodes", "4", "--accounts", "4", "--plain"])
        .env("TMPDIR", runtime.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = std::time::Instant::now();
    while daemons(runtime.path()) < 4 {
        assert!(begun.elapsed().as_secs() < 60, "the daemons do not start");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let begun = std::time::Instant::now();
    while daemons(runtime.path()) > 0 {
        assert!(
            begun.elapsed().as_secs() < 20,
            "daemons outlive the test that was killed"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
