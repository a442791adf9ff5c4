//! Every route with every kind of caller.

use std::collections::BTreeSet;

use orchestrator::http::describe;
use serde_json::json;

use super::{ADMIN, ALICE, BOB, from_address, key, keyed, keys, team};
use crate::engines::{Database, on_both_engines};
use crate::process::{Settings, batch};

/// What a route needs, and what it answers to one who may: about a batch of another user, and about their own.
const ROUTES: &[(&str, &str, &str, u16, u16)] = &[
    ("GET", "/images", "read", 200, 200),
    ("POST", "/images", "submit", 200, 200),
    ("GET", "/images/{batchId}", "read", 404, 200),
    ("GET", "/images/{batchId}/events", "read", 404, 200),
    ("HEAD", "/images/{batchId}/events", "read", 404, 200),
    ("GET", "/progress/{batchId}", "read", 404, 200),
    ("HEAD", "/progress/{batchId}", "read", 404, 200),
    ("POST", "/images/{batchId}/cancel", "submit", 404, 200),
    ("POST", "/images/{batchId}/retry", "submit", 404, 409),
    ("POST", "/images/{batchId}/stream-token", "read", 404, 200),
    ("GET", "/images/{batchId}/items/{sceneId}/{variant}", "read", 404, 302),
    ("GET", "/images/{batchId}/items/{sceneId}/{variant}/thumbnail", "read", 404, 302),
    ("GET", "/images/{batchId}/results", "read", 404, 200),
    ("GET", "/images/{batchId}/webhooks", "read", 404, 200),
    ("POST", "/references", "submit", 415, 415),
    ("GET", "/budget", "read", 200, 200),
    ("GET", "/models", "read", 200, 200),
    ("POST", "/session", "key", 200, 200),
    ("DELETE", "/session", "", 204, 204),
    ("GET", "/assets/{path}", "", 404, 404),
    ("POST", "/batch/images", "", 308, 308),
    ("GET", "/", "", 200, 200),
    ("GET", "/console/{file}", "", 404, 404),
    ("GET", "/docs", "", 200, 200),
    ("GET", "/docs/{file}", "", 404, 404),
    ("GET", "/health", "", 200, 200),
    ("GET", "/healthz", "", 200, 200),
    ("GET", "/ready", "", 200, 200),
    ("GET", "/readyz", "", 200, 200),
    ("GET", "/metrics-lite", "", 200, 200),
    ("GET", "/metrics", "admin", 200, 200),
    ("GET", "/overview", "admin", 200, 200),
    ("GET", "/openapi.json", "", 200, 200),
];

#[test]
fn the_table_has_every_route_there_is() {
    let description = serde_json::to_value(describe::routes().1).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let tabled: BTreeSet<String> = ROUTES.iter().map(|(method, path, ..)| format!("{method} {path}")).collect();
    assert_eq!(tabled, described);
}

on_both_engines!(every_route_answers_each_caller_as_it_should, an_admin_sees_and_stops_what_is_anyones);

async fn every_route_answers_each_caller_as_it_should(database: std::sync::Arc<Database>) {
    let entry = |name: &str, seed: u8, more: &str| format!("{name}={}{more}", key(seed));
    let entries = [
        entry("alice", 1, ""),
        entry("bob", 2, ""),
        entry("carol", 3, ";expires=2020-01-01"),
        entry("alice", 4, ";scopes=read"),
        entry("alice", 5, ";scopes=submit"),
        entry("alice", 6, ";scopes=admin"),
    ];
    let settings = keyed(database.folder(), &entries).with("DATABASE_URL", database.url.clone());
    let settings = settings.with("RATE_LIMIT_PER_MINUTE", "10000");
    let mut service = settings.start().await;
    let (revoked, made) = keys(&settings, &["new", "--name", "alice"]).await;
    assert!(made);
    service.ask("GET", "/budget", Some(&revoked), None).await.expect(200);
    assert!(keys(&settings, &["revoke", &revoked[4..16]]).await.1);

    let mut wrong = key(1);
    wrong.replace_range(70.., if wrong.ends_with("000") { "111" } else { "000" });
    let unknown = key(99);
    let id = service.submit_as(&key(ALICE), &batch(1, 1)).await;
    service.finished_as(&key(ALICE), &id).await;
    for (number, &(method, path, need, of_another, own)) in (1..).zip(ROUTES) {
        // Wrong keys are counted by address.
        service.client = from_address(number);
        let path = path.replace("{batchId}", &id).replace("{sceneId}", "s-001").replace("{variant}", "1");
        let body = (method == "POST" && path == "/images").then(|| json!({"items": [{"sceneId": "a", "prompt": "x"}]}));
        let ask = async |key: Option<&str>| service.ask(method, &path, key, body.as_ref()).await;
        let refused = if need.is_empty() { own } else { 401 };
        for (who, key) in [("nobody", None), ("a typo", Some(wrong.as_str())), ("no key", Some("aip_secret"))] {
            let answer = ask(key).await;
            assert_eq!(answer.status, refused, "{method} {path} by {who}: {}", answer.text);
            if refused == 401 {
                assert!(answer.header("www-authenticate").starts_with("Bearer"), "{method} {path} by {who}");
            }
        }
        let scoped = |scope: &str| match need {
            "" | "key" => own,
            need if need == scope => own,
            _ => 403,
        };
        for (who, key, expected) in [
            ("an unknown key", &unknown, refused),
            ("an expired key", &key(3), refused),
            ("a revoked key", &revoked, refused),
            ("a key that only reads", &key(4), scoped("read")),
            ("a key that only submits", &key(5), scoped("submit")),
            ("another user", &key(BOB), if need == "admin" { 403 } else { of_another }),
            ("the user", &key(ALICE), if need == "admin" { 403 } else { own }),
            ("an admin", &key(6), own),
        ] {
            let answer = ask(Some(key)).await;
            assert_eq!(answer.status, expected, "{method} {path} by {who}: {}", answer.text);
            if expected >= 400 && method != "HEAD" {
                assert_eq!(answer.header("content-type"), "application/problem+json");
                assert!(!answer.text.contains(&key[20..]), "the key is repeated");
            }
        }
    }
}

async fn an_admin_sees_and_stops_what_is_anyones(database: std::sync::Arc<Database>) {
    let settings = team(database.folder()).with("DATABASE_URL", database.url.clone());
    let service = settings.with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h").start().await;
    let (alice, bob, admin) = (key(ALICE), key(BOB), key(ADMIN));
    let id = service.submit_as(&alice, &batch(20, 1)).await;
    let count = async |key: &str| {
        let list = service.ask("GET", "/images", Some(key), None).await.expect(200).json();
        list["batches"].as_array().unwrap().len()
    };
    assert_eq!([count(&alice).await, count(&bob).await, count(&admin).await], [1, 0, 1]);
    let path = format!("/images/{id}");
    service.ask("GET", &path, Some(&bob), None).await.expect_problem(404, "not_found");
    service.ask("GET", &path, Some(&admin), None).await.expect(200);
    let cancel = format!("{path}/cancel");
    service.ask("POST", &cancel, Some(&bob), None).await.expect_problem(404, "not_found");
    let view = service.ask("POST", &cancel, Some(&admin), None).await.expect(200).json();
    assert!(view["counts"]["cancelled"].as_u64().unwrap() >= 10, "{view}");
    let none = "/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    service.ask("GET", none, Some(&admin), None).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_service_without_keys_is_open_until_the_first_one_is_made_and_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path());
    let service = settings.start().await;
    let id = service.submit(&batch(1, 1)).await;
    let (listed, _) = keys(&settings, &["list"]).await;
    assert_eq!(listed, "");
    let (mine, _) = keys(&settings, &["new", "--name", "local", "--scopes", "read"]).await;
    assert_eq!(mine.len(), 73, "standard output has the key alone");
    let problem = service.get("/images").await.expect_problem(401, "unauthorized");
    assert!(problem["detail"].as_str().unwrap().contains("Authorization"), "{problem}");
    service.ask("GET", &format!("/images/{id}"), Some(&mine), None).await.expect(200);
    let (listed, _) = keys(&settings, &["list", "--json"]).await;
    assert!(listed.contains(&mine[4..16]) && !listed.contains(&mine[20..]), "{listed}");
    assert!(keys(&settings, &["revoke", &mine[4..16]]).await.1);
    assert!(!keys(&settings, &["revoke", "000000000000"]).await.1);
    service.ask("GET", "/images", Some(&mine), None).await.expect_problem(401, "unauthorized");
    service.stop().await;
    let service = settings.start().await;
    service.get("/images").await.expect_problem(401, "unauthorized");
    service.get("/health").await.expect(200);
}

#[tokio::test]
async fn off_loopback_without_a_key_health_is_answered_and_the_rest_says_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("HOST", "0.0.0.0").start().await;
    for path in ["/health", "/metrics-lite"] {
        service.get(path).await.expect(200);
    }
    let problem = service.get("/images").await.expect_problem(401, "unauthorized");
    assert!(problem["detail"].as_str().unwrap().contains("keys new"), "{problem}");
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.txt");
    std::fs::write(&file, format!("# the team\nalice={}\n", key(1))).unwrap();
    let settings = Settings::new(folder.path()).with("API_KEYS_FILE", file.to_str().unwrap());
    let mut service = settings.start().await;
    service.ask("GET", "/budget", Some(&key(1)), None).await.expect(200);
    let (entry, _) = keys(&settings, &["new", "--name", "bob", "--entry"]).await;
    assert!(entry.starts_with("bob=aip_") && entry.contains("sha256:"), "{entry}");
    std::fs::write(&file, format!("bob={}\n", key(2))).unwrap();
    let deadline = tokio::time::Instant::now() + crate::process::PATIENCE;
    let mut tries = 0..=u8::MAX;
    while service.ask("GET", "/budget", Some(&key(2)), None).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the file is not read again");
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        service.client = from_address(tries.next().unwrap());
    }
    service.ask("GET", "/budget", Some(&key(1)), None).await.expect(401);
}

#[tokio::test]
async fn a_keys_own_limit_holds_at_submission_and_for_a_call_that_is_paid_twice() {
    let folder = tempfile::tempdir().unwrap();
    let service = keyed(folder.path(), &[format!("alice={};budget=0.10", key(1)), format!("bob={}", key(2))]);
    let service = service.start().await;
    let problem = service.ask("POST", "/images", Some(&key(1)), Some(&batch(3, 1))).await;
    let problem = problem.expect_problem(402, "budget_exceeded");
    assert_eq!((&problem["dailyLimit"], &problem["remaining"]), (&json!(0.1), &json!(0.1)), "{problem}");
    service.submit_as(&key(2), &batch(3, 1)).await;
    // The call whose answer is lost is charged, and nothing is left of the limit for another try.
    let rows = json!({"runMode": "live", "items": [
        {"sceneId": "lost", "prompt": "[drop-once]"}, {"sceneId": "made", "prompt": "a cup"}]});
    let id = service.submit_as(&key(1), &rows).await;
    let view = service.finished_as(&key(1), &id).await;
    assert_eq!(view["items"][0]["images"][0]["error"]["code"], "budget_exhausted", "{view}");
    assert_eq!(view["items"][1]["state"], "completed");
    let budget = service.ask("GET", "/budget", Some(&key(1)), None).await.json();
    assert_eq!((&budget["user"]["dailyLimit"], &budget["user"]["spent"]), (&json!(0.1), &json!(0.1)), "{budget}");
    assert_eq!(service.ask("GET", "/budget", Some(&key(2)), None).await.json()["user"], json!(null));
}

#[tokio::test]
async fn an_admin_who_retries_stays_within_the_limit_of_the_key_that_submitted() {
    let folder = tempfile::tempdir().unwrap();
    let settings = |budget| {
        keyed(folder.path(), &[format!("alice={};budget={budget}", key(1)), format!("root={};scopes=admin", key(3))])
    };
    let service = settings("0.10").start().await;
    let rows = json!({"runMode": "live", "items": [{"sceneId": "a", "prompt": "[refuse-unpaid]"}, {"sceneId": "b", "prompt": "x"}]});
    let id = service.submit_as(&key(1), &rows).await;
    service.finished_as(&key(1), &id).await;
    service.submit_as(&key(1), &batch(1, 1)).await;
    let retry = json!({"codes": ["safety_blocked"]});
    let path = format!("/images/{id}/retry");
    let refused = service.ask("POST", &path, Some(&key(3)), Some(&retry)).await.expect_problem(402, "budget_exceeded");
    assert_eq!(refused["dailyLimit"], json!(0.1), "{refused}");
    service.stop().await;
    let service = settings("0.10").with("BUDGET_GUARD_ENABLED", "false").start().await;
    service.ask("POST", &path, Some(&key(3)), Some(&retry)).await.expect(202);
}

#[tokio::test]
async fn a_key_that_is_configured_too_is_not_said_to_be_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path());
    let (mine, _) = keys(&settings, &["new", "--name", "alice"]).await;
    let file = folder.path().join("keys.txt");
    std::fs::write(&file, format!("alice={mine}\n")).unwrap();
    for settings in [
        Settings::new(folder.path()).with("API_KEYS", format!("alice={mine}")),
        Settings::new(folder.path()).with("API_KEYS_FILE", file.to_str().unwrap()),
    ] {
        assert!(!keys(&settings, &["revoke", &mine[4..16]]).await.1, "it is let in all the same");
    }
    assert!(keys(&settings, &["revoke", &mine]).await.1, "the whole key names it too");
}

mod beside {
    mod postgres {
        use super::super::*;
        #[tokio::test]
        async fn keys_are_made_beside_another_version_on_postgres_without_a_change_of_its_schema() {
            crate::engines::on_postgres(|database| async move {
                let settings = Settings::new(database.folder()).with("DATABASE_URL", database.url.clone());
                assert!(keys(&settings, &["new", "--name", "alice"]).await.1, "the database was empty");
                database.execute("DELETE FROM _sqlx_migrations WHERE version > 1").await;
                assert!(keys(&settings, &["new", "--name", "bob"]).await.1);
                assert_eq!(database.number("SELECT COUNT(*) FROM _sqlx_migrations").await, 1);
            })
            .await;
        }
    }
}

#[tokio::test]
async fn on_cloud_run_the_caller_is_whom_the_platform_names() {
    use base64::Engine as _;
    let token = |claims: &str| {
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        format!("e30.{claims}.SIGNATURE_REMOVED_BY_GOOGLE")
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = keyed(folder.path(), &[format!("ops={};scopes=admin", key(1))]);
    let settings = settings.with("K_SERVICE", "s").with("ALLOW_EPHEMERAL_STATE", "true").with("HOST", "127.0.0.1");
    let service = settings.with("AUTH", "cloud-run").start().await;
    let alice = token(r#"{"email":"alice@example.com","email_verified":true}"#);
    let id = service.submit_as(&alice, &batch(1, 1)).await;
    service.finished_as(&alice, &id).await;
    let bob = token(r#"{"email":"bob@example.com","email_verified":true}"#);
    service.ask("GET", &format!("/images/{id}"), Some(&bob), None).await.expect_problem(404, "not_found");
    service.ask("GET", &format!("/images/{id}"), Some(&key(1)), None).await.expect(200);
    service.ask("GET", "/images", None, None).await.expect_problem(401, "unauthorized");
    service.ask("GET", "/images", Some("a.b.c"), None).await.expect_problem(401, "unauthorized");
    let (_, log) = service.stop_and_read().await;
    let line = log.iter().find(|line| line["target"] == "audit").unwrap();
    assert_eq!(line["user"], "alice@example.com", "{line}");
}
