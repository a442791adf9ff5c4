//! Whether batch, budget and ledger agree to the micro-dollar, read as a person would: the service's
//! answers, and the ledger's files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use crate::cli::client::Client;
use crate::cli::view::{Batch, Budget};
use crate::domain::ledger::LedgerLine;
use crate::domain::money::MicroUsd;
use crate::domain::state::BatchState;

/// The ledger is written after the fact, within seconds.
const PATIENCE: Duration = Duration::from_secs(15);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// The amounts that have to be the same in pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Books {
    /// The day's ledger.
    pub(super) file: PathBuf,
    /// Its sum; equals what the budget says was spent today.
    pub(super) day_sum: MicroUsd,
    /// The sum of the batch's lines, of whatever day; equals the batch's cost.
    pub(super) batch_sum: MicroUsd,
    /// The number of the batch's lines.
    pub(super) batch_lines: usize,
}

impl Books {
    fn agree_with(&self, batch: &Batch, budget: &Budget) -> bool {
        self.day_sum == budget.everyone.spent && self.batch_sum == batch.actual_cost
    }
}

/// The pictures that ended otherwise than they should: all are made, but those of a row with `refused_marker`.
pub(super) fn unexpected(batch: &Batch, refused_marker: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in &batch.items {
        let expected = if item.prompt.contains(refused_marker) { BatchState::Failed } else { BatchState::Completed };
        for image in item.images.iter().filter(|image| image.state != expected) {
            wrong.push(format!("{} v{} is {}", item.scene_id, image.variant, image.state.as_str()));
        }
    }
    wrong
}

/// Waits until everything agrees.
///
/// # Errors
/// If it does not in time, naming the amounts.
pub(super) async fn agree(client: &Client, data_dir: &Path, batch: &Batch) -> anyhow::Result<Books> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let budget: Budget = client.get("/budget").await?;
        let books = read(&data_dir.join("ledger"), &budget, batch).await?;
        if books.agree_with(batch, &budget) {
            return Ok(books);
        }
        if Instant::now() > deadline {
            bail!(
                "the money does not agree: the batch cost {} and its ledger lines say {}; \
                 the budget says that {} were spent today and the day's ledger says {}",
                batch.actual_cost,
                books.batch_sum,
                budget.everyone.spent,
                books.day_sum
            );
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

/// Reads every day's ledger: a batch may have run over midnight.
async fn read(folder: &Path, budget: &Budget, batch: &Batch) -> anyhow::Result<Books> {
    let file = folder.join(format!("{}.jsonl", budget.day));
    let mut books = Books { day_sum: MicroUsd::ZERO, batch_sum: MicroUsd::ZERO, batch_lines: 0, file };
    let Ok(mut entries) = tokio::fs::read_dir(folder).await else {
        return Ok(books);
    };
    while let Some(entry) = entries.next_entry().await? {
        let path = entry.path();
        if path.extension().is_none_or(|ending| ending != "jsonl") {
            continue;
        }
        for line in complete_lines(&tokio::fs::read_to_string(&path).await?) {
            let line: LedgerLine = serde_json::from_str(line).with_context(|| format!("in {}", path.display()))?;
            if path == books.file {
                books.day_sum = books.day_sum.plus(line.cost)?;
            }
            if line.job_id == batch.id {
                books.batch_sum = books.batch_sum.plus(line.cost)?;
                books.batch_lines += 1;
            }
        }
    }
    Ok(books)
}

/// The lines that are written to their end; the last one may be in the making.
fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: &str = "bat_01KB0000000000000000000001";
    const OTHER: &str = "bat_01KB0000000000000000000002";

    fn line(batch: &str, cost: &str) -> String {
        let ulid = &batch[4..];
        format!(
            r#"{{"id":"chg_{ulid}","ts":1,"userId":"local","jobId":"{batch}","sceneId":"s","variant":1,"attemptId":"att_{ulid}",
                "prompt":"p","images":1,"cost":{cost},"model":"m","outcome":"charged","requestId":null}}"#
        )
        .replace(['\n', ' '], "")
    }

    /// What the service would answer.
    fn answers(batch_cost: &str, spent: &str) -> (Batch, Budget) {
        let counts = r#"{"total":0,"queued":0,"running":0,"completed":0,"failed":0,"cancelled":0}"#;
        let batch = format!(
            r#"{{"batchId":"{BATCH}","state":"completed","estimatedCost":1,"actualCost":{batch_cost},"unknownCost":0,
                "lastEvent":1,"counts":{counts}}}"#
        );
        let budget =
            format!(r#"{{"day":"2026-11-24","resetsAt":"","everyone":{{"spent":{spent},"reserved":0,"unknown":0}}}}"#);
        (serde_json::from_str(&batch).unwrap(), serde_json::from_str(&budget).unwrap())
    }

    #[tokio::test]
    async fn the_books_agree_only_to_the_micro_dollar() {
        let folder = tempfile::tempdir().unwrap();
        let yesterday = format!("{}\n", line(BATCH, "0.05"));
        let today = format!("{}\n{}\n{}", line(BATCH, "0.000001"), line(OTHER, "0.1"), line(OTHER, "9"));
        std::fs::write(folder.path().join("2026-11-23.jsonl"), yesterday).unwrap();
        std::fs::write(folder.path().join("2026-11-24.jsonl"), today).unwrap();
        let (batch, budget) = answers("0.050001", "0.100001");
        let books = read(folder.path(), &budget, &batch).await.unwrap();
        assert_eq!(books.batch_lines, 2);
        assert!(books.agree_with(&batch, &budget), "{books:?}");
        for (batch_cost, spent) in [("0.050002", "0.100001"), ("0.050001", "0.1"), ("0.05", "0.100001")] {
            let (batch, budget) = answers(batch_cost, spent);
            assert!(!books.agree_with(&batch, &budget), "{batch_cost} {spent}");
        }
    }

    #[tokio::test]
    async fn a_ledger_that_is_not_there_agrees_with_nothing_spent() {
        let folder = tempfile::tempdir().unwrap();
        let (batch, budget) = answers("0", "0");
        let books = read(&folder.path().join("ledger"), &budget, &batch).await.unwrap();
        assert!(books.agree_with(&batch, &budget));
    }
}
