//! What the command line does with the ledger's adapters: compare, sum, take in.

use std::sync::Arc;

use anyhow::bail;

use super::{advice, open_store, storage};
use crate::clock::{Clock as _, RandomIds, SystemClock};
use crate::config::Config;
use crate::domain::comparison::DayFindings;
use crate::domain::time::Day;
use crate::service::ledger::Exporter;
use crate::service::verify::Verifier;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// How often a database is read anew because a process began to work on it meanwhile.
const MAX_READINGS: u32 = 5;

/// Compares `day`, or every day that database or ledger know, and changes nothing at all.
///
/// # Errors
/// What could not be read. Differences are none.
pub async fn verify(config: &Config, day: Option<Day>) -> anyhow::Result<Vec<DayFindings>> {
    let ledger = storage::ledger_reader(config).await?;
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
    let ledger = storage::ledger_bucket(config).await?;
    let exporter =
        Exporter::new(store.clone(), ledger, clock, Arc::new(RandomIds::default()), Arc::new(Metrics::default()));
    let new = exporter.take_in(day).await;
    store.close().await;
    Ok((day, new?))
}
