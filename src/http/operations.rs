//! What operators and their tools look at: the metrics, and the last hour.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::problem::Problem;
use crate::service::overview::{Overview, OverviewView};
use crate::telemetry::metrics::{CONTENT_TYPE as PROMETHEUS_TEXT, Metrics};

/// The metrics of this process, and the queue and money of all instances, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses(
        (status = 200, description = "Prometheus text, version 0.0.4", body = String, content_type = "text/plain"),
        (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn metrics(
    State(metrics): State<Arc<Metrics>>,
    State(overview): State<Arc<Overview>>,
) -> Result<impl IntoResponse, Problem> {
    let text = metrics.text(&overview.readings().await).map_err(|_| Problem::internal())?;
    Ok(([(CONTENT_TYPE, PROMETHEUS_TEXT)], text))
}

/// What an operator looks at first: the queue, the day's money, calls, ledger, and the last hour of this process.
#[utoipa::path(
    get, path = "/overview", tag = "service",
    responses(
        (status = 200, description = "Now, and the last hour", body = OverviewView),
        (status = "default", description = "Any error", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn overview(State(overview): State<Arc<Overview>>) -> Json<OverviewView> {
    Json(overview.view().await)
}
