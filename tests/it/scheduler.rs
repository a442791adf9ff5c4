//! The scheduler against a provider that fails in every way, keeps to limits, and counts what it charged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use orchestrator::domain::event::Event;
use orchestrator::domain::ids::{BatchId, UserId};
use orchestrator::domain::state::{BatchState, ErrorCode, ImageError, ImageState};
use orchestrator::provider::gemini::Gemini;
use orchestrator::provider::{Answer, ImageCall, ImageProvider, ProviderError};
use orchestrator::service::gate::{GateRules, Reason};
use orchestrator::store::{EVERYONE, NewBatch, SubmitOutcome};
use orchestrator::worker::MOST_ENDING;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::{AnyConnection, Connection as _};

use crate::bench::{Bench, RESERVE};
use crate::engine::{Engine, quick};
use crate::engines::{Database, on_both_engines, on_postgres, on_sqlite};
use crate::fake_gemini::{Allowed, FakeGemini, Fault, PICTURE_MICROS, png};
use crate::process::PATIENCE;

on_both_engines!(
    every_fault_alone_ends_as_the_rules_say,
    faults_mixed_at_random_end_as_the_rules_say,
    two_users_share_evenly,
    a_small_batch_does_not_wait_behind_a_large_one,
    a_used_up_daily_quota_fails_what_is_queued_without_a_call,
    a_quota_of_one_model_stops_no_other,
    a_batch_is_told_why_it_waits,
    the_death_of_one_pictures_task_lets_the_others_end,
);

/// A provider that answers by `script`, and the adapter that calls it.
async fn provider(
    bench: &Bench,
    allowed: Allowed,
    latency: Duration,
    script: impl Fn(&str, usize) -> Fault + Send + Sync + 'static,
) -> (FakeGemini, Arc<dyn ImageProvider>) {
    let fake = FakeGemini::start(&png(), latency, allowed, script).await;
    let gemini = Gemini::new(fake.url.parse().unwrap(), "key", Duration::from_secs(2), bench.clock.clone()).unwrap();
    (fake, Arc::new(gemini))
}

/// A batch of `rows` pictures for `owner`, each with a prompt of its own.
fn batch(bench: &Bench, owner: &str, rows: u32) -> NewBatch {
    let mut batch = bench.batch(rows, 1);
    batch.owner = UserId::new(owner);
    "gemini-nano-banana-2.1".clone_into(&mut batch.model);
    for item in &mut batch.items {
        item.spec.prompt = format!("{owner} {} {}", batch.id, item.spec.scene_id);
    }
    batch
}

async fn submit(bench: &Bench, batch: &NewBatch) -> BatchId {
    assert_eq!(bench.store.submit(batch, &bench.limits).await.unwrap(), SubmitOutcome::Accepted);
    batch.id
}

async fn finished(bench: &Bench, batch: BatchId) {
    let mut hints = bench.store.hints().batches();
    let deadline = Instant::now() + 2 * PATIENCE;
    while !bench.store.load_progress(batch).await.unwrap().unwrap().1 {
        assert!(Instant::now() < deadline, "the batch does not end");
        drop(tokio::time::timeout(Duration::from_millis(100), hints.heard_of(|other| other == batch)).await);
    }
}

/// How a picture ends whose calls were answered like this; by the rules as they are written down.
fn end_of(faults: &[Fault]) -> Option<(ImageState, Option<ErrorCode>)> {
    let (mut failures, mut unknown) = (0, 0);
    for (index, fault) in faults.iter().enumerate() {
        failures += u32::from(matches!(fault, Fault::Own500 | Fault::Own503));
        unknown += u32::from(fault.is_unknown());
        let end = match fault {
            fault if fault.is_picture() => Some((ImageState::Completed, None)),
            Fault::Blocked => Some((ImageState::Failed, Some(ErrorCode::SafetyBlocked))),
            _ if failures == 3 => Some((ImageState::Failed, Some(ErrorCode::ProviderError))),
            _ if unknown == 2 => Some((ImageState::Failed, Some(ErrorCode::ProviderOutcomeUnknown))),
            _ => None,
        };
        if end.is_some() {
            // A call after the end is one that the rules do not allow.
            return end.filter(|_| index + 1 == faults.len());
        }
    }
    None
}

/// Compares every picture, the money and the ledger with what the provider saw.
async fn check(bench: &Bench, batch: &NewBatch, fake: &FakeGemini) {
    let mut calls: BTreeMap<String, Vec<Fault>> = BTreeMap::new();
    for call in fake.calls() {
        calls.entry(call.prompt).or_default().push(call.fault);
    }
    let (_, items) = bench.store.load_page(batch.id, &batch.owner, 0, 10_000).await.unwrap().unwrap();
    assert_eq!(items.len(), batch.items.len());
    for item in items {
        let (image, faults) = (&item.images[0], &calls[&item.prompt]);
        let code = image.error.as_ref().map(|error| error.code);
        assert_eq!(Some((image.state, code)), end_of(faults), "{} {faults:?}", item.prompt);
        let counted = faults.iter().filter(|fault| !matches!(fault, Fault::Throttle | Fault::ThrottleBare)).count();
        assert_eq!(image.attempts as usize, counted, "{faults:?}");
    }
    let all = || calls.values().flatten();
    let unknown = i64::try_from(all().filter(|fault| fault.is_unknown()).count()).unwrap();
    let (spent, reserved) = bench.money().await;
    assert_eq!(spent, fake.charged_micros() + unknown * (RESERVE.micros() - PICTURE_MICROS));
    assert_eq!(reserved, 0);
    let lines = bench.store.load_charges(bench.budget().await.day).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.cost.micros()).sum::<i64>(), spent, "the ledger's sum");
    let charged = all().filter(|fault| fault.is_picture() || fault.is_unknown() || **fault == Fault::Blocked).count();
    assert_eq!(lines.len(), charged, "a line a charge");
}

async fn run(
    bench: &Bench,
    database: &Database,
    rows: u32,
    script: impl Fn(&str, usize) -> Fault + Send + Sync + 'static,
) {
    let (fake, gemini) = provider(bench, Allowed::default(), Duration::ZERO, script).await;
    let batch = batch(bench, "local", rows);
    submit(bench, &batch).await;
    let engine = Engine::start(bench, database, gemini, quick(16));
    finished(bench, batch.id).await;
    engine.stop().await.unwrap();
    check(bench, &batch, &fake).await;
    bench.events(batch.id).await;
}

async fn every_fault_alone_ends_as_the_rules_say(database: Arc<Database>) {
    for fault in Fault::ALL {
        let bench = Bench::new(&database).await;
        database.execute("DELETE FROM ledger; UPDATE budget SET spent = 0, unknown = 0, overrun = 0").await;
        // Always, and only the first time; what never ends comes once in a while.
        let always = !matches!(fault, Fault::Throttle | Fault::ThrottleBare | Fault::Stall);
        let rows = if fault == Fault::Stall { 5 } else { 12 };
        run(&bench, &database, rows, move |prompt, count| {
            let first_only = prompt.len() % 2 == 0 || !always;
            if count == 0 || !first_only { fault } else { Fault::None }
        })
        .await;
        bench.store.close().await;
    }
}

async fn faults_mixed_at_random_end_as_the_rules_say(database: Arc<Database>) {
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let bench = Bench::new(&database).await;
    run(&bench, &database, 300, move |prompt, count| {
        let text: u64 = prompt.bytes().fold(count as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut random = StdRng::seed_from_u64(seed ^ text);
        match random.random_range(0..100) {
            0..2 => Fault::Stall,
            2..50 => Fault::ALL[random.random_range(0..Fault::ALL.len())],
            _ => Fault::None,
        }
    })
    .await;
}

async fn two_users_share_evenly(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let (fake, gemini) = provider(&bench, Allowed::default(), Duration::ZERO, |_, _| Fault::None).await;
    // One has its 500 rows in five batches, the other in one.
    let one = submit(&bench, &batch(&bench, "one", 500)).await;
    let mut last = one;
    for _ in 0..5 {
        last = submit(&bench, &batch(&bench, "many", 100)).await;
    }
    let engine = Engine::start(&bench, &database, gemini, quick(16));
    finished(&bench, one).await;
    finished(&bench, last).await;
    engine.stop().await.unwrap();
    let calls = fake.calls();
    let end = |user: &str| calls.iter().rposition(|call| call.prompt.starts_with(user)).unwrap();
    assert!(end("one").abs_diff(end("many")) <= 50, "{} and {} of 1000", end("one"), end("many"));
}

async fn a_small_batch_does_not_wait_behind_a_large_one(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let (seen, small_sent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let counting = seen.clone();
    let latency = Duration::from_millis(5);
    let (fake, gemini) = provider(&bench, Allowed::default(), latency, move |_, _| {
        counting.fetch_add(1, Ordering::SeqCst);
        Fault::None
    })
    .await;
    submit(&bench, &batch(&bench, "local", 2_000)).await;
    let engine = Engine::start(&bench, &database, gemini, quick(8));
    while seen.load(Ordering::SeqCst) < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let small = submit(&bench, &batch(&bench, "local", 3)).await;
    small_sent.store(seen.load(Ordering::SeqCst), Ordering::SeqCst);
    finished(&bench, small).await;
    let calls = fake.calls();
    let last = calls.iter().rposition(|call| call.prompt.contains(&small.to_string())).unwrap();
    // Those under way when it came, those claimed then, and a turn for each of its own.
    let waited = last - small_sent.load(Ordering::SeqCst);
    assert!(waited <= 3 * 8, "its last call came after {waited} others");
    engine.stop().await.unwrap();
}

/// A provider that says what it is told to.
struct Scripted<F>(F);

#[async_trait]
impl<F: Fn(&ImageCall) -> Result<Answer, ProviderError> + Send + Sync + 'static> ImageProvider for Scripted<F> {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn generate(&self, call: &ImageCall) -> Result<Answer, ProviderError> {
        (self.0)(call)
    }
}

async fn a_used_up_daily_quota_fails_what_is_queued_without_a_call(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = calls.clone();
    let provider = Scripted(move |_: &ImageCall| {
        counting.fetch_add(1, Ordering::SeqCst);
        Err(ProviderError::QuotaExhausted { resets_in: Duration::from_hours(3) })
    });
    let batch = batch(&bench, "local", 40);
    submit(&bench, &batch).await;
    let engine = Engine::start(&bench, &database, Arc::new(provider), quick(4));
    finished(&bench, batch.id).await;
    assert!(calls.load(Ordering::SeqCst) <= 4, "{calls:?} calls, of which those under way at once could not know");
    let (_, items) = bench.store.load_page(batch.id, &batch.owner, 0, 100).await.unwrap().unwrap();
    let codes = items.iter().map(|item| item.images[0].error.as_ref().unwrap().code);
    assert!(codes.clone().all(|code| code == ErrorCode::QuotaExhausted));
    assert_eq!(bench.money().await, (0, 0));
    assert_eq!(engine.gate.trouble(None).map(|closed| closed.reason), Some(Reason::Quota));
    assert_eq!(notices(&bench, batch.id).await.len(), 1);
    engine.stop().await.unwrap();
}

async fn a_quota_of_one_model_stops_no_other(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    let provider = Scripted(move |call: &ImageCall| {
        if call.model == "gemini-nano-banana-2.1" {
            return Err(ProviderError::QuotaExhausted { resets_in: Duration::from_hours(9) });
        }
        counting.fetch_add(1, Ordering::SeqCst);
        Err(ProviderError::Refused(ImageError::lasting(ErrorCode::SafetyBlocked, "asked")))
    });
    let (spent, mut other) = (batch(&bench, "local", 1), batch(&bench, "local", 5));
    "gemini-3-pro-image".clone_into(&mut other.model);
    submit(&bench, &spent).await;
    let engine = Engine::start(&bench, &database, Arc::new(provider), quick(1));
    finished(&bench, spent.id).await;
    submit(&bench, &other).await;
    finished(&bench, other.id).await;
    engine.stop().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 5);
}

async fn notices(bench: &Bench, batch: BatchId) -> Vec<String> {
    let events = bench.store.load_events(batch, 0, 10_000).await.unwrap();
    let notice = |event| if let Event::Notice { detail } = event { Some(detail) } else { None };
    events.into_iter().filter_map(|row| notice(row.event)).collect()
}

async fn a_batch_is_told_why_it_waits(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let provider =
        Scripted(|_: &ImageCall| Err(ProviderError::Throttled { retry_after: Some(Duration::from_mins(30)) }));
    let batches = [batch(&bench, "local", 3), batch(&bench, "other", 3)];
    for batch in &batches {
        submit(&bench, batch).await;
    }
    let engine = Engine::start(&bench, &database, Arc::new(provider), quick(1));
    let deadline = Instant::now() + PATIENCE;
    for batch in &batches {
        while notices(&bench, batch.id).await.is_empty() {
            assert!(Instant::now() < deadline, "no notice");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(notices(&bench, batch.id).await[0].contains("asked to slow down"));
    }
    engine.stop().await.unwrap();
    for batch in &batches {
        assert_eq!(notices(&bench, batch.id).await.len(), 1, "not again and again");
    }
    assert_eq!(bench.store.load_budget(EVERYONE).await.unwrap().reserved, RESERVE.times(6).unwrap());
}

async fn the_death_of_one_pictures_task_lets_the_others_end(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let provider = Scripted(|call: &ImageCall| {
        assert!(!call.prompt.ends_with("s-2"), "a fault of this program");
        let usage = orchestrator::domain::prices::Usage { input_tokens: 1, image_tokens: 1, text_tokens: 0 };
        Ok(Answer { picture: Ok(png().into()), usage: Some(usage), request_id: None })
    });
    let batch = batch(&bench, "local", 4);
    submit(&bench, &batch).await;
    let engine = Engine::start(&bench, &database, Arc::new(provider), quick(4));
    assert!(engine.ended().await.is_err());
    let row = bench.store.load_batch(batch.id, &batch.owner).await.unwrap().unwrap();
    assert_eq!((row.counts.completed, row.counts.state()), (3, BatchState::Running));
    let started = database.number("SELECT COUNT(*) FROM attempts WHERE state = 'started'").await;
    assert_eq!(started, 1, "settled by whoever starts next");
}

/// 20 calls at once and 300 in what the provider takes for a minute, here three seconds.
#[tokio::test(flavor = "multi_thread")]
async fn honest_limits_are_kept_and_used() {
    on_sqlite(|database| async move {
        let bench = Bench::new(&database).await;
        let window = Duration::from_secs(3);
        let allowed = Allowed { at_once: 20, in_window: 300, window };
        let (fake, gemini) = provider(&bench, allowed, Duration::from_millis(20), |_, _| Fault::None).await;
        let batch = batch(&bench, "local", 900);
        submit(&bench, &batch).await;
        let rules = GateRules { minute: window + window / 30, ..GateRules::new(20, Some(300)) };
        let start = Instant::now();
        let engine = Engine::start(&bench, &database, gemini, rules);
        finished(&bench, batch.id).await;
        let took = start.elapsed();
        engine.stop().await.unwrap();
        check(&bench, &batch, &fake).await;
        eprintln!("{} refused of 900, {took:?} for at least 6.3 s", fake.refused());
        assert!(fake.refused() < 18, "{} of 900 calls were refused", fake.refused());
        assert!(fake.most_at_once() <= 20);
    })
    .await;
}

/// The money's row is locked by another program, so that no end of a call can be written.
#[tokio::test(flavor = "multi_thread")]
async fn calls_whose_end_cannot_be_written_do_not_become_more_and_more() {
    on_postgres(async |database| {
        let bench = Bench::new(&database).await;
        let calls = Arc::new(AtomicUsize::new(0));
        let counting = calls.clone();
        let provider = Scripted(move |_: &ImageCall| {
            counting.fetch_add(1, Ordering::SeqCst);
            Err(ProviderError::Refused(ImageError::lasting(ErrorCode::SafetyBlocked, "counted")))
        });
        let batch = batch(&bench, "local", 300);
        submit(&bench, &batch).await;
        let mut other = AnyConnection::connect(&database.url).await.unwrap();
        let mut lock = other.begin().await.unwrap();
        sqlx::query("UPDATE budget SET day = day WHERE scope = 'everyone'").execute(&mut *lock).await.unwrap();
        let engine = Engine::start(&bench, &database, Arc::new(provider), quick(4));
        let most = 5 + MOST_ENDING;
        let deadline = Instant::now() + PATIENCE;
        while calls.load(Ordering::SeqCst) < most {
            assert!(Instant::now() < deadline, "{calls:?} calls");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Several times what the next calls would need.
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(calls.load(Ordering::SeqCst), most);
        }
        lock.rollback().await.unwrap();
        finished(&bench, batch.id).await;
        assert_eq!(calls.load(Ordering::SeqCst), 300);
        engine.stop().await.unwrap();
    })
    .await;
}
