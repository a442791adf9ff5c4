//! Limits of callers, each one under, at and one over.

use super::{ALICE, BOB, from_address, key, team};
use crate::process::{Answer, PATIENCE, batch};

#[tokio::test]
async fn a_user_changes_as_often_as_the_limit_says_and_reads_as_often_as_they_like() {
    let folder = tempfile::tempdir().unwrap();
    let service = team(folder.path()).with("RATE_LIMIT_PER_MINUTE", "3").start().await;
    let alice = key(ALICE);
    let dry = serde_json::json!({"items": [{"sceneId": "a", "prompt": "x"}]});
    for left in ["2", "1", "0"] {
        let answer = service.ask("POST", "/images", Some(&alice), Some(&dry)).await.expect(200);
        assert_eq!(answer.header("ratelimit-policy"), "\"changes\";q=3;w=60");
        assert!(answer.header("ratelimit").starts_with(&format!("\"changes\";r={left};t=")), "{:?}", answer.headers);
    }
    let over = service.ask("POST", "/images", Some(&alice), Some(&dry)).await;
    over.expect_problem(429, "rate_limited");
    assert!((1..=20).contains(&over.header("retry-after").parse().unwrap()), "{:?}", over.headers);
    assert!(over.header("ratelimit").starts_with("\"changes\";r=0;"));
    for _ in 0..10 {
        service.ask("GET", "/images", Some(&alice), None).await.expect(200);
    }
    service.ask("POST", "/images", Some(&key(BOB)), Some(&dry)).await.expect(200);
    // 429 comes before the body is looked at, and 403 before 429.
    service.ask("POST", "/references", Some(&alice), None).await.expect_problem(429, "rate_limited");
}

#[tokio::test]
async fn a_user_has_so_many_streams_and_one_that_ends_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let settings = team(folder.path()).with("MAX_STREAMS_PER_USER", "2");
    let service = settings.with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h").start().await;
    let alice = key(ALICE);
    let id = service.submit_as(&alice, &batch(1, 1)).await;
    let open = async || {
        let request = service.client.get(format!("{}/images/{id}/events", service.url));
        request.header("x-api-key", &alice).send().await.unwrap()
    };
    let (first, second) = (open().await, open().await);
    assert_eq!([first.status().as_u16(), second.status().as_u16()], [200, 200]);
    let over = Answer::of(open().await).await;
    over.expect_problem(429, "too_many_streams");
    assert_ne!(over.header("retry-after"), "");
    service.ask("HEAD", &format!("/images/{id}/events"), Some(&alice), None).await.expect(200);
    drop(first);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while open().await.status().as_u16() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "a stream that ended is still counted");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn wrong_keys_are_counted_by_address_and_a_good_one_is_let_in_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = team(folder.path()).start().await;
    for _ in 0..20 {
        service.ask("GET", "/images", Some(&key(99)), None).await.expect_problem(401, "unauthorized");
    }
    let over = service.ask("GET", "/images", Some(&key(99)), None).await;
    over.expect_problem(429, "rate_limited");
    assert_ne!(over.header("retry-after"), "");
    service.ask("GET", "/images", None, None).await.expect_problem(401, "unauthorized");
    service.ask("GET", "/images", Some(&key(ALICE)), None).await.expect(200);
    service.client = from_address(9);
    service.ask("GET", "/images", Some(&key(99)), None).await.expect_problem(401, "unauthorized");
}
