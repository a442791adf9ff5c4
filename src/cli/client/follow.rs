//! The progress of a batch, to its end: opened again wherever it breaks off, from the last event that was seen.

use std::ops::AsyncFnMut;
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use super::Client;
use crate::cli::backoff::Backoff;
use crate::cli::failure::Failure;
use crate::cli::sse::{Frame, Parser};
use crate::domain::ids::BatchId;

/// How often a batch is looked at where the service has no streams.
const POLL: Duration = Duration::from_secs(2);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What is to happen after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Then {
    /// The next event.
    GoOn,
    /// The next event, on another connection.
    Reconnect,
}

/// How a stream ended.
enum End {
    /// There is nothing to come.
    Done,
    /// It broke off.
    Cut,
    /// It was left, to be opened again.
    Left,
}

impl Client {
    /// Gives every event after number `last` to `on_event`, in order and each once, until no picture is open. Returns
    /// early where the service has no streams: look at the batch, and follow again.
    pub(in crate::cli) async fn follow(
        &self,
        batch: BatchId,
        last: u64,
        mut on_event: impl AsyncFnMut(Frame),
    ) -> Result<(), Failure> {
        let on_event = async |event: Frame| {
            on_event(event).await;
            Then::GoOn
        };
        self.follow_as(batch, last, on_event).await
    }

    /// As [`follow`](Self::follow), where `on_event` decides after each event whether the stream is opened again.
    pub(in crate::cli) async fn follow_as(
        &self,
        batch: BatchId,
        last: u64,
        mut on_event: impl AsyncFnMut(Frame) -> Then,
    ) -> Result<(), Failure> {
        let mut last = last.to_string();
        let mut backoff = Backoff::default();
        loop {
            let failure = match self.stream(batch, &mut last, &mut backoff, &mut on_event).await {
                Ok(End::Done) => return Ok(()),
                Ok(End::Left) => continue,
                Ok(End::Cut) => self.lost("the progress stream broke off"),
                Err(failure) if failure.has_code("feature_disabled") => {
                    tokio::time::sleep(POLL).await;
                    return Ok(());
                }
                Err(failure) => failure,
            };
            self.wait_out(failure, &mut backoff).await?;
        }
    }

    async fn stream(
        &self,
        batch: BatchId,
        last: &mut String,
        backoff: &mut Backoff,
        on_event: &mut impl AsyncFnMut(Frame) -> Then,
    ) -> Result<End, Failure> {
        let mut request = self.request(Method::GET, &format!("/images/{batch}/events"))?;
        let seen = HeaderValue::from_str(last).map_err(|_| self.lost("the last event has no number"))?;
        request.headers_mut().insert(LAST_EVENT_ID, seen);
        let response = self.send(&request).await?;
        backoff.answered();
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(End::Done);
        }
        let mut pieces = response.bytes_stream();
        let mut parser = Parser::default();
        while let Some(Ok(piece)) = pieces.next().await {
            let frames = parser.push(&piece);
            for frame in
                frames.map_err(|error| Failure::Unexpected(format!("the progress stream makes no sense: {error}")))?
            {
                backoff.reset();
                last.clone_from(&frame.id);
                let is_done = frame.event == "done";
                let then = on_event(frame).await;
                if is_done {
                    return Ok(End::Done);
                }
                if then == Then::Reconnect {
                    return Ok(End::Left);
                }
            }
        }
        Ok(End::Cut)
    }
}
