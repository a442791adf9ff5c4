//! Reference pictures that users upload: checked like fetched ones, stored as they will be sent.
//!
//! Every file of an upload is checked before any is stored, so a refused upload leaves nothing. A picture is stored
//! before a row says whose it is, so no row is without its picture.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use sha2::{Digest as _, Sha256};

use super::batches::ServiceError;
use super::links::Links;
use super::submit::IDEMPOTENCY_KEPT;
use super::view::UploadedView;
use crate::assets::AssetStore;
use crate::clock::Clock;
use crate::domain::ids::UserId;
use crate::domain::picture::Picture;
use crate::references::ReferenceError;
use crate::references::content::{self, Hashed, Preparer};
use crate::store::{Store, UploadKey, UploadOutcome};

/// Most files of one upload: as many as a row may have references.
pub const MAX_FILES: usize = crate::domain::spec::MAX_REFERENCES;
/// Digits of the hash that a picture is saved under.
const NAME_DIGITS: usize = 8;
/// Written first, so that a later change of the form cannot be taken for another request.
const FORM: &[u8] = b"orchestrator upload 1\n";

/// Why a file is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// It has too many bytes or pixels.
    #[error("it is too large: {0}")]
    TooLarge(String),
    /// It is of no kind that is taken.
    #[error("{0}")]
    WrongType(String),
    /// It is empty, damaged or cut off.
    #[error("{0}")]
    Damaged(String),
}

/// A file that is a picture, ready to be stored.
pub struct CheckedFile(Hashed);

impl CheckedFile {
    /// The bytes that it takes of the memory.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.prepared.bytes.len()
    }
}

/// What an upload is answered with.
pub struct Uploaded {
    /// The pictures, in the order of the files.
    pub references: Vec<UploadedView>,
    /// Whether an earlier request with the same key made them.
    pub replayed: bool,
}

/// Takes uploads.
pub struct Uploads {
    store: Arc<Store>,
    assets: Arc<dyn AssetStore>,
    links: Arc<Links>,
    clock: Arc<dyn Clock>,
    preparer: Preparer,
}

impl Uploads {
    /// Stores in `assets` what `preparer` made of the files.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        assets: Arc<dyn AssetStore>,
        links: Arc<Links>,
        clock: Arc<dyn Clock>,
        preparer: Preparer,
    ) -> Self {
        Self { store, assets, links, clock, preparer }
    }

    /// Most bytes of a file.
    #[must_use]
    pub const fn max_bytes(&self) -> u64 {
        self.preparer.max_bytes()
    }

    /// Checks and prepares one file.
    ///
    /// # Errors
    /// [`FileFault`].
    pub async fn check(&self, file: Bytes) -> Result<CheckedFile, FileFault> {
        if file.is_empty() {
            return Err(FileFault::Damaged("it is empty".to_owned()));
        }
        let taken = content::is_taken(&file);
        self.preparer.prepare_and_hash(file).await.map(CheckedFile).map_err(|error| match error {
            ReferenceError::TooLarge(detail) => FileFault::TooLarge(detail),
            ReferenceError::Unusable(detail) if !taken => FileFault::WrongType(detail),
            ReferenceError::Unusable(detail) | ReferenceError::Unreachable(detail) => FileFault::Damaged(detail),
            ReferenceError::Blocked => FileFault::Damaged("it cannot be used".to_owned()),
        })
    }

    /// Stores checked files as `caller`'s.
    ///
    /// # Errors
    /// [`ServiceError::KeyReused`], with nothing stored; [`ServiceError::Unavailable`] or
    /// [`ServiceError::Internal`], where a picture that is nobody's may be left.
    pub async fn keep(
        &self,
        caller: &UserId,
        files: &[CheckedFile],
        key: Option<String>,
    ) -> Result<Uploaded, ServiceError> {
        let now = self.clock.now();
        let forget_before = now.before(IDEMPOTENCY_KEPT);
        let key = key.map(|key| UploadKey { key, request_hash: request_hash(files), forget_before });
        if let Some(key) = &key
            && let Some(earlier) = self.store.find_upload(caller, key).await?
        {
            return self.answer(earlier, Vec::new()).await;
        }
        // An owner's name may be long or odd, and a hash of it could be guessed.
        let fresh = format!("{:032x}", rand::random::<u128>());
        let folder = self.store.upload_folder(caller, &fresh).await?;
        let pictures: Vec<Picture> = files.iter().map(|file| picture(&folder, &file.0)).collect();
        for (picture, file) in pictures.iter().zip(files) {
            self.assets.put(&picture.object, file.0.prepared.bytes.clone()).await?;
        }
        let outcome = self.store.keep_upload(caller, &pictures, key.as_ref(), now).await?;
        self.answer(outcome, pictures).await
    }

    async fn answer(&self, outcome: UploadOutcome, kept: Vec<Picture>) -> Result<Uploaded, ServiceError> {
        let (pictures, replayed) = match outcome {
            UploadOutcome::Kept => (kept, false),
            UploadOutcome::Replayed(earlier) => (earlier, true),
            UploadOutcome::KeyReused => return Err(ServiceError::KeyReused),
        };
        let references = pictures.into_iter().map(async |picture| {
            let digits: String = picture.sha256.chars().take(NAME_DIGITS).collect();
            let name = format!("reference-{digits}.{}", picture.format.ending());
            let link = self.links.fresh(&picture.object, &name).await?;
            Ok::<_, ServiceError>(UploadedView {
                url: link.url,
                sha256: picture.sha256,
                width: picture.width,
                height: picture.height,
                bytes: picture.bytes,
                mime_type: picture.format.mime_type().to_owned(),
            })
        });
        Ok(Uploaded { references: try_join_all(references).await?, replayed })
    }
}

fn picture(folder: &str, file: &Hashed) -> Picture {
    let prepared = &file.prepared;
    Picture {
        object: format!("references/{folder}/{}.{}", file.sha256, prepared.format.ending()),
        format: prepared.format,
        width: prepared.width,
        height: prepared.height,
        bytes: prepared.bytes.len() as u64,
        sha256: file.sha256.to_string(),
        thumbnail: None,
    }
}

/// What a repeated upload is recognised by: its files as they were sent, in their order.
fn request_hash(files: &[CheckedFile]) -> String {
    let mut form = Sha256::new_with_prefix(FORM);
    for file in files {
        form.update(file.0.source.to_string());
    }
    form.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
