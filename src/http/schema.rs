//! What `/openapi.json` says of bodies that no type of ours reads or writes: above all that of
//! `POST /images`. Documentation alone: `body` reads it, and a test in `describe` holds the two together.

use utoipa::ToSchema;

/// A batch of pictures to make.
#[derive(serde::Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "runMode": "live",
    "items": [{"sceneId": "s-001", "prompt": "product on clean background", "variants": 3}]
}))]
pub struct BatchBody {
    /// `dry_run` prices the batch and writes nothing. Also `run_mode`.
    #[schema(default = "dry_run")]
    run_mode: Option<RunModeBody>,
    /// The service's default model unless given.
    #[schema(min_length = 1, max_length = 100)]
    model: Option<String>,
    /// References that every item gets after its own. Also `ref_pack_public_urls`.
    #[schema(max_items = 6)]
    reference_pack: Option<Vec<ReferenceBody>>,
    /// The rows.
    #[schema(min_items = 1, max_items = 1000)]
    items: Vec<ItemBody>,
    /// Whom to tell what happens in a live batch.
    webhook: Option<WebhookBody>,
}

/// Whom to tell what happens in a batch.
#[derive(serde::Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://example.com/hook", "events": ["batch.completed", "image.completed"]}))]
pub struct WebhookBody {
    /// An absolute `https://` address without user info, of a public host. It is called as references are fetched.
    #[schema(max_length = 2048, format = "uri")]
    url: String,
    /// What is told; `batch.completed` alone unless given.
    #[schema(min_items = 1)]
    events: Option<Vec<crate::domain::state::WebhookEvent>>,
    /// Signs the messages: `whsec_` and the base64 of 24-64 bytes. The service makes one unless given.
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]+={0,2}$")]
    secret: Option<String>,
}

/// Which failed pictures are tried again.
#[derive(serde::Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"codes": ["provider_error", "quota_exhausted"]}))]
pub struct RetryBody {
    /// Only those that failed with one of these; without it, those whose error is `retryable`.
    #[schema(min_items = 1, max_items = 100)]
    codes: Option<Vec<crate::domain::state::ErrorCode>>,
}

/// Whether money may be spent.
#[derive(serde::Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunModeBody {
    /// Prices the batch.
    DryRun,
    /// Makes the pictures.
    Live,
}

/// One row.
#[derive(serde::Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "camelCase")]
pub struct ItemBody {
    /// The row's name, unique in the batch ignoring case. Also `scene_id`.
    #[schema(min_length = 1, max_length = 50, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    scene_id: String,
    /// What to draw.
    #[schema(min_length = 1, max_length = 4000)]
    prompt: String,
    /// How many pictures.
    #[schema(minimum = 1, maximum = 3, default = 1)]
    variants: Option<u32>,
    /// Pictures to go by; at most 6 with those of the pack. Equal ones count once.
    references: Option<Vec<ReferenceBody>>,
    /// The mode of every reference of this row that names none, those of the pack too. Also `reference_mode`.
    #[schema(default = "style_only")]
    reference_mode: Option<ReferenceModeBody>,
    /// Width to height: `1:1`, `2:3`, `3:2`, `3:4`, `4:3`, `4:5`, `5:4`, `9:16`, `16:9` or `21:9`. Also `aspect_ratio`.
    #[schema(default = "1:1")]
    aspect_ratio: Option<String>,
    /// The size class: `512`, `1K`, `2K` or `4K`. Also `image_size`.
    #[schema(default = "1K")]
    image_size: Option<String>,
}

/// A picture to go by: an object, or its address alone.
#[derive(serde::Serialize, ToSchema)]
#[serde(untagged)]
pub enum ReferenceBody {
    /// The address alone.
    Address(String),
    /// With what else is known of it.
    Full(ReferenceObject),
}

/// A picture to go by.
#[derive(serde::Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceObject {
    /// An absolute `https://` (or `http://`) address without user info; or the `url` or `uri` of a picture of this
    /// service, uploaded or made, which is found without a network call, also when the link has expired.
    #[schema(max_length = 2048, format = "uri-reference")]
    url: String,
    /// What of it counts; the row's `referenceMode` unless given.
    mode: Option<ReferenceModeBody>,
    /// The SHA-256 that its bytes must have, 64 hex digits.
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    sha256: Option<String>,
}

/// What of a reference counts.
#[derive(serde::Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceModeBody {
    /// Its style alone.
    StyleOnly,
    /// Its style and how it is composed.
    StyleAndComposition,
}

/// Reference pictures to keep.
#[derive(serde::Serialize, ToSchema)]
pub struct UploadBody {
    /// PNG, JPEG, WebP or GIF (its first frame), each in a part of this name. At most 10 MiB and 25 million pixels
    /// a file, unless the service is set up otherwise. What a part says of its type or name does not count.
    #[schema(min_items = 1, max_items = 6)]
    images: Vec<PictureBytes>,
}

/// The bytes of a picture.
#[derive(serde::Serialize, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct PictureBytes(Vec<u8>);

/// The bytes of an archive.
#[derive(serde::Serialize, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct ArchiveBytes(Vec<u8>);

/// One event of a progress stream, as a client of server-sent events gets it.
#[derive(serde::Serialize, ToSchema)]
pub struct ProgressFrame {
    /// The event's number in its batch.
    #[schema(pattern = "^[0-9]+$")]
    id: Option<String>,
    /// Its type: `started`, `image_complete`, `image_failed`, `item_complete`, `notice`, `cancelled` or `done`.
    event: Option<String>,
    /// JSON with `type`, `batchId`, `seq`, `ts` and what the type has.
    data: Option<String>,
    /// Milliseconds after which a client that lost the stream comes back.
    retry: Option<u32>,
}
