//! Whether the parts that the service stands on answer.

use std::sync::Arc;
use std::time::Duration;

use crate::assets::AssetStore;
use crate::store::Store;

/// A part that has not answered by then does not answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks store and assets. The provider's configuration was checked when the process started.
pub struct Health {
    store: Arc<Store>,
    assets: Arc<dyn AssetStore>,
}

impl Health {
    /// Watches these parts.
    #[must_use]
    pub fn new(store: Arc<Store>, assets: Arc<dyn AssetStore>) -> Self {
        Self { store, assets }
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
