//! What a new process finds after the old one was killed at the worst moment, by the real program.

use std::sync::Arc;

use orchestrator::domain::picture::Sha256Hex;
use serde_json::{Value, json};

use crate::books::{ledger, micros, on};
use crate::engines::{Database, on_both_engines};
use crate::process::{Service, Settings, batch};

on_both_engines!(
    calls_under_way_at_a_kill_are_charged_as_unknown_and_tried_again_once,
    a_second_kill_uses_up_the_retry_after_an_unknown_outcome,
    a_picture_that_was_stored_before_the_kill_is_adopted_at_its_own_cost,
    a_picture_of_an_earlier_unknown_call_is_found_before_the_next_one,
    references_of_a_dead_worker_cost_nothing,
    a_kill_between_chunk_and_day_loses_no_line,
    a_service_told_to_spend_nothing_starts_no_call_of_an_accepted_batch,
);

/// A service whose calls never answer, four at a time.
fn hanging(database: &Database) -> Settings {
    on(database)
        .with("SYNTHETIC_LATENCY", "1h")
        .with("PROVIDER_TIMEOUT", "2h")
        .with("PROVIDER_CONCURRENCY", "4")
        .with("LEASE_DURATION", "1s")
}

/// Waits until `count` calls were started, each durably.
async fn calls_started(service: &Service, count: u64) {
    service.until(|metrics| metrics["callsStarted"] == count, "/metrics-lite").await;
}

/// The started attempts of the database, as (id, object stem).
async fn started(database: &Database) -> Vec<(String, String)> {
    let sql = "SELECT id || ' ' || batch_id || ' ' || ordinal || ' ' || variant || ' ' || number
               FROM attempts WHERE state = 'started' ORDER BY ordinal, variant";
    let attempts = database.texts(sql).await.into_iter().map(|row| {
        let parts: Vec<&str> = row.split(' ').collect();
        (parts[0].to_owned(), format!("images/{}/{}-{}-{}", parts[1], parts[2], parts[3], parts[4]))
    });
    attempts.collect()
}

/// Leaves behind what a process leaves that is killed after it stored a picture and before it settled it.
fn store_picture(database: &Database, (attempt, stem): &(String, String), cost: f64) {
    let root = database.folder();
    let mut png = Vec::new();
    let picture = image::DynamicImage::new_rgb8(8, 8);
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    let receipt = json!({"attempt": attempt, "usage": null, "cost": cost, "picture": {
        "object": format!("{stem}.png"), "format": "png", "width": 8, "height": 8, "bytes": png.len(),
        "sha256": Sha256Hex::of(&png).to_string(), "thumbnail": null}});
    std::fs::create_dir_all(root.join(stem).parent().unwrap()).unwrap();
    std::fs::write(root.join(format!("{stem}.json")), receipt.to_string()).unwrap();
    std::fs::write(root.join(format!("{stem}.png")), png).unwrap();
}

fn images(view: &Value) -> Vec<&Value> {
    view["items"].as_array().unwrap().iter().flat_map(|item| item["images"].as_array().unwrap()).collect()
}

async fn calls_under_way_at_a_kill_are_charged_as_unknown_and_tried_again_once(database: Arc<Database>) {
    let service = hanging(&database).start().await;
    let id = service.submit(&batch(6, 1)).await;
    calls_started(&service, 4).await;
    service.kill().await;
    assert_eq!(started(&database).await.len(), 4);
    let service = hanging(&database).with("SYNTHETIC_LATENCY", "0s").start().await;
    let view = service.finished(&id).await;
    assert_eq!(view["counts"]["completed"], 6);
    assert_eq!((micros(&view["actualCost"]), micros(&view["unknownCost"])), (10 * 50_000, 4 * 50_000));
    let twice = images(&view).into_iter().filter(|image| image["attempts"] == 2).count();
    assert_eq!(twice, 4);
    assert_eq!(service.stop().await, Some(0));
    let charges = ledger(database.folder());
    let unknown = charges.values().filter(|charge| charge["outcome"] == "unknown" && charge["images"] == 0).count();
    assert_eq!((charges.len(), unknown), (10, 4));
}

async fn a_second_kill_uses_up_the_retry_after_an_unknown_outcome(database: Arc<Database>) {
    let mut service = hanging(&database).start().await;
    let id = service.submit(&batch(2, 1)).await;
    for _ in 0..2 {
        calls_started(&service, 2).await;
        service.kill().await;
        service = hanging(&database).start().await;
    }
    let view = service.finished(&id).await;
    assert_eq!((&view["state"], micros(&view["unknownCost"])), (&json!("failed"), 4 * 50_000));
    for image in images(&view) {
        assert_eq!(image["error"]["code"], "provider_outcome_unknown");
        assert_eq!((&image["attempts"], &image["billing"]), (&json!(2), &json!("unknown")));
    }
}

async fn a_picture_that_was_stored_before_the_kill_is_adopted_at_its_own_cost(database: Arc<Database>) {
    let service = hanging(&database).start().await;
    let id = service.submit(&batch(2, 1)).await;
    calls_started(&service, 2).await;
    service.kill().await;
    let calls = started(&database).await;
    store_picture(&database, &calls[0], 0.03);
    // A picture of that name by another attempt is not this call's.
    store_picture(&database, &("att_01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(), calls[1].1.clone()), 0.03);
    let service = hanging(&database).with("SYNTHETIC_LATENCY", "0s").start().await;
    let view = service.finished(&id).await;
    let images = images(&view);
    assert_eq!((&images[0]["state"], &images[0]["billing"]), (&json!("completed"), &json!("charged")));
    assert_eq!(
        (micros(&images[0]["cost"]), &images[0]["attempts"], &images[0]["width"]),
        (30_000, &json!(1), &json!(8))
    );
    assert_eq!((micros(&images[1]["cost"]), &images[1]["attempts"]), (100_000, &json!(2)));
    assert_eq!(micros(&view["unknownCost"]), 50_000);
}

async fn a_picture_of_an_earlier_unknown_call_is_found_before_the_next_one(database: Arc<Database>) {
    let service = hanging(&database).start().await;
    let id = service.submit(&batch(1, 1)).await;
    calls_started(&service, 1).await;
    service.kill().await;
    let calls = started(&database).await;
    // The next process settles the call as unknown and starts the retry; it is killed too.
    let service = hanging(&database).start().await;
    calls_started(&service, 1).await;
    service.kill().await;
    // A worker that was only frozen stored the first call's picture late.
    store_picture(&database, &calls[0], 0.03);
    let held = "UPDATE attempts SET state = 'held' WHERE state = 'started'";
    database.execute(&format!("{held}; UPDATE images SET state = 'queued', worker = NULL")).await;
    let service = hanging(&database).start().await;
    let view = service.finished(&id).await;
    let image = images(&view)[0];
    assert_eq!(
        (&image["state"], &image["billing"], micros(&image["cost"])),
        (&json!("completed"), &json!("unknown"), 50_000)
    );
    let budget = service.get("/budget").await.json();
    assert_eq!((micros(&budget["everyone"]["spent"]), micros(&budget["everyone"]["reserved"])), (50_000, 0));
}

async fn references_of_a_dead_worker_cost_nothing(database: Arc<Database>) {
    // A server that takes the connection and never answers: the worker is killed before its call.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let settings = hanging(&database).with("REFERENCE_ALLOW", address.clone()).with("REFERENCE_TIMEOUT", "1h");
    let service = settings.start().await;
    let mut body = batch(1, 1);
    body["items"][0]["references"] = json!([format!("http://{address}/a.png")]);
    let id = service.submit(&body).await;
    let (_connection, _) = listener.accept().await.unwrap();
    service.kill().await;
    assert!(started(&database).await.is_empty());
    drop(listener);
    let service = settings.with("REFERENCE_TIMEOUT", "1s").start().await;
    let view = service.finished(&id).await;
    assert_eq!(images(&view)[0]["error"]["code"], "reference_failed");
    assert_eq!((micros(&view["actualCost"]), &images(&view)[0]["billing"]), (0, &Value::Null));
    let budget = service.get("/budget").await.json();
    assert_eq!(micros(&budget["everyone"]["reserved"]), 0);
}

async fn a_kill_between_chunk_and_day_loses_no_line(database: Arc<Database>) {
    let settings = on(&database).with("BUDGET_LEDGER_ENABLED", "false");
    let service = settings.start().await;
    let id = service.submit(&batch(3, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    // Steps A and the first half of C, as a process leaves them that is killed before the append.
    let store = database.open(crate::engines::system_clock()).await;
    let day = store.unexported_days().await.unwrap()[0];
    let pending = store.pending_chunk(day).await.unwrap().unwrap();
    store.close().await;
    drop(store);
    let chunk = database.folder().join(&pending.name);
    std::fs::create_dir_all(chunk.parent().unwrap()).unwrap();
    std::fs::write(&chunk, &pending.lines).unwrap();

    let service = on(&database).start().await;
    let id = service.submit(&batch(2, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(database.folder()).len(), 5);
    assert!(!chunk.exists(), "swept once its lines are in the day");
}

async fn a_service_told_to_spend_nothing_starts_no_call_of_an_accepted_batch(database: Arc<Database>) {
    let service = hanging(&database).start().await;
    let id = service.submit(&batch(6, 1)).await;
    calls_started(&service, 4).await;
    service.kill().await;
    let service = hanging(&database).with("SYNTHETIC_LATENCY", "0s").with("RUN_MODE", "dry_run").start().await;
    // The calls of the dead process are settled, at once; nothing new is started.
    service.until(|view| micros(&view["unknownCost"]) == 4 * 50_000, &format!("/images/{id}")).await;
    service.until(|view| view["counts"]["queued"] == 6, &format!("/images/{id}")).await;
    assert_eq!(service.get("/metrics-lite").await.json()["callsStarted"], 0);
    assert_eq!(service.stop().await, Some(0));
}
