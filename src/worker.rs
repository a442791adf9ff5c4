//! The scheduler loop: claims pictures while there is room, runs them, and stops without losing any.
//!
//! Knows the service's use cases only. What a picture needs, and what its end means, is not its business.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::domain::outcome::Claim;
use crate::service::claims::{Claims, Held, Job, StoreError};
use crate::service::execute::{Executor, Signals, Slot};

/// How often the queue is looked at, in case a wake-up was lost.
pub const POLL: Duration = Duration::from_secs(5);

/// Pictures whose call was answered and whose end is not written yet. While there are so many, none is claimed: what
/// cannot be settled must not become more and more, as a kill would charge what was not stored at its reserve.
pub const MOST_ENDING: usize = 64;

/// A picture's task died of a fault in this program.
#[derive(Debug, thiserror::Error)]
#[error("the task of a picture panicked")]
pub struct WorkerError(#[from] tokio::task::JoinError);

/// Runs pictures: as many calls as the gate lets through, and a few pictures that are made ready meanwhile.
pub struct Worker {
    executor: Arc<Executor>,
    claims: Arc<Claims>,
    slots: Arc<Semaphore>,
    /// Pictures that are claimed together at least: half of those that are claimed ahead, so that calls never wait.
    together: u32,
    /// Pictures that are worked on at most, from their claim to their written end.
    most: usize,
    freed: Arc<Notify>,
    poll: Duration,
}

/// The claims that are being worked on, each with what ends its task before its call. Two may be of one
/// picture for a moment: the next claim of a picture can be taken up before the task of the last one was
/// seen to end.
#[derive(Default)]
struct InFlight {
    tasks: JoinSet<Claim>,
    claims: HashMap<Claim, CancellationToken>,
    /// The first death among the tasks: nothing new starts then, and what is under way ends.
    died: Option<WorkerError>,
}

impl InFlight {
    /// Ends the tasks of claims that are not held any more, as far as their calls were not sent.
    fn drop_all_but(&self, held: &Held) {
        for (claim, lost) in &self.claims {
            if !held.contains(&(claim.image, claim.fence)) {
                lost.cancel();
            }
        }
    }

    fn end(&mut self, ended: Result<Claim, tokio::task::JoinError>) {
        match ended {
            Ok(claim) => {
                self.claims.remove(&claim);
            }
            Err(error) => {
                tracing::error!(%error, "the task of a picture died; the others end, and the process stops");
                self.died.get_or_insert(error.into());
            }
        }
    }
}

impl Worker {
    /// A worker that makes pictures with `executor` under `claims`, `concurrency` calls at a time.
    ///
    /// A quarter as many pictures are claimed ahead, so that a call that ends is followed by one that is
    /// ready. Not more: who sends a small batch waits for those that are claimed.
    ///
    /// It looks at the queue whenever it is told to, and every `poll`: [`POLL`], but for tests.
    #[must_use]
    pub fn new(executor: Arc<Executor>, claims: Arc<Claims>, concurrency: u32, poll: Duration) -> Self {
        let ahead = concurrency / 4;
        let (places, together) = ((concurrency + ahead) as usize, (ahead / 2).max(1));
        let (slots, most) = (Arc::new(Semaphore::new(places)), places + MOST_ENDING);
        Self { executor, claims, slots, together, most, freed: Arc::default(), poll }
    }

    /// Works until `signals.draining`, then ends what is under way and gives the rest back.
    ///
    /// # Errors
    /// [`WorkerError`] if a picture's task died; its claim is settled by whoever starts next.
    pub async fn run(&self, signals: Signals) -> Result<(), WorkerError> {
        let (stopped, look) = (CancellationToken::new(), AtomicBool::new(true));
        self.beat().await;
        let work = async {
            let result = self.work(&signals, &look).await;
            stopped.cancel();
            result
        };
        let (result, ()) = tokio::join!(work, self.keep_alive(&stopped, &look));
        if let Err(error) = self.claims.give_back().await {
            tracing::warn!(%error, "cannot give claims back; they are taken over later");
        }
        result
    }

    async fn work(&self, signals: &Signals, look: &AtomicBool) -> Result<(), WorkerError> {
        let mut in_flight = InFlight::default();
        let mut cancels = self.claims.cancels();
        while !signals.draining.is_cancelled() && in_flight.died.is_none() {
            self.take_up(&mut in_flight, signals, look).await;
            let full = self.room(&in_flight) < self.together;
            let InFlight { tasks, claims, .. } = &mut in_flight;
            let is_ours = |batch| claims.keys().any(|claim| claim.image.batch == batch);
            let ended = tokio::select! {
                Some(ended) = tasks.join_next() => Some(ended),
                () = self.freed.notified() => None,
                () = cancels.heard_of(is_ours) => {
                    look.store(true, Ordering::Relaxed);
                    None
                }
                () = self.claims.ready(self.poll), if !full => None,
                () = tokio::time::sleep(self.poll), if full => None,
                () = signals.draining.cancelled() => None,
            };
            if let Some(ended) = ended {
                in_flight.end(ended);
            }
            while let Some(ended) = in_flight.tasks.try_join_next() {
                in_flight.end(ended);
            }
        }
        while let Some(ended) = in_flight.tasks.join_next().await {
            in_flight.end(ended);
        }
        in_flight.died.map_or(Ok(()), Err)
    }

    /// Starts as many pictures as there is room for; those of dead workers first. Ends those whose claim was lost.
    async fn take_up(&self, in_flight: &mut InFlight, signals: &Signals, look: &AtomicBool) {
        if self.executor.admission.is_compared()
            && look.swap(false, Ordering::Relaxed)
            && let Err(error) = self.look(in_flight, signals).await
        {
            tracing::warn!(%error, "cannot look for claims that were left behind or lost");
        }
        let room = self.room(in_flight);
        if room < self.together || !self.claims.may_start() || !self.executor.admission.takes_work().await {
            return;
        }
        match self.claims.claim(room).await {
            Ok(claimed) => claimed.into_iter().for_each(|job| self.spawn(in_flight, job, self.slot(), signals)),
            Err(error) => {
                tracing::warn!(%error, "cannot claim pictures; trying again");
                // A database that fails at once would be asked, and the log filled, without a pause.
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = signals.draining.cancelled() => {}
                }
            }
        }
    }

    /// How many pictures may be claimed.
    fn room(&self, in_flight: &InFlight) -> u32 {
        let room = self.slots.available_permits().min(self.most.saturating_sub(in_flight.claims.len()));
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    /// Compares what is worked on with what is claimed.
    async fn look(&self, in_flight: &mut InFlight, signals: &Signals) -> Result<(), StoreError> {
        let held = self.claims.held().await?;
        in_flight.drop_all_but(&held);
        for job in self.claims.strays(&held, &in_flight.claims).await? {
            self.spawn(in_flight, job, None, signals);
        }
        Ok(())
    }

    /// A slot; there is one, as nobody else takes any.
    fn slot(&self) -> Option<Slot> {
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        Some(Slot::new(permit, self.freed.clone()))
    }

    fn spawn(&self, in_flight: &mut InFlight, job: Job, slot: Option<Slot>, signals: &Signals) {
        let (executor, claim) = (self.executor.clone(), job.claim);
        // A picture whose claim is lost is left as one is when the service stops.
        let draining = signals.draining.child_token();
        in_flight.claims.insert(claim, draining.clone());
        let signals = Signals { draining, aborting: signals.aborting.clone() };
        in_flight.tasks.spawn(async move {
            executor.run(job, slot, &signals).await;
            claim
        });
    }

    /// Beats until `stopped`, and looks after workers that do not.
    async fn keep_alive(&self, stopped: &CancellationToken, look: &AtomicBool) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.claims.beat_every()) => {}
                () = stopped.cancelled() => return,
            }
            self.beat().await;
            look.store(true, Ordering::Relaxed);
        }
    }

    async fn beat(&self) {
        match self.claims.keep_alive().await {
            Ok(dead) => drop(self.executor.metrics.takeovers.inc_by(dead as u64)),
            Err(error) => tracing::warn!(%error, "cannot raise this worker's beat"),
        }
    }
}
