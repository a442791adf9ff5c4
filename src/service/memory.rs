//! How much of the memory the pictures of all calls may take together.
//!
//! A call asks once, for the most that its references can be, and gives back what they turned out not
//! to be. Nobody waits while holding a part of what it needs, so nobody waits for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::spec::ImageSize;

/// The unit in which memory is counted, so that a 32-bit count is enough.
const UNIT: u64 = 1 << 10;
/// A reference is there as a picture, and once more as base64 in the request.
const COPIES_IN_TENTHS: u64 = 24;

/// What an answer counts as: a 1K picture is 1-2 MB, and more with its base64; the others by their pixels.
const fn answer_bytes(size: ImageSize) -> u64 {
    match size {
        ImageSize::Half | ImageSize::OneK => 4 << 20,
        ImageSize::TwoK => 12 << 20,
        ImageSize::FourK => 32 << 20,
    }
}

/// The longest answer that is read: four times what it counts as, as few are that long; 64 MiB at most.
#[must_use]
pub fn max_answer_bytes(size: ImageSize) -> usize {
    usize::try_from(4 * answer_bytes(size)).unwrap_or(usize::MAX).min(64 << 20)
}

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
    size: ImageSize,
}

/// What references of so many bytes take with the request that holds them.
const fn with_request(bytes: u64) -> u64 {
    bytes.saturating_mul(COPIES_IN_TENTHS) / 10
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

    /// Waits for the share of a call for a picture of `size` with `references` references. One that could
    /// never have enough gets all.
    ///
    /// `None` is never returned while the process works: the memory is not closed.
    pub async fn share(&self, size: ImageSize, references: usize) -> Option<Share> {
        let most = answer_bytes(size) + with_request(references as u64 * self.reference_bytes);
        let wanted = units(most).min(self.total);
        let permit = Arc::clone(&self.units).acquire_many_owned(wanted).await.ok()?;
        Some(Share { permit, size })
    }
}

impl Share {
    /// Gives back what the references, which have `bytes` bytes, do not need.
    pub fn keep(&mut self, bytes: u64) {
        let spare =
            self.permit.num_permits().saturating_sub(units(answer_bytes(self.size) + with_request(bytes)) as usize);
        drop(self.permit.split(spare));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn a_call_keeps_only_what_its_references_turned_out_to_be() {
        let memory = PictureMemory::new(240 * MIB, 10 * MIB);
        let mut share = memory.share(ImageSize::OneK, 6).await.unwrap();
        assert_eq!(memory.units.available_permits() as u64, (240 - 4 - 144) * MIB / UNIT);
        share.keep(5 * MIB);
        assert_eq!(memory.units.available_permits() as u64, (240 - 4 - 12) * MIB / UNIT);
        drop(share);
        assert_eq!(memory.units.available_permits() as u64, 240 * MIB / UNIT);
    }

    #[tokio::test]
    async fn a_call_that_needs_more_than_there_is_gets_all_of_it() {
        let memory = PictureMemory::new(MIB, 10 * MIB);
        let share = memory.share(ImageSize::OneK, 6).await.unwrap();
        assert_eq!(memory.units.available_permits(), 0);
        drop(share);
        assert!(memory.share(ImageSize::OneK, 0).await.is_some());
    }
}
