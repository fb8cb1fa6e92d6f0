//! Bringing an account back from its 24 words. The words come in a body, and go nowhere else.

use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::{get, post};

use super::State;
use super::call::Call;
use super::routes::{Answer, Api, answer, no_content, ok, timely};

/// The routes, below `/api/v1`.
pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/restores", post(begin))
        .route("/restores/{account}", get(view).delete(cancel))
}

async fn begin(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    let mut body = call.body();
    let words = body.secret("phrase")?;
    let name = body.optional("name")?;
    let hints = body.texts("hints")?;
    body.end()?;
    let restore = timely(api.node.restore(&words, name.as_deref(), &hints)).await?;
    answer(StatusCode::ACCEPTED, &timely(restore.view()).await?)
}

async fn view(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    ok(&timely(api.node.restoring(call.path("account"))?.view()).await?)
}

async fn cancel(Shared(api): Api, call: Call) -> Answer {
    call.allow_query(&[])?;
    timely(api.node.restoring(call.path("account"))?.cancel()).await?;
    no_content()
}
