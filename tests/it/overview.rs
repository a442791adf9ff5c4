//! `GET /overview`: what an operator asks for first agrees with what others tell, and is told while the database is away.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::assets::local::LocalAssets;
use orchestrator::clock::{Clock, FixedClock};
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::time::Timestamp;
use orchestrator::service::gate::{Gate, GateRules, Verdict};
use orchestrator::service::health::Health;
use orchestrator::service::overview::Overview;
use orchestrator::store::Limits;
use orchestrator::telemetry::metrics::{Answered, Metrics, PictureOutcome, Settled};
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::books::{micros, on};
use crate::cluster::Cluster;
use crate::engines::{Database, on_both_engines, on_sqlite};
use crate::process::{Settings, batch};

/// The sum of a member of all minutes.
fn sum(view: &Value, name: &str) -> i64 {
    view["minutes"].as_array().unwrap().iter().map(|minute| minute[name].as_i64().unwrap()).sum()
}

on_both_engines!(the_numbers_are_those_of_a_batch_that_ended);

async fn the_numbers_are_those_of_a_batch_that_ended(database: Arc<Database>) {
    let service = on(&database).with("DAILY_BUDGET_USD", "5").with("PROVIDER_CONCURRENCY", "3").start().await;
    let mut body = batch(6, 1);
    body["items"][0]["prompt"] = json!("[refuse] a cup");
    body["items"][1]["prompt"] = json!("[refuse] another cup");
    body["items"][2]["prompt"] = json!("[text-only] a cup");
    let id = service.submit(&body).await;
    let ended = service.finished(&id).await;
    service.get("/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV").await.expect_problem(404, "not_found");
    let view = service.until(|view| view["work"]["ledgerPending"] == 0, "/overview").await;

    let budget = service.get("/budget").await.json();
    let work = &view["work"];
    for name in ["dailyLimit", "spent", "reserved", "unknown", "remaining"] {
        assert_eq!(work[name], budget["everyone"][name], "{name}");
    }
    assert_eq!((&work["resetsAt"], &work["spent"]), (&budget["resetsAt"], &ended["actualCost"]));
    assert_eq!([&work["queued"], &work["running"], &work["oldestSeconds"], &work["ledgerLagSeconds"]], [&json!(0); 4]);

    assert_eq!((sum(&view, "completed"), sum(&view, "failed"), sum(&view, "errors")), (3, 3, 0));
    let cost: i64 = view["minutes"].as_array().unwrap().iter().map(|minute| micros(&minute["cost"])).sum();
    assert_eq!(cost, micros(&ended["actualCost"]));
    assert!(view["minutes"].as_array().unwrap().iter().any(|minute| minute["p95"].is_u64()));
    let codes = json!([{"code": "safety_blocked", "count": 2}, {"code": "no_image", "count": 1}, {"code": "not_found", "count": 1}]);
    assert_eq!(view["codes"], codes);
    let gate = json!({"limit": 3, "usual": 3, "closed": null, "opensInSeconds": null});
    assert_eq!((&view["gate"], &view["reasons"], &view["ledgerTrouble"]), (&gate, &json!([]), &Value::Null));
    assert_eq!((&view["callsInFlight"], &view["version"]), (&json!(0), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(view["memory"].as_u64().unwrap() > 1 << 20);
    // This question counts among the requests when it is answered.
    let next = service.get("/overview").await.json();
    assert!(sum(&next, "requests") > sum(&view, "requests"));
}

#[tokio::test]
async fn without_a_ledger_and_without_a_limit_there_is_nothing_to_wait_for_and_nothing_left() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("BUDGET_GUARD_ENABLED", "false");
    let service = settings.start().await;
    let id = service.submit(&batch(1, 1)).await;
    service.finished(&id).await;
    let work = service.get("/overview").await.expect(200).json()["work"].clone();
    for name in ["dailyLimit", "remaining", "ledgerPending", "ledgerLagSeconds"] {
        assert_eq!(work[name], Value::Null, "{name}");
    }
    assert_eq!(micros(&work["spent"]), 50_000);
}

#[tokio::test]
async fn a_closed_gate_is_told_with_when_it_opens() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let mut body = batch(1, 1);
    body["items"][0]["prompt"] = json!("[quota] a cup");
    let id = service.submit(&body).await;
    service.finished(&id).await;
    let gate = service.get("/overview").await.json()["gate"].clone();
    assert_eq!(gate["closed"], "quota");
    assert!((1..=60).contains(&gate["opensInSeconds"].as_u64().unwrap()), "{gate}");
}

mod postgres_away {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn while_the_database_is_away_all_else_is_told_in_bounded_time() {
        let cluster = Cluster::start("");
        let database = Database::at(cluster.url());
        // Who is let in by a key of the database cannot be let in without it.
        let service = on(&database).with("AUTH", "open").start().await;
        let id = service.submit(&batch(2, 1)).await;
        service.finished(&id).await;
        tokio::task::block_in_place(|| cluster.stop_at_once());
        let view = service.get("/overview").await.expect(200).json();
        assert_eq!(view["work"], Value::Null);
        assert!(view["reasons"][0].as_str().unwrap().starts_with("store: "), "{view}");
        assert_eq!((sum(&view, "completed"), &view["gate"]["closed"]), (2, &Value::Null));
        tokio::task::block_in_place(|| cluster.start_again());
        let view = service.until(|view| !view["work"].is_null(), "/overview").await;
        assert_eq!((micros(&view["work"]["spent"]), &view["reasons"]), (100_000, &json!([])));
    }
}

/// An overview of a store on a clock that the test moves, and what it looks at.
struct Looked {
    clock: Arc<FixedClock>,
    bench: Bench,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    overview: Overview,
}

impl Looked {
    async fn at(database: &Database, clock: Arc<FixedClock>) -> Self {
        let bench = Bench::on_clock(database, clock.clone()).await;
        let dynamic: Arc<dyn Clock> = clock.clone();
        let gate = Arc::new(Gate::new(dynamic.clone(), GateRules::new(8, None)));
        let metrics = Arc::new(Metrics::new(dynamic.clone()));
        let assets = Arc::new(LocalAssets::open(database.folder().to_owned(), dynamic.clone()).unwrap());
        let health = Arc::new(Health::new(bench.store.clone(), assets, gate.clone(), None, dynamic.clone()));
        let (store, limits) = (bench.store.clone(), Limits::default());
        let overview = Overview::new(store, gate.clone(), None, health, metrics.clone(), dynamic, limits);
        Self { clock, bench, gate, metrics, overview }
    }

    async fn view(&self) -> Value {
        serde_json::to_value(self.overview.view().await).unwrap()
    }

    /// An answer to a request, after 3 ms or after as long as its client asked to be kept waiting.
    fn answered(&self, status: u16, code: Option<&'static str>, waited: bool) {
        let time = (!waited).then_some(Duration::from_millis(3));
        self.metrics.answered(&Answered { route: "/images", method: "POST", status, code, time });
    }
}

#[tokio::test]
async fn minutes_go_by_and_leave_after_an_hour() {
    on_sqlite(async |database| {
        // 2027-01-15T08:00:00Z
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let looked = Looked::at(&database, clock.clone()).await;
        looked.answered(200, None, false);
        looked.answered(503, Some("unavailable"), false);
        looked.answered(202, None, true);
        clock.advance(Duration::from_secs(90));
        looked.metrics.pictures_ended("synthetic", PictureOutcome::Failed, 1);
        looked.metrics.pictures_ended("synthetic", PictureOutcome::Cancelled, 5);
        looked.metrics.picture_error("no_image");
        let cost = MicroUsd::from_micros(1_500);
        looked.metrics.settled(Settled { model: "synthetic", cost, overrun: false, unknown: false });

        let first = json!({"start": "2027-01-15T08:00:00Z", "requests": 3, "errors": 1, "p95": 5, "completed": 0, "failed": 0, "cost": 0.0});
        let second = json!({"start": "2027-01-15T08:01:00Z", "requests": 0, "errors": 0, "p95": null, "completed": 0, "failed": 1, "cost": 0.0015});
        let view = looked.view().await;
        assert_eq!((&view["startedAt"], &view["at"]), (&json!("2027-01-15T08:00:00Z"), &json!("2027-01-15T08:01:30Z")));
        assert_eq!(view["minutes"], json!([first, second]));
        assert_eq!(view["codes"], json!([{"code": "no_image", "count": 1}, {"code": "unavailable", "count": 1}]));
        clock.advance(Duration::from_mins(59));
        assert_eq!(looked.view().await["minutes"], json!([first, second]));
        clock.advance(Duration::from_mins(1));
        let view = looked.view().await;
        assert_eq!((&view["minutes"], &view["codes"][1]), (&json!([second]), &Value::Null));
        clock.advance(Duration::from_mins(1));
        assert_eq!(looked.view().await["minutes"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn the_age_of_what_waits_and_a_pause_go_by_the_clock() {
    on_sqlite(async |database| {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let looked = Looked::at(&database, clock.clone()).await;
        looked.bench.submit(3, 1).await;
        let mut pass = looked.gate.pass("synthetic").unwrap_or_else(|closed| panic!("{closed:?}"));
        pass.send();
        pass.end(Verdict::Throttled(Duration::from_millis(95_500)));
        looked.clock.advance(Duration::from_secs(90));
        let view = looked.view().await;
        assert_eq!((&view["work"]["queued"], &view["work"]["oldestSeconds"]), (&json!(3), &json!(90)));
        assert_eq!(view["gate"], json!({"limit": 1, "usual": 8, "closed": "throttled", "opensInSeconds": 6}));
        looked.clock.advance(Duration::from_secs(6));
        let gate = looked.view().await["gate"].clone();
        assert_eq!(gate, json!({"limit": 1, "usual": 8, "closed": null, "opensInSeconds": null}));
    })
    .await;
}
