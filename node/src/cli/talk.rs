//! `send` and `chat`: texts out, texts in, and how far they have come.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use pumasi_protocol::delivery::State;
use serde::Deserialize;
use serde_json::json;

use super::Session;
use super::print::{clean, count, flat, line, money, table, time, width};
use crate::client::{Client, EventStream, segment};
use crate::error::{Error, ErrorKind, Result};
use crate::view::{ChatView, ContactView, EventView, MessageView};

/// The most that is read from stdin: more than any text may have, so that the daemon refuses it.
const STDIN_MAX: u64 = 128 * 1024;

/// How far a message must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// Committed on this node's disk
    Saved,
    /// Proven to be in enough buildings, or further
    Safe,
    /// Signed for by the recipient's device
    Delivered,
    /// Signed as read
    Read,
}

/// `pumasi send`.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// Contact: name or id
    who: String,
    /// The text; `-` reads it from stdin
    #[arg(required = true)]
    text: Vec<String>,
    /// Return only when the message has come so far
    #[arg(long, value_name = "STATE")]
    wait: Option<Until>,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Send at most once under this key, however often it is repeated
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Send {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let text = match self.text.as_slice() {
            [dash] if dash == "-" => read_stdin()?,
            words => words.join(" "),
        };
        let path = format!("/chats/{}/messages", segment(&self.who));
        let body = json!({ "text": text });
        let client = &session.client;
        let wait = self.wait.filter(|until| *until != Until::Saved);
        // Opened before sending, so that nothing is missed in between.
        let stream = match wait {
            Some(_) => Some(client.events_from_now(&["message."]).await?),
            None => None,
        };
        let mut message: MessageView = match &self.idempotency_key {
            Some(key) => client.post_with_key(&path, &body, key).await?,
            None => client.post(&path, &body).await?,
        };
        if let (Some(until), Some(stream)) = (wait, stream) {
            message = arrival(client, stream, message, until, self.timeout).await?;
        }
        session.out.one(&message, |message| {
            format!("{} ({})", state_words(message), message.id)
        })
    }
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(STDIN_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Error::invalid(format!("stdin cannot be read as UTF-8 text: {error}")))?;
    // The line end that echo and editors add is not part of the text.
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// Follows a message until it has come so far.
async fn arrival(
    client: &Client,
    mut stream: EventStream,
    mut message: MessageView,
    until: Until,
    seconds: u64,
) -> Result<MessageView> {
    let reached = |message: &MessageView| match until {
        Until::Saved => true,
        Until::Safe => message.safe || message.state.code() >= State::Safe.code(),
        Until::Delivered => message.state.code() >= State::Delivered.code(),
        Until::Read => message.state.code() >= State::Read.code(),
    };
    // A message repeated with its key may have arrived long ago.
    message = client
        .get(&format!("/messages/{}", segment(&message.id)))
        .await?;
    let id = message.id.clone();
    let mut latest = message.state;
    let follow = async {
        while !reached(&message) {
            let event = next(&mut stream).await?;
            if event.data.get("id").and_then(serde_json::Value::as_str) == Some(id.as_str()) {
                message = read_event(&event)?;
                latest = message.state;
            }
        }
        Ok(message)
    };
    match tokio::time::timeout(Duration::from_secs(seconds), follow).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::TimedOut,
            format!(
                "after {seconds} s the message is {}; it goes on by itself ({id})",
                state_name(latest)
            ),
        )
        .with("message", id)),
    }
}

/// The next event; the daemon's end is an error here.
pub(super) async fn next(stream: &mut EventStream) -> Result<EventView> {
    stream.next().await?.ok_or_else(|| {
        Error::new(
            ErrorKind::Unavailable,
            "the daemon stopped; what was sent is saved",
        )
    })
}

/// The object of an event.
pub(super) fn read_event<T: serde::de::DeserializeOwned>(event: &EventView) -> Result<T> {
    serde_json::from_value(event.data.clone()).map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("event {} is not understood: {error}", event.seq),
        )
    })
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Saved => "saved here",
        State::OneBuilding => "in one building",
        State::Safe => "safe",
        State::Delivered => "delivered",
        State::Read => "read",
    }
}

/// How far a message has come, in words that claim no more than signatures prove.
fn state_words(message: &MessageView) -> String {
    let kept = match message.state {
        State::Saved => String::new(),
        _ if message.buildings == 0 => String::new(),
        _ => format!(
            ", in {}",
            count(message.buildings as u64, "building", "buildings")
        ),
    };
    match message.state {
        State::Saved => "saved here; goes out by itself".to_owned(),
        State::OneBuilding => "in 1 building, not safe yet".to_owned(),
        State::Safe => match &message.safe_until {
            Some(until) => format!("safe until {}{kept}", time(until)),
            None => format!("safe{kept}"),
        },
        State::Delivered => "delivered".to_owned(),
        State::Read => "read".to_owned(),
    }
}

/// `pumasi chat`.
#[derive(Debug, Subcommand)]
pub(crate) enum Chat {
    /// List conversations
    List,
    /// Show a conversation
    Show {
        /// Contact: name or id
        who: String,
        /// Go on showing what comes
        #[arg(short, long)]
        follow: bool,
        /// How many of the latest messages
        #[arg(short, long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
        number: u32,
    },
    /// Mark everything of a contact as read
    Read {
        /// Contact: name or id
        who: String,
    },
}

/// `pumasi message`.
#[derive(Debug, Subcommand)]
pub(crate) enum Message {
    /// Delete a text for yourself, here and in the archive; the other side keeps its own
    Delete {
        /// Message id: msg1...
        id: String,
    },
}

impl Message {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Self::Delete { id } = self;
        let path = format!("/messages/{}", segment(&id));
        session.client.delete::<()>(&path).await?;
        session.out.one(&json!({ "id": id, "deleted": true }), |_| {
            "deleted".to_owned()
        })
    }
}

#[derive(Deserialize)]
struct Chats {
    items: Vec<ChatView>,
}

#[derive(Deserialize)]
struct Messages {
    items: Vec<MessageView>,
}

#[derive(Deserialize, serde::Serialize)]
struct Marked {
    read: u64,
}

impl Chat {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Session { client, out } = session;
        match self {
            Self::List => {
                let chats: Chats = client.get("/chats").await?;
                out.list(&chats.items, |chats| {
                    if chats.is_empty() {
                        return "No conversations yet. Begin one: pumasi send WHO TEXT".to_owned();
                    }
                    let rows: Vec<_> = chats
                        .iter()
                        .map(|chat| {
                            let last = chat.last.as_ref();
                            vec![
                                flat(&chat.name),
                                chat.unread.to_string(),
                                chat.waiting.to_string(),
                                last.map_or_else(String::new, |last| time(&last.time)),
                                last.map_or_else(String::new, |last| cut(&body(last), 50)),
                            ]
                        })
                        .collect();
                    table(&["WHO", "UNREAD", "NOT SAFE YET", "LAST", "TEXT"], &rows)
                })
            }
            Self::Show {
                who,
                follow,
                number,
            } => show(session, &who, follow, number).await,
            Self::Read { who } => {
                let path = format!("/chats/{}/read", segment(&who));
                let read: Marked = client.post(&path, &json!({})).await?;
                out.one(&read, |read| match read.read {
                    0 => "Nothing was unread.".to_owned(),
                    n => format!("{} marked as read.", count(n, "message", "messages")),
                })
            }
        }
    }
}

async fn show(session: &Session, who: &str, follow: bool, number: u32) -> Result<()> {
    let Session { client, out } = session;
    let contact: ContactView = client.get(&format!("/contacts/{}", segment(who))).await?;
    let path = format!("/chats/{}/messages?limit={number}", segment(&contact.id));
    if !follow {
        let messages: Messages = client.get(&path).await?;
        return out.list(&messages.items, |messages| {
            if messages.is_empty() {
                return format!("Nothing between you and {} yet.", flat(&contact.name));
            }
            messages.iter().map(written).collect::<Vec<_>>().join("\n")
        });
    }
    // Opened before the list is read: what comes in between is in both, and shown once.
    let mut stream = client
        .events_from_now(&["message.received", "message.queued"])
        .await?;
    let messages: Messages = client.get(&path).await?;
    let mut seen = BTreeSet::new();
    for message in &messages.items {
        show_one(session, message)?;
        seen.insert(message.id.clone());
    }
    loop {
        let event = next(&mut stream).await?;
        if event.kind == "reset" {
            continue;
        }
        let message: MessageView = read_event(&event)?;
        if message.contact == contact.id && seen.insert(message.id.clone()) {
            show_one(session, &message)?;
        }
    }
}

fn show_one(session: &Session, message: &MessageView) -> Result<()> {
    if session.out.is_json() {
        line(&super::print::compact(message)?)
    } else {
        line(&written(message))
    }
}

/// What a message says, on one line.
fn body(message: &MessageView) -> String {
    match &message.amount {
        Some(amount) if message.text.is_empty() => format!("IOU {}", money(amount)),
        Some(amount) => format!("IOU {}: {}", money(amount), flat(&message.text)),
        None => flat(&message.text),
    }
}

/// One line of a conversation.
fn written(message: &MessageView) -> String {
    let gap = match message.gap {
        0 => String::new(),
        gap => format!(
            "{} of {} not here yet\n",
            count(gap, "earlier message", "earlier messages"),
            flat(&message.contact_name)
        ),
    };
    let out = message.direction == "out";
    let who = if out {
        "me".to_owned()
    } else {
        flat(&message.contact_name)
    };
    let state = if out {
        format!("  [{}]", state_name(message.state))
    } else {
        String::new()
    };
    let head = format!("{}  {who}: ", time(&message.time));
    // The text keeps its lines, below each other.
    let text = match message.amount {
        Some(_) => body(message),
        None => clean(&message.text).replace('\n', &format!("\n{}", " ".repeat(width(&head)))),
    };
    format!("{gap}{head}{text}{state}")
}

fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(length).collect::<String>())
    }
}
