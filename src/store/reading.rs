//! Opening a database only to read it: no lock, no schema change, not a byte written.
//!
//! On SQLite that is sound beside the process that owns the file: its log of changes (WAL) gives each
//! reader a state of its own. With no process at work there is no such log, and opening would make one;
//! so the file is then read as one that does not change, and [`Store::was_disturbed`] says afterwards
//! whether that was true.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sqlx::{AnyConnection, Connection as _};

use super::day::Anchor;
use super::dialect::{Dialect, LOCK_WAIT};
use super::pool::Pool;
use super::{Hints, Store, StoreError};
use crate::clock::Clock;

/// A database file that is taken for one that does not change, as it was when it was opened.
#[derive(Debug)]
pub(super) struct Still {
    file: PathBuf,
    was: Option<(u64, SystemTime)>,
}

/// The log that SQLite keeps beside a file while a process works on it.
fn log_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

fn state(file: &Path) -> Option<(u64, SystemTime)> {
    let state = |data: Metadata| Some((data.len(), data.modified().ok()?));
    std::fs::metadata(file).ok().and_then(state)
}

impl Still {
    fn of(file: &Path) -> Option<Self> {
        let was = state(file);
        (!log_of(file).exists()).then(|| Self { file: file.to_owned(), was })
    }

    fn was_disturbed(&self) -> bool {
        log_of(&self.file).exists() || state(&self.file) != self.was
    }
}

/// A SQLite URL that opens the file for reading alone.
fn reading_url(url: &str, still: bool) -> String {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let kept = query.split('&').filter(|pair| {
        !pair.is_empty() && !["mode", "immutable"].contains(&pair.split('=').next().unwrap_or_default())
    });
    let mut pairs: Vec<&str> = kept.collect();
    pairs.push("mode=ro");
    if still {
        pairs.push("immutable=true");
    }
    format!("{path}?{}", pairs.join("&"))
}

impl Store {
    /// Opens the database at `url` to read it, also while another process works on it, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also if there is none, or [`StoreError::UnknownEngine`].
    pub async fn open_to_read(url: &str, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let dialect = Dialect::of(url).ok_or(StoreError::UnknownEngine)?;
        let (url, still) = match dialect {
            Dialect::Sqlite => {
                let options: sqlx::sqlite::SqliteConnectOptions = url.parse().map_err(StoreError::Unavailable)?;
                let still = Still::of(options.get_filename());
                (reading_url(url, still.is_some()), still)
            }
            Dialect::Postgres => (url.to_owned(), None),
        };
        // A pool tries for as long as it may and then says that it timed out; one connection says what is wrong.
        let first = async { AnyConnection::connect(&url).await?.close().await };
        let first = tokio::time::timeout(LOCK_WAIT, first).await;
        first.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(StoreError::Unavailable)?;
        let readers = dialect.only_readers().connect(&url).await.map_err(StoreError::Unavailable)?;
        let readers = Pool::new(readers, dialect.is_remote());
        Ok(Self {
            dialect,
            anchor: Anchor::new(clock.now(), clock.monotonic()),
            clock,
            writers: readers.clone(),
            readers,
            hints: Hints::new(false),
            _lock: None,
            still,
        })
    }

    /// Whether what was read may be a mixture: another process began to work on a file that nobody seemed to
    /// work on. To be asked at the end; then open it anew, and read all of it again.
    #[must_use]
    pub fn was_disturbed(&self) -> bool {
        self.still.as_ref().is_some_and(Still::was_disturbed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_for_writing_becomes_one_for_reading() {
        assert_eq!(reading_url("sqlite:/a/b.db", false), "sqlite:/a/b.db?mode=ro");
        assert_eq!(
            reading_url("sqlite:b.db?mode=rwc&cache=private", true),
            "sqlite:b.db?cache=private&mode=ro&immutable=true"
        );
    }

    #[test]
    fn a_file_is_disturbed_by_a_log_and_by_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("o.db");
        std::fs::write(&file, "a").unwrap();
        let still = Still::of(&file).unwrap();
        assert!(!still.was_disturbed());
        std::fs::write(log_of(&file), "").unwrap();
        assert!(still.was_disturbed() && Still::of(&file).is_none());
        std::fs::remove_file(log_of(&file)).unwrap();
        std::fs::write(&file, "ab").unwrap();
        assert!(still.was_disturbed());
    }
}
