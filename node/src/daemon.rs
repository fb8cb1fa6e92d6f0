//! The daemon: settings to node, API around it, signals, an honest end. Not the command line: that
//! parses and then calls `run`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;
use zeroize::{Zeroize, Zeroizing};

use crate::api;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::node::{Node, Unlock};
use crate::vault;

/// File of the API's token in the data directory.
pub(crate) const TOKEN_FILE: &str = "api.token";
/// How long the node may take to close its store and sessions.
const STOP_TIME: Duration = Duration::from_secs(15);
/// The longest passphrase in bytes.
const PASSPHRASE_MAX: u64 = 4096;

/// The `pumasi` program: daemon with `run`, client of a daemon with every other command. `args` begins
/// with the program's name. For programs that start themselves in the daemon's role.
///
/// Narrows the process's umask to 0077. Exit codes are those of [`ErrorKind::exit_code`], 0 for
/// success, and 130 when interrupted a second time.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    // Before any thread: whatever this process makes is its owner's only.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    crate::cli::main(args)
}

/// Runs the daemon until a signal comes or its store fails.
///
/// # Errors
/// When it cannot start; [`ErrorKind::Storage`] when the store failed while it ran.
pub(crate) fn run(config: &Config) -> Result<()> {
    start_log(config)?;
    keep_memory_private();
    let unlock = unlock(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("no runtime: {error}")))?;
    let result = runtime.block_on(serve(config, unlock));
    // What is left is stuck: the store is closed, and nothing may hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config: &Config, unlock: Unlock) -> Result<()> {
    let started = Instant::now();
    let mut signals = Signals::new()?;
    let keys = match &unlock {
        Unlock::KeyFile => "key file in clear: only as safe as this disk",
        Unlock::Passphrase(_) => "locked with a passphrase",
    };
    let options = config.options(unlock)?;
    let data_dir = options.data_dir.clone();
    let node = Node::start(options).await?;
    let api = match api::Server::start(
        node.clone(),
        &api::Options {
            socket: config.api_socket()?,
            tcp: config.api_tcp()?,
            token_file: data_dir.join(TOKEN_FILE),
        },
    )
    .await
    {
        Ok(api) => api,
        Err(error) => {
            stop_node(&node).await;
            return Err(error);
        }
    };
    greet(config, &node, &api, &data_dir, keys, started).await?;
    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
        // The node has said so in the log.
        error = node.failed() => Err(error),
    };
    let stopping = async {
        api.stop().await;
        stop_node(&node).await;
    };
    tokio::select! {
        () = stopping => outcome,
        name = signals.next() => {
            tracing::warn!(signal = name, "second signal: stopping at once");
            std::process::exit(130);
        }
    }
}

async fn stop_node(node: &Node) {
    if tokio::time::timeout(STOP_TIME, node.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("the node did not stop within {} s", STOP_TIME.as_secs());
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    format!("cannot wait for signals: {error}"),
                )
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// What a person sees first.
async fn greet(
    config: &Config,
    node: &Node,
    api: &api::Server,
    data_dir: &Path,
    keys: &str,
    started: Instant,
) -> Result<()> {
    let info = node.info();
    let mut lines = vec![format!(
        "pumasi {} · 하나의 건물이 꺼져도 계속됩니다",
        info.version
    )];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<9}{text}"));
    line("node", info.id.clone());
    let accounts = node.accounts().await?;
    for account in &accounts {
        line("account", format!("{} ({})", account.name, account.id));
    }
    if accounts.is_empty() {
        line(
            "account",
            "none yet (make one: pumasi account add NAME)".to_owned(),
        );
    }
    let place = match (info.operator.as_str(), info.building.as_str()) {
        ("", "") => "not said (set node.operator and node.building)".to_owned(),
        ("", building) => format!("{building}, operator not said (set node.operator)"),
        (operator, "") => format!("{operator}, building not said (set node.building)"),
        (operator, building) => format!("{building}, run by {operator}"),
    };
    line("stands", place);
    line("data", home_relative(data_dir));
    line("keys", keys.to_owned());
    if let Some(file) = &config.file {
        line("config", home_relative(file));
    }
    for address in &info.addresses {
        line("listen", address.clone());
    }
    if let Some(socket) = api.socket() {
        line("api", home_relative(socket));
    }
    if let Some(address) = api.tcp() {
        line(
            "api",
            format!(
                "http://{address} (token in {})",
                home_relative(&data_dir.join(TOKEN_FILE))
            ),
        );
    }
    lines.push(format!("ready in {:.2} s", started.elapsed().as_secs_f32()));
    // Nobody may be reading; that is no reason to stop.
    let _ = io::stdout().write_all(format!("{}\n", lines.join("\n")).as_bytes());
    Ok(())
}

/// A path with `~` for the home directory.
fn home_relative(path: &Path) -> String {
    std::env::var_os("HOME")
        .and_then(|home| path.strip_prefix(home).ok())
        .map_or_else(
            || path.display().to_string(),
            |rest| format!("~/{}", rest.display()),
        )
}

/// Starts the log on stderr.
fn start_log(config: &Config) -> Result<()> {
    let filter = filter(config.log_level())?;
    let terminal = io::stderr().is_terminal();
    let json = match config.log_format() {
        "json" => true,
        "text" => false,
        _ => !terminal && std::env::var_os("JOURNAL_STREAM").is_none(),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let result = if json {
        builder.json().finish().try_init()
    } else {
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(colours).finish().try_init()
    };
    result.map_err(|error| Error::new(ErrorKind::Internal, format!("the log: {error}")))
}

/// A plain level is ours alone: libraries say addresses at `info`. Anything else is taken as written.
fn filter(level: &str) -> Result<EnvFilter> {
    let directives = match level {
        "error" => level.to_owned(),
        "warn" | "info" | "debug" | "trace" => {
            format!(
                "warn,yamux=error,pumasi_node={level},pumasi_network={level},pumasi_protocol={level}"
            )
        }
        _ => level.to_owned(),
    };
    directives
        .parse()
        .map_err(|error| Error::invalid(format!("log.level cannot be read: {error}")))
}

/// No core dumps, no debugger of the same user: keys are in this memory. Best effort.
pub(crate) fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Core, none) {
        tracing::debug!(%error, "core dumps stay possible");
    }
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::debug!(%error, "the memory stays readable for the same user");
    }
}

/// The passphrase from its file, or from the terminal where the key file needs one.
pub(crate) fn unlock(config: &Config) -> Result<Unlock> {
    if let Some(path) = config.passphrase_file() {
        return Ok(Unlock::Passphrase(read_passphrase(&path)?));
    }
    if !vault::is_locked(&config.data_dir()?) {
        return Ok(Unlock::KeyFile);
    }
    if !io::stdin().is_terminal() {
        return Err(Error::invalid(format!(
            "{} is locked with a passphrase: give it with --passphrase-file FILE",
            config.data_dir()?.join(vault::KEY_FILE).display()
        )));
    }
    rpassword::prompt_password("Passphrase: ")
        .map(Unlock::Passphrase)
        .map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                format!("the passphrase cannot be read: {error}"),
            )
        })
}

/// The first line of a passphrase file, without its line end.
///
/// # Errors
/// When the file cannot be read, has no text, or is no text at all.
pub(crate) fn read_passphrase(path: &Path) -> Result<String> {
    let wrong = |why: String| {
        Error::invalid(format!(
            "the passphrase file {} cannot be used: {why}",
            path.display()
        ))
    };
    let file = fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut line = Zeroizing::new(String::new());
    BufReader::new(file.take(PASSPHRASE_MAX))
        .read_line(&mut line)
        .map_err(|error| wrong(error.to_string()))?;
    let passphrase = line.trim_end_matches(['\r', '\n']).to_owned();
    if passphrase.is_empty() {
        return Err(wrong("its first line is empty".to_owned()));
    }
    if passphrase.len() as u64 >= PASSPHRASE_MAX {
        let mut passphrase = passphrase;
        passphrase.zeroize();
        return Err(wrong(format!(
            "its first line is longer than {PASSPHRASE_MAX} bytes"
        )));
    }
    Ok(passphrase)
}
