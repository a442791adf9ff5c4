//! Starting: the starts of calls are recorded in groups, as many as are ready at the same time.

use std::sync::Arc;

use super::execute::describe;
use super::group::{GroupWriter, Groups};
use crate::clock::Clock;
use crate::domain::outcome::Claim;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Whether the start of a call was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It was.
    Durably,
    /// Perhaps. Nothing was sent, so the attempt is put back either way.
    InDoubt,
}

/// Records that calls are about to be sent.
pub struct Starter(Groups<Starts>);

struct Starts {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Starter {
    /// Writes to `store`.
    #[must_use]
    pub fn new(store: Arc<Store>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self(Groups::new(Starts { store, clock, metrics }))
    }

    /// Records durably that the call of `claim` is about to be sent, together with all that are ready. `None` if the
    /// claim is not held any more.
    pub async fn start(&self, claim: Claim) -> Option<Started> {
        self.0.write(|| claim).await.unwrap_or_else(|error| {
            tracing::warn!(image = %claim.image, error = %describe(&error), "cannot record a call's start");
            Some(Started::InDoubt)
        })
    }
}

impl GroupWriter for Starts {
    type Request = Claim;
    type Answer = Option<Started>;
    const MOST: usize = 64;

    /// Not asked again: a start that was written would look like one that another claim wrote.
    fn unsaid() -> Option<Option<Started>> {
        Some(Some(Started::InDoubt))
    }

    async fn write(&self, claims: &[Claim]) -> Result<Vec<Option<Started>>, StoreError> {
        let held = self.store.start(claims, self.clock.now()).await?;
        self.metrics.calls_started.inc_by(held.iter().filter(|held| **held).count() as u64);
        Ok(held.into_iter().map(|held| held.then_some(Started::Durably)).collect())
    }
}
