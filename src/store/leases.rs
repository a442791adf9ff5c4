//! Leases: work that one process does for all. A lease saves work and protects nothing.
//!
//! No clock decides: a worker that died has no row any more once its work was taken over, and one
//! without a row holds nothing.

use super::{Store, StoreError};
use crate::domain::ids::WorkerId;

impl Store {
    /// Takes the lease of the ledger's export for `worker`. Whether it has it: not while another live worker does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_ledger_lease(&self, worker: WorkerId) -> Result<bool, StoreError> {
        if self.is_exclusive() {
            return Ok(true);
        }
        let sql = "UPDATE leases SET worker = $1 WHERE lease = 'ledger' AND (worker IS NULL OR worker = $1
                     OR NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = leases.worker))";
        self.change_lease(sql, worker).await
    }

    /// Gives the lease of the ledger's export up, if `worker` has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give_up_ledger_lease(&self, worker: WorkerId) -> Result<(), StoreError> {
        let sql = "UPDATE leases SET worker = NULL WHERE lease = 'ledger' AND worker = $1";
        self.change_lease(sql, worker).await?;
        Ok(())
    }

    /// Takes the lease of the ledger's export for `worker`, whoever has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seize_ledger_lease(&self, worker: WorkerId) -> Result<(), StoreError> {
        self.change_lease("UPDATE leases SET worker = $1 WHERE lease = 'ledger'", worker).await?;
        Ok(())
    }

    /// How many lines of all days are known to be in the ledger.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn confirmed_lines(&self) -> Result<u64, StoreError> {
        let sql = "SELECT CAST(COALESCE(SUM(count), 0) AS BIGINT) FROM ledger_days";
        let lines: i64 = sqlx::query_scalar(sql).fetch_one(&self.readers).await.map_err(|error| self.error(error))?;
        u64::try_from(lines).map_err(StoreError::corrupt)
    }

    async fn change_lease(&self, sql: &'static str, worker: WorkerId) -> Result<bool, StoreError> {
        let changed = sqlx::query(sql).bind(worker.to_string()).execute(&self.writers).await;
        Ok(changed.map_err(|error| self.error(error))?.rows_affected() > 0)
    }
}
