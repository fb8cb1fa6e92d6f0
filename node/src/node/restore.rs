//! The handle of a restore under way: what it has found so far, and its end. What is done is the
//! engine's.

use std::time::Duration;

use pumasi_protocol::types::AccountId;
use zeroize::Zeroizing;

use super::{Account, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::view::{RestoreReport, RestoreView};

/// The longest phrase that is read, in bytes: 24 words of at most 8 letters, with room for spaces.
pub(crate) const PHRASE_MAX: usize = 1024;
/// Addresses to begin with at most.
const HINTS_MAX: usize = 16;
/// How often the engine is asked how far it is: a restore takes seconds.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A restore under way. Dropping the handle does not end the restore: [`Restore::cancel`] does.
///
/// ```no_run
/// # async fn example(words: &str) -> pumasi_node::Result<()> {
/// use pumasi_node::Node;
///
/// let node = Node::builder()
///     .data_dir("./hana-again")
///     .bootstrap(["/ip4/192.0.2.1/udp/4040/quic-v1"])
///     .start()
///     .await?;
/// let restore = node.restore(words, None, &[]).await?;
/// let report = restore.finished(|view| println!("{}", view.text)).await?;
/// println!("{} messages are back", report.messages);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Restore {
    node: Node,
    account: AccountId,
}

impl Node {
    /// Begins to bring an account back from its 24 words. The keepers are looked for through the
    /// nodes that this one knows, and through `hints`: multiaddresses, with or without `/p2p/...` at
    /// the end. `name` is what the account will be called here; else it is called as before. The same
    /// words while it is under way add hints and change nothing else. The words are wiped as soon as
    /// keys are made of them; the keys are in memory until the restore ends.
    ///
    /// # Errors
    /// `Invalid` when these are not the words of an account, or for a hint that cannot be dialled or
    /// a name that cannot be used; `TooLarge` for more than 16 hints; `Exists` when the account is on
    /// this node already or the name is taken; `Busy` when too many restores are under way.
    pub async fn restore(
        &self,
        words: &str,
        name: Option<&str>,
        hints: &[String],
    ) -> Result<Restore> {
        let words = Zeroizing::new(words.to_owned());
        if words.len() > PHRASE_MAX {
            return Err(Error::invalid(
                "these are not the words of an account: they are 24 short words",
            ));
        }
        if hints.len() > HINTS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("at most {HINTS_MAX} addresses can be given as hints"),
            )
            .with("limit", HINTS_MAX));
        }
        let hints: Vec<String> = hints.iter().map(|hint| hint.trim().to_owned()).collect();
        if let Some(wrong) = hints
            .iter()
            .find(|hint| !pumasi_network::is_address(hint.as_str()))
        {
            return Err(Error::invalid(format!(
                "`{wrong}` is not an address that can be dialled: write it like /ip4/192.0.2.1/udp/4040/quic-v1"
            )));
        }
        let name = name.map(str::to_owned);
        let view = self
            .ask(move |engine| engine.begin_restore(&words, name.as_deref(), &hints))
            .await?;
        self.restoring(&view.account)
    }

    /// The handle of a restore that was begun here, by the account's id.
    ///
    /// # Errors
    /// `Invalid` for a wrong id. That no such restore is under way is told by its calls.
    pub fn restoring(&self, account: &str) -> Result<Restore> {
        let account =
            account
                .trim()
                .parse()
                .map_err(|error: pumasi_protocol::types::ParseError| {
                    Error::invalid(error.to_string())
                })?;
        Ok(Restore {
            node: self.clone(),
            account,
        })
    }
}

impl Restore {
    /// The account that comes back.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        self.account
    }

    /// How it stands. What ended is remembered until the node stops.
    ///
    /// # Errors
    /// `NotFound` when no such restore was begun since the node started.
    pub async fn view(&self) -> Result<RestoreView> {
        let account = self.account;
        self.node
            .ask(move |engine| engine.restore_view(&account))
            .await
    }

    /// Waits for the end, and tells each step on the way to `step`. A restore whose words nobody knows
    /// goes on looking, so bound this with a timeout where nobody watches. Cancel-safe: the restore
    /// goes on.
    ///
    /// # Errors
    /// `Refused` with the reason when it failed; `NotFound` when it was cancelled.
    pub async fn finished(&self, mut step: impl FnMut(&RestoreView)) -> Result<RestoreReport> {
        let mut told = String::new();
        loop {
            let view = self.view().await?;
            if view.text != told {
                step(&view);
                told.clone_from(&view.text);
            }
            match (view.state.as_str(), view.report) {
                ("done", Some(report)) => return Ok(report),
                ("failed", _) => return Err(Error::new(ErrorKind::Refused, view.text)),
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// The account, once it is back.
    ///
    /// # Errors
    /// `NotFound` before.
    pub async fn restored(&self) -> Result<Account> {
        self.node.account(Some(&self.account.to_string())).await
    }

    /// Gives it up. Keepers that refuse the old device already keep refusing it: the same words begin
    /// again.
    ///
    /// # Errors
    /// `NotFound` when it is not under way.
    pub async fn cancel(&self) -> Result<()> {
        let account = self.account;
        self.node
            .ask(move |engine| engine.cancel_restore(&account))
            .await
    }
}
