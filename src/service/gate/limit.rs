//! How many calls may be under way.
//!
//! As a rule so many as the configuration says, and half as many for a while after the provider asked to slow down.
//! As an option the limit follows what the provider bears. It grows while answers come as fast as before; it is halved when
//! the provider refuses or fails, comes back quickly to just below where that was, and feels its way up from there.
//! A limit of calls at once is a coarse one for a provider that counts calls a second, so that calls also keep a
//! distance: the time of a call, divided by the limit, which may be less than one. Without it calls of many seconds
//! would come in bursts, and a burst that is refused says nothing of what the provider bears.

use std::time::Duration;

/// The calls that an adaptive limit begins with.
const FIRST: f64 = 4.0;
/// The least that it falls to: one call in the time of fifty.
const LEAST: f64 = 0.02;
/// As long as nothing was refused, calls come this many times as fast as the limit asks for: were it once, a place that
/// a short call leaves free would stay empty.
const HURRY: f64 = 1.25;
/// Calls are never further apart, whatever the limit: what a provider bears is found out by calls alone.
const FURTHEST: Duration = Duration::from_secs(10);
/// The share of what was refused that is gone back to quickly, within a few seconds.
const SAFE: f64 = 0.9;
/// And with each call half the way at most, so that a few calls a minute are halved in earnest.
const BACK_EACH: f64 = 0.5;
/// How much it grows in a second above that.
const FEELING: f64 = 0.01;
/// And with each call at most: of the calls of a slow provider no larger share may be refused.
const FEELING_EACH: f64 = 0.005;
/// How much it grows in a second as long as nothing was refused.
const UNREFUSED: f64 = 0.25;
/// Above this many times what was refused, that says nothing any more: the provider must have changed.
const CHANGED: f64 = 1.05;
/// The share of calls that fail from which on the provider is thought to have too much to do: one prompt that it
/// cannot make must not slow the others down.
const FAILING: f64 = 0.2;
/// A provider that takes this many times as long as it used to is asked for no more.
const SLOWER: f64 = 2.0;
/// How much of the way to a newer time, or share of failures, a recent one goes with each call: none says much alone.
const RECENT: f64 = 0.1;
/// How much of the way to the recent time the usual one goes in a second: a provider may be slower from a day on.
const USUAL: f64 = 1.0 / 3_600.0;
/// A limit of which a smaller share is used says nothing.
const USED: f64 = 0.7;

/// A limit on the calls under way.
#[derive(Debug)]
pub(super) enum Limit {
    /// What the configuration says, or less for a while.
    Fixed(Fixed),
    /// What the provider bears.
    Adaptive(Adaptive),
}

/// A limit that the configuration sets.
#[derive(Debug)]
pub(super) struct Fixed {
    most: u32,
    allowed: u32,
    /// When it was last reduced: calls from before say nothing new.
    reduced_at: Option<Duration>,
}

/// A limit that follows the provider.
#[derive(Debug)]
pub(super) struct Adaptive {
    /// The most there may ever be.
    most: f64,
    allowed: f64,
    /// When it was last reduced: calls from before say nothing new.
    reduced_at: Option<Duration>,
    /// The limit at which the provider began to refuse calls: it stays until one is answered.
    refused_at: Option<f64>,
    /// Whether a call was answered since the last reduction, or at all.
    was_answered: bool,
    /// About the share of the last calls that failed.
    failing: f64,
    /// When it last grew, or could have.
    looked_at: Duration,
    /// When the last call was sent.
    sent_at: Duration,
    /// The recent and the usual time of an answer, in seconds.
    times: Option<(f64, f64)>,
}

impl Limit {
    /// `most` calls.
    pub(super) const fn fixed(most: u32) -> Self {
        Self::Fixed(Fixed { most, allowed: most, reduced_at: None })
    }

    /// As many as the provider bears, at most `most`.
    pub(super) fn adaptive(most: u32) -> Self {
        let most = f64::from(most);
        Self::Adaptive(Adaptive {
            most,
            allowed: FIRST.min(most),
            reduced_at: None,
            refused_at: None,
            was_answered: false,
            failing: 0.0,
            looked_at: Duration::ZERO,
            sent_at: Duration::ZERO,
            times: None,
        })
    }

    /// How many calls may be under way now.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is more than 0 and at most `most`")]
    pub(super) const fn allowed(&self) -> u32 {
        match self {
            Self::Fixed(limit) => limit.allowed,
            Self::Adaptive(limit) => limit.allowed.ceil() as u32,
        }
    }

    /// When the next call may be sent.
    pub(super) fn next_start(&self) -> Duration {
        match self {
            Self::Fixed(_) => Duration::ZERO,
            Self::Adaptive(limit) => limit.next_start(),
        }
    }

    /// A call is sent, or about to be; returns when the one before it was.
    pub(super) const fn sent(&mut self, now: Duration) -> Duration {
        match self {
            Self::Fixed(_) => now,
            Self::Adaptive(limit) => std::mem::replace(&mut limit.sent_at, now),
        }
    }

    /// The call that was about to be sent at `started`, after the one at `before`, is not.
    pub(super) fn take_back(&mut self, started: Duration, before: Duration) {
        if let Self::Adaptive(limit) = self
            && limit.sent_at == started
        {
            limit.sent_at = before;
        }
    }

    /// The provider answered a call that was sent at `started`, while `under_way` others were.
    pub(super) fn answered(&mut self, now: Duration, started: Duration, under_way: u32) {
        match self {
            Self::Fixed(limit) => limit.allowed = limit.most.min(limit.allowed + 1),
            Self::Adaptive(limit) => limit.answered(now, started, under_way),
        }
    }

    /// The provider asked to slow down. What was sent before is halved once for all.
    pub(super) fn slow_down(&mut self, now: Duration, started: Duration, under_way: u32) {
        match self {
            Self::Fixed(limit) => {
                if is_news(&mut limit.reduced_at, now, started) {
                    limit.allowed = under_way.div_ceil(2).clamp(1, limit.allowed.max(1));
                }
            }
            Self::Adaptive(limit) => limit.refused(now, started),
        }
    }

    /// A call failed, or nobody knows. An adaptive limit takes many of them for a provider that has too much to do.
    pub(super) fn failed(&mut self, now: Duration, started: Duration) {
        if let Self::Adaptive(limit) = self {
            limit.failing += (1.0 - limit.failing) * RECENT;
            if limit.failing > FAILING {
                limit.halve(now, started, 1.0);
            }
        }
    }
}

/// Whether a call that was sent at `started` came after the last reduction; takes note of one more if so.
fn is_news(reduced_at: &mut Option<Duration>, now: Duration, started: Duration) -> bool {
    let is_news = reduced_at.is_none_or(|at| started > at);
    if is_news {
        *reduced_at = Some(now);
    }
    is_news
}

impl Adaptive {
    /// Calls keep a distance as soon as it is known how long they take.
    fn next_start(&self) -> Duration {
        let Some((recent, _)) = self.times else { return Duration::ZERO };
        let hurry = if self.refused_at.is_some() { 1.0 } else { HURRY };
        self.sent_at + Duration::from_secs_f64(recent / self.allowed / hurry).min(FURTHEST)
    }

    /// Less than one call at once means something only if it is known how long calls take.
    fn refused(&mut self, now: Duration, started: Duration) {
        let least = if self.times.is_some() { LEAST } else { 1.0 };
        self.halve(now, started, least);
    }

    /// Halves the limit, not below `least`, unless the call was sent before it was last halved.
    fn halve(&mut self, now: Duration, started: Duration, least: f64) {
        if !is_news(&mut self.reduced_at, now, started) {
            return;
        }
        if std::mem::replace(&mut self.was_answered, false) {
            self.refused_at = Some(self.allowed);
        }
        self.allowed = (self.allowed / 2.0).max(least.min(self.allowed));
        self.looked_at = now;
    }

    fn answered(&mut self, now: Duration, started: Duration, under_way: u32) {
        let passed = now.saturating_sub(self.looked_at).min(FURTHEST).as_secs_f64();
        self.looked_at = now;
        self.was_answered = true;
        self.failing -= self.failing * RECENT;
        let is_slower = self.is_slower(now.saturating_sub(started).as_secs_f64(), passed);
        if is_slower || f64::from(under_way + 1) < (self.allowed * USED).floor() {
            return;
        }
        let growth = match self.refused_at {
            None => self.allowed * UNREFUSED * passed,
            Some(calls) => {
                let back = (calls * SAFE - self.allowed).max(0.0) * passed.min(BACK_EACH);
                back.max(self.allowed * (FEELING * passed).min(FEELING_EACH))
            }
        };
        self.allowed = (self.allowed + growth).min(self.most);
        self.refused_at = self.refused_at.filter(|calls| self.allowed <= calls * CHANGED);
    }

    /// Whether the provider takes longer than it used to, which more calls would not better. Learns how long it takes.
    fn is_slower(&mut self, time: f64, passed: f64) -> bool {
        let (recent, usual) = self.times.unwrap_or((time, time));
        let recent = recent + (time - recent) * RECENT;
        let usual = usual + (recent - usual) * USUAL * passed;
        self.times = Some((recent, usual));
        recent > usual * SLOWER
    }
}
