//! A store and what its tests need around it: batches, claims, ends of calls.

use std::sync::Arc;

use orchestrator::clock::{Clock, IdSource as _, RandomIds};
use orchestrator::domain::ids::{AttemptId, BatchId, ChargeId, UserId, WorkerId};
use orchestrator::domain::ledger::LedgerPrompts;
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::{BACKOFF_BASE, Outcome, Settlement, decide};
use orchestrator::domain::picture::{Picture, PictureFormat};
use orchestrator::domain::spec::{AspectRatio, ImageSize, ItemSpec};
use orchestrator::domain::state::{BatchState, ErrorCode, ImageError, ImageState};
use orchestrator::domain::time::Timestamp;
use orchestrator::store::{
    BudgetRow, EVERYONE, Job, Limits, NewBatch, NewItem, SettleRequest, Settled, Store, StoreError, SubmitOutcome,
};

use crate::engines::{Database, system_clock};

pub(crate) const RESERVE: MicroUsd = MicroUsd::from_micros(50_000);

/// A store and what its tests need around it.
pub(crate) struct Bench {
    pub(crate) store: Arc<Store>,
    pub(crate) ids: RandomIds,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) worker: WorkerId,
}

impl Bench {
    pub(crate) async fn new(database: &Database) -> Self {
        Self::with_limit(database, None).await
    }

    pub(crate) async fn with_limit(database: &Database, everyone: Option<i64>) -> Self {
        let limits = Limits { everyone: everyone.map(MicroUsd::from_micros), user: None };
        Self { limits, ..Self::on_clock(database, system_clock()).await }
    }

    pub(crate) async fn on_clock(database: &Database, clock: Arc<dyn Clock>) -> Self {
        let (ids, limits) = (RandomIds::default(), Limits::default());
        let worker = WorkerId::new(ids.next());
        Self { store: Arc::new(database.open(clock.clone()).await), ids, clock, limits, worker }
    }

    /// Another one on the store that this one opened.
    pub(crate) fn of_the_same_process(&self) -> Self {
        let (ids, limits) = (RandomIds::default(), Limits::default());
        let worker = WorkerId::new(ids.next());
        Self { store: self.store.clone(), ids, clock: self.clock.clone(), limits, worker }
    }

    pub(crate) fn batch(&self, rows: u32, variants: u32) -> NewBatch {
        let items: Vec<NewItem> = (1..=rows)
            .map(|row| NewItem {
                spec: ItemSpec {
                    scene_id: format!("s-{row}").parse().unwrap(),
                    prompt: format!("a cup, row {row}"),
                    variants,
                    references: Vec::new(),
                    aspect_ratio: AspectRatio::default(),
                    image_size: ImageSize::default(),
                },
                reserve: RESERVE,
                attempts: (0..variants).map(|_| AttemptId::new(self.ids.next())).collect(),
            })
            .collect();
        NewBatch {
            id: BatchId::new(self.ids.next()),
            owner: UserId::local(),
            model: "synthetic".to_owned(),
            message: None,
            items,
            estimated_cost: RESERVE.times(rows * variants).unwrap(),
            at: self.clock.now(),
            user_limit: None,
            webhook: None,
            idempotency: None,
            forget_keys_before: Timestamp::from_millis(0),
        }
    }

    pub(crate) async fn submit(&self, rows: u32, variants: u32) -> BatchId {
        let batch = self.batch(rows, variants);
        assert_eq!(self.store.submit(&batch, &self.limits).await.unwrap(), SubmitOutcome::Accepted);
        batch.id
    }

    /// Submits a batch of one picture a row, made by `model`.
    pub(crate) async fn submit_of(&self, model: &str, rows: u32) -> BatchId {
        let mut batch = self.batch(rows, 1);
        model.clone_into(&mut batch.model);
        assert_eq!(self.store.submit(&batch, &self.limits).await.unwrap(), SubmitOutcome::Accepted);
        batch.id
    }

    pub(crate) async fn claim(&self, count: u32) -> Vec<Job> {
        self.store.claim(self.worker, &UserId::local(), count, self.clock.now()).await.unwrap()
    }

    /// Claims one picture and starts its call.
    pub(crate) async fn start_one(&self) -> Job {
        let job = self.claim(1).await.pop().expect("a picture waits");
        assert!(self.store.start(&[job.claim], self.clock.now()).await.unwrap()[0]);
        job
    }

    pub(crate) async fn settle(&self, job: &Job, outcome: Outcome) -> Settled {
        self.settle_all(&[(job, outcome)]).await.unwrap()[0]
    }

    /// Settles several ends in one transaction.
    pub(crate) async fn settle_all(&self, ends: &[(&Job, Outcome)]) -> Result<Vec<Settled>, StoreError> {
        let decided = |(job, outcome): &(&Job, Outcome)| {
            decide(job.claim, outcome.clone(), job.history, self.clock.now(), BACKOFF_BASE, 0.0)
        };
        let settlements: Vec<Settlement> = ends.iter().map(decided).collect();
        let requests: Vec<_> = ends
            .iter()
            .zip(&settlements)
            .map(|((job, _), settlement)| SettleRequest {
                job,
                settlement,
                charge: ChargeId::new(self.ids.next()),
                next_attempt: AttemptId::new(self.ids.next()),
            })
            .collect();
        self.store
            .settle(&requests, &self.limits, LedgerPrompts::Full, self.clock.now())
            .await
            .map(|group| group.settled)
    }

    pub(crate) async fn budget(&self) -> BudgetRow {
        self.store.load_budget(EVERYONE).await.unwrap()
    }

    pub(crate) async fn money(&self) -> (i64, i64) {
        let budget = self.budget().await;
        (budget.spent.micros(), budget.reserved.micros())
    }

    pub(crate) async fn events(&self, batch: BatchId) -> Vec<&'static str> {
        let events = self.store.load_events(batch, 0, 10_000).await.unwrap();
        assert!((1..).zip(&events).all(|(number, event)| event.number == number), "{events:?}");
        events.iter().map(|row| row.event.kind()).collect()
    }

    pub(crate) async fn state(&self, batch: BatchId) -> BatchState {
        self.store.load_batch(batch, &UserId::local()).await.unwrap().unwrap().counts.state()
    }
}

pub(crate) fn made(job: &Job, cost: i64) -> Outcome {
    let stem = job.claim.image.object_stem(job.number);
    let picture = Picture {
        object: format!("{stem}.png"),
        format: PictureFormat::Png,
        width: 1,
        height: 1,
        bytes: 1,
        sha256: String::new(),
        thumbnail: None,
    };
    Outcome::Made { picture, cost: Some(MicroUsd::from_micros(cost)) }
}

pub(crate) fn failure() -> Outcome {
    Outcome::Failed(ImageError::passing(ErrorCode::ProviderError, "overloaded"))
}

pub(crate) const fn is_now(settled: Settled, expected: ImageState) -> bool {
    matches!(settled, Settled::Written { state, .. } if state as u8 == expected as u8)
}
