//! Test doubles of the outside world: servers that misbehave on the real wire, and a name system that lies.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::lookup::Lookup;

/// What a server does with one connection, once it has read the request's head.
pub(crate) enum Answer {
    /// Writes these bytes and closes.
    Bytes(Vec<u8>),
    /// Writes the head, then this chunk for ever.
    Endless(Vec<u8>, Vec<u8>),
    /// Writes one byte of these each 20 ms, then stays silent.
    Drip(Vec<u8>),
    /// Waits until somebody opens the gate, then writes.
    Gated(Arc<tokio::sync::Semaphore>, Vec<u8>),
}

impl Answer {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::with_headers("200 OK", &format!("Content-Length: {}\r\n", body.len()), body)
    }

    pub(crate) fn status(status: &str) -> Self {
        Self::with_headers(status, "Content-Length: 0\r\n", b"")
    }

    pub(crate) fn redirect(location: &str) -> Self {
        Self::with_headers("302 Found", &format!("Location: {location}\r\nContent-Length: 0\r\n"), b"")
    }

    pub(crate) fn with_headers(status: &str, headers: &str, body: &[u8]) -> Self {
        Self::Bytes([format!("HTTP/1.1 {status}\r\n{headers}\r\n").as_bytes(), body].concat())
    }
}

/// A server on a local port that follows a script, and remembers who came.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Listens on 127.0.0.1. The script is given the path and how many requests came before.
    pub(crate) async fn start(script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on("127.0.0.1:0", script).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test server ends with its test's runtime")]
    pub(crate) async fn start_on(addr: &str, script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let server =
            Self { addr: listener.local_addr().unwrap(), connections: Arc::default(), requests: Arc::default() };
        let (connections, requests, script) = (server.connections.clone(), server.requests.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, requests.clone(), script.clone()));
            }
        });
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve<F>(mut stream: TcpStream, requests: Arc<Mutex<Vec<String>>>, script: Arc<F>) -> io::Result<()>
where
    F: Fn(&str, usize) -> Answer,
{
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = {
        let mut requests = requests.lock().unwrap();
        let answer = script(&path, requests.len());
        requests.push(head);
        answer
    };
    match answer {
        Answer::Bytes(bytes) => stream.write_all(&bytes).await?,
        Answer::Endless(head, chunk) => {
            stream.write_all(&head).await?;
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Answer::Drip(bytes) => {
            for byte in bytes {
                stream.write_u8(byte).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            std::future::pending::<()>().await;
        }
        Answer::Gated(gate, bytes) => {
            gate.acquire().await.unwrap().forget();
            stream.write_all(&bytes).await?;
        }
    }
    stream.shutdown().await
}

/// A name system whose answers are given; the last answer of a name is repeated.
#[derive(Default)]
pub(crate) struct Names {
    answers: HashMap<String, Vec<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    /// Answers `name` with `answers[0]` first, then with `answers[1]`, and so on.
    pub(crate) fn with(mut self, name: &str, answers: &[&[&str]]) -> Self {
        let answers = answers.iter().map(|answer| answer.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        self.answers.insert(name.to_owned(), answers);
        self
    }

    /// Every name that was asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut asked = self.asked.lock().unwrap();
        let earlier = asked.iter().filter(|earlier| *earlier == name).count();
        asked.push(name.to_owned());
        let answers = self.answers.get(name).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(answers[earlier.min(answers.len() - 1)].clone())
    }
}
