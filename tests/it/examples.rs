//! The examples, run as their reader would, against the real program.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::access::{ALICE, key, team};
use crate::books::ledger;
use crate::client_commands::{Desk, paying};
use crate::commands::text;
use crate::process::{PATIENCE, Service};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Runs an example for Alice.
async fn run(service: &Service, folder: &Path, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command.env("ORCHESTRATOR_URL", &service.url).env("ORCHESTRATOR_KEY", key(ALICE)).env("NO_PROXY", "*");
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time").unwrap()
}

/// Checks that a client of 30 lines makes its rows once, however often it is run.
async fn makes_rows_once(program: &str, client: &str) {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = team(data.path()).with("BUDGET_LEDGER_ENABLED", "true").start().await;
    std::fs::write(folder.path().join("rows.csv"), "scene_id,prompt,variants\nmug,\"a mug, blue\",2\nlamp,a lamp,1\n")
        .unwrap();
    for _ in 0..2 {
        let output =
            run(&service, folder.path(), program, &[example(client).to_str().unwrap(), "rows.csv", "out"]).await;
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}{}", text(&output.stderr));
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["lamp_v1.png", "mug_v1.png", "mug_v2.png"]);
        for name in lines {
            assert!(image::open(folder.path().join("out").join(name)).is_ok(), "{name}");
        }
    }
    std::fs::write(folder.path().join("bad.csv"), "scene_id,prompt\nmug,\n").unwrap();
    let output = run(&service, folder.path(), program, &[example(client).to_str().unwrap(), "bad.csv", "out"]).await;
    assert_eq!(output.status.code(), Some(1));
    std::fs::write(folder.path().join("refused.csv"), "scene_id,prompt\nmug,[refuse] a mug\n").unwrap();
    let output =
        run(&service, folder.path(), program, &[example(client).to_str().unwrap(), "refused.csv", "out"]).await;
    assert_eq!(output.status.code(), Some(1), "a picture is missing");
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(data.path()).len(), 3);
}

#[tokio::test]
async fn the_python_client_makes_its_rows_once() {
    makes_rows_once("python3", "client.py").await;
}

#[tokio::test]
async fn the_javascript_client_makes_its_rows_once() {
    if std::process::Command::new("node").arg("--version").output().is_err() {
        eprintln!("skipped: node is not installed");
        return;
    }
    makes_rows_once("node", "client.mjs").await;
}

#[tokio::test]
async fn the_session_with_curl_goes_through() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = team(data.path()).start().await;
    for _ in 0..2 {
        let output = run(&service, folder.path(), "sh", &[example("curl.sh").to_str().unwrap(), "out"]).await;
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}{}", text(&output.stderr));
        for part in ["\"estimatedCost\":0.15", "event: done", "\"spent\":0.15"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    assert!(image::open(folder.path().join("out/mug_v1.png")).is_ok());
}

#[tokio::test]
async fn the_hundred_rows_are_made_once_also_when_the_command_is_killed() {
    let data = tempfile::tempdir().unwrap();
    // Time enough to be killed in the middle twice.
    let settings = paying(data.path()).with("SYNTHETIC_LATENCY", "60ms").with("PROVIDER_CONCURRENCY", "1");
    let service = settings.with("THUMBNAILS_ENABLED", "false").start().await;
    let desk = Desk::at(&service.url);
    let rows = example("100-rows.csv");
    let command = ["submit", rows.to_str().unwrap(), "--live", "--watch", "--out", "out"];
    for pictures in [10, 40] {
        let mut going = desk.start(&command);
        going.until_ended(pictures).await;
        going.kill().await;
    }
    let (out, _) = desk.expect(0, &command).await;
    assert!(out.contains("completed: 113 of 113 pictures made; 5.65 US dollars"), "{out}");
    crate::client_commands::made_once(&desk, service, data.path(), 113).await;
}

#[test]
fn every_example_is_explained() {
    let readme = std::fs::read_to_string(example("README.md")).unwrap();
    for entry in std::fs::read_dir(example("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || readme.contains(&format!("[{name}]({name})")), "{name}");
    }
}
