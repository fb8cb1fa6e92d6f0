//! The command line: one binary, whose every command but `run`, `init`, `config`, `backup` and `version` is a
//! client of the daemon. This file holds the tree and its dispatch; `cli/` holds what commands do.

mod amount;
mod backup;
mod credit;
mod drill;
mod events;
mod network;
mod people;
mod print;
mod prompt;
mod restore;
mod settings;
mod setup;
mod talk;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::config::{Config, Given};
use crate::daemon;
use crate::error::{Error, ErrorKind, Result};
use print::{Form, Out, say};

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 failed, 2 usage, 3 cannot reach the daemon, 4 not found, \
5 refused, 6 not enough credit, 7 timed out (outcome unknown: safe to retry with the same key), \
8 not permitted, 130 interrupted.";

/// Messages and IOUs that outlive any one building.
#[derive(Debug, Parser)]
#[command(name = "pumasi", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global")]
struct Global {
    /// Where everything is kept [default: $XDG_DATA_HOME/pumasi]
    #[arg(
        long,
        global = true,
        env = "PUMASI_DATA_DIR",
        value_name = "DIR",
        hide_env_values = true
    )]
    data_dir: Option<PathBuf>,
    /// Configuration file
    #[arg(
        long,
        global = true,
        env = "PUMASI_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Socket of the daemon [default: api.sock in the data directory]
    #[arg(
        long,
        global = true,
        env = "PUMASI_SOCKET",
        value_name = "PATH",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
    /// Reach the daemon over TCP instead, such as http://127.0.0.1:4041
    #[arg(
        long,
        global = true,
        env = "PUMASI_REMOTE",
        value_name = "URL",
        hide_env_values = true
    )]
    remote: Option<String>,
    /// File with the token for --remote [default: api.token in the data directory]
    #[arg(
        long,
        global = true,
        env = "PUMASI_TOKEN_FILE",
        value_name = "FILE",
        hide_env_values = true
    )]
    token_file: Option<PathBuf>,
    /// Account to act for (name or id), where the node has several
    #[arg(
        long,
        global = true,
        env = "PUMASI_ACCOUNT",
        value_name = "WHICH",
        hide_env_values = true
    )]
    account: Option<String>,
    /// Print JSON: the same as -o json
    #[arg(long, global = true)]
    json: bool,
    /// Form of the result
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORM",
        conflicts_with = "json"
    )]
    output: Option<Form>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(Given),
    /// Create the data directory and a first account, without starting
    Init(setup::Init),
    /// Bring an account back from its 24 words: after a fire, on any machine
    Restore(Box<restore::Restore>),
    /// One screen: node, accounts, balances, what is wrong
    Status,
    /// My id and fingerprint
    Id,
    /// Send a text
    Send(talk::Send),
    /// Pay a contact with an IOU
    Pay(credit::Pay),
    /// Contacts and invitations
    #[command(subcommand)]
    Contact(people::Contact),
    /// Conversations
    #[command(subcommand)]
    Chat(talk::Chat),
    /// One message
    #[command(subcommand)]
    Message(talk::Message),
    /// Credit lines: who may owe whom how much
    #[command(subcommand)]
    Credit(credit::Credit),
    /// Nodes that keep my mailbox
    #[command(subcommand)]
    Keeper(network::Keeper),
    /// What would be left if a building burned now; burns nothing
    Drill(drill::Drill),
    /// Other nodes
    #[command(subcommand)]
    Peer(network::Peer),
    /// Accounts on this node
    #[command(subcommand)]
    Account(setup::Account),
    /// Copies of the database, for keeping
    #[command(subcommand)]
    Backup(backup::Backup),
    /// The event sequence, one JSON document per line
    Events(events::Events),
    /// The configuration
    #[command(subcommand)]
    Config(settings::Settings),
    /// Exit 0 if the daemon is alive, else 1 (for containers)
    Health(network::Health),
    /// Version of this program
    Version,
}

/// What a command works with.
struct Session {
    client: Client,
    out: Out,
}

/// Parses and runs; prints what went wrong.
pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let matches = match Cli::command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let by_flag = matches.value_source("data_dir") == Some(ValueSource::CommandLine);
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let form = match cli.global.output {
        Some(form) => form,
        None if cli.global.json => Form::Json,
        None => Form::Table,
    };
    let out = Out { form };
    match dispatch(cli, by_flag, out) {
        Ok(code) => code,
        Err(error) => {
            if out.is_json() {
                say(&document(&error).to_string());
            } else {
                say(&format!("pumasi: {}", print::clean(error.message())));
            }
            ExitCode::from(error.kind().exit_code())
        }
    }
}

fn usage(error: &clap::Error) -> ExitCode {
    // Help and version are no errors, and clap sends them to stdout.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// An error for programs, on one line.
fn document(error: &Error) -> Value {
    let mut members: Map<String, Value> = error.details().clone();
    members.insert("code".to_owned(), json!(error.kind().code()));
    members.insert("detail".to_owned(), json!(error.message()));
    members.insert("retryable".to_owned(), json!(error.kind().retryable()));
    json!({ "error": members })
}

fn dispatch(cli: Cli, by_flag: bool, out: Out) -> Result<ExitCode> {
    let Cli { global, command } = cli;
    let load = |given: Given| {
        Config::load(
            global.config.as_deref(),
            &given.with_data_dir(global.data_dir.as_deref(), by_flag),
        )
    };
    match command {
        Command::Run(given) => {
            let config = load(given)?;
            daemon::run(&config).map_err(|error| restore::with_way_back(error, &config))?;
        }
        Command::Init(init) => {
            // The passphrase may be meant for a new key: that is init's own flag.
            let config = load(Given::of_environment(&[]))?;
            wait_for(setup::init(&init, &config, out))??;
        }
        Command::Restore(restore) => {
            let config = load(restore.given.clone())?;
            wait_for(async {
                let daemon = running(&global, &load, &config, out).await?;
                restore::restore(&restore, &config, daemon, out).await
            })?
            .map_err(|error| restore::with_way_back(error, &config))?;
        }
        Command::Config(settings) => {
            settings.run(global.config.as_deref(), load, out)?;
        }
        Command::Backup(backup::Backup::Verify { file }) => backup::verify(&file, out)?,
        Command::Backup(backup::Backup::Create { file }) => {
            // Where the daemon was named, only it is meant; else the directory will do.
            let stopped = (global.remote.is_none() && global.socket.is_none())
                .then(|| load(Given::default())?.data_dir())
                .transpose()?;
            let client = session(&global, load, out).map(|session| session.client);
            wait_for(backup::create(&file, client, stopped, out))??;
        }
        Command::Version => out.one(
            &json!({ "version": env!("CARGO_PKG_VERSION"), "api": "v1" }),
            |_| format!("pumasi {}", env!("CARGO_PKG_VERSION")),
        )?,
        Command::Health(health) => {
            let found = session(&global, load, out).and_then(|session| {
                wait_for(health.run(&Session {
                    client: session.client.with_timeout(Duration::from_secs(10)),
                    out,
                }))?
            });
            if let Err(error) = found {
                say(&format!("pumasi: {}", print::clean(error.message())));
                return Ok(ExitCode::FAILURE);
            }
        }
        command => {
            let session = session(&global, load, out)?;
            wait_for(client_command(command, session))??;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn client_command(command: Command, session: Session) -> Result<()> {
    let session = &session;
    match command {
        Command::Status => network::status(session).await,
        Command::Id => people::id(session).await,
        Command::Send(send) => send.run(session).await,
        Command::Pay(pay) => pay.run(session).await,
        Command::Contact(contact) => contact.run(session).await,
        Command::Chat(chat) => chat.run(session).await,
        Command::Message(message) => message.run(session).await,
        Command::Credit(credit) => credit.run(session).await,
        Command::Keeper(keeper) => keeper.run(session).await,
        Command::Drill(drill) => drill.run(session).await,
        Command::Peer(peer) => peer.run(session).await,
        Command::Account(account) => account.run(session).await,
        Command::Events(events) => events.run(session).await,
        Command::Run(_)
        | Command::Init(_)
        | Command::Restore(_)
        | Command::Config(_)
        | Command::Backup(_)
        | Command::Version
        | Command::Health(_) => Err(Error::new(ErrorKind::Internal, "this needs no daemon")),
    }
}

/// The daemon that holds the directory, if one runs; a daemon that was named must answer.
async fn running(
    global: &Global,
    load: impl Fn(Given) -> Result<Config>,
    config: &Config,
    out: Out,
) -> Result<Option<Client>> {
    let named = global.remote.is_some() || global.socket.is_some();
    let there = named || config.api_socket()?.is_some_and(|socket| socket.exists());
    if !there {
        return Ok(None);
    }
    let client = session(global, load, out)?.client;
    match client.get::<Value>("/livez").await {
        Ok(_) => Ok(Some(client)),
        Err(error) if error.kind() == ErrorKind::Unavailable && !named => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs a client's future to its end on this thread.
fn wait_for<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("no runtime: {error}")))?;
    Ok(runtime.block_on(work))
}

/// Finds the daemon: --remote, --socket, or where the configuration says that it listens.
fn session(global: &Global, load: impl Fn(Given) -> Result<Config>, out: Out) -> Result<Session> {
    let client = if let Some(url) = &global.remote {
        let path = match &global.token_file {
            Some(path) => path.clone(),
            None => load(Given::default())?.data_dir()?.join(daemon::TOKEN_FILE),
        };
        let token = std::fs::read_to_string(&path).map_err(|error| {
            Error::invalid(format!(
                "the token cannot be read from {} ({error}): name its file with --token-file FILE",
                path.display()
            ))
        })?;
        let token = zeroize::Zeroizing::new(token);
        Client::tcp(url, token.trim())?
    } else if let Some(socket) = &global.socket {
        Client::socket(socket)
    } else {
        let config = load(Given::of_environment(&["api.socket"]))?;
        let socket = config.api_socket()?.ok_or_else(|| {
            Error::invalid(
                "api.socket is off: reach the daemon with --remote URL --token-file FILE",
            )
        })?;
        Client::socket(socket)
    };
    Ok(Session {
        client: client.with_account(global.account.as_deref()),
        out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_no_clashing_names() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_for_programs_has_its_code_and_figures() {
        let error = Error::new(ErrorKind::CreditLimitExceeded, "too much").with("available", "5");
        let document = document(&error);
        assert_eq!(document["error"]["code"], "credit_limit_exceeded");
        assert_eq!(document["error"]["available"], "5");
    }
}
