//! Progress streams: replay from the table, then follow, without a hole.
//!
//! A stream knows only the number of the last event that it sent, and asks for the page of events that
//! the next one is on. The streams of one batch share their pages: who asks first reads and renders,
//! the others get the same bytes. So a slow stream, a late one and one that comes back after a restart
//! are the same thing, and no event can be skipped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batches::ServiceError;
use super::links::{Links, MINTED_AT_ONCE};
use super::read::permalink;
use crate::clock::Clock;
use crate::domain::event::Event;
use crate::domain::ids::{BatchId, UserId};
use crate::domain::money::MicroUsd;
use crate::domain::picture::Picture;
use crate::domain::spec::SceneId;
use crate::domain::state::Billing;
use crate::domain::time::Timestamp;
use crate::store::{EventRow, Store};
use crate::telemetry::metrics::{Metrics, StreamEnd};

/// The pause after which a client that lost its stream comes back.
pub const RETRY: Duration = Duration::from_secs(1);
/// A comment goes out after this long without an event, so that proxies keep the stream open.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// [`FeedRules::poll`], but for tests.
const POLL: Duration = Duration::from_secs(10);
/// Events on a page.
const PAGE: u64 = 64;
/// Pages that the streams of one batch share: about a megabyte.
const SHARED_PAGES: usize = 32;
/// Pages that all batches keep together, about 16 MB; with more, each batch keeps the page in use alone.
const TOTAL_PAGES: usize = 512;

/// What a client that asks for progress gets.
pub enum Subscription {
    /// It has seen everything, and the batch is done.
    Ended,
    /// Frames of the event stream, `retry:` first; ends after `done`, or when the service stops.
    Frames(BoxStream<'static, Bytes>),
}

/// When streams end on their own account, and look on their own account.
#[derive(Debug, Clone, Copy)]
pub struct FeedRules {
    /// The longest life of one stream; the client comes back by itself.
    pub max_life: Option<Duration>,
    /// How often the table is looked at, in case a wake-up was lost.
    pub poll: Duration,
}

impl Default for FeedRules {
    fn default() -> Self {
        Self { max_life: None, poll: POLL }
    }
}

/// All progress streams of this process.
pub struct Feeds {
    store: Arc<Store>,
    links: Arc<Links>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    tracker: TaskTracker,
    draining: CancellationToken,
    rules: FeedRules,
    open: Mutex<HashMap<BatchId, Weak<Feed>>>,
    /// Pages that all batches keep now.
    kept: Arc<AtomicUsize>,
}

/// A rendered event.
#[derive(Clone)]
struct Frame {
    number: u64,
    done: bool,
    /// When its links have only the promised rest left; `None` if it has no links.
    good_until: Option<Timestamp>,
    bytes: Bytes,
}

impl Frame {
    fn is_good(&self, now: Timestamp) -> bool {
        self.good_until.is_none_or(|end| end > now)
    }
}

/// What the streams of one batch share.
struct Feed {
    batch: BatchId,
    /// Rendered events by page, each page without a hole from its start.
    pages: tokio::sync::Mutex<BTreeMap<u64, Vec<Frame>>>,
    /// How many of them are counted in [`Feeds::kept`].
    counted: AtomicUsize,
    kept: Arc<AtomicUsize>,
    /// The number of the last event there is, as far as the follower knows.
    last: watch::Sender<u64>,
}

impl Feeds {
    /// Streams from `store`; followers run on `tracker` and end with `draining`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        links: Arc<Links>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        tracker: TaskTracker,
        draining: CancellationToken,
        rules: FeedRules,
    ) -> Self {
        let (open, kept) = (Mutex::default(), Arc::default());
        Self { store, links, clock, metrics, tracker, draining, rules, open, kept }
    }

    /// Opens a stream of the events after number `after`.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] or [`ServiceError::Unavailable`].
    pub async fn open(
        self: &Arc<Self>,
        caller: &UserId,
        batch: BatchId,
        after: u64,
    ) -> Result<Subscription, ServiceError> {
        let row = self.store.load_batch(batch, caller).await?.ok_or(ServiceError::NotFound)?;
        // A number from the future: the database was restored to an earlier state.
        let after = after.min(row.last_event);
        if after == row.last_event && self.ends_with_done(batch, row.last_event).await? {
            return Ok(Subscription::Ended);
        }
        let feed = self.feed(batch, row.last_event);
        self.metrics.stream_opened();
        let ends_at = self.rules.max_life.map(|life| tokio::time::Instant::now() + life);
        let reader = Reader {
            feeds: self.clone(),
            feed,
            sent: after,
            page: VecDeque::new(),
            just_filled: false,
            over: false,
            end: StreamEnd::Left,
            ends_at,
        };
        let retry = Bytes::from(format!("retry: {}\n\n", RETRY.as_millis()));
        let frames = stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
        Ok(Subscription::Frames(stream::iter([retry]).chain(frames).boxed()))
    }

    async fn ends_with_done(&self, batch: BatchId, last: u64) -> Result<bool, ServiceError> {
        let events = self.store.load_events(batch, last.saturating_sub(1), 1).await?;
        Ok(events.first().is_some_and(|row| matches!(row.event, Event::Done { .. })))
    }

    /// The feed of `batch`; starts its follower if nobody watches the batch yet.
    fn feed(self: &Arc<Self>, batch: BatchId, last: u64) -> Arc<Feed> {
        let mut feeds = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(&batch).and_then(Weak::upgrade) {
            return feed;
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed {
            batch,
            pages: tokio::sync::Mutex::default(),
            counted: AtomicUsize::new(0),
            kept: self.kept.clone(),
            last: watch::Sender::new(last),
        });
        feeds.insert(batch, Arc::downgrade(&feed));
        let follower = self.clone().follow(Arc::downgrade(&feed), batch);
        self.tracker.spawn(follower);
        feed
    }

    /// Tells the streams of a batch how far it has come, for as long as somebody watches it.
    async fn follow(self: Arc<Self>, feed: Weak<Feed>, batch: BatchId) {
        let mut hints = self.store.hints().batches();
        loop {
            {
                let Some(feed) = feed.upgrade() else { return };
                match self.store.load_progress(batch).await {
                    Ok(progress) => feed.reached(progress.map_or(0, |(last, _)| last)),
                    Err(error) => tracing::warn!(%batch, %error, "cannot read progress; streams wait"),
                }
            }
            let told = hints.heard_of(|other| other == batch);
            tokio::select! {
                () = self.draining.cancelled() => return,
                _ = tokio::time::timeout(self.rules.poll, told) => {}
            }
        }
    }

    /// The events after number `sent` on the page of the next one, read and rendered if nobody did yet.
    async fn page(&self, feed: &Feed, sent: u64) -> Result<VecDeque<Frame>, ServiceError> {
        let index = sent / PAGE;
        let mut pages = feed.pages.lock().await;
        let page = pages.entry(index).or_default();
        let now = self.clock.now();
        if page.iter().any(|frame| !frame.is_good(now)) {
            page.clear();
        }
        let known = page.last().map_or(index * PAGE, |frame| frame.number);
        if known <= sent {
            let rest = u32::try_from((index + 1) * PAGE - known).unwrap_or(u32::MAX);
            let rows = self.store.load_events(feed.batch, known, rest).await?;
            self.metrics.events_read.inc_by(rows.len() as u64);
            let mut frames = stream::iter(rows).map(|row| self.render(feed.batch, row)).buffered(MINTED_AT_ONCE);
            while let Some(frame) = frames.next().await {
                page.push(frame?);
            }
        }
        let frames = page.iter().filter(|frame| frame.number > sent).cloned().collect();
        let crowded = self.kept.load(Ordering::Relaxed) > TOTAL_PAGES;
        while pages.len() > if crowded { 1 } else { SHARED_PAGES } {
            let oldest = pages.keys().copied().find(|other| *other != index);
            oldest.map(|oldest| pages.remove(&oldest));
        }
        feed.count(pages.len());
        Ok(frames)
    }

    async fn render(&self, batch: BatchId, row: EventRow) -> Result<Frame, ServiceError> {
        let (number, kind) = (row.number, row.event.kind());
        let done = matches!(row.event, Event::Done { .. });
        let (body, good_until) = match row.event {
            Event::ImageComplete { scene_id, variant, cost, billing, picture } => {
                let image = ImageComplete { scene_id, variant, cost, billing, picture };
                let image = self.with_links(batch, image).await?;
                (json(batch, number, row.at, &image)?, Some(self.links.fresh_until(image.url_expires_at)))
            }
            event => (json(batch, number, row.at, &event)?, None),
        };
        self.metrics.events_rendered.inc();
        let bytes = Bytes::from(format!("id: {number}\nevent: {kind}\ndata: {body}\n\n"));
        Ok(Frame { number, done, good_until, bytes })
    }

    async fn with_links(&self, batch: BatchId, image: ImageComplete) -> Result<ImageBody, ServiceError> {
        let links = self.links.of_picture(&image.scene_id, image.variant, &image.picture).await?;
        Ok(ImageBody {
            kind: "image_complete",
            variant: image.variant,
            cost: image.cost,
            billing: image.billing,
            url: links.picture.url,
            thumbnail_url: links.thumbnail.map(|link| link.url),
            url_expires_at: links.expires_at,
            permalink: permalink(batch, &image.scene_id, image.variant),
            uri: self.links.uri(&image.picture.object),
            mime_type: image.picture.format.mime_type(),
            width: image.picture.width,
            height: image.picture.height,
            bytes: image.picture.bytes,
            sha256: image.picture.sha256,
            scene_id: image.scene_id,
        })
    }
}

/// A finished picture, as its event holds it.
struct ImageComplete {
    scene_id: SceneId,
    variant: u32,
    cost: MicroUsd,
    billing: Option<Billing>,
    picture: Picture,
}

/// A finished picture, as a client sees it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageBody {
    #[serde(rename = "type")]
    kind: &'static str,
    scene_id: SceneId,
    variant: u32,
    cost: MicroUsd,
    billing: Option<Billing>,
    url: String,
    thumbnail_url: Option<String>,
    url_expires_at: Timestamp,
    permalink: String,
    uri: String,
    mime_type: &'static str,
    width: u32,
    height: u32,
    bytes: u64,
    sha256: String,
}

/// What every event has beside its own fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, T> {
    batch_id: BatchId,
    seq: u64,
    ts: i64,
    #[serde(flatten)]
    body: &'a T,
}

fn json<T: Serialize>(batch_id: BatchId, seq: u64, at: Timestamp, body: &T) -> Result<String, ServiceError> {
    let envelope = Envelope { batch_id, seq, ts: at.millis(), body };
    serde_json::to_string(&envelope).map_err(|error| ServiceError::Internal(error.into()))
}

impl Feed {
    /// Says how many pages this batch keeps now.
    fn count(&self, pages: usize) {
        let before = self.counted.swap(pages, Ordering::Relaxed);
        self.kept.fetch_add(pages, Ordering::Relaxed);
        self.kept.fetch_sub(before, Ordering::Relaxed);
    }

    /// Wakes the streams if there are events that they do not know of.
    fn reached(&self, last: u64) {
        self.last.send_if_modified(|known| {
            let is_new = last > *known;
            *known = last.max(*known);
            is_new
        });
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// One stream.
struct Reader {
    feeds: Arc<Feeds>,
    feed: Arc<Feed>,
    /// The number of the last event that was sent.
    sent: u64,
    page: VecDeque<Frame>,
    /// Whether the page came just now: its links are as fresh as they get.
    just_filled: bool,
    over: bool,
    /// Why it ends, as soon as it does not go on; until then only a client that leaves ends it.
    end: StreamEnd,
    ends_at: Option<tokio::time::Instant>,
}

impl Reader {
    /// The next frame, or the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        let mut last = self.feed.last.subscribe();
        loop {
            if self.over {
                return None;
            }
            if self.feeds.draining.is_cancelled() {
                return self.ended(StreamEnd::Draining);
            }
            if self.ends_at.is_some_and(|end| tokio::time::Instant::now() >= end) {
                return self.ended(StreamEnd::TimeLimit);
            }
            if !self.just_filled && self.page.front().is_some_and(|frame| !frame.is_good(self.feeds.clock.now())) {
                // A slow client took so long that the links would have too little left: render them anew.
                self.page.clear();
            }
            if let Some(frame) = self.page.pop_front() {
                self.just_filled = false;
                self.sent = frame.number;
                if frame.done && self.page.is_empty() && frame.number >= *last.borrow() {
                    self.ended(StreamEnd::Done);
                }
                return Some(frame.bytes);
            }
            let known = *last.borrow_and_update();
            if known > self.sent {
                // On the heap while it lasts: each stream would keep the room for it otherwise, some KB.
                Box::pin(self.fill()).await;
                if !self.page.is_empty() {
                    continue;
                }
            }
            tokio::select! {
                () = self.feeds.draining.cancelled() => return self.ended(StreamEnd::Draining),
                () = until(self.ends_at) => return self.ended(StreamEnd::TimeLimit),
                _ = last.changed() => {}
                () = tokio::time::sleep(HEARTBEAT) => return Some(Bytes::from_static(b":\n\n")),
            }
        }
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

async fn until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
