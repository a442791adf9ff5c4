//! The process ends at each step of making a picture and of settling it, at the first time and at a later one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use orchestrator::failpoint;

use crate::bill::{Ledger, all_ended, covers, dollars, paid, png, prompts, settled};
use crate::books::on;
use crate::engines::{Database, on_postgres, on_sqlite};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{PATIENCE, Settings};

/// Cases that run at once: most of their time is that of backoffs and leases.
const AT_ONCE: usize = 4;
/// Calls under way at once.
const CONCURRENCY: u32 = 2;
/// How the first call for each row is answered; the next one makes the picture.
const FIRST: [Fault; 8] = [
    Fault::None,
    Fault::Own503,
    Fault::Throttle,
    Fault::CloseBefore,
    Fault::None,
    Fault::Blocked,
    Fault::CloseWithin,
    Fault::None,
];
/// The points of making a picture and of its settlement; those of the ledger and of webhooks have tests of their own.
fn points() -> impl Iterator<Item = &'static str> {
    failpoint::POINTS.iter().copied().filter(|point| !point.starts_with("ledger.") && !point.starts_with("webhook."))
}

/// The point that only a process comes to that takes over from a dead one.
const OF_AN_HEIR: &str = "execute.reconciled";

fn first_answer(prompt: &str, count: usize) -> Fault {
    let row: usize = prompt.rsplit(' ').next().unwrap().parse().unwrap();
    if count == 0 { FIRST[row] } else { Fault::None }
}

/// A process takes a batch in and ends itself at `point`.
async fn ends_with_a_batch(settings: &Settings, point: &str, time: u32) {
    let service = settings.clone().with("FAILPOINT", format!("{point}:{time}")).start().await;
    let body = prompts((0..FIRST.len()).map(|row| format!("row {row}")));
    // It may end while it answers: what it took in is what the database holds.
    let _ = service.client.post(format!("{}/images", service.url)).json(&body).send().await;
    assert_eq!(service.ended().await, Some(9), "{point}:{time}");
}

/// A process finds what a dead one left, and ends itself at `point`.
async fn ends_as_heir(settings: &Settings, point: &str, time: u32) {
    use std::os::unix::process::ExitStatusExt as _;
    let mut child = settings.clone().with("FAILPOINT", format!("{point}:{time}")).command().spawn().unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("the process comes to its point").unwrap();
    assert_eq!(status.signal(), Some(9), "{point}:{time}");
}

async fn ended_at(database: Arc<Database>, point: &'static str, time: u32) {
    let fake = FakeGemini::start(&png(), Duration::from_millis(20), Allowed::default(), first_answer).await;
    let settings =
        paid(on(&database), &fake).with("PROVIDER_CONCURRENCY", CONCURRENCY.to_string()).with("LEASE_DURATION", "1s");
    let ledger = Ledger::Files(database.folder());
    let mut open = 0;
    if point == OF_AN_HEIR {
        ends_with_a_batch(&settings, "execute.started", CONCURRENCY).await;
        open += covers(&database, &ledger, &fake).await;
        ends_as_heir(&settings, point, time).await;
    } else {
        ends_with_a_batch(&settings, point, time).await;
    }
    open += covers(&database, &ledger, &fake).await;
    let service = settings.start().await;
    all_ended(&database, PATIENCE).await;
    assert_eq!(service.stop().await, Some(0));
    let totals = settled(&database, &ledger, &fake).await;
    assert_eq!(totals.pictures, i64::try_from(FIRST.len()).unwrap(), "{point}:{time}: the batch was taken in");
    let most = totals.exceed_by_at_most(open);
    eprintln!("{point}:{time}: {totals}; at most {} allowed", dollars(most));
}

/// Every point at its first and at a later time.
fn cases() -> impl Iterator<Item = (&'static str, u32)> {
    points().flat_map(|point| [1, if point == OF_AN_HEIR { 2 } else { 3 }].map(|time| (point, time)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_of_a_picture_loses_nothing() {
    let run = cases().map(|(point, time)| on_sqlite(move |database| ended_at(database, point, time)));
    futures_util::stream::iter(run).buffer_unordered(AT_ONCE).collect::<()>().await;
}

mod postgres {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_kill_at_any_step_of_a_picture_loses_nothing() {
        let run = cases().map(|(point, time)| on_postgres(move |database| ended_at(database, point, time)));
        futures_util::stream::iter(run).buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}
