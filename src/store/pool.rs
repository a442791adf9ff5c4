//! Connections on which nothing waits for ever.
//!
//! A server, or the network before it, can fall silent without a word: nothing ends the connection, and a statement
//! on it would wait for hours. So over a network each has its time; after that, or if whoever waited is gone, the
//! connection is closed, and the next try is made on another. An embedded engine always answers.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use sqlx::any::{AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Describe, Either, Error, Execute, Executor, SqlStr};

/// How long a statement may take; more than it may wait for a lock.
const STATEMENT: Duration = Duration::from_secs(20);
/// How long a transaction may take: the largest is a thousand statements, each over the network.
pub(super) const TRANSACTION: Duration = Duration::from_secs(30);
/// How long an import of a day of the ledger may take: a few statements a line.
pub(super) const IMPORT: Duration = Duration::from_mins(30);

/// Connections to a database.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    connections: AnyPool,
    /// Whether a network lies between.
    is_remote: bool,
}

/// A connection. It is closed when it is dropped, if that is not known to be needless.
pub(super) struct Lent {
    connection: PoolConnection<Any>,
    is_spoilt: bool,
}

impl Pool {
    pub(super) const fn new(connections: AnyPool, is_remote: bool) -> Self {
        Self { connections, is_remote }
    }

    /// A connection; who does not say that its work [ended](Lent::ended) closes it, over a network.
    pub(super) async fn lend(&self) -> Result<Lent, Error> {
        Ok(Lent { connection: self.connections.acquire().await?, is_spoilt: self.is_remote })
    }

    /// What `work` gives, if it does within `span`.
    pub(super) async fn within<T>(&self, span: Duration, work: impl Future<Output = T> + Send) -> Result<T, Error> {
        if !self.is_remote {
            return Ok(work.await);
        }
        let late = |_| Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database fell silent"));
        tokio::time::timeout(span, work).await.map_err(late)
    }

    /// Closes every connection; what is under way ends first.
    pub(super) async fn close(&self) {
        self.connections.close().await;
    }
}

impl Lent {
    /// The connection can serve others.
    pub(super) const fn ended(&mut self) {
        self.is_spoilt = false;
    }

    /// The connection cannot.
    pub(super) const fn spoilt(&mut self) {
        self.is_spoilt = true;
    }

    /// What came of a statement on it; whatever the server itself said proves that it is there.
    fn judge<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        if done.as_ref().err().is_none_or(|error| error.as_database_error().is_some()) {
            self.ended();
        }
        done
    }
}

impl Deref for Lent {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.is_spoilt {
            self.connection.close_on_drop();
        }
    }
}

/// A statement alone, on any connection. Its rows are there when all of them are.
impl<'p> Executor<'p> for &'_ Pool {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let pool = self.clone();
        let all = async move {
            let mut lent = pool.lend().await?;
            let done = pool.within(STATEMENT, lent.fetch_many(query).try_collect::<Vec<_>>()).await.flatten();
            lent.judge(done)
        };
        stream::once(all).map_ok(|steps| stream::iter(steps.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Any>,
    {
        let pool = self.clone();
        let one = async move {
            let mut lent = pool.lend().await?;
            let done = pool.within(STATEMENT, lent.fetch_optional(query)).await.flatten();
            lent.judge(done)
        };
        one.boxed()
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [AnyTypeInfo]) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        let prepared = async move {
            let mut lent = pool.lend().await?;
            let done = pool.within(STATEMENT, lent.prepare_with(sql, parameters)).await.flatten();
            lent.judge(done)
        };
        prepared.boxed()
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, Error>>
    where
        'p: 'e,
    {
        let pool = self.clone();
        let described = async move {
            let mut lent = pool.lend().await?;
            let done = pool.within(STATEMENT, lent.describe(sql)).await.flatten();
            lent.judge(done)
        };
        described.boxed()
    }
}
