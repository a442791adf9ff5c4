//! Logs, traces and counters: what an operator sees of a running process.

pub mod logs;
pub mod traces;

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter of this process since its start.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters behind `/metrics-lite`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests taken, whatever became of them.
    pub requests: Counter,
    /// Answers with a status of 500 or more.
    pub errors: Counter,
    /// Pictures stored.
    pub images_generated: Counter,
    /// Links minted again because an earlier one was near its end.
    pub url_refreshes: Counter,
    /// Pictures that failed.
    pub images_failed: Counter,
    /// Paid calls started.
    pub calls_started: Counter,
    /// Calls that the provider put off with a 429.
    pub calls_throttled: Counter,
    /// Calls whose outcome is not known.
    pub calls_unknown: Counter,
    /// Charges above what was reserved.
    pub overruns: Counter,
    /// Ledger lines exported.
    pub ledger_lines: Counter,
    /// Events read from the store for streams.
    pub events_read: Counter,
    /// Events rendered for streams.
    pub events_rendered: Counter,
    /// Progress streams opened.
    pub streams_opened: Counter,
    /// Progress streams closed.
    pub streams_closed: Counter,
}
