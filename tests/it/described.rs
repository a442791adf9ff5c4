//! The description in the repository, and the service against it by schemathesis, which knows nothing of either.

mod client;
mod schema;
mod walk;

use std::path::Path;
use std::process::Stdio;

use orchestrator::http::body::{self, Here, Rules};
use orchestrator::http::describe;
use serde_json::{Value, json};

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

#[test]
fn every_body_and_parameter_has_an_example_of_its_schema() {
    let description = serde_json::to_value(describe::routes().1).unwrap();
    let resolve =
        |part: &Value| part["$ref"].as_str().map_or(part.clone(), |at| description.pointer(&at[1..]).unwrap().clone());
    let (mut faults, mut examples) = (Vec::new(), 0);
    let mut look = |place: &str, content: &Value| {
        for (kind, body) in content.as_object().into_iter().flatten() {
            let of_json = kind.ends_with("json") || kind == "text/event-stream";
            if !of_json || body["schema"] == json!({"type": "object"}) {
                continue;
            }
            if body["examples"].is_null() {
                faults.push(format!("{place}: no example"));
            }
            for (name, example) in body["examples"].as_object().into_iter().flatten() {
                examples += 1;
                let wrong = schema::faults(&description, &body["schema"], &resolve(example)["value"]);
                faults.extend(wrong.into_iter().map(|fault| format!("{place} {name} {fault}")));
            }
        }
    };
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{method} {path}");
            look(&place, &operation["requestBody"]["content"]);
            for (status, response) in operation["responses"].as_object().unwrap() {
                look(&format!("{place} {status}"), &resolve(response)["content"]);
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = format!("{place} {}", parameter["name"]);
                assert!(!parameter["example"].is_null(), "{name}: no example");
                let wrong = schema::faults(&description, &parameter["schema"], &parameter["example"]);
                assert!(wrong.is_empty(), "{name}: {wrong:?}");
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(examples > 100, "{examples}");
    let bodies = &description["components"]["examples"];
    for name in ["BatchBody.dryRun", "BatchBody.live"] {
        let body = bodies[name]["value"].to_string();
        let here = Here { host: None, locate: &|_| None };
        let rules =
            Rules { max_rows: 1_000, max_variants: 3, default_model: "standard", here, webhook_refusal: &|_| None };
        assert!(body::check(body.as_bytes(), rules).is_ok(), "{name}");
    }
    let codes = body::check_retry(bodies["RetryBody.someCodes"]["value"].to_string().as_bytes()).unwrap();
    assert_eq!(codes.map(|codes| codes.len()), Some(2));
}

#[test]
fn a_value_that_is_none_of_its_schema_is_told() {
    let description = serde_json::to_value(describe::routes().1).unwrap();
    let schema = json!({"$ref": "#/components/schemas/BatchBody"});
    let good = json!({"items": [{"sceneId": "a", "prompt": "b", "references": ["x", {"url": "y"}]}]});
    assert_eq!(schema::faults(&description, &schema, &good), [""; 0]);
    for (pointer, value) in [
        ("/items", json!([])),
        ("/items/0/variants", json!(4)),
        ("/items/0/variants", json!("1")),
        ("/items/0/prompt", json!("")),
        ("/items/0/sceneId", Value::Null),
        ("/items/0/references/0", json!(1)),
        ("/runMode", json!("fast")),
        ("/more", json!(1)),
    ] {
        let mut bad = good.clone();
        let (above, name) = pointer.rsplit_once('/').unwrap();
        match bad.pointer_mut(above).unwrap() {
            Value::Array(values) => values[name.parse::<usize>().unwrap()] = value,
            members => members[name] = value,
        }
        assert!(!schema::faults(&description, &schema, &bad).is_empty(), "{pointer}");
    }
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
