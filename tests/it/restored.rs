//! A database that is put back to a backup, beside a ledger and pictures that went on: what was paid since is found,
//! and what has to be paid again is charged again, once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::books::{ledger, micros, on};
use crate::commands::{run, text};
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault, PICTURE_MICROS, png};
use crate::google::Google;
use crate::process::{Service, Settings, batch};

on_both_engines!(
    pictures_paid_since_the_backup_are_adopted_and_no_call_is_made_again,
    pictures_paid_since_the_backup_are_adopted_by_the_ledger_in_a_bucket,
    pictures_lost_since_the_backup_are_paid_again_and_charged_again,
    a_picture_of_the_second_call_since_the_backup_is_adopted_too,
    no_call_starts_while_the_ledger_cannot_be_compared,
    pictures_that_no_line_of_the_ledger_tells_of_are_found_and_charged,
);

/// Pictures of the batch.
const PICTURES: u32 = 4;
/// What they cost: the first one's first call never answered, and counts at its reserve.
const CHARGES: usize = PICTURES as usize + 1;

/// The service with this provider, a call at a time.
fn with_provider(settings: &Settings, provider: &FakeGemini) -> Settings {
    settings
        .clone()
        .with("PROVIDER", "gemini")
        .with("GEMINI_API_KEY", "key")
        .with("GEMINI_BASE_URL", provider.url.clone())
        .with("RUN_MODE", "live")
        .with("PROVIDER_CONCURRENCY", "1")
        .with("LEASE_DURATION", "1s")
}

async fn provider(fault: Fault) -> FakeGemini {
    FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), move |_, _| fault).await
}

/// What a service left that was lost after its backup.
struct Lost {
    batch: String,
    /// What the batch cost in truth.
    cost: i64,
}

/// Makes a batch of pictures, and then puts the database back to when the first call was under way and no other begun.
async fn lose(database: &Database, settings: &Settings) -> Lost {
    let good = provider(Fault::None).await;
    let lost = lose_after(database, settings, &good).await;
    assert_eq!(good.calls().len(), PICTURES as usize);
    lost
}

/// The same, where `good` answers after the backup.
async fn lose_after(database: &Database, settings: &Settings, good: &FakeGemini) -> Lost {
    let silent = provider(Fault::Stall).await;
    let service = with_provider(settings, &silent).start().await;
    let batch = service.submit(&batch(PICTURES as usize, 1)).await;
    service.until(|metrics| metrics["callsStarted"] == 1, "/metrics-lite").await;
    service.kill().await;
    database.back_up().await;
    let service = with_provider(settings, good).start().await;
    let view = service.finished(&batch).await;
    assert_eq!(view["state"], "completed");
    assert_eq!(service.stop().await, Some(0));
    database.restore().await;
    assert_eq!(database.number("SELECT COUNT(*) FROM attempts WHERE state = 'held'").await, i64::from(PICTURES) - 1);
    Lost { batch, cost: micros(&view["actualCost"]) }
}

/// The service's money is `cost`, and its database and ledger agree on `charges` lines.
async fn check(service: Service, settings: &Settings, database: &Database, cost: i64, charges: usize) {
    let budget = service.get("/budget").await.expect(200).json();
    let everyone = &budget["everyone"];
    assert_eq!((micros(&everyone["spent"]), micros(&everyone["reserved"])), (cost, 0), "{budget}");
    assert_eq!(service.stop().await, Some(0));
    let output = run(settings, &["ledger", "verify", "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let agreeing: u64 = found["days"].as_array().unwrap().iter().map(|day| day["agreeing"].as_u64().unwrap()).sum();
    assert_eq!(agreeing, charges as u64, "{found}");
    for sum in
        ["cost FROM attempts WHERE state IN ('settled', 'unknown')", "cost FROM images", "actual_cost FROM batches"]
    {
        let (column, rest) = sum.split_once(' ').unwrap();
        let sql = format!("SELECT CAST(COALESCE(SUM({column}), 0) AS BIGINT) {rest}");
        assert_eq!(database.number(&sql).await, cost, "{sum}");
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM attempts WHERE state IN ('held', 'started')").await, 0);
}

/// The restored service ends the batch with what was paid, and calls nobody.
async fn adopts(database: &Database, settings: &Settings) {
    let lost = lose(database, settings).await;
    let again = provider(Fault::None).await;
    let service = with_provider(settings, &again).start().await;
    let view = service.finished(&lost.batch).await;
    assert_eq!((&view["state"], again.calls().len()), (&Value::from("completed"), 0), "{view}");
    assert_eq!(micros(&view["actualCost"]), lost.cost);
    check(service, settings, database, lost.cost, CHARGES).await;
}

async fn pictures_paid_since_the_backup_are_adopted_and_no_call_is_made_again(database: Arc<Database>) {
    adopts(&database, &on(&database)).await;
    assert_eq!(ledger(database.folder()).len(), CHARGES);
}

fn in_bucket(database: &Database, google: &Google) -> Settings {
    on(database).with("LEDGER_BUCKET", "ledger").with("STORAGE_EMULATOR_HOST", google.address())
}

async fn pictures_paid_since_the_backup_are_adopted_by_the_ledger_in_a_bucket(database: Arc<Database>) {
    let google = Google::start().await;
    adopts(&database, &in_bucket(&database, &google)).await;
}

async fn a_picture_of_the_second_call_since_the_backup_is_adopted_too(database: Arc<Database>) {
    let settings = on(&database);
    // A picture that had no call at the backup has one of unknown outcome, and one that made it.
    let script = |prompt: &str, count: usize| {
        if prompt.ends_with("row 2") && count == 0 { Fault::Html503 } else { Fault::None }
    };
    let good = FakeGemini::start(&png(), Duration::ZERO, Allowed::default(), script).await;
    let lost = lose_after(&database, &settings, &good).await;
    assert_eq!(good.calls().len(), PICTURES as usize + 1);
    let again = provider(Fault::None).await;
    let service = with_provider(&settings, &again).start().await;
    let view = service.finished(&lost.batch).await;
    assert_eq!((&view["state"], again.calls().len()), (&Value::from("completed"), 0), "{view}");
    assert_eq!(micros(&view["actualCost"]), lost.cost);
    check(service, &settings, &database, lost.cost, CHARGES + 1).await;
}

async fn pictures_lost_since_the_backup_are_paid_again_and_charged_again(database: Arc<Database>) {
    let settings = on(&database);
    let lost = lose(&database, &settings).await;
    remove_pictures(database.folder());
    let again = provider(Fault::None).await;
    let service = with_provider(&settings, &again).start().await;
    let view = service.finished(&lost.batch).await;
    assert_eq!((&view["state"], again.calls().len()), (&Value::from("completed"), PICTURES as usize), "{view}");
    let cost = lost.cost + i64::from(PICTURES) * PICTURE_MICROS;
    assert_eq!(micros(&view["actualCost"]), cost);
    check(service, &settings, &database, cost, CHARGES + PICTURES as usize).await;
}

async fn pictures_that_no_line_of_the_ledger_tells_of_are_found_and_charged(database: Arc<Database>) {
    let settings = on(&database);
    let lost = lose(&database, &settings).await;
    // As if the lines had not been written yet when the database was lost.
    std::fs::remove_dir_all(database.folder().join("ledger")).unwrap();
    let again = provider(Fault::None).await;
    let service = with_provider(&settings, &again).start().await;
    let view = service.finished(&lost.batch).await;
    // All but the one whose second call nothing knows of: it is called a third time, under the second one's name.
    assert_eq!((&view["counts"]["completed"], again.calls().len()), (&Value::from(PICTURES - 1), 1), "{view}");
    assert_eq!(view["items"][0]["images"][0]["error"]["code"], "storage_error");
    assert_eq!(micros(&view["actualCost"]), lost.cost);
    service.post(&format!("/images/{}/retry", lost.batch), &serde_json::json!({}), &[]).await.expect(202);
    let whole = |view: &Value| view["counts"]["completed"] == PICTURES;
    service.until(whole, &format!("/images/{}", lost.batch)).await;
    check(service, &settings, &database, lost.cost + PICTURE_MICROS, CHARGES + 1).await;
}

fn remove_pictures(data: &Path) {
    std::fs::remove_dir_all(data.join("images")).unwrap();
}

async fn no_call_starts_while_the_ledger_cannot_be_compared(database: Arc<Database>) {
    let google = Google::start().await;
    let settings = in_bucket(&database, &google);
    let lost = lose(&database, &settings).await;
    google.faults().away = true;
    let again = provider(Fault::None).await;
    let service = with_provider(&settings, &again).start().await;
    let ready = service.until(|ready| ready["ledger"] != Value::Null, "/readyz").await;
    assert!(ready["ledger"].as_str().unwrap().starts_with("no call starts"), "{ready}");
    // A batch is taken in, and waits too, while the worker goes on beating.
    let id = service.submit(&batch(1, 1)).await;
    let beat = "SELECT CAST(COALESCE(MAX(beat), 0) AS BIGINT) FROM workers";
    let seen = database.number(beat).await;
    while database.number(beat).await < seen + 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(service.get("/metrics-lite").await.json()["callsStarted"], 0);
    google.faults().away = false;
    service.finished(&id).await;
    let view = service.finished(&lost.batch).await;
    assert_eq!((micros(&view["actualCost"]), again.calls().len()), (lost.cost, 1), "{view}");
    // A bucket that goes away later stops nothing.
    google.faults().away = true;
    let id = service.submit(&batch(1, 1)).await;
    service.finished(&id).await;
    google.faults().away = false;
    let waits = |ready: &Value| ready["ledger"] == Value::Null;
    service.until(waits, "/readyz").await;
    check(service, &settings, &database, lost.cost + 2 * PICTURE_MICROS, CHARGES + 2).await;
}
