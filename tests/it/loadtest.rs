//! The load test, by the real program: a right service passes every gate, and whatever is wrong with one closes the gate
//! that is there for it.

mod broken;
mod bucket;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::books::micros;
use crate::client_commands::{Desk, paying};
use crate::fake_gemini::{Allowed, FakeGemini, Fault, png};
use crate::process::{Service, Settings, batch};
use crate::proxy::{self, Tampering};

/// Names and verdicts of the gates of a report.
fn verdicts(report: &Value) -> Vec<(String, String)> {
    let gates = report["gates"].as_array().unwrap().iter();
    gates
        .map(|gate| (gate["name"].as_str().unwrap().to_owned(), gate["verdict"].as_str().unwrap().to_owned()))
        .collect()
}

/// The gates with this verdict.
fn with(verdict: &str, report: &Value) -> Vec<String> {
    verdicts(report).into_iter().filter(|(_, of)| of == verdict).map(|(name, _)| name).collect()
}

/// A gate of a report.
fn gate<'r>(name: &str, report: &'r Value) -> &'r Value {
    report["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == name).unwrap()
}

const ALL: [&str; 12] = [
    "time",
    "asked",
    "errors",
    "progress",
    "requests",
    "images",
    "http-errors",
    "refreshes",
    "ledger",
    "ledger-lines",
    "sums",
    "links",
];

#[tokio::test]
async fn a_right_service_passes_every_gate_and_the_reports_say_so() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).with("SYNTHETIC_LATENCY", "20ms").start().await;
    // What was there before is no part of it.
    let earlier = service.submit(&batch(2, 1)).await;
    service.finished(&earlier).await;
    service.until(|counted| counted["ledgerLines"] == 2, "/metrics-lite").await;
    let desk = Desk::at(&service.url);
    let place = data.path().to_str().unwrap();
    let command =
        ["loadtest", "--rows", "12", "--variants", "2", "--ledger", place, "--report", "r.html", "--report", "r.json"];
    let reports = desk.json(0, &command).await;
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(with("passed", report), ALL);
    assert_eq!(
        (&report["passed"], &report["rehearsal"], &report["model"]),
        (&json!(true), &json!(true), &json!("synthetic"))
    );
    assert_eq!((&report["counts"]["completed"], micros(&report["actualCost"])), (&json!(24), 24 * 50_000));
    let counts = ["submissions", "pictures"].map(|times| report[times]["count"].clone());
    assert_eq!(counts, [json!(21), json!(24)]);
    let progress = gate("progress", report)["measured"].as_str().unwrap();
    assert!(progress.starts_with("38 events over 3 streams, 2 left on purpose: 24 image_complete"), "{progress}");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(desk.path("r.json")).unwrap()).unwrap();
    assert_eq!(&written, report);
    let page = std::fs::read_to_string(desk.path("r.html")).unwrap();
    assert!(page.contains("Load test passed") && page.contains(report["batchId"].as_str().unwrap()));
    let (out, err) = desk.expect(0, &["loadtest", "--rows", "3", "--ledger", &format!("{place}/ledger")]).await;
    assert!(out.contains("links         passed   3 pictures, 3 permalinks, 3 thumbnails"), "{out}");
    assert!(out.contains("No gate failed.") && !out.contains("FAILED"), "{out}");
    assert!(
        err.contains("3 rows, 3 pictures with synthetic, at most 0.15 US dollars; the synthetic provider"),
        "{err}"
    );
}

#[tokio::test]
async fn a_hundred_pictures_of_two_seconds_pass_every_gate() {
    let data = tempfile::tempdir().unwrap();
    let settings = paying(data.path()).with("SYNTHETIC_LATENCY", "2s").with("PROVIDER_CONCURRENCY", "32");
    let service = settings.start().await;
    let desk = Desk::at(&service.url);
    let report = desk.json(0, &["loadtest", "--ledger", data.path().to_str().unwrap()]).await.remove(0);
    assert_eq!(with("passed", &report), ALL);
    assert_eq!((&report["counts"]["total"], &report["pictures"]["count"]), (&json!(100), &json!(100)));
    // The provider takes two seconds for each, and 32 at once for four rounds.
    assert!(report["pictures"]["p50Ms"].as_f64().unwrap() >= 2_000.0 && report["tookMs"].as_f64().unwrap() >= 8_000.0);
}

/// Runs a small load test that fails; its report, and the words on standard error.
async fn failing(desk: &Desk, options: &[&str]) -> (Value, String) {
    let (out, err) = desk.expect(1, &[&["loadtest", "--rows", "4", "--json"], options].concat()).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    let failed = with("failed", &report);
    assert!(!failed.is_empty() && report["passed"] == false, "{report}");
    let not_judged = with("not_judged", &report).len();
    let others = if not_judged > 0 { format!(", {not_judged} gates not judged") } else { String::new() };
    assert!(err.contains(&format!("the load test failed: {}{others}\n", failed.join(", "))), "{err}");
    (report, err)
}

#[tokio::test]
async fn a_service_that_keeps_no_ledger_fails_and_the_switch_is_named() {
    let data = tempfile::tempdir().unwrap();
    let service = Settings::new(data.path()).start().await;
    let desk = Desk::at(&service.url);
    let options = ["--ledger", data.path().to_str().unwrap(), "--ledger-wait", "2s"];
    let (report, _) = failing(&desk, &options).await;
    assert_eq!(with("failed", &report), ["ledger", "ledger-lines", "sums"]);
    for name in ["ledger", "ledger-lines"] {
        assert!(gate(name, &report)["hint"].as_str().unwrap().contains("BUDGET_LEDGER_ENABLED"), "{report}");
    }
    let report = desk.json(0, &["loadtest", "--rows", "1", "--skip", "ledger"]).await.remove(0);
    assert_eq!((with("skipped", &report), with("failed", &report)), (vec!["ledger".to_owned()], vec![]));
}

/// Copies the ledger from one data folder to another as it grows, without what `lost` says.
fn copy_ledger(from: &Path, to: &Path, lost: impl Fn(usize) -> bool) {
    std::fs::create_dir_all(to.join("ledger")).unwrap();
    for day in
        std::fs::read_dir(from.join("ledger")).unwrap().map(|day| day.unwrap().path()).filter(|day| day.is_file())
    {
        let text = std::fs::read_to_string(&day).unwrap();
        let kept = text.split_inclusive('\n').enumerate().filter(|(line, _)| !lost(*line)).map(|(_, text)| text);
        let (part, whole) = (to.join("part"), to.join("ledger").join(day.file_name().unwrap()));
        std::fs::write(&part, kept.collect::<String>()).unwrap();
        std::fs::rename(part, whole).unwrap();
    }
}

#[tokio::test]
async fn a_ledger_from_which_a_line_was_cut_fails() {
    let data = tempfile::tempdir().unwrap();
    let cut = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    let (from, to) = (data.path().to_owned(), cut.path().to_owned());
    // Somebody cuts the third line of whatever is written.
    let cutting = tokio::spawn(async move {
        loop {
            copy_ledger(&from, &to, |line| line == 2);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let (report, _) = failing(&desk, &["--ledger", cut.path().to_str().unwrap(), "--ledger-wait", "8s"]).await;
    cutting.abort();
    assert_eq!(with("failed", &report), ["ledger-lines", "sums"]);
    let measured = gate("ledger-lines", &report)["measured"].as_str().unwrap();
    assert!(measured.starts_with("3 lines in ") && measured.contains("; none for load-"), "{measured}");
}

/// A service with a provider that costs money.
fn paid(data: &Path, provider: &FakeGemini) -> Settings {
    let settings = paying(data).with("PROVIDER", "gemini").with("GEMINI_API_KEY", "AIza-key").with("RUN_MODE", "live");
    settings.with("GEMINI_BASE_URL", provider.url.clone())
}

async fn provider(script: impl Fn(&str, usize) -> Fault + Send + Sync + 'static) -> FakeGemini {
    FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), script).await
}

#[tokio::test]
async fn a_service_that_fails_six_in_a_hundred_fails_and_four_pass() {
    let bad = |of: u32| {
        move |prompt: &str, _: usize| {
            let row: u32 = prompt.rsplit("no. ").next().unwrap().parse().unwrap();
            if row <= of { Fault::Blocked } else { Fault::None }
        }
    };
    for (refused, code) in [(6, 1), (4, 0)] {
        let provider = provider(bad(refused)).await;
        let data = tempfile::tempdir().unwrap();
        let service = paid(data.path(), &provider).start().await;
        let desk = Desk::at(&service.url);
        let report =
            desk.json(code, &["loadtest", "--live", "--ledger", data.path().to_str().unwrap()]).await.remove(0);
        let failed = if code == 1 { vec!["errors"] } else { vec![] };
        assert_eq!(with("failed", &report), failed, "{report}");
        let measured = format!("{refused} of 100 pictures not made: {refused} safety_blocked");
        assert_eq!(gate("errors", &report)["measured"], measured);
        assert_eq!(micros(&report["actualCost"]), provider.charged_micros());
    }
}

#[tokio::test]
async fn real_money_is_not_spent_before_somebody_says_so() {
    let provider = provider(|_, _| Fault::None).await;
    let data = tempfile::tempdir().unwrap();
    let service = paid(data.path(), &provider).start().await;
    let desk = Desk::at(&service.url);
    let (_, err) = desk.expect(64, &["loadtest", "--rows", "2"]).await;
    assert!(
        err.contains("2 rows, 2 pictures with gemini-nano-banana-2.1, at most 0.") && err.contains("add --live"),
        "{err}"
    );
    assert!(provider.calls().is_empty());
    desk.expect(0, &["loadtest", "--rows", "2", "--live"]).await;
    assert_eq!(provider.calls().len(), 2);
}

#[tokio::test]
async fn a_service_that_hangs_is_left_at_the_deadline_and_spends_no_more() {
    let provider = provider(|prompt, _| if prompt.ends_with("no. 1") { Fault::None } else { Fault::Stall }).await;
    let data = tempfile::tempdir().unwrap();
    let service = paid(data.path(), &provider).with("PROVIDER_CONCURRENCY", "2").start().await;
    let desk = Desk::at(&service.url);
    let (report, err) = failing(&desk, &["--live", "--deadline", "5s", "--report", "r.html"]).await;
    assert_eq!((with("failed", &report), with("passed", &report)), (vec!["time".to_owned()], vec![]));
    let measured = gate("time", &report)["measured"].as_str().unwrap();
    assert!(measured.starts_with("not ended: ") && measured.ends_with(" of 4 pictures; cancelled"), "{measured}");
    assert!(err.contains("The deadline is there"), "{err}");
    assert!(std::fs::read_to_string(desk.path("r.html")).unwrap().contains("Load test failed"));
    let view = service.get(&format!("/images/{}", report["batchId"].as_str().unwrap())).await.json();
    assert_eq!(view["counts"]["queued"], 0, "{view}");
    assert!(view["counts"]["cancelled"].as_u64() >= Some(1) && provider.calls().len() <= 3, "{view}");
}

#[tokio::test]
async fn a_service_that_answers_nothing_any_more_is_left_too() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "10m").start().await;
    let desk = Desk::at(&service.url);
    let mut going = desk.start(&["loadtest", "--rows", "2", "--deadline", "5s", "--json"]);
    going.until("The batch is ").await;
    service.signal(nix::sys::signal::Signal::SIGSTOP);
    let (code, out, said) = going.ended().await;
    assert_eq!(code, Some(1), "{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(with("failed", &report), ["time"]);
    let measured = gate("time", &report)["measured"].as_str().unwrap();
    assert!(measured.contains("it could not be cancelled: the service gives no answer"), "{measured}");
    service.signal(nix::sys::signal::Signal::SIGCONT);
}

#[tokio::test]
async fn a_gate_that_was_not_judged_is_not_passed() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "10m").start().await;
    let desk = Desk::at(&service.url);
    let command = ["loadtest", "--rows", "2", "--deadline", "2s", "--skip", "time", "--json"];
    let (out, err) = desk.expect(1, &command).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((with("failed", &report), with("passed", &report)), (vec![], vec![]));
    assert_eq!((with("not_judged", &report).len(), &report["passed"]), (10, &json!(false)));
    assert!(err.contains("the load test failed: 10 gates not judged"), "{err}");
}

/// What a load test says of a right service behind a proxy that tampers.
async fn tampered(tampering: Tampering) -> Value {
    let data = tempfile::tempdir().unwrap();
    let service: Service = paying(data.path()).with("SYNTHETIC_LATENCY", "10ms").start().await;
    let url = proxy::before(&service.url, tampering).await;
    failing(&Desk::at(&url), &["--deadline", "1m"]).await.0
}

/// Whether the event has this number.
fn is_event(number: u32, event: &str) -> bool {
    event.starts_with(&format!("id: {number}\n"))
}

#[tokio::test]
async fn an_event_that_is_lost_doubled_or_late_fails_progress() {
    let lost = |event: &str| if is_event(4, event) { vec![] } else { vec![event.to_owned()] };
    // Not the one after which the stream is left: what comes behind it is not looked at.
    let doubled = |event: &str| if is_event(3, event) { vec![event.to_owned(); 2] } else { vec![event.to_owned()] };
    let renamed = |event: &str| vec![event.replace("event: image_complete\n", "event: image_done\n")];
    for (tampering, expected) in [
        (Tampering::events(lost), "event 5 came after event 3"),
        (Tampering::events(doubled), "event 3 came again after event 3"),
        (Tampering::events(renamed), "says that it is another one"),
    ] {
        let report = tampered(tampering).await;
        assert_eq!(with("failed", &report), ["progress"], "{report}");
        let measured = gate("progress", &report)["measured"].as_str().unwrap();
        assert!(measured.contains(expected), "{measured}");
    }
}

#[tokio::test]
async fn streams_that_are_off_fail_progress_and_the_switch_is_named() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).with("SSE_ENABLED", "false").start().await;
    let (report, _) = failing(&Desk::at(&service.url), &[]).await;
    assert_eq!(with("failed", &report), ["progress"], "{report}");
    assert!(gate("progress", &report)["hint"].as_str().unwrap().contains("SSE_ENABLED"));
}

#[tokio::test]
async fn a_counter_that_does_not_count_right_fails_its_gate() {
    let add = |name: &'static str, count: i64| {
        Tampering::later_json("/metrics-lite", move |metrics| {
            metrics[name] = (metrics[name].as_i64().unwrap() + count).into();
        })
    };
    for (name, count, failed) in [
        ("requests", -1, "requests"),
        ("requests", 500, "requests"),
        ("imagesGenerated", 4, "images"),
        ("imagesFailed", 1, "images"),
        ("errors", 1, "http-errors"),
        ("urlRefreshes", 1, "refreshes"),
        ("ledgerLines", 5, "ledger"),
    ] {
        let report = tampered(add(name, count)).await;
        assert_eq!(with("failed", &report), [failed], "{name} {count}: {report}");
    }
}

#[tokio::test]
async fn a_batch_that_is_not_the_one_that_was_asked_for_fails() {
    let cut = Tampering::submission(|batch| batch["items"].as_array_mut().unwrap().truncate(1));
    let other = Tampering::submission(|batch| {
        for row in batch["items"].as_array_mut().unwrap() {
            row["prompt"] = json!("x");
        }
    });
    let renamed = Tampering::json("/images/bat_", |batch| batch["model"] = json!("cheap"));
    let first = std::sync::Mutex::new(None);
    let same = Tampering::json("/images/bat_", move |batch| {
        let mut first = first.lock().unwrap();
        for image in batch["items"].as_array_mut().into_iter().flatten().map(|row| &mut row["images"][0]) {
            if image["state"] == "completed" {
                let first = first.get_or_insert_with(|| image.clone());
                for name in ["bytes", "sha256", "url", "permalink", "thumbnailUrl"] {
                    image[name] = first[name].clone();
                }
            }
        }
    });
    for (tampering, expected) in [
        (
            cut,
            "1 rows, 1 picture, 1 permalinks, 1 different files of 1; the batch counts 1 picture; load-0002 is missing",
        ),
        (other, "; load-0001 has another prompt; load-0002 has another prompt"),
        (renamed, "; the model is cheap"),
        (same, "4 rows, 4 pictures, 1 permalinks, 1 different files of 4; pictures share a permalink"),
    ] {
        let report = tampered(tampering).await;
        assert_eq!(with("failed", &report), ["asked"], "{report}");
        let measured = gate("asked", &report)["measured"].as_str().unwrap();
        assert!(measured.contains(expected), "{measured}");
    }
}

#[tokio::test]
async fn money_that_does_not_add_up_fails_the_sums() {
    let spent = Tampering::later_json("/budget", |budget| budget["everyone"]["spent"] = json!(0.25));
    let reserved = Tampering::later_json("/budget", |budget| budget["everyone"]["reserved"] = json!(0.05));
    let picture = Tampering::json("/images/bat_", |batch| {
        if let Some(image) = batch.pointer_mut("/items/1/images/0") {
            image["cost"] = json!(0.04);
        }
    });
    for tampering in [spent, reserved, picture] {
        let report = tampered(tampering).await;
        assert_eq!(with("failed", &report), ["sums"], "{report}");
    }
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_fails_the_links() {
    let bytes = Tampering::whole(|path, _, body| {
        if path.starts_with("/assets/images/") && path.contains("/2-1-") {
            body[99] ^= 1;
        }
    });
    let longer = Tampering::whole(|path, _, body| {
        if path.starts_with("/assets/images/") && path.contains("/2-1-") {
            body.extend([0; 9]);
        }
    });
    let dead = Tampering::whole(|path, status, _| {
        if path.starts_with("/assets/thumbnails/") {
            *status = 403;
        }
    });
    let gone = Tampering::whole(|path, status, _| {
        if path.ends_with("/items/load-0003/1") {
            *status = 200;
        }
    });
    for (tampering, expected) in [
        (bytes, "load-0002 v1: its link gives"),
        (longer, "load-0002 v1: its link gives"),
        (dead, "load-0001 v1, thumbnail: "),
        (gone, "load-0003 v1: /images/"),
    ] {
        let report = tampered(tampering).await;
        assert_eq!(with("failed", &report), ["links"], "{report}");
        let measured = gate("links", &report)["measured"].as_str().unwrap();
        assert!(measured.contains(expected), "{measured}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_before_anything_is_sent() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).with("DAILY_BUDGET_USD", "0.1").start().await;
    let desk = Desk::at(&service.url);
    desk.expect(2, &["loadtest", "--rows", "0"]).await;
    desk.expect(2, &["loadtest", "--report", "r.txt"]).await;
    desk.expect(2, &["loadtest", "--deadline", "10"]).await;
    desk.expect(2, &["loadtest", "--skip", "everything"]).await;
    desk.expect(64, &["loadtest", "--report", "nowhere/r.json"]).await;
    desk.expect(64, &["loadtest", "--ledger", "nowhere"]).await;
    desk.expect(64, &["loadtest", "--model", "nobodys"]).await;
    desk.expect(75, &["loadtest", "--rows", "3"]).await;
    let list = service.get("/images").await.json();
    assert_eq!(list["batches"], json!([]));
    desk.expect(69, &["loadtest", "--url", "http://127.0.0.1:9"]).await;
}

#[tokio::test]
async fn a_key_that_may_not_submit_is_refused_and_a_token_goes_beside_it() {
    let data = tempfile::tempdir().unwrap();
    let settings = crate::access::team(data.path()).with("BUDGET_LEDGER_ENABLED", "true");
    let service = settings.start().await;
    Desk::at(&service.url).expect(77, &["loadtest", "--rows", "1"]).await;
    let key = crate::access::key(crate::access::ALICE);
    // Whoever stands in front has taken the token; the service goes by the key.
    let desk = Desk::at(&service.url).with("ORCHESTRATOR_KEY", &key).with("ORCHESTRATOR_TOKEN", "ey.J.x");
    let report = desk.json(0, &["loadtest", "--rows", "2"]).await.remove(0);
    assert!(with("failed", &report).is_empty(), "{report}");
}
