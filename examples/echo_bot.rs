//! The smallest long-running service: it answers every text with the same text. Its events are
//! acknowledged, so after a restart it goes on where it was and answers nothing twice.
//! `cargo run --example echo_bot -- DIRECTORY [local]` (`local`: for this machine alone)

use anyhow::{Context, Result};
use pumasi_node::{Account, Events, Node};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("name a data directory")?;
    let mut builder = Node::builder().data_dir(directory);
    if arguments.next().as_deref() == Some("local") {
        builder = builder.local();
    }
    let node = builder.start().await?;
    let bot = pumasi_examples::only_account(&node, "echo").await?;
    pumasi_examples::say(&format!("write to me: {}", bot.invite(None).await?.link));
    let mut events = bot.subscribe("echo-bot").await?;
    loop {
        tokio::select! {
            answered = answer_next(&bot, &mut events) => answered?,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    node.shutdown().await;
    Ok(())
}

/// Answers the next text. The event's id is the idempotency key: a crash between answer and
/// acknowledgement sends no second answer.
async fn answer_next(bot: &Account, events: &mut Events) -> Result<()> {
    let event = events.next().await?;
    if event.kind == "message.received" {
        let who = event.data["contact"].as_str().unwrap_or_default();
        let text = event.data["text"].as_str().unwrap_or_default();
        bot.send(who, text, Some(&event.id)).await?;
    }
    events.ack(event.seq).await?;
    Ok(())
}
