//! The ledger's rows, which are also what waits to be exported.
//!
//! Positions are given here, by the writer of a day, under that day's lock: rows do not commit in
//! the order of their numbers, so they cannot be given when a charge is settled.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use sqlx::AnyConnection;

use super::budget::{BudgetMove, EVERYONE, user_scope};
use super::pool::IMPORT;
use super::restored::OpenBatches;
use super::rows::{Columns as _, to_json};
use super::{Store, StoreError, transaction};
use crate::clock::IdSource;
use crate::domain::ids::UserId;
use crate::domain::ledger::{ChargeOutcome, LedgerLine, chunk_name};
use crate::domain::time::Day;

/// Lines a chunk: bounds the memory of one export.
const LINES_A_CHUNK: i64 = 1_000;

/// Lines that have their positions and wait to be appended to their day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingChunk {
    /// The position of the first, from 1.
    pub from: u64,
    /// The position of the last.
    pub to: u64,
    /// The name of the chunk.
    pub name: String,
    /// The lines, each with its newline.
    pub lines: Bytes,
}

/// How far the export of a day is.
#[derive(Debug, Clone, Copy)]
pub enum DayState<'a> {
    /// So many lines are confirmed, and none is pending.
    Settled(u64),
    /// This chunk is pending.
    Pending(&'a PendingChunk),
}

fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(StoreError::corrupt)
}

fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(StoreError::corrupt)
}

impl Store {
    /// Days with charges that are not exported.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unexported_days(&self) -> Result<Vec<Day>, StoreError> {
        let sql = "SELECT day FROM ledger WHERE position IS NULL
                   UNION SELECT day FROM ledger_days WHERE pending_end IS NOT NULL ORDER BY day";
        let days: Vec<i64> =
            sqlx::query_scalar(sql).fetch_all(&self.readers).await.map_err(|error| self.error(error))?;
        Ok(days.into_iter().map(Day::from_number).collect())
    }

    /// Step A: what is pending for `day`; if nothing is, positions the next lines first.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed then.
    pub async fn pending_chunk(&self, day: Day) -> Result<Option<PendingChunk>, StoreError> {
        transaction!(self, |connection| {
            let (count, pending_end) = self.hold_day(connection, day).await?;
            let end = match pending_end {
                Some(end) => end,
                None => self.position_lines(connection, day, count).await?,
            };
            if end == count {
                return Ok(None);
            }
            let lines = self.positioned_lines(connection, day, count, end).await?;
            let (from, to) = (unsigned(count + 1)?, unsigned(end)?);
            let name = chunk_name(day, from, to, &lines);
            let sql = "UPDATE ledger_days SET pending_end = $2, pending_chunk = $3 WHERE day = $1";
            sqlx::query(sql)
                .bind(day.number())
                .bind(end)
                .bind(&name)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
            Ok(Some(PendingChunk { from, to, name, lines }))
        })
    }

    /// Takes the day's row; returns its count and the end of what is pending.
    async fn hold_day(&self, connection: &mut AnyConnection, day: Day) -> Result<(i64, Option<i64>), StoreError> {
        let sql = "INSERT INTO ledger_days (day, count) VALUES ($1, 0)
                   ON CONFLICT (day) DO UPDATE SET count = ledger_days.count RETURNING count, pending_end";
        let row = sqlx::query(sql).bind(day.number()).fetch_one(connection).await.map_err(|error| self.error(error))?;
        Ok((row.int("count")?, row.optional_int("pending_end")?))
    }

    /// Gives the day's next lines their positions; returns the last one given, or `count`.
    async fn position_lines(&self, connection: &mut AnyConnection, day: Day, count: i64) -> Result<i64, StoreError> {
        let sql = "SELECT id FROM ledger WHERE day = $1 AND position IS NULL ORDER BY ts, id LIMIT $2";
        let ids: Vec<String> = sqlx::query_scalar(sql)
            .bind(day.number())
            .bind(LINES_A_CHUNK)
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let mut end = count;
        for id in &ids {
            end += 1;
            sqlx::query("UPDATE ledger SET position = $2 WHERE id = $1")
                .bind(id)
                .bind(end)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
        }
        Ok(end)
    }

    async fn positioned_lines(
        &self,
        connection: &mut AnyConnection,
        day: Day,
        count: i64,
        end: i64,
    ) -> Result<Bytes, StoreError> {
        let sql = "SELECT line FROM ledger WHERE day = $1 AND position > $2 AND position <= $3 ORDER BY position";
        let lines: Vec<String> = sqlx::query_scalar(sql)
            .bind(day.number())
            .bind(count)
            .bind(end)
            .fetch_all(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(lines.into_iter().fold(String::new(), |text, line| text + &line + "\n").into())
    }

    /// Step D: the chunk is in the day's object. Whether it was still pending.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed then.
    pub async fn confirm_chunk(&self, day: Day, chunk: &PendingChunk) -> Result<bool, StoreError> {
        let sql = "UPDATE ledger_days SET count = $3, pending_end = NULL, pending_chunk = NULL
                   WHERE day = $1 AND pending_chunk = $2";
        let changed = sqlx::query(sql)
            .bind(day.number())
            .bind(&chunk.name)
            .bind(signed(chunk.to)?)
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(changed.rows_affected() == 1)
    }

    /// Whether `chunk` is still what is pending for `day`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_pending(&self, day: Day, chunk: &PendingChunk) -> Result<bool, StoreError> {
        let sql = "SELECT COUNT(*) FROM ledger_days WHERE day = $1 AND pending_chunk = $2";
        let count: i64 = sqlx::query_scalar(sql)
            .bind(day.number())
            .bind(&chunk.name)
            .fetch_one(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(count == 1)
    }

    /// How many lines of `day` are known to be exported; `None` while a chunk of it is pending.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settled_count(&self, day: Day) -> Result<Option<u64>, StoreError> {
        let row = sqlx::query("SELECT count, pending_end FROM ledger_days WHERE day = $1")
            .bind(day.number())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(Some(0)) };
        if row.optional_int("pending_end")?.is_some() { Ok(None) } else { unsigned(row.int("count")?).map(Some) }
    }

    /// How many charges of `day` were taken in from the ledger.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn imported_count(&self, day: Day) -> Result<u64, StoreError> {
        let imported: Option<i64> = sqlx::query_scalar("SELECT imported FROM ledger_days WHERE day = $1")
            .bind(day.number())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        unsigned(imported.unwrap_or(0))
    }

    /// Takes in the ledger's lines of `day`, by charge id, and charges the budget for those it did not know; if the
    /// day is still as it was `seen` before its ledger was read, `None` if it is not.
    ///
    /// For a database that is older than its ledger. The first `exported` lines are in the day's object;
    /// those behind them were only written down as chunks, and are exported anew. A picture that waits learns of the
    /// calls that a new line says were made for it; `ids` names the attempts that follow. Returns how many were new.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed then.
    pub async fn import_lines(
        &self,
        day: Day,
        lines: &[LedgerLine],
        exported: u64,
        seen: DayState<'_>,
        ids: &dyn IdSource,
    ) -> Result<Option<u64>, StoreError> {
        transaction!(self, within IMPORT, |connection| {
            let mut batches = self.hold_open_batches(connection, lines).await?;
            if !self.hold_day_as(connection, day, seen).await? {
                return Ok(None);
            }
            let new = self.import_into(connection, day, lines, exported, &mut batches, ids).await?;
            for (id, mut batch) in batches {
                self.write_batch(connection, id, &mut batch, self.clock.now()).await?;
            }
            Ok(Some(new))
        }, |_| true)
    }

    /// Forgets what was exported of `day`, whose object is gone, so that all of it is exported anew; if `pending` still
    /// is what is pending.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is changed then.
    pub async fn export_anew(&self, day: Day, pending: &PendingChunk) -> Result<(), StoreError> {
        transaction!(self, |connection| {
            if self.hold_day_as(connection, day, DayState::Pending(pending)).await? {
                for sql in [
                    "UPDATE ledger SET position = NULL WHERE day = $1",
                    "UPDATE ledger_days SET count = 0, pending_end = NULL, pending_chunk = NULL WHERE day = $1",
                ] {
                    let done = sqlx::query(sql).bind(day.number()).execute(&mut *connection).await;
                    done.map_err(|error| self.error(error))?;
                }
            }
            Ok(())
        })
    }

    /// Takes the day's row; returns whether it is as it was `seen`.
    async fn hold_day_as(
        &self,
        connection: &mut AnyConnection,
        day: Day,
        seen: DayState<'_>,
    ) -> Result<bool, StoreError> {
        let (count, pending_end) = self.hold_day(connection, day).await?;
        match seen {
            DayState::Settled(confirmed) => Ok((count, pending_end) == (signed(confirmed)?, None)),
            DayState::Pending(chunk) => {
                let sql = "SELECT COUNT(*) FROM ledger_days WHERE day = $1 AND pending_chunk = $2";
                let query = sqlx::query_scalar(sql).bind(day.number()).bind(&chunk.name);
                let count: i64 = query.fetch_one(connection).await.map_err(|error| self.error(error))?;
                Ok(count == 1)
            }
        }
    }

    async fn import_into(
        &self,
        connection: &mut AnyConnection,
        day: Day,
        lines: &[LedgerLine],
        exported: u64,
        batches: &mut OpenBatches,
        ids: &dyn IdSource,
    ) -> Result<u64, StoreError> {
        let exported = signed(exported)?;
        let sql = "UPDATE ledger SET position = NULL WHERE day = $1";
        sqlx::query(sql).bind(day.number()).execute(&mut *connection).await.map_err(|error| self.error(error))?;
        let (mut new, mut everyone) = (0_u64, BudgetMove::default());
        let mut users: BTreeMap<String, BudgetMove> = BTreeMap::new();
        // Chunks of two exporters may hold the same line: it keeps the first of its positions.
        let mut seen = HashSet::new();
        for (position, line) in (1_i64..).zip(lines).filter(|(_, line)| seen.insert(line.id)) {
            let position = (position <= exported).then_some(position);
            if self.import_line(&mut *connection, day, position, line).await? {
                let unknown = if line.outcome == ChargeOutcome::Unknown { line.cost.micros() } else { 0 };
                let change = BudgetMove { spent: line.cost.micros(), unknown, ..BudgetMove::default() };
                everyone.add(change);
                users.entry(user_scope(&UserId::new(line.user_id.clone()))).or_default().add(change);
                self.learn_of_call(&mut *connection, batches, line, ids).await?;
                new += 1;
            }
        }
        let sql =
            "UPDATE ledger_days SET count = $2, pending_end = NULL, pending_chunk = NULL, imported = imported + $3
                   WHERE day = $1";
        sqlx::query(sql)
            .bind(day.number())
            .bind(exported)
            .bind(signed(new)?)
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        if day == self.today(&mut *connection).await? {
            self.move_budget(connection, EVERYONE, day, everyone).await?;
            for (scope, change) in users {
                self.ensure_scope(connection, &scope).await?;
                self.move_budget(connection, &scope, day, change).await?;
            }
        }
        Ok(new)
    }

    /// Inserts one exported line, or gives the known one its position. Whether it was new.
    async fn import_line(
        &self,
        connection: &mut AnyConnection,
        day: Day,
        position: Option<i64>,
        line: &LedgerLine,
    ) -> Result<bool, StoreError> {
        let sql = "INSERT INTO ledger (id, attempt_id, day, position, ts, line) VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT DO NOTHING";
        let inserted = sqlx::query(sql)
            .bind(line.id.to_string())
            .bind(line.attempt_id.to_string())
            .bind(day.number())
            .bind(position)
            .bind(line.ts)
            .bind(to_json(line)?)
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        if inserted.rows_affected() == 1 {
            return Ok(true);
        }
        // Known by its id; or by its attempt, under the id that an earlier life of this database gave it.
        let sql = "UPDATE ledger SET id = $1, position = $3, line = $4 WHERE id = $1 OR attempt_id = $2";
        sqlx::query(sql)
            .bind(line.id.to_string())
            .bind(line.attempt_id.to_string())
            .bind(position)
            .bind(to_json(line)?)
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(false)
    }

    /// Every charge of `day`, in the order of the ledger; those not exported yet at the end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_charges(&self, day: Day) -> Result<Vec<LedgerLine>, StoreError> {
        let sql = "SELECT line FROM ledger WHERE day = $1
                   ORDER BY CASE WHEN position IS NULL THEN 1 ELSE 0 END, position, ts, id";
        let rows =
            sqlx::query(sql).bind(day.number()).fetch_all(&self.readers).await.map_err(|error| self.error(error))?;
        rows.iter().map(|row| row.json("line")).collect()
    }
}
