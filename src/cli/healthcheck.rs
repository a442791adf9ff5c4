//! `orchestrator healthcheck`: for container runtimes that have no curl.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::client::Client;
use crate::config::Config;

/// Less than the usual timeout of a container's health check.
const DEADLINE: Duration = Duration::from_secs(3);

/// Asks the service that this configuration starts whether it is alive.
pub(super) async fn run(config: &Config) -> anyhow::Result<()> {
    ensure!(config.http.port != 0, "PORT is 0: the port that the service took is not known here");
    let client = Client::local(config.http.address())?;
    tokio::time::timeout(DEADLINE, client.get::<serde_json::Value>("/health")).await.context("no answer in time")??;
    Ok(())
}
