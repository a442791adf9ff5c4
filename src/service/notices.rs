//! Telling the batches that wait why they wait: a `notice` in their events, now and then while it lasts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::execute::describe;
use super::gate::{Closed, Reason};
use crate::clock::Clock;
use crate::domain::ids::BatchId;
use crate::store::Store;

/// A pause that is over sooner is nobody's business.
const SHORTEST_TOLD: Duration = Duration::from_secs(2);
/// A batch is not told the same again before this time: a provider may ask to slow down every few seconds.
const TOLD_AGAIN: Duration = Duration::from_mins(10);

/// Writes notices.
pub struct Notices {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    /// When each batch was told what.
    told: Mutex<HashMap<(BatchId, Reason), Duration>>,
}

impl Notices {
    /// Writes to `store`.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, told: Mutex::default() }
    }

    /// Tells `batch` why its pictures wait, if it was not told lately.
    pub async fn tell(&self, batch: BatchId, closed: Closed) {
        let Some(detail) = sentence(closed, self.clock.as_ref()) else { return };
        if closed.opens_in < SHORTEST_TOLD || !self.is_news(batch, closed.reason) {
            return;
        }
        if let Err(error) = self.store.notice(batch, &detail, self.clock.now()).await {
            // Progress is poorer for it, and nothing else.
            tracing::warn!(%batch, error = %describe(&error), "cannot write a notice");
        }
    }

    fn is_news(&self, batch: BatchId, reason: Reason) -> bool {
        let now = self.clock.monotonic();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.saturating_sub(*at) < TOLD_AGAIN);
        let count = told.len();
        told.entry((batch, reason)).or_insert(now);
        told.len() > count
    }
}

/// What a person is told about a closed gate; `None` if it is the usual.
#[must_use]
pub fn sentence(closed: Closed, clock: &dyn Clock) -> Option<String> {
    let until = clock.now().after(closed.opens_in);
    match closed.reason {
        Reason::Throttled => {
            Some(format!("the provider asked to slow down: no call starts until {until}; nothing is lost or charged"))
        }
        Reason::Quota => Some(format!(
            "the provider's daily quota is used up until {until}: pictures fail with quota_exhausted; retry them then"
        )),
        Reason::Failing => {
            Some("the provider failed several times in a row: one call at a time tries whether it is back".to_owned())
        }
        Reason::Busy => None,
    }
}
