//! The service as a process, and what the system's books say of any process.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// What a process used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Books {
    /// Processor time, its own and the system's for it.
    pub(crate) cpu: Duration,
    /// The most memory it has held, in MiB.
    pub(crate) peak_mib: f64,
    /// The memory it holds now, in MiB.
    pub(crate) memory_mib: f64,
}

/// The books of a process.
pub(crate) fn books(pid: u32) -> Books {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1024.0
    };
    Books { cpu: Duration::from_millis(ticks * 10), peak_mib: mib("VmHWM:"), memory_mib: mib("VmRSS:") }
}

/// Lets this process open as many streams as it may.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Where everything is kept until [`remove_folders`]: some file systems look for a place for a new file past every one
/// that was removed within the last half minute, so that each measurement would pay for those before it.
static FOLDERS: LazyLock<PathBuf> = LazyLock::new(|| tempfile::tempdir().unwrap().keep());

/// A new folder.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().disable_cleanup(true).tempdir_in(&*FOLDERS).unwrap()
}

/// Removes everything that was measured with.
pub(crate) fn remove_folders() {
    std::fs::remove_dir_all(&*FOLDERS).unwrap();
}

/// A running service.
pub(crate) struct Service {
    child: Child,
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
    folder: TempDir,
}

impl Service {
    /// Starts on an empty folder, calling `provider` for pictures.
    pub(crate) async fn start(provider: &str, settings: &[(String, String)]) -> Self {
        Self::start_in(folder(), provider, settings).await
    }

    /// Starts on a folder that an earlier one may have left.
    pub(crate) async fn start_in(folder: TempDir, provider: &str, settings: &[(String, String)]) -> Self {
        let mut child = Self::command(&folder, provider, settings).spawn().unwrap();
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
        Self { child, url: format!("http://{address}"), client, folder }
    }

    /// How a service is started.
    pub(crate) fn command(folder: &TempDir, provider: &str, settings: &[(String, String)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command
            .env_clear()
            .env("DATA_DIR", folder.path())
            .envs([("PORT", "0"), ("PROVIDER", "gemini"), ("GEMINI_API_KEY", "key"), ("RUN_MODE", "live")])
            .envs([("GEMINI_BASE_URL", provider), ("LOG_FORMAT", "json"), ("DAILY_BUDGET_USD", "1000000")])
            .envs([("MAX_ROWS_PER_BATCH", "10000"), ("MAX_STREAMS_PER_USER", "100000")])
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) fn books(&self) -> Books {
        books(self.child.id().unwrap())
    }

    /// Stops the service and gives back its folder.
    pub(crate) async fn stop(mut self) -> TempDir {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().await.unwrap();
        self.folder
    }

    /// Posts a live batch.
    pub(crate) async fn submit(&self, rows: usize, variants: usize) -> String {
        let body = batch(rows, variants);
        let request = self.client.post(format!("{}/images", self.url)).header("content-type", "application/json");
        let answer: Value =
            serde_json::from_slice(&request.body(body).send().await.unwrap().bytes().await.unwrap()).unwrap();
        answer["batchId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Follows the batch's stream to its end.
    pub(crate) async fn done(&self, batch: &str) {
        let mut stream = self.stream(batch).await.bytes_stream();
        while let Some(piece) = stream.next().await {
            piece.unwrap();
        }
    }

    /// Opens the batch's stream.
    pub(crate) async fn stream(&self, batch: &str) -> reqwest::Response {
        self.client.get(format!("{}/images/{batch}/events", self.url)).send().await.unwrap()
    }

    /// What `path` answers.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

/// The body of a live batch.
pub(crate) fn batch(rows: usize, variants: usize) -> String {
    let items: Vec<Value> = (0..rows)
        .map(|row| json!({"sceneId": format!("s-{row}"), "prompt": format!("row {row}"), "variants": variants}))
        .collect();
    json!({"runMode": "live", "items": items}).to_string()
}

/// A setting.
pub(crate) fn setting(name: &str, value: impl std::fmt::Display) -> (String, String) {
    (name.to_owned(), format!("{value}"))
}
