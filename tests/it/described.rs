//! The description in the repository, and the service against it by schemathesis, which knows nothing of either.

use std::path::Path;
use std::process::Stdio;

use orchestrator::http::describe;

use crate::access::{ALICE, key, team};
use crate::process::Settings;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_description_in_the_repository_is_that_of_the_code() {
    let file = root().join("openapi.json");
    let mut described = serde_json::to_string_pretty(&describe::routes().1).unwrap();
    described.push('\n');
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &described).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(
        kept == described,
        "openapi.json is not what the code says: UPDATE_OPENAPI=1 cargo test --test it described"
    );
}

/// Runs schemathesis with all its checks on a service that is started with `settings`.
async fn check(settings: Settings, key: Option<&str>) {
    let Some(program) = std::env::var_os("TEST_SCHEMATHESIS") else {
        eprintln!("TEST_SCHEMATHESIS names no program: the service is not compared with its description");
        return;
    };
    let examples = std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "10".to_owned());
    let seed = std::env::var("SCHEMATHESIS_SEED").unwrap_or_else(|_| "1".to_owned());
    let service = settings.start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut run = tokio::process::Command::new(program);
    run.arg("--config-file").arg(root().join("schemathesis.toml")).arg("run");
    run.arg(format!("{}/openapi.json", service.url)).args(["--max-examples", &examples, "--seed", &seed]);
    run.args(["--request-timeout", "60", "--generation-database", "none"]);
    if let Some(key) = key {
        run.args(["--header", &format!("Authorization: Bearer {key}")]);
    }
    run.env("SCHEMATHESIS_HOOKS", "schemathesis_hooks").env("PYTHONPATH", root().join("tests"));
    run.env("PYTHONDONTWRITEBYTECODE", "1");
    run.env("ORCHESTRATOR_URL", &service.url).env("NO_COLOR", "1").current_dir(folder.path());
    let output = run.stdin(Stdio::null()).output().await.unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "the service differs from its description");
    assert_eq!(service.get("/metrics-lite").await.json()["errors"], 0, "an answer of 500 or above");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_service_does_what_its_description_says() {
    let folder = tempfile::tempdir().unwrap();
    check(Settings::new(folder.path()), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_keys_does_what_its_description_says() {
    let folder = tempfile::tempdir().unwrap();
    let settings = team(folder.path()).with("RATE_LIMIT_PER_MINUTE", "1000000");
    check(settings, Some(&key(ALICE))).await;
}

#[tokio::test]
async fn the_page_to_try_it_asks_nobody_else_and_may_ask_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let page = service.get("/docs").await.expect(200);
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.text.contains("<script>") && !page.text.contains(" style=") && !page.text.contains("onclick"));
    let mut parts = vec![page.text];
    for (file, kind) in [("docs.js", "text/javascript"), ("docs.css", "text/css")] {
        assert!(parts[0].contains(&format!("\"/docs/{file}\"")));
        let part = service.get(&format!("/docs/{file}")).await.expect(200);
        assert!(part.header("content-type").starts_with(kind));
        assert_eq!(part.header("content-security-policy"), policy);
        parts.push(part.text);
    }
    for text in parts {
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("innerHTML"), "{text}");
    }
    service.get("/docs/other.js").await.expect_problem(404, "not_found");
    let moved = service.post("/batch/images?a=b", &serde_json::json!({}), &[]).await.expect(308);
    assert_eq!(moved.header("location"), "/images?a=b");
}
