//! Progress streams: replay from the table, then follow, without a hole.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::domain::ids::{BatchId, UserId};
use crate::service::batches::ServiceError;

/// What a client that asks for progress gets.
pub enum Subscription {
    /// It has seen everything, and the batch is done.
    Ended,
    /// Frames of the event stream, `retry:` first; ends after `done`, or when the service stops.
    Frames(BoxStream<'static, Bytes>),
}

/// All progress streams of this process.
pub struct Feeds;

impl Feeds {
    /// Opens a stream of the events after number `after`.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] or [`ServiceError::Unavailable`].
    pub async fn open(
        self: &Arc<Self>,
        caller: &UserId,
        batch: BatchId,
        after: u64,
    ) -> Result<Subscription, ServiceError> {
        todo!()
    }
}
