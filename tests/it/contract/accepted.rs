//! What an accepted batch is answered with, also a second time, and what does not fit.

use std::path::Path;

use serde_json::{Value, json};

use super::{hanging, quick, row};
use crate::books::micros;
use crate::process::{Service, Settings, batch};

/// The key of a submission.
fn key(name: &str) -> [(&str, &str); 1] {
    [("idempotency-key", name)]
}

/// A service with these limits on what everyone, and what a user, may spend on a day.
async fn limited(folder: &Path, everyone: &str, user: Option<&str>) -> Service {
    let settings = Settings::new(folder).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let settings = settings.with("DAILY_BUDGET_USD", everyone);
    user.into_iter().fold(settings, |settings, limit| settings.with("USER_DAILY_BUDGET_USD", limit)).start().await
}

#[tokio::test]
async fn a_replay_has_the_status_address_and_batch_of_the_first_answer_and_the_body_of_now() {
    let folder = tempfile::tempdir().unwrap();
    let service = hanging(folder.path()).await;
    let first = service.post("/images", &batch(2, 1), &key("one")).await.expect(202);
    assert_eq!((first.header("idempotent-replayed"), first.header("preference-applied")), ("", ""));
    let path = first.header("location").to_owned();
    assert_eq!(path, format!("/images/{}", first.json()["batchId"].as_str().unwrap()));
    // Both calls hang: nothing changes any more.
    let now = service.until(|view| view["items"][0]["images"][0]["attempts"] == 1, &path).await;
    service.until(|metrics| metrics["callsStarted"] == 2, "/metrics-lite").await;
    let again = service.post("/images", &batch(2, 1), &key("one")).await.expect(202);
    assert_eq!((again.header("idempotent-replayed"), again.header("location")), ("true", path.as_str()));
    assert_eq!(again.json(), service.get(&path).await.json());
    assert_eq!((&again.json()["batchId"], &again.json()["createdAt"]), (&now["batchId"], &now["createdAt"]));
    assert_eq!(micros(&service.get("/budget").await.json()["everyone"]["reserved"]), 100_000);
    // The same meaning, written otherwise.
    let other_spelling = json!({"run_mode": "live", "items": [
        {"scene_id": "s-001", "prompt": "a cup, row 1", "variants": 1, "image_size": "1K"},
        {"prompt": "a cup, row 2", "sceneId": "s-002"}]});
    let again = service.post("/images", &other_spelling, &key("one")).await.expect(202);
    assert_eq!(again.header("location"), path);
}

#[tokio::test]
async fn a_replay_is_answered_by_a_service_that_spends_nothing_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let first = service.post("/images", &row("a cup"), &key("one")).await.expect(202);
    service.finished(first.json()["batchId"].as_str().unwrap()).await;
    assert_eq!(service.stop().await, Some(0));
    let service = Settings::new(folder.path()).with("RUN_MODE", "dry_run").start().await;
    let again = service.post("/images", &row("a cup"), &key("one")).await.expect(202);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!((again.header("idempotent-replayed"), &again.json()["state"]), ("true", &json!("completed")));
    service.post("/images", &row("a jug"), &key("one")).await.expect_problem(422, "idempotency_key_reused");
    service.post("/images", &row("a cup"), &key("two")).await.expect_problem(403, "live_disabled");
}

#[tokio::test]
async fn a_key_belongs_only_to_an_accepted_live_batch() {
    let folder = tempfile::tempdir().unwrap();
    let service = limited(folder.path(), "0.1", None).await;
    let mut dry = row("a cup");
    dry["runMode"] = json!("dry_run");
    let view = service.post("/images", &dry, &key("one")).await.expect(200);
    assert_eq!((view.header("location"), view.header("idempotent-replayed")), ("", ""));
    service.post("/images", &row(""), &key("one")).await.expect_problem(400, "invalid_request");
    service.post("/images", &batch(3, 1), &key("one")).await.expect_problem(402, "budget_exceeded");
    let accepted = service.post("/images", &batch(2, 1), &key("one")).await.expect(202);
    assert_eq!(accepted.header("idempotent-replayed"), "");
    // Taken in: told as a replay and not as what does not fit any more.
    let again = service.post("/images", &batch(2, 1), &key("one")).await.expect(202);
    assert_eq!(again.header("idempotent-replayed"), "true");
    service.post("/images", &batch(1, 1), &key("two")).await.expect_problem(402, "budget_exceeded");
}

#[tokio::test]
async fn what_does_not_fit_the_day_is_told_with_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let service = limited(folder.path(), "0.25", None).await;
    service.submit(&batch(2, 1)).await;
    let problem = service.post("/images", &batch(2, 2), &[]).await.expect_problem(402, "budget_exceeded");
    let budget = service.get("/budget").await.expect(200).json();
    assert_eq!(
        (&problem["estimatedCost"], &problem["remaining"], &problem["dailyLimit"], &problem["resetsAt"]),
        (&json!(0.2), &json!(0.15), &json!(0.25), &budget["resetsAt"])
    );
    let everyone = json!({"dailyLimit": 0.25, "spent": 0.0, "reserved": 0.1, "remaining": 0.15, "unknown": 0.0});
    assert_eq!((&budget["everyone"], &budget["user"]), (&everyone, &Value::Null));
    let day = budget["day"].as_str().unwrap();
    assert!(budget["resetsAt"].as_str().unwrap() > day && budget["resetsAt"].as_str().unwrap().ends_with("T00:00:00Z"));
    assert_eq!(service.get("/images").await.json()["batches"].as_array().unwrap().len(), 1);
    service.submit(&batch(1, 3)).await;
    let rest = service.post("/images", &batch(1, 1), &[]).await.expect_problem(402, "budget_exceeded");
    assert_eq!(rest["remaining"], 0.0);
}

#[tokio::test]
async fn a_users_own_limit_holds_beside_that_of_everyone() {
    let folder = tempfile::tempdir().unwrap();
    let service = limited(folder.path(), "10", Some("0.1")).await;
    service.submit(&batch(1, 1)).await;
    let problem = service.post("/images", &batch(2, 1), &[]).await.expect_problem(402, "budget_exceeded");
    assert_eq!((&problem["remaining"], &problem["dailyLimit"]), (&json!(0.05), &json!(0.1)));
    let budget = service.get("/budget").await.expect(200).json();
    assert_eq!((&budget["user"]["reserved"], &budget["user"]["remaining"]), (&json!(0.05), &json!(0.05)));
    assert_eq!((&budget["everyone"]["reserved"], &budget["everyone"]["remaining"]), (&json!(0.05), &json!(9.95)));
}

#[tokio::test]
async fn a_deprecated_model_makes_its_pictures_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let mut body = row("a cup");
    body["model"] = json!("gemini-2.5-flash-image");
    let view = service.post("/images", &body, &[("prefer", "wait=60")]).await.expect(200).json();
    assert_eq!((&view["model"], &view["state"]), (&body["model"], &json!("completed")));
    assert!(view["message"].as_str().unwrap().contains("gemini-nano-banana-2.1"), "{view}");
    assert!(view["message"].as_str().unwrap().contains("nothing is paid"), "{view}");
    assert_eq!(service.get("/images").await.json()["batches"][0]["message"], view["message"]);
    let (cost, reserve) = (micros(&view["actualCost"]), micros(&view["estimatedCost"]));
    assert!((38_700..=reserve).contains(&cost), "{cost} of {reserve}");
}
