//! Trying the failed pictures of a batch again.

use super::batches::{Batches, Idempotency, ServiceError};
use super::submit::IDEMPOTENCY_KEPT;
use crate::domain::access::Caller;
use crate::domain::ids::{AttemptId, BatchId, ImageKey};
use crate::domain::money::MicroUsd;
use crate::domain::prices::PriceError;
use crate::domain::state::ErrorCode;
use crate::store::{FailedImage, FreshAttempt, NewRetry, RetryOutcome};

/// An accepted retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retried {
    /// Whether an earlier request with the same key made it.
    pub replayed: bool,
}

/// What is needed of a picture that failed.
struct Failed {
    image: ImageKey,
    code: ErrorCode,
    is_wanted: bool,
    /// What another try reserves, or why there can be none.
    reserve: Result<MicroUsd, PriceError>,
}

impl Batches {
    /// Reserves money anew and puts failed pictures back into the queue: those with one of `codes`; without
    /// `codes` those whose error may be gone the next time.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::NotRetryable`], [`ServiceError::LiveDisabled`],
    /// [`ServiceError::Price`], [`ServiceError::BudgetExceeded`], [`ServiceError::KeyReused`] or
    /// [`ServiceError::Unavailable`]; nothing is written then.
    pub async fn retry(
        &self,
        caller: &Caller,
        batch: BatchId,
        codes: Option<&[ErrorCode]>,
        idempotency: Option<Idempotency>,
    ) -> Result<Retried, ServiceError> {
        let today = self.clock.now().day();
        let judge = |model: &str, image: FailedImage| Failed {
            image: image.key,
            code: image.error.code,
            is_wanted: codes.map_or(image.error.retryable, |codes| codes.contains(&image.error.code)),
            reserve: self.prices.callable(model, today).and_then(|model| model.reserve(&image.item)),
        };
        let failed = self.store.load_failed(batch, &caller.user, judge).await?.ok_or(ServiceError::NotFound)?;
        let retry = NewRetry {
            batch,
            owner: caller.user.clone(),
            user_limit: caller.daily_budget,
            // A retry that spends nothing is a replay, or refused below.
            attempts: if self.rules.live { self.fresh_attempts(&failed)? } else { Vec::new() },
            at: self.clock.now(),
            idempotency: idempotency.map(|given| (given.key, given.request_hash)),
            forget_keys_before: self.clock.now().min(self.store.steady_now()).before(IDEMPOTENCY_KEPT),
        };
        let outcome = self.store.retry(&retry, &self.rules.limits).await?;
        match outcome {
            RetryOutcome::Accepted(pictures) => {
                tracing::info!(%batch, pictures, "batch retried");
                Ok(Retried { replayed: false })
            }
            RetryOutcome::Replayed => Ok(Retried { replayed: true }),
            RetryOutcome::KeyReused => Err(ServiceError::KeyReused),
            RetryOutcome::NotFound => Err(ServiceError::NotFound),
            RetryOutcome::Cancelled => {
                let detail = "the batch was cancelled; send what is missing as a new batch";
                Err(ServiceError::NotRetryable(detail.to_owned()))
            }
            RetryOutcome::NothingFailed if !self.rules.live => Err(ServiceError::LiveDisabled),
            RetryOutcome::NothingFailed if failed.iter().any(|image| image.is_wanted) => {
                let detail = "another request has taken these pictures up already";
                Err(ServiceError::NotRetryable(detail.to_owned()))
            }
            RetryOutcome::NothingFailed => Err(ServiceError::NotRetryable(nothing_to_retry(&failed, codes))),
            RetryOutcome::OverBudget { user_limit, budget, estimated } => {
                Err(self.shortfall(estimated, user_limit.then_some(caller), &budget)?)
            }
        }
    }

    fn fresh_attempts(&self, failed: &[Failed]) -> Result<Vec<FreshAttempt>, ServiceError> {
        let attempt = |failed: &Failed| {
            let reserve = failed.reserve.clone()?;
            Ok(FreshAttempt { image: failed.image, id: AttemptId::new(self.ids.next()), reserve })
        };
        failed.iter().filter(|failed| failed.is_wanted).map(attempt).collect()
    }
}

/// Why no picture is tried again, and what would be.
fn nothing_to_retry(failed: &[Failed], codes: Option<&[ErrorCode]>) -> String {
    if failed.is_empty() {
        return "no picture of this batch is failed".to_owned();
    }
    let mut there: Vec<&str> = failed.iter().map(|image| image.code.as_str()).collect();
    there.sort_unstable();
    there.dedup();
    let there = there.join(", ");
    match codes {
        Some(_) => format!("no picture failed with one of these codes; this batch has: {there}"),
        None => format!("trying again cannot help with {there}; name the codes to try all the same"),
    }
}
