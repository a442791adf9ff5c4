//! The course of one attempt at a picture: what it spent its time on, and how it ended, told to log and trace.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Charge, Next, Outcome, Settlement};
use crate::domain::state::ErrorCode;
use crate::domain::time::Timestamp;
use crate::provider::ProviderError;
use crate::store::{Job, Settled};
use crate::telemetry::traces::{Moment, Side, Span, SpanId, TraceId, Traces, Value};

/// Fetching the references.
pub(super) const REFERENCES: &str = "references";
/// The one call of the provider.
pub(super) const CALL: &str = "call";
/// Storing what the call made.
pub(super) const STORE: &str = "store";

/// A part of an attempt. Times are since the attempt began.
struct Step {
    name: &'static str,
    begun: Duration,
    ended: Duration,
    fault: Option<&'static str>,
}

/// What an attempt did until now.
pub(super) struct Course {
    clock: Arc<dyn Clock>,
    begun: Timestamp,
    /// What had passed since then when this process took it up, and its clock at that moment.
    earlier: Duration,
    since: Duration,
    steps: Vec<Step>,
}

/// How an attempt ended, in the words of log and trace.
pub(super) struct Ending {
    outcome: &'static str,
    error: Option<ErrorCode>,
}

impl Ending {
    pub(super) const fn of(outcome: &Outcome) -> Self {
        let (outcome, error) = match outcome {
            Outcome::Made { .. } => ("made", None),
            Outcome::FoundEarlier { .. } => ("found", None),
            Outcome::PaidInVain { error, .. } => ("paid_in_vain", Some(error.code)),
            Outcome::Refused(error) => ("refused", Some(error.code)),
            Outcome::Failed(error) => ("failed", Some(error.code)),
            Outcome::Throttled(_) => ("throttled", None),
            Outcome::Postponed(_) => ("postponed", None),
            Outcome::Unknown => ("unknown", Some(ErrorCode::ProviderOutcomeUnknown)),
            Outcome::Interrupted => ("interrupted", Some(ErrorCode::ProviderOutcomeUnknown)),
        };
        Self { outcome, error }
    }
}

impl Course {
    /// An attempt that begins now, or one that a dead worker had started at `started`.
    pub(super) fn begin(clock: Arc<dyn Clock>, started: Option<Timestamp>) -> Self {
        let (now, since) = (clock.now(), clock.monotonic());
        let begun = started.unwrap_or(now).min(now);
        Self { clock, begun, earlier: now.since(begun), since, steps: Vec::new() }
    }

    fn elapsed(&self) -> Duration {
        self.earlier + self.clock.monotonic().saturating_sub(self.since)
    }

    /// Does `work` as a part of the attempt.
    pub(super) async fn step<T>(&mut self, name: &'static str, work: impl Future<Output = T>) -> T {
        let begun = self.elapsed();
        let done = work.await;
        self.steps.push(Step { name, begun, ended: self.elapsed(), fault: None });
        done
    }

    /// Says in a word that the last part went wrong.
    pub(super) fn failed(&mut self, fault: &'static str) {
        if let Some(step) = self.steps.last_mut() {
            step.fault = Some(fault);
        }
    }

    /// Tells how the attempt ended, once that is written.
    ///
    /// An attempt that was put off and goes on later has not ended: its line is only for who looks closely, and it has
    /// a span only if the provider was asked.
    pub(super) fn tell(self, traces: &Traces, job: &Job, ending: &Ending, settlement: &Settlement, settled: Settled) {
        let state = match settled {
            Settled::Written { state, .. } => state.as_str(),
            Settled::AttemptGone => "gone",
            Settled::ClaimLost => return,
        };
        let cost = match settlement.charge {
            Charge::Nothing => MicroUsd::ZERO,
            Charge::Known(cost) => cost,
            Charge::Reserve => job.reserved,
        };
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let (elapsed, span) = (self.elapsed(), SpanId::of_attempt(job.claim.attempt, job.claim.fence));
        let call = self.steps.iter().find(|step| step.name == CALL).map(|step| step.ended.saturating_sub(step.begun));
        let put_off = matches!(settlement.next, Next::Wait(_));
        if put_off {
            tracing::debug!(image = %job.claim.image, attempt = %job.claim.attempt, outcome = ending.outcome, "attempt put off");
        } else {
            tracing::info!(
                batch = %job.claim.image.batch,
                image = %job.claim.image,
                attempt = %job.claim.attempt,
                number = job.number,
                model = job.model,
                outcome = ending.outcome,
                error = ending.error.map(ErrorCode::as_str),
                picture = state,
                cost = %cost,
                latency_us = micros(elapsed),
                call_us = call.map(micros),
                span_id = %span,
                trace_sampled = traces.is_on(),
                "attempt ended"
            );
        }
        if traces.is_on() && (!put_off || call.is_some()) {
            self.write(traces, job, ending, settlement, (span, elapsed, state, cost));
        }
    }

    /// Writes the attempt's span and those of its parts.
    fn write(
        self,
        traces: &Traces,
        job: &Job,
        ending: &Ending,
        settlement: &Settlement,
        (id, elapsed, state, cost): (SpanId, Duration, &'static str, MicroUsd),
    ) {
        let image = job.claim.image;
        let (trace, begun) = (TraceId::of_batch(image.batch), Moment::from(self.begun));
        for (number, step) in (0..).zip(self.steps) {
            traces.send(Span {
                trace,
                id: id.part(number),
                parent: Some((id, false)),
                name: step.name.into(),
                side: if step.name == CALL { Side::Client } else { Side::Internal },
                begun: begun.after(step.begun),
                ended: begun.after(step.ended),
                about: Vec::new(),
                fault: step.fault.map(Into::into),
                led_to: None,
            });
        }
        let mut about = vec![
            ("orchestrator.batch", Value::Text(image.batch.to_string())),
            ("orchestrator.image", Value::Text(image.to_string())),
            ("orchestrator.attempt", Value::Text(job.claim.attempt.to_string())),
            ("orchestrator.number", job.number.into()),
            ("orchestrator.model", Value::Text(job.model.clone())),
            ("orchestrator.outcome", ending.outcome.into()),
            ("orchestrator.picture", state.into()),
            ("orchestrator.cost_usd", cost.into()),
        ];
        let request_id = settlement.request_id.as_ref();
        about.extend(request_id.map(|name| ("orchestrator.request_id", Value::Text(name.clone()))));
        let is_fault = !matches!(ending.outcome, "made" | "found");
        traces.send(Span {
            trace,
            id,
            parent: Some((SpanId::of_batch(image.batch), false)),
            name: "attempt".into(),
            side: Side::Internal,
            begun,
            ended: begun.after(elapsed),
            about,
            fault: is_fault.then(|| ending.error.map_or(ending.outcome, ErrorCode::as_str).into()),
            led_to: None,
        });
    }
}

/// What went wrong with a call, in a word.
pub(super) const fn fault_of(error: &ProviderError) -> &'static str {
    match error {
        ProviderError::Throttled { .. } => "throttled",
        ProviderError::QuotaExhausted { .. } => "quota",
        ProviderError::Failed(_) => "failed",
        ProviderError::Refused(_) => "refused",
        ProviderError::OutcomeUnknown(_) => "unknown",
    }
}
