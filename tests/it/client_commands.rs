//! The commands that ask a running service, by the real program: what they say, what they leave, how they end.

mod hostile;
mod kills;
mod ways;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestrator::domain::picture::Sha256Hex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::books::ledger;
use crate::commands::text;
use crate::process::{Answer, PATIENCE, Service, Settings};

/// A person's folder, and the service that is asked from there.
pub(crate) struct Desk {
    pub(crate) folder: TempDir,
    url: String,
    variables: Vec<(String, String)>,
}

impl Desk {
    pub(crate) fn at(url: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url: url.to_owned(), variables: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes a file; its name.
    pub(crate) fn write<'n>(&self, name: &'n str, content: &str) -> &'n str {
        std::fs::write(self.folder.path().join(name), content).unwrap();
        name
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command.env_clear().env("ORCHESTRATOR_URL", &self.url).envs(self.variables.iter().cloned());
        command.current_dir(self.folder.path()).args(arguments).kill_on_drop(true);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    async fn run(&self, arguments: &[&str]) -> Output {
        tokio::time::timeout(PATIENCE * 2, self.command(arguments).output()).await.expect("it ends in time").unwrap()
    }

    /// Runs a command that ends with this exit code; what it wrote to standard output and to standard error.
    pub(crate) async fn expect(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments).await;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{out}\n{err}");
        (out, err)
    }

    /// The same with `--json`: the objects on standard output.
    pub(crate) async fn json(&self, code: i32, arguments: &[&str]) -> Vec<Value> {
        let (out, _) = self.expect(code, &[arguments, &["--json"]].concat()).await;
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Starts a command that is not going to end by itself.
    pub(crate) fn start(&self, arguments: &[&str]) -> Going {
        let mut child = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Going { child, said }
    }

    /// The names of the pictures in a folder.
    pub(crate) fn pictures(&self, folder: &str) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(self.path(folder)) else { return BTreeSet::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "png")).collect()
    }

    /// Checks that a folder has every picture of a batch, byte by byte, under the names that a person would choose.
    async fn has_all(&self, folder: &str, service: &Service, batch: &str) {
        let key = self.variables.iter().find(|(name, _)| name == "ORCHESTRATOR_KEY");
        let request = service.client.get(format!("{}/images/{batch}?limit=200", service.url));
        let request = key.iter().fold(request, |request, (_, key)| request.bearer_auth(key));
        let view = Answer::of(request.send().await.unwrap()).await.expect(200).json();
        let mut expected = BTreeSet::new();
        for item in view["items"].as_array().unwrap() {
            for image in item["images"].as_array().unwrap().iter().filter(|image| image["state"] == "completed") {
                let name = format!("{}_v{}.png", item["sceneId"].as_str().unwrap(), image["variant"]);
                let bytes = std::fs::read(self.path(folder).join(&name)).unwrap();
                assert_eq!(image["sha256"], Sha256Hex::of(&bytes).to_string(), "{name}");
                expected.insert(name);
            }
        }
        assert_eq!(self.pictures(folder), expected);
    }
}

/// A command that is running.
pub(crate) struct Going {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Going {
    /// Waits until it says a line with `part` on standard error; the line.
    pub(crate) async fn until(&mut self, part: &str) -> String {
        let mut seen = String::new();
        loop {
            let line =
                tokio::time::timeout(PATIENCE, self.said.next_line()).await.expect("it says so in time").unwrap();
            let line = line.unwrap_or_else(|| panic!("it never says {part}:\n{seen}"));
            if line.contains(part) {
                return line;
            }
            seen = format!("{seen}{line}\n");
        }
    }

    /// Waits until it says that a picture ended and that `pictures` or more have; those before may have ended unseen.
    pub(crate) async fn until_ended(&mut self, pictures: u32) {
        loop {
            let line = self.until("/").await;
            let ended = line.split_once('/').and_then(|(ended, _)| ended.trim().parse::<u32>().ok());
            if ended.is_some_and(|ended| ended >= pictures) {
                return;
            }
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().unwrap().try_into().unwrap()), signal).unwrap();
    }

    /// Ends it as `kill -9` does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for its end; exit code, standard output, and what is left of standard error.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String, String) {
        let mut left = String::new();
        while let Some(line) = self.said.next_line().await.unwrap() {
            left = format!("{left}{line}\n");
        }
        let output = tokio::time::timeout(PATIENCE, self.child.wait_with_output()).await.expect("it ends in time");
        let output = output.unwrap();
        (output.status.code(), text(&output.stdout), left)
    }
}

/// A batch file with these rows: name, prompt, variants.
fn batch_file(rows: &[(&str, &str, u32)]) -> String {
    let items: Vec<Value> = rows
        .iter()
        .map(|(name, prompt, variants)| json!({"sceneId": name, "prompt": prompt, "variants": variants}))
        .collect();
    serde_json::to_string_pretty(&json!({ "items": items })).unwrap()
}

/// Rows `s-001`, `s-002`, … with a picture each.
fn rows_file(rows: usize) -> String {
    let names: Vec<String> = (1..=rows).map(|row| format!("s-{row:03}")).collect();
    let rows: Vec<(&str, &str, u32)> = names.iter().map(|name| (name.as_str(), "a red bicycle", 1)).collect();
    batch_file(&rows)
}

/// A synthetic service that keeps a ledger.
pub(crate) fn paying(data: &Path) -> Settings {
    Settings::new(data).with("BUDGET_LEDGER_ENABLED", "true")
}

/// The batches that there are.
async fn batches(service: &Service) -> Vec<String> {
    let list = service.get("/images").await.expect(200).json();
    list["batches"].as_array().unwrap().iter().map(|batch| batch["batchId"].as_str().unwrap().to_owned()).collect()
}

/// Checks that there is one batch, whose `pictures` are in the ledger once each and in the folder `out`.
pub(crate) async fn made_once(desk: &Desk, service: Service, data: &Path, pictures: usize) {
    let batches = batches(&service).await;
    assert_eq!(batches.len(), 1, "{batches:?}");
    desk.has_all("out", &service, &batches[0]).await;
    assert_eq!(desk.pictures("out").len(), pictures);
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(data).len(), pictures);
}

#[tokio::test]
async fn a_dry_run_shows_rows_costs_and_what_is_left_and_spends_nothing() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    // Whatever the file says: money is spent where the command says so.
    let live = batch_file(&[("mug", "a mug", 3), ("lamp", "a lamp", 1)]).replacen('{', "{\"runMode\":\"live\",", 1);
    desk.write("rows.json", &live);
    let (out, err) = desk.expect(0, &["submit", "rows.json", "--out", "out"]).await;
    for part in [
        "mug    3         0.15",
        "lamp   1         0.05",
        "total  4         0.2",
        "100 are left",
        "--live --out out rows.json",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert_eq!(err, "");
    let answer = desk.json(0, &["submit", "rows.json"]).await;
    assert_eq!((&answer[0]["estimatedCost"], &answer[0]["file"]), (&json!(0.2), &json!("rows.json")));
    assert!(batches(&service).await.is_empty() && !desk.path("out").exists());
}

#[tokio::test]
async fn a_batch_is_watched_and_saved_and_the_same_command_again_pays_nothing() {
    let data = tempfile::tempdir().unwrap();
    // The last picture ends long after the command first looked.
    let settings = paying(data.path()).with("SYNTHETIC_LATENCY", "500ms").with("PROVIDER_CONCURRENCY", "1");
    let service = settings.start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &batch_file(&[("mug", "a mug", 3), ("Lamp.2", "a lamp", 1)]));
    let command = ["submit", "rows.json", "--live", "--out", "out"];
    let (out, err) = desk.expect(0, &command).await;
    assert!(out.contains("completed: 4 of 4 pictures made; 0.2 US dollars"), "{out}");
    assert!(out.contains("Saved in out: 4 pictures"), "{out}");
    assert!(err.lines().any(|line| line.starts_with("  4/4 ") && line.ends_with(" made")), "{err}");
    std::fs::remove_file(desk.path("out/mug_v2.png")).unwrap();
    let (_, err) = desk.expect(0, &command).await;
    assert!(err.contains("was submitted before: going on with bat_"), "{err}");
    made_once(&desk, service, data.path(), 4).await;
}

#[tokio::test]
async fn a_changed_file_does_not_mix_its_pictures_with_those_of_another() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(1));
    desk.expect(0, &["submit", "rows.json", "--live", "--out", "out"]).await;
    desk.write("rows.json", &batch_file(&[("s-001", "a green bicycle", 1)]));
    let (_, err) = desk.expect(64, &["submit", "rows.json", "--live", "--out", "out"]).await;
    for part in ["bat_", "give another --out", "--new"] {
        assert!(err.contains(part), "{err}");
    }
    desk.expect(64, &["submit", "rows.json", "--model", "synthetic", "--live", "--out", "out"]).await;
    assert_eq!(batches(&service).await.len(), 1);
    let (_, err) = desk.expect(0, &["submit", "rows.json", "--live", "--out", "out", "--new"]).await;
    assert!(err.contains("was not the picture"), "{err}");
    let all = batches(&service).await;
    assert_eq!(all.len(), 2);
    desk.has_all("out", &service, &all[0]).await;
}

#[tokio::test]
async fn a_new_file_that_is_refused_takes_nothing_from_the_batch_that_is_there() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &rows_file(2));
    let command = ["submit", "rows.json", "--live", "--out", "out"];
    desk.expect(0, &command).await;
    desk.write("bad.json", &batch_file(&[("a", "", 1)]));
    desk.expect(64, &["submit", "bad.json", "--live", "--out", "out", "--new"]).await;
    let (_, err) = desk.expect(0, &command).await;
    assert!(err.contains("was submitted before: going on with bat_"), "{err}");
    made_once(&desk, service, data.path(), 2).await;
}

#[tokio::test]
async fn a_command_that_is_printed_reaches_the_same_service() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at("http://127.0.0.1:9");
    desk.write("rows", &rows_file(1));
    let at = ["--url", &*service.url, "--key", "secret", "--format", "json"];
    let (out, _) = desk.expect(0, &[&["submit", "rows"][..], &at].concat()).await;
    assert!(out.contains(&format!("--format json --watch --url '{}' rows", service.url)), "{out}");
    let (live, _) = desk.expect(0, &[&["submit", "rows", "--live"][..], &at].concat()).await;
    assert!(live.contains(&format!("--out DIR --url '{}'", service.url)), "{live}");
    assert!(!out.contains("secret") && !live.contains("secret"), "{out}{live}");
}

#[tokio::test]
async fn a_refused_file_leaves_nothing_behind_and_its_faults_have_lines() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    desk.write(
        "rows.json",
        "{\n \"items\": [\n  {\"sceneId\": \"a\", \"prompt\": \"x\"},\n  {\"sceneId\": \"b\",\n   \"prompt\": \"\"}]}",
    );
    desk.write("good.json", &rows_file(1));
    for command in [&["submit", "rows.json"][..], &["submit", "rows.json", "--live", "--out", "out"]] {
        let (_, err) = desk.expect(64, command).await;
        assert!(err.contains("rows.json:5: /items/1/prompt: must not be empty"), "{err}");
    }
    // One file that is out of order keeps the others back.
    desk.expect(64, &["submit", "good.json", "rows.json", "--live"]).await;
    assert!(batches(&service).await.is_empty());
    desk.write("rows.json", &rows_file(1));
    desk.expect(0, &["submit", "rows.json", "--live", "--out", "out"]).await;
}

#[tokio::test]
async fn several_files_are_a_batch_and_a_folder_each() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    desk.write("spring.json", &rows_file(1));
    desk.expect(0, &["submit", "spring.json", "--live", "--out", "out"]).await;
    desk.write("summer.json", &rows_file(2));
    desk.write("summer.csv", "");
    let answers = desk.json(0, &["submit", "s*.json", "--live", "--out", "out"]).await;
    let files: Vec<_> =
        answers.iter().map(|answer| (answer["file"].as_str().unwrap(), answer["out"].as_str().unwrap())).collect();
    // The first is where it was when it was alone.
    assert_eq!(files, [("spring.json", "out"), ("summer.json", "out/summer")]);
    assert_eq!(batches(&service).await.len(), 2);
    desk.expect(0, &["submit", "summer.json", "--live", "--out", "out"]).await;
    assert_eq!(batches(&service).await.len(), 2);
    std::fs::create_dir(desk.path("more")).unwrap();
    desk.write("more/summer.json", &rows_file(1));
    let (_, err) = desk.expect(64, &["submit", "summer.json", "more/summer.json", "--live", "--out", "new"]).await;
    assert!(err.contains("would both go to new/summer"), "{err}");
}

#[tokio::test]
async fn rows_come_from_another_program_too() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    let mut child = desk.command(&["submit", "-", "--format", "json", "--live", "--watch", "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(rows_file(2).as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["state"], &answer["counts"]["completed"]), (&json!("completed"), &json!(2)));
    let (_, err) = desk.expect(64, &["submit", "-"]).await;
    assert!(err.contains("--format"), "{err}");
}
