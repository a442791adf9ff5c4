//! What the command line reads of the service's answers. What it does not know is ignored: changes of the contract only
//! add.

use std::time::Duration;

use serde::Deserialize;

use crate::domain::ids::BatchId;
use crate::domain::money::MicroUsd;
use crate::domain::picture::PictureFormat;
use crate::domain::spec::SceneId;
use crate::domain::state::{BatchState, Counts};
use crate::domain::time::{Day, Timestamp};
use crate::service::links::file_name;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Batch {
    #[serde(rename = "batchId")]
    pub(super) id: BatchId,
    pub(super) state: BatchState,
    created_at: Option<String>,
    pub(super) finished_at: Option<String>,
    pub(super) estimated_cost: MicroUsd,
    pub(super) actual_cost: MicroUsd,
    pub(super) unknown_cost: MicroUsd,
    pub(super) last_event: u64,
    pub(super) message: Option<String>,
    pub(super) counts: Counts,
    #[serde(default)]
    pub(super) items: Vec<Item>,
    pub(super) next_cursor: Option<String>,
}

impl Batch {
    /// How long it took, by the service's clock, if it ended.
    pub(super) fn lasted(&self) -> Option<Duration> {
        let at = |text: &Option<String>| text.as_ref()?.parse::<Timestamp>().ok();
        Some(at(&self.finished_at)?.since(at(&self.created_at)?))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    pub(super) scene_id: String,
    pub(super) prompt: String,
    pub(super) images: Vec<Image>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Image {
    pub(super) variant: u32,
    pub(super) state: BatchState,
    pub(super) uri: Option<String>,
    pub(super) cost: Option<MicroUsd>,
    pub(super) error: Option<Reason>,
    #[serde(flatten)]
    pub(super) stored: Stored,
}

/// Why a picture was not made.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reason {
    pub(super) code: String,
    pub(super) detail: String,
    pub(super) retryable: bool,
}

/// What is known of a picture that was made.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    mime_type: Option<String>,
    sha256: Option<String>,
    bytes: Option<u64>,
}

/// The `data` of an `image_complete` event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageComplete {
    pub(super) scene_id: String,
    pub(super) variant: u32,
    #[serde(flatten)]
    pub(super) stored: Stored,
}

/// A picture that was made, and that the service would give away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) scene: SceneId,
    pub(super) variant: u32,
    pub(super) format: PictureFormat,
    /// Lowercase hex.
    pub(super) sha256: String,
    /// Its length, if the service says it.
    pub(super) bytes: Option<u64>,
}

impl Picture {
    /// The picture, if it was made. A name that is none of ours names no file of ours.
    pub(super) fn new(scene: &str, variant: u32, stored: &Stored) -> Option<Self> {
        let mime_type = stored.mime_type.as_deref()?;
        let format = PictureFormat::ALL.into_iter().find(|format| format.mime_type() == mime_type)?;
        let (scene, sha256) = (scene.parse().ok()?, stored.sha256.clone()?);
        Some(Self { scene, variant, format, sha256, bytes: stored.bytes })
    }

    /// The name that a person would choose.
    pub(super) fn file_name(&self) -> String {
        file_name(&self.scene, self.variant, self.format)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Budget {
    pub(super) day: Day,
    pub(super) resets_at: String,
    pub(super) everyone: Scope,
    pub(super) user: Option<Scope>,
    pub(super) message: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Scope {
    pub(super) daily_limit: Option<MicroUsd>,
    pub(super) spent: MicroUsd,
    pub(super) reserved: MicroUsd,
    pub(super) remaining: Option<MicroUsd>,
    pub(super) unknown: MicroUsd,
}

impl Budget {
    /// What a new batch may still reserve; `None` if nothing bounds it.
    pub(super) fn remaining(&self) -> Option<MicroUsd> {
        let own = self.user.as_ref().and_then(|scope| scope.remaining);
        own.into_iter().chain(self.everyone.remaining).min()
    }
}

/// The answer to a dry run.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Estimate {
    pub(super) model: String,
    pub(super) estimated_cost: MicroUsd,
    pub(super) items: Vec<ItemEstimate>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ItemEstimate {
    pub(super) scene_id: String,
    pub(super) variants: u32,
    pub(super) estimated_cost: MicroUsd,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_file_name_only_if_it_was_made_and_its_row_has_a_name() {
        let stored = |mime: Option<&str>| Stored {
            mime_type: mime.map(str::to_owned),
            sha256: Some("00".into()),
            bytes: Some(1),
        };
        let name = |scene: &str, mime| Picture::new(scene, 2, &stored(mime)).map(|picture| picture.file_name());
        assert_eq!(name("s-001", Some("image/png")).as_deref(), Some("s-001_v2.png"));
        assert_eq!(name("S.1", Some("image/jpeg")).as_deref(), Some("S.1_v2.jpg"));
        for (scene, mime) in
            [("../s", Some("image/png")), ("s", None), ("s", Some("text/html")), (".s", Some("image/png"))]
        {
            assert_eq!(name(scene, mime), None, "{scene}");
        }
    }
}
