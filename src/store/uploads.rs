//! Uploaded reference pictures: whose each is, and what an idempotency key was answered with.

use sqlx::AnyConnection;

use super::rows::{Columns as _, to_json};
use super::{Store, StoreError, transaction};
use crate::domain::ids::{ImageKey, UserId};
use crate::domain::picture::Picture;
use crate::domain::time::Timestamp;

/// A client's name for an upload.
#[derive(Debug, Clone)]
pub struct UploadKey {
    /// The name.
    pub key: String,
    /// The hash of what was sent under it.
    pub request_hash: String,
    /// Names given before this time are forgotten.
    pub forget_before: Timestamp,
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadOutcome {
    /// The pictures are the owner's.
    Kept,
    /// The same was uploaded before, and these pictures came of it.
    Replayed(Vec<Picture>),
    /// The key was used for another upload. Nothing was written.
    KeyReused,
}

impl Store {
    /// The folder of `owner`'s uploads: `fresh`, if there is none yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn upload_folder(&self, owner: &UserId, fresh: &str) -> Result<String, StoreError> {
        transaction!(self, |connection| {
            let sql = "INSERT INTO upload_folders (owner, folder) VALUES ($1, $2) ON CONFLICT (owner) DO NOTHING";
            sqlx::query(sql)
                .bind(owner.as_str())
                .bind(fresh)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
            sqlx::query_scalar("SELECT folder FROM upload_folders WHERE owner = $1")
                .bind(owner.as_str())
                .fetch_one(connection)
                .await
                .map_err(|error| self.error(error))
        })
    }

    /// What an earlier upload with the same key means for this one; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find_upload(&self, owner: &UserId, key: &UploadKey) -> Result<Option<UploadOutcome>, StoreError> {
        let mut lent = self.readers.lend().await.map_err(|error| self.error(error))?;
        let found = self.bounded(self.find_upload_in(&mut lent, owner, key)).await?;
        lent.ended();
        Ok(found)
    }

    /// Makes stored `pictures` the owner's, under the client's name for the upload.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written then.
    pub async fn keep_upload(
        &self,
        owner: &UserId,
        pictures: &[Picture],
        key: Option<&UploadKey>,
        at: Timestamp,
    ) -> Result<UploadOutcome, StoreError> {
        transaction!(
            self,
            |connection| {
                if let Some(key) = key
                    && let Some(earlier) = self.take_upload_key(connection, owner, pictures, key, at).await?
                {
                    return Ok(earlier);
                }
                self.insert_uploads(connection, owner, pictures, at).await?;
                Ok(UploadOutcome::Kept)
            },
            |outcome| *outcome == UploadOutcome::Kept
        )
    }

    /// Whether `object` is a picture that `owner` uploaded, or one that was made for a batch of `owner`'s.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn owns_object(&self, owner: &UserId, object: &str) -> Result<bool, StoreError> {
        let Some(image) = ImageKey::of_object(object) else {
            let sql = "SELECT COUNT(*) FROM uploads WHERE owner = $1 AND object = $2";
            let query = sqlx::query_scalar::<_, i64>(sql).bind(owner.as_str()).bind(object);
            return Ok(query.fetch_one(&self.readers).await.map_err(|error| self.error(error))? > 0);
        };
        let sql = "SELECT picture FROM images WHERE batch_id = $1 AND ordinal = $2 AND variant = $3 AND owner = $4";
        let row = sqlx::query(sql)
            .bind(image.batch.to_string())
            .bind(i64::from(image.ordinal))
            .bind(i64::from(image.variant))
            .bind(owner.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        let picture: Option<Picture> = row.map(|row| row.optional_json("picture")).transpose()?.flatten();
        Ok(picture.is_some_and(|picture| picture.object == object))
    }

    /// Takes the client's key for this upload; if it is taken, says what that means.
    async fn take_upload_key(
        &self,
        connection: &mut AnyConnection,
        owner: &UserId,
        pictures: &[Picture],
        key: &UploadKey,
        at: Timestamp,
    ) -> Result<Option<UploadOutcome>, StoreError> {
        let sql = "DELETE FROM upload_requests WHERE owner = $1 AND idempotency_key = $2 AND created_at < $3";
        sqlx::query(sql)
            .bind(owner.as_str())
            .bind(&key.key)
            .bind(key.forget_before.millis())
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let sql = "INSERT INTO upload_requests (owner, idempotency_key, request_hash, pictures, created_at)
                   VALUES ($1, $2, $3, $4, $5) ON CONFLICT (owner, idempotency_key) DO NOTHING";
        let taken = sqlx::query(sql)
            .bind(owner.as_str())
            .bind(&key.key)
            .bind(&key.request_hash)
            .bind(to_json(&pictures)?)
            .bind(at.millis())
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        if taken.rows_affected() == 1 {
            return Ok(None);
        }
        let earlier = self.find_upload_in(connection, owner, key).await?;
        earlier.map(Some).ok_or_else(|| StoreError::corrupt("an upload's key is taken and cannot be found"))
    }

    async fn find_upload_in(
        &self,
        connection: &mut AnyConnection,
        owner: &UserId,
        key: &UploadKey,
    ) -> Result<Option<UploadOutcome>, StoreError> {
        let sql = "SELECT request_hash, pictures FROM upload_requests
                   WHERE owner = $1 AND idempotency_key = $2 AND created_at >= $3";
        let row = sqlx::query(sql)
            .bind(owner.as_str())
            .bind(&key.key)
            .bind(key.forget_before.millis())
            .fetch_optional(connection)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        let same = row.text("request_hash")? == key.request_hash;
        Ok(Some(if same { UploadOutcome::Replayed(row.json("pictures")?) } else { UploadOutcome::KeyReused }))
    }

    async fn insert_uploads(
        &self,
        connection: &mut AnyConnection,
        owner: &UserId,
        pictures: &[Picture],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        // In one order everywhere: two uploads of the same pictures must not wait for each other.
        let mut pictures: Vec<&Picture> = pictures.iter().collect();
        pictures.sort_unstable_by(|one, other| one.sha256.cmp(&other.sha256));
        for picture in pictures {
            let sql = "INSERT INTO uploads (owner, sha256, object, picture, created_at) VALUES ($1, $2, $3, $4, $5)
                       ON CONFLICT (owner, sha256) DO NOTHING";
            sqlx::query(sql)
                .bind(owner.as_str())
                .bind(&picture.sha256)
                .bind(&picture.object)
                .bind(to_json(picture)?)
                .bind(at.millis())
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
        }
        Ok(())
    }
}
