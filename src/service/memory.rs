//! How much of the memory the pictures of all calls may take together.
//!
//! A call asks once, for the most that its references can be, and gives back what they turned out not
//! to be. Nobody waits while holding a part of what it needs, so nobody waits for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit in which memory is counted, so that a 32-bit count is enough.
const UNIT: u64 = 1 << 10;
/// What an answer counts as: an encoded picture is 1-2 MB at 1K, and seldom more than this at 4K.
const ANSWER_BYTES: u64 = 4 << 20;

/// The memory for pictures in flight.
pub struct PictureMemory {
    units: Arc<Semaphore>,
    total: u32,
    /// The most that one reference can take.
    reference_bytes: u64,
}

/// A call's share of it; given back when dropped.
pub struct Share {
    permit: OwnedSemaphorePermit,
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl PictureMemory {
    /// `total` bytes in all, for references of at most `reference_bytes` each.
    #[must_use]
    pub fn new(total: u64, reference_bytes: u64) -> Self {
        let total = units(total).max(1);
        Self { units: Arc::new(Semaphore::new(total as usize)), total, reference_bytes }
    }

    /// Waits for the share of a call with `references` references. One that could never have enough gets all.
    ///
    /// `None` is never returned while the process works: the memory is not closed.
    pub async fn share(&self, references: usize) -> Option<Share> {
        let most = ANSWER_BYTES + references as u64 * self.reference_bytes;
        let wanted = units(most).min(self.total);
        let permit = Arc::clone(&self.units).acquire_many_owned(wanted).await.ok()?;
        Some(Share { permit })
    }
}

impl Share {
    /// Gives back what the references, which have `bytes` bytes, do not need.
    pub fn keep(&mut self, bytes: u64) {
        let spare = self.permit.num_permits().saturating_sub(units(ANSWER_BYTES + bytes) as usize);
        drop(self.permit.split(spare));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn a_call_keeps_only_what_its_references_turned_out_to_be() {
        let memory = PictureMemory::new(128 * MIB, 10 * MIB);
        let mut share = memory.share(6).await.unwrap();
        assert_eq!(memory.units.available_permits() as u64, (128 - 64) * MIB / UNIT);
        share.keep(6 * MIB);
        assert_eq!(memory.units.available_permits() as u64, (128 - 10) * MIB / UNIT);
        drop(share);
        assert_eq!(memory.units.available_permits() as u64, 128 * MIB / UNIT);
    }

    #[tokio::test]
    async fn a_call_that_needs_more_than_there_is_gets_all_of_it() {
        let memory = PictureMemory::new(MIB, 10 * MIB);
        let share = memory.share(6).await.unwrap();
        assert_eq!(memory.units.available_permits(), 0);
        drop(share);
        assert!(memory.share(0).await.is_some());
    }
}
