//! Commands that are killed, and services that go away: the same command again finishes, and nothing is paid twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::{Desk, Going, batches, made_once, paying, rows_file};
use crate::bill::count_from;
use crate::process::Settings;

/// Stands between a command and its service, and can keep back what the service answers.
struct Between {
    url: String,
    /// Set, no connection passes on what the service answers.
    is_quiet: Arc<AtomicBool>,
    /// The service has answered something that was kept back.
    kept_back: Arc<Notify>,
}

impl Between {
    async fn start(service: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (is_quiet, kept_back) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let (service, quiet, kept) =
            (service.trim_start_matches("http://").to_owned(), is_quiet.clone(), kept_back.clone());
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(&service).await.unwrap();
                let (quiet, kept) = (quiet.clone(), kept.clone());
                tokio::spawn(async move {
                    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                        (near.into_split(), far.into_split());
                    let asking = tokio::io::copy(&mut near_in, &mut far_out);
                    let answering = async move {
                        let mut buffer = vec![0; 16 << 10];
                        while let Ok(length @ 1..) = far_in.read(&mut buffer).await {
                            if quiet.load(Ordering::SeqCst) {
                                kept.notify_one();
                                std::future::pending::<()>().await;
                            }
                            if near_out.write_all(&buffer[..length]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! { _ = asking => {}, () = answering => {} }
                });
            }
        });
        Self { url, is_quiet, kept_back }
    }
}

const COMMAND: [&str; 6] = ["submit", "rows.json", "--live", "--watch", "--out", "out"];

#[tokio::test]
async fn killed_before_the_batch_is_answered_it_is_found_again() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let between = Between::start(&service.url).await;
    let desk = Desk::at(&between.url);
    desk.write("rows.json", &rows_file(3));
    between.is_quiet.store(true, Ordering::SeqCst);
    let going = desk.start(&COMMAND);
    between.kept_back.notified().await;
    going.kill().await;
    assert_eq!(batches(&service).await.len(), 1, "it was accepted");
    between.is_quiet.store(false, Ordering::SeqCst);
    desk.expect(0, &COMMAND).await;
    made_once(&desk, service, data.path(), 3).await;
}

#[tokio::test]
async fn killed_while_pictures_come_it_goes_on_where_it_was() {
    let data = tempfile::tempdir().unwrap();
    let settings = paying(data.path()).with("SYNTHETIC_LATENCY", "200ms").with("PROVIDER_CONCURRENCY", "1");
    let service = settings.start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(30));
    let mut going = desk.start(&COMMAND);
    going.until("rows.json is bat_").await;
    going.kill().await;
    for pictures in [1, 4, 8] {
        let mut going = desk.start(&COMMAND);
        going.until_ended(pictures).await;
        going.kill().await;
        assert!(desk.pictures("out").len() < 30, "it was killed too late to show anything");
    }
    desk.expect(0, &COMMAND).await;
    made_once(&desk, service, data.path(), 30).await;
}

#[tokio::test]
async fn killed_at_any_moment_and_repeated_it_finishes_without_paying_again() {
    let kills = count_from("CLI_KILL_CYCLES", 12);
    let seed = count_from("CLI_KILL_SEED", rand::random());
    eprintln!("seed {seed} (CLI_KILL_SEED)");
    let mut random = StdRng::seed_from_u64(u64::from(seed));
    let data = tempfile::tempdir().unwrap();
    let settings = paying(data.path()).with("SYNTHETIC_LATENCY", "20ms").with("PROVIDER_CONCURRENCY", "2");
    let service = settings.start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(60));
    for _ in 0..kills {
        let Going { mut child, .. } = desk.start(&COMMAND);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..250))).await;
        child.kill().await.unwrap();
    }
    desk.expect(0, &COMMAND).await;
    made_once(&desk, service, data.path(), 60).await;
}

/// The same service at the address where it was.
fn again(settings: &Settings, url: &str) -> Settings {
    settings.clone().with("PORT", url.rsplit(':').next().unwrap())
}

#[tokio::test]
async fn a_watch_survives_a_service_that_is_killed_and_started_again() {
    let data = tempfile::tempdir().unwrap();
    let settings = paying(data.path()).with("SYNTHETIC_LATENCY", "300ms").with("PROVIDER_CONCURRENCY", "1");
    let service = settings.start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(10));
    let mut going = desk.start(&COMMAND);
    going.until_ended(3).await;
    let settings = again(&settings, &service.url);
    service.kill().await;
    going.until("trying again in").await;
    let service = settings.start().await;
    let (code, out, said) = going.ended().await;
    assert_eq!(code, Some(0), "{out}{said}");
    let batch = batches(&service).await.remove(0);
    // Each picture is told of once, however often the stream was opened.
    for row in 4..=10 {
        assert!(said.matches(&format!("s-{row:03} v1 made")).count() <= 1, "{said}");
    }
    desk.has_all("out", &service, &batch).await;
    assert_eq!(desk.pictures("out").len(), 10);
}
