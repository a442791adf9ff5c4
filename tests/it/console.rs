//! The web console as it is served, and what it asks that nobody else does. What it does in a browser is in
//! `tests/browser`.

use serde_json::json;

use crate::process::{Service, Settings};

/// A service of its own.
async fn started(settings: impl FnOnce(Settings) -> Settings) -> (Service, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let service = settings(Settings::new(folder.path())).start().await;
    (service, folder)
}

#[tokio::test]
async fn the_page_asks_nobody_else_and_may_ask_nobody_else() {
    let (service, _folder) = started(|settings| settings).await;
    let page = service.get("/").await.expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(
        page.header("content-security-policy"),
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert!(!page.text.contains("<script>") && !page.text.contains(" style=") && !page.text.contains("onclick"));
    for (file, kind) in [("app.js", "text/javascript"), ("style.css", "text/css")] {
        assert!(page.text.contains(&format!("\"/console/{file}\"")));
        assert!(service.get(&format!("/console/{file}")).await.expect(200).header("content-type").starts_with(kind));
    }
    service.get("/console/other.js").await.expect_problem(404, "not_found");
    service.get("/console/rows.test.mjs").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn with_a_bucket_the_page_shows_the_pictures_that_are_in_it() {
    let (service, _folder) =
        started(|settings| settings.with("GCS_BUCKET", "pictures").with("STORAGE_EMULATOR_HOST", "127.0.0.1:1")).await;
    let page = service.get("/").await.expect(200);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("img-src 'self' blob: data: http://127.0.0.1:1; "), "{policy}");
}

#[tokio::test]
async fn a_browser_that_has_a_file_is_not_sent_it_again() {
    let (service, _folder) = started(|settings| settings).await;
    for path in ["/", "/console/app.js"] {
        let answer = service.get(path).await.expect(200);
        assert_eq!(answer.header("cache-control"), "no-cache");
        let tag = answer.header("etag").to_owned();
        for (given, status) in [(tag.clone(), 304), (format!("\"x\", W/{tag}"), 304), ("\"x\"".to_owned(), 200)] {
            let again = service.client.get(format!("{}{path}", service.url)).header("if-none-match", &given);
            let again = crate::process::Answer::of(again.send().await.unwrap()).await;
            assert_eq!((again.status, again.header("etag")), (status, tag.as_str()), "{given}");
            assert_eq!(again.text.is_empty(), status == 304);
        }
    }
}

#[tokio::test]
async fn the_models_are_those_that_may_be_called_with_what_they_are_listed_at() {
    let (service, _folder) = started(|settings| settings.with("MAX_ROWS_PER_BATCH", "7")).await;
    let answer = service.get("/models").await.expect(200).json();
    assert_eq!((&answer["runMode"], &answer["rehearsal"]), (&json!("live"), &json!(true)));
    assert_eq!(
        answer["limits"],
        json!({"rows": 7, "variants": 3, "references": 6, "promptChars": 4_000, "referenceBytes": 10 << 20})
    );
    let models = answer["models"].as_array().unwrap();
    let of = |id: &str| models.iter().find(|model| model["id"] == id);
    let own = of("synthetic").unwrap();
    assert_eq!((&own["default"], &own["sizes"]), (&json!(true), &json!([{"size": "1K", "price": 0.05}])));
    assert_eq!(own["aspectRatios"].as_array().unwrap().len(), 10);
    assert!(of("gemini-2.5-flash-image").unwrap()["deprecated"].is_string());
    assert!(of("gemini-3.1-flash-image").is_none(), "it was shut down");
    assert_eq!(models.iter().filter(|model| model["default"] == true).count(), 1);
}

#[tokio::test]
async fn who_asks_for_models_is_told_that_nothing_is_made_here() {
    let (service, _folder) = started(|settings| settings.with("RUN_MODE", "dry_run")).await;
    assert_eq!(service.get("/models").await.expect(200).json()["runMode"], "dry_run");
}

#[tokio::test]
async fn a_batch_shows_what_its_rows_asked_for() {
    let (service, _folder) = started(|settings| settings).await;
    let id = service
        .submit(&json!({"runMode": "live", "referencePack": [{"url": "https://example.com/pack.png"}], "items": [
            {"sceneId": "a", "prompt": "a cup", "aspectRatio": "16:9", "referenceMode": "style_and_composition",
             "references": ["https://example.com/own.png"]},
        ]}))
        .await;
    let view = service.get(&format!("/images/{id}")).await.expect(200).json();
    let item = &view["items"][0];
    assert_eq!((&item["aspectRatio"], &item["imageSize"]), (&json!("16:9"), &json!("1K")));
    let reference = |url: &str| json!({"url": url, "mode": "style_and_composition"});
    let both = json!([reference("https://example.com/own.png"), reference("https://example.com/pack.png")]);
    assert_eq!(item["references"], both);
}
