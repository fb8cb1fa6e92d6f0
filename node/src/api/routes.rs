//! The routes and their handlers. Each reads its input, makes one call, and writes the answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Serialize;
use serde_json::json;

use super::call::Call;
use super::guard::{self, Guard};
use super::problem::Problem;
use super::{State, backup, events, restores};
use crate::error::ErrorKind;
use crate::node::{Account, Page};

/// How long a call to the node may take; the client's own timeout should be longer.
const CALL_TIME: Duration = Duration::from_secs(30);

pub(super) type Api = Shared<Arc<State>>;
pub(super) type Answer = Result<Response, Problem>;

/// All routes behind a guard.
pub(super) fn router(state: Arc<State>, guard: Guard) -> Router {
    let v1 = Router::new()
        .route("/node", get(node))
        .route("/node/status", get(status))
        .route("/accounts", get(accounts).post(create_account))
        .route("/accounts/{which}", get(account).patch(rename_account))
        .route("/accounts/{which}/unopened", post(open_unopened))
        .route("/invitations", post(invite))
        .route("/contacts", get(contacts).post(add_contact))
        .route(
            "/contacts/{who}",
            get(contact).patch(rename_contact).delete(remove_contact),
        )
        .route("/contacts/{who}/verify", post(verify_contact))
        .route("/contacts/{who}/block", post(block_contact))
        .route("/chats", get(chats))
        .route("/chats/{who}/messages", get(messages).post(send))
        .route("/chats/{who}/read", post(read))
        .route("/messages/{id}", get(message).delete(delete_message))
        .route("/credit-lines", get(lines).post(set_limit))
        .route("/credit-lines/{who}/{unit}", get(line))
        .route("/credit-lines/{who}/{unit}/close", post(close_line))
        .route("/payments", get(payments).post(pay))
        .route("/payments/{id}", get(payment))
        .route("/keepers", get(keepers).post(add_keeper))
        .route("/keepers/{node}", delete(remove_keeper))
        .route("/keeping", get(keeping))
        .route("/drill", get(drill))
        .route("/peers", get(peers).post(connect))
        .route("/peers/{node}", delete(disconnect))
        .route("/peers/{node}/block", post(block_node))
        .route("/events", get(events::events))
        .route("/backup", get(backup::backup))
        .merge(restores::routes());
    Router::new()
        .nest("/api/v1", v1)
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/version", get(version))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(state)
        .layer(middleware::from_fn_with_state(
            Arc::new(guard),
            guard::guard,
        ))
}

/// Waits for the node, but not for ever.
pub(super) async fn timely<T>(
    work: impl Future<Output = crate::error::Result<T>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(CALL_TIME, work).await {
        Ok(result) => result.map_err(Problem::from),
        Err(_) => Err(Problem::new(
            ErrorKind::TimedOut,
            format!(
                "no answer within {} s; it may still happen: ask again with the same key",
                CALL_TIME.as_secs()
            ),
        )),
    }
}

/// A JSON answer with a line end, so that it reads well in a terminal.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut body = serde_json::to_vec(value).map_err(|error| {
        Problem::new(
            ErrorKind::Internal,
            format!("the answer cannot be written: {error}"),
        )
    })?;
    body.push(b'\n');
    let mut response = (status, body).into_response();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

pub(super) fn ok(value: &impl Serialize) -> Answer {
    answer(StatusCode::OK, value)
}

// Not `json!`, which would sort the members of every item.
#[derive(Serialize)]
struct List<T> {
    items: T,
}

#[derive(Serialize)]
struct Paged<'a, T> {
    items: T,
    next: Option<&'a str>,
}

fn items(list: &impl Serialize) -> Answer {
    ok(&List { items: list })
}

/// A page of a list: `next` is the id to go on from, or null where this was the last page.
fn page(list: &impl Serialize, next: Option<&str>) -> Answer {
    ok(&Paged { items: list, next })
}

pub(super) fn no_content() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn the_account(api: &State, call: &Call) -> Result<Account, Problem> {
    timely(api.node.account(call.query("account"))).await
}

/// Account for a route without other query parameters.
async fn account_only(api: &State, call: &Call) -> Result<Account, Problem> {
    call.allow_query(&[])?;
    the_account(api, call).await
}

async fn unknown() -> Problem {
    Problem::new(
        ErrorKind::NotFound,
        "no such path: the API begins at /api/v1, see docs/http-api.md",
    )
}

async fn wrong_method() -> Problem {
    Problem::new(
        ErrorKind::Invalid,
        "this path does not take this method: see the Allow header",
    )
    .with_status(405)
}

async fn live() -> Answer {
    ok(&json!({ "status": "ok" }))
}

async fn ready(Shared(api): Api) -> Answer {
    if *api.stopping.borrow() {
        return Err(Problem::new(
            ErrorKind::Unavailable,
            "the daemon is stopping",
        ));
    }
    match timely(api.node.ready()).await {
        Ok(()) => ok(&json!({ "status": "ok" })),
        Err(problem) => Err(problem.with_status(503)),
    }
}

async fn version() -> Answer {
    ok(&json!({ "version": env!("CARGO_PKG_VERSION"), "api": "v1" }))
}

async fn node(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    ok(&api.node.info())
}

async fn status(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    ok(&timely(api.node.status()).await?)
}

async fn accounts(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    items(&timely(api.node.accounts()).await?)
}

async fn create_account(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    let mut body = call.body();
    let name = body.text("name")?;
    body.end()?;
    answer(
        StatusCode::CREATED,
        &timely(api.node.create_account(&name)).await?,
    )
}

async fn account(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    let account = timely(api.node.account(Some(call.path("which")))).await?;
    ok(&timely(account.info()).await?)
}

async fn rename_account(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    let account = timely(api.node.account(Some(call.path("which")))).await?;
    let mut body = call.body();
    let name = body.text("name")?;
    body.end()?;
    ok(&timely(account.rename(&name)).await?)
}

async fn open_unopened(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    let account = timely(api.node.account(Some(call.path("which")))).await?;
    let mut body = call.body();
    let words = body.secret("phrase")?;
    body.end()?;
    ok(&timely(account.open_unopened(&words)).await?)
}

async fn invite(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let mut body = call.body();
    let name = body.optional("name")?;
    body.end()?;
    answer(
        StatusCode::CREATED,
        &timely(account.invite(name.as_deref())).await?,
    )
}

async fn contacts(Shared(api): Api, call: Call) -> Answer {
    items(&timely(account_only(&api, &call).await?.contacts()).await?)
}

async fn add_contact(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let mut body = call.body();
    let (uri, name) = (body.text("uri")?, body.optional("name")?);
    body.end()?;
    answer(
        StatusCode::CREATED,
        &timely(account.add_contact(&uri, name.as_deref())).await?,
    )
}

async fn contact(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    ok(&timely(account.contact(call.path("who"))).await?)
}

async fn rename_contact(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let who = call.path("who").to_owned();
    let mut body = call.body();
    let name = body.text("name")?;
    body.end()?;
    ok(&timely(account.rename_contact(&who, &name)).await?)
}

async fn remove_contact(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    timely(account.remove_contact(call.path("who"))).await?;
    no_content()
}

async fn verify_contact(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let who = call.path("who").to_owned();
    let mut body = call.body();
    let fingerprint = body.text("fingerprint")?;
    body.end()?;
    ok(&timely(account.verify_contact(&who, &fingerprint)).await?)
}

async fn block_contact(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let who = call.path("who").to_owned();
    let mut body = call.body();
    let blocked = body.flag("blocked")?;
    body.end()?;
    ok(&timely(account.block_contact(&who, blocked)).await?)
}

async fn chats(Shared(api): Api, call: Call) -> Answer {
    items(&timely(account_only(&api, &call).await?.chats()).await?)
}

async fn messages(Shared(api): Api, call: Call) -> Answer {
    let wanted = call.page()?;
    let account = the_account(&api, &call).await?;
    let list = timely(account.messages(call.path("who"), wanted.clone())).await?;
    // Oldest first: going on means forward after `after`, else back before the first one here.
    let edge = if wanted.after.is_some() {
        list.last()
    } else {
        list.first()
    };
    let next = edge
        .filter(|_| is_full(&list, &wanted))
        .map(|message| message.id.clone());
    page(&list, next.as_deref())
}

fn is_full<T>(list: &[T], wanted: &Page) -> bool {
    list.len() >= usize::try_from(wanted.limit).unwrap_or(usize::MAX)
}

async fn send(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let who = call.path("who").to_owned();
    let key = call.key()?;
    let mut body = call.body();
    let text = body.text("text")?;
    body.end()?;
    answer(
        StatusCode::ACCEPTED,
        &timely(account.send(&who, &text, key.as_deref())).await?,
    )
}

async fn read(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let who = call.path("who").to_owned();
    call.body().end()?;
    ok(&json!({ "read": timely(account.mark_read(&who)).await? }))
}

async fn message(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    ok(&timely(account.message(call.path("id"))).await?)
}

async fn delete_message(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    timely(account.delete_message(call.path("id"))).await?;
    no_content()
}

async fn lines(Shared(api): Api, call: Call) -> Answer {
    items(&timely(account_only(&api, &call).await?.lines()).await?)
}

async fn line(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    ok(&timely(account.line(call.path("who"), call.path("unit"))).await?)
}

async fn set_limit(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let mut body = call.body();
    let (with, limit) = (body.text("with")?, body.money("limit", 0)?);
    body.end()?;
    ok(&timely(account.set_limit(&with, &limit.currency, &limit.amount)).await?)
}

async fn close_line(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let (who, unit) = (call.path("who").to_owned(), call.path("unit").to_owned());
    call.body().end()?;
    ok(&timely(account.close_line(&who, &unit)).await?)
}

async fn payments(Shared(api): Api, call: Call) -> Answer {
    let wanted = call.page()?;
    let account = the_account(&api, &call).await?;
    let list = timely(account.payments(wanted.clone())).await?;
    // Newest first: going on means after the last one, or before the first where `before` was given.
    let edge = if wanted.before.is_some() {
        list.first()
    } else {
        list.last()
    };
    let next = edge
        .filter(|_| is_full(&list, &wanted))
        .map(|payment| payment.id.clone());
    page(&list, next.as_deref())
}

async fn pay(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let key = call.needed_key()?;
    let mut body = call.body();
    let (to, amount) = (body.text("to")?, body.money("amount", 1)?);
    let note = body.optional("note")?.unwrap_or_default();
    body.end()?;
    answer(
        StatusCode::ACCEPTED,
        &timely(account.pay(&to, &amount, &note, &key)).await?,
    )
}

async fn payment(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    ok(&timely(account.payment(call.path("id"))).await?)
}

async fn keepers(Shared(api): Api, call: Call) -> Answer {
    ok(&timely(account_only(&api, &call).await?.keepers()).await?)
}

async fn drill(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&["building"])?;
    let building = call.query("building").unwrap_or_default();
    ok(&timely(api.node.drill(building)).await?)
}

async fn add_keeper(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    let mut body = call.body();
    let who = body.text("who")?;
    body.end()?;
    answer(
        StatusCode::ACCEPTED,
        &timely(account.add_keeper(&who)).await?,
    )
}

async fn remove_keeper(Shared(api): Api, call: Call) -> Answer {
    let account = account_only(&api, &call).await?;
    ok(&timely(account.remove_keeper(call.path("node"))).await?)
}

async fn keeping(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    items(&timely(api.node.keeping()).await?)
}

async fn peers(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    items(&timely(api.node.peers()).await?)
}

async fn connect(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    let mut body = call.body();
    let address = body.text("address")?;
    body.end()?;
    timely(api.node.connect(&address)).await?;
    answer(StatusCode::ACCEPTED, &json!({ "address": address }))
}

async fn disconnect(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    timely(api.node.disconnect(call.path("node"))).await?;
    no_content()
}

async fn block_node(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    let node = call.path("node").to_owned();
    let mut body = call.body();
    let blocked = body.flag("blocked")?;
    body.end()?;
    timely(api.node.block_node(&node, blocked)).await?;
    ok(&json!({ "node": node, "blocked": blocked }))
}
