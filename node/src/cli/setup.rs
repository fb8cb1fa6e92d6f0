//! `init` and `account`: new accounts, and the one time that their words are seen.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rand::TryRng;
use rand::rngs::SysRng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::print::{Form, Out, flat, line, say, table, time};
use super::{Session, prompt};
use crate::client::Client;
use crate::config::Config;
use crate::daemon;
use crate::error::{Error, ErrorKind, Result};
use crate::node::{Node, Unlock};
use crate::vault;
use crate::view::{AccountView, NewAccountView};

/// `pumasi init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Name of the account, as contacts will see it
    #[arg(long)]
    name: Option<String>,
    /// Keep the key in clear in a file: the node starts unattended, and is only as safe as its disk
    #[arg(long, conflicts_with = "passphrase_file")]
    key_file: bool,
    /// Lock the key with the passphrase in this file (its first line)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    words: Words,
}

/// What becomes of the 24 words where nobody is asked.
#[derive(Debug, Args)]
pub(crate) struct Words {
    /// Write the 24 words to this new file (mode 0600)
    #[arg(long, value_name = "FILE")]
    phrase_out: Option<PathBuf>,
    /// Print the 24 words on stdout and do not ask for them again
    #[arg(long, conflicts_with = "phrase_out")]
    phrase_shown: bool,
}

/// `pumasi account`.
#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// List the accounts on this node
    List,
    /// Add an account to this node
    Add {
        /// Its name, as contacts will see it
        name: String,
        #[command(flatten)]
        words: Words,
    },
}

#[derive(Deserialize)]
struct Accounts {
    items: Vec<AccountView>,
}

impl Account {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List => {
                let accounts: Accounts = session.client.get("/accounts").await?;
                session.out.list(&accounts.items, |accounts| {
                    if accounts.is_empty() {
                        return "No account here yet. Make one: pumasi account add NAME".to_owned();
                    }
                    let rows: Vec<_> = accounts
                        .iter()
                        .map(|account| {
                            vec![
                                flat(&account.name),
                                account.id.clone(),
                                time(&account.created),
                            ]
                        })
                        .collect();
                    table(&["NAME", "ID", "SINCE"], &rows)
                })
            }
            Self::Add { name, words } => {
                let words = words.prepare()?;
                let new: Result<NewAccountView> = session
                    .client
                    .post("/accounts", &json!({ "name": name }))
                    .await;
                words.finish(new, session.out)
            }
        }
    }
}

/// Creates data directory, keys and a first account. Where there is one, says so and is content.
pub(crate) async fn init(init: &Init, config: &Config, out: Out) -> Result<()> {
    let data_dir = config.data_dir()?;
    // A running daemon holds the directory: ask it, and let it make the account if it has none.
    if let Some(socket) = config.api_socket()?
        && socket.exists()
    {
        let client = Client::socket(&socket);
        match client.get::<Accounts>("/accounts").await {
            Ok(accounts) if accounts.items.is_empty() => {
                let name = name(init)?;
                let words = init.words.prepare()?;
                let new = client.post("/accounts", &json!({ "name": name })).await;
                return words.finish(new, out);
            }
            Ok(accounts) => return already(&accounts.items, &data_dir, out),
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => return Err(error),
        }
    }
    let new_key = !data_dir.join(vault::KEY_FILE).exists();
    let unlock = if new_key {
        choose_lock(init.key_file, init.passphrase_file.clone(), config)?
    } else {
        existing_lock(init.key_file, init.passphrase_file.as_deref(), config)?
    };
    let name = name(init)?;
    let words = init.words.prepare()?;
    match Node::init(&config.options(unlock)?, &name).await {
        Err(error) if error.kind() == ErrorKind::Exists => {
            words.discard();
            let accounts = error.details().get("accounts").cloned().unwrap_or_default();
            let accounts: Vec<AccountView> = serde_json::from_value(accounts).unwrap_or_default();
            already(&accounts, &data_dir, out)
        }
        new => {
            let made = new.is_ok();
            words.finish(new, out)?;
            if made {
                let flag = match config.is_default_data_dir() {
                    true => String::new(),
                    false => format!(" --data-dir {}", data_dir.display()),
                };
                say(&format!("Start the node: pumasi run{flag}"));
            }
            Ok(())
        }
    }
}

fn already(accounts: &[AccountView], data_dir: &Path, out: Out) -> Result<()> {
    if out.is_json() {
        return out.one(&json!({ "created": false, "accounts": accounts }), |_| {
            String::new()
        });
    }
    line(&format!(
        "{} is set up already; nothing was changed.",
        data_dir.display()
    ))?;
    accounts
        .iter()
        .try_for_each(|account| line(&format!("  {}  {}", flat(&account.name), account.id)))
}

fn name(init: &Init) -> Result<String> {
    match &init.name {
        Some(name) => Ok(name.clone()),
        None if prompt::possible() => prompt::ask("Your name, as contacts will see it:"),
        None => Err(Error::invalid("say who the account is for: --name NAME")),
    }
}

/// How a new key is kept.
pub(super) fn choose_lock(
    key_file: bool,
    passphrase_file: Option<PathBuf>,
    config: &Config,
) -> Result<Unlock> {
    if key_file {
        return Ok(Unlock::KeyFile);
    }
    if let Some(path) = passphrase_file.or_else(|| config.passphrase_file()) {
        return daemon::read_passphrase(&path).map(Unlock::Passphrase);
    }
    if !prompt::possible() {
        return Err(Error::invalid(
            "choose how the key is kept: --key-file (in clear, starts unattended) or \
             --passphrase-file FILE",
        ));
    }
    say("How shall the key of this node be kept?\n\
         \x20 1  locked with a passphrase, asked for at each start\n\
         \x20 2  in a file in clear: starts unattended, and is only as safe as this disk");
    match prompt::ask("1 or 2:")?.as_str() {
        "1" => prompt::new_passphrase().map(Unlock::Passphrase),
        "2" => Ok(Unlock::KeyFile),
        other => Err(Error::invalid(format!(
            "`{}` is neither 1 nor 2",
            flat(other)
        ))),
    }
}

/// How the key that is there is opened.
pub(super) fn existing_lock(
    key_file: bool,
    passphrase_file: Option<&Path>,
    config: &Config,
) -> Result<Unlock> {
    match passphrase_file {
        Some(path) => daemon::read_passphrase(path).map(Unlock::Passphrase),
        None if key_file => Ok(Unlock::KeyFile),
        None => daemon::unlock(config),
    }
}

/// Where the words will go, made sure of before an account exists: words that cannot be shown are an
/// account that can never be restored.
enum Destination {
    Terminal,
    Stdout,
    File(PathBuf, fs::File),
}

impl Words {
    fn prepare(&self) -> Result<Destination> {
        if let Some(path) = &self.phrase_out {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path);
            return match file {
                Ok(file) => Ok(Destination::File(path.clone(), file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::new(
                    ErrorKind::Exists,
                    format!(
                        "{} exists and is not overwritten: name another file",
                        path.display()
                    ),
                )),
                Err(error) => Err(Error::invalid(format!(
                    "cannot write {}: {error}",
                    path.display()
                ))),
            };
        }
        if self.phrase_shown {
            return Ok(Destination::Stdout);
        }
        if prompt::possible() {
            return Ok(Destination::Terminal);
        }
        Err(Error::invalid(
            "the account's 24 words are given out only now, so say where: --phrase-out FILE or \
             --phrase-shown",
        ))
    }
}

#[derive(Serialize)]
struct Made<'a> {
    created: bool,
    account: &'a AccountView,
    #[serde(skip_serializing_if = "Option::is_none")]
    phrase: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phrase_file: Option<&'a Path>,
}

impl Destination {
    fn discard(self) {
        if let Self::File(path, _) = self {
            // Made empty a moment ago, by us.
            let _ = fs::remove_file(path);
        }
    }

    fn finish(self, new: Result<NewAccountView>, out: Out) -> Result<()> {
        let new = match new {
            Ok(new) => new,
            Err(error) => {
                self.discard();
                return Err(error);
            }
        };
        let mut made = Made {
            created: true,
            account: &new.account,
            phrase: None,
            phrase_file: None,
        };
        let told = |made: &Made<'_>, more: &str| {
            format!(
                "Account {} is made.\n  id           {}\n  fingerprint  {}{more}",
                flat(&made.account.name),
                made.account.id,
                made.account.fingerprint
            )
        };
        match &self {
            Self::Stdout => {
                made.phrase = Some(&new.phrase);
                let words = Zeroizing::new(format!("\n  words        {}", new.phrase.join(" ")));
                out.one(&made, |made| told(made, &words))
            }
            Self::File(path, file) => {
                let text = Zeroizing::new(format!("{}\n", new.phrase.join(" ")));
                let mut file = file;
                let written = file
                    .write_all(text.as_bytes())
                    .and_then(|()| file.sync_all());
                if let Err(error) = written {
                    // The account exists: the words must not be lost with the file.
                    say(&format!(
                        "{} cannot be written ({error}). Write these 24 words down now:\n{}",
                        path.display(),
                        numbered(&new.phrase)
                    ));
                }
                made.phrase_file = Some(path);
                out.one(&made, |made| {
                    told(made, &format!("\n  words        in {}", path.display()))
                })
            }
            Self::Terminal => {
                if out.form == Form::Table {
                    line(&told(&made, ""))?;
                }
                teach(&new.phrase)?;
                if out.is_json() {
                    out.one(&made, |_| String::new())
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// The words in four columns, numbered.
fn numbered(phrase: &[String]) -> String {
    let rows = phrase.len().div_ceil(4);
    let row = |row: usize| {
        let cells: Vec<String> = (row..phrase.len())
            .step_by(rows)
            .filter_map(|index| {
                phrase
                    .get(index)
                    .map(|word| format!("{:>4} {word:<10}", index + 1))
            })
            .collect();
        cells.concat().trim_end().to_owned()
    };
    (0..rows).map(row).collect::<Vec<_>>().join("\n")
}

/// Shows the words, then asks two of them back until they are right.
fn teach(phrase: &[String]) -> Result<()> {
    loop {
        say(&format!(
            "\nThese 24 words are the only way to bring this account back. They are shown only now and\n\
             stored nowhere. Write them on paper, in order, and show them to nobody.\n\n{}\n",
            numbered(phrase)
        ));
        prompt::ask("Press Enter when they are on paper.")?;
        let (first, second) = two_places(phrase.len())?;
        let mut right = true;
        for place in [first, second] {
            let answer = prompt::ask(&format!("Word {}:", place + 1))?;
            right &= phrase
                .get(place)
                .is_some_and(|word| answer.eq_ignore_ascii_case(word));
        }
        if right {
            say("Right. Keep the paper away from this building.");
            return Ok(());
        }
        say("That is not right. Here they are again.");
    }
}

/// Two different places in order.
fn two_places(length: usize) -> Result<(usize, usize)> {
    let pick = |below: usize| -> Result<usize> {
        let number = SysRng.try_next_u64().map_err(|error| {
            Error::new(ErrorKind::Internal, format!("no random numbers: {error}"))
        })?;
        // The bias of 2^64 mod 24 does not matter for which words are asked.
        Ok(usize::try_from(number % (below.max(1) as u64)).unwrap_or_default())
    };
    let first = pick(length)?;
    let second = pick(length.saturating_sub(1))?;
    let second = if second >= first { second + 1 } else { second };
    Ok((first.min(second), first.max(second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_in_columns_read_downwards() {
        let phrase: Vec<String> = (1..=24).map(|n| format!("w{n}")).collect();
        let text = numbered(&phrase);
        assert_eq!(text.lines().count(), 6);
        assert!(
            text.starts_with("   1 w1           7 w7          13 w13         19 w19\n"),
            "{text}"
        );
    }

    #[test]
    fn the_two_words_asked_back_differ() {
        for _ in 0..200 {
            let (first, second) = two_places(24).unwrap();
            assert!(first < second && second < 24);
        }
    }
}
