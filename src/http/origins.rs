//! Which pages of other origins may use the service: those that the operator names, and no other.

use std::time::Duration;

use axum::http::Method;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser remembers what it may send.
const MAX_AGE: Duration = Duration::from_hours(1);

/// Tells browsers what pages of `origins` may send and read. No cookie: those pages use keys and tokens.
pub fn layer(origins: &[HeaderValue]) -> CorsLayer {
    let named = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect::<Vec<_>>();
    let mut sent = named(&["idempotency-key", "last-event-id", "prefer", "traceparent", "x-api-key", "x-request-id"]);
    sent.extend([ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH]);
    let mut read =
        named(&["idempotent-replayed", "preference-applied", "ratelimit", "ratelimit-policy", "x-request-id"]);
    read.extend([ETAG, LOCATION, RETRY_AFTER]);
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        .allow_headers(sent)
        .expose_headers(read)
        .max_age(MAX_AGE)
}
