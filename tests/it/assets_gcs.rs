//! Pictures in a bucket: the adapter against a Google server of the tests' own, against the public emulator, and in the
//! real program.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use google_cloud_auth::signer::{Signer, SigningProvider};
use image::ImageFormat;
use orchestrator::assets::gcs::GcsAssets;
use orchestrator::assets::{AssetError, AssetStore as _, LinkedObject};
use orchestrator::clock::{Clock as _, FixedClock, SystemClock};
use orchestrator::domain::ids::{AttemptId, BatchId, ImageKey};
use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::picture::{Picture, PictureFormat, Receipt};
use orchestrator::domain::time::Timestamp;
use orchestrator::gcs::{Gcs, Signing};
use orchestrator::service::links::{LinkRules, Links};
use orchestrator::telemetry::metrics::Metrics;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use ulid::Ulid;

use crate::fake_gemini::{Allowed, FakeGemini, Fault as Answer};
use crate::google::{Call, Fault, Google, ServiceAccount};
use crate::process::{PATIENCE, Service, Settings};
use crate::uploads::{encoded, plain};

const BUCKET: &str = "pictures";
const HOUR: Duration = Duration::from_hours(1);

/// The adapter at a server that asks for no signature.
async fn bare() -> (Google, GcsAssets) {
    let google = Google::start().await;
    let assets = at(google.address()).await;
    (google, assets)
}

/// The adapter with the key of an account, at a server that knows its public half.
async fn with_key() -> (Google, GcsAssets, ServiceAccount) {
    let account = ServiceAccount::generate();
    let google = Google::start_for(Some(account.clone())).await;
    let gcs = Gcs::connect(Some(google.address()), Some(&account.key_file)).await.unwrap();
    (google, assets(gcs), account)
}

async fn at(address: &str) -> GcsAssets {
    assets(Gcs::connect(Some(address), None).await.unwrap())
}

fn assets(gcs: Gcs) -> GcsAssets {
    GcsAssets::new(gcs, BUCKET.to_owned(), Arc::new(SystemClock::new()))
}

fn stem(ordinal: u32) -> String {
    ImageKey { batch: BatchId::new(Ulid::nil()), ordinal, variant: 1 }.object_stem(1)
}

fn receipt(ordinal: u32) -> Receipt {
    let stem = stem(ordinal);
    let picture = Picture {
        object: format!("{stem}.png"),
        format: PictureFormat::Png,
        width: 1,
        height: 1,
        bytes: 7,
        sha256: String::new(),
        thumbnail: Some(orchestrator::assets::picture::thumbnail_name(&stem)),
    };
    Receipt { attempt: AttemptId::new(Ulid::nil()), usage: None, cost: Some(MicroUsd::from_micros(33_600)), picture }
}

async fn store(assets: &GcsAssets, ordinal: u32, picture: &'static str) -> Result<(), AssetError> {
    assets.store(picture.into(), Some("small".into()), &receipt(ordinal)).await
}

async fn opened(assets: &GcsAssets, object: &str) -> Option<(&'static str, u64, Vec<u8>)> {
    let opened = assets.open(object).await.unwrap()?;
    let pieces: Vec<Bytes> = opened.body.try_collect().await.unwrap();
    Some((opened.content_type, opened.length, pieces.concat()))
}

#[tokio::test]
async fn a_picture_is_stored_with_all_that_belongs_to_it_and_found_again() {
    let (google, assets) = bare().await;
    let receipt = receipt(1);
    let (object, thumbnail) = (&receipt.picture.object, receipt.picture.thumbnail.as_ref().unwrap());
    assert_eq!(assets.find(&stem(1)).await.unwrap(), None);
    assert_eq!(opened(&assets, object).await, None);
    store(&assets, 1, "picture").await.unwrap();
    assert_eq!(assets.find(&stem(1)).await.unwrap(), Some(receipt.clone()));
    assert_eq!(opened(&assets, object).await, Some(("image/png", 7, b"picture".to_vec())));
    assert_eq!(opened(&assets, thumbnail).await, Some(("image/png", 5, b"small".to_vec())));
    for name in [object, thumbnail] {
        let objects = google.objects();
        let stored = objects.get(BUCKET, name).unwrap();
        assert_eq!(
            (stored.content_type.as_str(), stored.cache_control.as_str()),
            ("image/png", "private, max-age=31536000, immutable")
        );
    }
    let objects = google.objects();
    let written: Value = serde_json::from_str(&objects.get(BUCKET, object).unwrap().metadata["receipt"]).unwrap();
    assert_eq!((&written["attempt"], &written["cost"]), (&json!(receipt.attempt), &json!(receipt.cost)));
    assert!(objects.get(BUCKET, thumbnail).unwrap().metadata.is_empty());
    assert_eq!(assets.uri(object), format!("gs://pictures/{object}"));
}

#[tokio::test]
async fn the_same_again_is_success_and_other_bytes_are_a_conflict() {
    let (google, assets) = bare().await;
    store(&assets, 1, "picture").await.unwrap();
    store(&assets, 1, "picture").await.unwrap();
    for other in ["another", "pic", "pictures", "", "Picture"] {
        let refused = store(&assets, 1, other).await;
        assert!(matches!(refused, Err(AssetError::Conflict(_))), "{other}: {refused:?}");
    }
    let other = assets.store("picture".into(), Some("other".into()), &receipt(1)).await;
    assert!(matches!(other, Err(AssetError::Conflict(_))), "{other:?}");
    let reference = "references/0a/1b.png";
    assets.put(reference, "picture".into()).await.unwrap();
    assets.put(reference, "picture".into()).await.unwrap();
    assert!(matches!(assets.put(reference, "another".into()).await, Err(AssetError::Conflict(_))));
    assert_eq!(google.objects().names(BUCKET, "").len(), 3);
    assert_eq!(opened(&assets, reference).await.unwrap().2, b"picture");
}

#[tokio::test]
async fn a_picture_whose_answer_was_lost_is_stored_once_and_is_success() {
    let (google, assets) = bare().await;
    for _ in 0..2 {
        google.faults().script(Call::Upload, Fault::LostAfter);
    }
    store(&assets, 1, "picture").await.unwrap();
    let names = google.objects().names(BUCKET, "");
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(google.objects().get(BUCKET, &names[0]).unwrap().bytes(), "picture");
    assert_eq!(assets.find(&stem(1)).await.unwrap(), Some(receipt(1)));
    // A lost answer hides no other bytes.
    google.faults().script(Call::Upload, Fault::LostBefore);
    assert!(matches!(store(&assets, 1, "another").await, Err(AssetError::Conflict(_))));
}

#[tokio::test]
async fn what_is_away_for_a_moment_is_asked_again() {
    let (google, assets) = bare().await;
    for (call, fault) in [
        (Call::Upload, Fault::Unavailable),
        (Call::Upload, Fault::Slow(Duration::from_millis(200))),
        (Call::Upload, Fault::TooFast),
        (Call::List, Fault::Unavailable),
        (Call::List, Fault::LostBefore),
        (Call::Read, Fault::Unavailable),
        (Call::Read, Fault::LostBefore),
    ] {
        google.faults().script(call, fault);
    }
    store(&assets, 1, "picture").await.unwrap();
    assert_eq!(google.faults().calls(Call::Upload), 4);
    assert_eq!(assets.find(&stem(1)).await.unwrap(), Some(receipt(1)));
    assert_eq!(opened(&assets, &receipt(1).picture.object).await.unwrap().2, b"picture");
}

#[tokio::test]
async fn a_checksum_that_does_not_fit_is_an_error_until_the_bytes_were_compared() {
    let (google, assets) = bare().await;
    google.faults().script(Call::Upload, Fault::WrongChecksum);
    let put = async || assets.put("references/0a/1b.png", "picture".into()).await;
    assert!(matches!(put().await, Err(AssetError::Unavailable(_))));
    // Only the answer was wrong: the bytes are.
    put().await.unwrap();
    google.faults().script(Call::Read, Fault::WrongChecksum);
    let read = assets.open("references/0a/1b.png").await.unwrap().unwrap().body.try_collect::<Vec<Bytes>>().await;
    assert!(read.is_err(), "{read:?}");
}

#[tokio::test]
async fn a_picture_without_a_readable_receipt_is_damage() {
    let (google, assets) = bare().await;
    google.objects().put(BUCKET, &format!("{}.webp", stem(1)), "picture");
    assert!(matches!(assets.find(&stem(1)).await, Err(AssetError::Damaged(_))));
    // Another attempt, and what is no picture, are other things.
    google.objects().put(BUCKET, &format!("{}1.png", stem(2)), "picture");
    google.objects().put(BUCKET, &format!("{}.txt", stem(2)), "text");
    assert_eq!(assets.find(&stem(2)).await.unwrap(), None);
}

#[tokio::test]
async fn only_our_own_names_are_asked_for() {
    let (google, assets) = bare().await;
    for object in ["ledger/2026-11-24.jsonl", "images/../ledger/a.png", "images/b/c/d.png", "images/b/1.txt", ""] {
        google.objects().put(BUCKET, object, "x");
        assert_eq!(opened(&assets, object).await, None, "{object}");
    }
    assert!(assets.put("ledger/a.png", "x".into()).await.is_err());
    assert!(assets.link("ledger/2026-11-24.jsonl", "a", HOUR).await.is_err());
    let calls = [Call::Read, Call::Upload].map(|call| google.faults().calls(call));
    assert_eq!(calls, [0, 0]);
}

/// A server that has one answer for everything.
async fn answering(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 8 << 10];
            let _ = connection.read(&mut request).await;
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn a_bucket_that_is_not_there_or_not_ours_is_no_absent_picture() {
    let object = receipt(1).picture.object;
    let (google, healthy) = bare().await;
    healthy.check().await.unwrap();
    google.objects().missing_buckets.push(BUCKET.to_owned());
    assert!(matches!(healthy.find(&stem(1)).await, Err(AssetError::Unavailable(_))));
    for (status, body) in [
        ("404 Not Found", "The specified bucket does not exist."),
        (
            "404 Not Found",
            r#"{"error":{"code":404,"message":"The specified bucket does not exist.","status":"NOT_FOUND"}}"#,
        ),
        ("403 Forbidden", "a@b.test does not have storage.objects.get access to the Google Cloud Storage object."),
        ("401 Unauthorized", "Anonymous caller does not have storage.objects.get access."),
    ] {
        let assets = at(&answering(status, body).await).await;
        assert!(matches!(assets.check().await, Err(AssetError::Unavailable(_))), "{body}");
        assert!(matches!(assets.open(&object).await, Err(AssetError::Unavailable(_))), "{body}");
    }
    let absent = at(&answering("404 Not Found", "No such object: pictures/images/probe/absent").await).await;
    absent.check().await.unwrap();
    assert!(absent.open(&object).await.unwrap().is_none());
}

async fn status(url: &str) -> u16 {
    reqwest::get(url).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_link_opens_its_picture_as_it_was_signed_and_until_it_expires() {
    let (google, assets, _account) = with_key().await;
    store(&assets, 1, "picture").await.unwrap();
    let (object, before) = (receipt(1).picture.object, SystemClock::new().now());
    let link = assets.link(&object, "grün 1.png", HOUR).await.unwrap();
    let answer = reqwest::get(&link.url).await.unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "image/png");
    let name = header("content-disposition");
    assert!(name.starts_with("inline; filename=") && name.ends_with("filename*=UTF-8''gr%C3%BCn%201.png"), "{name}");
    assert_eq!(answer.text().await.unwrap(), "picture");
    assert_eq!(assets.locate(&link.url), Some(LinkedObject { object, expires_at: Some(link.expires_at) }));
    // A signature knows whole seconds.
    let second = |at: Timestamp| at.millis() / 1_000;
    let (earliest, latest) = (second(before.after(HOUR)), second(SystemClock::new().now().after(HOUR)));
    let end = second(link.expires_at);
    assert!((earliest..=latest).contains(&end), "{earliest} {end} {latest}");

    let thumbnail = receipt(1).picture.thumbnail.unwrap();
    for (from, to) in [
        (receipt(1).picture.object, thumbnail),
        ("X-Goog-Expires=3600".to_owned(), "X-Goog-Expires=7200".to_owned()),
        ("inline".to_owned(), "attachment".to_owned()),
    ] {
        let altered = link.url.replacen(&from, &to, 1);
        assert_ne!(altered, link.url);
        assert_eq!(status(&altered).await, 403, "{altered}");
    }
    assert_eq!(status(link.url.split('?').next().unwrap()).await, 403);
    google.set_time(end - 1);
    assert_eq!(status(&link.url).await, 200);
    google.set_time(end);
    assert_eq!(status(&link.url).await, 400);
}

/// Signs elsewhere, as the IAM service does, and counts how often it was asked.
#[derive(Debug)]
struct Remote {
    signer: Signer,
    asked: Arc<AtomicUsize>,
}

impl SigningProvider for Remote {
    async fn client_email(&self) -> google_cloud_auth::signer::Result<String> {
        self.signer.client_email().await
    }

    async fn sign(&self, content: &[u8]) -> google_cloud_auth::signer::Result<Bytes> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.signer.sign(content).await
    }
}

#[tokio::test]
async fn a_link_that_google_signs_for_us_works_as_well() {
    let account = ServiceAccount::generate();
    let google = Google::start_for(Some(account.clone())).await;
    let gcs = Gcs::connect(Some(google.address()), Some(&account.key_file)).await.unwrap();
    let (Signing::Key(signer), asked) = (gcs.signing.clone(), Arc::new(AtomicUsize::new(0))) else {
        panic!("{:?}", gcs.signing)
    };
    let signing = Signing::Keyless(Remote { signer, asked: asked.clone() }.into());
    let assets = assets(Gcs { signing, ..gcs });
    store(&assets, 1, "picture").await.unwrap();
    let link = assets.link(&receipt(1).picture.object, "a.png", HOUR).await.unwrap();
    assert_eq!((status(&link.url).await, asked.load(Ordering::Relaxed)), (200, 1));
}

#[tokio::test]
async fn an_unfilled_line_for_the_key_file_asks_the_platform() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("GCS_BUCKET", BUCKET);
    let settings = settings.with("GOOGLE_APPLICATION_CREDENTIALS", "").with("GCE_METADATA_HOST", "127.0.0.1:1");
    let settings = settings.with("SIGNED_URL_TTL", "24h");
    let service = settings.start().await;
    // Nobody answers there, so the bucket cannot be reached either: it is said, and the service waits for it.
    assert_eq!(service.get("/readyz").await.status, 503);
    let (code, log) = service.stop_with_log().await;
    assert_eq!(code, Some(0));
    assert!(log.contains("are only good for 12 hours for certain"), "{log}");
}

#[tokio::test]
async fn a_week_later_the_link_is_another_one_and_works() {
    let (google, assets, _account) = with_key().await;
    store(&assets, 1, "picture").await.unwrap();
    let clock = Arc::new(FixedClock::at(SystemClock::new().now()));
    let metrics = Arc::new(Metrics::default());
    let rules = LinkRules { ttl: 12 * HOUR, min_left: Duration::from_mins(5), refresh: true };
    let links = Links::new(Arc::new(assets), clock.clone(), metrics.clone(), rules);
    let object = receipt(1).picture.object;
    let first = links.fresh(&object, "a.png").await.unwrap();
    assert_eq!(links.fresh(&object, "a.png").await.unwrap(), first);
    assert_eq!((status(&first.url).await, metrics.url_refreshes.get()), (200, 0));
    clock.advance(7 * 24 * HOUR);
    // A signature is dated by the system's clock, which a second later signs another one.
    let signed_at = first.expires_at.before(12 * HOUR);
    while SystemClock::new().now() < signed_at.after(Duration::from_secs(1)) {
        tokio::task::yield_now().await;
    }
    let second = links.fresh(&object, "a.png").await.unwrap();
    assert_ne!(second.url, first.url);
    assert_eq!((status(&second.url).await, metrics.url_refreshes.get()), (200, 1));
    google.set_time(first.expires_at.millis() / 1_000);
    assert_eq!(status(&first.url).await, 400);
}

#[tokio::test]
async fn an_emulator_is_linked_without_a_signature() {
    let (_google, assets) = bare().await;
    store(&assets, 1, "picture").await.unwrap();
    let link = assets.link(&receipt(1).picture.object, "a.png", HOUR).await.unwrap();
    assert_eq!(reqwest::get(&link.url).await.unwrap().text().await.unwrap(), "picture");
    assert_eq!(assets.locate(&link.url).unwrap().object, receipt(1).picture.object);
    assert!(link.expires_at > SystemClock::new().now());
}

fn png(shade: u8) -> Vec<u8> {
    encoded(&plain(shade), ImageFormat::Png)
}

/// The service on the server's bucket, with a paid provider whose pictures are all of one shade.
async fn service(folder: &std::path::Path, google: &Google, account: &ServiceAccount, fake: &FakeGemini) -> Service {
    Settings::new(folder)
        .with("PROVIDER", "gemini")
        .with("GEMINI_API_KEY", "key")
        .with("GEMINI_BASE_URL", fake.url.clone())
        .with("RUN_MODE", "live")
        .with("GCS_BUCKET", BUCKET)
        .with("STORAGE_EMULATOR_HOST", google.address())
        .with("GOOGLE_APPLICATION_CREDENTIALS", account.key_file.to_str().unwrap())
        .with("SIGNED_URL_TTL", "20m")
        .start()
        .await
}

fn rows(references: &[Value]) -> Value {
    let items: Vec<Value> = (1..)
        .zip(references)
        .map(|(row, references)| json!({"sceneId": format!("s-{row}"), "prompt": "a cup", "references": references}))
        .collect();
    json!({"runMode": "live", "items": items})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_service_keeps_its_pictures_in_the_bucket_and_takes_them_as_references() {
    let account = ServiceAccount::generate();
    let google = Google::start_for(Some(account.clone())).await;
    let fake = FakeGemini::start(&png(33), Duration::ZERO, Allowed::default(), |_, _| Answer::None).await;
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), &google, &account, &fake).await;
    assert_eq!(service.get("/ready").await.status, 200);
    let id = service.submit(&rows(&[json!([])])).await;
    let view = service.finished(&id).await;
    let image = &view["items"][0]["images"][0];
    let text = |name: &str| image[name].as_str().unwrap().to_owned();
    let (url, uri) = (text("url"), text("uri"));
    let object = format!("images/{id}/1-1-1.png");
    assert_eq!(uri, format!("gs://{BUCKET}/{object}"));
    let permanent = service.get(&text("permalink")).await.expect(302);
    for link in [url.as_str(), permanent.header("location")] {
        let bytes = reqwest::get(link).await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        assert_eq!(bytes, png(33), "{link}");
    }
    assert_eq!(status(&text("thumbnailUrl")).await, 200);
    // What caches keep of the redirect ends before the link does.
    let kept = permanent.header("cache-control").strip_prefix("private, max-age=").unwrap().parse::<u64>().unwrap();
    assert!((1..=15 * 60).contains(&kept), "{kept}");
    assert!(!folder.path().join("images").exists(), "nothing of it is in the folder");

    // The picture by both of its addresses, alone and together; of the second batch, each sees it once.
    let id = service.submit(&rows(&[json!([uri]), json!([url]), json!([uri, url])])).await;
    assert_eq!(service.finished(&id).await["counts"]["completed"], 3);
    for call in &fake.calls()[1..] {
        assert_eq!(call.shown.len(), 1);
        let shown = base64::engine::general_purpose::STANDARD.decode(&call.shown[0]).unwrap();
        assert_eq!(image::load_from_memory(&shown).unwrap().to_rgb8(), plain(33).to_rgb8());
    }
    let links = google.faults().calls(Call::Link);
    assert_eq!(links, 3, "only the test itself followed links");
    // A picture of the bucket that the database does not know, and a bucket that is not ours.
    google.objects().put(BUCKET, "images/other/1-1-1.png", png(44));
    let id = service.submit(&rows(&[json!([format!("gs://{BUCKET}/images/other/1-1-1.png")])])).await;
    let view = service.finished(&id).await;
    assert_eq!(view["items"][0]["error"]["code"], "reference_failed", "{view}");
    let body = rows(&[json!([]), json!([format!("gs://other/{object}")])]);
    let problem = service.post("/images", &body, &[]).await.expect_problem(400, "invalid_request");
    assert_eq!(problem["errors"][0]["pointer"], "/items/1/references/0", "{problem}");
    assert_eq!(fake.calls().len(), 4);
    let (code, log) = service.stop_and_read().await;
    assert_eq!(code, Some(0));
    let start = log.iter().find(|line| line["message"] == "listening").unwrap();
    assert_eq!(start["pictures"], "gs://pictures/");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_the_bucket_took_and_never_confirmed_is_found_by_a_retry_and_not_paid_again() {
    let account = ServiceAccount::generate();
    let google = Google::start_for(Some(account.clone())).await;
    let fake = FakeGemini::start(&png(33), Duration::ZERO, Allowed::default(), |_, _| Answer::None).await;
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), &google, &account, &fake).await;
    // The thumbnail is kept; of the picture the answer is lost, and nobody can read what is there.
    google.faults().script(Call::Upload, Fault::Slow(Duration::ZERO));
    google.faults().script(Call::Upload, Fault::LostAfter);
    for _ in 0..5 {
        google.faults().script(Call::Read, Fault::WrongChecksum);
    }
    let id = service.submit(&rows(&[json!([])])).await;
    let view = service.finished(&id).await;
    let image = &view["items"][0]["images"][0];
    assert_eq!((&view["state"], &image["billing"]), (&json!("failed"), &json!("charged")), "{view}");
    assert_eq!(image["error"]["code"], "storage_error", "{view}");
    assert_eq!(google.objects().names(BUCKET, "images/").len(), 1);
    let cost = view["actualCost"].clone();

    service.post(&format!("/images/{id}/retry"), &json!({}), &[]).await.expect(202);
    let view = service.until(|view| view["state"] == "completed", &format!("/images/{id}")).await;
    assert_eq!((&view["actualCost"], fake.calls().len()), (&cost, 1), "{view}");
    let budget = service.get("/budget").await.json();
    assert_eq!((&budget["everyone"]["spent"], &budget["everyone"]["reserved"]), (&cost, &json!(0.0)), "{budget}");
    let url = view["items"][0]["images"][0]["url"].as_str().unwrap();
    assert_eq!(reqwest::get(url).await.unwrap().bytes().await.unwrap(), png(33));
}

#[tokio::test]
async fn who_starts_the_service_is_told_what_is_wrong_with_the_bucket() {
    let account = ServiceAccount::generate();
    let folder = tempfile::tempdir().unwrap();
    let address = answering("404 Not Found", "The specified bucket does not exist.").await;
    let settings = Settings::new(folder.path()).with("GCS_BUCKET", BUCKET).with("STORAGE_EMULATOR_HOST", address);
    let with_key = |file: &std::path::Path| {
        settings.clone().with("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap()).with("SIGNED_URL_TTL", "200h")
    };
    // It may be there later: it starts, and is not ready.
    let service = with_key(&account.key_file).start().await;
    assert_eq!(service.get("/ready").await.status, 503);
    let (_, log) = service.stop_and_read().await;
    let warned = |text: &str| {
        log.iter().any(|line| line["severity"] == "WARNING" && line["message"].as_str().unwrap().contains(text))
    };
    assert!(warned("the bucket of GCS_BUCKET does not answer"), "{log:?}");
    assert!(warned("SIGNED_URL_TTL"), "{log:?}");
    let (absent, text) = (folder.path().join("absent.json"), folder.path().join("text.json"));
    std::fs::write(&text, "secret").unwrap();
    for file in [absent, text] {
        let ended = with_key(&file).command().output().await.unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

/// Names the server for the process that measures itself.
const MEASURED: &str = "TEST_UPLOADS_TO";
/// What 16 pictures of 4 MB on their way may take, the pictures themselves included.
const MOST_GROWTH_KIB: u64 = 100 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_uploads_of_4_mb_at_once_take_less_than_100_mib() {
    if let Ok(address) = std::env::var(MEASURED) {
        return measure(&address).await;
    }
    // In a process of its own: other tests and the server need memory too.
    let google = Google::start().await;
    google.objects().discard_bytes = true;
    let name = "assets_gcs::sixteen_uploads_of_4_mb_at_once_take_less_than_100_mib";
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MEASURED, google.address())
        .kill_on_drop(true)
        .output();
    let child = tokio::time::timeout(PATIENCE, child).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    eprintln!("{said}");
    assert!(child.status.success(), "{said}");
    assert!(said.contains("16 uploads took"), "the child did not measure");
    assert!(google.faults().bytes(Call::Upload) > 17 * (4 << 20));
}

async fn measure(address: &str) {
    let kib = |name: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let assets = at(address).await;
    let upload = async |ordinal: u32| {
        let picture = Bytes::from(vec![u8::try_from(ordinal).unwrap(); 4 << 20]);
        assets.store(picture, None, &receipt(ordinal)).await.unwrap();
    };
    upload(100).await;
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let idle = kib("VmRSS:");
    futures_util::future::join_all((1..=16).map(upload)).await;
    let took = kib("VmHWM:").saturating_sub(idle);
    eprintln!("16 uploads took {took} KiB above {idle} KiB");
    assert!((60 << 10..=MOST_GROWTH_KIB).contains(&took), "{took} KiB");
}

/// The public emulator, from the program that `TEST_FAKE_GCS` names.
async fn fake_gcs() -> Option<(tokio::process::Child, GcsAssets)> {
    let Ok(program) = std::env::var("TEST_FAKE_GCS") else {
        eprintln!("skipped: TEST_FAKE_GCS names no fake-gcs-server; scripts/test installs one and sets it");
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    let address = format!("http://127.0.0.1:{port}");
    let child = tokio::process::Command::new(program)
        .args(["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", &port])
        .args(["-external-url", &address, "-public-host", &format!("127.0.0.1:{port}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let created = async {
        let create = || {
            let bucket = json!({"name": BUCKET}).to_string();
            reqwest::Client::new().post(format!("{address}/storage/v1/b?project=x")).body(bucket).send()
        };
        while !create().await.is_ok_and(|answer| answer.status().is_success()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, created).await.expect("fake-gcs-server answers");
    Some((child, at(&address).await))
}

#[tokio::test]
async fn a_server_that_others_wrote_understands_the_adapter() {
    let Some((_child, assets)) = fake_gcs().await else { return };
    let object = receipt(1).picture.object;
    assets.check().await.unwrap();
    assert_eq!(opened(&assets, &object).await, None);
    store(&assets, 1, "picture").await.unwrap();
    store(&assets, 1, "picture").await.unwrap();
    assert!(matches!(store(&assets, 1, "another").await, Err(AssetError::Conflict(_))));
    // It does not say how long an object is where its bytes are read, so the length is not compared.
    let (content_type, _, bytes) = opened(&assets, &object).await.unwrap();
    assert_eq!((content_type, bytes.as_slice()), ("image/png", b"picture".as_slice()));
    let link = assets.link(&object, "a.png", HOUR).await.unwrap();
    // It takes the media type from a header that the library leaves out, so that is not compared either.
    let answer = reqwest::get(&link.url).await.unwrap().error_for_status().unwrap();
    assert_eq!(answer.headers()["x-goog-meta-receipt"], serde_json::to_string(&receipt(1)).unwrap());
    assert_eq!(answer.text().await.unwrap(), "picture");
}
