//! Progress streams: replay from the table, then follow, without a hole.
//!
//! A stream knows only the number of the last event that it sent, and asks for the page of events that
//! the next one is on. The streams of one batch share their pages: who asks first reads and renders,
//! the others get the same bytes. So a slow stream, a late one and one that comes back after a restart
//! are the same thing, and no event can be skipped.
//!
//! Thousands of streams wake at the same moment. What is new is rendered before they do, and each then takes it with
//! a look at shared memory: none queues for its turn, and none sets a timer, for an event.

mod reader;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::reader::Reader;
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
use crate::telemetry::metrics::Metrics;

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
    pages: RwLock<BTreeMap<u64, Vec<Frame>>>,
    /// Held by whoever reads and renders, who alone changes the pages.
    rendering: tokio::sync::Mutex<()>,
    /// How many of them are counted in [`Feeds::kept`].
    counted: AtomicUsize,
    kept: Arc<AtomicUsize>,
    reached: watch::Sender<Reached>,
}

/// How far a batch has come, as far as the follower knows.
#[derive(Debug, Clone, Copy)]
struct Reached {
    /// The number of the last event there is.
    last: u64,
    /// Nobody follows the batch any more: the service stops.
    draining: bool,
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
        let reader = Reader::new(self.clone(), feed, after);
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
            pages: RwLock::default(),
            rendering: tokio::sync::Mutex::default(),
            counted: AtomicUsize::new(0),
            kept: self.kept.clone(),
            reached: watch::Sender::new(Reached { last, draining: false }),
        });
        feeds.insert(batch, Arc::downgrade(&feed));
        let follower = self.clone().follow(Arc::downgrade(&feed), batch);
        self.tracker.spawn(follower);
        feed
    }

    /// Tells the streams of a batch how far it has come, for as long as somebody watches it.
    async fn follow(self: Arc<Self>, feed: Weak<Feed>, batch: BatchId) {
        let _at_end = EndStreams(feed.clone());
        tokio::select! {
            () = self.draining.cancelled() => {}
            () = self.watch(&feed, batch) => {}
        }
    }

    async fn watch(&self, feed: &Weak<Feed>, batch: BatchId) {
        let mut hints = self.store.hints().batches();
        loop {
            {
                let Some(feed) = feed.upgrade() else { return };
                match self.store.load_progress(batch).await {
                    Ok(progress) => self.reached(&feed, progress.map_or(0, |(last, _)| last)).await,
                    Err(error) => tracing::warn!(%batch, %error, "cannot read progress; streams wait"),
                }
            }
            let told = hints.heard_of(|other| other == batch);
            drop(tokio::time::timeout(self.rules.poll, told).await);
        }
    }

    /// Wakes the streams if there are events that they do not know of.
    async fn reached(&self, feed: &Feed, last: u64) {
        let known = feed.reached.borrow().last;
        if last > known {
            // For the streams that are not behind. One that cannot get it asks for itself, and finds out why.
            drop(self.page(feed, known).await);
            feed.reached.send_modify(|reached| reached.last = last);
        }
    }

    /// The events after number `sent` on the page of the next one, read and rendered if nobody did yet.
    async fn page(&self, feed: &Feed, sent: u64) -> Result<VecDeque<Frame>, ServiceError> {
        let _turn = feed.rendering.lock().await;
        let now = self.clock.now();
        // Somebody may have, in the turn before.
        if let Some(frames) = feed.rendered(sent, now) {
            return Ok(frames);
        }
        let index = sent / PAGE;
        let known = feed.forget_stale(index, now).unwrap_or(index * PAGE);
        let mut new = Vec::new();
        if known <= sent {
            let rest = u32::try_from((index + 1) * PAGE - known).unwrap_or(u32::MAX);
            let rows = self.store.load_events(feed.batch, known, rest).await?;
            self.metrics.events_read.inc_by(rows.len() as u64);
            let mut frames = stream::iter(rows).map(|row| self.render(feed.batch, row)).buffered(MINTED_AT_ONCE);
            while let Some(frame) = frames.next().await {
                new.push(frame?);
            }
        }
        let crowded = self.kept.load(Ordering::Relaxed) > TOTAL_PAGES;
        feed.add(index, new, if crowded { 1 } else { SHARED_PAGES });
        Ok(feed.after(sent))
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

/// Ends the streams of a batch when nobody follows it any more, for whatever reason.
struct EndStreams(Weak<Feed>);

impl Drop for EndStreams {
    fn drop(&mut self) {
        if let Some(feed) = self.0.upgrade() {
            feed.reached.send_modify(|reached| reached.draining = true);
        }
    }
}

impl Feed {
    /// The rendered events after number `sent` on the page of the next one.
    fn after(&self, sent: u64) -> VecDeque<Frame> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let Some(page) = pages.get(&(sent / PAGE)) else { return VecDeque::new() };
        page.iter().skip(page.partition_point(|frame| frame.number <= sent)).cloned().collect()
    }

    /// The same; `None` if there is none, or a link among them is not fresh.
    fn rendered(&self, sent: u64, now: Timestamp) -> Option<VecDeque<Frame>> {
        let frames = self.after(sent);
        (!frames.is_empty() && frames.iter().all(|frame| frame.is_good(now))).then_some(frames)
    }

    /// Removes the page if a link on it is not fresh; the number of the last event that is on it then.
    fn forget_stale(&self, index: u64, now: Timestamp) -> Option<u64> {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let page = pages.get_mut(&index)?;
        if page.iter().any(|frame| !frame.is_good(now)) {
            page.clear();
        }
        page.last().map(|frame| frame.number)
    }

    /// Adds to a page; keeps `most` pages, this one and the last ones.
    fn add(&self, index: u64, new: Vec<Frame>, most: usize) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.entry(index).or_default().extend(new);
        while pages.len() > most {
            let oldest = pages.keys().copied().find(|other| *other != index);
            oldest.map(|oldest| pages.remove(&oldest));
        }
        self.count(pages.len());
    }

    /// Says how many pages this batch keeps now.
    fn count(&self, pages: usize) {
        let before = self.counted.swap(pages, Ordering::Relaxed);
        self.kept.fetch_add(pages, Ordering::Relaxed);
        self.kept.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.count(0);
    }
}
