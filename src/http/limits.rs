//! How much one caller may ask for: changes a minute, open streams, and wrong keys from one address.
//!
//! Counts in this process alone; each instance has its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use governor::clock::Clock as _;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::problem::{Code, Problem};
use crate::clock::Clock;
use crate::domain::access::Caller;
use crate::domain::ids::UserId;

/// Wrong keys from one address in a minute.
pub const MAX_FAILURES_PER_MINUTE: u32 = 20;
const MINUTE: Duration = Duration::from_mins(1);
/// After so many requests those are forgotten who have not asked for a minute.
const TIDY_EVERY: u32 = 1_024;
/// When a caller with too many streams may try again.
const STREAM_RETRY: u32 = 5;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What callers are bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerLimits {
    /// Changing requests of a user in a minute.
    pub changes_per_minute: NonZeroU32,
    /// Open streams of a user, of progress or of results.
    pub streams: u32,
    /// Open streams of all callers together. Fewer than connections, so that they cannot use all of those up.
    pub all_streams: u32,
}

/// Monotonic time for the limiter.
#[derive(Clone)]
struct Monotonic(Arc<dyn Clock>);

impl governor::clock::Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.monotonic().into()
    }
}

/// So many a minute for each key, all of them at once if need be.
struct Minutely<K: Hash + Eq + Clone> {
    limit: u32,
    clock: Monotonic,
    limiter: RateLimiter<K, HashMapStateStore<K>, Monotonic, StateInformationMiddleware>,
    asked: std::sync::atomic::AtomicU32,
}

/// What is left of a minute's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    limit: u32,
    remaining: u32,
    /// Until one more is there; whole seconds, rounded up.
    reset: u32,
}

impl Allowance {
    /// What is answered when nothing is left.
    #[must_use]
    pub fn problem(self) -> Problem {
        let detail = format!("more than {} changing requests in a minute (RATE_LIMIT_PER_MINUTE)", self.limit);
        Problem::new(Code::RateLimited, detail).retry_after(self.reset)
    }

    /// Says it in the answer (draft-ietf-httpapi-ratelimit-headers-10).
    pub fn write(self, headers: &mut HeaderMap) {
        let policy = HeaderValue::try_from(format!("\"changes\";q={};w=60", self.limit));
        let state = HeaderValue::try_from(format!("\"changes\";r={};t={}", self.remaining, self.reset));
        if let (Ok(policy), Ok(state)) = (policy, state) {
            headers.insert(RATE_LIMIT_POLICY, policy);
            headers.insert(RATE_LIMIT, state);
        }
    }
}

impl<K: Hash + Eq + Clone> Minutely<K> {
    fn new(limit: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        let clock = Monotonic(clock);
        let limiter = RateLimiter::new(Quota::per_minute(limit), HashMapStateStore::default(), clock.clone());
        Self { limit: limit.get(), clock, limiter, asked: std::sync::atomic::AtomicU32::new(0) }
    }

    /// Takes one of the key's minute. If there is none, when there will be.
    fn take(&self, key: &K) -> Result<Allowance, Allowance> {
        if self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1 {
            self.limiter.retain_recent();
        }
        match self.limiter.check_key(key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                Ok(Allowance { limit: self.limit, remaining, reset: whole_seconds(MINUTE / self.limit) })
            }
            Err(until) => {
                let reset = whole_seconds(until.wait_time_from(self.clock.now())).max(1);
                Err(Allowance { limit: self.limit, remaining: 0, reset })
            }
        }
    }
}

/// Rounded up.
fn whole_seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX).saturating_add(u32::from(span.subsec_nanos() > 0))
}

/// The bounds, and what is used of them.
pub struct RequestLimits {
    changes: Minutely<UserId>,
    failures: Minutely<IpAddr>,
    streams: Arc<Mutex<HashMap<UserId, u32>>>,
    max_streams: u32,
    max_all_streams: u32,
}

/// An open stream; counted until it is dropped.
pub struct StreamSlot {
    user: UserId,
    streams: Arc<Mutex<HashMap<UserId, u32>>>,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = streams.get_mut(&self.user) {
            *open -= 1;
            if *open == 0 {
                streams.remove(&self.user);
            }
        }
    }
}

impl RequestLimits {
    /// Nothing is used yet.
    #[must_use]
    pub fn new(limits: CallerLimits, clock: &Arc<dyn Clock>) -> Self {
        const FAILURES: NonZeroU32 = NonZeroU32::new(MAX_FAILURES_PER_MINUTE).unwrap();
        Self {
            changes: Minutely::new(limits.changes_per_minute, clock.clone()),
            failures: Minutely::new(FAILURES, clock.clone()),
            streams: Arc::default(),
            max_streams: limits.streams,
            max_all_streams: limits.all_streams,
        }
    }

    /// Counts a changing request of `caller`; what is left then, where it is counted at all.
    ///
    /// # Errors
    /// When the next one may come.
    pub fn change(&self, caller: &Caller) -> Result<Option<Allowance>, Allowance> {
        if caller.is_local { Ok(None) } else { self.changes.take(&caller.user).map(Some) }
    }

    /// Counts a wrong key from `address`.
    ///
    /// # Errors
    /// `rate_limited`, if there were too many.
    pub fn failure(&self, address: IpAddr) -> Result<(), Problem> {
        self.failures.take(&network(address)).map(drop).map_err(|left| {
            let detail = format!("more than {} refused keys from this address in a minute", left.limit);
            Problem::new(Code::RateLimited, detail).retry_after(left.reset)
        })
    }

    /// Counts a stream of `caller`.
    ///
    /// # Errors
    /// `too_many_streams`.
    pub fn stream(&self, caller: &Caller) -> Result<StreamSlot, Problem> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = streams.values().sum();
        let mine = streams.get(&caller.user).copied().unwrap_or_default();
        let refused = |detail: String| Err(Problem::new(Code::TooManyStreams, detail).retry_after(STREAM_RETRY));
        if !caller.is_local && mine >= self.max_streams {
            return refused(format!("{mine} streams of this user are open (MAX_STREAMS_PER_USER)"));
        }
        if all >= self.max_all_streams {
            return refused(format!("{all} streams are open, more than this instance serves"));
        }
        streams.insert(caller.user.clone(), mine + 1);
        Ok(StreamSlot { user: caller.user.clone(), streams: self.streams.clone() })
    }
}

/// The network that an address is one caller's: of IPv6 the first 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::access::Scopes;
    use crate::domain::time::Timestamp;

    fn limits(changes: u32, streams: u32) -> (Arc<FixedClock>, RequestLimits) {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(0)));
        let limits = CallerLimits { changes_per_minute: NonZeroU32::new(changes).unwrap(), streams, all_streams: 3 };
        (clock.clone(), RequestLimits::new(limits, &(clock as Arc<dyn Clock>)))
    }

    fn user(name: &str) -> Caller {
        Caller { user: UserId::new(name), scopes: Scopes::USER, key: None, daily_budget: None, is_local: false }
    }

    #[test]
    fn a_user_may_change_as_often_as_the_limit_says_and_not_once_more() {
        let (clock, limits) = limits(3, 1);
        let alice = user("alice");
        let left = (0..3).map(|_| limits.change(&alice).unwrap().unwrap().remaining).collect::<Vec<_>>();
        assert_eq!(left, [2, 1, 0]);
        let left = limits.change(&alice).unwrap_err();
        assert_eq!(left, Allowance { limit: 3, remaining: 0, reset: 20 });
        assert_eq!(left.problem().code(), Code::RateLimited);
        assert!(limits.change(&user("bob")).is_ok(), "each has a limit of their own");
        assert_eq!(limits.change(&Caller::local()).unwrap(), None);
        clock.advance(Duration::from_secs(20));
        assert!(limits.change(&alice).is_ok());
        assert!(limits.change(&alice).is_err());
    }

    #[test]
    fn wrong_keys_are_counted_by_address_and_of_ipv6_by_network() {
        let (clock, limits) = limits(1, 1);
        let address: IpAddr = "2001:db8:1:2:3::4".parse().unwrap();
        let neighbour: IpAddr = "2001:db8:1:2:9::9".parse().unwrap();
        for _ in 0..MAX_FAILURES_PER_MINUTE {
            limits.failure(address).unwrap();
        }
        assert!(limits.failure(neighbour).is_err());
        assert!(limits.failure("2001:db8:1:3::".parse().unwrap()).is_ok());
        clock.advance(MINUTE);
        assert!(limits.failure(neighbour).is_ok());
    }

    #[test]
    fn a_user_has_so_many_streams_open_and_one_that_ends_makes_room() {
        let (_, limits) = limits(1, 2);
        let alice = user("alice");
        let first = limits.stream(&alice).ok().unwrap();
        let _second = limits.stream(&alice).ok().unwrap();
        assert_eq!(limits.stream(&alice).err().unwrap().code(), Code::TooManyStreams);
        let bob = limits.stream(&user("bob")).ok().unwrap();
        assert_eq!(limits.stream(&user("carol")).err().unwrap().code(), Code::TooManyStreams, "three in all");
        drop(bob);
        drop(first);
        assert!(limits.stream(&alice).is_ok());
        assert!(limits.streams.lock().unwrap().len() == 1, "who has no stream is forgotten");
    }
}
