//! Batches as CSV and JSONL: the same promises as for JSON.

use super::quick;
use crate::process::{Answer, Service};

/// Posts a body of a type to an address under `/images`.
async fn post(service: &Service, query: &str, content_type: &str, key: &str, body: &str) -> Answer {
    let request = service.client.post(format!("{}/images{query}", service.url)).header("content-type", content_type);
    let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
    Answer::of(request.body(body.to_owned()).send().await.unwrap()).await
}

#[tokio::test]
async fn the_same_rows_in_any_format_under_one_key_make_one_batch() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let csv = "\u{feff}scene_id;prompt;variants\r\ns-001;a cup;2\r\ns-002;\"a \"\"red\"\" vase\r\nby a window\";\r\n";
    let first = post(&service, "?runMode=live", "text/csv; charset=utf-8", "k", csv).await;
    let batch = first.expect(202).json()["batchId"].as_str().unwrap().to_owned();
    let view = service.finished(&batch).await;
    assert_eq!(view["counts"]["completed"], 3);
    assert_eq!(view["items"][1]["prompt"], "a \"red\" vase\r\nby a window");

    let lines = "{\"sceneId\":\"s-001\",\"prompt\":\"a cup\",\"variants\":2}\n\n\
        {\"scene_id\":\"s-002\",\"prompt\":\"a \\\"red\\\" vase\\r\\nby a window\"}\n";
    for content_type in ["application/jsonl", "application/x-ndjson"] {
        let again = post(&service, "?run_mode=live", content_type, "k", lines).await;
        assert_eq!(again.header("idempotent-replayed"), "true", "{content_type}");
        assert_eq!(again.json()["batchId"], batch, "{content_type}");
    }
    let other = post(&service, "?runMode=live", "text/csv", "k", "sceneId,prompt\ns-001,another").await;
    other.expect_problem(422, "idempotency_key_reused");
    assert_eq!(service.get("/images").await.json()["batches"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn rows_are_a_dry_run_unless_the_query_says_live() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let priced = post(&service, "", "text/csv", "", "sceneId,prompt,variants\ns-001,a cup,3").await;
    let estimate = priced.expect(200).json();
    assert_eq!((&estimate["runMode"], &estimate["items"][0]["variants"]), (&"dry_run".into(), &3.into()));
    let unknown = post(&service, "?runMode=live&model=none-such", "text/csv", "", "sceneId,prompt\ns-001,a cup").await;
    unknown.expect_problem(422, "model_unknown");
}

#[tokio::test]
async fn everything_that_is_wrong_with_rows_is_told_at_once_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let csv = "sceneId,prompt\n\ns-001,\"two\nlines\"\ns-002,\ns-001,again\n";
    let refused = post(&service, "?runMode=wet&run_mode=live&model=a&model=b", "text/csv", "a b", csv).await;
    let problem = refused.expect_problem(400, "invalid_request");
    let places: Vec<String> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| {
            let place = ["pointer", "parameter", "header"].into_iter().find_map(|member| fault[member].as_str());
            format!("{} {}", place.unwrap(), fault["line"])
        })
        .collect();
    let expected = [
        "Idempotency-Key null",
        "run_mode null",
        "model null",
        "runMode null",
        "/items/1/prompt 5",
        "/items/2/sceneId 6",
    ];
    assert_eq!(places, expected, "{problem}");

    let one = post(&service, "", "application/jsonl", "", "{\"sceneId\":\"s-1\",\"prompt\":\"a\"}\n{").await;
    let problem = one.expect_problem(400, "invalid_request");
    assert!(problem["detail"].as_str().unwrap().starts_with("/items/1 on line 2: cannot be read as JSON"), "{problem}");
}

#[tokio::test]
async fn what_a_json_body_says_itself_is_not_taken_from_the_query() {
    let folder = tempfile::tempdir().unwrap();
    let service = quick(folder.path()).await;
    let body = "{\"items\":[{\"sceneId\":\"s-001\",\"prompt\":\"a cup\"}]}";
    for query in ["?runMode=live", "?run_mode=live", "?model=synthetic"] {
        let problem = post(&service, query, "application/json", "", body).await.expect_problem(400, "invalid_request");
        assert!(problem["errors"][0]["parameter"].is_string(), "{problem}");
    }
    post(&service, "?other=1", "application/json", "", body).await.expect(200);
}
