//! Traces by the real program: what a collector gets, and what a collector that does not work can do.

mod collector;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::domain::ids::BatchId;
use orchestrator::domain::time::Timestamp;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::collector::{Collector, Reaction, Seen};
use crate::bench::Bench;
use crate::bill::{paid, png, prompts};
use crate::books::{micros, on};
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{Service, Settings, batch};

on_both_engines!(
    a_batch_is_one_trace_with_every_attempt,
    a_retry_adds_to_the_trace_and_leaves_its_root_alone,
    a_retry_before_the_end_belongs_to_the_run_and_one_after_it_begins_the_next,
    a_kill_and_a_restart_write_into_the_same_trace,
);

/// Whose trace a caller is in.
const CALLER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER_SPAN: &str = "00f067aa0b1902b7";

fn collected(settings: Settings, collector: &Collector) -> Settings {
    settings.with("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.clone())
}

fn trace_of(batch: &str) -> String {
    format!("{:032x}", batch.parse::<BatchId>().unwrap().bits())
}

/// A time of a view, in nanoseconds.
async fn nanos(database: &Database, column: &str) -> u64 {
    u64::try_from(database.number(&format!("SELECT {column} FROM batches")).await).unwrap() * 1_000_000
}

/// The spans below `parent`, by name.
fn below<'a>(spans: &'a [Seen], parent: &Seen) -> Vec<&'a str> {
    let mut parts: Vec<&Seen> = spans.iter().filter(|span| span.parent == parent.id).collect();
    parts.sort_by_key(|span| span.begun_nanos);
    for part in &parts {
        assert!(
            part.begun_nanos >= parent.begun_nanos && part.ended_nanos <= parent.ended_nanos,
            "{part:?} {parent:?}"
        );
    }
    parts.into_iter().map(|span| span.name.as_str()).collect()
}

/// The lines with this message.
fn said<'a>(log: &'a [Value], message: &str) -> Vec<&'a Value> {
    log.iter().filter(|line| line["message"] == message).collect()
}

async fn a_batch_is_one_trace_with_every_attempt(database: Arc<Database>) {
    let collector = Collector::start(Reaction::Take).await;
    let settings = collected(on(&database), &collector)
        .with("OTEL_SERVICE_NAME", "pictures")
        .with("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary-header")
        .with("REFERENCE_ALLOW", "127.0.0.1:1")
        .with("REFERENCE_RETRIES", "0")
        .with("GOOGLE_CLOUD_PROJECT", "my-project")
        .with("LOG_LEVEL", "trace");
    let service = settings.start().await;
    let body = json!({"runMode": "live", "items": [
        {"sceneId": "a", "prompt": "canary-prompt"},
        {"sceneId": "b", "prompt": "canary-prompt [fail-once]"},
        {"sceneId": "c", "prompt": "canary-prompt [refuse-unpaid]"},
        {"sceneId": "d", "prompt": "canary-prompt", "references": [{"url": "http://127.0.0.1:1/canary-reference.png"}]},
    ]});
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    let (code, log) = service.stop_and_read().await;
    assert_eq!(code, Some(0));

    let spans = collector.spans();
    assert_eq!(collector.traces(), BTreeSet::from([trace_of(&id)]));
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "each span has an id of its own");
    let roots = collector.named("batch");
    let [root] = roots.as_slice() else { panic!("{roots:#?}") };
    assert_eq!((root.parent.as_str(), root.service.as_str(), root.failed), ("", "pictures", false));
    let told = ["batch", "model", "state", "pictures", "completed", "failed", "cancelled"];
    let told = told.map(|name| root.says(&format!("orchestrator.{name}")));
    assert_eq!(told, [id.as_str(), "synthetic", "partial", "4", "2", "2", "0"]);
    let cost: f64 = root.says("orchestrator.cost_usd").parse().unwrap();
    assert_eq!(micros(&json!(cost)), micros(&view["actualCost"]));
    let times = (nanos(&database, "created_at").await, nanos(&database, "finished_at").await);
    assert_eq!((root.begun_nanos, root.ended_nanos), times);

    let attempts = collector.named("attempt");
    let mut told: Vec<String> = Vec::new();
    for attempt in &attempts {
        assert_eq!(attempt.parent, root.id);
        let ended = ["image", "number", "outcome", "picture"].map(|name| attempt.says(&format!("orchestrator.{name}")));
        let image = ended[0].trim_start_matches(&id);
        let words = [image, ended[1], ended[2], ended[3], attempt.says("error.type")].join(" ");
        assert_eq!(attempt.failed, ended[2] != "made", "{words}");
        told.push(format!("{words}: {}", below(&spans, attempt).join(" ")));
    }
    told.sort();
    let expected = [
        "/1-1 1 made completed : call store",
        "/2-1 1 failed queued provider_error: call",
        "/2-1 2 made completed : call store",
        "/3-1 1 refused failed safety_blocked: call",
        "/4-1 1 refused failed reference_failed: references",
    ];
    assert_eq!(told, expected);

    let lines = said(&log, "attempt ended");
    assert_eq!(lines.len(), attempts.len());
    for attempt in &attempts {
        let is_its = |line: &&&Value| line["attempt"] == attempt.says("orchestrator.attempt");
        let line = lines.iter().find(is_its).unwrap();
        let trace = format!("projects/my-project/traces/{}", attempt.trace);
        assert_eq!(line["logging.googleapis.com/trace"], trace.as_str());
        assert_eq!(line["logging.googleapis.com/spanId"], attempt.id.as_str());
        assert_eq!(line["logging.googleapis.com/trace_sampled"], true);
    }
    let text = Value::from(log).to_string();
    for (headers, body) in collector.requests() {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["authorization"], "Bearer canary-header");
        assert!(!String::from_utf8_lossy(&body).contains("canary"));
    }
    for secret in ["canary-prompt", "canary-reference", "canary-header"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

async fn a_retry_adds_to_the_trace_and_leaves_its_root_alone(database: Arc<Database>) {
    let collector = Collector::start(Reaction::Take).await;
    let service = collected(on(&database), &collector).start().await;
    let id = service.submit(&prompts(["[refuse-unpaid]".to_owned(), "a cup".to_owned()])).await;
    service.finished(&id).await;
    let first_end = nanos(&database, "finished_at").await;
    let codes = json!({"codes": ["safety_blocked"]});
    service.post(&format!("/images/{id}/retry"), &codes, &[]).await.expect(202);
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));

    assert_eq!(collector.traces(), BTreeSet::from([trace_of(&id)]));
    let (roots, retries) = (collector.named("batch"), collector.named("batch retry"));
    let ([root], [retry]) = (roots.as_slice(), retries.as_slice()) else { panic!("{roots:#?} {retries:#?}") };
    assert_eq!((root.ended_nanos, &retry.parent), (first_end, &root.id));
    assert!(retry.begun_nanos >= first_end && retry.says("orchestrator.state") == "partial", "{retry:?}");
    let begun = "SELECT ts FROM events WHERE payload LIKE '{\"type\":\"started\"%' AND number > 1";
    assert_eq!(retry.begun_nanos, u64::try_from(database.number(begun).await).unwrap() * 1_000_000);
    let attempts = collector.named("attempt");
    assert!(attempts.len() == 3 && attempts.iter().all(|attempt| attempt.parent == root.id), "{attempts:#?}");
}

async fn a_retry_before_the_end_belongs_to_the_run_and_one_after_it_begins_the_next(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let batch = bench.submit(1, 1).await;
    let event = async |number: u64, kind: &str| {
        let values = format!("'{batch}', {number}, {}, '{{\"type\":\"{kind}\",\"total\":1}}'", 1_000 * number);
        database.execute(&format!("INSERT INTO events (batch_id, number, ts, payload) VALUES ({values})")).await;
    };
    // 1 is what began the batch.
    for (number, kind) in
        (2..).zip(["started", "image_failed", "done", "notice", "started", "started", "done", "started"])
    {
        event(number, kind).await;
    }
    let retry = async |done: u64| bench.store.load_run(batch, done).await.unwrap().unwrap().retry;
    let at = |number: u64| Some((number, Timestamp::from_millis(1_000 * i64::try_from(number).unwrap())));
    assert_eq!((retry(4).await, retry(8).await, retry(10).await), (None, at(6), at(9)));
    let run = bench.store.load_run(batch, 4).await.unwrap().unwrap();
    let created_at = Timestamp::from_millis(database.number("SELECT created_at FROM batches").await);
    assert_eq!((run.model.as_str(), run.created_at), ("synthetic", created_at));
    assert_eq!(bench.store.load_run(BatchId::new(ulid::Ulid::nil()), 4).await.unwrap(), None);
}

async fn a_kill_and_a_restart_write_into_the_same_trace(database: Arc<Database>) {
    let collector = Collector::start(Reaction::Take).await;
    let fake = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), |prompt, tried| {
        if prompt == "stall" && tried == 0 { Fault::Stall } else { Fault::None }
    })
    .await;
    let settings = collected(paid(on(&database), &fake), &collector).with("LEASE_DURATION", "1s");
    let service = settings.start().await;
    let id = service.submit(&prompts(["a cup".to_owned(), "stall".to_owned()])).await;
    service.until_so(async || fake.calls().len() == 2 && collector.named("attempt").len() == 1).await;
    service.kill().await;

    let service = settings.start().await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(collector.traces(), BTreeSet::from([trace_of(&id)]));
    let (roots, attempts) = (collector.named("batch"), collector.named("attempt"));
    let [root] = roots.as_slice() else { panic!("{roots:#?}") };
    let told: Vec<(&str, &str)> = attempts
        .iter()
        .map(|attempt| (attempt.says("orchestrator.outcome"), attempt.says("orchestrator.picture")))
        .collect();
    assert_eq!(told, [("made", "completed"), ("unknown", "queued"), ("made", "completed")]);
    assert!(attempts.iter().all(|attempt| attempt.parent == root.id));
    assert_ne!(attempts[0].instance, attempts[1].instance, "the second process tells of the call of the first");
    let started = "SELECT started_at FROM attempts WHERE state = 'unknown'";
    let started = u64::try_from(database.number(started).await).unwrap() * 1_000_000;
    assert_eq!(attempts[1].begun_nanos, started, "from the moment at which the first process started it");
    assert!(attempts[1].ended_nanos > started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_ends_with_its_cancel_has_its_root() {
    let (folder, collector) = (tempfile::tempdir().unwrap(), Collector::start(Reaction::Take).await);
    let settings = collected(Settings::new(folder.path()), &collector)
        .with("SYNTHETIC_LATENCY", "1h")
        .with("PROVIDER_TIMEOUT", "2h")
        .with("PROVIDER_CONCURRENCY", "1")
        .with("SHUTDOWN_GRACE", "1s");
    let service = settings.start().await;
    service.submit(&batch(1, 1)).await;
    service.until(|metrics| metrics["callsStarted"] == 1, "/metrics-lite").await;
    let waiting = service.submit(&batch(2, 1)).await;
    service.post(&format!("/images/{waiting}/cancel"), &Value::Null, &[]).await.expect(200);
    service.until_so(async || !collector.named("batch").is_empty()).await;
    let root = collector.named("batch").remove(0);
    assert_eq!((root.trace, root.about["orchestrator.state"].as_str()), (trace_of(&waiting), "cancelled"));
    assert_eq!(root.about["orchestrator.cancelled"], "2");
}

/// A request in the caller's trace.
async fn asked(service: &Service, flags: &str, key: &str) -> u16 {
    let parent = format!("00-{CALLER}-{CALLER_SPAN}-{flags}");
    let headers = [("traceparent", parent.as_str()), ("x-api-key", key)];
    service.post("/images", &batch(1, 1), &headers).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changing_request_joins_its_callers_trace_and_leads_to_the_batchs() {
    let (folder, collector) = (tempfile::tempdir().unwrap(), Collector::start(Reaction::Take).await);
    let key = orchestrator::domain::access::ApiKey::from_random([1; 6], [2; 24]).reveal();
    let settings = collected(Settings::new(folder.path()), &collector).with("API_KEYS", format!("alice={key}"));
    let service = settings.start().await;
    assert_eq!(asked(&service, "00", &key).await, 202);
    assert_eq!(asked(&service, "01", "not-a-key").await, 401);
    assert_eq!(asked(&service, "01", &key).await, 202);
    let reading = service.client.get(format!("{}/images", service.url)).header("x-api-key", &key);
    let google = format!("{CALLER}/255;o=1");
    let view = reading.header("x-cloud-trace-context", google).send().await.unwrap().text().await.unwrap();
    let view: Value = serde_json::from_str(&view).unwrap();
    let newest = view["batches"][0]["batchId"].as_str().unwrap();
    service.until_so(async || collector.named("batch").len() == 2).await;
    let (_, log) = service.stop_and_read().await;

    let requests: Vec<Seen> = collector.spans().into_iter().filter(|span| span.trace == CALLER).collect();
    let [request] = requests.as_slice() else { panic!("{requests:#?}") };
    assert_eq!((request.name.as_str(), request.parent.as_str()), ("POST /images", CALLER_SPAN));
    let root = collector.named("batch").into_iter().find(|root| root.trace == trace_of(newest)).unwrap();
    assert_eq!(request.links, [(root.trace, root.id)]);
    assert_eq!((request.says("http.response.status_code"), request.says("orchestrator.batch")), ("202", newest));
    assert!(!request.failed);

    let field = |line: &Value, name: &str| line[&format!("logging.googleapis.com/{name}")].clone();
    let answered: Vec<[Value; 3]> = said(&log, "answered")
        .into_iter()
        .map(|line| [field(line, "trace"), field(line, "spanId"), field(line, "trace_sampled")])
        .collect();
    let expected = [
        [json!(CALLER), json!(CALLER_SPAN), json!(false)],
        [json!(CALLER), answered[1][1].clone(), json!(true)],
        [json!(CALLER), json!(request.id), json!(true)],
        [json!(CALLER), json!("00000000000000ff"), json!(true)],
    ];
    assert_eq!(answered, expected);
    let accepted: Vec<Value> = said(&log, "batch accepted").iter().map(|line| field(line, "trace")).collect();
    assert_eq!(accepted[1], trace_of(newest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_work_costs_nothing_but_spans() {
    for reaction in [None, Some(Reaction::Fail), Some(Reaction::Hang), Some(Reaction::RefuseOne)] {
        let folder = tempfile::tempdir().unwrap();
        let collector = Collector::start(reaction.unwrap_or(Reaction::Take)).await;
        let settings = Settings::new(folder.path()).with("THUMBNAILS_ENABLED", "false");
        let settings = match reaction {
            None => settings.with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            Some(_) => collected(settings, &collector),
        };
        let service = settings.start().await;
        let first = service.submit(&batch(1, 1)).await;
        service.finished(&first).await;
        if reaction.is_some() {
            service.until_so(async || !collector.requests().is_empty()).await;
        } else {
            service.until_so(async || service.log().contains("spans are lost")).await;
        }
        let second = service.submit(&batch(4, 1)).await;
        let view = service.finished(&second).await;
        assert_eq!(view["state"], "completed", "{reaction:?}");
        let time = |name: &str| OffsetDateTime::parse(view[name].as_str().unwrap(), &Rfc3339).unwrap();
        let took = time("finishedAt") - time("createdAt");
        assert!(took < Duration::from_secs(5), "{reaction:?}: {took:?}, where a request to a collector may take 5 s");
        let (code, log) = service.stop_and_read().await;
        assert_eq!(code, Some(0), "{reaction:?}");
        let told = said(&log, "spans are lost: the trace collector does not take them").len();
        let cut = said(&log, "the trace collector does not answer: the last spans are lost").len();
        // A stop waits for an answer for two seconds; whether the last request's own five are over by then is chance.
        let hangs = reaction == Some(Reaction::Hang);
        assert!(told <= 1 && cut <= usize::from(hangs) && told + cut >= 1, "{reaction:?}: {told} {cut}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_unless_a_collector_is_named() {
    let (folder, collector) = (tempfile::tempdir().unwrap(), Collector::start(Reaction::Take).await);
    let settings = Settings::new(folder.path())
        .with("OTEL_SERVICE_NAME", "pictures")
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", "")
        .with("HTTP_PROXY", collector.url.clone());
    let service = settings.start().await;
    let id = service.submit(&batch(1, 1)).await;
    service.finished(&id).await;
    let (code, log) = service.stop_and_read().await;
    assert_eq!((code, collector.requests().len()), (Some(0), 0));
    let line = said(&log, "attempt ended")[0];
    assert_eq!(line["logging.googleapis.com/trace"], trace_of(&id).as_str());
    assert_eq!(line["logging.googleapis.com/trace_sampled"], false);
}

#[tokio::test]
async fn a_collector_that_cannot_be_one_is_refused_at_start_by_the_name_of_its_variable() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317?key=canary");
    let ended = settings.command().output().await.unwrap();
    let complaint = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(64));
    assert!(complaint.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: ") && !complaint.contains("canary"), "{complaint}");
}
