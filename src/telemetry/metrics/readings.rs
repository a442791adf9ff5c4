//! What is not counted but read: from the database, the gate and the system, at the moment it is asked for.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{Reason, State};
use super::{PREFIX, dollars};
use crate::domain::money::MicroUsd;
use crate::domain::time::Timestamp;
use crate::telemetry::process;

/// A reading that is no whole number.
type Level = Gauge<f64, AtomicU64>;

/// What was read just now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings {
    /// What the database says; `None` if it does not answer.
    pub work: Option<Work>,
    /// Calls that the gate before the provider allows at once now.
    pub gate_limit: u32,
    /// Whether that gate is closed, for each reason that there is.
    pub gate_closed: Vec<(&'static str, bool)>,
}

/// What the database says of the work and the money of all instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// The day's limit for everyone, if there is one.
    pub limit: Option<MicroUsd>,
    /// What was charged on the day.
    pub spent: MicroUsd,
    /// What is held for pictures that are not finished.
    pub reserved: MicroUsd,
    /// The part of `spent` for calls whose outcome is not known.
    pub unknown: MicroUsd,
    /// When the day ends.
    pub resets_at: Timestamp,
    /// Pictures that wait.
    pub queued: u64,
    /// Pictures that are made ready.
    pub claimed: u64,
    /// Pictures whose call was started.
    pub running: u64,
    /// How long the picture that waits longest could have been taken up.
    pub oldest: Duration,
    /// Charges that are not in the ledger yet, and the age of the oldest; `None` while the ledger is off.
    pub ledger: Option<(u64, Duration)>,
}

impl Readings {
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        number(&mut registry, "database_up", "Whether the database answers", u64::from(self.work.is_some()));
        number(&mut registry, "gate_limit", "Calls of the provider that may be under way now", self.gate_limit.into());
        let closed = Family::<Reason, Gauge>::default();
        for (reason, is_closed) in &self.gate_closed {
            closed.get_or_create(&Reason { reason }).set((*is_closed).into());
        }
        registry.register("gate_closed", "Whether no call of the provider starts, by reason", closed);
        if let Some(work) = &self.work {
            work.register(&mut registry);
        }
        registry
    }
}

impl Work {
    fn register(&self, registry: &mut Registry) {
        let mut money = |name: &str, help: &str, money| level(registry, name, help, None, dollars(money));
        if let Some(limit) = self.limit {
            money("budget_limit_usd", "The day's limit for everyone", limit);
        }
        money("budget_spent_usd", "Charged today", self.spent);
        money("budget_reserved_usd", "Held for pictures that are not finished", self.reserved);
        money("budget_unknown_usd", "Charged today for calls whose outcome is not known", self.unknown);
        let queue = Family::<State, Gauge>::default();
        for (state, pictures) in [("queued", self.queued), ("claimed", self.claimed), ("running", self.running)] {
            queue.get_or_create(&State { state }).set(i64::try_from(pictures).unwrap_or(i64::MAX));
        }
        registry.register("queue_pictures", "Pictures that are not finished", queue);
        let oldest = self.oldest.as_secs_f64();
        let help = "How long the picture that waits longest could have been taken up";
        level(registry, "queue_oldest", help, Some(Unit::Seconds), oldest);
        if let Some((lines, age)) = self.ledger {
            number(registry, "ledger_pending_lines", "Charges that are not in the ledger yet", lines);
            let help = "Age of the oldest charge that is not in the ledger yet";
            level(registry, "ledger_lag", help, Some(Unit::Seconds), age.as_secs_f64());
        }
    }
}

/// What the system says of this process, by the names that other programs use too.
#[expect(clippy::cast_precision_loss, reason = "times and sizes are far below 2^52")]
pub(super) fn of_process(started: Timestamp) -> Registry {
    let mut registry = Registry::with_prefix("process");
    let start = started.millis() as f64 / 1e3;
    level(&mut registry, "start_time", "When the process started, in Unix time", Some(Unit::Seconds), start);
    if let Some(bytes) = process::resident_memory() {
        level(&mut registry, "resident_memory", "Memory in use", Some(Unit::Bytes), bytes as f64);
    }
    let time = prometheus_client::metrics::counter::Counter::<f64, AtomicU64>::default();
    time.inc_by(process::processor_seconds());
    registry.register_with_unit("cpu", "Processor time used", Unit::Seconds, time);
    registry
}

fn number(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn level(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: f64) {
    let gauge = Level::default();
    gauge.set(value);
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge),
        None => registry.register(name, help, gauge),
    }
}
