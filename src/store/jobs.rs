//! Claimed pictures with all that making them needs. A row that cannot be read hides no other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::any::AnyRow;

use super::rows::{Columns, padded, placeholders};
use super::{Store, StoreError};
use crate::domain::ids::{AttemptId, ImageKey, UserId, WorkerId};
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Claim, History};
use crate::domain::spec::{AspectRatio, ImageSize, Reference, SceneId};
use crate::domain::state::ImageState;
use crate::domain::time::Timestamp;

/// Pictures looked up with one statement.
const JOBS_A_STATEMENT: usize = 100;

/// A picture that is taken up so long after it was due was not put off by the provider all the while.
const NOT_ASKED: Duration = Duration::from_mins(5);

/// A claimed picture and all that making it needs.
#[derive(Debug, Clone)]
pub struct Job {
    /// The right to it.
    pub claim: Claim,
    /// Whether its call was durably recorded as started.
    pub started: bool,
    /// When that was.
    pub started_at: Option<Timestamp>,
    /// The number of the attempt that holds its money.
    pub number: u32,
    /// What that attempt reserved.
    pub reserved: MicroUsd,
    /// Whose batch it belongs to.
    pub owner: UserId,
    /// The model.
    pub model: String,
    /// Its row.
    pub scene_id: SceneId,
    /// What to draw.
    pub prompt: String,
    /// What else its call needs; what is wrong with the row if that cannot be read.
    pub call: Result<CallSpec, String>,
    /// What earlier attempts used up.
    pub history: History,
    /// Earlier attempts that were charged, or may have been: one may have left a picture.
    pub earlier_charged: Vec<(AttemptId, u32)>,
}

/// What a call needs beside the prompt.
#[derive(Debug, Clone)]
pub struct CallSpec {
    /// What to show to the model.
    pub references: Vec<Reference>,
    /// Width to height.
    pub aspect_ratio: AspectRatio,
    /// The size class.
    pub image_size: ImageSize,
}

/// Claims of one worker: the pictures, each with its fence.
pub type Held = BTreeSet<(ImageKey, i64)>;

/// The earlier attempts of each picture that were charged, or may have been.
type Charged = BTreeMap<ImageKey, Vec<(AttemptId, u32)>>;

impl Store {
    /// What `worker` holds a claim on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn held_claims(&self, worker: WorkerId) -> Result<Held, StoreError> {
        let sql = "SELECT batch_id, ordinal, variant, fence FROM images WHERE worker = $1";
        let rows = sqlx::query(sql)
            .bind(worker.to_string())
            .fetch_all(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(readable(&rows, |row| Ok((row.image_key()?, row.int("fence")?))).into_iter().collect())
    }

    /// Every picture that `worker` holds a claim on. One that cannot be read is logged and left out.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_claims(&self, worker: WorkerId) -> Result<Vec<Job>, StoreError> {
        let images: Vec<ImageKey> = self.held_claims(worker).await?.into_iter().map(|(image, _)| image).collect();
        self.load_jobs(&images).await
    }

    /// The pictures among `images` that are claimed or running, whoever holds them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_jobs(&self, images: &[ImageKey]) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::with_capacity(images.len());
        for images in images.chunks(JOBS_A_STATEMENT) {
            let images: &[ImageKey] = &padded(images).copied().collect::<Vec<_>>();
            let mut charged = self.load_charged(images).await?;
            let sql = format!(
                "SELECT m.batch_id, m.ordinal, m.variant, b.owner, b.model, i.scene_id, i.prompt, i.refs,
                   i.aspect_ratio, i.image_size, m.state, m.fence, m.failures, m.unknown_retries, m.interruptions,
                   m.throttled_since, m.due, a.id AS attempt_id, a.number, a.reserved,
                   a.started_at
                 FROM images m
                 JOIN batches b ON b.id = m.batch_id
                 JOIN items i ON i.batch_id = m.batch_id AND i.ordinal = m.ordinal
                 LEFT JOIN attempts a ON a.batch_id = m.batch_id AND a.ordinal = m.ordinal AND a.variant = m.variant
                   AND a.state IN ('held', 'started')
                 WHERE (m.batch_id, m.ordinal, m.variant) IN (VALUES {}) AND m.state IN ('claimed', 'running')",
                placeholders(images.len(), 3)
            );
            let rows = self.rows_of(sql, images).await?;
            let now = self.steady_now();
            jobs.extend(readable(&rows, |row| job(row, now, &mut charged)));
        }
        Ok(jobs)
    }

    async fn load_charged(&self, images: &[ImageKey]) -> Result<Charged, StoreError> {
        let sql = format!(
            "SELECT batch_id, ordinal, variant, id, number FROM attempts
             WHERE (batch_id, ordinal, variant) IN (VALUES {}) AND state IN ('settled', 'unknown') ORDER BY number",
            placeholders(images.len(), 3)
        );
        let rows = self.rows_of(sql, images).await?;
        let mut charged = Charged::new();
        let attempt = |row: &AnyRow| Ok((row.image_key()?, (row.parsed("id")?, row.count("number")?)));
        for (image, attempt) in readable(&rows, attempt) {
            charged.entry(image).or_default().push(attempt);
        }
        Ok(charged)
    }

    /// Read where claims are written: after their commit, on the same pool.
    async fn rows_of(&self, sql: String, images: &[ImageKey]) -> Result<Vec<AnyRow>, StoreError> {
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for image in images {
            query = query.bind(image.batch.to_string()).bind(i64::from(image.ordinal)).bind(i64::from(image.variant));
        }
        query.fetch_all(&self.writers).await.map_err(|error| self.error(error))
    }
}

/// What can be read of `rows`; the rest is logged: it is damage that no later step can mend.
pub(super) fn readable<T>(rows: &[AnyRow], mut read: impl FnMut(&AnyRow) -> Result<T, StoreError>) -> Vec<T> {
    let mut values = Vec::with_capacity(rows.len());
    for row in rows {
        match read(row) {
            Ok(value) => values.push(value),
            Err(error) => {
                let batch = row.text("batch_id").unwrap_or_default();
                let ordinal = row.int("ordinal").unwrap_or_default();
                tracing::error!(batch, ordinal, %error, "a picture in the database is damaged and is left out");
            }
        }
    }
    values
}

fn job(row: &AnyRow, now: Timestamp, charged: &mut Charged) -> Result<Job, StoreError> {
    let (image, due) = (row.image_key()?, row.time("due")?);
    let history = History {
        failures: row.count("failures")?,
        unknown_retries: row.count("unknown_retries")?,
        interruptions: row.count("interruptions")?,
        // Nobody put it off while nobody asked.
        throttled_since: row.optional_time("throttled_since")?.filter(|_| now.since(due) < NOT_ASKED),
    };
    Ok(Job {
        started: row.parsed::<ImageState>("state")? == ImageState::Running,
        started_at: row.optional_time("started_at")?,
        claim: Claim { image, fence: row.int("fence")?, attempt: row.parsed("attempt_id")? },
        number: row.count("number")?,
        reserved: row.money("reserved")?,
        owner: UserId::new(row.text("owner")?),
        model: row.text("model")?,
        scene_id: row.parsed("scene_id")?,
        prompt: row.text("prompt")?,
        call: call_spec(row).map_err(|error| error.to_string()),
        earlier_charged: charged.remove(&image).unwrap_or_default(),
        history,
    })
}

fn call_spec(row: &AnyRow) -> Result<CallSpec, StoreError> {
    Ok(CallSpec {
        references: row.json("refs")?,
        aspect_ratio: row.parsed("aspect_ratio")?,
        image_size: row.parsed("image_size")?,
    })
}
