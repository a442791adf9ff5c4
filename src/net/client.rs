//! One bounded fetch of a URL that somebody else wrote.
//!
//! Holds the address rule where it counts: in the resolver, so that the address judged is the address dialled,
//! and again at the peer of the connection. Follows redirects by hand, each judged like the first URL. One
//! deadline spans resolution, all hops and the body; bytes are counted as they come. Sends no credentials, no
//! cookies and no referrer, keeps no connections, and ignores proxies that the environment names.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect, retry};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::address::Allowlist;
use super::lookup::Lookup;
use super::target::{Refusal, Rule, Target};

/// Time for a whole fetch, unless configured otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes of a body, unless configured otherwise.
pub const DEFAULT_MAX_BYTES: u64 = 10 * 1024 * 1024;
/// Most bytes of all bodies at once, unless configured otherwise.
pub const DEFAULT_BODIES: u64 = 16 * 1024 * 1024;
/// Allocators give so large a piece pages of its own, of which only those in use count, and give them back to the
/// system when it is freed. Of smaller ones each thread may keep the most that it ever had.
const OWN_PAGES: usize = (32 << 20) + 1;
/// The unit in which bodies are counted, so that a 32-bit count is enough.
const BODY_UNIT: u64 = 1024;
/// Most redirects that are followed.
pub const MAX_REDIRECTS: usize = 3;

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// What a [`GuardedClient`] permits.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// What is exempt from the address rule.
    pub allow: Allowlist,
    /// Whether http is taken everywhere, not only where exempt.
    pub plain_http: bool,
    /// Time for a whole fetch.
    pub deadline: Duration,
    /// Most bytes of a body.
    pub max_bytes: u64,
    /// Most bytes of all bodies that are held at once; at least one of the largest fits.
    pub bodies: u64,
    /// The media types asked for.
    pub accept: &'static str,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            allow: Allowlist::default(),
            plain_http: false,
            deadline: DEFAULT_DEADLINE,
            max_bytes: DEFAULT_MAX_BYTES,
            bodies: DEFAULT_BODIES,
            accept: "*/*",
        }
    }
}

/// What was fetched. Counts among the client's bodies until it is dropped.
#[derive(Debug)]
pub struct Fetched {
    /// The body, at most as long as the client permits.
    pub bytes: Bytes,
    /// What the server says it is. A claim, not a fact.
    pub content_type: Option<String>,
    /// Its share of the memory for bodies.
    pub share: BodyShare,
}

impl AsRef<[u8]> for Fetched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A part of the memory for bodies; given back when dropped.
#[derive(Debug)]
pub struct BodyShare(OwnedSemaphorePermit);

impl BodyShare {
    /// Gives back what `bytes` bytes do not need.
    fn keep(&mut self, bytes: usize) {
        let spare = self.0.num_permits().saturating_sub(body_units(bytes as u64) as usize);
        drop(self.0.split(spare));
    }
}

fn body_units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BODY_UNIT)).unwrap_or(u32::MAX)
}

/// What the server answered to what was posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The status, also that of a redirect.
    pub status: StatusCode,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
}

/// Why nothing was fetched. Messages hold neither URLs nor addresses nor anything the server sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It points where this service does not go.
    #[error("the address is not one this service connects to")]
    Blocked(Refusal),
    /// The body is longer than the client permits.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// The most that is permitted.
        limit: u64,
    },
    /// Trying again may help.
    #[error("{0}")]
    Passing(String),
    /// Trying again will not help.
    #[error("{0}")]
    Lasting(String),
}

impl From<Refusal> for FetchError {
    fn from(refusal: Refusal) -> Self {
        Self::Blocked(refusal)
    }
}

/// The client could not be set up: the machine's certificates or TLS are unusable.
#[derive(Debug, thiserror::Error)]
#[error("the guarded HTTP client cannot be built")]
pub struct ClientBuildError(#[from] reqwest::Error);

/// Fetches URLs that strangers wrote.
#[derive(Debug)]
pub struct GuardedClient {
    config: Arc<GuardConfig>,
    // A resolver is told a name but not the port, and whether a name may lead inside depends on the port; so
    // each rule has a client of its own.
    public: Client,
    exempt: Client,
    trusted: Client,
    bodies: Arc<Semaphore>,
}

impl GuardedClient {
    /// Sets up the client; connects nowhere.
    ///
    /// # Errors
    /// [`ClientBuildError`].
    pub fn new(config: GuardConfig, lookup: impl Lookup) -> Result<Self, ClientBuildError> {
        let (config, lookup): (_, Arc<dyn Lookup>) = (Arc::new(config), Arc::new(lookup));
        let client = |rule| build_client(GuardedResolver { rule, config: config.clone(), lookup: lookup.clone() });
        let bodies = Arc::new(Semaphore::new(body_units(config.bodies.max(config.max_bytes)) as usize));
        Ok(Self {
            bodies,
            public: client(Rule::Public)?,
            exempt: client(Rule::Exempt)?,
            trusted: client(Rule::Trusted)?,
            config,
        })
    }

    /// Fetches `url` within the client's bounds.
    ///
    /// # Errors
    /// [`FetchError`]; the connection is closed then, and nothing is kept.
    pub async fn fetch(&self, url: &str) -> Result<Fetched, FetchError> {
        let late = |_| Err(FetchError::Passing("it did not arrive in time".to_owned()));
        tokio::time::timeout(self.config.deadline, self.follow(url)).await.unwrap_or_else(late)
    }

    /// Posts `body` to `url`, follows no redirect, and reads of the answer's body what the bounds permit, only so that
    /// the server can end it in peace.
    ///
    /// # Errors
    /// [`FetchError`], if there is no status; the server may have got the body all the same.
    pub async fn post(&self, url: &str, headers: HeaderMap, body: Bytes) -> Result<Posted, FetchError> {
        let deadline = Instant::now() + self.config.deadline;
        let target = Target::parse(url, &self.config.allow, self.config.plain_http)?;
        let request = self.client_for(&target).post(target.url().clone()).headers(headers).body(body);
        let late = |_| Err(FetchError::Passing("the server did not answer in time".to_owned()));
        let response = timeout_at(deadline, self.send(&target, request)).await.unwrap_or_else(late)?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let posted = Posted { status: response.status(), retry_after };
        drop(timeout_at(deadline, drain(response, self.config.max_bytes)).await);
        Ok(posted)
    }

    async fn follow(&self, url: &str) -> Result<Fetched, FetchError> {
        let GuardConfig { allow, plain_http, .. } = &*self.config;
        let mut target = Target::parse(url, allow, *plain_http)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.ask(&target).await?;
            match redirect_of(&response)? {
                Some(location) => target = target.redirect(location, allow, *plain_http)?,
                None => return self.take(response).await,
            }
        }
        Err(Refusal::Redirects.into())
    }

    async fn ask(&self, target: &Target) -> Result<Response, FetchError> {
        self.send(target, self.client_for(target).get(target.url().clone())).await
    }

    const fn client_for(&self, target: &Target) -> &Client {
        match target.rule() {
            Rule::Public => &self.public,
            Rule::Exempt => &self.exempt,
            Rule::Trusted => &self.trusted,
        }
    }

    async fn send(&self, target: &Target, request: RequestBuilder) -> Result<Response, FetchError> {
        let request = request.header(ACCEPT, self.config.accept).header(ACCEPT_ENCODING, "identity");
        let response = request.send().await.map_err(|error| failure_of(&error))?;
        // The resolver judged what was dialled; this holds even if a later version of a library dials otherwise.
        match response.remote_addr() {
            Some(peer) if target.rule().admits(peer.ip(), &self.config.allow) => Ok(response),
            _ => Err(Refusal::Resolved.into()),
        }
    }

    async fn take(&self, mut response: Response) -> Result<Fetched, FetchError> {
        let limit = self.config.max_bytes;
        check_status(response.status())?;
        check_encoding(&response)?;
        if response.content_length().is_some_and(|promised| promised > limit) {
            return Err(FetchError::TooLarge { limit });
        }
        let content_type =
            response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // A body of unknown length asks for the most at once: nobody waits while holding a part of what it needs.
        let most = response.content_length().unwrap_or(limit);
        let mut share = self.body_share(most).await?;
        let mut body = BytesMut::with_capacity(usize::try_from(most).unwrap_or(0).max(OWN_PAGES));
        while let Some(chunk) = response.chunk().await.map_err(|_| broken_off())? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(FetchError::TooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        share.keep(body.len());
        Ok(Fetched { bytes: body.freeze(), content_type, share })
    }

    async fn body_share(&self, bytes: u64) -> Result<BodyShare, FetchError> {
        let permit = Arc::clone(&self.bodies).acquire_many_owned(body_units(bytes)).await;
        permit.map(BodyShare).map_err(|_| FetchError::Passing("the service is stopping".to_owned()))
    }
}

/// Reads a body that nobody needs, `most` bytes of it.
async fn drain(mut response: Response, most: u64) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len() as u64;
        if read >= most {
            return;
        }
    }
}

fn build_client(resolver: GuardedResolver) -> Result<Client, reqwest::Error> {
    let deadline = resolver.config.deadline;
    Client::builder()
        .user_agent(USER_AGENT)
        .dns_resolver(resolver)
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
        // Every fetch resolves and dials anew: no connection outlives the judgement of its address.
        .pool_max_idle_per_host(0)
        // Shared out over a name's addresses, so that one dead address does not use up the whole deadline.
        .connect_timeout(deadline.mul_f32(0.75))
        .build()
}

/// The target of a redirect, `None` for an answer that is not one.
fn redirect_of(response: &Response) -> Result<Option<&str>, FetchError> {
    match response.status() {
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => {}
        _ => return Ok(None),
    }
    let location = response.headers().get(LOCATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    location.map(Some).ok_or_else(|| FetchError::Lasting("the server redirects to nowhere".to_owned()))
}

fn check_status(status: StatusCode) -> Result<(), FetchError> {
    let told = || format!("the server answered {}", status.as_u16());
    match status {
        // A part of it was not asked for.
        StatusCode::PARTIAL_CONTENT => Err(FetchError::Lasting(told())),
        _ if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(FetchError::Passing(told()))
        }
        _ if status.is_server_error() => Err(FetchError::Passing(told())),
        _ => Err(FetchError::Lasting(told())),
    }
}

/// Unpacking would let a small body grow without a bound, so what was not asked for is not taken.
fn check_encoding(response: &Response) -> Result<(), FetchError> {
    let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if response.headers().get_all(CONTENT_ENCODING).iter().all(plain) {
        Ok(())
    } else {
        Err(FetchError::Lasting("the server sent it compressed, which was not asked for".to_owned()))
    }
}

fn broken_off() -> FetchError {
    FetchError::Passing("the connection broke off".to_owned())
}

fn failure_of(error: &reqwest::Error) -> FetchError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(link) = cause {
        if link.is::<RefusedAnswer>() {
            return Refusal::Resolved.into();
        }
        cause = link.source();
    }
    if error.is_connect() {
        FetchError::Passing("the server could not be connected to".to_owned())
    } else {
        broken_off()
    }
}

/// A name leads where this service does not go.
#[derive(Debug, thiserror::Error)]
#[error("a name resolved to a forbidden address")]
struct RefusedAnswer;

/// Hands the connector nothing but addresses that the rule admits.
struct GuardedResolver {
    rule: Rule,
    config: Arc<GuardConfig>,
    lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rule, config, lookup) = (self.rule, self.config.clone(), self.lookup.clone());
        Box::pin(async move {
            let answers: Vec<IpAddr> = lookup.lookup(name.as_str()).await?;
            // One bad address condemns the name: whoever mixes them is trying, or is misconfigured.
            if !answers.iter().all(|ip| rule.admits(*ip, &config.allow)) {
                return Err(RefusedAnswer.into());
            }
            // Port 0 stands for the URL's own.
            Ok(Box::new(answers.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests;
