//! Named points at which a test ends the process, as a power cut would: by SIGKILL, at the worst moment.
//!
//! The points are compiled in by the feature `failpoints` alone, which nothing but the tests switches on.
//! `FAILPOINT=name` ends the process when it comes to that point, `FAILPOINT=name:3` at the third time.

/// Every point, in the order in which a picture, its charge and what is told of it come to them.
pub const POINTS: &[&str] = &[
    "execute.claimed",
    "execute.prepared",
    "execute.started",
    "execute.answered",
    "assets.receipt_written",
    "execute.stored",
    "settle.written",
    "settle.committed",
    "execute.reconciled",
    "ledger.positioned",
    "ledger.head_read",
    "ledger.chunk_written",
    "ledger.appended",
    "ledger.confirmed",
    "ledger.swept",
    "webhook.answered",
    "webhook.recorded",
];

/// Ends the process if the test asked for it at `point`.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn hit(_point: &'static str) {}

/// Ends the process if the test asked for it at `point`.
#[cfg(feature = "failpoints")]
pub fn hit(point: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ASKED: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        #[expect(clippy::disallowed_methods, reason = "a switch of the tests, not of the configuration")]
        let asked = std::env::var("FAILPOINT").ok()?;
        let (name, times) = asked.split_once(':').unwrap_or((&asked, "1"));
        Some((name.to_owned(), AtomicU32::new(times.parse().unwrap_or(1))))
    });
    debug_assert!(POINTS.contains(&point), "{point} is not in the list");
    if let Some((name, left)) = &*ASKED
        && name == point
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        // Nothing runs after this: no destructor, no flush, no signal handler.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
