//! What the demo reads of the service's answers.

use serde::Deserialize;

use crate::domain::money::MicroUsd;
use crate::domain::state::{BatchState, Counts, ImageError};
use crate::domain::time::Day;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Batch {
    #[serde(rename = "batchId")]
    pub(super) id: String,
    pub(super) estimated_cost: MicroUsd,
    pub(super) actual_cost: MicroUsd,
    pub(super) counts: Counts,
    pub(super) items: Vec<Item>,
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
    pub(super) error: Option<ImageError>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Budget {
    pub(super) day: Day,
    pub(super) everyone: Scope,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Scope {
    pub(super) daily_limit: Option<MicroUsd>,
    pub(super) spent: MicroUsd,
    pub(super) reserved: MicroUsd,
}

/// The pictures that ended otherwise than they should: all are made, but those of a row with `refused_marker`.
pub(super) fn unexpected(batch: &Batch, refused_marker: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in &batch.items {
        let expected = if item.prompt.contains(refused_marker) { BatchState::Failed } else { BatchState::Completed };
        for image in item.images.iter().filter(|image| image.state != expected) {
            wrong.push(format!("{} v{} is {}", item.scene_id, image.variant, image.state.as_str()));
        }
    }
    wrong
}
