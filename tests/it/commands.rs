//! The command line, by the real program.

use std::path::Path;
use std::process::Output;

use crate::books::{ledger, micros};
use crate::process::{PATIENCE, Settings};

/// Runs the program to its end.
pub(crate) async fn run(settings: &Settings, arguments: &[&str]) -> Output {
    let mut command = settings.command();
    command.args(arguments);
    tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap()
}

/// What a program wrote.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn files(folder: &Path, ending: &str) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|of| of == ending)).count()
}

#[tokio::test]
async fn the_demo_makes_every_picture_and_its_books_agree_also_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    // As where `.env.example` is read in.
    let settings = Settings::new(folder.path()).with("BUDGET_LEDGER_ENABLED", "false");
    for run_number in 1..=2 {
        let output = run(&settings, &["demo", "--exit"]).await;
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
        assert!(said.contains("18 made") && said.contains("not-allowed"), "{said}");
        assert!(said.contains(&format!("Try next: {} demo", env!("CARGO_BIN_EXE_orchestrator"))), "{said}");
        let batches: Vec<_> = std::fs::read_dir(folder.path().join("images")).unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.len(), run_number);
        assert!(batches.iter().all(|batch| files(&batch.path(), "png") == 18));
    }
    assert_eq!(files(&folder.path().join("ledger"), "jsonl"), 1);

    // The demo's own sums are not taken on trust.
    let service = settings.start().await;
    let spent = micros(&service.get("/budget").await.json()["everyone"]["spent"]);
    let batches = service.get("/images").await.json()["batches"].clone();
    let actual: i64 = batches.as_array().unwrap().iter().map(|batch| micros(&batch["actualCost"])).sum();
    let exported: i64 = ledger(folder.path()).values().map(|charge| micros(&charge["cost"])).sum();
    assert_eq!((spent, actual, exported), (1_800_000, 1_800_000, 1_800_000));
}

#[tokio::test]
async fn a_demo_that_does_not_fit_the_budget_says_so_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&Settings::new(folder.path()).with("DAILY_BUDGET_USD", "0.5"), &["demo", "--exit"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("402"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_wrong_configuration_ends_with_64_and_one_line_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("HOST", "example.com").with("SHUTDOWN_GRACE", "soon");
    let settings = settings.with("REFERENCE_ALLOW", "a b c");
    for arguments in [&[][..], &["serve"], &["demo", "--exit"], &["prices"]] {
        let output = run(&settings, arguments).await;
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let said = text(&output.stderr);
        let names: Vec<&str> = said.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(names, ["HOST", "SHUTDOWN_GRACE", "REFERENCE_ALLOW"]);
    }
}

#[tokio::test]
async fn the_health_check_tells_a_running_service_from_none() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path());
    let service = settings.start().await;
    let port = service.url.rsplit(':').next().unwrap().to_owned();
    let checking = settings.with("PORT", port);
    assert_eq!(run(&checking, &["healthcheck"]).await.status.code(), Some(0));
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(run(&checking, &["healthcheck"]).await.status.code(), Some(1));
}

#[tokio::test]
async fn migrate_makes_a_database_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&Settings::new(folder.path()), &["migrate"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(folder.path().join("orchestrator.db").exists());
}

#[tokio::test]
async fn who_cannot_start_is_told_which_setting_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path());
    let service = settings.start().await;
    let port = service.url.rsplit(':').next().unwrap().to_owned();
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("file");
    std::fs::write(&file, "no database ".repeat(1_000)).unwrap();
    let elsewhere = Settings::new(other.path());
    for (settings, arguments, expected) in [
        (elsewhere.clone().with("PORT", port.clone()), &["serve"][..], format!("port {port} is taken: set PORT")),
        (settings.clone().with("PORT", port), &["demo", "--exit"], "set DATA_DIR".to_owned()),
        (settings.clone(), &["migrate"], "in use: stop the other process, or set DATA_DIR".to_owned()),
        (Settings::new(&file), &["serve"], "set DATA_DIR to a folder".to_owned()),
        (
            elsewhere.clone().with("DATABASE_URL", format!("sqlite:{}", file.display())),
            &["serve"],
            "damaged".to_owned(),
        ),
        (elsewhere.with("DATABASE_URL", "postgres://u:secret@127.0.0.1:1/x"), &["migrate"], "DATABASE_URL".to_owned()),
    ] {
        let output = run(&settings, arguments).await;
        let said = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&expected) && !said.contains("secret"), "{expected}: {said}");
        assert!(!said.contains("using a free one"), "{said}");
    }
}
