//! Words in a prompt that choose how a call ends, so that a person can try every outcome.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

/// Pictures whose first try is remembered; with more all are forgotten.
const REMEMBERED: usize = 10_000;

/// Every marker and what it does.
pub const MARKERS: &[(&str, &str)] = &[
    ("[refuse]", "refuses the prompt in an answer: a paid model charges for what it read, `synthetic` nothing"),
    ("[refuse-unpaid]", "refuses the prompt with an error that costs nothing"),
    ("[text-only]", "answers with text and no picture"),
    ("[no-usage]", "makes the picture and does not say what it used: the reserve is charged"),
    ("[fail]", "fails every time, at no cost"),
    ("[fail-once]", "fails the first time, then works"),
    ("[429]", "asks to slow down for 2 s the first time, then works"),
    ("[429-always]", "asks to slow down every time"),
    ("[quota]", "says that the quota of the day is used up: for a minute, no call starts and pictures fail"),
    ("[drop]", "drops the connection after it was paid, every time"),
    ("[drop-once]", "drops the connection after it was paid the first time, then works"),
    ("[stall]", "never answers: the deadline of the call ends it"),
];

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Picture,
    PictureWithoutUsage,
    Refuse,
    RefuseUnpaid,
    TextOnly,
    Fail,
    Throttle,
    Quota,
    Drop,
    Stall,
}

/// Which pictures had their first try.
#[derive(Debug, Default)]
pub(super) struct Markers {
    /// Hashes, since a prompt may be long.
    tried: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Markers {
    /// How the next call for this picture ends.
    pub(super) fn ending(&self, prompt: &str, variant: u32) -> Ending {
        let Some((marker, _)) = MARKERS.iter().find(|(marker, _)| prompt.contains(marker)) else {
            return Ending::Picture;
        };
        match *marker {
            "[refuse]" => Ending::Refuse,
            "[refuse-unpaid]" => Ending::RefuseUnpaid,
            "[text-only]" => Ending::TextOnly,
            "[no-usage]" => Ending::PictureWithoutUsage,
            "[fail]" => Ending::Fail,
            "[fail-once]" => self.the_first_time(Ending::Fail, prompt, variant),
            "[429]" => self.the_first_time(Ending::Throttle, prompt, variant),
            "[429-always]" => Ending::Throttle,
            "[quota]" => Ending::Quota,
            "[drop]" => Ending::Drop,
            "[drop-once]" => self.the_first_time(Ending::Drop, prompt, variant),
            "[stall]" => Ending::Stall,
            _ => Ending::Picture,
        }
    }

    fn the_first_time(&self, ending: Ending, prompt: &str, variant: u32) -> Ending {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.len() >= REMEMBERED {
            tried.clear();
        }
        if tried.insert(self.hasher.hash_one((prompt, variant))) { ending } else { Ending::Picture }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_is_counted_for_each_prompt_and_variant() {
        let markers = Markers::default();
        for (prompt, variant) in [("[drop-once] a", 1), ("[drop-once] a", 2), ("[drop-once] b", 1)] {
            assert_eq!(markers.ending(prompt, variant), Ending::Drop, "{prompt} {variant}");
            assert_eq!(markers.ending(prompt, variant), Ending::Picture, "{prompt} {variant} again");
        }
    }

    #[test]
    fn every_listed_marker_changes_the_ending_and_what_is_remembered_stays_bounded() {
        for (marker, _) in MARKERS {
            assert_ne!(Markers::default().ending(marker, 1), Ending::Picture, "{marker}");
        }
        let markers = Markers::default();
        for variant in 0..=u32::try_from(REMEMBERED).unwrap() {
            markers.ending("[fail-once]", variant);
        }
        assert!(markers.tried.lock().unwrap().len() <= REMEMBERED);
    }
}
