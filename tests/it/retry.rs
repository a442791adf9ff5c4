//! Trying failed pictures again, by the real program.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::books::{ledger, micros, on};
use crate::engines::{Database, on_both_engines};
use crate::process::{Answer, Service, batch};
use crate::sse;

on_both_engines!(
    a_retry_makes_what_failed_with_fresh_money,
    parallel_retries_with_one_key_are_one,
    a_retry_without_money_changes_nothing,
    a_damaged_picture_hides_no_other_from_a_retry,
);

/// Two pictures whose calls never answered.
async fn failed(database: &Database) -> String {
    let settings = on(database).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "100ms");
    let service = settings.start().await;
    let id = service.submit(&batch(2, 1)).await;
    let view = service.finished(&id).await;
    assert_eq!((&view["state"], micros(&view["unknownCost"])), (&json!("failed"), 4 * 50_000));
    assert_eq!(service.stop().await, Some(0));
    id
}

async fn retry(service: &Service, id: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    service.post(&format!("/images/{id}/retry"), body, headers).await
}

async fn reserved(service: &Service) -> i64 {
    micros(&service.get("/budget").await.json()["everyone"]["reserved"])
}

async fn a_retry_makes_what_failed_with_fresh_money(database: Arc<Database>) {
    let id = failed(&database).await;
    let service = on(&database).start().await;
    let before = service.get(&format!("/images/{id}")).await.json()["lastEvent"].as_u64().unwrap();
    let answer = retry(&service, &id, &json!({"codes": ["provider_outcome_unknown"]}), &[]).await.expect(202);
    assert_eq!(answer.header("location"), format!("/images/{id}"));
    let view = service.finished(&id).await;
    assert_eq!((&view["state"], &view["counts"]["completed"]), (&json!("completed"), &json!(2)));
    assert_eq!((micros(&view["actualCost"]), micros(&view["unknownCost"])), (6 * 50_000, 4 * 50_000));
    assert_eq!(micros(&view["estimatedCost"]), 4 * 50_000, "what was reserved, twice");
    for item in view["items"].as_array().unwrap() {
        let image = &item["images"][0];
        assert_eq!((&image["attempts"], &image["error"]), (&json!(3), &Value::Null));
        assert_eq!(image["billing"], "charged");
    }
    assert_eq!(reserved(&service).await, 0);
    let mut stream = sse::open(&service, &id, Some(before)).await;
    let mut kinds = Vec::new();
    while let Some(event) = stream.next().await {
        kinds.push(event.kind);
    }
    assert_eq!((kinds[0].as_str(), kinds[5].as_str(), kinds.len()), ("started", "done", 6));
    retry(&service, &id, &json!({}), &[]).await.expect_problem(409, "not_retryable");
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(database.folder()).len(), 6);
}

async fn parallel_retries_with_one_key_are_one(database: Arc<Database>) {
    let id = failed(&database).await;
    let service = Arc::new(on(&database).start().await);
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (service, id) = (service.clone(), id.clone());
        posts.spawn(async move {
            let answer = retry(&service, &id, &json!({}), &[("idempotency-key", "again")]).await.expect(202);
            answer.header("idempotent-replayed") == "true"
        });
    }
    let replayed = posts.join_all().await.into_iter().filter(|replayed| *replayed).count();
    assert_eq!(replayed, 19);
    let view = service.finished(&id).await;
    assert_eq!(micros(&view["actualCost"]), 6 * 50_000);
    let other = json!({"codes": ["no_image"]});
    retry(&service, &id, &other, &[("idempotency-key", "again")]).await.expect_problem(422, "idempotency_key_reused");
}

async fn a_retry_without_money_changes_nothing(database: Arc<Database>) {
    let id = failed(&database).await;
    let service = on(&database).with("DAILY_BUDGET_USD", "0.29").start().await;
    let before = service.get(&format!("/images/{id}")).await.json();
    let problem = retry(&service, &id, &json!({}), &[]).await.expect_problem(402, "budget_exceeded");
    assert_eq!((micros(&problem["estimatedCost"]), micros(&problem["remaining"])), (100_000, 90_000));
    assert_eq!(service.get(&format!("/images/{id}")).await.json(), before);
    assert_eq!(reserved(&service).await, 0);
}

async fn a_damaged_picture_hides_no_other_from_a_retry(database: Arc<Database>) {
    let id = failed(&database).await;
    database.execute("UPDATE items SET aspect_ratio = '9:99' WHERE ordinal = 1").await;
    let service = on(&database).start().await;
    retry(&service, &id, &json!({}), &[]).await.expect(202);
    let view = service.finished(&id).await;
    assert_eq!((&view["counts"]["completed"], &view["counts"]["failed"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_retry_that_cannot_help_says_what_would() {
    let folder = tempfile::tempdir().unwrap();
    let service = crate::process::Settings::new(folder.path()).start().await;
    let body = json!({"runMode": "live", "items": [{"sceneId": "a", "prompt": "[refuse] a cup"}, {"sceneId": "b", "prompt": "a cup"}]});
    let id = service.submit(&body).await;
    service.finished(&id).await;
    let refused = retry(&service, &id, &json!({}), &[]).await.expect_problem(409, "not_retryable");
    assert!(refused["detail"].as_str().unwrap().contains("safety_blocked"), "{refused}");
    retry(&service, &id, &json!({"codes": ["no_image"]}), &[]).await.expect_problem(409, "not_retryable");
    let faults = retry(&service, &id, &json!({"codes": ["no_such"], "x": 1}), &[]).await;
    assert_eq!(faults.expect_problem(400, "invalid_request")["errors"].as_array().unwrap().len(), 2);
    let answer = retry(&service, &id, &json!({"codes": ["safety_blocked"]}), &[]).await.expect(202);
    assert_eq!(answer.json()["counts"]["failed"], 0);
    let view = service.finished(&id).await;
    assert_eq!((&view["state"], &view["items"][0]["images"][0]["attempts"]), (&json!("partial"), &json!(2)));
    // A request without any body is a retry of all that may pass.
    let bare = service.client.post(format!("{}/images/{id}/retry", service.url)).send().await.unwrap();
    Answer::of(bare).await.expect_problem(409, "not_retryable");
    retry(&service, "bat_01ARZ3NDEKTSV4RRFFQ69G5FAV", &json!({}), &[]).await.expect_problem(404, "not_found");
}

/// What an operator and a client see of a provider that takes no calls.
#[tokio::test]
async fn a_used_up_quota_is_seen_in_readiness_and_in_progress() {
    let folder = tempfile::tempdir().unwrap();
    let service = crate::process::Settings::new(folder.path()).start().await;
    let body = json!({"runMode": "live", "items": [
        {"sceneId": "a", "prompt": "[quota]"}, {"sceneId": "b", "prompt": "[quota] a jug"}]});
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    assert_eq!((&view["state"], micros(&view["actualCost"])), (&json!("failed"), 0));
    for item in view["items"].as_array().unwrap() {
        assert_eq!((&item["error"]["code"], &item["error"]["retryable"]), (&json!("quota_exhausted"), &json!(true)));
    }
    let ready = service.get("/readyz").await.expect(200).json();
    assert!(ready["provider"].as_str().unwrap().contains("daily quota"), "{ready}");
    let mut stream = sse::open(&service, &id, None).await;
    let mut notices = 0;
    while let Some(event) = stream.next().await {
        notices +=
            usize::from(event.kind == "notice" && event.data["detail"].as_str().unwrap().contains("daily quota"));
    }
    assert_eq!(notices, 1);
}

/// A retry that cannot be shown is accepted all the same, and its client must know.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_retry_is_answered_with_its_location_whatever_comes_after() {
    crate::engines::on_sqlite(|database| async move {
        let id = failed(&database).await;
        let service = on(&database).with("SYNTHETIC_LATENCY", "1h").start().await;
        let trap = "CREATE TRIGGER damage AFTER UPDATE OF state ON images WHEN NEW.state = 'queued'
                    BEGIN UPDATE images SET billing = 'no' WHERE ordinal = NEW.ordinal; END";
        database.execute(trap).await;
        let answer = retry(&service, &id, &json!({}), &[]).await.expect(202);
        assert_eq!(answer.header("location"), format!("/images/{id}"));
        service.kill().await;
        assert_eq!(database.number("SELECT reserved FROM budget WHERE scope = 'everyone'").await, 100_000);
    })
    .await;
}
