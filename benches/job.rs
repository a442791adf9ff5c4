//! Whole jobs against a provider on this machine: through the service, and through a bare loop that does
//! nothing but call, decode and write. Each pair runs in turn, several times; medians and ratios are printed.
//!
//! `scripts/bench` builds and runs this. Everything is measured from outside: wall time by this program,
//! CPU time and peak memory of each process by the system's books.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on says so by ending"
)]

#[path = "../tests/it/fake_gemini.rs"]
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
mod fake_gemini;

use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use clap::Parser;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use self::fake_gemini::{Allowed, FakeGemini, Fault};

const MODEL: &str = "gemini-nano-banana-2.1";

/// What is measured.
#[derive(Parser, Clone)]
struct Arguments {
    /// Pictures of the job.
    #[arg(long, default_value_t = 100)]
    pictures: usize,
    /// Calls at once.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// How long the provider takes, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    latency_ms: u64,
    /// Rounds of each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Also measure a provider that takes 20 calls at once and 300 a minute: takes over a minute.
    #[arg(long)]
    limits: bool,
    /// Also measure a batch of three rows beside one of 2,000.
    #[arg(long)]
    fairness: bool,
    /// A setting of the service, as NAME=VALUE; may be given more than once.
    #[arg(long)]
    set: Vec<String>,
    /// Runs the bare loop against this provider; used by the bench itself.
    #[arg(long, hide = true)]
    bare: Option<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one run took.
#[derive(Clone, Copy)]
struct Run {
    wall: Duration,
    cpu: Duration,
    peak_mib: f64,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match &arguments.bare {
            Some(url) => bare_loop(url, &arguments).await,
            None => measure(&arguments).await,
        }
    });
}

async fn measure(arguments: &Arguments) {
    job(arguments).await;
    if arguments.limits {
        limits().await;
    }
    if arguments.fairness {
        fairness(arguments).await;
    }
}

async fn job(arguments: &Arguments) {
    let latency = Duration::from_millis(arguments.latency_ms);
    let picture = picture();
    let fake = FakeGemini::start(&picture, latency, Allowed::default(), |_, _| Fault::None).await;
    let ideal = latency * u32::try_from(arguments.pictures.div_ceil(arguments.at_once)).unwrap();
    println!(
        "{} pictures of {:.2} MB, {} at once, the provider answers in {latency:?}: ideal {ideal:?}",
        arguments.pictures,
        picture.len() as f64 / 1e6,
        arguments.at_once
    );
    let (mut bare, mut service) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        bare.push(run_bare(&fake.url, arguments).await);
        service.push(run_service(&fake.url, arguments).await);
    }
    println!("{:<10} {:>9} {:>9} {:>14} {:>10}", "", "wall s", "/ ideal", "cpu ms/picture", "peak MiB");
    let show = |name: &str, runs: &[Run]| {
        let median = median(runs);
        let cpu = median.cpu.as_secs_f64() * 1e3 / arguments.pictures as f64;
        let (wall, over) = (median.wall.as_secs_f64(), median.wall.as_secs_f64() / ideal.as_secs_f64());
        println!("{name:<10} {wall:>9.3} {over:>9.3} {cpu:>14.2} {:>10.1}", median.peak_mib);
        median
    };
    let (bare, service) = (show("bare loop", &bare), show("service", &service));
    println!(
        "service / bare loop: wall {:.3}, CPU {:.2}, memory {:.2}; the service also hashes, thumbnails, stores \
         durably and keeps the books",
        service.wall.as_secs_f64() / bare.wall.as_secs_f64(),
        service.cpu.as_secs_f64() / bare.cpu.as_secs_f64(),
        service.peak_mib / bare.peak_mib
    );
}

fn median(runs: &[Run]) -> Run {
    fn middle<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> T {
        let mut values: Vec<T> = values.collect();
        values.sort_by(|a, b| a.partial_cmp(b).unwrap());
        values[values.len() / 2]
    }
    Run {
        wall: middle(runs.iter().map(|run| run.wall)),
        cpu: middle(runs.iter().map(|run| run.cpu)),
        peak_mib: middle(runs.iter().map(|run| run.peak_mib)),
    }
}

/// A 1024x1024 PNG of about 1.3 MB: what a model's picture weighs.
fn picture() -> Vec<u8> {
    let noise = |x: u32, y: u32, channel: u32| {
        let mut hash = (x * 31 + y * 7_919 + channel * 104_729).wrapping_mul(0x9E37_79B9);
        hash ^= hash >> 15;
        u8::try_from((x + y) / 16 % 200 + hash.wrapping_mul(0x85EB_CA6B) % 5).unwrap()
    };
    let image =
        image::RgbImage::from_fn(1024, 1024, |x, y| image::Rgb([noise(x, y, 0), noise(x, y, 1), noise(x, y, 2)]));
    let mut png = Vec::new();
    image.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}

/// The simplest program that makes the pictures: call, decode, write.
async fn bare_loop(url: &str, arguments: &Arguments) {
    let folder = tempfile::tempdir().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let calls = (0..arguments.pictures).map(|number| {
        let (client, path) = (client.clone(), folder.path().join(format!("{number}.png")));
        let body = json!({"contents": [{"role": "user", "parts": [{"text": format!("bare {number}")}]}]});
        async move {
            let address = format!("{url}/v1beta/models/{MODEL}:generateContent");
            let answer = client.post(address).body(body.to_string()).send().await.unwrap().bytes().await.unwrap();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            let data = answer["candidates"][0]["content"]["parts"][0]["inlineData"]["data"].as_str().unwrap();
            let picture = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
            tokio::fs::write(path, picture).await.unwrap();
        }
    });
    let start = Instant::now();
    futures_util::stream::iter(calls).for_each_concurrent(arguments.at_once, |call| call).await;
    let (wall, run) = (start.elapsed(), books(std::process::id()));
    println!("{} {} {}", wall.as_micros(), run.0.as_micros(), run.1);
}

async fn run_bare(url: &str, arguments: &Arguments) -> Run {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--bare",
            url,
            "--pictures",
            &arguments.pictures.to_string(),
            "--at-once",
            &arguments.at_once.to_string(),
        ])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|number| number.parse::<f64>().unwrap());
    let mut micros = || Duration::from_secs_f64(numbers.next().unwrap() / 1e6);
    let (wall, cpu) = (micros(), micros());
    Run { wall, cpu, peak_mib: text.split_whitespace().last().unwrap().parse().unwrap() }
}

async fn run_service(url: &str, arguments: &Arguments) -> Run {
    let given = arguments.set.iter().filter_map(|setting| setting.split_once('='));
    let mut settings = vec![("PROVIDER_CONCURRENCY", arguments.at_once.to_string())];
    settings.extend(given.map(|(name, value)| (name, value.to_owned())));
    let service = Service::start(url, &settings).await;
    let (before, start) = (books(service.pid()).0, Instant::now());
    let batch = service.submit(arguments.pictures).await;
    service.done(&batch).await;
    let (wall, (cpu, peak_mib)) = (start.elapsed(), books(service.pid()));
    Run { wall, cpu: cpu.saturating_sub(before), peak_mib }
}

/// CPU time so far and the most memory held so far, in MiB.
fn books(pid: u32) -> (Duration, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: f64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    (Duration::from_millis(ticks * 10), kib / 1024.0)
}

/// A running service on an empty folder.
struct Service {
    child: Child,
    url: String,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Service {
    async fn start(provider: &str, settings: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
            .env_clear()
            .env("DATA_DIR", folder.path())
            .envs([("PORT", "0"), ("PROVIDER", "gemini"), ("GEMINI_API_KEY", "key"), ("RUN_MODE", "live")])
            .envs([("GEMINI_BASE_URL", provider), ("LOG_FORMAT", "json"), ("DAILY_BUDGET_USD", "100000")])
            .envs([("MAX_ROWS_PER_BATCH", "10000")])
            .envs(settings.iter().map(|(name, value)| (*name, value.as_str())))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = log.next_line().await.unwrap().expect("the service starts");
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            if entry["message"] == "listening" {
                break entry["address"].as_str().unwrap().to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, url: format!("http://{address}"), client, _folder: folder }
    }

    fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    async fn submit(&self, rows: usize) -> String {
        let items: Vec<Value> =
            (0..rows).map(|row| json!({"sceneId": format!("s-{row}"), "prompt": format!("row {row}")})).collect();
        let body = json!({"runMode": "live", "items": items}).to_string();
        let request = self.client.post(format!("{}/images", self.url)).header("content-type", "application/json");
        let answer: Value =
            serde_json::from_slice(&request.body(body).send().await.unwrap().bytes().await.unwrap()).unwrap();
        answer["batchId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Follows the batch's stream to its end.
    async fn done(&self, batch: &str) {
        let stream = self.client.get(format!("{}/images/{batch}/events", self.url)).send().await.unwrap();
        let mut stream = stream.bytes_stream();
        while let Some(piece) = stream.next().await {
            piece.unwrap();
        }
    }
}

/// 400 pictures from a provider that takes 20 calls at once and 300 a minute.
async fn limits() {
    let (pictures, latency) = (400, Duration::from_secs(1));
    let allowed = Allowed { at_once: 20, in_window: 300, window: Duration::from_mins(1) };
    let fake = FakeGemini::start(b"\x89PNG", latency, allowed, |_, _| Fault::Blocked).await;
    let settings = [("PROVIDER_CONCURRENCY", "20".to_owned()), ("PROVIDER_RPM", "300".to_owned())];
    let service = Service::start(&fake.url, &settings).await;
    let start = Instant::now();
    let batch = service.submit(pictures).await;
    service.done(&batch).await;
    // 300 at once as far as 20 go, the others when the first are a minute old.
    let (took, ideal) = (start.elapsed().as_secs_f64(), 60.0 + 5.0);
    println!(
        "limits: {pictures} pictures, {} refused ({:.2} %), {took:.1} s for an ideal of {ideal:.1} s: {:.3}",
        fake.refused(),
        fake.refused() as f64 * 100.0 / pictures as f64,
        took / ideal
    );
}

/// Three rows alone, and beside 2,000.
async fn fairness(arguments: &Arguments) {
    let latency = Duration::from_millis(arguments.latency_ms);
    let fake = FakeGemini::start(b"\x89PNG", latency, Allowed::default(), |_, _| Fault::Blocked).await;
    let service = Service::start(&fake.url, &[("PROVIDER_CONCURRENCY", arguments.at_once.to_string())]).await;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        alone.push(timed(&service).await);
    }
    service.submit(2_000).await;
    for _ in 0..arguments.rounds {
        tokio::time::sleep(latency * 3 / 2).await;
        beside.push(timed(&service).await);
    }
    alone.sort();
    beside.sort();
    let (alone, beside) = (alone[alone.len() / 2].as_secs_f64(), beside[beside.len() / 2].as_secs_f64());
    println!("fairness: 3 rows take {alone:.2} s alone, {beside:.2} s beside 2,000: {:.2}", beside / alone);
}

async fn timed(service: &Service) -> Duration {
    let start = Instant::now();
    let batch = service.submit(3).await;
    service.done(&batch).await;
    start.elapsed()
}
