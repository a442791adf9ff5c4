use super::*;
use crate::clock::FixedClock;
use crate::domain::time::Timestamp;

const SECOND: Duration = Duration::from_secs(1);
/// A step of time.
const TICK: Duration = Duration::from_millis(10);

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

/// An adaptive gate.
fn adaptive(most: u32) -> (Arc<FixedClock>, Gate) {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
    clock.advance(SECOND);
    (clock.clone(), Gate::new(clock, GateRules { adaptive: true, ..GateRules::new(most, None) }))
}

/// Sends what the gate lets through for `span`. `provider` is told the time and the calls under way, and says how long a
/// call takes and how it ends.
fn send(
    clock: &FixedClock,
    gate: &Gate,
    span: Duration,
    mut provider: impl FnMut(Duration, usize) -> (Duration, Verdict),
) {
    let (mut under_way, end): (Vec<(Duration, Pass<'_>, Verdict)>, _) = (Vec::new(), clock.monotonic() + span);
    while clock.monotonic() < end {
        let now = clock.monotonic();
        for (_, pass, verdict) in under_way.extract_if(.., |(end, ..)| *end <= now) {
            pass.end(verdict);
        }
        while let Ok(mut pass) = gate.pass("m") {
            pass.send();
            let (time, verdict) = provider(now, under_way.len());
            under_way.push((now + time, pass, verdict));
        }
        clock.advance(TICK);
    }
}

/// What a provider that takes `allowance` calls in a `window`, each for `time`, was sent in `span`: calls that it took,
/// and calls that it refused.
fn traffic(
    clock: &FixedClock,
    gate: &Gate,
    (allowance, window): (usize, Duration),
    time: Duration,
    span: Duration,
) -> (usize, usize) {
    let (mut taken, mut refused): (Vec<Duration>, usize) = (Vec::new(), 0);
    send(clock, gate, span, |now, _| {
        let in_window = taken.iter().filter(|at| now.saturating_sub(**at) < window).count();
        if in_window < allowance {
            taken.push(now);
            (time, Verdict::Answered)
        } else {
            refused += 1;
            let pause = (taken[taken.len() - allowance] + window).saturating_sub(now);
            (TICK, Verdict::Throttled(pause))
        }
    });
    (taken.len(), refused)
}

const fn a_second(calls: usize) -> (usize, Duration) {
    (calls, SECOND)
}

#[test]
fn an_adaptive_gate_finds_what_a_provider_bears_and_finds_out_when_that_changes() {
    for time in [200, 1_000, 3_000].map(Duration::from_millis) {
        let (clock, gate) = adaptive(256);
        let minute = Duration::from_mins(1);
        for allowance in [20, 40, 5, 20] {
            let (_, storm) = traffic(&clock, &gate, a_second(allowance), time, minute);
            let (taken, refused) = traffic(&clock, &gate, a_second(allowance), time, minute);
            let due = 60 * allowance;
            assert!(taken * 10 > due * 7, "{taken} calls of {due}, {time:?} each");
            assert!(refused * 50 < due && storm * 20 < due, "{refused} of {due} refused, {storm} before");
        }
    }
}

#[test]
fn an_adaptive_gate_leaves_no_place_empty_before_a_provider_without_limits() {
    let (clock, gate) = adaptive(16);
    let mut number = 0;
    let mut sent_in = |span| {
        let before = number;
        send(&clock, &gate, span, |_, _| {
            number += 1;
            // Half a second to one and a half: a second as a rule.
            (TICK * (50 + number * 37 % 101), Verdict::Answered)
        });
        number - before
    };
    sent_in(30 * SECOND);
    let sent = sent_in(60 * SECOND);
    assert!(sent * 100 > 16 * 60 * 92, "{sent} calls of {}", 16 * 60);
}

#[test]
fn an_adaptive_gate_sends_long_calls_in_no_burst_that_would_say_nothing() {
    for seconds in [3, 10] {
        let (clock, gate) = adaptive(512);
        let time = seconds * SECOND;
        let (_, storm) = traffic(&clock, &gate, a_second(20), time, 40 * SECOND);
        let (taken, refused) = traffic(&clock, &gate, a_second(20), time, 20 * SECOND);
        assert!(taken * 10 > 20 * 20 * 7, "{taken} calls of 400, {time:?} each");
        assert!(storm + refused < 10, "{storm} refused, and {refused} after that");
    }
}

#[test]
fn an_adaptive_gate_is_soon_back_when_the_provider_bears_more_again() {
    for time in [200, 1_000, 3_000].map(Duration::from_millis) {
        let (clock, gate) = adaptive(256);
        traffic(&clock, &gate, a_second(5), time, Duration::from_mins(1));
        traffic(&clock, &gate, a_second(40), time, 25 * SECOND);
        let (taken, _) = traffic(&clock, &gate, a_second(40), time, 10 * SECOND);
        assert!(taken * 10 > 10 * 40 * 7, "{taken} calls of 400, {time:?} each");
    }
}

#[test]
fn an_adaptive_gate_troubles_a_slow_provider_no_more_than_a_fast_one() {
    for (window, time) in [(1, 200), (1, 3_000), (5, 200), (5, 3_000)] {
        let (clock, gate) = adaptive(64);
        let (allowance, time) = ((1, window * SECOND), Duration::from_millis(time));
        traffic(&clock, &gate, allowance, time, Duration::from_mins(2));
        let (taken, refused) = traffic(&clock, &gate, allowance, time, Duration::from_mins(4));
        let due = 240 / usize::try_from(window).unwrap();
        assert!(taken * 10 > due * 7, "{taken} calls of {due}, {time:?} each");
        assert!(refused * 20 <= due, "{refused} of {due} refused, {time:?} each");
    }
}

#[test]
fn what_is_refused_before_any_answer_says_nothing_of_what_the_provider_bears() {
    let (clock, gate) = adaptive(256);
    // Somebody else has used up the minute.
    send(&clock, &gate, Duration::from_mins(1), |_, _| (TICK, Verdict::Throttled(SECOND)));
    traffic(&clock, &gate, a_second(20), 3 * SECOND, 30 * SECOND);
    let (taken, _) = traffic(&clock, &gate, a_second(20), 3 * SECOND, 20 * SECOND);
    assert!(taken * 10 > 20 * 20 * 7, "{taken} calls of 400");
}

#[test]
fn an_adaptive_gate_comes_back_soon_after_an_outage_and_after_a_long_spell_of_refusals() {
    const LATENCY: Duration = Duration::from_secs(3);
    let half_an_hour = Duration::from_mins(30);
    for verdict in [Verdict::Failed, Verdict::Throttled(5 * SECOND)] {
        let (clock, gate) = adaptive(64);
        let (before, _) = traffic(&clock, &gate, a_second(15), LATENCY, Duration::from_mins(4));
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
        traffic(&clock, &gate, a_second(15), LATENCY, Duration::from_mins(2));
        let (after, _) = traffic(&clock, &gate, a_second(15), LATENCY, Duration::from_mins(1));
        assert!(after * 10 > 15 * 60 * 7, "{after} calls in the third minute after {verdict:?}");
    }
}

#[test]
fn one_prompt_that_the_provider_cannot_make_slows_no_other_down() {
    let (clock, gate) = adaptive(16);
    let mut number = 0_u32;
    send(&clock, &gate, Duration::from_mins(3), |_, _| {
        number += 1;
        (SECOND, if number.is_multiple_of(10) { Verdict::Failed } else { Verdict::Answered })
    });
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
    let (clock, gate) = adaptive(256);
    // Ten at once are as fast as one; more wait in a line of the provider's own.
    send(&clock, &gate, Duration::from_mins(10), |_, under_way| {
        (SECOND.max(SECOND * u32::try_from(under_way).unwrap() / 10), Verdict::Answered)
    });
    assert!((10..=50).contains(&gate.view().allowed), "{:?}", gate.view());
    clock.advance(SECOND);
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
