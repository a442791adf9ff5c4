//! Uploaded reference pictures, by the real program: taken in, refused, used.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::books::on;
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{Answer, PATIENCE, Service, Settings};

on_both_engines!(
    an_uploaded_picture_is_shown_to_the_model,
    an_upload_under_a_key_is_one_upload,
    a_refused_upload_says_everything_and_leaves_nothing,
);

pub(crate) const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";
const MIB: usize = 1 << 20;

/// A form with these parts: the name of the field and the file.
pub(crate) fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, file) in parts {
        body.extend(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"../a b.txt\"\r\nContent-Type: text/plain\r\n\r\n").bytes());
        body.extend(*file);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    body
}

async fn post(service: &Service, body: impl Into<reqwest::Body>, headers: &[(&str, &str)]) -> Answer {
    let request = service.client.post(format!("{}/references", service.url));
    let request = request.header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::of(request.body(body).send().await.unwrap()).await
}

/// Uploads these files and returns what is said of them.
async fn upload(service: &Service, files: &[&[u8]]) -> Vec<Value> {
    let parts: Vec<(&str, &[u8])> = files.iter().map(|file| ("images", *file)).collect();
    let answer = post(service, form(&parts), &[]).await.expect(201);
    answer.json()["references"].as_array().unwrap().clone()
}

pub(crate) fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn plain(shade: u8) -> DynamicImage {
    RgbImage::from_pixel(64, 32, Rgb([shade, 40, 200])).into()
}

/// Every file below `folder`, but for the database's own.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !name.starts_with("orchestrator.") && name != "signing.key" {
            found.push(path);
        }
    }
    found
}

/// A live batch of one row with this reference.
fn row(reference: &Value) -> Value {
    json!({"runMode": "live", "items": [{"sceneId": "a", "prompt": "a cup", "references": [reference]}]})
}

/// The one picture of a batch.
async fn picture(service: &Service, body: &Value) -> Value {
    let id = service.submit(body).await;
    service.finished(&id).await["items"][0]["images"][0].clone()
}

async fn an_uploaded_picture_is_shown_to_the_model(database: Arc<Database>) {
    let service = on(&database).start().await;
    let first = encoded(&plain(10), ImageFormat::Jpeg);
    let second = encoded(&plain(250), ImageFormat::WebP);
    let kept = upload(&service, &[&first, &second]).await;
    let of = |index: usize, name: &str| kept[index][name].clone();
    assert_eq!((of(0, "mimeType"), of(1, "mimeType")), (json!("image/jpeg"), json!("image/png")));
    assert_eq!((of(0, "width"), of(0, "height")), (json!(64), json!(32)));
    let link = kept[1]["url"].as_str().unwrap();
    let response = service.client.get(format!("{}{link}", service.url)).send().await.unwrap();
    let stored = response.error_for_status().unwrap().bytes().await.unwrap();
    assert_eq!(json!(orchestrator::domain::picture::Sha256Hex::of(&stored).to_string()), of(1, "sha256"));
    assert_eq!(json!(stored.len()), of(1, "bytes"));

    let without = picture(&service, &crate::process::batch(1, 1)).await;
    assert_eq!(without["state"], "completed");
    let plain = json!({"runMode": "live", "items": [{"sceneId": "a", "prompt": "a cup"}]});
    let bare = picture(&service, &plain).await["sha256"].clone();
    let path = link.split('?').next().unwrap();
    let object = json!({"url": link, "sha256": of(1, "sha256")});
    let ways = [json!(link), json!(path), json!(format!("{}{link}", service.url)), object];
    let mut made = Vec::new();
    for reference in ways {
        let image = picture(&service, &row(&reference)).await;
        assert_eq!(image["state"], "completed", "{reference}: {image}");
        made.push(image["sha256"].clone());
    }
    assert!(made.iter().all(|sha256| *sha256 == made[0] && *sha256 != bare), "{made:?} {bare}");
    let other = picture(&service, &row(&of(0, "url"))).await;
    assert_ne!(other["sha256"], made[0]);
    // A picture of a batch is a reference too, and what is made after it is another one.
    let after = picture(&service, &row(&other["url"])).await;
    assert_eq!(after["state"], "completed", "{after}");
    assert_ne!(after["sha256"], other["sha256"]);
    let wrong = json!({"url": link, "sha256": "0".repeat(64)});
    assert_eq!(picture(&service, &row(&wrong)).await["error"]["code"], "reference_failed");
}

async fn an_upload_under_a_key_is_one_upload(database: Arc<Database>) {
    let service = Arc::new(on(&database).start().await);
    let (one, two) = (encoded(&plain(10), ImageFormat::Png), encoded(&plain(20), ImageFormat::Png));
    let key = [("idempotency-key", "upload-1")];
    let body = form(&[("images", &one), ("images", &two), ("images", &one)]);
    let mut posts = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (service, body) = (service.clone(), body.clone());
        posts.spawn(async move { post(&service, body, &key).await.expect(201) });
    }
    let answers = posts.join_all().await;
    let replayed = answers.iter().filter(|answer| answer.header("idempotent-replayed") == "true").count();
    assert_eq!(replayed, 7);
    let known = |answer: &Answer| -> Vec<Value> {
        answer.json()["references"].as_array().unwrap().iter().map(|picture| picture["sha256"].clone()).collect()
    };
    assert!(answers.iter().all(|answer| known(answer) == known(&answers[0])));
    assert_eq!(known(&answers[0])[0], known(&answers[0])[2]);
    assert_eq!(files(database.folder()).len(), 2, "one object for the same content");
    assert_eq!(database.number("SELECT COUNT(*) FROM uploads").await, 2);
    for other in [form(&[("images", &two), ("images", &one), ("images", &one)]), form(&[("images", &one)])] {
        post(&service, other, &key).await.expect_problem(422, "idempotency_key_reused");
    }
    database.execute("UPDATE upload_requests SET created_at = created_at - 86400001").await;
    let forgotten = post(&service, form(&[("images", &two)]), &key).await.expect(201);
    assert_eq!((forgotten.header("idempotent-replayed"), known(&forgotten)), ("", vec![known(&answers[0])[1].clone()]));
}

/// A small file of 30 million pixels.
fn bomb() -> Vec<u8> {
    encoded(&DynamicImage::new_luma8(6_000, 5_000), ImageFormat::Png)
}

/// Where the faults are, and what they say.
fn faults(problem: &Value) -> Vec<(&str, &str)> {
    let errors = problem["errors"].as_array().unwrap();
    errors.iter().map(|fault| (fault["pointer"].as_str().unwrap_or("-"), fault["detail"].as_str().unwrap())).collect()
}

async fn a_refused_upload_says_everything_and_leaves_nothing(database: Arc<Database>) {
    let service = on(&database).with("REFERENCE_MAX_BYTES", "1MiB").start().await;
    let png = encoded(&plain(1), ImageFormat::Png);
    let large = [png.as_slice(), &vec![0; MIB]].concat();
    let (cut, bomb, svg) = (&png[..png.len() / 2], bomb(), b"<svg xmlns='http://www.w3.org/2000/svg'/>");
    let good: (&str, &[u8]) = ("images", &png);
    let (invalid, large_code, kind) = ("invalid_request", "payload_too_large", "unsupported_media_type");
    for (parts, status, code, expected) in [
        (vec![], 400, invalid, vec![("/images", "send 1-6 files")]),
        (vec![("file", png.as_slice())], 400, invalid, vec![("/file", "unknown field"), ("/images", "there is none")]),
        (vec![good, ("a/b", b"x")], 400, invalid, vec![("/a~1b", "unknown field")]),
        (vec![good; 7], 400, invalid, vec![("/images", "send 1-6 files as images; there are more")]),
        (vec![good, ("images", svg)], 415, kind, vec![("/images/1", "file 2: it is an SVG; PNG, JPEG")]),
        (
            vec![("images", b"<!doctype html><html>"), good],
            415,
            kind,
            vec![("/images/0", "file 1: it is an HTML page")],
        ),
        (vec![("images", b"plain text")], 415, kind, vec![("/images/0", "file 1: it is no picture")]),
        (vec![("images", b"")], 400, invalid, vec![("/images/0", "file 1: it is empty")]),
        (vec![("images", cut)], 400, invalid, vec![("/images/0", "file 1: it is damaged")]),
        (vec![("images", &bomb)], 413, large_code, vec![("/images/0", "file 1: it is too large: 6000x5000")]),
        (vec![("images", &large)], 413, large_code, vec![("/images/0", "file 1: it has more than 1048576 bytes")]),
        (
            vec![("images", svg), ("images", &large), good, ("images", cut), ("x", b"")],
            413,
            large_code,
            vec![("/images/0", "SVG"), ("/images/1", "1048576"), ("/images/3", "file 4: it is damaged"), ("/x", "")],
        ),
    ] {
        let answer = post(&service, form(&parts), &[]).await;
        let problem = answer.expect_problem(status, code);
        let told = faults(&problem);
        assert_eq!(told.len(), expected.len(), "{problem}");
        for ((at, detail), (place, words)) in told.into_iter().zip(expected) {
            assert!(at == place && detail.contains(words), "{place} {words}: {problem}");
        }
    }
    let both = post(&service, form(&[("images", svg)]), &[("idempotency-key", "a b")]).await;
    assert_eq!(both.expect_problem(415, kind)["errors"].as_array().unwrap().len(), 2);
    let json = service.post("/references", &json!({"images": []}), &[]).await;
    json.expect_problem(415, "unsupported_media_type");
    let bare = service.client.post(format!("{}/references", service.url)).send().await.unwrap();
    Answer::of(bare).await.expect_problem(415, "unsupported_media_type");
    let packed = post(&service, form(&[good]), &[("content-encoding", "gzip")]).await;
    packed.expect_problem(415, "unsupported_media_type");
    post(&service, vec![0; 7 * MIB], &[]).await.expect_problem(413, "payload_too_large");

    assert_eq!(files(database.folder()), Vec::<PathBuf>::new());
    assert_eq!(database.number("SELECT COUNT(*) FROM uploads").await, 0);
    assert_eq!(database.number("SELECT COUNT(*) FROM upload_requests").await, 0);
    assert_eq!(upload(&service, &[png.as_slice(); 6]).await.len(), 6);
    assert_eq!(files(database.folder()).len(), 1);
}

/// Sends these bytes as they are and reads the status line.
async fn raw(service: &Service, length: usize, body: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(service.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /references HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary={BOUNDARY}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    if body.len() < length {
        stream.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_bytes_are_counted_as_they_come_whatever_is_said_of_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let png = encoded(&plain(1), ImageFormat::Png);
    // Without a Content-Length: 11 MiB of the first file, and what is wrong with the second is told all the same.
    let body = form(&[("images", &[png.as_slice(), &vec![0; 11 * MIB]].concat()), ("images", b"<svg>")]);
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = body.chunks(10_000).map(|piece| Ok(piece.to_vec())).collect();
    let streamed = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let problem = post(&service, streamed, &[]).await.expect_problem(413, "payload_too_large");
    assert_eq!(faults(&problem).len(), 2, "{problem}");
    let endless: Vec<Result<Vec<u8>, std::io::Error>> = (0..50).map(|_| Ok(vec![b'x'; MIB])).collect();
    let streamed = reqwest::Body::wrap_stream(futures_util::stream::iter(endless));
    post(&service, streamed, &[]).await.expect_problem(400, "invalid_request");
    // The largest file that is taken, after as many bytes as a picture may be followed by.
    let most = [png.as_slice(), &vec![0; 10 * MIB - png.len()]].concat();
    assert_eq!(upload(&service, &[most.as_slice(); 6]).await.len(), 6);

    let whole = form(&[("images", &png)]);
    assert_eq!(raw(&service, whole.len() - 9, &whole).await, "HTTP/1.1 400 Bad Request");
    let followed = [whole.as_slice(), b"epilogue"].concat();
    assert_eq!(raw(&service, followed.len(), &followed).await, "HTTP/1.1 201 Created", "as the form has ended");
    assert!(matches!(raw(&service, 2 * MIB, &whole[..99]).await.as_str(), "" | "HTTP/1.1 400 Bad Request"));
    assert_eq!(raw(&service, 61 * MIB, b"").await, "HTTP/1.1 413 Payload Too Large");
    assert_eq!(files(folder.path()).len(), 1);
}

/// A JPEG whose left half is red and right half blue, to be turned a quarter clockwise, with a place.
fn from_a_camera() -> Vec<u8> {
    let halves = RgbImage::from_fn(64, 32, |x, _| if x < 32 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
    let plain = encoded(&halves.into(), ImageFormat::Jpeg);
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0".to_vec();
    exif.extend(b"\x25\x88\x04\0\x01\0\0\0\x26\0\0\0\0\0\0\0GPSLatitude 52.5200 N");
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&plain[..2], &[0xff, 0xe1], &length, &exif, &plain[2..], b"<script>trailing</script>"].concat()
}

#[tokio::test]
async fn what_is_stored_is_upright_and_says_nothing_of_where_it_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let sent = from_a_camera();
    let kept = upload(&service, &[&sent]).await;
    assert_eq!((&kept[0]["width"], &kept[0]["height"]), (&json!(32), &json!(64)));
    let stored = files(folder.path());
    let [object] = stored.as_slice() else { panic!("{stored:?}") };
    let name = object.strip_prefix(folder.path()).unwrap().to_str().unwrap();
    let parts: Vec<&str> = name.split('/').collect();
    assert_eq!(
        (parts[0], parts[1].len(), parts[2]),
        ("references", 32, format!("{}.jpg", kept[0]["sha256"].as_str().unwrap()).as_str())
    );
    assert!(kept[0]["url"].as_str().unwrap().starts_with(&format!("/assets/{name}?expires=")));
    let bytes = std::fs::read(object).unwrap();
    for trace in [b"GPS".as_slice(), b"Exif", b"script"] {
        let found = |bytes: &[u8]| bytes.windows(trace.len()).any(|window| window == trace);
        assert!(found(&sent) && !found(&bytes));
    }
    let Rgb([red, _, blue]) = *image::load_from_memory(&bytes).unwrap().into_rgb8().get_pixel(16, 8);
    assert!(red > 200 && blue < 60, "the left half is the upper one");
}

#[tokio::test]
async fn an_uploaded_picture_reaches_a_paid_model_as_it_is_stored() {
    use base64::Engine as _;
    let fake = FakeGemini::start(&encoded(&plain(9), ImageFormat::Png), Duration::ZERO, Allowed::default(), |_, _| {
        Fault::None
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings::new(folder.path()).with("PROVIDER", "gemini").with("GEMINI_API_KEY", "key").with("RUN_MODE", "live");
    let service = settings.with("GEMINI_BASE_URL", fake.url.clone()).start().await;
    let kept = upload(&service, &[&encoded(&plain(77), ImageFormat::Png)]).await;
    let image = picture(&service, &row(&kept[0]["url"])).await;
    assert_eq!(image["state"], "completed", "{image}");
    let shown = &fake.calls()[0].shown;
    assert_eq!(shown.len(), 1);
    let shown = base64::engine::general_purpose::STANDARD.decode(&shown[0]).unwrap();
    assert_eq!(image::load_from_memory(&shown).unwrap().into_rgb8(), plain(77).into_rgb8());
}

#[tokio::test]
async fn a_reference_whose_link_has_expired_is_found_all_the_same_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("SIGNED_URL_TTL", "1s").with("SIGNED_URL_MIN_LEFT", "0");
    let service = settings.start().await;
    let link = upload(&service, &[&encoded(&plain(1), ImageFormat::Png)]).await[0]["url"].clone();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while service.client.get(format!("{}{}", service.url, link.as_str().unwrap())).send().await.unwrap().status() != 404
    {
        assert!(tokio::time::Instant::now() < deadline, "the link outlives its life");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let id = service.submit(&row(&link)).await;
    service.until(|metrics| metrics["imagesGenerated"] == 1, "/metrics-lite").await;
    assert_eq!(service.get("/metrics-lite").await.json()["urlRefreshes"], 1);
    let view = service.finished(&id).await;
    assert_eq!(view["state"], "completed", "{view}");
}

#[tokio::test]
async fn a_reference_to_what_is_not_a_picture_of_ones_own_fails_that_picture_alone() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let link = upload(&service, &[&encoded(&plain(1), ImageFormat::Png)]).await[0]["url"].as_str().unwrap().to_owned();
    let references = [
        link.clone(),
        link.replace("references", "ledger"),
        link.replace("references", "thumbnails"),
        "/assets/signing.key".to_owned(),
        "/assets/images/../signing.key".to_owned(),
        link.replacen(".png", ".jpg", 1),
        "/assets/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/1-1-1.png".to_owned(),
        format!("{}/assets/../signing.key", service.url),
        format!("{}/healthz", service.url),
    ];
    let items: Vec<Value> = references
        .iter()
        .enumerate()
        .map(|(number, reference)| json!({"sceneId": format!("s-{number}"), "prompt": "a cup", "references": [link, reference]}))
        .collect();
    let id = service.submit(&json!({"runMode": "live", "items": items})).await;
    let view = service.finished(&id).await;
    let (blocked, failed) = ("reference_blocked", "reference_failed");
    let codes = [
        None,
        Some(blocked),
        Some(blocked),
        Some(blocked),
        Some(failed),
        Some(failed),
        Some(failed),
        Some(blocked),
        Some(blocked),
    ];
    for ((reference, code), item) in references.iter().zip(codes).zip(view["items"].as_array().unwrap()) {
        assert_eq!(item["error"]["code"].as_str(), code, "{reference}: {item}");
        let detail = item["error"]["detail"].as_str();
        assert!(detail.is_none_or(|detail| detail.starts_with("reference 2: ")), "{detail:?}");
    }
}
