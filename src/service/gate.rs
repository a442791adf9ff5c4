//! The gate before the provider: closed for as long as the provider asked everyone to wait, and
//! passed at most so many times a minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::outcome::{DEFAULT_THROTTLE, MAX_THROTTLED};

/// Lets calls through, or says how long to wait.
pub struct Gate {
    clock: Arc<dyn Clock>,
    /// The time between two calls that keeps them within the allowed number a minute.
    spacing: Duration,
    opens_at: Mutex<Duration>,
}

impl Gate {
    /// An open gate for at most `calls_a_minute`; `None` is no limit.
    ///
    /// Calls are spaced evenly, so that no window of a minute holds more.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, calls_a_minute: Option<u32>) -> Self {
        let spacing = calls_a_minute.map_or(Duration::ZERO, |calls| Duration::from_mins(1) / calls.max(1));
        Self { clock, spacing, opens_at: Mutex::default() }
    }

    /// Closes the gate for `span`, at most an hour; never opens it earlier than it would have.
    pub fn close_for(&self, span: Option<Duration>) {
        let span = span.unwrap_or(DEFAULT_THROTTLE).min(MAX_THROTTLED);
        let opens_at = self.clock.monotonic() + span;
        let mut slot = self.opens_at.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = opens_at.max(*slot);
    }

    /// Passes the gate, or says how long it stays closed.
    ///
    /// # Errors
    /// How long to wait before asking again; the gate was not passed.
    pub fn pass(&self) -> Result<(), Duration> {
        let now = self.clock.monotonic();
        let mut opens_at = self.opens_at.lock().unwrap_or_else(PoisonError::into_inner);
        if *opens_at > now {
            return Err(opens_at.saturating_sub(now));
        }
        *opens_at = now + self.spacing;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::time::Timestamp;

    fn gate(calls_a_minute: Option<u32>) -> (Arc<FixedClock>, Gate) {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
        (clock.clone(), Gate::new(clock, calls_a_minute))
    }

    #[test]
    fn a_closed_gate_opens_by_the_monotonic_clock_alone() {
        let (clock, gate) = gate(None);
        gate.close_for(Some(Duration::from_secs(10)));
        gate.close_for(Some(Duration::from_secs(2)));
        clock.jump_to(Timestamp::from_millis(1_000_000));
        assert_eq!(gate.pass(), Err(Duration::from_secs(10)));
        clock.advance(Duration::from_secs(10));
        assert_eq!((gate.pass(), gate.pass()), (Ok(()), Ok(())));
    }

    #[test]
    fn no_minute_holds_more_calls_than_allowed() {
        let (clock, gate) = gate(Some(20));
        let mut passed = 0;
        for _ in 0..600 {
            passed += u32::from(gate.pass().is_ok());
            clock.advance(Duration::from_millis(100));
        }
        assert_eq!(passed, 20);
    }
}
