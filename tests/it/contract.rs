//! The HTTP contract, answered by the real program: submitting, reading, cancelling, errors.

mod accepted;
mod events;
mod links;
mod read;
mod refused;
mod rows;

use std::path::Path;

use serde_json::{Value, json};

use crate::books::{ledger, micros};
use crate::process::{Answer, Service, Settings, batch};

/// A service whose pictures are ready at once.
async fn quick(folder: &Path) -> Service {
    Settings::new(folder).start().await
}

/// A service whose calls never answer.
async fn hanging(folder: &Path) -> Service {
    Settings::new(folder).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h").start().await
}

/// A live batch of one row.
fn row(prompt: &str) -> Value {
    json!({"runMode": "live", "items": [{"sceneId": "s-001", "prompt": prompt}]})
}

/// The pointers of a bad body's faults.
fn pointers(answer: &Answer) -> Vec<String> {
    let problem = answer.expect_problem(400, "invalid_request");
    let faults = problem["errors"].as_array().unwrap();
    assert!(faults.iter().all(|fault| !fault["detail"].as_str().unwrap().is_empty()));
    faults.iter().map(|fault| fault["pointer"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_dry_run_is_priced_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let body = json!({"items": [{"sceneId": "a", "prompt": "x", "variants": 3}, {"scene_id": "b", "prompt": "y"}]});
    let view = service.post("/images", &body, &[]).await.expect(200).json();
    assert_eq!(
        (&view["batchId"], &view["runMode"], micros(&view["estimatedCost"])),
        (&Value::Null, &json!("dry_run"), 200_000)
    );
    assert_eq!(view["items"][0], json!({"sceneId": "a", "variants": 3, "estimatedCost": 0.15}));
    assert_eq!(service.get("/images").await.json(), json!({"batches": [], "nextCursor": null}));
    assert_eq!(micros(&service.get("/budget").await.json()["everyone"]["reserved"]), 0);
}

#[tokio::test]
async fn a_live_batch_is_accepted_with_its_address_and_waited_for_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let waited = service.post("/images", &batch(2, 2), &[("prefer", "wait=60")]).await.expect(200);
    assert_eq!(waited.header("preference-applied"), "wait=60");
    let view = waited.json();
    assert_eq!((&view["state"], &view["counts"]["completed"]), (&json!("completed"), &json!(4)));
    assert_eq!(waited.header("location"), format!("/images/{}", view["batchId"].as_str().unwrap()));
    let again = service.get(waited.header("location")).await.expect(200).json();
    assert_eq!(
        (&again["items"][0]["images"][0]["sha256"], &again["lastEvent"]),
        (&view["items"][0]["images"][0]["sha256"], &json!(8))
    );
    drop(service);

    let folder = tempfile::tempdir().unwrap();
    let service = hanging(folder.path()).await;
    let waited = service.post("/images", &batch(1, 1), &[("prefer", "wait=1")]).await.expect(202);
    assert_eq!((waited.header("preference-applied"), &waited.json()["finishedAt"]), ("wait=1", &Value::Null));
}

#[tokio::test]
async fn a_request_is_refused_for_its_first_reason_in_the_documented_order() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("MAX_BODY_BYTES", "4KiB").with("RUN_MODE", "dry_run");
    let service = settings.start().await;
    let post = |kind: &'static str, body: String| {
        let request = service.client.post(format!("{}/images", service.url)).header("content-type", kind).body(body);
        async move { Answer::of(request.send().await.unwrap()).await }
    };
    post("text/html", "{".to_owned()).await.expect_problem(415, "unsupported_media_type");
    post("application/json", "x".repeat(5_000)).await.expect_problem(413, "payload_too_large");
    post("application/json", "{\"items\":".to_owned()).await.expect_problem(400, "invalid_request");
    let mut body = row("");
    body["model"] = json!("gemini-3.1-flash-image");
    assert_eq!(pointers(&service.post("/images", &body, &[]).await), ["/items/0/prompt"]);
    body["items"][0]["prompt"] = json!("a cup");
    let retired = service.post("/images", &body, &[]).await.expect_problem(422, "model_retired");
    assert_eq!(retired["replacement"], "gemini-nano-banana-2.1");
    body["model"] = json!("dall-e");
    service.post("/images", &body, &[]).await.expect_problem(422, "model_unknown");
    body["model"] = json!("gemini-nano-banana-2.1");
    body["items"][0]["imageSize"] = json!("2K");
    service.post("/images", &body, &[]).await.expect_problem(422, "size_unpriced");
    service.post("/images", &row("a cup"), &[]).await.expect_problem(403, "live_disabled");
}

#[tokio::test]
async fn a_bad_body_is_told_all_its_faults_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let body = json!({"runMode": "fast", "colour": 1, "items": [
        {"sceneId": "../x", "prompt": "", "variants": 4, "references": ["file:///etc/passwd"]},
        {"sceneId": "Same", "prompt": "x"}, {"sceneId": "same", "prompt": "x", "aspectRatio": "7:5"}]});
    let mut found = pointers(&service.post("/images", &body, &[]).await);
    found.sort();
    let expected = [
        "/colour",
        "/items/0/prompt",
        "/items/0/references/0",
        "/items/0/sceneId",
        "/items/0/variants",
        "/items/2/aspectRatio",
        "/items/2/sceneId",
        "/runMode",
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_original_services_names_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let body = json!({"run_mode": "dry_run", "ref_pack_public_urls": ["https://example.com/brand.png"],
        "items": [{"scene_id": "a", "prompt": "x", "reference_mode": "style_and_composition"}]});
    let view = service.post("/images", &body, &[]).await.expect(200).json();
    assert_eq!(view["items"][0]["sceneId"], "a");
    let body = json!({"model": "gemini-2.5-flash-image", "items": [{"scene_id": "a", "prompt": "x"}]});
    let view = service.post("/images", &body, &[]).await.expect(200).json();
    assert!(view["message"].as_str().unwrap().contains("gemini-nano-banana-2.1"), "{view}");
}

#[tokio::test]
async fn batches_and_items_come_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    // One call at a time, and it never answers: one batch is running.
    let settings = Settings::new(folder.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let service = settings.with("PROVIDER_CONCURRENCY", "1").start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(service.submit(&batch(5, 1)).await);
    }
    let mut seen = Vec::new();
    let mut path = "/images?limit=2".to_owned();
    loop {
        let page = service.get(&path).await.expect(200).json();
        assert!(page["batches"].as_array().unwrap().iter().all(|batch| batch.get("items").is_none()));
        seen.extend(
            page["batches"].as_array().unwrap().iter().map(|batch| batch["batchId"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/images?limit=2&cursor={cursor}");
    }
    ids.reverse();
    assert_eq!(seen, ids, "newest first");
    let first = service.get(&format!("/images/{}?limit=3", ids[0])).await.json();
    let second = service
        .get(&format!("/images/{}?limit=3&cursor={}", ids[0], first["nextCursor"].as_str().unwrap()))
        .await
        .json();
    let scenes: Vec<&Value> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["items"].as_array().unwrap())
        .map(|item| &item["sceneId"])
        .collect();
    assert_eq!(scenes, ["s-001", "s-002", "s-003", "s-004", "s-005"]);
    assert_eq!(second["nextCursor"], Value::Null);
    service.get("/images?cursor=nonsense").await.expect_problem(400, "invalid_request");
    service.get(&format!("/images/{}?cursor=nonsense", ids[0])).await.expect_problem(400, "invalid_request");
    service.get("/images?limit=201").await.expect_problem(400, "invalid_request");
    for (state, count) in [("running", 1), ("queued", 2), ("completed", 0)] {
        service
            .until(|page| page["batches"].as_array().unwrap().len() == count, &format!("/images?state={state}"))
            .await;
    }
    service.get("/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV").await.expect_problem(404, "not_found");
}

/// How a picture ends: state, code, billing, cost, attempts.
type End = (&'static str, &'static str, &'static str, i64, i64);

/// Runs one batch of a row for each of these prompts, and compares how they end.
async fn end_as_documented(settings: Settings, cases: &[(&str, End)], batch_state: &str) {
    let service = settings.start().await;
    let items: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(at, (prompt, _))| json!({"sceneId": format!("s-{at}"), "prompt": prompt}))
        .collect();
    let id = service.submit(&json!({"runMode": "live", "items": items})).await;
    let view = service.finished(&id).await;
    for ((prompt, expected), item) in cases.iter().zip(view["items"].as_array().unwrap()) {
        let image = &item["images"][0];
        let code = image["error"]["code"].as_str().unwrap_or_default();
        let text = |name: &str| image[name].as_str().unwrap_or_default().to_owned();
        let found = (text("state"), code, text("billing"), micros(&image["cost"]), image["attempts"].as_i64().unwrap());
        let (state, code, billing, cost, attempts) = *expected;
        assert_eq!(found, (state.to_owned(), code, billing.to_owned(), cost, attempts), "{prompt}");
    }
    let sum: i64 = cases.iter().map(|(_, (_, _, _, cost, _))| cost).sum();
    assert_eq!((&view["state"], micros(&view["actualCost"])), (&json!(batch_state), sum));
    assert_eq!(micros(&service.get("/budget").await.json()["everyone"]["spent"]), sum);
}

const UNKNOWN_TWICE: End = ("failed", "provider_outcome_unknown", "unknown", 100_000, 2);

#[tokio::test]
async fn every_marker_ends_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("a cup", ("completed", "", "charged", 50_000, 1)),
        ("[refuse]", ("failed", "safety_blocked", "not_charged", 0, 1)),
        ("[refuse-unpaid]", ("failed", "safety_blocked", "not_charged", 0, 1)),
        ("[text-only]", ("failed", "no_image", "not_charged", 0, 1)),
        ("[no-usage]", ("completed", "", "unknown", 50_000, 1)),
        ("[fail]", ("failed", "provider_error", "not_charged", 0, 3)),
        ("[fail-once]", ("completed", "", "charged", 50_000, 2)),
        ("[429]", ("completed", "", "charged", 50_000, 1)),
        ("[drop]", UNKNOWN_TWICE),
        ("[drop-once]", ("completed", "", "charged", 100_000, 2)),
    ];
    let settings = Settings::new(folder.path()).with("PROVIDER_CONCURRENCY", "16");
    end_as_documented(settings, &cases, "partial").await;
}

#[tokio::test]
async fn a_marker_that_never_answers_ends_with_the_deadline_of_the_call() {
    let folder = tempfile::tempdir().unwrap();
    // Alone: on a busy machine this deadline is too short for a call that is to be answered.
    let settings = Settings::new(folder.path()).with("PROVIDER_TIMEOUT", "1s");
    end_as_documented(settings, &[("[stall]", UNKNOWN_TWICE)], "failed").await;
}

#[tokio::test]
async fn every_error_is_a_problem_body() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    service.get("/nothing/here").await.expect_problem(404, "not_found");
    service.get("/images/not-an-id").await.expect_problem(404, "not_found");
    service.get("/images/%ff").await.expect_problem(400, "invalid_request");
    let wrong = service.post("/budget", &json!({}), &[]).await;
    wrong.expect_problem(405, "method_not_allowed");
    assert!(wrong.header("allow").contains("GET"), "{:?}", wrong.headers);
    service.post("/images", &row("a cup"), &[("idempotency-key", "ü")]).await.expect_problem(400, "invalid_request");
    service.get("/images?limit=many").await.expect_problem(400, "invalid_request");
}

#[tokio::test]
async fn an_operator_sees_health_counters_and_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    for path in ["/health", "/healthz"] {
        let view = service.get(path).await.expect(200).json();
        assert!(view["ok"] == true && view["ts"].is_i64(), "{view}");
    }
    for path in ["/ready", "/readyz"] {
        service.get(path).await.expect(200);
    }
    let id = service.submit(&batch(1, 2)).await;
    service.finished(&id).await;
    let metrics = service.get("/metrics-lite").await.expect(200).json();
    for name in ["ts", "requests", "errors", "imagesGenerated", "urlRefreshes"] {
        assert!(metrics[name].is_u64(), "{name}: {metrics}");
    }
    assert_eq!((&metrics["imagesGenerated"], &metrics["errors"]), (&json!(2), &json!(0)));
    let description = service.get("/openapi.json").await.expect(200).json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in
        ["/images", "/images/{batchId}", "/images/{batchId}/events", "/progress/{batchId}", "/budget", "/metrics-lite"]
    {
        assert!(description["paths"][path].is_object(), "{path}");
    }
}

#[tokio::test]
async fn a_torn_last_line_of_the_ledger_is_cut_and_the_day_goes_on() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("BUDGET_LEDGER_ENABLED", "true");
    for round in 1..=2 {
        let service = settings.start().await;
        let id = service.submit(&batch(2, 1)).await;
        service.finished(&id).await;
        assert_eq!(service.stop().await, Some(0));
        assert_eq!(ledger(folder.path()).len(), round * 2);
        let day = std::fs::read_dir(folder.path().join("ledger"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.is_file())
            .unwrap();
        std::fs::File::options().append(true).open(day).unwrap().write_all(b"{\"id\":\"chg_").unwrap();
    }
}

#[tokio::test]
async fn a_lost_database_takes_todays_charges_in_before_it_admits_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("BUDGET_LEDGER_ENABLED", "true").with("DAILY_BUDGET_USD", "0.2");
    let service = settings.start().await;
    let id = service.submit(&batch(3, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    for name in ["orchestrator.db", "orchestrator.db-wal", "orchestrator.db-shm"] {
        drop(std::fs::remove_file(folder.path().join(name)));
    }
    let service = settings.start().await;
    assert_eq!(micros(&service.get("/budget").await.json()["everyone"]["spent"]), 150_000);
    service.post("/images", &batch(2, 1), &[]).await.expect_problem(402, "budget_exceeded");
    let id = service.submit(&batch(1, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(folder.path()).len(), 4);
}
