//! How many lines a second go into the ledger when many wait.

use std::time::{Duration, Instant};

use crate::Arguments;
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::service::{Service, setting};
use crate::table::{Table, median};

/// Lines that wait.
const LINES: usize = 10_000;

pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
    let mut rates = Vec::new();
    // A refusal is charged too, and needs no picture.
    let fake = FakeGemini::start(b"\x89PNG", Duration::ZERO, Allowed::default(), |_, _| Fault::Blocked).await;
    for _ in 0..arguments.rounds {
        let settings = [&[setting("PROVIDER_CONCURRENCY", 64)], &*arguments.settings()].concat();
        let service = Service::start(&fake.url, &settings).await;
        let batch = service.submit(LINES, 1).await;
        service.done(&batch).await;
        let folder = service.stop().await;
        let settings = [&[setting("BUDGET_LEDGER_ENABLED", "true")], &*settings].concat();
        let start = Instant::now();
        let service = Service::start_in(folder, &fake.url, &settings).await;
        while service.get("/metrics-lite").await["ledgerLines"].as_u64() < Some(LINES as u64) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rates.push(LINES as f64 / start.elapsed().as_secs_f64());
    }
    table.add("ledger", format!("{LINES} lines at a start: exported"), median(rates), "/s");
}
