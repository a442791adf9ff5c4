//! What the end of a call means: for the calls after it, for the counters, and for its picture.

use std::time::Duration;

use super::admission::quota_exhausted;
use super::gate::Verdict;
use crate::domain::outcome::Outcome;
use crate::domain::state::{ErrorCode, ImageError};
use crate::provider::ProviderError;
use crate::telemetry::metrics::CallOutcome;

/// What the end of a call means for the next ones.
pub(super) fn verdict(error: Option<&ProviderError>, default_pause: Duration) -> Verdict {
    match error {
        None | Some(ProviderError::Refused(_)) => Verdict::Answered,
        Some(ProviderError::Throttled { retry_after }) => Verdict::Throttled(retry_after.unwrap_or(default_pause)),
        Some(ProviderError::QuotaExhausted { resets_in }) => Verdict::QuotaExhausted(*resets_in),
        Some(ProviderError::Failed(_) | ProviderError::OutcomeUnknown(_)) => Verdict::Failed,
    }
}

/// As what the end of a call counts.
pub(super) const fn counted(error: Option<&ProviderError>) -> CallOutcome {
    match error {
        None => CallOutcome::Answered,
        Some(ProviderError::Refused(_)) => CallOutcome::Refused,
        Some(ProviderError::Throttled { .. }) => CallOutcome::Throttled,
        Some(ProviderError::QuotaExhausted { .. }) => CallOutcome::Quota,
        Some(ProviderError::Failed(_)) => CallOutcome::Failed,
        Some(ProviderError::OutcomeUnknown(_)) => CallOutcome::Unknown,
    }
}

/// What the end of a call without an answer means for its picture.
pub(super) fn outcome(error: ProviderError, default_pause: Duration) -> Outcome {
    match error {
        ProviderError::Throttled { retry_after } => Outcome::Throttled(retry_after.unwrap_or(default_pause)),
        ProviderError::QuotaExhausted { .. } => Outcome::Refused(quota_exhausted()),
        ProviderError::Failed(detail) => Outcome::Failed(ImageError::passing(ErrorCode::ProviderError, detail)),
        ProviderError::Refused(error) => Outcome::Refused(error),
        ProviderError::OutcomeUnknown(_) => Outcome::Unknown,
    }
}
