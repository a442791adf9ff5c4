//! Cancelling a batch.

use super::batches::{Batches, ServiceError};
use super::ended::BatchEnds;
use crate::domain::ids::{BatchId, UserId};
use crate::store::Cancelled;
use crate::telemetry::metrics::PictureOutcome;

impl Batches {
    /// Stops what has not started and releases its money; a finished batch stays as it is.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] or [`ServiceError::Unavailable`].
    pub async fn cancel(&self, caller: &UserId, batch: BatchId) -> Result<(), ServiceError> {
        match self.store.cancel(batch, caller, self.clock.now()).await? {
            Cancelled::NotFound => Err(ServiceError::NotFound),
            Cancelled::AlreadyOver => Ok(()),
            Cancelled::Stopped { pictures, finished } => {
                tracing::info!(%batch, pictures, "batch cancelled");
                if let Some(finished) = finished {
                    BatchEnds::log(&finished);
                    self.ends.trace(&finished).await;
                }
                // Done as it is: what cannot be counted is not told to the client.
                if let Ok(Some(batch)) = self.store.load_batch(batch, caller).await {
                    self.metrics.pictures_ended(&batch.model, PictureOutcome::Cancelled, pictures.into());
                }
                Ok(())
            }
        }
    }
}
