//! What the command line does with the keys in the database, also beside a service that runs.

use std::sync::Arc;

use anyhow::bail;
use rand::Rng as _;

use super::advice;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::domain::access::{ApiKey, ID_BYTES, KeyId, KeyRecord, SECRET_BYTES};
use crate::service::access::keys_in;
use crate::store::{ListedKey, Store};

/// A new key, which nobody knows yet.
#[must_use]
pub fn random() -> ApiKey {
    let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
    rand::rng().fill_bytes(&mut id);
    rand::rng().fill_bytes(&mut secret);
    ApiKey::from_random(id, secret)
}

/// Whether the key's last day is over.
#[must_use]
pub fn has_ended(key: &KeyRecord) -> bool {
    key.expires_at.is_some_and(|end| end <= SystemClock::new().now())
}

/// Keeps a new key.
///
/// # Errors
/// What could not be opened or written.
pub async fn keep(config: &Config, key: &KeyRecord) -> anyhow::Result<()> {
    let store = open(config).await?;
    let kept = store.insert_key(key, SystemClock::new().now()).await;
    store.close().await;
    if !kept? {
        bail!("a key of this name exists already; try again");
    }
    Ok(())
}

/// The keys in the database.
///
/// # Errors
/// What could not be opened or read.
pub async fn list(config: &Config) -> anyhow::Result<Vec<ListedKey>> {
    let store = open(config).await?;
    let keys = store.list_keys().await;
    store.close().await;
    Ok(keys?)
}

/// Revokes a key; `None` if there is none of this name.
///
/// # Errors
/// What could not be opened or written.
pub async fn revoke(config: &Config, id: KeyId) -> anyhow::Result<Option<KeyRecord>> {
    let store = open(config).await?;
    let revoked = store.revoke_key(id, SystemClock::new().now()).await;
    store.close().await;
    Ok(revoked?)
}

/// The variable whose keys this one is among, so that the database is not asked about it.
///
/// # Errors
/// A file of keys that cannot be read.
pub fn configured_in(config: &Config, id: KeyId) -> anyhow::Result<Option<&'static str>> {
    if config.access.keys.iter().any(|key| key.id == id) {
        return Ok(Some("API_KEYS"));
    }
    let in_file = config.access.keys_file.as_deref().map(keys_in).transpose()?;
    Ok(in_file.is_some_and(|keys| keys.iter().any(|key| key.id == id)).then_some("API_KEYS_FILE"))
}

async fn open(config: &Config) -> anyhow::Result<Store> {
    std::fs::create_dir_all(&config.data.dir)?;
    Store::open_beside(config.database.url.expose(), Arc::new(SystemClock::new())).await.map_err(|error| {
        let advice = advice::unusable_database(config.database.engine, &error);
        anyhow::Error::new(error).context(advice)
    })
}
