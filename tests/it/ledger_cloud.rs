//! The export to a bucket that appends whole chunks and knows its last one, in memory.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orchestrator::domain::ledger::LedgerLine;
use orchestrator::domain::time::Day;
use orchestrator::ledger::{Chunk, DayHead, LedgerBucket, LedgerError};
use orchestrator::service::ledger::Exporter;
use orchestrator::telemetry::Counters;

use crate::bench::{Bench, made};
use crate::engines::{Database, on_both_engines};

on_both_engines!(a_chunk_that_overlaps_the_ledger_is_not_appended);

/// One day, that only one exporter writes.
#[derive(Default)]
struct Cloud(Mutex<(DayHead, String)>);

#[async_trait]
impl LedgerBucket for Cloud {
    async fn head(&self, _: Day) -> Result<DayHead, LedgerError> {
        Ok(self.0.lock().unwrap().0.clone())
    }

    async fn write_chunk(&self, _: &Chunk) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn append(&self, chunk: &Chunk, _: &DayHead) -> Result<(), LedgerError> {
        let (head, text) = &mut *self.0.lock().unwrap();
        text.push_str(std::str::from_utf8(&chunk.lines).unwrap());
        let generation = head.generation + 1;
        *head = DayHead { generation, count: chunk.to, last_chunk: Some(chunk.name.clone()) };
        Ok(())
    }

    async fn sweep(&self, _: Day, _: u64) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn count_day(&self, day: Day) -> Result<u64, LedgerError> {
        Ok(self.head(day).await?.count)
    }

    async fn read_day(&self, _: Day) -> Result<Vec<LedgerLine>, LedgerError> {
        let (_, text) = &*self.0.lock().unwrap();
        Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn location(&self, _: Day) -> String {
        String::new()
    }
}

/// The database falls back to before an export, under a process that goes on.
async fn a_chunk_that_overlaps_the_ledger_is_not_appended(database: Arc<Database>) {
    let (bench, cloud) = (Bench::new(&database).await, Arc::new(Cloud::default()));
    let exporter = Exporter::new(bench.store.clone(), cloud.clone(), Arc::new(Counters::default()));
    bench.submit(2, 1).await;
    let job = bench.start_one().await;
    bench.settle(&job, made(&job, 50_000)).await;
    exporter.export_all().await.unwrap();
    database.execute("UPDATE ledger SET position = NULL; DELETE FROM ledger_days").await;
    let job = bench.start_one().await;
    bench.settle(&job, made(&job, 50_000)).await;
    exporter.export_all().await.unwrap();
    let day = bench.budget().await.day;
    assert_eq!(cloud.read_day(day).await.unwrap(), bench.store.load_charges(day).await.unwrap());
    assert_eq!(cloud.head(day).await.unwrap().count, 2);
}
