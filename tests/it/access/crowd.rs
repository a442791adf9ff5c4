//! Thousands of connections that never send a whole request.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{ALICE, key, team};
use crate::process::batch;

/// Connections of the attack, where the system lets this process have so many.
const CROWD: usize = 10_000;

/// As many files as the system lets this process have.
fn most_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = if raised.is_ok() { limit.maximum } else { limit.current };
    limit.map_or(usize::MAX, |files| usize::try_from(files).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_slow_headers_do_not_keep_anyone_out() {
    let crowd = CROWD.min(most_files().saturating_sub(500));
    eprintln!("{crowd} connections");
    let folder = tempfile::tempdir().unwrap();
    let settings = team(folder.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let service = settings.start().await;
    let id = service.submit_as(&key(ALICE), &batch(1, 1)).await;
    let request = service.client.get(format!("{}/images/{id}/events", service.url)).header("x-api-key", key(ALICE));
    let mut stream = request.send().await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());

    let address = service.url.strip_prefix("http://").unwrap().to_owned();
    let mut held = Vec::with_capacity(crowd);
    for number in 0..crowd {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        // One that was closed for a newer one cannot be written to.
        drop(connection.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nx: ").await);
        held.push(connection);
        if number % 1_000 == 999 {
            let fresh = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = fresh.get(format!("{}/health", service.url)).timeout(Duration::from_secs(30)).send().await;
            assert_eq!(answer.unwrap().status().as_u16(), 200, "after {number} connections");
        }
    }
    // Who was served before still is.
    service.ask("POST", &format!("/images/{id}/cancel"), Some(&key(ALICE)), None).await.expect(200);
    assert!(stream.chunk().await.unwrap().is_some(), "an open stream was cut");
    drop(held);
}
