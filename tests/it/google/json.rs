//! The JSON side, which carries the bytes, and the links that anyone may follow.

use axum::body::Body;
use axum::http::Response;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use bytes::Bytes;
use serde_json::{Value, json};

use super::objects::{About, Object};
use super::{Refusal, State, checksum_text, decoded, query, signed};

/// Answers one call, or says that it was `refused`.
pub(super) fn answer(
    state: &State,
    parts: &Parts,
    body: &Bytes,
    refused: Result<(), Refusal>,
    wrong_checksum: bool,
) -> Response<Body> {
    let segments: Vec<String> = parts.uri.path().split('/').skip(1).map(decoded).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let done = refused.and_then(|()| match segments[..] {
        ["upload", "storage", "v1", "b", bucket, "o"] => upload(state, parts, bucket, body, wrong_checksum),
        ["storage", "v1", "b", bucket, "o", object] => read(state, parts, bucket, object, wrong_checksum),
        [bucket, ..] => Ok(follow(state, parts, bucket, &segments[1..].join("/"))),
        [] => Err(Refusal::Invalid),
    });
    done.unwrap_or_else(|refusal| failure(refusal, &segments))
}

fn number(text: Option<&String>) -> Option<i64> {
    text.map(|text| text.parse().unwrap())
}

/// A checksum as it is told: another one where that is the fault.
fn told(object: &Object, wrong_checksum: bool) -> String {
    checksum_text(if wrong_checksum { !object.crc32c } else { object.crc32c })
}

/// Takes in an object whose description and bytes come in one body.
fn upload(
    state: &State,
    parts: &Parts,
    bucket: &str,
    body: &Bytes,
    wrong_checksum: bool,
) -> Result<Response<Body>, Refusal> {
    let query = query(&parts.uri);
    assert_eq!(query["uploadType"], "multipart");
    let kind = parts.headers[CONTENT_TYPE].to_str().unwrap();
    let boundary = kind.split("boundary=").nth(1).unwrap().trim_matches('"');
    let (about, content_type, bytes) = split_parts(body, boundary);
    let name = query.get("name").cloned().unwrap_or_else(|| about["name"].as_str().unwrap().to_owned());
    let text = |field: &str| about[field].as_str().unwrap_or_default().to_owned();
    let claimed = about["crc32c"].as_str().map(str::to_owned);
    if claimed.is_none_or(|claimed| claimed != checksum_text(crc32c::crc32c(&bytes))) {
        // The real one takes an upload without a checksum; here none may come without.
        return Err(Refusal::Invalid);
    }
    let content_type = Some(text("contentType")).filter(|text| !text.is_empty()).unwrap_or(content_type);
    let metadata = serde_json::from_value(about["metadata"].clone()).unwrap_or_default();
    let about = About { content_type, cache_control: text("cacheControl"), metadata };
    let mut objects = state.objects.lock().unwrap();
    let object = objects.write(bucket, &name, bytes, about, number(query.get("ifGenerationMatch")))?;
    let answer = json!({
        "kind": "storage#object",
        "name": name,
        "bucket": bucket,
        "generation": object.generation.to_string(),
        "metageneration": "1",
        "size": object.size.to_string(),
        "crc32c": told(object, wrong_checksum),
        "contentType": object.content_type,
        "cacheControl": object.cache_control,
        "metadata": object.metadata,
    });
    Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(answer.to_string().into()).unwrap())
}

/// The description, the media type and the bytes of a body of two parts.
fn split_parts(body: &Bytes, boundary: &str) -> (Value, String, Bytes) {
    let find = |from: usize, text: &str| {
        let at = body[from..].windows(text.len()).position(|window| window == text.as_bytes());
        from + at.unwrap_or_else(|| panic!("no {text:?} in the upload"))
    };
    let part = |from: usize| {
        let head = find(from, &format!("--{boundary}\r\n"));
        find(head, "\r\n\r\n") + 4
    };
    let description = part(0);
    let described = find(description, &format!("\r\n--{boundary}\r\n"));
    let start = part(described);
    let head = String::from_utf8_lossy(&body[described..start]).to_lowercase();
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type:")).unwrap_or_default().trim().to_owned();
    // The bytes may hold anything: the end is looked for from behind.
    let end = body.len() - body.iter().rev().skip_while(|byte| b"\r\n".contains(byte)).count();
    let end = body.len() - end - format!("\r\n--{boundary}--").len();
    (serde_json::from_slice(&body[description..described]).unwrap(), kind, body.slice(start..end))
}

fn read(
    state: &State,
    parts: &Parts,
    bucket: &str,
    name: &str,
    wrong_checksum: bool,
) -> Result<Response<Body>, Refusal> {
    let objects = state.objects.lock().unwrap();
    let object = objects.get(bucket, name).ok_or(Refusal::NotFound)?;
    let query = query(&parts.uri);
    assert_eq!(query["alt"], "media");
    if number(query.get("generation")).is_some_and(|generation| generation != object.generation) {
        return Err(Refusal::NotFound);
    }
    if number(query.get("ifGenerationMatch")).is_some_and(|generation| generation != object.generation) {
        return Err(Refusal::Precondition);
    }
    let mut response = Response::builder()
        .header(CONTENT_TYPE, &object.content_type)
        .header("x-goog-generation", object.generation)
        .header("x-goog-metageneration", 1)
        .header("x-goog-hash", format!("crc32c={}", told(object, wrong_checksum)))
        .header("x-goog-stored-content-length", object.size)
        .header("x-goog-storage-class", "STANDARD");
    for (key, value) in &object.metadata {
        response = response.header(format!("x-goog-meta-{key}"), value);
    }
    let bytes = object.bytes();
    let Some(range) = parts.headers.get("range") else { return Ok(response.body(bytes.into()).unwrap()) };
    let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (from, to) = range.split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    if from >= bytes.len() {
        return Ok(response.status(416).body(Body::empty()).unwrap());
    }
    let end = to.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
    let told = format!("bytes {from}-{}/{}", end - 1, bytes.len());
    Ok(response.status(206).header("content-range", told).body(bytes.slice(from..end).into()).unwrap())
}

/// Serves a link to whoever has it, if the signature allows it.
fn follow(state: &State, parts: &Parts, bucket: &str, name: &str) -> Response<Body> {
    let problem = |status: u16, code: &str| {
        Response::builder().status(status).body(format!("<Error><Code>{code}</Code></Error>").into()).unwrap()
    };
    if let Some(account) = &state.account
        && let Err(fault) = signed::verify(account, parts, *state.now.lock().unwrap())
    {
        return problem(fault.status(), fault.code());
    }
    let objects = state.objects.lock().unwrap();
    let Some(object) = objects.get(bucket, name) else { return problem(404, "NoSuchKey") };
    let mut response = Response::builder().header(CONTENT_TYPE, &object.content_type);
    if !object.cache_control.is_empty() {
        response = response.header("cache-control", &object.cache_control);
    }
    if let Some(disposition) = query(&parts.uri).get("response-content-disposition") {
        response = response.header("content-disposition", disposition);
    }
    response.body(object.bytes().into()).unwrap()
}

fn failure(refusal: Refusal, segments: &[&str]) -> Response<Body> {
    let (status, message) = match refusal {
        Refusal::Invalid => (400, "Invalid argument.".to_owned()),
        Refusal::NotFound => (404, format!("No such object: {}", segments[4..].join("/").replacen("/o/", "/", 1))),
        Refusal::Precondition => (412, "At least one of the pre-conditions you specified did not hold.".to_owned()),
        Refusal::TooFast => (429, "The object exceeded the rate limit for object mutation operations.".to_owned()),
        Refusal::Unavailable => (503, "Service unavailable.".to_owned()),
    };
    // Only what is asked for as media fails in plain text.
    let body = if segments.first() == Some(&"upload") {
        json!({"error": {"code": status, "message": message, "errors": []}}).to_string()
    } else {
        message
    };
    Response::builder().status(status).body(body.into()).unwrap()
}
