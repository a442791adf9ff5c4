//! The runs of a batch: the first, and one more for each retry after it had ended.

use super::rows::Columns as _;
use super::{Store, StoreError};
use crate::domain::ids::BatchId;
use crate::domain::time::Timestamp;

/// One run of a batch, until none of its pictures is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRun {
    /// The batch's model.
    pub model: String,
    /// When the batch was accepted.
    pub created_at: Timestamp,
    /// The number and the time of the event with which a retry began the run; none for the first.
    pub retry: Option<(u64, Timestamp)>,
}

impl Store {
    /// The run that ended with the event number `done`; `None` if the batch is gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_run(&self, batch: BatchId, done: u64) -> Result<Option<BatchRun>, StoreError> {
        // A payload begins with its type.
        let sql = "SELECT b.model, b.created_at, e.number, e.ts,
                     CASE WHEN e.payload LIKE '{\"type\":\"done\"%' THEN 1 ELSE 0 END AS is_end
                   FROM batches b JOIN events e ON e.batch_id = b.id
                   WHERE b.id = $1 AND e.number < $2
                     AND (e.payload LIKE '{\"type\":\"started\"%' OR e.payload LIKE '{\"type\":\"done\"%')
                   ORDER BY e.number";
        let rows = sqlx::query(sql)
            .bind(batch.to_string())
            .bind(i64::try_from(done).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        let Some(first) = rows.first() else { return Ok(None) };
        let mut run = BatchRun { model: first.text("model")?, created_at: first.time("created_at")?, retry: None };
        let mut has_ended = false;
        for row in &rows {
            if row.int("is_end")? == 1 {
                (has_ended, run.retry) = (true, None);
            } else if has_ended && run.retry.is_none() {
                let number = u64::try_from(row.int("number")?).map_err(StoreError::corrupt)?;
                run.retry = Some((number, row.time("ts")?));
            }
        }
        Ok(Some(run))
    }
}
