//! How long to wait between tries: twice as long each time, up to a bound, with jitter, so that the clients of a service
//! that was away do not all come back at once.

use std::time::Duration;

use tokio::time::Instant;

/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// No wait that a service asks for is heeded for longer: it is asked again then, and may ask once more.
const LONGEST_ASKED: Duration = Duration::from_mins(2);
/// A service that is away for this long is given up.
pub(super) const MAX_ABSENCE: Duration = Duration::from_mins(15);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    away_since: Option<Instant>,
}

impl Backoff {
    /// The wait after one more failure: at least `asked`, if the service asked for one, within reason. `None` when it is
    /// time to give up.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let since = *self.away_since.get_or_insert_with(Instant::now);
        let most = FIRST_WAIT.saturating_mul(1 << self.failures.min(10)).min(LONGEST_WAIT);
        self.failures += 1;
        // Half of it is certain, so that nobody comes back at once.
        let wait = most.mul_f64(rand::random_range(0.5..=1.0)).max(asked.unwrap_or_default().min(LONGEST_ASKED));
        (since.elapsed() < MAX_ABSENCE).then_some(wait)
    }

    /// The service answered: it is not away.
    pub(super) fn answered(&mut self) {
        self.away_since = None;
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_thirty_seconds_and_end_after_a_quarter_of_an_hour() {
        let mut backoff = Backoff::default();
        for most in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            let wait = backoff.next(None).unwrap().as_secs_f64();
            assert!((most / 2.0..=most).contains(&wait), "{wait} of {most}");
        }
        assert!(backoff.next(Some(Duration::from_mins(1))).unwrap() >= Duration::from_mins(1));
        assert_eq!(backoff.next(Some(Duration::MAX)), Some(LONGEST_ASKED));
        backoff.reset();
        assert!(backoff.next(None).unwrap() <= FIRST_WAIT);
        tokio::time::advance(MAX_ABSENCE).await;
        assert_eq!(backoff.next(None), None);
        backoff.answered();
        assert!(backoff.next(None).is_some());
    }
}
