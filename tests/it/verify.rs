//! `orchestrator ledger`, by the real program: what was done to a ledger by hand is named, sums are the
//! budget's, and a database that was emptied knows again what was spent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use orchestrator::clock::RandomIds;
use orchestrator::domain::time::Day;
use orchestrator::ledger::local::{LocalLedger, LocalLedgerReader};
use orchestrator::ledger::{LedgerError, LedgerReader, StoredChunk};
use orchestrator::service::ledger::Exporter;
use orchestrator::service::verify::Verifier;
use orchestrator::store::Job;
use orchestrator::telemetry::metrics::Metrics;
use serde_json::{Value, json};

use crate::bench::{Bench, made};
use crate::books::{micros, on};
use crate::commands::{run, text};
use crate::engines::{Database, on_both_engines, on_sqlite};
use crate::process::{Settings, batch};

on_both_engines!(
    a_ledger_as_it_was_written_agrees_and_looking_changes_nothing,
    whatever_is_done_to_a_ledger_by_hand_is_named,
    a_verify_beside_a_busy_service_finds_no_difference,
    an_export_at_the_worst_moments_makes_no_difference,
    charges_that_are_not_exported_wait_and_are_no_difference,
    the_sums_of_a_report_are_those_of_budget_and_batch,
    an_import_into_an_emptied_database_restores_what_was_spent,
    a_chunk_that_is_not_appended_is_compared_summed_and_taken_in,
);

/// Makes a batch of `rows` pictures, one of them of unknown cost, and stops the service. The batch and the budget.
async fn spend(database: &Database, rows: usize) -> (Value, Value) {
    let service = on(database).start().await;
    let mut body = batch(rows, 1);
    body["items"][0]["prompt"] = json!("[drop-once] a \"cup\", with milk");
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    let budget = service.get("/budget").await.json();
    assert_eq!(service.stop().await, Some(0));
    (view, budget)
}

/// The file of the only day.
fn day_file(database: &Database) -> PathBuf {
    let files = std::fs::read_dir(database.folder().join("ledger")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.is_file()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// Every file below a folder, as it is.
fn files(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let changed = std::fs::metadata(&path).unwrap().modified().unwrap();
            found.insert(path.clone(), (std::fs::read(&path).unwrap(), changed));
        }
    }
    found
}

async fn ledger(settings: &Settings, arguments: &[&str]) -> Output {
    run(settings, &[&["ledger"], arguments].concat()).await
}

/// What a comparison found: the exit code, and what it says.
async fn verify(database: &Database) -> (Option<i32>, String) {
    let output = ledger(&on(database), &["verify"]).await;
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

async fn a_ledger_as_it_was_written_agrees_and_looking_changes_nothing(database: Arc<Database>) {
    spend(&database, 4).await;
    let file = day_file(&database);
    let whole = std::fs::read(&file).unwrap();
    for torn in [&b""[..], b"{\"id\":\"chg"] {
        std::fs::write(&file, [&whole, torn].concat()).unwrap();
        let before = files(database.folder());
        let (code, said) = verify(&database).await;
        assert!(said.contains("5 lines a"), "{said}");
        assert_eq!(
            (code, said.contains("torn: line 6 does not end")),
            (Some(i32::from(!torn.is_empty())), !torn.is_empty()),
            "{said}"
        );
        assert_eq!(ledger(&on(&database), &["report"]).await.status.code(), Some(0));
        assert!(files(database.folder()) == before, "no file is new, gone, or changed");
    }
    // Beside the service that owns the database.
    std::fs::write(&file, &whole).unwrap();
    let service = on(&database).start().await;
    let before = files(&database.folder().join("ledger"));
    let (code, said) = verify(&database).await;
    assert_eq!((code, said.contains("5 lines agree")), (Some(0), true), "{said}");
    assert!(files(&database.folder().join("ledger")) == before);
    assert_eq!(service.stop().await, Some(0));
}

async fn whatever_is_done_to_a_ledger_by_hand_is_named(database: Arc<Database>) {
    spend(&database, 5).await;
    let file = day_file(&database);
    let whole = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 6);
    let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    let cheaper = lines[2].replace("\"cost\":0.05", "\"cost\":0.01");
    let foreign = lines[1].replace("_01", "_00");
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        change(&mut lines);
        lines.join("\n") + "\n"
    };
    for (damaged, expected) in [
        (
            with(&|lines| drop(lines.remove(1))),
            vec![format!("missing in the ledger: {}, which was line 2", id(lines[1]))],
        ),
        (
            with(&|lines| lines[2].clone_from(&cheaper)),
            vec![format!("altered: line 3, {}, has another cost (0.01, in the database 0.05)", id(lines[2]))],
        ),
        (
            with(&|lines| lines.push(lines[3].clone())),
            vec![format!("twice: line 7 has {}, as line 4 has", id(lines[3]))],
        ),
        (
            with(&|lines| lines.swap(1, 4)),
            vec![
                format!("out of order: line 2 has {}, whose place is 5", id(lines[4])),
                format!("out of order: line 5 has {}, whose place is 2", id(lines[1])),
            ],
        ),
        (
            with(&|lines| lines.push(foreign.clone())),
            vec![format!("missing in the database: line 7 has {}", id(&foreign))],
        ),
        (with(&|lines| lines.insert(0, "not JSON".to_owned())), vec!["no JSON: line 1 cannot be read".to_owned()]),
        (
            with(&|lines| {
                lines[2].clone_from(&cheaper);
                lines[5] = lines[0].clone();
                lines.remove(1);
            }) + "{",
            vec![
                format!("missing in the ledger: {}, which was line 2", id(lines[1])),
                format!("altered: line 2, {}", id(lines[2])),
                format!("twice: line 5 has {}", id(lines[0])),
                format!("missing in the ledger: {}, which was line 6", id(lines[5])),
                "torn: line 6".to_owned(),
            ],
        ),
    ] {
        std::fs::write(&file, damaged).unwrap();
        let (code, said) = verify(&database).await;
        let count = if expected.len() == 1 {
            "1 difference on 1 day".to_owned()
        } else {
            format!("{} differences on 1 day", expected.len())
        };
        assert_eq!(code, Some(1), "{said}");
        for expected in expected.iter().chain([&count]) {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
    // A line that somebody moved to another day.
    std::fs::write(&file, with(&|lines| lines.truncate(5))).unwrap();
    let other = file.with_file_name("2020-02-29.jsonl");
    std::fs::write(&other, format!("{}\n", lines[5])).unwrap();
    let output = ledger(&on(&database), &["verify", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["agree"], &found["days"][0]["day"]), (&json!(false), &json!("2020-02-29")));
    let today = file.file_stem().unwrap().to_str().unwrap();
    let moved = json!([{"kind": "another_day", "charge": id(lines[5]), "place": {"line": 1}, "day": today}]);
    assert_eq!(found["days"][0]["differences"], moved);
    assert_eq!(found["days"][1]["differences"][0]["kind"], "missing_in_ledger");
    // One day alone, and all as it was.
    let one = ledger(&on(&database), &["verify", "--day", "2020-02-29"]).await;
    assert!(!text(&one.stdout).contains(&format!("{today}:")) && one.status.code() == Some(1));
    std::fs::remove_file(other).unwrap();
    std::fs::write(&file, whole).unwrap();
    assert_eq!(verify(&database).await.0, Some(0));
}

async fn a_verify_beside_a_busy_service_finds_no_difference(database: Arc<Database>) {
    let service = on(&database).with("SYNTHETIC_LATENCY", "60ms").with("PROVIDER_CONCURRENCY", "4").start().await;
    let id = service.submit(&batch(40, 1)).await;
    let mut verified = 0;
    loop {
        let (code, said) = verify(&database).await;
        assert_eq!(code, Some(0), "{said}");
        verified += 1;
        if !service.get(&format!("/images/{id}")).await.json()["finishedAt"].is_null() {
            break;
        }
    }
    assert!(verified > 2, "{verified}");
    assert_eq!(service.stop().await, Some(0));
    assert!(verify(&database).await.1.contains("40 lines agree"));
}

/// The ledger's files, and somebody who exports and charges around every look at them.
struct Busy {
    files: LocalLedgerReader,
    exporter: Exporter,
    bench: Bench,
    jobs: Mutex<Vec<Job>>,
}

impl Busy {
    async fn go_on(&self) {
        self.exporter.export_all().await.unwrap();
        let job = self.jobs.lock().unwrap().pop();
        if let Some(job) = job {
            self.bench.settle(&job, made(&job, 1)).await;
        }
    }
}

#[async_trait::async_trait]
impl LedgerReader for Busy {
    async fn days(&self) -> Result<Vec<Day>, LedgerError> {
        self.files.days().await
    }

    async fn read_object(&self, day: Day, from: u64, at_most: usize) -> Result<Bytes, LedgerError> {
        self.go_on().await;
        // The first piece was the last one when it was read; what comes then is not seen.
        let read = if from == 0 { self.files.read_object(day, 0, at_most).await } else { Ok(Bytes::new()) };
        self.go_on().await;
        read
    }

    async fn chunks(&self, day: Day) -> Result<Vec<StoredChunk>, LedgerError> {
        self.go_on().await;
        let chunks = self.files.chunks(day).await;
        self.go_on().await;
        chunks
    }

    async fn read_chunk(&self, chunk: &StoredChunk) -> Result<Option<Bytes>, LedgerError> {
        self.files.read_chunk(chunk).await
    }

    fn location(&self, day: Day) -> String {
        self.files.location(day)
    }
}

async fn an_export_at_the_worst_moments_makes_no_difference(database: Arc<Database>) {
    let bench = Bench::new(&database).await;
    bench.submit(20, 1).await;
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(bench.start_one().await);
    }
    let day = bench.budget().await.day;
    let (store, folder) = (bench.store.clone(), database.folder().to_owned());
    let ledger = LocalLedger::open(folder.clone()).unwrap();
    let exporter = Exporter::new(
        store.clone(),
        Arc::new(ledger),
        bench.clock.clone(),
        Arc::new(RandomIds::default()),
        Arc::new(Metrics::default()),
    );
    let busy = Busy { files: LocalLedgerReader::new(folder), exporter, bench, jobs: Mutex::new(jobs) };
    busy.go_on().await;
    busy.go_on().await;
    let found = Verifier::new(store, Arc::new(busy)).verify(day).await.unwrap();
    assert!(found.differences.is_empty(), "{found:?}");
    assert!(found.agreeing > 3 && found.waiting > 0 && found.agreeing + found.waiting < 20, "{found:?}");
}

async fn charges_that_are_not_exported_wait_and_are_no_difference(database: Arc<Database>) {
    let settings = on(&database).with("BUDGET_LEDGER_ENABLED", "false");
    let service = settings.start().await;
    let id = service.submit(&batch(3, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    let output = ledger(&settings, &["verify"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("0 lines agree, 3 charges wait to be exported"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("BUDGET_LEDGER_ENABLED is false"), "{}", text(&output.stderr));
}

async fn the_sums_of_a_report_are_those_of_budget_and_batch(database: Arc<Database>) {
    let (view, budget) = spend(&database, 5).await;
    let id = view["batchId"].as_str().unwrap();
    let spent = micros(&budget["everyone"]["spent"]);
    assert_eq!((spent, micros(&view["actualCost"]), micros(&view["unknownCost"])), (300_000, 300_000, 50_000));
    let day = budget["day"].as_str().unwrap();
    for (by, names) in [
        ("day", &[day][..]),
        ("user", &["local"]),
        ("model", &["synthetic"]),
        ("batch", &[id]),
        ("outcome", &["charged", "unknown"]),
    ] {
        let output = ledger(&on(&database), &["report", "--by", by, "--json"]).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let groups = report["groups"].as_array().unwrap();
        assert_eq!(groups.iter().map(|group| group["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
        assert_eq!(groups.iter().map(|group| micros(&group["cost"])).sum::<i64>(), spent);
        let total = &report["total"];
        assert_eq!((micros(&total["cost"]), micros(&total["unknownCost"])), (spent, micros(&view["unknownCost"])));
        assert_eq!((&total["charges"], &total["pictures"]), (&json!(6), &view["counts"]["completed"]));
    }
    let output =
        ledger(&on(&database), &["report", "--by", "outcome", "--format", "csv", "--from", day, "--to", day]).await;
    assert_eq!(
        text(&output.stdout),
        "outcome,charges,pictures,cost,unknown_cost\ncharged,5,5,0.25,0\nunknown,1,0,0.05,0.05\n"
    );
    assert!(text(&output.stderr).contains(day), "{}", text(&output.stderr));
    let output = ledger(&on(&database), &["report", "--day", "2020-02-29"]).await;
    assert_eq!((output.status.code(), text(&output.stdout).lines().count()), (Some(0), 2));
    let output = ledger(&on(&database), &["report", "--from", day, "--to", "2020-02-29"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    std::fs::write(day_file(&database), "{}\n").unwrap();
    let output = ledger(&on(&database), &["report"]).await;
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains(&format!("line 1 of {day}")), "{}", text(&output.stderr));
}

/// The database as one that was lost and made anew.
async fn empty(database: &Database) {
    let tables = ["events", "attempts", "images", "items", "batches", "ledger", "ledger_days", "budget"];
    let sql: Vec<String> = tables.iter().map(|table| format!("DELETE FROM {table}")).collect();
    database.execute(&sql.join("; ")).await;
    database
        .execute(
            "INSERT INTO budget (scope, day, spent, reserved, unknown, overrun) VALUES ('everyone', 0, 0, 0, 0, 0)",
        )
        .await;
}

async fn import(database: &Database, arguments: &[&str]) -> String {
    let output = ledger(&on(database), &[&["import"], arguments].concat()).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

const MONEY: &str = "SELECT CAST(spent AS TEXT) || ' ' || CAST(unknown AS TEXT) FROM budget WHERE scope = 'everyone'";
const CHARGES: &str = "SELECT id || ' ' || CAST(position AS TEXT) || ' ' || line FROM ledger ORDER BY position";

async fn an_import_into_an_emptied_database_restores_what_was_spent(database: Arc<Database>) {
    let (_, budget) = spend(&database, 4).await;
    let day = budget["day"].as_str().unwrap();
    let (money, charges) = (database.texts(MONEY).await, database.texts(CHARGES).await);
    assert_eq!((money[0].as_str(), charges.len()), ("250000 50000", 5));
    empty(&database).await;
    let (code, said) = verify(&database).await;
    assert_eq!((code, said.matches("missing in the database").count()), (Some(1), 5), "{said}");
    assert!(import(&database, &[]).await.contains(&format!("Took 5 charges of {day}")));
    assert_eq!((database.texts(MONEY).await, database.texts(CHARGES).await), (money.clone(), charges.clone()));
    assert_eq!(verify(&database).await.0, Some(0));
    assert!(import(&database, &["--day", day]).await.contains("nothing was changed"));
    assert_eq!((database.texts(MONEY).await, database.texts(CHARGES).await), (money, charges.clone()));
    // A database that lost some of its charges, and does not know it.
    database.execute("DELETE FROM ledger WHERE position = 2; UPDATE budget SET spent = 200000").await;
    assert_eq!(
        serde_json::from_str::<Value>(&import(&database, &["--json"]).await).unwrap(),
        json!({"day": day, "new": 1})
    );
    assert_eq!(
        (database.texts(MONEY).await[0].split(' ').next(), database.texts(CHARGES).await),
        (Some("250000"), charges)
    );
    // And the service goes on where the ledger ends.
    let service = on(&database).start().await;
    assert_eq!(micros(&service.get("/budget").await.json()["everyone"]["spent"]), 250_000);
    let id = service.submit(&batch(1, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    assert!(verify(&database).await.1.contains("6 lines agree"));
}

async fn a_chunk_that_is_not_appended_is_compared_summed_and_taken_in(database: Arc<Database>) {
    spend(&database, 3).await;
    let file = day_file(&database);
    let day = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let whole = std::fs::read_to_string(&file).unwrap();
    let (kept, chunked) = whole.split_at(whole.match_indices('\n').nth(1).unwrap().0 + 1);
    std::fs::write(&file, kept).unwrap();
    let chunk = database.folder().join(format!("ledger/chunks/{day}/3-4-00"));
    std::fs::create_dir_all(chunk.parent().unwrap()).unwrap();
    std::fs::write(&chunk, chunked).unwrap();
    empty(&database).await;
    let (_, said) = verify(&database).await;
    assert!(said.contains("missing in the database: line 4, in a chunk that is not appended yet,"), "{said}");
    let output = ledger(&on(&database), &["report", "--format", "csv"]).await;
    assert!(text(&output.stdout).contains(&format!("{day},4,3,0.2,0.05")), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("2 lines of it wait in chunks"), "{}", text(&output.stderr));
    assert!(import(&database, &[]).await.contains("Took 4 charges"));
    let (code, said) = verify(&database).await;
    assert_eq!((code, said.contains("2 lines agree, 2 charges wait")), (Some(0), true), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_while_a_service_has_the_file_is_refused_with_what_to_do() {
    on_sqlite(|database| async move {
        let service = on(&database).start().await;
        let output = ledger(&on(&database), &["import"]).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        assert!(text(&output.stderr).contains("stop the other process"), "{}", text(&output.stderr));
        assert_eq!(service.stop().await, Some(0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_finds_what_a_killed_service_had_written_last() {
    on_sqlite(|database| async move {
        let service = on(&database).start().await;
        let id = service.submit(&batch(3, 1)).await;
        service.finished(&id).await;
        service.kill().await;
        assert!(database.folder().join("orchestrator.db-wal").exists());
        let before = files(&database.folder().join("ledger"));
        let (code, said) = verify(&database).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("3 lines agree") || said.contains("3 charges wait"), "{said}");
        assert!(files(&database.folder().join("ledger")) == before);
    })
    .await;
}

#[tokio::test]
async fn a_verify_without_a_database_makes_none_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = ledger(&Settings::new(folder.path()), &["verify"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("set DATA_DIR"), "{}", text(&output.stderr));
    assert!(files(folder.path()).is_empty());
}
