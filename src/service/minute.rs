//! The minute that all instances share: `PROVIDER_RPM` calls in all, however many processes make them.
//!
//! A call needs a slot in the database, taken after it passed this process's gate. Without the database
//! there is no slot, and without a slot no call.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::execute::describe;
use super::gate::GateRules;
use crate::clock::Clock;
use crate::store::{CallSlot, SlotOutcome, Store, StoreError};

/// A slot that was taken longer ago is taken anew before its call is sent.
const FRESH: Duration = Duration::from_millis(500);
/// Tries to send within that time.
const TRIES: u32 = 3;
/// While no slot is free, the database is asked again after this time: another instance may give one back.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The calls of the minute.
pub struct SharedMinute {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    calls: u32,
    minute: Duration,
    /// Until when no slot is free, as far as is known. One picture asks at a time.
    spent_until: Mutex<Duration>,
}

/// A slot, and when it was asked for by this process's monotonic clock.
pub(super) struct Taken {
    slot: CallSlot,
    at: Duration,
}

/// What asking for a slot gave.
pub(super) enum Asked {
    Taken(Taken),
    /// No slot is free for so long, or another instance may give one back then.
    Spent(Duration),
}

impl SharedMinute {
    /// The minute of `rules`; `None` where calls are not limited, or this process is the only one: the gate
    /// counts for itself then.
    #[must_use]
    pub fn of(store: Arc<Store>, clock: Arc<dyn Clock>, rules: &GateRules) -> Option<Self> {
        let calls = rules.calls_a_minute.filter(|_| !store.is_exclusive())?;
        // The call leaves up to `FRESH` after its slot was taken.
        let minute = rules.minute + FRESH;
        Some(Self { store, clock, calls, minute, spent_until: Mutex::default() })
    }

    pub(super) async fn take(&self) -> Result<Asked, StoreError> {
        let mut spent_until = self.spent_until.lock().await;
        let at = self.clock.monotonic();
        if *spent_until > at {
            return Ok(Asked::Spent(spent_until.saturating_sub(at)));
        }
        match self.store.take_call_slot(self.calls, self.minute).await? {
            SlotOutcome::Taken(slot) => Ok(Asked::Taken(Taken { slot, at })),
            SlotOutcome::Spent(span) => {
                let span = span.min(ASK_AGAIN);
                *spent_until = self.clock.monotonic() + span;
                Ok(Asked::Spent(span))
            }
        }
    }

    /// Whether a call sent now is within the minute of its slot.
    pub(super) async fn confirm(&self, taken: &mut Taken) -> bool {
        for _ in 0..TRIES {
            let now = self.clock.monotonic();
            if now.saturating_sub(taken.at) <= FRESH {
                return true;
            }
            match self.store.renew_call_slot(taken.slot).await {
                Ok(Some(slot)) => *taken = Taken { slot, at: now },
                Ok(None) => return false,
                Err(error) => {
                    tracing::warn!(error = %describe(&error), "cannot count a call before it is sent");
                    return false;
                }
            }
        }
        self.clock.monotonic().saturating_sub(taken.at) <= FRESH
    }

    /// Gives back the slot of a call that is not sent.
    pub(super) async fn give_back(&self, taken: Taken) {
        if let Err(error) = self.store.free_call_slot(taken.slot).await {
            tracing::debug!(error = %describe(&error), "a call's place in the minute is free when the minute is over");
        }
        *self.spent_until.lock().await = Duration::ZERO;
    }
}
