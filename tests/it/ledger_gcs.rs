//! The ledger in a bucket: whatever the network, the other instance or a power cut do, each charge is one line of its
//! day, and what a flush costs is its own lines.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use orchestrator::clock::{FixedClock, IdSource as _, RandomIds};
use orchestrator::domain::ids::{UserId, WorkerId};
use orchestrator::domain::time::{Day, Timestamp};
use orchestrator::failpoint;
use orchestrator::gcs::Gcs;
use orchestrator::ledger::gcs::{CHANGE_PACE, GcsLedger};
use orchestrator::ledger::local::LocalLedger;
use orchestrator::ledger::{Chunk, LedgerBucket};
use orchestrator::service::ledger::Exporter;
use orchestrator::service::verify::Verifier;
use orchestrator::telemetry::metrics::Metrics;
use serde_json::Value;

use crate::bench::{Bench, made};
use crate::books::{micros, on};
use crate::commands::{run, text};
use crate::engines::{Database, on_both_engines, on_postgres, on_sqlite};
use crate::google::{Call, Fault, Google};
use crate::process::{Service, Settings, batch};

on_both_engines!(
    charges_of_many_writers_through_a_faulty_network_are_there_once_each,
    a_bucket_that_is_away_keeps_charges_waiting_and_nothing_else,
    a_new_database_knows_from_the_bucket_what_was_spent_today,
    lines_that_a_lost_answer_hides_are_found,
);

const BUCKET: &str = "ledger";

async fn gcs_ledger(google: &Google, pace: Duration) -> GcsLedger {
    GcsLedger::new(Gcs::connect(Some(google.address()), None).await.unwrap(), BUCKET, pace)
}

/// An exporter of its own, as another instance has it.
async fn exporter(bench: &Bench, google: &Google, pace: Duration) -> Exporter {
    let ledger = Arc::new(gcs_ledger(google, pace).await);
    Exporter::new(
        bench.store.clone(),
        ledger,
        bench.clock.clone(),
        Arc::new(RandomIds::default()),
        Arc::new(Metrics::default()),
    )
}

/// Settles `count` pictures, in groups, as a worker of its own.
async fn charge(bench: &Bench, count: u32, group: u32) {
    let worker = WorkerId::new(bench.ids.next());
    let mut left = count;
    while left > 0 {
        let jobs = bench.store.claim(worker, &UserId::local(), group.min(left), bench.clock.now()).await.unwrap();
        for job in &jobs {
            assert!(bench.store.start(&[job.claim], bench.clock.now()).await.unwrap()[0]);
        }
        let ends: Vec<_> = jobs.iter().map(|job| (job, made(job, 40_000))).collect();
        bench.settle_all(&ends).await.unwrap();
        left -= u32::try_from(jobs.len()).unwrap();
    }
}

/// The ids of the lines of `day`, each of which is there once.
fn lines(google: &Google, day: Day) -> HashSet<String> {
    let objects = google.objects();
    let Some(object) = objects.get(BUCKET, &format!("ledger/{day}.jsonl")) else { return HashSet::new() };
    let bytes = object.bytes();
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "a torn line");
    let mut ids = HashSet::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let charge: Value = serde_json::from_slice(line).unwrap();
        assert!(ids.insert(charge["id"].as_str().unwrap().to_owned()), "charged twice: {charge}");
    }
    assert_eq!(object.metadata["count"], ids.len().to_string());
    ids
}

fn chunks(google: &Google) -> Vec<String> {
    google.objects().names(BUCKET, "ledger/chunks/")
}

async fn charges_of_many_writers_through_a_faulty_network_are_there_once_each(database: Arc<Database>) {
    const CHARGES: u32 = 5_000;
    const WRITERS: u32 = 4;
    let google = Google::start().await;
    google.objects().one_change_per = Some(Duration::from_secs(1));
    {
        let mut faults = google.faults();
        faults.fail_one_in = Some(5);
        faults.lose_one_in = Some(20);
    }
    let one = Bench::new(&database).await;
    // A file has one process: there, two exporters share what it opened.
    let is_shared = database.url.starts_with("postgres");
    let other = if is_shared { Bench::new(&database).await } else { one.of_the_same_process() };
    for _ in 0..10 {
        one.submit(CHARGES / 10, 1).await;
    }
    let exporters = [exporter(&one, &google, CHANGE_PACE).await, exporter(&other, &google, CHANGE_PACE).await];
    let settled = AtomicBool::new(false);
    let export = async |exporter: &Exporter| {
        while !settled.load(Ordering::SeqCst) || !one.store.unexported_days().await.unwrap().is_empty() {
            let _ = exporter.export_all().await;
        }
    };
    let write = async {
        let share = CHARGES / WRITERS;
        tokio::join!(
            charge(&one, share, 25),
            charge(&one, share, 25),
            charge(&other, share, 25),
            charge(&other, share, 25)
        );
        settled.store(true, Ordering::SeqCst);
    };
    tokio::join!(write, export(&exporters[0]), export(&exporters[1]));
    let day = one.budget().await.day;
    google.faults().fail_one_in = None;
    google.faults().lose_one_in = None;
    let reader = Arc::new(gcs_ledger(&google, CHANGE_PACE).await);
    let found = Verifier::new(one.store.clone(), reader).verify(day).await.unwrap();
    assert!(found.differences.is_empty(), "{:?}", found.differences);
    assert_eq!((found.agreeing, found.waiting), (u64::from(CHARGES), 0));
    assert_eq!(lines(&google, day).len(), CHARGES as usize);
    // A delete whose answer was lost may have left its chunk to the next sweep.
    exporters[0].export_all().await.unwrap();
    let [uploads, composes] = [Call::Upload, Call::Compose].map(|call| google.faults().calls(call));
    let too_fast = google.objects().too_fast;
    eprintln!("{uploads} uploads, {composes} composes, {too_fast} refused as too fast");
}

async fn lines_that_a_lost_answer_hides_are_found(database: Arc<Database>) {
    let google = Google::start().await;
    let bench = Bench::new(&database).await;
    bench.submit(12, 1).await;
    let exporter = exporter(&bench, &google, Duration::ZERO).await;
    let day = bench.budget().await.day;
    // Each step's answer is lost once, after it was done and before.
    let calls = [Call::Get, Call::Upload, Call::Compose, Call::List, Call::Delete];
    for (step, (call, fault)) in
        calls.into_iter().flat_map(|call| [(call, Fault::LostAfter), (call, Fault::LostBefore)]).enumerate()
    {
        charge(&bench, 1, 1).await;
        google.faults().script(call, fault);
        exporter.export_all().await.unwrap();
        assert_eq!(lines(&google, day).len(), step + 1, "{call:?} {fault:?}");
        assert_eq!(chunks(&google), Vec::<String>::new(), "{call:?} {fault:?}");
    }
    // An answer with another checksum is no success: the chunk is looked at again.
    charge(&bench, 1, 1).await;
    google.faults().script(Call::Upload, Fault::WrongChecksum);
    exporter.export_all().await.unwrap();
    // An answer that takes its time is waited for.
    charge(&bench, 1, 1).await;
    google.faults().script(Call::Compose, Fault::Slow(Duration::from_millis(200)));
    exporter.export_all().await.unwrap();
    assert_eq!(lines(&google, day).len(), 12);
}

/// The service with its ledger in the bucket and everything else at hand.
fn with_bucket(settings: Settings, google: &Google) -> Settings {
    settings.with("LEDGER_BUCKET", BUCKET).with("STORAGE_EMULATOR_HOST", google.address())
}

async fn finished_batch(service: &Service, rows: usize) -> Value {
    let id = service.submit(&batch(rows, 1)).await;
    service.finished(&id).await
}

async fn a_bucket_that_is_away_keeps_charges_waiting_and_nothing_else(database: Arc<Database>) {
    let google = Google::start().await;
    let settings = with_bucket(on(&database), &google);
    let service = settings.start().await;
    let ready = service.get("/readyz").await.expect(200).json();
    assert_eq!(ready["ledger"], Value::Null);
    google.faults().away = true;
    let view = finished_batch(&service, 3).await;
    assert_eq!(view["state"], "completed");
    let ready = service.until(|ready| ready["ledger"] != Value::Null, "/readyz").await;
    assert_eq!(ready["ready"], true);
    assert!(ready["ledger"].as_str().unwrap().starts_with("charges wait in the database since 20"), "{ready}");
    // A stop does not wait for it, and a start neither: the charges are in the database.
    assert_eq!(service.stop().await, Some(0));
    let service = settings.start().await;
    // But it cannot say that its database is no older than the ledger, and starts no call before it can.
    let id = service.submit(&batch(2, 1)).await;
    let ready = service.get("/readyz").await.expect(200).json();
    assert!(ready["ledger"].as_str().unwrap().starts_with("no call starts: the ledger did not answer"), "{ready}");
    assert_eq!(service.get("/metrics-lite").await.json()["callsStarted"], 0);
    google.faults().away = false;
    service.finished(&id).await;
    let metrics = service.until(|metrics| metrics["ledgerLines"] == 5, "/metrics-lite").await;
    assert_eq!(metrics["imagesGenerated"], 2);
    service.until(|ready| ready["ledger"] == Value::Null, "/readyz").await;
    assert_eq!(service.stop().await, Some(0));
    verified(&settings, 5).await;
    let days = google.objects().names(BUCKET, "ledger/2");
    let order: Vec<i64> = days.iter().flat_map(|name| times(&google, name)).collect();
    assert!(order.is_sorted(), "{order:?}");
}

/// When the charges of a day's object were settled, in the order of its lines.
fn times(google: &Google, name: &str) -> Vec<i64> {
    let bytes = google.objects().get(BUCKET, name).unwrap().bytes();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()["ts"].as_i64().unwrap()).collect()
}

/// `ledger verify` finds `count` charges in the bucket, and no difference.
async fn verified(settings: &Settings, count: u64) {
    let output = run(settings, &["ledger", "verify", "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let days = found["days"].as_array().unwrap();
    let sum = |field: &str| days.iter().map(|day| day[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("agreeing"), sum("waiting")), (count, 0), "{found}");
    let output = run(settings, &["ledger", "report", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["total"]["charges"], count, "{report}");
}

async fn a_new_database_knows_from_the_bucket_what_was_spent_today(database: Arc<Database>) {
    let google = Google::start().await;
    let settings = with_bucket(on(&database), &google);
    let service = settings.start().await;
    finished_batch(&service, 4).await;
    assert_eq!(service.stop().await, Some(0));
    // The last chunk is written, and no longer appended.
    let service = settings.clone().with("FAILPOINT", "ledger.chunk_written").start().await;
    service.submit(&batch(3, 1)).await;
    assert_eq!(service.ended().await, Some(9));
    let left = chunks(&google);
    assert_eq!(left.len(), 1);
    let chunk = google.objects().get(BUCKET, &left[0]).unwrap().bytes();
    let in_chunk = chunk.split_inclusive(|byte| *byte == b'\n').count();
    let spent = i64::try_from(4 + in_chunk).unwrap() * 50_000;

    let folder = tempfile::tempdir().unwrap();
    let fresh = with_bucket(Settings::new(folder.path()).with("BUDGET_LEDGER_ENABLED", "true"), &google);
    // Without the ledger nobody can say what was spent: the start is refused, and says what to do.
    google.faults().away = true;
    let output = run(&fresh, &["serve"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("LEDGER_BUCKET"), "{}", text(&output.stderr));
    google.faults().away = false;
    let service = fresh.start().await;
    let budget = service.get("/budget").await.json();
    assert_eq!(micros(&budget["everyone"]["spent"]), spent, "{budget}");
    let told = format!("did not know {} of today's charges", 4 + in_chunk);
    assert!(budget["message"].as_str().unwrap().contains(&told), "{budget}");
    finished_batch(&service, 1).await;
    assert_eq!(service.stop().await, Some(0));
    let charges = 4 + in_chunk as u64 + 1;
    verified(&fresh, charges).await;

    // By hand, before a service is started.
    let folder = tempfile::tempdir().unwrap();
    let by_hand = with_bucket(Settings::new(folder.path()).with("BUDGET_LEDGER_ENABLED", "true"), &google);
    for new in [charges, 0] {
        let output = run(&by_hand, &["ledger", "import", "--json"]).await;
        let taken: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        assert_eq!(taken["new"], new, "{}", text(&output.stderr));
    }
    verified(&by_hand, charges).await;
}

/// Kills the service at each step of the protocol in turn, in the first flush of a day and in the second.
async fn killed_at_every_step(database: Arc<Database>, google: Option<Google>) {
    // On Postgres the next process writes when the killed one is known to be dead.
    let settings = on(&database).with("LEASE_DURATION", "1s");
    let settings = match &google {
        Some(google) => with_bucket(settings, google),
        None => settings,
    };
    let mut accepted = 0;
    for (point, time) in
        failpoint::POINTS.iter().filter(|point| point.starts_with("ledger.")).flat_map(|point| [(point, 1), (point, 2)])
    {
        let service = settings.clone().with("FAILPOINT", format!("{point}:{time}")).start().await;
        for _ in 0..time {
            // The process may die while it answers: what it accepted is what the database holds.
            let _ = service.client.post(format!("{}/images", service.url)).json(&batch(2, 1)).send().await;
            accepted += 2;
            if time == 2 {
                flushed(&service).await;
            }
        }
        assert_eq!(service.ended().await, Some(9), "{point}:{time}");
        // What was left is taken up again, and brought to its end.
        let service = settings.start().await;
        service.until(|ready| ready["ready"] == true, "/readyz").await;
        assert_eq!(service.stop().await, Some(0));
    }
    let service = settings.start().await;
    let done = |count: u64| {
        move |metrics: &Value| {
            metrics["batches"].as_array().is_some_and(|all| {
                all.len() as u64 * 2 == count && all.iter().all(|batch| batch["finishedAt"] != Value::Null)
            })
        }
    };
    let charges = database.number("SELECT COUNT(*) FROM images").await;
    assert!(charges <= accepted, "{charges}");
    service.until(done(u64::try_from(charges).unwrap()), "/images?limit=200").await;
    assert_eq!(service.stop().await, Some(0));
    let attempts = database.number("SELECT COUNT(*) FROM ledger").await;
    assert!(attempts >= charges);
    verified(&settings, u64::try_from(attempts).unwrap()).await;
    if let Some(google) = &google {
        let days = google.objects().names(BUCKET, "ledger/2");
        let lines: usize = days.iter().map(|name| times(google, name).len()).sum();
        assert_eq!(lines, usize::try_from(attempts).unwrap());
        assert_eq!(chunks(google), Vec::<String>::new());
    }
}

/// Waits until the service has exported something, or is gone.
async fn flushed(service: &Service) {
    loop {
        let Ok(answer) = service.client.get(format!("{}/metrics-lite", service.url)).send().await else { return };
        let Ok(metrics) = answer.json::<Value>().await else { return };
        if metrics["ledgerLines"].as_u64() >= Some(1) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_a_flush_loses_no_line_and_doubles_none() {
    on_sqlite(async |database| killed_at_every_step(database, Some(Google::start().await)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_a_flush_to_files_loses_no_line_and_doubles_none() {
    on_sqlite(async |database| killed_at_every_step(database, None).await).await;
}

mod postgres_kills {
    use super::*;

    mod postgres {
        use super::*;

        #[tokio::test(flavor = "multi_thread")]
        async fn a_kill_at_any_step_of_a_flush_loses_no_line_and_doubles_none() {
            on_postgres(async |database| killed_at_every_step(database, Some(Google::start().await)).await).await;
        }
    }
}

#[tokio::test]
async fn a_flush_sends_its_chunk_alone_however_long_the_day_is() {
    on_sqlite(async |database| {
        let google = Google::start().await;
        let bench = Bench::new(&database).await;
        bench.submit(30, 1).await;
        let exporter = exporter(&bench, &google, Duration::ZERO).await;
        let day = bench.budget().await.day;
        let sent = || {
            let faults = google.faults();
            [Call::Get, Call::Upload, Call::Compose, Call::List, Call::Delete].map(|call| faults.bytes(call))
        };
        let flush = async || {
            let before = sent();
            charge(&bench, 10, 10).await;
            exporter.export_all().await.unwrap();
            sent().iter().zip(before).map(|(after, before)| after - before).sum::<u64>()
        };
        flush().await;
        let short = flush().await;
        // A million lines, in a day that the database knows to be so long.
        let name = format!("ledger/{day}.jsonl");
        let line = google.objects().get(BUCKET, &name).unwrap().bytes();
        let line = line.slice(..=line.iter().position(|byte| *byte == b'\n').unwrap());
        let thousand: Bytes = line.repeat(1_000).into();
        let metadata = HashMap::from([("count", "1000000"), ("lastChunk", "x")]);
        let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        google.objects().put_pieces(BUCKET, &name, vec![thousand; 1_000], metadata);
        database.execute(&format!("UPDATE ledger_days SET count = 1000000 WHERE day = {}", day.number())).await;
        let long = flush().await;
        let object = google.objects().get(BUCKET, &name).unwrap().clone();
        assert_eq!(object.metadata["count"], "1000010");
        eprintln!(
            "a flush of 10 charges sends {short} bytes with 10 lines in the day, {long} with a million ({} MB)",
            object.size >> 20
        );
        // Longer numbers are written in names and metadata; nothing else grows.
        assert!(long <= short + 200, "{short} bytes, then {long}");
    })
    .await;
}

#[tokio::test]
async fn what_a_lost_database_left_in_chunks_is_taken_in_before_it_is_swept() {
    on_sqlite(async |lost| {
        on_sqlite(async |restored| {
            let google = Google::start().await;
            let (lost, restored) = (Bench::new(&lost).await, Bench::new(&restored).await);
            let day = lost.budget().await.day;
            let ledger = gcs_ledger(&google, Duration::ZERO).await;
            lost.submit(5, 1).await;
            // Two chunks that begin alike: one of another life of the database, one of the life that ended last.
            for count in [3, 2] {
                charge(&lost, count, 10).await;
                let pending = lost.store.pending_chunk(day).await.unwrap().unwrap();
                let (from, to) = (pending.from, pending.to);
                let chunk = Chunk { day, from, to, name: pending.name.clone(), lines: pending.lines.clone() };
                ledger.write_chunk(&chunk).await.unwrap();
                lost.store.export_anew(day, &pending).await.unwrap();
            }
            restored.submit(4, 1).await;
            charge(&restored, 4, 10).await;
            restored.store.pending_chunk(day).await.unwrap().unwrap();
            let exporter = exporter(&restored, &google, Duration::ZERO).await;
            assert_eq!(exporter.import(day).await.unwrap(), 5);
            assert_eq!(restored.money().await.0, 9 * 40_000);
            exporter.export_all().await.unwrap();
            assert_eq!(lines(&google, day).len(), 9);
            assert_eq!(chunks(&google), Vec::<String>::new());
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn an_import_that_is_owed_comes_before_the_next_export() {
    on_sqlite(async |other| {
        on_sqlite(async |database| {
            let google = Google::start().await;
            let (known, set_back) = (Bench::new(&other).await, Bench::new(&database).await);
            let day = known.budget().await.day;
            known.submit(3, 1).await;
            charge(&known, 3, 10).await;
            exporter(&known, &google, Duration::ZERO).await.export_all().await.unwrap();
            let late = exporter(&set_back, &google, Duration::ZERO).await;
            late.owe_import();
            late.export_all().await.unwrap();
            assert_eq!(set_back.money().await.0, 3 * 40_000);
            assert_eq!(lines(&google, day).len(), 3);
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_day_whose_object_is_gone_is_written_anew_from_the_database() {
    on_sqlite(async |database| {
        let google = Google::start().await;
        let bench = Bench::new(&database).await;
        bench.submit(7, 1).await;
        let exporter = exporter(&bench, &google, Duration::ZERO).await;
        let day = bench.budget().await.day;
        charge(&bench, 4, 10).await;
        exporter.export_all().await.unwrap();
        google.objects().remove(BUCKET, &format!("ledger/{day}.jsonl"));
        charge(&bench, 3, 10).await;
        exporter.export_all().await.unwrap();
        assert_eq!(lines(&google, day).len(), 7);
    })
    .await;
}

#[tokio::test]
async fn a_bucket_that_hangs_does_not_hold_up_a_stop() {
    on_sqlite(async |database| {
        let google = Google::start().await;
        let settings = with_bucket(on(&database), &google);
        let service = settings.start().await;
        finished_batch(&service, 2).await;
        for call in [Call::Get, Call::List, Call::Compose] {
            for _ in 0..10 {
                google.faults().script(call, Fault::Slow(Duration::from_mins(10)));
            }
        }
        finished_batch(&service, 2).await;
        assert_eq!(service.stop().await, Some(0));
    })
    .await;
}

/// Two databases write the same day, as one does that was set back to a backup: the second meets lines that it does not know.
async fn a_database_that_was_set_back_loses_no_line(google: Option<Google>) {
    on_sqlite(async |other| {
        on_sqlite(async |database| {
            let folder = tempfile::tempdir().unwrap();
            let ledger: Arc<dyn LedgerBucket> = match &google {
                Some(google) => Arc::new(gcs_ledger(google, Duration::ZERO).await),
                None => Arc::new(LocalLedger::open(folder.path().to_owned()).unwrap()),
            };
            let exporter = |bench: &Bench| {
                Exporter::new(
                    bench.store.clone(),
                    ledger.clone(),
                    bench.clock.clone(),
                    Arc::new(RandomIds::default()),
                    Arc::new(Metrics::default()),
                )
            };
            let (known, set_back) = (Bench::new(&other).await, Bench::new(&database).await);
            let day = known.budget().await.day;
            known.submit(30, 1).await;
            set_back.submit(100, 1).await;
            // Lines that reach into the chunk of the other database, up to its end, and beyond it.
            for (first, second) in [(5, 8), (8, 8), (9, 3), (3, 20)] {
                charge(&known, first, 10).await;
                exporter(&known).export_all().await.unwrap();
                charge(&set_back, second, 10).await;
                exporter(&set_back).export_all().await.unwrap();
            }
            let lines = ledger.read_day(day).await.unwrap();
            let ids: HashSet<_> = lines.iter().map(|line| line.id).collect();
            assert_eq!((lines.len(), ids.len()), (25 + 39, 25 + 39));
            assert_eq!(ledger.head(day).await.unwrap().count, 25 + 39);
            let charges = set_back.store.load_charges(day).await.unwrap();
            assert_eq!(charges, lines, "the database has the ledger's lines, in its order");
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_was_set_back_loses_no_line_in_a_bucket() {
    a_database_that_was_set_back_loses_no_line(Some(Google::start().await)).await;
}

#[tokio::test]
async fn a_database_that_was_set_back_loses_no_line_in_files() {
    a_database_that_was_set_back_loses_no_line(None).await;
}

#[tokio::test]
async fn charges_of_a_batch_over_midnight_are_each_in_their_day() {
    on_sqlite(async |database| {
        let google = Google::start().await;
        let day = Day::from_number(20_500);
        let before_midnight = Timestamp::from_millis(day.number() * 86_400_000 + 86_390_000);
        let clock = Arc::new(FixedClock::at(before_midnight));
        let bench = Bench::on_clock(&database, clock.clone()).await;
        bench.submit(10, 1).await;
        let exporter = exporter(&bench, &google, Duration::ZERO).await;
        charge(&bench, 3, 1).await;
        // One is begun before midnight and ends after it: it counts on the day on which it ends.
        let begun = bench.start_one().await;
        exporter.export_all().await.unwrap();
        charge(&bench, 1, 1).await;
        clock.advance(Duration::from_secs(20));
        bench.settle(&begun, made(&begun, 40_000)).await;
        charge(&bench, 5, 2).await;
        exporter.export_all().await.unwrap();
        let next = Day::from_number(20_501);
        let found: BTreeMap<Day, usize> = [day, next].map(|day| (day, lines(&google, day).len())).into();
        assert_eq!(found, BTreeMap::from([(day, 4), (next, 6)]));
        assert_eq!(bench.money().await, (6 * 40_000, 0));
        for (day, count) in found {
            let reader = Arc::new(gcs_ledger(&google, Duration::ZERO).await);
            let found = Verifier::new(bench.store.clone(), reader).verify(day).await.unwrap();
            assert!(found.differences.is_empty() && found.agreeing == count as u64, "{found:?}");
        }
    })
    .await;
}
