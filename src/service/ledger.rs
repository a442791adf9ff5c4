//! Exporting charges to the ledger: steps A to E, one day at a time, so that each line is there once.
//!
//! A. position the next lines and name their chunk, in one transaction. B. read the day's head.
//! C. write the chunk and append it, on the condition that the head has not moved. D. record it.
//! E. sweep the chunks. Every error and every lost answer goes back to B; the generation is the fence.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::execute::describe;
use crate::domain::time::Day;
use crate::ledger::{Chunk, DayHead, LedgerBucket, LedgerError};
use crate::store::{PendingChunk, Store, StoreError};
use crate::telemetry::Counters;

/// The least time between two exports while charges come in.
pub const EXPORT_PACE: Duration = Duration::from_secs(2);
/// What could not be exported is tried again after this time at the latest.
const EXPORT_AGAIN: Duration = Duration::from_secs(10);
/// Rounds through B and C before an export waits for the next pace.
const MAX_ROUNDS: u32 = 10;

/// Why an export did not end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database is away.
    #[error("cannot read the charges")]
    Store(#[from] StoreError),
    /// The ledger is away.
    #[error("cannot read or write the ledger")]
    Ledger(#[from] LedgerError),
    /// The ledger has fewer lines than were confirmed: somebody cut it.
    #[error(
        "the ledger of {day} has {found} lines, and {expected} were written: put the file back; the charges are kept in the database"
    )]
    Shrunk {
        /// The day.
        day: Day,
        /// Lines that are there.
        found: u64,
        /// Lines that were confirmed.
        expected: u64,
    },
    /// Others kept writing the day.
    #[error("the ledger of {0} kept changing under the export")]
    Contended(Day),
}

/// Writes charges to the ledger.
pub struct Exporter {
    store: Arc<Store>,
    bucket: Arc<dyn LedgerBucket>,
    counters: Arc<Counters>,
}

impl Exporter {
    /// Exports from `store` to `bucket`.
    #[must_use]
    pub fn new(store: Arc<Store>, bucket: Arc<dyn LedgerBucket>, counters: Arc<Counters>) -> Self {
        Self { store, bucket, counters }
    }

    /// Exports until the service stops: at most every [`EXPORT_PACE`], at once when a batch ends.
    pub async fn run(&self, draining: CancellationToken) {
        loop {
            self.export_logged().await;
            tokio::select! {
                () = draining.cancelled() => return,
                () = self.store.hints().batch_ended.notified() => continue,
                () = self.store.hints().charges.notified() => {}
                () = tokio::time::sleep(EXPORT_AGAIN) => {}
            }
            tokio::select! {
                () = draining.cancelled() => return,
                () = self.store.hints().batch_ended.notified() => {}
                () = tokio::time::sleep(EXPORT_PACE) => {}
            }
        }
    }

    /// Exports what there is; an error is logged, and the charges stay in the database.
    pub async fn export_logged(&self) {
        if let Err(error) = self.export_all().await {
            tracing::error!(error = %describe(&error), "charges wait in the database: the ledger cannot be written");
        }
    }

    /// Exports every charge that is not in the ledger yet.
    ///
    /// # Errors
    /// [`ExportError`]; what was not exported is tried again the next time.
    pub async fn export_all(&self) -> Result<(), ExportError> {
        let mut first_error = None;
        for day in self.store.unexported_days().await? {
            // A day that cannot be written does not keep the others waiting.
            if let Err(error) = self.export_day(day).await {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn export_day(&self, day: Day) -> Result<(), ExportError> {
        while let Some(pending) = self.store.pending_chunk(day).await? {
            self.export_chunk(day, pending).await?;
        }
        Ok(())
    }

    /// Takes today's exported lines into a database that does not know them. How many were new.
    ///
    /// # Errors
    /// [`ExportError`]; nothing is taken in then.
    pub async fn import(&self, day: Day) -> Result<u64, ExportError> {
        // A chunk that this database was about to append is its own business: the export goes on with it.
        let Some(known) = self.store.settled_count(day).await? else { return Ok(0) };
        // What the database knows already need not be readable, nor read.
        if self.bucket.count_day(day).await? <= known {
            return Ok(0);
        }
        let head = self.bucket.head(day).await?;
        let lines = self.bucket.read_day(day).await?;
        let new = self.store.import_lines(day, &lines, head.count).await?;
        tracing::warn!(%day, new, "took charges from the ledger that the database did not know");
        Ok(new)
    }

    /// Takes the ledger's lines of `day` into the database, each that is not there by its charge id, whatever
    /// the database holds for exported. How many were new; if none was, nothing is changed.
    ///
    /// # Errors
    /// [`ExportError`]; nothing is taken in then.
    pub async fn take_in(&self, day: Day) -> Result<u64, ExportError> {
        for _ in 0..MAX_ROUNDS {
            // Who has begun to append must have ended before the day is read, or its lines would be counted
            // as not exported.
            let Some(count) = self.store.settled_count(day).await? else {
                if let Some(pending) = self.store.pending_chunk(day).await? {
                    self.export_chunk(day, pending).await?;
                }
                continue;
            };
            let head = self.bucket.head(day).await?;
            let lines = self.bucket.read_day(day).await?;
            let ids: Vec<_> = lines.iter().map(|line| line.id).collect();
            if self.store.find_charges(&ids).await?.len() == ids.iter().collect::<HashSet<_>>().len() {
                return Ok(0);
            }
            if let Some(new) = self.store.import_lines_after(day, &lines, head.count, count).await? {
                return Ok(new);
            }
        }
        Err(ExportError::Contended(day))
    }

    async fn export_chunk(&self, day: Day, pending: PendingChunk) -> Result<(), ExportError> {
        let chunk =
            Chunk { day, from: pending.from, to: pending.to, name: pending.name.clone(), lines: pending.lines.clone() };
        let mut last_error = None;
        for _ in 0..MAX_ROUNDS {
            let head = self.bucket.head(day).await?;
            match self.place(&head, &chunk, &pending).await? {
                Place::Done => {
                    if self.store.confirm_chunk(day, &pending).await? {
                        self.counters.ledger_lines.add(pending.to + 1 - pending.from);
                    }
                    return Ok(self.bucket.sweep(day, pending.to).await?);
                }
                Place::Dropped => return Ok(()),
                Place::Append => {
                    if let Err(error) = self.append(&chunk, &head).await {
                        last_error = Some(error);
                    }
                }
            }
        }
        Err(last_error.map_or(ExportError::Contended(day), ExportError::Ledger))
    }

    async fn append(&self, chunk: &Chunk, head: &DayHead) -> Result<(), LedgerError> {
        self.bucket.write_chunk(chunk).await?;
        self.bucket.append(chunk, head).await
    }

    /// Step B: what the day's head says about the chunk.
    async fn place(&self, head: &DayHead, chunk: &Chunk, pending: &PendingChunk) -> Result<Place, ExportError> {
        let mine = head.last_chunk.as_ref().is_none_or(|last| *last == chunk.name);
        if head.count == chunk.to && mine {
            return Ok(Place::Done);
        }
        // Some of the chunk's lines can be there only where an append can be torn; a bucket that knows its last
        // chunk holds other lines there.
        let torn = head.last_chunk.is_none() && head.count + 1 > chunk.from && head.count < chunk.to;
        if head.count + 1 == chunk.from || torn {
            return Ok(Place::Append);
        }
        if !self.store.is_pending(chunk.day, pending).await? {
            return Ok(Place::Dropped);
        }
        if head.count < chunk.from {
            return Err(ExportError::Shrunk { day: chunk.day, found: head.count, expected: chunk.from - 1 });
        }
        tracing::error!(day = %chunk.day, "the ledger is ahead of the database: importing what it holds");
        let lines = self.bucket.read_day(chunk.day).await?;
        self.store.import_lines(chunk.day, &lines, head.count).await?;
        Ok(Place::Dropped)
    }
}

/// Where a chunk belongs.
enum Place {
    /// It is in the day's object.
    Done,
    /// It is next.
    Append,
    /// It is not pending any more.
    Dropped,
}
