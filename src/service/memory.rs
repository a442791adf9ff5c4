//! How much of the memory the pictures of all calls may take together.
//!
//! A call asks once, for the most that its references can be, and gives back what they turned out not to be. Nobody waits
//! while holding a part of what it needs, so nobody waits for ever. An answer counts as what most are until it is there,
//! and then as what it is, without waiting: one that is longer takes more than there may be, and no call gets a share
//! until that much is given back.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use crate::domain::spec::ImageSize;

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
    /// Bytes of all shares.
    held: Arc<watch::Sender<u64>>,
    /// Has whoever waits for its share, the others behind it: a large share waits behind no small one.
    turn: Mutex<()>,
    total: u64,
    /// The most that one reference can take.
    reference_bytes: u64,
}

/// A call's share of it; given back when dropped.
pub struct Share {
    held: Arc<watch::Sender<u64>>,
    bytes: u64,
    size: ImageSize,
}

/// What references of so many bytes take with the request that holds them.
const fn with_request(bytes: u64) -> u64 {
    bytes.saturating_mul(COPIES_IN_TENTHS) / 10
}

impl PictureMemory {
    /// `total` bytes in all, for references of at most `reference_bytes` each.
    #[must_use]
    pub fn new(total: u64, reference_bytes: u64) -> Self {
        Self { held: Arc::default(), turn: Mutex::default(), total, reference_bytes }
    }

    /// As many calls for usual pictures, without references, have room at once; one always has.
    #[must_use]
    pub fn calls_at_once(&self) -> u64 {
        (self.total / answer_bytes(ImageSize::OneK)).max(1)
    }

    /// Waits for the share of a call for a picture of `size` with `references` references. One that could
    /// never have enough gets all.
    pub async fn share(&self, size: ImageSize, references: usize) -> Share {
        let most = answer_bytes(size) + with_request(references as u64 * self.reference_bytes);
        let bytes = most.min(self.total);
        let _turn = self.turn.lock().await;
        let mut given_back = self.held.subscribe();
        let take = |held: &mut u64| {
            let fits = *held + bytes <= self.total;
            *held += if fits { bytes } else { 0 };
            fits
        };
        while !self.held.send_if_modified(take) {
            // It cannot fail: the sender is here.
            let _ = given_back.changed().await;
        }
        Share { held: Arc::clone(&self.held), bytes, size }
    }
}

impl Share {
    /// The references are there, and have `bytes` bytes: gives back what they do not need.
    pub fn gathered(&mut self, bytes: u64) {
        self.become_of(self.bytes.min(answer_bytes(self.size) + with_request(bytes)));
    }

    /// The answer is there, a picture of `bytes` bytes, and nothing else is held any more.
    pub fn answered(&mut self, bytes: u64) {
        self.become_of(bytes);
    }

    fn become_of(&mut self, bytes: u64) {
        self.held.send_modify(|held| *held = *held - self.bytes + bytes);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.become_of(0);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    impl PictureMemory {
        fn held_mib(&self) -> u64 {
            *self.held.borrow() / MIB
        }
    }

    #[tokio::test]
    async fn a_call_keeps_only_what_its_references_and_its_answer_turned_out_to_be() {
        let memory = PictureMemory::new(240 * MIB, 10 * MIB);
        let mut share = memory.share(ImageSize::OneK, 6).await;
        assert_eq!(memory.held_mib(), 4 + 144);
        share.gathered(5 * MIB);
        assert_eq!(memory.held_mib(), 4 + 12);
        share.answered(MIB);
        assert_eq!(memory.held_mib(), 1);
        drop(share);
        assert_eq!(memory.held_mib(), 0);
    }

    #[tokio::test]
    async fn a_call_that_needs_more_than_there_is_gets_all_of_it() {
        let memory = PictureMemory::new(MIB, 10 * MIB);
        let mut share = memory.share(ImageSize::OneK, 6).await;
        assert_eq!(memory.held_mib(), 1);
        assert!(memory.share(ImageSize::OneK, 0).now_or_never().is_none());
        share.gathered(60 * MIB);
        assert_eq!(memory.held_mib(), 1);
        drop(share);
        assert!(memory.share(ImageSize::OneK, 0).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_longer_answer_waits_for_nothing_and_no_call_begins_until_as_much_is_given_back() {
        let memory = PictureMemory::new(12 * MIB, 0);
        let [mut first, mut second, third] = [(); 3].map(|()| memory.share(ImageSize::OneK, 0).now_or_never().unwrap());
        first.answered(16 * MIB);
        assert_eq!(memory.held_mib(), 24);
        let mut next = Box::pin(memory.share(ImageSize::OneK, 0));
        drop(third);
        second.answered(MIB);
        assert_eq!(memory.held_mib(), 17);
        assert!(next.as_mut().now_or_never().is_none());
        first.answered(8 * MIB);
        assert!(next.as_mut().now_or_never().is_none(), "nine are held, and four would be one too many");
        drop(second);
        assert!(next.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_large_share_waits_behind_no_small_one_that_came_later() {
        let memory = PictureMemory::new(16 * MIB, 0);
        let first = memory.share(ImageSize::OneK, 0).await;
        let second = memory.share(ImageSize::OneK, 0).await;
        let mut large = Box::pin(memory.share(ImageSize::TwoK, 0));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(memory.share(ImageSize::OneK, 0));
        assert!(small.as_mut().now_or_never().is_none(), "there is room for it, and another's turn");
        drop(first);
        assert!(small.as_mut().now_or_never().is_none());
        let large = large.now_or_never().unwrap();
        assert!(small.as_mut().now_or_never().is_none());
        drop(second);
        assert!(small.now_or_never().is_some());
        drop(large);
        assert_eq!(memory.held_mib(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_no_longer_leaves_its_turn_and_holds_nothing() {
        let memory = PictureMemory::new(4 * MIB, 0);
        let held = memory.share(ImageSize::OneK, 0).await;
        let mut gone = Box::pin(memory.share(ImageSize::OneK, 0));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut next = Box::pin(memory.share(ImageSize::OneK, 0));
        assert!(next.as_mut().now_or_never().is_none());
        drop(held);
        drop(gone);
        assert!(next.now_or_never().is_some());
        assert_eq!(memory.held_mib(), 0);
    }
}
