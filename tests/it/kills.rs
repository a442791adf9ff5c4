//! The process is killed at random moments, started again, and so on; the provider keeps the bill.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::bill::{Ledger, all_ended, batch, count_from, covers, dollars, paid, png, settled};
use crate::books::on;
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{PATIENCE, Settings};

on_both_engines!(killed_at_random_moments_nothing_is_lost_and_nothing_is_paid_twice_unseen);

/// Calls under way at once.
const CONCURRENCY: u32 = 4;
/// Rows of the batch that each life of the process takes in.
const ROWS: usize = 8;

/// Most calls make a picture; some fail at no cost, some are put off, some break off after they were charged.
pub(crate) fn mixed(seed: u64) -> impl Fn(&str, usize) -> Fault + Send + Sync + 'static {
    move |prompt, count| {
        let number = prompt.bytes().fold(seed ^ count as u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte));
        let faults = [Fault::Own503, Fault::Throttle, Fault::Blocked, Fault::CloseBefore, Fault::Html503, Fault::Delay];
        let drawn = StdRng::seed_from_u64(number).random_range(0..100);
        if drawn < 3 * faults.len() { faults[drawn / 3] } else { Fault::None }
    }
}

/// Starts the process and kills it before anybody can know how far it came.
async fn kill_while_starting(settings: &Settings, random: &mut StdRng) {
    let mut child = settings.command().stderr(std::process::Stdio::null()).spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
    child.kill().await.unwrap();
}

async fn killed_at_random_moments_nothing_is_lost_and_nothing_is_paid_twice_unseen(database: Arc<Database>) {
    let kills = count_from("KILL_CYCLES", 5);
    let seed = count_from("KILL_SEED", rand::random());
    let engine = if database.url.starts_with("sqlite") { "SQLite" } else { "Postgres" };
    eprintln!("kill loop on {engine}: seed {seed} (KILL_SEED)");
    let mut random = StdRng::seed_from_u64(u64::from(seed));
    let fake = FakeGemini::start(&png(), Duration::from_millis(30), Allowed::default(), mixed(u64::from(seed))).await;
    let settings = paid(on(&database), &fake)
        .with("PROVIDER_CONCURRENCY", CONCURRENCY.to_string())
        .with("DAILY_BUDGET_USD", "1000000")
        .with("LEASE_DURATION", "1s");
    let ledger = Ledger::Files(database.folder());
    // A dead process' work waits for its lease where others might do it.
    let longest = if database.url.starts_with("sqlite") { 400 } else { 1_600 };
    let (mut open, mut has_schema) = (0, false);
    for kill in 1..=kills {
        if has_schema && random.random_range(0..4) == 0 {
            kill_while_starting(&settings, &mut random).await;
        } else {
            let service = settings.start().await;
            has_schema = true;
            service.submit(&batch(&format!("life {kill}"), ROWS)).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..longest))).await;
            service.kill().await;
        }
        open += covers(&database, &ledger, &fake).await;
    }
    let service = settings.start().await;
    service.submit(&batch("the last life", ROWS)).await;
    all_ended(&database, PATIENCE * (1 + kills / 50)).await;
    assert_eq!(service.stop().await, Some(0));
    let totals = settled(&database, &ledger, &fake).await;
    let most = totals.exceed_by_at_most(open);
    eprintln!(
        "kill loop on {engine}: {kills} kills, {open} calls without an end at them, {CONCURRENCY} at once; {totals}; at most {} allowed",
        dollars(most)
    );
}
