//! A provider with limits, one whose limit changes, and fairness between batches.

use std::time::{Duration, Instant};

use crate::Arguments;
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::service::{Service, setting};
use crate::table::{Table, median};

/// Calls a second that a provider takes, one number after the other.
const ALLOWANCES: [usize; 3] = [20, 5, 40];
/// How long each of them holds.
const PHASE: Duration = Duration::from_secs(30);
/// How long after a change nothing counts.
const SETTLING: Duration = Duration::from_secs(10);
/// How long such a provider takes for a call.
const LATENCY: Duration = Duration::from_millis(500);
/// Calls at once that it gets at most: more than any of them needs, and no more than `IMAGE_BYTES_IN_FLIGHT` lets through.
const MOST_AT_ONCE: usize = 32;

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
    known(arguments, table).await;
    changing(arguments, table).await;
}

/// 400 pictures from a provider that takes 20 calls at once and 300 a minute.
async fn known(arguments: &Arguments, table: &mut Table) {
    let (pictures, latency) = (400, Duration::from_secs(1));
    let allowed = Allowed { at_once: 20, in_window: 300, window: Duration::from_mins(1) };
    let fake = FakeGemini::start(b"\x89PNG", latency, allowed, |_, _| Fault::Blocked).await;
    let settings =
        [&[setting("PROVIDER_CONCURRENCY", 20), setting("PROVIDER_RPM", 300)], &*arguments.settings()].concat();
    let service = Service::start(&fake.url, &settings).await;
    let start = Instant::now();
    let batch = service.submit(pictures, 1).await;
    service.done(&batch).await;
    // 300 at once as far as 20 go, the others when the first are a minute old.
    let ideal = 60.0 + 5.0;
    table.beside("limits", "20 at once, 300 a minute: wall", (start.elapsed().as_secs_f64(), ideal), "s");
    table.add("limits", "20 at once, 300 a minute: refused calls", fake.refused() as f64, "");
}

/// A provider whose allowance nobody set and which changes: with a limit that follows it, and beside that with a fixed one.
async fn changing(arguments: &Arguments, table: &mut Table) {
    let (adaptive, fixed) = tokio::join!(phases(arguments, true), phases(arguments, false));
    for (allowance, (adaptive, fixed)) in ALLOWANCES.into_iter().zip(adaptive.into_iter().zip(fixed)) {
        let name = format!("adaptive, and fixed, at {allowance}/s");
        table.beside("limits", format!("{name}: of these"), (adaptive.reached, fixed.reached), "%");
        table.beside("limits", format!("{name}: refused"), (adaptive.refused, fixed.refused), "%");
    }
}

/// What a provider saw after it had settled, in hundredths.
struct Phase {
    /// Calls that it took, of those that it would have taken.
    reached: f64,
    /// Calls that it refused, of all.
    refused: f64,
}

async fn phases(arguments: &Arguments, adaptive: bool) -> Vec<Phase> {
    let per_second = |calls| Allowed { at_once: usize::MAX, in_window: calls, window: Duration::from_secs(1) };
    let fake = FakeGemini::start(b"\x89PNG", LATENCY, per_second(ALLOWANCES[0]), |_, _| Fault::Blocked).await;
    let settings = [setting("PROVIDER_CONCURRENCY", MOST_AT_ONCE), setting("PROVIDER_ADAPTIVE", adaptive)];
    let service = Service::start(&fake.url, &[&settings, &*arguments.settings()].concat()).await;
    let most = ALLOWANCES.iter().sum::<usize>() * usize::try_from(PHASE.as_secs()).unwrap();
    service.submit(most + MOST_AT_ONCE, 1).await;
    let mut phases = Vec::new();
    for allowance in ALLOWANCES {
        fake.allow(per_second(allowance));
        tokio::time::sleep(SETTLING).await;
        let (taken, refused, start) = (fake.calls().len(), fake.refused(), Instant::now());
        tokio::time::sleep(PHASE.saturating_sub(SETTLING)).await;
        let due = allowance as f64 * start.elapsed().as_secs_f64();
        let (taken, refused) = ((fake.calls().len() - taken) as f64, (fake.refused() - refused) as f64);
        phases.push(Phase { reached: taken / due * 100.0, refused: refused / (taken + refused) * 100.0 });
    }
    phases
}

/// Three rows alone, and beside 2,000.
pub(crate) async fn fairness(arguments: &Arguments, table: &mut Table) {
    let latency = Duration::from_secs(1);
    let fake = FakeGemini::start(b"\x89PNG", latency, Allowed::default(), |_, _| Fault::Blocked).await;
    let settings = [&[setting("PROVIDER_CONCURRENCY", 16)], &*arguments.settings()].concat();
    let service = Service::start(&fake.url, &settings).await;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        alone.push(timed(&service).await);
    }
    service.submit(2_000, 1).await;
    for _ in 0..arguments.rounds {
        tokio::time::sleep(latency * 3 / 2).await;
        beside.push(timed(&service).await);
    }
    table.beside("fairness", "3 rows beside 2,000, and alone", (median(beside), median(alone)), "s");
}

async fn timed(service: &Service) -> f64 {
    let start = Instant::now();
    let batch = service.submit(3, 1).await;
    service.done(&batch).await;
    start.elapsed().as_secs_f64()
}
