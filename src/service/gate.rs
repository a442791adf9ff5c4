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
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::time::Timestamp;

    const SECOND: Duration = Duration::from_secs(1);

    fn gate(concurrency: u32, calls_a_minute: Option<u32>) -> (Arc<FixedClock>, Gate) {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
        clock.advance(SECOND);
        (clock.clone(), Gate::new(clock, GateRules::new(concurrency, calls_a_minute)))
    }

    fn why(gate: &Gate) -> Option<(Reason, Duration)> {
        gate.pass("m").err().map(|closed| (closed.reason, closed.opens_in))
    }

    fn calls(gate: &Gate, verdicts: impl IntoIterator<Item = Verdict>) {
        for verdict in verdicts {
            let mut pass = gate.pass("m").unwrap_or_else(|closed| panic!("{closed:?}"));
            pass.send();
            pass.end(verdict);
        }
    }

    #[test]
    fn a_pause_ends_by_the_monotonic_clock_alone_and_the_longer_one_counts() {
        let (clock, gate) = gate(4, None);
        let (first, second) = (gate.pass("m").ok().unwrap(), gate.pass("m").ok().unwrap());
        first.end(Verdict::Throttled(10 * SECOND));
        second.end(Verdict::Throttled(2 * SECOND));
        clock.jump_to(Timestamp::from_millis(1_000_000));
        assert_eq!(why(&gate), Some((Reason::Throttled, 10 * SECOND)));
        clock.advance(10 * SECOND);
        assert_eq!(why(&gate), None);
    }

    #[test]
    fn a_pause_is_an_hour_at_most() {
        let (_, gate) = gate(4, None);
        calls(&gate, [Verdict::Throttled(24 * MAX_THROTTLED)]);
        assert_eq!(why(&gate), Some((Reason::Throttled, MAX_THROTTLED)));
    }

    #[test]
    fn no_minute_holds_more_calls_than_allowed_and_none_is_wasted() {
        let (clock, gate) = gate(100, Some(20));
        let mut starts: Vec<Duration> = Vec::new();
        for _ in 0..1_800 {
            if let Ok(mut pass) = gate.pass("m") {
                pass.send();
                starts.push(clock.monotonic());
                pass.end(Verdict::Answered);
            }
            clock.advance(SECOND / 10);
        }
        assert!(starts.windows(21).all(|window| window[20].saturating_sub(window[0]) >= Duration::from_mins(1)));
        assert_eq!(starts.len(), 60, "three minutes");
    }

    #[test]
    fn after_a_refusal_calls_keep_an_even_pace() {
        let (clock, gate) = gate(100, Some(60));
        calls(&gate, [Verdict::Answered, Verdict::Throttled(SECOND)]);
        clock.advance(2 * SECOND);
        calls(&gate, [Verdict::Answered]);
        assert!(matches!(why(&gate), Some((Reason::Busy, span)) if span > SECOND && span < 2 * SECOND));
    }

    #[test]
    fn calls_come_back_by_and_by_after_a_pause() {
        let (clock, gate) = gate(20, None);
        let under_way: Vec<_> = (0..20).map(|_| gate.pass("m").ok().unwrap()).collect();
        assert_eq!(why(&gate).unwrap().0, Reason::Busy);
        for pass in under_way {
            pass.end(Verdict::Throttled(SECOND));
        }
        clock.advance(SECOND);
        let half: Vec<_> = std::iter::from_fn(|| gate.pass("m").ok()).collect();
        assert_eq!(half.len(), 10, "one refusal counts, not twenty");
        for pass in half {
            pass.end(Verdict::Answered);
        }
        assert_eq!(std::iter::from_fn(|| gate.pass("m").ok()).collect::<Vec<_>>().len(), 20);
    }

    /// What a provider that takes `allowance` calls a second, each for `time`, was sent in `span`: calls that it took,
    /// and calls that it refused.
    fn traffic(clock: &FixedClock, gate: &Gate, allowance: usize, time: Duration, span: Duration) -> (usize, usize) {
        const TICK: Duration = Duration::from_millis(10);
        let (mut under_way, mut taken): (Vec<(Duration, Pass<'_>, Verdict)>, Vec<Duration>) = Default::default();
        let (mut refused, end) = (0, clock.monotonic() + span);
        while clock.monotonic() < end {
            let now = clock.monotonic();
            for (_, pass, verdict) in under_way.extract_if(.., |(end, ..)| *end <= now) {
                pass.end(verdict);
            }
            while let Ok(mut pass) = gate.pass("m") {
                pass.send();
                let in_window: Vec<_> = taken.iter().filter(|at| now.saturating_sub(**at) < SECOND).collect();
                if in_window.len() < allowance {
                    taken.push(now);
                    under_way.push((now + time, pass, Verdict::Answered));
                } else {
                    refused += 1;
                    let pause = (*in_window[in_window.len() - allowance] + SECOND).saturating_sub(now);
                    under_way.push((now + TICK, pass, Verdict::Throttled(pause)));
                }
            }
            clock.advance(TICK);
        }
        (taken.len(), refused)
    }

    #[test]
    fn an_adaptive_gate_finds_what_a_provider_bears_and_finds_out_when_that_changes() {
        for time in [200, 1_000, 3_000].map(Duration::from_millis) {
            let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
            clock.advance(SECOND);
            let gate = Gate::new(clock.clone(), GateRules { adaptive: true, ..GateRules::new(256, None) });
            let minute = Duration::from_mins(1);
            for allowance in [20, 40, 5, 20] {
                let (_, storm) = traffic(&clock, &gate, allowance, time, minute);
                let (taken, refused) = traffic(&clock, &gate, allowance, time, minute);
                let due = 60 * allowance;
                assert!(taken * 10 > due * 7, "{taken} calls of {due}, {time:?} each");
                assert!(refused * 50 < due && storm * 16 < due, "{refused} of {due} refused, {storm} before");
            }
        }
    }

    #[test]
    fn an_adaptive_gate_comes_back_soon_after_an_outage_and_after_a_long_spell_of_refusals() {
        const LATENCY: Duration = Duration::from_secs(3);
        let half_an_hour = Duration::from_mins(30);
        for verdict in [Verdict::Failed, Verdict::Throttled(5 * SECOND)] {
            let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
            clock.advance(SECOND);
            let gate = Gate::new(clock.clone(), GateRules { adaptive: true, ..GateRules::new(64, None) });
            let (before, _) = traffic(&clock, &gate, 15, LATENCY, Duration::from_mins(4));
            assert!(before > 15 * 240 / 2, "{before}");
            let end = clock.monotonic() + half_an_hour;
            while clock.monotonic() < end {
                let passes: Vec<_> = std::iter::from_fn(|| gate.pass("m").ok()).collect();
                clock.advance(SECOND / 10);
                for mut pass in passes {
                    pass.send();
                    pass.end(verdict);
                }
            }
            traffic(&clock, &gate, 15, LATENCY, Duration::from_mins(2));
            let (after, _) = traffic(&clock, &gate, 15, LATENCY, Duration::from_mins(1));
            assert!(after * 10 > 15 * 60 * 7, "{after} calls in the third minute after {verdict:?}");
        }
    }

    #[test]
    fn one_prompt_that_the_provider_cannot_make_slows_no_other_down() {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
        clock.advance(SECOND);
        let gate = Gate::new(clock.clone(), GateRules { adaptive: true, ..GateRules::new(16, None) });
        let mut number = 0_u32;
        for _ in 0..200 {
            let passes: Vec<_> = std::iter::from_fn(|| gate.pass("m").ok()).collect();
            clock.advance(SECOND);
            for mut pass in passes {
                pass.send();
                number += 1;
                pass.end(if number.is_multiple_of(10) { Verdict::Failed } else { Verdict::Answered });
            }
        }
        assert_eq!(gate.view().allowed, 16);
    }

    #[test]
    fn a_quota_of_one_model_hides_no_pause_of_all() {
        let (_, gate) = gate(4, None);
        calls(&gate, [Verdict::QuotaExhausted(SECOND)]);
        let mut other = gate.pass("other").unwrap_or_else(|closed| panic!("{closed:?}"));
        other.send();
        other.end(Verdict::Throttled(SECOND));
        let reasons: Vec<Reason> = gate.view().closed.iter().map(|closed| closed.reason).collect();
        assert_eq!(reasons, [Reason::Throttled, Reason::Quota]);
        assert_eq!(gate.trouble(None).map(|closed| closed.reason), Some(Reason::Throttled));
        assert_eq!(gate.trouble(Some("m")).map(|closed| closed.reason), Some(Reason::Quota));
    }

    #[test]
    fn an_adaptive_gate_asks_for_no_more_of_a_provider_that_slows_down() {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
        clock.advance(SECOND);
        let gate = Gate::new(clock.clone(), GateRules { adaptive: true, ..GateRules::new(256, None) });
        // Ten at once are as fast as one; more wait in a line of the provider's own.
        for _ in 0..500 {
            let passes: Vec<_> = std::iter::from_fn(|| gate.pass("m").ok()).collect();
            let line = u32::try_from(passes.len().div_ceil(10)).unwrap();
            clock.advance(SECOND * line);
            for pass in passes {
                pass.end(Verdict::Answered);
            }
        }
        assert!((10..=50).contains(&gate.view().allowed), "{:?}", gate.view());
        assert!(!std::iter::from_fn(|| gate.pass("m").ok()).collect::<Vec<_>>().is_empty());
        gate.pass("m").ok().unwrap().end(Verdict::Failed);
    }

    #[test]
    fn five_failures_in_a_row_open_the_breaker_and_one_call_tries_again() {
        let (clock, gate) = gate(4, None);
        calls(&gate, [Verdict::Failed, Verdict::Failed, Verdict::Answered]);
        calls(&gate, [Verdict::Failed; 5]);
        assert_eq!(why(&gate), Some((Reason::Failing, 10 * SECOND)));
        clock.advance(10 * SECOND);
        let probe = gate.pass("m").ok().unwrap();
        assert_eq!(why(&gate).unwrap().0, Reason::Failing, "one probe at a time");
        probe.end(Verdict::Failed);
        assert_eq!(why(&gate), Some((Reason::Failing, 10 * SECOND)));
        clock.advance(10 * SECOND);
        drop(gate.pass("m"));
        calls(&gate, [Verdict::Answered]);
        assert_eq!(why(&gate), None);
    }

    #[test]
    fn a_used_up_quota_closes_the_gate_until_it_is_reset() {
        let (clock, gate) = gate(4, None);
        calls(&gate, [Verdict::QuotaExhausted(Duration::from_hours(5))]);
        assert_eq!(why(&gate), Some((Reason::Quota, Duration::from_hours(5))));
        assert_eq!(gate.trouble(Some("m")).map(|closed| closed.reason), Some(Reason::Quota));
        clock.advance(Duration::from_hours(5));
        assert_eq!((why(&gate), gate.trouble(Some("m"))), (None, None));
    }
    #[test]
    fn a_quota_belongs_to_its_model() {
        let (_, gate) = gate(4, None);
        calls(&gate, [Verdict::QuotaExhausted(SECOND)]);
        assert!(gate.pass("m").is_err());
        assert!(gate.pass("other").is_ok());
        assert_eq!(gate.trouble(Some("other")), None);
        assert_eq!(gate.trouble(None).map(|closed| closed.reason), Some(Reason::Quota));
    }

    #[test]
    fn whatever_a_probe_meets_the_gate_opens_again() {
        let ends =
            [Verdict::Answered, Verdict::Failed, Verdict::Throttled(SECOND), Verdict::QuotaExhausted(SECOND)].map(Some);
        for end in ends.into_iter().chain([None]) {
            let (clock, gate) = gate(4, None);
            calls(&gate, [Verdict::Failed; 5]);
            clock.advance(10 * SECOND);
            let mut probe = gate.pass("m").ok().unwrap();
            probe.verdict = end;
            drop(probe);
            clock.advance(10 * SECOND);
            assert_eq!(why(&gate), None, "{end:?}");
            // One failure more is one failure, unless the last one was the probe's.
            calls(&gate, [Verdict::Failed]);
            assert_eq!(gate.pass("m").is_err(), matches!(end, Some(Verdict::Failed) | None), "{end:?}");
        }
    }

    #[test]
    fn an_old_call_that_says_nothing_lets_no_second_probe_through() {
        let (clock, gate) = gate(4, None);
        let old = gate.pass("m").ok().unwrap();
        calls(&gate, [Verdict::Failed; 5]);
        clock.advance(10 * SECOND);
        let _probe = gate.pass("m").ok().unwrap();
        drop(old);
        assert_eq!(why(&gate).unwrap().0, Reason::Failing);
    }

    #[test]
    fn a_pass_that_was_not_used_takes_nothing_from_the_minute() {
        let (_, gate) = gate(4, Some(2));
        for _ in 0..10 {
            drop(gate.pass("m").ok().unwrap());
        }
        calls(&gate, [Verdict::Answered, Verdict::Answered]);
        assert_eq!(why(&gate).unwrap().0, Reason::Busy);
    }

    #[test]
    fn a_shorter_pause_does_not_cut_the_even_pace_of_a_longer_one() {
        let (clock, gate) = gate(4, Some(60));
        let (first, second) = (gate.pass("m").ok().unwrap(), gate.pass("m").ok().unwrap());
        first.end(Verdict::Throttled(Duration::from_mins(30)));
        second.end(Verdict::Throttled(SECOND));
        clock.advance(Duration::from_mins(30) + SECOND);
        calls(&gate, [Verdict::Answered]);
        assert_eq!(why(&gate).unwrap().0, Reason::Busy);
    }
}
