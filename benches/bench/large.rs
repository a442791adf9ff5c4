//! Large work in little memory: a batch of 30,000 pictures, and a hundred thousand pictures over time.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::Arguments;
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::service::{Service, setting};
use crate::table::{Table, median};

/// 10,000 rows of three pictures: how long until it is accepted, until the first event, and the memory it took.
pub(crate) async fn measure(arguments: &Arguments, table: &mut Table) {
    let picture = crate::pictures::small_picture();
    let fake = FakeGemini::start(&picture, Duration::ZERO, Allowed::default(), |_, _| Fault::None).await;
    let settings = [&[setting("PROVIDER_CONCURRENCY", 16)], &*arguments.settings()].concat();
    let (mut accepted, mut first) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let service = Service::start(&fake.url, &settings).await;
        let start = Instant::now();
        let batch = service.submit(10_000, 3).await;
        accepted.push(start.elapsed().as_secs_f64());
        let asked = Instant::now();
        let mut stream = service.stream(&batch).await.bytes_stream();
        while let Some(piece) = stream.next().await {
            if piece.unwrap().windows(6).any(|part| part == b"event:") {
                break;
            }
        }
        first.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    table.add("large", "10,000 rows of 3: accepted in", median(accepted), "s");
    table.add("large", "10,000 rows of 3: first event after", median(first), "ms");
    let service = Service::start(&fake.url, &settings).await;
    let start = Instant::now();
    let batch = service.submit(10_000, 3).await;
    service.done(&batch).await;
    table.add("large", "10,000 rows of 3: pictures", 30_000.0 / start.elapsed().as_secs_f64(), "/s");
    table.add("large", "10,000 rows of 3: peak memory", service.books().peak_mib, "MiB");
    small_beside(table, &fake.url, &settings).await;
}

/// The same memory, whatever the size of the job.
async fn small_beside(table: &mut Table, url: &str, settings: &[(String, String)]) {
    let service = Service::start(url, settings).await;
    let batch = service.submit(2_000, 1).await;
    service.done(&batch).await;
    table.add("large", "2,000 pictures: peak memory", service.books().peak_mib, "MiB");
}

/// Many pictures in batches of a thousand, one after the other: memory over time.
pub(crate) async fn soak(arguments: &Arguments, table: &mut Table) {
    const BATCH: usize = 1_000;
    let picture = crate::pictures::small_picture();
    let fake = FakeGemini::start(&picture, Duration::ZERO, Allowed::default(), |_, _| Fault::None).await;
    let settings = [&[setting("PROVIDER_CONCURRENCY", 16)], &*arguments.settings()].concat();
    let service = Service::start(&fake.url, &settings).await;
    let start = Instant::now();
    for made in (BATCH..=arguments.soak_pictures).step_by(BATCH) {
        let batch = service.submit(BATCH, 1).await;
        service.done(&batch).await;
        if made == 2 * BATCH || made % (10 * BATCH) == 0 || made == arguments.soak_pictures {
            let books = service.books();
            table.add("soak", format!("{made} pictures: memory"), books.memory_mib, "MiB");
            table.add("soak", format!("{made} pictures: peak memory"), books.peak_mib, "MiB");
        }
    }
    table.add("soak", "pictures", arguments.soak_pictures as f64 / start.elapsed().as_secs_f64(), "/s");
}
