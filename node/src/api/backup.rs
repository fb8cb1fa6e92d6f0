//! `GET /backup`: a copy of the database as a file. Made whole on disk first, so that the answer is a
//! sound copy or none.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State as Shared;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::response::Response;
use futures::stream;

use super::State;
use super::call::Call;
use super::problem::Problem;
use crate::error::{Error, ErrorKind};

/// How long making a copy may take.
const MAKING: Duration = Duration::from_secs(600);
/// Bytes per piece of the answer.
const PIECE: usize = 256 * 1024;

/// `GET /backup`.
pub(super) async fn backup(
    Shared(api): Shared<Arc<State>>,
    call: Call,
) -> Result<Response, Problem> {
    call.allow_query(&["account"])?;
    let permit = Arc::clone(&api.backups).try_acquire_owned().map_err(|_| {
        Problem::new(
            ErrorKind::Busy,
            "another copy is being made: wait for its end",
        )
    })?;
    let copy = tokio::time::timeout(MAKING, api.node.backup());
    let file = copy.await.map_err(|_| {
        let text = format!("the copy was not made within {} s", MAKING.as_secs());
        Problem::new(ErrorKind::TimedOut, text)
    })??;
    let failed =
        |error: std::io::Error| Problem::from(Error::new(ErrorKind::Storage, error.to_string()));
    let length = file.metadata().map_err(failed)?.len();
    let pieces = stream::unfold((file, permit), |(mut file, permit)| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let result = file.read(&mut piece).map(|length| {
                piece.truncate(length);
                piece
            });
            (result, file)
        });
        match read.await {
            Ok((Ok(piece), _)) if piece.is_empty() => None,
            Ok((piece, file)) => Some((piece.map(Bytes::from), (file, permit))),
            // The task was dropped with its runtime: the answer breaks off before its length.
            Err(_) => None,
        }
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/vnd.sqlite3"),
    );
    Ok(response)
}
