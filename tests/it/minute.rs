//! `PROVIDER_RPM` shared by several instances on one Postgres, against the provider's own record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use orchestrator::provider::gemini::Gemini;
use orchestrator::provider::{Answer, ImageCall, ImageProvider, ProviderError};
use orchestrator::service::gate::GateRules;
use orchestrator::store::{CallSlot, SlotOutcome, Store};

use crate::bench::Bench;
use crate::books::on;
use crate::engine::{Engine, quick};
use crate::engines::{Database, on_both_engines, on_postgres};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{PATIENCE, batch};

on_both_engines!(
    a_slot_is_free_again_when_its_minute_is_over_and_not_before,
    a_slot_that_was_not_used_is_given_back_and_one_that_was_lost_is_not,
    a_clock_that_was_set_back_closes_no_slot_for_longer_than_a_minute,
    instances_with_different_limits_share_the_smaller_one,
);

/// Longer than any test.
const MINUTE: Duration = Duration::from_hours(1);
const MODEL: &str = "gemini-nano-banana-2.1";

async fn take(store: &Store, calls: u32) -> Option<CallSlot> {
    match store.take_call_slot(calls, MINUTE).await.unwrap() {
        SlotOutcome::Taken(slot) => Some(slot),
        SlotOutcome::Spent(span) => {
            assert!(span > Duration::ZERO && span <= MINUTE, "{span:?}");
            None
        }
    }
}

async fn take_all(store: &Store, calls: u32) -> usize {
    let mut taken = 0;
    while take(store, calls).await.is_some() {
        taken += 1;
    }
    taken
}

/// Moves every use of a slot back by `span`, as time does.
async fn pass_time(database: &Database, span: Duration) {
    let span = span.as_millis();
    database.execute(&format!("UPDATE call_slots SET used_at = used_at - {span} WHERE used_at > 0")).await;
}

async fn a_slot_is_free_again_when_its_minute_is_over_and_not_before(database: Arc<Database>) {
    let store = Bench::new(&database).await.store;
    assert_eq!(take_all(&store, 3).await, 3);
    pass_time(&database, Duration::from_mins(55)).await;
    let SlotOutcome::Spent(span) = store.take_call_slot(3, MINUTE).await.unwrap() else { panic!("a fourth call") };
    assert!(span > Duration::from_mins(3) && span <= Duration::from_mins(5), "{span:?}");
    pass_time(&database, Duration::from_mins(5)).await;
    assert_eq!(take_all(&store, 3).await, 3);
    assert_eq!(take_all(&store, 5).await, 2, "a higher limit adds slots");
}

async fn a_slot_that_was_not_used_is_given_back_and_one_that_was_lost_is_not(database: Arc<Database>) {
    let store = Bench::new(&database).await.store;
    let unused = take(&store, 1).await.unwrap();
    store.free_call_slot(unused).await.unwrap();
    let lost = take(&store, 1).await.unwrap();
    pass_time(&database, MINUTE).await;
    let next = take(&store, 1).await.unwrap();
    assert_eq!(store.renew_call_slot(lost).await.unwrap(), None);
    store.free_call_slot(lost).await.unwrap();
    assert_eq!(take(&store, 1).await, None, "it is not the loser's to free");
    assert!(store.renew_call_slot(next).await.unwrap().is_some());
}

async fn a_clock_that_was_set_back_closes_no_slot_for_longer_than_a_minute(database: Arc<Database>) {
    let store = Bench::new(&database).await.store;
    assert_eq!(take_all(&store, 2).await, 2);
    database.execute("UPDATE call_slots SET used_at = used_at + 10000000000 WHERE slot = 0").await;
    assert_eq!(take_all(&store, 2).await, 1);
}

async fn instances_with_different_limits_share_the_smaller_one(database: Arc<Database>) {
    let store = Bench::new(&database).await.store;
    assert_eq!(take_all(&store, 5).await, 5);
    assert_eq!(take_all(&store, 2).await, 0);
    pass_time(&database, MINUTE).await;
    assert_eq!(take_all(&store, 2).await, 2);
    assert_eq!(take_all(&store, 5).await, 3, "five in all");
}

/// Counts the calls of one instance.
struct Counted(Gemini, AtomicUsize);

#[async_trait]
impl ImageProvider for Counted {
    fn name(&self) -> &'static str {
        "counted"
    }

    async fn generate(&self, call: &ImageCall) -> Result<Answer, ProviderError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.generate(call).await
    }
}

/// The least time in which `calls` + 1 calls arrived.
fn narrowest(fake: &FakeGemini, calls: usize) -> Duration {
    let mut arrivals: Vec<Instant> = fake.calls().iter().map(|call| call.at).collect();
    arrivals.sort_unstable();
    arrivals.windows(calls + 1).map(|window| window[calls] - window[0]).min().unwrap()
}

async fn finished(bench: &Bench, batch: orchestrator::domain::ids::BatchId) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !bench.store.load_progress(batch).await.unwrap().unwrap().1 {
        assert!(Instant::now() < deadline, "the batch does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_instances_together_keep_to_one_limit_and_none_starves() {
    on_postgres(|database| async move {
        // Two seconds are the provider's minute; ours is longer, for calls that are on their way for a while.
        let window = Duration::from_secs(2);
        let fake = FakeGemini::start(&[], Duration::ZERO, Allowed::default(), |_, _| Fault::Blocked).await;
        let benches = [Bench::new(&database).await, Bench::new(&database).await, Bench::new(&database).await];
        let batch = benches[0].submit_of(MODEL, 70).await;
        let rules = GateRules { minute: window * 3 / 2, calls_a_minute: Some(20), ..quick(4) };
        let mut engines = Vec::new();
        for bench in &benches {
            let url = fake.url.parse().unwrap();
            let gemini = Gemini::new(url, "key", Duration::from_secs(30), bench.clock.clone()).unwrap();
            let provider = Arc::new(Counted(gemini, AtomicUsize::new(0)));
            engines.push((Engine::start(bench, &database, provider.clone(), rules), provider));
        }
        finished(&benches[0], batch).await;
        let mut shares = Vec::new();
        for (engine, provider) in engines {
            engine.stop().await.unwrap();
            shares.push(provider.1.load(Ordering::SeqCst));
        }
        assert_eq!(fake.calls().len(), 70);
        assert!(narrowest(&fake, 20) >= window, "21 calls within {:?}", narrowest(&fake, 20));
        assert!(shares.iter().all(|share| *share >= 3), "{shares:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_count_of_the_minute_no_call_is_sent() {
    on_postgres(|database| async move {
        let bench = Bench::new(&database).await;
        let fake = FakeGemini::start(&[], Duration::ZERO, Allowed::default(), |_, _| Fault::Blocked).await;
        let gemini = Gemini::new(fake.url.parse().unwrap(), "key", PATIENCE, bench.clock.clone()).unwrap();
        database.execute("ALTER TABLE call_slots RENAME TO away").await;
        let rules = GateRules { calls_a_minute: Some(60), ..quick(2) };
        let engine = Engine::start(&bench, &database, Arc::new(gemini), rules);
        let batch = bench.submit_of(MODEL, 4).await;
        let deadline = Instant::now() + PATIENCE;
        let put_off = format!("SELECT COUNT(*) FROM images WHERE due > {}", bench.clock.now().millis());
        while database.number(&put_off).await < 4 {
            assert!(Instant::now() < deadline, "nothing is put off");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(fake.calls().len(), 0);
        database.execute("ALTER TABLE away RENAME TO call_slots").await;
        finished(&bench, batch).await;
        assert_eq!(fake.calls().len(), 4);
        engine.stop().await.unwrap();
    })
    .await;
}

/// The same as above with the program itself, and the minute as it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes more than a minute; scripts/soak runs it"]
async fn three_processes_together_keep_to_one_limit() {
    on_postgres(|database| async move {
        let fake = FakeGemini::start(&[], Duration::ZERO, Allowed::default(), |_, _| Fault::Blocked).await;
        let settings = on(&database).with("PROVIDER", "gemini").with("GEMINI_API_KEY", "key");
        let settings =
            settings.with("GEMINI_BASE_URL", fake.url.clone()).with("PROVIDER_RPM", "20").with("RUN_MODE", "live");
        let mut services = Vec::new();
        for instance in 0..3 {
            let data = database.folder().join(instance.to_string()).display().to_string();
            services.push(settings.clone().with("DATA_DIR", data).start().await);
        }
        let mut batches = Vec::new();
        for service in &services {
            batches.push(service.submit(&batch(10, 1)).await);
        }
        let deadline = Instant::now() + 2 * PATIENCE;
        while fake.calls().len() < 30 {
            assert!(Instant::now() < deadline, "{} calls", fake.calls().len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let narrowest = narrowest(&fake, 20);
        assert!(narrowest >= Duration::from_mins(1), "21 calls within {narrowest:?}");
        eprintln!("21 calls took {narrowest:?} at the least");
        for (service, batch) in services.iter().zip(&batches) {
            assert_eq!(service.finished(batch).await["counts"]["failed"], 10);
        }
    })
    .await;
}
