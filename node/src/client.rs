//! A client of the daemon's HTTP API, over its Unix socket or over TCP with a token. Used by the
//! command line and the testnet; it knows HTTP and problem documents, not what the routes mean.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::view::EventView;

/// Idle connections that a client keeps for the next calls.
const IDLE_MAX: usize = 8;
/// The largest answer to a call in bytes.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// The longest line of an event stream in bytes.
const LINE_MAX: usize = 1024 * 1024;
/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long a call may take if nothing else is said: longer than the daemon's own limit, so that its
/// words arrive.
const CALL_TIME: Duration = Duration::from_secs(40);
/// How long the daemon may take before it begins to answer with a file: it makes a copy first.
const DOWNLOAD_TIME: Duration = Duration::from_secs(630);
/// A stream without a sign of life for so long is dead: the daemon sends one every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);

type Sender = SendRequest<Full<Bytes>>;

/// Where the daemon is.
enum Target {
    Socket(PathBuf),
    Tcp {
        authority: String,
        token: Zeroizing<String>,
    },
}

/// A client. Cheap to clone; clones share idle connections. Needs a tokio runtime.
///
/// ```no_run
/// # async fn example() -> pumasi_node::Result<()> {
/// use pumasi_node::client::Client;
/// use pumasi_node::view::NodeView;
///
/// let client = Client::socket("/home/hana/.local/share/pumasi/api.sock");
/// let node: NodeView = client.get("/node").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    target: Arc<Target>,
    idle: Arc<Mutex<Vec<Sender>>>,
    account: Option<String>,
    timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("at", &self.place())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the daemon that listens on a Unix socket. Connects at the first call.
    #[must_use]
    pub fn socket(path: impl AsRef<Path>) -> Self {
        Self::new(Target::Socket(path.as_ref().to_owned()))
    }

    /// A client over TCP. `url` is `http://127.0.0.1:4041` (or `localhost`, `[::1]`).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the URL is not of this form: the token would travel in clear, so
    /// other hosts are refused.
    pub fn tcp(url: &str, token: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Err(Error::invalid(format!(
                "`{url}` cannot be used: {why}, such as http://127.0.0.1:4041"
            )))
        };
        let Some(authority) = url.strip_prefix("http://") else {
            return wrong("write the address of the API with http://");
        };
        let authority = authority.trim_end_matches('/');
        let Some((host, port)) = authority.rsplit_once(':') else {
            return wrong("write the port, too");
        };
        if port.parse::<u16>().is_err() {
            return wrong("write the port, too");
        }
        let loopback = host == "localhost"
            || host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        if !loopback {
            return wrong(
                "the API speaks plain HTTP on loopback only. For another machine, open a tunnel (ssh \
                 -L 4041:127.0.0.1:4041 HOST) and name its local end",
            );
        }
        Ok(Self::new(Target::Tcp {
            authority: authority.to_owned(),
            token: Zeroizing::new(token.to_owned()),
        }))
    }

    fn new(target: Target) -> Self {
        Self {
            target: Arc::new(target),
            idle: Arc::default(),
            account: None,
            timeout: CALL_TIME,
        }
    }

    /// The same client speaking for one account of the node: its id or name.
    #[must_use]
    pub fn with_account(mut self, account: Option<&str>) -> Self {
        self.account = account.map(str::to_owned);
        self
    }

    /// The same client with another limit for each call (40 s by default).
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Reads a resource. `path` is below `/api/v1` (`/node`), except `/livez`, `/readyz` and
    /// `/version`. Build paths from names with [`segment`].
    ///
    /// # Errors
    /// The daemon's own error; [`ErrorKind::Unavailable`] when it cannot be reached;
    /// [`ErrorKind::TimedOut`] when it does not answer in time.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, None, None).await
    }

    /// Posts a body.
    ///
    /// # Errors
    /// As for [`Client::get`]. After [`ErrorKind::TimedOut`] or [`ErrorKind::Unavailable`] it is not
    /// known whether the call had its effect.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::POST, path, Some(encode(body)?), None)
            .await
    }

    /// Posts a body with an idempotency key: the same call with the same key has one effect.
    ///
    /// # Errors
    /// As for [`Client::post`]; [`ErrorKind::IdempotencyKeyReused`] when the key was used for
    /// something else.
    pub async fn post_with_key<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        key: &str,
    ) -> Result<T> {
        self.call(Method::POST, path, Some(encode(body)?), Some(key))
            .await
    }

    /// Changes a resource.
    ///
    /// # Errors
    /// As for [`Client::post`].
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::PATCH, path, Some(encode(body)?), None)
            .await
    }

    /// Deletes a resource. `T` may be `()` where the answer has no body.
    ///
    /// # Errors
    /// As for [`Client::post`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::DELETE, path, None, None).await
    }

    /// Reads a resource of any size into a file.
    ///
    /// # Errors
    /// As for [`Client::get`]; [`ErrorKind::Storage`] when the file cannot be written. The file then
    /// holds a part.
    pub async fn download(&self, path: &str, mut file: std::fs::File) -> Result<()> {
        let mut sender = self.connect().await?;
        let request = self.request(&Method::GET, path, None, None, "*/*")?;
        let response = within(DOWNLOAD_TIME, async {
            sender
                .send_request(request)
                .await
                .map_err(|error| self.lost(&error))
        })
        .await?;
        if !response.status().is_success() {
            return Err(read_problem(response).await);
        }
        let mut body = response.into_body();
        while let Some(frame) = within(self.timeout, async { Ok(body.frame().await) }).await? {
            let frame = frame.map_err(|error| self.lost(&error))?;
            if let Some(piece) = frame.data_ref() {
                io::Write::write_all(&mut file, piece).map_err(|error| {
                    Error::new(
                        ErrorKind::Storage,
                        format!("the file cannot be written: {error}"),
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Waits until the daemon is ready, asking every 50 ms.
    ///
    /// # Errors
    /// The last error, when `limit` has passed.
    pub async fn wait_until_ready(&self, limit: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let Err(error) = self.get::<Value>("/readyz").await else {
                return Ok(());
            };
            if tokio::time::Instant::now() >= end {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Opens the event sequence after `since` (0: from the oldest kept event). `types` are names or
    /// beginnings (`payment.`); empty means all. With [`Client::with_account`], only that account's
    /// events and those of no account.
    ///
    /// # Errors
    /// As for [`Client::get`]; [`ErrorKind::Busy`] when too many streams are open.
    pub async fn events(&self, since: u64, types: &[&str]) -> Result<EventStream> {
        self.open_events(&format!("since={since}"), types).await
    }

    /// Opens the event sequence at its present end: only what happens from now on.
    ///
    /// # Errors
    /// As for [`Client::events`].
    pub async fn events_from_now(&self, types: &[&str]) -> Result<EventStream> {
        self.open_events("since=now", types).await
    }

    async fn open_events(&self, since: &str, types: &[&str]) -> Result<EventStream> {
        let path = format!("/events?{since}&types={}", segment(&types.join(",")));
        // A connection of its own: a stream never gives it back.
        let mut sender = self.connect().await?;
        let request = self.request(&Method::GET, &path, None, None, "application/x-ndjson")?;
        let response = within(self.timeout, async {
            sender
                .send_request(request)
                .await
                .map_err(|error| self.lost(&error))
        })
        .await?;
        if !response.status().is_success() {
            return Err(read_problem(response).await);
        }
        Ok(EventStream {
            body: response.into_body(),
            buffer: Vec::new(),
            _sender: sender,
        })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
    ) -> Result<T> {
        within(self.timeout, async {
            let (response, sender) = self.exchange(&method, path, body.as_ref(), key).await?;
            let status = response.status();
            if !status.is_success() {
                let error = read_problem(response).await;
                self.keep(sender);
                return Err(error);
            }
            let bytes = Limited::new(response.into_body(), ANSWER_MAX)
                .collect()
                .await
                .map_err(|error| {
                    Error::new(
                        ErrorKind::Unavailable,
                        format!("the answer broke off: {error}"),
                    )
                })?
                .to_bytes();
            self.keep(sender);
            let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            serde_json::from_slice(text).map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    format!(
                        "the daemon's answer is not understood ({error}): is it another version?"
                    ),
                )
            })
        })
        .await
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Bytes>,
        key: Option<&str>,
    ) -> Result<(Response<Incoming>, Sender)> {
        let request = || self.request(method, path, body, key, "application/json");
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request()?).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => {
                    // The daemon may have closed the idle connection before it took the request:
                    // then ask on another. Reading twice is harmless; a write may have been done.
                    let untouched = error.take_message().is_some() || *method == Method::GET;
                    if !untouched {
                        return Err(self.lost(&error.into_error()));
                    }
                }
            }
        }
        let mut sender = self.connect().await?;
        let response = sender
            .send_request(request()?)
            .await
            .map_err(|error| self.lost(&error))?;
        Ok((response, sender))
    }

    fn take(&self) -> Option<Sender> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        if !sender.is_closed() && idle.len() < IDLE_MAX {
            idle.push(sender);
        }
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Bytes>,
        key: Option<&str>,
        accept: &str,
    ) -> Result<Request<Full<Bytes>>> {
        let mut uri = if matches!(path, "/livez" | "/readyz" | "/version") {
            path.to_owned()
        } else {
            format!("/api/v1{path}")
        };
        if let Some(account) = &self.account {
            uri.push(if uri.contains('?') { '&' } else { '?' });
            uri.push_str("account=");
            uri.push_str(&segment(account));
        }
        let mut builder = Request::builder()
            .method(method)
            .uri(uri)
            .header(ACCEPT, accept);
        match &*self.target {
            Target::Socket(_) => builder = builder.header(HOST, "localhost"),
            Target::Tcp { authority, token } => {
                let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
                builder = builder
                    .header(HOST, authority)
                    .header(AUTHORIZATION, bearer.as_str());
            }
        }
        if let Some(key) = key {
            builder = builder.header("idempotency-key", key);
        }
        if body.is_some() {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        builder
            .body(Full::new(body.cloned().unwrap_or_default()))
            .map_err(|error| Error::invalid(format!("this cannot be sent: {error}")))
    }

    async fn connect(&self) -> Result<Sender> {
        let connected = within(CONNECT_TIME, async {
            match &*self.target {
                Target::Socket(path) => match UnixStream::connect(path).await {
                    Ok(stream) => Ok(Self::handshake(stream).await),
                    Err(error) => Err(self.unreachable(&error)),
                },
                Target::Tcp { authority, .. } => match TcpStream::connect(authority).await {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true);
                        Ok(Self::handshake(stream).await)
                    }
                    Err(error) => Err(self.unreachable(&error)),
                },
            }
        });
        connected.await?.map_err(|error| self.lost(&error))
    }

    async fn handshake<S>(stream: S) -> hyper::Result<Sender>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // Its errors reach the caller through the sender.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn place(&self) -> String {
        match &*self.target {
            Target::Socket(path) => path.display().to_string(),
            Target::Tcp { authority, .. } => format!("http://{authority}"),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let place = self.place();
        match (error.kind(), &*self.target) {
            (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, Target::Socket(_)) => {
                Error::new(
                    ErrorKind::Unavailable,
                    format!("no daemon answers at {place}: start it with `pumasi run`"),
                )
            }
            (io::ErrorKind::PermissionDenied, _) => Error::new(
                ErrorKind::NotPermitted,
                format!("{place} belongs to another user: run this as the daemon's user"),
            ),
            _ => Error::new(
                ErrorKind::Unavailable,
                format!("no daemon answers at {place} ({error})"),
            ),
        }
    }

    fn lost(&self, error: &hyper::Error) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "the connection to the daemon at {} broke off: {error}",
                self.place()
            ),
        )
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::TimedOut,
            format!("the daemon did not answer within {} s", limit.as_secs_f32()),
        )),
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes> {
    // Wiped when it is sent: it may hold the words of an account.
    serde_json::to_vec(body)
        .map(|bytes| Bytes::from_owner(Zeroizing::new(bytes)))
        .map_err(|error| Error::invalid(format!("the body cannot be written as JSON: {error}")))
}

/// Turns an error answer into the error that the daemon had.
async fn read_problem(response: Response<Incoming>) -> Error {
    let status = response.status();
    let body = Limited::new(response.into_body(), 64 * 1024)
        .collect()
        .await;
    let document: BTreeMap<String, Value> = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body.to_bytes()).ok())
        .unwrap_or_default();
    let code = document
        .get("code")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let kind = ErrorKind::ALL
        .into_iter()
        .find(|kind| kind.code() == code)
        .or_else(|| {
            ErrorKind::ALL
                .into_iter()
                .find(|kind| kind.status() == status.as_u16())
        })
        .unwrap_or(ErrorKind::Internal);
    let message = document.get("detail").and_then(Value::as_str).map_or_else(
        || format!("the daemon answered with status {status}"),
        str::to_owned,
    );
    let ordinary = [
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "retryable",
    ];
    document
        .iter()
        .filter(|(name, _)| !ordinary.contains(&name.as_str()))
        .fold(Error::new(kind, message), |error, (name, value)| {
            error.with(name, value.clone())
        })
}

/// A name as one segment of a path or value of a query: everything but letters, digits and `-._~` is
/// percent-encoded (RFC 3986).
#[must_use]
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// An open stream of events. Ends when the daemon stops; go on with the last `seq` afterwards.
pub struct EventStream {
    body: Incoming,
    buffer: Vec<u8>,
    // Dropping it would close the connection.
    _sender: Sender,
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl EventStream {
    /// The next event; `None` when the daemon ended the stream. An event of kind `reset` says that
    /// older events are gone (`data.oldest` is the first one left): read the state anew.
    ///
    /// Cancel-safe: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the connection breaks or is silent for 45 s.
    pub async fn next(&mut self) -> Result<Option<EventView>> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = line.trim_ascii();
                if line.is_empty() {
                    continue; // keepalive
                }
                return serde_json::from_slice(line).map(Some).map_err(|error| {
                    Error::new(
                        ErrorKind::Internal,
                        format!("an event is not understood: {error}"),
                    )
                });
            }
            if self.buffer.len() > LINE_MAX {
                return Err(Error::new(ErrorKind::Internal, "an event is too long"));
            }
            let frame = match tokio::time::timeout(SILENCE_MAX, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("the event stream broke off: {error}"),
                    ));
                }
                Err(_) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "the event stream was silent for {} s",
                            SILENCE_MAX.as_secs()
                        ),
                    ));
                }
            };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_path_segment() {
        assert_eq!(segment("bora-1_~."), "bora-1_~.");
        assert_eq!(segment("a/b?c"), "a%2Fb%3Fc");
        assert_eq!(segment("하"), "%ED%95%98");
    }

    #[test]
    fn a_token_goes_to_loopback_only() {
        assert!(Client::tcp("http://127.0.0.1:4041", "t").is_ok());
        assert!(Client::tcp("http://localhost:4041/", "t").is_ok());
        assert!(Client::tcp("http://[::1]:4041", "t").is_ok());
        for wrong in [
            "https://127.0.0.1:4041",
            "127.0.0.1:4041",
            "http://127.0.0.1",
            "http://example.org:4041",
            "http://127.0.0.1:4041/x",
            "http://127.evil.example:1",
        ] {
            assert_eq!(
                Client::tcp(wrong, "t").unwrap_err().kind(),
                ErrorKind::Invalid,
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_token_does_not_show_in_debug() {
        let client = Client::tcp("http://127.0.0.1:4041", "secret").unwrap();
        assert!(!format!("{client:?}").contains("secret"));
    }
}
