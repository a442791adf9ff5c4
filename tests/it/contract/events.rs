//! What progress streams say of pictures that are made, refused, put off or cancelled.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{links, quick, row};
use crate::books::micros;
use crate::process::{Service, Settings, batch};
use crate::sse::{self, Event};

/// Every event of a finished batch.
async fn all(service: &Service, id: &str) -> Vec<Event> {
    let mut stream = sse::open(service, id, None).await;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    events
}

#[tokio::test]
async fn every_event_says_what_the_batch_says() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let body = json!({"runMode": "live", "items": [
        {"sceneId": "made", "prompt": "a cup"}, {"sceneId": "refused", "prompt": "[refuse]"}]});
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    let events = all(&service, &id).await;
    for (number, event) in (1_u64..).zip(&events) {
        let data = &event.data;
        assert_eq!((event.id, &data["seq"], &data["batchId"]), (number, &json!(number), &json!(id)));
        assert_eq!((&data["type"], data["ts"].is_i64()), (&json!(event.kind), true));
    }
    assert_eq!((events.len() as u64, &view["lastEvent"]), (6, &json!(6)));
    let only = |kind: &str, scene: &str| -> &Value {
        let found: Vec<&Event> =
            events.iter().filter(|event| event.kind == kind && event.data["sceneId"] == scene).collect();
        assert_eq!(found.len(), 1, "{kind} {scene}");
        &found[0].data
    };
    let (made, refused) = (&view["items"][0]["images"][0], &view["items"][1]["images"][0]);
    let complete = only("image_complete", "made");
    for name in ["variant", "cost", "billing", "permalink", "uri", "mimeType", "width", "height", "bytes", "sha256"] {
        assert_eq!(complete[name], made[name], "{name}");
    }
    for link in [&complete["url"], &complete["thumbnailUrl"]] {
        assert!(links::opens(&service, link.as_str().unwrap()).await);
    }
    let failed = only("image_failed", "refused");
    assert_eq!((&failed["error"], &failed["billing"]), (&refused["error"], &json!("not_charged")));
    assert_eq!(only("item_complete", "made")["state"], "completed");
    assert_eq!(only("item_complete", "refused")["state"], "failed");
    let done = &events.last().unwrap().data;
    assert_eq!((&done["type"], &done["processed"], &done["counts"]), (&json!("done"), &json!(2), &view["counts"]));
    assert_eq!((&done["cost"], &done["state"]), (&view["actualCost"], &json!("partial")));
}

#[tokio::test]
async fn a_cancelled_batch_says_so_and_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2s");
    let service = settings.with("PROVIDER_CONCURRENCY", "1").start().await;
    let id = service.submit(&batch(3, 1)).await;
    service.until(|metrics| metrics["callsStarted"] == 1, "/metrics-lite").await;
    service.post(&format!("/images/{id}/cancel"), &json!({}), &[]).await.expect(200);
    let view = service.finished(&id).await;
    let events = all(&service, &id).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    // Two pictures end with the cancel, the third when its call has run into its deadline.
    assert_eq!(kinds, ["started", "cancelled", "item_complete", "item_complete", "item_complete", "done"]);
    let done = &events.last().unwrap().data;
    assert_eq!((&done["state"], &done["counts"]), (&json!("cancelled"), &view["counts"]));
    assert_eq!((micros(&done["cost"]), micros(&done["unknownCost"])), (50_000, 50_000));
}

#[tokio::test]
async fn a_picture_that_is_put_off_waits_at_no_cost_and_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let id = service.submit(&row("[429-always]")).await;
    let path = format!("/images/{id}");
    service.until(|metrics| metrics["callsStarted"].as_u64() >= Some(1), "/metrics-lite").await;
    let view = service.until(|view| view["items"][0]["images"][0]["state"] == "queued", &path).await;
    let image = &view["items"][0]["images"][0];
    assert_eq!((&image["attempts"], &image["error"]), (&json!(0), &Value::Null), "{image}");
    let view = service.post(&format!("{path}/cancel"), &json!({}), &[]).await.expect(200).json();
    assert_eq!((&view["state"], micros(&view["actualCost"])), (&json!("cancelled"), 0));
    let everyone = &service.get("/budget").await.json()["everyone"];
    assert_eq!((micros(&everyone["spent"]), micros(&everyone["reserved"])), (0, 0));
}

#[test]
fn every_marker_is_tried_by_a_test() {
    let tests = concat!(include_str!("../contract.rs"), include_str!("events.rs"), include_str!("../retry.rs"));
    let untried: BTreeSet<&str> = orchestrator::provider::synthetic::MARKERS
        .iter()
        .map(|(marker, _)| *marker)
        .filter(|marker| !tests.contains(&format!("\"{marker}\"")))
        .collect();
    assert_eq!(untried, BTreeSet::new());
}
