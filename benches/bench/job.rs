//! Whole jobs: through the service, and through a bare loop that does nothing but call, decode and write.

use std::time::{Duration, Instant};

use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::pictures::{large_picture, small_picture};
use crate::service::{Service, folder, setting};
use crate::table::{Table, median};
use crate::{Arguments, bare};

/// A job.
#[derive(Clone, Copy)]
struct Job {
    pictures: usize,
    at_once: usize,
    latency: Duration,
}

/// What one run took.
#[derive(Clone, Copy)]
struct Run {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
}

/// 100 pictures of 1.3 MB at a second a call, 16 at once; with thumbnails, and where nothing waits without them.
pub(crate) async fn usual(arguments: &Arguments, table: &mut Table) {
    let second = Job { pictures: 100, at_once: 16, latency: Duration::from_secs(1) };
    measure(arguments, table, "1.3 MB, 1000 ms, 16 at once", &large_picture(), second, &[]).await;
    let without = [setting("THUMBNAILS_ENABLED", "false")];
    measure(arguments, table, "the same without thumbnails", &large_picture(), second, &without).await;
    let job = Job { pictures: 200, at_once: 16, latency: Duration::ZERO };
    measure(arguments, table, "1.3 MB, 0 ms, no thumbnails", &large_picture(), job, &without).await;
    let job = Job { pictures: 2_000, ..job };
    measure(arguments, table, "50 KB, 0 ms", &small_picture(), job, &[]).await;
    measure(arguments, table, "50 KB, 0 ms, no thumbnails", &small_picture(), job, &without).await;
}

/// Each size of picture, with each latency, with each number of calls at once.
pub(crate) async fn matrix(arguments: &Arguments, table: &mut Table) {
    for (size, picture, most) in [("1.3 MB", large_picture(), 200), ("50 KB", small_picture(), 1_000)] {
        for latency in [0, 100, 1_000] {
            for at_once in [4, 16, 64] {
                // No job takes longer than about ten seconds of the provider's time.
                let pictures = 10_000_usize.checked_div(latency).map_or(most, |calls| most.min(calls * at_once));
                let job = Job { pictures, at_once, latency: Duration::from_millis(latency as u64) };
                let name = format!("{size}, {latency} ms, {at_once} at once");
                measure(arguments, table, &name, &picture, job, &[]).await;
            }
        }
    }
}

async fn measure(
    arguments: &Arguments,
    table: &mut Table,
    name: &str,
    picture: &[u8],
    job: Job,
    settings: &[(String, String)],
) {
    if !arguments.is_wanted(name) {
        return;
    }
    let fake = FakeGemini::start(picture, job.latency, Allowed::default(), |_, _| Fault::None).await;
    let settings = [settings, &arguments.settings()].concat();
    let (mut bare, mut durable, mut service) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        bare.push(run_bare("loop", &fake.url, job).await);
        if job.latency.is_zero() {
            durable.push(run_bare("durable-loop", &fake.url, job).await);
        }
        service.push(run_service(&fake.url, job, &settings).await);
    }
    let both = |of: fn(&Run) -> f64| (median(service.iter().map(of).collect()), median(bare.iter().map(of).collect()));
    let pictures = job.pictures as f64;
    let (wall, bare_wall) = both(|run| run.wall);
    if job.latency.is_zero() {
        let durable_wall = median(durable.iter().map(|run| run.wall).collect());
        table.beside("job", format!("{name}: pictures"), (pictures / wall, pictures / bare_wall), "/s");
        let beside_durable = format!("{name}: pictures, beside a loop that writes durably");
        table.beside("job", beside_durable, (pictures / wall, pictures / durable_wall), "/s");
    } else {
        let ideal = job.latency.as_secs_f64() * (job.pictures.div_ceil(job.at_once)) as f64;
        table.beside("job", format!("{name}: wall"), (wall, bare_wall), "s");
        table.beside("job", format!("{name}: wall, beside the ideal"), (wall, ideal), "s");
    }
    let (cpu, bare_cpu) = both(|run| run.cpu);
    table.beside("job", format!("{name}: CPU a picture"), (cpu / pictures * 1e3, bare_cpu / pictures * 1e3), "ms");
    table.beside("job", format!("{name}: peak memory"), both(|run| run.peak_mib), "MiB");
}

async fn run_bare(kind: &str, url: &str, job: Job) -> Run {
    let (pictures, at_once) = (job.pictures.to_string(), job.at_once.to_string());
    let folder = folder();
    let words = [kind, url, &pictures, &at_once, folder.path().to_str().unwrap()];
    let output = bare::command(&words).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let [wall, cpu, peak_mib] = serde_json::from_slice(&output.stdout).unwrap();
    Run { wall, cpu, peak_mib }
}

async fn run_service(url: &str, job: Job, settings: &[(String, String)]) -> Run {
    let settings = [&[setting("PROVIDER_CONCURRENCY", job.at_once)], settings].concat();
    let service = Service::start(url, &settings).await;
    let (before, start) = (service.books().cpu, Instant::now());
    let batch = service.submit(job.pictures, 1).await;
    service.done(&batch).await;
    let (wall, used) = (start.elapsed().as_secs_f64(), service.books());
    Run { wall, cpu: used.cpu.saturating_sub(before).as_secs_f64(), peak_mib: used.peak_mib }
}
