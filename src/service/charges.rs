//! The charges of one batch as the ledger has them, a piece of a day in memory at a time.

use std::sync::Arc;

use serde::Deserialize;

use super::lines::{DayLines, Line};
use crate::domain::ids::BatchId;
use crate::domain::ledger::LedgerLine;
use crate::domain::time::Day;
use crate::ledger::{LedgerError, LedgerReader};

/// The part of a line by which others are left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Of {
    job_id: BatchId,
}

/// The lines of `batch` in `days`, in their order. A last line that does not end is none yet.
///
/// # Errors
/// [`LedgerError`], also where a line of these days is no charge: it could have been one of the batch's.
pub async fn of_batch(
    ledger: &Arc<dyn LedgerReader>,
    days: impl IntoIterator<Item = Day>,
    batch: BatchId,
) -> Result<Vec<LedgerLine>, LedgerError> {
    let mut charges = Vec::new();
    for day in days {
        let mut lines = DayLines::open(ledger.clone(), day).await?;
        while let Some(piece) = lines.next().await? {
            for line in piece {
                let (Line::Stored { number, text } | Line::Chunked { number, text }) = line else { continue };
                let corrupt = |_| LedgerError::Corrupt { day, line: number };
                if serde_json::from_slice::<Of>(&text).map_err(corrupt)?.job_id == batch {
                    charges.push(serde_json::from_slice(&text).map_err(corrupt)?);
                }
            }
        }
    }
    Ok(charges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::local::LocalLedgerReader;

    const DAY: &str = "2026-11-24";
    const BATCH: &str = "bat_01KB0000000000000000000001";

    fn line(batch: &str, charge: u32) -> String {
        format!(
            r#"{{"id":"chg_01KB00000000000000000{charge:05}","ts":1,"userId":"local","jobId":"{batch}","sceneId":"s","variant":1,"attemptId":"att_01KB00000000000000000{charge:05}","prompt":"p","images":1,"cost":0.05,"model":"m","outcome":"charged","requestId":null}}"#
        )
    }

    async fn read(text: &str) -> Result<Vec<String>, LedgerError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("ledger")).unwrap();
        std::fs::write(folder.path().join(format!("ledger/{DAY}.jsonl")), text).unwrap();
        let ledger: Arc<dyn LedgerReader> = Arc::new(LocalLedgerReader::new(folder.path().to_owned()));
        let day: Day = DAY.parse().unwrap();
        let days = [Day::from_number(day.number() - 1), day];
        let found = of_batch(&ledger, days, BATCH.parse().unwrap()).await?;
        Ok(found.iter().map(|line| line.id.to_string()).collect())
    }

    #[tokio::test]
    async fn the_lines_of_a_batch_are_found_among_those_of_others() {
        let other = "bat_01KB0000000000000000000002";
        let text = format!("{}\n{}\n{}\n{}", line(BATCH, 1), line(other, 2), line(BATCH, 3), line(BATCH, 4));
        let expected = ["chg_01KB0000000000000000000001", "chg_01KB0000000000000000000003"];
        assert_eq!(read(&text).await.unwrap(), expected, "the last one does not end");
        assert_eq!(read("").await.unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn a_line_that_is_no_charge_is_an_error_and_named() {
        let error = read(&format!("{}\n{{}}\n", line(BATCH, 1))).await.unwrap_err();
        assert!(matches!(error, LedgerError::Corrupt { line: 2, .. }), "{error}");
    }
}
