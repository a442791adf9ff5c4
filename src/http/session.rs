//! A browser's login, and the right to follow one batch.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::SET_COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::{self, Audit};
use super::credentials::{self, Credentials};
use super::extract::{Identity, batch_id};
use super::images::header;
use super::problem::{Code, Problem};
use super::{AppState, local};
use crate::domain::access::Caller;
use crate::domain::time::Timestamp;
use crate::service::access::{Access, SESSION_LIFE, Shown};
use crate::service::batches::{Batches, Page};

/// Who is logged in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    /// The user.
    user: String,
    /// `submit`, `read` and `admin`, joined by `+`.
    scopes: String,
    /// When the session ends; `null` where none is needed, as everyone here is let in.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// The right to follow one batch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamTokenView {
    /// For `?token=` of the batch's stream.
    token: String,
    /// A stream must be opened before then; it may last longer.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// Logs a browser in: a key in the header, a cookie out that pages cannot read.
#[utoipa::path(
    post, path = "/session", tag = "access",
    responses(
        (status = 200, description = "Logged in", body = SessionView, headers(
            ("Set-Cookie" = Option<String>, description = "The session: HttpOnly, SameSite=Strict"),
        )),
        (status = 401, description = "`unauthorized`", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`forbidden`: a page of another origin asks", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn log_in(State(state): State<AppState>, request: Parts) -> Response {
    match begin(&state, &request).await {
        Ok(response) => response,
        Err(problem) => access::refusal(problem),
    }
}

async fn begin(state: &AppState, request: &Parts) -> Result<Response, Problem> {
    let headers = &request.headers;
    let credentials = Credentials::of(headers, None, state.access.trusts_platform())?;
    if credentials.is_ambient() && !state.access.is_open().await? {
        return Err(Problem::new(Code::Unauthorized, "a login takes an API key, not a session"));
    }
    let caller = access::identify(state, &credentials, "", access::address(state, request)).await?;
    if caller.is_local {
        local::check(&request.method, headers, &state.origins)?;
        return Ok(Json(view(&caller, None)).into_response());
    }
    let audit = Audit::new(state, request, &caller);
    let response = open(state, headers, &caller).await.unwrap_or_else(access::refusal);
    audit.log(&response);
    Ok(response)
}

async fn open(state: &AppState, headers: &HeaderMap, caller: &Caller) -> Result<Response, Problem> {
    local::check_not_foreign(headers)?;
    let allowance = state.callers.change(caller).map_err(super::limits::Allowance::problem)?;
    let session = state.access.open_session(caller).await?;
    let mut response = Json(view(caller, Some(session.expires_at))).into_response();
    response.headers_mut().insert(SET_COOKIE, cookie(headers, &session.secret, SESSION_LIFE)?);
    if let Some(allowance) = allowance {
        allowance.write(response.headers_mut());
    }
    Ok(response)
}

fn view(caller: &Caller, expires_at: Option<Timestamp>) -> SessionView {
    SessionView { user: caller.user.as_str().to_owned(), scopes: caller.scopes.to_string(), expires_at }
}

/// Logs a browser out. Without a session nothing happens.
#[utoipa::path(
    delete, path = "/session", tag = "access",
    responses(
        (status = 204, description = "Logged out"),
        (status = 403, description = "`forbidden`: a page of another origin asks", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn log_out(State(state): State<AppState>, request: Parts) -> Result<Response, Problem> {
    let headers = &request.headers;
    local::check_not_foreign(headers)?;
    let gone = [(SET_COOKIE, cookie(headers, "", Duration::ZERO)?)];
    let response = (StatusCode::NO_CONTENT, gone).into_response();
    let Some(secret) = credentials::session(headers) else { return Ok(response) };
    // A session that is over is nobody's, and is ended all the same.
    let caller = state.access.identify(Shown::Session(secret)).await.ok().filter(|caller| !caller.is_local);
    let audit = caller.map(|caller| Audit::new(&state, &request, &caller));
    state.access.end_session(secret).await?;
    if let Some(audit) = audit {
        audit.log(&response);
    }
    Ok(response)
}

/// The cookie of a session. To a machine other than this one browsers send it over TLS alone.
fn cookie(headers: &HeaderMap, secret: &str, life: Duration) -> Result<HeaderValue, Problem> {
    let (name, secure) = credentials::session_cookie(headers);
    let secure = if secure { "; Secure" } else { "" };
    let life = life.as_secs();
    header(format!("{name}={secret}; Path=/; Max-Age={life}; HttpOnly; SameSite=Strict{secure}"))
}

/// Makes a token with which the progress of one batch can be followed for those who cannot send a key.
#[utoipa::path(
    post, path = "/images/{batchId}/stream-token", tag = "progress",
    params(("batchId" = String, Path, description = "`bat_` and a ULID")),
    responses(
        (status = 200, description = "A token for this batch and reading alone, for 60 s", body = StreamTokenView),
        (status = 404, description = "`not_found`, also for another user's batch", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn stream_token(
    State(access): State<Arc<Access>>,
    State(batches): State<Arc<Batches>>,
    Identity(caller): Identity,
    Path(batch): Path<String>,
) -> Result<Json<StreamTokenView>, Problem> {
    let batch = batch_id(&batch)?;
    let owner = batches.acting_for(caller.clone(), batch).await?;
    batches.get(&owner.user, batch, &Page { limit: 1, cursor: None }).await?;
    let token = access.stream_token(&caller, batch).await?;
    Ok(Json(StreamTokenView { token: token.secret, expires_at: token.expires_at }))
}
