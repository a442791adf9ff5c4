//! The whole database as the model's books, read behind the store's back.

use orchestrator::domain::ledger::{ChargeOutcome, LedgerLine};
use orchestrator::domain::state::ImageError;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::stored::user_id;
use super::world::{Attempt, Batch, Books, Charge, Picture, Purse};

async fn rows(connection: &mut AnyConnection, sql: &'static str) -> Vec<AnyRow> {
    sqlx::query(sql).fetch_all(connection).await.unwrap()
}

fn text(row: &AnyRow, column: &str) -> String {
    row.get(column)
}

fn optional_text(row: &AnyRow, column: &str) -> Option<String> {
    row.get(column)
}

fn number(row: &AnyRow, column: &str) -> i64 {
    row.get(column)
}

fn optional_number(row: &AnyRow, column: &str) -> Option<i64> {
    row.get(column)
}

fn count(row: &AnyRow, column: &str) -> u32 {
    u32::try_from(number(row, column)).unwrap()
}

fn user(name: &str) -> usize {
    (0..2).find(|user| user_id(*user).as_str() == name).expect("a user of the model")
}

/// Day 0 of the model is `base`; so is a purse that never was used.
pub(crate) async fn books(connection: &mut AnyConnection, base: i64) -> Books {
    let mut books = Books::default();
    let mut batches = Vec::new();
    let sql = "SELECT id, owner, cancelled_at, estimated_cost, actual_cost, unknown_cost FROM batches ORDER BY id";
    for row in rows(connection, sql).await {
        batches.push(text(&row, "id"));
        books.batches.push(Batch {
            user: user(&text(&row, "owner")),
            cancelled: optional_number(&row, "cancelled_at").is_some(),
            estimated: number(&row, "estimated_cost"),
            actual: number(&row, "actual_cost"),
            unknown: number(&row, "unknown_cost"),
        });
    }
    let mut attempts = rows(
        connection,
        "SELECT batch_id, ordinal, variant, state, reserved, cost FROM attempts
         ORDER BY batch_id, ordinal, variant, number",
    )
    .await
    .into_iter()
    .peekable();
    let sql = "SELECT batch_id, ordinal, variant, state, error, attempts, cost, billing, failures, unknown_retries,
                 interruptions FROM images ORDER BY batch_id, ordinal, variant";
    for row in rows(connection, sql).await {
        let key = |row: &AnyRow| (text(row, "batch_id"), number(row, "ordinal"), number(row, "variant"));
        let own = std::iter::from_fn(|| attempts.next_if(|attempt| key(attempt) == key(&row)));
        books.pictures.push(picture(&row, &batches, &own.collect::<Vec<_>>()));
    }
    for row in rows(connection, "SELECT scope, day, spent, reserved, unknown, overrun FROM budget").await {
        let purse = Purse {
            day: (number(&row, "day") - base).max(0),
            spent: number(&row, "spent"),
            reserved: number(&row, "reserved"),
            unknown: number(&row, "unknown"),
            overrun: number(&row, "overrun"),
        };
        match text(&row, "scope").strip_prefix("user:") {
            None => books.everyone = purse,
            Some(name) => books.users[user(name)] = purse,
        }
    }
    for row in rows(connection, "SELECT day, line FROM ledger").await {
        let line: LedgerLine = serde_json::from_str(&text(&row, "line")).unwrap();
        books.charges.push(Charge {
            day: number(&row, "day") - base,
            user: user(&line.user_id),
            cost: line.cost.micros(),
            unknown: line.outcome == ChargeOutcome::Unknown,
        });
    }
    books
}

fn picture(row: &AnyRow, batches: &[String], attempts: &[AnyRow]) -> Picture {
    let error: Option<ImageError> = optional_text(row, "error").map(|error| serde_json::from_str(&error).unwrap());
    let batch = text(row, "batch_id");
    Picture {
        batch: batches.iter().position(|id| *id == batch).expect("a batch of the picture"),
        state: text(row, "state").parse().unwrap(),
        error: error.map(|error| error.code),
        calls: count(row, "attempts"),
        cost: optional_number(row, "cost"),
        billing: optional_text(row, "billing").map(|billing| billing.parse().unwrap()),
        failures: count(row, "failures"),
        unknown_retries: count(row, "unknown_retries"),
        interruptions: count(row, "interruptions"),
        attempts: attempts
            .iter()
            .map(|attempt| Attempt {
                state: text(attempt, "state").parse().unwrap(),
                reserved: number(attempt, "reserved"),
                cost: optional_number(attempt, "cost"),
            })
            .collect(),
    }
}
