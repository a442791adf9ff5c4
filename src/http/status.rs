//! Whether the service lives, whether it can work, and what it has counted.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::clock::Clock;
use crate::service::health::Health;
use crate::telemetry::metrics::Metrics;

/// A sign of life.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// Always true.
    ok: bool,
    /// Unix milliseconds.
    ts: i64,
}

/// Says that the process lives.
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, description = "Alive", body = HealthView)))]
pub async fn healthz(State(clock): State<Arc<dyn Clock>>) -> Json<HealthView> {
    Json(HealthView { ok: true, ts: clock.now().millis() })
}

/// Says that the process lives; for platforms that answer paths ending in z themselves.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, description = "Alive", body = HealthView)))]
pub async fn health(clock: State<Arc<dyn Clock>>) -> Json<HealthView> {
    healthz(clock).await
}

/// That the service can work.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadyView {
    /// Always true.
    ready: bool,
    /// Always empty.
    reasons: Vec<String>,
    /// Why no call to the provider starts just now; null while calls do. Batches are taken in all the same.
    provider: Option<String>,
    /// Why charges wait in the database, and since when; null while they are exported, or are not to be.
    ledger: Option<String>,
}

/// Says whether store, pictures and provider configuration answer.
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses(
        (status = 200, description = "It can work", body = ReadyView),
        (status = 503, description = "`unavailable`, with `reasons`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn readyz(State(health): State<Arc<Health>>) -> Result<Json<ReadyView>, Problem> {
    let reasons = health.reasons().await;
    if !reasons.is_empty() {
        return Err(Problem::unready(reasons));
    }
    let (provider, ledger) = (health.provider_trouble(), health.ledger_trouble());
    Ok(Json(ReadyView { ready: true, reasons, provider, ledger }))
}

/// Says whether the service can work; for platforms that answer paths ending in z themselves.
#[utoipa::path(
    get, path = "/ready", tag = "service",
    responses(
        (status = 200, description = "It can work", body = ReadyView),
        (status = 503, description = "`unavailable`, with `reasons`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn ready(health: State<Arc<Health>>) -> Result<Json<ReadyView>, Problem> {
    readyz(health).await
}

/// What this process has counted since its start.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricsView {
    /// Unix milliseconds.
    ts: i64,
    /// Requests taken, this one too.
    requests: u64,
    /// Answers with a status of 500 or more.
    errors: u64,
    /// Pictures stored.
    images_generated: u64,
    /// Links minted again because an earlier one was near its end.
    url_refreshes: u64,
    /// Pictures that failed.
    images_failed: u64,
    /// Paid calls started.
    calls_started: u64,
    /// Calls that the provider put off with a 429.
    calls_throttled: u64,
    /// Calls whose outcome is not known.
    calls_unknown: u64,
    /// Charges above what was reserved.
    overruns: u64,
    /// Ledger lines exported.
    ledger_lines: u64,
    /// Events read from the store for streams.
    events_read: u64,
    /// Events rendered for streams.
    events_rendered: u64,
    /// Progress streams opened.
    streams_opened: u64,
    /// Progress streams closed.
    streams_closed: u64,
}

/// What this process has counted since its start.
#[utoipa::path(get, path = "/metrics-lite", tag = "service", responses((status = 200, description = "Metrics", body = MetricsView)))]
pub async fn metrics_lite(
    State(clock): State<Arc<dyn Clock>>,
    State(metrics): State<Arc<Metrics>>,
) -> Json<MetricsView> {
    Json(MetricsView {
        ts: clock.now().millis(),
        requests: metrics.requests.get(),
        errors: metrics.errors.get(),
        images_generated: metrics.images_generated.get(),
        url_refreshes: metrics.url_refreshes.get(),
        images_failed: metrics.images_failed.get(),
        calls_started: metrics.calls_started.get(),
        calls_throttled: metrics.calls_throttled.get(),
        calls_unknown: metrics.calls_unknown.get(),
        overruns: metrics.overruns.get(),
        ledger_lines: metrics.ledger_lines.get(),
        events_read: metrics.events_read.get(),
        events_rendered: metrics.events_rendered.get(),
        streams_opened: metrics.streams_opened.get(),
        streams_closed: metrics.streams_closed.get(),
    })
}
