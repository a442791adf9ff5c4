//! Where time and identity come from. Everything else is given them, so that tests can move time.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use ulid::{Generator, Ulid};

use crate::domain::time::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. It may jump; nothing that decides over money or claims reads it.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
}

/// Makes ids that sort by the time they were made.
pub trait IdSource: Send + Sync + 'static {
    /// The next id; greater than all earlier ones of this source.
    fn next(&self) -> Ulid;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Duration,
}

/// Time since the machine started, with the time in which it slept: a laptop that is closed for a night
/// finds the next day in the morning, and a pause that the provider asked for is over.
fn uptime() -> Duration {
    // Elsewhere this clock counts sleep by itself.
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

impl SystemClock {
    /// Starts counting monotonic time now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: uptime() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        uptime().saturating_sub(self.start)
    }
}

/// Random ULIDs, monotonic within one process.
#[derive(Debug, Default)]
pub struct RandomIds {
    generator: Mutex<Option<Generator>>,
}

impl IdSource for RandomIds {
    fn next(&self) -> Ulid {
        let mut slot = self.generator.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let generator = slot.get_or_insert_default();
        generator.generate().unwrap_or_else(ulid::Overflow::commit_overflow_random)
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct FixedClock {
    now: Mutex<(Timestamp, Duration)>,
}

impl FixedClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self { now: Mutex::new((now, Duration::ZERO)) }
    }

    /// Moves both clocks on.
    pub fn advance(&self, span: Duration) {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = (now.0.after(span), now.1 + span);
    }

    /// Sets the wall clock alone, as an operator or a time server does.
    pub fn jump_to(&self, wall: Timestamp) {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 = wall;
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }
}
