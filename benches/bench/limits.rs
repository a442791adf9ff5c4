//! A provider with limits, and fairness between batches.

use std::time::{Duration, Instant};

use crate::Arguments;
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::service::{Service, setting};
use crate::table::{Table, median};

/// 400 pictures from a provider that takes 20 calls at once and 300 a minute.
pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
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
