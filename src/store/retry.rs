//! Trying failed pictures again: fresh attempts with a fresh reservation, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::budget::Limits;
use super::jobs::readable;
use super::rows::{Columns, ROWS_A_STATEMENT, placeholders};
use super::submit::Reservation;
use super::{BudgetRow, Store, StoreError, transaction};
use crate::domain::event::Event;
use crate::domain::ids::{AttemptId, BatchId, ImageKey, UserId};
use crate::domain::money::MicroUsd;
use crate::domain::spec::ItemSpec;
use crate::domain::state::{AttemptState, ImageError};
use crate::domain::time::Timestamp;

/// A picture that failed.
#[derive(Debug, Clone)]
pub struct FailedImage {
    /// Which one.
    pub key: ImageKey,
    /// Why.
    pub error: ImageError,
    /// Its row, as it was asked for.
    pub item: ItemSpec,
}

/// A failed picture's next attempt.
#[derive(Debug, Clone, Copy)]
pub struct FreshAttempt {
    /// The picture.
    pub image: ImageKey,
    /// The attempt.
    pub id: AttemptId,
    /// What it reserves.
    pub reserve: MicroUsd,
}

/// A retry that is to be accepted.
pub struct NewRetry {
    /// The batch.
    pub batch: BatchId,
    /// Who asks.
    pub owner: UserId,
    /// The pictures to try again; those that others have taken up meanwhile are left to them.
    pub attempts: Vec<FreshAttempt>,
    /// The limit of its owner's day, where that is not the service's for each user.
    pub user_limit: Option<MicroUsd>,
    /// When it came in.
    pub at: Timestamp,
    /// The client's name for the retry, and the hash of what it asked for.
    pub idempotency: Option<(String, String)>,
    /// Keys older than this are forgotten.
    pub forget_keys_before: Timestamp,
}

/// What became of a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryOutcome {
    /// So many pictures wait again, and their money is reserved.
    Accepted(u32),
    /// The same request was accepted before.
    Replayed,
    /// The key was used for another request. Nothing was written.
    KeyReused,
    /// There is no such batch of this owner.
    NotFound,
    /// The batch was cancelled. Nothing was written.
    Cancelled,
    /// None of the pictures is failed any more. Nothing was written.
    NothingFailed,
    /// It does not fit. Nothing was written.
    OverBudget {
        /// Whether it is the user's own limit that it does not fit.
        user_limit: bool,
        /// The scope as it is.
        budget: BudgetRow,
        /// What the pictures would reserve.
        estimated: MicroUsd,
    },
}

fn failed_image(row: &AnyRow) -> Result<FailedImage, StoreError> {
    let item = ItemSpec {
        scene_id: row.parsed("scene_id")?,
        prompt: row.text("prompt")?,
        variants: 1,
        references: row.json("refs")?,
        aspect_ratio: row.parsed("aspect_ratio")?,
        image_size: row.parsed("image_size")?,
    };
    Ok(FailedImage { key: row.image_key()?, error: row.json("error")?, item })
}

impl Store {
    /// What `judge` makes of each failed picture of the batch and its model, if it is `owner`'s. One picture is held at a
    /// time: each comes with the whole row that asked for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_failed<T: Send>(
        &self,
        batch: BatchId,
        owner: &UserId,
        judge: impl Fn(&str, FailedImage) -> T + Send + Sync,
    ) -> Result<Option<Vec<T>>, StoreError> {
        let model: Option<String> = sqlx::query_scalar("SELECT model FROM batches WHERE id = $1 AND owner = $2")
            .bind(batch.to_string())
            .bind(owner.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        let Some(model) = model else { return Ok(None) };
        let sql = "SELECT m.batch_id, m.ordinal, m.variant, m.error, i.scene_id, i.prompt, i.refs, i.aspect_ratio,
                     i.image_size
                   FROM images m JOIN items i ON i.batch_id = m.batch_id AND i.ordinal = m.ordinal
                   WHERE m.batch_id = $1 AND m.state = 'failed' ORDER BY m.ordinal, m.variant";
        let mut lent = self.readers.lend().await.map_err(|error| self.error(error))?;
        let read = async {
            // On the connection itself: a pool gives rows when all of them are there.
            let mut rows = sqlx::query(sql).bind(batch.to_string()).fetch(&mut *lent);
            let mut judged = Vec::new();
            while let Some(row) = rows.try_next().await.map_err(|error| self.error(error))? {
                judged.extend(readable(&[row], |row| Ok(judge(&model, failed_image(row)?))));
            }
            Ok(judged)
        };
        let judged = self.bounded(read).await?;
        lent.ended();
        Ok(Some(judged))
    }

    /// Puts failed pictures back into the queue, if their money fits both limits.
    ///
    /// # Errors
    /// [`StoreError::KeyInUse`] while a retry with a key is being taken in; else [`StoreError`]. Nothing was written then.
    pub async fn retry(&self, retry: &NewRetry, limits: &Limits) -> Result<RetryOutcome, StoreError> {
        let limits = &limits.with_user(retry.user_limit);
        let outcome: RetryOutcome = transaction!(
            self,
            |connection| self.retry_in(connection, retry, limits).await,
            |outcome| matches!(outcome, RetryOutcome::Accepted(_))
        )?;
        if let RetryOutcome::Accepted(_) = outcome {
            self.hints.retried(retry.batch);
        }
        Ok(outcome)
    }

    async fn retry_in(
        &self,
        connection: &mut AnyConnection,
        retry: &NewRetry,
        limits: &Limits,
    ) -> Result<RetryOutcome, StoreError> {
        // A retry with the same key is one of the same batch, and has its row.
        let held = self.hold_batch(connection, retry.batch).await;
        let Some(mut batch) = held.map_err(|error| error.of_key(retry.idempotency.is_some()))? else {
            return Ok(RetryOutcome::NotFound);
        };
        if batch.owner != retry.owner.as_str() {
            return Ok(RetryOutcome::NotFound);
        }
        if let Some(earlier) = self.take_key(connection, retry).await? {
            return Ok(earlier);
        }
        if batch.cancelled {
            return Ok(RetryOutcome::Cancelled);
        }
        let turn = self.turn_served(connection, &retry.owner).await?;
        let numbers = self.attempt_numbers(connection, retry.batch).await?;
        let (mut again, mut total) = (0, MicroUsd::ZERO);
        for attempts in retry.attempts.chunks(ROWS_A_STATEMENT) {
            let back = self.requeue(connection, attempts, turn + i64::from(again)).await?;
            self.insert_fresh(connection, &back, &numbers).await?;
            again += u32::try_from(back.len()).map_err(StoreError::corrupt)?;
            for attempt in &back {
                total = total.plus(attempt.reserve).map_err(StoreError::corrupt)?;
            }
        }
        if again == 0 {
            return Ok(RetryOutcome::NothingFailed);
        }
        batch.counts.failed -= again;
        batch.counts.queued += again;
        batch.events.push(Event::Started { total: again });
        self.write_batch(connection, retry.batch, &mut batch, retry.at).await?;
        let sql = "UPDATE batches SET finished_at = NULL, estimated_cost = estimated_cost + $2, user_limit = $3,
                     queued_at = $4
                   WHERE id = $1";
        sqlx::query(sql)
            .bind(retry.batch.to_string())
            .bind(total.micros())
            .bind(retry.user_limit.map(MicroUsd::micros))
            .bind(retry.at.millis())
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(match self.reserve_for(connection, &retry.owner, total, limits).await? {
            Reservation::Fits => RetryOutcome::Accepted(again),
            Reservation::TooLarge { user_limit, budget } => {
                RetryOutcome::OverBudget { user_limit, budget, estimated: total }
            }
        })
    }

    /// Takes the client's key for this retry; if it is taken, says what that means.
    async fn take_key(
        &self,
        connection: &mut AnyConnection,
        retry: &NewRetry,
    ) -> Result<Option<RetryOutcome>, StoreError> {
        let Some((key, hash)) = &retry.idempotency else { return Ok(None) };
        let sql = "DELETE FROM retries WHERE batch_id = $1 AND idempotency_key = $2 AND created_at < $3";
        sqlx::query(sql)
            .bind(retry.batch.to_string())
            .bind(key)
            .bind(retry.forget_keys_before.millis())
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        // The batch's row is held: nobody takes the key between these two statements.
        let sql = "SELECT request_hash FROM retries WHERE batch_id = $1 AND idempotency_key = $2";
        let earlier: Option<String> = sqlx::query_scalar(sql)
            .bind(retry.batch.to_string())
            .bind(key)
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        if let Some(earlier) = earlier {
            return Ok(Some(if earlier == *hash { RetryOutcome::Replayed } else { RetryOutcome::KeyReused }));
        }
        let sql = "INSERT INTO retries (batch_id, idempotency_key, request_hash, created_at) VALUES ($1, $2, $3, $4)";
        sqlx::query(sql)
            .bind(retry.batch.to_string())
            .bind(key)
            .bind(hash)
            .bind(retry.at.millis())
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(None)
    }

    /// The number of the last attempt of each of the batch's pictures.
    async fn attempt_numbers(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
    ) -> Result<BTreeMap<ImageKey, i64>, StoreError> {
        let sql = "SELECT batch_id, ordinal, variant, MAX(number) AS number FROM attempts WHERE batch_id = $1
                   GROUP BY batch_id, ordinal, variant";
        let rows =
            sqlx::query(sql).bind(batch.to_string()).fetch_all(connection).await.map_err(|error| self.error(error))?;
        rows.iter().map(|row| Ok((row.image_key()?, row.int("number")?))).collect()
    }

    /// Puts those pictures back that are failed, from `turn` on; returns which.
    async fn requeue<'a>(
        &self,
        connection: &mut AnyConnection,
        attempts: &'a [FreshAttempt],
        turn: i64,
    ) -> Result<Vec<&'a FreshAttempt>, StoreError> {
        let sql = format!(
            "WITH again (batch_id, ordinal, variant, turn) AS (VALUES {})
             UPDATE images SET state = 'queued', error = NULL, turn = again.turn, due = 0, failures = 0,
               unknown_retries = 0, interruptions = 0, throttled_since = NULL
             FROM again
             WHERE images.batch_id = again.batch_id AND images.ordinal = again.ordinal
               AND images.variant = again.variant AND images.state = 'failed'
             RETURNING images.batch_id, images.ordinal, images.variant",
            placeholders(attempts.len(), 4)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for (turn, attempt) in (turn..).zip(attempts) {
            let image = attempt.image;
            query = query
                .bind(image.batch.to_string())
                .bind(i64::from(image.ordinal))
                .bind(i64::from(image.variant))
                .bind(turn);
        }
        let rows = query.fetch_all(connection).await.map_err(|error| self.error(error))?;
        let back = rows.iter().map(Columns::image_key).collect::<Result<BTreeSet<_>, _>>()?;
        Ok(attempts.iter().filter(|attempt| back.contains(&attempt.image)).collect())
    }

    async fn insert_fresh(
        &self,
        connection: &mut AnyConnection,
        attempts: &[&FreshAttempt],
        numbers: &BTreeMap<ImageKey, i64>,
    ) -> Result<(), StoreError> {
        if attempts.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "INSERT INTO attempts (id, batch_id, ordinal, variant, number, fence, state, reserved) VALUES {}",
            placeholders(attempts.len(), 8)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for attempt in attempts {
            let image = attempt.image;
            query = query
                .bind(attempt.id.to_string())
                .bind(image.batch.to_string())
                .bind(i64::from(image.ordinal))
                .bind(i64::from(image.variant))
                .bind(numbers.get(&image).copied().unwrap_or(0) + 1)
                .bind(0_i64)
                .bind(AttemptState::Held.as_str())
                .bind(attempt.reserve.micros());
        }
        query.execute(connection).await.map_err(|error| self.error(error))?;
        Ok(())
    }
}
