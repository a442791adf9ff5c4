//! The calls of a minute, shared by all instances: a call needs a slot that no other used within the minute.
//!
//! The database's clock decides. A slot that was used in the far future was used before that clock was
//! set back, and is free.

use std::time::Duration;

use super::rows::Columns as _;
use super::{Store, StoreError};

/// The shortest wait that is worth another question.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// The right to send one call within the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSlot {
    slot: i64,
    /// When it was taken, by the database's clock; also the proof that nobody else took it since.
    used_at: i64,
}

/// What asking for a slot gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOutcome {
    /// A slot.
    Taken(CallSlot),
    /// None is free before that time has passed.
    Spent(Duration),
}

impl Store {
    /// Takes one of the `calls` slots that was not used for `minute`; makes the slots that are not there yet.
    ///
    /// # Errors
    /// [`StoreError`]; no call may be sent then.
    pub async fn take_call_slot(&self, calls: u32, minute: Duration) -> Result<SlotOutcome, StoreError> {
        if let Some(slot) = self.free_slot(calls, minute).await? {
            return Ok(SlotOutcome::Taken(slot));
        }
        if self.make_slots(calls).await? + self.free_slots_of_the_future(minute).await? > 0
            && let Some(slot) = self.free_slot(calls, minute).await?
        {
            return Ok(SlotOutcome::Taken(slot));
        }
        let sql = format!(
            "WITH moment (at) AS ({})
             SELECT (SELECT MIN(used_at) FROM call_slots WHERE slot < $1) + $2 - at AS free_in FROM moment",
            self.moment()
        );
        let free_in: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(calls))
            .bind(millis(minute))
            .fetch_one(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        let free_in = Duration::from_millis(u64::try_from(free_in).unwrap_or(0));
        Ok(SlotOutcome::Spent(free_in.clamp(SHORTEST_WAIT, minute.max(SHORTEST_WAIT))))
    }

    /// Says that `slot` is used now and not when it was taken; `None` if it was lost since.
    ///
    /// # Errors
    /// [`StoreError`]; no call may be sent then.
    pub async fn renew_call_slot(&self, slot: CallSlot) -> Result<Option<CallSlot>, StoreError> {
        let sql = format!(
            "WITH moment (at) AS ({})
             UPDATE call_slots SET used_at = (SELECT at FROM moment) WHERE slot = $1 AND used_at = $2
             RETURNING slot, used_at",
            self.moment()
        );
        self.slot_of(sql, &[slot.slot, slot.used_at]).await
    }

    /// Frees a slot for which no call was sent.
    ///
    /// # Errors
    /// [`StoreError`]; it is free when its minute is over.
    pub async fn free_call_slot(&self, slot: CallSlot) -> Result<(), StoreError> {
        let sql = "UPDATE call_slots SET used_at = 0 WHERE slot = $1 AND used_at = $2 RETURNING slot, used_at";
        self.slot_of(sql.to_owned(), &[slot.slot, slot.used_at]).await?;
        Ok(())
    }

    async fn free_slot(&self, calls: u32, minute: Duration) -> Result<Option<CallSlot>, StoreError> {
        // Materialized: one moment, and one slot, however Postgres would like to run it.
        let sql = format!(
            "WITH moment (at) AS MATERIALIZED ({}), free AS MATERIALIZED (
               SELECT slot FROM call_slots WHERE slot < $1 AND used_at <= (SELECT at FROM moment) - $2
               ORDER BY used_at LIMIT 1{})
             UPDATE call_slots SET used_at = (SELECT at FROM moment) FROM free WHERE call_slots.slot = free.slot
             RETURNING call_slots.slot, call_slots.used_at",
            self.moment(),
            self.dialect.skip_locked()
        );
        self.slot_of(sql, &[i64::from(calls), millis(minute)]).await
    }

    /// Adds the slots up to `calls` that are not there; how many.
    async fn make_slots(&self, calls: u32) -> Result<u64, StoreError> {
        let sql = "WITH RECURSIVE slots (slot) AS (
                     SELECT COALESCE((SELECT MAX(slot) + 1 FROM call_slots), 0)
                     UNION ALL SELECT slot + 1 FROM slots WHERE slot + 1 < $1)
                   INSERT INTO call_slots (slot, used_at) SELECT slot, 0 FROM slots WHERE slot < $1
                   ON CONFLICT (slot) DO NOTHING";
        let made = sqlx::query(sql).bind(i64::from(calls)).execute(&self.writers).await;
        Ok(made.map_err(|error| self.error(error))?.rows_affected())
    }

    /// Frees what was used later than the clock can have said, if it was not set back; how many.
    async fn free_slots_of_the_future(&self, minute: Duration) -> Result<u64, StoreError> {
        let sql = format!(
            "WITH moment (at) AS ({})
             UPDATE call_slots SET used_at = 0 WHERE used_at > (SELECT at FROM moment) + $1",
            self.moment()
        );
        let freed = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(millis(minute)).execute(&self.writers).await;
        Ok(freed.map_err(|error| self.error(error))?.rows_affected())
    }

    /// Selects the time, in Unix milliseconds.
    fn moment(&self) -> String {
        self.dialect.now().map_or_else(|| format!("SELECT {}", self.clock.now().millis()), str::to_owned)
    }

    async fn slot_of(&self, sql: String, values: &[i64]) -> Result<Option<CallSlot>, StoreError> {
        let query = values.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, value| query.bind(*value));
        let row = query.fetch_optional(&self.writers).await.map_err(|error| self.error(error))?;
        row.map(|row| Ok(CallSlot { slot: row.int("slot")?, used_at: row.int("used_at")? })).transpose()
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
