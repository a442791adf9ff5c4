//! Words in a prompt that choose how a call ends, so that a person can try every outcome.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Pictures whose first try is remembered; with more all are forgotten.
const REMEMBERED: usize = 10_000;

/// Every marker and what it does.
pub const MARKERS: &[(&str, &str)] = &[
    ("[refuse]", "refuses the prompt in an answer that is paid for"),
    ("[refuse-unpaid]", "refuses the prompt with an error that costs nothing"),
    ("[text-only]", "answers with text and no picture"),
    ("[no-usage]", "makes the picture and does not say what it used: the reserve is charged"),
    ("[fail]", "fails every time, at no cost"),
    ("[fail-once]", "fails the first time, then works"),
    ("[429]", "asks to slow down for 2 s the first time, then works"),
    ("[429-always]", "asks to slow down every time"),
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
    Drop,
    Stall,
}

/// Which pictures had their first try.
#[derive(Debug, Default)]
pub(super) struct Markers {
    tried: Mutex<HashSet<(String, u32)>>,
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
        if tried.insert((prompt.to_owned(), variant)) { ending } else { Ending::Picture }
    }
}
