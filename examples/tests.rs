//! Runs every example as a user would.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use pumasi_node::Node;

/// The compiled example: cargo builds examples beside the tests of their package.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(|deps| deps.parent()).unwrap();
    target.join("examples").join(name)
}

/// A child process that never outlives its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hello_says_hello() {
    let output = Command::new(example("hello")).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "안녕");
}

#[tokio::test]
async fn the_echo_bot_answers_with_the_same_text() {
    let directory = tempfile::tempdir().unwrap();
    let mut bot = Running(
        Command::new(example("echo_bot"))
            .arg(directory.path().join("bot"))
            .arg("local")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let output = BufReader::new(bot.0.stdout.take().unwrap());
    let link = output
        .lines()
        .map(|line| line.unwrap())
        .find_map(|line| line.split("write to me: ").nth(1).map(str::to_owned))
        .expect("the bot prints its invitation");

    let node = Node::builder()
        .local()
        .data_dir(directory.path().join("hana"))
        .start()
        .await
        .unwrap();
    node.create_account("hana").await.unwrap();
    let hana = node.account(None).await.unwrap();
    hana.add_contact(&link, Some("bot")).await.unwrap();
    hana.send("bot", "메아리", None).await.unwrap();
    assert_eq!(pumasi_examples::next_text(&hana).await.unwrap(), "메아리");
    node.shutdown().await;
}
