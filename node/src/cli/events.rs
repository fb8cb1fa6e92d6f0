//! `events`: the durable sequence as newline JSON, for scripts.

use clap::Args;
use serde::Deserialize;

use super::Session;
use super::print::{compact, line};
use crate::client::segment;
use crate::error::Result;
use crate::view::EventView;

/// `pumasi events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on printing what comes; begins at the present end unless --since says otherwise
    #[arg(short, long)]
    follow: bool,
    /// Only events after this sequence number [default: 0, the oldest kept]
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// Only types that begin so, such as payment. or message.received (repeatable)
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
}

#[derive(Deserialize)]
struct Poll {
    items: Vec<EventView>,
    last: u64,
}

impl Events {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let client = &session.client;
        let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
        if self.follow {
            let mut stream = match self.since {
                Some(since) => client.events(since, &types).await?,
                None => client.events_from_now(&types).await?,
            };
            while let Some(event) = stream.next().await? {
                line(&compact(&event)?)?;
            }
            return Ok(());
        }
        let filter = segment(&types.join(","));
        let mut since = self.since.unwrap_or_default();
        loop {
            let path = format!("/events?poll=1&limit=500&since={since}&types={filter}");
            let page: Poll = client.get(&path).await?;
            for event in &page.items {
                line(&compact(event)?)?;
            }
            if page.items.is_empty() || page.last <= since {
                return Ok(());
            }
            since = page.last;
        }
    }
}
