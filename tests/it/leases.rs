//! One writer of the ledger among several instances: who has the lease, who gets it next, and what the others do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use orchestrator::clock::{Clock, FixedClock, IdSource as _, RandomIds};
use orchestrator::domain::ids::WorkerId;
use orchestrator::domain::ledger::LedgerLine;
use orchestrator::domain::time::{Day, Timestamp};
use orchestrator::ledger::local::LocalLedger;
use orchestrator::ledger::{Chunk, DayHead, LedgerBucket, LedgerError};
use orchestrator::service::ledger::{Exporter, Turn};
use orchestrator::telemetry::metrics::Metrics;
use serde_json::json;

use crate::bench::{Bench, made};
use crate::books::{ledger, on};
use crate::engines::{Database, on_postgres, on_sqlite, system_clock};
use crate::process::{PATIENCE, batch};

/// The ledger of the test's folder, as one instance sees it: it counts, and may be away.
struct Watched {
    files: LocalLedger,
    appended: AtomicUsize,
    away: AtomicBool,
}

#[async_trait]
impl LedgerBucket for Watched {
    async fn head(&self, day: Day) -> Result<DayHead, LedgerError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(LedgerError::Unavailable("away".into()));
        }
        self.files.head(day).await
    }

    async fn holds(&self, chunk: &Chunk, head: &DayHead) -> Result<bool, LedgerError> {
        self.files.holds(chunk, head).await
    }

    async fn write_chunk(&self, chunk: &Chunk) -> Result<(), LedgerError> {
        self.files.write_chunk(chunk).await
    }

    async fn append(&self, chunk: &Chunk, head: &DayHead) -> Result<(), LedgerError> {
        self.appended.fetch_add(1, Ordering::SeqCst);
        self.files.append(chunk, head).await
    }

    async fn sweep(&self, day: Day, count: u64) -> Result<(), LedgerError> {
        self.files.sweep(day, count).await
    }

    async fn may_hold_more(&self, day: Day, known: u64) -> Result<bool, LedgerError> {
        self.files.may_hold_more(day, known).await
    }

    async fn read_day(&self, day: Day) -> Result<Vec<LedgerLine>, LedgerError> {
        self.files.read_day(day).await
    }

    fn location(&self, day: Day) -> String {
        self.files.location(day)
    }
}

/// One instance that exports.
struct Writer {
    bench: Bench,
    me: WorkerId,
    bucket: Arc<Watched>,
    exporter: Exporter,
}

impl Writer {
    /// A live worker, whose exporter is switched on.
    async fn start(database: &Database) -> Self {
        Self::on_clock(database, system_clock()).await
    }

    async fn on_clock(database: &Database, clock: Arc<dyn Clock>) -> Self {
        let bench = Bench::on_clock(database, clock).await;
        let me = WorkerId::new(bench.ids.next());
        bench.store.beat(me, 1, bench.clock.now()).await.unwrap();
        let files = LocalLedger::open(database.folder().to_owned()).unwrap();
        let bucket = Arc::new(Watched { files, appended: AtomicUsize::new(0), away: AtomicBool::new(false) });
        let (ids, metrics) = (Arc::new(RandomIds::default()), Arc::new(Metrics::default()));
        let exporter = Exporter::new(bench.store.clone(), bucket.clone(), bench.clock.clone(), ids, metrics);
        Self { bench, me, bucket, exporter }
    }

    /// Settles one picture.
    async fn charge(&self) {
        self.bench.submit(1, 1).await;
        let job = self.bench.start_one().await;
        self.bench.settle(&job, made(&job, 1)).await;
    }

    /// How many chunks it appended in its turn, and whether it says that charges wait.
    async fn turn(&self) -> (usize, bool) {
        let before = self.bucket.appended.load(Ordering::SeqCst);
        self.exporter.export_in_turn(self.me).await;
        (self.bucket.appended.load(Ordering::SeqCst) - before, self.exporter.trouble().is_some())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_one_writes_and_the_other_goes_on_when_it_dies() {
    on_postgres(|database| async move {
        let (first, second) = (Writer::start(&database).await, Writer::start(&database).await);
        for _ in 0..3 {
            first.charge().await;
            // Whoever comes first: the lease is the first one's.
            assert_eq!(first.turn().await, (1, false));
            second.charge().await;
            assert_eq!(second.turn().await, (0, false));
        }
        assert_eq!(first.turn().await, (1, false));
        second.charge().await;
        assert_eq!(second.turn().await, (0, false));
        // What takes over the dead one's work takes its row away.
        second.bench.store.take_over(first.me, second.me).await.unwrap();
        assert_eq!(second.turn().await, (1, false));
        assert_eq!(ledger(database.folder()).len(), 7);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_signs_off_leaves_the_lease_to_the_others() {
    on_postgres(|database| async move {
        let (first, second) = (Writer::start(&database).await, Writer::start(&database).await);
        first.charge().await;
        assert_eq!(first.turn().await, (1, false));
        second.charge().await;
        first.bench.store.give_back(first.me).await.unwrap();
        assert_eq!(second.turn().await, (1, false));
        // Its last export does not ask for the lease.
        second.charge().await;
        first.exporter.export_logged().await;
        assert_eq!(ledger(database.folder()).len(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_write_leaves_it_to_one_that_can() {
    on_postgres(|database| async move {
        let (broken, works) = (Writer::start(&database).await, Writer::start(&database).await);
        broken.charge().await;
        assert_eq!(broken.turn().await, (1, false));
        broken.bucket.away.store(true, Ordering::SeqCst);
        works.charge().await;
        assert_eq!(works.turn().await, (0, false));
        assert_eq!(broken.turn().await, (0, true), "it says that charges wait");
        assert_eq!(works.turn().await, (1, false));
        assert_eq!(broken.turn().await, (0, false), "they do not");
        assert_eq!(ledger(database.folder()).len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_alone_needs_no_lease() {
    on_sqlite(|database| async move {
        let writer = Writer::start(&database).await;
        writer.charge().await;
        database.execute("UPDATE leases SET worker = (SELECT id FROM workers)").await;
        let other = WorkerId::new(writer.bench.ids.next());
        assert_eq!(writer.exporter.export_in_turn(other).await, Turn::Done);
        assert_eq!(ledger(database.folder()).len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stands_still_with_the_lease_holds_nobody_up() {
    on_postgres(|database| async move {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let still = Writer::start(&database).await;
        let works = Writer::on_clock(&database, clock.clone()).await;
        still.charge().await;
        assert_eq!(still.turn().await, (1, false));
        still.charge().await;
        for _ in 0..5 {
            assert_eq!(works.turn().await, (0, false));
            clock.advance(Duration::from_secs(1));
        }
        // As long as it gets on, it is left alone.
        assert_eq!(still.turn().await, (1, false));
        still.charge().await;
        clock.advance(Duration::from_secs(1));
        for _ in 0..6 {
            assert_eq!(works.turn().await, (0, false));
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!(works.turn().await, (1, false));
        still.charge().await;
        assert_eq!(still.turn().await, (0, false), "it has lost the lease");
        assert_eq!(ledger(database.folder()).len(), 3);
    })
    .await;
}

/// Two processes; the one that writes the ledger is killed, and charges of the other one are still written.
#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_written_on_when_the_process_that_wrote_it_is_killed() {
    on_postgres(|database| async move {
        let settings = on(&database).with("LEASE_DURATION", "1s");
        // Files serve two processes here, as both are on one machine; the steps are the same.
        let first = settings.start().await;
        let id = first.submit(&batch(2, 1)).await;
        first.finished(&id).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let until = async |lines: i64| {
            let confirmed = "SELECT CAST(COALESCE(SUM(count), 0) AS BIGINT) FROM ledger_days";
            while database.number(confirmed).await < lines {
                assert!(tokio::time::Instant::now() < deadline, "fewer than {lines} lines");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        until(2).await;
        let second = settings.start().await;
        first.kill().await;
        let id = second.submit(&batch(3, 1)).await;
        assert_eq!(second.finished(&id).await["state"], json!("completed"));
        until(5).await;
        assert_eq!(ledger(database.folder()).len(), 5);
        assert_eq!(second.stop().await, Some(0));
    })
    .await;
}
