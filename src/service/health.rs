//! Whether the parts that the service stands on answer.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::ledger::Exporter;
use super::notices::sentence;
use crate::assets::AssetStore;
use crate::clock::Clock;
use crate::store::Store;

/// A part that has not answered by then does not answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks store and assets, and the gate before the provider, whose configuration was checked at the start.
pub struct Health {
    store: Arc<Store>,
    assets: Arc<dyn AssetStore>,
    gate: Arc<Gate>,
    exporter: Option<Arc<Exporter>>,
    clock: Arc<dyn Clock>,
}

impl Health {
    /// Watches these parts.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        assets: Arc<dyn AssetStore>,
        gate: Arc<Gate>,
        exporter: Option<Arc<Exporter>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, assets, gate, exporter, clock }
    }

    /// Why charges are not in the ledger yet; `None` while they are exported, or are not to be. No reason to send
    /// clients elsewhere: the database keeps them.
    #[must_use]
    pub fn ledger_trouble(&self) -> Option<String> {
        self.exporter.as_ref()?.trouble()
    }

    /// Why no call to the provider starts now; `None` while they do. No reason to send clients elsewhere:
    /// batches are taken in all the same.
    #[must_use]
    pub fn provider_trouble(&self) -> Option<String> {
        self.gate.trouble(None).and_then(|closed| sentence(closed, self.clock.as_ref()))
    }

    /// The reasons why the service cannot work now; empty if it can.
    pub async fn reasons(&self) -> Vec<String> {
        let store = async { self.store.ping().await.map_err(|error| error.to_string()) };
        let assets = async { self.assets.check().await.map_err(|error| error.to_string()) };
        let (store, assets) =
            tokio::join!(tokio::time::timeout(DEADLINE, store), tokio::time::timeout(DEADLINE, assets));
        [("store", store), ("assets", assets)]
            .into_iter()
            .filter_map(|(part, answer)| match answer {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(format!("{part}: {reason}")),
                Err(_) => Some(format!("{part}: no answer within {} s", DEADLINE.as_secs())),
            })
            .collect()
    }
}
