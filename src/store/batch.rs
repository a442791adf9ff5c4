//! A batch's row while a transaction holds it: its counts, its costs and the events it will get.

use sqlx::AnyConnection;

use super::rows::Columns as _;
use super::webhooks::wanted;
use super::{Store, StoreError, transaction};
use crate::domain::event::Event;
use crate::domain::ids::BatchId;
use crate::domain::money::MicroUsd;
use crate::domain::state::{BatchState, Counts, WebhookEvent};
use crate::domain::time::Timestamp;

/// A held row, and the changes it will get.
pub(super) struct OpenBatch {
    pub(super) owner: String,
    pub(super) cancelled: bool,
    /// The user's limit under which it was admitted, where that is not the service's.
    pub(super) user_limit: Option<MicroUsd>,
    /// Open pictures count as queued here.
    pub(super) counts: Counts,
    pub(super) actual_cost: i64,
    pub(super) unknown_cost: i64,
    pub(super) events: Vec<Event>,
    /// What its webhook is told; nothing where it has none.
    wanted: Vec<WebhookEvent>,
    last_event: i64,
}

/// A batch whose last picture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedBatch {
    /// Which one.
    pub id: BatchId,
    /// Its pictures by state.
    pub counts: Counts,
    /// What it cost.
    pub cost: MicroUsd,
    /// The part of that for calls whose outcome is not known.
    pub unknown_cost: MicroUsd,
    /// When.
    pub at: Timestamp,
    /// The number of the event that says so.
    pub done: u64,
}

impl Store {
    /// Adds a notice to the batch's events; a finished batch gets none.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then.
    pub async fn notice(&self, batch: BatchId, detail: &str, at: Timestamp) -> Result<(), StoreError> {
        transaction!(self, |connection| {
            let Some(mut open) = self.hold_batch(connection, batch).await? else { return Ok(()) };
            if !open.counts.is_finished() {
                open.events.push(Event::Notice { detail: detail.to_owned() });
                self.write_batch(connection, batch, &mut open, at).await?;
            }
            Ok(())
        })?;
        self.hints.changed(batch);
        Ok(())
    }

    /// Takes the batch's row for this transaction; first of all locks, so that its event numbers have no hole.
    pub(super) async fn hold_batch(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
    ) -> Result<Option<OpenBatch>, StoreError> {
        let sql = "UPDATE batches SET last_event = last_event WHERE id = $1
                   RETURNING owner, last_event, cancelled_at, total, completed, failed, cancelled, actual_cost,
                     unknown_cost, user_limit,
                     (SELECT w.events FROM webhooks w WHERE w.batch_id = batches.id) AS wanted";
        let row = sqlx::query(sql)
            .bind(batch.to_string())
            .fetch_optional(connection)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        let (completed, failed, cancelled) = (row.count("completed")?, row.count("failed")?, row.count("cancelled")?);
        let total = row.count("total")?;
        let queued = total - completed - failed - cancelled;
        Ok(Some(OpenBatch {
            owner: row.text("owner")?,
            cancelled: row.optional_int("cancelled_at")?.is_some(),
            user_limit: row.optional_int("user_limit")?.map(MicroUsd::from_micros),
            counts: Counts { total, queued, running: 0, completed, failed, cancelled },
            actual_cost: row.int("actual_cost")?,
            unknown_cost: row.int("unknown_cost")?,
            events: Vec::new(),
            wanted: row.optional_text("wanted")?.map_or(Ok(Vec::new()), |text| wanted(&text))?,
            last_event: row.int("last_event")?,
        }))
    }

    /// Writes a held row back with its events; the last picture's end adds `done`, and is returned.
    pub(super) async fn write_batch(
        &self,
        connection: &mut AnyConnection,
        id: BatchId,
        batch: &mut OpenBatch,
        at: Timestamp,
    ) -> Result<Option<FinishedBatch>, StoreError> {
        let finished = batch.counts.is_finished();
        let cost = MicroUsd::from_micros(batch.actual_cost);
        let unknown_cost = MicroUsd::from_micros(batch.unknown_cost);
        let mut ended = None;
        if finished && !batch.events.is_empty() {
            let (counts, state) = (batch.counts, batch.counts.state());
            batch.events.push(Event::Done { processed: counts.total, state, counts, cost, unknown_cost });
            let before = u64::try_from(batch.last_event).map_err(StoreError::corrupt)?;
            ended =
                Some(FinishedBatch { id, counts, cost, unknown_cost, at, done: before + batch.events.len() as u64 });
        }
        self.insert_events(connection, id, batch.last_event, at, &batch.events).await?;
        self.insert_deliveries(connection, id, batch.last_event, at, &batch.events, &batch.wanted).await?;
        let state = if finished { batch.counts.state() } else { BatchState::Running };
        let events = i64::try_from(batch.events.len()).map_err(StoreError::corrupt)?;
        let sql = "UPDATE batches SET last_event = $2, completed = $3, failed = $4, cancelled = $5, actual_cost = $6,
                     unknown_cost = $7, state = $8, finished_at = COALESCE(finished_at, $9),
                     cancelled_at = CASE WHEN $10 = 1 THEN COALESCE(cancelled_at, $11) ELSE cancelled_at END
                   WHERE id = $1";
        sqlx::query(sql)
            .bind(id.to_string())
            .bind(batch.last_event + events)
            .bind(i64::from(batch.counts.completed))
            .bind(i64::from(batch.counts.failed))
            .bind(i64::from(batch.counts.cancelled))
            .bind(batch.actual_cost)
            .bind(batch.unknown_cost)
            .bind(state.as_str())
            .bind(finished.then_some(at.millis()))
            .bind(i64::from(batch.cancelled))
            .bind(at.millis())
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(ended)
    }
}
