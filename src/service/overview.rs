//! What an operator asks for first: the queue, the money, the calls, the ledger, and the last hour.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::gate::{Gate, GateState, Reason};
use super::health::Health;
use super::ledger::Exporter;
use crate::clock::Clock;
use crate::domain::money::MicroUsd;
use crate::domain::time::Timestamp;
use crate::store::{EVERYONE, Limits, Store, StoreError};
use crate::telemetry::history::{self, Minute};
use crate::telemetry::metrics::{Metrics, Readings, Work};
use crate::telemetry::process;

/// A database that has not answered by then does not answer: whoever looks is told that instead of nothing.
const DEADLINE: Duration = Duration::from_secs(5);

/// Reads what is not counted.
pub struct Overview {
    store: Arc<Store>,
    gate: Arc<Gate>,
    exporter: Option<Arc<Exporter>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    limits: Limits,
}

/// What an operator sees. `work` is that of all instances, the rest is this process's own.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OverviewView {
    /// When it was read.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The version that answers.
    version: &'static str,
    /// When this process started.
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    /// Memory of this process in use, in bytes; null where the system does not say.
    memory: Option<u64>,
    /// Calls of the provider under way.
    calls_in_flight: u64,
    /// Progress streams that are open.
    streams_open: u64,
    /// The gate before the provider.
    gate: GateView,
    /// What does not answer, as `GET /ready` names it; empty if everything does.
    reasons: Vec<String>,
    /// Why charges are not written to the ledger; null while they are, or are not to be.
    ledger_trouble: Option<String>,
    /// What the database says; null while it does not answer.
    work: Option<WorkView>,
    /// The minutes of the last hour in which anything happened, the oldest first.
    minutes: Vec<MinuteView>,
    /// Error codes of answers and of failed pictures in the last hour, the most frequent first.
    codes: Vec<CodeView>,
}

/// The gate before the provider.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateView {
    /// Calls that may be under way now.
    limit: u32,
    /// Those that may be while nothing is wrong: `PROVIDER_CONCURRENCY`.
    usual: u32,
    /// Why no call starts now: `throttled`, `failing`, or, for some model alone, `quota`; null while they do.
    closed: Option<&'static str>,
    /// In how many seconds calls may start again, if nothing happens until then; null while they do.
    opens_in_seconds: Option<u64>,
}

/// The work and the money of all instances.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkView {
    /// The day's limit for everyone; null if there is none.
    #[schema(value_type = Option<f64>)]
    daily_limit: Option<MicroUsd>,
    /// Charged today.
    #[schema(value_type = f64)]
    spent: MicroUsd,
    /// Held for pictures that are not finished.
    #[schema(value_type = f64)]
    reserved: MicroUsd,
    /// The part of `spent` for calls whose outcome is not known.
    #[schema(value_type = f64)]
    unknown: MicroUsd,
    /// What new batches may still reserve; null if there is no limit.
    #[schema(value_type = Option<f64>)]
    remaining: Option<MicroUsd>,
    /// When `spent` starts at zero again.
    #[schema(value_type = String, format = DateTime)]
    resets_at: Timestamp,
    /// Pictures that wait, those included that are made ready for their call.
    queued: u64,
    /// Pictures whose call was started.
    running: u64,
    /// For how many seconds the picture that waits longest could have been taken up.
    oldest_seconds: u64,
    /// Charges that are not in the ledger yet; null while the ledger is off.
    ledger_pending: Option<u64>,
    /// The age of the oldest of them in seconds, 0 if there is none; null while the ledger is off.
    ledger_lag_seconds: Option<u64>,
}

/// What happened in one minute.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MinuteView {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    start: Timestamp,
    /// Requests answered.
    requests: u64,
    /// Those answered with a status of 500 or more.
    errors: u64,
    /// Milliseconds within which 95 of 100 were answered, rounded up to the next of a few classes, the highest of which
    /// has no end; null without any. Those that asked to wait for their batch do not count.
    p95: Option<u64>,
    /// Pictures made.
    completed: u64,
    /// Pictures that failed.
    failed: u64,
    /// Charged.
    #[schema(value_type = f64)]
    cost: MicroUsd,
}

/// How often an error code came.
#[derive(Debug, Serialize, ToSchema)]
pub struct CodeView {
    /// The code.
    code: &'static str,
    /// How often.
    count: u64,
}

impl Overview {
    /// Reads from these parts; the ledger only where it is on.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        gate: Arc<Gate>,
        exporter: Option<Arc<Exporter>>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Self {
        Self { store, gate, exporter, health, metrics, clock, limits }
    }

    /// What the metrics do not count.
    pub async fn readings(&self) -> Readings {
        let gate = self.gate.view();
        let closed = |reason| gate.closed.iter().any(|closed| closed.reason == reason);
        let reasons = [Reason::Quota, Reason::Throttled, Reason::Failing];
        let gate_closed = reasons.map(|reason| (reason.as_str(), closed(reason))).to_vec();
        Readings { work: self.work().await, gate_limit: gate.allowed, gate_closed }
    }

    /// What an operator sees.
    pub async fn view(&self) -> OverviewView {
        let (work, reasons) = tokio::join!(self.work(), self.health.reasons());
        let now = self.clock.now();
        let minutes = self.metrics.history().last_hour(now);
        let codes = history::codes(&minutes).into_iter().map(|(code, count)| CodeView { code, count }).collect();
        OverviewView {
            at: now,
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.metrics.started(),
            memory: process::resident_memory(),
            calls_in_flight: self.metrics.calls_in_flight(),
            streams_open: self.metrics.streams_open(),
            gate: GateView::from(self.gate.view()),
            reasons,
            ledger_trouble: self.health.ledger_trouble(),
            work: work.map(WorkView::from),
            minutes: minutes.iter().map(MinuteView::from).collect(),
            codes,
        }
    }

    async fn work(&self) -> Option<Work> {
        match tokio::time::timeout(DEADLINE, self.read_work()).await {
            Ok(Ok(work)) => Some(work),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read the queue and the budget");
                None
            }
            Err(_) => None,
        }
    }

    async fn read_work(&self) -> Result<Work, StoreError> {
        let (budget, queue) = tokio::try_join!(self.store.load_budget(EVERYONE), self.store.load_queue())?;
        let ledger = match &self.exporter {
            Some(_) => {
                let unexported = self.store.load_unexported().await?;
                let age = unexported.first.map_or(Duration::ZERO, |first| self.clock.now().since(first));
                Some((unexported.lines, age))
            }
            None => None,
        };
        Ok(Work {
            limit: self.limits.everyone,
            spent: budget.spent,
            reserved: budget.reserved,
            unknown: budget.unknown,
            resets_at: budget.day.end(),
            queued: queue.queued,
            claimed: queue.claimed,
            running: queue.running,
            oldest: queue.first_due.map_or(Duration::ZERO, |due| self.store.steady_now().since(due)),
            ledger,
        })
    }
}

impl From<GateState> for GateView {
    fn from(gate: GateState) -> Self {
        Self {
            limit: gate.allowed,
            usual: gate.usual,
            closed: gate.closed.first().map(|closed| closed.reason.as_str()),
            opens_in_seconds: gate.closed.first().map(|closed| up_to_seconds(closed.opens_in)),
        }
    }
}

/// Whole seconds, a part of one as one.
fn up_to_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

impl From<Work> for WorkView {
    fn from(work: Work) -> Self {
        let left = |limit: MicroUsd| limit.minus(work.spent)?.minus(work.reserved);
        Self {
            daily_limit: work.limit,
            spent: work.spent,
            reserved: work.reserved,
            unknown: work.unknown,
            remaining: work.limit.map(|limit| left(limit).unwrap_or_default().or_zero()),
            resets_at: work.resets_at,
            queued: work.queued + work.claimed,
            running: work.running,
            oldest_seconds: work.oldest.as_secs(),
            ledger_pending: work.ledger.map(|(lines, _)| lines),
            ledger_lag_seconds: work.ledger.map(|(_, age)| age.as_secs()),
        }
    }
}

impl From<&Minute> for MinuteView {
    fn from(minute: &Minute) -> Self {
        Self {
            start: minute.start,
            requests: minute.requests,
            errors: minute.server_errors,
            p95: minute.p95_millis(),
            completed: minute.completed,
            failed: minute.failed,
            cost: minute.cost,
        }
    }
}
