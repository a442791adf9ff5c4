//! What views are made of: batches, pages of items, single pictures.

use std::collections::BTreeMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::rows::Columns as _;
use super::webhooks::webhook;
use super::{Store, StoreError};
use crate::domain::ids::{BatchId, ImageKey, UserId};
use crate::domain::money::MicroUsd;
use crate::domain::picture::Picture;
use crate::domain::spec::{Reference, SceneId};
use crate::domain::state::{BatchState, Billing, Counts, ImageError, ImageState};
use crate::domain::time::Timestamp;
use crate::domain::webhook::Webhook;

/// A batch.
#[derive(Debug, Clone)]
pub struct BatchRow {
    /// Its id.
    pub id: BatchId,
    /// The model.
    pub model: String,
    /// Something its owner should know.
    pub message: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its last picture ended.
    pub finished_at: Option<Timestamp>,
    /// The number of its last event.
    pub last_event: u64,
    /// Its pictures by state.
    pub counts: Counts,
    /// What was reserved for it.
    pub estimated_cost: MicroUsd,
    /// What it cost so far.
    pub actual_cost: MicroUsd,
    /// The part of that for calls whose outcome is not known.
    pub unknown_cost: MicroUsd,
    /// What is told of it, and where.
    pub webhook: Option<Webhook>,
}

/// A row of a batch.
#[derive(Debug, Clone)]
pub struct ItemRow {
    /// Its place, from 1.
    pub ordinal: u32,
    /// Its name.
    pub scene_id: SceneId,
    /// Its prompt.
    pub prompt: String,
    /// What its pictures go by, the batch's pack included; none if that is damaged, which its pictures' errors say.
    pub references: Vec<Reference>,
    /// Width to height, as it was asked for.
    pub aspect_ratio: String,
    /// The size class, as it was asked for.
    pub image_size: String,
    /// Its pictures, by variant.
    pub images: Vec<ImageRow>,
}

/// A picture, made or not.
#[derive(Debug, Clone)]
pub struct ImageRow {
    /// Which one.
    pub key: ImageKey,
    /// How far it is.
    pub state: ImageState,
    /// Calls started for it.
    pub attempts: u32,
    /// What they cost.
    pub cost: Option<MicroUsd>,
    /// Whether that is known.
    pub billing: Option<Billing>,
    /// Where it is, once it is made.
    pub picture: Option<Picture>,
    /// Why it was not made.
    pub error: Option<ImageError>,
}

/// Which batches a list shows.
#[derive(Debug, Clone, Default)]
pub struct BatchFilter {
    /// Only in this state.
    pub state: Option<BatchState>,
    /// Only older than this one.
    pub before: Option<BatchId>,
    /// At most so many.
    pub limit: u32,
}

const BATCH_COLUMNS: &str = "id, model, message, created_at, finished_at, last_event, total, completed, failed,
    cancelled, estimated_cost, actual_cost, unknown_cost, url, webhooks.events AS wanted, secret,
    (SELECT COUNT(*) FROM images m WHERE m.batch_id = batches.id AND m.state IN ('claimed', 'running')) AS running";

const BATCHES: &str = "batches LEFT JOIN webhooks ON webhooks.batch_id = batches.id";

const IMAGE_COLUMNS: &str = "batch_id, ordinal, variant, state, attempts, cost, billing, picture, error";

fn batch_row(row: &AnyRow) -> Result<BatchRow, StoreError> {
    let mut counts = Counts {
        total: row.count("total")?,
        queued: 0,
        running: row.count("running")?,
        completed: row.count("completed")?,
        failed: row.count("failed")?,
        cancelled: row.count("cancelled")?,
    };
    counts.queued = counts.total - counts.running - counts.completed - counts.failed - counts.cancelled;
    Ok(BatchRow {
        id: row.parsed("id")?,
        model: row.text("model")?,
        message: row.optional_text("message")?,
        created_at: row.time("created_at")?,
        finished_at: row.optional_time("finished_at")?,
        last_event: u64::try_from(row.int("last_event")?).map_err(StoreError::corrupt)?,
        counts,
        estimated_cost: row.money("estimated_cost")?,
        actual_cost: row.money("actual_cost")?,
        unknown_cost: row.money("unknown_cost")?,
        webhook: webhook(row)?,
    })
}

fn image_row(row: &AnyRow) -> Result<ImageRow, StoreError> {
    Ok(ImageRow {
        key: row.image_key()?,
        state: row.parsed("state")?,
        attempts: row.count("attempts")?,
        cost: row.optional_int("cost")?.map(MicroUsd::from_micros),
        billing: row.optional_parsed("billing")?,
        picture: row.optional_json("picture")?,
        error: row.optional_json("error")?,
    })
}

impl Store {
    /// The batch, if it is `owner`'s.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_batch(&self, batch: BatchId, owner: &UserId) -> Result<Option<BatchRow>, StoreError> {
        let mut lent = self.readers.lend().await.map_err(|error| self.error(error))?;
        let found = self.bounded(self.batch_of(&mut lent, batch, owner)).await?;
        lent.ended();
        Ok(found)
    }

    /// The owner's batches, or everyone's; newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_batches(
        &self,
        owner: Option<&UserId>,
        filter: &BatchFilter,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let touched = "EXISTS (SELECT 1 FROM images m WHERE m.batch_id = batches.id AND m.state <> 'queued')";
        let state = match filter.state {
            None => "$4 = ''".to_owned(),
            Some(BatchState::Queued) => format!("$4 <> '' AND state = 'running' AND NOT {touched}"),
            Some(BatchState::Running) => format!("$4 <> '' AND state = 'running' AND {touched}"),
            Some(_) => "state = $4".to_owned(),
        };
        let whose = if owner.is_some() { "owner = $1" } else { "$1 = ''" };
        let sql = format!(
            "SELECT {BATCH_COLUMNS} FROM {BATCHES} WHERE {whose} AND id < $2 AND {state} ORDER BY id DESC LIMIT $3"
        );
        // `bau` sorts behind every `bat_…`.
        let before = filter.before.map_or_else(|| "bau".to_owned(), |batch| batch.to_string());
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(owner.map_or("", UserId::as_str))
            .bind(before)
            .bind(i64::from(filter.limit))
            .bind(filter.state.map_or("", BatchState::as_str))
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        rows.iter().map(batch_row).collect()
    }

    /// The batch, if it is `owner`'s, with its rows after `after`, at most `limit` of them and each with
    /// its pictures; all as it was at one moment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_page(
        &self,
        batch: BatchId,
        owner: &UserId,
        after: u32,
        limit: u32,
    ) -> Result<Option<(BatchRow, Vec<ItemRow>)>, StoreError> {
        let mut lent = self.readers.lend().await.map_err(|error| self.error(error))?;
        let page = async {
            let mut snapshot = sqlx::Connection::begin_with(&mut *lent, self.dialect.snapshot())
                .await
                .map_err(|error| self.error(error))?;
            let page = match self.batch_of(&mut snapshot, batch, owner).await? {
                Some(row) => Some((row, self.items_of(&mut snapshot, batch, after, limit).await?)),
                None => None,
            };
            snapshot.rollback().await.map_err(|error| self.error(error))?;
            Ok(page)
        };
        let page = self.bounded(page).await;
        match page {
            Ok(_) => lent.ended(),
            Err(_) => lent.spoilt(),
        }
        page
    }

    async fn batch_of(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        owner: &UserId,
    ) -> Result<Option<BatchRow>, StoreError> {
        let sql = format!("SELECT {BATCH_COLUMNS} FROM {BATCHES} WHERE id = $1 AND owner = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(batch.to_string())
            .bind(owner.as_str())
            .fetch_optional(connection)
            .await
            .map_err(|error| self.error(error))?;
        row.as_ref().map(batch_row).transpose()
    }

    async fn items_of(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        after: u32,
        limit: u32,
    ) -> Result<Vec<ItemRow>, StoreError> {
        let (first, last) = (i64::from(after) + 1, i64::from(after) + i64::from(limit));
        let sql = "SELECT ordinal, scene_id, prompt, refs, aspect_ratio, image_size FROM items
                   WHERE batch_id = $1 AND ordinal BETWEEN $2 AND $3 ORDER BY ordinal";
        let items = sqlx::query(sql)
            .bind(batch.to_string())
            .bind(first)
            .bind(last)
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let sql = format!(
            "SELECT {IMAGE_COLUMNS} FROM images WHERE batch_id = $1 AND ordinal BETWEEN $2 AND $3
             ORDER BY ordinal, variant"
        );
        let images = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(batch.to_string())
            .bind(first)
            .bind(last)
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let mut by_item: BTreeMap<u32, Vec<ImageRow>> = BTreeMap::new();
        for row in &images {
            let image = image_row(row)?;
            by_item.entry(image.key.ordinal).or_default().push(image);
        }
        let item = |row: &AnyRow| {
            let ordinal = row.count("ordinal")?;
            let images = by_item.remove(&ordinal).unwrap_or_default();
            Ok(ItemRow {
                ordinal,
                scene_id: row.parsed("scene_id")?,
                prompt: row.text("prompt")?,
                references: row.json("refs").unwrap_or_default(),
                aspect_ratio: row.text("aspect_ratio")?,
                image_size: row.text("image_size")?,
                images,
            })
        };
        items.iter().map(item).collect()
    }

    /// One picture by the name of its row, if the batch is `owner`'s.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_image(
        &self,
        batch: BatchId,
        owner: &UserId,
        scene: &SceneId,
        variant: u32,
    ) -> Result<Option<ImageRow>, StoreError> {
        let sql = "SELECT m.batch_id, m.ordinal, m.variant, m.state, m.attempts, m.cost, m.billing, m.picture, m.error
                   FROM images m JOIN items i ON i.batch_id = m.batch_id AND i.ordinal = m.ordinal
                   JOIN batches b ON b.id = m.batch_id
                   WHERE b.id = $1 AND b.owner = $2 AND i.scene_key = $3 AND m.variant = $4";
        let row = sqlx::query(sql)
            .bind(batch.to_string())
            .bind(owner.as_str())
            .bind(scene.key())
            .bind(i64::from(variant))
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        row.as_ref().map(image_row).transpose()
    }

    /// Batches and pictures that are not finished, whoever's they are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count_open(&self) -> Result<(i64, i64), StoreError> {
        let count = async |sql: &'static str| {
            sqlx::query_scalar(sql).fetch_one(&self.readers).await.map_err(|error| self.error(error))
        };
        let batches = count("SELECT COUNT(*) FROM batches WHERE state = 'running'").await?;
        let pictures = count("SELECT COUNT(*) FROM images WHERE state IN ('queued', 'claimed', 'running')").await?;
        Ok((batches, pictures))
    }

    /// Whether nothing was ever accepted or charged here: the database is new, or what was in it is lost.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        let sql = "SELECT CASE WHEN EXISTS (SELECT 1 FROM batches) OR EXISTS (SELECT 1 FROM ledger) THEN 0 ELSE 1 END";
        let empty: i64 = sqlx::query_scalar(sql).fetch_one(&self.readers).await.map_err(|error| self.error(error))?;
        Ok(empty == 1)
    }

    /// The number of the batch's last event, and whether no picture of it is open.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_progress(&self, batch: BatchId) -> Result<Option<(u64, bool)>, StoreError> {
        let sql = "SELECT last_event, CASE WHEN state = 'running' THEN 0 ELSE 1 END AS finished
                   FROM batches WHERE id = $1";
        let row = sqlx::query(sql)
            .bind(batch.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        let last = u64::try_from(row.int("last_event")?).map_err(StoreError::corrupt)?;
        Ok(Some((last, row.int("finished")? == 1)))
    }
}
