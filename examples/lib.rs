//! What the example programs share: a place for their data, waiting for a text, printing.

use std::future::Future;
use std::path::PathBuf;

use anyhow::Result;
use pumasi_node::{Account, Node};

/// Runs something with a directory that is removed afterwards.
///
/// # Errors
/// When the directory cannot be made, or what `work` says.
pub async fn in_temporary_directory<F, T>(work: impl FnOnce(PathBuf) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let directory = tempfile::tempdir()?;
    work(directory.path().to_owned()).await
}

/// The next text that an account receives.
///
/// # Errors
/// When the node stops.
pub async fn next_text(account: &Account) -> Result<String> {
    let mut events = account.subscribe("next-text").await?;
    loop {
        let event = events.next().await?;
        events.ack(event.seq).await?;
        if event.kind == "message.received" {
            return Ok(event.data["text"].as_str().unwrap_or_default().to_owned());
        }
    }
}

/// The node's only account; makes it where there is none yet, and prints its words once.
///
/// # Errors
/// When there are several accounts, or the node stops.
pub async fn only_account(node: &Node, name: &str) -> Result<Account> {
    if node.accounts().await?.is_empty() {
        let made = node.create_account(name).await?;
        say(&format!(
            "the words of `{name}`, shown once: {}",
            made.phrase.join(" ")
        ));
    }
    Ok(node.account(None).await?)
}

/// Prints a line.
#[expect(
    clippy::print_stdout,
    reason = "an example program talks on standard output"
)]
pub fn say(text: &str) {
    println!("{text}");
}
