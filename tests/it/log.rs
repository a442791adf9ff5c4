//! What the log of a run says, by the real program.

use serde_json::{Value, json};

use crate::engines::{Database, on_both_engines};
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
    assert_eq!(said(&log, "call failed")[0]["image"], format!("{id}/2-1"));
    let stop = said(&log, "stopped");
    assert_eq!((stop.len(), &stop[0]["clean"], &stop[0]["failed"]), (1, &json!(true), &json!(1)));
    assert_eq!(log.last(), stop.first().copied());
}
