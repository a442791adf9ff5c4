//! A client of progress streams, written from the standard and not from our server.

use std::collections::VecDeque;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde_json::Value;

use crate::process::{PATIENCE, Service};

/// One event as a browser would dispatch it.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// An open stream.
pub(crate) struct EventStream {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
    ready: VecDeque<Event>,
    retry: Option<u64>,
    broken: bool,
}

/// Asks for the events of `batch` after number `after`.
pub(crate) async fn request(service: &Service, batch: &str, after: Option<u64>) -> reqwest::Response {
    let request = service.client.get(format!("{}/images/{batch}/events", service.url));
    let request = after.iter().fold(request, |request, after| request.header("last-event-id", after.to_string()));
    request.send().await.unwrap()
}

/// Opens a stream that must be there.
pub(crate) async fn open(service: &Service, batch: &str, after: Option<u64>) -> EventStream {
    let response = request(service, batch, after).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-cache");
    read(response)
}

/// The events of an answer that is a stream.
pub(crate) fn read(response: reqwest::Response) -> EventStream {
    EventStream {
        body: response.bytes_stream().boxed(),
        text: String::new(),
        ready: VecDeque::new(),
        retry: None,
        broken: false,
    }
}

impl EventStream {
    /// The next event; `None` when the stream ends.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let piece = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("an event in time")?;
            let Ok(piece) = piece else {
                self.broken = true;
                return None;
            };
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let retry = block.lines().find_map(|line| line.strip_prefix("retry: "));
                self.retry = retry.map(|millis| millis.parse().unwrap()).or(self.retry);
                self.ready.extend(parse(&block));
            }
        }
    }

    /// After how many milliseconds the server wants a client back that lost the stream.
    pub(crate) const fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Whether the connection broke, where the server did not end the stream.
    pub(crate) const fn is_broken(&self) -> bool {
        self.broken
    }
}

/// The event of one block; comments and `retry:` alone make none.
fn parse(block: &str) -> Option<Event> {
    let field = |name: &str| {
        block
            .lines()
            .find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")))
            .map(str::to_owned)
    };
    let data = serde_json::from_str(&field("data")?).unwrap();
    Some(Event { id: field("id")?.parse().unwrap(), kind: field("event")?, data })
}
