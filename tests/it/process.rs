//! The service as a real process: started on a port of its own, stopped or killed, started again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Longer than anything a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How a service is started. The same settings start it again on the same data.
#[derive(Clone)]
pub(crate) struct Settings {
    data: PathBuf,
    variables: Vec<(String, String)>,
    may_fill_disk: bool,
}

impl Settings {
    /// A synthetic service on loopback that keeps its data in `data`.
    pub(crate) fn new(data: &Path) -> Self {
        let settings = Self { data: data.to_owned(), variables: Vec::new(), may_fill_disk: false };
        settings
            .with("PORT", "0")
            .with("PROVIDER", "synthetic")
            .with("LOG_FORMAT", "json")
            .with("SYNTHETIC_LATENCY", "0s")
    }

    /// Sets an environment variable.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// A file that may not grow gives it an error, as a full disk does, where the signal would end it.
    pub(crate) fn that_may_fill_its_disk(mut self) -> Self {
        self.may_fill_disk = true;
        self
    }

    /// Starts the service and waits until it listens.
    pub(crate) async fn start(&self) -> Service {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let address = loop {
            let line =
                tokio::time::timeout(PATIENCE, log.next_line()).await.expect("the service starts in time").unwrap();
            let Some(line) = line else { panic!("the service ended before it listened: {seen}") };
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            seen.push_str(&line);
            seen.push('\n');
            if entry["message"] == "listening" {
                break entry["address"].as_str().unwrap().to_owned();
            }
        };
        // Keeps the pipe empty; the log of a failing test is shown.
        let seen = Arc::new(Mutex::new(seen));
        let shared = seen.clone();
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = log.next_line().await {
                eprintln!("{line}");
                let mut seen = shared.lock().unwrap();
                seen.push_str(&line);
                seen.push('\n');
            }
        });
        Service { child, reader, seen, url: format!("http://{address}"), client: client() }
    }

    /// The program with this environment and no other.
    pub(crate) fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_orchestrator");
        let mut command = if self.may_fill_disk {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", program]);
            shell
        } else {
            Command::new(program)
        };
        command.env_clear().env("DATA_DIR", &self.data).envs(self.variables.iter().cloned()).kill_on_drop(true);
        command
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// A running service.
pub(crate) struct Service {
    child: Child,
    reader: tokio::task::JoinHandle<()>,
    seen: Arc<Mutex<String>>,
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// A header as text; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The same answer, if its status is `status`.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Checks that it is a problem body with this status and code.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.header("content-type")), (status, "application/problem+json"), "{}", self.text);
        let problem = self.json();
        assert_eq!((&problem["status"], &problem["code"]), (&Value::from(status), &Value::from(code)), "{problem}");
        problem
    }
}

impl Service {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.client.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let request = self.client.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Answer::of(request.body(body.to_string()).send().await.unwrap()).await
    }

    /// Posts a live batch and returns its id.
    pub(crate) async fn submit(&self, body: &Value) -> String {
        let answer = self.post("/images", body, &[]).await.expect(202);
        answer.json()["batchId"].as_str().unwrap().to_owned()
    }

    /// Waits until the batch is finished.
    pub(crate) async fn finished(&self, batch: &str) -> Value {
        self.until(|view| !view["finishedAt"].is_null(), &format!("/images/{batch}?limit=200")).await
    }

    /// Waits until what `path` answers is as expected.
    pub(crate) async fn until(&self, expected: impl Fn(&Value) -> bool, path: &str) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let view = self.get(path).await.expect(200).json();
            if expected(&view) {
                return view;
            }
            assert!(tokio::time::Instant::now() < deadline, "not in time: {view}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The most memory the process has had so far.
    pub(crate) fn most_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The number of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends `signal` to the process, which goes on living as far as this test is concerned.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()), signal).unwrap();
    }

    /// Ends the process as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
        self.reader.await.unwrap();
    }

    /// Waits until the process ends by itself; the number of the signal that ended it, if one did.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt as _;
        let status =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the service ends in time").unwrap();
        self.reader.await.unwrap();
        status.signal()
    }

    /// Waits until the process ends by itself; its exit code, none if a signal ended it.
    pub(crate) async fn code(mut self) -> Option<i32> {
        let status =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the service ends in time").unwrap();
        self.reader.await.unwrap();
        status.code()
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) async fn stop(self) -> Option<i32> {
        self.stop_and_read().await.0
    }

    /// Sends SIGTERM and returns the exit code, and the whole log.
    pub(crate) async fn stop_and_read(self) -> (Option<i32>, Vec<Value>) {
        let (code, log) = self.stop_with_log().await;
        (code, log.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Sends SIGTERM and returns the exit code, and the text of the whole log.
    pub(crate) async fn stop_with_log(mut self) -> (Option<i32>, String) {
        self.signal(Signal::SIGTERM);
        let status =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the service stops in time").unwrap();
        (&mut self.reader).await.unwrap();
        (status.code(), self.log())
    }

    /// What was logged until now.
    pub(crate) fn log(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until something is so.
    pub(crate) async fn until_so(&self, mut so: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !so().await {
            assert!(tokio::time::Instant::now() < deadline, "not in time: {}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A live batch of `rows` rows with `variants` pictures each.
pub(crate) fn batch(rows: usize, variants: usize) -> Value {
    let items: Vec<Value> = (1..=rows)
        .map(|row| serde_json::json!({"sceneId": format!("s-{row:03}"), "prompt": format!("a cup, row {row}"), "variants": variants}))
        .collect();
    serde_json::json!({"runMode": "live", "items": items})
}
