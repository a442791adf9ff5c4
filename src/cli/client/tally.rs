//! What was asked of the service, and how fast it answered: a client that measures counts each request that it sends
//! there, as the service does.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::{Method, Request, Response, StatusCode, Url};
use tokio::time::Instant;

use super::Client;

/// One request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Asked {
    /// How.
    pub(in crate::cli) method: Method,
    /// Below the service's address, without a query.
    pub(in crate::cli) path: String,
    /// From the request to the headers of the answer.
    pub(in crate::cli) took: Duration,
}

/// What was asked of one service.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Tally {
    /// Requests that were answered.
    pub(in crate::cli) answered: Vec<Asked>,
    /// Requests that were not: the service may have taken them or not.
    pub(in crate::cli) unanswered: u64,
    /// Answers with a status of 500 or more.
    pub(in crate::cli) server_errors: u64,
}

/// A request that was sent to the service.
pub(super) struct Begun {
    method: Method,
    path: String,
    at: Instant,
}

impl Client {
    /// The same client, which counts what it asks of the service.
    pub(in crate::cli) fn measured(mut self) -> Self {
        self.tally = Some(Mutex::default());
        self
    }

    /// What was counted so far; nothing, if it does not count.
    pub(in crate::cli) fn tally(&self) -> Tally {
        self.tally.as_ref().map(|tally| lock(tally).clone()).unwrap_or_default()
    }

    /// Notes that a request goes out, if it is counted.
    pub(super) fn begin(&self, request: &Request) -> Option<Begun> {
        self.tally.as_ref()?;
        let path = self.path_of(request.url())?;
        Some(Begun { method: request.method().clone(), path, at: Instant::now() })
    }

    /// Notes what came of it.
    pub(super) fn note(&self, begun: Option<Begun>, answered: &reqwest::Result<Response>) {
        let Some((tally, begun)) = self.tally.as_ref().zip(begun) else { return };
        let mut tally = lock(tally);
        let Ok(response) = answered else {
            tally.unanswered += 1;
            return;
        };
        tally.server_errors += u64::from(response.status() >= StatusCode::INTERNAL_SERVER_ERROR);
        tally.answered.push(Asked { method: begun.method, path: begun.path, took: begun.at.elapsed() });
    }

    /// Where `url` is below the service's address; `None` if it is elsewhere.
    fn path_of(&self, url: &Url) -> Option<String> {
        let base: Url = self.base.parse().ok()?;
        let path = url.path().strip_prefix(base.path().trim_end_matches('/'))?;
        (url.origin() == base.origin()).then(|| path.to_owned())
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
