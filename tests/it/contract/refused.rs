//! What a refusal looks like, whatever the reason.

use serde_json::{Value, json};

use super::{quick, row};
use crate::process::{Answer, Service, Settings};

/// Sends a request that is made by hand.
async fn send(service: &Service, change: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder) -> Answer {
    let request = service.client.post(format!("{}/images", service.url));
    Answer::of(change(request).send().await.unwrap()).await
}

#[tokio::test]
async fn a_problem_body_has_the_members_of_the_standard_and_a_stable_code() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let problem = service.get("/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV").await.expect_problem(404, "not_found");
    let expected = json!({"type": "urn:orchestrator:error:not_found", "title": "Not found", "status": 404,
        "detail": "there is no such batch, or it is another user's; GET /images lists yours", "instance": "/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "code": "not_found"});
    assert_eq!(problem, expected);
    for path in ["/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/events", "/progress/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        service.get(path).await.expect_problem(404, "not_found");
        let head = service.client.head(format!("{}{path}", service.url)).send().await.unwrap();
        assert_eq!(head.status().as_u16(), 404, "{path}");
    }
    service
        .post("/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/cancel", &json!({}), &[])
        .await
        .expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_method_that_an_address_does_not_take_is_answered_with_those_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    for (method, path, allowed) in [
        ("PUT", "/images", "GET,HEAD,POST"),
        ("DELETE", "/images/x", "GET,HEAD"),
        ("GET", "/images/x/cancel", "POST"),
        ("POST", "/images/x/events", "GET,HEAD"),
        ("POST", "/progress/x", "GET,HEAD"),
        ("POST", "/images/x/items/a/1", "GET,HEAD"),
        ("POST", "/assets/x", "GET,HEAD"),
        ("PATCH", "/health", "GET,HEAD"),
        ("POST", "/openapi.json", "GET,HEAD"),
    ] {
        let request = service.client.request(method.parse().unwrap(), format!("{}{path}", service.url));
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.expect_problem(405, "method_not_allowed");
        let mut methods: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_also_if_it_does_not_say_so_first() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("MAX_BODY_BYTES", "2KiB").start().await;
    let json = |request: reqwest::RequestBuilder| request.header("content-type", "application/json");
    let big = row(&"x".repeat(3_000)).to_string();
    send(&service, |request| json(request).body(big.clone())).await.expect_problem(413, "payload_too_large");
    let pieces: Vec<_> = big.into_bytes().chunks(500).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
    let unannounced = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    send(&service, |request| json(request).body(unannounced)).await.expect_problem(413, "payload_too_large");
    // The bound itself is taken.
    let mut body = row("x").to_string();
    body.push_str(&" ".repeat(2_048 - body.len()));
    send(&service, |request| json(request).body(body)).await.expect(202);
}

#[tokio::test]
async fn a_body_must_be_plain_json() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let body = row("a cup").to_string();
    send(&service, |request| request.body(body.clone())).await.expect_problem(415, "unsupported_media_type");
    let zipped = |request: reqwest::RequestBuilder| {
        request.header("content-type", "application/json").header("content-encoding", "gzip").body(body.clone())
    };
    send(&service, zipped).await.expect_problem(415, "unsupported_media_type");
    let charset = |request: reqwest::RequestBuilder| {
        request.header("content-type", "Application/JSON; charset=utf-8").body(body.clone())
    };
    send(&service, charset).await.expect(202);
    for (text, says) in [
        ("", "empty"),
        ("{\"items\": [\n1,}", "line 2 column 3"),
        ("{} {}", "trailing"),
        ("[]", "object"),
        ("{\"runMode\":\"dry_run\",\"runMode\":\"live\"}", "twice"),
    ] {
        let answer = send(&service, |request| request.header("content-type", "application/json").body(text)).await;
        let fault = &answer.expect_problem(400, "invalid_request")["errors"][0];
        assert!(fault["pointer"].is_string() && fault["detail"].as_str().unwrap().contains(says), "{text}: {fault}");
    }
}

#[tokio::test]
async fn faults_of_header_and_body_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let answer = service.post("/images", &row(" "), &[("idempotency-key", "a b")]).await;
    let problem = answer.expect_problem(400, "invalid_request");
    let faults: Vec<(&Value, &Value)> =
        problem["errors"].as_array().unwrap().iter().map(|fault| (&fault["header"], &fault["pointer"])).collect();
    assert_eq!(faults, [(&json!("Idempotency-Key"), &Value::Null), (&Value::Null, &json!("/items/0/prompt"))]);
    let answer = service.get("/images?limit=0&state=asleep").await.expect_problem(400, "invalid_request");
    let parameters: Vec<&Value> =
        answer["errors"].as_array().unwrap().iter().map(|fault| &fault["parameter"]).collect();
    assert_eq!(parameters, ["limit", "state"]);
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let request = service.client.get(format!("{}/health", service.url)).header("x-long", "x".repeat(40_000));
    Answer::of(request.send().await.unwrap()).await.expect_problem(431, "headers_too_large");
}

#[tokio::test]
async fn web_pages_of_other_names_and_origins_are_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let request = service.client.get(format!("{}/images", service.url)).header("host", "rebound.example.com");
    Answer::of(request.send().await.unwrap()).await.expect_problem(403, "forbidden");
    let foreign = [("origin", "https://example.com")];
    service.post("/images", &row("a cup"), &foreign).await.expect_problem(403, "forbidden");
    assert_eq!(service.get("/images").await.json()["batches"], json!([]));
}
