//! Claims: which worker may do what. A fence that grows with every claim makes late writes harmless.
//!
//! No wall clock decides over a claim: a worker counts beats, others watch them with their own
//! monotonic clocks. `due` times only pace, by [`Store::steady_now`]; one that is absurdly far away, from before a
//! restart with another clock, is ignored.

use std::collections::BTreeMap;

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::budget::{EVERYONE, Limits};
use super::jobs::{Held, Job, readable};
use super::rows::{Columns as _, padded, placeholders};
use super::{Store, StoreError, transaction};
use crate::domain::ids::{ImageKey, UserId, WorkerId};
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Claim, MAX_THROTTLED};
use crate::domain::time::Timestamp;

/// A picture that is due behind this time was put off by a clock that jumped: it is due at once.
fn far_from(now: Timestamp) -> Timestamp {
    now.after(2 * MAX_THROTTLED)
}

/// The last beat that each worker was seen to have made.
pub type Beats = BTreeMap<WorkerId, i64>;

impl Store {
    /// Writes the worker's beat; registers it with the first, and again after it was taken over.
    ///
    /// `beat` grows with each call: whoever watched the worker fall silent sees that it is back, whatever happened to
    /// its row meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn beat(&self, worker: WorkerId, beat: i64, at: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO workers (id, beat, started_at) VALUES ($1, $3, $2)
                   ON CONFLICT (id) DO UPDATE SET beat = $3";
        sqlx::query(sql)
            .bind(worker.to_string())
            .bind(at.millis())
            .bind(beat)
            .execute(&self.writers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }

    /// Every worker's beat; one that holds claims and has no row never beats.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_beats(&self) -> Result<Beats, StoreError> {
        let sql = "SELECT id, beat FROM workers
                   UNION ALL SELECT DISTINCT worker, 0 FROM images
                   WHERE worker IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = images.worker)";
        let rows = sqlx::query(sql).fetch_all(&self.readers).await.map_err(|error| self.error(error))?;
        rows.iter().map(|row| Ok((row.parsed("id")?, row.int("beat")?))).collect()
    }

    /// Whose pictures are queued and due.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn queued_owners(&self, now: Timestamp) -> Result<Vec<UserId>, StoreError> {
        // A few steps of an index an owner, however many pictures each has.
        let sql = "WITH RECURSIVE owners (owner) AS (
                     SELECT MIN(owner) FROM images WHERE state = 'queued'
                     UNION ALL
                     SELECT (SELECT MIN(m.owner) FROM images m WHERE m.state = 'queued' AND m.owner > owners.owner)
                     FROM owners WHERE owners.owner IS NOT NULL)
                   SELECT owner FROM owners WHERE owner IS NOT NULL AND EXISTS (
                     SELECT 1 FROM images m
                     WHERE m.state = 'queued' AND m.owner = owners.owner AND (m.due <= $1 OR m.due > $2))";
        let owners: Vec<String> = sqlx::query_scalar(sql)
            .bind(now.millis())
            .bind(far_from(now).millis())
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(owners.into_iter().map(UserId::new).collect())
    }

    /// Claims up to `count` of the owner's pictures whose time has come, in the order of their turns.
    ///
    /// # Errors
    /// [`StoreError`]; what was claimed then, if anything, is found with [`Store::load_claims`].
    pub async fn claim(
        &self,
        worker: WorkerId,
        owner: &UserId,
        count: u32,
        now: Timestamp,
    ) -> Result<Vec<Job>, StoreError> {
        let far = far_from(now);
        // Materialized: Postgres may run a plain subquery with LIMIT again for each row, and claim too many.
        let sql = format!(
            "WITH next AS MATERIALIZED (
               SELECT batch_id, ordinal, variant FROM images
               WHERE state = 'queued' AND owner = $5 AND (due <= $2 OR due > $3) ORDER BY turn LIMIT $4{})
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
                .bind(owner.as_str())
                .fetch_all(connection)
                .await
                .map_err(|error| self.error(error))
        })?;
        let claimed = readable(&rows, |row| Ok((row.image_key()?, row.int("turn")?)));
        let turns: BTreeMap<ImageKey, i64> = claimed.into_iter().collect();
        let images: Vec<ImageKey> = turns.keys().copied().collect();
        let mut jobs = self.load_jobs(&images).await?;
        jobs.sort_by_key(|job| turns.get(&job.claim.image).copied());
        Ok(jobs)
    }

    /// The turn of the owner's queue that is being served now.
    pub(super) async fn turn_served(&self, connection: &mut AnyConnection, owner: &UserId) -> Result<i64, StoreError> {
        let first = "SELECT turn FROM images WHERE state = 'queued' AND owner = $1";
        let sql = format!(
            "SELECT CAST(COALESCE(({first} AND due <= $2 ORDER BY turn LIMIT 1), ({first} ORDER BY turn LIMIT 1), 0)
             AS BIGINT)"
        );
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(owner.as_str())
            .bind(self.steady_now().millis())
            .fetch_one(connection)
            .await
            .map_err(|error| self.error(error))
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

    /// Records durably that the calls of `claims` are about to be sent. Whether each claim still held.
    ///
    /// # Errors
    /// [`StoreError`]; none of the calls must be sent then.
    pub async fn start(&self, claims: &[Claim], at: Timestamp) -> Result<Vec<bool>, StoreError> {
        transaction!(self, |connection| {
            let change = "state = 'running', attempts = images.attempts + 1";
            let rows = self.change_claimed(connection, claims, change, "'claimed'").await?;
            let held = rows.iter().map(|row| Ok((row.image_key()?, row.int("fence")?)));
            let held: Held = held.collect::<Result<_, StoreError>>()?;
            let is_held = |claim: &Claim| held.contains(&(claim.image, claim.fence));
            let starting: Vec<Claim> = claims.iter().copied().filter(is_held).collect();
            self.start_attempts(connection, &starting, at).await?;
            Ok(claims.iter().map(is_held).collect())
        })
    }

    /// Changes the rows of the pictures whose claims still hold and whose state is among `states`, as `change` says;
    /// returns what identifies each, and what a settle needs of it. On Postgres this may collide with a cancel of the
    /// batch, which takes the same rows, unless the batch's row is held; one of the two is tried again.
    pub(super) async fn change_claimed(
        &self,
        connection: &mut AnyConnection,
        claims: &[Claim],
        change: &'static str,
        states: &'static str,
    ) -> Result<Vec<AnyRow>, StoreError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let claims = padded(claims);
        let sql = format!(
            "WITH claims (batch_id, ordinal, variant, fence) AS (VALUES {})
             UPDATE images SET {change} FROM claims
             WHERE images.batch_id = claims.batch_id AND images.ordinal = claims.ordinal
               AND images.variant = claims.variant AND images.fence = claims.fence AND images.state IN ({states})
             RETURNING images.batch_id, images.ordinal, images.variant, images.fence, images.state, images.cost,
               images.billing, images.attempts",
            placeholders(claims.len(), 4)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for Claim { image, fence, .. } in claims {
            query = query
                .bind(image.batch.to_string())
                .bind(i64::from(image.ordinal))
                .bind(i64::from(image.variant))
                .bind(*fence);
        }
        query.fetch_all(connection).await.map_err(|error| self.error(error))
    }

    async fn start_attempts(
        &self,
        connection: &mut AnyConnection,
        claims: &[Claim],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        if claims.is_empty() {
            return Ok(());
        }
        let starting = padded(claims);
        let sql = format!(
            "WITH starting (id, fence, at) AS (VALUES {})
             UPDATE attempts SET state = 'started', fence = starting.fence, started_at = starting.at FROM starting
             WHERE attempts.id = starting.id AND attempts.state = 'held'",
            placeholders(starting.len(), 3)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for claim in starting {
            query = query.bind(claim.attempt.to_string()).bind(claim.fence).bind(at.millis());
        }
        let started = query.execute(connection).await.map_err(|error| self.error(error))?;
        if started.rows_affected() == claims.len() as u64 {
            Ok(())
        } else {
            Err(StoreError::corrupt("a claimed picture without a held attempt"))
        }
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
        let back = "UPDATE images SET state = 'queued', worker = NULL, fence = fence + 1
                    WHERE worker = $1 AND state = 'claimed' AND $2 = $1";
        let sign_off = "DELETE FROM workers WHERE id = $1 AND $2 = $1
                        AND NOT EXISTS (SELECT 1 FROM images WHERE worker = $1)";
        self.move_claims(&[back, sign_off], worker, worker).await
    }

    /// Takes over what `dead` left behind: claims go back to the queue, started calls become `heir`'s.
    ///
    /// The heir finds them with [`Store::load_claims`] and settles them.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is taken over then.
    pub async fn take_over(&self, dead: WorkerId, heir: WorkerId) -> Result<(), StoreError> {
        let back = "UPDATE images SET state = 'queued', worker = NULL, fence = fence + 1
                    WHERE worker = $1 AND state = 'claimed' AND $2 <> $1";
        let hand_over = "UPDATE images SET worker = $2, fence = fence + 1 WHERE worker = $1 AND state = 'running'";
        let forget = "DELETE FROM workers WHERE id = $1 AND $2 <> $1";
        self.move_claims(&[back, hand_over, forget], dead, heir).await
    }

    /// Runs `statements`, each with `from` as `$1` and `to` as `$2`, together.
    async fn move_claims(&self, statements: &[&'static str], from: WorkerId, to: WorkerId) -> Result<(), StoreError> {
        transaction!(self, |connection| {
            for sql in statements {
                sqlx::query(*sql)
                    .bind(from.to_string())
                    .bind(to.to_string())
                    .execute(&mut *connection)
                    .await
                    .map_err(|error| self.error(error))?;
            }
            Ok(())
        })?;
        self.hints.queued();
        Ok(())
    }
}
