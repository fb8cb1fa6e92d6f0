//! `credit` and `pay`: who may owe whom how much, and IOUs.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use data_encoding::HEXLOWER;
use pumasi_protocol::delivery::State;
use rand::TryRng;
use rand::rngs::SysRng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::print::{amount as shown_amount, clean, flat, money, say, table, unit_name};
use super::talk::{next, read_event};
use super::{Session, amount, prompt};
use crate::client::{EventStream, segment};
use crate::error::{Error, ErrorKind, Result};
use crate::view::{ContactView, LineView, PaymentView};

/// `pumasi credit`.
#[derive(Debug, Subcommand)]
pub(crate) enum Credit {
    /// List lines with balances and limits
    List,
    /// Let a contact owe you up to a limit
    Open(Limit),
    /// Change how much a contact may owe you (0 stops new debt)
    Change(Limit),
    /// Offer to close a line; it closes when both sides have, at zero
    Close {
        /// Contact: name or id
        who: String,
        /// Unit of the line
        #[arg(long, default_value = amount::DEFAULT_UNIT)]
        unit: String,
    },
}

/// A limit for a contact.
#[derive(Debug, Args)]
pub(crate) struct Limit {
    /// Contact: name or id
    who: String,
    /// How much they may owe you: 15000, 15,000원 or "KRW 15000"
    #[arg(long)]
    limit: String,
    /// Unit, such as KRW
    #[arg(long)]
    unit: Option<String>,
}

#[derive(Deserialize)]
struct Lines {
    items: Vec<LineView>,
}

impl Credit {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Session { client, out } = session;
        match self {
            Self::List => {
                let lines: Lines = client.get("/credit-lines").await?;
                out.list(&lines.items, listed)
            }
            Self::Open(limit) | Self::Change(limit) => {
                let given = amount::parse(&limit.limit, limit.unit.as_deref())?;
                let body = json!({ "with": limit.who, "limit": given });
                let line: LineView = client.post("/credit-lines", &body).await?;
                out.one(&line, |line| {
                    format!(
                        "{} may owe you up to {}. {}",
                        flat(&line.name),
                        shown_amount(&line.limit_given, &line.unit),
                        balance_sentence(line)
                    )
                })
            }
            Self::Close { who, unit } => {
                let path = format!("/credit-lines/{}/{}/close", segment(&who), segment(&unit));
                let line: LineView = client.post(&path, &json!({})).await?;
                out.one(&line, |line| {
                    let name = flat(&line.name);
                    if line.closed {
                        format!("The line with {name} in {} is closed.", unit_name(&line.unit))
                    } else {
                        format!(
                            "Closing is offered to {name}: no new debt from you. It closes when they \
                             agree, at zero. {}",
                            balance_sentence(line)
                        )
                    }
                })
            }
        }
    }
}

fn balance_sentence(line: &LineView) -> String {
    let name = flat(&line.name);
    match line.balance.strip_prefix('-') {
        Some(debt) => format!("You owe {name} {} now.", shown_amount(debt, &line.unit)),
        None if line.balance == "0" => "Nobody owes anything now.".to_owned(),
        None => format!(
            "{name} owes you {} now.",
            shown_amount(&line.balance, &line.unit)
        ),
    }
}

fn listed(lines: &[LineView]) -> String {
    if lines.is_empty() {
        return "No lines yet. Let a contact owe you: pumasi credit open WHO --limit 50000"
            .to_owned();
    }
    let rows: Vec<_> = lines
        .iter()
        .map(|line| {
            let balance = match line.balance.strip_prefix('-') {
                Some(debt) => format!("you owe {}", shown_amount(debt, &line.unit)),
                None if line.balance == "0" => format!("0 {}", unit_name(&line.unit)),
                None => format!("owes you {}", shown_amount(&line.balance, &line.unit)),
            };
            let held = match (line.held_out.as_str(), line.held_in.as_str()) {
                ("0", "0") => "-".to_owned(),
                (out, "0") => format!("{out} out"),
                ("0", inward) => format!("{inward} in"),
                (out, inward) => format!("{out} out, {inward} in"),
            };
            let state = match (line.frozen, line.closed) {
                (_, true) => "closed",
                (true, false) => "frozen",
                (false, false) => "open",
            };
            vec![
                flat(&line.name),
                balance,
                shown_amount(&line.limit_given, &line.unit),
                shown_amount(&line.limit_received, &line.unit),
                shown_amount(&line.available, &line.unit),
                held,
                state.to_owned(),
            ]
        })
        .collect();
    table(
        &[
            "WHO",
            "BALANCE",
            "THEY MAY OWE",
            "YOU MAY OWE",
            "YOU CAN PAY",
            "HELD",
            "STATE",
        ],
        &rows,
    )
}

/// How far a payment must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// Committed on this node's disk
    Saved,
    /// The IOU is proven to be in enough buildings, or further
    Safe,
    /// Accepted by the payee's node
    Accepted,
}

/// `pumasi pay`.
#[derive(Debug, Args)]
pub(crate) struct Pay {
    /// Contact: name or id
    who: String,
    /// How much: 15000, 15,000원 or "KRW 15000"
    amount: String,
    /// Unit, where the amount does not say it [default: KRW]
    #[arg(long)]
    unit: Option<String>,
    /// What it is for
    #[arg(long, default_value = "")]
    note: String,
    /// Pay at most once under this key, however often it is repeated; made and shown if not given
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Return only when the payment has come so far
    #[arg(long, value_name = "STATE")]
    wait: Option<Until>,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

impl Pay {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let Session { client, out } = session;
        let amount = amount::parse(&self.amount, self.unit.as_deref())?;
        if amount.amount == "0" {
            return Err(Error::invalid(
                "0 cannot be paid: write an amount of at least 1",
            ));
        }
        if !self.yes && prompt::possible() {
            let contact: ContactView = client
                .get(&format!("/contacts/{}", segment(&self.who)))
                .await?;
            let known = if contact.verified {
                "verified"
            } else {
                "fingerprint not compared yet"
            };
            let question = format!(
                "Pay {} to {} ({}, {known})?",
                money(&amount),
                flat(&contact.name),
                contact.id
            );
            if !prompt::confirm(&question)? {
                say("Nothing was paid.");
                return Ok(());
            }
        }
        let key = match self.idempotency_key {
            Some(key) => key,
            None => {
                let key = new_key()?;
                // Before sending: after a crash or timeout it is what makes a retry safe.
                say(&format!(
                    "idempotency key {key} (give it again to retry without paying twice)"
                ));
                key
            }
        };
        let wait = self.wait.filter(|until| *until != Until::Saved);
        let stream = match wait {
            Some(_) => Some(client.events_from_now(&["payment.", "message."]).await?),
            None => None,
        };
        let body = json!({ "to": self.who, "amount": amount, "note": self.note });
        let mut payment: PaymentView = client
            .post_with_key("/payments", &body, &key)
            .await
            .map_err(|error| keyed(error, &key))?;
        if let (Some(until), Some(stream)) = (wait, stream) {
            payment = arrival(session, stream, payment, until, self.timeout)
                .await
                .map_err(|error| keyed(error, &key))?;
        }
        if payment.state == "declined" {
            let reason = payment
                .reason
                .as_deref()
                .map_or_else(String::new, |reason| format!(": {}", clean(reason)));
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "{} declined the payment{reason}; nothing is owed",
                    flat(&payment.contact_name)
                ),
            )
            .with("payment", payment.id));
        }
        let mut answer = serde_json::to_value(&payment).unwrap_or_default();
        if let Value::Object(members) = &mut answer {
            members.insert("idempotency_key".to_owned(), json!(key));
        }
        out.one(&answer, |_| {
            let place = match (payment.safe, payment.delivery) {
                (true, _) => ", safe",
                (false, State::Saved) => ", saved here; goes out by itself",
                (false, _) => "",
            };
            format!(
                "{} to {}: {}{place} ({})",
                money(&payment.amount),
                flat(&payment.contact_name),
                clean(&payment.state),
                payment.id
            )
        })
    }
}

/// A key of 128 random bits.
fn new_key() -> Result<String> {
    let mut bytes = [0; 16];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Internal, format!("no random numbers: {error}")))?;
    Ok(format!("cli-{}", HEXLOWER.encode(&bytes)))
}

/// Adds to an error of unknown outcome how to go on.
fn keyed(error: Error, key: &str) -> Error {
    if !matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable) {
        return error;
    }
    let message = format!(
        "{}\nRetry safely with --idempotency-key {key}",
        error.message()
    );
    error
        .details()
        .iter()
        .fold(Error::new(error.kind(), message), |error, (name, value)| {
            error.with(name, value.clone())
        })
        .with("idempotency_key", key)
}

/// Follows a payment until it has come so far, or was declined.
async fn arrival(
    session: &Session,
    mut stream: EventStream,
    payment: PaymentView,
    until: Until,
    seconds: u64,
) -> Result<PaymentView> {
    let path = format!("/payments/{}", segment(&payment.id));
    let reached = |payment: &PaymentView| {
        payment.state == "declined"
            || match until {
                Until::Saved => true,
                Until::Safe => {
                    payment.safe
                        || payment.state == "accepted"
                        || payment.delivery.code() >= State::Safe.code()
                }
                Until::Accepted => payment.state == "accepted",
            }
    };
    let id = payment.id.clone();
    let follow = async {
        let mut payment: PaymentView = session.client.get(&path).await?;
        while !reached(&payment) {
            let event = next(&mut stream).await?;
            let named = |name| event.data.get(name).and_then(Value::as_str) == Some(id.as_str());
            if event.kind.starts_with("payment.") && named("id") {
                payment = read_event(&event)?;
            } else if named("payment") {
                // The IOU's own delivery: the payment's view has it.
                payment = session.client.get(&path).await?;
            }
        }
        Ok(payment)
    };
    match tokio::time::timeout(Duration::from_secs(seconds), follow).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::TimedOut,
            format!("after {seconds} s the payment is not that far; it goes on by itself ({id})"),
        )
        .with("payment", id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_are_visible_ascii() {
        let (a, b) = (new_key().unwrap(), new_key().unwrap());
        assert_ne!(a, b);
        assert!(a.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn only_an_unknown_outcome_invites_to_retry() {
        let timed_out = keyed(Error::new(ErrorKind::TimedOut, "late"), "k");
        assert!(timed_out.message().contains("--idempotency-key k"));
        let refused = keyed(Error::new(ErrorKind::CreditLimitExceeded, "no"), "k");
        assert_eq!(refused.message(), "no");
    }
}
