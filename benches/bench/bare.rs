//! The baselines: the simplest programs that do the same, each as a process of its own.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use axum::routing::get;
use base64::Engine as _;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::broadcast;

use crate::service::{Books, books, raise_file_limit};

/// Runs the baseline that `words` name.
pub(crate) async fn run(words: &[String]) {
    let number = |index: usize| words[index].parse::<usize>().unwrap();
    match words[0].as_str() {
        "loop" => call_decode_write(&words[1], number(2), number(3), &words[4], false).await,
        "durable-loop" => call_decode_write(&words[1], number(2), number(3), &words[4], true).await,
        "broadcast" => serve(broadcast(number(1), number(2))).await,
        "answer" => serve(answer(number(1))).await,
        other => panic!("no such baseline: {other}"),
    }
}

/// Call, decode, write; nothing else, unless a picture that was written is to survive a power cut. Says how long it
/// took and what it used.
async fn call_decode_write(url: &str, pictures: usize, at_once: usize, folder: &str, is_durable: bool) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let calls = (0..pictures).map(|number| {
        let (client, path) = (client.clone(), Path::new(folder).join(format!("{number}.png")));
        let body = json!({"contents": [{"role": "user", "parts": [{"text": format!("bare {number}")}]}]});
        async move {
            let address = format!("{url}/v1beta/models/bare:generateContent");
            let answer = client.post(address).body(body.to_string()).send().await.unwrap().bytes().await.unwrap();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            let data = answer["candidates"][0]["content"]["parts"][0]["inlineData"]["data"].as_str().unwrap();
            let picture = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
            if is_durable {
                tokio::task::spawn_blocking(move || write_durably(&path, &picture)).await.unwrap().unwrap();
            } else {
                tokio::fs::write(path, picture).await.unwrap();
            }
        }
    });
    let start = Instant::now();
    futures_util::stream::iter(calls).for_each_concurrent(at_once, |call| call).await;
    let (wall, used) = (start.elapsed(), books(std::process::id()));
    println!("{}", json!([wall.as_secs_f64(), used.cpu.as_secs_f64(), used.peak_mib]));
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    File::open(path.parent().unwrap())?.sync_all()
}

/// Streams that all get the same messages of `bytes` bytes, two each `pause_ms`, as [`EventSource`] has them.
///
/// [`EventSource`]: https://html.spec.whatwg.org/multipage/server-sent-events.html
fn broadcast(bytes: usize, pause_ms: usize) -> Router {
    let (sender, _) = broadcast::channel::<Bytes>(1_024);
    let sending = sender.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(pause_ms as u64));
        for number in (0_u64..).step_by(2) {
            ticks.tick().await;
            for number in [number, number + 1] {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
                let head = format!("id: {number}\ndata: {{\"ts\":{now},\"filler\":\"");
                let filler = "x".repeat(bytes.saturating_sub(head.len() + 4));
                drop(sending.send(format!("{head}{filler}\"}}\n\n").into()));
            }
        }
    });
    Router::new().route(
        "/",
        get(move || async move {
            let messages = futures_util::stream::unfold(sender.subscribe(), |mut receiver| async move {
                receiver.recv().await.ok().map(|message| (Ok::<_, Infallible>(message), receiver))
            });
            ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(messages)).into_response()
        }),
    )
}

/// An answer of so many bytes that is always the same.
fn answer(bytes: usize) -> Router {
    let body = Bytes::from("x".repeat(bytes));
    Router::new().route("/", get(move || async move { ([(CONTENT_TYPE, "application/json")], body.clone()) }))
}

async fn serve(router: Router) {
    raise_file_limit();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}

/// A baseline that serves.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Server {
    pub(crate) async fn start(words: &[&str]) -> Self {
        let mut child = command(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().expect("the baseline starts");
        Self { child, url: format!("http://{address}/") }
    }

    pub(crate) fn books(&self) -> Books {
        books(self.child.id().unwrap())
    }
}

/// This program as a baseline.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("--bare").args(words).kill_on_drop(true);
    command
}
