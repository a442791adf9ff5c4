//! The memory that the service is made for: pictures of 8 MB, references that mean harm, and clients that do not read, all
//! at once.
//!
//! What it takes is read from the system (`VmHWM`): a limit that ends the process would need rights that not every
//! machine gives a test. The allocator is set as in the image.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::books::{ledger, micros};
use crate::fake_gemini::{Allowed, FakeGemini, Fault, PICTURE_MICROS};
use crate::hostile::pictures;
use crate::hostile::server::{self, Case, End, Server};
use crate::process::{Service, Settings, batch};

/// What the service has, by `docs/OPERATIONS.md`.
const MOST_KIB: u64 = 512 << 10;
/// Pictures of [`large_picture`] that are made.
const PICTURES: usize = 64;
/// Calls at once.
const CALLS: usize = 16;
/// Clients that follow them; every other one does not read.
const STREAMS: usize = 40;
/// Clients that ask for a page of nearly a megabyte and do not read it.
const IDLE: usize = 20;

/// Eight megabytes, as many as its pixels have.
fn large_picture() -> Vec<u8> {
    const SIDE: usize = 1_670;
    let side = u32::try_from(SIDE).unwrap();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::NoCompression);
    encoder.set_filter(png::Filter::NoFilter);
    encoder.write_header().unwrap().write_image_data(&vec![0x40; 3 * SIDE * SIDE]).unwrap();
    bytes
}

/// A connection that has asked for `path` and whose client takes as little as it can.
async fn ask(service: &Service, path: &str) -> TcpStream {
    let address = service.url.strip_prefix("http://").unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut client = socket.connect(address.parse().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    client.read_exact(&mut [0; 12]).await.unwrap();
    client
}

/// What is left of an answer, until its end or until it is cut off.
async fn rest(mut client: TcpStream) -> String {
    let mut bytes = Vec::new();
    drop(client.read_to_end(&mut bytes).await);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether an answer came to its end.
fn is_whole(answer: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_some_and(|length| body.len() == length.parse::<usize>().unwrap())
}

/// A batch with the longest prompts, of which no picture is made: nobody may go where its reference is.
fn unmade() -> Value {
    let mut body = batch(200, 1);
    for item in body["items"].as_array_mut().unwrap() {
        item["prompt"] = "x".repeat(4_000).into();
    }
    body["referencePack"] = json!(["https://10.0.0.1/"]);
    body
}

/// A batch with one of `cases` a row.
fn hostile(server: &Server, cases: &[Case]) -> Value {
    let mut body = batch(cases.len(), 1);
    for (item, case) in body["items"].as_array_mut().unwrap().iter_mut().zip(cases) {
        item["references"] = json!([server.url(case)]);
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn large_pictures_bad_references_and_clients_that_do_not_read_stay_within_512_mib() {
    let decoy = Server::start(&[]).await;
    let bombs = [
        Case::file("pixel-bomb", End::TooLarge, &pictures::png_head(65_535)),
        Case::file("half-a-gigabyte", End::TooLarge, &pictures::half_a_gigabyte()),
        Case::file("page", End::Lasting, b"<html>"),
    ];
    let cases: Vec<Case> = bombs.into_iter().chain(server::redirects(decoy.address)).chain(server::wire()).collect();
    let server = Server::start(&cases).await;
    let picture = large_picture();
    let fake = FakeGemini::start(&picture, Duration::ZERO, Allowed::default(), |_, _| Fault::None).await;
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path())
        .with("PROVIDER", "gemini")
        .with("GEMINI_API_KEY", "AIza-key")
        .with("GEMINI_BASE_URL", fake.url.clone())
        .with("RUN_MODE", "live")
        .with("PROVIDER_CONCURRENCY", CALLS.to_string())
        .with("BUDGET_LEDGER_ENABLED", "true")
        .with("REFERENCE_ALLOW", server.address.to_string())
        .with("REFERENCE_TIMEOUT", "2s")
        .with("REFERENCE_RETRIES", "0")
        .with("MALLOC_ARENA_MAX", "1")
        .with("MALLOC_MMAP_THRESHOLD_", "131072")
        .start()
        .await;
    // The first answers come all at once, and cannot be stored for a while.
    fake.hold(true);
    let unmade = service.submit(&unmade()).await;
    let made = service.submit(&batch(PICTURES, 1)).await;
    let events = format!("/images/{made}/events");
    let mut streams = join_all((0..STREAMS).map(|_| ask(&service, &events))).await;
    let reading = join_all(streams.split_off(STREAMS / 2).into_iter().map(rest));
    let page = format!("/images/{unmade}?limit=200");
    let idle = join_all((0..IDLE).map(|_| ask(&service, &page))).await;
    let place = folder.path().join("images").join(&made);
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(&place, "where the pictures' folder would be").unwrap();
    service.until_so(async || fake.calls().len() >= CALLS).await;
    fake.hold(false);
    service.until_so(async || service.log().contains("\"tries\":3")).await;
    std::fs::remove_file(&place).unwrap();
    let bad = service.submit(&hostile(&server, &cases)).await;

    let (told, [made, bad, unmade]) = tokio::join!(reading, async {
        let mut views = Vec::new();
        for id in [&made, &bad, &unmade] {
            // A page of one row, as the whole is large.
            service.until(|view| !view["finishedAt"].is_null(), &format!("/images/{id}?limit=1")).await;
            views.push(service.get(&format!("/images/{id}?limit=200")).await.expect(200).json());
        }
        <[Value; 3]>::try_from(views).unwrap()
    });
    assert_eq!(made["counts"]["completed"], PICTURES, "{made}");
    for item in made["items"].as_array().unwrap() {
        let image = &item["images"][0];
        assert_eq!(image["bytes"], picture.len());
        assert!(image["thumbnailUrl"].is_string(), "{image}");
    }
    for text in &told {
        assert_eq!(text.matches("event: image_complete").count(), PICTURES);
        assert!(text.contains("event: done"), "{text}");
    }
    check_failures(&bad, cases.len());
    check_failures(&unmade, 200);
    assert_eq!(unmade["counts"]["failed"], 200, "{unmade}");
    assert_eq!(decoy.connections(), 0);

    // There is room for as much as they leave unread.
    let answers = join_all(idle.into_iter().map(rest)).await;
    assert!(answers.iter().all(|text| is_whole(text)), "an answer was cut");
    drop(streams);

    let pictures = PICTURES + usize::try_from(bad["counts"]["completed"].as_u64().unwrap()).unwrap();
    assert_eq!(fake.calls().len(), pictures);
    let cost = i64::try_from(pictures).unwrap() * PICTURE_MICROS;
    let budget = service.get("/budget").await.json();
    assert_eq!((micros(&budget["everyone"]["spent"]), micros(&budget["everyone"]["reserved"])), (cost, 0));
    let most = service.most_memory_kib();
    eprintln!("{} MiB at most", most >> 10);
    assert_eq!(service.stop().await, Some(0));
    let charges = ledger(folder.path());
    assert_eq!(charges.len(), pictures);
    assert_eq!(charges.values().map(|charge| micros(&charge["cost"])).sum::<i64>(), cost);
    assert!(most < MOST_KIB, "it took {most} KiB");
}

/// Every picture of `view` is made, or says why not.
fn check_failures(view: &Value, pictures: usize) {
    let images = view["items"].as_array().unwrap().iter().map(|item| &item["images"][0]);
    let ended = images.filter(|image| image["state"] == "completed" || image["error"]["code"].is_string());
    assert_eq!(ended.count(), pictures, "{view}");
}
