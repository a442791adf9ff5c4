//! Links that never die while they are handed out, on real local assets and with time that is moved.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::assets::local::LocalAssets;
use orchestrator::clock::{Clock as _, FixedClock};
use orchestrator::domain::time::Timestamp;
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::telemetry::Counters;

const TTL: Duration = Duration::from_hours(12);
const MIN_LEFT: Duration = Duration::from_mins(5);
const OBJECT: &str = "images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/1-1-1.png";

struct Bench {
    clock: Arc<FixedClock>,
    counters: Arc<Counters>,
    links: Links,
    _folder: tempfile::TempDir,
}

fn bench(refresh: bool) -> Bench {
    bench_with(MIN_LEFT, refresh)
}

fn bench_with(min_left: Duration, refresh: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_000_000)));
    let counters = Arc::new(Counters::default());
    let assets = Arc::new(LocalAssets::open(folder.path().to_owned(), clock.clone()).unwrap());
    let rules = LinkRules { ttl: TTL, min_left, refresh };
    let links = Links::new(assets, clock.clone(), counters.clone(), rules);
    Bench { clock, counters, links, _folder: folder }
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
    assert_eq!(bench.counters.url_refreshes.get(), 1);
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
