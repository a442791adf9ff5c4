//! Uploaded reference pictures, by the real program: taken in, refused, used.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::books::on;
use crate::engines::{Database, on_both_engines};
use crate::process::{Answer, Service, Settings};

on_both_engines!(an_uploaded_picture_is_shown_to_the_model, an_upload_under_a_key_is_one_upload,);

const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";
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
