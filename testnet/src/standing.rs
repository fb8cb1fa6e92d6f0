//! A network that stays: started by `up`, looked at by `status`, stopped and removed by `down`. It is
//! remembered in one file; processes are known again by id and birth, never by name.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use pumasi_node::client::Client;
use pumasi_node::view::StatusView;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::network::{LOOK, Network, RunDirectory, is_ready};
use crate::options::UpOptions;
use crate::people::{arrive, befriend};
use crate::process::{born, is_still, signal, stopped};
use crate::society::friendships;
use crate::table::{Paint, Table, is_terminal, left, say};
use crate::view::{Board, show};

/// How long nodes may take to stop when asked.
const STOP: Duration = Duration::from_secs(10);
/// How long a node may take to tell its status.
const STATUS: Duration = Duration::from_secs(5);

/// The network as it is remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    /// Directory of data, sockets and logs.
    run: PathBuf,
    nodes: Vec<StandingNode>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StandingNode {
    name: String,
    building: String,
    /// Process id.
    process: u32,
    /// What tells the process from a later one with its id.
    born: Option<u64>,
    socket: PathBuf,
    /// Names of the accounts there, each with the name of a contact.
    people: Vec<(String, String)>,
}

impl StandingNode {
    fn runs(&self) -> bool {
        is_still(self.process, self.born)
    }
}

/// Where the network is remembered.
fn memory() -> PathBuf {
    let base = match std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        Some(runtime) => PathBuf::from(runtime).join("pumasi-testnet"),
        None => {
            let user = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("pumasi-testnet-{user}"))
        }
    };
    base.join("network.json")
}

fn recall() -> Result<Option<Standing>> {
    let file = memory();
    match std::fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| {
            format!(
                "{} is not understood: stop its processes by hand and remove it",
                file.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn remember(standing: &Standing) -> Result<()> {
    let file = memory();
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
    builder
        .create(folder)
        .and_then(|()| std::fs::write(&file, serde_json::to_vec_pretty(standing)?))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Starts a network and leaves it running.
pub(crate) async fn up(options: UpOptions) -> Result<()> {
    if let Some(standing) = recall()? {
        if standing.nodes.iter().any(StandingNode::runs) {
            bail!("a network is up already: `status` shows it, `down` stops it");
        }
        // What a restart of the machine left.
        forget(&standing)?;
    }
    let size = &options.size;
    let layout = size.layout(&format!("testnet-{}", size.seed))?;
    let mut run = RunDirectory::new("up")?;
    let title = format!(
        "Pumasi: {} nodes in {} buildings, {} accounts",
        size.nodes, size.buildings, size.accounts
    );
    let board = Board::new(&title, &layout, 0);
    let plain = !is_terminal();
    let mut view = tokio::task::JoinSet::new();
    view.spawn(show(board.clone(), plain, Paint::for_stdout()));
    board.phase(format!("starting {} nodes", size.nodes));
    let friends = friendships(size.seed, size.accounts);
    let homes: Vec<_> = (0..size.accounts)
        .map(|account| account % size.nodes)
        .collect();
    let work = async {
        let network = Network::start(&layout, run.path(), true).await?;
        let people = arrive(&network, size.buildings, &homes, &board).await?;
        let names: Vec<_> = people.iter().map(|person| person.name.clone()).collect();
        board.people(&homes, &names);
        befriend(&people, &friends, &board).await?;
        Ok::<_, anyhow::Error>((network, names))
    };
    // Stopped here, the network goes with its value.
    let (network, names) = tokio::select! {
        result = work => result?,
        error = stopped() => return Err(error),
    };
    view.shutdown().await;
    let mut standing = Standing {
        run: run.path().to_owned(),
        nodes: Vec::new(),
    };
    for (node, place) in layout.places.iter().enumerate() {
        let people = (0..size.accounts)
            .filter(|&account| homes[account] == node)
            .filter_map(|account| {
                let friend = friends.iter().find(|f| f.a == account || f.b == account)?;
                let contact = if friend.a == account {
                    friend.b
                } else {
                    friend.a
                };
                Some((names[account].clone(), names[contact].clone()))
            })
            .collect();
        let process = network.ids()[node];
        standing.nodes.push(StandingNode {
            name: place.name.clone(),
            building: layout.buildings[place.building].both(),
            process,
            born: born(process),
            socket: network.nodes[node].spec.socket.clone(),
            people,
        });
    }
    remember(&standing)?;
    run.keep();
    network.leave();
    explain(&standing);
    Ok(())
}

/// How to talk to each node, in commands that can be copied.
fn explain(standing: &Standing) {
    let paint = Paint::for_stdout();
    let pumasi = pumasi();
    say("");
    say(&format!(
        "  {}",
        paint.bold("The network is up. It stays until you stop it.")
    ));
    for node in &standing.nodes {
        say("");
        say(&format!("  {} in {}", left(&node.name, 12), node.building));
        let socket = node.socket.display();
        let Some((one, other)) = node.people.first() else {
            say(&format!("    {pumasi} --socket {socket} status"));
            continue;
        };
        say(&format!(
            "    {pumasi} --socket {socket} --account {one} send {other} '안녕하세요'"
        ));
        say(&format!(
            "    {pumasi} --socket {socket} --account {one} pay {other} 15000"
        ));
        say(&format!(
            "    {pumasi} --socket {socket} --account {one} chat show {other}"
        ));
        for (name, contact) in &node.people[1..] {
            say(&paint.dim(&format!("    also here: {name}, who knows {contact}")));
        }
    }
    say("");
    say(&format!(
        "  Follow everything that happens on a node: {pumasi} --socket ... events -f"
    ));
    say(&format!("  Logs: {}", standing.run.join("*.log").display()));
    say("  Look at it with `status`, stop and remove it with `down`.");
}

/// How to call the command line: its binary beside this one, or through cargo.
fn pumasi() -> String {
    std::env::current_exe()
        .ok()
        .map(|program| program.with_file_name("pumasi"))
        .filter(|program| program.exists())
        .map_or_else(
            || "cargo run -q --release -p pumasi-node --".to_owned(),
            |program| program.display().to_string(),
        )
}

/// Stops the network and removes it.
pub(crate) async fn down() -> Result<()> {
    let Some(standing) = recall()? else {
        say("No network is up.");
        return Ok(());
    };
    let running = || standing.nodes.iter().filter(|node| node.runs());
    let count = running().count();
    running().for_each(|node| signal(node.process, Signal::TERM));
    let begun = Instant::now();
    while running().next().is_some() && begun.elapsed() < STOP {
        tokio::time::sleep(LOOK).await;
    }
    let stubborn: Vec<_> = running().collect();
    for node in &stubborn {
        signal(node.process, Signal::KILL);
        say(&format!(
            "{} did not stop when asked, and was killed.",
            node.name
        ));
    }
    while running().next().is_some() && begun.elapsed() < STOP * 2 {
        tokio::time::sleep(LOOK).await;
    }
    forget(&standing)?;
    say(&format!(
        "Stopped {count} nodes and removed {}.",
        standing.run.display()
    ));
    Ok(())
}

/// Removes directory and memory.
fn forget(standing: &Standing) -> Result<()> {
    let memory = memory();
    let removed = match std::fs::remove_dir_all(&standing.run) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::remove_file(&memory),
    };
    if let Some(folder) = memory.parent() {
        // Stays where something else is in it.
        let _ = std::fs::remove_dir(folder);
    }
    removed.with_context(|| format!("cannot remove {}", standing.run.display()))
}

/// Shows the network; whether all of it is ready.
pub(crate) async fn status() -> Result<bool> {
    let Some(standing) = recall()? else {
        say("No network is up. Start one with `up`.");
        return Ok(false);
    };
    let mut all = true;
    let mut table = Table::new(&[
        "node", "building", "pid", "process", "ready", "peers", "kept for", "items", "outbox",
    ]);
    let mut alarms = Vec::new();
    for node in &standing.nodes {
        let client = Client::socket(&node.socket).with_timeout(STATUS);
        let runs = node.runs();
        let ready = runs && is_ready(&client).await;
        let view: Option<StatusView> = if ready {
            client.get("/node/status").await.ok()
        } else {
            None
        };
        all &= ready;
        let figure = |of: fn(&StatusView) -> u64| {
            view.as_ref()
                .map_or_else(|| "-".to_owned(), |view| of(view).to_string())
        };
        table.row([
            node.name.clone(),
            node.building.clone(),
            node.process.to_string(),
            if runs { "runs" } else { "gone" }.to_owned(),
            if ready { "yes" } else { "no" }.to_owned(),
            figure(|view| view.connected as u64),
            figure(|view| view.keeping),
            figure(|view| view.kept_items),
            figure(|view| view.outbox),
        ]);
        if let Some(view) = view {
            alarms.extend(
                view.alarms
                    .iter()
                    .map(|alarm| format!("  {}: {alarm}", node.name)),
            );
        }
    }
    for line in table.lines(Paint::for_stdout()) {
        say(&line);
    }
    alarms.iter().for_each(|alarm| say(alarm));
    Ok(all)
}
