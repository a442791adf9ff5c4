//! Settling: the ends of attempts are written in groups, as many as are ready at the same time.
//!
//! Whoever comes first writes for all that wait; the next group gathers meanwhile. A picture's task
//! gets its own answer, and keeps asking until its end is written: what was paid is not forgotten
//! while the process lives.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::MoneyRules;
use super::ended::BatchEnds;
use crate::clock::{Clock, IdSource};
use crate::domain::ids::{AttemptId, ChargeId};
use crate::domain::outcome::Settlement;
use crate::domain::state::ImageState;
use crate::failpoint;
use crate::store::{Job, SettleRequest, Settled, Store, StoreError};
use crate::telemetry::metrics::{self, Metrics, PictureOutcome};
use crate::telemetry::traces::Traces;

/// Most ends in one transaction. Measured on Postgres at 1 ms: 374 settles a second alone, 8,570 in groups of 64.
const GROUP: usize = 64;

/// Writes the ends of attempts.
pub struct Settler {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    metrics: Arc<Metrics>,
    rules: MoneyRules,
    ends: BatchEnds,
    waiting: Mutex<VecDeque<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

/// An end that waits to be written.
struct Waiting {
    job: Job,
    settlement: Settlement,
    charge: ChargeId,
    next_attempt: AttemptId,
    answer: oneshot::Sender<Result<Settled, StoreError>>,
}

impl Waiting {
    const fn request(&self) -> SettleRequest<'_> {
        SettleRequest {
            job: &self.job,
            settlement: &self.settlement,
            charge: self.charge,
            next_attempt: self.next_attempt,
        }
    }

    fn answer(self, written: Result<Settled, StoreError>) {
        // A task that is gone does not need its answer: the end is written, or will be taken over.
        drop(self.answer.send(written));
    }
}

impl Settler {
    /// Writes to `store` under `rules`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        metrics: Arc<Metrics>,
        rules: MoneyRules,
    ) -> Self {
        let ends = BatchEnds::new(store.clone(), Traces::off());
        let turn = tokio::sync::Mutex::default();
        Self { store, clock, ids, metrics, rules, ends, waiting: Mutex::default(), turn }
    }

    /// Writes the spans of batches that end to `traces`.
    #[must_use]
    pub fn traced(self, traces: Traces) -> Self {
        Self { ends: BatchEnds::new(self.store.clone(), traces), ..self }
    }

    /// Writes one end, together with all that are ready. Says what became of it.
    ///
    /// # Errors
    /// [`StoreError`]; this end is not written then, and may be settled again.
    pub async fn settle(&self, job: &Job, settlement: &Settlement) -> Result<Settled, StoreError> {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.lock().push_back(Waiting {
                job: job.clone(),
                settlement: settlement.clone(),
                charge: ChargeId::new(self.ids.next()),
                next_attempt: AttemptId::new(self.ids.next()),
                answer,
            });
            loop {
                let turn = self.turn.lock().await;
                match answered.try_recv() {
                    Ok(written) => return written,
                    Err(oneshot::error::TryRecvError::Empty) => self.write_group().await,
                    // Whoever wrote for this one was stopped before it could say what came of it: ask again.
                    Err(oneshot::error::TryRecvError::Closed) => break,
                }
                drop(turn);
            }
        }
    }

    /// Writes what waits, at most [`GROUP`] ends; if the group cannot be written, each on its own.
    async fn write_group(&self) {
        let group: Vec<Waiting> = {
            let mut waiting = self.lock();
            let size = waiting.len().min(GROUP);
            waiting.drain(..size).collect()
        };
        let requests: Vec<SettleRequest<'_>> = group.iter().map(Waiting::request).collect();
        match self.write(&requests).await {
            Ok(settled) => group.into_iter().zip(settled).for_each(|(end, settled)| end.answer(Ok(settled))),
            Err(error) if group.len() == 1 => {
                if let Some(end) = group.into_iter().next() {
                    end.answer(Err(error));
                }
            }
            Err(error) if error.is_outage() => {
                // Asking for each would wait as long again each time. The first is told; the others, whose
                // answers are dropped, come again as a group.
                if let Some(end) = group.into_iter().next() {
                    end.answer(Err(error));
                }
            }
            Err(_) => {
                for end in group {
                    let written = self.write(&[end.request()]).await;
                    end.answer(written.map(|settled| settled.first().copied().unwrap_or(Settled::ClaimLost)));
                }
            }
        }
    }

    async fn write(&self, requests: &[SettleRequest<'_>]) -> Result<Vec<Settled>, StoreError> {
        let group = self.store.settle(requests, &self.rules.limits, self.rules.prompts, self.clock.now()).await?;
        failpoint::hit("settle.committed");
        // Counted and logged first: who is told that a batch ended finds it in the counters.
        for (request, settled) in requests.iter().zip(&group.settled) {
            self.count(request.job, *settled);
        }
        group.finished.iter().for_each(BatchEnds::log);
        let batches = requests.iter().map(|request| request.job.claim.image.batch);
        self.store.hints().settled(batches, !group.finished.is_empty());
        for batch in &group.finished {
            self.ends.trace(batch).await;
        }
        Ok(group.settled)
    }

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

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
