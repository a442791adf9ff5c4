//! The results of a whole batch, in pages: one row a picture.

use serde::Serialize;
use utoipa::ToSchema;

use super::batches::{Batches, ServiceError};
use super::links::file_name;
use super::read::permalink;
use crate::domain::ids::{BatchId, UserId};
use crate::domain::money::MicroUsd;
use crate::domain::spec::SceneId;
use crate::domain::state::{BatchState, Billing, ImageError};
use crate::domain::time::Timestamp;
use crate::store::{ImageRow, ItemRow};

/// Items in a page: what is in memory of a batch of any size. With the longest prompts they are half a megabyte.
const PAGE: u32 = 10;

/// One picture of a batch, made or not.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultRow {
    /// Its row's name.
    #[schema(value_type = String)]
    pub scene_id: SceneId,
    /// Its number in the row, from 1.
    pub variant: u32,
    /// `queued`, `running`, `completed`, `failed` or `cancelled`.
    pub state: BatchState,
    /// Its row's prompt.
    pub prompt: String,
    /// The name under which it is saved, and is in the archive: `s-001_v1.png`.
    pub file: Option<String>,
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
    /// Where its bytes are; for this service alone.
    #[serde(skip)]
    pub object: Option<String>,
}

/// A page of results.
#[derive(Debug, Clone)]
pub struct ResultsPage {
    /// When the batch was accepted.
    pub created_at: Timestamp,
    /// Its pictures, by row and variant.
    pub rows: Vec<ResultRow>,
    /// Gives the page after it; `None` on the last.
    pub next: Option<u32>,
}

impl Batches {
    /// The page of results after the item `after`; 0 gives the first.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] or [`ServiceError::Unavailable`].
    pub async fn results(&self, caller: &UserId, batch: BatchId, after: u32) -> Result<ResultsPage, ServiceError> {
        let found = self.store.load_page(batch, caller, after, PAGE + 1).await?;
        let (row, mut items) = found.ok_or(ServiceError::NotFound)?;
        let more = items.len() > PAGE as usize;
        items.truncate(PAGE as usize);
        let next = items.last().filter(|_| more).map(|item| item.ordinal);
        let rows = items.into_iter().flat_map(|item| self.result_rows(batch, item)).collect();
        Ok(ResultsPage { created_at: row.created_at, rows, next })
    }

    fn result_rows(&self, batch: BatchId, item: ItemRow) -> Vec<ResultRow> {
        let ItemRow { scene_id, prompt, images, .. } = item;
        images.into_iter().map(|image| self.result_row(batch, &scene_id, &prompt, image)).collect()
    }

    fn result_row(&self, batch: BatchId, scene: &SceneId, prompt: &str, image: ImageRow) -> ResultRow {
        let variant = image.key.variant;
        let picture = image.picture;
        let of_picture = picture.as_ref();
        ResultRow {
            scene_id: scene.clone(),
            variant,
            state: image.state.shown(),
            prompt: prompt.to_owned(),
            file: of_picture.map(|picture| file_name(scene, variant, picture.format)),
            permalink: permalink(batch, scene, variant),
            uri: of_picture.map(|picture| self.links.uri(&picture.object)),
            mime_type: of_picture.map(|picture| picture.format.mime_type().to_owned()),
            width: of_picture.map(|picture| picture.width),
            height: of_picture.map(|picture| picture.height),
            bytes: of_picture.map(|picture| picture.bytes),
            cost: image.cost,
            billing: image.billing,
            attempts: image.attempts,
            error: image.error,
            sha256: of_picture.map(|picture| picture.sha256.clone()),
            object: picture.map(|picture| picture.object),
        }
    }
}
