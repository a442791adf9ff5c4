//! What a caller can do with batches. One file a use case: `submit`, `cancel`, `retry`, `read`.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::MoneyRules;
use super::ended::BatchEnds;
use super::links::Links;
use super::view::WebhookView;
use crate::assets::AssetError;
use crate::clock::{Clock, IdSource};
use crate::domain::ids::BatchId;
use crate::domain::money::{MicroUsd, MoneyError};
use crate::domain::prices::{PriceError, PriceTable};
use crate::domain::state::ImageError;
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// Why a request cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is no such batch, or it is another user's.
    #[error("no such batch")]
    NotFound,
    /// The batch has no such picture.
    #[error("no such picture")]
    NoPicture,
    /// The picture has no thumbnail.
    #[error("no thumbnail")]
    NoThumbnail,
    /// The picture will not be made, for this reason; none if it was cancelled.
    #[error("the picture was not made")]
    NotMade(Option<ImageError>),
    /// The picture exists as a row and is not made yet.
    #[error("the picture is not made yet")]
    NotReady,
    /// A live batch was sent to a service that spends nothing.
    #[error("live batches are disabled")]
    LiveDisabled,
    /// A batch too large for what is left of a budget; nothing was written.
    #[error("the batch does not fit the budget")]
    BudgetExceeded(BudgetShortfall),
    /// There is nothing to try again; says why, and what would be.
    #[error("nothing to try again: {0}")]
    NotRetryable(String),
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
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The batch.
    pub batch: BatchId,
    /// Whether an earlier request with the same key made it.
    pub replayed: bool,
    /// Its webhook, with the secret.
    pub webhook: Option<WebhookView>,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Most entries; already checked against the route's bound.
    pub limit: u32,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

impl Page {
    /// What the last page ended with, as this service wrote it and in no other spelling; `None` for the first page.
    ///
    /// # Errors
    /// [`ServiceError::BadCursor`].
    pub fn after<T: FromStr + Display>(&self) -> Result<Option<T>, ServiceError> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let last = cursor.parse().ok().filter(|last: &T| last.to_string() == *cursor);
        last.map(Some).ok_or(ServiceError::BadCursor)
    }
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
pub struct Batches {
    pub(super) store: Arc<Store>,
    pub(super) prices: Arc<PriceTable>,
    pub(super) links: Arc<Links>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn IdSource>,
    pub(super) rules: MoneyRules,
    pub(super) draining: CancellationToken,
    pub(super) metrics: Arc<Metrics>,
    pub(super) ends: BatchEnds,
}

impl Batches {
    /// Puts the use cases on top of their parts; nobody is kept waiting once `draining` is cancelled.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the parts, each once, from the one place that has them")]
    pub fn new(
        store: Arc<Store>,
        prices: Arc<PriceTable>,
        links: Arc<Links>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        rules: MoneyRules,
        draining: CancellationToken,
        metrics: Arc<Metrics>,
    ) -> Self {
        let ends = BatchEnds::new(store.clone(), Traces::off());
        Self { store, prices, links, clock, ids, rules, draining, metrics, ends }
    }

    /// Writes the spans of batches that end to `traces`.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self { ends: BatchEnds::new(self.store.clone(), traces), ..self }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::KeyInUse => Self::KeyInProgress,
            StoreError::Unavailable(_)
            | StoreError::LockWait
            | StoreError::Full(_)
            | StoreError::ReadOnly(_)
            | StoreError::Locked(_) => Self::Unavailable(error.into()),
            _ => Self::Internal(error.into()),
        }
    }
}

impl From<AssetError> for ServiceError {
    fn from(error: AssetError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl From<MoneyError> for ServiceError {
    fn from(error: MoneyError) -> Self {
        Self::Price(error.into())
    }
}
