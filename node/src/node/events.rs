//! The acknowledged event stream of embedding programs.

use std::collections::VecDeque;

use pumasi_protocol::types::AccountId;

use super::{EventQuery, Node};
use crate::error::{Error, Result};
use crate::view::EventView;

/// Longest name of a subscription, in bytes.
const NAME_MAX: usize = 64;

/// Events in order, from behind the last acknowledged one. Reads pages as it goes: a slow reader
/// holds no more than one in memory and misses nothing.
#[derive(Debug)]
pub struct Events {
    node: Node,
    name: String,
    account: Option<AccountId>,
    position: u64,
    page: VecDeque<EventView>,
}

impl Events {
    pub(super) async fn open(node: Node, name: &str, account: Option<AccountId>) -> Result<Self> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Error::invalid(format!(
                "a subscription's name has 1 to {NAME_MAX} bytes"
            )));
        }
        let stored = name.to_owned();
        let position = node.ask(move |engine| engine.event_cursor(&stored)).await?;
        Ok(Self {
            node,
            name: name.to_owned(),
            account,
            position,
            page: VecDeque::new(),
        })
    }

    /// The next event; waits until there is one. Cancel-safe.
    ///
    /// # Errors
    /// `NotFound` when events behind the last acknowledged one are past their retention,
    /// `Unavailable` when the node stopped.
    pub async fn next(&mut self) -> Result<EventView> {
        let mut news = self.node.watch_events();
        loop {
            if let Some(event) = self.page.pop_front() {
                self.position = event.seq;
                return Ok(event);
            }
            let last = *news.borrow_and_update();
            let query = EventQuery {
                since: self.position,
                account: self.account,
                ..EventQuery::default()
            };
            let events = self.node.events(query).await?;
            if events.is_empty() {
                // Nothing for this account up to here: look further on from now on.
                self.position = self.position.max(last);
                news.changed().await.map_err(|_| self.node.gone())?;
            } else {
                self.page = events.into();
            }
        }
    }

    /// Acknowledges everything up to an event: it is not seen again after a restart.
    ///
    /// # Errors
    /// `Unavailable` when the node is stopping.
    pub async fn ack(&mut self, seq: u64) -> Result<()> {
        let name = self.name.clone();
        self.node
            .ask(move |engine| engine.set_event_cursor(&name, seq))
            .await
    }
}
