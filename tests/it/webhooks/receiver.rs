//! A receiver of webhooks on a real socket, which verifies what it gets by an implementation of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::process::PATIENCE;

/// How far a message's time may be from the receiver's.
const TOLERANCE_SECONDS: u64 = 300;

/// What the receiver does with a message.
#[derive(Debug, Clone)]
pub(crate) enum Reaction {
    /// Answers this status.
    Status(u16),
    /// Answers this status with one header more.
    With(u16, String),
    /// Closes the connection without an answer, as one that is down.
    Down,
    /// Never answers.
    Silence,
}

/// One message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    headers: HashMap<String, String>,
    pub(crate) text: String,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    /// Whether one of the signatures is right under `secret`, by the text of Standard Webhooks.
    pub(crate) fn is_signed(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = format!("{}.{}.{}", self.id(), self.header("webhook-timestamp"), self.text);
        let signatures = self.header("webhook-signature").split(' ').filter_map(|one| one.strip_prefix("v1,"));
        let mut tags = signatures.map(|text| STANDARD.decode(text).unwrap());
        tags.any(|tag| hmac::verify(&key, signed.as_bytes(), &tag).is_ok())
    }

    /// Whether the message was sent about now.
    pub(crate) fn is_of_now(&self) -> bool {
        let sent: u64 = self.header("webhook-timestamp").parse().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        now.abs_diff(sent) <= TOLERANCE_SECONDS
    }
}

/// A receiver that remembers what it got.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    messages: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
    running: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Receiver {
    /// Listens on loopback. The script is given a message and how many came before.
    pub(crate) async fn start(script: impl Fn(&Received, usize) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (messages, connections) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicUsize>::default());
        let address = listener.local_addr().unwrap();
        let (log, count, script) = (messages.clone(), connections.clone(), Arc::new(script));
        let running = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (log, script) = (log.clone(), script.clone());
                open.spawn(async move { drop(serve(stream, &log, script.as_ref()).await) });
            }
        });
        Self { address, messages, connections, running }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?source=batches", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Everything that came so far.
    pub(crate) fn messages(&self) -> Vec<Received> {
        self.messages.lock().unwrap().clone()
    }

    /// Waits until `count` messages came.
    pub(crate) async fn until(&self, count: usize) -> Vec<Received> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let messages = self.messages();
            if messages.len() >= count {
                return messages;
            }
            assert!(tokio::time::Instant::now() < deadline, "{} of {count} messages came", messages.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn serve(
    stream: TcpStream,
    log: &Mutex<Vec<Received>>,
    script: &(impl Fn(&Received, usize) -> Reaction + Send + Sync),
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    assert_eq!(line, "POST /hook?source=batches HTTP/1.1\r\n");
    let mut headers = HashMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await?;
    let message = Received { headers, text: String::from_utf8(body).unwrap() };
    let reaction = {
        let mut log = log.lock().unwrap();
        let reaction = script(&message, log.len());
        log.push(message);
        reaction
    };
    let head = match reaction {
        Reaction::Status(status) => format!("HTTP/1.1 {status} So\r\n"),
        Reaction::With(status, header) => format!("HTTP/1.1 {status} So\r\n{header}\r\n"),
        Reaction::Down => return Ok(()),
        Reaction::Silence => return std::future::pending().await,
    };
    stream.write_all(format!("{head}Content-Length: 2\r\n\r\nok").as_bytes()).await?;
    stream.shutdown().await
}
