//! The database: the truth about batches, money, claims, events and charges.
//!
//! One set of SQL serves SQLite and Postgres through sqlx's `Any`; what differs is in `dialect`.
//! All changes that belong together are one transaction. Locks are taken in one order everywhere:
//! batch, image, attempt, events, webhook, budget of everyone, budget of a user; rows that a transaction
//! itself inserts block nobody and may come later. After a commit that others wait for, a hint goes
//! out; hints carry nothing that the tables do not hold.
//!
//! This is the only module that knows SQL. It makes no ids and reads no clock but the database's:
//! both are given to it.

mod audit;
mod batch;
mod budget;
mod calls;
mod cancel;
mod day;
mod dialect;
mod events;
mod hints;
mod jobs;
mod keys;
mod leases;
mod ledger;
mod overview;
mod pool;
mod read;
mod reading;
mod relay;
mod restored;
mod retry;
mod rows;
mod runs;
mod settle;
mod submit;
mod uploads;
mod webhooks;
mod work;

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;

use sqlx::{AnyConnection, Connection as _};

pub use self::batch::FinishedBatch;
pub use self::budget::{BudgetRow, EVERYONE, Limits, user_scope};
pub use self::calls::{CallSlot, SlotOutcome};
pub use self::cancel::Cancelled;
pub use self::events::EventRow;
pub use self::hints::{BatchHints, Hints};
pub use self::jobs::{CallSpec, Held, Job};
pub use self::keys::{ListedKey, SessionRow};
pub use self::ledger::{DayState, PendingChunk};
pub use self::overview::{Queue, Unexported};
pub use self::read::{BatchFilter, BatchRow, ImageRow, ItemRow};
pub use self::retry::{FailedImage, FreshAttempt, NewRetry, RetryOutcome};
pub use self::runs::BatchRun;
pub use self::settle::{SettleRequest, Settled, SettledGroup};
pub use self::submit::{NewBatch, NewItem, SubmitOutcome};
pub use self::uploads::{UploadKey, UploadOutcome};
pub use self::webhooks::{ClaimedDelivery, DeliveryEnd, DeliveryRow, NextDelivery};
pub use self::work::Beats;

use self::day::Anchor;
use self::dialect::{Dialect, LOCK_WAIT, Trouble};
use self::pool::Pool;
use self::reading::Still;
use crate::clock::Clock;
use crate::domain::time::{Day, Timestamp};

/// Tries of a transaction that collides with others.
const MAX_COLLISIONS: u32 = 8;

/// Why the database could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away or too slow, or did not like what it was asked. Nothing was written.
    #[error("database unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// Its disk takes no more. Nothing was written.
    #[error(
        "the database cannot be written: its disk is full or fails; free some space, the service goes on by itself"
    )]
    Full(#[source] sqlx::Error),
    /// It takes no writes. Nothing was written.
    #[error("the database is read-only: make it writable again, the service goes on by itself")]
    ReadOnly(#[source] sqlx::Error),
    /// Another program has locked it for longer than requests wait. Nothing was written.
    #[error("another program has locked the database: end that program, the service goes on by itself")]
    Locked(#[source] sqlx::Error),
    /// Another transaction held what this one needs for too long. Nothing was written.
    #[error("waited too long for a lock")]
    LockWait,
    /// A request with the same key is being taken in. Nothing was written.
    #[error("a request with the same key is being taken in")]
    KeyInUse,
    /// A row holds what this program does not understand.
    #[error("unreadable row: {0}")]
    Corrupt(String),
    /// The schema could not be brought up to date.
    #[error("cannot migrate the database")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Another process works on this database file.
    #[error("{} is locked: another orchestrator uses this data directory", .0.display())]
    InUse(PathBuf),
    /// The lock file cannot be made.
    #[error("cannot lock {}", path.display())]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The URL names no engine this program knows.
    #[error("DATABASE_URL must start with sqlite: or postgres:")]
    UnknownEngine,
}

impl StoreError {
    /// Where the lock that was waited for is that of a client's key: another request has it.
    fn of_key(self, is_keyed: bool) -> Self {
        match self {
            Self::LockWait if is_keyed => Self::KeyInUse,
            error => error,
        }
    }

    fn corrupt(what: impl std::fmt::Display) -> Self {
        Self::Corrupt(what.to_string())
    }

    /// Whether the database itself did not answer: asking it for another row at once would not help.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            // A damaged row is no outage: others can be written.
            Self::Unavailable(sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::RowNotFound)
            | Self::KeyInUse
            | Self::Corrupt(_)
            | Self::Migration(_)
            | Self::InUse(_)
            | Self::LockFile { .. }
            | Self::UnknownEngine => false,
            Self::Unavailable(error) => {
                error.as_database_error().is_none_or(|error| error.code().is_some_and(|code| dialect::is_outage(&code)))
            }
            Self::LockWait | Self::Full(_) | Self::ReadOnly(_) | Self::Locked(_) => true,
        }
    }
}

/// The database. Cheap to share behind an `Arc`.
pub struct Store {
    dialect: Dialect,
    clock: Arc<dyn Clock>,
    writers: Pool,
    readers: Pool,
    hints: Hints,
    anchor: Anchor,
    /// Held for as long as the process works on an embedded database.
    _lock: Option<File>,
    /// Set where the file is read as one that does not change.
    still: Option<Still>,
}

/// Runs `$body` in one transaction, again if it collides with another one. A value for which
/// `$keep` is false is returned too, and the transaction rolled back. Each try has `$span`.
///
/// After any other error the connection is closed: an engine that failed to commit or to roll back
/// (a full disk does that) leaves one behind that can begin nothing.
macro_rules! transaction {
    ($store:expr, |$connection:ident| $body:expr) => {
        transaction!($store, |$connection| $body, |_| true)
    };
    ($store:expr, |$connection:ident| $body:expr, $keep:expr) => {
        transaction!($store, within $crate::store::pool::TRANSACTION, |$connection| $body, $keep)
    };
    ($store:expr, within $span:expr, |$connection:ident| $body:expr, $keep:expr) => {{
        let mut collisions = 0;
        loop {
            let mut lent = $store.writers.lend().await.map_err(|error| $store.error(error))?;
            let work = async {
                match sqlx::Connection::begin_with(&mut *lent, $store.dialect.begin()).await {
                    Err(error) => Err($store.error(error)),
                    Ok(mut transaction) => {
                        let $connection: &mut sqlx::AnyConnection = &mut transaction;
                        let result: Result<_, $crate::store::StoreError> = async { $body }.await;
                        let ended = match &result {
                            Ok(value) if $crate::store::decide_by($keep, value) => transaction.commit().await,
                            _ => transaction.rollback().await,
                        };
                        result.and_then(|value| ended.map(|()| value).map_err(|error| $store.error(error)))
                    }
                }
            };
            let result = $store.writers.within($span, work).await.map_err(|error| $store.error(error)).flatten();
            match result {
                Err(error) if collisions < $crate::store::MAX_COLLISIONS && $store.is_collision(&error) => {
                    lent.ended();
                    collisions += 1;
                }
                Err(error) => {
                    lent.spoilt();
                    break Err(error);
                }
                result => {
                    lent.ended();
                    break result;
                }
            }
        }
    }};
}
use transaction;

/// Asks `keep` about `value`; exists so that the type of a closure's argument is known.
fn decide_by<T>(keep: impl FnOnce(&T) -> bool, value: &T) -> bool {
    keep(value)
}

impl Store {
    /// Opens the database at `url` and brings its schema up to date.
    ///
    /// An embedded database is created if it is absent, and locked for this process.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it, [`StoreError::Migration`],
    /// [`StoreError::Unavailable`] or [`StoreError::UnknownEngine`].
    pub async fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::open_under(url, clock, true).await
    }

    /// Opens the database beside a process that may work on it, for changes that concern neither work nor money.
    ///
    /// # Errors
    /// As [`open`](Self::open), without [`StoreError::InUse`].
    pub async fn open_beside(url: &str, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        if Dialect::of(url) == Some(Dialect::Postgres) {
            // Nobody knows which versions run on it: a schema that has keys is left as it is.
            let store = Self::open_under(url, clock.clone(), false).await?;
            if store.has_keys().await.is_ok() {
                return Ok(store);
            }
            store.close().await;
        }
        match Self::open_under(url, clock.clone(), true).await {
            Err(StoreError::InUse(_)) => Self::open_under(url, clock, false).await,
            opened => opened,
        }
    }

    /// Opens the database; an embedded one under its lock, or as the process that has the lock left its schema.
    async fn open_under(url: &str, clock: Arc<dyn Clock>, lock: bool) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let dialect = Dialect::of(url).ok_or(StoreError::UnknownEngine)?;
        let file = match dialect {
            Dialect::Sqlite if lock => Some(lock_file(url)?),
            Dialect::Sqlite | Dialect::Postgres => None,
        };
        let unavailable = StoreError::Unavailable;
        let writing = match dialect {
            Dialect::Sqlite if !url.contains('?') => format!("{url}?mode=rwc"),
            _ => url.to_owned(),
        };
        // A pool tries for as long as it may and then says that it timed out; one connection says what is wrong.
        let first = async {
            let mut first = AnyConnection::connect(&writing).await?;
            sqlx::query(dialect.probe()).fetch_optional(&mut first).await?;
            first.close().await
        };
        let first = tokio::time::timeout(LOCK_WAIT, first).await;
        first.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(unavailable)?;
        let writers = dialect.writers().connect(&writing).await.map_err(unavailable)?;
        if lock {
            sqlx::migrate!().run(&writers).await?;
        }
        let readers = match dialect.readers() {
            Some(options) => options.connect(url).await.map_err(StoreError::Unavailable)?,
            None => writers.clone(),
        };
        let is_remote = dialect.is_remote();
        let mut store = Self {
            dialect,
            anchor: Anchor::new(clock.now(), clock.monotonic()),
            clock,
            writers: Pool::new(writers, is_remote),
            readers: Pool::new(readers, is_remote),
            hints: Hints::new(dialect == Dialect::Postgres),
            _lock: file,
            still: None,
        };
        let mut lent = store.readers.lend().await.map_err(StoreError::Unavailable)?;
        let wall = store.bounded(store.wall_clock(&mut lent)).await?;
        lent.ended();
        store.anchor = Anchor::new(wall, store.clock.monotonic());
        Ok(store)
    }

    /// Whether this process is the only one that can work on the database.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.dialect == Dialect::Sqlite
    }

    /// Says what changed, as it changes.
    #[must_use]
    pub const fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Whether the database takes a write: one is made, durably, to a row that nothing else reads. A transaction that
    /// changes nothing would succeed on a full disk.
    ///
    /// # Errors
    /// [`StoreError`], which says what is wrong.
    pub async fn ping(&self) -> Result<(), StoreError> {
        transaction!(self, |connection| {
            let sql = "INSERT INTO budget (scope, day, spent, reserved, unknown, overrun)
                       VALUES ('probe', 0, 0, 0, 0, 0) ON CONFLICT (scope) DO UPDATE SET day = 1 - budget.day";
            sqlx::query(sql).execute(connection).await.map_err(|error| self.error(error))?;
            Ok(())
        })
    }

    /// The database's clock when it was opened, and the time that has passed since: what pictures are due by, and what
    /// is kept for a while. A clock that is set in a running process moves neither.
    #[must_use]
    pub fn steady_now(&self) -> Timestamp {
        self.anchor.expected(self.clock.monotonic())
    }

    /// Closes every connection; what is under way ends first.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writers.close().await;
    }

    /// What reading on one connection gives, if it does in time.
    async fn bounded<T>(&self, read: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        self.readers.within(pool::TRANSACTION, read).await.map_err(|error| self.error(error)).flatten()
    }

    /// The UTC day of the database's clock, as long as that does not jump.
    async fn today(&self, connection: &mut AnyConnection) -> Result<Day, StoreError> {
        Ok(self.anchor.day(self.wall_clock(connection).await?, self.clock.monotonic()))
    }

    /// The database's clock: its own on Postgres, the process's where it is embedded.
    async fn wall_clock(&self, connection: &mut AnyConnection) -> Result<Timestamp, StoreError> {
        match self.dialect.now() {
            None => Ok(self.clock.now()),
            Some(sql) => {
                let millis: i64 =
                    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(|error| self.error(error))?;
                Ok(Timestamp::from_millis(millis))
            }
        }
    }

    fn error(&self, error: sqlx::Error) -> StoreError {
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        match code.map(|code| self.dialect.trouble(&code)) {
            Some(Trouble::LockWait) => StoreError::LockWait,
            Some(Trouble::Full) => StoreError::Full(error),
            Some(Trouble::ReadOnly) => StoreError::ReadOnly(error),
            Some(Trouble::Locked) => StoreError::Locked(error),
            Some(Trouble::Collision | Trouble::Other) | None => StoreError::Unavailable(error),
        }
    }

    fn is_collision(&self, error: &StoreError) -> bool {
        let StoreError::Unavailable(error) = error else { return false };
        error
            .as_database_error()
            .and_then(|error| error.code().map(|code| self.dialect.trouble(&code)))
            .is_some_and(|trouble| trouble == Trouble::Collision)
    }
}

/// Takes the lock that makes this process the only one on an embedded database.
fn lock_file(url: &str) -> Result<File, StoreError> {
    let options: sqlx::sqlite::SqliteConnectOptions = url.parse().map_err(StoreError::Unavailable)?;
    let path = options.get_filename().with_extension("lock");
    let failed = |source| StoreError::LockFile { path: path.clone(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path)),
        Err(TryLockError::Error(source)) => Err(StoreError::LockFile { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_cannot_be_read_is_no_outage_and_a_lost_connection_is_one() {
        let damaged = sqlx::Error::ColumnDecode { index: "reserved".to_owned(), source: "no number".into() };
        for error in [damaged, sqlx::Error::Decode("no number".into()), sqlx::Error::RowNotFound] {
            assert!(!StoreError::Unavailable(error).is_outage());
        }
        assert!(StoreError::Unavailable(sqlx::Error::PoolTimedOut).is_outage());
        assert!(StoreError::Unavailable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())).is_outage());
    }
}
