//! The budget: one row for everyone, one for each user. Every change is one guarded update.
//!
//! `reserved` belongs to no day and always counts; `spent` belongs to the row's day, which only
//! moves on. The limit is configuration and comes in with each reservation.

use sqlx::AnyConnection;

use super::rows::Columns as _;
use super::{Store, StoreError};
use crate::domain::ids::UserId;
use crate::domain::money::MicroUsd;
use crate::domain::time::Day;

/// The scope that every charge belongs to.
pub const EVERYONE: &str = "everyone";

/// The scope of one user.
#[must_use]
pub fn user_scope(user: &UserId) -> String {
    format!("user:{}", user.as_str())
}

/// The daily limits under which money is reserved. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Of everyone together.
    pub everyone: Option<MicroUsd>,
    /// Of each user.
    pub user: Option<MicroUsd>,
}

impl Limits {
    /// The same, with a user's own limit in place of the one of each user, if there is one. Where everyone together
    /// has no limit, none is looked at: a batch keeps its user's when the guard is switched off.
    #[must_use]
    pub fn with_user(self, own: Option<MicroUsd>) -> Self {
        Self { user: own.filter(|_| self.everyone.is_some()).or(self.user), ..self }
    }
}

/// One scope as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetRow {
    /// The day that `spent` belongs to.
    pub day: Day,
    /// Charged on that day.
    pub spent: MicroUsd,
    /// Held for pictures that are not finished.
    pub reserved: MicroUsd,
    /// The part of `spent` for calls whose outcome is not known.
    pub unknown: MicroUsd,
    /// The part of `spent` above what was reserved for it.
    pub overrun: MicroUsd,
}

/// How settled attempts change a scope, in micro-dollars.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BudgetMove {
    pub(super) spent: i64,
    pub(super) released: i64,
    pub(super) unknown: i64,
    pub(super) overrun: i64,
}

impl BudgetMove {
    pub(super) const fn add(&mut self, other: Self) {
        self.spent += other.spent;
        self.released += other.released;
        self.unknown += other.unknown;
        self.overrun += other.overrun;
    }
}

/// Both assignments that move a row on to day `$2`, and the amounts of its new day.
const ROLL: &str = "day = CASE WHEN day < $2 THEN $2 ELSE day END,
    unknown = CASE WHEN day < $2 THEN 0 ELSE unknown END + $5,
    overrun = CASE WHEN day < $2 THEN 0 ELSE overrun END + $6,
    spent = CASE WHEN day < $2 THEN 0 ELSE spent END + $3,
    reserved = reserved + $4";

impl Store {
    /// Reserves `amount` in `scope` if it fits `limit`; otherwise changes nothing.
    pub(super) async fn reserve(
        &self,
        connection: &mut AnyConnection,
        scope: &str,
        today: Day,
        amount: MicroUsd,
        limit: Option<MicroUsd>,
    ) -> Result<bool, StoreError> {
        let sql = format!(
            "UPDATE budget SET {ROLL} WHERE scope = $1
               AND (CASE WHEN day < $2 THEN 0 ELSE spent END) + reserved <= $7 - $4"
        );
        let changed = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(scope)
            .bind(today.number())
            .bind(0_i64)
            .bind(amount.micros())
            .bind(0_i64)
            .bind(0_i64)
            .bind(limit.unwrap_or(MicroUsd::MAX).micros())
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(changed.rows_affected() == 1)
    }

    /// Applies `change` to `scope` and returns the day that its charges belong to.
    pub(super) async fn move_budget(
        &self,
        connection: &mut AnyConnection,
        scope: &str,
        today: Day,
        change: BudgetMove,
    ) -> Result<Day, StoreError> {
        let sql = format!("UPDATE budget SET {ROLL} WHERE scope = $1 RETURNING day");
        let day: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(scope)
            .bind(today.number())
            .bind(change.spent)
            .bind(-change.released)
            .bind(change.unknown)
            .bind(change.overrun)
            .fetch_one(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(Day::from_number(day))
    }

    /// Makes sure that a user's row is there.
    pub(super) async fn ensure_scope(&self, connection: &mut AnyConnection, scope: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO budget (scope, day, spent, reserved, unknown, overrun)
                   VALUES ($1, 0, 0, 0, 0, 0) ON CONFLICT (scope) DO NOTHING";
        sqlx::query(sql).bind(scope).execute(connection).await.map_err(|error| self.error(error))?;
        Ok(())
    }

    /// The scope as it would be charged now; all zero if it never was used.
    pub(super) async fn budget_in(&self, connection: &mut AnyConnection, scope: &str) -> Result<BudgetRow, StoreError> {
        let today = self.today(&mut *connection).await?;
        let sql = "SELECT day, spent, reserved, unknown, overrun FROM budget WHERE scope = $1";
        let row = sqlx::query(sql).bind(scope).fetch_optional(connection).await.map_err(|error| self.error(error))?;
        let zero = MicroUsd::ZERO;
        let Some(row) = row else {
            return Ok(BudgetRow { day: today, spent: zero, reserved: zero, unknown: zero, overrun: zero });
        };
        let reserved = row.money("reserved")?;
        let day = Day::from_number(row.int("day")?);
        if day < today {
            return Ok(BudgetRow { day: today, spent: zero, reserved, unknown: zero, overrun: zero });
        }
        let (spent, unknown, overrun) = (row.money("spent")?, row.money("unknown")?, row.money("overrun")?);
        Ok(BudgetRow { day, spent, reserved, unknown, overrun })
    }

    /// The last day on which money moved; `None` if none ever did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_day(&self) -> Result<Option<Day>, StoreError> {
        let day: i64 = sqlx::query_scalar("SELECT day FROM budget WHERE scope = $1")
            .bind(EVERYONE)
            .fetch_one(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        Ok((day > 0).then(|| Day::from_number(day)))
    }

    /// The money of `scope` now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_budget(&self, scope: &str) -> Result<BudgetRow, StoreError> {
        let mut lent = self.readers.lend().await.map_err(|error| self.error(error))?;
        let row = self.bounded(self.budget_in(&mut lent, scope)).await?;
        lent.ended();
        Ok(row)
    }
}
