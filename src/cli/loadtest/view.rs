//! What a load test reads of the service's answers, beside what every command reads.

use serde::Deserialize;

use crate::domain::money::MicroUsd;
use crate::domain::state::{BatchState, Billing};

/// The counters of the process that answered.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metrics {
    /// Unix milliseconds, by the service's clock.
    pub(super) ts: i64,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) images_generated: u64,
    pub(super) images_failed: u64,
    pub(super) url_refreshes: u64,
    pub(super) ledger_lines: u64,
}

/// What can be made there.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Catalogue {
    /// Whether the synthetic provider makes every picture, so that nothing is paid.
    pub(super) rehearsal: bool,
}

/// A page of a batch's rows, with all that is checked of their pictures.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Rows {
    pub(super) model: String,
    pub(super) items: Vec<Row>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) scene_id: String,
    pub(super) prompt: String,
    pub(super) images: Vec<Image>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Image {
    pub(super) variant: u32,
    pub(super) state: BatchState,
    pub(super) url: Option<String>,
    pub(super) thumbnail_url: Option<String>,
    pub(super) permalink: String,
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
    pub(super) cost: Option<MicroUsd>,
    pub(super) billing: Option<Billing>,
    pub(super) attempts: u32,
    pub(super) error: Option<Reason>,
}

/// Why a picture was not made.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reason {
    pub(super) code: String,
}
