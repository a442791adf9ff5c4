//! Progress streams below HTTP: fresh links for slow readers, an end in time, a bound on what is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use orchestrator::assets::local::LocalAssets;
use orchestrator::clock::FixedClock;
use orchestrator::domain::ids::{BatchId, UserId};
use orchestrator::domain::time::Timestamp;
use orchestrator::service::feed::{FeedRules, Feeds, Subscription};
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::telemetry::metrics::Metrics;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bench::{Bench, made};
use crate::engines::{Database, on_sqlite};

const TTL: Duration = Duration::from_hours(12);
const MIN_LEFT: Duration = Duration::from_mins(5);

struct Streams {
    bench: Bench,
    clock: Arc<FixedClock>,
    feeds: Arc<Feeds>,
}

async fn streams(database: &Database, refresh: bool, max_life: Option<Duration>) -> Streams {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
    let bench = Bench::on_clock(database, clock.clone()).await;
    let assets = Arc::new(LocalAssets::open(database.folder().to_owned(), clock.clone()).unwrap());
    let metrics = Arc::new(Metrics::default());
    let rules = LinkRules { ttl: TTL, min_left: MIN_LEFT, refresh };
    let links = Arc::new(Links::new(assets, clock.clone(), metrics.clone(), rules));
    let (tracker, draining) = (TaskTracker::new(), CancellationToken::new());
    let rules = FeedRules { max_life, ..FeedRules::default() };
    let feeds = Feeds::new(bench.store.clone(), links, clock.clone(), metrics, tracker, draining, rules);
    Streams { bench, clock, feeds: Arc::new(feeds) }
}

impl Streams {
    /// A finished batch of `rows` pictures.
    async fn finished(&self, rows: u32) -> BatchId {
        let batch = self.bench.submit(rows, 1).await;
        for job in self.bench.claim(rows).await {
            self.bench.store.start(&[job.claim], Timestamp::from_millis(0)).await.unwrap();
            self.bench.settle(&job, made(&job, 1)).await;
        }
        batch
    }

    async fn open(&self, batch: BatchId) -> BoxStream<'static, Bytes> {
        match self.feeds.open(&UserId::local(), batch, 0).await.unwrap() {
            Subscription::Frames(frames) => frames,
            Subscription::Ended => panic!("it has seen nothing"),
        }
    }
}

/// The events of the next `count` frames.
async fn read(frames: &mut BoxStream<'static, Bytes>, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    while events.len() < count {
        let Some(frame) = frames.next().await else { break };
        let text = String::from_utf8(frame.to_vec()).unwrap();
        events.extend(
            text.lines().find_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap()),
        );
    }
    events
}

#[tokio::test]
async fn a_slow_reader_gets_links_that_are_fresh_when_they_are_sent() {
    on_sqlite(|database| async move {
        let streams = streams(&database, true, None).await;
        let batch = streams.finished(40).await;
        let mut frames = streams.open(batch).await;
        let first = read(&mut frames, 10).await;
        streams.clock.advance(TTL.saturating_sub(Duration::from_mins(1)));
        let rest = read(&mut frames, 1_000).await;
        let expires = |event: &Value| event["urlExpiresAt"].as_str().map(str::to_owned);
        let (early, late): (Vec<_>, Vec<_>) =
            (first.iter().filter_map(expires).collect(), rest.iter().filter_map(expires).collect());
        assert!(!early.is_empty() && late.iter().all(|late| *late > early[0]), "{early:?} {late:?}");
        // And none is lost or told twice.
        let numbers: Vec<u64> = first.iter().chain(&rest).map(|event| event["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=82).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn with_refreshing_off_a_stream_goes_on_in_the_last_minutes_of_its_links() {
    on_sqlite(|database| async move {
        let streams = streams(&database, false, None).await;
        let batch = streams.finished(10).await;
        let mut frames = streams.open(batch).await;
        let first = read(&mut frames, 3).await;
        streams.clock.advance(TTL.saturating_sub(Duration::from_mins(1)));
        let rest = tokio::time::timeout(Duration::from_mins(1), read(&mut frames, 1_000)).await.expect("it goes on");
        assert_eq!(first.len() + rest.len(), 22);
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_busy_ends_when_its_time_is_up() {
    on_sqlite(|database| async move {
        let streams = streams(&database, true, Some(Duration::ZERO)).await;
        let batch = streams.finished(40).await;
        let mut frames = streams.open(batch).await;
        assert_eq!(read(&mut frames, 1_000).await.len(), 0, "its whole life is over");
    })
    .await;
}
