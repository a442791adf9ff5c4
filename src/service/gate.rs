//! The gate before the provider: how many calls may be under way, how many start in a minute, and
//! when none may start at all.
//!
//! It closes for four reasons. The provider asked to slow down: for as long as it said. Its daily quota
//! is used up: until that is reset, and nobody waits. It failed several times in a row: for a while, then
//! one call tries. The minute's calls are spent: until the oldest is a minute old. After a pause calls
//! come back by and by, not all at once: half as many as were under way, and one more with each answer.

mod limit;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use self::limit::Limit;
use crate::clock::Clock;
use crate::domain::outcome::MAX_THROTTLED;

/// What the gate lets through.
#[derive(Debug, Clone, Copy)]
pub struct GateRules {
    /// Calls under way at once: `PROVIDER_CONCURRENCY`.
    pub concurrency: u32,
    /// Whether fewer are let through while the provider bears fewer: `PROVIDER_ADAPTIVE`.
    pub adaptive: bool,
    /// Calls started in any minute: `PROVIDER_RPM`; `None` is no limit.
    pub calls_a_minute: Option<u32>,
    /// Failures in a row that open the breaker.
    pub failures: u32,
    /// How long the breaker stays open before one call tries.
    pub breaker_pause: Duration,
    /// The pause after a 429 that names none.
    pub default_pause: Duration,
    /// A minute, and a little more: the provider's clock sees the calls a moment later than ours does.
    pub minute: Duration,
}

impl GateRules {
    /// The rules for a provider that takes `concurrency` calls at once and `calls_a_minute`.
    #[must_use]
    pub const fn new(concurrency: u32, calls_a_minute: Option<u32>) -> Self {
        Self {
            concurrency,
            adaptive: false,
            calls_a_minute,
            failures: 5,
            breaker_pause: Duration::from_secs(10),
            default_pause: Duration::from_secs(5),
            minute: Duration::from_millis(60_500),
        }
    }
}

/// Why no call starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The provider asked to slow down.
    Throttled,
    /// The provider's daily quota for the model is used up: waiting is in vain.
    Quota,
    /// The provider failed several times in a row.
    Failing,
    /// As many calls as allowed are under way, or were started in the last minute.
    Busy,
}

impl Reason {
    /// The text form, in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Quota => "quota",
            Self::Failing => "failing",
            Self::Busy => "busy",
        }
    }
}

/// A gate that does not open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Why.
    pub reason: Reason,
    /// When it may open; it may be sooner, or later.
    pub opens_in: Duration,
}

impl Closed {
    /// Closed until `end`; `None` if that is over.
    fn until(reason: Reason, end: Duration, now: Duration) -> Option<Self> {
        let opens_in = end.saturating_sub(now);
        (!opens_in.is_zero()).then_some(Self { reason, opens_in })
    }
}

/// How a gate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateState {
    /// Calls that may be under way at once now.
    pub allowed: u32,
    /// Those that may be while nothing is wrong.
    pub usual: u32,
    /// Why none of any model starts, and behind that why none of some model; empty while calls do.
    pub closed: Vec<Closed>,
}

/// How a call ended, as far as the next ones are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The provider answered, with a picture or without.
    Answered,
    /// It failed, or nobody knows.
    Failed,
    /// It asked to slow down, for so long.
    Throttled(Duration),
    /// Its daily quota for the model is used up for so long.
    QuotaExhausted(Duration),
}

/// The gate. All times are of the monotonic clock.
pub struct Gate {
    clock: Arc<dyn Clock>,
    rules: GateRules,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    under_way: u32,
    /// Calls that may be under way now: less than the rule for a while after a pause.
    limit: Limit,
    /// The starts of the last minute.
    starts: VecDeque<Duration>,
    /// Until when all instances together have spent their calls.
    spent_until: Duration,
    /// Until then calls keep an even pace, as the provider counts in shorter spans than a minute.
    even_until: Duration,
    paused_until: Duration,
    /// Until when each model's daily quota is used up.
    quotas: BTreeMap<String, Duration>,
    failures: u32,
    breaker: Breaker,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Breaker {
    Closed,
    OpenUntil(Duration),
    Probing,
}

/// The right to make one call.
pub struct Pass<'a> {
    gate: &'a Gate,
    model: String,
    started: Duration,
    /// When the call before it was sent.
    sent_before: Duration,
    /// Whether this call tries if a provider that failed is back.
    is_probe: bool,
    sent: bool,
    verdict: Option<Verdict>,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, rules: GateRules) -> Self {
        let state = State {
            under_way: 0,
            limit: if rules.adaptive { Limit::adaptive(rules.concurrency) } else { Limit::fixed(rules.concurrency) },
            starts: VecDeque::new(),
            spent_until: Duration::ZERO,
            even_until: Duration::ZERO,
            paused_until: Duration::ZERO,
            quotas: BTreeMap::new(),
            failures: 0,
            breaker: Breaker::Closed,
        };
        Self { clock, rules, state: Mutex::new(state), changed: Notify::new() }
    }

    /// How long a provider is left alone that asks to slow down and does not say for how long.
    #[must_use]
    pub const fn default_pause(&self) -> Duration {
        self.rules.default_pause
    }

    /// Passes the gate for one call of `model`.
    ///
    /// # Errors
    /// [`Closed`]; ask again when that time has passed, or the gate [changed](Self::changed).
    pub fn pass(&self, model: &str) -> Result<Pass<'_>, Closed> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        if let Some(closed) = state.closed(Some(model), now, self.rules) {
            return Err(closed);
        }
        let is_probe = state.breaker != Breaker::Closed;
        if is_probe {
            state.breaker = Breaker::Probing;
        }
        state.under_way += 1;
        state.starts.push_back(now);
        let sent_before = state.limit.sent(now);
        Ok(Pass {
            gate: self,
            model: model.to_owned(),
            started: now,
            sent_before,
            is_probe,
            sent: false,
            verdict: None,
        })
    }

    /// Why no call of `model` would start now for a reason that users should know; `None` while calls do.
    /// Without a model, why none of any model would, or that some model's quota is used up.
    #[must_use]
    pub fn trouble(&self, model: Option<&str>) -> Option<Closed> {
        let now = self.clock.monotonic();
        self.lock().closed(model, now, self.rules).filter(|closed| closed.reason != Reason::Busy)
    }

    /// How the gate stands now.
    #[must_use]
    pub fn view(&self) -> GateState {
        let (usual, allowed) = (self.rules.concurrency, self.lock().limit.allowed());
        let now = self.clock.monotonic();
        GateState { allowed, usual, closed: self.lock().pauses(None, now, self.rules) }
    }

    /// No call starts for `span`, as all instances together have spent those of the minute; zero if one is free.
    pub fn spent(&self, span: Duration) {
        let now = self.clock.monotonic();
        self.lock().spent_until = now + span;
        self.changed.notify_waiters();
    }

    /// Ends when a call ended after this was called, which may have opened the gate.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, pass: &Pass<'_>) {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        state.under_way -= 1;
        if !pass.sent {
            state.take_back(pass.started);
            state.limit.take_back(pass.started, pass.sent_before);
        }
        state.judge(now, pass, self.rules);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Pass<'_> {
    /// The call is sent now: from here on it counts among those of the minute, used or not.
    pub fn send(&mut self) {
        let now = self.gate.clock.monotonic();
        let mut state = self.gate.lock();
        state.take_back(self.started);
        state.starts.push_back(now);
        state.limit.sent(now);
        (self.started, self.sent) = (now, true);
    }

    /// The call ended like this. A pass that is dropped without a word was not used, or says nothing.
    pub fn end(mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.end(self);
    }
}

impl State {
    fn closed(&mut self, model: Option<&str>, now: Duration, rules: GateRules) -> Option<Closed> {
        if let Some(closed) = self.pauses(model, now, rules).into_iter().next() {
            return Some(closed);
        }
        if self.under_way >= self.limit.allowed() {
            // Whoever waits for a call to end is woken by it.
            return Some(Closed { reason: Reason::Busy, opens_in: rules.minute });
        }
        let next = self.spent_until.max(self.next_start(now, rules)).max(self.limit.next_start());
        Closed::until(Reason::Busy, next, now)
    }

    /// Why no call of `model` starts, what fails its pictures first. Without a model: why none of any does, and behind
    /// that whether some model's quota is used up.
    fn pauses(&mut self, model: Option<&str>, now: Duration, rules: GateRules) -> Vec<Closed> {
        self.quotas.retain(|_, end| *end > now);
        let quota = model.map_or_else(|| self.quotas.values().min(), |model| self.quotas.get(model));
        let quota = quota.and_then(|end| Closed::until(Reason::Quota, *end, now));
        let throttled = Closed::until(Reason::Throttled, self.paused_until, now);
        let failing = match self.breaker {
            Breaker::Closed => None,
            Breaker::OpenUntil(end) => Closed::until(Reason::Failing, end, now),
            Breaker::Probing => Some(Closed { reason: Reason::Failing, opens_in: rules.breaker_pause }),
        };
        let order = if model.is_some() { [quota, throttled, failing] } else { [throttled, failing, quota] };
        order.into_iter().flatten().collect()
    }

    /// When the allowed number of calls a minute lets the next one start.
    fn next_start(&mut self, now: Duration, rules: GateRules) -> Duration {
        while self.starts.front().is_some_and(|start| now.saturating_sub(*start) >= rules.minute) {
            self.starts.pop_front();
        }
        let Some(calls) = rules.calls_a_minute else {
            self.starts.clear();
            return Duration::ZERO;
        };
        let oldest = self.starts.len().checked_sub(calls as usize).and_then(|index| self.starts.get(index));
        let by_minute = oldest.map_or(Duration::ZERO, |start| *start + rules.minute);
        let paced = self.starts.back().filter(|_| now < self.even_until);
        by_minute.max(paced.map_or(Duration::ZERO, |start| *start + rules.minute / calls))
    }

    /// Forgets the start of a call that was not sent.
    fn take_back(&mut self, started: Duration) {
        if let Some(index) = self.starts.iter().rposition(|start| *start == started) {
            self.starts.remove(index);
        }
    }

    fn judge(&mut self, now: Duration, pass: &Pass<'_>, rules: GateRules) {
        let is_probe = pass.is_probe && self.breaker == Breaker::Probing;
        match pass.verdict {
            // The probe was not made: another one may be.
            None if is_probe => self.breaker = Breaker::OpenUntil(now),
            None => {}
            Some(Verdict::Failed) => {
                self.failures += 1;
                // A call that tries whether the provider is back says nothing of how many it bears.
                if self.breaker == Breaker::Closed {
                    self.limit.failed(now, pass.started);
                }
                if is_probe || (self.breaker == Breaker::Closed && self.failures >= rules.failures) {
                    self.breaker = Breaker::OpenUntil(now + rules.breaker_pause);
                    let (failures, pause) = (self.failures, rules.breaker_pause.as_secs());
                    tracing::warn!(failures, pause, "the provider fails again and again: no call starts for a while");
                }
            }
            Some(verdict) => {
                // Whatever it says, it is there.
                (self.failures, self.breaker) = (0, Breaker::Closed);
                self.heed(now, pass, verdict, rules);
            }
        }
    }

    /// Does what a provider asks for that answers.
    fn heed(&mut self, now: Duration, pass: &Pass<'_>, verdict: Verdict, rules: GateRules) {
        match verdict {
            Verdict::Answered => self.limit.answered(now, pass.started, self.under_way),
            Verdict::Failed => {}
            Verdict::Throttled(span) => {
                self.paused_until = self.paused_until.max(now + span.min(MAX_THROTTLED));
                self.even_until = self.even_until.max(self.paused_until + rules.minute);
                self.limit.slow_down(now, pass.started, self.under_way);
            }
            Verdict::QuotaExhausted(span) => {
                if !self.quotas.contains_key(&pass.model) {
                    let (model, seconds) = (&pass.model, span.as_secs());
                    tracing::warn!(model, seconds, "the provider's quota of the day is used up: no call of it starts");
                }
                let end = self.quotas.entry(pass.model.clone()).or_default();
                *end = (now + span).max(*end);
            }
        }
    }
}

#[cfg(test)]
mod tests;
