//! The event sequence over HTTP: server-sent events, newline JSON, or one page. A stream reads the
//! durable log page by page by sequence number, so a slow reader holds one page and misses nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use futures::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::call::Call;
use super::listen::stopped;
use super::problem::Problem;
use super::routes::{answer, timely};
use super::{STREAMS_MAX, State};
use crate::error::{Error, ErrorKind, Result};
use crate::node::EventQuery;
use crate::view::EventView;

/// Events per page: what one stream holds in memory at most.
const PAGE: u32 = 100;
/// The largest `limit`.
const LIMIT_MAX: u64 = 1_000;
/// How many types one query may name.
const TYPES_MAX: usize = 32;
/// How often a silent stream says that it is alive.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// `GET /events`.
pub(super) async fn events(
    Shared(api): Shared<Arc<State>>,
    call: Call,
) -> std::result::Result<Response, Problem> {
    call.allow_query(&["since", "types", "limit", "poll"])?;
    let account = match call.query("account") {
        Some(which) => Some(timely(api.node.account(Some(which))).await?.id()),
        None => None,
    };
    let limit = match call.number("limit", LIMIT_MAX)? {
        Some(0) | None => PAGE,
        Some(limit) => u32::try_from(limit).unwrap_or(PAGE),
    };
    let last = api.node.last_event();
    let query = EventQuery {
        since: since(&call, last)?,
        limit,
        types: types(&call)?,
        account,
    };
    match call.query("poll") {
        Some("1" | "true") => poll(&api, query).await,
        Some("0" | "false") | None => follow(&api, &call, query),
        Some(_) => Err(Problem::new(
            ErrorKind::Invalid,
            "query parameter `poll` must be 0 or 1",
        )),
    }
}

/// Where to begin: `since`, else `Last-Event-ID` (what a browser sends when it reconnects; it wins,
/// because the address it reconnects to still has the old `since`), else the oldest event.
fn since(call: &Call, last: u64) -> std::result::Result<u64, Problem> {
    let given = call
        .header("last-event-id")
        .map(str::trim)
        .filter(|id| !id.is_empty());
    let text = match given.or_else(|| call.query("since")) {
        None => return Ok(0),
        Some("now") => return Ok(last),
        Some(text) => text,
    };
    let since: u64 = text.parse().map_err(|_| {
        Problem::new(
            ErrorKind::Invalid,
            "`since` must be a sequence number, or `now`",
        )
    })?;
    if since > last {
        // Waiting for it would look like silence: the caller's number is from another database.
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("there is no event {since} yet, the last is {last}: was the data replaced?"),
        )
        .with("last", last)
        .into());
    }
    Ok(since)
}

/// The prefixes of `types=message.,payment.*`.
fn types(call: &Call) -> std::result::Result<Vec<String>, Problem> {
    let types: Vec<String> = call
        .query("types")
        .unwrap_or_default()
        .split(',')
        .map(|part| part.trim().trim_end_matches('*').to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    if types.len() > TYPES_MAX {
        return Err(Problem::new(
            ErrorKind::Invalid,
            format!("at most {TYPES_MAX} types"),
        ));
    }
    Ok(types)
}

/// One page at once. `last` is what to give as `since` next time.
async fn poll(api: &State, query: EventQuery) -> std::result::Result<Response, Problem> {
    #[derive(Serialize)]
    struct Polled {
        items: Vec<EventView>,
        last: u64,
    }
    let mut reader = Reader::new(api, query);
    let items = timely(reader.page()).await?;
    let last = reader.query.since;
    answer(StatusCode::OK, &Polled { items, last })
}

/// Reads the log in pages and knows where it is.
struct Reader {
    node: crate::node::Node,
    query: EventQuery,
    news: watch::Receiver<u64>,
}

impl Reader {
    fn new(api: &State, query: EventQuery) -> Self {
        Self {
            node: api.node.clone(),
            query,
            news: api.node.watch_events(),
        }
    }

    /// The next page, possibly empty. Behind retention it begins with a `reset`.
    async fn page(&mut self) -> Result<Vec<EventView>> {
        // Taken before reading: what comes in between is read again, never skipped.
        let known = *self.news.borrow_and_update();
        let mut page = Vec::new();
        let found = match self.node.events(self.query.clone()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let Some(oldest) = error
                    .details()
                    .get("oldest")
                    .and_then(serde_json::Value::as_u64)
                else {
                    return Err(error);
                };
                self.query.since = oldest.saturating_sub(1);
                page.push(reset(oldest));
                self.node.events(self.query.clone()).await?
            }
            other => other?,
        };
        let full = found.len() >= usize::try_from(self.query.limit).unwrap_or(usize::MAX);
        if let Some(last) = found.last() {
            self.query.since = self.query.since.max(last.seq);
        }
        if !full {
            // Nothing that matches is left up to here.
            self.query.since = self.query.since.max(known);
        }
        page.extend(found);
        Ok(page)
    }
}

/// Tells a reader that events are gone: it must read the state anew. Its number lets the stream go on
/// with the oldest event that is left.
fn reset(oldest: u64) -> EventView {
    let seq = oldest.saturating_sub(1);
    EventView {
        seq,
        id: format!("evt_{seq}"),
        kind: "reset".to_owned(),
        time: jiff::Timestamp::now().to_string(),
        account: None,
        data: json!({ "oldest": oldest }),
    }
}

/// An endless stream.
fn follow(api: &State, call: &Call, query: EventQuery) -> std::result::Result<Response, Problem> {
    let permit = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| {
        Problem::new(
            ErrorKind::Busy,
            format!("{STREAMS_MAX} event streams are open, which is the most: close one"),
        )
    })?;
    let sse = call.accepts("text/event-stream");
    let source = Follower {
        reader: Reader::new(api, query),
        stopping: api.stopping.clone(),
        sse,
        begun: false,
        _permit: permit,
    };
    let chunks = stream::unfold(source, |mut source| async move {
        let chunk = source.next().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), source))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let media = if sse {
        "text/event-stream"
    } else {
        "application/x-ndjson"
    };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    Ok(response)
}

struct Follower {
    reader: Reader,
    stopping: watch::Receiver<bool>,
    sse: bool,
    begun: bool,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next bytes; `None` ends the stream. Called only when the client has taken the last ones.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            // At once, so that the client sees that the stream is open.
            self.begun = true;
            return Some(Bytes::from_static(if self.sse {
                b"retry: 1000\n\n"
            } else {
                b"\n"
            }));
        }
        loop {
            if *self.stopping.borrow() {
                return None;
            }
            match self.reader.page().await {
                Ok(page) if page.is_empty() => {}
                Ok(page) => return Some(self.written(&page)),
                Err(error) => {
                    tracing::debug!(%error, "an event stream ends");
                    return None;
                }
            }
            tokio::select! {
                changed = self.reader.news.changed() => changed.ok()?,
                () = stopped(&mut self.stopping) => return None,
                () = tokio::time::sleep(KEEPALIVE) => {
                    let text: &[u8] = if self.sse { b": keepalive\n\n" } else { b"\n" };
                    return Some(Bytes::from_static(text));
                }
            }
        }
    }

    fn written(&self, page: &[EventView]) -> Bytes {
        let mut text = String::new();
        for event in page {
            // Plain data: writing it as JSON cannot fail, and JSON has no raw line ends.
            let json = serde_json::to_string(event).unwrap_or_default();
            if self.sse {
                text.push_str(&format!(
                    "id: {}\nevent: {}\ndata: {json}\n\n",
                    event.seq, event.kind
                ));
            } else {
                text.push_str(&json);
                text.push('\n');
            }
        }
        text.into()
    }
}
