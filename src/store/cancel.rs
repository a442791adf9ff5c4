//! Cancelling a batch: what has not started ends, and its money is free again.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::AnyConnection;

use super::batch::FinishedBatch;
use super::budget::{BudgetMove, EVERYONE, user_scope};
use super::rows::Columns as _;
use super::{Store, StoreError, transaction};
use crate::domain::event::Event;
use crate::domain::ids::{BatchId, UserId};
use crate::domain::spec::SceneId;
use crate::domain::state::{Counts, ImageState};
use crate::domain::time::Timestamp;

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// There is no such batch of this owner.
    NotFound,
    /// The batch was finished or cancelled before; nothing changed.
    AlreadyOver,
    /// Calls under way end on their own, the rest will not be made.
    Stopped {
        /// How many pictures that are.
        pictures: u32,
        /// The batch, if nothing is under way.
        finished: Option<FinishedBatch>,
    },
}

impl Store {
    /// Cancels every picture of `batch` whose call has not started.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed then.
    pub async fn cancel(&self, batch: BatchId, owner: &UserId, at: Timestamp) -> Result<Cancelled, StoreError> {
        let outcome: Cancelled = transaction!(self, |connection| {
            let Some(mut open) = self.hold_batch(connection, batch).await? else { return Ok(Cancelled::NotFound) };
            if open.owner != owner.as_str() {
                return Ok(Cancelled::NotFound);
            }
            if open.cancelled || open.counts.is_finished() {
                return Ok(Cancelled::AlreadyOver);
            }
            let stopped = self.stop_images(connection, batch).await?;
            let released = self.release_held(connection, batch).await?;
            open.cancelled = true;
            for _ in 0..stopped.count {
                open.counts.finish(ImageState::Cancelled);
            }
            open.events.push(Event::Cancelled { cancelled: stopped.count });
            open.events.extend(self.finished_items(connection, batch, &stopped.ordinals).await?);
            let finished = self.write_batch(connection, batch, &mut open, at).await?;
            let today = self.today(&mut *connection).await?;
            let change = BudgetMove { released, ..BudgetMove::default() };
            let day = self.move_budget(connection, EVERYONE, today, change).await?;
            self.move_budget(connection, &user_scope(owner), day, change).await?;
            Ok(Cancelled::Stopped { pictures: stopped.count, finished })
        })?;
        if outcome != Cancelled::NotFound {
            self.hints.cancelled(batch);
        }
        Ok(outcome)
    }

    async fn stop_images(&self, connection: &mut AnyConnection, batch: BatchId) -> Result<Stopped, StoreError> {
        let sql = "UPDATE images SET state = 'cancelled', worker = NULL, fence = fence + 1
                   WHERE batch_id = $1 AND state IN ('queued', 'claimed') RETURNING ordinal";
        let rows =
            sqlx::query(sql).bind(batch.to_string()).fetch_all(connection).await.map_err(|error| self.error(error))?;
        let ordinals = rows.iter().map(|row| row.int("ordinal")).collect::<Result<BTreeSet<_>, _>>()?;
        let count = u32::try_from(rows.len()).map_err(StoreError::corrupt)?;
        Ok(Stopped { count, ordinals })
    }

    /// Releases every held attempt: only a picture that was just stopped has one.
    async fn release_held(&self, connection: &mut AnyConnection, batch: BatchId) -> Result<i64, StoreError> {
        let sql = "UPDATE attempts SET state = 'released' WHERE batch_id = $1 AND state = 'held' RETURNING reserved";
        let released: Vec<i64> = sqlx::query_scalar(sql)
            .bind(batch.to_string())
            .fetch_all(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(released.into_iter().sum())
    }

    /// An event for each row among `ordinals` of which no picture is open any more.
    async fn finished_items(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        ordinals: &BTreeSet<i64>,
    ) -> Result<Vec<Event>, StoreError> {
        let sql = "SELECT m.ordinal, i.scene_id, m.state, COUNT(*) AS pictures FROM images m
                   JOIN items i ON i.batch_id = m.batch_id AND i.ordinal = m.ordinal
                   WHERE m.batch_id = $1 GROUP BY m.ordinal, i.scene_id, m.state ORDER BY m.ordinal";
        let rows =
            sqlx::query(sql).bind(batch.to_string()).fetch_all(connection).await.map_err(|error| self.error(error))?;
        let mut items: BTreeMap<i64, (SceneId, Counts)> = BTreeMap::new();
        for row in &rows {
            let ordinal = row.int("ordinal")?;
            if ordinals.contains(&ordinal) {
                let scene_id = row.parsed("scene_id")?;
                let (_, counts) = items.entry(ordinal).or_insert((scene_id, Counts::default()));
                counts.add(row.parsed("state")?, row.count("pictures")?);
            }
        }
        let finished = items.into_values().filter(|(_, counts)| counts.is_finished());
        Ok(finished.map(|(scene_id, counts)| Event::ItemComplete { scene_id, state: counts.state() }).collect())
    }
}

/// The pictures that a cancel stopped.
struct Stopped {
    count: u32,
    ordinals: BTreeSet<i64>,
}
