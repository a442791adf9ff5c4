//! What a client sees: the JSON of the contract, filled from the store's rows.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::ids::BatchId;
use crate::domain::money::MicroUsd;
use crate::domain::spec::{ReferenceMode, RunMode, SceneId};
use crate::domain::state::{BatchState, Billing, Counts, DeliveryState, ImageError, WebhookEvent};
use crate::domain::time::{Day, Timestamp};
use crate::domain::webhook::{Webhook, WebhookSecret};

/// A batch and a page of its items.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchView {
    /// `bat_` and a ULID.
    #[schema(value_type = String, example = "bat_01KB0000000000000000000000")]
    pub batch_id: BatchId,
    /// Always `live`: a dry run is not kept.
    #[schema(value_type = String, example = "live")]
    pub run_mode: RunMode,
    /// How far it has come.
    pub state: BatchState,
    /// The model that makes its pictures.
    pub model: String,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When its last picture ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// What was reserved for it when it was submitted, and by each retry: an upper bound for one call of each picture
    /// then. US dollars.
    #[schema(value_type = f64)]
    pub estimated_cost: MicroUsd,
    /// What it has cost so far, unknown outcomes included. It may pass `estimatedCost` where a call's outcome
    /// is unknown and it is tried again: each such try reserves afresh, within the daily limits. US dollars.
    #[schema(value_type = f64)]
    pub actual_cost: MicroUsd,
    /// The part of the cost that is for calls whose outcome is not known. US dollars.
    #[schema(value_type = f64)]
    pub unknown_cost: MicroUsd,
    /// The number of its last event; follow the stream from here.
    pub last_event: u64,
    /// Something to know about it: a deprecated model, or that the synthetic provider only rehearses it.
    pub message: Option<String>,
    /// Its pictures by state.
    pub counts: Counts,
    /// What is told of it, and where; absent if nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookView>,
    /// A page of its rows; absent in a list of batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ItemView>>,
    /// Gives the next page of items; null on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<Option<String>>,
}

/// What is told of a batch, and where.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WebhookView {
    /// Where.
    pub url: String,
    /// What.
    pub events: Vec<WebhookEvent>,
    /// Signs the messages; in the answer to the submission alone.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose")]
    #[schema(value_type = Option<String>)]
    secret: Option<WebhookSecret>,
}

impl WebhookView {
    /// For whoever submits the batch.
    #[must_use]
    pub fn with_secret(webhook: Webhook) -> Self {
        Self { url: webhook.url, events: webhook.events, secret: Some(webhook.secret) }
    }

    /// For everybody else who may see the batch.
    #[must_use]
    pub fn without_secret(webhook: Webhook) -> Self {
        Self { url: webhook.url, events: webhook.events, secret: None }
    }
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn expose<S: serde::Serializer>(secret: &Option<WebhookSecret>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(WebhookSecret::expose).serialize(to)
}

/// What was delivered to the webhook of a batch.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WebhookLogView {
    /// The webhook, without its secret; null if the batch has none.
    pub webhook: Option<WebhookView>,
    /// The messages in the order in which they are delivered: each waits for the one before.
    pub deliveries: Vec<DeliveryView>,
    /// Gives the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// One message to a webhook.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryView {
    /// The header `webhook-id`, the same at each try.
    #[schema(example = "msg_01KB0000000000000000000000_4")]
    pub id: String,
    /// What it tells of.
    pub r#type: WebhookEvent,
    /// How far it has come.
    pub state: DeliveryState,
    /// Tries so far, one under way included.
    pub attempts: u32,
    /// When it is tried next; null while it is tried, while it waits for the one before, and at its end.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_attempt_at: Option<Timestamp>,
    /// The status that the receiver answered last; null if it did not answer.
    pub last_status: Option<u16>,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// When the receiver took it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delivered_at: Option<Timestamp>,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// One row of a batch.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemView {
    /// Its name.
    #[schema(value_type = String)]
    pub scene_id: SceneId,
    /// Its prompt.
    pub prompt: String,
    /// What its pictures go by: its own references, then the batch's pack.
    pub references: Vec<ReferenceView>,
    /// Width to height.
    #[schema(example = "1:1")]
    pub aspect_ratio: String,
    /// The size class.
    #[schema(example = "1K")]
    pub image_size: String,
    /// How far it has come.
    pub state: BatchState,
    /// The first error among its pictures.
    pub error: Option<ImageError>,
    /// Its pictures.
    pub images: Vec<ImageView>,
}

/// A picture to go by.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ReferenceView {
    /// As it was submitted; a link of this service to it may have expired.
    pub url: String,
    /// `style_only` or `style_and_composition`.
    #[schema(value_type = String, example = "style_only")]
    pub mode: ReferenceMode,
}

/// One picture.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// Its number in the row, from 1.
    pub variant: u32,
    /// `queued`, `running`, `completed`, `failed` or `cancelled`.
    pub state: BatchState,
    /// A fresh link.
    pub url: Option<String>,
    /// A fresh link to its thumbnail; null if none could be made.
    pub thumbnail_url: Option<String>,
    /// When both links stop working.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub url_expires_at: Option<Timestamp>,
    /// An address that lasts as long as the picture, and redirects to a fresh link.
    pub permalink: String,
    /// Where it is stored: `gs://…` or `local:…`.
    pub uri: Option<String>,
    /// Its media type.
    pub mime_type: Option<String>,
    /// Pixels across.
    pub width: Option<u32>,
    /// Pixels down.
    pub height: Option<u32>,
    /// Its size in bytes.
    pub bytes: Option<u64>,
    /// Lowercase hex.
    pub sha256: Option<String>,
    /// What its calls cost so far; null before the first ended. US dollars.
    #[schema(value_type = Option<f64>)]
    pub cost: Option<MicroUsd>,
    /// Whether that is known; null before the first call ended.
    pub billing: Option<Billing>,
    /// Calls made for it.
    pub attempts: u32,
    /// Why it was not made.
    pub error: Option<ImageError>,
}

/// A page of batches, newest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchListView {
    /// The batches, without items.
    pub batches: Vec<BatchView>,
    /// Gives the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// What a batch would reserve: the answer to a dry run.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EstimateView {
    /// Always null: nothing was written.
    #[schema(value_type = Option<String>)]
    pub batch_id: Option<BatchId>,
    /// Always `dry_run`.
    #[schema(value_type = String, example = "dry_run")]
    pub run_mode: RunMode,
    /// The model.
    pub model: String,
    /// What would be reserved: an upper bound for one call of each picture. US dollars.
    #[schema(value_type = f64)]
    pub estimated_cost: MicroUsd,
    /// The same by row.
    pub items: Vec<ItemEstimateView>,
    /// What to know, and how to make the pictures.
    pub message: String,
}

/// What one row would reserve.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemEstimateView {
    /// The row.
    #[schema(value_type = String)]
    pub scene_id: SceneId,
    /// Its pictures.
    pub variants: u32,
    /// US dollars.
    #[schema(value_type = f64)]
    pub estimated_cost: MicroUsd,
}

/// The day's money.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BudgetView {
    /// The UTC day that charges belong to now.
    #[schema(value_type = String, format = Date)]
    pub day: Day,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub resets_at: Timestamp,
    /// All users together.
    pub everyone: ScopeView,
    /// The caller; null while users have no limit of their own.
    pub user: Option<ScopeView>,
    /// What a person should know: that charges of today were taken in from the ledger, as the database was lost.
    pub message: Option<String>,
}

/// The money of everyone, or of one user.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScopeView {
    /// Null while the budget guard is off. US dollars.
    #[schema(value_type = Option<f64>)]
    pub daily_limit: Option<MicroUsd>,
    /// Charged today, unknown outcomes included. US dollars.
    #[schema(value_type = f64)]
    pub spent: MicroUsd,
    /// Held for pictures that are not finished. US dollars.
    #[schema(value_type = f64)]
    pub reserved: MicroUsd,
    /// What a new batch may still reserve; null while the guard is off. US dollars.
    #[schema(value_type = Option<f64>)]
    pub remaining: Option<MicroUsd>,
    /// The part of `spent` for calls whose outcome is not known. US dollars.
    #[schema(value_type = f64)]
    pub unknown: MicroUsd,
}

/// Uploaded pictures, in the order of the files.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UploadView {
    /// One for each file.
    pub references: Vec<UploadedView>,
}

/// An uploaded picture as it is stored: upright, at most 2,048 pixels a side, without metadata.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UploadedView {
    /// A link to it, and what to refer to it by in a batch, also after the link has expired.
    pub url: String,
    /// Of the stored picture, lowercase hex.
    pub sha256: String,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its media type.
    #[schema(example = "image/png")]
    pub mime_type: String,
}
