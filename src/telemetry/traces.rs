//! Traces: batches, the attempts at their pictures, and changing requests, as spans for a collector.
//!
//! Owns the ids of traces and spans, and the queue before the collector. Refuses to wait for anyone: a span that finds
//! the queue full is lost, and counted. A span holds ids, numbers and words of this program, never a prompt, a key or
//! what a stranger wrote. May call `domain` and `clock`.

pub mod collector;
pub mod context;
mod wire;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::domain::ids::{AttemptId, BatchId};
use crate::domain::money::MicroUsd;
use crate::domain::time::Timestamp;

/// Most spans that wait for the collector: a few megabytes.
const MOST_WAITING: usize = 4_096;

/// Names a trace: 128 bits, as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// The trace of a batch: the bits of the batch's own id. So every process that ever works on the batch writes
    /// into the same trace, and none has to be told.
    #[must_use]
    pub const fn of_batch(batch: BatchId) -> Self {
        Self(batch.bits())
    }

    /// Reads 32 small hexadecimal digits that are not all zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bits = hexadecimal(text, 32).then(|| u128::from_str_radix(text, 16).ok())??;
        (bits != 0).then_some(Self(bits))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names a span in its trace: 64 bits, as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

impl SpanId {
    /// A span of its own.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random::<u64>().max(1))
    }

    /// The root of a batch's trace: its parts can name it before it has ended.
    #[must_use]
    pub const fn of_batch(batch: BatchId) -> Self {
        Self::derived(batch.bits(), 0)
    }

    /// A later run of a batch: what the retry with event number `started` began.
    #[must_use]
    pub const fn of_run(batch: BatchId, started: u64) -> Self {
        Self::derived(batch.bits(), started)
    }

    /// One attempt at a picture, under one claim: an attempt that was put off goes on under the next.
    #[must_use]
    pub const fn of_attempt(attempt: AttemptId, fence: i64) -> Self {
        Self::derived(attempt.bits(), fence.cast_unsigned())
    }

    /// The `number`-th part of this span.
    #[must_use]
    pub const fn part(self, number: u64) -> Self {
        Self::derived(self.0 as u128, number)
    }

    /// Reads 16 small hexadecimal digits that are not all zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bits = hexadecimal(text, 16).then(|| u64::from_str_radix(text, 16).ok())??;
        (bits != 0).then_some(Self(bits))
    }

    /// Spreads `bits` and `number` over 64 bits, so that ids made one after the other share no pattern (the finalizer
    /// of `SplitMix64`).
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    const fn derived(bits: u128, number: u64) -> Self {
        let halves = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32);
        let mut mixed = halves.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        Self(if mixed == 0 { 1 } else { mixed })
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whether `text` is `digits` small hexadecimal digits.
fn hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A point in time, finer than the milliseconds of a [`Timestamp`]: in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The moment `span` later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        Self(u64::try_from(at.millis()).unwrap_or(0).saturating_mul(1_000_000))
    }
}

/// What a span says of itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An id, or a word of this program.
    Text(String),
    /// A count.
    Whole(i64),
    /// An amount.
    Number(f64),
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Whole(count.into())
    }
}

impl From<MicroUsd> for Value {
    /// In dollars.
    fn from(amount: MicroUsd) -> Self {
        Self::Number(amount.to_string().parse().unwrap_or_default())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// On which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Neither.
    Internal,
    /// It serves a request.
    Server,
    /// It waits for another service.
    Client,
}

/// Something that happened from one moment to another.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace that it is a part of.
    pub trace: TraceId,
    /// Its id there.
    pub id: SpanId,
    /// What it is a part of, and whether another service said so; a root has none.
    pub parent: Option<(SpanId, bool)>,
    /// What happened.
    pub name: Cow<'static, str>,
    /// Who waited for whom.
    pub side: Side,
    /// When it began.
    pub begun: Moment,
    /// When it ended.
    pub ended: Moment,
    /// More about it.
    pub about: Vec<(&'static str, Value)>,
    /// What went wrong, in one word; nothing if it went well.
    pub fault: Option<Cow<'static, str>>,
    /// A span of another trace that it led to.
    pub led_to: Option<(TraceId, SpanId)>,
}

/// What waits before the collector.
enum Queued {
    Span(Box<Span>),
    /// Someone waits until all before it is sent.
    Flush(oneshot::Sender<()>),
}

/// Where spans are given away. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    queue: Option<mpsc::Sender<Queued>>,
    lost: Arc<AtomicU64>,
}

impl Traces {
    /// Nobody collects traces.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// A queue, with its other end.
    fn queue() -> (Self, mpsc::Receiver<Queued>) {
        let (queue, waiting) = mpsc::channel(MOST_WAITING);
        (Self { queue: Some(queue), lost: Arc::default() }, waiting)
    }

    /// Whether somebody collects traces; without, making a span is a waste.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Gives a span away, at once.
    pub fn send(&self, span: Span) {
        if let Some(queue) = &self.queue
            && queue.try_send(Queued::Span(Box::new(span))).is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was given away has been sent, or has failed to be.
    pub async fn flush(&self) {
        let (flushed, all_sent) = oneshot::channel();
        if let Some(queue) = &self.queue
            && queue.send(Queued::Flush(flushed)).await.is_ok()
        {
            drop(all_sent.await);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ulid::Ulid;

    use super::*;

    #[test]
    fn the_trace_of_a_batch_has_the_bits_of_its_id() {
        let batch: BatchId = "bat_01KB2S7Z5XEXAMPE0000000000".parse().unwrap();
        let trace = TraceId::of_batch(batch);
        assert_eq!(TraceId::parse(&trace.to_string()), Some(trace));
        assert_eq!(u128::from_str_radix(&trace.to_string(), 16).unwrap(), batch.bits());
    }

    #[test]
    fn spans_of_neighbours_have_ids_of_their_own() {
        let mut ids = HashSet::new();
        for number in 0..1_000 {
            let attempt = AttemptId::new(Ulid(0x019a_4c00_0000_0000_0000_0000_0000_0000 + number));
            for fence in 0..3 {
                let span = SpanId::of_attempt(attempt, fence);
                ids.extend([span, span.part(0), span.part(1), span.part(2)]);
            }
        }
        assert_eq!(ids.len(), 12_000);
        let batch = BatchId::new(Ulid::nil());
        assert_ne!(SpanId::of_batch(batch), SpanId::of_run(batch, 4));
        assert_eq!(SpanId::of_batch(batch), SpanId::of_batch(batch));
    }

    #[test]
    fn only_small_hexadecimal_digits_that_are_not_all_zero_are_an_id() {
        assert_eq!(SpanId::parse("00f067aa0b1902b7").unwrap().to_string(), "00f067aa0b1902b7");
        for wrong in
            ["", "0000000000000000", "00F067AA0B1902B7", "00f067aa0b1902b", "+0f067aa0b1902b7", "00f067aa0b1902b70"]
        {
            assert_eq!(SpanId::parse(wrong), None, "{wrong}");
        }
        assert_eq!(TraceId::parse("4bf92f3577b34da6a3ce929d0e0e473é"), None);
    }

    #[test]
    fn a_full_queue_loses_spans_and_holds_nobody_up() {
        let (traces, waiting) = Traces::queue();
        let at = Moment::from(Timestamp::from_millis(1_000));
        let span = Span {
            trace: TraceId(1),
            id: SpanId(1),
            parent: None,
            name: "batch".into(),
            side: Side::Internal,
            begun: at,
            ended: at.after(Duration::from_micros(1)),
            about: Vec::new(),
            fault: None,
            led_to: None,
        };
        for _ in 0..MOST_WAITING + 7 {
            traces.send(span.clone());
        }
        assert_eq!((waiting.len(), traces.lost.load(Ordering::Relaxed)), (MOST_WAITING, 7));
    }
}
