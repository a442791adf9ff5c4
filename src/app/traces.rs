//! Where traces go.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context as _;

use crate::clock::Clock;
use crate::config::TracesConfig;
use crate::domain::ids::WorkerId;
use crate::telemetry::traces::Traces;
use crate::telemetry::traces::collector::{self, Address, Collector};

/// Sets up the collector, if one is named; connects nowhere.
pub(super) fn open(
    config: &TracesConfig,
    me: WorkerId,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<(Traces, Option<Collector>)> {
    let Some(endpoint) = config.endpoint.clone() else { return Ok((Traces::off(), None)) };
    let headers = config.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect();
    let address = Address { endpoint, headers, service: config.service.clone(), instance: me.to_string() };
    let (traces, collector) = collector::open(address, clock).context("cannot set up the trace collector")?;
    Ok((traces, Some(collector)))
}

/// Sends spans for as long as it is polled.
pub(super) async fn collect(collector: Option<Collector>) -> Infallible {
    match collector {
        Some(collector) => collector.run().await,
        None => std::future::pending().await,
    }
}
