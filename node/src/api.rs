//! The HTTP API: a Unix socket, and optionally TCP on loopback with a token. It translates requests to
//! calls of the [`Node`] handle and decides nothing itself; money and deduplication are the engine's.

mod backup;
mod call;
mod events;
mod guard;
mod listen;
mod problem;
mod restores;
mod routes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use crate::error::Result;
use crate::node::Node;

/// Connections at one time, over both listeners; one more gets 503 and is closed.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// Event streams at one time: fewer than connections, so that streams never shut out everything else.
pub(crate) const STREAMS_MAX: usize = 32;
/// The largest request body in bytes.
pub(crate) const BODY_MAX: usize = 256 * 1024;

/// Where the API listens.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Path of the Unix socket.
    pub(crate) socket: Option<PathBuf>,
    /// A loopback address; port 0 takes a free one.
    pub(crate) tcp: Option<SocketAddr>,
    /// Where the token for TCP is kept; made where there is none.
    pub(crate) token_file: PathBuf,
}

/// What every handler needs.
struct State {
    node: Node,
    /// True once the daemon stops: streams end, `/readyz` says no.
    stopping: watch::Receiver<bool>,
    streams: Arc<Semaphore>,
    /// One copy of the database at a time.
    backups: Arc<Semaphore>,
}

/// The running API.
#[derive(Debug)]
pub(crate) struct Server {
    socket: Option<listen::Socket>,
    tcp: Option<SocketAddr>,
    stopping: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Server {
    /// Binds the listeners and serves.
    ///
    /// # Errors
    /// When an address is taken or not loopback, a path is too long or in use, or the token file
    /// cannot be read or made.
    pub(crate) async fn start(node: Node, options: &Options) -> Result<Self> {
        let (stopping, stop) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let state = Arc::new(State {
            node,
            stopping: stop.clone(),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            backups: Arc::new(Semaphore::new(1)),
        });
        let mut server = Self {
            socket: None,
            tcp: None,
            stopping,
            tasks: Vec::new(),
        };
        // Both are bound before either serves: a daemon with half an API would be a puzzle.
        let socket = options
            .socket
            .as_deref()
            .map(listen::bind_socket)
            .transpose()?;
        let tcp = match options.tcp {
            Some(address) => {
                let token = guard::token(&options.token_file)?;
                Some((listen::bind_tcp(address).await?, token))
            }
            None => None,
        };
        if let Some((listener, socket)) = socket {
            let router = routes::router(Arc::clone(&state), guard::Guard::Socket);
            let task = listen::serve_socket(listener, router, stop.clone(), connections.clone());
            server.tasks.push(tokio::spawn(task));
            server.socket = Some(socket);
        }
        if let Some(((listener, address), token)) = tcp {
            let router = routes::router(state, guard::Guard::tcp(address, token));
            server.tasks.push(tokio::spawn(listen::serve_tcp(
                listener,
                router,
                stop,
                connections,
            )));
            server.tcp = Some(address);
        }
        Ok(server)
    }

    /// Path of the Unix socket.
    pub(crate) fn socket(&self) -> Option<&Path> {
        self.socket.as_ref().map(listen::Socket::path)
    }

    /// The TCP address, with the port that was taken.
    pub(crate) const fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Ends streams, lets running requests finish (5 s at most) and removes the socket.
    pub(crate) async fn stop(self) {
        self.stopping.send_replace(true);
        for task in self.tasks {
            // A listener's task ends by itself; if it panicked there is nothing left to stop.
            let _ = task.await;
        }
    }
}

/// A bearer token, wiped on drop.
type Token = Zeroizing<String>;
