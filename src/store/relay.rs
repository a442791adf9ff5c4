//! The relay between the processes on one Postgres: what one of them changed wakes who waits in the others.
//!
//! Sends after the commit and outside of it, so that no transaction waits for another's notification;
//! what changes within [`PAUSE`] goes out together. A notification is only a hint: after any doubt
//! whether one was missed, everybody in this process is woken and reads the tables.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::postgres::PgListener;

use super::dialect::{CHANNEL, NOTIFY};
use super::hints::News;
use super::{Store, StoreError};
use crate::domain::ids::WorkerId;

/// The least time between two notifications of a process.
const PAUSE: Duration = Duration::from_millis(20);
/// A process that has nothing to say says so after this time, and hears itself.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);
/// A connection on which nothing was heard for so long, not even this process, is given up.
const SILENCE: Duration = Duration::from_mins(1);
/// The pause before a database that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(1);

impl Store {
    /// Passes hints on between this process, as `me`, and the others on the database at `url`, until it is
    /// dropped. Where there are no others it only waits.
    pub async fn relay(&self, url: &str, me: WorkerId) -> Infallible {
        if self.is_exclusive() {
            return std::future::pending().await;
        }
        let me = me.to_string();
        tokio::select! {
            never = self.send(me.clone()) => never,
            never = self.receive(url, &me) => never,
        }
    }

    /// Tells the other processes what was not told yet, as `me`; nothing, where there are none.
    ///
    /// # Errors
    /// [`StoreError`]; it is told the next time.
    pub async fn send_hints(&self, me: WorkerId) -> Result<(), StoreError> {
        if self.is_exclusive() { Ok(()) } else { self.send_news(&me.to_string()).await }
    }

    async fn send(&self, me: String) -> Infallible {
        loop {
            // Nothing to say is said too.
            drop(tokio::time::timeout(SIGN_OF_LIFE, self.hints.to_send.notified()).await);
            let pause = match self.send_news(&me).await {
                Ok(()) => PAUSE,
                Err(error) => {
                    tracing::debug!(%error, "cannot tell the other instances; they find out by themselves");
                    self.hints.to_send.notify_one();
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn send_news(&self, me: &str) -> Result<(), StoreError> {
        let news = self.hints.take();
        for message in news.messages(me) {
            if let Err(error) = sqlx::query(NOTIFY).bind(CHANNEL).bind(message).execute(&self.writers).await {
                self.hints.put_back(news);
                return Err(self.error(error));
            }
        }
        Ok(())
    }

    async fn receive(&self, url: &str, me: &str) -> Infallible {
        loop {
            match self.listen(url, me).await {
                Ok(()) => tracing::debug!("nothing was heard of any instance; listening anew"),
                Err(error) => {
                    tracing::warn!(%error, "cannot hear the other instances; they are noticed more slowly");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Listens on one connection, until it is silent.
    async fn listen(&self, url: &str, me: &str) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect(url).await?;
        let listening = tokio::time::timeout(SILENCE, listener.listen(CHANNEL)).await;
        listening.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
        // Whatever happened before this moment was not heard.
        self.hints.wake(&News::everything());
        loop {
            match tokio::time::timeout(SILENCE, listener.try_recv()).await {
                Err(_) => return Ok(()),
                // The connection was lost, and there is another one.
                Ok(heard) => match heard? {
                    None => self.hints.wake(&News::everything()),
                    Some(notification) => {
                        let (from, news) = News::parse(notification.payload());
                        if from != me {
                            self.hints.wake(&news);
                        }
                    }
                },
            }
        }
    }
}
