//! What stands before every route: who may ask, from where, and what every answer carries.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use pumasi_protocol::crypto;
use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use super::Token;
use super::problem::{self, Problem};
use crate::error::{Error, ErrorKind, Result};
use crate::vault;

/// Bytes of a token.
const TOKEN_LENGTH: usize = 32;
/// A token file is one line; more than this is not one.
const TOKEN_FILE_MAX: u64 = 4096;

/// Who is let in at a listener.
pub(super) enum Guard {
    /// The Unix socket: its mode lets only its owner in.
    Socket,
    /// TCP: the `Host` must be ours (a web page that rebinds its name to 127.0.0.1 sends its own),
    /// and the token must be right.
    Tcp { hosts: Vec<String>, token: Token },
}

impl Guard {
    pub(super) fn tcp(address: SocketAddr, token: Token) -> Self {
        let port = address.port();
        let mut hosts = vec![
            format!("127.0.0.1:{port}"),
            format!("localhost:{port}"),
            format!("[::1]:{port}"),
            address.to_string(),
        ];
        hosts.dedup();
        Self::Tcp { hosts, token }
    }

    fn check(&self, path: &str, headers: &HeaderMap) -> std::result::Result<(), Problem> {
        let Self::Tcp { hosts, token } = self else {
            return match headers.get(ORIGIN) {
                None => Ok(()),
                Some(_) => Err(foreign_origin()),
            };
        };
        let host = headers
            .get(HOST)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return Err(Problem::new(
                ErrorKind::NotPermitted,
                format!("the Host header must be one of {}", hosts.join(", ")),
            ));
        }
        if let Some(origin) = headers.get(ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let own = origin
                .strip_prefix("http://")
                .is_some_and(|rest| hosts.iter().any(|known| known.eq_ignore_ascii_case(rest)));
            if !own {
                return Err(foreign_origin());
            }
        }
        if matches!(path, "/livez" | "/readyz" | "/version") {
            return Ok(());
        }
        let given = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, given)| given.trim());
        match given {
            Some(given) if crypto::equal(given.as_bytes(), token.as_bytes()) => Ok(()),
            Some(_) => Err(Problem::new(
                ErrorKind::NotPermitted,
                "the token is not the right one: it stands in api.token in the data directory",
            )
            .with_status(401)),
            None => Err(Problem::new(
                ErrorKind::NotPermitted,
                "a token is needed: send `Authorization: Bearer <token>`; it stands in api.token in \
                 the data directory",
            )
            .with_status(401)),
        }
    }
}

fn foreign_origin() -> Problem {
    Problem::new(
        ErrorKind::NotPermitted,
        "requests from web pages of other origins are refused",
    )
}

/// Runs before and after every route.
pub(super) async fn guard(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let request_id = format!(
        "req_{:x}_{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let started = Instant::now();
    let method = request.method().clone();
    let instance = request.uri().path().to_owned();
    // The pattern, never the path itself: names and ids of contacts stand in paths.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let response = match guard.check(&instance, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let mut response = problem::documented(response, &instance, &request_id);
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'"),
    );
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    tracing::debug!(
        %method,
        route,
        status = response.status().as_u16(),
        request_id,
        ms = started.elapsed().as_millis(),
        "request"
    );
    response
}

/// The token for TCP: read from its file, or made.
///
/// # Errors
/// When the file cannot be read, made or is not one token.
pub(super) fn token(path: &Path) -> Result<Token> {
    let failed = |what: &str, error: &io::Error| {
        Error::new(
            ErrorKind::Storage,
            format!("cannot {what} {}: {error}", path.display()),
        )
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = Zeroizing::new([0; TOKEN_LENGTH]);
            SysRng
                .try_fill_bytes(bytes.as_mut_slice())
                .map_err(|error| {
                    Error::new(ErrorKind::Internal, format!("no random numbers: {error}"))
                })?;
            let token = Zeroizing::new(HEXLOWER.encode(bytes.as_slice()));
            let line = Zeroizing::new(format!("{}\n", token.as_str()));
            vault::write_private(path, line.as_bytes()).map_err(|error| failed("write", &error))?;
            Ok(token)
        }
        Err(error) => Err(failed("read", &error)),
        Ok(metadata) => {
            if metadata.mode() & 0o077 != 0 {
                tracing::warn!(file = %path.display(), "others could read the token; its mode is now 0600");
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))
                    .map_err(|error| failed("protect", &error))?;
            }
            if metadata.len() > TOKEN_FILE_MAX {
                return Err(Error::invalid(format!(
                    "{} is not a token file",
                    path.display()
                )));
            }
            let text =
                Zeroizing::new(fs::read_to_string(path).map_err(|error| failed("read", &error))?);
            let token = text.trim();
            if token.len() < 2 * TOKEN_LENGTH || !token.bytes().all(|byte| byte.is_ascii_graphic())
            {
                return Err(Error::invalid(format!(
                    "{} does not hold a token of at least {} characters: remove the file, and a new \
                     one is made at the next start",
                    path.display(),
                    2 * TOKEN_LENGTH
                )));
            }
            Ok(Zeroizing::new(token.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::tcp(
            "127.0.0.1:4041".parse().unwrap(),
            Zeroizing::new("t".repeat(64)),
        )
    }

    fn status(path: &str, headers: &[(&'static str, &str)]) -> u16 {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        guard()
            .check(path, &headers)
            .map_or_else(|problem| problem.status, |()| 200)
    }

    #[test]
    fn only_our_own_names_and_the_right_token_are_let_in() {
        let bearer = format!("Bearer {}", "t".repeat(64));
        let host = ("host", "127.0.0.1:4041");
        let token = ("authorization", bearer.as_str());
        assert_eq!(status("/api/v1/node", &[host, token]), 200);
        assert_eq!(
            status("/api/v1/node", &[("host", "LOCALHOST:4041"), token]),
            200
        );
        assert_eq!(
            status("/api/v1/node", &[("host", "[::1]:4041"), token]),
            200
        );
        assert_eq!(
            status("/api/v1/node", &[("host", "evil.example:4041"), token]),
            403
        );
        assert_eq!(status("/api/v1/node", &[("host", "127.0.0.1"), token]), 403);
        assert_eq!(status("/api/v1/node", &[token]), 403);
        assert_eq!(status("/api/v1/node", &[host]), 401);
        assert_eq!(
            status("/api/v1/node", &[host, ("authorization", "Bearer t")]),
            401
        );
        assert_eq!(
            status("/api/v1/node", &[host, ("authorization", &"t".repeat(64))]),
            401
        );
        assert_eq!(status("/readyz", &[host]), 200);
        assert_eq!(status("/readyz", &[("host", "evil.example")]), 403);
        let own = ("origin", "http://127.0.0.1:4041");
        assert_eq!(status("/api/v1/node", &[host, token, own]), 200);
        for origin in [
            "http://evil.example",
            "null",
            "https://127.0.0.1:4041",
            "http://127.0.0.1",
        ] {
            assert_eq!(
                status("/api/v1/node", &[host, token, ("origin", origin)]),
                403,
                "{origin}"
            );
        }
    }

    #[test]
    fn a_token_is_made_once_privately_and_a_short_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.token");
        let made = token(&path).unwrap();
        assert_eq!(made.len(), 64);
        assert_eq!(token(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::write(&path, "short\n").unwrap();
        assert!(token(&path).is_err());
    }
}
