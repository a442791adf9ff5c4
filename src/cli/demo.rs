//! `orchestrator demo`: a real service on embedded parts, a sample batch sent to it over HTTP, and a
//! check that batch, budget and ledger name the same amounts.
//!
//! Owns what the demo sets by default, its order of steps, and its verdict. Refuses to look at the
//! service from inside: it sees what any client sees, and the files that the service leaves.

mod check;
mod report;

use std::collections::HashMap;

use anyhow::{bail, ensure};
use tokio::net::TcpListener;

use super::client::Client;
use super::output::say;
use super::screen::Screen;
use super::view::{Batch, Budget};
use crate::app::App;
use crate::config::{Auth, Config, ConfigError, ConfigErrors, ProviderKind};
use crate::domain::spec::RunMode;

/// The batch that is sent, live.
const BATCH: &str = include_str!("../../examples/batch.json");
/// What the prompt of a row holds that is to be refused by the provider.
const REFUSED_MARKER: &str = "[refuse]";
/// What makes the demo pleasant; the user's own settings come before.
const DEFAULTS: [(&str, &str); 5] = [
    ("AUTH", "open"),
    ("PROVIDER", "synthetic"),
    ("RUN_MODE", "live"),
    ("SYNTHETIC_LATENCY", "400ms"),
    ("LOG_LEVEL", "warn"),
];

/// Adds the demo's defaults to the environment, and turns the ledger on: it is off in `.env.example`,
/// and what the demo shows is that the books agree.
pub(super) fn defaults(mut variables: HashMap<String, String>) -> HashMap<String, String> {
    variables.insert("BUDGET_LEDGER_ENABLED".to_owned(), "true".to_owned());
    for (name, value) in DEFAULTS {
        let is_unset = variables.get(name).is_none_or(|value| value.trim().is_empty());
        if is_unset && !(name == "LOG_LEVEL" && variables.contains_key("RUST_LOG")) {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    variables
}

/// Refuses a configuration in which the demo could not show what it is there to show.
pub(super) fn check(config: Config) -> Result<Config, ConfigErrors> {
    let storage = &config.storage;
    let needs = [
        // A paid provider in the environment must not be paid for a tour.
        ("PROVIDER", config.provider.kind == ProviderKind::Synthetic, "synthetic"),
        // It asks as anyone at this machine would.
        ("AUTH", config.access.auth == Auth::Open, "open"),
        ("RUN_MODE", config.run_mode == RunMode::Live, "live"),
        ("SSE_ENABLED", config.features.sse, "true"),
        // It reads the ledger's files, and leaves nothing in a bucket.
        ("GCS_BUCKET", storage.pictures.is_none(), "everything in DATA_DIR"),
        ("LEDGER_BUCKET", storage.ledger.is_none() || storage.pictures.is_some(), "everything in DATA_DIR"),
    ];
    let missing = needs.into_iter().filter(|(_, fits, _)| !fits);
    let errors: Vec<ConfigError> = missing
        .map(|(name, _, value)| ConfigError { name, problem: format!("the demo needs {value}; leave it unset") })
        .collect();
    if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
}

/// Runs the demo, then serves until a stop signal; with `exit`, stops when the batch is checked.
pub(super) async fn run(mut config: Config, variables: &HashMap<String, String>, exit: bool) -> anyhow::Result<()> {
    let taken = choose_port(&mut config, variables.get("PORT").is_some_and(|port| !port.trim().is_empty())).await;
    let app = App::start(config.clone()).await?;
    if let Some(port) = taken {
        say(&format!("Port {port} is taken, using a free one."));
    }
    let client = Client::local(app.address())?;
    let lifecycle = app.lifecycle().clone();
    let tour = async {
        let toured = tokio::select! {
            toured = tour(&client, &config, exit) => toured,
            () = lifecycle.draining().cancelled_owned() => bail!("stopped before the batch was done"),
        };
        if exit || toured.is_err() {
            lifecycle.stop();
        }
        toured
    };
    let (served, toured) = tokio::join!(app.run(), tour);
    toured.and(served)
}

/// Takes any free port if the usual one is taken and the user did not ask for it by name; returns the one
/// that is taken then.
async fn choose_port(config: &mut Config, port_was_chosen: bool) -> Option<u16> {
    let error = TcpListener::bind(config.http.address()).await.err()?;
    let gives_way = !port_was_chosen && error.kind() == std::io::ErrorKind::AddrInUse;
    gives_way.then(|| std::mem::take(&mut config.http.port))
}

/// The sample as it is sent: it is a dry run in the file, so that nobody who posts it spends by accident.
fn sample() -> anyhow::Result<String> {
    let mut batch: serde_json::Value = serde_json::from_str(BATCH)?;
    batch["runMode"] = "live".into();
    Ok(batch.to_string())
}

/// Sends the batch, follows it, checks what came of it, and says so.
async fn tour(client: &Client, config: &Config, exit: bool) -> anyhow::Result<()> {
    say(&format!("The service listens on {}; its data is in {}.", client.base(), config.data.dir.display()));
    let sent: Batch = client.post("/images", sample()?).await?;
    say(&format!(
        "Sent {} with {} rows, {} pictures; {} US dollars are reserved for it.\n",
        sent.id,
        sent.items.len(),
        sent.counts.total,
        sent.estimated_cost
    ));
    let screen = Screen::new();
    screen.start("", &sent.counts);
    let followed = client.follow(sent.id, sent.last_event, async |event| screen.show(&event)).await;
    screen.end();
    followed?;
    let batch: Batch = client.get(&format!("/images/{}?limit=200", sent.id)).await?;
    say(&report::pictures(&batch, &config.data.dir));
    let wrong = check::unexpected(&batch, REFUSED_MARKER);
    ensure!(wrong.is_empty(), "not as expected: {}", wrong.join(", "));
    let books = check::agree(client, &config.data.dir, &batch).await?;
    let budget: Budget = client.get("/budget").await?;
    say(&report::money(&batch, &books, &budget));
    say(&report::what_next(client.base(), &batch, exit));
    Ok(())
}

#[cfg(test)]
mod tests;
