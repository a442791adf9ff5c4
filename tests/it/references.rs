//! References that rows share, by the real program and a server that counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::books::micros;
use crate::process::{Service, Settings};

/// Serves a picture of its own under each path, and counts who asks for it.
struct Gallery {
    address: String,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

fn png(red: u8) -> Vec<u8> {
    let mut png = Vec::new();
    let picture = image::RgbImage::from_pixel(64, 64, image::Rgb([red, 80, 160]));
    image::DynamicImage::from(picture).write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}

impl Gallery {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gallery = Self { address: listener.local_addr().unwrap().to_string(), asked: Arc::default() };
        let asked = gallery.asked.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let asked = asked.clone();
                tokio::spawn(async move {
                    let (read, mut write) = connection.into_split();
                    let mut lines = BufReader::new(read).lines();
                    let line = lines.next_line().await.unwrap().unwrap();
                    let path = line.split(' ').nth(1).unwrap().to_owned();
                    while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
                    // `/3.png` is a picture, `/3-again.png` the same one, anything else is not there.
                    let picture = path[1..].split(['.', '-']).next().unwrap().parse().map(png);
                    *asked.lock().unwrap().entry(path).or_default() += 1;
                    let (status, body) = picture.map_or(("404 Not Found", Vec::new()), |png| ("200 OK", png));
                    let head =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    write.write_all(&[head.into_bytes(), body].concat()).await.unwrap();
                });
            }
        });
        gallery
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    fn asked(&self) -> BTreeMap<String, usize> {
        self.asked.lock().unwrap().clone()
    }

    async fn service(&self, folder: &Path) -> Service {
        Settings::new(folder).with("REFERENCE_ALLOW", self.address.clone()).start().await
    }
}

fn rows(count: usize, references: &[String]) -> Value {
    let items: Vec<Value> = (0..count)
        .map(|row| json!({"sceneId": format!("s-{row}"), "prompt": format!("[refuse] a cup {row}"), "references": references}))
        .collect();
    json!({"runMode": "live", "items": items})
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_rows_that_share_six_references_fetch_six_times() {
    let (folder, gallery) = (tempfile::tempdir().unwrap(), Gallery::open().await);
    let service = gallery.service(folder.path()).await;
    let references: Vec<String> = (1..=6).map(|number| gallery.url(&format!("{number}.png"))).collect();
    let id = service.submit(&rows(500, &references)).await;
    let view = service.finished(&id).await;
    assert_eq!(view["counts"]["failed"], 500, "each was refused by the provider, so each had its references");
    assert_eq!(view["items"][199]["images"][0]["error"]["code"], "safety_blocked");
    assert_eq!(gallery.asked().values().copied().collect::<Vec<_>>(), [1; 6]);
    // Another batch asks for itself: what is behind an address may have changed.
    let other = service.submit(&rows(2, &references[..1])).await;
    service.finished(&other).await;
    assert_eq!(gallery.asked()["/1.png"], 2);
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_rows_share_and_that_is_not_there_is_asked_for_once_and_fails_them_before_anything_is_paid() {
    let (folder, gallery) = (tempfile::tempdir().unwrap(), Gallery::open().await);
    let service = gallery.service(folder.path()).await;
    let id = service.submit(&rows(60, &[gallery.url("1.png"), gallery.url("gone.png")])).await;
    let view = service.finished(&id).await;
    for item in view["items"].as_array().unwrap() {
        let error = &item["images"][0]["error"];
        assert_eq!(error["code"], "reference_failed");
        assert!(error["detail"].as_str().unwrap().starts_with("reference 2: "), "{error}");
    }
    assert_eq!(micros(&view["actualCost"]), 0);
    assert_eq!(gallery.asked(), BTreeMap::from([("/1.png".to_owned(), 1), ("/gone.png".to_owned(), 1)]));
    assert_eq!(service.get("/metrics-lite").await.json()["callsStarted"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_for_pictures_that_cannot_be_called_for() {
    let (folder, gallery) = (tempfile::tempdir().unwrap(), Gallery::open().await);
    let service = gallery.service(folder.path()).await;
    // The first picture uses up the quota; the others fail without a call, and without a fetch.
    let mut body = rows(30, &[gallery.url("1.png")]);
    body["items"][0] = json!({"sceneId": "first", "prompt": "[quota] a cup"});
    for row in body["items"].as_array_mut().unwrap().iter_mut().skip(1) {
        row["references"][0] = json!(gallery.url(&format!("{}.png", row["sceneId"].as_str().unwrap().len())));
    }
    let first = service.submit(&json!({"runMode": "live", "items": [body["items"][0]]})).await;
    service.finished(&first).await;
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    assert_eq!(view["counts"]["failed"], 30);
    assert_eq!(gallery.asked(), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_pictures_are_shown_once_whatever_their_addresses() {
    let (folder, gallery) = (tempfile::tempdir().unwrap(), Gallery::open().await);
    let service = gallery.service(folder.path()).await;
    let made = async |references: &[&str]| {
        let references: Vec<String> = references.iter().map(|name| gallery.url(name)).collect();
        let body = json!({"runMode": "live", "items": [{"sceneId": "s", "prompt": "a cup", "references": references}]});
        let id = service.submit(&body).await;
        service.finished(&id).await["items"][0]["images"][0]["sha256"].clone()
    };
    let once = made(&["1.png", "2.png"]).await;
    assert_eq!(made(&["1.png", "1-again.png", "2.png", "2-again.png"]).await, once);
    assert_ne!(made(&["1.png"]).await, once);
}
