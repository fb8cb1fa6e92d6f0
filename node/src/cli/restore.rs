//! `restore`: an account comes back from its 24 words, in a node of its own or in a running daemon.
//! What is done is the node's; here it is asked for, shown, and told in the end.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pumasi_protocol::identity::{Phrase, PhraseError, WORDS};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::print::{Out, amount, count, flat, line, say};
use super::{prompt, setup};
use crate::client::{Client, segment};
use crate::config::{Config, Given, quoted};
use crate::daemon;
use crate::error::{Error, ErrorKind, Result};
use crate::node::Node;
use crate::vault;
use crate::view::{OpenedView, RestoreReport, RestoreView, StatusView};

/// The most that is read of a phrase file, in bytes.
const PHRASE_MAX: u64 = 1024;
/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Without news, the search says so again after this long.
const SAY_AGAIN: Duration = Duration::from_secs(15);
/// A node that ends after the restore waits this long for contacts and keepers to take what it says.
const TELL_WITHIN: Duration = Duration::from_secs(20);
/// Who has not taken anything for so long is away.
const QUIET: Duration = Duration::from_secs(3);

/// `pumasi restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// What the account is called on this node [default: as before]
    #[arg(long)]
    name: Option<String>,
    /// Read the 24 words from this file
    #[arg(long, value_name = "FILE", conflicts_with = "phrase_fd")]
    phrase_file: Option<PathBuf>,
    /// Read the 24 words from this open descriptor (0: stdin)
    #[arg(long, value_name = "N")]
    phrase_fd: Option<u32>,
    /// Give up after so many seconds [default: keep looking]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Open mail that the account's own device could not open; needs the running daemon
    #[arg(long, conflicts_with = "name")]
    open_mail: bool,
    /// Keep the key in clear in a file: the node starts unattended, and is only as safe as its disk
    #[arg(long)]
    key_file: bool,
    #[command(flatten)]
    pub(super) given: Given,
}

/// What is told in the end.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    view: &'a RestoreView,
    balances: &'a std::collections::BTreeMap<String, String>,
}

/// Restores: in the daemon, where one runs, else in a node that lives as long as this command.
pub(crate) async fn restore(
    restore: &Restore,
    config: &Config,
    daemon: Option<Client>,
    out: Out,
) -> Result<()> {
    let words = restore.words()?;
    let hints = config.bootstrap();
    if let Some(client) = daemon {
        if restore.open_mail {
            return open_mail(&client, &words, out).await;
        }
        return Run::Daemon(client)
            .restore(restore, &words, &hints, config, out)
            .await;
    }
    if restore.open_mail {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "mail is opened in the running daemon: start it with `pumasi run`",
        ));
    }
    let data_dir = config.data_dir()?;
    let new_key = !data_dir.join(vault::KEY_FILE).exists();
    let unlock = if new_key {
        setup::choose_lock(restore.key_file, config.passphrase_file(), config)?
    } else {
        setup::existing_lock(restore.key_file, None, config)?
    };
    daemon::keep_memory_private();
    let node = Node::start(config.options(unlock)?).await?;
    let result = Run::Here(node.clone())
        .restore(restore, &words, &[], config, out)
        .await;
    node.shutdown().await;
    result
}

impl Restore {
    /// The words, checked: a mistyped word is told before anything is made.
    fn words(&self) -> Result<Zeroizing<String>> {
        let text = if let Some(path) = &self.phrase_file {
            read(path, &path.display().to_string())?
        } else if let Some(fd) = self.phrase_fd {
            read(
                &PathBuf::from(format!("/dev/fd/{fd}")),
                &format!("descriptor {fd}"),
            )?
        } else if prompt::possible() {
            return ask();
        } else {
            return Err(Error::invalid(
                "say where the 24 words are: --phrase-file FILE or --phrase-fd N. They are never an \
                 argument: others on this machine can read those",
            ));
        };
        Phrase::parse(&text).map_err(|error| wrong(&error))?;
        Ok(text)
    }
}

fn wrong(error: &PhraseError) -> Error {
    Error::invalid(format!("these are not the words of an account: {error}"))
}

fn read(path: &std::path::Path, name: &str) -> Result<Zeroizing<String>> {
    let unreadable =
        |error: io::Error| Error::invalid(format!("the words cannot be read from {name}: {error}"));
    let mut text = Zeroizing::new(String::with_capacity(
        usize::try_from(PHRASE_MAX).unwrap_or_default(),
    ));
    File::open(path)
        .map_err(unreadable)?
        .take(PHRASE_MAX)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// Asks for the words, on one line or on several, until they are the words of an account.
fn ask() -> Result<Zeroizing<String>> {
    say("The 24 words of the account, in order, on one line or several:");
    let mut text = Zeroizing::new(String::new());
    loop {
        let more = Zeroizing::new(prompt::ask(">")?);
        text.push_str(&more);
        text.push(' ');
        let words = text.split_whitespace().count();
        if words < WORDS && !more.is_empty() {
            continue;
        }
        match Phrase::parse(&text) {
            Ok(_) => return Ok(text),
            Err(error) => {
                say(&format!("{error}. Once more, all 24:"));
                text = Zeroizing::new(String::new());
            }
        }
    }
}

async fn open_mail(client: &Client, words: &str, out: Out) -> Result<()> {
    let account = Phrase::parse(words)
        .map_err(|error| wrong(&error))?
        .keys()
        .account();
    let path = format!("/accounts/{}/unopened", segment(&account.to_string()));
    let opened: OpenedView = client.post(&path, &json!({ "phrase": words })).await?;
    out.one(&opened, |opened| match (opened.opened, opened.unopened) {
        (0, 0) => "Nothing waited to be opened.".to_owned(),
        (opened, 0) => format!("{} opened.", count(opened, "envelope", "envelopes")),
        (opened, left) => format!(
            "{} opened; {left} cannot be opened even with the words: their senders are asked again.",
            count(opened, "envelope", "envelopes")
        ),
    })
}

/// Where it is restored.
enum Run {
    Daemon(Client),
    Here(Node),
}

impl Run {
    async fn restore(
        &self,
        restore: &Restore,
        words: &str,
        hints: &[String],
        config: &Config,
        out: Out,
    ) -> Result<()> {
        let begun = Instant::now();
        let name = restore.name.as_deref();
        let mut view: RestoreView = match self {
            Self::Daemon(client) => {
                let body = json!({ "phrase": words, "name": name, "hints": hints });
                client.post("/restores", &body).await?
            }
            Self::Here(node) => node.restore(words, name, hints).await?.view().await?,
        };
        let mut progress = Progress::new(out);
        let end = restore
            .timeout
            .map(|seconds| begun + Duration::from_secs(seconds));
        loop {
            progress.show(&view);
            if view.state == "done" || view.state == "failed" {
                break;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                progress.end();
                return Err(self.give_up(&view).await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
            view = self.view(&view.account).await?;
        }
        progress.end();
        let Some(report) = &view.report else {
            return Err(Error::new(ErrorKind::Refused, view.text));
        };
        if let Self::Here(node) = self {
            settle(node, &view.account).await?;
        }
        let status = self.status().await?;
        let balances = status
            .accounts
            .into_iter()
            .find(|one| one.account.id == view.account)
            .map(|one| one.balances)
            .unwrap_or_default();
        let told = Told {
            view: &view,
            balances: &balances,
        };
        out.one(&told, |told| {
            let next = match self {
                Self::Daemon(_) => "It is in use already: pumasi status".to_owned(),
                Self::Here(_) => next_steps(config),
            };
            page(told, report, &next)
        })
    }

    async fn view(&self, account: &str) -> Result<RestoreView> {
        match self {
            Self::Daemon(client) => client.get(&format!("/restores/{}", segment(account))).await,
            Self::Here(node) => node.restoring(account)?.view().await,
        }
    }

    async fn status(&self) -> Result<StatusView> {
        match self {
            Self::Daemon(client) => client.get("/node/status").await,
            Self::Here(node) => node.status().await,
        }
    }

    /// Ends a restore whose time is over.
    async fn give_up(&self, view: &RestoreView) -> Error {
        let cancelled = match self {
            Self::Daemon(client) => {
                let path = format!("/restores/{}", segment(&view.account));
                client.delete::<()>(&path).await
            }
            Self::Here(node) => match node.restoring(&view.account) {
                Ok(restore) => restore.cancel().await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = cancelled {
            say(&format!("The restore could not be cancelled: {error}"));
        }
        let connected = self.status().await.map_or(0, |status| status.connected);
        let why = if view.state != "locating" || view.keepers > 0 {
            format!(
                "{}. Run it again when more keepers can be reached",
                view.text
            )
        } else if connected == 0 {
            "no other node could be reached: give the address of any node of the network with \
             --bootstrap ADDRESS, and its name with --network"
                .to_owned()
        } else {
            format!(
                "none of the nodes that can be reached ({connected} connected) knows an account with \
                 these words. Check that they are the right ones, that --network is right, and give \
                 the address of a node nearer to its keepers, such as a friend's, with --bootstrap"
            )
        };
        Error::new(ErrorKind::TimedOut, why)
    }
}

/// A node that ends now: contacts should hear of the new device first, and keepers take what is new.
async fn settle(node: &Node, account: &str) -> Result<()> {
    let end = Instant::now() + TELL_WITHIN;
    let (mut waiting, mut moved) = (u64::MAX, Instant::now());
    loop {
        let status = node.status().await?;
        let behind = status
            .accounts
            .iter()
            .any(|one| one.account.id == account && one.archive_behind > 0);
        if status.outbox < waiting {
            (waiting, moved) = (status.outbox, Instant::now());
        }
        // What is left then is for nodes that are away: the daemon tells them when they come.
        let told = waiting == 0 || moved.elapsed() >= QUIET;
        if (told && !behind) || Instant::now() >= end {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn next_steps(config: &Config) -> String {
    format!(
        "Start the node: pumasi run{}\n  It finds new keepers for those that burned, and tells your \
         contacts what they have not\n  heard yet.",
        config.as_flags()
    )
}

/// Damage, with the commands that bring everything back.
pub(crate) fn with_way_back(error: Error, config: &Config) -> Error {
    let Some(dir) = config.data_dir().ok().filter(|_| error.is_damage()) else {
        return error;
    };
    let flags = config.as_flags();
    let dir = quoted(&dir.to_string_lossy());
    let bootstrap = if config.bootstrap().is_empty() {
        "\nBehind --bootstrap, name the address of any node of the network; a friend's is best."
    } else {
        ""
    };
    let address = if bootstrap.is_empty() {
        ""
    } else {
        " --bootstrap ADDRESS"
    };
    let message = format!(
        "{error}:\n  mv {dir} {dir}.damaged\n  pumasi restore{flags}{address}     (once for each \
         account that was here)\n  pumasi run{flags}{address}{bootstrap}\nWhat this node kept for \
         others is not lost: their other keepers have it, and their nodes look for\nanother keeper by \
         themselves. Nothing in the damaged directory is needed."
    );
    Error::damage(message)
}

/// The report, for people.
fn page(told: &Told<'_>, report: &RestoreReport, next: &str) -> String {
    let view = told.view;
    let mut lines = vec![format!("{} is back.", flat(&report.name))];
    let mut row = |name: &str, text: String| lines.push(format!("  {name:<12}{text}"));
    row("id", view.account.clone());
    row("contacts", report.contacts.to_string());
    row("messages", report.messages.to_string());
    row("lines", report.lines.to_string());
    for (unit, balance) in told.balances {
        row(
            "balance",
            match balance.strip_prefix('-') {
                Some(debt) => format!("you owe {}", amount(debt, unit)),
                None if balance == "0" => amount(balance, unit),
                None => format!("you are owed {}", amount(balance, unit)),
            },
        );
    }
    if report.sent_again > 0 {
        row(
            "sent again",
            format!(
                "{}: nothing shows that {} arrived",
                count(report.sent_again as u64, "message", "messages"),
                if report.sent_again == 1 { "it" } else { "they" }
            ),
        );
    }
    row(
        "read from",
        format!(
            "{} of {}, {} needed",
            view.keepers_read,
            count(view.keepers as u64, "keeper", "keepers"),
            view.keepers_needed
        ),
    );
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    row("took", format!("{:.1} s", view.millis as f64 / 1_000.0));
    lines.push(String::new());
    if report.missing.is_empty() && report.complete {
        lines.push("Complete: everything that was safe is here.".to_owned());
    } else {
        lines.push("Not complete:".to_owned());
        let missing = report.missing.iter();
        lines.extend(missing.map(|sentence| format!("  - {}", flat(sentence))));
    }
    lines.push(
        "The old device, should it still run, was replaced and signs nothing any more.".to_owned(),
    );
    lines.push(next.to_owned());
    lines.join("\n")
}

/// Progress on stderr: on a terminal one line that changes, else one line per phase.
struct Progress {
    out: Out,
    live: bool,
    state: String,
    text: String,
    said: Instant,
}

impl Progress {
    fn new(out: Out) -> Self {
        Self {
            out,
            live: io::stderr().is_terminal() && !out.is_json(),
            state: String::new(),
            text: String::new(),
            said: Instant::now(),
        }
    }

    fn show(&mut self, view: &RestoreView) {
        if view.state == "done" || view.state == "failed" {
            return;
        }
        let phase = view.state != self.state;
        let long = self.said.elapsed() >= SAY_AGAIN;
        if self.live {
            if view.text == self.text {
                return;
            }
            let mut err = io::stderr().lock();
            let new_line = if phase && !self.state.is_empty() {
                "\n"
            } else {
                ""
            };
            let _ = write!(err, "{new_line}\r\x1b[2K{}", flat(&view.text));
            let _ = err.flush();
        } else if phase || long {
            if self.out.form == super::print::Form::Jsonl {
                let compact = super::print::compact(view).unwrap_or_default();
                let _ = line(&compact);
            } else {
                say(&flat(&view.text));
            }
            self.said = Instant::now();
        }
        self.state.clone_from(&view.state);
        self.text.clone_from(&view.text);
    }

    fn end(&self) {
        if self.live && !self.state.is_empty() {
            say("");
        }
    }
}
