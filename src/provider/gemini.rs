//! The Gemini API over its real wire: one `generate` is one POST to `models/{model}:generateContent`.
//!
//! Owns the HTTP client, and the key, which no error, log or debug output shows. Follows no redirect and tries nothing
//! again: what an end means is said in a [`ProviderError`], and what follows from it is decided elsewhere. The base
//! URL is the operator's, so the rule for addresses that strangers wrote does not apply. `docs/gemini.md` lists every
//! end with its cost.

mod answer;
mod data;
mod failure;
mod pacific;
mod request;
mod words;

use std::error::Error as StdError;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect, retry};

#[doc(hidden)]
pub use self::answer::{Unreadable, decode};

use self::failure::Failure;
use super::{Answer, ImageCall, ImageProvider, ProviderError};
use crate::clock::Clock;

/// Most bytes of an error's body. The provider's are a few KB; a longer one is another's.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// How long an error's body may take once its head is there. The head alone settles most of them.
const ERROR_BODY_DEADLINE: Duration = Duration::from_secs(5);
/// The longest that a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept: shorter than servers and load balancers do, because a call that meets the
/// closing of its connection has an unknown outcome and is charged.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
/// Carries the key.
const KEY_HEADER: &str = "x-goog-api-key";
/// Headers that name a call, best first.
const NAME_HEADERS: [&str; 2] = ["x-goog-request-id", "x-request-id"];

/// The adapter cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GeminiError {
    /// The key holds what a header cannot.
    #[error("the API key is not visible ASCII")]
    Key,
    /// The machine's certificates or TLS are unusable.
    #[error("the HTTP client cannot be built")]
    Client(#[from] reqwest::Error),
}

/// Calls the Gemini API.
pub struct Gemini {
    base: Url,
    key: String,
    client: Client,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Gemini {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gemini").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Gemini {
    /// Sets up the client; connects nowhere. `base` is an http or https URL, without the version in its path;
    /// `call_timeout` is the deadline of a whole call, of which opening a connection may take half: one that
    /// did not open is known to have cost nothing.
    ///
    /// # Errors
    /// [`GeminiError`].
    pub fn new(base: Url, key: &str, call_timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self, GeminiError> {
        let mut header = HeaderValue::from_str(key).map_err(|_| GeminiError::Key)?;
        header.set_sensitive(true);
        if base.scheme() != "https" && !is_loopback(&base) {
            tracing::warn!("GEMINI_BASE_URL is plain http: prompts, pictures and the API key can be read on the way");
        }
        let headers = HeaderMap::from_iter([
            (KEY_HEADER.parse().map_err(|_| GeminiError::Key)?, header),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        Ok(Self {
            base,
            key: key.to_owned(),
            client: build_client(headers, CONNECT_TIMEOUT.min(call_timeout / 2))?,
            clock,
        })
    }

    async fn answered(&self, response: Response, most: usize) -> Result<Answer, ProviderError> {
        let name = call_name(response.headers());
        let body = match read_body(response, most).await {
            Ok(body) => body,
            Err(fault) => return Err(ProviderError::OutcomeUnknown(format!("the answer {fault}"))),
        };
        let answer = decode(body, &self.key).map_err(|error| ProviderError::OutcomeUnknown(error.to_string()))?;
        Ok(Answer { request_id: name.or(answer.request_id), ..answer })
    }

    async fn failed(&self, response: Response) -> ProviderError {
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = tokio::time::timeout(ERROR_BODY_DEADLINE, read_body(response, MAX_ERROR_BYTES)).await;
        let body = body.ok().and_then(Result::ok);
        let (retry_after, body) = (retry_after.as_deref(), body.as_deref());
        Failure { status, retry_after, body, key: &self.key, now: self.clock.now() }.classify()
    }
}

#[async_trait]
impl ImageProvider for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    async fn generate(&self, call: &ImageCall) -> Result<Answer, ProviderError> {
        let body = request::body(call).map_err(|_| ProviderError::Failed("the call cannot be written".to_owned()))?;
        let request = self.client.post(request::address(&self.base, &call.model)).body(body);
        match request.send().await {
            Err(error) => Err(not_answered(&error)),
            Ok(response) if response.status() == StatusCode::OK => self.answered(response, call.max_answer_bytes).await,
            Ok(response) => Err(self.failed(response).await),
        }
    }
}

fn is_loopback(base: &Url) -> bool {
    let host = base.host_str().unwrap_or_default();
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}

/// Headers that every call carries are `headers`. A proxy of the environment is not used: settings that nobody listed
/// would decide where the key goes.
fn build_client(headers: HeaderMap, connect_timeout: Duration) -> Result<Client, reqwest::Error> {
    Client::builder()
        .user_agent(USER_AGENT)
        .default_headers(headers)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        // Off even if another crate turns these features of reqwest on.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .http1_only()
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .build()
}

/// The provider's name for the call, from the headers.
fn call_name(headers: &HeaderMap) -> Option<String> {
    NAME_HEADERS.iter().find_map(|name| answer::call_name(headers.get(*name)?.to_str().ok()?))
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
enum BodyFault {
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("broke off")]
    BrokeOff,
}

/// The whole body, in one buffer, at most `limit` bytes.
async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyFault> {
    let promised = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if promised > limit {
        return Err(BodyFault::TooLong(limit));
    }
    let mut body = Vec::with_capacity(promised);
    while let Some(chunk) = response.chunk().await.map_err(|_| BodyFault::BrokeOff)? {
        if body.len() + chunk.len() > limit {
            return Err(BodyFault::TooLong(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What an exchange that ended before the head of an answer means.
fn not_answered(error: &reqwest::Error) -> ProviderError {
    if error.is_connect() {
        return ProviderError::Failed(format!("the connection could not be opened{}", reason_of(error)));
    }
    ProviderError::OutcomeUnknown(format!("no answer came after the call was sent{}", reason_of(error)))
}

/// The kind of the fault below `error`. Its text would name addresses.
fn reason_of(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(link) = cause {
        if let Some(fault) = link.downcast_ref::<std::io::Error>().filter(|fault| fault.get_ref().is_none()) {
            return format!(" ({})", fault.kind());
        }
        cause = link.source();
    }
    String::new()
}

#[cfg(test)]
mod tests;
