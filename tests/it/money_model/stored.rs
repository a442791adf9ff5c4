//! The real machine: a `Store` for each process, on one database that all runs share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orchestrator::clock::{Clock as _, FixedClock, IdSource as _, RandomIds};
use orchestrator::domain::ids::{AttemptId, BatchId, ChargeId, ImageKey, UserId, WorkerId};
use orchestrator::domain::ledger::LedgerPrompts;
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::{BACKOFF_BASE, Settlement, decide};
use orchestrator::domain::spec::{AspectRatio, ImageSize, ItemSpec};
use orchestrator::domain::state::ImageState;
use orchestrator::domain::time::Timestamp;
use orchestrator::store::{
    BudgetRow, Cancelled, EVERYONE, FreshAttempt, Job, Limits, NewBatch, NewItem, NewRetry, RetryOutcome,
    SettleRequest, Settled, Store, SubmitOutcome,
};
use sqlx::{AnyConnection, Connection as _};

use super::ends::outcome;
use super::reading;
use super::steps::{End, Step};
use super::world::{Answer, Books, World};
use crate::engines::Database;

pub(crate) const MINUTE: i64 = 60_000;
/// Claims all that waits.
const ALL: u32 = 1_000;

pub(crate) fn user_id(user: usize) -> UserId {
    UserId::new(["ann", "bob"][user].to_owned())
}

fn money(amount: i64) -> MicroUsd {
    MicroUsd::from_micros(amount)
}

/// One running process.
struct Process {
    store: Store,
    clock: Arc<FixedClock>,
}

/// The database, and all that its processes know.
pub(crate) struct Stored {
    database: Arc<Database>,
    connection: AnyConnection,
    ids: RandomIds,
    processes: Vec<Option<Process>>,
    workers: [WorkerId; 2],
    /// The day that is day 0 of the model.
    base: i64,
    batches: Vec<BatchId>,
    pictures: Vec<ImageKey>,
    /// Every claim that anybody ever had of a picture, by its fence.
    jobs: BTreeMap<(ImageKey, i64), Job>,
}

impl Stored {
    /// Opens the database, and brings its schema up to date.
    pub(crate) async fn new(database: Arc<Database>) -> Self {
        database.open(crate::engines::system_clock()).await.close().await;
        let connection = AnyConnection::connect(&database.url).await.unwrap();
        let ids = RandomIds::default();
        let workers = [WorkerId::new(ids.next()), WorkerId::new(ids.next())];
        let (processes, batches, pictures, jobs) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        Self { database, connection, ids, processes, workers, base: 0, batches, pictures, jobs }
    }

    /// Empties the database and starts every process of `world`.
    pub(crate) async fn begin(&mut self, world: &World) {
        for process in self.processes.drain(..).flatten() {
            process.store.close().await;
        }
        let empty = "DELETE FROM attempts; DELETE FROM images; DELETE FROM items; DELETE FROM events;
                     DELETE FROM retries; DELETE FROM batches; DELETE FROM ledger; DELETE FROM ledger_days;
                     DELETE FROM workers; DELETE FROM budget WHERE scope <> 'everyone';
                     UPDATE budget SET day = 0, spent = 0, reserved = 0, unknown = 0, overrun = 0";
        sqlx::raw_sql(empty).execute(&mut self.connection).await.unwrap();
        (self.batches, self.pictures, self.jobs) = (Vec::new(), Vec::new(), BTreeMap::new());
        self.base = match self.database_clock().await {
            None => 20_000,
            Some(now) => now.day().number(),
        };
        for process in 0..world.clocks.len() {
            let process = self.start_process(world, process).await;
            self.processes.push(Some(process));
        }
    }

    /// The database's own clock; nothing where it has none.
    async fn database_clock(&mut self) -> Option<Timestamp> {
        if self.database.url.starts_with("sqlite:") {
            return None;
        }
        let sql = "SELECT CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS BIGINT)";
        let millis: i64 = sqlx::query_scalar(sql).fetch_one(&mut self.connection).await.unwrap();
        Some(Timestamp::from_millis(millis))
    }

    /// What the model calls `minutes`.
    fn at(&self, minutes: i64) -> Timestamp {
        Timestamp::from_millis(self.base * 86_400_000 + minutes * MINUTE)
    }

    /// Opens the store as a process does whose database shows the model's time.
    ///
    /// Nobody can set a server's clock: there, the process starts at the real time and lives on to the
    /// model's by its monotonic clock, which is further than a jump of the wall clock is believed.
    async fn start_process(&mut self, world: &World, process: usize) -> Process {
        let wanted = self.at(world.clocks[process].wall);
        let now = self.database_clock().await.unwrap_or(wanted);
        let clock = Arc::new(FixedClock::at(now));
        let store = self.database.open(clock.clone()).await;
        clock.advance(wanted.since(now));
        Process { store, clock }
    }

    fn process(&self, world: &World, worker: usize) -> &Process {
        self.processes[world.process(worker)].as_ref().expect("a process runs")
    }

    fn keep(&mut self, jobs: Vec<Job>) {
        self.jobs.extend(jobs.into_iter().map(|job| ((job.claim.image, job.claim.fence), job)));
    }

    /// The latest claim of a picture.
    fn job(&self, picture: usize) -> &Job {
        let image = self.pictures[picture];
        self.jobs.range((image, 0)..=(image, i64::MAX)).next_back().expect("the picture was claimed").1
    }

    /// Does what the step says; `world` is how things are after it.
    pub(crate) async fn step(&mut self, world: &World, step: &Step) -> Answer {
        match step {
            Step::Submit { by, user, pictures, price } => self.submit(world, *by, *user, *pictures, *price).await,
            Step::Claim { worker, user } => self.claim(world, *worker, *user).await,
            Step::Start { worker, picture } => {
                let process = self.process(world, *worker);
                let held = process.store.start(&[self.job(*picture).claim], process.clock.now()).await.unwrap()[0];
                if held { Answer::Done } else { Answer::Refused }
            }
            Step::Settle { worker, ends } => self.settle(world, *worker, ends).await,
            Step::Late { worker, picture } => self.late(world, *worker, *picture).await,
            Step::Cancel { by, batch, user } => self.cancel(world, *by, *batch, *user).await,
            Step::Retry { by, batch, price } => self.retry(world, *by, *batch, *price).await,
            Step::GiveBack { worker } => {
                self.process(world, *worker).store.give_back(self.workers[*worker]).await.unwrap();
                Answer::Done
            }
            Step::TakeOver { dead, heir } => self.take_over(world, *heir, self.workers[*dead]).await,
            Step::Crash { process } => self.crash(world, *process).await,
            Step::Pass { .. } | Step::Ahead { .. } | Step::Jump { .. } | Step::Limits { .. } => {
                self.move_clocks(world, step);
                Answer::Done
            }
        }
    }

    fn move_clocks(&self, world: &World, step: &Step) {
        for (number, (process, hands)) in self.processes.iter().flatten().zip(&world.clocks).enumerate() {
            let minutes = match step {
                Step::Pass { minutes } => *minutes,
                Step::Ahead { process } if *process == number => super::world::DAY,
                _ => 0,
            };
            process.clock.advance(Duration::from_secs(minutes.unsigned_abs() * 60));
            process.clock.jump_to(self.at(hands.wall));
        }
    }

    fn limits(world: &World) -> Limits {
        let [everyone, user] = world.limits.map(|limit| limit.map(money));
        Limits { everyone, user }
    }

    fn over(user_limit: bool, budget: BudgetRow) -> Answer {
        Answer::OverBudget(user_limit, budget.spent.micros(), budget.reserved.micros())
    }

    async fn submit(&mut self, world: &World, by: usize, user: usize, pictures: usize, price: i64) -> Answer {
        // An even number comes as rows of two.
        let variants = if pictures.is_multiple_of(2) { 2 } else { 1 };
        let item = |row: u32| NewItem {
            spec: ItemSpec {
                scene_id: format!("s-{row}").parse().unwrap(),
                prompt: "a cup".to_owned(),
                variants,
                references: Vec::new(),
                aspect_ratio: AspectRatio::default(),
                image_size: ImageSize::default(),
            },
            reserve: money(price),
            attempts: (0..variants).map(|_| AttemptId::new(self.ids.next())).collect(),
        };
        let rows = u32::try_from(pictures).unwrap() / variants;
        let process = self.process(world, by);
        let batch = NewBatch {
            id: BatchId::new(self.ids.next()),
            owner: user_id(user),
            model: "synthetic".to_owned(),
            message: None,
            items: (1..=rows).map(item).collect(),
            estimated_cost: money(price).times(rows * variants).unwrap(),
            at: process.clock.now(),
            user_limit: None,
            webhook: None,
            idempotency: None,
            forget_keys_before: Timestamp::from_millis(0),
        };
        match process.store.submit(&batch, &Self::limits(world)).await.unwrap() {
            SubmitOutcome::Accepted => {}
            SubmitOutcome::OverBudget { user_limit, budget } => return Self::over(user_limit, budget),
            SubmitOutcome::Replayed(_) | SubmitOutcome::KeyReused => return Answer::Refused,
        }
        let key = |ordinal| (1..=variants).map(move |variant| ImageKey { batch: batch.id, ordinal, variant });
        self.pictures.extend((1..=rows).flat_map(key));
        self.batches.push(batch.id);
        Answer::Done
    }

    async fn claim(&mut self, world: &World, worker: usize, user: usize) -> Answer {
        let process = self.process(world, worker);
        let (id, now) = (self.workers[worker], process.clock.now());
        let jobs = process.store.claim(id, &user_id(user), ALL, now).await.unwrap();
        let claimed = jobs.len();
        self.keep(jobs);
        Answer::Pictures(claimed)
    }

    async fn end(&self, process: &Process, world: &World, ends: &[(&Job, End)]) -> Vec<Settled> {
        let now = process.clock.now();
        let decided = |(job, end): &(&Job, End)| decide(job.claim, outcome(*end), job.history, now, BACKOFF_BASE, 0.0);
        let settlements: Vec<Settlement> = ends.iter().map(decided).collect();
        let request = |((job, _), settlement)| SettleRequest {
            job,
            settlement,
            charge: ChargeId::new(self.ids.next()),
            next_attempt: AttemptId::new(self.ids.next()),
        };
        let requests: Vec<_> = ends.iter().copied().zip(&settlements).map(request).collect();
        process.store.settle(&requests, &Self::limits(world), LedgerPrompts::None, now).await.unwrap().settled
    }

    async fn settle(&self, world: &World, worker: usize, ends: &[(usize, End)]) -> Answer {
        let ends: Vec<_> = ends.iter().map(|(picture, end)| (self.job(*picture), *end)).collect();
        let settled = self.end(self.process(world, worker), world, &ends).await;
        let all = settled.iter().all(|settled| matches!(settled, Settled::Written { .. }));
        if all { Answer::Done } else { Answer::Refused }
    }

    /// Every claim of the picture but the one that holds now starts, and ends with a charge.
    async fn late(&self, world: &World, worker: usize, picture: usize) -> Answer {
        let image = self.pictures[picture];
        let open = [ImageState::Claimed, ImageState::Running].contains(&world.books.pictures[picture].state);
        let mut stale: Vec<&Job> = self.jobs.range((image, 0)..=(image, i64::MAX)).map(|(_, job)| job).collect();
        stale.truncate(stale.len() - usize::from(open));
        let process = self.process(world, worker);
        for job in stale {
            let started = process.store.start(&[job.claim], process.clock.now()).await.unwrap()[0];
            let settled = self.end(process, world, &[(job, End::Made(7))]).await;
            if started || settled != [Settled::ClaimLost] {
                return Answer::Refused;
            }
        }
        Answer::Done
    }

    async fn cancel(&self, world: &World, by: usize, batch: usize, user: usize) -> Answer {
        let process = self.process(world, by);
        let done = process.store.cancel(self.batches[batch], &user_id(user), process.clock.now()).await.unwrap();
        match done {
            Cancelled::Stopped { pictures, .. } => Answer::Pictures(usize::try_from(pictures).unwrap()),
            Cancelled::NotFound | Cancelled::AlreadyOver => Answer::Refused,
        }
    }

    async fn retry(&self, world: &World, by: usize, batch: usize, price: i64) -> Answer {
        let process = self.process(world, by);
        let (batch, owner) = (self.batches[batch], user_id(world.books.batches[batch].user));
        let failed = process.store.load_failed(batch, &owner, |_, failed| failed.key).await;
        let failed = failed.unwrap().expect("the batch is known");
        let fresh = |image| FreshAttempt { image, id: AttemptId::new(self.ids.next()), reserve: money(price) };
        let retry = NewRetry {
            batch,
            owner,
            attempts: failed.into_iter().map(fresh).collect(),
            at: process.clock.now(),
            user_limit: None,
            idempotency: None,
            forget_keys_before: Timestamp::from_millis(0),
        };
        match process.store.retry(&retry, &Self::limits(world)).await.unwrap() {
            RetryOutcome::Accepted(pictures) => Answer::Pictures(usize::try_from(pictures).unwrap()),
            RetryOutcome::OverBudget { user_limit, budget, .. } => Self::over(user_limit, budget),
            _ => Answer::Refused,
        }
    }

    async fn take_over(&mut self, world: &World, heir: usize, dead: WorkerId) -> Answer {
        let process = self.process(world, heir);
        process.store.take_over(dead, self.workers[heir]).await.unwrap();
        let jobs = process.store.load_claims(self.workers[heir]).await.unwrap();
        self.keep(jobs);
        Answer::Done
    }

    /// What the process knew is gone; its successor recovers what it left, under a new name.
    async fn crash(&mut self, world: &World, process: usize) -> Answer {
        if let Some(dead) = self.processes[process].take() {
            dead.store.close().await;
        }
        let born = self.start_process(world, process).await;
        self.processes[process] = Some(born);
        for worker in (0..2).filter(|worker| world.process(*worker) == process) {
            let dead = std::mem::replace(&mut self.workers[worker], WorkerId::new(self.ids.next()));
            self.take_over(world, worker, dead).await;
        }
        Answer::Done
    }

    /// Everything that the database holds.
    pub(crate) async fn look(&mut self) -> Books {
        reading::books(&mut self.connection, self.base).await
    }

    /// What each process says of everyone's money, and whether it would start calls.
    pub(crate) async fn views(&self, world: &World) -> Vec<(i64, i64, i64, bool)> {
        let mut views = Vec::new();
        for process in self.processes.iter().flatten() {
            let row = process.store.load_budget(EVERYONE).await.unwrap();
            let overrun = process.store.is_overrun(&Self::limits(world)).await.unwrap();
            views.push((row.day.number() - self.base, row.spent.micros(), row.reserved.micros(), overrun));
        }
        views
    }
}
