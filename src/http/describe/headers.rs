//! The headers of answers. Those of every answer of a kind are told here, and not at each handler.

use axum::http::Method;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{OpenApi, Ref, RefOr, Response};

use super::super::access::{Need, changes, need};
use super::operations;

/// Every header, and what it says. What protects browsers (`Content-Security-Policy` and its like) is no part of this.
const HEADERS: [(&str, &str); 15] = [
    ("Allow", "With `method_not_allowed`: the methods that the address takes"),
    ("Cache-Control", "How long the answer may be kept, and by whom"),
    ("Content-Disposition", "The name under which a browser saves it"),
    ("Content-Length", "The size in bytes"),
    ("ETag", "The same while what is answered is, weak for batches; for `If-None-Match`"),
    ("Idempotent-Replayed", "`true` if an earlier request with this key was the first; absent otherwise"),
    ("Location", "Where to go"),
    ("Preference-Applied", "`wait=N`, if the client preferred to wait"),
    (
        "RateLimit",
        "What is left of the caller's changes in this minute (draft-ietf-httpapi-ratelimit-headers-10); none without keys",
    ),
    ("RateLimit-Policy", "The caller's changes a minute; none without keys"),
    (
        "Retry-After",
        "Seconds after which to try again; with `unavailable`, `rate_limited`, `too_many_streams` and `idempotency_in_progress`",
    ),
    ("Set-Cookie", "The session: HttpOnly, SameSite=Strict; absent without keys"),
    ("WWW-Authenticate", "With `unauthorized`: `Bearer`, an API key in `Authorization`"),
    ("X-Accel-Buffering", "`no`: for proxies, which must not hold a stream back"),
    ("X-Request-Id", "The request's name in the log: the client's own if it sent a usable one"),
];

/// Adds the headers as components, and refers to them from each answer that has them.
pub(super) fn describe(description: &mut OpenApi) {
    let components = description.components.get_or_insert_default();
    for (name, says) in HEADERS {
        components.headers.insert(name.to_owned(), header(says).into());
    }
    for (name, response) in &mut components.responses {
        if let RefOr::T(response) = response {
            let of_all = ["Cache-Control", "X-Request-Id"];
            let own: &[&str] = match name.as_str() {
                "Unauthorized" => &["WWW-Authenticate"],
                _ => &["Allow", "RateLimit", "RateLimit-Policy", "Retry-After"],
            };
            refer(response, of_all.iter().chain(own));
        }
    }
    for (path, item) in &mut description.paths.paths {
        for (method, operation) in operations(item) {
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    refer(response, of(&method, path, status).iter());
                }
            }
        }
    }
}

fn header(says: &str) -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    HeaderBuilder::new().schema(Some(text)).description(Some(says)).build()
}

/// Refers to headers, in the place of what a handler may have said of them.
fn refer<'a>(response: &mut Response, names: impl IntoIterator<Item = &'a &'a str>) {
    for name in names {
        let at = Ref::new(format!("#/components/headers/{name}"));
        response.headers.insert((*name).to_owned(), RefOr::Ref(at));
    }
}

/// The headers of an answer.
fn of(method: &Method, path: &str, status: &str) -> Vec<&'static str> {
    let mut names = vec!["Cache-Control", "X-Request-Id"];
    let is_stream = path.ends_with("/events") || path.starts_with("/progress");
    names.extend_from_slice(match (path, status) {
        (_, "401") => &["WWW-Authenticate"],
        (_, "409" | "429" | "503") => &["Retry-After"],
        ("/images" | "/images/{batchId}/retry", "200" | "202") if *method == Method::POST => {
            &["Idempotent-Replayed", "Location", "Preference-Applied"]
        }
        ("/references", "201") => &["Idempotent-Replayed"],
        ("/" | "/console/{file}" | "/images/{batchId}", "200" | "304") => &["ETag"],
        ("/assets/{path}", "200") => &["Content-Disposition", "Content-Length"],
        ("/images/{batchId}/results", "200") => &["Content-Disposition", "X-Accel-Buffering"],
        ("/session", "200" | "204") => &["Set-Cookie"],
        (_, "302" | "308") => &["Location"],
        (_, "200") if is_stream => &["X-Accel-Buffering"],
        _ => &[],
    });
    let counted = match need(method, path) {
        Need::Nothing => false,
        Need::OwnCheck => *method == Method::POST && status == "200",
        Need::Anyone | Need::Scope(_) | Need::Follow => changes(method),
    };
    if counted && status != "401" {
        names.extend(["RateLimit", "RateLimit-Policy"]);
    }
    names
}
