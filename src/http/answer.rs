//! Around every request: counts it, logs one line, and sees to it that every error is a problem.
//!
//! Owns what is the same for all routes. Never logs a query, which may hold a signature or a token.

use std::any::Any;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::AppState;
use super::access::LetIn;
use super::images::PREFERENCE_APPLIED;
use super::problem::{Code, Problem};
use super::traced::Traced;
use crate::telemetry::metrics::Answered;

/// Most bytes of a request's target and headers that get an answer with a reason. `serve` cuts a
/// connection at a higher bound, without one.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// Longest request id that is taken over from a client.
const MAX_REQUEST_ID_CHARS: usize = 64;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An answer is data: no page may frame it, run it, or take it for another type. What is meant to be more says so itself.
const PROTECTION: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
];

/// Runs a request through the routes.
pub async fn answer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let begun = state.clock.monotonic();
    state.metrics.requests.inc();
    let id = request_id(request.headers());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let traced = Traced::begin(&state, &method, request.headers());
    let span = tracing::info_span!(
        "request",
        id = %id.to_str().unwrap_or_default(),
        %method,
        route,
        trace_id = traced.trace(),
        span_id = traced.span(),
        trace_sampled = traced.sampled()
    );

    async {
        let response = if header_bytes(request.uri(), request.headers()) > MAX_HEADER_BYTES {
            Problem::new(
                Code::HeadersTooLarge,
                format!("target and headers may have {MAX_HEADER_BYTES} bytes together"),
            )
            .into_response()
        } else {
            next.run(request).await
        };
        let let_in = response.extensions().get::<LetIn>().is_some();
        let (mut response, code) = as_problem(response, &path);
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id);
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
        protect(headers, state.behind_platform);
        let (status, time) = (response.status().as_u16(), state.clock.monotonic().saturating_sub(begun));
        let code = code.map(Code::as_str);
        // How long a client asked to be kept waiting is not how long the service takes.
        let time_taken = (!response.headers().contains_key(PREFERENCE_APPLIED)).then_some(time);
        state.metrics.answered(&Answered { route: &route, method: method.as_str(), status, code, time: time_taken });
        tracing::info!(status, latency_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX), "answered");
        if let_in {
            traced.end(&state.traces, (&method, &route, &path), &response, time);
        }
        response
    }
    .instrument(span)
    .await
}

/// Headers that keep browsers from doing more with an answer than showing it.
fn protect(headers: &mut HeaderMap, over_tls: bool) {
    for (name, value) in PROTECTION {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if over_tls {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
}

/// What a panic of a handler becomes.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the panic layer asks for")]
pub fn after_panic(panic: Box<dyn Any + Send>) -> Response<Body> {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("not a text"), "a handler panicked");
    Problem::internal().into_response()
}

/// Gives a problem its path, and turns any other error answer into a problem. Says which.
fn as_problem(response: Response, path: &str) -> (Response, Option<Code>) {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return (response, None);
    }
    let (mut parts, _) = response.into_parts();
    let problem = parts.extensions.remove::<Problem>().unwrap_or_else(|| Problem::of_status(status));
    let code = problem.code();
    (problem.at(path).into_response_with(parts.headers), Some(code))
}

fn header_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    target + headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>()
}

/// The client's id for the request if it is fit for a log, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let fits = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID_CHARS).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let made = || HeaderValue::try_from(format!("{:016x}", rand::random::<u64>()));
    let given = headers.get(REQUEST_ID).filter(fits).cloned();
    given.unwrap_or_else(|| made().unwrap_or(HeaderValue::from_static("none")))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};

    use super::*;

    #[test]
    fn an_error_of_any_origin_becomes_a_problem_and_keeps_its_other_headers() {
        let bare = (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET,HEAD"), (CONTENT_LENGTH, "0")], "").into_response();
        let (response, _) = as_problem(bare, "/images");
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET,HEAD");
        assert_eq!(response.headers()[CONTENT_TYPE], crate::http::problem::PROBLEM_JSON);
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn an_answer_that_is_no_error_is_left_alone() {
        let (response, _) = as_problem((StatusCode::OK, "text").into_response(), "/");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
    }

    #[test]
    fn a_request_id_is_taken_over_only_if_it_is_fit_for_a_log() {
        let id =
            |value: &'static str| request_id(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_static(value))]));
        assert_eq!(id("abc-1"), "abc-1");
        for unfit in ["", "a b", "a\tb"] {
            assert_eq!(id(unfit).len(), 16, "{unfit:?}");
        }
    }
}
