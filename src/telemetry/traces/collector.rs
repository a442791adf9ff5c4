//! The collector: takes spans from the queue and sends them by OTLP over HTTP, a few hundred at a time.
//!
//! Owns the HTTP client, and the headers, which no log shows. A request that fails is not sent again: spans are lost,
//! nothing else. That is said once when it begins and once when it is over, however many spans and requests it was.

use std::convert::Infallible;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url, redirect};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{Queued, Span, Traces, wire};
use crate::clock::Clock;

/// Most spans in a request.
const MOST_A_REQUEST: usize = 512;
/// How long the first span of a request waits for others: a kill loses no more.
const LINGER: Duration = Duration::from_secs(1);
/// The deadline of a request.
const DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const MOST_ANSWER_BYTES: usize = 16 << 10;
/// A collector that fails again within this time is not news.
const QUIET: Duration = Duration::from_mins(10);
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// How a collector is reached, and who sends.
pub struct Address {
    /// The base URL; spans go to `v1/traces` below it.
    pub endpoint: Url,
    /// Sent with each request; the values may be secrets.
    pub headers: Vec<(String, String)>,
    /// What the service calls itself.
    pub service: String,
    /// This process among those of the service.
    pub instance: String,
}

/// The sending of spans cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// A header's name or value is not one.
    #[error("a header for the trace collector is not one")]
    Header,
    /// The machine's certificates or TLS are unusable.
    #[error("the HTTP client for traces cannot be built")]
    Client(#[from] reqwest::Error),
}

/// Why a request's spans are lost.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("no answer: {0}")]
    NoAnswer(&'static str),
    #[error("answered {0}")]
    Status(u16),
    #[error("refused a part of the spans")]
    Refused,
    #[error("takes spans more slowly than they come")]
    Slow,
}

/// Sends spans.
pub struct Collector {
    client: Client,
    url: Url,
    resource: Resource,
    queue: mpsc::Receiver<Queued>,
    health: Health,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// Sets up a collector, and what gives it spans; connects nowhere.
///
/// # Errors
/// [`CollectorError`].
pub fn open(address: Address, clock: Arc<dyn Clock>) -> Result<(Traces, Collector), CollectorError> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))]);
    for (name, value) in &address.headers {
        let name = HeaderName::try_from(name).map_err(|_| CollectorError::Header)?;
        let mut value = HeaderValue::try_from(value).map_err(|_| CollectorError::Header)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let client = Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .timeout(DEADLINE)
        .build()?;
    let mut url = address.endpoint;
    url.set_path(&format!("{}/v1/traces", url.path().trim_end_matches('/')));
    let (traces, queue) = Traces::queue();
    let health = Health { clock, lost: traces.lost.clone(), seen: 0, told: None, is_ill: false };
    let resource = wire::resource(&address.service, &address.instance);
    Ok((traces, Collector { client, url, resource, queue, health }))
}

impl Collector {
    /// Sends what comes, for as long as it is polled.
    pub async fn run(mut self) -> Infallible {
        let mut spans = Vec::new();
        loop {
            let waiting = self.gather(&mut spans).await;
            if !spans.is_empty() {
                let sent = mem::take(&mut spans);
                let count = sent.len();
                let result = self.send(sent).await;
                self.health.note(result, count);
            }
            if let Some(waiting) = waiting {
                // Who gave up waiting does not need to know.
                let _ = waiting.send(());
            }
        }
    }

    /// Takes spans until there are enough for a request, or the first has waited long enough; or until someone waits
    /// for them, who is returned.
    async fn gather(&mut self, spans: &mut Vec<Span>) -> Option<oneshot::Sender<()>> {
        let mut until = None;
        while spans.len() < MOST_A_REQUEST {
            let next = match until {
                None => self.queue.recv().await,
                Some(until) => match timeout_at(until, self.queue.recv()).await {
                    Ok(next) => next,
                    Err(_) => return None,
                },
            };
            match next {
                Some(Queued::Span(span)) => spans.push(*span),
                Some(Queued::Flush(waiting)) => return Some(waiting),
                // Nobody can give a span any more.
                None if spans.is_empty() => std::future::pending().await,
                None => return None,
            }
            until.get_or_insert_with(|| Instant::now() + LINGER);
        }
        None
    }

    async fn send(&self, spans: Vec<Span>) -> Result<(), (Trouble, usize)> {
        let count = spans.len();
        let body = wire::request(self.resource.clone(), spans).encode_to_vec();
        let response = self.client.post(self.url.clone()).body(body).send().await;
        let mut response = response.map_err(|error| (Trouble::NoAnswer(kind(&error)), count))?;
        if !response.status().is_success() {
            return Err((Trouble::Status(response.status().as_u16()), count));
        }
        let mut answer = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            if answer.len() + chunk.len() > MOST_ANSWER_BYTES {
                return Ok(());
            }
            answer.extend_from_slice(&chunk);
        }
        // An answer that cannot be read has taken the spans all the same: that is what its status says.
        let partial = ExportTraceServiceResponse::decode(answer.as_slice()).unwrap_or_default().partial_success;
        let refused = partial.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0));
        if refused > 0 { Err((Trouble::Refused, refused)) } else { Ok(()) }
    }
}

/// The kind of a failure. Its text would show the address.
fn kind(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "not in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    }
}

/// Whether spans arrive, and what was said about it.
struct Health {
    clock: Arc<dyn Clock>,
    /// Spans lost since the start.
    lost: Arc<AtomicU64>,
    /// Of those, what was looked at.
    seen: u64,
    /// When it was last said that spans are lost.
    told: Option<Duration>,
    /// Whether the last word was that spans are lost.
    is_ill: bool,
}

impl Health {
    /// Notes the end of a request with `count` spans.
    fn note(&mut self, result: Result<(), (Trouble, usize)>, count: usize) {
        let overflow = self.lost.load(Ordering::Relaxed) > self.seen;
        let trouble = match result {
            Err((trouble, lost)) => {
                self.lost.fetch_add(lost.min(count) as u64, Ordering::Relaxed);
                Some(trouble)
            }
            Ok(()) => overflow.then_some(Trouble::Slow),
        };
        self.seen = self.lost.load(Ordering::Relaxed);
        let now = self.clock.monotonic();
        match trouble {
            Some(trouble) if self.told.is_none_or(|told| now.saturating_sub(told) >= QUIET) && !self.is_ill => {
                tracing::warn!(%trouble, "spans are lost: the trace collector does not take them");
                (self.told, self.is_ill) = (Some(now), true);
            }
            None if self.is_ill => {
                tracing::info!(lost = self.seen, "the trace collector takes spans again");
                self.is_ill = false;
            }
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::time::Timestamp;

    fn address(endpoint: &str) -> Address {
        let endpoint = endpoint.parse().unwrap();
        Address { endpoint, headers: Vec::new(), service: "s".to_owned(), instance: "wrk_1".to_owned() }
    }

    fn clock() -> Arc<FixedClock> {
        Arc::new(FixedClock::at(Timestamp::from_millis(1_795_512_370_739)))
    }

    #[test]
    fn spans_go_below_the_base_url() {
        for (base, url) in [
            ("http://collector:4318", "http://collector:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://gateway.example/otlp/", "https://gateway.example/otlp/v1/traces"),
        ] {
            assert_eq!(open(address(base), clock()).unwrap().1.url.as_str(), url);
        }
    }

    #[test]
    fn a_header_that_is_none_is_refused_and_no_debug_output_shows_one() {
        let with = |name: &str, value: &str| {
            let headers = vec![(name.to_owned(), value.to_owned())];
            open(Address { headers, ..address("http://collector") }, clock())
        };
        assert!(with("a b", "x").is_err() && with("a", "x\n").is_err());
        assert!(!format!("{:?}", with("authorization", "hunter2").unwrap().1).contains("hunter2"));
    }

    #[test]
    fn an_outage_is_told_once_and_so_is_its_end() {
        let clock = clock();
        let mut health = Health { clock: clock.clone(), lost: Arc::default(), seen: 0, told: None, is_ill: false };
        let fails = || Err((Trouble::Status(500), 5));
        let mut steps = Vec::new();
        let mut note = |health: &mut Health, result| {
            health.note(result, 10);
            steps.push((health.is_ill, health.told.map(|told| told.as_secs()), health.seen));
        };
        note(&mut health, Ok(()));
        note(&mut health, fails());
        note(&mut health, fails());
        note(&mut health, Ok(()));
        clock.advance(Duration::from_mins(1));
        note(&mut health, fails());
        clock.advance(QUIET);
        note(&mut health, fails());
        health.lost.fetch_add(3, Ordering::Relaxed);
        note(&mut health, Ok(()));
        note(&mut health, Ok(()));
        let expected = [
            (false, None, 0),
            (true, Some(0), 5),
            (true, Some(0), 10),
            (false, Some(0), 10),
            (false, Some(0), 15),
            (true, Some(660), 20),
            (true, Some(660), 23),
            (false, Some(660), 23),
        ];
        assert_eq!(steps, expected);
    }
}
