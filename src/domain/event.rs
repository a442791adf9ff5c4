//! Progress events as the database holds them: links are minted when an event is rendered.

use serde::{Deserialize, Serialize};

use super::money::MicroUsd;
use super::picture::Picture;
use super::spec::SceneId;
use super::state::{BatchState, Billing, Counts, ImageError};

/// What happened, in the order of a batch's event numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Event {
    /// The batch was accepted, or a retry began.
    Started {
        /// Pictures to make.
        total: u32,
    },
    /// A picture is stored.
    ImageComplete {
        /// Its row.
        scene_id: SceneId,
        /// Its number in the row.
        variant: u32,
        /// What it cost so far.
        cost: MicroUsd,
        /// Whether that is known.
        billing: Option<Billing>,
        /// Where it is.
        picture: Picture,
    },
    /// A picture will not be made.
    ImageFailed {
        /// Its row.
        scene_id: SceneId,
        /// Its number in the row.
        variant: u32,
        /// What it cost all the same.
        cost: MicroUsd,
        /// Whether that is known.
        billing: Option<Billing>,
        /// Why.
        error: ImageError,
    },
    /// No picture of this row is open any more.
    ItemComplete {
        /// The row.
        scene_id: SceneId,
        /// How it ended.
        state: BatchState,
    },
    /// Something the user should know that is not one picture's failure.
    Notice {
        /// A sentence.
        detail: String,
    },
    /// The batch was cancelled.
    Cancelled {
        /// Pictures that will not be made for that reason.
        cancelled: u32,
    },
    /// No picture of the batch is open any more.
    Done {
        /// Pictures that ended, one way or another.
        processed: u32,
        /// How the batch ended.
        state: BatchState,
        /// The pictures by state.
        counts: Counts,
        /// What the batch cost.
        cost: MicroUsd,
        /// The part of the cost that is for calls whose outcome is unknown.
        unknown_cost: MicroUsd,
    },
}

impl Event {
    /// The `event:` field of the stream.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::ImageComplete { .. } => "image_complete",
            Self::ImageFailed { .. } => "image_failed",
            Self::ItemComplete { .. } => "item_complete",
            Self::Notice { .. } => "notice",
            Self::Cancelled { .. } => "cancelled",
            Self::Done { .. } => "done",
        }
    }
}
