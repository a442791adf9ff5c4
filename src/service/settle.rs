//! Settling: the ends of attempts are written in groups, as many as are ready at the same time.
//!
//! A picture's task keeps asking until its end is written: what was paid is not forgotten while the
//! process lives.

use std::sync::Arc;

use super::MoneyRules;
use super::ended::BatchEnds;
use super::group::{GroupWriter, Groups};
use crate::clock::{Clock, IdSource};
use crate::domain::ids::{AttemptId, ChargeId};
use crate::domain::outcome::Settlement;
use crate::domain::state::ImageState;
use crate::failpoint;
use crate::store::{Job, SettleRequest, Settled, Store, StoreError};
use crate::telemetry::metrics::{self, Metrics, PictureOutcome};
use crate::telemetry::traces::Traces;

/// Writes the ends of attempts.
pub struct Settler {
    ids: Arc<dyn IdSource>,
    groups: Groups<Ends>,
}

/// Where ends are written, counted and told.
struct Ends {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    rules: MoneyRules,
    batches: BatchEnds,
}

/// An end that waits to be written.
struct End {
    job: Job,
    settlement: Settlement,
    charge: ChargeId,
    next_attempt: AttemptId,
}

impl End {
    const fn request(&self) -> SettleRequest<'_> {
        SettleRequest {
            job: &self.job,
            settlement: &self.settlement,
            charge: self.charge,
            next_attempt: self.next_attempt,
        }
    }
}

impl Settler {
    /// Writes to `store` under `rules`, and the spans of batches that end to `traces`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        metrics: Arc<Metrics>,
        rules: MoneyRules,
        traces: Traces,
    ) -> Self {
        let batches = BatchEnds::new(store.clone(), traces);
        Self { ids, groups: Groups::new(Ends { store, clock, metrics, rules, batches }) }
    }

    /// Writes one end, together with all that are ready. Says what became of it.
    ///
    /// # Errors
    /// [`StoreError`]; this end is not written then, and may be settled again.
    pub async fn settle(&self, job: &Job, settlement: &Settlement) -> Result<Settled, StoreError> {
        let end = || End {
            job: job.clone(),
            settlement: settlement.clone(),
            charge: ChargeId::new(self.ids.next()),
            next_attempt: AttemptId::new(self.ids.next()),
        };
        self.groups.write(end).await
    }
}

impl GroupWriter for Ends {
    type Request = End;
    type Answer = Settled;
    /// Measured on Postgres at 1 ms: 374 settles a second alone, 8,570 in groups of 64.
    const MOST: usize = 64;

    async fn write(&self, ends: &[End]) -> Result<Vec<Settled>, StoreError> {
        let requests: Vec<SettleRequest<'_>> = ends.iter().map(End::request).collect();
        let group = self.store.settle(&requests, &self.rules.limits, self.rules.prompts, self.clock.now()).await?;
        failpoint::hit("settle.committed");
        // Counted and logged first: who is told that a batch ended finds it in the counters.
        for (request, settled) in requests.iter().zip(&group.settled) {
            self.count(request.job, *settled);
        }
        group.finished.iter().for_each(BatchEnds::log);
        let batches = requests.iter().map(|request| request.job.claim.image.batch);
        self.store.hints().settled(batches, !group.finished.is_empty());
        for batch in &group.finished {
            self.batches.trace(batch).await;
        }
        Ok(group.settled)
    }
}

impl Ends {
    fn count(&self, job: &Job, settled: Settled) {
        let (state, end, error) = match settled {
            Settled::Written { state, overrun, unknown, cost, error } => {
                (state, metrics::Settled { model: &job.model, cost, overrun, unknown }, error)
            }
            Settled::ClaimLost => {
                tracing::warn!(image = %job.claim.image, "claim lost: another worker settled this picture");
                return;
            }
            Settled::AttemptGone => {
                tracing::error!(
                    image = %job.claim.image, attempt = %job.claim.attempt,
                    "the database does not know this call any more; its charge is in the ledger"
                );
                return;
            }
        };
        let outcome = match state {
            ImageState::Completed => Some(PictureOutcome::Completed),
            ImageState::Failed => Some(PictureOutcome::Failed),
            ImageState::Cancelled => Some(PictureOutcome::Cancelled),
            ImageState::Queued | ImageState::Claimed | ImageState::Running => None,
        };
        if let Some(outcome) = outcome {
            self.metrics.pictures_ended(&job.model, outcome, 1);
        }
        if let Some(code) = error {
            self.metrics.picture_error(code.as_str());
        }
        if end.overrun {
            tracing::error!(attempt = %job.claim.attempt, "a charge was above what was reserved for it");
        }
        self.metrics.settled(end);
    }
}
