//! Reads for people: rows of the store as views. Changes nothing; the engine uses it for events, the
//! handles for lists.

use jiff::Timestamp;
use pumasi_protocol::codec;
use pumasi_protocol::crypto::Signed;
use pumasi_protocol::delivery::State;
use pumasi_protocol::envelope::{Body, Content};
use pumasi_protocol::identity::fingerprint;
use pumasi_protocol::line::{DebtRecord, DebtStatus, DeclineReason, Entry, Line, Operation};
use pumasi_protocol::record::{AccountRecord, NodeRecord};
use pumasi_protocol::types::{AccountId, MessageId, NodeId, PaymentId, Time};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::engine::Own;
use crate::error::{Error, ErrorKind, Result};
use crate::view::{
    AccountView, ChatView, ContactView, EventView, KeptView, LineView, MessageView, Money,
    PaymentView, PeerView,
};

/// Kinds in the `messages` table.
pub(crate) const TEXT: i64 = 0;
pub(crate) const IOU: i64 = 1;
/// Shortest part of an id that names a contact.
const PREFIX_MIN: usize = 8;
/// Rows of a page at most.
const PAGE_MAX: u32 = 500;

/// A time as RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(time: Time) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).map_or_else(
        |_| "9999-12-31T23:59:59.999Z".to_owned(),
        |stamp| format!("{stamp:.3}"),
    )
}

/// Rows of a page: 100 unless told, at most 500.
pub(crate) fn page_size(limit: u32) -> u32 {
    if limit == 0 { 100 } else { limit.min(PAGE_MAX) }
}

pub(crate) fn account_view(own: &Own) -> AccountView {
    let id = own.id();
    AccountView {
        id: id.to_string(),
        name: own.name.clone(),
        fingerprint: fingerprint(&id),
        epoch: own.record.certificate.epoch,
        record_version: own.record.record.version,
        created: rfc3339(own.created),
        state: own.state_word().into(),
    }
}

/// The contact that a person means.
pub(crate) fn find_contact(db: &Connection, account: &AccountId, who: &str) -> Result<AccountId> {
    let who = who.trim();
    if who.parse::<AccountId>().ok() == Some(*account) {
        return Err(Error::invalid("that is yourself"));
    }
    if let Ok(id) = who.parse::<AccountId>() {
        let known = db
            .prepare_cached("SELECT 1 FROM contacts WHERE account = ?1 AND contact = ?2")?
            .exists(params![account.0, id.0])?;
        if known {
            return Ok(id);
        }
    }
    let by_name: Option<[u8; 32]> = db
        .prepare_cached("SELECT contact FROM contacts WHERE account = ?1 AND name = ?2")?
        .query_row(params![account.0, who], |row| row.get(0))
        .optional()?;
    if let Some(id) = by_name {
        return Ok(AccountId(id));
    }
    if who.starts_with("pm1") && who.len() >= PREFIX_MIN {
        let ids: Vec<[u8; 32]> = db
            .prepare_cached("SELECT contact FROM contacts WHERE account = ?1")?
            .query_map(params![account.0], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut found = ids
            .into_iter()
            .map(AccountId)
            .filter(|id| id.to_string().starts_with(who));
        if let Some(first) = found.next() {
            return match found.next() {
                None => Ok(first),
                Some(_) => Err(Error::new(
                    ErrorKind::Ambiguous,
                    format!("several contacts begin with `{who}`: write more of the id"),
                )),
            };
        }
    }
    Err(Error::not_found(format!(
        "`{}` is not a contact: give the name, the id or the first {PREFIX_MIN} characters of the id",
        who.chars().take(80).collect::<String>()
    )))
}

const MESSAGE_COLUMNS: &str = "SELECT m.message, m.contact, c.name, m.outgoing, m.kind, m.sequence,
   m.time, m.content, m.payment, m.state, m.safe, m.buildings, m.safe_until, m.gap
 FROM messages m LEFT JOIN contacts c ON c.account = m.account AND c.contact = m.contact";

fn message_row(row: &Row<'_>) -> rusqlite::Result<MessageView> {
    let message: [u8; 32] = row.get(0)?;
    let contact: [u8; 32] = row.get(1)?;
    let name: Option<String> = row.get(2)?;
    let outgoing: bool = row.get(3)?;
    let kind: i64 = row.get(4)?;
    let content: Vec<u8> = row.get(7)?;
    let payment: Option<[u8; 32]> = row.get(8)?;
    let safe_until: Option<u64> = row.get(12)?;
    let (text, amount) = if kind == IOU {
        iou_text(&content)
    } else {
        (text_of(&content), None)
    };
    Ok(MessageView {
        id: MessageId(message).to_string(),
        contact: AccountId(contact).to_string(),
        contact_name: name.unwrap_or_default(),
        direction: if outgoing { "out" } else { "in" }.into(),
        kind: if kind == IOU { "iou" } else { "text" }.into(),
        text,
        amount,
        payment: payment.map(|id| PaymentId(id).to_string()),
        sequence: row.get(5)?,
        time: rfc3339(Time(row.get(6)?)),
        state: State::from_code(row.get(9)?),
        safe: row.get(10)?,
        buildings: row.get::<_, u32>(11)? as usize,
        safe_until: safe_until.map(|time| rfc3339(Time(time))),
        gap: row.get(13)?,
    })
}

fn text_of(content: &[u8]) -> String {
    match codec::decode::<Content>(content) {
        Ok(Content {
            body: Body::Text { text, .. },
            ..
        }) => text,
        _ => String::new(),
    }
}

fn iou_text(content: &[u8]) -> (String, Option<Money>) {
    let entry = codec::decode::<Signed<Entry>>(content)
        .ok()
        .and_then(|signed| signed.unverified().ok());
    match entry {
        Some(Entry {
            operation: Operation::Iou {
                amount, purpose, ..
            },
            unit,
            ..
        }) => (
            purpose,
            Some(Money {
                amount: amount.to_string(),
                currency: unit.to_string(),
            }),
        ),
        _ => (String::new(), None),
    }
}

/// One message.
pub(crate) fn message(
    db: &Connection,
    account: &AccountId,
    message: &MessageId,
) -> Result<MessageView> {
    db.prepare_cached(&format!(
        "{MESSAGE_COLUMNS} WHERE m.account = ?1 AND m.message = ?2"
    ))?
    .query_row(params![account.0, message.0], message_row)
    .optional()?
    .ok_or_else(|| Error::not_found(format!("no message {message}")))
}

/// The message of a row.
pub(crate) fn message_at(db: &Connection, id: i64) -> Result<MessageView> {
    Ok(db
        .prepare_cached(&format!("{MESSAGE_COLUMNS} WHERE m.id = ?1"))?
        .query_row(params![id], message_row)?)
}

/// A page of a conversation, oldest first: the newest `limit` before or after a message.
pub(crate) fn messages(
    db: &Connection,
    account: &AccountId,
    contact: &AccountId,
    page: &crate::node::Page,
) -> Result<Vec<MessageView>> {
    let place = |id: &str| -> Result<(u64, u64, [u8; 32])> {
        let id: MessageId = id
            .parse()
            .map_err(|error: pumasi_protocol::types::ParseError| {
                Error::invalid(error.to_string())
            })?;
        db.prepare_cached(
            "SELECT time, sequence, message FROM messages
             WHERE account = ?1 AND contact = ?2 AND message = ?3",
        )?
        .query_row(params![account.0, contact.0, id.0], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?
        .ok_or_else(|| Error::not_found(format!("no message {id} in this chat")))
    };
    let limit = page_size(page.limit);
    let (condition, order, at) = match (&page.after, &page.before) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid("give `before` or `after`, not both"));
        }
        (Some(after), None) => (
            "AND (m.time, m.sequence, m.message) > (?4, ?5, ?6)",
            "ASC",
            place(after)?,
        ),
        (None, Some(before)) => (
            "AND (m.time, m.sequence, m.message) < (?4, ?5, ?6)",
            "DESC",
            place(before)?,
        ),
        (None, None) => (
            "AND ?4 = ?4 AND ?5 = ?5 AND ?6 = ?6",
            "DESC",
            (0, 0, [0; 32]),
        ),
    };
    let sql = format!(
        "{MESSAGE_COLUMNS} WHERE m.account = ?1 AND m.contact = ?2 {condition}
         ORDER BY m.time {order}, m.sequence {order}, m.message {order} LIMIT ?3"
    );
    let mut list: Vec<MessageView> = db
        .prepare_cached(&sql)?
        .query_map(
            params![account.0, contact.0, limit, at.0, at.1, at.2],
            message_row,
        )?
        .collect::<rusqlite::Result<_>>()?;
    if order == "DESC" {
        list.reverse();
    }
    Ok(list)
}

/// All conversations, the latest first.
pub(crate) fn chats(db: &Connection, account: &AccountId) -> Result<Vec<ChatView>> {
    let contacts: Vec<([u8; 32], String)> = db
        .prepare_cached("SELECT contact, name FROM contacts WHERE account = ?1 ORDER BY name")?
        .query_map(params![account.0], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut chats = Vec::new();
    for (contact, name) in contacts {
        let count = |condition: &str| -> rusqlite::Result<u64> {
            db.prepare_cached(&format!(
                "SELECT count(*) FROM messages WHERE account = ?1 AND contact = ?2 AND {condition}"
            ))?
            .query_row(params![account.0, contact], |row| row.get(0))
        };
        let last = db
            .prepare_cached(&format!(
                "{MESSAGE_COLUMNS} WHERE m.account = ?1 AND m.contact = ?2
                 ORDER BY m.time DESC, m.sequence DESC, m.message DESC LIMIT 1"
            ))?
            .query_row(params![account.0, contact], message_row)
            .optional()?;
        chats.push(ChatView {
            contact: AccountId(contact).to_string(),
            name,
            unread: count("outgoing = 0 AND state < 4")?,
            waiting: count("outgoing = 1 AND safe = 0")?,
            last,
        });
    }
    let time = |chat: &ChatView| chat.last.as_ref().map(|last| last.time.clone());
    chats.sort_by_key(|chat| std::cmp::Reverse(time(chat)));
    Ok(chats)
}

/// The contacts of an account, by name.
pub(crate) fn contacts(db: &Connection, account: &AccountId) -> Result<Vec<ContactView>> {
    list_contacts(db, account, None)
}

/// One contact.
pub(crate) fn contact(db: &Connection, account: &AccountId, id: &AccountId) -> Result<ContactView> {
    list_contacts(db, account, Some(id))?
        .pop()
        .ok_or_else(|| Error::not_found(format!("{id} is not a contact")))
}

fn list_contacts(
    db: &Connection,
    account: &AccountId,
    only: Option<&AccountId>,
) -> Result<Vec<ContactView>> {
    let sql = "SELECT contact, name, active, record, verified, blocked, added FROM contacts
       WHERE account = ?1 AND (?2 IS NULL OR contact = ?2) ORDER BY name";
    let rows = db
        .prepare_cached(sql)?
        .query_map(params![account.0, only.map(|id| id.0)], |row| {
            let id: [u8; 32] = row.get(0)?;
            let record: Vec<u8> = row.get(3)?;
            let record = codec::decode::<Signed<AccountRecord>>(&record)
                .ok()
                .and_then(|signed| signed.unverified().ok());
            let id = AccountId(id);
            Ok(ContactView {
                id: id.to_string(),
                name: row.get(1)?,
                own_name: record
                    .as_ref()
                    .map(|record| record.name.clone())
                    .unwrap_or_default(),
                fingerprint: fingerprint(&id),
                state: if row.get(2)? { "active" } else { "invited" }.into(),
                verified: row.get(4)?,
                blocked: row.get(5)?,
                node: record
                    .as_ref()
                    .map(|record| record.home.node.to_string())
                    .unwrap_or_default(),
                keepers: record.as_ref().map_or(0, |record| record.keepers.len()),
                added: rfc3339(Time(row.get(6)?)),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

pub(crate) fn line_view(line: &Line, name: &str) -> LineView {
    let view = line.view();
    LineView {
        id: line.id().to_string(),
        contact: line.other().to_string(),
        name: name.to_owned(),
        unit: line.unit().to_string(),
        balance: view.balance.to_string(),
        limit_given: view.limit_given.to_string(),
        limit_received: view.limit_received.to_string(),
        available: view.available.to_string(),
        held_out: view.held_out.to_string(),
        held_in: view.held_in.to_string(),
        reserved_out: view.reserved_out.to_string(),
        reserved_in: view.reserved_in.to_string(),
        freed_out: view.freed_out.to_string(),
        freed_in: view.freed_in.to_string(),
        settled_out: view.settled_out.to_string(),
        settled_in: view.settled_in.to_string(),
        frozen: line.is_frozen(),
        closed: line.is_closed(),
    }
}

/// The lines of an account, by contact and unit.
pub(crate) fn lines(db: &Connection, account: &AccountId) -> Result<Vec<LineView>> {
    let rows: Vec<(Vec<u8>, Option<String>)> = db
        .prepare_cached(
            "SELECT l.state, c.name FROM lines l
             LEFT JOIN contacts c ON c.account = l.account AND c.contact = l.contact
             WHERE l.account = ?1 ORDER BY c.name, l.unit",
        )?
        .query_map(params![account.0], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    rows.into_iter()
        .map(|(state, name)| {
            let line: Line = codec::decode(&state)
                .map_err(|_| Error::new(ErrorKind::Storage, "a stored line is damaged"))?;
            Ok(line_view(&line, &name.unwrap_or_default()))
        })
        .collect()
}

/// Why a debt was declined, in words.
pub(crate) fn decline_reason(reason: DeclineReason) -> &'static str {
    match reason {
        DeclineReason::AboveLimit => "it would pass the limit that the payee set",
        DeclineReason::Frozen => "new debt on the line is stopped",
        DeclineReason::Closing => "the line is being closed",
        DeclineReason::Refused => "the payee refused it",
        DeclineReason::TooMany => "too many payments are under way on the line",
        DeclineReason::Unexpected => "the payee expects no such payment",
        DeclineReason::NoWay => "it cannot be passed on",
        DeclineReason::TooLate => "too little time was left to pass it on",
        DeclineReason::TooLittle => "too little was left for passing it on",
    }
}

// The index is named: left alone, SQLite looks through all IOUs of the account for each payment.
const PAYMENT_COLUMNS: &str = "SELECT m.payment, m.contact, c.name, m.outgoing, m.content, m.time,
   m.state, m.safe, m.buildings, i.record, i.reason
 FROM messages m
 JOIN debts i INDEXED BY debts_id ON i.account = m.account AND i.debt = m.payment
   AND i.kind = 0 AND i.debtor = CASE m.outgoing WHEN 1 THEN m.account ELSE m.contact END
 LEFT JOIN contacts c ON c.account = m.account AND c.contact = m.contact";

fn payment_row(row: &Row<'_>) -> rusqlite::Result<PaymentView> {
    let payment: [u8; 32] = row.get(0)?;
    let contact: [u8; 32] = row.get(1)?;
    let name: Option<String> = row.get(2)?;
    let outgoing: bool = row.get(3)?;
    let content: Vec<u8> = row.get(4)?;
    let record: Vec<u8> = row.get(9)?;
    let (note, amount) = iou_text(&content);
    let status = codec::decode::<DebtRecord>(&record).map(|record| record.status());
    Ok(PaymentView {
        id: PaymentId(payment).to_string(),
        contact: AccountId(contact).to_string(),
        contact_name: name.unwrap_or_default(),
        direction: if outgoing { "out" } else { "in" }.into(),
        amount: amount.unwrap_or(Money {
            amount: "0".into(),
            currency: String::new(),
        }),
        note,
        state: match status {
            Ok(DebtStatus::Settled) => "accepted",
            Ok(DebtStatus::Declined) => "declined",
            _ => "held",
        }
        .into(),
        reason: row.get(10)?,
        delivery: State::from_code(row.get(6)?),
        safe: row.get(7)?,
        buildings: row.get::<_, u32>(8)? as usize,
        time: rfc3339(Time(row.get(5)?)),
    })
}

/// One payment.
pub(crate) fn payment(db: &Connection, account: &AccountId, id: &str) -> Result<PaymentView> {
    let id: PaymentId = id
        .parse()
        .map_err(|error: pumasi_protocol::types::ParseError| Error::invalid(error.to_string()))?;
    db.prepare_cached(&format!(
        "{PAYMENT_COLUMNS} WHERE m.account = ?1 AND m.payment = ?2"
    ))?
    .query_row(params![account.0, id.0], payment_row)
    .optional()?
    .ok_or_else(|| Error::not_found(format!("no payment {id}")))
}

/// A page of payments, newest first.
pub(crate) fn payments(
    db: &Connection,
    account: &AccountId,
    page: &crate::node::Page,
) -> Result<Vec<PaymentView>> {
    let place = |id: &str| -> Result<i64> {
        let id: PaymentId = id
            .parse()
            .map_err(|error: pumasi_protocol::types::ParseError| {
                Error::invalid(error.to_string())
            })?;
        db.prepare_cached("SELECT id FROM messages WHERE account = ?1 AND payment = ?2")?
            .query_row(params![account.0, id.0], |row| row.get(0))
            .optional()?
            .ok_or_else(|| Error::not_found(format!("no payment {id}")))
    };
    let (low, high) = match (&page.before, &page.after) {
        (Some(_), Some(_)) => return Err(Error::invalid("give `before` or `after`, not both")),
        // Newest first: what comes after an id in the list is older.
        (None, Some(after)) => (0, place(after)?),
        (Some(before), None) => (place(before)?, i64::MAX),
        (None, None) => (0, i64::MAX),
    };
    let sql = format!(
        "{PAYMENT_COLUMNS} WHERE m.account = ?1 AND m.payment IS NOT NULL
           AND m.id > ?2 AND m.id < ?3 ORDER BY m.id DESC LIMIT ?4"
    );
    let list = db
        .prepare_cached(&sql)?
        .query_map(
            params![account.0, low, high, page_size(page.limit)],
            payment_row,
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok(list)
}

pub(crate) fn peer_view(
    node: NodeId,
    record: Option<&NodeRecord>,
    connected: bool,
    blocked: bool,
) -> PeerView {
    PeerView {
        node: node.to_string(),
        address: record.and_then(|record| record.place.addresses.first().cloned()),
        operator: record
            .map(|record| record.operator.clone())
            .unwrap_or_default(),
        building: record
            .map(|record| record.building.clone())
            .unwrap_or_default(),
        newcomers: record.map_or(0, |record| record.newcomers),
        connected,
        blocked,
    }
}

/// Mailboxes kept for others.
pub(crate) fn keeping(db: &Connection) -> Result<Vec<KeptView>> {
    let list = db
        .prepare_cached(
            "SELECT mailbox, contact,
               (SELECT count(*) FROM envelopes
                WHERE envelopes.mailbox = kept.mailbox AND hidden IS NULL),
               (SELECT coalesce(sum(length(envelopes.bytes)), 0) FROM envelopes
                WHERE envelopes.mailbox = kept.mailbox AND hidden IS NULL),
               (SELECT count(*) FROM pages
                WHERE pages.mailbox = kept.mailbox AND hidden IS NULL),
               (SELECT coalesce(sum(length(pages.bytes)), 0) FROM pages
                WHERE pages.mailbox = kept.mailbox AND hidden IS NULL)
             FROM kept ORDER BY since, mailbox",
        )?
        .query_map([], |row| {
            let mailbox: [u8; 32] = row.get(0)?;
            Ok(KeptView {
                account: AccountId(mailbox).to_string(),
                contact: row.get(1)?,
                items: row.get(2)?,
                bytes: row.get(3)?,
                pages: row.get(4)?,
                page_bytes: row.get(5)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(list)
}

/// Events after a sequence number, oldest first. Past retention: an error that names the oldest.
pub(crate) fn events(db: &Connection, query: &crate::node::EventQuery) -> Result<Vec<EventView>> {
    let oldest: u64 = db
        .prepare_cached("SELECT coalesce(min(seq), 1) FROM events")?
        .query_row([], |row| row.get(0))?;
    if query.since + 1 < oldest {
        return Err(Error::not_found(format!(
            "events before {oldest} are past their retention: read again from there"
        ))
        .with("oldest", oldest));
    }
    let limit = if query.limit == 0 {
        100
    } else {
        query.limit.min(1_000)
    };
    let sql = "SELECT seq, time, account, kind, data FROM events
       WHERE seq > ?1 AND (?2 IS NULL OR account IS NULL OR account = ?2) ORDER BY seq";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![query.since, query.account.map(|id| id.0)])?;
    let mut list = Vec::new();
    while let Some(row) = rows.next()? {
        let kind: String = row.get(3)?;
        let wanted = query.types.is_empty()
            || query.types.iter().any(|wanted| {
                let wanted = wanted.trim_end_matches('*');
                kind == wanted || (wanted.ends_with('.') && kind.starts_with(wanted))
            });
        if !wanted {
            continue;
        }
        let seq: u64 = row.get(0)?;
        let account: Option<[u8; 32]> = row.get(2)?;
        let data: String = row.get(4)?;
        list.push(EventView {
            seq,
            id: format!("evt_{seq}"),
            kind,
            time: rfc3339(Time(row.get(1)?)),
            account: account.map(|id| AccountId(id).to_string()),
            data: serde_json::from_str(&data).unwrap_or_default(),
        });
        if list.len() >= limit as usize {
            break;
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_is_found_by_its_id_and_not_among_all() {
        let directory = tempfile::tempdir().unwrap();
        let db = crate::store::open(directory.path()).unwrap();
        let plan: Vec<String> = db
            .prepare(&format!(
                "EXPLAIN QUERY PLAN {PAYMENT_COLUMNS} WHERE m.account = ?1 AND m.payment = ?2"
            ))
            .unwrap()
            .query_map(params![[1_u8; 32], [2_u8; 32]], |row| row.get(3))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        let by_payment = |step: &&String| step.contains("payment=?") || step.contains("debt=?");
        assert_eq!(plan.iter().filter(by_payment).count(), 2, "{plan:?}");
    }

    #[test]
    fn times_are_rfc3339_with_milliseconds() {
        assert_eq!(rfc3339(Time(1_668_211_200_123)), "2022-11-12T00:00:00.123Z");
        assert!(rfc3339(Time(u64::MAX)).starts_with("9999"));
    }
}
