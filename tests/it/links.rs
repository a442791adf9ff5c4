//! Links that never die while they are handed out, on real local assets and with time that is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{join, join_all};
use orchestrator::assets::local::LocalAssets;
use orchestrator::assets::{AssetError, AssetStore, LinkedObject, OpenObject, SignedLink, SignedQuery};
use orchestrator::clock::{Clock as _, FixedClock};
use orchestrator::domain::picture::Receipt;
use orchestrator::domain::time::Timestamp;
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::telemetry::metrics::Metrics;
use tokio::sync::Semaphore;

const TTL: Duration = Duration::from_hours(12);
const MIN_LEFT: Duration = Duration::from_mins(5);
const OBJECT: &str = "images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/1-1-1.png";

struct Bench {
    clock: Arc<FixedClock>,
    metrics: Arc<Metrics>,
    links: Links,
    _folder: tempfile::TempDir,
}

fn bench(refresh: bool) -> Bench {
    bench_with(MIN_LEFT, refresh)
}

fn bench_with(min_left: Duration, refresh: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_000_000)));
    let metrics = Arc::new(Metrics::default());
    let assets = Arc::new(LocalAssets::open(folder.path().to_owned(), clock.clone()).unwrap());
    let rules = LinkRules { ttl: TTL, min_left, refresh };
    let links = Links::new(assets, clock.clone(), metrics.clone(), rules);
    Bench { clock, metrics, links, _folder: folder }
}

#[tokio::test]
async fn a_link_is_handed_out_again_until_less_than_the_promised_rest_is_left() {
    let bench = bench(true);
    let first = bench.links.fresh(OBJECT, "a.png").await.unwrap();
    bench.clock.advance(TTL.saturating_sub(MIN_LEFT));
    assert_eq!(bench.links.fresh(OBJECT, "a.png").await.unwrap(), first);
    assert_eq!(bench.links.cacheable(&first), Duration::ZERO);
    bench.clock.advance(Duration::from_millis(1));
    let second = bench.links.fresh(OBJECT, "a.png").await.unwrap();
    assert_eq!(second.expires_at.since(bench.clock.now()), TTL);
    assert_eq!(bench.links.cacheable(&second), TTL.saturating_sub(MIN_LEFT));
    assert_eq!(bench.metrics.url_refreshes.get(), 1);
}

#[tokio::test]
async fn with_refreshing_off_a_link_is_handed_out_until_it_is_dead() {
    let bench = bench(false);
    let first = bench.links.fresh(OBJECT, "a.png").await.unwrap();
    bench.clock.advance(TTL.saturating_sub(Duration::from_millis(1)));
    assert_eq!(bench.links.fresh(OBJECT, "a.png").await.unwrap(), first);
    bench.clock.advance(Duration::from_millis(1));
    assert_ne!(bench.links.fresh(OBJECT, "a.png").await.unwrap(), first);
}

#[tokio::test]
async fn a_dead_link_is_not_handed_out_even_if_no_rest_is_promised() {
    let bench = bench_with(Duration::ZERO, true);
    let first = bench.links.fresh(OBJECT, "a.png").await.unwrap();
    bench.clock.advance(TTL);
    let second = bench.links.fresh(OBJECT, "a.png").await.unwrap();
    assert_eq!(second.expires_at.since(bench.clock.now()), TTL);
    assert_ne!(first, second);
}

/// Signs as a network service does: it takes until it is let go, may fail, and is counted.
struct Signer {
    clock: Arc<FixedClock>,
    go: Semaphore,
    fails: AtomicBool,
    calls: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl AssetStore for Signer {
    async fn link(&self, object: &str, _file_name: &str, ttl: Duration) -> Result<SignedLink, AssetError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.go.acquire().await.unwrap().forget();
        self.now.fetch_sub(1, Ordering::Relaxed);
        if self.fails.load(Ordering::Relaxed) {
            return Err(AssetError::unavailable("away"));
        }
        Ok(SignedLink { url: object.to_owned(), expires_at: self.clock.now().after(ttl) })
    }

    async fn store(&self, _: Bytes, _: Option<Bytes>, _: &Receipt) -> Result<(), AssetError> {
        unreachable!()
    }

    async fn put(&self, _: &str, _: Bytes) -> Result<(), AssetError> {
        unreachable!()
    }

    async fn find(&self, _: &str) -> Result<Option<Receipt>, AssetError> {
        unreachable!()
    }

    fn locate(&self, _: &str) -> Option<LinkedObject> {
        unreachable!()
    }

    async fn open(&self, _: &str) -> Result<Option<OpenObject>, AssetError> {
        unreachable!()
    }

    async fn open_signed(&self, _: &str, _: &SignedQuery) -> Result<Option<OpenObject>, AssetError> {
        unreachable!()
    }

    fn uri(&self, _: &str) -> String {
        unreachable!()
    }

    async fn check(&self) -> Result<(), AssetError> {
        unreachable!()
    }
}

fn remote() -> (Arc<Signer>, Links) {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_000_000)));
    let signer = Arc::new(Signer {
        clock: clock.clone(),
        go: Semaphore::new(0),
        fails: AtomicBool::new(false),
        calls: AtomicUsize::new(0),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    let rules = LinkRules { ttl: TTL, min_left: MIN_LEFT, refresh: true };
    let links = Links::new(signer.clone(), clock, Arc::new(Metrics::default()), rules);
    (signer, links)
}

/// Lets a future go as far as it can.
async fn start<F: Future + Unpin>(future: &mut F) {
    tokio::select! {
        biased;
        _ = future => panic!("it is not to end yet"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_hundred_readers_of_one_picture_mint_once() {
    let (signer, links) = remote();
    let readers = join_all((0..100).map(|_| links.fresh(OBJECT, "a.png")));
    let (read, ()) = join(readers, async { signer.go.add_permits(100) }).await;
    assert_eq!(signer.calls.load(Ordering::Relaxed), 1);
    assert!(read.iter().all(|link| link.as_ref().unwrap() == read[0].as_ref().unwrap()));
}

#[tokio::test]
async fn a_reader_who_leaves_does_not_take_the_link_of_the_others_along() {
    let (signer, links) = remote();
    let mut first = Box::pin(links.fresh(OBJECT, "a.png"));
    start(&mut first).await;
    let mut others = Box::pin(join_all((0..99).map(|_| links.fresh(OBJECT, "a.png"))));
    start(&mut others).await;
    drop(first);
    start(&mut others).await;
    signer.go.add_permits(100);
    assert!(others.await.iter().all(Result::is_ok));
    assert_eq!(signer.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_everybody_left_is_begun_anew() {
    let (signer, links) = remote();
    let mut only = Box::pin(links.fresh(OBJECT, "a.png"));
    start(&mut only).await;
    drop(only);
    signer.go.add_permits(1);
    links.fresh(OBJECT, "a.png").await.unwrap();
    assert_eq!(signer.calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_link_that_could_not_be_minted_fails_for_who_waits_and_is_not_kept() {
    let (signer, links) = remote();
    signer.fails.store(true, Ordering::Relaxed);
    let readers = join_all((0..100).map(|_| links.fresh(OBJECT, "a.png")));
    let (read, ()) = join(readers, async { signer.go.add_permits(200) }).await;
    assert!(read.iter().all(|link| matches!(link, Err(AssetError::Unavailable(_)))));
    assert_eq!(signer.calls.load(Ordering::Relaxed), 1);
    signer.fails.store(false, Ordering::Relaxed);
    links.fresh(OBJECT, "a.png").await.unwrap();
    assert_eq!(signer.calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn links_are_minted_sixteen_at_a_time_and_the_latest_are_kept() {
    let (signer, links) = remote();
    let objects: Vec<String> = (0..10_001).map(|number| format!("images/b/{number}.png")).collect();
    let fresh = async |objects: &[String]| {
        let readers = join_all(objects.iter().map(|object| links.fresh(object, "a.png")));
        join(readers, async { signer.go.add_permits(objects.len()) }).await;
        signer.calls.load(Ordering::Relaxed)
    };
    assert_eq!(fresh(&objects).await, 10_001);
    assert_eq!(signer.most.load(Ordering::Relaxed), 16);
    assert_eq!(fresh(&objects[5_000..]).await, 10_001);
    assert_eq!(fresh(&objects[..1]).await, 10_002);
}
