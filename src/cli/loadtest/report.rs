//! What a load test found, for people and for programs.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::gates::{Gate, Observed, Verdict};
use super::quantiles::{Quantiles, as_millis, millis};
use super::run::Outcome;
use crate::cli::output::{one_line, table};
use crate::clock::Clock as _;
use crate::clock::SystemClock;
use crate::domain::ids::BatchId;
use crate::domain::money::MicroUsd;
use crate::domain::state::{BatchState, Counts};
use crate::domain::time::Timestamp;

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// Whether a gate passed, and each other one passed or was left out on purpose.
    pub(super) passed: bool,
    pub(super) url: String,
    /// Of the program that asked.
    pub(super) version: &'static str,
    pub(super) ended_at: Timestamp,
    pub(super) model: String,
    /// Whether the synthetic provider made the pictures, so that nothing was paid.
    pub(super) rehearsal: bool,
    pub(super) rows: u32,
    pub(super) variants: u32,
    /// Whether others may have used the service.
    pub(super) shared: bool,
    pub(super) batch_id: BatchId,
    pub(super) state: BatchState,
    pub(super) counts: Counts,
    pub(super) estimated_cost: MicroUsd,
    pub(super) actual_cost: MicroUsd,
    pub(super) unknown_cost: MicroUsd,
    #[serde(rename = "tookMs", serialize_with = "as_millis")]
    pub(super) took: Duration,
    pub(super) gates: Vec<Gate>,
    /// From a submission to its whole answer: dry runs, and the live one last.
    pub(super) submissions: Times,
    /// From the batch's start to each picture that was made, by the service's own clock: waiting is part of it.
    pub(super) pictures: Times,
    /// From each request to the headers of its answer.
    pub(super) requests: Times,
}

/// Times, and the numbers that they come down to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Times {
    #[serde(flatten)]
    pub(super) quantiles: Quantiles,
    #[serde(rename = "timesMs", serialize_with = "all_as_millis")]
    pub(super) all: Vec<Duration>,
}

impl Times {
    pub(super) fn new(all: Vec<Duration>) -> Self {
        Self { quantiles: Quantiles::of(&all), all }
    }
}

fn all_as_millis<S: serde::Serializer>(times: &[Duration], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(times.iter().map(|time| millis(*time)))
}

/// What is said of a run that it does not know by itself.
pub(super) struct About {
    pub(super) url: String,
    pub(super) model: String,
    pub(super) rehearsal: bool,
    pub(super) rows: u32,
    pub(super) variants: u32,
}

impl Report {
    pub(super) fn new(about: About, outcome: Outcome, gates: Vec<Gate>) -> Self {
        let Outcome { observed, submissions, tally, .. } = outcome;
        let Observed { batch, course, took, shared, .. } = observed;
        Self {
            passed: passed(&gates),
            url: about.url,
            version: env!("CARGO_PKG_VERSION"),
            ended_at: SystemClock::new().now(),
            model: about.model,
            rehearsal: about.rehearsal,
            rows: about.rows,
            variants: about.variants,
            shared,
            batch_id: batch.id,
            state: batch.state,
            counts: batch.counts,
            estimated_cost: batch.estimated_cost,
            actual_cost: batch.actual_cost,
            unknown_cost: batch.unknown_cost,
            took,
            gates,
            submissions: Times::new(submissions),
            pictures: Times::new(course.times),
            requests: Times::new(tally.answered.iter().map(|asked| asked.took).collect()),
        }
    }

    /// The names of the gates with this verdict.
    fn with(&self, verdict: Verdict) -> Vec<String> {
        self.gates.iter().filter(|gate| gate.verdict == verdict).map(|gate| gate.name.text()).collect()
    }

    /// Why the test did not pass: the gates that failed, and that others were not judged, or none.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons = self.with(Verdict::Failed);
        match self.with(Verdict::NotJudged).len() {
            0 => {}
            1 => reasons.push("1 gate not judged".to_owned()),
            count => reasons.push(format!("{count} gates not judged")),
        }
        if reasons.is_empty() && !self.passed {
            reasons.push("every gate was skipped".to_owned());
        }
        reasons
    }

    /// As JSON.
    pub(super) fn as_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_else(|error| json!({"error": error.to_string()}))
    }

    /// As a person reads it in a terminal.
    pub(super) fn as_text(&self) -> String {
        let mut rows = vec![["gate", "verdict", "measured", "limit"].map(str::to_owned).to_vec()];
        rows.extend(self.gates.iter().map(|gate| {
            vec![gate.name.text(), gate.verdict.text().to_owned(), gate.measured.clone(), gate.limit.clone()]
        }));
        let mut text = format!("{}\n", table(&rows));
        for gate in &self.gates {
            if let Some(hint) = &gate.hint {
                text = format!("{text}{}: {}\n", gate.name.text(), one_line(hint));
            }
        }
        format!("{text}\n{}\n\n{}", self.times(), self.summary())
    }

    fn times(&self) -> String {
        let mut rows = vec![["time", "measured", "p50", "p95", "p99", "longest"].map(str::to_owned).to_vec()];
        for (name, times) in self.all_times() {
            let Quantiles { count, p50, p95, p99, max } = times.quantiles;
            let mut row = vec![name.to_owned(), count.to_string()];
            row.extend([p50, p95, p99, max].map(readable));
            rows.push(row);
        }
        table(&rows)
    }

    /// Every kind of time, with what it is.
    pub(super) fn all_times(&self) -> [(&'static str, &Times); 3] {
        [
            ("a submission, to its answer", &self.submissions),
            ("a picture, from the batch's start", &self.pictures),
            ("a request, to the answer's headers", &self.requests),
        ]
    }

    /// The run in a sentence or two.
    pub(super) fn summary(&self) -> String {
        let Counts { total, completed, .. } = self.counts;
        let rate = f64::from(completed) / self.took.as_secs_f64().max(0.001);
        let cost = format!("{} US dollars", self.actual_cost);
        let made = format!(
            "{} is {}: {completed} of {total} pictures with {} in {}, {rate:.1} a second; {}.",
            self.batch_id,
            self.state.as_str(),
            self.model,
            readable(self.took),
            if self.rehearsal { format!("priced at {cost}, nothing paid") } else { cost }
        );
        if self.passed {
            format!("{made} No gate failed.")
        } else {
            format!("{made} Failed: {}.", self.reasons().join(", "))
        }
    }
}

/// Whether gates say that all is well: what was not judged is not passed, and nothing passes where nothing was looked at.
fn passed(gates: &[Gate]) -> bool {
    let is_good = |gate: &Gate| matches!(gate.verdict, Verdict::Passed | Verdict::Skipped);
    gates.iter().all(is_good) && gates.iter().any(|gate| gate.verdict == Verdict::Passed)
}

/// A time with three digits or so.
pub(super) fn readable(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 100.0 {
        format!("{seconds:.0} s")
    } else if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{:.1} ms", seconds * 1e3)
    }
}

#[cfg(test)]
mod tests;
