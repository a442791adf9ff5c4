//! Progress events: numbered by their batch without a hole, written with the change they tell of.

use sqlx::AnyConnection;

use super::rows::{Columns as _, ROWS_A_STATEMENT, pieces, placeholders, to_json};
use super::{Store, StoreError};
use crate::domain::event::Event;
use crate::domain::ids::BatchId;
use crate::domain::time::Timestamp;

/// One event of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its number in the batch, from 1.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

impl Store {
    /// Writes `events` after number `last`; the caller holds the batch's row and stores the new last number.
    pub(super) async fn insert_events(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        last: i64,
        at: Timestamp,
        events: &[Event],
    ) -> Result<(), StoreError> {
        let numbered: Vec<(i64, &Event)> = (last + 1..).zip(events).collect();
        for rows in pieces(&numbered, ROWS_A_STATEMENT) {
            let sql =
                format!("INSERT INTO events (batch_id, number, ts, payload) VALUES {}", placeholders(rows.len(), 4));
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (number, event) in rows {
                query = query.bind(batch.to_string()).bind(*number).bind(at.millis()).bind(to_json(event)?);
            }
            query.execute(&mut *connection).await.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// At most `limit` events of `batch` after number `after`, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_events(&self, batch: BatchId, after: u64, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        let sql = "SELECT number, ts, payload FROM events WHERE batch_id = $1 AND number > $2 ORDER BY number LIMIT $3";
        let rows = sqlx::query(sql)
            .bind(batch.to_string())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        rows.iter()
            .map(|row| {
                let number = u64::try_from(row.int("number")?).map_err(StoreError::corrupt)?;
                Ok(EventRow { number, at: row.time("ts")?, event: row.json("payload")? })
            })
            .collect()
    }
}
