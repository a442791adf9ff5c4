//! The end of attempts: picture, attempt, batch, events, money and ledger move together or not at all.

mod close;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use self::close::{Close, Moves, OpenImage, Paid};
use super::batch::{FinishedBatch, OpenBatch};
use super::budget::{BudgetMove, EVERYONE, Limits, user_scope};
use super::jobs::Job;
use super::rows::{Columns as _, padded, placeholders};
use super::{Store, StoreError, transaction};
use crate::domain::event::Event;
use crate::domain::ids::{AttemptId, BatchId, ChargeId, ImageKey};
use crate::domain::ledger::{LedgerLine, LedgerPrompts};
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Charge, Claim, Next, Settlement};
use crate::domain::state::{BatchState, Billing, Counts, ErrorCode, ImageState};
use crate::domain::time::Timestamp;
use crate::failpoint;

/// One attempt's end, with what writing it needs.
pub struct SettleRequest<'a> {
    /// The picture, as it was claimed.
    pub job: &'a Job,
    /// What was decided about it.
    pub settlement: &'a Settlement,
    /// The id of its charge, if there is one.
    pub charge: ChargeId,
    /// The id of the attempt after it, if there is one.
    pub next_attempt: AttemptId,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is written; the picture is now in this state.
    Written {
        /// The picture's new state.
        state: ImageState,
        /// Whether the charge was above what was reserved.
        overrun: bool,
        /// Whether nobody can know what the call cost.
        unknown: bool,
        /// What was charged now.
        cost: MicroUsd,
        /// Why the picture will not be made.
        error: Option<ErrorCode>,
    },
    /// The claim was lost: another worker has settled this picture, nothing was changed.
    ClaimLost,
    /// The database does not know the attempt: it was lost since the call began. The charge is written all the same.
    AttemptGone,
}

/// What became of a group of ends.
#[derive(Debug)]
pub struct SettledGroup {
    /// Each, in the order of the requests.
    pub settled: Vec<Settled>,
    /// The batches that ended with them.
    pub finished: Vec<FinishedBatch>,
}

impl Store {
    /// Writes the ends of attempts in one transaction, in the order given back. Who waits for them is
    /// told with [`Hints::settled`](super::Hints::settled), when whoever settles has counted them.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then, and the same may be tried again.
    pub async fn settle(
        &self,
        requests: &[SettleRequest<'_>],
        limits: &Limits,
        prompts: LedgerPrompts,
        at: Timestamp,
    ) -> Result<SettledGroup, StoreError> {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| requests[index].job.claim.image);
        transaction!(self, |connection| {
            let batches = BTreeMap::new();
            let mut run = SettleRun { store: self, connection, limits, prompts, at, batches, finished: Vec::new() };
            let settled = run.settle_all(requests, &order).await?;
            failpoint::hit("settle.written");
            Ok(SettledGroup { settled, finished: run.finished })
        })
    }
}

/// The rows of pictures, by picture and fence.
type Held = BTreeMap<(ImageKey, i64), OpenImage>;
/// The rows of batches that ended, by batch and place.
type EndedItems = BTreeMap<(BatchId, u32), BatchState>;

/// One settling transaction.
struct SettleRun<'a> {
    store: &'a Store,
    connection: &'a mut AnyConnection,
    limits: &'a Limits,
    prompts: LedgerPrompts,
    at: Timestamp,
    batches: BTreeMap<BatchId, OpenBatch>,
    /// The batches whose last picture ended.
    finished: Vec<FinishedBatch>,
}

impl SettleRun<'_> {
    /// Closes every attempt, moves the money, and tells what follows.
    ///
    /// The money's rows are the hottest and come last, unless a picture needs a fresh reservation: that
    /// is decided by the money as the whole group leaves it, when every other row is held already.
    async fn settle_all(
        &mut self,
        requests: &[SettleRequest<'_>],
        order: &[usize],
    ) -> Result<Vec<Settled>, StoreError> {
        let recorded = self.recorded_charges(requests).await?;
        let mut held = self.hold(requests, order).await?;
        let mut settled = vec![Settled::ClaimLost; requests.len()];
        let (mut closed, mut charges, mut moves) = (Vec::new(), Vec::new(), Moves::default());
        for &index in order {
            let request = &requests[index];
            let (job, claim) = (request.job, request.settlement.claim);
            let paid = Paid::new(request.settlement.charge, job.reserved, recorded.get(&job.claim.attempt));
            if let Some(image) = held.remove(&(claim.image, claim.fence)) {
                let is_cancelled = self.batches.get(&claim.image.batch).is_some_and(|batch| batch.cancelled);
                closed.push((index, Close::new(image, request.settlement.next.clone(), paid, is_cancelled)));
                charges.push((request, paid));
            } else if !self.knows_attempt(claim.attempt).await? {
                self.store.ensure_scope(&mut *self.connection, &user_scope(&job.owner)).await?;
                moves.add(&job.owner, paid.spent(job.reserved));
                charges.push((request, paid));
                settled[index] = Settled::AttemptGone;
            }
        }
        let mut reserved = self.close_attempts(requests, &closed).await?;
        for (index, close) in &mut closed {
            let job = requests[*index].job;
            let no_attempt = || StoreError::corrupt("a claimed picture without an open attempt");
            close.reserved = reserved.remove(&job.claim.attempt).ok_or_else(no_attempt)?;
            moves.add(&job.owner, close.budget_move());
        }
        let reserved_first = closed.iter().any(|(_, close)| close.next == Next::AgainReserved);
        let early = if reserved_first { Some(self.write_budget(&moves).await?) } else { None };
        for (index, close) in &mut closed {
            if close.next == Next::AgainReserved && !self.reserve_again(&requests[*index]).await? {
                close.fail_for_want_of_budget();
            }
        }
        self.write_images(requests, &closed).await?;
        for (index, close) in &closed {
            settled[*index] = close.written();
        }
        self.tell_all(requests, &closed).await?;
        self.write_batches().await?;
        let day = match early {
            Some(day) => day,
            None => self.write_budget(&moves).await?,
        };
        charges.retain(|(_, paid)| paid.is_new_charge());
        self.write_charges(&charges, day).await?;
        Ok(settled)
    }

    /// The charges of these attempts that the ledger's table holds already, by an import.
    async fn recorded_charges(
        &mut self,
        requests: &[SettleRequest<'_>],
    ) -> Result<BTreeMap<AttemptId, LedgerLine>, StoreError> {
        let charged: Vec<AttemptId> = requests
            .iter()
            .filter(|request| request.settlement.charge != Charge::Nothing)
            .map(|request| request.job.claim.attempt)
            .collect();
        if charged.is_empty() {
            return Ok(BTreeMap::new());
        }
        let charged = padded(&charged);
        let sql = format!("SELECT line FROM ledger WHERE attempt_id IN {}", placeholders(1, charged.len()));
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for attempt in charged {
            query = query.bind(attempt.to_string());
        }
        let rows = query.fetch_all(&mut *self.connection).await.map_err(|error| self.store.error(error))?;
        rows.iter().map(|row| row.json::<LedgerLine>("line").map(|line| (line.attempt_id, line))).collect()
    }

    /// Takes the rows of the batches, in the order given, then those of the pictures that are still held by their
    /// claims.
    async fn hold(&mut self, requests: &[SettleRequest<'_>], order: &[usize]) -> Result<Held, StoreError> {
        for &index in order {
            let batch = requests[index].settlement.claim.image.batch;
            if !self.batches.contains_key(&batch)
                && let Some(open) = self.store.hold_batch(&mut *self.connection, batch).await?
            {
                self.batches.insert(batch, open);
            }
        }
        let claims: Vec<Claim> = order.iter().map(|&index| requests[index].settlement.claim).collect();
        let (change, states) = ("fence = images.fence", "'claimed', 'running'");
        let rows = self.store.change_claimed(&mut *self.connection, &claims, change, states).await?;
        let open = |row: &AnyRow| {
            let image = OpenImage {
                running: row.parsed::<ImageState>("state")? == ImageState::Running,
                cost: row.optional_int("cost")?,
                billing: row.optional_parsed("billing")?,
                attempts: row.int("attempts")?,
            };
            Ok(((row.image_key()?, row.int("fence")?), image))
        };
        rows.iter().map(open).collect()
    }

    async fn knows_attempt(&mut self, attempt: AttemptId) -> Result<bool, StoreError> {
        let known: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM attempts WHERE id = $1")
            .bind(attempt.to_string())
            .fetch_one(&mut *self.connection)
            .await
            .map_err(|error| self.store.error(error))?;
        Ok(known > 0)
    }

    /// Closes the attempts, or puts them back to `held` while the provider asks to wait. Returns what each reserved.
    async fn close_attempts(
        &mut self,
        requests: &[SettleRequest<'_>],
        closed: &[(usize, Close)],
    ) -> Result<BTreeMap<AttemptId, MicroUsd>, StoreError> {
        if closed.is_empty() {
            return Ok(BTreeMap::new());
        }
        let closed = padded(closed);
        let sql = format!(
            "WITH ended (id, was, state, request_id, cost, at) AS (VALUES {})
             UPDATE attempts SET state = ended.state, ended_at = ended.at, request_id = ended.request_id,
               cost = ended.cost
             FROM ended WHERE attempts.id = ended.id AND attempts.state = ended.was
             RETURNING attempts.id, attempts.reserved",
            placeholders(closed.len(), 6)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for (index, close) in closed {
            let (was, state) = close.attempt_states();
            query = query
                .bind(requests[*index].settlement.claim.attempt.to_string())
                .bind(was.as_str())
                .bind(state.as_str())
                .bind(requests[*index].settlement.request_id.as_ref())
                .bind((close.paid.billing != Billing::NotCharged).then_some(close.paid.cost.micros()))
                .bind(self.at.millis());
        }
        let rows = query.fetch_all(&mut *self.connection).await.map_err(|error| self.store.error(error))?;
        rows.iter().map(|row| Ok((row.parsed("id")?, row.money("reserved")?))).collect()
    }

    /// Reserves once more for a picture whose last call's outcome is unknown.
    async fn reserve_again(&mut self, request: &SettleRequest<'_>) -> Result<bool, StoreError> {
        let today = self.store.today(&mut *self.connection).await?;
        let (amount, user) = (request.job.reserved, user_scope(&request.job.owner));
        let (store, limits) = (self.store, self.limits);
        if !store.reserve(&mut *self.connection, EVERYONE, today, amount, limits.everyone).await? {
            return Ok(false);
        }
        let batch = self.batches.get(&request.job.claim.image.batch);
        let limits = limits.with_user(batch.and_then(|batch| batch.user_limit));
        if store.reserve(&mut *self.connection, &user, today, amount, limits.user).await? {
            return Ok(true);
        }
        let back = BudgetMove { released: amount.micros(), ..BudgetMove::default() };
        store.move_budget(&mut *self.connection, EVERYONE, today, back).await?;
        Ok(false)
    }

    /// Adds what follows from the ends: of each picture, and of each row after its last one.
    async fn tell_all(&mut self, requests: &[SettleRequest<'_>], closed: &[(usize, Close)]) -> Result<(), StoreError> {
        let finals = closed.iter().filter(|(_, close)| close.state.is_final());
        let mut ended = self.finished_items(finals.map(|(index, _)| requests[*index].job.claim.image)).await?;
        let row_of = |(index, _): &(usize, Close)| {
            let image = requests[*index].job.claim.image;
            (image.batch, image.ordinal)
        };
        for (place, end) in closed.iter().enumerate() {
            let (request, row) = (&requests[end.0], row_of(end));
            self.tell(request, &end.1);
            // The pictures of a row stand together.
            if closed.get(place + 1).is_none_or(|next| row_of(next) != row)
                && let Some(state) = ended.remove(&row)
            {
                self.tell_item(request, state);
            }
        }
        Ok(())
    }

    /// Adds the events and the counts that follow from one attempt's end.
    fn tell(&mut self, request: &SettleRequest<'_>, close: &Close) {
        let image = request.settlement.claim.image;
        let scene_id = request.job.scene_id.clone();
        let cost = MicroUsd::from_micros(close.image.cost.unwrap_or(0) + close.paid.cost.micros());
        let billing = close.billing;
        let event = match (&close.next, close.state) {
            (Next::Complete(picture), _) => {
                Some(Event::ImageComplete { scene_id, variant: image.variant, cost, billing, picture: picture.clone() })
            }
            (Next::Fail(error), ImageState::Failed) => {
                Some(Event::ImageFailed { scene_id, variant: image.variant, cost, billing, error: error.clone() })
            }
            _ => None,
        };
        let Some(batch) = self.batches.get_mut(&image.batch) else { return };
        batch.events.extend(event);
        batch.actual_cost += close.paid.cost.micros();
        if close.paid.is_unknown() {
            batch.unknown_cost += close.paid.cost.micros();
        }
        batch.counts.finish(close.state);
    }

    /// Adds the event of the picture's row.
    fn tell_item(&mut self, request: &SettleRequest<'_>, state: BatchState) {
        if let Some(batch) = self.batches.get_mut(&request.job.claim.image.batch) {
            batch.events.push(Event::ItemComplete { scene_id: request.job.scene_id.clone(), state });
        }
    }

    /// Those of the pictures' rows of which no picture is open, and how they ended.
    async fn finished_items(&mut self, images: impl Iterator<Item = ImageKey>) -> Result<EndedItems, StoreError> {
        let items: BTreeSet<(BatchId, u32)> = images.map(|image| (image.batch, image.ordinal)).collect();
        if items.is_empty() {
            return Ok(EndedItems::new());
        }
        let items: Vec<_> = items.into_iter().collect();
        let items = padded(&items);
        let sql = format!(
            "SELECT batch_id, ordinal, state, COUNT(*) AS pictures FROM images
             WHERE (batch_id, ordinal) IN (VALUES {}) GROUP BY batch_id, ordinal, state",
            placeholders(items.len(), 2)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for (batch, ordinal) in items {
            query = query.bind(batch.to_string()).bind(i64::from(*ordinal));
        }
        let rows = query.fetch_all(&mut *self.connection).await.map_err(|error| self.store.error(error))?;
        let mut counts = BTreeMap::<_, Counts>::new();
        for row in &rows {
            let item = (row.parsed("batch_id")?, row.count("ordinal")?);
            counts.entry(item).or_default().add(row.parsed("state")?, row.count("pictures")?);
        }
        let ended = counts.into_iter().filter(|(_, counts)| counts.is_finished());
        Ok(ended.map(|(item, counts)| (item, counts.state())).collect())
    }
}
