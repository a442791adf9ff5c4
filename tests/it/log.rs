//! What the log of a run says, by the real program.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bill::{MODEL, paid, png, prompts};
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{Settings, batch};

on_both_engines!(the_log_tells_a_run_from_its_start_to_its_end);

/// The lines with this message.
fn said<'a>(log: &'a [Value], message: &str) -> Vec<&'a Value> {
    log.iter().filter(|line| line["message"] == message).collect()
}

async fn the_log_tells_a_run_from_its_start_to_its_end(database: std::sync::Arc<Database>) {
    let settings = Settings::new(database.folder()).with("DATABASE_URL", database.url.clone());
    let settings = settings.with("DAILY_BUDGET_USD", "7").with("PROVIDER_TIMEOUT", "2h").with("LEASE_DURATION", "1s");
    let slow = settings.clone().with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_CONCURRENCY", "1");
    let service = slow.start().await;
    let open = service.submit(&batch(2, 1)).await;
    service.kill().await;

    let service = settings.start().await;
    service.finished(&open).await;
    let mut ids = vec![open.clone()];
    for rows in [1, 8] {
        let id = service.submit(&batch(rows, 2)).await;
        service.finished(&id).await;
        ids.push(id);
    }
    let mixed = json!({"runMode": "live", "items": [{"sceneId": "a", "prompt": "a cup"}, {"sceneId": "b", "prompt": "[refuse-unpaid]"}]});
    let id = service.submit(&mixed).await;
    let cost = service.finished(&id).await["actualCost"].to_string();
    ids.push(id.clone());
    let (code, log) = service.stop_and_read().await;
    assert_eq!(code, Some(0));

    let start = said(&log, "listening")[0];
    let engine = if database.url.starts_with("sqlite") { "sqlite" } else { "postgres" };
    for (name, value) in [
        ("provider", json!("synthetic")),
        ("model", json!("synthetic")),
        ("run_mode", json!("live")),
        ("daily_cap", json!("7")),
        ("data", json!(database.folder().to_str().unwrap())),
        ("database", json!(engine)),
        ("ledger", json!("off")),
    ] {
        assert_eq!(start[name], value, "{name}");
    }
    let resumed = said(&log, "resuming what was accepted before");
    assert_eq!((resumed.len(), &resumed[0]["batches"], &resumed[0]["pictures"]), (1, &json!(1), &json!(2)));
    let finished: Vec<&str> = said(&log, "batch finished").iter().map(|line| line["batch"].as_str().unwrap()).collect();
    assert_eq!(finished, ids);
    let end = said(&log, "batch finished")[3];
    assert_eq!(
        (&end["state"], &end["completed"], &end["failed"], end["cost"].as_str()),
        (&json!("partial"), &json!(1), &json!(1), Some(cost.as_str()))
    );
    let refused = said(&log, "attempt ended").into_iter().find(|line| line["outcome"] == "refused").unwrap();
    assert_eq!((&refused["image"], &refused["error"]), (&json!(format!("{id}/2-1")), &json!("safety_blocked")));
    let stop = said(&log, "stopped");
    assert_eq!((stop.len(), &stop[0]["clean"], &stop[0]["failed"]), (1, &json!(true), &json!(1)));
    assert_eq!(log.last(), stop.first().copied());
}

/// The header by which a caller names its trace.
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0b1902b7-01";

/// Rows of a hundred that have one picture, which is not made at the first call or not at all, and the calls that each
/// gets beside those that are put off.
const HARD: [(usize, usize); 5] = [(7, 2), (17, 1), (27, 2), (37, 3), (47, 1)];
/// The pictures of the other rows: as many as a row can have.
const VARIANTS: usize = 3;

/// How the calls for the rows end.
fn mixed(prompt: &str, tried: usize) -> Fault {
    let row = prompt.rsplit(' ').next().unwrap_or_default();
    match (row, tried) {
        ("7", 0) | ("37", _) => Fault::Own503,
        ("17", _) => Fault::Blocked,
        ("27", 0) => Fault::CloseBefore,
        ("47", 0) => Fault::Throttle,
        _ => Fault::None,
    }
}

/// Submits a hundred rows of pictures, follows them to their end, and reads the batch.
async fn log_of_a_hundred_rows() -> (String, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), mixed).await;
    let service = paid(Settings::new(folder.path()), &fake).start().await;
    let mut body = prompts((0..100).map(|row| format!("a cup {row}")));
    for (number, row) in body["items"].as_array_mut().unwrap().iter_mut().enumerate() {
        row["variants"] = json!(if HARD.iter().any(|(hard, _)| *hard == number) { 1 } else { VARIANTS });
    }
    let answer = service.post("/images", &body, &[("traceparent", CALLER)]).await.expect(202);
    let id = answer.json()["batchId"].as_str().unwrap().to_owned();
    let stream = service.get(&format!("/images/{id}/events")).await.expect(200).text;
    assert!(stream.contains("event: done"), "{stream}");
    service.get(&format!("/images/{id}?limit=200")).await.expect(200);
    let (code, log) = service.stop_and_read().await;
    assert_eq!(code, Some(0));
    (id, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_rows_make_a_short_log_in_which_every_attempt_is_found() {
    let (id, log) = log_of_a_hundred_rows().await;
    eprintln!("{} lines for a hundred rows of up to {VARIANTS} pictures", log.len());
    assert!(log.len() < 400, "{} lines", log.len());
    let attempts = said(&log, "attempt ended");
    assert_eq!(attempts.len(), (100 - HARD.len()) * VARIANTS + HARD.iter().map(|(_, calls)| calls).sum::<usize>());
    let trace = format!("{:032x}", id.parse::<orchestrator::domain::ids::BatchId>().unwrap().bits());
    for line in attempts {
        let (image, attempt) = (line["image"].as_str().unwrap(), line["attempt"].as_str().unwrap());
        assert!(line["batch"] == id.as_str() && image.starts_with(&format!("{id}/")), "{line}");
        assert!(attempt.starts_with("att_") && line["number"].is_u64() && line["model"] == MODEL, "{line}");
        assert!(line["outcome"].is_string() && line["cost"].is_string() && line["latency_us"].is_u64(), "{line}");
        assert_eq!(line["logging.googleapis.com/trace"], trace.as_str());
        assert_eq!(line["logging.googleapis.com/spanId"].as_str().unwrap().len(), 16);
    }
    // The provider's own words about the calls that failed.
    assert!(!Value::from(log.clone()).to_string().contains("it failed"));
    let submission = said(&log, "answered")[0];
    assert_eq!(submission["logging.googleapis.com/trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
}
