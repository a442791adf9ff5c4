//! What an import says about pictures that wait: a database that was set back to a backup learns from the
//! ledger which of their calls were made and charged since.
//!
//! Such a call becomes an `unknown` attempt of its picture, so that the picture it may have left is looked for
//! before another call is paid. Its charge is the imported line; none is written here, and no money moves.
//! Rows are held in the order of the settling transaction: batch, picture, attempt.

use std::collections::{BTreeMap, HashSet};

use sqlx::AnyConnection;

use super::batch::OpenBatch;
use super::rows::Columns as _;
use super::{Store, StoreError};
use crate::clock::IdSource;
use crate::domain::ids::{AttemptId, BatchId, ImageKey};
use crate::domain::ledger::{ChargeOutcome, LedgerLine};
use crate::domain::state::{AttemptState, Billing};

/// The batches that an import may be about, held until it is written.
pub(super) type OpenBatches = BTreeMap<BatchId, OpenBatch>;

impl Store {
    /// Takes the rows of the unfinished batches that `lines` are about, first of all locks.
    pub(super) async fn hold_open_batches(
        &self,
        connection: &mut AnyConnection,
        lines: &[LedgerLine],
    ) -> Result<OpenBatches, StoreError> {
        let charged: HashSet<BatchId> = lines.iter().map(|line| line.job_id).collect();
        let sql = "SELECT id FROM batches WHERE state = 'running' ORDER BY id";
        let rows = sqlx::query(sql).fetch_all(&mut *connection).await.map_err(|error| self.error(error))?;
        let mut batches = OpenBatches::new();
        for row in rows {
            let id = row.parsed("id")?;
            if charged.contains(&id)
                && let Some(open) = self.hold_batch(connection, id).await?
            {
                batches.insert(id, open);
            }
        }
        Ok(batches)
    }

    /// Records the call of an imported line with its picture, if that waits and does not know of the call's end.
    ///
    /// An attempt that is `started` is left to whoever settles it, with the line as its charge.
    pub(super) async fn learn_of_call(
        &self,
        connection: &mut AnyConnection,
        batches: &mut OpenBatches,
        line: &LedgerLine,
        ids: &dyn IdSource,
    ) -> Result<(), StoreError> {
        let Some(batch) = batches.get_mut(&line.job_id) else { return Ok(()) };
        let known: Option<String> = sqlx::query_scalar("SELECT state FROM attempts WHERE id = $1")
            .bind(line.attempt_id.to_string())
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let was_held = match known.as_deref() {
            None => false,
            Some(state) if state == AttemptState::Held.as_str() => true,
            Some(_) => return Ok(()),
        };
        let Some(image) = self.charge_waiting_image(connection, line).await? else { return Ok(()) };
        if was_held {
            self.replace_held(connection, image, line, ids).await?;
        } else {
            self.insert_called(connection, image, line).await?;
        }
        batch.actual_cost += line.cost.micros();
        if line.outcome == ChargeOutcome::Unknown {
            batch.unknown_cost += line.cost.micros();
        }
        Ok(())
    }

    /// Adds the line's call and cost to its picture, if that is not finished; a claim on it that started no call is
    /// taken back, as it does not know of this call.
    async fn charge_waiting_image(
        &self,
        connection: &mut AnyConnection,
        line: &LedgerLine,
    ) -> Result<Option<ImageKey>, StoreError> {
        let billing = match line.outcome {
            ChargeOutcome::Charged => Billing::Charged,
            ChargeOutcome::Unknown => Billing::Unknown,
        };
        let sql = "UPDATE images SET attempts = attempts + 1, cost = COALESCE(cost, 0) + $4, billing = $5,
                     state = CASE WHEN state = 'claimed' THEN 'queued' ELSE state END,
                     worker = CASE WHEN state = 'claimed' THEN NULL ELSE worker END,
                     fence = CASE WHEN state = 'claimed' THEN fence + 1 ELSE fence END
                   WHERE batch_id = $1 AND variant = $3 AND state IN ('queued', 'claimed', 'running')
                     AND ordinal = (SELECT ordinal FROM items WHERE batch_id = $1 AND scene_id = $2)
                   RETURNING batch_id, ordinal, variant";
        let row = sqlx::query(sql)
            .bind(line.job_id.to_string())
            .bind(line.scene_id.as_str())
            .bind(i64::from(line.variant))
            .bind(line.cost.micros())
            .bind(billing.as_str())
            .fetch_optional(connection)
            .await
            .map_err(|error| self.error(error))?;
        row.map(|row| row.image_key()).transpose()
    }

    /// Closes the attempt that the line charges; its reservation goes on to the picture's next.
    async fn replace_held(
        &self,
        connection: &mut AnyConnection,
        image: ImageKey,
        line: &LedgerLine,
        ids: &dyn IdSource,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE attempts SET state = 'unknown', cost = $2, ended_at = $3, request_id = $4
                   WHERE id = $1 RETURNING reserved";
        let reserved: i64 = sqlx::query_scalar(sql)
            .bind(line.attempt_id.to_string())
            .bind(line.cost.micros())
            .bind(line.ts)
            .bind(line.request_id.as_ref())
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        // As after a call of unknown outcome: one more try is made for it, and not a second.
        let sql = "UPDATE images SET unknown_retries = unknown_retries + 1
                   WHERE batch_id = $1 AND ordinal = $2 AND variant = $3";
        sqlx::query(sql)
            .bind(image.batch.to_string())
            .bind(i64::from(image.ordinal))
            .bind(i64::from(image.variant))
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let next = AttemptId::new(ids.next());
        self.insert_attempt(connection, image, next, AttemptState::Held, reserved).await
    }

    /// Adds a call that the database never knew, behind those that it knows.
    async fn insert_called(
        &self,
        connection: &mut AnyConnection,
        image: ImageKey,
        line: &LedgerLine,
    ) -> Result<(), StoreError> {
        let cost = line.cost.micros();
        self.insert_attempt(connection, image, line.attempt_id, AttemptState::Unknown, cost).await?;
        let sql = "UPDATE attempts SET cost = $2, ended_at = $3, request_id = $4 WHERE id = $1";
        sqlx::query(sql)
            .bind(line.attempt_id.to_string())
            .bind(cost)
            .bind(line.ts)
            .bind(line.request_id.as_ref())
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }

    /// Adds an attempt with the picture's next number.
    pub(super) async fn insert_attempt(
        &self,
        connection: &mut AnyConnection,
        image: ImageKey,
        id: AttemptId,
        state: AttemptState,
        reserved: i64,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO attempts (id, batch_id, ordinal, variant, number, fence, state, reserved)
                   SELECT $4, m.batch_id, m.ordinal, m.variant, 1 + (
                       SELECT MAX(a.number) FROM attempts a
                       WHERE a.batch_id = m.batch_id AND a.ordinal = m.ordinal AND a.variant = m.variant),
                     m.fence, $5, $6
                   FROM images m WHERE m.batch_id = $1 AND m.ordinal = $2 AND m.variant = $3";
        sqlx::query(sql)
            .bind(image.batch.to_string())
            .bind(i64::from(image.ordinal))
            .bind(i64::from(image.variant))
            .bind(id.to_string())
            .bind(state.as_str())
            .bind(reserved)
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }
}
