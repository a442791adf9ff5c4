//! The one line that the log has about the end of a batch.

use std::sync::{Mutex, PoisonError};

use crate::domain::event::Event;
use crate::domain::ids::BatchId;
use crate::domain::time::Timestamp;
use crate::store::Store;

/// The finish that was logged last, by the number of its event: two groups of ends may be written within
/// a millisecond, and both see it.
#[derive(Debug, Default)]
pub(super) struct LastFinish(Mutex<Option<(BatchId, u64)>>);

impl LastFinish {
    fn is_new(&self, batch: BatchId, event: u64) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.replace((batch, event)) != Some((batch, event))
    }
}

/// Logs that `batch` has finished, if what this process wrote in it at `at` was its last end.
///
/// Another process may have written a later one; its time differs, and that process logs it. A store
/// that does not answer costs the line and nothing else.
pub(super) async fn log_if_finished(store: &Store, batch: BatchId, at: Timestamp, last: &LastFinish) {
    let Ok(Some((last_event, true))) = store.load_progress(batch).await else { return };
    let Ok(events) = store.load_events(batch, last_event.saturating_sub(1), 1).await else { return };
    for row in events.into_iter().filter(|row| row.at == at && last.is_new(batch, row.number)) {
        if let Event::Done { state, counts, cost, unknown_cost, .. } = row.event {
            tracing::info!(
                %batch,
                state = state.as_str(),
                completed = counts.completed,
                failed = counts.failed,
                cancelled = counts.cancelled,
                %cost,
                %unknown_cost,
                "batch finished"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;

    #[test]
    fn a_finish_is_new_once_and_a_later_one_of_the_same_batch_again() {
        let (last, batch) = (LastFinish::default(), BatchId::new(Ulid::from_parts(1, 1)));
        assert_eq!([5, 5, 9].map(|event| last.is_new(batch, event)), [true, false, true]);
    }
}
