//! The log of what was delivered to a batch's webhook.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};

use super::extract::{Identity, Parameters, batch_id};
use super::problem::Problem;
use crate::service::batches::Batches;
use crate::service::view::WebhookLogView;

/// Deliveries in a page: unless asked otherwise, and at most.
const PAGE: (u32, u32) = (50, 200);

/// Lists what was delivered to the webhook of a batch, oldest first.
#[utoipa::path(
    get, path = "/images/{batchId}/webhooks", tag = "batches",
    params(
        ("batchId" = String, Path, description = "`bat_` and a ULID"),
        ("limit" = Option<u32>, Query, description = "Deliveries, 1-200; 50 unless given", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, pattern = "^(0|[1-9][0-9]{0,8})?$", description = "`nextCursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of deliveries", body = WebhookLogView),
        (status = 400, description = "`invalid_request`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`, also for another user's batch", body = Problem, content_type = "application/problem+json"),
        (status = "default", description = "Any other error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn deliveries(
    State(batches): State<Arc<Batches>>,
    Identity(caller): Identity,
    Path(batch): Path<String>,
    mut parameters: Parameters,
) -> Result<Json<WebhookLogView>, Problem> {
    let batch = batch_id(&batch)?;
    let page = parameters.page(PAGE.0, PAGE.1);
    parameters.finish()?;
    let caller = batches.acting_for(caller, batch).await?;
    Ok(Json(batches.deliveries(&caller.user, batch, &page).await?))
}
