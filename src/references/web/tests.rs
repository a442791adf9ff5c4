use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use image::{ImageFormat, Rgb, RgbImage};

use super::*;
use crate::domain::picture::{PictureFormat, Sha256Hex};
use crate::domain::spec::ReferenceMode;
use crate::net::scripted::{Answer, Names, Server};

fn picture(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(16, 16, Rgb([200, 10, 10])).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn references(server: &Server, change: impl FnOnce(&mut ReferenceLimits)) -> WebReferences {
    let mut limits = ReferenceLimits { allow: server.addr.to_string().parse().unwrap(), ..ReferenceLimits::default() };
    change(&mut limits);
    WebReferences::new(limits, Names::default()).unwrap()
}

fn reference(url: String) -> Reference {
    Reference { url: url.into(), mode: ReferenceMode::StyleAndComposition, sha256: None }
}

#[tokio::test]
async fn a_reference_becomes_a_picture_that_remembers_what_counts() {
    let server = Server::start(|_, _| Answer::ok(&picture(ImageFormat::WebP))).await;
    let image = references(&server, |_| {}).fetch(&reference(server.url("/a.webp"))).await.unwrap();
    assert_eq!((image.format, image.mode), (PictureFormat::Png, ReferenceMode::StyleAndComposition));
    assert_eq!(PictureFormat::of_magic(&image.bytes), Some(PictureFormat::Png));
    assert!(server.requests()[0].contains("accept: image/png, image/jpeg, image/webp, image/gif\r\n"));
}

#[tokio::test]
async fn the_bytes_decide_and_not_what_the_server_says_they_are() {
    let server = Server::start(|path, _| match path {
        "/page.png" => Answer::with_headers("200 OK", "Content-Type: image/png\r\n", b"<html>"),
        "/drawing.png" => Answer::with_headers("200 OK", "Content-Type: image/png\r\n", b"<svg>"),
        _ => Answer::with_headers("200 OK", "Content-Type: text/html\r\n", &picture(ImageFormat::Png)),
    })
    .await;
    let references = references(&server, |_| {});
    for (path, kind) in [("/page.png", "an HTML page"), ("/drawing.png", "an SVG")] {
        match references.fetch(&reference(server.url(path))).await {
            Err(ReferenceError::Unusable(detail)) => assert!(detail.contains(kind), "{detail}"),
            other => panic!("{:?}", other.err()),
        }
    }
    assert!(references.fetch(&reference(server.url("/page.html"))).await.is_ok());
}

#[tokio::test]
async fn a_promised_hash_is_that_of_the_bytes_as_they_came() {
    let server = Server::start(|_, _| Answer::ok(&picture(ImageFormat::Png))).await;
    let references = references(&server, |_| {});
    let hash = Sha256Hex::of(&picture(ImageFormat::Png)).to_string();
    let kept = Reference { sha256: Some(hash), ..reference(server.url("/")) };
    assert!(references.fetch(&kept).await.is_ok());
    let broken = Reference { sha256: Some("0".repeat(64)), ..reference(server.url("/")) };
    assert!(
        matches!(references.fetch(&broken).await, Err(ReferenceError::Unusable(detail)) if detail.contains("SHA-256"))
    );
}

#[tokio::test]
async fn what_is_transient_is_tried_three_times() {
    let server = Server::start(|path, nth| match (path, nth) {
        ("/twice", 0 | 1) | ("/always", _) => Answer::status("503 Busy"),
        _ => Answer::ok(&picture(ImageFormat::Png)),
    })
    .await;
    let references = references(&server, |_| {});
    assert!(references.fetch(&reference(server.url("/twice"))).await.is_ok());
    assert_eq!(server.requests().len(), 3);
    let outcome = references.fetch(&reference(server.url("/always"))).await;
    assert_eq!(outcome.err(), Some(ReferenceError::Unreachable("the server answered 503".to_owned())));
    assert_eq!(server.requests().len(), 6);
}

#[tokio::test]
async fn what_will_not_change_is_tried_once() {
    let server = Server::start(|path, _| match path {
        "/gone" => Answer::status("404 Gone"),
        "/inside" => Answer::redirect("https://10.0.0.1/"),
        "/large" => Answer::ok(&[b'x'; 2_000]),
        _ => Answer::ok(b"no picture"),
    })
    .await;
    let references = references(&server, |limits| limits.max_bytes = 1_000);
    let mut told = Vec::new();
    for path in ["/gone", "/inside", "/large", "/text"] {
        told.push(references.fetch(&reference(server.url(path))).await.err().unwrap());
    }
    assert_eq!(server.requests().len(), 4);
    assert_eq!(told[0], ReferenceError::Unusable("the server answered 404".to_owned()));
    assert_eq!(told[1], ReferenceError::Blocked);
    assert_eq!(told[2], ReferenceError::TooLarge("more than 1000 bytes".to_owned()));
    assert!(matches!(told[3], ReferenceError::Unusable(_)));
}

#[tokio::test]
async fn a_name_that_leads_inside_is_asked_for_once() {
    let names = Arc::new(Names::default().with("inside.test", &[&["10.0.0.1"]]));
    let references = WebReferences::new(ReferenceLimits::default(), names.clone()).unwrap();
    let outcome = references.fetch(&reference("https://inside.test/".to_owned())).await;
    assert_eq!(outcome.err(), Some(ReferenceError::Blocked));
    assert_eq!(names.asked(), ["inside.test"]);
}

#[tokio::test]
async fn all_tries_together_have_one_deadline() {
    let server = Server::start(|_, _| Answer::status("503 Busy")).await;
    let references = references(&server, |limits| {
        limits.timeout = Duration::from_millis(400);
        limits.retries = 1_000;
    });
    let outcome = references.fetch(&reference(server.url("/"))).await;
    assert_eq!(outcome.err(), Some(ReferenceError::Unreachable("it did not arrive in time".to_owned())));
    assert!(server.requests().len() < 4);
}

#[tokio::test]
async fn four_are_fetched_at_once_and_no_more() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let (gate, waiting) = (gate.clone(), waiting.clone());
        move |_, _| {
            waiting.fetch_add(1, Ordering::SeqCst);
            let Answer::Bytes(bytes) = Answer::ok(&picture(ImageFormat::Png)) else { unreachable!() };
            Answer::Gated(gate.clone(), bytes)
        }
    })
    .await;
    let references = references(&server, |_| {});
    let batch: Vec<_> = (0..12).map(|nth| reference(server.url(&format!("/{nth}")))).collect();
    let fetches = join_all(batch.iter().map(|reference| references.fetch(reference)));
    let opened = async {
        // Each round lets one through; in the meantime no more than four may have come.
        for passed in 0..12 {
            while waiting.load(Ordering::SeqCst) < (passed + 4).min(12) {
                tokio::task::yield_now().await;
            }
            assert!(waiting.load(Ordering::SeqCst) <= passed + 4);
            gate.add_permits(1);
        }
    };
    let (outcomes, ()) = tokio::join!(fetches, opened);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(server.connections(), 12);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_its_slot() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start({
        let gate = gate.clone();
        move |path, _| match path {
            "/stuck" => Answer::Gated(gate.clone(), Vec::new()),
            _ => Answer::ok(&picture(ImageFormat::Png)),
        }
    })
    .await;
    let references = references(&server, |limits| limits.concurrency = 1);
    let stuck = reference(server.url("/stuck"));
    let came = async {
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = references.fetch(&stuck) => panic!("it cannot arrive"),
        () = came => {}
    }
    assert!(references.fetch(&reference(server.url("/"))).await.is_ok());
}
