//! Prepares pictures off the async threads, one at a time in the whole process, wherever they came from.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Prepared, prepare};
use crate::domain::picture::Sha256Hex;
use crate::references::ReferenceError;

/// What pictures are bounded by, and the one place where one of them is decoded. Clones share it.
#[derive(Debug, Clone)]
pub struct Preparer {
    decoding: Arc<Semaphore>,
    max_bytes: u64,
    max_pixels: u64,
}

/// A prepared picture, known by its content.
#[derive(Debug, Clone)]
pub struct Hashed {
    /// The picture.
    pub prepared: Prepared,
    /// The hash of its bytes.
    pub sha256: Sha256Hex,
    /// The hash of the bytes that it was made of.
    pub source: Sha256Hex,
}

impl Preparer {
    /// For pictures of at most `max_bytes` bytes and `max_pixels` pixels as they come.
    #[must_use]
    pub fn new(max_bytes: u64, max_pixels: u64) -> Self {
        Self { decoding: Arc::new(Semaphore::new(1)), max_bytes, max_pixels }
    }

    /// Most bytes of a picture as it comes. Who reads it holds to this: preparing does not ask.
    #[must_use]
    pub const fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Checks and prepares `bytes`, which must have the SHA-256 that was `promised`, if any was.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub async fn prepare(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        promised: Option<String>,
    ) -> Result<Prepared, ReferenceError> {
        self.in_turn(move |max_pixels| {
            check_hash(bytes.as_ref(), promised.as_deref())?;
            prepare(bytes, max_pixels)
        })
        .await
    }

    /// Checks and prepares `bytes`, and says what both are known by.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub async fn prepare_and_hash(&self, bytes: Bytes) -> Result<Hashed, ReferenceError> {
        self.in_turn(move |max_pixels| {
            let source = Sha256Hex::of(&bytes);
            let prepared = prepare(bytes, max_pixels)?;
            Ok(Hashed { sha256: Sha256Hex::of(&prepared.bytes), source, prepared })
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(u64) -> Result<T, ReferenceError> + Send + 'static,
    ) -> Result<T, ReferenceError> {
        let stopped = |_| ReferenceError::Unreachable("the service is stopping".to_owned());
        let turn = self.decoding.clone().acquire_owned().await.map_err(stopped)?;
        let max_pixels = self.max_pixels;
        let done = tokio::task::spawn_blocking(move || {
            // Held inside: a caller that goes away does not stop the decoder, and must not start a second one.
            let _turn = turn;
            work(max_pixels)
        });
        // A decoder that panics has met a picture it cannot read.
        done.await.unwrap_or_else(|_| Err(ReferenceError::Unusable("it cannot be decoded".to_owned())))
    }
}

fn check_hash(bytes: &[u8], promised: Option<&str>) -> Result<(), ReferenceError> {
    match promised {
        Some(promised) if !Sha256Hex::of(bytes).to_string().eq_ignore_ascii_case(promised) => {
            Err(ReferenceError::Unusable("its bytes do not have the SHA-256 that was given".to_owned()))
        }
        _ => Ok(()),
    }
}
