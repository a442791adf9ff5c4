//! Pictures in a bucket of Google Cloud Storage, under links that Google checks.
//!
//! An object is written create-only, in one request that also carries its checksum and, for a picture, its receipt:
//! so a picture that exists has its receipt, and nothing that exists is ever changed. An answer that was lost is found
//! out at the next try: what is there is compared with what was to be there, and the same bytes are success.
//!
//! Names are given by the service and checked here; only the objects of one bucket are touched.

mod address;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::builder::storage::SignedUrlBuilder;
use google_cloud_storage::read_object::ReadObjectResponse;

use super::object::{content_type, disposition, is_object_name};
use super::{AssetError, AssetStore, LinkedObject, OpenObject, SignedLink, SignedQuery};
use crate::clock::Clock;
use crate::domain::picture::{PictureFormat, Receipt};
use crate::gcs::{self, Gcs, Meaning, Signing, bucket_path, if_there, meaning};

/// The key of a picture's metadata that holds its receipt, as JSON: about 500 of the 8 KiB that all keys may take.
const RECEIPT: &str = "receipt";
/// For the readers of a link: a name is never given to other bytes, so what was read once need not be asked for again;
/// but no cache that people share may keep what was meant for who has the link.
const CACHE_CONTROL: &str = "private, max-age=31536000, immutable";
/// A name that is never given to an object: asking for it shows whether the bucket answers.
const PROBE: &str = "images/probe/absent";
/// Longest time for that, without a second try: who asks will ask again.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Pictures in a bucket.
#[derive(Clone)]
pub struct GcsAssets {
    gcs: Gcs,
    /// As people write it.
    bucket: String,
    /// As the library's calls want it.
    path: String,
    clock: Arc<dyn Clock>,
}

impl GcsAssets {
    /// Keeps pictures in `bucket`. Nothing is asked over the network; [`check`](AssetStore::check) is.
    ///
    /// `clock` dates the links of an emulator, which nobody signs; a signature is dated by the system's clock.
    #[must_use]
    pub fn new(gcs: Gcs, bucket: String, clock: Arc<dyn Clock>) -> Self {
        let path = bucket_path(&bucket);
        Self { gcs, bucket, path, clock }
    }

    /// Writes `bytes` to `object` if there is none of that name.
    async fn create(&self, object: &str, bytes: Bytes, receipt: Option<&Receipt>) -> Result<(), AssetError> {
        let receipt = receipt.map(serde_json::to_string).transpose().map_err(AssetError::unavailable)?;
        // The library sends the CRC32C of the bytes beforehand, and compares that of the answer.
        let upload = self
            .gcs
            .data
            .write_object(&self.path, named(object)?, bytes.clone())
            .set_if_generation_match(0)
            .set_content_type(content_type(object).unwrap_or("application/octet-stream"))
            .set_cache_control(CACHE_CONTROL)
            .set_metadata(receipt.map(|json| (RECEIPT, json)));
        match within(Box::pin(upload.send_buffered())).await? {
            Ok(_) => Ok(()),
            Err(error) if meaning(&error) == Meaning::Refused => self.compare(object, &bytes).await,
            Err(error) => Err(AssetError::unavailable(error)),
        }
    }

    /// Whether what is there is what should have been written; only a piece of it is held at a time.
    async fn compare(&self, object: &str, bytes: &Bytes) -> Result<(), AssetError> {
        let conflict = || AssetError::Conflict(object.to_owned());
        let gone = || AssetError::unavailable(format!("{object} was there, and is gone"));
        let mut stored = self.read(object).await?.ok_or_else(gone)?;
        let mut rest = bytes.as_ref();
        while let Some(piece) = within(stored.next()).await? {
            let piece = piece.map_err(AssetError::unavailable)?;
            rest = rest.strip_prefix(piece.as_ref()).ok_or_else(conflict)?;
        }
        if rest.is_empty() { Ok(()) } else { Err(conflict()) }
    }

    async fn read(&self, object: &str) -> Result<Option<ReadObjectResponse>, AssetError> {
        let read = self.gcs.data.read_object(&self.path, named(object)?);
        let answer = within(Box::pin(read.send())).await?;
        if_there(answer).map_err(AssetError::unavailable)
    }

    /// The receipt of the first object whose name is `stem` and the ending of a picture.
    async fn find_listed(&self, stem: &str) -> Result<Option<Receipt>, AssetError> {
        let mut listed =
            self.gcs.control.list_objects().set_parent(&self.path).set_prefix(format!("{stem}.")).by_item();
        while let Some(object) = listed.next().await {
            // Also if the bucket is not there: that says nothing of the picture.
            let object = object.map_err(AssetError::unavailable)?;
            let ending = object.name.strip_prefix(stem).and_then(|ending| ending.strip_prefix('.'));
            if PictureFormat::ALL.into_iter().any(|format| ending == Some(format.ending())) {
                let receipt = object.metadata.get(RECEIPT).and_then(|json| serde_json::from_str(json).ok());
                return receipt.map(Some).ok_or_else(|| AssetError::Damaged(stem.to_owned()));
            }
        }
        Ok(None)
    }

    async fn signed(&self, object: &str, file_name: &str, ttl: Duration) -> Result<SignedLink, AssetError> {
        let signer = match &self.gcs.signing {
            Signing::Key(signer) | Signing::Keyless(signer) => signer,
            Signing::Unable(reason) => return Err(AssetError::unavailable(reason.clone())),
            Signing::Unsigned => {
                let url = format!("{}/{}/{object}", self.endpoint(), self.bucket);
                return Ok(SignedLink { url, expires_at: self.clock.now().after(ttl) });
            }
        };
        let link = SignedUrlBuilder::for_object(&self.path, object)
            .with_endpoint(self.endpoint())
            .with_expiration(ttl)
            .with_query_param("response-content-disposition", disposition(file_name));
        let url = within(link.sign_with(signer)).await?.map_err(AssetError::unavailable)?;
        // The signature is dated by the system's clock: what the link says is what holds.
        let undated = || AssetError::unavailable("a signed link does not say when it ends");
        let expires_at = address::end(&url).ok_or_else(undated)?;
        Ok(SignedLink { url, expires_at })
    }

    /// Where objects are read over HTTP.
    fn endpoint(&self) -> &str {
        self.gcs.emulator.as_deref().unwrap_or(address::GOOGLE)
    }
}

#[async_trait]
impl AssetStore for GcsAssets {
    async fn store(&self, picture: Bytes, thumbnail: Option<Bytes>, receipt: &Receipt) -> Result<(), AssetError> {
        if let (Some(bytes), Some(object)) = (thumbnail, &receipt.picture.thumbnail) {
            self.create(object, bytes, None).await?;
        }
        self.create(&receipt.picture.object, picture, Some(receipt)).await
    }

    async fn put(&self, object: &str, picture: Bytes) -> Result<(), AssetError> {
        self.create(object, picture, None).await
    }

    async fn find(&self, stem: &str) -> Result<Option<Receipt>, AssetError> {
        within(self.find_listed(named(stem)?)).await?
    }

    async fn link(&self, object: &str, file_name: &str, ttl: Duration) -> Result<SignedLink, AssetError> {
        self.signed(named(object)?, file_name, ttl).await
    }

    fn locate(&self, url: &str) -> Option<LinkedObject> {
        address::locate(url, &self.bucket, self.gcs.emulator.as_deref())
    }

    async fn open(&self, object: &str) -> Result<Option<OpenObject>, AssetError> {
        let (true, Some(content_type)) = (is_object_name(object), content_type(object)) else { return Ok(None) };
        let Some(stored) = self.read(object).await? else { return Ok(None) };
        let length = u64::try_from(stored.object().size).map_err(AssetError::unavailable)?;
        let body = futures_util::stream::try_unfold(stored, |mut stored| async move {
            let piece = within(stored.next()).await.map_err(io::Error::other)?;
            Ok(piece.transpose().map_err(io::Error::other)?.map(|piece| (piece, stored)))
        });
        Ok(Some(OpenObject { content_type, length, body: body.boxed() }))
    }

    async fn open_signed(&self, _object: &str, _query: &SignedQuery) -> Result<Option<OpenObject>, AssetError> {
        Ok(None)
    }

    fn uri(&self, object: &str) -> String {
        address::uri(&self.bucket, object)
    }

    fn origin(&self) -> Option<&str> {
        Some(self.endpoint())
    }

    async fn check(&self) -> Result<(), AssetError> {
        let probe = self.gcs.data.read_object(&self.path, PROBE).with_retry_policy(NeverRetry);
        let answer =
            tokio::time::timeout(CHECK_TIMEOUT, Box::pin(probe.send())).await.map_err(AssetError::unavailable)?;
        if_there(answer).map(drop).map_err(AssetError::unavailable)
    }
}

/// `name` itself, if the service may use it.
fn named(name: &str) -> Result<&str, AssetError> {
    let refused = || AssetError::unavailable(format!("{name} is no object name"));
    is_object_name(name).then_some(name).ok_or_else(refused)
}

/// What `step` came to, in bounded time.
async fn within<T>(step: impl Future<Output = T>) -> Result<T, AssetError> {
    gcs::within(step).await.map_err(AssetError::unavailable)
}
