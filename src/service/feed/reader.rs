//! One stream: which event it sends next, when it says that it lives, and why it ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::{Feed, Feeds, Frame, HEARTBEAT, Reached};
use crate::telemetry::metrics::StreamEnd;

/// One stream.
pub(super) struct Reader {
    feeds: Arc<Feeds>,
    feed: Arc<Feed>,
    reached: watch::Receiver<Reached>,
    /// The number of the last event that was sent.
    sent: u64,
    page: VecDeque<Frame>,
    /// Whether the page came just now: its links are as fresh as they get.
    just_filled: bool,
    over: bool,
    /// Why it ends, as soon as it does not go on; until then only a client that leaves ends it.
    end: StreamEnd,
    /// When something was sent last.
    quiet_since: Instant,
    ends_at: Option<Instant>,
    /// Goes off when a comment may be due, or the end.
    alarm: Pin<Box<Sleep>>,
}

impl Reader {
    pub(super) fn new(feeds: Arc<Feeds>, feed: Arc<Feed>, sent: u64) -> Self {
        let now = Instant::now();
        let ends_at = feeds.rules.max_life.map(|life| now + life);
        let mut reader = Self {
            feeds,
            reached: feed.reached.subscribe(),
            feed,
            sent,
            page: VecDeque::new(),
            just_filled: false,
            over: false,
            end: StreamEnd::Left,
            quiet_since: now,
            ends_at,
            alarm: Box::pin(tokio::time::sleep_until(now)),
        };
        reader.set_alarm();
        reader
    }

    /// The next frame, or the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            let Reached { last, draining } = *self.reached.borrow_and_update();
            if draining {
                return self.ended(StreamEnd::Draining);
            }
            if self.ends_at.is_some_and(|end| Instant::now() >= end) {
                return self.ended(StreamEnd::TimeLimit);
            }
            if !self.just_filled && self.page.front().is_some_and(|frame| !frame.is_good(self.feeds.clock.now())) {
                // A slow client took so long that the links would have too little left: render them anew.
                self.page.clear();
            }
            if let Some(frame) = self.page.pop_front() {
                self.just_filled = false;
                self.sent = frame.number;
                self.quiet_since = Instant::now();
                if frame.done && self.page.is_empty() && frame.number >= last {
                    self.ended(StreamEnd::Done);
                }
                return Some(frame.bytes);
            }
            if last > self.sent {
                match self.feed.rendered(self.sent, self.feeds.clock.now()) {
                    Some(frames) => (self.page, self.just_filled) = (frames, true),
                    // On the heap while it lasts: each stream would keep the room for it otherwise, some KB.
                    None => Box::pin(self.fill()).await,
                }
                if self.over || !self.page.is_empty() {
                    continue;
                }
            }
            let quiet_until = self.quiet_since + HEARTBEAT;
            tokio::select! {
                _ = self.reached.changed() => {}
                () = self.alarm.as_mut() => {
                    if Instant::now() >= quiet_until {
                        self.quiet_since = Instant::now();
                        self.set_alarm();
                        return Some(Bytes::from_static(b":\n\n"));
                    }
                    self.set_alarm();
                }
            }
        }
    }

    /// Events do not set it anew, as there are many of them: it goes off too early after one, and is set again.
    fn set_alarm(&mut self) {
        let quiet_until = self.quiet_since + HEARTBEAT;
        self.alarm.as_mut().reset(self.ends_at.map_or(quiet_until, |end| end.min(quiet_until)));
    }

    async fn fill(&mut self) {
        match self.feeds.page(&self.feed, self.sent).await {
            Ok(frames) => (self.page, self.just_filled) = (frames, true),
            Err(error) => {
                tracing::warn!(batch = %self.feed.batch, %error, "cannot read progress; the stream ends");
                self.ended(StreamEnd::Failed);
            }
        }
    }

    /// Nothing more is sent, for this reason.
    fn ended(&mut self, end: StreamEnd) -> Option<Bytes> {
        (self.over, self.end) = (true, end);
        None
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.feeds.metrics.stream_closed(self.end);
    }
}
