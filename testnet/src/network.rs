//! A running network: the processes of a layout, their directory, their fire and their end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pumasi_node::client::Client;
use pumasi_node::view::NodeView;
use serde_json::Value;

use crate::layout::{Layout, Place};
use crate::process::Process;

/// Longest path of a Unix socket that every system takes (104 on macOS, 108 on Linux).
const SOCKET_MAX: usize = 100;
/// How long a node may take until it is ready.
const READY: Duration = Duration::from_secs(60);
/// How long a node may take to stop when asked.
const STOP: Duration = Duration::from_secs(10);
/// How often a condition is looked at that nothing announces.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Where a node keeps what it has, and what to start it with.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) data: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
    /// Without the addresses to begin with.
    arguments: Vec<String>,
}

impl Spec {
    /// One per place of the layout, below a run directory.
    pub(crate) fn all(layout: &Layout, run: &Path) -> Result<Vec<Self>> {
        layout
            .places
            .iter()
            .map(|place| Self::one(layout, place, run))
            .collect()
    }

    fn one(layout: &Layout, place: &Place, run: &Path) -> Result<Self> {
        let name = place.name.clone();
        let data = run.join(&name);
        let socket = run.join(format!("{name}.sock"));
        ensure!(
            socket.as_os_str().len() <= SOCKET_MAX,
            "the path {} is too long for a socket: set TMPDIR to a shorter directory",
            socket.display()
        );
        let arguments = [
            ("--data-dir", data.display().to_string()),
            ("--network", layout.network.clone()),
            (
                "--building",
                layout.buildings[place.building].name.to_owned(),
            ),
            ("--operator", layout.operator(place.building)),
            ("--newcomers", place.newcomers.to_string()),
            ("--local", "true".to_owned()),
            ("--mdns", "false".to_owned()),
            ("--listen", "/ip4/127.0.0.1/udp/0/quic-v1".to_owned()),
            ("--listen", "/ip4/127.0.0.1/tcp/0".to_owned()),
            ("--api-listen", "off".to_owned()),
            ("--api-socket", socket.display().to_string()),
        ];
        let mut arguments: Vec<String> = std::iter::once("run".to_owned())
            .chain(
                arguments
                    .into_iter()
                    .flat_map(|(flag, value)| [flag.to_owned(), value]),
            )
            .collect();
        if let Some(seconds) = layout.replace_after {
            arguments.extend(["--replace-after".to_owned(), seconds.to_string()]);
        }
        let log = run.join(format!("{name}.log"));
        Ok(Self {
            name,
            data,
            socket,
            log,
            arguments,
        })
    }

    /// Everything to start it with.
    pub(crate) fn arguments(&self, bootstrap: &[String]) -> Vec<String> {
        let mut arguments = self.arguments.clone();
        for address in bootstrap {
            arguments.push("--bootstrap".to_owned());
            arguments.push(address.clone());
        }
        arguments
    }

    /// Everything to start a daemon with on a copy of the data, with a socket of its own; it knows
    /// nobody.
    pub(crate) fn moved(&self, data: &Path, socket: &Path) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let (old_data, old_socket) = (text(&self.data), text(&self.socket));
        self.arguments
            .iter()
            .map(|argument| match argument {
                argument if *argument == old_data => text(data),
                argument if *argument == old_socket => text(socket),
                argument => argument.clone(),
            })
            .collect()
    }

    /// The end of its log, for error messages.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(8).collect();
        lines
            .into_iter()
            .rev()
            .map(|line| format!("  | {line}\n"))
            .collect()
    }
}

/// A directory that is removed at the end, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    keep: bool,
}

impl RunDirectory {
    /// A new one, with a short name, for this user only.
    pub(crate) fn new(what: &str) -> Result<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..100 {
            let path = base.join(format!("pumasi-{what}-{}-{attempt}", std::process::id()));
            let mut builder = std::fs::DirBuilder::new();
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&path) {
                Ok(()) => return Ok(Self { path, keep: false }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}", path.display()));
                }
            }
        }
        bail!(
            "cannot make a run directory in {}: remove old pumasi-* there",
            base.display()
        )
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it there at the end.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if !self.keep {
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// One node of a running network.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) spec: Spec,
    pub(crate) building: usize,
    pub(crate) client: Client,
    /// Node id.
    pub(crate) id: String,
    /// None once it was burned.
    process: Option<Process>,
}

/// A running network. Dropped, it takes its processes with it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) nodes: Vec<Node>,
    /// From the start of the first process until all nodes were ready.
    pub(crate) start: Duration,
}

impl Network {
    /// Starts the bootstrap node, then all others at once, and waits until all are ready.
    /// With `stay`, the processes can outlive this program: see [`Self::leave`].
    pub(crate) async fn start(layout: &Layout, run: &Path, stay: bool) -> Result<Self> {
        let begun = Instant::now();
        let mut network = Self {
            nodes: Vec::new(),
            start: Duration::ZERO,
        };
        let mut bootstrap = Vec::new();
        for (place, spec) in layout.places.iter().zip(Spec::all(layout, run)?) {
            network.add(spec, place.building, &bootstrap, stay)?;
            if network.nodes.len() == 1 {
                network.ready(0).await?;
                bootstrap = addresses(&network.nodes[0].client).await?;
            }
        }
        for node in 1..network.nodes.len() {
            network.ready(node).await?;
        }
        network.start = begun.elapsed();
        Ok(network)
    }

    /// Starts a node's daemon again on what its directory holds; it begins with the addresses of those
    /// that run.
    pub(crate) async fn start_again(
        &mut self,
        node: usize,
        variables: &[(String, String)],
    ) -> Result<()> {
        let mut bootstrap = Vec::new();
        for other in self.nodes.iter().filter(|other| other.process.is_some()) {
            let asked = other.client.clone().with_timeout(Duration::from_secs(1));
            if let Ok(found) = asked.get::<NodeView>("/node").await {
                bootstrap.extend(found.addresses);
                break;
            }
        }
        let node = &mut self.nodes[node];
        let arguments = node.spec.arguments(&bootstrap);
        let process = Process::start_with(&arguments, &node.spec.log, false, variables)?;
        node.process = Some(process);
        Ok(())
    }

    /// The process of a node, if it runs.
    pub(crate) fn process(&mut self, node: usize) -> Option<&mut Process> {
        self.nodes[node].process.as_mut()
    }

    /// SIGKILL to a node, and its end.
    pub(crate) fn kill(&mut self, node: usize) {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.kill();
            process.reap();
        }
    }

    /// Asks a node to stop, and waits for its end; whether it came in time.
    pub(crate) async fn stop_one(&mut self, node: usize) -> bool {
        let Some(mut process) = self.nodes[node].process.take() else {
            return true;
        };
        process.terminate();
        let begun = Instant::now();
        while process.ended().is_none() {
            if begun.elapsed() > STOP {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// Starts the nodes of a building that was added to the layout, and waits until they are ready. They
    /// begin with the addresses of a node that stands. Returns their indexes.
    pub(crate) async fn open(
        &mut self,
        layout: &Layout,
        run: &Path,
        building: usize,
    ) -> Result<Vec<usize>> {
        let standing = self.standing();
        let first = standing.first().context("no node stands any more")?;
        let bootstrap = addresses(&self.nodes[*first].client).await?;
        let fresh = layout.nodes_in(building);
        for &node in &fresh {
            let spec = Spec::one(layout, &layout.places[node], run)?;
            self.add(spec, building, &bootstrap, false)?;
        }
        for &node in &fresh {
            self.ready(node).await?;
        }
        Ok(fresh)
    }

    fn add(&mut self, spec: Spec, building: usize, bootstrap: &[String], stay: bool) -> Result<()> {
        let process = Process::start(&spec.arguments(bootstrap), &spec.log, stay)?;
        let client = Client::socket(&spec.socket);
        self.nodes.push(Node {
            spec,
            building,
            client,
            id: String::new(),
            process: Some(process),
        });
        Ok(())
    }

    /// The nodes that were not burned.
    pub(crate) fn standing(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|&node| self.nodes[node].process.is_some())
            .collect()
    }

    /// Waits until a node says that it is ready.
    pub(crate) async fn ready(&mut self, node: usize) -> Result<()> {
        let node = &mut self.nodes[node];
        let begun = Instant::now();
        while !is_ready(&node.client).await {
            if let Some(status) = node.process.as_mut().and_then(Process::ended) {
                bail!(
                    "{} ended at once ({status}):\n{}",
                    node.spec.name,
                    node.spec.log_tail()
                );
            }
            ensure!(
                begun.elapsed() < READY,
                "{} was not ready within {} s:\n{}",
                node.spec.name,
                READY.as_secs(),
                node.spec.log_tail()
            );
            tokio::time::sleep(LOOK).await;
        }
        if node.id.is_empty() {
            node.id = node.client.get::<NodeView>("/node").await?.id;
        }
        Ok(())
    }

    /// Burns a building: SIGKILL to all its processes at once, then its data directories are removed.
    pub(crate) fn burn(&mut self, building: usize) -> Result<()> {
        let mut burning: Vec<_> = self
            .nodes
            .iter_mut()
            .filter(|node| node.building == building)
            .collect();
        let mut processes: Vec<_> = burning
            .iter_mut()
            .filter_map(|n| n.process.take())
            .collect();
        processes.iter_mut().for_each(Process::kill);
        processes.iter_mut().for_each(Process::reap);
        for node in burning {
            std::fs::remove_dir_all(&node.spec.data)
                .with_context(|| format!("cannot remove {}", node.spec.data.display()))?;
            drop(std::fs::remove_file(&node.spec.socket));
        }
        Ok(())
    }

    /// Nodes whose process ended though nobody killed it, each with the end of its log.
    pub(crate) fn fallen(&mut self) -> Vec<(usize, String)> {
        let mut fallen = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.process.as_mut().and_then(Process::ended) {
                let name = &node.spec.name;
                let text = format!(
                    "{name} ended by itself ({status}):\n{}",
                    node.spec.log_tail()
                );
                fallen.push((index, text.trim_end().to_owned()));
            }
        }
        fallen
    }

    /// Leaves all processes running; returns their ids, in the order of the nodes.
    pub(crate) fn leave(mut self) -> Vec<u32> {
        self.nodes
            .iter_mut()
            .filter_map(|node| node.process.take())
            .map(Process::leave)
            .collect()
    }

    /// The ids of the running processes, in the order of the nodes.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.nodes
            .iter()
            .filter_map(|node| node.process.as_ref())
            .map(Process::id)
            .collect()
    }

    /// Asks all nodes to stop and waits for it; returns the names of those that had to be killed.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                process.terminate();
            }
        }
        let begun = Instant::now();
        loop {
            for node in &mut self.nodes {
                if node
                    .process
                    .as_mut()
                    .is_some_and(|process| process.ended().is_some())
                {
                    node.process = None;
                }
            }
            let left: Vec<_> = self
                .nodes
                .iter()
                .filter(|node| node.process.is_some())
                .collect();
            if left.is_empty() || begun.elapsed() > STOP {
                return left.iter().map(|node| node.spec.name.clone()).collect();
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether the node behind a client answers at all.
pub(crate) async fn is_alive(client: &Client) -> bool {
    client.get::<Value>("/livez").await.is_ok()
}

/// Whether the node behind a client says that it is ready.
pub(crate) async fn is_ready(client: &Client) -> bool {
    client.get::<Value>("/readyz").await.is_ok()
}

/// The addresses of a node; it may be ready a moment before its listeners are.
pub(crate) async fn addresses(client: &Client) -> Result<Vec<String>> {
    let begun = Instant::now();
    loop {
        let node: NodeView = client.get("/node").await?;
        if !node.addresses.is_empty() {
            return Ok(node.addresses);
        }
        ensure!(begun.elapsed() < READY, "the bootstrap node has no address");
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_is_private_and_removed_at_the_end_unless_kept() {
        let mut kept = RunDirectory::new("test").unwrap();
        let other = RunDirectory::new("test").unwrap();
        assert_ne!(kept.path(), other.path());
        let mode = std::fs::metadata(kept.path()).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
            0o700
        );
        kept.keep();
        let (kept_path, other_path) = (kept.path().to_owned(), other.path().to_owned());
        drop((kept, other));
        assert!(kept_path.exists() && !other_path.exists());
        std::fs::remove_dir(kept_path).unwrap();
    }

    #[test]
    fn every_node_but_the_first_begins_with_the_first_ones_addresses_only() {
        let layout = Layout::even(4, 4, 8, "test");
        let specs = Spec::all(&layout, Path::new("/tmp/x")).unwrap();
        let arguments = specs[1]
            .arguments(&["/ip4/127.0.0.1/tcp/1".to_owned()])
            .join(" ");
        assert!(arguments.contains("--bootstrap /ip4/127.0.0.1/tcp/1"));
        assert!(arguments.contains("--building anyang --operator anyang-cooperative"));
        assert!(!specs[0].arguments(&[]).join(" ").contains("--bootstrap"));
    }

    #[test]
    fn a_socket_path_too_long_is_refused_with_what_to_do() {
        let layout = Layout::even(4, 4, 8, "test");
        let error = Spec::all(&layout, &PathBuf::from("/tmp").join("x".repeat(100))).unwrap_err();
        assert!(error.to_string().contains("TMPDIR"));
    }
}
