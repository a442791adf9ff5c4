//! Who is let in: keys of the configuration, of a file and of the database, sessions, and what the platform says.
//!
//! Owns the judgement; what a request shows is taken out of it by `http`. Refuses to say which keys exist: a key
//! that is not known and one whose proof is wrong get the same answer.

mod file;
mod sessions;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::file::KeysFile;
pub use self::file::{KeysFileError, keys_in};
pub use self::sessions::{SESSION_LIFE, STREAM_TOKEN_LIFE, Ticket};
use super::batches::ServiceError;
use crate::clock::Clock;
use crate::domain::access::{ApiKey, Caller, KeyError, KeyId, KeyRecord, KeyRefusal, Scope, Scopes, SecretHash};
use crate::domain::ids::{BatchId, UserId};
use crate::store::Store;

/// How callers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// By keys alone.
    Keys,
    /// Not at all: whoever reaches the service is its one local user.
    Open,
    /// Not at all for as long as there is no key; then by keys.
    OpenWithoutKeys,
    /// By the platform, which lets in only those it knows; and by keys.
    Platform,
}

/// What a request shows of its sender.
#[derive(Clone, Copy)]
pub enum Shown<'a> {
    /// Nothing.
    Nothing,
    /// What should be a key.
    Key(&'a str),
    /// A browser's session.
    Session(&'a str),
    /// The right to follow this batch.
    StreamToken(&'a str, BatchId),
    /// Someone whom the platform let in.
    Platform(&'a UserId),
}

/// Why nobody is let in.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Nothing was shown; says what there is to show.
    #[error("{0}")]
    Missing(&'static str),
    /// What was shown is refused.
    #[error("{0}")]
    Refused(String),
    /// It cannot be looked up now.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

const NO_CREDENTIAL: &str = "send an API key as `Authorization: Bearer aip_…` or `X-API-Key`";
const NO_KEY_EXISTS: &str = "no API key exists yet, so nobody is let in: make one with `orchestrator keys new --name NAME`, \
    or set API_KEYS or API_KEYS_FILE";
const NO_IDENTITY: &str =
    "the platform named no caller: deploy with --no-allow-unauthenticated, or send an API key as X-API-Key";

/// Where keys come from beside the database, and how callers are told apart.
pub struct AccessRules {
    /// How callers are told apart.
    pub mode: AccessMode,
    /// Keys of the configuration.
    pub keys: Vec<KeyRecord>,
    /// A file of keys, read again when it changes.
    pub file: Option<PathBuf>,
    /// Whether the keys' own limits of a day hold.
    pub budgets: bool,
}

/// Lets callers in.
pub struct Access {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    mode: AccessMode,
    keys: Vec<KeyRecord>,
    file: Option<KeysFile>,
    budgets: bool,
    /// A key was seen to exist: from then on the service is never open without being told to be.
    has_keys: AtomicBool,
}

impl Access {
    /// Lets callers in by `rules`, and by the keys in `store`.
    ///
    /// # Errors
    /// [`KeysFileError`] if the file of keys cannot be read.
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>, rules: AccessRules) -> Result<Self, KeysFileError> {
        let file = rules.file.map(|path| KeysFile::open(path, clock.clone())).transpose()?;
        let AccessRules { mode, keys, budgets, .. } = rules;
        Ok(Self { store, clock, mode, keys, file, budgets, has_keys: AtomicBool::new(false) })
    }

    /// Finds out who sends a request.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn identify(&self, shown: Shown<'_>) -> Result<Caller, AccessError> {
        if self.is_open().await? {
            return Ok(Caller::local());
        }
        let caller = match shown {
            Shown::Key(text) => self.by_key(text).await?,
            Shown::Session(secret) => self.by_session(secret, None).await?,
            Shown::StreamToken(secret, batch) => self.by_session(secret, Some(batch)).await?,
            Shown::Platform(user) if self.mode == AccessMode::Platform => Caller::of_platform(user.clone()),
            Shown::Nothing | Shown::Platform(_) => return Err(self.missing().await?),
        };
        let daily_budget = caller.daily_budget.filter(|_| self.budgets);
        Ok(Caller { daily_budget, ..caller })
    }

    /// Whether everyone who reaches the service is let in.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]: without the database nobody knows whether there are keys.
    pub async fn is_open(&self) -> Result<bool, ServiceError> {
        Ok(match self.mode {
            AccessMode::Open => true,
            AccessMode::Keys | AccessMode::Platform => false,
            AccessMode::OpenWithoutKeys => !self.has_keys().await?,
        })
    }

    /// Whether callers are let in on the platform's word.
    #[must_use]
    pub fn trusts_platform(&self) -> bool {
        self.mode == AccessMode::Platform
    }

    /// Whether there is any key, wherever it is kept.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn has_keys(&self) -> Result<bool, ServiceError> {
        if self.has_keys.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let in_file = self.file.as_ref().is_some_and(|file| !file.keys().is_empty());
        let has = !self.keys.is_empty() || in_file || self.store.has_keys().await?;
        self.has_keys.fetch_or(has, Ordering::Relaxed);
        Ok(has)
    }

    async fn missing(&self) -> Result<AccessError, ServiceError> {
        let text = match self.mode {
            AccessMode::Platform => NO_IDENTITY,
            _ if self.has_keys().await? => NO_CREDENTIAL,
            _ => NO_KEY_EXISTS,
        };
        Ok(AccessError::Missing(text))
    }

    async fn by_key(&self, text: &str) -> Result<Caller, AccessError> {
        let key: ApiKey = text.parse().map_err(|error: KeyError| AccessError::Refused(error.to_string()))?;
        let record = self.find(key.id()).await?.ok_or(KeyRefusal::Unknown);
        let admitted = record.and_then(|record| record.admit(&key, self.clock.now()).map(|()| record));
        admitted.map(|record| Caller::of_key(&record)).map_err(refused)
    }

    async fn by_session(&self, secret: &str, batch: Option<BatchId>) -> Result<Caller, AccessError> {
        let over = || AccessError::Refused("the session or token has ended; ask for a new one".to_owned());
        let now = self.clock.now();
        let found = self.store.find_session(&SecretHash::of(secret)).await.map_err(ServiceError::from)?;
        let session = found.filter(|session| session.batch == batch && session.expires_at > now).ok_or_else(over)?;
        let caller = match session.key {
            Some(key) => {
                let record = self.find(key).await?.ok_or_else(over)?;
                record.is_good(now).map_err(refused)?;
                Caller::of_key(&record)
            }
            None if self.mode == AccessMode::Platform => Caller::of_platform(session.user),
            None => return Err(over()),
        };
        if batch.is_none() {
            return Ok(caller);
        }
        let scopes = if caller.scopes.has(Scope::Admin) { caller.scopes } else { Scopes::READ };
        Ok(Caller { scopes, ..caller })
    }

    async fn find(&self, id: KeyId) -> Result<Option<KeyRecord>, ServiceError> {
        if let Some(key) = self.keys.iter().find(|key| key.id == id) {
            return Ok(Some(key.clone()));
        }
        let in_file = self.file.as_ref().and_then(|file| file.keys().iter().find(|key| key.id == id).cloned());
        match in_file {
            Some(key) => Ok(Some(key)),
            None => Ok(self.store.find_api_key(id).await?),
        }
    }
}

fn refused(refusal: KeyRefusal) -> AccessError {
    AccessError::Refused(refusal.to_string())
}
