//! Accepting a batch: rows, money and the first event in one transaction, or nothing.

use sqlx::AnyConnection;

use super::budget::{BudgetMove, EVERYONE, Limits, user_scope};
use super::rows::{Columns as _, ROWS_A_STATEMENT, placeholders, to_json};
use super::{BudgetRow, Store, StoreError, transaction};
use crate::domain::event::Event;
use crate::domain::ids::{AttemptId, BatchId, UserId};
use crate::domain::money::MicroUsd;
use crate::domain::spec::ItemSpec;
use crate::domain::state::{AttemptState, BatchState, ImageState};
use crate::domain::time::Timestamp;
use crate::domain::webhook::Webhook;

/// Items a statement: each has eight parameters, and SQLite looks each up among all before it.
const ITEMS_A_STATEMENT: usize = 50;

/// A row of a batch that is to be accepted.
pub struct NewItem {
    /// What was asked for.
    pub spec: ItemSpec,
    /// What one picture of it reserves.
    pub reserve: MicroUsd,
    /// One attempt for each of its variants.
    pub attempts: Vec<AttemptId>,
}

/// A batch that is to be accepted.
pub struct NewBatch {
    /// Its id.
    pub id: BatchId,
    /// Whose it is.
    pub owner: UserId,
    /// The model.
    pub model: String,
    /// Something its owner should know.
    pub message: Option<String>,
    /// Its rows.
    pub items: Vec<NewItem>,
    /// What all its pictures reserve together.
    pub estimated_cost: MicroUsd,
    /// When it came in.
    pub at: Timestamp,
    /// The limit of its owner's day, where that is not the service's for each user.
    pub user_limit: Option<MicroUsd>,
    /// The client's name for the submission, and the hash of what it asked for.
    pub idempotency: Option<(String, String)>,
    /// What is told of it, and where.
    pub webhook: Option<Webhook>,
    /// Keys of batches accepted before this time are forgotten.
    pub forget_keys_before: Timestamp,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// It is accepted, and its money is reserved.
    Accepted,
    /// The same request was accepted before.
    Replayed(BatchId),
    /// The key was used for another request. Nothing was written.
    KeyReused,
    /// It does not fit. Nothing was written.
    OverBudget {
        /// Whether it is the user's own limit that it does not fit.
        user_limit: bool,
        /// The scope as it is.
        budget: BudgetRow,
    },
}

/// Whether money could be reserved.
pub(super) enum Reservation {
    /// It is.
    Fits,
    /// It does not fit a limit. What was written for it must be undone.
    TooLarge {
        /// Whether it is the user's own limit.
        user_limit: bool,
        /// The scope as it is.
        budget: BudgetRow,
    },
}

/// One picture to insert.
struct NewImage<'a> {
    ordinal: i64,
    variant: i64,
    reserve: MicroUsd,
    attempt: &'a AttemptId,
}

impl NewBatch {
    fn images(&self) -> Vec<NewImage<'_>> {
        let mut images = Vec::new();
        for (ordinal, item) in (1_i64..).zip(&self.items) {
            for (variant, attempt) in (1_i64..).zip(&item.attempts) {
                images.push(NewImage { ordinal, variant, reserve: item.reserve, attempt });
            }
        }
        images
    }
}

impl Store {
    /// Accepts `batch` if its money fits both limits.
    ///
    /// # Errors
    /// [`StoreError::KeyInUse`] while a submission with the same key is being taken in; else
    /// [`StoreError`]. Nothing was written then.
    pub async fn submit(&self, batch: &NewBatch, limits: &Limits) -> Result<SubmitOutcome, StoreError> {
        let limits = &limits.with_user(batch.user_limit);
        let outcome: SubmitOutcome =
            transaction!(self, |connection| self.submit_in(connection, batch, limits).await, |outcome| *outcome
                == SubmitOutcome::Accepted)?;
        if outcome == SubmitOutcome::Accepted {
            self.hints.queued();
        }
        Ok(outcome)
    }

    /// What an earlier submission with the same key means for `batch`; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find_submission(&self, batch: &NewBatch) -> Result<Option<SubmitOutcome>, StoreError> {
        let mut lent = self.readers.lend().await.map_err(|error| self.error(error))?;
        let found = self.bounded(self.find_key(&mut lent, batch)).await?;
        lent.ended();
        Ok(found)
    }

    async fn submit_in(
        &self,
        connection: &mut AnyConnection,
        batch: &NewBatch,
        limits: &Limits,
    ) -> Result<SubmitOutcome, StoreError> {
        let inserted = self.insert_batch(connection, batch).await;
        if let Some(earlier) = inserted.map_err(|error| error.of_key(batch.idempotency.is_some()))? {
            return Ok(earlier);
        }
        if let Some(webhook) = &batch.webhook {
            self.insert_webhook(connection, batch.id, webhook).await?;
        }
        self.insert_items(connection, batch).await?;
        let images = batch.images();
        self.insert_images(connection, batch, &images).await?;
        self.insert_attempts(connection, batch, &images).await?;
        let total = u32::try_from(images.len()).map_err(StoreError::corrupt)?;
        self.insert_events(connection, batch.id, 0, batch.at, &[Event::Started { total }]).await?;
        Ok(match self.reserve_for(connection, &batch.owner, batch.estimated_cost, limits).await? {
            Reservation::Fits => SubmitOutcome::Accepted,
            Reservation::TooLarge { user_limit, budget } => SubmitOutcome::OverBudget { user_limit, budget },
        })
    }

    /// Inserts the batch's row; if its key is taken, says what that means.
    async fn insert_batch(
        &self,
        connection: &mut AnyConnection,
        batch: &NewBatch,
    ) -> Result<Option<SubmitOutcome>, StoreError> {
        if let Some((key, _)) = &batch.idempotency {
            let forget = "UPDATE batches SET idempotency_key = NULL
                          WHERE owner = $1 AND idempotency_key = $2 AND created_at < $3";
            sqlx::query(forget)
                .bind(batch.owner.as_str())
                .bind(key)
                .bind(batch.forget_keys_before.millis())
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
        }
        let (key, hash) = batch.idempotency.as_ref().map_or((None, None), |(key, hash)| (Some(key), Some(hash)));
        let total: usize = batch.items.iter().map(|item| item.attempts.len()).sum();
        let sql = "INSERT INTO batches (id, owner, model, state, created_at, message, last_event, total, completed,
                     failed, cancelled, estimated_cost, actual_cost, unknown_cost, idempotency_key, request_hash,
                     user_limit)
                   VALUES ($1, $2, $3, $4, $5, $6, 1, $7, 0, 0, 0, $8, 0, 0, $9, $10, $11)
                   ON CONFLICT (owner, idempotency_key) DO NOTHING";
        let inserted = sqlx::query(sql)
            .bind(batch.id.to_string())
            .bind(batch.owner.as_str())
            .bind(&batch.model)
            .bind(BatchState::Running.as_str())
            .bind(batch.at.millis())
            .bind(batch.message.as_ref())
            .bind(i64::try_from(total).map_err(StoreError::corrupt)?)
            .bind(batch.estimated_cost.micros())
            .bind(key)
            .bind(hash)
            .bind(batch.user_limit.map(MicroUsd::micros))
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        if inserted.rows_affected() == 1 {
            return Ok(None);
        }
        let earlier = self.find_key(connection, batch).await?;
        earlier.map(Some).ok_or_else(|| StoreError::corrupt("a batch's key is taken and cannot be found"))
    }

    /// What an earlier submission with the batch's key means for this one.
    async fn find_key(
        &self,
        connection: &mut AnyConnection,
        batch: &NewBatch,
    ) -> Result<Option<SubmitOutcome>, StoreError> {
        let Some((key, hash)) = &batch.idempotency else { return Ok(None) };
        let sql = "SELECT id, request_hash FROM batches
                   WHERE owner = $1 AND idempotency_key = $2 AND created_at >= $3";
        let row = sqlx::query(sql)
            .bind(batch.owner.as_str())
            .bind(key)
            .bind(batch.forget_keys_before.millis())
            .fetch_optional(connection)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        let same = row.text("request_hash")? == *hash;
        Ok(Some(if same { SubmitOutcome::Replayed(row.parsed("id")?) } else { SubmitOutcome::KeyReused }))
    }

    async fn insert_items(&self, connection: &mut AnyConnection, batch: &NewBatch) -> Result<(), StoreError> {
        let numbered: Vec<(i64, &NewItem)> = (1_i64..).zip(&batch.items).collect();
        for rows in numbered.chunks(ITEMS_A_STATEMENT) {
            let sql = format!(
                "INSERT INTO items (batch_id, ordinal, scene_id, scene_key, prompt, refs, aspect_ratio, image_size)
                 VALUES {}",
                placeholders(rows.len(), 8)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (ordinal, item) in rows {
                let spec = &item.spec;
                query = query
                    .bind(batch.id.to_string())
                    .bind(*ordinal)
                    .bind(spec.scene_id.as_str())
                    .bind(spec.scene_id.key())
                    .bind(&spec.prompt)
                    .bind(to_json(&spec.references)?)
                    .bind(spec.aspect_ratio.to_string())
                    .bind(spec.image_size.as_str());
            }
            query.execute(&mut *connection).await.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// Inserts the pictures, each with its `turn` in the queue.
    ///
    /// Turns make the batches of one owner share that owner's part of the workers evenly: a new batch
    /// begins at the turn that is being served now and takes one turn a picture, so it does not wait
    /// behind a larger one.
    async fn insert_images(
        &self,
        connection: &mut AnyConnection,
        batch: &NewBatch,
        images: &[NewImage<'_>],
    ) -> Result<(), StoreError> {
        let served = self.turn_served(connection, &batch.owner).await?;
        let numbered: Vec<(i64, &NewImage<'_>)> = (served..).zip(images).collect();
        let state = ImageState::Queued.as_str();
        for rows in numbered.chunks(ROWS_A_STATEMENT) {
            // Numbers stand in the text: SQLite looks each parameter up among all before it, and with twelve a row that
            // was nine tenths of a large submission.
            let values: Vec<String> = rows
                .iter()
                .map(|(turn, image)| {
                    let NewImage { ordinal, variant, .. } = image;
                    format!("($1,{ordinal},{variant},$2,'{state}',{turn},0,0,0,0,0,0)")
                })
                .collect();
            let sql = format!(
                "INSERT INTO images (batch_id, ordinal, variant, owner, state, turn, due, fence, failures, unknown_retries,
                   interruptions, attempts)
                 VALUES {}",
                values.join(",")
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .persistent(false)
                .bind(batch.id.to_string())
                .bind(batch.owner.as_str())
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    async fn insert_attempts(
        &self,
        connection: &mut AnyConnection,
        batch: &NewBatch,
        images: &[NewImage<'_>],
    ) -> Result<(), StoreError> {
        let state = AttemptState::Held.as_str();
        for rows in images.chunks(ROWS_A_STATEMENT) {
            let values: Vec<String> = (2..)
                .zip(rows)
                .map(|(id, image): (usize, _)| {
                    let NewImage { ordinal, variant, reserve, .. } = image;
                    format!("(${id},$1,{ordinal},{variant},1,0,'{state}',{})", reserve.micros())
                })
                .collect();
            let sql = format!(
                "INSERT INTO attempts (id, batch_id, ordinal, variant, number, fence, state, reserved) VALUES {}",
                values.join(",")
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).persistent(false).bind(batch.id.to_string());
            for image in rows {
                query = query.bind(image.attempt.to_string());
            }
            query.execute(&mut *connection).await.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// Reserves money for everyone and for its user; last, as its row is the hottest.
    pub(super) async fn reserve_for(
        &self,
        connection: &mut AnyConnection,
        owner: &UserId,
        amount: MicroUsd,
        limits: &Limits,
    ) -> Result<Reservation, StoreError> {
        let user = user_scope(owner);
        let today = self.today(&mut *connection).await?;
        for (scope, limit, user_limit) in [(EVERYONE, limits.everyone, false), (&user, limits.user, true)] {
            self.ensure_scope(connection, scope).await?;
            if self.reserve(connection, scope, today, amount, limit).await? {
                continue;
            }
            // Held first, so that what is left is what did not suffice, whatever others release meanwhile.
            self.move_budget(connection, scope, today, BudgetMove::default()).await?;
            if !self.reserve(connection, scope, today, amount, limit).await? {
                let budget = self.budget_in(connection, scope).await?;
                return Ok(Reservation::TooLarge { user_limit, budget });
            }
        }
        Ok(Reservation::Fits)
    }
}
