//! Keys of callers, and what stands for a caller for a while: sessions, and the right to follow one batch.

use sqlx::any::AnyRow;

use super::rows::Columns as _;
use super::{Store, StoreError};
use crate::domain::access::{KeyId, KeyRecord, SecretHash};
use crate::domain::ids::{BatchId, UserId};
use crate::domain::money::MicroUsd;
use crate::domain::time::Timestamp;

const COLUMNS: &str = "id, hash, owner, scopes, created_at, expires_at, revoked_at, daily_budget";

/// A key, and when it was made.
#[derive(Clone)]
pub struct ListedKey {
    /// The key.
    pub key: KeyRecord,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What stands for a caller until it ends.
#[derive(Clone)]
pub struct SessionRow {
    /// The key that was shown for it; `None` where the platform let the caller in, or the service is open.
    pub key: Option<KeyId>,
    /// Whose it is.
    pub user: UserId,
    /// The only batch that it may follow; `None` is a browser's session.
    pub batch: Option<BatchId>,
    /// When it ends.
    pub expires_at: Timestamp,
}

fn key(row: &AnyRow) -> Result<ListedKey, StoreError> {
    let key = KeyRecord {
        id: row.parsed("id")?,
        hash: row.parsed("hash")?,
        user: UserId::new(row.text("owner")?),
        scopes: row.parsed("scopes")?,
        expires_at: row.optional_int("expires_at")?.map(Timestamp::from_millis),
        revoked_at: row.optional_int("revoked_at")?.map(Timestamp::from_millis),
        daily_budget: row.optional_int("daily_budget")?.map(MicroUsd::from_micros),
    };
    Ok(ListedKey { key, created_at: row.time("created_at")? })
}

impl Store {
    /// Keeps a new key. Whether its name was free; nothing is written if not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_key(&self, key: &KeyRecord, at: Timestamp) -> Result<bool, StoreError> {
        let sql = format!(
            "INSERT INTO api_keys ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, NULL, $7)
                           ON CONFLICT (id) DO NOTHING"
        );
        let inserted = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(key.id.to_string())
            .bind(key.hash.to_string())
            .bind(key.user.as_str())
            .bind(key.scopes.to_string())
            .bind(at.millis())
            .bind(key.expires_at.map(Timestamp::millis))
            .bind(key.daily_budget.map(MicroUsd::micros))
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(inserted.rows_affected() == 1)
    }

    /// The key of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find_api_key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        row.map(|row| key(&row).map(|listed| listed.key)).transpose()
    }

    /// Every key, in the order in which they were made.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_keys(&self) -> Result<Vec<ListedKey>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM api_keys ORDER BY created_at, id");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&self.readers).await.map_err(|error| self.error(error))?;
        rows.iter().map(key).collect()
    }

    /// Whether there is any key, also one that is refused.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        let any: Option<String> = sqlx::query_scalar("SELECT id FROM api_keys LIMIT 1")
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(any.is_some())
    }

    /// Revokes a key and ends its sessions. The key; `None` if there is none of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_key(&self, id: KeyId, at: Timestamp) -> Result<Option<KeyRecord>, StoreError> {
        let sql = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1";
        let revoked = sqlx::query(sql)
            .bind(id.to_string())
            .bind(at.millis())
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        if revoked.rows_affected() == 0 {
            return Ok(None);
        }
        sqlx::query("DELETE FROM sessions WHERE key_id = $1")
            .bind(id.to_string())
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        self.find_api_key(id).await
    }

    /// Keeps a session under the hash of its secret, and forgets those that ended before `now`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_session(
        &self,
        hash: &SecretHash,
        session: &SessionRow,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM sessions WHERE expires_at < $1")
            .bind(now.millis())
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        let sql = "INSERT INTO sessions (hash, key_id, owner, batch_id, expires_at) VALUES ($1, $2, $3, $4, $5)";
        sqlx::query(sql)
            .bind(hash.to_string())
            .bind(session.key.map(|key| key.to_string()))
            .bind(session.user.as_str())
            .bind(session.batch.map(|batch| batch.to_string()))
            .bind(session.expires_at.millis())
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }

    /// The session whose secret has this hash, also one that ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find_session(&self, hash: &SecretHash) -> Result<Option<SessionRow>, StoreError> {
        let sql = "SELECT key_id, owner, batch_id, expires_at FROM sessions WHERE hash = $1";
        let row = sqlx::query(sql)
            .bind(hash.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SessionRow {
            key: row.optional_parsed("key_id")?,
            user: UserId::new(row.text("owner")?),
            batch: row.optional_parsed("batch_id")?,
            expires_at: row.time("expires_at")?,
        }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete_session(&self, hash: &SecretHash) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM sessions WHERE hash = $1")
            .bind(hash.to_string())
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }

    /// Whose batch it is, and the limit of that user's day which goes with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn owner_of(&self, batch: BatchId) -> Result<Option<(UserId, Option<MicroUsd>)>, StoreError> {
        let row = sqlx::query("SELECT owner, user_limit FROM batches WHERE id = $1")
            .bind(batch.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((UserId::new(row.text("owner")?), row.optional_int("user_limit")?.map(MicroUsd::from_micros))))
    }
}
