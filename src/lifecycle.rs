//! The life of the process: the tasks it is made of, and the two stages in which it stops.
//!
//! Owns the tokens that everything long-lived watches and the tracker that every task is spawned on;
//! refuses to go on half alive: a background task that dies stops the process with a failure. May
//! call nothing of ours.
//!
//! ```text
//! signal        5/8 grace           grace    + LAST_WORDS
//! │ drain       │ abort open calls  │ abort  │ return
//! ```
//! A second signal jumps to the abort.

mod signals;

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use signals::stop_signals;

/// How long tasks have to notice that they are aborted, before they are left behind.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Why the process did not stop cleanly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// A background task ended by itself, or panicked.
    #[error("background task {0}")]
    TaskDied(TaskDeath),
    /// The second signal, or the end of the grace period, came before the work was put down.
    #[error("stopped before the work was put down; {left} tasks were left")]
    Aborted {
        /// Tasks that did not end even then.
        left: usize,
    },
}

/// How a background task died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDeath {
    /// Its name.
    pub task: &'static str,
    /// The panic's message; none if the task returned although nobody had asked it to.
    pub panic: Option<String>,
}

impl fmt::Display for TaskDeath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            Some(message) => write!(f, "{} panicked: {message}", self.task),
            None => write!(f, "{} ended by itself", self.task),
        }
    }
}

/// The life of the process. Clones share it.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    grace: Duration,
    draining: CancellationToken,
    abort_calls: CancellationToken,
    aborting: CancellationToken,
    tracker: TaskTracker,
    death: watch::Sender<Option<TaskDeath>>,
}

impl Lifecycle {
    /// A process that has `grace` between the stop signal and its end.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            draining: CancellationToken::new(),
            abort_calls: CancellationToken::new(),
            aborting: CancellationToken::new(),
            tracker: TaskTracker::new(),
            death: watch::Sender::new(None),
        }
    }

    /// Cancelled when the process is to stop: nothing new starts, streams end.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Cancelled when calls that are still open are given up and become `unknown`.
    #[must_use]
    pub fn abort_calls(&self) -> CancellationToken {
        self.abort_calls.clone()
    }

    /// Cancelled when everything is dropped at once.
    #[must_use]
    pub fn aborting(&self) -> CancellationToken {
        self.aborting.clone()
    }

    /// Where every task is spawned, so that the stop waits for it.
    #[must_use]
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Asks the process to stop, as a first signal does.
    pub fn stop(&self) {
        self.draining.cancel();
    }

    /// Spawns a task that the process cannot live without: it ends once [`draining`](Self::draining)
    /// is cancelled, not before. If it returns earlier, or ever panics, the process stops with a failure.
    pub fn spawn_critical(&self, task: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let (draining, death) = (self.draining.clone(), self.death.clone());
        self.tracker.spawn(async move {
            let end = AssertUnwindSafe(future).catch_unwind().await;
            let panic = match end {
                Ok(()) if draining.is_cancelled() => return,
                Ok(()) => None,
                Err(payload) => Some(panic_message(payload.as_ref())),
            };
            death.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert(TaskDeath { task, panic });
                is_first
            });
        });
    }

    /// Waits for the end of the process: for a signal, [`stop`](Self::stop) or the death of a task; then drains, runs `finish` once
    /// the tasks have ended, and aborts at the second signal or when the grace period is over.
    ///
    /// # Errors
    /// [`StopError`]; `finish` may have been cut off then.
    pub async fn run_until_stopped(
        &self,
        signals: impl Stream<Item = ()>,
        finish: impl Future<Output = ()>,
    ) -> Result<(), StopError> {
        let mut signals = std::pin::pin!(signals.chain(futures_util::stream::pending()));
        let mut death = self.death.subscribe();
        tokio::select! {
            _ = signals.next() => tracing::info!(grace = ?self.grace, "stop signal: putting work down"),
            () = self.draining.cancelled() => tracing::info!(grace = ?self.grace, "stopping: putting work down"),
            _ = death.wait_for(Option::is_some) => tracing::error!("a background task died: stopping"),
        }
        self.draining.cancel();
        let stopped = self.put_down(signals.next(), finish).await;
        match self.death.borrow().clone() {
            Some(death) => Err(StopError::TaskDied(death)),
            None => stopped,
        }
    }

    /// The stages after the first signal.
    async fn put_down(
        &self,
        second_signal: impl Future<Output = Option<()>>,
        finish: impl Future<Output = ()>,
    ) -> Result<(), StopError> {
        let since = Instant::now();
        self.tracker.close();
        let mut work = std::pin::pin!(async {
            self.tracker.wait().await;
            finish.await;
        });
        let abort = async {
            sleep_until(since + self.grace / 8 * 5).await;
            tracing::warn!("work is still open: giving up the calls that have not answered");
            self.abort_calls.cancel();
            sleep_until(since + self.grace).await;
        };
        let cause = tokio::select! {
            () = &mut work => return Ok(()),
            () = abort => "the grace period is over",
            _ = second_signal => "second stop signal",
        };
        tracing::error!(cause, "aborting");
        self.abort_calls.cancel();
        self.aborting.cancel();
        let _ = timeout_at(Instant::now() + LAST_WORDS, work).await;
        Err(StopError::Aborted { left: self.tracker.len() })
    }
}

/// The text of a panic, as far as it has one.
fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures_util::stream;

    use super::*;

    const GRACE: Duration = Duration::from_secs(8);

    /// A signal at each of `seconds` from now on.
    fn signals_at(seconds: &'static [u64]) -> impl Stream<Item = ()> {
        let start = Instant::now();
        stream::iter(seconds).then(move |at| sleep_until(start + Duration::from_secs(*at)))
    }

    /// Spawns a task that notes after how long each token reached it, and ends with the last.
    fn watch_tokens(lifecycle: &Lifecycle, last: &CancellationToken) -> Arc<std::sync::Mutex<Vec<Duration>>> {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (start, last) = (Instant::now(), last.clone());
        for token in [lifecycle.draining(), lifecycle.abort_calls(), lifecycle.aborting()] {
            let (seen, last) = (seen.clone(), last.clone());
            lifecycle.tracker().spawn(async move {
                tokio::select! {
                    biased;
                    () = token.cancelled() => seen.lock().unwrap().push(start.elapsed()),
                    () = last.cancelled() => {}
                }
            });
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_signal_drains_and_waits_for_the_tasks_and_then_finishes() {
        let lifecycle = Lifecycle::new(GRACE);
        let ended = Arc::new(AtomicBool::new(false));
        let (draining, task_ended) = (lifecycle.draining(), ended.clone());
        lifecycle.spawn_critical("worker", async move {
            draining.cancelled().await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            task_ended.store(true, Ordering::SeqCst);
        });
        let start = Instant::now();
        let order = ended.clone();
        let finish = async move { assert!(order.load(Ordering::SeqCst), "finish ran before the task ended") };
        assert_eq!(lifecycle.run_until_stopped(signals_at(&[3]), finish).await, Ok(()));
        assert_eq!(start.elapsed(), Duration::from_secs(7));
        assert!(ended.load(Ordering::SeqCst) && !lifecycle.abort_calls().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_given_up_at_five_eighths_and_everything_at_the_end_of_the_grace_period() {
        let lifecycle = Lifecycle::new(GRACE);
        let seen = watch_tokens(&lifecycle, &CancellationToken::new());
        lifecycle.tracker().spawn(std::future::pending::<()>());
        let stopped = lifecycle.run_until_stopped(signals_at(&[1]), async {}).await;
        assert_eq!(stopped, Err(StopError::Aborted { left: 1 }));
        assert_eq!(*seen.lock().unwrap(), [1, 6, 9].map(Duration::from_secs));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_aborts_at_once() {
        let lifecycle = Lifecycle::new(GRACE);
        let seen = watch_tokens(&lifecycle, &CancellationToken::new());
        let start = Instant::now();
        let stopped = lifecycle.run_until_stopped(signals_at(&[1, 2]), async {}).await;
        assert_eq!(stopped, Err(StopError::Aborted { left: 0 }));
        assert_eq!(*seen.lock().unwrap(), [1, 2, 2].map(Duration::from_secs));
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_finish_that_hangs_is_cut_off_with_the_grace_period() {
        let lifecycle = Lifecycle::new(GRACE);
        lifecycle.stop();
        let start = Instant::now();
        let stopped = lifecycle.run_until_stopped(stream::pending(), std::future::pending()).await;
        assert_eq!(stopped, Err(StopError::Aborted { left: 0 }));
        assert_eq!(start.elapsed(), GRACE + LAST_WORDS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_returns_by_itself_stops_the_process_with_a_failure() {
        let lifecycle = Lifecycle::new(GRACE);
        let draining = lifecycle.draining();
        lifecycle.spawn_critical("other", async move { draining.cancelled().await });
        lifecycle.spawn_critical("beat", async {});
        let stopped = lifecycle.run_until_stopped(stream::pending(), async {}).await;
        assert_eq!(stopped, Err(StopError::TaskDied(TaskDeath { task: "beat", panic: None })));
        assert!(lifecycle.draining().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_the_process_with_a_failure_even_while_it_drains() {
        for draining in [false, true] {
            let lifecycle = Lifecycle::new(GRACE);
            if draining {
                lifecycle.stop();
            }
            lifecycle.spawn_critical("beat", async { panic!("no heart") });
            let stopped = lifecycle.run_until_stopped(stream::pending(), async {}).await.unwrap_err();
            assert_eq!(stopped.to_string(), "background task beat panicked: no heart");
        }
    }
}
