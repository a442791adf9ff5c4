//! Times in a few numbers: quantiles and histograms, in whole microseconds.

use std::time::Duration;

use serde::Serialize;

/// Bars of a histogram at most, where all are of one width.
const MAX_BARS: u64 = 24;

/// The spread of some times.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Quantiles {
    /// How many there are; without any the rest is zero.
    pub(super) count: usize,
    #[serde(rename = "p50Ms", serialize_with = "as_millis")]
    pub(super) p50: Duration,
    #[serde(rename = "p95Ms", serialize_with = "as_millis")]
    pub(super) p95: Duration,
    #[serde(rename = "p99Ms", serialize_with = "as_millis")]
    pub(super) p99: Duration,
    #[serde(rename = "maxMs", serialize_with = "as_millis")]
    pub(super) max: Duration,
}

/// Milliseconds with what is behind the point.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The same for JSON.
pub(super) fn as_millis<S: serde::Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(millis(*time))
}

impl Quantiles {
    /// By the nearest rank: each is one of `times`, and so many of a hundred are not longer. Of fewer than a hundred
    /// times, the longest is p99.
    pub(super) fn of(times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or_default()
        };
        Self { count: sorted.len(), p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }
}

/// How many times are from one edge to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Histogram {
    /// From, to (not including it), how many.
    pub(super) bars: Vec<(Duration, Duration, u32)>,
}

impl Histogram {
    /// Bars of one width, a round one, from the shortest to the longest.
    pub(super) fn even(times: &[Duration]) -> Self {
        let (Some(shortest), Some(longest)) = (times.iter().min(), times.iter().max()) else { return Self::default() };
        let (shortest, longest) = (micros(*shortest), micros(*longest));
        let width = round_steps(1_000).find(|width| longest / width - shortest / width < MAX_BARS).unwrap_or(u64::MAX);
        let edges = (shortest / width..=longest / width + 1).map(|step| step.saturating_mul(width));
        Self::between(&edges.collect::<Vec<_>>(), times)
    }

    /// Bars whose widths grow as 1, 2, 5, 10 do: what is a thousand times longer than the rest hides nothing of it.
    pub(super) fn growing(times: &[Duration]) -> Self {
        let (Some(shortest), Some(longest)) = (times.iter().min(), times.iter().max()) else { return Self::default() };
        let (shortest, longest) = (micros(*shortest), micros(*longest));
        let mut edges = vec![0];
        for step in round_steps(100) {
            if step <= shortest {
                edges.clear();
            }
            edges.push(step);
            if step > longest {
                break;
            }
        }
        Self::between(&edges, times)
    }

    fn between(edges: &[u64], times: &[Duration]) -> Self {
        let mut bars: Vec<(Duration, Duration, u32)> =
            edges.windows(2).map(|pair| (Duration::from_micros(pair[0]), Duration::from_micros(pair[1]), 0)).collect();
        for time in times {
            if let Some(bar) = bars.iter_mut().find(|(_, to, _)| time < to) {
                bar.2 += 1;
            }
        }
        Self { bars }
    }
}

/// 1, 2 and 5 times `first` and its powers of ten.
pub(super) fn round_steps(first: u64) -> impl Iterator<Item = u64> {
    let decades = std::iter::successors(Some(first), |step| step.checked_mul(10));
    decades.flat_map(|decade| [1, 2, 5].into_iter().filter_map(move |times| decade.checked_mul(times)))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis_of(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_quantile_is_a_time_that_was_measured() {
        let of = |values: &[u64]| {
            let of = Quantiles::of(&millis_of(values.iter().copied()));
            [of.p50, of.p95, of.p99, of.max].map(|time| time.as_millis())
        };
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), [50, 95, 99, 100]);
        assert_eq!(of(&[7]), [7, 7, 7, 7]);
        assert_eq!(of(&[1, 2]), [1, 2, 2, 2]);
        assert_eq!(of(&[3, 1, 2]), [2, 3, 3, 3]);
        let twenty_one: Vec<u64> = (1..=21).collect();
        assert_eq!(of(&twenty_one), [11, 20, 21, 21]);
        assert_eq!(Quantiles::of(&[]), Quantiles::default());
    }

    #[test]
    fn quantiles_are_milliseconds_in_json() {
        let json = serde_json::to_value(Quantiles::of(&[Duration::from_micros(1_250)])).unwrap();
        assert_eq!(json, serde_json::json!({"count": 1, "p50Ms": 1.25, "p95Ms": 1.25, "p99Ms": 1.25, "maxMs": 1.25}));
    }

    #[test]
    fn every_time_is_in_one_bar() {
        let cases = [
            millis_of([5]),
            millis_of([0, 0]),
            millis_of([2_000, 2_001, 4_017]),
            millis_of(1..=500),
            millis_of([1, 999, 1_000, 600_000]),
            vec![Duration::from_micros(99), Duration::from_micros(100), Duration::from_micros(101)],
        ];
        for times in cases {
            for histogram in [Histogram::even(&times), Histogram::growing(&times)] {
                let counted: u32 = histogram.bars.iter().map(|bar| bar.2).sum();
                assert_eq!(counted as usize, times.len(), "{histogram:?}");
                let (first, last) = (histogram.bars[0], histogram.bars[histogram.bars.len() - 1]);
                assert!(first.2 > 0 && last.2 > 0 && histogram.bars.len() <= 25, "{histogram:?}");
                for (bar, next) in histogram.bars.iter().zip(&histogram.bars[1..]) {
                    assert_eq!(bar.1, next.0);
                }
            }
        }
        assert!(Histogram::even(&[]).bars.is_empty() && Histogram::growing(&[]).bars.is_empty());
    }
}
