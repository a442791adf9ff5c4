//! Exporting charges to the ledger: steps A to E, one day at a time, so that each line is there once.
//!
//! A. position the next lines and name their chunk, in one transaction. B. read the day's head.
//! C. write the chunk and append it, on the condition that the head has not moved. D. record it.
//! E. sweep the chunks. Every error and every lost answer goes back to B; the generation is the fence.
//! While the ledger is away, charges wait in the database, and what keeps them is said to whoever asks.
//! Of several instances one exports, the one with the lease; that saves the others the work, and nothing
//! depends on it. Who fails gives the lease up.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::execute::describe;
use crate::clock::{Clock, IdSource};
use crate::domain::ids::WorkerId;
use crate::domain::time::{Day, Timestamp};
use crate::failpoint;
use crate::ledger::{Chunk, DayHead, LedgerBucket, LedgerError};
use crate::store::{DayState, PendingChunk, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// The least time between two exports while charges come in.
pub const EXPORT_PACE: Duration = Duration::from_secs(2);
/// What could not be exported is tried again after this time at the latest.
const EXPORT_AGAIN: Duration = Duration::from_secs(10);
/// Who has no lease writes all the same when charges wait for so long and no line was written meanwhile: the other
/// one was killed, or stands still.
const STALLED: Duration = Duration::from_secs(6);
/// Rounds through B and C before an export waits for the next pace.
const MAX_ROUNDS: u32 = 10;
/// Failures of a write, each after the ledger's own tries, before an export waits for the next pace.
const MAX_FAILURES: u32 = 2;

/// Days of the ledger that a start compares with the database at most.
const MAX_DAYS_COMPARED: i64 = 31;
/// What is said while a start could not compare the ledger with the database.
const NOT_COMPARED: &str = "no call starts: the ledger did not answer at the start, and may hold charges that the \
     database does not know; it is asked again every 10 s";
const WRITTEN_AGAIN: &str = "the ledger is written again, with every charge that waited";

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
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    metrics: Arc<Metrics>,
    import_owed: AtomicBool,
    /// Since when charges wait, if they do.
    trouble: Mutex<Option<Timestamp>>,
    /// While another instance is to write: the lines that were written, and since when no more are.
    watched: Mutex<Option<(u64, Duration)>>,
}

/// What came of a process's turn to export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Every charge is exported, or another instance's to export.
    Done,
    /// Charges wait for another instance.
    Waiting,
    /// Charges wait, and this process cannot export them.
    Failed,
}

impl Exporter {
    /// Exports from `store` to `bucket`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        bucket: Arc<dyn LedgerBucket>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store,
            bucket,
            clock,
            ids,
            metrics,
            import_owed: AtomicBool::new(false),
            trouble: Mutex::default(),
            watched: Mutex::default(),
        }
    }

    /// Why charges wait in the database, and since when; `None` while they are exported. Nothing is lost by it.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let since = *self.lock();
        if self.owes_import() {
            return Some(NOT_COMPARED.to_owned());
        }
        let since = since?;
        Some(format!("charges wait in the database since {since}: the ledger cannot be written; the log says why"))
    }

    /// Exports until the service stops, while no other instance does as worker `me` does: at most every
    /// [`EXPORT_PACE`], at once when a batch ends. An export that is under way then has `last_export`, and is left
    /// where it is: every step can be taken up again.
    pub async fn run(&self, me: WorkerId, draining: CancellationToken, last_export: Duration) {
        let mut over = std::pin::pin!(last_moment(draining.clone(), last_export));
        let mut tidied = false;
        loop {
            let export = async {
                let turn = self.export_in_turn(me).await;
                if !tidied {
                    self.tidy().await;
                }
                turn
            };
            let turn = tokio::select! {
                () = &mut over => return,
                turn = export => turn,
            };
            tidied = true;
            let pause = match turn {
                Turn::Waiting => EXPORT_PACE,
                Turn::Done | Turn::Failed => EXPORT_AGAIN,
            };
            // Who failed lets the others try, if there are any.
            let is_eager = turn != Turn::Failed || self.store.is_exclusive();
            tokio::select! {
                () = draining.cancelled() => return,
                () = self.store.hints().batch_ended.notified(), if is_eager => continue,
                () = self.store.hints().charges.notified(), if is_eager => {}
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                () = draining.cancelled() => return,
                () = self.store.hints().batch_ended.notified() => {}
                () = tokio::time::sleep(EXPORT_PACE) => {}
            }
        }
    }

    /// Step E once more for the last two days: a process that ended between D and E left a chunk that is no longer needed.
    async fn tidy(&self) {
        let today = self.clock.now().day();
        for day in [Day::from_number(today.number() - 1), today] {
            let swept = async {
                match self.store.settled_count(day).await? {
                    Some(count) if count > 0 => Ok::<_, ExportError>(self.bucket.sweep(day, count).await?),
                    _ => Ok(()),
                }
            };
            if let Err(error) = swept.await {
                tracing::debug!(%day, error = %describe(&error), "chunks of the ledger are left for the next sweep");
            }
        }
    }

    /// Exports what there is, if worker `me` has the lease, can get it, or waited for its holder in vain; gives it
    /// up if it cannot export.
    pub async fn export_in_turn(&self, me: WorkerId) -> Turn {
        let turn = match self.has_turn(me).await {
            Ok(turn) => turn,
            Err(error) => {
                self.note(Err(error), WRITTEN_AGAIN);
                return Turn::Failed;
            }
        };
        if let Some(turn) = turn {
            // What only this process knows is not left to the other.
            let taken_in = self.import_owed().await;
            let turn = if taken_in.is_ok() { turn } else { Turn::Failed };
            self.note(taken_in, "another instance writes the ledger");
            return turn;
        }
        let exported = self.export_all().await;
        let turn = if exported.is_ok() { Turn::Done } else { Turn::Failed };
        self.note(exported, WRITTEN_AGAIN);
        if turn == Turn::Failed
            && let Err(error) = self.store.give_up_ledger_lease(me).await
        {
            tracing::debug!(error = %describe(&error), "the lease of the ledger is kept");
        }
        turn
    }

    /// `None` if it is `me` who exports now; else what came of the turn.
    async fn has_turn(&self, me: WorkerId) -> Result<Option<Turn>, ExportError> {
        if self.store.take_ledger_lease(me).await? {
            self.watch(None);
            return Ok(None);
        }
        if self.store.unexported_days().await?.is_empty() {
            self.watch(None);
            return Ok(Some(Turn::Done));
        }
        let waited = self.watch(Some(self.store.confirmed_lines().await?));
        if waited < STALLED {
            return Ok(Some(Turn::Waiting));
        }
        tracing::warn!("the instance that writes the ledger does not get on: writing it here");
        self.watch(None);
        self.store.seize_ledger_lease(me).await?;
        Ok(None)
    }

    /// Notes how many lines are `written` while charges wait; for how long no more were.
    fn watch(&self, written: Option<u64>) -> Duration {
        let now = self.clock.monotonic();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = written.map(|lines| match *watched {
            Some((before, since)) if before == lines => (lines, since),
            _ => (lines, now),
        });
        watched.map_or(Duration::ZERO, |(_, since)| now.saturating_sub(since))
    }

    /// Exports what there is, whoever has the lease; an error is logged, and the charges stay in the database.
    pub async fn export_logged(&self) {
        self.note(self.export_all().await, WRITTEN_AGAIN);
    }

    /// Remembers whether charges wait; says `mended` if they do no longer.
    fn note(&self, exported: Result<(), ExportError>, mended: &'static str) {
        let mut trouble = self.lock();
        match exported {
            Ok(()) => {
                if trouble.take().is_some() {
                    tracing::info!("{mended}");
                }
            }
            Err(error) => {
                tracing::error!(error = %describe(&error), "charges wait in the database: the ledger cannot be written");
                trouble.get_or_insert_with(|| self.clock.now());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Timestamp>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exports every charge that is not in the ledger yet.
    ///
    /// # Errors
    /// [`ExportError`]; what was not exported is tried again the next time.
    pub async fn export_all(&self) -> Result<(), ExportError> {
        self.import_owed().await?;
        let mut first_error = None;
        for day in self.store.unexported_days().await? {
            // A day that cannot be written does not keep the others waiting.
            if let Err(error) = self.export_day(day).await {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Takes in what could not be taken in at the start.
    async fn import_owed(&self) -> Result<(), ExportError> {
        if self.owes_import() {
            self.import_recent().await?;
        }
        Ok(())
    }

    async fn export_day(&self, day: Day) -> Result<(), ExportError> {
        while let Some(pending) = self.store.pending_chunk(day).await? {
            failpoint::hit("ledger.positioned");
            self.export_chunk(day, pending).await?;
        }
        Ok(())
    }

    /// Takes exported lines of `day` into a database that does not know them. How many were new. A day of which the
    /// ledger holds no more than was confirmed is not read.
    ///
    /// # Errors
    /// [`ExportError`]; nothing is taken in then.
    pub async fn import(&self, day: Day) -> Result<u64, ExportError> {
        let new = self.import_day(day, false).await?;
        if new > 0 {
            tracing::warn!(%day, new, "took charges from the ledger that the database did not know");
        }
        Ok(new)
    }

    /// As [`import`](Self::import), for every day from the last on which the database saw money move until today, at
    /// most [`MAX_DAYS_COMPARED`]: what a backup does not know was charged on one of them. Nothing is owed then.
    ///
    /// # Errors
    /// [`ExportError`]; days before the one that failed may be taken in.
    pub async fn import_recent(&self) -> Result<u64, ExportError> {
        let today = self.clock.now().day();
        let last = self.store.last_day().await?.unwrap_or(today);
        let oldest = Day::from_number(today.number() + 1 - MAX_DAYS_COMPARED);
        let mut new = 0;
        for day in last.clamp(oldest, today).number()..=today.number() {
            new += self.import(Day::from_number(day)).await?;
        }
        self.import_owed.store(false, Ordering::SeqCst);
        Ok(new)
    }

    /// Takes the ledger's lines of `day` into the database, each that is not there by its charge id, whatever
    /// the database holds for exported. How many were new; if none was, nothing is changed.
    ///
    /// # Errors
    /// [`ExportError`]; nothing is taken in then.
    pub async fn take_in(&self, day: Day) -> Result<u64, ExportError> {
        self.import_day(day, true).await
    }

    /// Reads the day if it must be so, and otherwise if it may hold what is not known.
    async fn import_day(&self, day: Day, in_any_case: bool) -> Result<u64, ExportError> {
        for _ in 0..MAX_ROUNDS {
            let settled = self.store.settled_count(day).await?;
            let pending = match settled {
                Some(_) => None,
                None => self.store.pending_chunk(day).await?,
            };
            let seen = match (settled, &pending) {
                (Some(count), _) => DayState::Settled(count),
                (None, Some(pending)) => DayState::Pending(pending),
                (None, None) => continue,
            };
            if let (false, Some(count)) = (in_any_case, settled)
                && !self.bucket.may_hold_more(day, count).await?
            {
                return Ok(0);
            }
            let head = self.bucket.head(day).await?;
            let lines = self.bucket.read_day(day).await?;
            let ids: Vec<_> = lines.iter().map(|line| line.id).collect();
            if self.store.find_charges(&ids).await?.len() == ids.iter().collect::<HashSet<_>>().len() {
                return Ok(0);
            }
            // If somebody appends meanwhile, the export that meets those lines looks at them again.
            if let Some(new) = self.store.import_lines(day, &lines, head.count, seen, self.ids.as_ref()).await? {
                return Ok(new);
            }
        }
        Err(ExportError::Contended(day))
    }

    /// Says that the ledger could not be compared with the database, and is to be before anything is exported or
    /// a call starts.
    pub fn owe_import(&self) {
        self.import_owed.store(true, Ordering::SeqCst);
    }

    /// Whether the ledger may hold charges of this database's own calls that the database does not know.
    #[must_use]
    pub fn owes_import(&self) -> bool {
        self.import_owed.load(Ordering::SeqCst)
    }

    async fn export_chunk(&self, day: Day, pending: PendingChunk) -> Result<(), ExportError> {
        let chunk =
            Chunk { day, from: pending.from, to: pending.to, name: pending.name.clone(), lines: pending.lines.clone() };
        let (mut last_error, mut failures) = (None, 0);
        for _ in 0..MAX_ROUNDS {
            let head = self.bucket.head(day).await?;
            failpoint::hit("ledger.head_read");
            match self.place(&head, &chunk, &pending).await? {
                Place::Done => {
                    if self.store.confirm_chunk(day, &pending).await? {
                        self.metrics.ledger_lines.inc_by(pending.to + 1 - pending.from);
                    }
                    failpoint::hit("ledger.confirmed");
                    self.bucket.sweep(day, pending.to).await?;
                    failpoint::hit("ledger.swept");
                    return Ok(());
                }
                Place::Dropped => return Ok(()),
                Place::Append => {
                    if let Err(error) = self.append(&chunk, &head).await {
                        failures += u32::from(!matches!(error, LedgerError::Moved));
                        last_error = Some(error);
                    }
                    if failures >= MAX_FAILURES {
                        break;
                    }
                }
            }
        }
        Err(last_error.map_or(ExportError::Contended(day), ExportError::Ledger))
    }

    async fn append(&self, chunk: &Chunk, head: &DayHead) -> Result<(), LedgerError> {
        self.bucket.write_chunk(chunk).await?;
        failpoint::hit("ledger.chunk_written");
        self.bucket.append(chunk, head).await?;
        failpoint::hit("ledger.appended");
        Ok(())
    }

    /// Step B: what the day's head says about the chunk.
    async fn place(&self, head: &DayHead, chunk: &Chunk, pending: &PendingChunk) -> Result<Place, ExportError> {
        if (chunk.from..=chunk.to + 1).contains(&(head.count + 1)) && self.bucket.holds(chunk, head).await? {
            return Ok(if head.count == chunk.to { Place::Done } else { Place::Append });
        }
        if !self.store.is_pending(chunk.day, pending).await? {
            return Ok(Place::Dropped);
        }
        if head.generation == 0 {
            let (day, lines) = (chunk.day, chunk.from - 1);
            tracing::error!(%day, lines, "the ledger of this day is gone: it is written anew from the database");
            self.store.export_anew(day, pending).await?;
            return Ok(Place::Dropped);
        }
        if head.count + 1 < chunk.from {
            return Err(ExportError::Shrunk { day: chunk.day, found: head.count, expected: chunk.from - 1 });
        }
        tracing::error!(day = %chunk.day, "the ledger is ahead of the database: importing what it holds");
        let lines = self.bucket.read_day(chunk.day).await?;
        let seen = DayState::Pending(pending);
        self.store.import_lines(chunk.day, &lines, head.count, seen, self.ids.as_ref()).await?;
        Ok(Place::Dropped)
    }
}

/// Ends so much later than the service begins to stop.
async fn last_moment(draining: CancellationToken, later: Duration) {
    draining.cancelled_owned().await;
    tokio::time::sleep(later).await;
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
