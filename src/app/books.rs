//! What the command line does with the ledger's adapters: compare, sum, take in.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::{advice, open_store};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::domain::comparison::DayFindings;
use crate::domain::time::Day;
use crate::gcs::Gcs;
use crate::ledger::gcs::{CHANGE_PACE, GcsLedger};
use crate::ledger::local::{LocalLedger, LocalLedgerReader};
use crate::ledger::{LedgerBucket, LedgerReader};
use crate::service::ledger::Exporter;
use crate::service::verify::Verifier;
use crate::store::Store;
use crate::telemetry::Counters;

/// How often a database is read anew because a process began to work on it meanwhile.
const MAX_READINGS: u32 = 5;

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
    let gcs = Gcs::connect(storage.emulator.as_deref(), storage.key_file.as_deref()).await;
    let gcs = gcs.context(advice::UNUSABLE_CREDENTIALS)?;
    Ok(Some(GcsLedger::new(gcs, bucket, CHANGE_PACE)))
}

/// Compares `day`, or every day that database or ledger know, and changes nothing at all.
///
/// # Errors
/// What could not be read. Differences are none.
pub async fn verify(config: &Config, day: Option<Day>) -> anyhow::Result<Vec<DayFindings>> {
    let ledger = ledger_reader(config).await?;
    for _ in 0..MAX_READINGS {
        let opened = Store::open_to_read(config.database.url.expose(), Arc::new(SystemClock::new())).await;
        let store = Arc::new(opened.map_err(|error| {
            let advice = advice::unreadable_database(config.database.engine);
            anyhow::Error::new(error).context(advice)
        })?);
        let found = compare(&Verifier::new(store.clone(), ledger.clone()), day).await;
        store.close().await;
        if !store.was_disturbed() {
            return found;
        }
    }
    bail!("processes keep starting on the database: try again when one of them has it")
}

async fn compare(verifier: &Verifier, day: Option<Day>) -> anyhow::Result<Vec<DayFindings>> {
    let days = match day {
        Some(day) => vec![day],
        None => verifier.days().await?,
    };
    let mut found = Vec::new();
    for day in days {
        found.push(verifier.verify(day).await?);
    }
    Ok(found)
}

/// Takes the ledger's lines of `day`, or of today, into the database. The day, and how many were new.
///
/// # Errors
/// What could not be opened, read or written. Nothing is taken in then.
pub async fn import(config: &Config, day: Option<Day>) -> anyhow::Result<(Day, u64)> {
    let clock = Arc::new(SystemClock::new());
    let day = day.unwrap_or_else(|| clock.now().day());
    let store = Arc::new(open_store(config, clock.clone()).await?);
    let ledger = ledger_bucket(config).await?;
    let exporter = Exporter::new(store.clone(), ledger, clock, Arc::new(Counters::default()));
    let new = exporter.take_in(day).await;
    store.close().await;
    Ok((day, new?))
}
