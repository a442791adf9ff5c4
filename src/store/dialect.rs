//! All that differs between the two engines.

use std::time::Duration;

use sqlx::any::AnyPoolOptions;

/// The engine behind a `DATABASE_URL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Embedded: one process, one writer connection.
    Sqlite,
    /// Shared by several instances.
    Postgres,
}

/// Connections of a Postgres pool.
const POSTGRES_CONNECTIONS: u32 = 16;
/// Reading connections beside SQLite's writer.
const SQLITE_READERS: u32 = 4;
/// A process that is frozen in the middle of a transaction must not hold its locks for long: the
/// others would stand still with it.
const POSTGRES_SET_UP: &str = "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '5s'";
/// The same for a session that changes nothing, by the database's own word.
const POSTGRES_ONLY_READER: &str = "SET default_transaction_read_only = on; SET lock_timeout = '10s'";
/// No process of ours shares a SQLite file: a lock that lasts for so long is another program's, and asking again at
/// once would keep requests waiting as long again. Shorter than what `/readyz` waits for, so that it can say so.
const SQLITE_WRITER: &str =
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA busy_timeout=2000;";
/// Pages are read again from the system's cache: each reader would keep 2 MB of them otherwise, the longer it lives.
const SQLITE_READER: &str = "PRAGMA query_only=ON; PRAGMA busy_timeout=2000; PRAGMA cache_size=-256;";
/// Where the processes on one Postgres tell each other what they changed.
pub(super) const CHANNEL: &str = "orchestrator_hints";
/// Tells the listeners of channel `$1` the text `$2`; selects a number, as the function's own type is none.
pub(super) const NOTIFY: &str = "SELECT CASE WHEN pg_notify($1, $2) IS NULL THEN 0 ELSE 1 END";
/// How long a request waits for a connection, or on Postgres for a lock.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(10);

impl Dialect {
    /// The engine that `url` names.
    pub(super) fn of(url: &str) -> Option<Self> {
        if url.starts_with("sqlite:") {
            Some(Self::Sqlite)
        } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            Some(Self::Postgres)
        } else {
            None
        }
    }

    /// Whether a network lies between, which can fall silent.
    pub(super) fn is_remote(self) -> bool {
        self == Self::Postgres
    }

    /// Opens a transaction that may write. SQLite takes its one write lock at once, so that a
    /// transaction never fails half-way for want of it.
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    /// Opens a transaction that reads, and sees the database as it is at its first statement.
    pub(super) const fn snapshot(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// Lets several workers pick from the queue without waiting for each other.
    pub(super) const fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// The database's own clock in Unix milliseconds; `None` where the process's clock is the only one.
    pub(super) const fn now(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some("SELECT CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS BIGINT)"),
        }
    }

    /// The least that needs a database to be one: SQLite opens a file without looking into it.
    pub(super) const fn probe(self) -> &'static str {
        match self {
            Self::Sqlite => "PRAGMA schema_version",
            Self::Postgres => "SELECT 1",
        }
    }

    /// The pool that writes.
    pub(super) fn writers(self) -> AnyPoolOptions {
        match self {
            Self::Sqlite => pool(1, SQLITE_WRITER),
            Self::Postgres => pool(POSTGRES_CONNECTIONS, POSTGRES_SET_UP),
        }
    }

    /// The pool that only reads; `None` where the writers serve for that too.
    pub(super) fn readers(self) -> Option<AnyPoolOptions> {
        match self {
            Self::Sqlite => Some(pool(SQLITE_READERS, SQLITE_READER)),
            Self::Postgres => None,
        }
    }

    /// The one pool of a process that changes nothing.
    pub(super) fn only_readers(self) -> AnyPoolOptions {
        match self {
            Self::Sqlite => pool(1, SQLITE_READER),
            Self::Postgres => pool(1, POSTGRES_ONLY_READER),
        }
    }

    /// What an error code of the engine means for the next try.
    pub(super) fn trouble(self, code: &str) -> Trouble {
        match (self, code) {
            (Self::Postgres, "55P03") => Trouble::LockWait,
            (Self::Postgres, "40001" | "40P01") => Trouble::Collision,
            // disk_full, io_error; read_only_sql_transaction.
            (Self::Postgres, "53100" | "58030") => Trouble::Full,
            (Self::Postgres, "25006") => Trouble::ReadOnly,
            // The primary code is the low byte.
            (Self::Sqlite, code) => match code.parse::<i32>().map(|code| code & 0xff) {
                // SQLITE_BUSY, after `busy_timeout`; SQLITE_LOCKED, by another connection of this process.
                Ok(5) => Trouble::Locked,
                Ok(6) => Trouble::Collision,
                // SQLITE_READONLY; SQLITE_IOERR, which a file that may not grow gives too, and SQLITE_FULL.
                Ok(8) => Trouble::ReadOnly,
                Ok(10 | 13) => Trouble::Full,
                _ => Trouble::Other,
            },
            (Self::Postgres, _) => Trouble::Other,
        }
    }
}

/// Whether an error code says that the server takes no work now, whatever the work is: Postgres is being stopped or
/// started, has no connection left, or takes no write because it is not the primary any more.
pub(super) fn is_outage(code: &str) -> bool {
    matches!(code, "57P01" | "57P02" | "57P03" | "53300" | "25006") || (code.len() == 5 && code.starts_with("08"))
}

/// Why a statement failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Another transaction was in the way; the same again may pass.
    Collision,
    /// Another transaction held a lock for longer than [`LOCK_WAIT`].
    LockWait,
    /// The disk under it is full, or fails.
    Full,
    /// It takes no writes.
    ReadOnly,
    /// Another program held the lock of the whole database for longer than `busy_timeout`.
    Locked,
    /// Anything else.
    Other,
}

fn pool(connections: u32, set_up: &'static str) -> AnyPoolOptions {
    AnyPoolOptions::new().max_connections(connections).acquire_timeout(LOCK_WAIT).after_connect(move |connection, _| {
        Box::pin(async move {
            sqlx::raw_sql(set_up).execute(connection).await?;
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_takes_no_work_is_told_from_one_that_refuses_a_row() {
        for code in ["57P01", "57P03", "08006", "25006"] {
            assert!(is_outage(code), "{code}");
        }
        // A constraint, a collision; SQLite's busy and corrupt.
        for code in ["23505", "40001", "5", "11"] {
            assert!(!is_outage(code), "{code}");
        }
    }
}
