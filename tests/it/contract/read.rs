//! What can be looked at: pages, tags, counters, the description.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{hanging, quick, row};
use crate::books::{micros, on};
use crate::engines::{Database, on_both_engines};
use crate::process::{Answer, batch};

on_both_engines!(a_batch_is_shown_as_it_was_at_one_moment);

/// The names of an object's members.
fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_list_of_one_state_comes_in_pages_of_that_state() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let mut completed = Vec::new();
    for at in 0..6 {
        let prompt = if at % 2 == 0 { "a cup" } else { "[refuse]" };
        let view = service.post("/images", &row(prompt), &[("prefer", "wait=60")]).await.expect(200).json();
        if at % 2 == 0 {
            completed.push(view["batchId"].clone());
        }
    }
    completed.reverse();
    let first = service.get("/images?state=completed&limit=2").await.expect(200).json();
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = service.get(&format!("/images?state=completed&limit=2&cursor={cursor}")).await.expect(200).json();
    let ids: Vec<&Value> = [&first, &second]
        .into_iter()
        .flat_map(|page| page["batches"].as_array().unwrap())
        .map(|batch| &batch["batchId"])
        .collect();
    assert_eq!(ids, completed.iter().collect::<Vec<_>>());
    assert_eq!(second["nextCursor"], Value::Null);
    assert_eq!(service.get("/images?state=failed").await.json()["batches"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_batch_that_has_not_changed_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let service = hanging(folder.path()).await;
    let path = format!("/images/{}", service.submit(&batch(2, 1)).await);
    service.until(|metrics| metrics["callsStarted"] == 2, "/metrics-lite").await;
    let first = service.get(&path).await.expect(200);
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let ask = async |path: &str| {
        let request = service.client.get(format!("{}{path}", service.url)).header("if-none-match", &tag);
        Answer::of(request.send().await.unwrap()).await
    };
    let same = ask(&path).await.expect(304);
    assert_eq!((same.text.as_str(), same.header("etag")), ("", tag.as_str()));
    ask(&format!("{path}?limit=1")).await.expect(200);
    service.post(&format!("{path}/cancel"), &json!({}), &[]).await.expect(200);
    let changed = ask(&path).await.expect(200);
    assert_ne!(changed.header("etag"), tag);
}

#[tokio::test]
async fn every_address_that_is_read_answers_head_with_the_same_headers_and_no_body() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let view = service.post("/images", &row("a cup"), &[("prefer", "wait=60")]).await.expect(200).json();
    let image = &view["items"][0]["images"][0];
    let batch = format!("/images/{}", view["batchId"].as_str().unwrap());
    for path in ["/images", &batch, "/budget", "/health", "/ready", image["permalink"].as_str().unwrap()] {
        let got = service.get(path).await;
        let head = service.client.head(format!("{}{path}", service.url)).send().await.unwrap();
        let head = Answer::of(head).await;
        assert_eq!((head.status, head.text.as_str()), (got.status, ""), "{path}");
        for name in ["content-type", "etag", "location", "content-length"] {
            // Health tells the time, whose length is the same too.
            assert_eq!(head.header(name), got.header(name), "{path} {name}");
        }
    }
}

#[tokio::test]
async fn counters_and_health_have_exactly_their_members() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    for path in ["/health", "/healthz"] {
        assert_eq!(names(&service.get(path).await.expect(200).json()), BTreeSet::from(["ok", "ts"]));
    }
    for path in ["/ready", "/readyz"] {
        assert_eq!(
            service.get(path).await.expect(200).json(),
            json!({"ready": true, "reasons": [], "provider": null, "ledger": null})
        );
    }
    let before = service.get("/metrics-lite").await.expect(200).json();
    assert_eq!(before["requests"], 5, "this one too");
    service.get("/nothing").await.expect(404);
    service.post("/images", &row("a cup"), &[("prefer", "wait=60")]).await.expect(200);
    let after = service.get("/metrics-lite").await.expect(200).json();
    assert_eq!((&after["requests"], &after["errors"]), (&json!(8), &json!(0)), "an error is an answer of 500 or more");
    assert_eq!((&after["imagesGenerated"], &after["urlRefreshes"]), (&json!(1), &json!(0)));
    assert!(after["ts"].as_i64() >= before["ts"].as_i64());
}

#[tokio::test]
async fn the_description_lists_every_route() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let description = service.get("/openapi.json").await.expect(200).json();
    let described: BTreeSet<String> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| names(item).into_iter().map(move |method| format!("{method} {path}")))
        .collect();
    for route in [
        "post /images",
        "get /images",
        "get /images/{batchId}",
        "get /images/{batchId}/events",
        "head /images/{batchId}/events",
        "get /progress/{batchId}",
        "head /progress/{batchId}",
        "post /images/{batchId}/cancel",
        "get /images/{batchId}/items/{sceneId}/{variant}",
        "get /images/{batchId}/items/{sceneId}/{variant}/thumbnail",
        "get /budget",
        "get /assets/{path}",
        "get /healthz",
        "get /health",
        "get /readyz",
        "get /ready",
        "get /metrics-lite",
        "get /openapi.json",
    ] {
        assert!(described.contains(route), "{route}");
    }
}

async fn a_batch_is_shown_as_it_was_at_one_moment(database: Arc<Database>) {
    let service = on(&database).with("SYNTHETIC_LATENCY", "2ms").start().await;
    let id = service.submit(&batch(24, 1)).await;
    loop {
        let view = service.get(&format!("/images/{id}")).await.expect(200).json();
        let images = || view["items"].as_array().unwrap().iter().flat_map(|item| item["images"].as_array().unwrap());
        for state in ["queued", "running", "completed"] {
            let shown = images().filter(|image| image["state"] == state).count();
            assert_eq!(view["counts"][state], shown, "{state} in the counts and in the items");
        }
        let cost: i64 = images().filter(|image| !image["cost"].is_null()).map(|image| micros(&image["cost"])).sum();
        assert_eq!(micros(&view["actualCost"]), cost);
        if !view["finishedAt"].is_null() {
            break;
        }
    }
}
