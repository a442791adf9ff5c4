//! Charts as SVG that is part of a page: no script, colours by the page's style, each mark with its numbers as a title.

use std::fmt::Write as _;
use std::time::Duration;

use super::quantiles::{Histogram, round_steps};
use super::report::readable;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Marks on an axis at most.
const MARKS: u64 = 6;

/// How many pictures were made after how much time.
pub(super) fn completions(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let Some(&longest) = sorted.last().filter(|longest| !longest.is_zero()) else {
        return empty("No picture was made.");
    };
    let total = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
    let x = |time: Duration| LEFT + (WIDTH - LEFT - RIGHT) * time.as_secs_f64() / longest.as_secs_f64();
    let mut path = format!("M{:.1} {:.1}", x(Duration::ZERO), y(0, total));
    let mut marks = String::new();
    for (made, &time) in (1..).zip(&sorted) {
        // Writing to a String does not fail.
        let _ = write!(path, "H{:.1}V{:.1}", x(time), y(made, total));
        let _ = write!(
            marks,
            "<circle class=\"mark\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{made} after {}</title></circle>",
            x(time),
            y(made, total),
            readable(time)
        );
    }
    let step = step_for(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX));
    let ticks = std::iter::successors(Some(0_u64), |at| at.checked_add(step))
        .map(Duration::from_millis)
        .take_while(|at| *at <= longest);
    let ticks: Vec<(f64, String)> = ticks.map(|at| (x(at), readable_tick(at))).collect();
    let label = format!("Pictures made over time: {total} after {}", readable(longest));
    frame(&label, total, &ticks, &format!("<path class=\"line\" d=\"{path}\"/>{marks}"))
}

/// How many times are how long; `what` is measured.
pub(super) fn histogram(histogram: &Histogram, what: &str) -> String {
    let most = histogram.bars.iter().map(|bar| bar.2).max().unwrap_or(0);
    if most == 0 {
        return empty("Nothing was measured.");
    }
    let count = u32::try_from(histogram.bars.len()).unwrap_or(u32::MAX);
    let width = (WIDTH - LEFT - RIGHT) / f64::from(count);
    let mut marks = String::new();
    let mut ticks = Vec::new();
    let every = count.div_ceil(12);
    for (index, (from, to, times)) in (0_u32..).zip(&histogram.bars) {
        let left = LEFT + width * f64::from(index);
        if index.is_multiple_of(every) {
            ticks.push((left, readable_tick(*from)));
        }
        if *times > 0 {
            let top = y(*times, most);
            let _ = write!(
                marks,
                "<rect class=\"bar\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{times} from {} to {}</title></rect>",
                left + 1.0,
                (width - 2.0).max(1.0),
                y(0, most) - top,
                readable_tick(*from),
                readable_tick(*to)
            );
        }
    }
    frame(&format!("Histogram of {what}"), most, &ticks, &marks)
}

/// The height of `value` where `most` is at the top.
fn y(value: u32, most: u32) -> f64 {
    HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * f64::from(value) / f64::from(most.max(1))
}

/// The smallest round step of which `longest` has few.
fn step_for(longest: u64) -> u64 {
    round_steps(1).find(|step| longest / step < MARKS).unwrap_or(u64::MAX)
}

/// A time at an axis: a round one.
fn readable_tick(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis >= 1e3 { format!("{} s", (millis / 10.0).round() / 100.0) } else { format!("{millis} ms") }
}

fn frame(label: &str, most: u32, ticks: &[(f64, String)], marks: &str) -> String {
    let mut axes = String::new();
    let step = u32::try_from(step_for(most.into())).unwrap_or(u32::MAX);
    for value in std::iter::successors(Some(0_u32), |at| at.checked_add(step)).take_while(|value| *value <= most) {
        let _ = write!(
            axes,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(value, most) + 4.0,
            y = y(value, most)
        );
    }
    for (at, text) in ticks {
        let _ = write!(axes, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", HEIGHT - 10.0);
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\" preserveAspectRatio=\"xMidYMid meet\">{axes}{marks}</svg>"
    )
}

fn empty(text: &str) -> String {
    format!("<p class=\"quiet\">{text}</p>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: &[u64]) -> Vec<Duration> {
        values.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn every_picture_is_a_step_and_every_bar_has_its_number() {
        let times = millis(&[2_000, 1_000, 4_000]);
        let chart = completions(&times);
        assert_eq!(chart.matches("<circle").count(), 3);
        assert!(chart.contains("<title>2 after 2.00 s</title>") && chart.contains("M48.0 210.0H213.0V"), "{chart}");
        let chart = histogram(&Histogram::even(&times), "times");
        assert_eq!(chart.matches("<rect").count(), 3);
        assert!(chart.contains("<title>1 from 2 s to 2.2 s</title>"), "{chart}");
        for number in chart.split('"').filter_map(|text| text.parse::<f64>().ok()) {
            assert!((0.0..=WIDTH).contains(&number), "{number}");
        }
    }

    #[test]
    fn nothing_makes_no_chart() {
        for chart in [completions(&[]), completions(&millis(&[0])), histogram(&Histogram::default(), "x")] {
            assert!(!chart.contains("<svg"), "{chart}");
        }
    }
}
