//! At most one change a second of one object: Google answers 429 beyond about that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When each object was changed last, as far as that still matters.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    changed: Mutex<HashMap<String, Instant>>,
}

impl Pace {
    /// At least `gap` between two changes of one object.
    pub(super) fn new(gap: Duration) -> Self {
        Self { gap, changed: Mutex::default() }
    }

    /// Waits until `object` may be changed again.
    pub(super) async fn wait(&self, object: &str) {
        let next = self.lock().get(object).map(|changed| *changed + self.gap);
        if let Some(next) = next {
            tokio::time::sleep_until(next).await;
        }
    }

    /// Notes that `object` was changed, or may have been.
    pub(super) fn changed(&self, object: &str) {
        let now = Instant::now();
        let mut changed = self.lock();
        changed.retain(|_, at| *at + self.gap > now);
        changed.insert(object.to_owned(), now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_object_waits_and_another_does_not() {
        let pace = Pace::new(Duration::from_secs(1));
        let start = Instant::now();
        pace.wait("a").await;
        pace.changed("a");
        pace.wait("b").await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        pace.wait("a").await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        pace.changed("b");
        assert_eq!(pace.lock().len(), 1, "what does not matter any more is forgotten");
    }
}
