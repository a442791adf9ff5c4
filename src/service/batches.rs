//! What a caller can do with batches. One file a use case: `submit`, `cancel`, `read`.

use std::time::Duration;

use crate::domain::ids::{BatchId, UserId};
use crate::domain::money::MicroUsd;
use crate::domain::prices::PriceError;
use crate::domain::spec::{BatchSpec, SceneId};
use crate::domain::state::BatchState;
use crate::domain::time::Timestamp;
use crate::service::view::{BatchListView, BatchView, BudgetView, EstimateView};

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no such thing, or it is another user's.
    #[error("not found")]
    NotFound,
    /// The picture exists as a row and is not made yet.
    #[error("the picture is not made yet")]
    NotReady,
    /// A live batch was sent to a service that spends nothing.
    #[error("live batches are disabled")]
    LiveDisabled,
    /// A batch too large for what is left of a budget; nothing was written.
    #[error("the batch does not fit the budget")]
    BudgetExceeded(BudgetShortfall),
    /// The key was used with another body.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The first request with this key is still being taken in.
    #[error("a request with this idempotency key is being taken in")]
    KeyInProgress,
    /// The model cannot be used, or not at this size.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// A cursor that this service did not make.
    #[error("not a cursor of this service")]
    BadCursor,
    /// The store or the assets are away; trying again may help.
    #[error("a part of the service is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A fault of ours.
    #[error("internal fault")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What is missing for a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetShortfall {
    /// What the batch would reserve.
    pub estimated_cost: MicroUsd,
    /// What is left of the limit that it does not fit.
    pub remaining: MicroUsd,
    /// That limit.
    pub daily_limit: MicroUsd,
    /// When spent money starts at zero again.
    pub resets_at: Timestamp,
    /// Whether the limit is the caller's own.
    pub user_limit: bool,
}

/// A client's name for one submission: 1-255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The header's value.
    pub key: String,
    /// The hash of what was asked for: the same key with another hash is refused.
    pub request_hash: String,
}

/// An accepted submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitted {
    /// The batch.
    pub batch: BatchId,
    /// Whether an earlier request with the same key made it.
    pub replayed: bool,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Most entries; already checked against the route's bound.
    pub limit: u32,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

/// A redirect to a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureLink {
    /// A fresh link.
    pub url: String,
    /// When it expires.
    pub expires_at: Timestamp,
    /// How long the redirect may be cached: it ends before the link does.
    pub max_age: Duration,
}

/// The use cases of batches.
pub struct Batches;

impl Batches {
    /// Prices a batch; writes nothing.
    ///
    /// # Errors
    /// [`ServiceError::Price`].
    pub fn estimate(&self, spec: &BatchSpec) -> Result<EstimateView, ServiceError> {
        let _ = spec;
        todo!()
    }

    /// Reserves the money and accepts a live batch.
    ///
    /// # Errors
    /// [`ServiceError`]; nothing is written then.
    pub async fn submit(
        &self,
        caller: &UserId,
        spec: BatchSpec,
        idempotency: Option<Idempotency>,
    ) -> Result<Submitted, ServiceError> {
        todo!()
    }

    /// The batch with a page of items, every link fresh.
    pub async fn get(&self, caller: &UserId, batch: BatchId, page: &Page) -> Result<BatchView, ServiceError> {
        todo!()
    }

    /// The caller's batches, newest first.
    pub async fn list(
        &self,
        caller: &UserId,
        state: Option<BatchState>,
        page: &Page,
    ) -> Result<BatchListView, ServiceError> {
        todo!()
    }

    /// Waits until the batch is finished, at most `span`. Whether it is.
    pub async fn wait(&self, caller: &UserId, batch: BatchId, span: Duration) -> Result<bool, ServiceError> {
        todo!()
    }

    /// Stops what has not started and releases its money; a finished batch stays as it is.
    pub async fn cancel(&self, caller: &UserId, batch: BatchId) -> Result<(), ServiceError> {
        todo!()
    }

    /// A fresh link to one picture, or to its thumbnail.
    pub async fn picture_link(
        &self,
        caller: &UserId,
        batch: BatchId,
        scene: &SceneId,
        variant: u32,
        thumbnail: bool,
    ) -> Result<PictureLink, ServiceError> {
        todo!()
    }

    /// The day's money.
    pub async fn budget(&self, caller: &UserId) -> Result<BudgetView, ServiceError> {
        todo!()
    }
}
