//! How a node is started, and the small arguments of its calls.

use std::path::PathBuf;

use pumasi_protocol::record::NAME_MAX;
use pumasi_protocol::types::AccountId;

use super::Node;
use crate::error::{Error, Result};

/// How the master key that seals secrets at rest is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Unlock {
    /// In a file of mode 0600 beside the database: only as safe as the disk.
    KeyFile,
    /// Under a passphrase (Argon2id).
    Passphrase(String),
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::KeyFile => "KeyFile",
            Self::Passphrase(_) => "Passphrase(..)",
        })
    }
}

/// How to start a node. Every field has a default that works on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// How secrets are sealed.
    pub unlock: Unlock,
    /// Network id; nodes of different networks never talk.
    pub network: String,
    /// Multiaddresses to listen on.
    pub listen: Vec<String>,
    /// Addresses to tell others instead of those listened on (behind a NAT or proxy).
    pub announce: Vec<String>,
    /// Addresses of nodes to begin with.
    pub bootstrap: Vec<String>,
    /// Find nodes on the local network, and dial private addresses: for a network that you trust.
    pub mdns: bool,
    /// Who runs the node.
    pub operator: String,
    /// Where it stands.
    pub building: String,
    /// Keep mailboxes of contacts.
    pub keep_for_contacts: bool,
    /// Keep mailboxes of so many newcomers; 0: none.
    pub newcomers: u32,
    /// Replace a keeper that was silent for so many seconds.
    pub replace_after: u64,
    /// Whether private and loopback addresses are told and dialled, and nodes behind one public
    /// address count as apart: for local networks and tests.
    pub local: bool,
}

/// Seconds of silence after which a keeper is replaced, by default.
const REPLACE_AFTER: u64 = 600;

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("pumasi-data"),
            unlock: Unlock::KeyFile,
            network: "main".into(),
            listen: vec![
                "/ip4/0.0.0.0/udp/4040/quic-v1".into(),
                "/ip4/0.0.0.0/tcp/4040".into(),
            ],
            announce: vec![],
            bootstrap: vec![],
            mdns: false,
            operator: String::new(),
            building: String::new(),
            keep_for_contacts: true,
            newcomers: 0,
            replace_after: REPLACE_AFTER,
            local: false,
        }
    }
}

impl Options {
    /// Checks what the type alone does not.
    ///
    /// # Errors
    /// `Invalid` names the option.
    pub(crate) fn check(&self) -> Result<()> {
        for (what, text) in [("operator", &self.operator), ("building", &self.building)] {
            if text.len() > NAME_MAX || text.chars().any(char::is_control) {
                return Err(Error::invalid(format!(
                    "the {what} has at most {NAME_MAX} bytes and no control characters"
                )));
            }
        }
        Ok(())
    }
}

/// Sets a node up step by step; see [`Options`] for what each step means.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Builder {
    options: Options,
}

impl Builder {
    /// Where everything is kept.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.options.data_dir = directory.into();
        self
    }

    /// A node for this machine alone: loopback on free ports, no search on the local network.
    pub fn local(mut self) -> Self {
        self.options.local = true;
        self.options.mdns = false;
        self.options.network = "local".into();
        self.options.listen = vec![
            "/ip4/127.0.0.1/udp/0/quic-v1".into(),
            "/ip4/127.0.0.1/tcp/0".into(),
        ];
        self
    }

    /// How secrets are sealed at rest.
    pub fn unlock(mut self, unlock: Unlock) -> Self {
        self.options.unlock = unlock;
        self
    }

    /// Network id.
    pub fn network(mut self, network: impl Into<String>) -> Self {
        self.options.network = network.into();
        self
    }

    /// Multiaddresses to listen on.
    pub fn listen(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.listen = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Addresses of nodes to begin with.
    pub fn bootstrap(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.bootstrap = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Who runs the node, and where it stands.
    pub fn stands_in(mut self, building: impl Into<String>, operator: impl Into<String>) -> Self {
        self.options.building = building.into();
        self.options.operator = operator.into();
        self
    }

    /// Keeps mailboxes of so many newcomers.
    pub fn newcomers(mut self, places: u32) -> Self {
        self.options.newcomers = places;
        self
    }

    /// The options as set so far, to change what has no step here.
    pub fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Starts the node.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub async fn start(self) -> Result<Node> {
        Node::start(self.options).await
    }
}

/// A page of a list: at most `limit` (1 to 500), before or after an id of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// How many at most; 0 reads as 100.
    pub limit: u32,
    /// Only what comes before this id in the list's order.
    pub before: Option<String>,
    /// Only what comes after this id in the list's order.
    pub after: Option<String>,
}

/// Which events to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only events after this sequence number.
    pub since: u64,
    /// At most so many (1 to 1,000; 0 reads as 100).
    pub limit: u32,
    /// Only types that equal or begin with one of these (`payment.`); all when empty.
    pub types: Vec<String>,
    /// Only this account's, and those that concern no account.
    pub account: Option<AccountId>,
}
