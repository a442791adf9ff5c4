//! Everything at once on one database: submissions, claims, ends alone and in groups and twice, cancels,
//! retries, notices, take-overs. Afterwards every book must agree with every other.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use orchestrator::clock::IdSource as _;
use orchestrator::domain::ids::{AttemptId, BatchId, ImageKey, UserId, WorkerId};
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::Outcome;
use orchestrator::domain::state::{ErrorCode, ImageError};
use orchestrator::domain::time::Timestamp;
use orchestrator::store::{FreshAttempt, Job, NewRetry, SubmitOutcome};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::bench::{Bench, RESERVE, failure, made};
use crate::engines::{Database, on_both_engines};

on_both_engines!(the_books_agree_after_everything_at_once, the_books_agree_where_money_is_short);

/// Tasks of each kind.
const EACH: u64 = 3;
/// What each of them does.
const STEPS: u32 = 40;

async fn the_books_agree_after_everything_at_once(database: Arc<Database>) {
    chaos(database, 100_000, 40_000).await;
}

async fn the_books_agree_where_money_is_short(database: Arc<Database>) {
    chaos(database, 60, 30).await;
}

/// A batch that was accepted: whose it is, and how many rows of two pictures it has.
type Accepted = Arc<Mutex<Vec<(BatchId, UserId, u32)>>>;

/// Limits are in pictures.
async fn chaos(database: Arc<Database>, limit: i64, user_limit: i64) {
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut bench = Bench::with_limit(&database, Some(limit * RESERVE.micros())).await;
    bench.limits.user = Some(MicroUsd::from_micros(user_limit * RESERVE.micros()));
    let (bench, accepted) = (Arc::new(bench), Accepted::default());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..EACH {
        let random = |kind: u64| StdRng::seed_from_u64(seed ^ (kind * 1_000 + number));
        tasks.spawn(submit(bench.clone(), accepted.clone(), random(1), UserId::new(format!("user-{number}"))));
        tasks.spawn(work(bench.clone(), random(2)));
        tasks.spawn(meddle(bench.clone(), accepted.clone(), random(3)));
    }
    tasks.join_all().await;
    check_books(&bench, &database).await;
    let accepted = accepted.lock().unwrap().clone();
    assert!(accepted.len() > 5, "only {} batches were accepted", accepted.len());
    for (batch, owner, rows) in accepted {
        check_batch(&bench, &database, batch, &owner, rows).await;
    }
}

async fn submit(bench: Arc<Bench>, accepted: Accepted, mut random: StdRng, owner: UserId) {
    for _ in 0..STEPS {
        let mut batch = bench.batch(random.random_range(1..5), 2);
        batch.owner = owner.clone();
        let rows = u32::try_from(batch.items.len()).unwrap();
        if bench.store.submit(&batch, &bench.limits).await.unwrap() == SubmitOutcome::Accepted {
            accepted.lock().unwrap().push((batch.id, owner.clone(), rows));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
    }
}

fn error() -> ImageError {
    ImageError::passing(ErrorCode::ProviderError, "x")
}

/// How a started call ends; `None` leaves it to whoever takes over.
fn end(job: &Job, random: &mut StdRng) -> Option<Outcome> {
    Some(match random.random_range(0..80) {
        0..20 => made(job, 100),
        20..22 => made(job, 60_000),
        22..40 => Outcome::Refused(error()),
        40..50 => failure(),
        50..60 => Outcome::Throttled(Duration::from_millis(1)),
        60..70 => Outcome::Unknown,
        70..73 => Outcome::Interrupted,
        73..76 => Outcome::PaidInVain { error: error(), cost: Some(MicroUsd::from_micros(77)) },
        _ => return None,
    })
}

async fn work(bench: Arc<Bench>, mut random: StdRng) {
    let (worker, heir) = (WorkerId::new(bench.ids.next()), WorkerId::new(bench.ids.next()));
    for _ in 0..STEPS {
        let mut jobs = Vec::new();
        for user in bench.store.queued_owners(bench.clock.now()).await.unwrap() {
            jobs.extend(bench.store.claim(worker, &user, 3, bench.clock.now()).await.unwrap());
        }
        let mut ends = Vec::new();
        for job in &jobs {
            match random.random_range(0..10) {
                0 => {}
                1 => ends.push((job, Outcome::Postponed(Duration::from_millis(5)))),
                _ if bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0] => {
                    ends.extend(end(job, &mut random).map(|outcome| (job, outcome)));
                }
                _ => {}
            }
        }
        bench.settle_all(&ends).await.unwrap();
        if random.random_range(0..4) == 0 {
            // Once more, as after a lost answer.
            bench.settle_all(&ends).await.unwrap();
        }
        match random.random_range(0..4) {
            0 => bench.store.give_back(worker).await.unwrap(),
            1 => {
                bench.store.take_over(worker, heir).await.unwrap();
                settle_rest(&bench, heir).await;
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..5))).await;
    }
    for worker in [worker, heir] {
        bench.store.give_back(worker).await.unwrap();
        settle_rest(&bench, worker).await;
    }
}

async fn settle_rest(bench: &Bench, worker: WorkerId) {
    let left = bench.store.load_claims(worker).await.unwrap();
    let ends: Vec<_> = left.iter().map(|job| (job, Outcome::Unknown)).collect();
    bench.settle_all(&ends).await.unwrap();
}

async fn meddle(bench: Arc<Bench>, accepted: Accepted, mut random: StdRng) {
    for _ in 0..STEPS {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
        let latest = {
            let accepted = accepted.lock().unwrap();
            let latest = accepted.len().checked_sub(1 + random.random_range(0..10));
            latest.map(|index| accepted[index].clone())
        };
        let Some((batch, owner, rows)) = latest else { continue };
        match random.random_range(0..10) {
            0 => drop(bench.store.cancel(batch, &owner, bench.clock.now()).await.unwrap()),
            1 => bench.store.notice(batch, "x", bench.clock.now()).await.unwrap(),
            _ => {
                let key = format!("key-{}", random.random_range(0..3));
                let idempotency = (random.random_range(0..2) == 0).then(|| (key, "all".to_owned()));
                let retry = retry(&bench, batch, &owner, rows, idempotency);
                bench.store.retry(&retry, &bench.limits).await.unwrap();
            }
        }
    }
}

fn retry(bench: &Bench, batch: BatchId, owner: &UserId, rows: u32, idempotency: Option<(String, String)>) -> NewRetry {
    let images = (1..=rows).flat_map(|ordinal| [1, 2].map(|variant| ImageKey { batch, ordinal, variant }));
    let fresh = |image| FreshAttempt { image, id: AttemptId::new(bench.ids.next()), reserve: RESERVE };
    NewRetry {
        batch,
        owner: owner.clone(),
        attempts: images.map(fresh).collect(),
        at: bench.clock.now(),
        user_limit: None,
        idempotency,
        forget_keys_before: Timestamp::from_millis(0),
    }
}

/// Every sum of money is the same wherever it is kept.
async fn check_books(bench: &Bench, database: &Database) {
    let sum = async |what: &str| {
        database.number(&format!("SELECT CAST(COALESCE(SUM({}", what.replacen(' ', "), 0) AS BIGINT) ", 1))).await
    };
    let (spent, reserved) = bench.money().await;
    let lines = bench.store.load_charges(bench.budget().await.day).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.cost.micros()).sum::<i64>(), spent, "the ledger");
    for spends in [
        "cost FROM attempts WHERE state IN ('settled', 'unknown')",
        "spent FROM budget WHERE scope <> 'everyone'",
        "cost FROM images",
        "actual_cost FROM batches",
    ] {
        assert_eq!(sum(spends).await, spent, "{spends}");
    }
    for reserves in
        ["reserved FROM attempts WHERE state IN ('held', 'started')", "reserved FROM budget WHERE scope <> 'everyone'"]
    {
        assert_eq!(sum(reserves).await, reserved, "{reserves}");
    }
    let attempts = "SELECT COUNT(*) FROM attempts a WHERE a.batch_id = m.batch_id AND a.ordinal = m.ordinal
                    AND a.variant = m.variant AND a.state IN ('held', 'started')";
    for (states, wrong) in [("'queued', 'claimed', 'running'", "<> 1"), ("'completed', 'failed', 'cancelled'", "<> 0")]
    {
        let sql = format!("SELECT COUNT(*) FROM images m WHERE m.state IN ({states}) AND ({attempts}) {wrong}");
        assert_eq!(database.number(&sql).await, 0, "{states}: open attempts");
    }
}

/// The batch's counts are its pictures', and its events tell its life.
async fn check_batch(bench: &Bench, database: &Database, batch: BatchId, owner: &UserId, rows: u32) {
    let row = bench.store.load_batch(batch, owner).await.unwrap().unwrap();
    assert_eq!(row.counts.total, rows * 2);
    for (state, count) in
        [("completed", row.counts.completed), ("failed", row.counts.failed), ("cancelled", row.counts.cancelled)]
    {
        let sql = format!("SELECT COUNT(*) FROM images WHERE batch_id = '{batch}' AND state = '{state}'");
        assert_eq!(database.number(&sql).await, i64::from(count), "{state}");
    }
    let kinds = bench.events(batch).await;
    assert_eq!(kinds.len() as u64, row.last_event);
    assert_eq!(row.counts.is_finished(), kinds.last() == Some(&"done"), "{kinds:?}");
    assert_eq!(row.counts.is_finished(), row.finished_at.is_some());
    assert!(kinds.windows(2).all(|pair| pair[0] != "done" || pair[1] == "started"), "{kinds:?}");
}
