//! What each switch turns off: one test for each row of the table in docs/API.md.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::assets::local::LocalAssets;
use orchestrator::clock::{Clock, FixedClock};
use orchestrator::domain::time::Timestamp;
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::telemetry::metrics::Metrics;
use serde_json::Value;

use crate::books::{ledger, micros};
use crate::process::{Settings, batch};

/// The switches that the table has a row of.
fn rows() -> Vec<String> {
    let page = std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/API.md")).unwrap();
    let table = page.split("## Switches").nth(1).unwrap();
    let names = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_table_has_a_row_for_each_switch_and_each_row_has_a_test() {
    let names = orchestrator::config::Config::names();
    let mut switches: Vec<&str> = names.into_iter().filter(|name| name.ends_with("_ENABLED")).collect();
    switches.sort_unstable();
    assert_eq!(rows(), switches);
    let tests = include_str!("switches.rs");
    for switch in switches {
        let test = format!("async fn {}_off_", switch.trim_end_matches("_ENABLED").to_lowercase());
        assert!(tests.contains(&test), "no test begins with {test}");
    }
}

#[tokio::test]
async fn budget_guard_off_admits_what_does_not_fit_and_counts_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("DAILY_BUDGET_USD", "0.05");
    let service = settings.start().await;
    service.post("/images", &batch(2, 1), &[]).await.expect_problem(402, "budget_exceeded");
    service.kill().await;
    let service = settings.with("BUDGET_GUARD_ENABLED", "false").start().await;
    let id = service.submit(&batch(2, 1)).await;
    assert_eq!(micros(&service.finished(&id).await["actualCost"]), 100_000);
    let everyone = service.get("/budget").await.json()["everyone"].clone();
    assert_eq!((&everyone["dailyLimit"], &everyone["remaining"]), (&Value::Null, &Value::Null));
    assert_eq!(micros(&everyone["spent"]), 100_000);
}

#[tokio::test]
async fn budget_ledger_off_keeps_charges_until_it_is_on() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("BUDGET_LEDGER_ENABLED", "false");
    let service = settings.start().await;
    let id = service.submit(&batch(3, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.get("/ready").await.expect(200).json()["ledger"], Value::Null);
    assert_eq!(service.stop().await, Some(0));
    assert!(!folder.path().join("ledger").exists());
    let service = settings.with("BUDGET_LEDGER_ENABLED", "true").start().await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(folder.path()).len(), 3);
}

#[tokio::test]
async fn sse_off_answers_that_it_is_and_batches_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("SSE_ENABLED", "false").start().await;
    let id = service.submit(&batch(1, 1)).await;
    for path in [format!("/images/{id}/events"), format!("/progress/{id}")] {
        service.get(&path).await.expect_problem(404, "feature_disabled");
        let head = service.client.head(format!("{}{path}", service.url)).send().await.unwrap();
        assert_eq!(head.status().as_u16(), 404);
    }
    assert_eq!(service.finished(&id).await["state"], "completed");
}

#[tokio::test]
async fn thumbnails_off_makes_none_and_its_addresses_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("THUMBNAILS_ENABLED", "false").start().await;
    let id = service.submit(&batch(1, 1)).await;
    let image = service.finished(&id).await["items"][0]["images"][0].clone();
    assert_eq!(image["thumbnailUrl"], Value::Null);
    let thumbnail = format!("{}/thumbnail", image["permalink"].as_str().unwrap());
    service.get(&thumbnail).await.expect_problem(404, "not_found");
    assert!(!folder.path().join("thumbnails").exists());
}

#[tokio::test]
async fn url_refresh_off_keeps_a_link_to_its_end() {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_795_512_370_739)));
    let folder = tempfile::tempdir().unwrap();
    let minutes = |count| Duration::from_mins(count);
    let mut kept = Vec::new();
    for refresh in [true, false] {
        let assets = Arc::new(LocalAssets::open(folder.path().to_owned(), clock.clone() as Arc<dyn Clock>).unwrap());
        let rules = LinkRules { ttl: minutes(60), min_left: minutes(5), refresh };
        let links = Links::new(assets, clock.clone(), Arc::new(Metrics::default()), rules);
        let ask = async || links.fresh("images/x.png", "x.png").await.unwrap().url;
        let first = ask().await;
        clock.advance(minutes(56));
        let second = ask().await;
        clock.advance(minutes(4));
        kept.push((first == second, first == ask().await));
    }
    assert_eq!(kept, [(false, false), (true, false)]);
}
