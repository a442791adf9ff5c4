//! A client that a generator makes of the description: it is the one that is stored in `tests/client`, it compiles, and
//! it runs the main job on the real service.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::access::{ALICE, key, team};
use crate::books::{ledger, micros};

/// The folder with the programs of `tests/client/package.json`, if they are installed.
fn installed() -> Option<PathBuf> {
    let folder = std::env::var_os("TEST_CLIENT").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: TEST_CLIENT names no folder; scripts/test installs the generator there and sets it");
    }
    folder
}

fn stored(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client").join(file)
}

/// Runs a program in `folder` to its good end; what it printed.
async fn run(folder: &Path, program: impl Into<OsString>, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(program.into());
    command.args(arguments).envs(environment.iter().copied()).current_dir(folder).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_stored_client_is_what_the_generator_makes() {
    let Some(programs) = installed() else { return };
    let made = tempfile::tempdir().unwrap();
    let description = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let generator = programs.join("node_modules/.bin/openapi-typescript");
    let arguments = [description.to_str().unwrap(), "--default-non-nullable=false", "-o", "schema.d.ts"];
    run(made.path(), generator, &arguments, &[]).await;
    let made = std::fs::read_to_string(made.path().join("schema.d.ts")).unwrap();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(stored("schema.d.ts"), &made).unwrap();
    }
    let kept = std::fs::read_to_string(stored("schema.d.ts")).unwrap();
    assert!(
        kept == made,
        "tests/client/schema.d.ts is not of openapi.json: UPDATE_OPENAPI=1 TEST_CLIENT=target/client"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_client_compiles_and_runs_the_main_job() {
    let Some(programs) = installed() else { return };
    // Below the installed programs, where its imports are looked for.
    let built = tempfile::tempdir_in(&programs).unwrap();
    for file in ["main.ts", "schema.d.ts", "tsconfig.json", "package.json"] {
        std::fs::copy(stored(file), built.path().join(file)).unwrap();
    }
    run(built.path(), programs.join("node_modules/.bin/tsc"), &["-p", "."], &[]).await;

    let folder = tempfile::tempdir().unwrap();
    let service = team(folder.path()).with("BUDGET_LEDGER_ENABLED", "true").start().await;
    let environment = [("ORCHESTRATOR_URL", service.url.as_str()), ("ORCHESTRATOR_KEY", &key(ALICE))];
    let said: Value = serde_json::from_str(&run(built.path(), "node", &["out/main.js"], &environment).await).unwrap();
    assert_eq!(service.stop().await, Some(0));

    // Three pictures at $0.05, and one that was refused and reserved as much.
    let id = said["batchId"].as_str().unwrap();
    assert_eq!((micros(&said["estimatedCost"]), micros(&said["actualCost"])), (200_000, 150_000), "{said}");
    assert_eq!((&said["state"], &said["spent"]), (&json!("partial"), &said["actualCost"]), "{said}");
    assert_eq!((&said["location"], &said["replayed"]), (&json!(format!("/images/{id}")), &json!("true")), "{said}");
    assert_eq!(said["errors"], json!([null, null, "safety_blocked"]), "{said}");
    let pictures = said["pictures"].as_array().unwrap();
    assert!(pictures.len() == 3 && pictures.iter().all(|picture| picture["isWhole"] == true), "{said}");
    assert_eq!((&said["listed"], &said["refusal"]), (&json!([id]), &json!(["/items/0/prompt"])), "{said}");
    let lines = ledger(folder.path());
    let charged: i64 = lines.values().map(|charge| micros(&charge["cost"])).sum();
    assert_eq!((lines.len(), charged), (3, micros(&said["actualCost"])));
    assert!(lines.values().all(|charge| charge["jobId"] == id && charge["userId"] == "alice"));
}
