//! `orchestrator keys`: make, list and revoke the keys in the database.
//!
//! A key is shown once, on standard output and nothing else there, so that a script can take it.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{complain, say, table};
use crate::app::keys as app;
use crate::config::Config;
use crate::domain::access::{KeyId, KeyRecord, Scopes, user_name};
use crate::domain::ids::UserId;
use crate::domain::money::MicroUsd;
use crate::domain::time::Day;
use crate::store::ListedKey;

const ABOUT_NEW: &str = "\
Make a key and show it once.

The service may run meanwhile, and knows the key at once. Only the key's hash is kept. Several keys may have one name:
their batches and money are the same user's, so that a key can be replaced without a gap.";

const EXAMPLES_NEW: &str = "\
Examples:
  orchestrator keys new --name alice
  orchestrator keys new --name ci --scopes read --expires 2027-01-31
  orchestrator keys new --name studio --daily-budget 25
  KEY=$(orchestrator keys new --name bob); curl -H \"Authorization: Bearer $KEY\" localhost:9090/budget
  orchestrator keys new --name alice --entry >> keys.txt    a line for API_KEYS_FILE instead of the database";

/// What `orchestrator keys` can do.
#[derive(Subcommand)]
pub(super) enum KeysCommand {
    #[command(about = "Make a key and show it once", long_about = ABOUT_NEW, after_help = EXAMPLES_NEW)]
    New(NewArguments),
    /// List the keys in the database; those of the configuration are not there.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key; the service refuses it from the next request on.
    Revoke {
        /// The 12 digits that name it, as `keys list` shows them.
        #[arg(value_name = "KEY_ID")]
        id: KeyId,
    },
}

/// A key that is to be made.
#[derive(Args)]
pub(super) struct NewArguments {
    /// Whose it is: the user of its batches.
    #[arg(long, value_parser = user_name)]
    name: UserId,
    /// What it grants: submit, read, admin, with commas between them.
    #[arg(long, default_value_t = Scopes::USER)]
    scopes: Scopes,
    /// The last day on which it is good, in UTC; else it is good until it is revoked.
    #[arg(long, value_name = "YYYY-MM-DD")]
    expires: Option<Day>,
    /// The most its user may spend on a day with it, in US dollars.
    #[arg(long, value_name = "USD")]
    daily_budget: Option<MicroUsd>,
    /// Do not keep it: show the key on standard error, and its line for a file of keys on standard output.
    #[arg(long, conflicts_with = "json")]
    entry: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Runs one of them.
pub(super) async fn run(command: &KeysCommand, config: &Config) -> anyhow::Result<()> {
    match command {
        KeysCommand::New(wanted) => new(wanted, config).await,
        KeysCommand::List { json } => list(*json, config).await,
        KeysCommand::Revoke { id } => {
            let revoked = app::revoke(config, *id).await?;
            if let Some(place) = app::configured_in(config, *id)? {
                bail!("{place} has the key {id} and lets it in, whatever the database says: take it out there");
            }
            let user = revoked.with_context(|| format!("there is no key {id}; `keys list` shows all there are"))?.user;
            complain(&format!("The key {id} of {} is revoked.", user.as_str()));
            Ok(())
        }
    }
}

async fn new(wanted: &NewArguments, config: &Config) -> anyhow::Result<()> {
    let key = app::random();
    let record = KeyRecord {
        id: key.id(),
        hash: key.hash(),
        user: wanted.name.clone(),
        scopes: wanted.scopes,
        expires_at: wanted.expires.map(Day::end),
        revoked_at: None,
        daily_budget: wanted.daily_budget,
    };
    if app::has_ended(&record) {
        bail!("--expires is a day that is over: nobody could use the key");
    }
    if wanted.entry {
        complain(&format!("The key, shown once: {}", key.reveal()));
        say(&record.entry());
        return Ok(());
    }
    app::keep(config, &record).await?;
    if wanted.json {
        let body = json!({"key": key.reveal(), "id": record.id.to_string(), "name": record.user,
            "scopes": record.scopes.to_string(), "expiresAt": record.expires_at, "dailyBudget": record.daily_budget});
        say(&body.to_string());
    } else {
        complain(&format!("Key {} of {} ({}). It is shown once:", record.id, record.user.as_str(), record.scopes));
        say(&key.reveal());
    }
    Ok(())
}

async fn list(json: bool, config: &Config) -> anyhow::Result<()> {
    let keys = app::list(config).await?;
    if json {
        let keys: Vec<_> = keys.iter().map(entry).collect();
        say(&serde_json::to_string_pretty(&json!({"keys": keys}))?);
        return Ok(());
    }
    if keys.is_empty() {
        complain("There is no key in the database yet: `keys new --name NAME` makes one.");
        return Ok(());
    }
    let head = ["id", "name", "scopes", "made", "state", "daily budget"].map(str::to_owned).to_vec();
    let rows = keys.iter().map(|listed| {
        let key = &listed.key;
        let budget = key.daily_budget.map(|budget| format!("{budget}")).unwrap_or_default();
        vec![
            key.id.to_string(),
            key.user.as_str().to_owned(),
            key.scopes.to_string(),
            listed.created_at.day().to_string(),
            state(key),
            budget,
        ]
    });
    say(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    Ok(())
}

fn entry(listed: &ListedKey) -> serde_json::Value {
    let key = &listed.key;
    json!({"id": key.id.to_string(), "name": key.user, "scopes": key.scopes.to_string(),
        "createdAt": listed.created_at, "expiresAt": key.expires_at, "revokedAt": key.revoked_at,
        "dailyBudget": key.daily_budget})
}

/// Whether it is good, in words.
fn state(key: &KeyRecord) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", at.day()),
        (None, Some(end)) if app::has_ended(key) => format!("expired {end}"),
        (None, Some(end)) => format!("good until {end}"),
        (None, None) => "good".to_owned(),
    }
}
