//! What a settling transaction writes: the picture, its next attempt, its batch, the money, the charge.

use super::close::{Close, Moves, Paid};
use super::{SettleRequest, SettleRun};
use crate::domain::ledger::{ChargeOutcome, LedgerLine};
use crate::domain::outcome::Next;
use crate::domain::state::{AttemptState, Billing, ImageState};
use crate::domain::time::{Day, Timestamp};
use crate::store::StoreError;
use crate::store::budget::EVERYONE;
use crate::store::rows::{padded, pieces, placeholders, to_json};

/// Pictures' rows a statement: SQLite looks each parameter up among all before it, and each row has 15.
const IMAGES_A_STATEMENT: usize = 16;

impl SettleRun<'_> {
    /// Writes the pictures' rows, and the attempts that follow where there are any.
    pub(super) async fn write_images(
        &mut self,
        requests: &[SettleRequest<'_>],
        closed: &[(usize, Close)],
    ) -> Result<(), StoreError> {
        for closed in closed.chunks(IMAGES_A_STATEMENT) {
            self.write_rows_of(requests, closed).await?;
        }
        for (index, close) in closed {
            if close.state == ImageState::Queued && matches!(close.next, Next::Again(_) | Next::AgainReserved) {
                let (image, id) = (requests[*index].settlement.claim.image, requests[*index].next_attempt);
                let (held, reserved) = (AttemptState::Held, close.reserved.micros());
                self.store.insert_attempt(&mut *self.connection, image, id, held, reserved).await?;
            }
        }
        Ok(())
    }

    async fn write_rows_of(
        &mut self,
        requests: &[SettleRequest<'_>],
        closed: &[(usize, Close)],
    ) -> Result<(), StoreError> {
        let mut ends = Vec::with_capacity(closed.len());
        for (index, close) in closed {
            // A picture that waits again is next in its turn when it is due: it neither keeps the turn of a
            // queue that has moved on, nor goes behind it.
            let turn = match close.state {
                ImageState::Queued => {
                    Some(self.store.turn_served(&mut *self.connection, &requests[*index].job.owner).await?)
                }
                _ => None,
            };
            ends.push((&requests[*index], close, turn));
        }
        let ends = padded(&ends);
        let sql = format!(
            "WITH ended (batch_id, ordinal, variant, state, due, failures, unknown_retries, interruptions,
               throttled_since, attempts, cost, billing, picture, error, turn) AS (VALUES {})
             UPDATE images SET state = ended.state, due = ended.due, worker = NULL, failures = ended.failures,
               unknown_retries = ended.unknown_retries, interruptions = ended.interruptions,
               throttled_since = ended.throttled_since, attempts = ended.attempts, cost = ended.cost,
               billing = ended.billing, picture = ended.picture, error = ended.error,
               turn = COALESCE(ended.turn, images.turn)
             FROM ended WHERE images.batch_id = ended.batch_id AND images.ordinal = ended.ordinal
               AND images.variant = ended.variant",
            placeholders(ends.len(), 15)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for (request, close, turn) in ends {
            let (image, history) = (request.settlement.claim.image, request.settlement.history);
            let (due, calls) = match &close.next {
                Next::Complete(_) | Next::Fail(_) => (0, close.image.attempts),
                // The provider did not take the call: it uses up no attempt.
                Next::Wait(until) => (until.millis(), close.image.attempts - i64::from(close.image.running)),
                Next::Again(until) => (until.millis(), close.image.attempts),
                Next::AgainReserved => (self.store.steady_now().millis(), close.image.attempts),
            };
            let (picture, error) = match &close.next {
                Next::Complete(picture) => (Some(to_json(picture)?), None),
                Next::Fail(error) if close.state == ImageState::Failed => (None, Some(to_json(error)?)),
                _ => (None, None),
            };
            let cost = match close.billing {
                None => close.image.cost,
                Some(_) => Some(close.image.cost.unwrap_or(0) + close.paid.cost.micros()),
            };
            query = query
                .bind(image.batch.to_string())
                .bind(i64::from(image.ordinal))
                .bind(i64::from(image.variant))
                .bind(close.state.as_str())
                .bind(due)
                .bind(i64::from(history.failures))
                .bind(i64::from(history.unknown_retries))
                .bind(i64::from(history.interruptions))
                .bind(history.throttled_since.map(Timestamp::millis))
                .bind(calls)
                .bind(cost)
                .bind(close.billing.map(Billing::as_str))
                .bind(picture)
                .bind(error)
                .bind(*turn);
        }
        query.execute(&mut *self.connection).await.map_err(|error| self.store.error(error))?;
        Ok(())
    }

    /// Writes every held batch back with its events.
    pub(super) async fn write_batches(&mut self) -> Result<(), StoreError> {
        for (id, mut batch) in std::mem::take(&mut self.batches) {
            let ended = self.store.write_batch(&mut *self.connection, id, &mut batch, self.at).await?;
            self.finished.extend(ended);
        }
        Ok(())
    }

    /// Moves the money of everyone, then of each user; returns the day that the charges belong to.
    pub(super) async fn write_budget(&mut self, moves: &Moves) -> Result<Day, StoreError> {
        let today = self.store.today(&mut *self.connection).await?;
        let day = self.store.move_budget(&mut *self.connection, EVERYONE, today, moves.everyone).await?;
        for (scope, change) in &moves.users {
            self.store.move_budget(&mut *self.connection, scope, day, *change).await?;
        }
        Ok(day)
    }

    /// Writes the charges that the ledger will hold, on the day that the budget's row gave them.
    pub(super) async fn write_charges(
        &mut self,
        charges: &[(&SettleRequest<'_>, Paid)],
        day: Day,
    ) -> Result<(), StoreError> {
        for charges in pieces(charges, charges.len()) {
            let sql =
                format!("INSERT INTO ledger (id, attempt_id, day, ts, line) VALUES {}", placeholders(charges.len(), 5));
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (request, paid) in charges {
                let line = self.line(request, *paid);
                query = query
                    .bind(line.id.to_string())
                    .bind(line.attempt_id.to_string())
                    .bind(day.number())
                    .bind(line.ts)
                    .bind(to_json(&line)?);
            }
            query.execute(&mut *self.connection).await.map_err(|error| self.store.error(error))?;
        }
        Ok(())
    }

    fn line(&self, request: &SettleRequest<'_>, paid: Paid) -> LedgerLine {
        let (job, settlement) = (request.job, request.settlement);
        LedgerLine {
            id: request.charge,
            ts: self.at.millis(),
            user_id: job.owner.as_str().to_owned(),
            job_id: job.claim.image.batch,
            scene_id: job.scene_id.clone(),
            variant: job.claim.image.variant,
            attempt_id: job.claim.attempt,
            prompt: self.prompts.apply(&job.prompt),
            images: u32::from(matches!(settlement.next, Next::Complete(_))),
            cost: paid.cost,
            model: job.model.clone(),
            outcome: if paid.is_unknown() { ChargeOutcome::Unknown } else { ChargeOutcome::Charged },
            request_id: settlement.request_id.clone(),
        }
    }
}
