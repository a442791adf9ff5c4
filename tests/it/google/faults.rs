//! What goes wrong, and what was counted. Which call is hit is the same in every run.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use axum::http::request::Parts;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Upload,
    Read,
    /// A link, followed by whoever has it.
    Link,
    Get,
    List,
    Compose,
    Delete,
    Other,
}

impl Call {
    pub(super) fn of(parts: &Parts, is_grpc: bool) -> Self {
        let path = parts.uri.path();
        match path.rsplit('/').next() {
            Some("GetObject") if is_grpc => Self::Get,
            Some("ListObjects") if is_grpc => Self::List,
            Some("ComposeObject") if is_grpc => Self::Compose,
            Some("DeleteObject") if is_grpc => Self::Delete,
            _ if is_grpc => Self::Other,
            _ if path.starts_with("/upload/") => Self::Upload,
            _ if path.starts_with("/storage/v1/") => Self::Read,
            _ => Self::Link,
        }
    }
}

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 503, and nothing is done.
    Unavailable,
    /// 429, and nothing is done.
    TooFast,
    /// The connection breaks, and nothing is done.
    LostBefore,
    /// It is done, and the connection breaks before the answer.
    LostAfter,
    /// The answer names another checksum than that of the bytes.
    WrongChecksum,
    /// It takes that long.
    Slow(Duration),
}

/// What goes wrong, and what was counted.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// One call in so many fails with 503. Links are not hit.
    pub(crate) fail_one_in: Option<u64>,
    /// The answer of one call in so many is lost after it was done. Links are not hit.
    pub(crate) lose_one_in: Option<u64>,
    /// Every call fails with 503.
    pub(crate) away: bool,
    scripted: HashMap<Call, VecDeque<Fault>>,
    calls: HashMap<Call, u64>,
    bytes: HashMap<Call, u64>,
    dice: u64,
}

impl Faults {
    /// The next call of this kind has this fault; several wait for each other.
    pub(crate) fn script(&mut self, call: Call, fault: Fault) {
        self.scripted.entry(call).or_default().push_back(fault);
    }

    /// How many calls of this kind came in.
    pub(crate) fn calls(&self, call: Call) -> u64 {
        self.calls.get(&call).copied().unwrap_or(0)
    }

    /// How many bytes calls of this kind sent.
    pub(crate) fn bytes(&self, call: Call) -> u64 {
        self.bytes.get(&call).copied().unwrap_or(0)
    }

    pub(super) fn next(&mut self, call: Call, bytes: u64) -> Option<Fault> {
        *self.calls.entry(call).or_default() += 1;
        *self.bytes.entry(call).or_default() += bytes;
        if let Some(fault) = self.scripted.get_mut(&call).and_then(VecDeque::pop_front) {
            return Some(fault);
        }
        if self.away {
            return Some(Fault::Unavailable);
        }
        if call == Call::Link {
            return None;
        }
        if self.hits(self.fail_one_in) {
            return Some(Fault::Unavailable);
        }
        self.hits(self.lose_one_in).then_some(Fault::LostAfter)
    }

    /// Whether one in so many is this one.
    fn hits(&mut self, one_in: Option<u64>) -> bool {
        // SplitMix64 from a fixed seed: spread like chance, and the same each time.
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        one_in.is_some_and(|one_in| (mixed ^ (mixed >> 31)).is_multiple_of(one_in))
    }
}
