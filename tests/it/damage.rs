//! What the store does when the ground moves: damaged rows, a database that was lost or set back, a
//! clock that jumps, workers that fall silent, others in the way.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::clock::{Clock as _, FixedClock, IdSource as _, RandomIds};
use orchestrator::domain::ids::{ChargeId, UserId, WorkerId};
use orchestrator::domain::ledger::{ChargeOutcome, LedgerLine};
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::Outcome;
use orchestrator::domain::state::{ErrorCode, ImageError, ImageState};
use orchestrator::domain::time::Timestamp;
use orchestrator::service::claims::{Claims, LeaseRules};
use orchestrator::store::{Cancelled, DayState, Job, Limits, Settled, SubmitOutcome};
use serde_json::json;

use crate::bench::{Bench, failure, is_now, made};
use crate::books::{ledger, micros, on};
use crate::engines::{Database, on_both_engines, on_postgres, on_sqlite};
use crate::process::batch;

on_both_engines!(
    a_damaged_row_fails_alone,
    a_damaged_row_that_cannot_even_be_settled_hides_no_other,
    a_charge_that_an_import_brought_is_not_counted_again,
    a_call_that_the_database_forgot_is_charged_all_the_same,
    a_batch_of_any_size_can_be_cancelled,
    a_retried_picture_is_next_in_its_turn,
    claims_of_a_worker_without_a_row_are_taken_over,
    an_outage_is_no_silence,
    a_worker_that_comes_back_is_alive_for_a_whole_lease,
    a_group_releases_before_it_reserves,
    a_known_line_of_the_ledger_need_not_be_readable,
    probes_of_readiness_do_not_disturb_each_other,
);

async fn a_damaged_row_fails_alone(database: Arc<Database>) {
    let service = on(&database).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_CONCURRENCY", "1").start().await;
    let id = service.submit(&batch(6, 1)).await;
    service.until(|metrics| metrics["callsStarted"] == 1, "/metrics-lite").await;
    service.kill().await;
    database.execute("UPDATE items SET aspect_ratio = '9:99' WHERE ordinal = 3").await;
    let service = on(&database).with("LEASE_DURATION", "1s").start().await;
    let view = service.finished(&id).await;
    assert_eq!((&view["counts"]["completed"], &view["counts"]["failed"]), (&json!(5), &json!(1)));
    assert_eq!(view["items"][2]["images"][0]["error"]["code"], "provider_error");
    assert_eq!(micros(&service.get("/budget").await.json()["everyone"]["reserved"]), 0);
    assert_eq!(service.stop().await, Some(0));
}

async fn a_damaged_row_that_cannot_even_be_settled_hides_no_other(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(4, 1).await;
    database.execute("UPDATE items SET scene_id = '' WHERE ordinal = 2").await;
    assert_eq!(bench.claim(10).await.len(), 3);
    let kept = bench.store.load_claims(bench.worker).await.unwrap();
    assert_eq!(kept.len(), 3);
}

fn charge(bench: &Bench, job: &Job, cost: i64) -> LedgerLine {
    LedgerLine {
        id: ChargeId::new(bench.ids.next()),
        ts: bench.clock.now().millis(),
        user_id: UserId::local().as_str().to_owned(),
        job_id: job.claim.image.batch,
        scene_id: job.scene_id.clone(),
        variant: 1,
        attempt_id: job.claim.attempt,
        prompt: String::new(),
        images: 1,
        cost: MicroUsd::from_micros(cost),
        model: "synthetic".to_owned(),
        outcome: ChargeOutcome::Charged,
        request_id: None,
    }
}

async fn a_charge_that_an_import_brought_is_not_counted_again(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let id = bench.submit(1, 1).await;
    let job = bench.start_one().await;
    let line = charge(&bench, &job, 40_000);
    let day = bench.budget().await.day;
    bench
        .store
        .import_lines(day, std::slice::from_ref(&line), 1, DayState::Settled(0), &bench.ids)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bench.money().await, (40_000, 50_000));
    assert!(is_now(bench.settle(&job, made(&job, 50_000)).await, ImageState::Completed));
    assert_eq!(bench.money().await, (40_000, 0));
    assert_eq!(bench.store.load_charges(day).await.unwrap().len(), 1);
    let row = bench.store.load_batch(id, &UserId::local()).await.unwrap().unwrap();
    assert_eq!(row.actual_cost.micros(), 40_000, "the ledger's own word");
}

async fn a_call_that_the_database_forgot_is_charged_all_the_same(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(2, 1).await;
    let (first, second) = (bench.start_one().await, bench.start_one().await);
    let tables = ["events", "attempts", "images", "items", "batches"];
    let wipe: Vec<String> = tables.iter().map(|table| format!("DELETE FROM {table}")).collect();
    database
        .execute(&format!(
            "{}; DELETE FROM budget WHERE scope <> 'everyone'; UPDATE budget SET reserved = 0",
            wipe.join("; ")
        ))
        .await;
    let settled = bench.settle_all(&[(&first, made(&first, 40_000)), (&second, Outcome::Unknown)]).await.unwrap();
    assert_eq!(settled, [Settled::AttemptGone, Settled::AttemptGone]);
    assert_eq!(bench.money().await, (90_000, 0));
    let day = bench.budget().await.day;
    assert_eq!(bench.store.load_charges(day).await.unwrap().len(), 2);
    // Asked again after a lost answer: each charge is there once.
    bench.settle(&first, made(&first, 40_000)).await;
    assert_eq!(bench.store.load_charges(day).await.unwrap().len(), 2);
    assert_eq!(bench.money().await, (90_000, 0));
}

async fn a_batch_of_any_size_can_be_cancelled(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let id = bench.submit(9_000, 1).await;
    let cancelled = bench.store.cancel(id, &UserId::local(), bench.clock.now()).await.unwrap();
    assert!(matches!(cancelled, Cancelled::Stopped { pictures: 9_000, .. }));
    assert_eq!(bench.store.load_progress(id).await.unwrap(), Some((1 + 1 + 9_000 + 1, true)));
}

async fn a_retried_picture_is_next_in_its_turn(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let place = async |old| {
        for place in 1.. {
            if bench.claim(1).await.pop().unwrap().claim.image.batch == old {
                return place;
            }
        }
        unreachable!()
    };
    // Nothing else is due: a batch that comes now does not pass what waits for its next try.
    let old = bench.submit(50, 1).await;
    for job in bench.claim(49).await {
        bench.store.start(&[job.claim], bench.clock.now()).await.unwrap();
        bench.settle(&job, made(&job, 1)).await;
    }
    let last = bench.start_one().await;
    bench.settle(&last, failure()).await;
    bench.submit(100, 1).await;
    assert!(place(old).await < 3);
    // The queue has moved on: a picture with an old turn does not send later batches in front of all.
    let early = bench.claim(1).await.pop().unwrap();
    let running = early.claim.image.batch;
    while bench.claim(20).await.len() == 20 {}
    bench.submit(60, 1).await;
    bench.claim(55).await;
    bench.store.start(&[early.claim], bench.clock.now()).await.unwrap();
    bench.settle(&early, failure()).await;
    let late = bench.submit(10, 1).await;
    let next: Vec<_> = bench.claim(4).await.into_iter().map(|job| job.claim.image.batch).collect();
    assert!(next.contains(&running), "next is what failed");
    assert!(next.iter().filter(|batch| **batch == late).count() <= 2, "and no batch passes the others: {next:?}");
}

async fn claims_of_a_worker_without_a_row_are_taken_over(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
    let bench = Bench { clock: clock.clone(), ..Bench::new(&database).await };
    bench.submit(1, 1).await;
    bench.claim(1).await;
    let rules = LeaseRules { duration: Duration::from_secs(30) };
    let claims = Claims::new(bench.store.clone(), clock.clone(), WorkerId::new(bench.ids.next()), rules);
    let mut taken = 0;
    for _ in 0..5 {
        taken += claims.keep_alive().await.unwrap();
        clock.advance(rules.beat_every());
    }
    assert_eq!(taken, 1);
    assert_eq!(bench.claim(1).await.len(), 1);
}

async fn an_outage_is_no_silence(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
    let store = Arc::new(database.open(clock.clone()).await);
    if store.is_exclusive() {
        return;
    }
    let ids = RandomIds::default();
    let (me, other) = (WorkerId::new(ids.next()), WorkerId::new(ids.next()));
    let rules = LeaseRules { duration: Duration::from_secs(30) };
    let mine = Claims::new(store.clone(), clock.clone(), me, rules);
    store.beat(other, 1, clock.now()).await.unwrap();
    assert_eq!(mine.keep_alive().await.unwrap(), 0);
    // The database is away: nobody reads, nobody beats. Then this process is a pace ahead of the other.
    clock.advance(Duration::from_mins(1));
    assert_eq!(mine.keep_alive().await.unwrap(), 0);
    for _ in 0..2 {
        clock.advance(rules.beat_every());
        assert_eq!(mine.keep_alive().await.unwrap(), 0);
    }
    clock.advance(rules.beat_every());
    assert_eq!(mine.keep_alive().await.unwrap(), 1, "silent for a whole lease");
}

/// A watcher, one that comes while it watches and then freezes, and a second watcher of it.
async fn a_worker_that_comes_back_is_alive_for_a_whole_lease(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
    let store = Arc::new(database.open(clock.clone()).await);
    if store.is_exclusive() {
        return;
    }
    let ids = RandomIds::default();
    let rules = LeaseRules { duration: Duration::from_secs(30) };
    let worker = || Claims::new(store.clone(), clock.clone(), WorkerId::new(ids.next()), rules);
    let (first, second, frozen) = (worker(), worker(), worker());
    let watch = async |paces: u32| {
        let mut dead = 0;
        for _ in 0..paces {
            clock.advance(rules.beat_every());
            dead += first.keep_alive().await.unwrap() + second.keep_alive().await.unwrap();
        }
        dead
    };
    assert_eq!(watch(2).await, 0);
    frozen.keep_alive().await.unwrap();
    // Seen now, and silent for nearly a lease since.
    assert_eq!(watch(3).await, 0, "the time before it came is no silence of its");
    assert_eq!(watch(1).await, 1);
    // It wakes between two looks of the others: its row is as new as it was when it froze.
    frozen.keep_alive().await.unwrap();
    assert_eq!(watch(3).await, 0, "the silence before it came back is over");
    assert_eq!(watch(1).await, 1);
}

async fn a_group_releases_before_it_reserves(database: Arc<Database>) {
    // Room for two pictures: the retry of the first fits only into what the second gives back.
    let bench = Bench::with_limit(&database, Some(100_000)).await;
    let id = bench.submit(2, 1).await;
    let (first, second) = (bench.start_one().await, bench.start_one().await);
    let refused = ImageError::lasting(ErrorCode::SafetyBlocked, "refused");
    let settled = bench.settle_all(&[(&first, Outcome::Unknown), (&second, Outcome::Refused(refused))]).await.unwrap();
    assert!(is_now(settled[0], ImageState::Queued), "{settled:?}");
    assert!(is_now(settled[1], ImageState::Failed), "{settled:?}");
    assert_eq!(bench.money().await, (50_000, 50_000));
    bench.events(id).await;
}

async fn a_known_line_of_the_ledger_need_not_be_readable(database: Arc<Database>) {
    let service = on(&database).start().await;
    let id = service.submit(&batch(2, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    let folder = database.folder().join("ledger");
    let day =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_file()).unwrap();
    let whole = std::fs::read_to_string(&day).unwrap();
    std::fs::write(&day, whole.replacen('{', "#", 1)).unwrap();
    let service = on(&database).start().await;
    let id = service.submit(&batch(2, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    let text = std::fs::read_to_string(&day).unwrap();
    std::fs::write(&day, text.replacen('#', "{", 1)).unwrap();
    assert_eq!(ledger(database.folder()).len(), 4);
}

async fn probes_of_readiness_do_not_disturb_each_other(database: Arc<Database>) {
    let service = Arc::new(on(&database).start().await);
    let mut probes = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let service = service.clone();
        probes.spawn(async move {
            for _ in 0..20 {
                service.get("/readyz").await.expect(200);
            }
        });
    }
    probes.join_all().await;
}

#[tokio::test]
async fn a_clock_that_is_set_forward_gives_no_new_budget() {
    on_sqlite(|database| async move {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let clock = Arc::new(FixedClock::at(start));
        let limits = Limits { everyone: Some(MicroUsd::from_micros(100_000)), user: None };
        let bench = Bench { limits, ..Bench::on_clock(&database, clock.clone()).await };
        bench.submit(2, 1).await;
        for _ in 0..2 {
            let job = bench.start_one().await;
            bench.settle(&job, made(&job, 50_000)).await;
        }
        clock.jump_to(start.after(Duration::from_hours(24)));
        assert_eq!(bench.money().await, (100_000, 0));
        let refused = bench.store.submit(&bench.batch(1, 1), &bench.limits).await.unwrap();
        assert!(matches!(refused, SubmitOutcome::OverBudget { .. }), "{refused:?}");
        // A day that passes is a day.
        clock.jump_to(start);
        clock.advance(Duration::from_hours(24));
        bench.submit(1, 1).await;
    })
    .await;
}

/// Settling and cancelling take their locks in one order: no deadlock, however they meet.
#[tokio::test(flavor = "multi_thread")]
async fn a_settle_and_a_cancel_never_deadlock() {
    on_postgres(|database: Arc<Database>| async move {
        let bench = Bench::with_limit(&database, Some(1_000_000_000)).await;
        let user = UserId::local();
        for _ in 0..40 {
            let (first, second) = (bench.submit(4, 1).await, bench.submit(4, 1).await);
            let jobs = bench.claim(8).await;
            let of = |batch| jobs.iter().find(|job| job.claim.image.batch == batch).unwrap();
            for job in [of(first), of(second)] {
                assert!(bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0]);
            }
            let ends = [(of(first), Outcome::Unknown), (of(second), made(of(second), 1))];
            let (settled, cancelled) =
                tokio::join!(bench.settle_all(&ends), bench.store.cancel(second, &user, bench.clock.now()));
            settled.unwrap();
            cancelled.unwrap();
            bench.store.cancel(first, &user, bench.clock.now()).await.unwrap();
        }
        let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        bench.store.close().await;
        assert_eq!(database.number(sql).await, 0);
    })
    .await;
}

/// A batch whose first view cannot be made is accepted all the same, and its client must know.
#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_batch_is_answered_with_its_location_whatever_comes_after() {
    on_sqlite(|database| async move {
        let service = on(&database).with("SYNTHETIC_LATENCY", "1h").start().await;
        let trap = "CREATE TRIGGER damage AFTER INSERT ON images BEGIN UPDATE images SET error = 'no JSON'; END";
        database.execute(trap).await;
        let answer = service.post("/images", &batch(1, 1), &[]).await.expect(202);
        let id = answer.json()["batchId"].as_str().unwrap().to_owned();
        assert_eq!(answer.header("location"), format!("/images/{id}"));
        service.get(&format!("/images/{id}")).await.expect(500);
        database.execute("DROP TRIGGER damage; UPDATE images SET error = NULL").await;
        service.get(&format!("/images/{id}")).await.expect(200);
        service.kill().await;
    })
    .await;
}
