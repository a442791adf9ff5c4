//! Faults in a few words.

/// Faults that are told; the others are counted.
const TOLD: usize = 3;

/// The first of them, and how many more there are; `None` if there are none.
pub(super) fn told(faults: &[String]) -> Option<String> {
    let (first, others) = faults.split_at(faults.len().min(TOLD));
    let more = if others.is_empty() { String::new() } else { format!("; and {} more", others.len()) };
    (!first.is_empty()).then(|| first.join("; ") + &more)
}
