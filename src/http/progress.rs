//! Progress streams, on our path and on the original service's.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;

use super::AppState;
use super::extract::{Identity, Parameters, batch_id};
use super::problem::{Code, Fault, Problem};
use super::schema::ProgressFrame;
use crate::domain::access::Caller;
use crate::service::batches::Page;
use crate::service::feed::Subscription;

/// The number of the last event that a client saw.
const LAST_EVENT_ID: &str = "Last-Event-ID";
/// The same for clients that cannot set headers. The header beats it.
const LAST_EVENT_ID_PARAMETER: &str = "lastEventId";
/// With `no`, tells nginx and its kin to pass on what comes at once.
pub(super) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

macro_rules! stream_route {
    ($(#[$doc:meta])* $name:ident, $(#[$head_doc:meta])* $head:ident, $path:literal) => {
        $(#[$doc])*
        #[utoipa::path(
            get, path = $path, tag = "progress",
            params(
                ("batchId" = String, Path, description = "`bat_` and a ULID"),
                ("Last-Event-ID" = Option<u64>, Header, description = "The last event number seen; the stream goes on after it"),
                ("token" = Option<String>, Query, description = "A stream token, for clients that cannot send a key"),
                ("lastEventId" = Option<u64>, Query, description = "The same, for clients that cannot set headers"),
            ),
            responses(
                (status = 200, description = "Events; `id:` is the number, `event:` the type, `data:` JSON with `type`, `batchId`, `seq` and `ts`", body = ProgressFrame, content_type = "text/event-stream"),
                (status = 204, description = "The client has seen everything; do not reconnect"),
                (status = 400, description = "`invalid_request`: not an event number", body = Problem, content_type = "application/problem+json"),
                (status = 404, description = "`not_found` or `feature_disabled`", body = Problem, content_type = "application/problem+json"),
                (status = 429, description = "`too_many_streams`", body = Problem, content_type = "application/problem+json"),
                (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
            ),
        )]
        pub async fn $name(
            State(state): State<AppState>,
            Identity(caller): Identity,
            Path(batch): Path<String>,
            parameters: Parameters,
            headers: HeaderMap,
        ) -> Result<Response, Problem> {
            open(&state, caller, &batch, parameters, &headers).await
        }

        $(#[$head_doc])*
        #[utoipa::path(
            head, path = $path, tag = "progress",
            params(("batchId" = String, Path, description = "`bat_` and a ULID")),
            responses(
                (status = 200, description = "The headers of the stream"),
                (status = 404, description = "`not_found` or `feature_disabled`"),
            ),
        )]
        pub async fn $head(
            State(state): State<AppState>,
            Identity(caller): Identity,
            Path(batch): Path<String>,
        ) -> Result<Response, Problem> {
            look(&state, caller, &batch).await
        }
    };
}

stream_route!(
    /// Streams the progress of a batch: replays the events after the last one seen, then follows.
    events,
    /// Whether the stream is there.
    events_head,
    "/images/{batchId}/events"
);
stream_route!(
    /// The same stream on the original service's path.
    progress,
    /// Whether the stream is there, on the original service's path.
    progress_head,
    "/progress/{batchId}"
);

async fn open(
    state: &AppState,
    caller: Caller,
    batch: &str,
    parameters: Parameters,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    check_enabled(state.sse_enabled)?;
    let batch = batch_id(batch)?;
    let after = last_seen(headers, parameters)?;
    let slot = state.callers.stream(&caller)?;
    let caller = state.batches.acting_for(caller, batch).await?;
    match state.feeds.open(&caller.user, batch, after).await? {
        Subscription::Ended => Ok(StatusCode::NO_CONTENT.into_response()),
        Subscription::Frames(frames) => {
            let counted = frames.map(move |frame| {
                let _open = &slot;
                Ok::<_, Infallible>(frame)
            });
            Ok(stream(Body::from_stream(counted)))
        }
    }
}

async fn look(state: &AppState, caller: Caller, batch: &str) -> Result<Response, Problem> {
    check_enabled(state.sse_enabled)?;
    let batch = batch_id(batch)?;
    let caller = state.batches.acting_for(caller, batch).await?;
    state.batches.get(&caller.user, batch, &Page { limit: 1, cursor: None }).await?;
    Ok(stream(Body::empty()))
}

fn check_enabled(enabled: bool) -> Result<(), Problem> {
    let off = || Problem::new(Code::FeatureDisabled, "progress streams are off (SSE_ENABLED); read the batch instead");
    if enabled { Ok(()) } else { Err(off()) }
}

fn stream(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// The number of the last event that the client saw; 0 if it saw none.
///
/// # Errors
/// `invalid_request`, if the header, which beats the query, or the query is there and no number of an event.
pub fn last_seen(headers: &HeaderMap, mut parameters: Parameters) -> Result<u64, Problem> {
    const RULE: &str = "must be the number of an event";
    let asked = match parameters.take(LAST_EVENT_ID_PARAMETER) {
        None => 0,
        Some(text) => parse_number(&text).unwrap_or_else(|| {
            parameters.refuse(LAST_EVENT_ID_PARAMETER, RULE);
            0
        }),
    };
    parameters.finish()?;
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(asked) };
    let number = value.to_str().ok().and_then(parse_number);
    number.ok_or_else(|| Problem::invalid(vec![Fault::in_header(LAST_EVENT_ID, RULE)]))
}

/// Digits alone: the standard reader would take a sign too. No batch has more events than the database counts.
fn parse_number(text: &str) -> Option<u64> {
    let number: i64 =
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()?;
    u64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(header: Option<&'static str>, query: &str) -> Option<u64> {
        let headers = header.map(|value| (HeaderName::from_static("last-event-id"), HeaderValue::from_static(value)));
        last_seen(&HeaderMap::from_iter(headers), Parameters::of(query)).ok()
    }

    #[test]
    fn the_header_beats_the_query_and_what_is_not_a_number_is_refused() {
        for (header, query, expected) in [
            (None, "", Some(0)),
            (None, "lastEventId=7", Some(7)),
            (Some("9"), "lastEventId=7", Some(9)),
            (Some("9"), "lastEventId=x", None),
            (Some(""), "lastEventId=7", None),
            (Some("x"), "lastEventId=7", None),
            (Some("-1"), "", None),
            (Some("+1"), "", None),
            (Some("1.0"), "", None),
            (Some("99999999999999999999"), "", None),
            (Some("9223372036854775808"), "", None),
            (Some("9223372036854775807"), "", Some(9_223_372_036_854_775_807)),
            (None, "lastEventId=x", None),
        ] {
            assert_eq!(seen(header, query), expected, "{header:?} {query}");
        }
    }
}
