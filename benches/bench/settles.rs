//! How many settled calls a second one instance writes, on SQLite, and one, two and four on one Postgres.

use std::sync::Arc;
use std::time::Instant;

use orchestrator::clock::{IdSource as _, RandomIds};
use orchestrator::domain::ids::{UserId, WorkerId};
use orchestrator::domain::ledger::LedgerPrompts;
use orchestrator::domain::outcome::{BACKOFF_BASE, decide};
use orchestrator::service::MoneyRules;
use orchestrator::service::settle::Settler;
use orchestrator::store::Job;
use orchestrator::telemetry::metrics::Metrics;
use orchestrator::telemetry::traces::Traces;

use crate::Arguments;
use crate::bench::{Bench, made};
use crate::engines::{Database, on_postgres, on_sqlite};
use crate::table::Table;

/// Ends that each instance has ready at the same time, over and over.
const AT_ONCE: [u32; 3] = [1, 16, 64];
const INSTANCES: [usize; 3] = [1, 2, 4];
/// Settles of one measurement, by all instances together.
const SETTLES: u32 = 1_920;

pub(crate) async fn measure(_: &Arguments, table: &mut Table) {
    for at_once in AT_ONCE {
        let rate = Arc::new(std::sync::Mutex::new(0.0));
        let kept = rate.clone();
        on_sqlite(|database| async move { *kept.lock().unwrap() = settles_a_second(&database, 1, at_once).await })
            .await;
        table.add("settles", format!("SQLite, {at_once} at once"), *rate.lock().unwrap(), "/s");
    }
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        println!("TEST_DATABASE_URL is not set: settles on Postgres are left out");
        return;
    }
    for at_once in AT_ONCE {
        for instances in INSTANCES {
            let rate = Arc::new(std::sync::Mutex::new(0.0));
            let kept = rate.clone();
            on_postgres(|database| async move {
                *kept.lock().unwrap() = settles_a_second(&database, instances, at_once).await;
            })
            .await;
            let name = format!("Postgres, {instances} instances, {at_once} at once");
            table.add("settles", name, *rate.lock().unwrap(), "/s");
        }
    }
}

async fn settles_a_second(database: &Database, count: usize, at_once: u32) -> f64 {
    // One at a time is slow, and as steady with fewer.
    let settles = if at_once == 1 { SETTLES / 4 } else { SETTLES };
    let calls = settles / u32::try_from(count).unwrap();
    let mut instances = Vec::new();
    for _ in 0..count {
        instances.push(instance(database, calls).await);
    }
    let start = Instant::now();
    let settling: Vec<_> = instances.into_iter().map(|instance| tokio::spawn(settle(instance, at_once))).collect();
    for task in settling {
        task.await.unwrap();
    }
    let took = start.elapsed();
    let written = database.number("SELECT COUNT(*) FROM ledger").await;
    assert_eq!(written, i64::from(settles));
    f64::from(settles) / took.as_secs_f64()
}

/// An instance with started calls whose answers are there.
struct Instance {
    settler: Arc<Settler>,
    bench: Bench,
    answers: Vec<Job>,
}

async fn instance(database: &Database, calls: u32) -> Instance {
    let bench = Bench::new(database).await;
    let (store, clock) = (bench.store.clone(), bench.clock.clone());
    let (ids, metrics) = (Arc::new(RandomIds::default()), Arc::new(Metrics::default()));
    let rules = MoneyRules { limits: bench.limits, live: true, prompts: LedgerPrompts::Full, own_model: None };
    let settler = Arc::new(Settler::new(store, clock, ids, metrics, rules, Traces::off()));
    // Two batches an instance: their rows are hot too, as they are in a real job.
    for _ in 0..2 {
        bench.submit(calls / 2, 1).await;
    }
    let worker = WorkerId::new(bench.ids.next());
    let mut answers = Vec::new();
    let mut left = calls;
    while left > 0 {
        let jobs = bench.store.claim(worker, &UserId::local(), left.min(64), bench.clock.now()).await.unwrap();
        left -= u32::try_from(jobs.len()).unwrap();
        for job in &jobs {
            assert!(bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0]);
        }
        answers.extend(jobs);
    }
    Instance { settler, bench, answers }
}

/// Settles every answer, `at_once` at the same time.
async fn settle(instance: Instance, at_once: u32) {
    let Instance { settler, bench, answers } = instance;
    let answers = Arc::new(std::sync::Mutex::new(answers));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let (settler, clock, answers) = (settler.clone(), bench.clock.clone(), answers.clone());
        tasks.spawn(async move {
            loop {
                let Some(job) = answers.lock().unwrap().pop() else { return };
                let end = decide(job.claim, made(&job, 40_000), job.history, clock.now(), BACKOFF_BASE, 0.0);
                settler.settle(&job, &end).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    bench.store.close().await;
}
