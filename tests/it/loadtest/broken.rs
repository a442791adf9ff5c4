//! What keeps a run from its end leaves no batch behind unsaid: it is cancelled, or how to stop it is said.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{gate, with};
use crate::client_commands::{Desk, paying};
use crate::process::Service;
use crate::proxy::{self, Fate, Tampering, is_live};

/// A service whose pictures do not come.
async fn slow() -> (TempDir, Service) {
    let data = tempfile::tempdir().unwrap();
    let settings = paying(data.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "10m");
    let service = settings.with("PROVIDER_CONCURRENCY", "1").start().await;
    (data, service)
}

/// Runs a load test of three pictures behind a proxy; the reports, and the words on standard error.
async fn ending(code: i32, service: &Service, tampering: Tampering, options: &[&str]) -> (Vec<Value>, String) {
    let url = proxy::before(&service.url, tampering).await;
    let (out, err) = Desk::at(&url).expect(code, &[&["loadtest", "--rows", "3", "--json"], options].concat()).await;
    (out.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), err)
}

/// How many pictures of the only batch were cancelled.
async fn cancelled(service: &Service) -> u64 {
    let list = service.get("/images").await.json();
    let [batch] = &list["batches"].as_array().unwrap()[..] else { panic!("{list}") };
    batch["counts"]["cancelled"].as_u64().unwrap()
}

/// Refuses the requests whose path has this end.
fn refusing(end: &'static [&'static str]) -> Tampering {
    Tampering::requests(
        move |path, _| {
            if end.iter().any(|end| path.ends_with(end)) { Fate::Refused(403) } else { Fate::Answered }
        },
    )
}

#[tokio::test]
async fn a_batch_that_cannot_be_followed_is_cancelled_and_what_was_measured_is_told() {
    let (_data, service) = slow().await;
    let (reports, err) = ending(77, &service, refusing(&["/events"]), &[]).await;
    // All but the one that may be under way.
    assert!(cancelled(&service).await >= 2);
    let report = &reports[0];
    assert_eq!((with("failed", report), &report["submissions"]["count"]), (vec!["time".to_owned()], &json!(21)));
    let measured = gate("time", report)["measured"].as_str().unwrap();
    assert!(measured.contains("403") && measured.ends_with("; cancelled"), "{measured}");
    assert!(err.contains("Stopping the batch."), "{err}");
}

#[tokio::test]
async fn a_batch_that_cannot_be_cancelled_either_is_named_with_how_to_stop_it() {
    let (_data, service) = slow().await;
    let (reports, err) = ending(77, &service, refusing(&["/events", "/cancel"]), &[]).await;
    let batch = reports[0]["batchId"].as_str().unwrap();
    assert!(err.contains(&format!("{batch} goes on. To stop it: ")), "{err}");
    assert!(err.contains(&format!(" cancel {batch}")), "{err}");
    assert!(gate("time", &reports[0])["measured"].as_str().unwrap().contains("could not be cancelled"), "{reports:?}");
}

#[tokio::test]
async fn a_batch_that_ended_and_cannot_be_read_leaves_a_report() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let (reports, _) = ending(77, &service, refusing(&["?limit=200"]), &[]).await;
    assert_eq!((with("passed", &reports[0]), with("failed", &reports[0])), (vec!["time".to_owned()], vec![]));
    assert_eq!((&reports[0]["counts"]["completed"], &reports[0]["passed"]), (&json!(3), &json!(false)));
}

#[tokio::test]
async fn a_submission_whose_answer_is_lost_is_asked_for_again_and_cancelled() {
    let (_data, service) = slow().await;
    let sent = AtomicU32::new(0);
    let first = Tampering::requests(move |path, body| {
        let is_first = is_live(path, body) && sent.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { Fate::Swallowed } else { Fate::Answered }
    });
    let (reports, err) = ending(69, &service, first, &["--deadline", "4s"]).await;
    assert!(cancelled(&service).await >= 2);
    let measured = gate("time", &reports[0])["measured"].as_str().unwrap();
    assert!(measured.contains("not answered before the deadline; cancelled"), "{measured}");
    assert!(err.contains("Stopping the batch."), "{err}");
}

#[tokio::test]
async fn a_submission_of_which_nothing_is_heard_is_named_by_its_key() {
    let (_data, service) = slow().await;
    let sent = AtomicU32::new(0);
    let first = Tampering::requests(move |path, body| match is_live(path, body) {
        true if sent.fetch_add(1, Ordering::Relaxed) == 0 => Fate::Swallowed,
        true => Fate::Refused(403),
        false => Fate::Answered,
    });
    let (reports, err) = ending(69, &service, first, &["--deadline", "4s"]).await;
    assert_eq!((reports.len(), cancelled(&service).await), (0, 0));
    assert!(err.contains("it may be running. It was sent with the Idempotency-Key 01"), "{err}");
    assert!(err.contains(" cancel BATCH"), "{err}");
}

#[tokio::test]
async fn every_signal_that_ends_programs_says_how_to_stop_the_batch() {
    let (_data, service) = slow().await;
    let desk = Desk::at(&service.url);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut going = desk.start(&["loadtest", "--rows", "1"]);
        let line = going.until("The batch is ").await;
        let batch = line.rsplit(' ').next().unwrap().trim_end_matches('.').to_owned();
        going.signal(signal);
        let (code, _, said) = going.ended().await;
        assert_eq!(code, Some(130), "{signal}: {said}");
        assert!(said.contains(&format!("{batch} goes on without you. To stop it: ")), "{signal}: {said}");
        assert!(said.contains(&format!(" cancel {batch}")), "{signal}: {said}");
    }
}
