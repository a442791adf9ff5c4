//! Several instances on one Postgres: what one does reaches the others at once, and is done by one of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use orchestrator::assets::local::LocalAssets;
use orchestrator::clock::IdSource as _;
use orchestrator::domain::ids::{BatchId, UserId, WorkerId};
use orchestrator::domain::prices::Usage;
use orchestrator::provider::{Answer, ImageCall, ImageProvider, ProviderError};
use orchestrator::service::feed::{FeedRules, Feeds, Subscription};
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::store::Cancelled;
use orchestrator::telemetry::metrics::Metrics;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bench::Bench;
use crate::books::on;
use crate::engine::{Engine, quick};
use crate::engines::{Database, on_both_engines, on_postgres};
use crate::process::{PATIENCE, batch};

on_both_engines!(a_cancel_frees_what_waits_for_references_on_any_instance, a_cancel_frees_what_waits_at_a_closed_gate,);

const MODEL: &str = "gemini-nano-banana-2.1";
/// Nobody looks by itself in the time of a test.
const NEVER: Duration = Duration::from_hours(10);

/// One instance: a store of its own on the database that all share, and its relay.
struct Instance {
    bench: Bench,
    relay: tokio::task::JoinHandle<Infallible>,
}

impl Instance {
    /// An instance that hears the others.
    async fn start(database: &Database) -> Self {
        let bench = Bench::new(database).await;
        let (store, url, me) = (bench.store.clone(), database.url.clone(), WorkerId::new(bench.ids.next()));
        let mut cancels = store.hints().cancels();
        let relay = tokio::spawn(async move { store.relay(&url, me).await });
        // Everybody is woken once it listens.
        in_time(cancels.heard_of(|_| false)).await;
        Self { bench, relay }
    }

    /// The events of `batch` by a stream that looks at the table when it is told to, and not otherwise.
    async fn follow(&self, database: &Database, batch: BatchId) -> Vec<Value> {
        let (store, clock, metrics) =
            (self.bench.store.clone(), self.bench.clock.clone(), Arc::new(Metrics::default()));
        let assets = Arc::new(LocalAssets::open(database.folder().to_owned(), clock.clone()).unwrap());
        let rules = LinkRules { ttl: Duration::from_hours(1), min_left: Duration::from_mins(5), refresh: true };
        let links = Arc::new(Links::new(assets, clock.clone(), metrics.clone(), rules));
        let rules = FeedRules { max_life: None, poll: NEVER };
        let (tracker, draining) = (TaskTracker::new(), CancellationToken::new());
        let feeds = Arc::new(Feeds::new(store, links, clock, metrics, tracker, draining, rules));
        let Subscription::Frames(frames) = feeds.open(&UserId::local(), batch, 0).await.unwrap() else {
            panic!("it has seen nothing")
        };
        let frames: Vec<Bytes> = in_time(frames.collect()).await;
        let text: String = frames.iter().map(|frame| std::str::from_utf8(frame).unwrap()).collect();
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        events.map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    async fn finished(&self, batch: BatchId) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.bench.store.load_progress(batch).await.unwrap().unwrap().1 {
            assert!(tokio::time::Instant::now() < deadline, "the batch does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn submit(&self, rows: u32) -> BatchId {
        self.bench.submit_of(MODEL, rows).await
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// A provider that takes so long for each picture, or asks to slow down.
struct Painter(Result<Duration, Duration>);

#[async_trait]
impl ImageProvider for Painter {
    fn name(&self) -> &'static str {
        "painter"
    }

    async fn generate(&self, _: &ImageCall) -> Result<Answer, ProviderError> {
        let latency = self.0.map_err(|pause| ProviderError::Throttled { retry_after: Some(pause) })?;
        tokio::time::sleep(latency).await;
        let mut png = Vec::new();
        let picture = image::DynamicImage::new_rgb8(8, 8);
        picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let usage = Usage { input_tokens: 1, image_tokens: 1, text_tokens: 0 };
        Ok(Answer { picture: Ok(png.into()), usage: Some(usage), request_id: None })
    }
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_follows_a_batch_that_another_instance_works_on() {
    on_postgres(|database| async move {
        let (works, watches) = (Instance::start(&database).await, Instance::start(&database).await);
        let batch = works.submit(12).await;
        let painter = Arc::new(Painter(Ok(Duration::from_millis(20))));
        let engine = Engine::polling(&works.bench, &database, painter, quick(2), NEVER);
        let events = watches.follow(&database, batch).await;
        assert_eq!(events.last().unwrap()["type"], "done");
        assert_eq!(numbers(&events), (1..=events.len() as u64).collect::<Vec<_>>());
        engine.stop().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_works_on_a_batch_that_was_posted_to_another() {
    on_postgres(|database| async move {
        let (posts, works) = (Instance::start(&database).await, Instance::start(&database).await);
        let engine = Engine::polling(&works.bench, &database, Arc::new(Painter(Ok(Duration::ZERO))), quick(2), NEVER);
        for _ in 0..8 {
            let batch = posts.submit(2).await;
            posts.finished(batch).await;
        }
        engine.stop().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_nobody_listens_is_seen_when_the_connection_is_back() {
    on_postgres(|database| async move {
        let (works, watches) = (Instance::start(&database).await, Instance::start(&database).await);
        let batch = works.submit(30).await;
        let painter = Arc::new(Painter(Ok(Duration::from_millis(20))));
        let engine = Engine::polling(&works.bench, &database, painter, quick(1), NEVER);
        let ended = CancellationToken::new();
        let (cut, over) = (database.clone(), ended.clone());
        let cutting = tokio::spawn(async move {
            let mut cuts = 0;
            while !over.is_cancelled() {
                let listeners = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
                cuts += cut.number(&format!("SELECT COUNT(pg_terminate_backend(pid)) {listeners}")).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            cuts
        });
        let followed = tokio::spawn({
            let database = database.clone();
            async move { (watches.follow(&database, batch).await, watches) }
        });
        // The last events come while every listener is cut off.
        works.finished(batch).await;
        ended.cancel();
        assert!(cutting.await.unwrap() > 0, "no listener was cut off");
        let (events, _watches) = followed.await.unwrap();
        assert_eq!(numbers(&events), (1..=events.len() as u64).collect::<Vec<_>>());
        engine.stop().await.unwrap();
    })
    .await;
}

async fn a_cancel_frees_what_waits_for_references_on_any_instance(database: Arc<Database>) {
    // A server that takes the connection and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let settings = on(&database).with("REFERENCE_ALLOW", address.clone()).with("REFERENCE_TIMEOUT", "10h");
    // One place, and no beat finds a lost claim in the time of the test.
    let settings = settings.with("LEASE_DURATION", "10h").with("PROVIDER_CONCURRENCY", "1");
    let works = settings.start().await;
    // The other makes no picture itself; on SQLite there is none.
    let other = if database.url.starts_with("sqlite:") {
        None
    } else {
        let folder = database.folder().join("other").display().to_string();
        Some(settings.with("RUN_MODE", "dry_run").with("DATA_DIR", folder).start().await)
    };
    let mut body = batch(5, 1);
    for item in body["items"].as_array_mut().unwrap() {
        item["references"] = json!([format!("http://{address}/a.png")]);
    }
    let waiting = works.submit(&body).await;
    let (_connection, _) = listener.accept().await.unwrap();
    let next = works.submit(&batch(1, 1)).await;
    let through = other.as_ref().unwrap_or(&works);
    through.post(&format!("/images/{waiting}/cancel"), &json!({}), &[]).await.expect(200);
    let view = through.finished(&waiting).await;
    assert_eq!((&view["state"], &view["counts"]["cancelled"]), (&json!("cancelled"), &json!(5)));
    let view = works.finished(&next).await;
    assert_eq!(view["counts"]["completed"], 1);
    assert_eq!(works.get("/metrics-lite").await.json()["callsStarted"], 1);
}

async fn a_cancel_frees_what_waits_at_a_closed_gate(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    let painter = Arc::new(Painter(Err(Duration::from_mins(50))));
    let engine = Engine::start(&bench, &database, painter, quick(1));
    let waiting = bench.submit_of(MODEL, 3).await;
    let claimed = |batch| format!("SELECT COUNT(*) FROM images WHERE state = 'claimed' AND batch_id = '{batch}'");
    let until_claimed = async |batch: BatchId| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while database.number(&claimed(batch)).await == 0 {
            assert!(tokio::time::Instant::now() < deadline, "nothing is claimed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The first was put off by the provider, the second waits at the gate and takes the only place.
    let put_off = format!("SELECT COUNT(*) FROM images WHERE throttled_since > 0 AND batch_id = '{waiting}'");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while database.number(&put_off).await == 0 {
        assert!(tokio::time::Instant::now() < deadline, "nothing is put off");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until_claimed(waiting).await;
    let next = bench.submit_of(MODEL, 1).await;
    let cancelled = bench.store.cancel(waiting, &UserId::local(), bench.clock.now()).await.unwrap();
    assert!(matches!(cancelled, Cancelled::Stopped { pictures: 3, finished: Some(_) }), "{cancelled:?}");
    until_claimed(next).await;
    engine.stop().await.unwrap();
    assert_eq!(bench.money().await, (0, 50_000));
}
