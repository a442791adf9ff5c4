//! A client of the service, as a user would write one: JSON, and progress that resumes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::sse::{Frame, Parser};

/// How often a progress stream is opened again without a new event in between.
const MAX_REOPENINGS: u32 = 10;
const REOPEN_AFTER: Duration = Duration::from_millis(300);
/// A stream that gives no event for this long is given up: the pictures of the command line take seconds.
const MAX_SILENCE: Duration = Duration::from_mins(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Talks to one service.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// A client of the service at `address`.
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()?;
        Ok(Self { http, base: format!("http://{address}") })
    }

    /// The address that paths are appended to.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Gets JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(self.send(self.http.get(self.url(path))).await?).await
    }

    /// Posts JSON and gets JSON.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: String) -> anyhow::Result<T> {
        let request = self.http.post(self.url(path)).header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        read(self.send(request.body(body)).await?).await
    }

    /// Follows the progress of a batch to its end; opens the stream again where it was cut.
    pub(super) async fn follow(&self, batch: &str, mut on_event: impl FnMut(&Frame)) -> anyhow::Result<()> {
        let mut last = String::new();
        let mut reopenings = 0;
        while reopenings < MAX_REOPENINGS {
            let request = self.http.get(self.url(&format!("/images/{batch}/events")));
            let request = if last.is_empty() { request } else { request.header("last-event-id", last.as_str()) };
            let response = self.send(request).await?;
            if response.status() == StatusCode::NO_CONTENT {
                return Ok(());
            }
            let mut pieces = response.bytes_stream();
            let mut parser = Parser::default();
            // Comments keep the connection alive and are no progress.
            let mut deadline = Instant::now() + MAX_SILENCE;
            while let Some(Ok(piece)) = timeout_at(deadline, pieces.next()).await.context("no progress")? {
                for frame in parser.push(&piece) {
                    on_event(&frame);
                    if frame.event == "done" {
                        return Ok(());
                    }
                    reopenings = 0;
                    deadline = Instant::now() + MAX_SILENCE;
                    last = frame.id;
                }
            }
            reopenings += 1;
            tokio::time::sleep(REOPEN_AFTER).await;
        }
        bail!("the progress stream of {batch} keeps breaking off")
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Sends a request; an answer that is an error becomes one.
    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.with_context(|| format!("cannot reach {}", self.base))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Value = read(response).await.unwrap_or_default();
        bail!("the service answered {status}: {}", problem["detail"].as_str().unwrap_or("no detail"))
    }
}

async fn read<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    let body = response.bytes().await?;
    serde_json::from_slice(&body).context("the service answered something unexpected")
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::get;

    use super::*;

    /// A service with these routes.
    async fn service(routes: Router) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(listener.local_addr().unwrap()).unwrap();
        tokio_util::task::TaskTracker::new().spawn(async { axum::serve(listener, routes).await.unwrap() });
        client
    }

    /// A stream of three events that breaks off after each.
    async fn one_event_a_time(headers: HeaderMap) -> String {
        let last = headers.get("last-event-id").map_or(0, |id| id.to_str().unwrap().parse::<u32>().unwrap());
        let kind = if last == 2 { "done" } else { "step" };
        format!("retry: 1\n\n: still here\n\nid: {}\nevent: {kind}\ndata: {{}}\n\n", last + 1)
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_is_resumed_where_it_was_cut() {
        let client = service(Router::new().route("/images/b/events", get(one_event_a_time))).await;
        let mut ids = Vec::new();
        client.follow("b", |event| ids.push(event.id.clone())).await.unwrap();
        assert_eq!(ids, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_stream_that_is_over_needs_no_events() {
        let client = service(Router::new().route("/images/b/events", get(|| async { StatusCode::NO_CONTENT }))).await;
        client.follow("b", |event| panic!("{event:?}")).await.unwrap();
    }

    #[tokio::test]
    async fn an_error_of_the_service_is_told_in_its_own_words() {
        let problem = (StatusCode::PAYMENT_REQUIRED, r#"{"detail":"only 0.10 is left"}"#);
        let client = service(Router::new().route("/images", axum::routing::post(move || async move { problem }))).await;
        let error = client.post::<Value>("/images", String::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "the service answered 402 Payment Required: only 0.10 is left");
    }
}
