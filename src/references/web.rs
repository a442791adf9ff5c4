//! References fetched over HTTP: the adapter of [`ReferenceSource`] for URLs that strangers wrote.
//!
//! Owns how many are fetched at once in the whole process, and how often a fetch is tried. What may be connected
//! to is the business of [`net`](crate::net), what may be in the bytes that of [`content`](super::content). Keeps
//! nothing.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::content::Preparer;
use super::{ReferenceError, ReferenceSource};
use crate::domain::picture::ReferenceImage;
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
    fetching: Semaphore,
    preparer: Preparer,
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
            fetching: Semaphore::new(limits.concurrency.max(1)),
            preparer: Preparer::new(limits.max_bytes, limits.max_pixels),
        })
    }

    /// Who prepares the pictures: for those that come another way too, as one is decoded at a time.
    #[must_use]
    pub fn preparer(&self) -> Preparer {
        self.preparer.clone()
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
}

#[async_trait]
impl ReferenceSource for WebReferences {
    async fn fetch(&self, reference: &Reference) -> Result<ReferenceImage, ReferenceError> {
        // Held until the picture is ready: the bytes that wait for the decoder are bounded by it too.
        let _slot = self.fetching.acquire().await.map_err(|_| stopped())?;
        let fetched = self.fetch_in_time(reference.url.as_str()).await?;
        let picture = self.preparer.prepare(fetched, reference.sha256.clone()).await?;
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

#[cfg(test)]
mod tests;
