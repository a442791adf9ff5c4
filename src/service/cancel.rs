//! Cancelling a batch.

use super::batches::{Batches, ServiceError};
use super::finish::{LastFinish, log_if_finished};
use crate::domain::ids::{BatchId, UserId};
use crate::store::Cancelled;

impl Batches {
    /// Stops what has not started and releases its money; a finished batch stays as it is.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] or [`ServiceError::Unavailable`].
    pub async fn cancel(&self, caller: &UserId, batch: BatchId) -> Result<(), ServiceError> {
        let now = self.clock.now();
        match self.store.cancel(batch, caller, now).await? {
            Cancelled::NotFound => Err(ServiceError::NotFound),
            Cancelled::AlreadyOver => Ok(()),
            Cancelled::Stopped(pictures) => {
                tracing::info!(%batch, pictures, "batch cancelled");
                log_if_finished(&self.store, batch, now, &LastFinish::default()).await;
                Ok(())
            }
        }
    }
}
