//! The port to reference pictures: a URL that a stranger wrote becomes a checked picture or an error.

pub mod content;
pub mod shelf;
pub mod web;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::picture::{PictureFormat, ReferenceImage};
use crate::domain::spec::Reference;
use crate::domain::state::{ErrorCode, ImageError};

/// Why a reference cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It points where this service does not go. Never says what a name resolved to.
    #[error("its address is not one this service connects to")]
    Blocked,
    /// It has too many bytes or pixels.
    #[error("it is too large: {0}")]
    TooLarge(String),
    /// It could not be fetched in time; trying again may help.
    #[error("it could not be fetched: {0}")]
    Unreachable(String),
    /// What came back is not a picture this service takes, or not the one that was promised.
    #[error("it cannot be used: {0}")]
    Unusable(String),
}

impl ReferenceError {
    /// What the client is told about the picture's reference `number`, counted from 1.
    #[must_use]
    pub fn to_image_error(&self, number: u32) -> ImageError {
        let detail = format!("reference {number}: {self}");
        match self {
            Self::Blocked => ImageError::lasting(ErrorCode::ReferenceBlocked, detail),
            Self::TooLarge(_) => ImageError::lasting(ErrorCode::ReferenceTooLarge, detail),
            Self::Unreachable(_) => ImageError::passing(ErrorCode::ReferenceFailed, detail),
            Self::Unusable(_) => ImageError::lasting(ErrorCode::ReferenceFailed, detail),
        }
    }
}

/// Turns references into pictures.
#[async_trait]
pub trait ReferenceSource: Send + Sync + 'static {
    /// Fetches and checks one reference.
    ///
    /// # Errors
    /// [`ReferenceError`]; nothing is kept.
    async fn fetch(&self, reference: &Reference) -> Result<ReferenceImage, ReferenceError>;
}

/// A reference as it is kept for the next picture that needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The picture, checked and encoded by this service.
    pub bytes: Bytes,
    /// Its format.
    pub format: PictureFormat,
}

/// Keeps references within a bound. May forget any of them at any time; fails by forgetting.
#[async_trait]
pub trait ReferenceShelf: Send + Sync + 'static {
    /// What was put under `name`, if it is still there.
    async fn take(&self, name: &str) -> Option<Kept>;

    /// Keeps a picture under `name`, which is hexadecimal.
    async fn put(&self, name: &str, kept: Kept);
}
