//! The port to where pictures live: create-only objects, a look-up by name without its ending, and
//! links that expire.
//!
//! Object names are deterministic and never reused, so an object that exists is never written again.

pub mod gcs;
pub mod local;
pub mod object;
pub mod picture;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::domain::picture::Receipt;
use crate::domain::time::Timestamp;

/// Why an object could not be stored, found or linked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AssetError {
    /// The name holds other bytes already. Names are never reused, so this is a fault of ours.
    #[error("object {0} exists with other content")]
    Conflict(String),
    /// What lies beside a picture cannot be read, or is another's. Trying again does not help.
    #[error("the receipt of {0} is missing, damaged or of other bytes")]
    Damaged(String),
    /// The store is away, full or read-only. Trying again may help.
    #[error("asset store unavailable")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

impl AssetError {
    /// Wraps what the store said.
    pub fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into().into())
    }
}

/// A link that anyone may follow until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedLink {
    /// Absolute, or a path of this service.
    pub url: String,
    /// When it stops working.
    pub expires_at: Timestamp,
}

/// What a signed path of this service carries in its query.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct SignedQuery {
    /// Unix milliseconds.
    pub expires: i64,
    /// The file name a person sees.
    pub name: String,
    /// Proves the other two and the object.
    pub signature: String,
}

/// An object opened for reading.
pub struct OpenObject {
    /// The fixed media type of its ending.
    pub content_type: &'static str,
    /// Its size in bytes; 0 where an emulator does not tell.
    pub length: u64,
    /// Its bytes, in pieces.
    pub body: BoxStream<'static, std::io::Result<Bytes>>,
}

/// What a link leads to, whether or not it still works. Made of what somebody wrote: proves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedObject {
    /// The object, as it is written in the link.
    pub object: String,
    /// When the link says that it stops working, if it says so.
    pub expires_at: Option<Timestamp>,
}

/// Keeps pictures.
#[async_trait]
pub trait AssetStore: Send + Sync + 'static {
    /// Stores a picture with its thumbnail, durably, the receipt no later than the picture.
    ///
    /// `receipt.picture` names the objects. The same picture stored again is success.
    ///
    /// # Errors
    /// [`AssetError`]; a picture without its receipt is never left behind.
    async fn store(&self, picture: Bytes, thumbnail: Option<Bytes>, receipt: &Receipt) -> Result<(), AssetError>;

    /// Stores a picture that nobody was paid for as `object`, durably. The same bytes stored again are success.
    ///
    /// # Errors
    /// [`AssetError`]; no part of it is left behind.
    async fn put(&self, object: &str, picture: Bytes) -> Result<(), AssetError>;

    /// Looks for the picture whose object name is `stem` and any picture ending.
    ///
    /// # Errors
    /// [`AssetError::Unavailable`]: only `Ok(None)` means that it is not there; [`AssetError::Damaged`] if it
    /// is there and nobody can say whose it is.
    async fn find(&self, stem: &str) -> Result<Option<Receipt>, AssetError>;

    /// A link to `object` that lives for `ttl`, offered under `file_name` when it is saved.
    ///
    /// # Errors
    /// [`AssetError::Unavailable`] where signing needs the network.
    async fn link(&self, object: &str, file_name: &str, ttl: Duration) -> Result<SignedLink, AssetError>;

    /// The object that `url` leads to, if it is a link or a [`uri`](Self::uri) of the kind that this store hands out.
    fn locate(&self, url: &str) -> Option<LinkedObject>;

    /// Opens a picture for this service's own use, whoever may see it. An absent one is `Ok(None)`.
    ///
    /// # Errors
    /// [`AssetError::Unavailable`].
    async fn open(&self, object: &str) -> Result<Option<OpenObject>, AssetError>;

    /// Opens an object that this service itself serves, if the query proves the right to it.
    ///
    /// # Errors
    /// [`AssetError::Unavailable`]. A wrong or expired signature is `Ok(None)`, as is an absent object.
    async fn open_signed(&self, object: &str, query: &SignedQuery) -> Result<Option<OpenObject>, AssetError>;

    /// Where `object` is, for a person or another program: `gs://…` or `local:…`.
    fn uri(&self, object: &str) -> String;

    /// The origin that links lead to, if it is not this service's own.
    fn origin(&self) -> Option<&str> {
        None
    }

    /// Whether pictures could be stored now.
    ///
    /// # Errors
    /// [`AssetError::Unavailable`].
    async fn check(&self) -> Result<(), AssetError>;
}
