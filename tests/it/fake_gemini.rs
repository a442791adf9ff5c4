//! A paid provider that speaks Gemini's wire over a real socket, fails in every way on demand, keeps to
//! limits, and counts what it charged. Knows nothing of the program under test.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What one call is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A picture.
    None,
    /// A picture, a little later.
    Delay,
    /// A picture, a few bytes at a time.
    Drip,
    /// A picture, and the connection closes behind it.
    CloseAfter,
    /// Nothing, for ever; the work is done and charged.
    Stall,
    /// The connection closes without an answer; charged.
    CloseBefore,
    /// The connection closes in the middle of the answer; charged.
    CloseWithin,
    /// 429 that says for how long.
    Throttle,
    /// 429 that says nothing.
    ThrottleBare,
    /// 500 in the provider's own words.
    Own500,
    /// 503 in the provider's own words.
    Own503,
    /// 500 of a proxy; charged.
    Html500,
    /// 503 of a proxy; charged.
    Html503,
    /// A refusal with status 200; its input tokens are charged.
    Blocked,
    /// A picture with ten times the tokens that a picture may have, for what is to meet a charge above its reserve.
    Dear,
}

impl Fault {
    /// Every one of them that keeps to the price table.
    pub(crate) const ALL: [Self; 14] = [
        Self::None,
        Self::Delay,
        Self::Drip,
        Self::CloseAfter,
        Self::Stall,
        Self::CloseBefore,
        Self::CloseWithin,
        Self::Throttle,
        Self::ThrottleBare,
        Self::Own500,
        Self::Own503,
        Self::Html500,
        Self::Html503,
        Self::Blocked,
    ];

    /// Whether nobody can know if the call was charged.
    pub(crate) const fn is_unknown(self) -> bool {
        matches!(self, Self::Stall | Self::CloseBefore | Self::CloseWithin | Self::Html500 | Self::Html503)
    }

    /// Whether a picture arrives.
    pub(crate) const fn is_picture(self) -> bool {
        matches!(self, Self::None | Self::Delay | Self::Drip | Self::CloseAfter)
    }
}

/// Decides how the n-th call (from 0) for a prompt is answered.
pub(crate) type Script = dyn Fn(&str, usize) -> Fault + Send + Sync;

/// What the provider allows.
#[derive(Clone, Copy)]
pub(crate) struct Allowed {
    /// Calls under way.
    pub(crate) at_once: usize,
    /// Calls that start within `window`.
    pub(crate) in_window: usize,
    /// The provider's minute.
    pub(crate) window: Duration,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { at_once: usize::MAX, in_window: usize::MAX, window: Duration::from_mins(1) }
    }
}

/// One call, as the provider saw it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) prompt: String,
    /// When it arrived.
    pub(crate) at: Instant,
    /// The base64 of the pictures that it was shown.
    pub(crate) shown: Vec<String>,
    pub(crate) fault: Fault,
}

struct State {
    script: Box<Script>,
    allowed: Mutex<Allowed>,
    latency: Duration,
    /// The base64 of the picture that every good answer holds.
    picture: Arc<str>,
    calls: Mutex<Vec<Call>>,
    per_prompt: Mutex<BTreeMap<String, usize>>,
    starts: Mutex<VecDeque<Instant>>,
    under_way: Mutex<(usize, usize)>,
    refused: Mutex<usize>,
    charged_micros: Mutex<i64>,
    /// Whether answers wait.
    held: watch::Sender<bool>,
}

/// The provider. Ends with the runtime.
pub(crate) struct FakeGemini {
    pub(crate) url: String,
    state: Arc<State>,
}

/// What a call costs that made a picture: 1,120 image tokens at $30 and 10 of input at $1.50 a million.
pub(crate) const PICTURE_MICROS: i64 = 33_615;
/// What one costs that has ten times the tokens.
const DEAR_MICROS: i64 = 336_015;
/// What a refusal costs: its input.
const BLOCKED_MICROS: i64 = 15;

/// A picture for the provider to answer with.
pub(crate) fn png() -> Vec<u8> {
    let mut png = Vec::new();
    let picture = image::DynamicImage::new_rgb8(8, 8);
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}

impl FakeGemini {
    /// Listens on a port of its own; every good answer holds `picture`.
    pub(crate) async fn start(
        picture: &[u8],
        latency: Duration,
        allowed: Allowed,
        script: impl Fn(&str, usize) -> Fault + Send + Sync + 'static,
    ) -> Self {
        use base64::Engine as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let picture = base64::engine::general_purpose::STANDARD.encode(picture).into();
        let state = Arc::new(State {
            script: Box::new(script),
            allowed: Mutex::default(),
            latency,
            picture,
            calls: Mutex::default(),
            per_prompt: Mutex::default(),
            starts: Mutex::default(),
            under_way: Mutex::default(),
            refused: Mutex::default(),
            charged_micros: Mutex::default(),
            held: watch::Sender::new(false),
        });
        let serving = state.clone();
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                connection.set_nodelay(true).unwrap();
                tokio::spawn(serve(connection, serving.clone()));
            }
        });
        let provider = Self { url, state };
        provider.allow(allowed);
        provider
    }

    /// Every call in the order in which they came; the limits' own refusals are not among them.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }

    /// Calls that come from now on are charged, and answered when this is taken back.
    pub(crate) fn hold(&self, held: bool) {
        self.state.held.send_replace(held);
    }

    /// Calls that come from now on meet these limits.
    pub(crate) fn allow(&self, allowed: Allowed) {
        *self.state.allowed.lock().unwrap() = allowed;
    }

    /// What was charged, in micro-dollars.
    pub(crate) fn charged_micros(&self) -> i64 {
        *self.state.charged_micros.lock().unwrap()
    }

    /// Calls that were refused because of a limit.
    pub(crate) fn refused(&self) -> usize {
        *self.state.refused.lock().unwrap()
    }

    /// The most calls that were under way at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.under_way.lock().unwrap().1
    }
}

/// Serves one connection until either side has enough.
async fn serve(connection: TcpStream, state: Arc<State>) -> Option<()> {
    let (read, mut write) = connection.into_split();
    let mut read = BufReader::with_capacity(64 << 10, read);
    loop {
        let (prompt, shown) = read_call(&mut read).await?;
        let Some(delay) = state.refusal() else {
            let keep = answer(&mut write, &state, &prompt, shown).await;
            state.under_way.lock().unwrap().0 -= 1;
            keep?;
            continue;
        };
        *state.refused.lock().unwrap() += 1;
        send(&mut write, 429, "application/json", too_many(Some(delay)).as_bytes(), false).await?;
    }
}

/// Reads a request and returns its first text part and its pictures.
async fn read_call(read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> Option<(String, Vec<String>)> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if read.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    read.read_exact(&mut body).await.ok()?;
    let body: Value = serde_json::from_slice(&body).ok()?;
    let parts = body["contents"][0]["parts"].as_array()?;
    let shown = parts.iter().filter_map(|part| part["inlineData"]["data"].as_str().map(str::to_owned)).collect();
    Some((parts[0]["text"].as_str()?.to_owned(), shown))
}

impl State {
    /// Takes the call in, or says after how long it may come again.
    fn refusal(&self) -> Option<Duration> {
        let (now, allowed) = (Instant::now(), *self.allowed.lock().unwrap());
        let mut under_way = self.under_way.lock().unwrap();
        let mut starts = self.starts.lock().unwrap();
        while starts.front().is_some_and(|start| now.duration_since(*start) >= allowed.window) {
            starts.pop_front();
        }
        if starts.len() >= allowed.in_window {
            return starts.front().map(|first| allowed.window.saturating_sub(now.duration_since(*first)));
        }
        if under_way.0 >= allowed.at_once {
            return Some(self.latency);
        }
        starts.push_back(now);
        *under_way = (under_way.0 + 1, under_way.1.max(under_way.0 + 1));
        None
    }

    fn charge(&self, micros: i64) {
        *self.charged_micros.lock().unwrap() += micros;
    }

    fn picture_body(&self) -> String {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"inlineData":{{"mimeType":"image/png","data":"{}"}}}}],"role":"model"}},"finishReason":"STOP"}}],"usageMetadata":{{"promptTokenCount":10,"candidatesTokenCount":1120,"totalTokenCount":1130,"candidatesTokensDetails":[{{"modality":"IMAGE","tokenCount":1120}}]}}}}"#,
            self.picture
        )
    }
}

async fn answer(write: &mut OwnedWriteHalf, state: &State, prompt: &str, shown: Vec<String>) -> Option<()> {
    let count = {
        let mut counts = state.per_prompt.lock().unwrap();
        let count = counts.entry(prompt.to_owned()).or_default();
        *count += 1;
        *count - 1
    };
    let fault = (state.script)(prompt, count);
    state.calls.lock().unwrap().push(Call { prompt: prompt.to_owned(), at: Instant::now(), shown, fault });
    if fault.is_picture() || fault.is_unknown() {
        state.charge(PICTURE_MICROS);
    }
    tokio::time::sleep(state.latency).await;
    drop(state.held.subscribe().wait_for(|held| !held).await);
    let body = state.picture_body();
    let json = "application/json";
    match fault {
        Fault::None => send(write, 200, json, body.as_bytes(), false).await,
        Fault::Dear => {
            state.charge(DEAR_MICROS);
            send(write, 200, json, body.replace(":1120", ":11200").as_bytes(), false).await
        }
        Fault::Delay => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            send(write, 200, json, body.as_bytes(), false).await
        }
        Fault::Drip => {
            write.write_all(head(200, json, body.len(), false).as_bytes()).await.ok()?;
            for piece in body.as_bytes().chunks(body.len() / 10 + 1) {
                write.write_all(piece).await.ok()?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Some(())
        }
        Fault::CloseAfter => {
            send(write, 200, json, body.as_bytes(), true).await?;
            None
        }
        Fault::Stall => std::future::pending().await,
        Fault::CloseBefore => None,
        Fault::CloseWithin => {
            write.write_all(head(200, json, body.len(), false).as_bytes()).await.ok()?;
            write.write_all(&body.as_bytes()[..body.len() / 2]).await.ok()?;
            None
        }
        Fault::Throttle => send(write, 429, json, too_many(Some(Duration::from_millis(30))).as_bytes(), false).await,
        Fault::ThrottleBare => send(write, 429, json, too_many(None).as_bytes(), false).await,
        Fault::Own500 => send(write, 500, json, own(500, "INTERNAL").as_bytes(), false).await,
        Fault::Own503 => send(write, 503, json, own(503, "UNAVAILABLE").as_bytes(), false).await,
        Fault::Html500 => send(write, 500, "text/html", b"<html>500</html>", false).await,
        Fault::Html503 => send(write, 503, "text/html", b"<html>503</html>", false).await,
        Fault::Blocked => {
            state.charge(BLOCKED_MICROS);
            let body = json!({"candidates": [{"finishReason": "IMAGE_SAFETY"}],
                "usageMetadata": {"promptTokenCount": 10, "totalTokenCount": 10}});
            send(write, 200, json, body.to_string().as_bytes(), false).await
        }
    }
}

fn own(code: u16, status: &str) -> String {
    json!({"error": {"code": code, "status": status, "message": "it failed"}}).to_string()
}

fn too_many(delay: Option<Duration>) -> String {
    let details = delay.map(|delay| {
        let info = "type.googleapis.com/google.rpc.RetryInfo";
        json!([{"@type": info, "retryDelay": format!("{}s", delay.as_secs_f64())}])
    });
    json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow down",
        "details": details.unwrap_or_else(|| json!([]))}})
    .to_string()
}

fn head(status: u16, kind: &str, length: usize, close: bool) -> String {
    let connection = if close { "connection: close\r\n" } else { "" };
    format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{connection}\r\n")
}

async fn send(write: &mut OwnedWriteHalf, status: u16, kind: &str, body: &[u8], close: bool) -> Option<()> {
    write.write_all(head(status, kind, body.len(), close).as_bytes()).await.ok()?;
    write.write_all(body).await.ok()
}
