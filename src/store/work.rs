//! Claims: which worker may do what. A fence that grows with every claim makes late writes harmless.
//!
//! No wall clock decides over a claim: a worker counts beats, others watch them with their own
//! monotonic clocks. `due` times only pace; one that is absurdly far away is ignored.

use std::collections::BTreeMap;

use super::budget::{EVERYONE, Limits};
use super::rows::Columns as _;
use super::{Store, StoreError, transaction};
use crate::domain::ids::{AttemptId, ImageKey, UserId, WorkerId};
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Claim, History, MAX_THROTTLED};
use crate::domain::spec::{AspectRatio, ImageSize, Reference, SceneId};
use crate::domain::state::ImageState;
use crate::domain::time::Timestamp;

/// A claimed picture and all that making it needs.
#[derive(Debug, Clone)]
pub struct Job {
    /// The right to it.
    pub claim: Claim,
    /// Whether its call was durably recorded as started.
    pub started: bool,
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
    /// What to show to the model.
    pub references: Vec<Reference>,
    /// Width to height.
    pub aspect_ratio: AspectRatio,
    /// The size class.
    pub image_size: ImageSize,
    /// What earlier attempts used up.
    pub history: History,
    /// Earlier attempts whose outcome is not known: one may have left a picture.
    pub earlier_unknown: Vec<(AttemptId, u32)>,
}

/// The last beat that each worker was seen to have made.
pub type Beats = BTreeMap<WorkerId, i64>;

impl Store {
    /// Raises the worker's beat; registers it with the first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn beat(&self, worker: WorkerId, at: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO workers (id, beat, started_at) VALUES ($1, 1, $2)
                   ON CONFLICT (id) DO UPDATE SET beat = workers.beat + 1";
        sqlx::query(sql)
            .bind(worker.to_string())
            .bind(at.millis())
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }

    /// Every worker's beat.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_beats(&self) -> Result<Beats, StoreError> {
        let rows = sqlx::query("SELECT id, beat FROM workers")
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        rows.iter().map(|row| Ok((row.parsed("id")?, row.int("beat")?))).collect()
    }

    /// Claims up to `count` pictures whose time has come, in the order of their turns.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is claimed then.
    pub async fn claim(&self, worker: WorkerId, count: u32, now: Timestamp) -> Result<Vec<Job>, StoreError> {
        let far = now.after(2 * MAX_THROTTLED);
        // Materialized: Postgres may run a plain subquery with LIMIT again for each row, and claim too many.
        let sql = format!(
            "WITH next AS MATERIALIZED (
               SELECT batch_id, ordinal, variant FROM images
               WHERE state = 'queued' AND (due <= $2 OR due > $3) ORDER BY turn LIMIT $4{})
             UPDATE images SET state = 'claimed', worker = $1, fence = fence + 1 FROM next
             WHERE images.batch_id = next.batch_id AND images.ordinal = next.ordinal
               AND images.variant = next.variant AND images.state = 'queued'
             RETURNING images.batch_id, images.ordinal, images.variant, images.turn",
            self.dialect.skip_locked()
        );
        let rows: Vec<_> = transaction!(self, |connection| {
            sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
                .bind(worker.to_string())
                .bind(now.millis())
                .bind(far.millis())
                .bind(i64::from(count))
                .fetch_all(connection)
                .await
                .map_err(|error| self.error(error))
        })?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in &rows {
            let turn = row.int("turn")?;
            jobs.extend(self.load_job(row.image_key()?).await?.map(|job| (turn, job)));
        }
        jobs.sort_by_key(|(turn, _)| *turn);
        Ok(jobs.into_iter().map(|(_, job)| job).collect())
    }

    /// When the next queued picture is due; `None` if none waits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let due: Option<i64> = sqlx::query_scalar("SELECT MIN(due) FROM images WHERE state = 'queued'")
            .fetch_one(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(due.map(Timestamp::from_millis))
    }

    /// A claimed or running picture with all that making it needs; `None` once it is neither.
    async fn load_job(&self, image: ImageKey) -> Result<Option<Job>, StoreError> {
        let sql = "SELECT b.owner, b.model, i.scene_id, i.prompt, i.refs, i.aspect_ratio, i.image_size,
                     m.state, m.fence, m.failures, m.unknown_retries, m.interruptions, m.throttled_since,
                     a.id AS attempt_id, a.number, a.reserved
                   FROM images m
                   JOIN batches b ON b.id = m.batch_id
                   JOIN items i ON i.batch_id = m.batch_id AND i.ordinal = m.ordinal
                   JOIN attempts a ON a.batch_id = m.batch_id AND a.ordinal = m.ordinal AND a.variant = m.variant
                     AND a.state IN ('held', 'started')
                   WHERE m.batch_id = $1 AND m.ordinal = $2 AND m.variant = $3 AND m.state IN ('claimed', 'running')";
        // Read where it was written: on one connection with the claim's own commit before it.
        let row = sqlx::query(sql)
            .bind(image.batch.to_string())
            .bind(i64::from(image.ordinal))
            .bind(i64::from(image.variant))
            .fetch_optional(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        let history = History {
            failures: row.count("failures")?,
            unknown_retries: row.count("unknown_retries")?,
            interruptions: row.count("interruptions")?,
            throttled_since: row.optional_time("throttled_since")?,
        };
        Ok(Some(Job {
            started: row.parsed::<ImageState>("state")? == ImageState::Running,
            claim: Claim { image, fence: row.int("fence")?, attempt: row.parsed("attempt_id")? },
            number: row.count("number")?,
            reserved: row.money("reserved")?,
            owner: UserId::new(row.text("owner")?),
            model: row.text("model")?,
            scene_id: row.parsed("scene_id")?,
            prompt: row.text("prompt")?,
            references: row.json("refs")?,
            aspect_ratio: row.parsed("aspect_ratio")?,
            image_size: row.parsed("image_size")?,
            earlier_unknown: self.load_unknown(image).await?,
            history,
        }))
    }

    async fn load_unknown(&self, image: ImageKey) -> Result<Vec<(AttemptId, u32)>, StoreError> {
        let sql = "SELECT id, number FROM attempts
                   WHERE batch_id = $1 AND ordinal = $2 AND variant = $3 AND state = 'unknown' ORDER BY number";
        let rows = sqlx::query(sql)
            .bind(image.batch.to_string())
            .bind(i64::from(image.ordinal))
            .bind(i64::from(image.variant))
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        rows.iter().map(|row| Ok((row.parsed("id")?, row.count("number")?))).collect()
    }

    /// Records durably that the call of `claim` is about to be sent. Whether the claim still held.
    ///
    /// # Errors
    /// [`StoreError`]; the call must not be sent then.
    pub async fn start(&self, claim: &Claim, at: Timestamp) -> Result<bool, StoreError> {
        let image = claim.image;
        transaction!(self, |connection| {
            let sql = "UPDATE images SET state = 'running', attempts = attempts + 1
                       WHERE batch_id = $1 AND ordinal = $2 AND variant = $3 AND fence = $4 AND state = 'claimed'";
            let held = sqlx::query(sql)
                .bind(image.batch.to_string())
                .bind(i64::from(image.ordinal))
                .bind(i64::from(image.variant))
                .bind(claim.fence)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
            if held.rows_affected() == 0 {
                return Ok(false);
            }
            let sql = "UPDATE attempts SET state = 'started', fence = $2, started_at = $3
                       WHERE id = $1 AND state = 'held'";
            let started = sqlx::query(sql)
                .bind(claim.attempt.to_string())
                .bind(claim.fence)
                .bind(at.millis())
                .execute(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
            if started.rows_affected() == 0 {
                return Err(StoreError::corrupt("a claimed picture without a held attempt"));
            }
            Ok(true)
        })
    }

    /// Whether a charge above its reserve has put the day past the limit: nothing starts then.
    ///
    /// A limit that was lowered does not count: what was accepted under the old one goes on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_overrun(&self, limits: &Limits) -> Result<bool, StoreError> {
        let Some(limit) = limits.everyone else { return Ok(false) };
        let budget = self.load_budget(EVERYONE).await?;
        let used = budget.spent.plus(budget.reserved).map_err(StoreError::corrupt)?;
        Ok(budget.overrun > MicroUsd::ZERO && used > limit)
    }

    /// Gives back claims whose call was not started, and signs off if none is left.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give_back(&self, worker: WorkerId) -> Result<(), StoreError> {
        transaction!(self, |connection| {
            for sql in [
                "UPDATE images SET state = 'queued', worker = NULL, fence = fence + 1
                 WHERE worker = $1 AND state = 'claimed'",
                "DELETE FROM workers WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM images WHERE worker = $1)",
            ] {
                sqlx::query(sql)
                    .bind(worker.to_string())
                    .execute(&mut *connection)
                    .await
                    .map_err(|error| self.error(error))?;
            }
            Ok(())
        })?;
        self.hints.work.send_replace(());
        Ok(())
    }

    /// Takes over what `dead` left behind: claims go back to the queue, started calls become `heir`'s.
    ///
    /// The heir finds them with [`Store::load_claims`] and settles them.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is taken over then.
    pub async fn take_over(&self, dead: WorkerId, heir: WorkerId) -> Result<(), StoreError> {
        transaction!(self, |connection| {
            for sql in [
                "UPDATE images SET state = 'queued', worker = NULL, fence = fence + 1
                 WHERE worker = $1 AND state = 'claimed' AND $2 <> $1",
                "UPDATE images SET worker = $2, fence = fence + 1 WHERE worker = $1 AND state = 'running'",
                "DELETE FROM workers WHERE id = $1 AND $2 <> $1",
            ] {
                sqlx::query(sql)
                    .bind(dead.to_string())
                    .bind(heir.to_string())
                    .execute(&mut *connection)
                    .await
                    .map_err(|error| self.error(error))?;
            }
            Ok(())
        })?;
        self.hints.work.send_replace(());
        Ok(())
    }

    /// Every picture that `worker` holds a claim on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_claims(&self, worker: WorkerId) -> Result<Vec<Job>, StoreError> {
        let sql = "SELECT batch_id, ordinal, variant FROM images WHERE worker = $1";
        let rows = sqlx::query(sql)
            .bind(worker.to_string())
            .fetch_all(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in &rows {
            jobs.extend(self.load_job(row.image_key()?).await?);
        }
        Ok(jobs)
    }
}
