//! The UTC day, by a wall clock that is not believed when it jumps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::domain::time::{Day, Timestamp};

/// A wall clock that is further than this from where the monotonic clock expects it does not move
/// the day: it was set, by a person or a time server, and `spent` must not start at zero for that.
const MAX_JUMP: Duration = Duration::from_mins(5);

/// Where both clocks were when the database was opened.
pub(super) struct Anchor {
    wall: Timestamp,
    monotonic: Duration,
    warned: AtomicBool,
}

impl Anchor {
    pub(super) const fn new(wall: Timestamp, monotonic: Duration) -> Self {
        Self { wall, monotonic, warned: AtomicBool::new(false) }
    }

    /// What the wall clock would show if it had not been set since.
    pub(super) fn expected(&self, monotonic: Duration) -> Timestamp {
        self.wall.after(monotonic.saturating_sub(self.monotonic))
    }

    /// The day at `wall`; the day that the monotonic clock expects, if the wall clock jumped.
    pub(super) fn day(&self, wall: Timestamp, monotonic: Duration) -> Day {
        let expected = self.expected(monotonic);
        let jump = wall.since(expected).max(expected.since(wall));
        if jump <= MAX_JUMP {
            return wall.day();
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                ?jump,
                "the wall clock jumped: the budget's day goes on by elapsed time; restart to believe it"
            );
        }
        expected.day()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_clock_that_jumps_does_not_move_the_day_and_time_that_passes_does() {
        let noon = Timestamp::from_millis(20_000 * 86_400_000 + 43_200_000);
        let anchor = Anchor::new(noon, HOUR);
        let day = |wall: Timestamp, passed: Duration| anchor.day(wall, HOUR + passed).number();
        assert_eq!(day(noon.after(24 * HOUR), Duration::ZERO), 20_000);
        assert_eq!(day(noon.before(24 * HOUR), Duration::ZERO), 20_000);
        assert_eq!(day(noon.after(13 * HOUR), 13 * HOUR), 20_001);
        assert_eq!(day(noon.after(12 * HOUR).after(MAX_JUMP), 12 * HOUR), 20_001);
        assert_eq!(day(noon.before(24 * HOUR), 13 * HOUR), 20_001, "the clock went back, the day did not");
    }
}
