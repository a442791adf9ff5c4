//! How one attempt ended, and what follows from it: the only retry policy there is.

use std::time::Duration;

use super::ids::{AttemptId, ImageKey};
use super::money::MicroUsd;
use super::picture::Picture;
use super::state::{ErrorCode, ImageError};
use super::time::Timestamp;

/// Tries a picture gets while its calls fail without being charged.
pub const MAX_TRIES: u32 = 3;
/// Automatic retries after a call whose outcome is unknown. Each may be a second charge for one picture.
pub const MAX_UNKNOWN_RETRIES: u32 = 1;
/// Automatic retries after a call that this process itself gave up at shutdown.
pub const MAX_INTERRUPTED_RETRIES: u32 = 3;
/// How long a provider may put a picture off before it fails.
pub const MAX_THROTTLED: Duration = Duration::from_hours(1);
/// The first pause of the backoff; the n-th is up to `2^(n-1)` times as long.
pub const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// A worker's right to one picture. Each write names it; a claim that was lost changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The picture.
    pub image: ImageKey,
    /// Grows with every claim of this picture.
    pub fence: i64,
    /// The attempt that holds its money.
    pub attempt: AttemptId,
}

/// What earlier attempts of a picture used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Calls that failed without being charged.
    pub failures: u32,
    /// Automatic retries after an unknown outcome.
    pub unknown_retries: u32,
    /// Automatic retries after this service itself gave up a call at shutdown.
    pub interruptions: u32,
    /// Since when the provider has been putting this picture off without a break.
    pub throttled_since: Option<Timestamp>,
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A picture was made and stored. Without `cost` the answer had no usage.
    Made {
        /// Where it is.
        picture: Picture,
        /// What its usage says it cost.
        cost: Option<MicroUsd>,
    },
    /// A picture of an earlier call was found; that call's own charge is in the ledger already.
    FoundEarlier {
        /// Where it is.
        picture: Picture,
    },
    /// The provider answered 200 and there is no picture to show for it.
    PaidInVain {
        /// Why not.
        error: ImageError,
        /// What its usage says it cost.
        cost: Option<MicroUsd>,
    },
    /// Nothing was charged, and trying again cannot help.
    Refused(ImageError),
    /// Nothing was charged, and trying again may help.
    Failed(ImageError),
    /// The provider said slow down, for so long; nothing was charged.
    Throttled(Duration),
    /// The call was not made: this service itself is not ready for it. Costs no attempt.
    Postponed(Duration),
    /// Nobody can know whether it was charged.
    Unknown,
    /// As `Unknown`, but this process itself gave the call up, at shutdown.
    Interrupted,
}

/// What an attempt costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// Nothing; the reserve is free again.
    Nothing,
    /// What the provider's usage says.
    Known(MicroUsd),
    /// All that was reserved: nobody can know better.
    Reserve,
}

/// What becomes of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is made.
    Complete(Picture),
    /// It will not be made.
    Fail(ImageError),
    /// The same attempt waits until then and keeps its money: no call was used up.
    Wait(Timestamp),
    /// A new attempt takes over the reservation and waits until then.
    Again(Timestamp),
    /// A new attempt with a fresh reservation; if that does not fit, the picture fails.
    AgainReserved,
}

/// The end of one attempt, ready to be written in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The right to write it.
    pub claim: Claim,
    /// What it cost.
    pub charge: Charge,
    /// What becomes of the picture.
    pub next: Next,
    /// What later decisions about the picture need to know.
    pub history: History,
    /// The provider's name for the call.
    pub request_id: Option<String>,
}

/// Decides what follows from `outcome`. `step` is the first pause of the backoff, [`BACKOFF_BASE`];
/// `jitter` is a random number from 0 to 1.
#[must_use]
pub fn decide(
    claim: Claim,
    outcome: Outcome,
    history: History,
    now: Timestamp,
    step: Duration,
    jitter: f64,
) -> Settlement {
    let calm = History { throttled_since: None, ..history };
    let (charge, next, history) = match outcome {
        Outcome::Made { picture, cost } => (known(cost), Next::Complete(picture), calm),
        Outcome::FoundEarlier { picture } => (Charge::Nothing, Next::Complete(picture), calm),
        Outcome::PaidInVain { error, cost } => (known(cost), Next::Fail(error), calm),
        Outcome::Refused(error) => (Charge::Nothing, Next::Fail(error), calm),
        Outcome::Failed(error) => {
            let history = History { failures: calm.failures + 1, ..calm };
            let next = if history.failures >= MAX_TRIES {
                Next::Fail(error)
            } else {
                Next::Again(now.after(backoff(step, history.failures, jitter)))
            };
            (Charge::Nothing, next, history)
        }
        Outcome::Postponed(span) => (Charge::Nothing, Next::Wait(now.after(span)), calm),
        Outcome::Throttled(pause) => throttled(history, pause, now),
        Outcome::Unknown => {
            let history = History { unknown_retries: calm.unknown_retries + 1, ..calm };
            (Charge::Reserve, again_after_unknown(history.unknown_retries <= MAX_UNKNOWN_RETRIES), history)
        }
        Outcome::Interrupted => {
            let history = History { interruptions: calm.interruptions + 1, ..calm };
            (Charge::Reserve, again_after_unknown(history.interruptions <= MAX_INTERRUPTED_RETRIES), history)
        }
    };
    Settlement { claim, charge, next, history, request_id: None }
}

fn known(cost: Option<MicroUsd>) -> Charge {
    match cost {
        None => Charge::Reserve,
        Some(MicroUsd::ZERO) => Charge::Nothing,
        Some(cost) => Charge::Known(cost),
    }
}

fn again_after_unknown(allowed: bool) -> Next {
    if allowed {
        return Next::AgainReserved;
    }
    let detail = "the call was sent and its outcome cannot be known; its reserve counts as spent";
    Next::Fail(ImageError::passing(ErrorCode::ProviderOutcomeUnknown, detail))
}

fn throttled(history: History, pause: Duration, now: Timestamp) -> (Charge, Next, History) {
    let since = history.throttled_since.unwrap_or(now);
    let until = now.after(pause);
    let next = if until.since(since) > MAX_THROTTLED {
        let detail = "the provider has been putting this picture off for an hour";
        Next::Fail(ImageError::passing(ErrorCode::QuotaExhausted, detail))
    } else {
        Next::Wait(until)
    };
    (Charge::Nothing, next, History { throttled_since: Some(since), ..history })
}

/// Full jitter: anything from nothing to the whole step, which doubles with each failure.
fn backoff(step: Duration, failures: u32, jitter: f64) -> Duration {
    step.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::BatchId;
    use ulid::Ulid;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn after(outcome: Outcome, history: History) -> Settlement {
        let image = ImageKey { batch: BatchId::new(Ulid::nil()), ordinal: 1, variant: 1 };
        let claim = Claim { image, fence: 1, attempt: AttemptId::new(Ulid::nil()) };
        decide(claim, outcome, history, NOW, BACKOFF_BASE, 1.0)
    }

    fn failure() -> Outcome {
        Outcome::Failed(ImageError::passing(ErrorCode::ProviderError, "overloaded"))
    }

    #[test]
    fn a_failure_that_cost_nothing_is_tried_three_times_with_growing_pauses() {
        let first = after(failure(), History::default());
        assert_eq!((first.charge, first.next), (Charge::Nothing, Next::Again(NOW.after(BACKOFF_BASE))));
        let second = after(failure(), first.history);
        assert_eq!(second.next, Next::Again(NOW.after(BACKOFF_BASE * 2)));
        let third = after(failure(), second.history);
        assert!(matches!(third.next, Next::Fail(_)), "{third:?}");
    }

    #[test]
    fn an_unknown_outcome_costs_the_reserve_and_is_retried_once() {
        let first = after(Outcome::Unknown, History::default());
        assert_eq!((first.charge, &first.next), (Charge::Reserve, &Next::AgainReserved));
        let second = after(Outcome::Unknown, first.history);
        assert_eq!(second.charge, Charge::Reserve);
        assert!(matches!(second.next, Next::Fail(error) if error.code == ErrorCode::ProviderOutcomeUnknown));
    }

    #[test]
    fn a_shutdown_does_not_use_up_the_retry_after_an_unknown_outcome() {
        let stopped = after(Outcome::Interrupted, History::default());
        assert_eq!(stopped.next, Next::AgainReserved);
        assert_eq!(after(Outcome::Unknown, stopped.history).next, Next::AgainReserved);
    }

    #[test]
    fn a_throttled_call_keeps_its_attempt_for_an_hour_and_then_fails() {
        let first = after(Outcome::Throttled(Duration::from_secs(57)), History::default());
        assert_eq!(first.next, Next::Wait(NOW.after(Duration::from_secs(57))));
        let long_ago = Timestamp::from_millis(NOW.millis() - 3_600_000);
        let history = History { throttled_since: Some(long_ago), ..History::default() };
        let last = after(Outcome::Throttled(Duration::from_secs(5)), history);
        assert!(matches!(last.next, Next::Fail(error) if error.code == ErrorCode::QuotaExhausted));
    }

    #[test]
    fn a_picture_that_this_service_put_off_itself_was_not_put_off_by_the_provider() {
        let history = History { throttled_since: Some(NOW), ..History::default() };
        assert_eq!(after(Outcome::Postponed(Duration::ZERO), history).history.throttled_since, None);
    }

    #[test]
    fn an_answer_without_usage_costs_its_reserve() {
        let error = ImageError::lasting(ErrorCode::NoImage, "text only");
        assert_eq!(after(Outcome::PaidInVain { error, cost: None }, History::default()).charge, Charge::Reserve);
    }
}
