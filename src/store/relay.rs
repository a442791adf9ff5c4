//! The relay between the processes on one Postgres: what one of them changed wakes who waits in the others.
//!
//! Sends after the commit and outside of it, so that no transaction waits for another's notification;
//! what changes within [`PAUSE`] goes out together. A notification is only a hint: after any doubt
//! whether one was missed, everybody in this process is woken and reads the tables.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use super::Store;
use super::dialect::{CHANNEL, NOTIFY};
use super::hints::News;
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
    /// Passes hints on between this process, as `me`, and the others on the database at `url`, until `stop`.
    /// Where there are no others it only waits.
    pub async fn relay(&self, url: &str, me: WorkerId, stop: CancellationToken) {
        if self.is_exclusive() {
            return stop.cancelled().await;
        }
        let me = me.to_string();
        self.hints.gather();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send(&me) => {}
            () = self.receive(url, &me) => {}
        }
        self.hints.stop_gathering();
    }

    async fn send(&self, me: &str) {
        loop {
            // Nothing to say is said too.
            drop(tokio::time::timeout(SIGN_OF_LIFE, self.hints.to_send.notified()).await);
            let news = self.hints.take();
            let mut pause = PAUSE;
            for message in news.messages(me) {
                let sent = sqlx::query(NOTIFY).bind(CHANNEL).bind(message).execute(&self.writers).await;
                if let Err(error) = sent {
                    tracing::debug!(%error, "cannot tell the other instances; they find out by themselves");
                    self.hints.put_back(news);
                    self.hints.to_send.notify_one();
                    pause = AGAIN;
                    break;
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn receive(&self, url: &str, me: &str) {
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
        listener.listen(CHANNEL).await?;
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
