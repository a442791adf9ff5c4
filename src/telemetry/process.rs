//! What the system says of this process. Linux alone says it; elsewhere there is nothing to show.

use rustix::time::{ClockId, clock_gettime};

/// Memory of this process that is in the machine's memory now, in bytes.
#[must_use]
pub fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Processor time that this process has used, by itself and by the system for it, in seconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "seconds and nanoseconds are far below 2^52")]
pub fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
