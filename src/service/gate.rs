//! The gate before the provider: closed for as long as the provider asked everyone to wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::outcome::{DEFAULT_THROTTLE, MAX_THROTTLED};

/// Lets calls through, or says how long to wait.
pub struct Gate {
    clock: Arc<dyn Clock>,
    opens_at: Mutex<Duration>,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, opens_at: Mutex::default() }
    }

    /// Closes the gate for `span`, at most an hour; never opens it earlier than it would have.
    pub fn close_for(&self, span: Option<Duration>) {
        let span = span.unwrap_or(DEFAULT_THROTTLE).min(MAX_THROTTLED);
        let opens_at = self.clock.monotonic() + span;
        let mut slot = self.opens_at.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = opens_at.max(*slot);
    }

    /// How long the gate stays closed; nothing while it is open.
    #[must_use]
    pub fn closed_for(&self) -> Duration {
        let opens_at = *self.opens_at.lock().unwrap_or_else(PoisonError::into_inner);
        opens_at.saturating_sub(self.clock.monotonic())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::time::Timestamp;

    #[test]
    fn a_closed_gate_opens_by_the_monotonic_clock_alone() {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
        let gate = Gate::new(clock.clone());
        gate.close_for(Some(Duration::from_secs(10)));
        gate.close_for(Some(Duration::from_secs(2)));
        clock.jump_to(Timestamp::from_millis(1_000_000));
        assert_eq!(gate.closed_for(), Duration::from_secs(10));
        clock.advance(Duration::from_secs(10));
        assert_eq!(gate.closed_for(), Duration::ZERO);
    }
}
