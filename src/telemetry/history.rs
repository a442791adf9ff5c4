//! The last hour of this process, minute by minute: what an operator looks at first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::money::MicroUsd;
use crate::domain::time::Timestamp;

/// Minutes that are kept: an hour, and the one that is under way.
const MINUTES: usize = 61;

/// Upper bounds of the classes by which the time of requests is counted, in milliseconds; the last class has none.
const BOUNDS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 400, 1_000, 2_500, 10_000];

/// What happened in one minute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Minute {
    /// When it began.
    pub start: Timestamp,
    /// Requests answered.
    pub requests: u64,
    /// Those answered with a status of 500 or more.
    pub server_errors: u64,
    /// Pictures made.
    pub completed: u64,
    /// Pictures that failed.
    pub failed: u64,
    /// Charges settled.
    pub cost: MicroUsd,
    /// Requests by their time, a class each of [`BOUNDS`] and one above.
    times: [u64; BOUNDS.len() + 1],
    /// Error codes, of answers and of pictures.
    codes: BTreeMap<&'static str, u64>,
}

impl Minute {
    /// Counts an answer that took `time`; `None` if its client asked to be kept waiting.
    pub fn answered(&mut self, time: Option<Duration>, is_server_error: bool) {
        self.requests += 1;
        self.server_errors += u64::from(is_server_error);
        let Some(time) = time else { return };
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let class = BOUNDS.iter().position(|bound| millis < *bound).unwrap_or(BOUNDS.len());
        self.times[class] += 1;
    }

    /// Counts an error code.
    pub fn code(&mut self, code: &'static str) {
        *self.codes.entry(code).or_default() += 1;
    }

    /// The time within which 95 of 100 requests were answered, to the bound of its class; `None` without requests.
    /// A request above the last bound counts as that.
    #[must_use]
    pub fn p95_millis(&self) -> Option<u64> {
        let rank = (self.times.iter().sum::<u64>() * 95).div_ceil(100);
        let mut seen = 0;
        let class = self.times.iter().position(|count| {
            seen += count;
            rank > 0 && seen >= rank
        })?;
        BOUNDS.get(class).or(BOUNDS.last()).copied()
    }
}

/// The last minutes.
#[derive(Debug, Default)]
pub struct History(Mutex<VecDeque<Minute>>);

impl History {
    /// Changes the minute of `now`. A clock that went back changes the last one.
    pub fn change(&self, now: Timestamp, change: impl FnOnce(&mut Minute)) {
        let start = minute_of(now);
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if minutes.back().is_none_or(|last| last.start < start) {
            if minutes.len() == MINUTES {
                minutes.pop_front();
            }
            minutes.push_back(Minute { start, ..Minute::default() });
        }
        if let Some(last) = minutes.back_mut() {
            change(last);
        }
    }

    /// The minutes of the hour before `now` in which anything happened, the oldest first.
    #[must_use]
    pub fn last_hour(&self, now: Timestamp) -> Vec<Minute> {
        let first = minute_of(now).before(Duration::from_hours(1));
        let minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.iter().filter(|minute| minute.start >= first).cloned().collect()
    }
}

fn minute_of(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.millis() - now.millis().rem_euclid(60_000))
}

/// How often each error code came in `minutes`, the most frequent first.
#[must_use]
pub fn codes(minutes: &[Minute]) -> Vec<(&'static str, u64)> {
    let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (code, count) in minutes.iter().flat_map(|minute| &minute.codes) {
        *sums.entry(code).or_default() += count;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn minutes_after(minutes: u64) -> Timestamp {
        START.after(Duration::from_mins(minutes))
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let history = History::default();
        for minute in 0..200 {
            history.change(minutes_after(minute), |minute| minute.completed += 1);
        }
        let hour = history.last_hour(minutes_after(199));
        assert_eq!((hour.len(), hour[0].start), (61, minutes_after(139)));
        assert_eq!(history.last_hour(minutes_after(230)).len(), 30);
        assert_eq!(history.last_hour(minutes_after(400)), []);
    }

    #[test]
    fn a_clock_that_goes_back_adds_to_the_last_minute() {
        let history = History::default();
        history.change(minutes_after(5), |minute| minute.failed += 1);
        history.change(minutes_after(1), |minute| minute.failed += 1);
        let hour = history.last_hour(minutes_after(5));
        assert_eq!((hour.len(), hour[0].failed), (1, 2));
    }

    #[test]
    fn the_p95_is_the_bound_under_which_95_of_100_are() {
        let mut minute = Minute::default();
        assert_eq!(minute.p95_millis(), None);
        (0..95).for_each(|_| minute.answered(Some(Duration::from_millis(3)), false));
        (0..5).for_each(|_| minute.answered(Some(Duration::from_millis(300)), true));
        assert_eq!((minute.p95_millis(), minute.server_errors), (Some(5), 5));
        minute.answered(Some(Duration::from_hours(1)), false);
        assert_eq!(minute.p95_millis(), Some(400));
        (0..1_000).for_each(|_| minute.answered(None, false));
        assert_eq!(minute.p95_millis(), Some(400), "who asked to be kept waiting does not count");
        (0..200).for_each(|_| minute.answered(Some(Duration::from_hours(1)), false));
        assert_eq!(minute.p95_millis(), Some(10_000));
    }

    #[test]
    fn codes_are_summed_over_the_minutes() {
        let history = History::default();
        for (minute, code) in [(0, "internal"), (1, "not_found"), (2, "not_found")] {
            history.change(minutes_after(minute), |minute| minute.code(code));
        }
        assert_eq!(codes(&history.last_hour(minutes_after(2))), [("not_found", 2), ("internal", 1)]);
    }
}
