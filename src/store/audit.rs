//! Reading charges for a comparison with the ledger: pages, so that a long day is never in memory.

use sqlx::any::AnyRow;

use super::rows::{Columns as _, ROWS_A_STATEMENT};
use super::{Store, StoreError};
use crate::domain::comparison::BookedCharge;
use crate::domain::ids::ChargeId;
use crate::domain::time::Day;

/// Charges a page.
const PAGE: i64 = 1_000;

fn booked(row: &AnyRow) -> Result<BookedCharge, StoreError> {
    let position = row.optional_int("position")?.map(u64::try_from).transpose().map_err(StoreError::corrupt)?;
    Ok(BookedCharge { id: row.parsed("id")?, position, line: row.text("line")? })
}

impl Store {
    /// Every day that has charges, or had lines exported.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn days_with_charges(&self) -> Result<Vec<Day>, StoreError> {
        let sql = "SELECT day FROM ledger UNION SELECT day FROM ledger_days WHERE count > 0 ORDER BY day";
        let days: Vec<i64> =
            sqlx::query_scalar(sql).fetch_all(&self.readers).await.map_err(|error| self.error(error))?;
        Ok(days.into_iter().map(Day::from_number).collect())
    }

    /// How many lines of `day` are confirmed to be in the ledger, also while a chunk of it is pending.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn confirmed_count(&self, day: Day) -> Result<u64, StoreError> {
        let count: Option<i64> = sqlx::query_scalar("SELECT count FROM ledger_days WHERE day = $1")
            .bind(day.number())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        u64::try_from(count.unwrap_or(0)).map_err(StoreError::corrupt)
    }

    /// The next charges of `day` by position, above `after` and up to `end`; none if there are no more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_positioned(&self, day: Day, after: u64, end: u64) -> Result<Vec<BookedCharge>, StoreError> {
        let sql = "SELECT id, position, line FROM ledger WHERE day = $1 AND position > $2 AND position <= $3
                   ORDER BY position LIMIT $4";
        let clipped = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let rows = sqlx::query(sql)
            .bind(day.number())
            .bind(clipped(after))
            .bind(clipped(end))
            .bind(PAGE)
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        rows.iter().map(booked).collect()
    }

    /// The next charges of `day` that have no position, by id, after the one named.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_unpositioned(&self, day: Day, after: Option<ChargeId>) -> Result<Vec<BookedCharge>, StoreError> {
        let sql = "SELECT id, position, line FROM ledger WHERE day = $1 AND position IS NULL AND id > $2
                   ORDER BY id LIMIT $3";
        let rows = sqlx::query(sql)
            .bind(day.number())
            .bind(after.map_or_else(String::new, |id| id.to_string()))
            .bind(PAGE)
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        rows.iter().map(booked).collect()
    }

    /// Those of `charges` that the database knows, each with its day.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find_charges(&self, charges: &[ChargeId]) -> Result<Vec<(BookedCharge, Day)>, StoreError> {
        let mut found = Vec::new();
        for ids in charges.chunks(ROWS_A_STATEMENT) {
            let names: Vec<String> = (1..=ids.len()).map(|number| format!("${number}")).collect();
            let sql = format!("SELECT id, day, position, line FROM ledger WHERE id IN ({})", names.join(","));
            let query = ids.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id.to_string()));
            for row in query.fetch_all(&self.readers).await.map_err(|error| self.error(error))? {
                found.push((booked(&row)?, Day::from_number(row.int("day")?)));
            }
        }
        Ok(found)
    }
}
