//! What waits: pictures in the queue, and charges on their way to the ledger.

use super::rows::Columns as _;
use super::{Store, StoreError};
use crate::domain::state::ImageState;
use crate::domain::time::Timestamp;

/// Pictures that are not finished, of all instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// Pictures that wait.
    pub queued: u64,
    /// Pictures that are made ready.
    pub claimed: u64,
    /// Pictures whose call was started.
    pub running: u64,
    /// Since when the picture that waits longest could have been taken up.
    pub first_due: Option<Timestamp>,
}

/// Charges that are not in the ledger yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unexported {
    /// How many.
    pub lines: u64,
    /// When the oldest was settled.
    pub first: Option<Timestamp>,
}

impl Store {
    /// Counts the pictures that are not finished.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_queue(&self) -> Result<Queue, StoreError> {
        // Two partial indexes: finished pictures are not looked at, however many there are.
        let sql = "SELECT state, COUNT(*) AS pictures, MIN(CASE WHEN due > 0 THEN due END) AS first_due FROM images
                   WHERE state = 'queued' GROUP BY state
                   UNION ALL
                   SELECT state, COUNT(*), MIN(CASE WHEN due > 0 THEN due END) FROM images
                   WHERE worker IS NOT NULL GROUP BY state";
        let rows = sqlx::query(sql).fetch_all(&self.readers).await.map_err(|error| self.error(error))?;
        let (mut queue, mut put_off) = (Queue::default(), Vec::new());
        for row in &rows {
            let pictures = row.count("pictures")?.into();
            match row.parsed("state")? {
                ImageState::Queued => {
                    queue.queued = pictures;
                    put_off.extend(row.optional_int("first_due")?.map(Timestamp::from_millis));
                }
                ImageState::Claimed => {
                    queue.claimed = pictures;
                    put_off.extend(row.optional_int("first_due")?.map(Timestamp::from_millis));
                }
                ImageState::Running => queue.running = pictures,
                ImageState::Completed | ImageState::Failed | ImageState::Cancelled => {}
            }
        }
        if queue.queued + queue.claimed > 0 {
            put_off.extend(self.first_queued().await?);
        }
        queue.first_due = put_off.into_iter().min();
        Ok(queue)
    }

    /// Since when a picture waits that was not put off: its batch says it. In one of which a part was retried while
    /// others waited, that is the time of the retry.
    async fn first_queued(&self) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT MIN(COALESCE(queued_at, created_at)) FROM batches
                   WHERE id IN (SELECT batch_id FROM images WHERE state = 'queued' AND due = 0
                                UNION SELECT batch_id FROM images
                                WHERE worker IS NOT NULL AND state = 'claimed' AND due = 0)";
        let first: Option<i64> =
            sqlx::query_scalar(sql).fetch_one(&self.readers).await.map_err(|error| self.error(error))?;
        Ok(first.map(Timestamp::from_millis))
    }

    /// Counts the charges that are not in the ledger yet: those without a position, and those of pending chunks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_unexported(&self) -> Result<Unexported, StoreError> {
        let sql = "SELECT COUNT(*) AS charges, MIN(ts) AS first FROM (
                     SELECT ts FROM ledger WHERE position IS NULL
                     UNION ALL
                     SELECT l.ts FROM ledger l JOIN ledger_days d ON d.day = l.day
                     WHERE d.pending_end IS NOT NULL AND l.position > d.count) AS unexported";
        let row = sqlx::query(sql).fetch_one(&self.readers).await.map_err(|error| self.error(error))?;
        let first = row.optional_int("first")?.map(Timestamp::from_millis);
        Ok(Unexported { lines: row.count("charges")?.into(), first })
    }
}
