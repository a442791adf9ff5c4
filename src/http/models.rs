//! What can be made, and within which limits: what a form to fill in needs to know.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use crate::domain::spec::{MAX_PROMPT_CHARS, MAX_REFERENCES};
use crate::service::models::ModelsView;

/// The models, and the limits of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CatalogueView {
    /// The models.
    #[serde(flatten)]
    models: ModelsView,
    /// What a batch may have.
    limits: LimitsView,
}

/// The most that a batch may have.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsView {
    /// Most rows.
    rows: u32,
    /// Most pictures of a row.
    variants: u32,
    /// Most references of a row, those of the pack included.
    references: usize,
    /// Most characters of a prompt.
    prompt_chars: usize,
    /// Most bytes of an uploaded reference.
    reference_bytes: u64,
}

/// Lists the models that may be called, with their shapes, sizes and prices, and the limits of a batch.
#[utoipa::path(
    get, path = "/models", tag = "batches",
    responses((status = 200, description = "What can be made", body = CatalogueView)),
)]
pub async fn models(State(state): State<AppState>) -> Json<CatalogueView> {
    let limits = LimitsView {
        rows: state.limits.max_rows,
        variants: state.limits.max_variants,
        references: MAX_REFERENCES,
        prompt_chars: MAX_PROMPT_CHARS,
        reference_bytes: state.references.max_bytes(),
    };
    Json(CatalogueView { models: state.batches.models(&state.default_model), limits })
}
