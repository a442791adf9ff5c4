//! The wall clock of running processes is set, by hours and days, back and forward: no money is freed, no claim is
//! lost, nothing waits for the hours that the clock was moved by.
//!
//! By Debian's libfaketime, which moves the wall clock of the process that it is loaded into, and leaves its monotonic
//! clocks alone. Where it is not installed these tests say so and end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator::clock::{Clock as _, FixedClock, SystemClock};
use orchestrator::domain::ids::UserId;
use orchestrator::domain::outcome::Outcome;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::books::{ledger, micros, on};
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault, PICTURE_MICROS, png};
use crate::process::{PATIENCE, Service, Settings, batch};

on_both_engines!(
    a_clock_that_jumps_under_a_running_batch_changes_nothing,
    two_clocks_that_are_days_apart_keep_one_budget,
    a_restart_with_a_clock_that_went_back_does_not_wait_for_it,
    a_second_try_after_an_unknown_outcome_waits_for_no_clock,
);

const HOUR: i64 = 3_600;

fn library() -> Option<PathBuf> {
    let found = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut places = found.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library = places.find(|place| place.exists());
    if library.is_none() {
        eprintln!("SKIPPED: libfaketime is not installed, so no clock is moved");
    }
    library
}

/// The clock of one process.
struct WallClock {
    library: PathBuf,
    stamp: PathBuf,
    /// What puts the clock to noon: no jump of a test meets the real midnight by chance.
    noon: i64,
}

impl WallClock {
    fn new(database: &Database, name: &str) -> Option<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let noon = 12 * HOUR - i64::try_from(now % 86_400).unwrap();
        let clock = Self { library: library()?, stamp: database.folder().join(name), noon };
        clock.set(0);
        Some(clock)
    }

    /// Sets it so many seconds from noon.
    fn set(&self, seconds: i64) {
        let next = self.stamp.with_extension("next");
        std::fs::write(&next, format!("{:+}", self.noon + seconds)).unwrap();
        std::fs::rename(next, &self.stamp).unwrap();
    }

    /// The service by this clock.
    fn on(&self, settings: Settings) -> Settings {
        settings
            .with("LD_PRELOAD", self.library.to_str().unwrap())
            .with("FAKETIME_TIMESTAMP_FILE", self.stamp.to_str().unwrap())
            .with("FAKETIME_NO_CACHE", "1")
            .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .with("DONT_FAKE_MONOTONIC", "1")
    }
}

fn paid(settings: Settings, provider: &FakeGemini) -> Settings {
    settings
        .with("PROVIDER", "gemini")
        .with("GEMINI_API_KEY", "key")
        .with("GEMINI_BASE_URL", provider.url.clone())
        .with("RUN_MODE", "live")
        .with("PROVIDER_CONCURRENCY", "2")
}

/// The service's own wall clock, in seconds.
async fn clock_of(service: &Service) -> i64 {
    service.get("/healthz").await.json()["ts"].as_i64().unwrap() / 1_000
}

async fn spent(service: &Service) -> (String, i64) {
    let budget = service.get("/budget").await.expect(200).json();
    (budget["day"].as_str().unwrap().to_owned(), micros(&budget["everyone"]["spent"]))
}

/// A link of the batch works, for five minutes at least.
async fn has_live_links(service: &Service, batch: &str) {
    let view = service.get(&format!("/images/{batch}?limit=200")).await.expect(200).json();
    let items = view["items"].as_array().unwrap().iter();
    let url = items.map(|item| &item["images"][0]).find(|image| image["state"] == "completed").unwrap()["url"].clone();
    let url = url.as_str().unwrap();
    service.get(url).await.expect(200);
    let expires = url.split(['?', '&']).find_map(|part| part.strip_prefix("expires=")).unwrap();
    assert!(expires.parse::<i64>().unwrap() / 1_000 >= clock_of(service).await + 300, "{url}");
}

async fn a_clock_that_jumps_under_a_running_batch_changes_nothing(database: Arc<Database>) {
    const PICTURES: usize = 24;
    let Some(clock) = WallClock::new(&database, "clock") else { return };
    // Every third picture waits for its second try, and another third is put off first.
    let script = |prompt: &str, count: usize| match (prompt.trim_start_matches("a cup, row ").parse::<usize>(), count) {
        (Ok(row), 0) if row % 3 == 0 => Fault::Own503,
        (Ok(row), 0) if row % 3 == 1 => Fault::Throttle,
        _ => Fault::None,
    };
    let provider = FakeGemini::start(&png(), Duration::from_millis(50), Allowed::default(), script).await;
    let settings = paid(clock.on(on(&database)), &provider).with("LEASE_DURATION", "1s");
    let service = settings.start().await;
    let (day, _) = spent(&service).await;
    let key = [("idempotency-key", "one")];
    let answer = service.post("/images", &batch(PICTURES, 1), &key).await.expect(202).json();
    let id = answer["batchId"].as_str().unwrap();
    let mut last = 0;
    // Back by an hour and a half at last: what is due then is neither due nor absurdly far away.
    for (step, jump) in [48 * HOUR, -72 * HOUR, -13 * HOUR, 5 * HOUR, 13 * HOUR, 23 * HOUR / 2].into_iter().enumerate()
    {
        let made = 3 * (step as u64 + 1);
        service.until(|metrics| metrics["imagesGenerated"].as_u64() >= Some(made), "/metrics-lite").await;
        let before = clock_of(&service).await;
        clock.set(jump);
        assert!((clock_of(&service).await - before).abs() > HOUR, "the clock did not move");
        let (today, now) = spent(&service).await;
        assert!(now >= last, "{now} after {last}");
        assert!(today == day || is_postgres(&database), "{today} after {day}");
        last = now;
        has_live_links(&service, id).await;
        // The same request is the same batch.
        let again = service.post("/images", &batch(PICTURES, 1), &key).await.expect(202);
        assert_eq!((again.json()["batchId"].as_str(), again.header("idempotent-replayed")), (Some(id), "true"));
    }
    let begun = std::time::Instant::now();
    let view = service.finished(id).await;
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(view["counts"]["completed"], PICTURES, "{view}");
    let cost = i64::try_from(PICTURES).unwrap() * PICTURE_MICROS;
    assert_eq!((micros(&view["actualCost"]), micros(&view["unknownCost"])), (cost, 0));
    assert_eq!(provider.charged_micros(), cost, "a claim that is lost is paid twice");
    let budget = service.get("/budget").await.json();
    assert_eq!((micros(&budget["everyone"]["spent"]), micros(&budget["everyone"]["reserved"])), (cost, 0), "{budget}");
    let (code, log) = service.stop_and_read().await;
    assert_eq!(code, Some(0));
    // On Postgres the day is the database's, whose clock did not jump.
    let warned =
        log.iter().any(|line| line["message"].as_str().unwrap_or_default().starts_with("the wall clock jumped"));
    assert_eq!(warned, !is_postgres(&database));
    assert_eq!(ledger(database.folder()).len(), PICTURES);
    let taken_over = log.iter().any(|line| line["message"] == "taking over from a worker that stopped beating");
    assert!(!taken_over);
}

fn is_postgres(database: &Database) -> bool {
    database.url.starts_with("postgres")
}

/// Two instances of which one is a day ahead, then two behind; on a file, one process after the other.
async fn two_clocks_that_are_days_apart_keep_one_budget(database: Arc<Database>) {
    let (Some(right), Some(wrong)) = (WallClock::new(&database, "right"), WallClock::new(&database, "wrong")) else {
        return;
    };
    wrong.set(24 * HOUR);
    let provider = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), |_, _| Fault::None).await;
    let limit = (6 * PICTURE_MICROS + 10_000).to_string();
    let limited = |clock: &WallClock| {
        let limit = format!("0.{limit:0>6}");
        paid(clock.on(on(&database)), &provider).with("DAILY_BUDGET_USD", limit).with("BUDGET_LEDGER_ENABLED", "false")
    };
    let spend = async |service: &Service, pictures: usize| {
        let id = service.submit(&batch(pictures, 1)).await;
        service.finished(&id).await;
    };
    if is_postgres(&database) {
        let (one, other) = (limited(&right).start().await, limited(&wrong).start().await);
        spend(&one, 3).await;
        spend(&other, 2).await;
        wrong.set(-48 * HOUR);
        right.set(24 * HOUR);
        for service in [&one, &other] {
            // The day is the database's: whatever clock an instance has, what was spent is spent.
            service.post("/images", &batch(2, 1), &[]).await.expect_problem(402, "budget_exceeded");
            assert_eq!(spent(service).await.1, 5 * PICTURE_MICROS);
            assert_eq!(service.get("/budget").await.json()["everyone"]["reserved"], json!(0.0));
        }
        let lost = "SELECT COUNT(*) FROM attempts WHERE state <> 'settled'";
        assert_eq!(database.number(lost).await, 0);
        return;
    }
    let service = limited(&right).start().await;
    spend(&service, 5).await;
    let (day, _) = spent(&service).await;
    assert_eq!(service.stop().await, Some(0));
    // A start believes the clock it finds; but the day that is recorded never goes back, so nothing is given twice.
    wrong.set(-48 * HOUR);
    let service = limited(&wrong).start().await;
    assert_eq!(spent(&service).await, (day, 5 * PICTURE_MICROS));
    service.post("/images", &batch(2, 1), &[]).await.expect_problem(402, "budget_exceeded");
}

/// Pictures that wait for another try are due by a clock that was hours ahead.
async fn a_restart_with_a_clock_that_went_back_does_not_wait_for_it(database: Arc<Database>) {
    let Some(clock) = WallClock::new(&database, "clock") else { return };
    clock.set(10 * HOUR);
    let throttled = |_: &str, _: usize| Fault::ThrottleBare;
    let provider = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), throttled).await;
    let service = paid(clock.on(on(&database)), &provider).start().await;
    let id = service.submit(&batch(3, 1)).await;
    service.until(|metrics| metrics["callsThrottled"].as_u64() >= Some(1), "/metrics-lite").await;
    assert_eq!(service.stop().await, Some(0));
    clock.set(-10 * HOUR);
    let provider = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), |_, _| Fault::None).await;
    let service = paid(clock.on(on(&database)), &provider).start().await;
    let view = service.finished(&id).await;
    assert_eq!((&view["counts"]["completed"], micros(&view["actualCost"])), (&Value::from(3), 3 * PICTURE_MICROS));
}

async fn a_second_try_after_an_unknown_outcome_waits_for_no_clock(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(SystemClock::new().now()));
    let bench = Bench::on_clock(&database, clock.clone()).await;
    bench.submit(1, 1).await;
    let job = bench.start_one().await;
    // Ahead by less than what counts as absurd.
    clock.jump_to(clock.now().after(Duration::from_mins(90)));
    bench.settle(&job, Outcome::Unknown).await;
    let now = bench.store.steady_now();
    let again = bench.store.claim(bench.worker, &UserId::local(), 1, now).await.unwrap();
    assert_eq!(again.len(), 1, "it waits for an hour and a half");
}
