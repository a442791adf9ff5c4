//! What came of a batch: in words, as JSON, and whether it is all that was asked for.

use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{pictures, program, say, table};
use super::remote::Remote;
use super::saver::Saver;
use super::view::{Batch, Reason};
use crate::domain::money::MicroUsd;

/// A picture that was not made.
pub(super) struct Failed {
    pub(super) scene: String,
    pub(super) variant: u32,
    pub(super) reason: Reason,
}

/// A batch as it was found.
pub(super) struct Found {
    /// Without its items.
    pub(super) batch: Batch,
    /// The same as it came.
    pub(super) body: Value,
    pub(super) failed: Vec<Failed>,
}

impl Found {
    /// Says it on standard output; `saver` saved its pictures, `file` is where its rows came from.
    pub(super) fn say(&self, saver: Option<&Saver<'_>>, file: Option<&str>, remote: &Remote) {
        if remote.json {
            say(&self.as_json(saver, file).to_string());
        } else {
            say(&self.as_lines(saver, file, &remote.at).join("\n"));
        }
    }

    fn as_json(&self, saver: Option<&Saver<'_>>, file: Option<&str>) -> Value {
        let mut body = self.body.clone();
        body["failures"] = self.failed.iter().map(Failed::as_json).collect();
        if let Some(file) = file {
            body["file"] = file.into();
        }
        if let Some(saver) = saver {
            body["out"] = saver.folder().to_string_lossy().into();
            body["saved"] = saver.count().into();
            body["lost"] = saver.lost().into();
        }
        body
    }

    fn as_lines(&self, saver: Option<&Saver<'_>>, file: Option<&str>, at: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.failed.is_empty() {
            let heading = ["row", "variant", "why there is no picture", ""].map(str::to_owned).to_vec();
            let rows: Vec<_> = std::iter::once(heading).chain(self.failed.iter().map(Failed::as_row)).collect();
            lines.push(table(&rows));
        }
        lines.push(file.map(|file| format!("{file}: ")).unwrap_or_default() + &self.summary());
        lines.extend(self.batch.message.clone());
        if self.batch.unknown_cost > MicroUsd::ZERO {
            lines.push(format!("Of that, {} are for calls whose outcome nobody knows.", self.batch.unknown_cost));
        }
        if let Some(saver) = saver {
            lines.push(format!("Saved in {}: {}.", saver.folder().display(), pictures(saver.count())));
            lines.extend(saver.lost().into_iter().map(|lost| format!("Not saved: {lost}")));
        }
        if self.failed.iter().any(|failed| failed.reason.retryable) {
            lines.push(format!("Some may work the next time: {} retry {}{at}", program(), self.batch.id));
        }
        lines
    }

    fn summary(&self) -> String {
        let counts = &self.batch.counts;
        let mut parts = vec![format!("{} of {} pictures made", counts.completed, counts.total)];
        let open = counts.queued.saturating_add(counts.running);
        for (count, what) in [(open, "open"), (counts.failed, "failed"), (counts.cancelled, "cancelled")] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        let (id, state, cost) = (self.batch.id, self.batch.state.as_str(), self.batch.actual_cost);
        format!("{id} is {state}: {}; {cost} US dollars.", parts.join(", "))
    }

    /// Whether every picture was made, and saved if `saver` was to do that.
    ///
    /// # Errors
    /// How many were not.
    pub(super) fn verdict(&self, saver: Option<&Saver<'_>>) -> Result<(), Failure> {
        let counts = &self.batch.counts;
        let missing = counts.total.saturating_sub(counts.completed);
        let unsaved = saver.map_or(0, |saver| (counts.completed as usize).saturating_sub(saver.count()));
        if missing == 0 && unsaved == 0 {
            return Ok(());
        }
        Err(Failure::Incomplete { batch: self.batch.id, missing, unsaved })
    }
}

impl Failed {
    fn as_row(&self) -> Vec<String> {
        vec![self.scene.clone(), self.variant.to_string(), self.reason.code.clone(), self.reason.detail.clone()]
    }

    fn as_json(&self) -> Value {
        let Reason { code, detail, retryable } = &self.reason;
        json!({"sceneId": self.scene, "variant": self.variant, "code": code, "detail": detail, "retryable": retryable})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_do_not_add_up_are_told_as_they_are() {
        let counts = json!({"total": 1, "queued": u32::MAX, "running": 2, "completed": 9, "failed": 0, "cancelled": 0});
        let body = json!({"batchId": "bat_01KB0000000000000000000000", "state": "running", "estimatedCost": 0,
            "actualCost": 0, "unknownCost": 0, "lastEvent": 1, "counts": counts});
        let found = Found { batch: serde_json::from_value(body.clone()).unwrap(), body, failed: Vec::new() };
        assert!(found.summary().contains("9 of 1 pictures made, 4294967295 open"), "{}", found.summary());
        assert!(found.verdict(None).is_ok());
    }
}
