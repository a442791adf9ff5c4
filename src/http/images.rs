//! Batches: submit, list, read, cancel; and the day's money.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ETAG, HOST, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{self, Accepted, Here, RowFormat, RowsQuery, Rules};
use super::etag::Tag;
use super::extract::{Identity, Parameters, batch_id, idempotency_key};
use super::problem::Problem;
use super::schema::{BatchBody, RunModeBody};
use super::upload::{Format, Upload};
use super::{AppState, prefer, upload};
use crate::domain::ids::{BatchId, UserId};
use crate::domain::spec::RunMode;
use crate::service::batches::{Batches, Idempotency, Page, Submitted};
use crate::service::view::{BatchListView, BatchView, BudgetView, EstimateView, WebhookView};

/// Batches in a page of the list: unless asked otherwise, and at most.
const LIST_PAGE: (u32, u32) = (50, 200);
/// Items in a page of a batch: unless asked otherwise, and at most.
const ITEM_PAGE: (u32, u32) = (100, 200);
/// How a batch may be written.
const FORMATS: &[Format] = &[Format::Json, Format::Csv, Format::Jsonl];
/// Bodies above this are checked on a thread that may take its time.
const CHECKED_IN_PLACE: usize = 256 << 10;

pub(super) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Submits a batch. Without `"runMode": "live"` it is only priced.
#[utoipa::path(
    post, path = "/images", tag = "batches",
    request_body(
        description = "The batch as JSON, or its rows alone as CSV (a header row with the names of an item's members in either spelling; spaces between the addresses in `references`) or JSONL (an item a line)",
        content(
            (BatchBody = "application/json"),
            (String = "text/csv", example = "scene_id,prompt,variants\ns-001,product on clean background,3\n"),
            (String = "application/jsonl", example = "{\"sceneId\":\"s-001\",\"prompt\":\"product on clean background\"}\n"),
            (String = "application/x-ndjson", example = "{\"sceneId\":\"s-001\",\"prompt\":\"product on clean background\"}\n"),
        ),
    ),
    params(
        ("runMode" = Option<RunModeBody>, Query, description = "For CSV and JSONL: whether money may be spent; `dry_run` unless given. Also `run_mode`"),
        ("model" = Option<String>, Query, min_length = 1, max_length = 100, description = "For CSV and JSONL: the model; the service's default unless given"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "1-255 visible ASCII characters; the same key with the same body makes one batch. Remembered for 24 h"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the batch has ended, after N seconds at the latest (at most 600)"),
    ),
    responses(
        (status = 200, description = "A dry run: what the batch would reserve; nothing was written. Or a live batch that ended while the client waited", body = SubmitAnswer),
        (status = 202, description = "The batch is accepted", body = BatchView, headers(
            ("Location" = String, description = "The batch"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` if an earlier request with this key made it"),
            ("Preference-Applied" = Option<String>, description = "`wait=N`"),
        )),
        (status = 400, description = "`invalid_request`, with every fault at once", body = Problem, content_type = "application/problem+json"),
        (status = 402, description = "`budget_exceeded`: nothing was written", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`live_disabled`", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "`request_timeout`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_in_progress`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`payload_too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency_key_reused`, `model_unknown`, `model_retired`, `size_unpriced` or `aspect_ratio_unsupported`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn submit(
    State(state): State<AppState>,
    Identity(caller): Identity,
    parameters: Parameters,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let upload = upload::read(&headers, body, FORMATS, state.limits.max_body_bytes, &state.uploads).await?;
    let (key, accepted, share) = check(&state, &headers, parameters, upload).await?;
    if accepted.spec.run_mode == RunMode::DryRun {
        return Ok(Json(state.batches.estimate(&accepted.spec)?).into_response());
    }
    let idempotency = key.map(|key| Idempotency { key, request_hash: accepted.request_hash });
    let submitted = state.batches.submit(&caller, accepted.spec, idempotency).await?;
    drop(share);
    let Submitted { batch, replayed, webhook } = submitted;
    answer_accepted(&state.batches, &caller.user, batch, replayed, webhook, &headers).await
}

/// The original service's address for submissions: points to `/images`.
#[utoipa::path(
    post, path = "/batch/images", tag = "batches",
    responses((status = 308, description = "Send the same to `/images`", headers(("Location" = String)))),
)]
pub async fn moved(uri: axum::http::Uri) -> Result<Response, Problem> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok((StatusCode::PERMANENT_REDIRECT, [(LOCATION, header(format!("/images{query}"))?)]).into_response())
}

/// The two answers that have status 200.
#[derive(serde::Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes the contract; the handler renders the views")]
enum SubmitAnswer {
    Estimate(EstimateView),
    Batch(BatchView),
}

/// Everything that is wrong with a submission is told at once, its header and its body. What comes of the body is about as
/// long as it, and keeps its share of the memory.
async fn check(
    state: &AppState,
    headers: &HeaderMap,
    mut parameters: Parameters,
    upload: Upload,
) -> Result<(Option<String>, Accepted, OwnedSemaphorePermit), Problem> {
    let Upload { format, bytes, share } = upload;
    let (limits, default_model, webhooks) = (state.limits, Arc::clone(&state.default_model), state.webhooks.clone());
    let large = bytes.len() > CHECKED_IN_PLACE;
    let rows = match format {
        Format::Json => None,
        Format::Csv => Some(RowFormat::Csv),
        Format::Jsonl => Some(RowFormat::Jsonl),
    };
    let query = rows_query(&mut parameters);
    if rows.is_none() {
        // A batch that is thought to be live and is not, or the other way round, is worse than a refusal.
        let stray = [("runMode", query.run_mode.is_some()), ("model", query.model.is_some())];
        for (name, _) in stray.into_iter().filter(|(_, given)| *given) {
            parameters.refuse(name, "is for CSV and JSONL; a JSON body says it itself");
        }
    }
    let rows = rows.map(|format| (format, query));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let assets = Arc::clone(&state.assets);
    let check = move || {
        let locate = |address: &str| assets.locate(address).map(|link| link.object);
        let rules = Rules {
            max_rows: limits.max_rows,
            max_variants: limits.max_variants,
            default_model: &default_model,
            here: Here { host: host.as_deref(), locate: &locate },
            webhook_refusal: &|url| webhooks.refusal(url),
        };
        match rows {
            None => body::check(&bytes, rules),
            Some((format, query)) => body::check_rows(&bytes, format, &query, rules),
        }
    };
    let checked = if large { tokio::task::spawn_blocking(check).await.map_err(stopped)? } else { check() };
    match (idempotency_key(headers), parameters.into_faults(), checked) {
        (Ok(key), query, Ok(accepted)) if query.is_empty() => Ok((key, accepted, share)),
        (key, query, checked) => {
            let faults = key.err().into_iter().chain(query).chain(checked.err().into_iter().flatten());
            Err(Problem::invalid(faults.collect()))
        }
    }
}

/// What a query says of a batch whose body is rows alone, under either spelling.
fn rows_query(parameters: &mut Parameters) -> RowsQuery {
    let run_mode = parameters.take("runMode");
    if run_mode.is_some() && parameters.take("run_mode").is_some() {
        parameters.refuse("run_mode", "the same as runMode; give one of them");
    }
    RowsQuery { run_mode: run_mode.or_else(|| parameters.take("run_mode")), model: parameters.take("model") }
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn stopped(error: tokio::task::JoinError) -> Problem {
    tracing::error!(%error, "checking a body stopped");
    Problem::internal()
}

/// The answer to a submission or a retry that is accepted, now or by an earlier request with the same key. A submission
/// shows its `webhook` with the secret.
pub(super) async fn answer_accepted(
    batches: &Batches,
    caller: &UserId,
    batch: BatchId,
    replayed: bool,
    webhook: Option<WebhookView>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let mut response = match show_accepted(batches, caller, batch, webhook.clone(), headers).await {
        Ok(response) => response,
        Err(problem) if replayed => return Err(problem),
        // It is accepted, whatever comes after: a client that is told otherwise would send it again.
        Err(_) => accepted_unseen(batch, webhook.as_ref())?,
    };
    if replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// The batch as it is now, or as it is when the client's patience or the batch ends.
async fn show_accepted(
    batches: &Batches,
    caller: &UserId,
    batch: BatchId,
    webhook: Option<WebhookView>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let wait = prefer::wait(headers);
    let ended = match wait {
        Some(span) => batches.wait(batch, span).await?,
        None => false,
    };
    let mut view = batches.get(caller, batch, &Page { limit: ITEM_PAGE.0, cursor: None }).await?;
    view.webhook = webhook.or(view.webhook);
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, Json(view)).into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(format!("/images/{batch}"))?);
    if let Some(span) = wait {
        headers.insert(PREFERENCE_APPLIED, header(format!("wait={}", span.as_secs()))?);
    }
    Ok(response)
}

/// The answer for a batch that is accepted and cannot be read just now.
fn accepted_unseen(batch: BatchId, webhook: Option<&WebhookView>) -> Result<Response, Problem> {
    let message = "the batch is accepted and cannot be read just now; ask for it at its Location";
    let mut body = serde_json::json!({"batchId": batch, "runMode": "live", "state": "queued", "message": message});
    if let Some(webhook) = webhook {
        body["webhook"] = serde_json::json!(webhook);
    }
    let location = header(format!("/images/{batch}"))?;
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(body)).into_response())
}

/// A header's value.
///
/// # Errors
/// `internal`, if the text is not fit for a header.
pub(super) fn header(text: String) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(text).map_err(|error| {
        tracing::error!(%error, "a text is not fit for a header");
        Problem::internal()
    })
}

/// Lists the caller's batches, newest first, without their items; an admin sees everyone's.
#[utoipa::path(
    get, path = "/images", tag = "batches",
    params(
        ("limit" = Option<u32>, Query, description = "1-200", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, pattern = "^(bat_[0-7][0-9A-HJKMNP-TV-Z]{25})?$", description = "`nextCursor` of the page before"),
        ("state" = Option<crate::domain::state::BatchState>, Query, description = "Only batches in this state"),
    ),
    responses(
        (status = 200, description = "A page of batches", body = BatchListView),
        (status = 400, description = "`invalid_request`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn list(
    State(batches): State<Arc<Batches>>,
    Identity(caller): Identity,
    mut parameters: Parameters,
) -> Result<Json<BatchListView>, Problem> {
    let (page, state) = (parameters.page(LIST_PAGE.0, LIST_PAGE.1), parameters.state());
    parameters.finish()?;
    Ok(Json(batches.list(&caller, state, &page).await?))
}

/// Reads a batch with a page of its items; every link is fresh.
#[utoipa::path(
    get, path = "/images/{batchId}", tag = "batches",
    params(
        ("batchId" = String, Path, description = "`bat_` and a ULID"),
        ("limit" = Option<u32>, Query, description = "Items, 1-200; 100 unless given", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, pattern = "^(0|[1-9][0-9]{0,8})?$", description = "`nextCursor` of the page before"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of this page"),
    ),
    responses(
        (status = 200, description = "The batch", body = BatchView, headers(
            ("ETag" = String, description = "Weak: the same while the batch is; for `If-None-Match`"),
        )),
        (status = 304, description = "The client has it, and its links live on for five minutes or more"),
        (status = 400, description = "`invalid_request`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`, also for another user's batch", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn get(
    State(state): State<AppState>,
    Identity(caller): Identity,
    Path(batch): Path<String>,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let batch = batch_id(&batch)?;
    let page = parameters.page(ITEM_PAGE.0, ITEM_PAGE.1);
    parameters.finish()?;
    let caller = state.batches.acting_for(caller, batch).await?;
    let view = state.batches.get(&caller.user, batch, &page).await?;
    let tag = Tag::of(&view);
    if let Some(had) = tag.still_good(&headers, state.clock.now()) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, header(had.header())?)]).into_response());
    }
    Ok(([(ETAG, header(tag.header())?)], Json(view)).into_response())
}

/// Stops what has not started and releases its money. A finished batch stays as it is.
#[utoipa::path(
    post, path = "/images/{batchId}/cancel", tag = "batches",
    params(("batchId" = String, Path, description = "`bat_` and a ULID")),
    responses(
        (status = 200, description = "The batch as it is now", body = BatchView),
        (status = 404, description = "`not_found`, also for another user's batch", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn cancel(
    State(batches): State<Arc<Batches>>,
    Identity(caller): Identity,
    Path(batch): Path<String>,
) -> Result<Json<BatchView>, Problem> {
    let batch = batch_id(&batch)?;
    let caller = batches.acting_for(caller, batch).await?;
    batches.cancel(&caller.user, batch).await?;
    Ok(Json(batches.get(&caller.user, batch, &Page { limit: ITEM_PAGE.0, cursor: None }).await?))
}

/// The day's money: of everyone, and the caller's own where users have limits.
#[utoipa::path(
    get, path = "/budget", tag = "batches",
    responses(
        (status = 200, description = "The day's money", body = BudgetView),
        (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn budget(
    State(batches): State<Arc<Batches>>,
    Identity(caller): Identity,
) -> Result<Json<BudgetView>, Problem> {
    Ok(Json(batches.budget(&caller).await?))
}
