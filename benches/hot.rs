//! The parts of the program that every picture passes, each by itself and beside the least that it could cost.
//!
//! `scripts/bench hot` runs this; what follows goes to criterion: a word measures only what has it in its name.
//! Settling is measured by `scripts/bench settles`, where calls of several instances meet.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement that cannot go on says so by ending"
)]

#[path = "../tests/it/bench.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod bench;
#[path = "../tests/it/engines.rs"]
#[expect(dead_code, unused_macros, unused_imports, reason = "shared with the tests, which use more of it")]
mod engines;
#[path = "bench/pictures.rs"]
mod pictures;
#[path = "../tests/it/process.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod process;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_util::{FutureExt as _, StreamExt as _};
use orchestrator::assets::AssetStore as _;
use orchestrator::assets::local::LocalAssets;
use orchestrator::assets::picture::{Thumbnailer, inspect, thumbnail_name};
use orchestrator::clock::{FixedClock, IdSource as _, RandomIds};
use orchestrator::domain::ids::{AttemptId, BatchId, ImageKey, UserId};
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::Outcome;
use orchestrator::domain::picture::{Picture, PictureFormat, Receipt, Sha256Hex};
use orchestrator::domain::time::Timestamp;
use orchestrator::http::body::{Here, RowFormat, RowsQuery, Rules, check, check_rows};
use orchestrator::provider::gemini::decode;
use orchestrator::service::feed::{FeedRules, Feeds, Subscription};
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::store::Job;
use orchestrator::telemetry::metrics::Metrics;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::bench::Bench;
use self::pictures::{large_picture, small_picture};

const HOUR: Duration = Duration::from_hours(1);
/// Rows of a submission: as many as one may have.
const ROWS: u32 = 10_000;
/// Pictures whose events are a page: `started`, two for each picture, `done`.
const PICTURES_OF_A_PAGE: u32 = 31;
/// Events of a page.
const PAGE: u32 = 64;

criterion_group! {
    name = hot;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = decoding, inspecting, hashing, thumbnails, storing, signing, events, submissions
}
criterion_main!(hot);

/// The sizes that models answer with.
fn sizes() -> [(&'static str, Bytes); 2] {
    [("1.3 MB", large_picture().into()), ("50 KB", small_picture().into())]
}

/// The provider's answer, from its bytes to those of the picture; beside the bare loop of `scripts/bench job`.
fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (size, picture) in sizes() {
        let inline = json!({"mimeType": "image/png", "data": STANDARD.encode(&picture)});
        let body = json!({
            "candidates": [{"content": {"parts": [{"inlineData": inline}], "role": "model"}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 1_120, "totalTokenCount": 1_130},
        });
        let body = body.to_string().into_bytes();
        assert_eq!(decode(body.clone(), "key").unwrap().picture.unwrap(), picture);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("service", size), &body, |bencher, body| {
            bencher.iter_batched(|| body.clone(), |body| decode(body, "key"), BatchSize::LargeInput);
        });
        group.bench_with_input(BenchmarkId::new("bare", size), &body, |bencher, body| {
            bencher.iter_batched(|| body.clone(), |body| bare_decode(&body), BatchSize::LargeInput);
        });
    }
}

fn bare_decode(body: &[u8]) -> Vec<u8> {
    let answer: Value = serde_json::from_slice(body).unwrap();
    STANDARD.decode(answer["candidates"][0]["content"]["parts"][0]["inlineData"]["data"].as_str().unwrap()).unwrap()
}

/// A picture's format and size, from its first bytes.
fn inspecting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inspect");
    for (size, picture) in sizes() {
        group.bench_with_input(BenchmarkId::new("service", size), &picture, |bencher, picture| {
            bencher.iter(|| inspect(picture).unwrap());
        });
    }
}

/// A picture's hash; beside the one of the library that TLS uses.
fn hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sha256");
    for (size, picture) in sizes() {
        group.throughput(Throughput::Bytes(picture.len() as u64));
        group.bench_with_input(BenchmarkId::new("service", size), &picture, |bencher, picture| {
            bencher.iter(|| Sha256Hex::of(picture));
        });
        group.bench_with_input(BenchmarkId::new("aws-lc", size), &picture, |bencher, picture| {
            bencher.iter(|| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, picture));
        });
    }
}

/// A thumbnail; beside decoding the picture, without which there is none.
fn thumbnails(criterion: &mut Criterion) {
    let (runtime, thumbnailer) = (Runtime::new().unwrap(), Thumbnailer::default());
    let mut group = criterion.benchmark_group("thumbnail");
    for (size, picture) in sizes() {
        group.bench_with_input(BenchmarkId::new("service", size), &picture, |bencher, picture| {
            bencher.iter(|| runtime.block_on(thumbnailer.make(picture.clone())).unwrap());
        });
        group.bench_with_input(BenchmarkId::new("decoded alone", size), &picture, |bencher, picture| {
            bencher.iter(|| image::load_from_memory(picture).unwrap());
        });
    }
}

/// Picture, thumbnail and receipt, durably; beside a file of the same bytes that is synced, and one that is not.
fn storing(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    // Not the system's folder for temporary files: that may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (ids, clock) = (RandomIds::default(), Arc::new(FixedClock::at(Timestamp::from_millis(0))));
    let assets = LocalAssets::open(folder.path().to_owned(), clock).unwrap();
    let batch = BatchId::new(ids.next());
    let mut ordinal = 0;
    let mut new_key = || {
        ordinal += 1;
        ImageKey { batch, ordinal, variant: 1 }
    };
    let small = runtime.block_on(Thumbnailer::default().make(large_picture().into())).unwrap();
    let mut group = criterion.benchmark_group("store");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for (size, picture) in sizes() {
        group.throughput(Throughput::Bytes(picture.len() as u64));
        group.bench_with_input(BenchmarkId::new("service", size), &picture, |bencher, picture| {
            let receipt = || receipt(AttemptId::new(ids.next()), new_key(), picture);
            bencher.iter_batched(
                receipt,
                |receipt| runtime.block_on(assets.store(picture.clone(), Some(small.clone()), &receipt)).unwrap(),
                BatchSize::PerIteration,
            );
        });
        for (name, synced) in [("a synced file", true), ("a file", false)] {
            group.bench_with_input(BenchmarkId::new(name, size), &picture, |bencher, picture| {
                let path = || folder.path().join(new_key().ordinal.to_string());
                bencher.iter_batched(
                    path,
                    |path| {
                        let mut file = std::fs::File::create(path).unwrap();
                        std::io::Write::write_all(&mut file, picture).unwrap();
                        if synced {
                            file.sync_all().unwrap();
                        }
                    },
                    BatchSize::PerIteration,
                );
            });
        }
    }
}

fn receipt(attempt: AttemptId, key: ImageKey, bytes: &[u8]) -> Receipt {
    Receipt { attempt, usage: None, cost: Some(MicroUsd::from_micros(33_615)), picture: picture(&key, 1, bytes) }
}

/// What is known of a picture of these bytes, without asking them.
fn picture(key: &ImageKey, attempt: u32, bytes: &[u8]) -> Picture {
    let stem = key.object_stem(attempt);
    Picture {
        object: format!("{stem}.png"),
        format: PictureFormat::Png,
        width: 1_024,
        height: 1_024,
        bytes: bytes.len() as u64,
        sha256: "0".repeat(64),
        thumbnail: Some(thumbnail_name(&stem)),
    }
}

/// A link to a picture.
fn signing(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let (ids, clock) = (RandomIds::default(), Arc::new(FixedClock::at(Timestamp::from_millis(0))));
    let assets = LocalAssets::open(folder.path().to_owned(), clock).unwrap();
    let key = ImageKey { batch: BatchId::new(ids.next()), ordinal: 1, variant: 1 };
    let object = picture(&key, 1, b"").object;
    criterion.bench_function("sign/a link", |bencher| {
        bencher.iter(|| assets.link(&object, "s-001_v1.png", HOUR).now_or_never().unwrap().unwrap());
    });
}

/// A page of events: read, rendered and its links signed, as for the first stream of a batch; as every other stream
/// gets it; and read alone.
fn events(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    runtime.block_on(engines::on_sqlite(|database| async move {
        let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let bench = Bench::on_clock(&database, clock.clone()).await;
        let batch = finished(&bench).await;
        let feeds = feeds(&bench, &database, clock.clone());
        // The feed and its pages stay as long as one stream is open.
        let mut open = stream(&feeds, batch).await;
        open.next().await.unwrap();
        tokio::task::block_in_place(|| measure_page(criterion, &bench, &feeds, batch, &clock));
    }));
}

fn measure_page(criterion: &mut Criterion, bench: &Bench, feeds: &Arc<Feeds>, batch: BatchId, clock: &FixedClock) {
    let runtime = tokio::runtime::Handle::current();
    let mut group = criterion.benchmark_group("64 events");
    group.throughput(Throughput::Elements(PAGE.into()));
    group.bench_function("service", |bencher| {
        bencher.iter(|| {
            // Links that were made before are dead now, and so is the page.
            clock.advance(2 * HOUR);
            runtime.block_on(read_page(feeds, batch))
        });
    });
    group.bench_function("service, another stream", |bencher| {
        bencher.iter(|| runtime.block_on(read_page(feeds, batch)));
    });
    group.bench_function("read alone", |bencher| {
        bencher.iter(|| runtime.block_on(bench.store.load_events(batch, 0, PAGE)).unwrap());
    });
}

/// A batch whose events are a page.
async fn finished(bench: &Bench) -> BatchId {
    let batch = bench.submit(PICTURES_OF_A_PAGE, 1).await;
    for job in bench.claim(PICTURES_OF_A_PAGE).await {
        assert!(bench.store.start(&[job.claim], Timestamp::from_millis(0)).await.unwrap()[0]);
        bench.settle(&job, made(&job)).await;
    }
    assert_eq!(bench.events(batch).await.len(), PAGE as usize);
    batch
}

fn made(job: &Job) -> Outcome {
    Outcome::Made { picture: picture(&job.claim.image, job.number, b""), cost: Some(MicroUsd::from_micros(33_615)) }
}

fn feeds(bench: &Bench, database: &engines::Database, clock: Arc<FixedClock>) -> Arc<Feeds> {
    let assets = Arc::new(LocalAssets::open(database.folder().to_owned(), clock.clone()).unwrap());
    let metrics = Arc::new(Metrics::default());
    let rules = LinkRules { ttl: HOUR, min_left: Duration::from_mins(5), refresh: true };
    let links = Arc::new(Links::new(assets, clock.clone(), metrics.clone(), rules));
    let (tracker, draining) = (TaskTracker::new(), CancellationToken::new());
    Arc::new(Feeds::new(bench.store.clone(), links, clock, metrics, tracker, draining, FeedRules::default()))
}

async fn stream(feeds: &Arc<Feeds>, batch: BatchId) -> futures_util::stream::BoxStream<'static, Bytes> {
    match feeds.open(&UserId::local(), batch, 0).await.unwrap() {
        Subscription::Frames(frames) => frames,
        Subscription::Ended => panic!("it has seen nothing"),
    }
}

/// Reads a stream to its end.
async fn read_page(feeds: &Arc<Feeds>, batch: BatchId) -> usize {
    let frames = stream(feeds, batch).await.fold(0, |count, _| async move { count + 1 }).await;
    assert_eq!(frames, 1 + PAGE as usize, "one says when to come back");
    frames
}

/// The body of a batch, read and checked, in each form; beside JSON that is only read.
fn submissions(criterion: &mut Criterion) {
    let rules = Rules {
        max_rows: ROWS,
        max_variants: 4,
        default_model: "synthetic",
        here: Here { host: None, locate: &|_| None },
        webhook_refusal: &|_| None,
    };
    let prompt = |row| format!("a cup of tea on a table by the window, in the style of an old postcard, row {row}");
    let items: Vec<Value> =
        (0..ROWS).map(|row| json!({"sceneId": format!("s-{row}"), "prompt": prompt(row), "variants": 3})).collect();
    let jsonl = items.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let rows = (0..ROWS).map(|row| format!("s-{row},\"{}\",3", prompt(row)));
    let csv = std::iter::once("sceneId,prompt,variants".to_owned()).chain(rows).collect::<Vec<_>>().join("\n");
    let body = json!({"runMode": "live", "items": items}).to_string();
    let query = RowsQuery { run_mode: Some("live".to_owned()), model: None };
    let hash = check(body.as_bytes(), rules).unwrap().request_hash;

    let mut group = criterion.benchmark_group("10,000 rows");
    group.sample_size(20).throughput(Throughput::Elements(ROWS.into()));
    group.bench_function("service, JSON", |bencher| bencher.iter(|| check(body.as_bytes(), rules).unwrap()));
    for (name, format, body) in [("CSV", RowFormat::Csv, &csv), ("JSONL", RowFormat::Jsonl, &jsonl)] {
        assert_eq!(check_rows(body.as_bytes(), format, &query, rules).unwrap().request_hash, hash);
        group.bench_function(format!("service, {name}"), |bencher| {
            bencher.iter(|| check_rows(body.as_bytes(), format, &query, rules).unwrap());
        });
    }
    group.bench_function("JSON read alone", |bencher| {
        bencher.iter(|| serde_json::from_slice::<Value>(body.as_bytes()).unwrap());
    });
}
