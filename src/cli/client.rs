//! A client of the service, as a user would write one: JSON, progress that resumes, pictures.
//!
//! Owns what is tried again and for how long. The key goes to the service alone: no redirect is followed with it.
//! Until the service has been heard once, nobody at its address is an error at once; later it is waited for.

mod follow;
mod links;
mod tally;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Request, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

pub(super) use self::follow::Then;
pub(super) use self::tally::Tally;
use super::backoff::Backoff;
use super::failure::{Failure, Refusal};
use super::screen::Screen;
use crate::config::Secret;
use crate::domain::ids::BatchId;
use crate::domain::spec::SceneId;
use crate::http::local::is_loopback;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Nothing that the service sends is quiet for longer: a stream has a comment every 15 s.
const MAX_SILENCE: Duration = Duration::from_secs(45);
/// A picture is one redirect away; a gateway may add some.
const MAX_REDIRECTS: u32 = 5;
/// Longest body of an answer that is read as a whole: a page of a batch, or an error.
const MAX_ANSWER_BYTES: usize = 64 << 20;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Talks to one service.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    /// What shows the service, and a platform in front of it, who asks.
    shown: HeaderMap,
    screen: Screen,
    was_heard: AtomicBool,
    /// What was asked of the service, while somebody wants to know.
    tally: Option<Mutex<Tally>>,
}

/// What is shown with each request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Credentials<'a> {
    /// The service's key.
    pub(super) key: Option<&'a Secret>,
    /// The token of a platform in front of the service.
    pub(super) token: Option<&'a Secret>,
}

impl Credentials<'_> {
    /// The key as a bearer, or beside the token where that is the bearer.
    fn headers(self) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(token) = self.token {
            headers.insert(AUTHORIZATION, secret("Bearer ", token, "the token (ORCHESTRATOR_TOKEN)")?);
        }
        let (name, prefix) = if self.token.is_some() { (API_KEY, "") } else { (AUTHORIZATION, "Bearer ") };
        if let Some(key) = self.key {
            headers.insert(name, secret(prefix, key, "the key (--key, ORCHESTRATOR_KEY)")?);
        }
        Ok(headers)
    }
}

/// A request's body, and what it is.
pub(super) struct Body {
    pub(super) content_type: &'static str,
    pub(super) bytes: Bytes,
}

impl Body {
    /// A JSON body.
    pub(super) fn json(text: impl Into<Bytes>) -> Self {
        Self { content_type: "application/json", bytes: text.into() }
    }
}

impl Client {
    /// A client of the service at `address` that shows no key.
    pub(super) fn local(address: SocketAddr) -> Result<Self, Failure> {
        Self::new(&format!("http://{address}"), Credentials::default(), Screen::new())
    }

    /// A client of the service at `base` that shows `credentials`, and says on `screen` what it waits for.
    pub(super) fn new(base: &str, credentials: Credentials<'_>, screen: Screen) -> Result<Self, Failure> {
        let base = service_url(base)?;
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(MAX_SILENCE)
            .user_agent(concat!("orchestrator/", env!("CARGO_PKG_VERSION")));
        let is_near = base.host_str().is_some_and(is_loopback);
        let builder = if is_near { builder.no_proxy() } else { builder };
        let http = builder.build().map_err(|error| Failure::Unexpected(format!("no HTTP client: {error}")))?;
        let base = base.as_str().trim_end_matches('/').to_owned();
        let shown = credentials.headers()?;
        Ok(Self { http, base, shown, screen, was_heard: AtomicBool::new(false), tally: None })
    }

    /// The address that paths are appended to.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Gets JSON.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.insist(&self.request(Method::GET, path)?).await
    }

    /// Posts JSON and gets JSON.
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: String) -> Result<T, Failure> {
        self.post_once(path, Some(Body::json(body)), None).await
    }

    /// Posts `body` to where it does no harm to arrive twice, and gets JSON.
    pub(super) async fn post_again<T: DeserializeOwned>(&self, path: &str, body: Option<Body>) -> Result<T, Failure> {
        self.insist(&self.posting(path, body)?).await
    }

    /// Posts `body`. With an idempotency key a lost answer is asked for again, which happens once all the same.
    pub(super) async fn post_once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<Body>,
        idempotency_key: Option<&str>,
    ) -> Result<T, Failure> {
        let mut request = self.posting(path, body)?;
        let Some(key) = idempotency_key else {
            return self.ask(&request).await;
        };
        request.headers_mut().insert(IDEMPOTENCY_KEY, header(key)?);
        self.insist(&request).await
    }

    /// Opens a picture: goes from its lasting address to where its bytes are.
    pub(super) async fn open_picture(
        &self,
        batch: BatchId,
        scene: &SceneId,
        variant: u32,
    ) -> Result<Response, Failure> {
        let request = self.request(Method::GET, &format!("/images/{batch}/items/{scene}/{variant}"))?;
        let mut at = request.url().clone();
        let mut response = self.exchange(&request).await?;
        for _ in 0..MAX_REDIRECTS {
            if response.status() == StatusCode::FORBIDDEN && at != *request.url() {
                // Not our key: a link that has just expired, or a clock that is wrong.
                return Err(Failure::Unexpected(format!("{} does not accept the link", at.authority())));
            }
            if !response.status().is_redirection() {
                return self.accept(response).await;
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| at.join(location).ok());
            at = next.ok_or_else(|| Failure::Unexpected(format!("{at} redirects to nowhere")))?;
            // Signed links carry their own right; the key is for the service.
            response = self.exchange(&Request::new(Method::GET, at.clone())).await?;
        }
        Err(Failure::Unexpected(format!("{at}: more than {MAX_REDIRECTS} redirects")))
    }

    fn request(&self, method: Method, path: &str) -> Result<Request, Failure> {
        let url = format!("{}{path}", self.base);
        let url = url.parse::<Url>().map_err(|error| Failure::Usage(format!("{url}: {error}")))?;
        let mut request = Request::new(method, url);
        request.headers_mut().extend(self.shown.clone());
        Ok(request)
    }

    fn posting(&self, path: &str, body: Option<Body>) -> Result<Request, Failure> {
        let mut request = self.request(Method::POST, path)?;
        if let Some(body) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(body.content_type));
            *request.body_mut() = Some(body.bytes.into());
        }
        Ok(request)
    }

    /// Sends a request that may be sent twice, until it is answered in whole with something that will not pass.
    async fn insist<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let mut backoff = Backoff::default();
        let mut is_repeated = false;
        loop {
            let mut failure = match self.ask(request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if let Failure::Refused(refusal) = &mut failure {
                refusal.is_repeated = is_repeated;
            }
            self.wait_out(failure, &mut backoff).await?;
            is_repeated = true;
        }
    }

    /// Sends a request once, and reads the JSON that answers it.
    async fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        let body = self.read(self.send(request).await?).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::Unexpected(format!("{} answered something unexpected: {error}", request.url())))
    }

    /// Waits before another try after `failure`.
    ///
    /// # Errors
    /// The failure, if another try will not help.
    pub(super) async fn wait_out(&self, failure: Failure, backoff: &mut Backoff) -> Result<(), Failure> {
        if !failure.is_passing() || !self.was_heard.load(Ordering::Relaxed) {
            return Err(failure);
        }
        let Some(wait) = backoff.next(failure.retry_after()) else { return Err(failure) };
        self.screen.wait(&format!("{failure}; trying again in {:.1} s", wait.as_secs_f64()));
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Sends a request once; an answer that is an error becomes one.
    async fn send(&self, request: &Request) -> Result<Response, Failure> {
        self.accept(self.exchange(request).await?).await
    }

    async fn exchange(&self, request: &Request) -> Result<Response, Failure> {
        let request = request.try_clone().ok_or_else(|| Failure::Unexpected("a body cannot be sent twice".into()))?;
        let begun = self.begin(&request);
        let answered = self.http.execute(request).await;
        self.note(begun, &answered);
        match answered {
            Ok(response) => {
                self.was_heard.store(true, Ordering::Relaxed);
                Ok(response)
            }
            Err(error) => {
                // A request that was sent and not answered was heard by somebody.
                self.was_heard.fetch_or(!error.is_connect(), Ordering::Relaxed);
                Err(self.lost(&innermost(&error)))
            }
        }
    }

    /// The answer, or the error that it is.
    async fn accept(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = self.read(response).await.unwrap_or_default();
        Err(Failure::Refused(Box::new(Refusal::new(status, retry_after.map(Duration::from_secs), &body))))
    }

    /// The body of an answer.
    async fn read(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.lost(&innermost(&error)))? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                let url = response.url();
                return Err(Failure::Unexpected(format!("{url} answered more than {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The service does not answer, or not in whole.
    fn lost(&self, reason: &str) -> Failure {
        Failure::Unreachable { base: self.base.clone(), reason: reason.to_owned() }
    }
}

/// The address of a service, from the command line or the environment.
fn service_url(text: &str) -> Result<Url, Failure> {
    let refuse = |why: &str| Failure::Usage(format!("the service's address (--url, ORCHESTRATOR_URL) {why}"));
    let url: Url = text.parse().map_err(|error| refuse(&format!("is no URL: {error}")))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(refuse("must be like http://127.0.0.1:9090"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("must not hold a user, a query or a fragment; the key goes to ORCHESTRATOR_KEY"));
    }
    Ok(url)
}

fn secret(prefix: &str, secret: &Secret, name: &str) -> Result<HeaderValue, Failure> {
    let mut value = header(&format!("{prefix}{}", secret.expose()))
        .map_err(|_| Failure::Usage(format!("{name} has characters that none has")))?;
    value.set_sensitive(true);
    Ok(value)
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|error| Failure::Unexpected(error.to_string()))
}

/// What an error comes down to: reqwest's own words repeat the address and say nothing of the reason.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests;
