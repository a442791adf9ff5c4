//! Webhooks of batches and the log of what was delivered to them.
//!
//! A delivery is written with the event that it tells of. Those of a batch go out one after the other, so that the
//! claim is the batch's: a worker delivers for it until `due`, and whoever claims next has a higher fence. The row of
//! the webhook is taken after the batch's, by who writes events, and alone by who delivers.

use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::rows::{Columns, ROWS_A_STATEMENT, placeholders};
use super::{Store, StoreError, transaction};
use crate::domain::event::Event;
use crate::domain::ids::{BatchId, WorkerId};
use crate::domain::state::{DeliveryState, WebhookEvent};
use crate::domain::time::Timestamp;
use crate::domain::webhook::{MAX_RETRY_AFTER, MessageId, TRIED_FOR, Webhook};

/// What those deliveries are told that come after the receiver wanted no more.
const AFTER_GONE: &str = "not sent: the receiver answered 410 Gone to an earlier one";

/// What is due behind this time was put off by a clock that jumped: it is due at once.
fn far_from(now: Timestamp) -> Timestamp {
    now.after(2 * MAX_RETRY_AFTER)
}

/// A condition that leaves `hosts` out; their parameters begin with number `first`.
fn at_none_of(hosts: &[String], first: usize) -> String {
    (first..).zip(hosts).map(|(number, _)| format!(" AND host <> ${number}")).collect::<Vec<_>>().concat()
}

/// A delivery that a worker has claimed, and what it is made of.
#[derive(Debug, Clone)]
pub struct ClaimedDelivery {
    /// Its message.
    pub id: MessageId,
    /// Where it goes.
    pub webhook: Webhook,
    /// What it tells of; `None` if that cannot be read any more.
    pub event: Option<Event>,
    /// When that happened.
    pub at: Timestamp,
    /// Tries, this one included.
    pub attempts: u32,
    /// A try that fails later than this is the last.
    pub gives_up_at: Timestamp,
    fence: i64,
}

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryEnd {
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    /// What went wrong, in our words; none if nothing did.
    pub error: Option<String>,
    /// What follows.
    pub next: NextDelivery,
}

/// What follows a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextDelivery {
    /// The receiver took it.
    Delivered,
    /// It is tried again, not before this time.
    Again(Timestamp),
    /// It is given up.
    GivenUp,
    /// The receiver wants no more: all that wait are given up, and none of this batch is sent any more.
    Gone,
}

/// One line of the delivery log.
#[derive(Debug, Clone)]
pub struct DeliveryRow {
    /// The message.
    pub id: MessageId,
    /// What it tells of.
    pub event: WebhookEvent,
    /// How far it has come.
    pub state: DeliveryState,
    /// Tries so far.
    pub attempts: u32,
    /// When it is tried next; none while it is tried, while it waits for those before it, and at its end.
    pub due: Option<Timestamp>,
    /// What the receiver answered last.
    pub last_status: Option<u16>,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// When the receiver took it.
    pub delivered_at: Option<Timestamp>,
    /// When it was written.
    pub created_at: Timestamp,
}

/// The events that a webhook wants, as they are kept.
pub(super) fn wanted(text: &str) -> Result<Vec<WebhookEvent>, StoreError> {
    text.split(',').map(|name| name.parse().map_err(StoreError::corrupt)).collect()
}

/// The webhook among the columns `url`, `wanted` and `secret`; `None` if they are null.
pub(super) fn webhook(row: &AnyRow) -> Result<Option<Webhook>, StoreError> {
    let Some(url) = row.optional_text("url")? else { return Ok(None) };
    let secret = row.text("secret")?.parse().map_err(|_| StoreError::corrupt("a webhook's secret is none"))?;
    Ok(Some(Webhook { url, events: wanted(&row.text("wanted")?)?, secret }))
}

fn number(row: &AnyRow, batch: BatchId) -> Result<MessageId, StoreError> {
    let number = u64::try_from(row.int("number")?).map_err(StoreError::corrupt)?;
    Ok(MessageId { batch, number })
}

fn delivery_row(row: &AnyRow, batch: BatchId) -> Result<DeliveryRow, StoreError> {
    let status = row.optional_int("last_status")?;
    Ok(DeliveryRow {
        id: number(row, batch)?,
        event: row.parsed("type")?,
        state: row.parsed("state")?,
        attempts: row.count("attempts")?,
        due: row.optional_time("due")?,
        last_status: status.map(u16::try_from).transpose().map_err(StoreError::corrupt)?,
        last_error: row.optional_text("last_error")?,
        delivered_at: row.optional_time("delivered_at")?,
        created_at: row.time("created_at")?,
    })
}

impl Store {
    /// The webhook of `batch`, if it has one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_webhook(&self, batch: BatchId) -> Result<Option<Webhook>, StoreError> {
        let sql = "SELECT url, events AS wanted, secret FROM webhooks WHERE batch_id = $1";
        let row = sqlx::query(sql).bind(batch.to_string()).fetch_optional(&self.readers).await;
        row.map_err(|error| self.error(error))?.as_ref().map_or(Ok(None), webhook)
    }

    /// At most `limit` deliveries of `batch` after event number `after`, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_deliveries(
        &self,
        batch: BatchId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let sql = "SELECT d.number, d.type, d.state, d.attempts, d.last_status, d.last_error, d.delivered_at,
                     d.created_at, CASE WHEN w.worker IS NULL AND d.state = 'pending' AND NOT EXISTS (
                       SELECT 1 FROM deliveries e
                       WHERE e.batch_id = d.batch_id AND e.state = 'pending' AND e.number < d.number)
                     THEN w.due END AS due
                   FROM deliveries d JOIN webhooks w ON w.batch_id = d.batch_id
                   WHERE d.batch_id = $1 AND d.number > $2 ORDER BY d.number LIMIT $3";
        let rows = sqlx::query(sql)
            .bind(batch.to_string())
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        rows.iter().map(|row| delivery_row(row, batch)).collect()
    }

    pub(super) async fn insert_webhook(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        webhook: &Webhook,
    ) -> Result<(), StoreError> {
        let events: Vec<&str> = webhook.events.iter().map(|event| event.as_str()).collect();
        let sql = "INSERT INTO webhooks (batch_id, url, host, events, secret, fence, gone)
                   VALUES ($1, $2, $3, $4, $5, 0, 0)";
        sqlx::query(sql)
            .bind(batch.to_string())
            .bind(&webhook.url)
            .bind(webhook.host())
            .bind(events.join(","))
            .bind(webhook.secret.expose())
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }

    /// Writes a delivery for each of `events` that is `wanted`; the first one's number is that after `last`. The
    /// caller holds the batch's row.
    pub(super) async fn insert_deliveries(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        last: i64,
        at: Timestamp,
        events: &[Event],
        wanted: &[WebhookEvent],
    ) -> Result<(), StoreError> {
        let kinds = events.iter().map(WebhookEvent::of);
        let told: Vec<(i64, WebhookEvent)> = (last + 1..)
            .zip(kinds)
            .filter_map(|(number, kind)| Some((number, kind.filter(|kind| wanted.contains(kind))?)))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let now = self.steady_now();
        let sql = "UPDATE webhooks SET due = CASE WHEN gone = 1 THEN NULL ELSE COALESCE(due, $2) END
                   WHERE batch_id = $1 RETURNING gone";
        let gone: i64 = sqlx::query_scalar(sql)
            .bind(batch.to_string())
            .bind(now.millis())
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let (state, error) =
            if gone == 1 { (DeliveryState::Failed, Some(AFTER_GONE)) } else { (DeliveryState::Pending, None) };
        for rows in told.chunks(ROWS_A_STATEMENT) {
            let sql = format!(
                "INSERT INTO deliveries (batch_id, number, type, state, created_at, gives_up_at, attempts, last_error)
                 VALUES {}",
                placeholders(rows.len(), 8)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (number, kind) in rows {
                query = query
                    .bind(batch.to_string())
                    .bind(*number)
                    .bind(kind.as_str())
                    .bind(state.as_str())
                    .bind(at.millis())
                    .bind(now.after(TRIED_FOR).millis())
                    .bind(0_i64)
                    .bind(error);
            }
            query.execute(&mut *connection).await.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// When `worker` can deliver next, to none of the hosts in `without`, as far as is known now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_delivery(
        &self,
        worker: WorkerId,
        now: Timestamp,
        without: &[String],
    ) -> Result<Option<Timestamp>, StoreError> {
        let sql = format!(
            "SELECT MIN(CASE WHEN due > $2 THEN 0 ELSE due END) FROM webhooks
             WHERE due IS NOT NULL AND (worker IS NULL OR worker = $1){}",
            at_none_of(without, 3)
        );
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(worker.to_string()).bind(far_from(now).millis());
        let due: Option<i64> = without
            .iter()
            .fold(query, sqlx::query::QueryScalar::bind)
            .fetch_one(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        Ok(due.map(Timestamp::from_millis))
    }

    /// Takes over what dead workers were delivering: it is due at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn inherit_deliveries(&self, now: Timestamp) -> Result<(), StoreError> {
        let dead = "worker IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = webhooks.worker)";
        // On SQLite a write waits for the one writer, and there is mostly nothing to write.
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM webhooks WHERE {dead}")))
            .fetch_one(&self.readers)
            .await
            .map_err(|error| self.error(error))?;
        if count > 0 {
            let sql = format!("UPDATE webhooks SET worker = NULL, fence = fence + 1, due = $1 WHERE {dead}");
            let changed = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(now.millis()).execute(&self.writers).await;
            changed.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// Claims the delivery that is due first, to none of the hosts in `without`, for `worker` and until `until`. A worker
    /// that never beat, or was taken for dead, gets none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_delivery(
        &self,
        worker: WorkerId,
        now: Timestamp,
        until: Timestamp,
        without: &[String],
    ) -> Result<Option<ClaimedDelivery>, StoreError> {
        // Materialized as in `claim` of `work`.
        let sql = format!(
            "WITH next AS MATERIALIZED (
               SELECT batch_id FROM webhooks
               WHERE due IS NOT NULL AND (due <= $2 OR due > $3) AND (worker IS NULL OR worker = $1){}
                 AND EXISTS (SELECT 1 FROM workers WHERE workers.id = $1)
               ORDER BY due LIMIT 1{})
             UPDATE webhooks SET worker = $1, fence = fence + 1, due = $4 FROM next
             WHERE webhooks.batch_id = next.batch_id
             RETURNING webhooks.batch_id, webhooks.url, webhooks.events AS wanted, webhooks.secret, webhooks.fence",
            at_none_of(without, 5),
            self.dialect.skip_locked()
        );
        transaction!(self, |connection| {
            let query = sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
                .bind(worker.to_string())
                .bind(now.millis())
                .bind(far_from(now).millis())
                .bind(until.millis());
            let row = without
                .iter()
                .fold(query, sqlx::query::Query::bind)
                .fetch_optional(&mut *connection)
                .await
                .map_err(|error| self.error(error))?;
            let Some(row) = row else { return Ok(None) };
            let batch: BatchId = row.parsed("batch_id")?;
            let webhook = webhook(&row)?.ok_or_else(|| StoreError::corrupt("a webhook without a url"))?;
            let fence = row.int("fence")?;
            let claimed = self.first_pending(connection, batch, webhook, fence).await?;
            if claimed.is_none() {
                self.end_claim(connection, batch, fence, None).await?;
            }
            Ok(claimed)
        })
    }

    /// Removes at most `most` deliveries from the log that ended and tell of what happened before `before`; how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_deliveries(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        let old = "SELECT batch_id, number FROM deliveries WHERE state <> 'pending' AND created_at < $1";
        // On SQLite a write waits for the one writer, and there is mostly nothing to write.
        let found = sqlx::query(sqlx::AssertSqlSafe(format!("{old} LIMIT 1"))).bind(before.millis());
        if found.fetch_optional(&self.readers).await.map_err(|error| self.error(error))?.is_none() {
            return Ok(0);
        }
        let sql = format!("DELETE FROM deliveries WHERE (batch_id, number) IN ({old} LIMIT $2)");
        let forgotten = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(before.millis()).bind(i64::from(most));
        let forgotten = forgotten.execute(&self.writers).await.map_err(|error| self.error(error))?;
        Ok(forgotten.rows_affected())
    }

    /// The batch's first delivery that waits, with one try more.
    async fn first_pending(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        webhook: Webhook,
        fence: i64,
    ) -> Result<Option<ClaimedDelivery>, StoreError> {
        let sql = "SELECT d.number, d.attempts, d.gives_up_at, d.created_at, e.payload
                   FROM deliveries d LEFT JOIN events e ON e.batch_id = d.batch_id AND e.number = d.number
                   WHERE d.batch_id = $1 AND d.state = 'pending' ORDER BY d.number LIMIT 1";
        let row = sqlx::query(sql)
            .bind(batch.to_string())
            .fetch_optional(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        let Some(row) = row else { return Ok(None) };
        let claimed = ClaimedDelivery {
            id: number(&row, batch)?,
            webhook,
            event: row.json("payload").ok(),
            at: row.time("created_at")?,
            attempts: row.count("attempts")?.saturating_add(1),
            gives_up_at: row.time("gives_up_at")?,
            fence,
        };
        let sql = "UPDATE deliveries SET attempts = attempts + 1 WHERE batch_id = $1 AND number = $2";
        let number = i64::try_from(claimed.id.number).map_err(StoreError::corrupt)?;
        let changed = sqlx::query(sql).bind(batch.to_string()).bind(number).execute(connection).await;
        changed.map_err(|error| self.error(error))?;
        Ok(Some(claimed))
    }

    /// Writes what became of a try, `at` a time of the wall clock; the batch's next delivery is due then. Whether it
    /// is written: not if the claim was lost.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written then, and the same may be tried again.
    pub async fn end_delivery(
        &self,
        claimed: &ClaimedDelivery,
        end: &DeliveryEnd,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        transaction!(self, |connection| {
            let (batch, fence) = (claimed.id.batch, claimed.fence);
            // Held before what waits is looked at: whoever adds a delivery meanwhile waits, or is seen.
            let sql = "UPDATE webhooks SET fence = fence WHERE batch_id = $1 AND fence = $2";
            let held = sqlx::query(sql).bind(batch.to_string()).bind(fence).execute(&mut *connection).await;
            if held.map_err(|error| self.error(error))?.rows_affected() == 0 {
                return Ok(false);
            }
            self.write_end(connection, claimed, end, at).await?;
            let due = match end.next {
                NextDelivery::Again(due) => Some(due),
                NextDelivery::Delivered | NextDelivery::GivenUp | NextDelivery::Gone => {
                    self.has_pending(connection, batch).await?.then(|| self.steady_now())
                }
            };
            self.end_claim(connection, batch, fence, due).await?;
            Ok(true)
        })
    }

    async fn write_end(
        &self,
        connection: &mut AnyConnection,
        claimed: &ClaimedDelivery,
        end: &DeliveryEnd,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let state = match end.next {
            NextDelivery::Delivered => DeliveryState::Delivered,
            NextDelivery::Again(_) => DeliveryState::Pending,
            NextDelivery::GivenUp | NextDelivery::Gone => DeliveryState::Failed,
        };
        let sql = "UPDATE deliveries SET state = $3, last_status = $4, last_error = $5, delivered_at = $6
                   WHERE batch_id = $1 AND number = $2";
        sqlx::query(sql)
            .bind(claimed.id.batch.to_string())
            .bind(i64::try_from(claimed.id.number).map_err(StoreError::corrupt)?)
            .bind(state.as_str())
            .bind(end.status.map(i64::from))
            .bind(end.error.as_ref())
            .bind((state == DeliveryState::Delivered).then_some(at.millis()))
            .execute(&mut *connection)
            .await
            .map_err(|error| self.error(error))?;
        if end.next == NextDelivery::Gone {
            let batch = claimed.id.batch.to_string();
            let sql =
                "UPDATE deliveries SET state = 'failed', last_error = $2 WHERE batch_id = $1 AND state = 'pending'";
            let changed = sqlx::query(sql).bind(&batch).bind(AFTER_GONE).execute(&mut *connection).await;
            changed.map_err(|error| self.error(error))?;
            let sql = "UPDATE webhooks SET gone = 1 WHERE batch_id = $1";
            let changed = sqlx::query(sql).bind(&batch).execute(connection).await;
            changed.map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    async fn has_pending(&self, connection: &mut AnyConnection, batch: BatchId) -> Result<bool, StoreError> {
        let sql = "SELECT COUNT(*) FROM (SELECT 1 AS one FROM deliveries
                   WHERE batch_id = $1 AND state = 'pending' LIMIT 1) pending";
        let pending: i64 = sqlx::query_scalar(sql)
            .bind(batch.to_string())
            .fetch_one(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(pending > 0)
    }

    async fn end_claim(
        &self,
        connection: &mut AnyConnection,
        batch: BatchId,
        fence: i64,
        due: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE webhooks SET worker = NULL, due = $3 WHERE batch_id = $1 AND fence = $2";
        sqlx::query(sql)
            .bind(batch.to_string())
            .bind(fence)
            .bind(due.map(Timestamp::millis))
            .execute(connection)
            .await
            .map_err(|error| self.error(error))?;
        Ok(())
    }
}
