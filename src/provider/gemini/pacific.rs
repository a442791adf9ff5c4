//! Midnight in US Pacific time, when the provider's daily quotas start again.
//!
//! Source: "Requests per day (RPD) quotas reset at midnight Pacific time", Gemini API, page "Rate limits"
//! (<https://ai.google.dev/gemini-api/docs/rate-limits>), read 2026-11-24.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime};

use crate::domain::time::{Day, Timestamp};

const HOUR_MILLIS: i64 = 3_600_000;
const DAY_MILLIS: i64 = 24 * HOUR_MILLIS;
/// Hours that Pacific standard time is behind UTC, and Pacific daylight time.
const STANDARD: i64 = 8;
const DAYLIGHT: i64 = 7;

/// The first Pacific midnight after `now`.
pub(super) fn next_midnight(now: Timestamp) -> Timestamp {
    let today = now.day().number();
    // The Pacific date is the UTC date or the one before it, so its next midnight is one of these.
    let candidates = (today - 1..=today + 1).map(|day| midnight(Day::from_number(day)));
    candidates.into_iter().find(|at| *at > now).unwrap_or_else(|| now.after(Duration::from_hours(24)))
}

/// The first moment of the Pacific date `day`.
fn midnight(day: Day) -> Timestamp {
    let behind = if begins_in_daylight_time(day) { DAYLIGHT } else { STANDARD };
    Timestamp::from_millis(day.number().saturating_mul(DAY_MILLIS).saturating_add(behind * HOUR_MILLIS))
}

/// The US rule since 2007: from 02:00 on the second Sunday of March to 02:00 on the first Sunday of November.
///
/// Both switches are after midnight, so the day of a switch begins in the time that ends on it.
fn begins_in_daylight_time(day: Day) -> bool {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(day.number().saturating_mul(DAY_MILLIS / 1_000)) else {
        return false;
    };
    let sunday = |month, nth| nth_sunday(at.year(), month, nth);
    match (sunday(Month::March, 2), sunday(Month::November, 1)) {
        (Some(begin), Some(end)) => at.date() > begin && at.date() <= end,
        _ => false,
    }
}

fn nth_sunday(year: i32, month: Month, nth: u8) -> Option<Date> {
    let weekday = Date::from_calendar_date(year, month, 1).ok()?.weekday().number_days_from_sunday();
    let first = 1 + (7 - weekday) % 7;
    Date::from_calendar_date(year, month, first + 7 * (nth - 1)).ok()
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn at(text: &str) -> Timestamp {
        let at = OffsetDateTime::parse(text, &Rfc3339).unwrap();
        Timestamp::from_millis(i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap())
    }

    #[test]
    fn a_pacific_day_ends_at_its_own_midnight_around_both_switches() {
        for (now, midnight) in [
            // Standard time.
            ("2026-11-24T07:59:59.999Z", "2026-11-24T08:00:00Z"),
            ("2026-11-24T08:00:00Z", "2026-11-25T08:00:00Z"),
            ("2026-12-31T23:00:00Z", "2027-01-01T08:00:00Z"),
            // Daylight time.
            ("2026-07-01T06:59:00Z", "2026-07-01T07:00:00Z"),
            ("2026-07-01T07:00:00Z", "2026-07-02T07:00:00Z"),
            // The second Sunday of March is 23 hours long.
            ("2026-03-08T07:59:00Z", "2026-03-08T08:00:00Z"),
            ("2026-03-08T08:00:00Z", "2026-03-09T07:00:00Z"),
            ("2026-03-08T10:00:00Z", "2026-03-09T07:00:00Z"),
            // The first Sunday of November is 25 hours long.
            ("2026-11-01T06:59:00Z", "2026-11-01T07:00:00Z"),
            ("2026-11-01T07:00:00Z", "2026-11-02T08:00:00Z"),
            ("2026-11-02T07:30:00Z", "2026-11-02T08:00:00Z"),
            // A March that begins with a Sunday, a November that does.
            ("2015-03-08T12:00:00Z", "2015-03-09T07:00:00Z"),
            ("2015-11-01T12:00:00Z", "2015-11-02T08:00:00Z"),
        ] {
            assert_eq!(next_midnight(at(now)).to_string(), midnight, "{now}");
        }
    }

    #[test]
    fn a_clock_that_shows_nonsense_is_answered() {
        for now in [i64::MIN, 0, i64::MAX] {
            let _ = next_midnight(Timestamp::from_millis(now));
        }
    }
}
