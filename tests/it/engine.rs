//! The working half of the service in this process: a worker on a real store, calling a provider over a
//! real socket, with pauses short enough for a test.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orchestrator::assets::local::LocalAssets;
use orchestrator::clock::{Clock, IdSource as _, RandomIds};
use orchestrator::domain::ids::{AttemptId, WorkerId};
use orchestrator::domain::ledger::LedgerPrompts;
use orchestrator::domain::picture::ReferenceImage;
use orchestrator::domain::prices::{EMBEDDED, PriceTable};
use orchestrator::domain::spec::Reference;
use orchestrator::provider::ImageProvider;
use orchestrator::references::content::Preparer;
use orchestrator::references::shelf::LocalShelf;
use orchestrator::references::{ReferenceError, ReferenceSource};
use orchestrator::service::MoneyRules;
use orchestrator::service::admission::Admission;
use orchestrator::service::claims::{Claims, LeaseRules};
use orchestrator::service::execute::{Executor, Signals};
use orchestrator::service::gate::{Gate, GateRules};
use orchestrator::service::memory::PictureMemory;
use orchestrator::service::minute::SharedMinute;
use orchestrator::service::notices::Notices;
use orchestrator::service::own_references::OwnReferences;
use orchestrator::service::references::References;
use orchestrator::service::settle::Settler;
use orchestrator::service::start::Starter;
use orchestrator::telemetry::metrics::Metrics;
use orchestrator::telemetry::traces::Traces;
use orchestrator::worker::{POLL, Worker, WorkerError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;
use crate::engines::Database;

/// Rules of a gate whose pauses last milliseconds.
pub(crate) fn quick(concurrency: u32) -> GateRules {
    let pause = Duration::from_millis(10);
    GateRules { breaker_pause: pause, default_pause: pause, ..GateRules::new(concurrency, None) }
}

/// A running worker.
pub(crate) struct Engine {
    pub(crate) gate: Arc<Gate>,
    draining: CancellationToken,
    running: JoinHandle<Result<(), WorkerError>>,
}

/// No reference is asked for.
struct NoReferences;

#[async_trait]
impl ReferenceSource for NoReferences {
    async fn fetch(&self, _: &Reference) -> Result<ReferenceImage, ReferenceError> {
        Err(ReferenceError::Blocked)
    }
}

impl Engine {
    /// Works on the bench's store with `provider`.
    pub(crate) fn start(
        bench: &Bench,
        database: &Database,
        provider: Arc<dyn ImageProvider>,
        rules: GateRules,
    ) -> Self {
        Self::polling(bench, database, provider, rules, POLL)
    }

    /// The same, looking at the queue by itself every `poll`.
    pub(crate) fn polling(
        bench: &Bench,
        database: &Database,
        provider: Arc<dyn ImageProvider>,
        rules: GateRules,
        poll: Duration,
    ) -> Self {
        let clock: Arc<dyn Clock> = bench.clock.clone();
        let (store, metrics) = (bench.store.clone(), Arc::new(Metrics::default()));
        let money = MoneyRules { limits: bench.limits, live: true, prompts: LedgerPrompts::None, own_model: None };
        let lease = LeaseRules { duration: Duration::from_secs(3) };
        let claims = Arc::new(Claims::new(store.clone(), clock.clone(), WorkerId::new(bench.ids.next()), lease));
        let gate = Arc::new(Gate::new(clock.clone(), rules));
        let minute = SharedMinute::of(store.clone(), clock.clone(), &rules);
        let notices = Notices::new(store.clone(), clock.clone());
        let ids = Arc::new(RandomIds::default());
        let assets = Arc::new(LocalAssets::open(database.folder().to_owned(), clock.clone()).unwrap());
        let preparer = Preparer::new(10 << 20, 25_000_000);
        let own = OwnReferences::new(store.clone(), assets.clone(), preparer, clock.clone(), metrics.clone());
        let shelf = LocalShelf::open(database.folder().join("cache"), 1 << 20).unwrap();
        let executor = Executor {
            store: store.clone(),
            provider,
            assets,
            references: References::new(Arc::new(NoReferences), own, Arc::new(shelf), clock.clone(), metrics.clone()),
            prices: Arc::new(PriceTable::parse(EMBEDDED).unwrap()),
            thumbnails: None,
            clock: clock.clone(),
            starter: Starter::new(store.clone(), clock.clone(), metrics.clone()),
            settler: Settler::new(store.clone(), clock, ids, metrics.clone(), money, Traces::off()),
            metrics,
            traces: Traces::off(),
            admission: Admission::new(store, claims.clone(), gate.clone(), minute, notices, money),
            memory: PictureMemory::new(128 << 20, 10 << 20),
            call_timeout: Duration::from_secs(2),
            backoff_step: Duration::from_millis(10),
            since: AttemptId::new(bench.ids.next()),
        };
        let worker = Worker::new(Arc::new(executor), claims, rules.concurrency, poll);
        let draining = CancellationToken::new();
        let signals = Signals { draining: draining.clone(), aborting: CancellationToken::new() };
        let running = tokio::spawn(async move { worker.run(signals).await });
        Self { gate, draining, running }
    }

    /// Puts the work down.
    pub(crate) async fn stop(self) -> Result<(), WorkerError> {
        self.draining.cancel();
        self.running.await.unwrap()
    }

    /// The end of a worker that stops by itself.
    pub(crate) async fn ended(self) -> Result<(), WorkerError> {
        self.running.await.unwrap()
    }
}
