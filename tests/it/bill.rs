//! The provider's bill beside the service's books: what must hold at any moment, and what when all has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::books::micros;
use crate::engines::Database;
use crate::fake_gemini::{FakeGemini, PICTURE_MICROS};
use crate::google::Google;
use crate::process::{PATIENCE, Settings};

/// The model that the fake provider's prices are those of.
pub(crate) const MODEL: &str = "gemini-nano-banana-2.1";
/// The bucket of the ledger, where it is in one.
pub(crate) const BUCKET: &str = "ledger";

/// The service, calling the fake provider for money.
pub(crate) fn paid(settings: Settings, fake: &FakeGemini) -> Settings {
    settings
        .with("PROVIDER", "gemini")
        .with("IMAGE_MODEL", MODEL)
        .with("GEMINI_API_KEY", "key")
        .with("GEMINI_BASE_URL", fake.url.clone())
        .with("RUN_MODE", "live")
        .with("THUMBNAILS_ENABLED", "false")
}

/// A live batch with a prompt of its own for each row.
pub(crate) fn batch(name: &str, rows: usize) -> Value {
    prompts((0..rows).map(|row| format!("{name}, row {row}")))
}

/// A live batch of a row for each prompt.
pub(crate) fn prompts(prompts: impl IntoIterator<Item = String>) -> Value {
    let items: Vec<Value> = (0..)
        .zip(prompts)
        .map(|(row, prompt): (usize, String)| json!({"sceneId": format!("s-{row}"), "prompt": prompt}))
        .collect();
    json!({"runMode": "live", "items": items})
}

/// The smallest PNG there is.
pub(crate) fn png() -> Vec<u8> {
    let mut png = Vec::new();
    let picture = image::DynamicImage::new_rgb8(8, 8);
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}

/// A whole number from the environment, where a loop is to be longer than a build can wait for.
pub(crate) fn count_from(variable: &str, default: u32) -> u32 {
    let given = std::env::var(variable).ok().filter(|text| !text.is_empty());
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

/// Where the ledger is.
pub(crate) enum Ledger<'a> {
    /// In this data folder.
    Files(&'a Path),
    /// In a bucket.
    Bucket(&'a Google),
}

impl Ledger<'_> {
    /// Its whole lines, by charge id, each exactly once. A kill may leave a torn one at the end of a file.
    fn lines(&self) -> BTreeMap<String, Value> {
        let mut lines = BTreeMap::new();
        for text in self.days() {
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            for line in whole.lines() {
                let charge: Value = serde_json::from_str(line).unwrap();
                let id = charge["id"].as_str().unwrap().to_owned();
                assert!(lines.insert(id, charge).is_none(), "twice in the ledger: {line}");
            }
        }
        let attempts: BTreeSet<&str> = lines.values().map(|line| line["attemptId"].as_str().unwrap()).collect();
        assert_eq!(attempts.len(), lines.len(), "a call is charged twice in the ledger");
        lines
    }

    fn days(&self) -> Vec<String> {
        match self {
            Self::Files(data) => {
                let Ok(days) = std::fs::read_dir(data.join("ledger")) else { return Vec::new() };
                let days = days.map(|day| day.unwrap().path()).filter(|path| path.is_file());
                days.map(|day| String::from_utf8(std::fs::read(day).unwrap()).unwrap()).collect()
            }
            Self::Bucket(google) => {
                let objects = google.objects();
                let days = objects.names(BUCKET, "ledger/2");
                let bytes = days.iter().map(|day| objects.get(BUCKET, day).unwrap().bytes());
                bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
            }
        }
    }
}

/// The charges in the database's table, by charge id.
async fn charges(database: &Database) -> BTreeMap<String, Value> {
    let lines = database.texts("SELECT line FROM ledger").await;
    let charges: BTreeMap<String, Value> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["id"].as_str().unwrap().to_owned(), line))
        .collect();
    assert_eq!(charges.len(), lines.len(), "a charge is there twice");
    charges
}

fn sum<'a>(lines: impl IntoIterator<Item = &'a Value>) -> i64 {
    lines.into_iter().map(|line| micros(&line["cost"])).sum()
}

async fn total(database: &Database, what: &str) -> i64 {
    database.number(&format!("SELECT CAST(COALESCE(SUM({}", what.replacen(' ', "), 0) AS BIGINT) ", 1))).await
}

/// What holds at any moment at which nobody writes: what the provider charged is in the ledger, or waits in the
/// database to be, or is reserved by a call that was started. Nothing is there twice. Returns how many calls were
/// started and have no end.
pub(crate) async fn covers(database: &Database, ledger: &Ledger<'_>, fake: &FakeGemini) -> i64 {
    let (written, known) = (ledger.lines(), charges(database).await);
    for (id, line) in &written {
        assert_eq!(known.get(id), Some(line), "the ledger holds what the database does not");
    }
    let confirmed: Vec<String> = database
        .texts(
            "SELECT l.id FROM ledger l JOIN ledger_days d ON d.day = l.day
             WHERE l.position IS NOT NULL AND l.position <= d.count",
        )
        .await;
    for id in confirmed {
        assert!(written.contains_key(&id), "confirmed, and not in the ledger: {id}");
    }
    let waiting = sum(known.iter().filter(|(id, _)| !written.contains_key(*id)).map(|(_, line)| line));
    let started = total(database, "reserved FROM attempts WHERE state = 'started'").await;
    let (booked, charged) = (sum(written.values()) + waiting + started, fake.charged_micros());
    assert!(booked >= charged, "{charged} were charged, and {booked} are booked, {started} of it reserved");
    database.number("SELECT COUNT(*) FROM attempts WHERE state = 'started'").await
}

/// The numbers at the end.
pub(crate) struct Totals {
    /// Pictures that were asked for.
    pub(crate) pictures: i64,
    /// Those that were made.
    pub(crate) completed: i64,
    /// Those that were cancelled.
    pub(crate) cancelled: i64,
    /// Calls that the provider took.
    pub(crate) calls: usize,
    /// What it charged, in micro-dollars.
    pub(crate) charged: i64,
    /// What the ledger holds.
    pub(crate) booked: i64,
    /// Lines of calls whose outcome nobody knows.
    pub(crate) unknown: usize,
    /// The most that one call reserves.
    pub(crate) reserve: i64,
    /// Answers that the provider broke off: it charged them, and nobody here can know.
    pub(crate) broken_off: i64,
}

impl Totals {
    /// Checks what the ledger holds above the bill: at most the reserve of each of the `open` calls that were started and
    /// had no end when their process was killed, and what a reserve is more than the price where the provider broke its
    /// answer off. Returns that bound.
    #[track_caller]
    pub(crate) fn exceed_by_at_most(&self, open: i64) -> i64 {
        let most = open * self.reserve + self.broken_off * (self.reserve - PICTURE_MICROS);
        let excess = self.booked - self.charged;
        assert!(excess <= most, "{excess} above the bill, at most {most} are allowed: {self}");
        let unknown = i64::try_from(self.unknown).unwrap();
        assert!(unknown <= open + self.broken_off, "{unknown} calls of unknown outcome: {self}");
        most
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pictures, completed, cancelled, calls, charged, booked, unknown, .. } = self;
        write!(
            f,
            "{pictures} pictures, {completed} made, {} failed with a reason, {cancelled} cancelled; {calls} calls, {unknown} charged as \
             unknown; the provider charged {}, the ledger holds {}, {} above",
            pictures - completed - cancelled,
            dollars(*charged),
            dollars(*booked),
            dollars(booked - charged),
        )
    }
}

/// An amount for people.
#[expect(clippy::cast_precision_loss, reason = "for a person to read")]
pub(crate) fn dollars(micros: i64) -> String {
    format!("${:.6}", micros as f64 / 1e6)
}

/// Waits until every accepted batch has ended.
pub(crate) async fn all_ended(database: &Database, patience: Duration) {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let open = database.number("SELECT COUNT(*) FROM batches WHERE finished_at IS NULL").await;
        if open == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{open} batches do not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What holds after a clean stop: every charge is in the ledger.
pub(crate) async fn exported(database: &Database, ledger: &Ledger<'_>) {
    assert_eq!(ledger.lines(), charges(database).await, "charges wait in the database");
}

/// What holds when all batches have ended and every process has stopped cleanly.
pub(crate) async fn settled(database: &Database, ledger: &Ledger<'_>, fake: &FakeGemini) -> Totals {
    all_ended(database, PATIENCE).await;
    covers(database, ledger, fake).await;
    exported(database, ledger).await;
    let known = charges(database).await;
    let booked = sum(known.values());
    for spends in ["cost FROM attempts", "cost FROM images", "actual_cost FROM batches"] {
        assert_eq!(total(database, spends).await, booked, "{spends}");
    }
    assert_eq!(total(database, "reserved FROM budget").await, 0, "money is reserved for nothing");
    for nothing in [
        "attempts WHERE state IN ('held', 'started')",
        "images WHERE state NOT IN ('completed', 'failed', 'cancelled')",
        "images WHERE state = 'completed' AND picture IS NULL",
        "images WHERE state = 'failed' AND error IS NULL",
        "images WHERE worker IS NOT NULL",
    ] {
        assert_eq!(database.number(&format!("SELECT COUNT(*) FROM {nothing}")).await, 0, "{nothing}");
    }
    let ends = "SELECT COUNT(*) FROM events
                WHERE payload LIKE '%\"image_complete\"%' OR payload LIKE '%\"image_failed\"%'";
    let finished = database.number("SELECT COUNT(*) FROM images WHERE state IN ('completed', 'failed')").await;
    assert_eq!(database.number(ends).await, finished, "a picture ended twice, or untold");
    let calls = fake.calls();
    let broken_off = calls.iter().filter(|call| call.fault.is_unknown()).count();
    Totals {
        pictures: database.number("SELECT COUNT(*) FROM images").await,
        cancelled: database.number("SELECT COUNT(*) FROM images WHERE state = 'cancelled'").await,
        completed: database.number("SELECT COUNT(*) FROM images WHERE state = 'completed'").await,
        calls: calls.len(),
        charged: fake.charged_micros(),
        booked,
        unknown: known.values().filter(|line| line["outcome"] == "unknown").count(),
        reserve: database.number("SELECT COALESCE(MAX(reserved), 0) FROM attempts").await,
        broken_off: i64::try_from(broken_off).unwrap(),
    }
}
