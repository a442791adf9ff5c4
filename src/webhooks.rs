//! The port to the receivers of webhooks: addresses that strangers wrote, which are told what happened in a batch.

pub mod web;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::webhook::MessageId;

/// Time for one try, from resolution to the answer's head.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// Most bytes of an answer's body that are read. They are not looked at.
pub const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// A signed message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The same at each try.
    pub id: MessageId,
    /// The time of this try, in Unix seconds.
    pub seconds: i64,
    /// The value of `webhook-signature`.
    pub signature: String,
    /// What is told, as JSON.
    pub body: Bytes,
}

/// What a receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The status. No redirect is followed.
    pub status: u16,
    /// The pause that it asked for.
    pub retry_after: Option<Duration>,
}

/// A receiver did not answer, or is where this service does not go. The message names no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CourierError(pub String);

/// Takes messages to their receivers.
#[async_trait]
pub trait Courier: Send + Sync + 'static {
    /// Whether messages may go to `url`, as far as can be seen in the URL itself.
    ///
    /// # Errors
    /// [`CourierError`] says why not.
    fn check(&self, url: &str) -> Result<(), CourierError>;

    /// Sends `message` to `url`, once.
    ///
    /// # Errors
    /// [`CourierError`]; the receiver may have got the message all the same.
    async fn deliver(&self, url: &str, message: Message) -> Result<Reply, CourierError>;
}
