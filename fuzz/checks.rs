// What the fuzz targets hold strangers' bytes against. Included by the targets and by the test that plays `fuzz/seeds`
// through the same functions. Each says whether the bytes were accepted.

use std::collections::HashSet;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use orchestrator::domain::access::ApiKey;
use orchestrator::domain::ids::BatchId;
use orchestrator::domain::spec::{BatchSpec, ItemSpec, Reference, ReferenceMode};
use orchestrator::http::body::{self, Here, RowFormat, RowsQuery, Rules};
use orchestrator::http::credentials::Credentials;
use orchestrator::http::extract::Parameters;
use orchestrator::http::progress::last_seen;
use serde_json::{Value, json};

const RULES: Rules<'_> = Rules {
    max_rows: 20,
    max_variants: 3,
    default_model: "standard",
    here: Here { host: Some("127.0.0.1:9090"), locate: &|url| url.strip_prefix("/assets/").map(str::to_owned) },
    webhook_refusal: &|url| url.contains("10.").then(|| "it is private".to_owned()),
};
/// Faults in one answer, and one more that counts the rest.
const MOST_FAULTS: usize = 101;
/// Longer than any fault may be: what strangers wrote is repeated in bounds.
const TOO_LONG: usize = 2_000;

/// Any bytes as the body of `POST /images` and of a retry.
pub(crate) fn request_body(bytes: &[u8]) -> bool {
    if let Ok(Some(codes)) = body::check_retry(bytes) {
        assert!(!codes.is_empty());
    }
    match body::check(bytes, RULES) {
        Ok(accepted) => {
            hold_rules(&accepted.spec);
            // Written anew, with other spaces and escapes, it asks for the same.
            let value: Value = serde_json::from_slice(bytes).expect("what was accepted is JSON");
            let anew = serde_json::to_vec_pretty(&value).unwrap();
            let again = body::check(&anew, RULES).expect("what was accepted once is accepted again");
            assert_eq!(again.request_hash, accepted.request_hash);
            true
        }
        Err(faults) => {
            assert!((1..=MOST_FAULTS).contains(&faults.len()), "{} faults", faults.len());
            let value = serde_json::from_slice::<Value>(bytes).ok();
            for fault in &faults {
                assert!(!fault.detail.is_empty() && fault.detail.len() < TOO_LONG, "{fault:?}");
                let pointer = fault.pointer.as_deref().expect("a fault of a body has a place in it");
                // What is missing is pointed at too: the object that lacks it is there.
                let above = pointer.rsplit_once('/').map_or("", |(above, _)| above);
                if let Some(value) = &value {
                    assert!(value.pointer(above).is_some(), "{pointer} leads nowhere");
                }
            }
            false
        }
    }
}

/// Any bytes as the rows of a batch in CSV.
pub(crate) fn rows_csv(bytes: &[u8]) -> bool {
    rows(bytes, RowFormat::Csv)
}

/// Any bytes as the rows of a batch in JSONL.
pub(crate) fn rows_jsonl(bytes: &[u8]) -> bool {
    rows(bytes, RowFormat::Jsonl)
}

fn rows(bytes: &[u8], format: RowFormat) -> bool {
    match body::check_rows(bytes, format, &RowsQuery::default(), RULES) {
        Ok(accepted) => {
            hold_rules(&accepted.spec);
            // As JSON, the same rows ask for the same.
            let items: Vec<Value> = accepted.spec.items.iter().map(item).collect();
            let again = body::check(json!({"items": items}).to_string().as_bytes(), RULES);
            assert_eq!(
                again.expect("what was accepted as rows is accepted as JSON").request_hash,
                accepted.request_hash
            );
            true
        }
        Err(faults) => {
            assert!((1..=MOST_FAULTS).contains(&faults.len()), "{} faults", faults.len());
            let lines = bytes.iter().filter(|byte| b"\r\n".contains(byte)).count() + 1;
            for fault in &faults {
                assert!(!fault.detail.is_empty() && fault.detail.len() < TOO_LONG, "{fault:?}");
                assert!(fault.line.is_none_or(|line| (1..=lines).contains(&(line as usize))), "{fault:?}");
            }
            assert!(faults.is_sorted_by_key(|fault| fault.line.unwrap_or_default()) || faults.len() == MOST_FAULTS);
            false
        }
    }
}

fn item(item: &ItemSpec) -> Value {
    let reference = |reference: &Reference| {
        let mode = if reference.mode == ReferenceMode::StyleOnly { "style_only" } else { "style_and_composition" };
        json!({"url": reference.url, "mode": mode, "sha256": reference.sha256})
    };
    json!({
        "sceneId": item.scene_id.as_str(), "prompt": item.prompt, "variants": item.variants,
        "references": item.references.iter().map(reference).collect::<Vec<_>>(),
        "aspectRatio": item.aspect_ratio.to_string(), "imageSize": item.image_size.as_str(),
    })
}

/// What holds of every batch that was accepted.
fn hold_rules(spec: &BatchSpec) {
    assert!((1..=RULES.max_rows as usize).contains(&spec.items.len()));
    let mut scenes = HashSet::new();
    for item in &spec.items {
        assert!(scenes.insert(item.scene_id.as_str().to_lowercase()), "{:?} twice", item.scene_id);
        assert!((1..=RULES.max_variants).contains(&item.variants) && item.references.len() <= 6);
        assert!((1..=4_000).contains(&item.prompt.chars().count()));
    }
}

/// Any text as the header `Last-Event-ID`, its first line, and as the query, the rest.
pub(crate) fn last_event_id(text: &str) -> bool {
    let (header, query) = text.split_once('\n').unwrap_or((text, ""));
    let mut headers = HeaderMap::new();
    let header = HeaderValue::from_str(header).ok().filter(|value| !value.is_empty());
    if let Some(value) = &header {
        headers.insert("last-event-id", value.clone());
    }
    let Ok(number) = last_seen(&headers, Parameters::of(query)) else { return false };
    assert!(i64::try_from(number).is_ok(), "the database has no such number");
    if let Some(value) = header {
        let digits = value.to_str().unwrap().trim_start_matches('0');
        assert_eq!(if digits.is_empty() { "0" } else { digits }, number.to_string(), "another number than was sent");
    }
    true
}

/// Any text as an API key, and wherever a request may show one.
pub(crate) fn api_key(text: &str) -> bool {
    let shown: [(&'static str, String); 4] = [
        ("authorization", format!("Bearer {text}")),
        ("authorization", text.to_owned()),
        ("x-api-key", text.to_owned()),
        ("cookie", text.to_owned()),
    ];
    for (name, value) in shown {
        let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else { continue };
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        for trusts_platform in [false, true] {
            if let Err(problem) = Credentials::of(&headers, Some(text), trusts_platform) {
                let told = serde_json::to_string(&problem).unwrap();
                assert!(text.len() < 40 || !told.contains(text), "a refusal repeats the key");
            }
        }
    }
    match text.parse::<ApiKey>() {
        Ok(key) => {
            assert!(key.reveal() == text, "another key has the same meaning");
            assert!(text.contains(&key.id().to_string()));
            true
        }
        Err(error) => {
            assert!(text.len() < 8 || !error.to_string().contains(text), "a refusal repeats the key");
            false
        }
    }
}

/// Any text as the query of a list: a cursor that is taken is one that the service writes.
pub(crate) fn cursor(query: &str) -> bool {
    let mut parameters = Parameters::of(query);
    let page = parameters.page(50, 200);
    assert!((1..=200).contains(&page.limit));
    let state = parameters.state();
    if parameters.finish().is_err() {
        return false;
    }
    let given = |name: &str| query.contains(name) || query.contains('%');
    assert!(state.is_none() || given("state"));
    let Some(cursor) = page.cursor.clone() else { return true };
    let number = page.after::<u64>().ok().flatten();
    let batch = page.after::<BatchId>().ok().flatten();
    assert!(number.is_none() || batch.is_none(), "{cursor:?} is of two lists");
    let taken = number.map(|number| number.to_string()).or(batch.map(|batch| batch.to_string()));
    assert!(taken.as_ref().is_none_or(|written| *written == cursor), "{cursor:?} is not what was written");
    taken.is_some()
}
