//! The promises, kept by the real program: money, idempotency, crashes, progress, the demo.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::books::{ledger, micros, on};
use crate::engines::{Database, on_both_engines};
use crate::process::{Answer, Settings, batch};
use crate::sse;

on_both_engines!(
    sixty_four_clients_share_a_budget_that_fits_500_pictures,
    fifty_parallel_posts_with_one_key_make_one_batch,
    five_kills_lose_no_picture_and_charge_each_call_once,
    a_stop_gives_work_back_and_the_next_start_goes_on,
    a_stream_cut_after_every_event_sees_each_number_once,
);

async fn sixty_four_clients_share_a_budget_that_fits_500_pictures(database: Arc<Database>) {
    // Nothing settles: what is reserved stays reserved while the clients compete for it.
    let settings = on(&database).with("DAILY_BUDGET_USD", "25").with("SYNTHETIC_LATENCY", "1h");
    let service = Arc::new(settings.with("PROVIDER_TIMEOUT", "2h").start().await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..64 {
        let service = service.clone();
        clients.spawn(async move {
            let mut accepted = 0;
            for round in 0..2 {
                // 3 to 8 pictures, so that the last ones leave an odd rest.
                let pictures = 3 + (client * 2 + round) % 6;
                let answer = service.post("/images", &batch(pictures, 1), &[]).await;
                if answer.status == 202 {
                    accepted += pictures;
                    continue;
                }
                let problem = answer.expect_problem(402, "budget_exceeded");
                let cost = i64::try_from(pictures).unwrap() * 50_000;
                assert_eq!(micros(&problem["estimatedCost"]), cost);
                assert_eq!(micros(&problem["dailyLimit"]), 25_000_000);
                let remaining = micros(&problem["remaining"]);
                assert!(remaining < cost && remaining % 50_000 == 0, "refused although it fits: {problem}");
            }
            accepted
        });
    }
    let accepted: usize = clients.join_all().await.into_iter().sum();
    let budget = service.get("/budget").await.expect(200).json();
    let reserved = micros(&budget["everyone"]["reserved"]);
    assert_eq!(reserved, i64::try_from(accepted).unwrap() * 50_000);
    assert!(accepted <= 500 && accepted > 500 - 3, "{accepted} of 500");
    let fits = batch(500 - accepted + 1, 1);
    let problem = service.post("/images", &fits, &[]).await.expect_problem(402, "budget_exceeded");
    assert_eq!(micros(&problem["remaining"]), 25_000_000 - reserved);
}

async fn fifty_parallel_posts_with_one_key_make_one_batch(database: Arc<Database>) {
    let service = Arc::new(on(&database).start().await);
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let service = service.clone();
        posts.spawn(
            async move { service.post("/images", &batch(2, 1), &[("idempotency-key", "one")]).await.expect(202) },
        );
    }
    let answers: Vec<Answer> = posts.join_all().await;
    let batches: HashSet<String> =
        answers.iter().map(|answer| answer.json()["batchId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(batches.len(), 1);
    let replayed = answers.iter().filter(|answer| answer.header("idempotent-replayed") == "true").count();
    assert_eq!(replayed, 49);
    assert_eq!(service.get("/images").await.json()["batches"].as_array().unwrap().len(), 1);
    let other = service.post("/images", &batch(3, 1), &[("idempotency-key", "one")]).await;
    other.expect_problem(422, "idempotency_key_reused");
}

/// What a crash must not change about a finished picture.
fn finished_pictures(view: &Value) -> BTreeMap<String, (Value, Value)> {
    let images = view["items"].as_array().unwrap().iter().flat_map(|item| {
        let scene = item["sceneId"].as_str().unwrap().to_owned();
        item["images"].as_array().unwrap().iter().map(move |image| (scene.clone(), image))
    });
    images
        .filter(|(_, image)| image["state"] == "completed")
        .map(|(scene, image)| {
            (format!("{scene}/{}", image["variant"]), (image["uri"].clone(), image["attempts"].clone()))
        })
        .collect()
}

async fn five_kills_lose_no_picture_and_charge_each_call_once(database: Arc<Database>) {
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let settings = on(&database).with("SYNTHETIC_LATENCY", "30ms").with("LEASE_DURATION", "1s");
    let mut service = settings.start().await;
    let id = service.submit(&batch(40, 2)).await;
    let mut before = BTreeMap::new();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
        let view = service.get(&format!("/images/{id}?limit=200")).await.expect(200).json();
        let now = finished_pictures(&view);
        for (name, picture) in &before {
            assert_eq!(now.get(name), Some(picture), "a finished picture changed");
        }
        before = now;
        service.kill().await;
        service = settings.start().await;
    }
    let view = service.finished(&id).await;
    let now = finished_pictures(&view);
    assert!(before.iter().all(|(name, picture)| now.get(name) == Some(picture)));
    assert_eq!(view["counts"]["total"], 80);
    let failed: Vec<&Value> = view["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|item| item["images"].as_array().unwrap())
        .filter(|image| image["state"] != "completed")
        .collect();
    assert!(failed.iter().all(|image| image["error"]["code"] == "provider_outcome_unknown"), "{failed:?}");

    let budget = service.get("/budget").await.json();
    assert_eq!(service.stop().await, Some(0));
    let charges = ledger(database.folder());
    let sum: i64 = charges.values().map(|charge| micros(&charge["cost"])).sum();
    let unknown: i64 =
        charges.values().filter(|charge| charge["outcome"] == "unknown").map(|charge| micros(&charge["cost"])).sum();
    assert_eq!(sum, micros(&view["actualCost"]));
    assert_eq!(unknown, micros(&view["unknownCost"]));
    assert_eq!((sum, unknown), (micros(&budget["everyone"]["spent"]), micros(&budget["everyone"]["unknown"])));
    assert_eq!(micros(&budget["everyone"]["reserved"]), 0);
    // One object a picture, and each has its charge: nothing was made that is not paid for and shown.
    let known = charges.values().filter(|charge| charge["outcome"] == "charged").count();
    assert!(known + failed.len() <= 80 && charges.len() >= 80, "{known} known of {}", charges.len());
}

async fn a_stop_gives_work_back_and_the_next_start_goes_on(database: Arc<Database>) {
    let settings = on(&database).with("SYNTHETIC_LATENCY", "200ms").with("PROVIDER_CONCURRENCY", "2");
    let service = settings.start().await;
    let id = service.submit(&batch(12, 1)).await;
    let mut stream = sse::open(&service, &id, None).await;
    while stream.next().await.unwrap().kind != "image_complete" {}
    assert_eq!(service.stop().await, Some(0), "a stop within the grace period is clean");
    let service = settings.start().await;
    let view = service.finished(&id).await;
    assert_eq!((&view["counts"]["completed"], &view["unknownCost"]), (&json!(12), &json!(0.0)));
    assert_eq!(micros(&view["actualCost"]), 12 * 50_000);
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(database.folder()).len(), 12);
}

async fn a_stream_cut_after_every_event_sees_each_number_once(database: Arc<Database>) {
    let settings = on(&database).with("SYNTHETIC_LATENCY", "5ms").with("LEASE_DURATION", "1s");
    let mut service = settings.start().await;
    let id = service.submit(&batch(10, 2)).await;
    let mut seen: Vec<u64> = Vec::new();
    loop {
        // A new connection for every single event; in the middle the service is restarted too.
        if seen.len() == 12 {
            service.kill().await;
            service = settings.start().await;
        }
        let mut stream = sse::open(&service, &id, seen.last().copied()).await;
        let Some(event) = stream.next().await else { continue };
        assert_eq!(event.data["seq"], event.id);
        seen.push(event.id);
        if event.kind == "done" {
            break;
        }
    }
    let count = seen.len() as u64;
    assert_eq!(seen, (1..=count).collect::<Vec<u64>>());
    assert!(count > 31, "{count}");
    assert_eq!(sse::request(&service, &id, seen.last().copied()).await.status().as_u16(), 204);
    let mut replay = sse::open(&service, &id, None).await;
    let mut again = Vec::new();
    while let Some(event) = replay.next().await {
        again.push(event.id);
    }
    assert_eq!(again, seen, "a replay from the start is the same, and ends after done");
}

/// Many streams of one batch cost one read and one rendering an event.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_read_and_rendered_once_for_all_streams() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("SYNTHETIC_LATENCY", "300ms").with("PROVIDER_CONCURRENCY", "1");
    let service = Arc::new(settings.start().await);
    let id = service.submit(&batch(6, 1)).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(sse::open(&service, &id, None).await);
    }
    let mut readers = tokio::task::JoinSet::new();
    for mut stream in streams {
        readers.spawn(async move {
            let mut events = Vec::new();
            while let Some(event) = stream.next().await {
                events.push(event.id);
            }
            events
        });
    }
    let all = readers.join_all().await;
    assert!(all.iter().all(|events| *events == (1..=14).collect::<Vec<u64>>()), "{all:?}");
    let metrics = service.get("/metrics-lite").await.json();
    assert_eq!((&metrics["eventsRead"], &metrics["eventsRendered"]), (&json!(14), &json!(14)), "{metrics}");
}
