//! The results of a whole batch as a file: a table, lines of JSON, or an archive with every picture.
//!
//! Streamed page by page and piece by piece, so that a batch of any size takes the same memory, and counted among the
//! caller's streams, so that many clients that do not read cannot fill it. What goes wrong after the first page breaks the
//! answer off, which a client can tell from its end.

mod archive;
mod table;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue, uri::Authority};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};

use super::AppState;
use super::extract::{Identity, Parameters, batch_id};
use super::images::header;
use super::limits::StreamSlot;
use super::problem::Problem;
use super::progress::X_ACCEL_BUFFERING;
use super::schema::ArchiveBytes;
use crate::domain::ids::{BatchId, UserId};
use crate::service::batches::{Batches, ServiceError};
use crate::service::results::{ResultRow, ResultsPage};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Jsonl,
    Zip,
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        match name {
            "csv" => Some(Self::Csv),
            "jsonl" => Some(Self::Jsonl),
            "zip" => Some(Self::Zip),
            _ => None,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Jsonl => "application/jsonl",
            Self::Zip => "application/zip",
        }
    }

    const fn ending(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Zip => "zip",
        }
    }
}

/// Gives the results of a whole batch as one file, one row a picture: a table, lines of JSON, or an archive of pictures.
#[utoipa::path(
    get, path = "/images/{batchId}/results", tag = "batches",
    params(
        ("batchId" = String, Path, description = "`bat_` and a ULID"),
        ("format" = Option<String>, Query, pattern = "^(csv|jsonl|zip)?$", description = "`csv`, unless given: for a spreadsheet; texts that would be formulas begin with `'`. `jsonl`: for programs. `zip`: the pictures that are made, as `s-001_v1.png`, and `manifest.csv`"),
        ("bom" = Option<bool>, Query, description = "For CSV: begins with a byte order mark, by which Excel knows UTF-8"),
    ),
    responses(
        (status = 200, description = "The file, streamed", content(
            (String = "text/csv", example = "sceneId,variant,state,prompt,file,permalink,uri,mimeType,width,height,bytes,sha256,cost,billing,attempts,errorCode,errorDetail\r\n"),
            (ResultRow = "application/jsonl"),
            (ArchiveBytes = "application/zip"),
        )),
        (status = 400, description = "`invalid_request`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`, also for another user's batch", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn results(
    State(state): State<AppState>,
    Identity(caller): Identity,
    Path(batch): Path<String>,
    mut parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let batch = batch_id(&batch)?;
    let format = parameters.take("format").map_or(Some(Format::Csv), |name| Format::named(&name));
    if format.is_none() {
        parameters.refuse("format", "must be csv, jsonl or zip");
    }
    let mark = match parameters.take("bom").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            parameters.refuse("bom", "must be true or false");
            false
        }
    };
    let (format, ()) = (format.unwrap_or(Format::Csv), parameters.finish()?);
    let slot = state.callers.stream(&caller)?;
    let caller = state.batches.acting_for(caller, batch).await?;
    let pages = Pages { batches: Arc::clone(&state.batches), user: caller.user, batch };
    let first = pages.load(0).await?;
    let site = site(&headers, state.behind_platform);
    let body = match format {
        Format::Csv => {
            let head = stream::once(async move { Ok::<_, ServiceError>(Bytes::from(table::head(mark))) });
            let rows = pages.stream(first).map_ok(move |page| Bytes::from(table::rows(&page.rows, &site)));
            streamed(head.chain(rows), slot)
        }
        Format::Jsonl => streamed(pages.stream(first).map(|page| page.and_then(|page| lines(&page.rows))), slot),
        Format::Zip => streamed(archive::stream(pages, first, Arc::clone(&state.assets), site), slot),
    };
    let file = format!("attachment; filename=\"{batch}.{}\"", format.ending());
    let content_type = HeaderValue::from_static(format.content_type());
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_DISPOSITION, header(file)?),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

/// The results of one batch, as its owner sees them.
#[derive(Clone)]
struct Pages {
    batches: Arc<Batches>,
    user: UserId,
    batch: BatchId,
}

impl Pages {
    async fn load(&self, after: u32) -> Result<ResultsPage, ServiceError> {
        self.batches.results(&self.user, self.batch, after).await
    }

    /// Every page, of which the first is at hand.
    fn stream(self, first: ResultsPage) -> impl Stream<Item = Result<ResultsPage, ServiceError>> + Send + 'static {
        let next = move |after: u32| {
            let pages = self.clone();
            async move { pages.load(after).await }
        };
        stream::try_unfold((Some(first), None), move |(at_hand, after): (Option<ResultsPage>, Option<u32>)| {
            let loading = after.map(&next);
            async move {
                let page = match (at_hand, loading) {
                    (Some(page), _) => page,
                    (None, Some(loading)) => loading.await?,
                    (None, None) => return Ok(None),
                };
                let after = page.next;
                Ok(Some((page, (None, after))))
            }
        })
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A body in pieces, counted until its end. Why it breaks off is for the log; a client sees that it does.
fn streamed<E: Into<Failure> + 'static>(
    pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    slot: StreamSlot,
) -> Body {
    Body::from_stream(pieces.map_err(Into::into).inspect_err(move |error: &Failure| {
        let _open = &slot;
        let error: &(dyn std::error::Error + 'static) = error.as_ref();
        tracing::error!(error, "the results of a batch break off");
    }))
}

fn lines(rows: &[ResultRow]) -> Result<Bytes, ServiceError> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row).map_err(|error| ServiceError::Internal(error.into()))?;
        text.push(b'\n');
    }
    Ok(text.into())
}

/// The address of this service as the client wrote it; empty if it did not.
fn site(headers: &HeaderMap, behind_platform: bool) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let forwarded = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let scheme = if behind_platform || forwarded { "https" } else { "http" };
    host.map(|host| format!("{scheme}://{host}")).unwrap_or_default()
}
