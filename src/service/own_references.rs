//! References that this service keeps itself: pictures that were uploaded or made here, without a network call.
//!
//! A link proves nothing: the database says whose an object is, by its whole name, so that nothing is opened that
//! was made of what somebody wrote. What is not the caller's is told like what is not there. A signature is not
//! asked for, as the owner may see the picture anyway; so one that has expired does no harm.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;

use super::execute::describe;
use crate::assets::{AssetStore, LinkedObject, OpenObject};
use crate::clock::Clock;
use crate::domain::ids::UserId;
use crate::domain::picture::ReferenceImage;
use crate::domain::spec::Reference;
use crate::references::ReferenceError;
use crate::references::content::Preparer;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// The folders whose pictures may be referred to.
const FOLDERS: [&str; 2] = ["images/", "references/"];

/// Gets references out of our own assets.
pub struct OwnReferences {
    store: Arc<Store>,
    assets: Arc<dyn AssetStore>,
    preparer: Preparer,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl OwnReferences {
    /// Asks `store` whose a picture is, and reads it from `assets`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        assets: Arc<dyn AssetStore>,
        preparer: Preparer,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { store, assets, preparer, clock, metrics }
    }

    /// What `reference` leads to, if it is an address of ours.
    #[must_use]
    pub fn locate(&self, reference: &Reference) -> Option<LinkedObject> {
        self.assets.locate(reference.url.as_str())
    }

    /// The picture that `link` leads to, if it is `owner`'s.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub async fn get(
        &self,
        owner: &UserId,
        link: &LinkedObject,
        reference: &Reference,
    ) -> Result<ReferenceImage, ReferenceError> {
        if !FOLDERS.iter().any(|folder| link.object.starts_with(folder)) {
            return Err(ReferenceError::Blocked);
        }
        let is_theirs = self.store.owns_object(owner, &link.object).await.map_err(|error| away(&error))?;
        let opened = if is_theirs { self.assets.open(&link.object).await.map_err(|error| away(&error))? } else { None };
        let missing = || ReferenceError::Unusable("there is no such picture of yours here".to_owned());
        let opened = opened.ok_or_else(missing)?;
        let bytes = self.read(opened).await?;
        let picture = self.preparer.prepare(bytes, reference.sha256.clone()).await?;
        if link.expires_at.is_some_and(|end| end <= self.clock.now()) {
            self.metrics.url_refreshes.inc();
        }
        Ok(ReferenceImage { bytes: picture.bytes, format: picture.format, mode: reference.mode })
    }

    async fn read(&self, object: OpenObject) -> Result<Bytes, ReferenceError> {
        let most = self.preparer.max_bytes();
        if object.length > most {
            let detail = format!("it has {} bytes, and {most} are taken", object.length);
            return Err(ReferenceError::TooLarge(detail));
        }
        let (mut bytes, mut body) = (BytesMut::new(), object.body);
        while let Some(piece) = body.try_next().await.map_err(|error| away(&error))? {
            bytes.extend_from_slice(&piece);
            // An emulator may not know how long an object is.
            if bytes.len() as u64 > most {
                return Err(ReferenceError::TooLarge(format!("it has more than the {most} bytes that are taken")));
            }
        }
        Ok(bytes.freeze())
    }
}

fn away(cause: &dyn std::error::Error) -> ReferenceError {
    tracing::warn!(error = %describe(cause), "cannot read a reference of our own");
    ReferenceError::Unreachable("a part of this service did not answer".to_owned())
}
