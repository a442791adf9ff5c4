//! Trying the failed pictures of a batch again.

use axum::body::{Body, HttpBody as _};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::extract::{Identity, batch_id, idempotency_key};
use super::images::answer_accepted;
use super::problem::Problem;
use super::schema::RetryBody;
use super::upload::Format;
use super::{AppState, body, upload};
use crate::domain::state::ErrorCode;
use crate::service::batches::Idempotency;

/// Most bytes of a body that names codes.
const MAX_BYTES: usize = 16 << 10;

/// Tries failed pictures again with a fresh reservation.
///
/// Without a body those that may pass the next time, with `codes` those that failed so.
#[utoipa::path(
    post, path = "/images/{batchId}/retry", tag = "batches",
    request_body(content = Option<RetryBody>, content_type = "application/json"),
    params(
        ("batchId" = String, Path, description = "`bat_` and a ULID"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "1-255 visible ASCII characters; the same key with the same body makes one retry of this batch. Remembered for 24 h"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: answer when the batch has ended, after N seconds at the latest (at most 600)"),
    ),
    responses(
        (status = 200, description = "The batch ended while the client waited", body = crate::service::view::BatchView),
        (status = 202, description = "The pictures wait again", body = crate::service::view::BatchView, headers(
            ("Location" = String, description = "The batch"),
            ("Idempotent-Replayed" = Option<String>, description = "`true` if an earlier request with this key made it"),
            ("Preference-Applied" = Option<String>, description = "`wait=N`"),
        )),
        (status = 400, description = "`invalid_request`, with every fault at once", body = Problem, content_type = "application/problem+json"),
        (status = 402, description = "`budget_exceeded`: nothing was written", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "`live_disabled`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`, also for another user's batch", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`not_retryable`: no picture can be tried again; says why. Or `idempotency_in_progress`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency_key_reused`, `model_unknown`, `model_retired`, `size_unpriced` or `aspect_ratio_unsupported`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn retry(
    State(state): State<AppState>,
    Identity(caller): Identity,
    Path(batch): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let batch = batch_id(&batch)?;
    let (key, codes) = read(&state, &headers, body).await?;
    let idempotency = key.map(|key| Idempotency { key, request_hash: request_hash(codes.as_deref()) });
    let caller = state.batches.acting_for(caller, batch).await?;
    let retried = state.batches.retry(&caller, batch, codes.as_deref(), idempotency).await?;
    answer_accepted(&state.batches, &caller.user, batch, retried.replayed, None, &headers).await
}

/// Everything that is wrong with a retry is told at once, its header and its body.
async fn read(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Option<String>, Option<Vec<ErrorCode>>), Problem> {
    let checked = if body.is_end_stream() {
        Ok(None)
    } else {
        body::check_retry(&upload::read(headers, body, &[Format::Json], MAX_BYTES, &state.uploads).await?.bytes)
    };
    match (idempotency_key(headers), checked) {
        (Ok(key), Ok(codes)) => Ok((key, codes)),
        (key, codes) => Err(Problem::invalid(key.err().into_iter().chain(codes.err().into_iter().flatten()).collect())),
    }
}

/// What a repeated retry is recognised by: the set of its codes.
fn request_hash(codes: Option<&[ErrorCode]>) -> String {
    let Some(codes) = codes else { return "all".to_owned() };
    let mut names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}
