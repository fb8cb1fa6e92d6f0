//! Crash, corrupt and soak, small: the same as the long runs, in seconds.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a command that must find nothing broken; its result.
fn run(arguments: &[&str], runtime: &Path) -> Value {
    let json = runtime.join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_pumasi-testnet"))
        .args(arguments)
        .args(["--json", json.to_str().unwrap()])
        .env("TMPDIR", runtime)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(result["ok"], true, "{result}");
    // Nothing is left behind but the result.
    assert_eq!(std::fs::read_dir(runtime).unwrap().count(), 1);
    result
}

#[test]
fn a_daemon_killed_at_its_writes_loses_and_doubles_nothing_acknowledged() {
    let runtime = tempfile::tempdir().unwrap();
    let arguments = ["crash", "--points", "6", "--images", "6", "--rate", "20"];
    let result = run(&arguments, runtime.path());
    assert!(result["writes"].as_u64().unwrap() > 200, "{result}");
    let points = result["points"].as_object().unwrap();
    let came: u64 = points
        .values()
        .map(|kind| kind["points"].as_u64().unwrap())
        .sum();
    assert!(came >= 6, "{result}");
    assert_eq!(result["images"]["images"], 6);
    assert!(result["operations"].as_u64().unwrap() >= 200, "{result}");
}

#[test]
fn every_damage_to_a_data_directory_is_refused_or_harmless() {
    let runtime = tempfile::tempdir().unwrap();
    let result = run(&["corrupt", "--runs", "40"], runtime.path());
    let kinds = result["kinds"].as_object().unwrap();
    assert_eq!(kinds.len(), 20, "{result}");
    for never_alone in [
        "the database deleted",
        "the database cut off",
        "the log deleted",
    ] {
        assert_eq!(kinds[never_alone]["refused"], 2, "{result}");
    }
}

#[test]
fn a_network_that_is_struck_at_random_keeps_its_promises() {
    let runtime = tempfile::tempdir().unwrap();
    let arguments = [
        "soak",
        "--minutes",
        "0.2",
        "--nodes",
        "4",
        "--accounts",
        "8",
        "--rate",
        "15",
    ];
    let result = run(&arguments, runtime.path());
    let blows = result["blows"].as_object().unwrap();
    assert!(!blows.is_empty(), "{result}");
    assert!(
        result["messages"]["sent"].as_u64().unwrap() > 20,
        "{result}"
    );
}
