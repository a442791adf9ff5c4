//! Walks the description: every status of every route, and every code that its text names, is provoked on the running
//! service, and every answer is held against it. What is described and not seen fails, and so does the reverse.

use std::collections::BTreeSet;
use std::path::Path;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::schema;
use crate::access::{from_address, key, keyed};
use crate::process::{Answer, Service, Settings, batch};

/// What no call can provoke in the time of a test, and where it is shown instead.
const UNSEEN: [(&str, &str, &str); 7] = [
    ("post /images", "409 idempotency_in_progress", "two requests at the same moment: unit tests of `problem`"),
    ("post /references", "409 idempotency_in_progress", "the same"),
    ("post /images/{batchId}/retry", "409 idempotency_in_progress", "the same"),
    (
        "post /images/{batchId}/retry",
        "422 model_unknown",
        "the price table changes in between: unit tests of `problem`",
    ),
    ("post /images/{batchId}/retry", "422 model_retired", "the same"),
    ("post /images/{batchId}/retry", "422 size_unpriced", "the same"),
    ("post /images/{batchId}/retry", "422 aspect_ratio_unsupported", "the same"),
];

/// Headers of the connection, and those for browsers: they are no part of the contract.
const NOT_DESCRIBED: [&str; 13] = [
    "access-control-expose-headers",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-resource-policy",
    "date",
    "referrer-policy",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
    "x-frame-options",
];

const UNKNOWN: &str = "bat_01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// The description, and what was seen of it: `status` and `status code` of operations, and headers.
struct Walk {
    description: Value,
    seen: BTreeSet<(String, String)>,
    headers: BTreeSet<String>,
}

/// The codes that a text names.
fn codes<'a>(description: &'a Value, text: &str) -> Vec<&'a str> {
    let all = description["components"]["schemas"]["Code"]["enum"].as_array().unwrap().iter();
    all.filter_map(Value::as_str).filter(|code| text.contains(&format!("`{code}`"))).collect()
}

fn resolved<'a>(description: &'a Value, part: &'a Value) -> &'a Value {
    part["$ref"].as_str().map_or(part, |at| description.pointer(&at[1..]).unwrap())
}

impl Walk {
    fn operations(&self) -> Vec<(String, Value)> {
        let mut operations = Vec::new();
        for (path, item) in self.description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                operations.push((format!("{method} {path}"), operation.clone()));
            }
        }
        operations
    }

    /// Those that describe an answer of `status`.
    fn with_status(&self, status: &str) -> Vec<String> {
        let with = |(_, operation): &(String, Value)| !operation["responses"][status].is_null();
        self.operations().into_iter().filter(with).map(|(name, _)| name).collect()
    }

    /// Sends a request, and holds the answer against the description of `operation`.
    async fn ask(&mut self, operation: &str, request: RequestBuilder) -> Answer {
        let answer = Answer::of(request.send().await.unwrap()).await;
        self.compare(operation, answer)
    }

    fn compare(&mut self, operation: &str, answer: Answer) -> Answer {
        let (method, path) = operation.split_once(' ').unwrap();
        let responses = &self.description["paths"][path][method]["responses"];
        let status = answer.status.to_string();
        let status = if responses[&status].is_null() { "default".to_owned() } else { status };
        assert!(answer.status >= 400 || status != "default", "{operation}: {} is not described", answer.status);
        let described = resolved(&self.description, &responses[&status]);
        let whole = format!("{operation}: {} {:?} {}", answer.status, answer.headers, answer.text);
        self.seen.insert((operation.to_owned(), status.clone()));

        for name in answer.headers.keys().map(reqwest::header::HeaderName::as_str) {
            let headers = described["headers"].as_object();
            let known = headers.and_then(|headers| headers.keys().find(|known| known.eq_ignore_ascii_case(name)));
            assert!(known.is_some() || NOT_DESCRIBED.contains(&name), "{name} is not described: {whole}");
            self.headers.extend(known.cloned());
        }
        let content = described["content"].as_object();
        let kind = answer.header("content-type").split(';').next().unwrap().to_owned();
        let body = content.and_then(|content| content.get(&kind));
        let is_empty = method == "head" || answer.text.is_empty();
        assert!(is_empty || body.is_some(), "{kind} is not described: {whole}");
        if is_empty || !kind.ends_with("json") {
            return answer;
        }
        let value = answer.json();
        let faults = schema::faults(&self.description, &body.unwrap()["schema"], &value);
        assert!(faults.is_empty(), "{faults:#?}: {whole}");
        if let Some(code) = value["code"].as_str() {
            let named = codes(&self.description, described["description"].as_str().unwrap());
            assert!(status == "default" || named.contains(&code), "{code} is not described: {whole}");
            self.seen.insert((operation.to_owned(), format!("{status} {code}")));
        }
        answer
    }

    /// Sends a request without anything special to `operation`.
    async fn plainly(&mut self, service: &Service, operation: &str, ids: &[(&str, &str)]) -> Answer {
        let request = plain(service, &service.client, operation, ids);
        self.ask(operation, request).await
    }

    /// All that is described and was not seen.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (operation, described) in self.operations() {
            for (status, response) in described["responses"].as_object().unwrap() {
                let text = resolved(&self.description, response)["description"].as_str().unwrap();
                let named = codes(&self.description, text).into_iter().map(|code| format!("{status} {code}"));
                for what in std::iter::once(status.clone()).chain(named) {
                    let is_head = operation.starts_with("head") && what.contains(' ');
                    let is_excused = |(of, code, _): &&(&str, &str, &str)| {
                        *of == operation && (*code == what || code.split(' ').next() == Some(what.as_str()))
                    };
                    let excused = UNSEEN.iter().find(is_excused);
                    let seen = self.seen.contains(&(operation.clone(), what.clone()));
                    if !seen && excused.is_none() && !is_head {
                        missing.push(format!("{operation}: {what}"));
                    }
                }
            }
        }
        for header in self.description["components"]["headers"].as_object().unwrap().keys() {
            if !self.headers.contains(header) {
                missing.push(format!("the header {header}"));
            }
        }
        missing
    }
}

/// A request to `operation` with these ids in its path, from `client`.
fn plain(service: &Service, client: &reqwest::Client, operation: &str, ids: &[(&str, &str)]) -> RequestBuilder {
    let (method, path) = operation.split_once(' ').unwrap();
    let mut path = path.to_owned();
    for (name, value) in ids.iter().chain(&[("batchId", UNKNOWN), ("sceneId", "a"), ("variant", "1")]) {
        path = path.replace(&format!("{{{name}}}"), value);
    }
    let path = path.replace("{path}", "images/a/1.png").replace("{file}", "none.js");
    client.request(method.to_uppercase().parse::<Method>().unwrap(), format!("{}{path}", service.url))
}

fn form(files: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for file in files {
        body.extend_from_slice(b"--x\r\nContent-Disposition: form-data; name=\"images\"; filename=\"a.png\"\r\n\r\n");
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--x--\r\n");
    body
}

fn one(prompt: &str) -> Value {
    json!({"runMode": "live", "items": [{"sceneId": "a", "prompt": prompt}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_status_of_every_route_is_answered_as_it_is_described() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let description = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut walk = Walk { description, seen: BTreeSet::new(), headers: BTreeSet::new() };
    let late = tokio::spawn(bodies_that_do_not_come());
    an_open_service(&mut walk).await;
    calls_that_hang(&mut walk).await;
    little_money(&mut walk).await;
    switched_off(&mut walk).await;
    with_keys(&mut walk).await;
    a_full_disk(&mut walk).await;
    for (operation, answer) in late.await.unwrap() {
        walk.compare(operation, answer).expect(408);
    }
    let missing = walk.missing();
    assert!(missing.is_empty(), "described, and never answered: {missing:#?}");
    for (operation, what, _) in UNSEEN {
        assert!(!walk.seen.contains(&(operation.to_owned(), what.to_owned())), "{operation}: {what} can be seen");
    }
}

fn json_body(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request.header("content-type", "application/json").body(body.to_string())
}

fn get(service: &Service, path: &str) -> RequestBuilder {
    service.client.get(format!("{}{path}", service.url))
}

fn post(service: &Service, path: &str, body: &Value) -> RequestBuilder {
    json_body(service.client.post(format!("{}{path}", service.url)), body)
}

const SUBMIT: &str = "post /images";
const RETRY: &str = "post /images/{batchId}/retry";
const STREAMS: [&str; 2] = ["/images/{batchId}/events", "/progress/{batchId}"];
const PICTURES: [&str; 2] =
    ["get /images/{batchId}/items/{sceneId}/{variant}", "get /images/{batchId}/items/{sceneId}/{variant}/thumbnail"];

/// What goes well, and what is refused whoever asks.
async fn an_open_service(walk: &mut Walk) {
    let folder = tempfile::tempdir().unwrap();
    let prices = orchestrator::domain::prices::EMBEDDED
        .replace("max_text_tokens = 2048", "max_text_tokens = 2048\naspect_ratios = [\"1:1\"]");
    std::fs::write(folder.path().join("prices.toml"), prices).unwrap();
    let settings = Settings::new(folder.path()).with("MAX_BODY_BYTES", "4KiB").with("REFERENCE_MAX_BYTES", "4KiB");
    let settings = settings.with("PRICES_FILE", folder.path().join("prices.toml").to_str().unwrap());
    let service = settings.start().await;
    about_the_service(walk, &service).await;
    let made = submissions(walk, &service).await;
    readings(walk, &service, &made).await;
    streams(walk, &service, &made).await;
    uploads(walk, &service).await;
    let refused = retries(walk, &service, &made).await;
    for operation in walk.with_status("404") {
        walk.plainly(&service, &operation, &[]).await.expect(404);
    }
    for (operation, _) in walk.operations() {
        let request = plain(&service, &service.client, &operation, &[]).header("x-long", "x".repeat(33 << 10));
        walk.ask(&operation, request).await.expect(431);
    }
    assert_eq!(service.stop().await, Some(0));

    let service = settings.with("RUN_MODE", "dry_run").start().await;
    walk.ask(SUBMIT, post(&service, "/images", &one("a cup"))).await.expect(403);
    let codes = json!({"codes": ["safety_blocked"]});
    walk.ask(RETRY, post(&service, &format!("/images/{refused}/retry"), &codes)).await.expect(403);
}

async fn about_the_service(walk: &mut Walk, service: &Service) {
    for operation in [
        "health",
        "healthz",
        "ready",
        "readyz",
        "metrics-lite",
        "metrics",
        "overview",
        "openapi.json",
        "docs",
        "budget",
        "models",
        "",
    ] {
        walk.plainly(service, &format!("get /{operation}"), &[]).await.expect(200);
    }
    walk.ask("get /docs/{file}", get(service, "/docs/docs.js")).await.expect(200);
    walk.ask("get /docs/{file}", get(service, "/docs/docs.css")).await.expect(200);
    for (operation, path) in [("get /", "/"), ("get /console/{file}", "/console/app.js")] {
        let page = walk.ask(operation, get(service, path)).await.expect(200);
        walk.ask(operation, get(service, path).header("if-none-match", page.header("etag"))).await.expect(304);
    }
    walk.ask("get /console/{file}", get(service, "/console/style.css")).await.expect(200);
    walk.plainly(service, "post /batch/images", &[]).await.expect(308);
    walk.ask("get /budget", service.client.put(format!("{}/budget", service.url))).await.expect(405);
    walk.plainly(service, "post /session", &[]).await.expect(200);
    walk.plainly(service, "delete /session", &[]).await.expect(204);
}

/// Batches of every kind; the one that was made.
async fn submissions(walk: &mut Walk, service: &Service) -> Value {
    let post = |body: &Value| post(service, "/images", body);
    let mut dry = one("a cup");
    dry["runMode"] = json!("dry_run");
    walk.ask(SUBMIT, post(&dry)).await.expect(200);
    walk.ask(SUBMIT, post(&one("")).header("idempotency-key", "a b")).await.expect(400);
    let text = service.client.post(format!("{}/images", service.url)).header("content-type", "text/plain").body("a");
    walk.ask(SUBMIT, text).await.expect(415);
    walk.ask(SUBMIT, post(&one(&"x".repeat(5_000)))).await.expect(413);
    for (model, size, ratio) in [
        ("dall-e", "1K", "1:1"),
        ("gemini-3.1-flash-image", "1K", "1:1"),
        ("gemini-nano-banana-2.1", "2K", "1:1"),
        ("gemini-3-pro-image", "1K", "21:9"),
    ] {
        let mut body = one("a cup");
        body["model"] = json!(model);
        body["items"][0]["imageSize"] = json!(size);
        body["items"][0]["aspectRatio"] = json!(ratio);
        walk.ask(SUBMIT, post(&body)).await.expect(422);
    }
    let keyed = |body: &Value| post(body).header("idempotency-key", "k").header("prefer", "wait=30");
    let made = walk.ask(SUBMIT, keyed(&one("a cup"))).await.expect(200).json();
    walk.ask(SUBMIT, keyed(&one("a cup"))).await.expect(200);
    walk.ask(SUBMIT, keyed(&one("a mug"))).await.expect(422);
    walk.ask(SUBMIT, post(&one("a cup"))).await.expect(202);
    made
}

async fn readings(walk: &mut Walk, service: &Service, made: &Value) {
    let id = made["batchId"].as_str().unwrap();
    walk.plainly(service, "get /images", &[]).await.expect(200);
    walk.ask("get /images", get(service, "/images?limit=0")).await.expect(400);
    let read = "get /images/{batchId}";
    let tag = walk.plainly(service, read, &[("batchId", id)]).await.expect(200).header("etag").to_owned();
    walk.ask(read, get(service, &format!("/images/{id}")).header("if-none-match", tag)).await.expect(304);
    walk.ask(read, get(service, &format!("/images/{id}?limit=0"))).await.expect(400);
    let results = "get /images/{batchId}/results";
    for format in ["csv", "jsonl", "zip"] {
        walk.ask(results, get(service, &format!("/images/{id}/results?format={format}"))).await.expect(200);
    }
    walk.ask(results, get(service, &format!("/images/{id}/results?format=xls"))).await.expect(400);
    let webhooks = "get /images/{batchId}/webhooks";
    walk.plainly(service, webhooks, &[("batchId", id)]).await.expect(200);
    walk.ask(webhooks, get(service, &format!("/images/{id}/webhooks?limit=0"))).await.expect(400);
    walk.plainly(service, "post /images/{batchId}/cancel", &[("batchId", id)]).await.expect(200);
    for picture in PICTURES {
        walk.plainly(service, picture, &[("batchId", id)]).await.expect(302);
    }
    let url = made["items"][0]["images"][0]["url"].as_str().unwrap();
    walk.ask("get /assets/{path}", get(service, url)).await.expect(200);
}

async fn streams(walk: &mut Walk, service: &Service, made: &Value) {
    let (id, last) = (made["batchId"].as_str().unwrap(), made["lastEvent"].to_string());
    walk.plainly(service, "post /images/{batchId}/stream-token", &[("batchId", id)]).await.expect(200);
    for path in STREAMS {
        let operation = format!("get {path}");
        walk.plainly(service, &operation, &[("batchId", id)]).await.expect(200);
        walk.plainly(service, &format!("head {path}"), &[("batchId", id)]).await.expect(200);
        let from = |number: &str| get(service, &path.replace("{batchId}", id)).header("last-event-id", number);
        walk.ask(&operation, from(&last)).await.expect(204);
        walk.ask(&operation, from("x")).await.expect(400);
    }
}

async fn uploads(walk: &mut Walk, service: &Service) {
    let operation = "post /references";
    let upload = |files: &[Vec<u8>]| {
        let request = service.client.post(format!("{}/references", service.url));
        request.header("content-type", "multipart/form-data; boundary=x").body(form(files))
    };
    let png = crate::fake_gemini::png();
    let other = crate::uploads::encoded(&crate::uploads::plain(7), image::ImageFormat::Png);
    for (file, status) in [(&png, 201), (&png, 201), (&other, 422)] {
        let request = upload(std::slice::from_ref(file)).header("idempotency-key", "r");
        walk.ask(operation, request).await.expect(status);
    }
    walk.ask(operation, upload(&[])).await.expect(400);
    walk.ask(operation, upload(&[vec![0; 5_000]])).await.expect(413);
    walk.ask(operation, upload(&[b"text".to_vec()])).await.expect(415);
}

/// Retries of every kind; a batch whose picture was refused.
async fn retries(walk: &mut Walk, service: &Service, made: &Value) -> String {
    let id = made["batchId"].as_str().unwrap();
    walk.plainly(service, RETRY, &[("batchId", id)]).await.expect(409);
    walk.ask(RETRY, post(service, &format!("/images/{id}/retry"), &json!({"codes": ["none"]}))).await.expect(400);
    let refused = post(service, "/images", &one("[refuse-unpaid]")).header("prefer", "wait=30");
    let refused = walk.ask(SUBMIT, refused).await.expect(200).json();
    let refused = refused["batchId"].as_str().unwrap().to_owned();
    let retried = |code: &str| post(service, &format!("/images/{refused}/retry"), &json!({"codes": [code]}));
    walk.ask(RETRY, retried("safety_blocked").header("idempotency-key", "k")).await.expect(202);
    service.finished(&refused).await;
    walk.ask(RETRY, retried("safety_blocked").header("idempotency-key", "k")).await.expect(202);
    walk.ask(RETRY, retried("no_image").header("idempotency-key", "k")).await.expect(422);
    walk.ask(RETRY, retried("safety_blocked").header("prefer", "wait=30")).await.expect(200);
    refused
}

/// Bodies that are announced and do not come, which takes a while to find out.
async fn bodies_that_do_not_come() -> [(&'static str, Answer); 2] {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let post = async |operation: &'static str, kind: &str| {
        let nothing = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let request = plain(&service, &service.client, operation, &[]).header("content-type", kind);
        let answer = request.body(reqwest::Body::wrap_stream(nothing)).send().await.unwrap();
        (operation, Answer::of(answer).await)
    };
    tokio::join!(post("post /images", "application/json"), post("post /references", "multipart/form-data; boundary=x"),)
        .into()
}

/// Pictures that are not made yet.
async fn calls_that_hang(walk: &mut Walk) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let service = settings.start().await;
    let id = service.submit(&one("a cup")).await;
    for picture in PICTURES {
        walk.plainly(&service, picture, &[("batchId", &id)]).await.expect_problem(404, "not_ready");
    }
    service.kill().await;
}

/// Batches and retries that do not fit the day.
async fn little_money(walk: &mut Walk) {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("DAILY_BUDGET_USD", "0.1").start().await;
    let refused = service.submit(&one("[refuse-unpaid]")).await;
    service.finished(&refused).await;
    let all = service.submit(&batch(2, 1)).await;
    service.finished(&all).await;
    walk.ask(SUBMIT, post(&service, "/images", &one("a cup"))).await.expect(402);
    let codes = json!({"codes": ["safety_blocked"]});
    walk.ask(RETRY, post(&service, &format!("/images/{refused}/retry"), &codes)).await.expect(402);
}

async fn switched_off(walk: &mut Walk) {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("SSE_ENABLED", "false").start().await;
    for path in STREAMS {
        walk.plainly(&service, &format!("get {path}"), &[]).await.expect_problem(404, "feature_disabled");
    }
}

/// What is refused because of who asks.
async fn with_keys(walk: &mut Walk) {
    let folder = tempfile::tempdir().unwrap();
    let entry = |name: &str, seed: u8, scopes: &str| format!("{name}={};scopes={scopes}", key(seed));
    let entries = [entry("alice", 1, "submit+read"), entry("reader", 2, "read"), entry("writer", 3, "submit")];
    let settings = keyed(folder.path(), &entries).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let service = settings.with("MAX_STREAMS_PER_USER", "1").with("RATE_LIMIT_PER_MINUTE", "20").start().await;
    let by = |request: RequestBuilder, seed: u8| request.header("authorization", format!("Bearer {}", key(seed)));

    for operation in walk.with_status("401") {
        walk.plainly(&service, &operation, &[]).await.expect(401);
    }
    for operation in walk.with_status("403") {
        let request = plain(&service, &service.client, &operation, &[]);
        let reads = !operation.starts_with("post") || operation.ends_with("stream-token");
        let request = match operation.as_str() {
            "post /session" => by(request, 1).header("origin", "https://evil.example"),
            "delete /session" => request.header("origin", "https://evil.example"),
            _ if reads => by(request, 3),
            _ => by(request, 2),
        };
        walk.ask(&operation, request).await.expect(403);
    }
    walk.ask("post /session", by(plain(&service, &service.client, "post /session", &[]), 1)).await.expect(200);
    let answer = walk.ask(SUBMIT, by(post(&service, "/images", &one("a cup")), 1)).await.expect(202).json();
    let id = answer["batchId"].as_str().unwrap();
    let open = by(plain(&service, &service.client, "get /progress/{batchId}", &[("batchId", id)]), 1);
    let open = open.send().await.unwrap();
    assert_eq!(open.status().as_u16(), 200);
    for path in STREAMS {
        let operation = format!("get {path}");
        let request = by(plain(&service, &service.client, &operation, &[("batchId", id)]), 1);
        walk.ask(&operation, request).await.expect_problem(429, "too_many_streams");
    }
    drop(open);
    // Too many changes of one who may, then too many keys that are none from one address.
    let mut left = 1_000;
    loop {
        let request = by(plain(&service, &service.client, "post /images/{batchId}/cancel", &[]), 3);
        if walk.ask("post /images/{batchId}/cancel", request).await.status == 429 {
            break;
        }
        left -= 1;
        assert!(left > 0, "nobody counts changes");
    }
    let stranger = from_address(9);
    let wrong = |operation: &str| by(plain(&service, &stranger, operation, &[]), 9);
    while wrong("get /budget").send().await.unwrap().status().as_u16() != 429 {}
    for operation in walk.with_status("429") {
        walk.ask(&operation, wrong(&operation)).await.expect(429);
    }
    service.kill().await;
}

async fn a_full_disk(walk: &mut Walk) {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).that_may_fill_its_disk().start().await;
    crate::storage_faults::limit_files(&service, "0").await;
    for operation in ["get /ready", "get /readyz"] {
        walk.plainly(&service, operation, &[]).await.expect(503);
    }
    service.kill().await;
}
