//! One request as handlers see it: path, query, headers and body, each read with a clear refusal.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Method};
use http_body_util::{BodyExt, Limited};
use pumasi_protocol::types::{Amount, Unit};
use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

use super::BODY_MAX;
use super::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::node::Page;
use crate::view::Money;

/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// The longest idempotency key in bytes.
const KEY_MAX: usize = 255;
/// The longest page.
const PAGE_MAX: u32 = 500;

/// A request.
#[derive(Debug)]
pub(super) struct Call {
    path: BTreeMap<String, String>,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    fields: Fields,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let path = RawPathParams::from_request_parts(&mut parts, state)
            .await
            .map_err(|_| Problem::new(ErrorKind::Invalid, "the path is not UTF-8"))?
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Problem::new(ErrorKind::Invalid, "the query is not well-formed"))?;
        let mut query = BTreeMap::new();
        for (name, value) in pairs.0 {
            if query.insert(name.clone(), value).is_some() {
                return Err(Problem::new(
                    ErrorKind::Invalid,
                    format!("query parameter `{name}` is given twice"),
                ));
            }
        }
        let fields = if parts.method == Method::GET || parts.method == Method::HEAD {
            Fields::default()
        } else {
            check_type(&parts.headers, &body)?;
            read(&parts.headers, body).await?
        };
        Ok(Self {
            path,
            query,
            headers: parts.headers,
            fields,
        })
    }
}

/// A body must say that it is JSON: a form of a web page cannot, so it cannot write here.
fn check_type(headers: &HeaderMap, body: &Body) -> Result<(), Problem> {
    if axum::body::HttpBody::is_end_stream(body) {
        return Ok(());
    }
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        ErrorKind::Invalid,
        "send the body as `Content-Type: application/json`",
    )
    .with_status(415))
}

/// Reads the body as a JSON object. An absent body reads as an empty object.
async fn read(headers: &HeaderMap, body: Body) -> Result<Fields, Problem> {
    let too_large = || {
        Problem::from(
            Error::new(
                ErrorKind::TooLarge,
                format!("the body is longer than {BODY_MAX} bytes"),
            )
            .with("limit", BODY_MAX),
        )
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_MAX as u64) {
        return Err(too_large());
    }
    let reading = Limited::new(body, BODY_MAX).collect();
    let bytes = match tokio::time::timeout(BODY_TIME, reading).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(too_large());
        }
        Ok(Err(_)) => {
            return Err(Problem::new(
                ErrorKind::Invalid,
                "the body ended before its length",
            ));
        }
        Err(_) => {
            return Err(Problem::new(
                ErrorKind::TimedOut,
                format!("the body did not arrive within {} s", BODY_TIME.as_secs()),
            )
            .with_status(408));
        }
    };
    if bytes.is_empty() {
        return Ok(Fields { map: Map::new() });
    }
    let parsed = serde_json::from_slice(&bytes);
    // It may hold the words of an account.
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.zeroize();
    }
    match parsed {
        Ok(Value::Object(map)) => Ok(Fields { map }),
        Ok(_) => Err(Problem::field("#", "the body must be a JSON object: {...}")),
        Err(error) => Err(Problem::field(
            "#",
            format!("the body is not well-formed JSON: {error}"),
        )),
    }
}

impl Call {
    /// A parameter of the path.
    pub(super) fn path(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    /// Refuses query parameters that this route does not know; `account` is known everywhere.
    pub(super) fn allow_query(&self, known: &[&str]) -> Result<(), Problem> {
        match self
            .query
            .keys()
            .find(|name| *name != "account" && !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => {
                let mut list = known.to_vec();
                list.push("account");
                Err(Problem::new(
                    ErrorKind::Invalid,
                    format!(
                        "unknown query parameter `{name}`: known here are {}",
                        list.join(", ")
                    ),
                ))
            }
        }
    }

    /// A query parameter; an empty one counts as absent.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A whole number of the query.
    pub(super) fn number(&self, name: &str, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.query(name) else {
            return Ok(None);
        };
        match text.parse::<u64>() {
            Ok(number) if number <= max => Ok(Some(number)),
            _ => Err(Problem::new(
                ErrorKind::Invalid,
                format!("query parameter `{name}` must be a whole number from 0 to {max}"),
            )),
        }
    }

    /// `limit`, `before` and `after`.
    pub(super) fn page(&self) -> Result<Page, Problem> {
        self.allow_query(&["limit", "before", "after"])?;
        let limit = self.number("limit", u64::from(PAGE_MAX))?.unwrap_or(100);
        let limit = u32::try_from(limit).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
        let id = |name| self.query(name).map(str::to_owned);
        let (before, after) = (id("before"), id("after"));
        if before.is_some() && after.is_some() {
            return Err(Problem::new(
                ErrorKind::Invalid,
                "give `before` or `after`, not both: a page has one direction",
            ));
        }
        Ok(Page {
            limit,
            before,
            after,
        })
    }

    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether the client asked for a media type by name.
    pub(super) fn accepts(&self, media: &str) -> bool {
        self.headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|range| range.split(';').next().unwrap_or_default().trim() == media)
    }

    /// The idempotency key, if there is one.
    pub(super) fn key(&self) -> Result<Option<String>, Problem> {
        let Some(value) = self.headers.get("idempotency-key") else {
            return Ok(None);
        };
        match value.to_str() {
            Ok(key)
                if (1..=KEY_MAX).contains(&key.len())
                    && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Ok(Some(key.to_owned()))
            }
            _ => Err(Problem::new(
                ErrorKind::Invalid,
                format!("the Idempotency-Key must be 1 to {KEY_MAX} visible ASCII characters"),
            )),
        }
    }

    /// The idempotency key, which this route needs.
    pub(super) fn needed_key(&self) -> Result<String, Problem> {
        self.key()?.ok_or_else(|| {
            Problem::new(
                ErrorKind::IdempotencyKeyMissing,
                "a payment needs an Idempotency-Key header: make one per payment, and send the same \
                 one again when you retry",
            )
        })
    }

    /// The body's members.
    pub(super) fn body(self) -> Fields {
        self.fields
    }
}

/// The members of a JSON body. Each is taken once; what is left at the end is unknown.
#[derive(Default)]
pub(super) struct Fields {
    map: Map<String, Value>,
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secret.
        f.debug_set().entries(self.map.keys()).finish()
    }
}

impl Fields {
    /// An optional text; `null` counts as absent.
    pub(super) fn optional(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Problem::field(
                &format!("#/{name}"),
                format!("`{name}` must be a text"),
            )),
        }
    }

    /// A text that must be there.
    pub(super) fn text(&mut self, name: &str) -> Result<String, Problem> {
        self.optional(name)?
            .ok_or_else(|| Problem::field(&format!("#/{name}"), format!("`{name}` is missing")))
    }

    /// A text that must be there and is wiped after use.
    pub(super) fn secret(&mut self, name: &str) -> Result<Zeroizing<String>, Problem> {
        self.text(name).map(Zeroizing::new)
    }

    /// An optional list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let wrong = || {
            Problem::field(
                &format!("#/{name}"),
                format!("`{name}` must be a list of texts"),
            )
        };
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong()),
                })
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.map.remove(name) {
            Some(Value::Bool(flag)) => Ok(flag),
            None => Err(Problem::field(
                &format!("#/{name}"),
                format!("`{name}` is missing"),
            )),
            Some(_) => Err(Problem::field(
                &format!("#/{name}"),
                format!("`{name}` must be true or false"),
            )),
        }
    }

    /// Money, `{"amount":"15000","currency":"KRW"}`, of at least `least`.
    pub(super) fn money(&mut self, name: &str, least: u64) -> Result<Money, Problem> {
        let at = format!("#/{name}");
        let mut map = match self.map.remove(name) {
            Some(Value::Object(map)) => map,
            None => return Err(Problem::field(&at, format!("`{name}` is missing"))),
            Some(_) => {
                return Err(Problem::field(
                    &at,
                    format!(
                        "`{name}` must be money: {{\"amount\":\"15000\",\"currency\":\"KRW\"}}"
                    ),
                ));
            }
        };
        let at_amount = format!("{at}/amount");
        let amount = match map.remove("amount") {
            Some(Value::String(text)) => text,
            None => return Err(Problem::field(&at_amount, "the amount is missing")),
            Some(_) => {
                return Err(Problem::field(
                    &at_amount,
                    "the amount must be a text of digits such as \"15000\": JSON numbers lose digits",
                ));
            }
        };
        let digits = !amount.is_empty() && amount.bytes().all(|byte| byte.is_ascii_digit());
        let amount: Amount = if digits { amount.parse().ok() } else { None }.ok_or_else(|| {
            Problem::field(
                &at_amount,
                format!(
                    "the amount must be a whole number of the smallest part, from {least} to {}, in \
                     digits only",
                    u64::MAX
                ),
            )
        })?;
        if amount.0 < least {
            return Err(Problem::field(
                &at_amount,
                format!("the amount must be at least {least}"),
            ));
        }
        let at_currency = format!("{at}/currency");
        let currency: Unit = match map.remove("currency") {
            Some(Value::String(text)) => text
                .parse()
                .map_err(|error| Problem::field(&at_currency, format!("{error}")))?,
            None => return Err(Problem::field(&at_currency, "the currency is missing")),
            Some(_) => return Err(Problem::field(&at_currency, "the currency must be a text")),
        };
        refuse_rest(&map, &at)?;
        Ok(Money {
            amount: amount.to_string(),
            currency: currency.to_string(),
        })
    }

    /// Refuses members that nobody took: a mistyped optional field must not be dropped in silence.
    pub(super) fn end(self) -> Result<(), Problem> {
        refuse_rest(&self.map, "#")
    }
}

fn refuse_rest(map: &Map<String, Value>, at: &str) -> Result<(), Problem> {
    match map.keys().next() {
        None => Ok(()),
        Some(name) => {
            // RFC 6901 escapes.
            let escaped = name.replace('~', "~0").replace('/', "~1");
            Err(Problem::field(
                &format!("{at}/{escaped}"),
                format!("unknown field `{name}`"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn money(value: Value, least: u64) -> Result<Money, Problem> {
        let Value::Object(map) = json!({ "amount": value }) else {
            unreachable!()
        };
        Fields { map }.money("amount", least)
    }

    #[test]
    fn money_is_digits_and_a_unit() {
        let good = money(json!({"amount": "15000", "currency": "KRW"}), 1).unwrap();
        assert_eq!(
            good,
            Money {
                amount: "15000".into(),
                currency: "KRW".into()
            }
        );
        let most = json!({"amount": "18446744073709551615", "currency": "KRW"});
        assert!(money(most, 1).is_ok());
        assert!(money(json!({"amount": "0", "currency": "KRW"}), 0).is_ok());
    }

    #[test]
    fn bad_money_is_refused_with_a_pointer_to_the_fault() {
        for (amount, pointer) in [
            (
                json!({"amount": 15000, "currency": "KRW"}),
                "#/amount/amount",
            ),
            (json!({"amount": 1.5, "currency": "KRW"}), "#/amount/amount"),
            (
                json!({"amount": "1.5", "currency": "KRW"}),
                "#/amount/amount",
            ),
            (
                json!({"amount": "-1", "currency": "KRW"}),
                "#/amount/amount",
            ),
            (
                json!({"amount": "1,000", "currency": "KRW"}),
                "#/amount/amount",
            ),
            (json!({"amount": "", "currency": "KRW"}), "#/amount/amount"),
            (json!({"amount": "0", "currency": "KRW"}), "#/amount/amount"),
            (
                json!({"amount": "18446744073709551616", "currency": "KRW"}),
                "#/amount/amount",
            ),
            (json!({"currency": "KRW"}), "#/amount/amount"),
            (
                json!({"amount": "1", "currency": "krw"}),
                "#/amount/currency",
            ),
            (json!({"amount": "1"}), "#/amount/currency"),
            (
                json!({"amount": "1", "currency": "KRW", "x/y": 1}),
                "#/amount/x~1y",
            ),
            (json!("15000"), "#/amount"),
        ] {
            let problem = money(amount.clone(), 1).unwrap_err();
            assert_eq!(problem.pointer.as_deref(), Some(pointer), "{amount}");
        }
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused() {
        let Value::Object(map) = json!({"text": "x", "txet": "y"}) else {
            unreachable!()
        };
        let mut fields = Fields { map };
        assert_eq!(fields.text("text").unwrap(), "x");
        let problem = fields.end().unwrap_err();
        assert_eq!(problem.pointer.as_deref(), Some("#/txet"));
    }
}
