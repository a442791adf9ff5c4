//! Which adapters keep pictures and ledger: buckets where they are named, else folders.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::advice;
use crate::assets::AssetStore;
use crate::assets::gcs::GcsAssets;
use crate::assets::local::LocalAssets;
use crate::clock::Clock;
use crate::config::{Config, StorageConfig};
use crate::gcs::{Gcs, Signing};
use crate::ledger::gcs::{CHANGE_PACE, GcsLedger};
use crate::ledger::local::{LocalLedger, LocalLedgerReader};
use crate::ledger::{LedgerBucket, LedgerReader};

/// How long what Google signs without a key of ours is good for certain: its keys rotate.
const KEYLESS_TTL: Duration = Duration::from_hours(12);

async fn connect(storage: &StorageConfig) -> anyhow::Result<Gcs> {
    let gcs = Gcs::connect(storage.emulator.as_deref(), storage.key_file.as_deref()).await;
    gcs.context(advice::UNUSABLE_CREDENTIALS)
}

/// Where pictures are kept: in a bucket if one is named, else in the folder.
pub(super) async fn open_assets(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn AssetStore>> {
    let (storage, folder) = (&config.storage, &config.data.dir);
    let Some(bucket) = &storage.pictures else {
        let assets = LocalAssets::open(folder.clone(), clock);
        return Ok(Arc::new(assets.with_context(|| advice::unusable_folder(folder))?));
    };
    let gcs = connect(storage).await?;
    if let Signing::Unable(reason) = &gcs.signing {
        anyhow::bail!("{}: {reason}", advice::UNUSABLE_CREDENTIALS);
    }
    if config.urls.asked_ttl > config.urls.ttl {
        tracing::warn!(ttl = ?config.urls.ttl, "SIGNED_URL_TTL is more than a signature can last: links live for less");
    }
    if matches!(gcs.signing, Signing::Keyless(_)) && config.urls.ttl > KEYLESS_TTL {
        tracing::warn!(
            "Google's own keys sign links, and are only good for 12 hours for certain: set SIGNED_URL_TTL to 12h, or \
             GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account"
        );
    }
    let assets = Arc::new(GcsAssets::new(gcs, bucket.clone(), clock));
    if let Err(error) = assets.check().await {
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::warn!(bucket, error, "{}", advice::SILENT_BUCKET);
    }
    Ok(assets)
}

/// The ledger, for who changes nothing.
///
/// # Errors
/// If the access to a bucket cannot be set up.
pub async fn ledger_reader(config: &Config) -> anyhow::Result<Arc<dyn LedgerReader>> {
    Ok(match gcs_ledger(config).await? {
        Some(ledger) => Arc::new(ledger),
        None => Arc::new(LocalLedgerReader::new(config.data.dir.clone())),
    })
}

/// The ledger at `place`, for who changes nothing: `gs://` and a bucket, a service's data folder, or the ledger's folder
/// itself.
///
/// # Errors
/// If there is no such folder, or the access to a bucket cannot be set up.
pub async fn ledger_at(place: &str, storage: &StorageConfig) -> anyhow::Result<Arc<dyn LedgerReader>> {
    if let Some(bucket) = place.strip_prefix("gs://") {
        let bucket = bucket.trim_end_matches('/');
        anyhow::ensure!(!bucket.is_empty() && !bucket.contains('/'), "{place} is no bucket: write gs://BUCKET");
        return Ok(Arc::new(GcsLedger::new(connect(storage).await?, bucket, CHANGE_PACE)));
    }
    let folder = Path::new(place);
    anyhow::ensure!(folder.is_dir(), "there is no folder {place}");
    let is_ledger = folder.file_name() == Some("ledger".as_ref()) && !folder.join("ledger").is_dir();
    let root = if is_ledger { folder.join("..") } else { folder.to_owned() };
    Ok(Arc::new(LocalLedgerReader::new(root)))
}

/// The ledger, for who exports to it.
///
/// # Errors
/// If the folder cannot be used, or the access to a bucket cannot be set up.
pub(super) async fn ledger_bucket(config: &Config) -> anyhow::Result<Arc<dyn LedgerBucket>> {
    if let Some(ledger) = gcs_ledger(config).await? {
        return Ok(Arc::new(ledger));
    }
    let folder = &config.data.dir;
    let ledger = LocalLedger::open(folder.clone()).with_context(|| advice::unusable_folder(folder))?;
    Ok(Arc::new(ledger))
}

/// The ledger in its bucket, if it has one.
async fn gcs_ledger(config: &Config) -> anyhow::Result<Option<GcsLedger>> {
    let storage = &config.storage;
    let Some(bucket) = &storage.ledger else { return Ok(None) };
    Ok(Some(GcsLedger::new(connect(storage).await?, bucket, CHANGE_PACE)))
}
