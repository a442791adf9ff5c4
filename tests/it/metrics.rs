//! `/metrics`: its form, that each metric of the docs is there and moves, and that no label can be made up.

#![expect(clippy::float_cmp, reason = "counts that a double holds exactly")]

mod exposition;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use self::exposition::Exposition;
use crate::bill::{batch, paid, png, prompts};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{Service, Settings};
use crate::sse;

const DOCS: &str = include_str!("../../docs/METRICS.md");

/// What stands still while the database answers.
const STILL: [&str; 3] = ["orchestrator_budget_limit_usd", "orchestrator_database_up", "orchestrator_info"];

/// The name, type and labels of each metric in the docs.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = DOCS.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels))
    })
    .collect()
}

async fn scrape(service: &Service) -> Exposition {
    let answer = service.get("/metrics").await.expect(200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    Exposition::parse(&answer.text)
}

/// Every value that the sums over a family took.
#[derive(Default)]
struct Seen {
    values: BTreeMap<String, BTreeSet<String>>,
    last: Exposition,
}

impl Seen {
    async fn look(&mut self, service: &Service) {
        self.last = scrape(service).await;
        for family in documented().into_keys() {
            let sum = self.last.sum(&family).to_string();
            self.values.entry(family).or_default().insert(sum);
        }
    }

    /// Looks until a family's sum is as expected.
    async fn until(&mut self, service: &Service, family: &str, expected: impl Fn(f64) -> bool) {
        service
            .until_so(async || {
                self.look(service).await;
                expected(self.last.sum(family))
            })
            .await;
    }
}

/// The end of a prompt says how its calls are answered.
fn by_prompt(prompt: &str, count: usize) -> Fault {
    match prompt.rsplit(' ').next() {
        Some("blocked") => Fault::Blocked,
        Some("failing") => Fault::Own500,
        Some("slowly") if count == 0 => Fault::ThrottleBare,
        Some("dear") => Fault::Dear,
        Some("lost") if count == 0 => Fault::CloseBefore,
        _ => Fault::None,
    }
}

async fn follow(service: &Service, batch: &str) {
    let mut stream = sse::open(service, batch, None).await;
    while stream.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_docs_is_there_and_moves() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), by_prompt).await;
    let settings = paid(Settings::new(folder.path()), &fake)
        .with("BUDGET_LEDGER_ENABLED", "true")
        .with("SIGNED_URL_TTL", "1s")
        .with("SIGNED_URL_MIN_LEFT", "0");
    let mut seen = Seen::default();
    let service = settings.start().await;
    seen.look(&service).await;

    // Calls under way at a kill: whoever starts next takes them over.
    fake.hold(true);
    service.submit(&batch("held", 12)).await;
    seen.until(&service, "orchestrator_calls_in_flight", |calls| calls == 8.0).await;
    service.kill().await;
    fake.hold(false);
    let service = settings.start().await;
    let mut mixed = prompts(["a blocked", "b failing", "c dear", "d lost", "e"].map(str::to_owned));
    mixed["items"][4]["references"] = json!([{"url": "https://127.0.0.1/a.png"}]);
    let mixed = service.submit(&mixed).await;
    let (followed, ()) = tokio::join!(service.finished(&mixed), follow(&service, &mixed));
    seen.look(&service).await;
    assert_eq!(followed["counts"]["failed"], 3, "{followed}");

    // Calls are put off, and all behind them wait; a stream stays open.
    let put_off = (0..8).map(|row| format!("{row} slowly"));
    let rows = std::iter::once("first".to_owned()).chain(put_off).chain((0..20).map(|row| format!("{row} later")));
    let id = service.submit(&prompts(rows)).await;
    let stream = sse::open(&service, &id, None).await;
    seen.until(&service, "orchestrator_gate_closed", |closed| closed > 0.0).await;
    seen.until(&service, "orchestrator_queue_oldest_seconds", |age| age > 0.0).await;
    let other = service.submit(&batch("too much", 3)).await;
    service.post(&format!("/images/{other}/cancel"), &json!({}), &[]).await.expect(200);
    drop(stream);
    service.finished(&id).await;

    // The ledger is away: charges wait for it.
    let (ledger, away) = (folder.path().join("ledger"), folder.path().join("away"));
    std::fs::rename(&ledger, &away).unwrap();
    std::fs::write(&ledger, "no folder").unwrap();
    service.submit(&batch("unwritten", 1)).await;
    seen.until(&service, "orchestrator_ledger_lag_seconds", |age| age > 0.0).await;
    std::fs::remove_file(&ledger).unwrap();
    std::fs::rename(&away, &ledger).unwrap();

    // A link that is near its end is minted anew.
    service
        .until_so(async || {
            service.get(&format!("/images/{id}")).await.expect(200);
            seen.look(&service).await;
            seen.last.sum("orchestrator_link_refreshes_total") > 0.0
        })
        .await;
    seen.until(&service, "orchestrator_ledger_pending_lines", |lines| lines == 0.0).await;

    let names: BTreeSet<&String> = seen.last.types.keys().collect();
    let documented = documented();
    assert_eq!(names, documented.keys().collect(), "the docs name others than there are");
    for (name, (kind, _)) in &documented {
        assert_eq!(seen.last.types.get(name), Some(kind), "{name}");
        let moved = seen.values[name].len() > 1;
        assert_eq!(moved, !STILL.contains(&name.as_str()), "{name}: {:?}", seen.values[name]);
    }
    assert_labels(&seen.last, &documented);
    assert_agrees(&service, &seen.last).await;
}

/// Each series has the labels of the docs and no others.
fn assert_labels(seen: &Exposition, documented: &BTreeMap<String, (String, BTreeSet<String>)>) {
    for series in seen.samples.keys() {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let family = ["_bucket", "_sum", "_count", ""].map(|part| name.strip_suffix(part).unwrap_or_default());
        let family = family.into_iter().find(|family| seen.types.contains_key(*family)).unwrap();
        let labels = labels.split(',').filter_map(|label| label.split_once('=').map(|(name, _)| name.to_owned()));
        let labels: BTreeSet<String> = labels.filter(|label| label != "le").collect();
        assert_eq!(labels, documented[family].1, "{series}");
    }
}

/// What is counted in two places is the same in both.
async fn assert_agrees(service: &Service, seen: &Exposition) {
    let lite = service.get("/metrics-lite").await.expect(200).json();
    let lite = |name: &str| lite[name].as_f64().unwrap();
    let picture = |outcome| {
        seen.get(&format!("orchestrator_pictures_total{{model=\"{}\",outcome=\"{outcome}\"}}", crate::bill::MODEL))
    };
    assert_eq!(lite("imagesGenerated"), picture("completed"));
    assert_eq!(lite("imagesFailed"), picture("failed"));
    assert_eq!(lite("callsUnknown"), seen.get(&call("unknown")));
    assert_eq!(lite("callsThrottled"), seen.get(&call("throttled")));
    assert_eq!(lite("overruns"), seen.sum("orchestrator_overruns_total"));
    assert_eq!(lite("streamsOpened"), seen.sum("orchestrator_streams_opened_total"));
    assert_eq!(picture("cancelled"), 3.0);
    let code = |code| seen.get(&format!("orchestrator_errors_total{{source=\"picture\",code=\"{code}\"}}"));
    let codes = ["safety_blocked", "provider_error", "reference_blocked"].map(code);
    assert_eq!(codes, [1.0, 1.0, 1.0]);
    let budget: Value = service.get("/budget").await.expect(200).json();
    assert_eq!(budget["everyone"]["spent"].as_f64(), Some(seen.get("orchestrator_budget_spent_usd")));
}

fn call(outcome: &str) -> String {
    format!("orchestrator_calls_total{{model=\"{}\",outcome=\"{outcome}\"}}", crate::bill::MODEL)
}

#[tokio::test]
async fn nobody_can_make_up_a_label() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let before = scrape(&service).await.samples.len();
    for number in 0..50 {
        let ask = |method: &str, path: String| {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            service.client.request(method, format!("{}{path}", service.url)).send()
        };
        ask("GET", format!("/nothing/{number}")).await.unwrap();
        ask("GET", format!("/images/bat_{number}")).await.unwrap();
        ask("GET", format!("/console/{number}%22%0A.js")).await.unwrap();
        ask(&format!("M{number}"), "/images".to_owned()).await.unwrap();
        service
            .post(
                "/images",
                &json!({"model": format!("m{number}\"}}"), "items": [{"sceneId": "a", "prompt": "b"}]}),
                &[],
            )
            .await;
    }
    let after = scrape(&service).await;
    let new = after.samples.len() - before;
    assert!(new < 150, "{new} series from 250 requests: {:#?}", after.samples.keys());
    assert_eq!(after.get("orchestrator_requests_total{route=\"/images\",method=\"other\",status=\"405\"}"), 50.0);
}
