//! This process as a worker: its beat, its claims, and what it takes over from workers that died.
//!
//! Another worker is dead when, by this process's monotonic clock, [`LeaseRules::duration`] passed
//! without a new beat of it, counting only time in which this process's own reads worked. On an
//! embedded database this process is the only one, so all earlier workers are dead at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::turns::Turns;
use crate::clock::Clock;
use crate::domain::ids::WorkerId;
use crate::domain::outcome::Claim;
use crate::store::{BatchHints, Beats, Store};
pub use crate::store::{Held, Job, StoreError};

/// A picture that was due and could not be claimed is not asked for more often than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// How long a worker waits while it cannot see the queue.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// How long a claim outlives the last beat of its worker.
#[derive(Debug, Clone, Copy)]
pub struct LeaseRules {
    /// `LEASE_DURATION`.
    pub duration: Duration,
}

impl LeaseRules {
    /// The time between beats.
    #[must_use]
    pub fn beat_every(self) -> Duration {
        self.duration / 3
    }

    /// A call starts only if the last beat succeeded within this time.
    #[must_use]
    pub fn start_within(self) -> Duration {
        self.duration * 2 / 3
    }
}

/// What this process saw of another worker.
struct Watched {
    beat: i64,
    /// Time that passed without a new beat, as far as this process could see.
    silent_for: Duration,
}

/// The claims of this process.
pub struct Claims {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    me: WorkerId,
    rules: LeaseRules,
    /// How often this process has beaten.
    beats: AtomicI64,
    last_beat: Mutex<Option<Duration>>,
    work: tokio::sync::Mutex<watch::Receiver<()>>,
    watched: Mutex<(BTreeMap<WorkerId, Watched>, Option<Duration>)>,
    turns: tokio::sync::Mutex<Turns>,
}

impl Claims {
    /// The claims of worker `me`, which has none yet.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>, me: WorkerId, rules: LeaseRules) -> Self {
        let work = tokio::sync::Mutex::new(store.hints().work());
        Self {
            store,
            clock,
            me,
            rules,
            beats: AtomicI64::new(0),
            last_beat: Mutex::default(),
            work,
            watched: Mutex::default(),
            turns: tokio::sync::Mutex::default(),
        }
    }

    /// The time between calls of [`keep_alive`](Self::keep_alive).
    #[must_use]
    pub fn beat_every(&self) -> Duration {
        self.rules.beat_every()
    }

    /// Raises this worker's beat, and takes over what workers that fell silent left behind.
    ///
    /// Returns how many workers were taken over.
    ///
    /// # Errors
    /// [`StoreError`]; the beat may have been raised all the same.
    pub async fn keep_alive(&self) -> Result<usize, StoreError> {
        let before = self.clock.monotonic();
        let beat = self.beats.fetch_add(1, Ordering::Relaxed) + 1;
        self.store.beat(self.me, beat, self.clock.now()).await?;
        *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let beats = self.store.load_beats().await?;
        let dead = self.silent_workers(&beats);
        for &worker in &dead {
            tracing::warn!(%worker, "taking over from a worker that stopped beating");
            self.store.take_over(worker, self.me).await?;
        }
        Ok(dead.len())
    }

    /// The workers whose silence has lasted a whole lease.
    fn silent_workers(&self, beats: &Beats) -> Vec<WorkerId> {
        let now = self.clock.monotonic();
        let mut slot = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let (watched, last_read) = &mut *slot;
        // Between two reads at the usual pace the other worker was in sight. After a longer gap this
        // process, or the database, was away: nobody could have beaten in that time, so it counts as nothing.
        let gap = last_read.map_or(Duration::ZERO, |last| now.saturating_sub(last));
        let seen = if gap > self.rules.beat_every() * 3 / 2 { Duration::ZERO } else { gap };
        *last_read = Some(now);
        watched.retain(|worker, _| beats.contains_key(worker));
        for (&worker, &beat) in beats.iter().filter(|(worker, _)| **worker != self.me) {
            // Of a worker that was not in sight before, or has beaten since, no silence is known yet.
            match watched.get_mut(&worker) {
                Some(entry) if entry.beat == beat => entry.silent_for += seen,
                _ => drop(watched.insert(worker, Watched { beat, silent_for: Duration::ZERO })),
            }
        }
        let alone = self.store.is_exclusive();
        let dead = watched.iter().filter(|(_, other)| alone || other.silent_for >= self.rules.duration);
        dead.map(|(worker, _)| *worker).collect()
    }

    /// Whether this worker's claims are certainly still its own.
    #[must_use]
    pub fn may_start(&self) -> bool {
        let last = *self.last_beat.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| self.clock.monotonic().saturating_sub(last) <= self.rules.start_within())
    }

    /// Claims up to `count` pictures, of the users that wait by turns. What changes from here on wakes
    /// [`ready`](Self::ready).
    ///
    /// # Errors
    /// [`StoreError`]; nothing is claimed then.
    pub async fn claim(&self, count: u32) -> Result<Vec<Job>, StoreError> {
        self.work.lock().await.mark_unchanged();
        let mut waiting = self.store.queued_owners(self.store.steady_now()).await?;
        let mut turns = self.turns.lock().await;
        let mut jobs = Vec::new();
        let mut room = count;
        while room > 0 && !waiting.is_empty() {
            for (user, share) in turns.plan(&waiting, room) {
                let claimed = match self.store.claim(self.me, &user, share, self.store.steady_now()).await {
                    Ok(claimed) => claimed,
                    Err(error) if jobs.is_empty() => return Err(error),
                    Err(error) => {
                        tracing::warn!(%error, "cannot claim all the pictures that there is room for");
                        return Ok(jobs);
                    }
                };
                let taken = u32::try_from(claimed.len()).unwrap_or(u32::MAX);
                turns.took(&user, share, taken);
                if taken < share {
                    waiting.retain(|other| *other != user);
                }
                room = room.saturating_sub(taken);
                jobs.extend(claimed);
            }
        }
        Ok(jobs)
    }

    /// What this worker holds.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn held(&self) -> Result<Held, StoreError> {
        self.store.held_claims(self.me).await
    }

    /// Those of the `held` claims that nobody here works on: taken over, or lost between two statements.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn strays<T>(&self, held: &Held, in_flight: &HashMap<Claim, T>) -> Result<Vec<Job>, StoreError> {
        let known: Held = in_flight.keys().map(|claim| (claim.image, claim.fence)).collect();
        let strays: Held = held.difference(&known).copied().collect();
        let images: Vec<_> = strays.iter().map(|(image, _)| *image).collect();
        let mut jobs = self.store.load_jobs(&images).await?;
        // What was lost meanwhile is another worker's.
        jobs.retain(|job| strays.contains(&(job.claim.image, job.claim.fence)));
        Ok(jobs)
    }

    /// Follows the batches that are cancelled: claims may be lost by it.
    #[must_use]
    pub fn cancels(&self) -> BatchHints {
        self.store.hints().cancels()
    }

    /// Gives back every claim whose call was not started, and signs off if none is left.
    ///
    /// # Errors
    /// [`StoreError`]; another worker takes the claims over later.
    pub async fn give_back(&self) -> Result<(), StoreError> {
        self.store.give_back(self.me).await
    }

    /// Waits until pictures may have become ready, at most until the next one is due.
    ///
    /// `poll` covers a lost wake-up; a database that does not answer is asked sooner.
    pub async fn ready(&self, poll: Duration) {
        let mut work = self.work.lock().await;
        let due = match self.store.next_due().await {
            Ok(Some(due)) => due.since(self.store.steady_now()).min(poll),
            Ok(None) => poll,
            Err(_) => poll.min(AWAY_PAUSE),
        };
        drop(tokio::time::timeout(due.max(SHORTEST_PAUSE), work.changed()).await);
    }
}
