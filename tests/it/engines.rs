//! Opens real databases for tests: a file of its own for SQLite, a database of its own on a real Postgres.

use std::future::Future;
use std::sync::Arc;

use orchestrator::clock::IdSource as _;
use orchestrator::clock::{Clock, RandomIds, SystemClock};
use orchestrator::store::Store;
use sqlx::AnyConnection;
use sqlx::Connection as _;

use crate::process::PATIENCE;

/// A database that lives as long as the test.
pub(crate) struct Database {
    pub(crate) url: String,
    folder: tempfile::TempDir,
}

impl Database {
    /// Opens the store as a process does.
    pub(crate) async fn open(&self, clock: Arc<dyn Clock>) -> Store {
        Store::open(&self.url, clock).await.unwrap()
    }

    /// A database that the test itself set up.
    pub(crate) fn at(url: String) -> Self {
        sqlx::any::install_default_drivers();
        Self { url, folder: tempfile::tempdir().unwrap() }
    }

    /// Runs statements behind the store's back.
    pub(crate) async fn execute(&self, sql: &str) {
        let mut connection = AnyConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// One number that a query gives, read behind the store's back.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let mut connection = AnyConnection::connect(&self.url).await.unwrap();
        let number = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        number
    }

    /// The first column of each row that a query gives, read behind the store's back.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = AnyConnection::connect(&self.url).await.unwrap();
        let texts = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        texts
    }

    /// Keeps the database as it is now. No process works on it.
    pub(crate) async fn back_up(&self) {
        match self.name() {
            None => self.copy_files("orchestrator.db", "backup.db"),
            Some(name) => {
                let leave = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
                // A killed process's connections end a moment after it.
                let deadline = std::time::Instant::now() + PATIENCE;
                while let Err(error) =
                    on_server(&[&leave, &format!("CREATE DATABASE {name}_backup TEMPLATE {name}")]).await
                {
                    assert!(std::time::Instant::now() < deadline, "{error}");
                }
            }
        }
    }

    /// Puts the database back to what [`back_up`](Self::back_up) kept, which is gone then. No process works on it.
    pub(crate) async fn restore(&self) {
        match self.name() {
            None => self.copy_files("backup.db", "orchestrator.db"),
            Some(name) => {
                let drop = format!("DROP DATABASE {name} WITH (FORCE)");
                on_server(&[&drop, &format!("ALTER DATABASE {name}_backup RENAME TO {name}")]).await.unwrap();
            }
        }
    }

    /// Its name on the Postgres server; `None` for a file.
    fn name(&self) -> Option<String> {
        let url = url::Url::parse(&self.url).unwrap();
        (url.scheme() != "sqlite").then(|| url.path().trim_start_matches('/').to_owned())
    }

    /// Copies a database file with its log.
    fn copy_files(&self, from: &str, to: &str) {
        for ending in ["", "-wal", "-shm"] {
            let [from, to] = [from, to].map(|name| self.folder().join(format!("{name}{ending}")));
            drop(std::fs::remove_file(&to));
            // The shared memory is made anew; a log that was folded in is not there.
            if ending != "-shm" && from.exists() {
                std::fs::copy(from, to).unwrap();
            }
        }
    }

    /// A folder for the test's files.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// Runs statements on the Postgres server, each on its own.
async fn on_server(statements: &[&str]) -> Result<(), sqlx::Error> {
    let mut admin = AnyConnection::connect(&std::env::var("TEST_DATABASE_URL").unwrap()).await?;
    for sql in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe((*sql).to_owned())).execute(&mut admin).await?;
    }
    admin.close().await
}

pub(crate) async fn on_sqlite<F: Future<Output = ()>>(test: impl FnOnce(Arc<Database>) -> F) {
    sqlx::any::install_default_drivers();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}?mode=rwc", folder.path().join("orchestrator.db").display());
    test(Arc::new(Database { url, folder })).await;
}

pub(crate) async fn on_postgres<F: Future<Output = ()>>(test: impl FnOnce(Arc<Database>) -> F) {
    let server = std::env::var("TEST_DATABASE_URL").expect(
        "TEST_DATABASE_URL names no Postgres server; scripts/test starts one, scripts/test --fast leaves these out",
    );
    sqlx::any::install_default_drivers();
    let name = format!("test_{}", RandomIds::default().next().to_string().to_lowercase());
    let mut admin = AnyConnection::connect(&server).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    test(Arc::new(Database { url: url.into(), folder: tempfile::tempdir().unwrap() })).await;
    let drop = sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
    sqlx::raw_sql(drop).execute(&mut admin).await.unwrap();
}

pub(crate) fn system_clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// Makes of each test function two tests: one on SQLite, one on Postgres.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crate::engines::on_sqlite(super::$name).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crate::engines::on_postgres(super::$name).await;
            })+
        }
    };
}
pub(crate) use on_both_engines;
