//! Uploading reference pictures.

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::extract::{Identity, idempotency_key};
use super::files::{Files, FormRules, Part};
use super::images::IDEMPOTENT_REPLAYED;
use super::problem::{Code, Fault, Problem};
use super::schema::UploadBody;
use super::{AppState, upload};
use crate::service::uploads::{CheckedFile, FileFault, MAX_FILES};
use crate::service::view::UploadView;

/// The part that holds a file.
const FIELD: &str = "images";

/// Uploads reference pictures. Their `url` is for the references of a batch.
#[utoipa::path(
    post, path = "/references", tag = "references",
    request_body(content = UploadBody, content_type = "multipart/form-data"),
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$", description = "1-255 visible ASCII characters; the same key with the same files is one upload. Remembered for 24 h"),
    ),
    responses(
        (status = 201, description = "The pictures are stored, in the order of the files", body = UploadView, headers(
            ("Idempotent-Replayed" = Option<String>, description = "`true` if an earlier request with this key made them"),
        )),
        (status = 400, description = "`invalid_request`: no file, too many, another field, or a file that is damaged. Nothing was stored, as with every error; `errors` has all that is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "`request_timeout`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_in_progress`", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`payload_too_large`: a file has too many bytes or pixels", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "`unsupported_media_type`: the body is no form, or a file no PNG, JPEG, WebP or GIF", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`idempotency_key_reused`", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn upload(
    State(state): State<AppState>,
    Identity(caller): Identity,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut stream = body.into_data_stream();
    let taken = match take_in(&state, &headers, &mut stream).await {
        Ok(taken) => taken,
        Err(problem) => {
            upload::linger(&headers, &mut stream, &problem).await;
            return Err(problem);
        }
    };
    let uploaded = state.references.keep(&caller.user, &taken.files, taken.key).await?;
    let mut response = (StatusCode::CREATED, Json(UploadView { references: uploaded.references })).into_response();
    if uploaded.replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// An upload without faults.
struct TakenIn {
    key: Option<String>,
    files: Vec<CheckedFile>,
    _share: OwnedSemaphorePermit,
}

/// Reads and checks one file after another; all faults are told at once.
async fn take_in(state: &AppState, headers: &HeaderMap, stream: &mut BodyDataStream) -> Result<TakenIn, Problem> {
    let max_bytes = usize::try_from(state.references.max_bytes()).unwrap_or(usize::MAX);
    let rules = FormRules { field: FIELD, max_files: MAX_FILES, max_bytes };
    let mut form = Files::open(headers, stream, rules, &state.uploads).await?;
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    let key = idempotency_key(headers).unwrap_or_else(|fault| {
        faults.push((Code::InvalidRequest, fault));
        None
    });
    while let Some(part) = form.next().await? {
        match part {
            Part::Refused(code, fault) => faults.push((code, fault)),
            Part::File(place, bytes) => match state.references.check(bytes).await {
                Ok(file) if faults.is_empty() => {
                    form.keep(file.size()).await?;
                    files.push(file);
                }
                Ok(_) => {}
                Err(fault) => faults.push(refusal(place, &fault)),
            },
        }
    }
    if form.seen() == 0 {
        faults.push((Code::InvalidRequest, form.count_fault("there is none")));
    }
    if faults.is_empty() {
        Ok(TakenIn { key, files, _share: form.into_share() })
    } else {
        Err(Problem::of_faults(faults))
    }
}

fn refusal(place: usize, fault: &FileFault) -> (Code, Fault) {
    let code = match fault {
        FileFault::TooLarge(_) => Code::PayloadTooLarge,
        FileFault::WrongType(_) => Code::UnsupportedMediaType,
        FileFault::Damaged(_) => Code::InvalidRequest,
    };
    (code, Fault::in_body(format!("/{FIELD}/{place}"), format!("file {}: {fault}", place + 1)))
}
