//! Who is let in, as the configuration says.

use std::sync::Arc;

use anyhow::Context as _;
use axum::http::HeaderValue;

use crate::clock::Clock;
use crate::config::{Auth, Config};
use crate::http::limits::{CallerLimits, RequestLimits};
use crate::http::serve::most_connections;
use crate::service::access::{Access, AccessMode, AccessRules};
use crate::store::Store;

/// What lets callers in, and says so where nobody is.
pub(super) async fn open(config: &Config, store: Arc<Store>, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<Access>> {
    let mode = match config.access.auth {
        Auth::Keys => AccessMode::Keys,
        Auth::Open => AccessMode::Open,
        Auth::OpenWithoutKeys => AccessMode::OpenWithoutKeys,
        Auth::CloudRun => AccessMode::Platform,
    };
    let (keys, file) = (config.access.keys.clone(), config.access.keys_file.clone());
    let rules = AccessRules { mode, keys, file, budgets: config.features.budget_guard };
    let access = Access::new(store, clock, rules).context("API_KEYS_FILE cannot be used")?;
    match mode {
        AccessMode::Platform => tracing::warn!(
            "callers are let in on Cloud Run's word: the service must be deployed with --no-allow-unauthenticated"
        ),
        AccessMode::Keys if !access.has_keys().await? => tracing::warn!(
            "there is no API key yet, so nobody is let in: make one with `orchestrator keys new --name NAME`"
        ),
        AccessMode::Keys | AccessMode::Open | AccessMode::OpenWithoutKeys => {}
    }
    Ok(Arc::new(access))
}

pub(super) fn limits(config: &Config, clock: &Arc<dyn Clock>) -> Arc<RequestLimits> {
    let limits = CallerLimits {
        changes_per_minute: config.access.changes_per_minute,
        streams: config.access.max_streams,
        all_streams: u32::try_from(most_connections() / 4 * 3).unwrap_or(u32::MAX),
    };
    Arc::new(RequestLimits::new(limits, clock))
}

/// The origins of other pages that may use the service.
pub(super) fn origins(config: &Config) -> anyhow::Result<Arc<[HeaderValue]>> {
    let origins = config.access.origins.iter().map(|origin| HeaderValue::from_str(origin));
    origins.collect::<Result<_, _>>().context("CORS_ORIGINS")
}
