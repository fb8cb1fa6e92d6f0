//! Errors as problem documents (RFC 9457).

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind};

/// An error on its way out. The guard turns it into a document when request id and path are known.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// What happened.
    pub(super) error: Error,
    /// The status, where it is not that of the error's kind.
    pub(super) status: u16,
    /// The field that was wrong, as a JSON pointer into the body (`#/amount`).
    pub(super) pointer: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error::new(kind, message).into()
    }

    pub(super) const fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(super) fn field(pointer: &str, message: impl Into<String>) -> Self {
        let mut problem = Self::new(ErrorKind::Invalid, message);
        problem.pointer = Some(pointer.to_owned());
        problem
    }

    /// The document.
    pub(super) fn document(&self, instance: &str, request_id: &str) -> Value {
        let code = self.error.kind().code();
        let mut document: Map<String, Value> = self.error.details().clone();
        let members = json!({
            "type": format!("urn:pumasi:problem:{}", code.replace('_', "-")),
            "title": title(self.error.kind()),
            "status": self.status,
            "detail": self.error.message(),
            "instance": instance,
            "code": code,
            "retryable": self.error.kind().retryable(),
            "request_id": request_id,
        });
        if let Value::Object(members) = members {
            document.extend(members);
        }
        if let Some(pointer) = &self.pointer {
            document.insert(
                "errors".to_owned(),
                json!([{ "pointer": pointer, "detail": self.error.message() }]),
            );
        }
        Value::Object(document)
    }

    /// The response with the document as its body.
    pub(super) fn response(&self, instance: &str, request_id: &str) -> Response {
        let mut body = self.document(instance, request_id).to_string();
        body.push('\n');
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.error.kind() == ErrorKind::Checking {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        if self.status == 401 {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            status: error.kind().status(),
            error,
            pointer: None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns whatever error response comes out of the router into one with a document.
pub(super) fn documented(mut response: Response, instance: &str, request_id: &str) -> Response {
    let status = response.status().as_u16();
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None if status < 400 => return response,
        // Of the router's own making; ours all carry a problem.
        None => {
            Problem::new(ErrorKind::Invalid, "the request is not well-formed").with_status(status)
        }
    };
    let mut documented = problem.response(instance, request_id);
    if let Some(allow) = response.headers().get(ALLOW) {
        documented.headers_mut().insert(ALLOW, allow.clone());
    }
    documented
}

/// The title of a kind: the same for all problems of that kind.
const fn title(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "Not well-formed",
        ErrorKind::TooLarge => "Too large",
        ErrorKind::IdempotencyKeyMissing => "Idempotency key missing",
        ErrorKind::IdempotencyKeyReused => "Idempotency key used for something else",
        ErrorKind::NotFound => "Not found",
        ErrorKind::Ambiguous => "Ambiguous",
        ErrorKind::Exists => "Exists already",
        ErrorKind::Refused => "Refused",
        ErrorKind::CreditLimitExceeded => "More than the credit given",
        ErrorKind::LineStopped => "The line is frozen or closed",
        ErrorKind::NotPermitted => "Not permitted",
        ErrorKind::Busy => "Too much at once",
        ErrorKind::Checking => "Not compared with its keepers yet",
        ErrorKind::TimedOut => "Took too long",
        ErrorKind::Unavailable => "Not available",
        ErrorKind::Storage => "The store failed",
        ErrorKind::Internal => "Internal error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_never_overwrite_members_of_the_document() {
        let error = Error::new(ErrorKind::NotFound, "no such thing")
            .with("status", 200)
            .with("available", "5");
        let document = Problem::from(error).document("/x", "req_1");
        assert_eq!(document["status"], 404);
        assert_eq!(document["available"], "5");
        assert_eq!(document["type"], "urn:pumasi:problem:not-found");
        assert_eq!(document["retryable"], false);
    }

    #[test]
    fn every_kind_has_a_document() {
        for kind in ErrorKind::ALL {
            let document = Problem::new(kind, "words").document("/x", "req_1");
            assert_eq!(document["code"], kind.code());
            assert_eq!(document["status"], kind.status());
            assert!(!document["title"].as_str().unwrap().is_empty());
        }
    }
}
