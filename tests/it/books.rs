//! Reading the books from outside: the ledger's files, and amounts in JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::engines::Database;
use crate::process::Settings;

/// The service on the test's database.
pub(crate) fn on(database: &Database) -> Settings {
    Settings::new(database.folder()).with("DATABASE_URL", database.url.clone()).with("BUDGET_LEDGER_ENABLED", "true")
}

/// The charges in the ledger's files, by attempt; each exactly once.
pub(crate) fn ledger(data: &Path) -> BTreeMap<String, Value> {
    let mut lines = BTreeMap::new();
    let Ok(days) = std::fs::read_dir(data.join("ledger")) else { return lines };
    for day in days.map(|day| day.unwrap().path()).filter(|path| path.is_file()) {
        let text = std::fs::read_to_string(day).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line");
        for line in text.lines() {
            let charge: Value = serde_json::from_str(line).unwrap();
            let attempt = charge["attemptId"].as_str().unwrap().to_owned();
            assert!(lines.insert(attempt, charge).is_none(), "charged twice: {line}");
        }
    }
    lines
}

/// Dollars as whole micro-dollars.
pub(crate) fn micros(amount: &Value) -> i64 {
    let text = format!("{:.6}", amount.as_f64().unwrap());
    text.replace('.', "").parse().unwrap()
}
