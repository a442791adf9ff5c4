//! The end of attempts: picture, attempt, batch, events, money and ledger move together or not at all.

mod write;

use std::collections::BTreeMap;

use sqlx::AnyConnection;

use super::batch::OpenBatch;
use super::budget::{BudgetMove, EVERYONE, Limits, user_scope};
use super::rows::Columns as _;
use super::work::Job;
use super::{Store, StoreError, transaction};
use crate::domain::event::Event;
use crate::domain::ids::{AttemptId, BatchId, ChargeId, ImageKey};
use crate::domain::ledger::LedgerPrompts;
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Charge, Next, Settlement};
use crate::domain::state::{AttemptState, BatchState, Billing, Counts, ErrorCode, ImageError, ImageState};
use crate::domain::time::Timestamp;

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
    },
    /// The claim was lost: another worker has settled this picture, nothing was changed.
    ClaimLost,
}

/// A picture's row, held for the transaction.
struct OpenImage {
    running: bool,
    cost: Option<i64>,
    billing: Option<Billing>,
    attempts: i64,
}

/// What one attempt's end means, worked out from what the transaction's own updates returned.
struct Close {
    image: OpenImage,
    reserved: MicroUsd,
    cost: MicroUsd,
    billing: Option<Billing>,
    next: Next,
    state: ImageState,
}

impl Close {
    fn overrun(&self) -> i64 {
        (self.cost.micros() - self.reserved.micros()).max(0)
    }

    /// Whether the attempt's reserve is free again, or spent; otherwise it goes on to the next try.
    fn ends_reserve(&self) -> bool {
        !matches!(self.next, Next::Wait(_) | Next::Again(_))
    }

    fn charge(&self, settlement: &Settlement) -> BudgetMove {
        BudgetMove {
            spent: self.cost.micros(),
            released: if self.ends_reserve() { self.reserved.micros() } else { 0 },
            unknown: if settlement.charge == Charge::Reserve { self.cost.micros() } else { 0 },
            overrun: self.overrun(),
        }
    }
}

impl Store {
    /// Writes the ends of attempts in one transaction, in the order given back.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then, and the same may be tried again.
    pub async fn settle(
        &self,
        requests: &[SettleRequest<'_>],
        limits: &Limits,
        prompts: LedgerPrompts,
        at: Timestamp,
    ) -> Result<Vec<Settled>, StoreError> {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| requests[index].job.claim.image);
        let (settled, ended): (Vec<Settled>, bool) = transaction!(self, |connection| {
            let batches = BTreeMap::new();
            let mut run = SettleRun { store: self, connection, limits, prompts, at, batches, ended: false };
            let settled = run.settle_all(requests, &order).await?;
            Ok((settled, run.ended))
        })?;
        for request in requests {
            self.hints.batch(request.job.claim.image.batch);
        }
        self.hints.work.send_replace(());
        self.hints.charges.notify_one();
        if ended {
            self.hints.batch_ended.notify_one();
        }
        Ok(settled)
    }
}

/// One settling transaction.
struct SettleRun<'a> {
    store: &'a Store,
    connection: &'a mut AnyConnection,
    limits: &'a Limits,
    prompts: LedgerPrompts,
    at: Timestamp,
    batches: BTreeMap<BatchId, OpenBatch>,
    /// Whether a batch's last picture ended.
    ended: bool,
}

impl SettleRun<'_> {
    async fn settle_all(
        &mut self,
        requests: &[SettleRequest<'_>],
        order: &[usize],
    ) -> Result<Vec<Settled>, StoreError> {
        let mut settled = vec![Settled::ClaimLost; requests.len()];
        let mut everyone = BudgetMove::default();
        let mut users: BTreeMap<String, BudgetMove> = BTreeMap::new();
        let mut charged = Vec::new();
        for &index in order {
            let request = &requests[index];
            let Some(close) = self.close(request).await? else { continue };
            self.write_image(request, &close).await?;
            self.tell(request, &close).await?;
            let change = close.charge(request.settlement);
            everyone.add(change);
            users.entry(user_scope(&request.job.owner)).or_default().add(change);
            let unknown = request.settlement.charge == Charge::Reserve;
            settled[index] = Settled::Written { state: close.state, overrun: close.overrun() > 0, unknown };
            if request.settlement.charge != Charge::Nothing {
                charged.push((request, close));
            }
        }
        self.write_batches().await?;
        let day = self.write_budget(everyone, users).await?;
        for (request, close) in charged {
            self.write_charge(request, &close, day).await?;
        }
        Ok(settled)
    }

    /// Takes the batch's and the picture's rows, checks the fence, and closes the attempt.
    async fn close(&mut self, request: &SettleRequest<'_>) -> Result<Option<Close>, StoreError> {
        let settlement = request.settlement;
        self.hold_batch(settlement.claim.image.batch).await?;
        let Some(image) = self.hold_image(request).await? else { return Ok(None) };
        let cancelled = self.batches.get(&settlement.claim.image.batch).is_some_and(|batch| batch.cancelled);
        let mut next = settlement.next.clone();
        if next == Next::AgainReserved && !cancelled && !self.reserve_again(request).await? {
            let detail = "the call's outcome is unknown, and the budget has no room for another one";
            next = Next::Fail(ImageError::passing(ErrorCode::BudgetExhausted, detail));
        }
        let state = match &next {
            Next::Complete(_) => ImageState::Completed,
            Next::Fail(_) => ImageState::Failed,
            Next::Wait(_) | Next::Again(_) | Next::AgainReserved if cancelled => ImageState::Cancelled,
            Next::Wait(_) | Next::Again(_) | Next::AgainReserved => ImageState::Queued,
        };
        if state == ImageState::Cancelled {
            let detail = "the batch was cancelled";
            next = Next::Fail(ImageError::passing(ErrorCode::ProviderError, detail));
        }
        let reserved = self.close_attempt(request, &image, &next).await?;
        let (cost, latest) = match settlement.charge {
            Charge::Nothing => (MicroUsd::ZERO, Billing::NotCharged),
            Charge::Known(cost) => (cost, Billing::Charged),
            Charge::Reserve => (reserved, Billing::Unknown),
        };
        let billing = match (image.billing, &next) {
            (earlier, Next::Wait(_)) => earlier,
            (None, _) => image.running.then_some(latest),
            (Some(earlier), _) => Some(earlier.then(latest)),
        };
        Ok(Some(Close { image, reserved, cost, billing, next, state }))
    }

    async fn hold_batch(&mut self, batch: BatchId) -> Result<(), StoreError> {
        if !self.batches.contains_key(&batch) {
            let open = self.store.hold_batch(&mut *self.connection, batch).await?;
            let open = open.ok_or_else(|| StoreError::corrupt("a picture without a batch"))?;
            self.batches.insert(batch, open);
        }
        Ok(())
    }

    async fn hold_image(&mut self, request: &SettleRequest<'_>) -> Result<Option<OpenImage>, StoreError> {
        let claim = request.settlement.claim;
        let sql = "UPDATE images SET fence = fence WHERE batch_id = $1 AND ordinal = $2 AND variant = $3
                     AND fence = $4 AND state IN ('claimed', 'running')
                   RETURNING state, cost, billing, attempts";
        let row = Self::image_query(sql, claim.image)
            .bind(claim.fence)
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(|error| self.store.error(error))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(OpenImage {
            running: row.parsed::<ImageState>("state")? == ImageState::Running,
            cost: row.optional_int("cost")?,
            billing: row.optional_parsed("billing")?,
            attempts: row.int("attempts")?,
        }))
    }

    fn image_query<'q>(
        sql: &'static str,
        image: ImageKey,
    ) -> sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments> {
        sqlx::query(sql).bind(image.batch.to_string()).bind(i64::from(image.ordinal)).bind(i64::from(image.variant))
    }

    /// Closes the attempt, or puts it back to `held` while the provider asks to wait. Returns its reserve.
    async fn close_attempt(
        &mut self,
        request: &SettleRequest<'_>,
        image: &OpenImage,
        next: &Next,
    ) -> Result<MicroUsd, StoreError> {
        let from = if image.running { AttemptState::Started } else { AttemptState::Held };
        let to = match (next, request.settlement.charge) {
            (Next::Wait(_), _) => AttemptState::Held,
            (_, Charge::Nothing) => AttemptState::Released,
            (_, Charge::Known(_)) => AttemptState::Settled,
            (_, Charge::Reserve) => AttemptState::Unknown,
        };
        let cost = match request.settlement.charge {
            Charge::Known(cost) => Some(cost.micros()),
            Charge::Nothing | Charge::Reserve => None,
        };
        let sql = "UPDATE attempts SET state = $3, ended_at = $4, request_id = $5,
                     cost = CASE WHEN $3 = 'unknown' THEN reserved ELSE $6 END
                   WHERE id = $1 AND state = $2 RETURNING reserved";
        let reserved: Option<i64> = sqlx::query_scalar(sql)
            .bind(request.settlement.claim.attempt.to_string())
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(self.at.millis())
            .bind(request.settlement.request_id.as_ref())
            .bind(cost)
            .fetch_optional(&mut *self.connection)
            .await
            .map_err(|error| self.store.error(error))?;
        let reserved = reserved.ok_or_else(|| StoreError::corrupt("a claimed picture without an open attempt"))?;
        Ok(MicroUsd::from_micros(reserved))
    }

    /// Reserves once more for a picture whose last call's outcome is unknown.
    async fn reserve_again(&mut self, request: &SettleRequest<'_>) -> Result<bool, StoreError> {
        let today = self.store.today(&mut *self.connection).await?;
        let (amount, user) = (request.job.reserved, user_scope(&request.job.owner));
        let (store, limits) = (self.store, self.limits);
        if !store.reserve(&mut *self.connection, EVERYONE, today, amount, limits.everyone).await? {
            return Ok(false);
        }
        if store.reserve(&mut *self.connection, &user, today, amount, limits.user).await? {
            return Ok(true);
        }
        let back = BudgetMove { released: amount.micros(), ..BudgetMove::default() };
        store.move_budget(&mut *self.connection, EVERYONE, today, back).await?;
        Ok(false)
    }

    /// Adds the events and the counts that follow from one attempt's end.
    async fn tell(&mut self, request: &SettleRequest<'_>, close: &Close) -> Result<(), StoreError> {
        let image = request.settlement.claim.image;
        let scene_id = request.job.scene_id.clone();
        let cost = MicroUsd::from_micros(close.image.cost.unwrap_or(0) + close.cost.micros());
        let billing = close.billing;
        let event = match (&close.next, close.state) {
            (Next::Complete(picture), _) => Some(Event::ImageComplete {
                scene_id: scene_id.clone(),
                variant: image.variant,
                cost,
                billing,
                picture: picture.clone(),
            }),
            (Next::Fail(error), ImageState::Failed) => Some(Event::ImageFailed {
                scene_id: scene_id.clone(),
                variant: image.variant,
                cost,
                billing,
                error: error.clone(),
            }),
            _ => None,
        };
        let item = if close.state.is_final() { self.finished_item(image).await? } else { None };
        let Some(batch) = self.batches.get_mut(&image.batch) else { return Ok(()) };
        batch.events.extend(event);
        batch.actual_cost += close.cost.micros();
        if request.settlement.charge == Charge::Reserve {
            batch.unknown_cost += close.cost.micros();
        }
        batch.counts.finish(close.state);
        if let Some(state) = item {
            batch.events.push(Event::ItemComplete { scene_id, state });
        }
        Ok(())
    }

    /// How the row of `image` ended, if none of its pictures is open.
    async fn finished_item(&mut self, image: ImageKey) -> Result<Option<BatchState>, StoreError> {
        let sql = "SELECT state, COUNT(*) AS pictures FROM images WHERE batch_id = $1 AND ordinal = $2 GROUP BY state";
        let rows = sqlx::query(sql)
            .bind(image.batch.to_string())
            .bind(i64::from(image.ordinal))
            .fetch_all(&mut *self.connection)
            .await
            .map_err(|error| self.store.error(error))?;
        let mut counts = Counts::default();
        for row in &rows {
            counts.add(row.parsed("state")?, row.count("pictures")?);
        }
        Ok(counts.is_finished().then(|| counts.state()))
    }
}
