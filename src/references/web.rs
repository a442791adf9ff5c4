//! References fetched over HTTP: the adapter of [`ReferenceSource`] for URLs that strangers wrote.
//!
//! Owns how many are fetched at once in the whole process, how often a fetch is tried, and that one picture is
//! decoded at a time. What may be connected to is the business of [`net`](crate::net), what may be in the bytes
//! that of [`content`]. Keeps nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::content::{self, Prepared};
use super::{ReferenceError, ReferenceSource};
use crate::domain::picture::{ReferenceImage, Sha256Hex};
use crate::domain::spec::Reference;
use crate::net::address::Allowlist;
use crate::net::client::{
    ClientBuildError, DEFAULT_BODIES, DEFAULT_DEADLINE, DEFAULT_MAX_BYTES, FetchError, Fetched, GuardConfig,
    GuardedClient,
};
use crate::net::lookup::Lookup;

/// Fetches at once in one process, unless configured otherwise.
pub const DEFAULT_CONCURRENCY: usize = 4;
/// Second tries of what is transient, unless configured otherwise.
pub const DEFAULT_RETRIES: u32 = 2;
/// Most pixels of a reference, unless configured otherwise.
pub const DEFAULT_MAX_PIXELS: u64 = 25_000_000;
/// Wait before the second try; doubled before the third.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The bounds within which references are fetched.
#[derive(Debug, Clone)]
pub struct ReferenceLimits {
    /// Fetches at once; at least one.
    pub concurrency: usize,
    /// Time for one reference, from resolution to the last byte, all its tries together.
    pub timeout: Duration,
    /// Further tries of what is transient. What is refused is never tried again.
    pub retries: u32,
    /// Most bytes as it comes.
    pub max_bytes: u64,
    /// Most pixels as it comes.
    pub max_pixels: u64,
    /// What is exempt from the address rule.
    pub allow: Allowlist,
}

impl Default for ReferenceLimits {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            timeout: DEFAULT_DEADLINE,
            retries: DEFAULT_RETRIES,
            max_bytes: DEFAULT_MAX_BYTES,
            max_pixels: DEFAULT_MAX_PIXELS,
            allow: Allowlist::default(),
        }
    }
}

/// Fetches references over HTTP. One for the whole process, as it holds the process's bounds.
#[derive(Debug)]
pub struct WebReferences {
    client: GuardedClient,
    timeout: Duration,
    retries: u32,
    max_pixels: u64,
    fetching: Semaphore,
    decoding: Arc<Semaphore>,
}

impl WebReferences {
    /// Sets up the client; fetches nothing.
    ///
    /// # Errors
    /// [`ClientBuildError`].
    pub fn new(limits: ReferenceLimits, lookup: impl Lookup) -> Result<Self, ClientBuildError> {
        let config = GuardConfig {
            allow: limits.allow,
            plain_http: false,
            deadline: limits.timeout,
            max_bytes: limits.max_bytes,
            bodies: DEFAULT_BODIES,
            accept: "image/png, image/jpeg, image/webp, image/gif",
        };
        Ok(Self {
            client: GuardedClient::new(config, lookup)?,
            timeout: limits.timeout,
            retries: limits.retries,
            max_pixels: limits.max_pixels,
            fetching: Semaphore::new(limits.concurrency.max(1)),
            decoding: Arc::new(Semaphore::new(1)),
        })
    }

    async fn fetch_in_time(&self, url: &str) -> Result<Fetched, FetchError> {
        let late = |_| Err(FetchError::Passing("it did not arrive in time".to_owned()));
        tokio::time::timeout(self.timeout, self.try_repeatedly(url)).await.unwrap_or_else(late)
    }

    async fn try_repeatedly(&self, url: &str) -> Result<Fetched, FetchError> {
        let mut pause = RETRY_PAUSE;
        for _ in 0..self.retries {
            match self.client.fetch(url).await {
                Err(FetchError::Passing(_)) => tokio::time::sleep(pause).await,
                outcome => return outcome,
            }
            pause *= 2;
        }
        self.client.fetch(url).await
    }

    async fn prepare(&self, fetched: Fetched, promised: Option<String>) -> Result<Prepared, ReferenceError> {
        let turn = self.decoding.clone().acquire_owned().await.map_err(|_| stopped())?;
        let max_pixels = self.max_pixels;
        let decoded = tokio::task::spawn_blocking(move || {
            // Held inside: a caller that goes away does not stop the decoder, and must not start a second one.
            let _turn = turn;
            let Fetched { bytes, share: _share, .. } = fetched;
            check_hash(&bytes, promised.as_deref())?;
            content::prepare(bytes, max_pixels)
        });
        // A decoder that panics has met a picture it cannot read.
        decoded.await.unwrap_or_else(|_| Err(ReferenceError::Unusable("it cannot be decoded".to_owned())))
    }
}

#[async_trait]
impl ReferenceSource for WebReferences {
    async fn fetch(&self, reference: &Reference) -> Result<ReferenceImage, ReferenceError> {
        // Held until the picture is ready: the bytes that wait for the decoder are bounded by it too.
        let _slot = self.fetching.acquire().await.map_err(|_| stopped())?;
        let fetched = self.fetch_in_time(&reference.url).await?;
        let picture = self.prepare(fetched, reference.sha256.clone()).await?;
        Ok(ReferenceImage { bytes: picture.bytes, format: picture.format, mode: reference.mode })
    }
}

impl From<FetchError> for ReferenceError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Blocked(_) => Self::Blocked,
            FetchError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            FetchError::Passing(detail) => Self::Unreachable(detail),
            FetchError::Lasting(detail) => Self::Unusable(detail),
        }
    }
}

fn stopped() -> ReferenceError {
    ReferenceError::Unreachable("the service is stopping".to_owned())
}

fn check_hash(bytes: &[u8], promised: Option<&str>) -> Result<(), ReferenceError> {
    match promised {
        Some(promised) if !Sha256Hex::of(bytes).to_string().eq_ignore_ascii_case(promised) => {
            Err(ReferenceError::Unusable("its bytes do not have the SHA-256 that was given".to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
