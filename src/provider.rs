//! The port to a paid image model: one call in, one answer out, and what each end of a call means
//! for the money.
//!
//! An adapter sends exactly one request a call: no redirect, no retry once bytes are sent.

pub mod gemini;
pub mod synthetic;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::ids::AttemptId;
use crate::domain::picture::ReferenceImage;
use crate::domain::prices::Usage;
use crate::domain::spec::{AspectRatio, ImageSize};
use crate::domain::state::ImageError;

/// One paid call.
#[derive(Clone)]
pub struct ImageCall {
    /// The attempt that was durably started for it.
    pub attempt: AttemptId,
    /// The model.
    pub model: String,
    /// What to draw.
    pub prompt: String,
    /// The variant of the row, counting from 1.
    pub variant: u32,
    /// Width to height.
    pub aspect_ratio: AspectRatio,
    /// The size class.
    pub image_size: ImageSize,
    /// At most [`MAX_REFERENCES`](crate::domain::spec::MAX_REFERENCES).
    pub references: Vec<ReferenceImage>,
    /// Most output tokens, text and thinking included; the reserve was computed for it.
    pub output_cap: u32,
    /// Most bytes of the answer's body that the memory has room for.
    pub max_answer_bytes: usize,
}

/// An answer with status 200. It is paid for, whatever is in it.
pub struct Answer {
    /// The encoded picture, or why there is none.
    pub picture: Result<Bytes, ImageError>,
    /// What was used; without it the cost is unknown.
    pub usage: Option<Usage>,
    /// The provider's name for the call.
    pub request_id: Option<String>,
}

/// A call that ended without an answer, grouped by what it means for the money and the next try.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The provider asked us to slow down. Nothing was charged.
    #[error("provider asked us to slow down")]
    Throttled {
        /// For how long, if it said so.
        retry_after: Option<Duration>,
    },
    /// The provider's quota of the day is used up: nothing was charged, and no call will be taken until it is reset.
    #[error("the provider's daily quota is used up")]
    QuotaExhausted {
        /// The time until it is reset.
        resets_in: Duration,
    },
    /// The provider's own error body, or a connection that never opened: nothing was charged, and
    /// trying again may help.
    #[error("provider failed: {0}")]
    Failed(String),
    /// The provider refused the request. Nothing was charged, and trying again cannot help.
    #[error("provider refused the request: {}", .0.detail)]
    Refused(ImageError),
    /// The request was sent and nobody can know whether it was charged.
    #[error("outcome of the call unknown: {0}")]
    OutcomeUnknown(String),
}

/// Calls a paid image model.
#[async_trait]
pub trait ImageProvider: Send + Sync + 'static {
    /// Its name in the configuration.
    fn name(&self) -> &'static str;

    /// Makes one call. The deadline is the caller's.
    ///
    /// # Errors
    /// [`ProviderError`] says what the end of the call means for the money.
    async fn generate(&self, call: &ImageCall) -> Result<Answer, ProviderError>;
}
