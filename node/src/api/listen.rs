//! Sockets: binding them safely, a bounded number of connections, a clean end.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::CONNECTIONS_MAX;
use super::problem::Problem;
use crate::error::{Error, ErrorKind, Result};

/// The longest socket path: the system's own limit is 107 bytes, some have 103.
pub(crate) const SOCKET_PATH_MAX: usize = 100;
/// Headers of a request, with its first line.
const HEADERS_MAX: usize = 16 * 1024;
/// Header fields of a request.
const FIELDS_MAX: usize = 64;
/// How long a client may take to send headers; also how long a connection may lie idle.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long running requests have to finish when the daemon stops.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Pause after a failed accept (out of descriptors): long enough not to spin, short enough not to
/// be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound socket; its file goes when this is dropped, unless another daemon has taken the path.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    identity: Identity,
}

/// Device, inode, and time of the last change: a file system may give an inode again at once.
type Identity = (u64, u64, i64, i64);

fn identity(metadata: &fs::Metadata) -> Identity {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

impl Socket {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Ok(metadata) = fs::symlink_metadata(&self.path)
            && identity(&metadata) == self.identity
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a Unix socket of mode 0600. The daemon's umask (0077) keeps it private from its first
/// moment. A socket that a dead daemon left is replaced; a live one is not.
pub(super) fn bind_socket(path: &Path) -> Result<(UnixListener, Socket)> {
    let failed = |error: &io::Error| {
        Error::new(
            ErrorKind::Storage,
            format!("cannot listen on the socket {}: {error}", path.display()),
        )
    };
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(Error::invalid(format!(
            "the socket's path {} has {length} bytes, the system allows {SOCKET_PATH_MAX}: choose a \
             shorter one with --api-socket PATH",
            path.display()
        )));
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::new(
                ErrorKind::Exists,
                format!(
                    "{} is there and is not a socket: choose another path with --api-socket PATH",
                    path.display()
                ),
            ));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("another daemon answers on the socket {}", path.display()),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(|error| failed(&error))?;
            }
            Err(error) => return Err(failed(&error)),
        },
    }
    let listener = UnixListener::bind(path).map_err(|error| failed(&error))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|error| failed(&error))?;
    let metadata = fs::symlink_metadata(path).map_err(|error| failed(&error))?;
    Ok((
        listener,
        Socket {
            path: path.to_owned(),
            identity: identity(&metadata),
        },
    ))
}

/// Binds TCP on loopback; every other address is refused.
pub(super) async fn bind_tcp(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    if !address.ip().is_loopback() {
        return Err(Error::invalid(format!(
            "the API listens on loopback only, not on {address}: use 127.0.0.1, and an SSH tunnel \
             from elsewhere"
        )));
    }
    let failed = |error: &io::Error| {
        Error::new(
            ErrorKind::Unavailable,
            format!("cannot listen on {address}: {error}"),
        )
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| failed(&error))?;
    let bound = listener.local_addr().map_err(|error| failed(&error))?;
    Ok((listener, bound))
}

/// Serves the Unix socket until `stop` is true and its connections have ended.
pub(super) async fn serve_socket(
    listener: UnixListener,
    router: Router,
    stop: watch::Receiver<bool>,
    connections: Arc<Semaphore>,
) {
    let mut tasks = JoinSet::new();
    let mut stopping = stop.clone();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(&mut tasks, stream, &router, &stop, &connections),
                Err(error) => pause(&error).await,
            },
        }
    }
    drop(listener);
    drain(tasks).await;
}

/// Serves TCP until `stop` is true and its connections have ended.
pub(super) async fn serve_tcp(
    listener: TcpListener,
    router: Router,
    stop: watch::Receiver<bool>,
    connections: Arc<Semaphore>,
) {
    let mut tasks = JoinSet::new();
    let mut stopping = stop.clone();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = tasks.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    admit(&mut tasks, stream, &router, &stop, &connections);
                }
                Err(error) => pause(&error).await,
            },
        }
    }
    drop(listener);
    drain(tasks).await;
}

/// Returns when the daemon stops, or is gone.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "the API cannot accept a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn drain(mut tasks: JoinSet<()>) {
    let ended = tokio::time::timeout(DRAIN_TIME, async {
        while tasks.join_next().await.is_some() {}
    });
    if ended.await.is_err() {
        tracing::warn!(
            connections = tasks.len(),
            "API connections were cut at the end"
        );
    }
}

fn admit<S>(
    tasks: &mut JoinSet<()>,
    stream: S,
    router: &Router,
    stop: &watch::Receiver<bool>,
    connections: &Arc<Semaphore>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match Arc::clone(connections).try_acquire_owned() {
        Ok(permit) => {
            tasks.spawn(serve(stream, router.clone(), stop.clone(), permit));
        }
        Err(_) => {
            tasks.spawn(refuse(stream));
        }
    }
}

async fn serve<S>(
    stream: S,
    router: Router,
    mut stop: watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_headers(FIELDS_MAX)
        .max_header_size(HEADERS_MAX)
        .max_buf_size(4 * HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients that go away in the middle are ordinary.
        tracing::trace!(%error, "API connection ended");
    }
    drop(permit);
}

/// One connection too many: said in HTTP, without reading what it asks.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let problem = Problem::new(
        ErrorKind::Busy,
        format!("{CONNECTIONS_MAX} connections are open, which is the most: try again soon"),
    )
    .with_status(503);
    let body = format!("{}\n", problem.document("/", "req_none"));
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         retry-after: 1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let sending = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // The client may be gone, or not read: neither is worth more than a second.
    let _ = tokio::time::timeout(Duration::from_secs(1), sending).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let (live, socket) = bind_socket(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            bind_socket(&path).unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        drop(live);
        let (_again, second) = bind_socket(&path).unwrap();
        drop(socket);
        assert!(
            path.exists(),
            "the first one's end takes nothing from the second"
        );
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert_eq!(bind_socket(&path).unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_refused_with_a_way_out() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(SOCKET_PATH_MAX)));
        let error = bind_socket(&path).unwrap_err();
        assert!(error.message().contains("--api-socket"), "{error}");
    }

    #[tokio::test]
    async fn only_loopback_is_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            assert_eq!(
                bind_tcp(address.parse().unwrap()).await.unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
    }
}
