//! The HTTP contract: routes, what they take, what they answer.
//!
//! Handlers extract, call one service method and render; they decide nothing. May call `service`,
//! `domain`, `clock`, `telemetry` and the assets port; refuses to know a store, a provider or an
//! adapter. Every answer that is an error is a [`problem::Problem`].

pub mod access;
pub mod answer;
pub mod body;
mod connections;
pub mod console;
pub mod credentials;
pub mod describe;
pub mod docs;
pub mod etag;
pub mod extract;
mod files;
pub mod images;
pub mod limits;
pub mod local;
pub mod models;
pub mod operations;
pub mod origins;
pub mod pictures;
pub mod prefer;
pub mod problem;
pub mod progress;
pub mod references;
pub mod results;
pub mod retry;
pub mod schema;
pub mod serve;
pub mod session;
pub mod status;
mod traced;
pub mod upload;
pub mod webhooks;

use std::sync::Arc;

use axum::extract::FromRef;
use axum::http::HeaderValue;
use axum::{Extension, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;

use self::limits::RequestLimits;
use self::upload::UploadBudget;
use crate::assets::AssetStore;
use crate::clock::Clock;
use crate::service::access::Access;
use crate::service::batches::Batches;
use crate::service::feed::Feeds;
use crate::service::health::Health;
use crate::service::overview::Overview;
use crate::service::uploads::Uploads;
use crate::service::webhooks::Webhooks;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;

/// What requests are bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Most rows of a batch.
    pub max_rows: u32,
    /// Most pictures a row.
    pub max_variants: u32,
    /// Most bytes of a body.
    pub max_body_bytes: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self { max_rows: 1_000, max_variants: 3, max_body_bytes: 16 << 20 }
    }
}

/// Everything that handlers need.
#[derive(Clone)]
pub struct AppState {
    /// The use cases of batches.
    pub batches: Arc<Batches>,
    /// Uploaded reference pictures.
    pub references: Arc<Uploads>,
    /// Who is told what happens in batches.
    pub webhooks: Arc<Webhooks>,
    /// Progress streams.
    pub feeds: Arc<Feeds>,
    /// Whether the parts answer.
    pub health: Arc<Health>,
    /// What an operator looks at.
    pub overview: Arc<Overview>,
    /// Local pictures.
    pub assets: Arc<dyn AssetStore>,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Where requests leave their spans.
    pub traces: Traces,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// What requests are bounded by.
    pub limits: HttpLimits,
    /// The model of a batch that names none.
    pub default_model: Arc<str>,
    /// Whether progress streams are switched on.
    pub sse_enabled: bool,
    /// What bodies may take of the memory.
    pub uploads: UploadBudget,
    /// Lets callers in.
    pub access: Arc<Access>,
    /// How much each caller may ask for.
    pub callers: Arc<RequestLimits>,
    /// The origins of other pages that may use the service: `https://app.example`.
    pub origins: Arc<[HeaderValue]>,
    /// Whether a platform stands in front, which adds the client's address and speaks TLS.
    pub behind_platform: bool,
}

macro_rules! from_state {
    ($($field:ident: $type:ty,)+) => {
        $(impl FromRef<AppState> for $type {
            fn from_ref(state: &AppState) -> Self {
                state.$field.clone()
            }
        })+
    };
}

from_state! {
    access: Arc<Access>,
    batches: Arc<Batches>,
    feeds: Arc<Feeds>,
    health: Arc<Health>,
    overview: Arc<Overview>,
    assets: Arc<dyn AssetStore>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    limits: HttpLimits,
}

/// Every route, ready to be served.
pub fn router(state: AppState) -> Router {
    let (routes, description) = describe::routes();
    routes
        .layer(middleware::from_fn_with_state(state.clone(), access::check))
        .layer(Extension(Arc::new(description)))
        .layer(CatchPanicLayer::custom(answer::after_panic))
        .layer(origins::layer(&state.origins))
        .layer(middleware::from_fn_with_state(state.clone(), answer::answer))
        .with_state(state)
}
