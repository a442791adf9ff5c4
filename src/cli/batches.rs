//! `orchestrator watch`, `download`, `cancel`, `retry` and `budget`: what can be asked of batches that there are.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::client::Body;
use super::failure::Failure;
use super::output::{say, table};
use super::remote::{Connection, Remote, Watching, Which};
use super::view::{Budget, Scope};
use crate::clock::{IdSource as _, RandomIds};
use crate::domain::ids::BatchId;
use crate::domain::money::MicroUsd;
use crate::domain::state::ErrorCode;

/// A batch to watch.
#[derive(Debug, Args)]
pub(super) struct WatchArguments {
    /// The batch, or `last` for the newest that you may see.
    #[arg(value_name = "BATCH")]
    which: Which,
    /// Save the pictures here as they come.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// A batch whose pictures are wanted.
#[derive(Debug, Args)]
pub(super) struct DownloadArguments {
    /// The batch, or `last` for the newest that you may see.
    #[arg(value_name = "BATCH")]
    which: Which,
    /// Where to save the pictures; else a folder with the batch's name.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// A batch to stop.
#[derive(Debug, Args)]
pub(super) struct CancelArguments {
    /// The batch.
    batch: BatchId,
    #[command(flatten)]
    watching: Watching,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// A batch whose failed pictures are to be tried again.
#[derive(Debug, Args)]
pub(super) struct RetryArguments {
    /// The batch, or `last` for the newest that you may see.
    #[arg(value_name = "BATCH")]
    which: Which,
    /// Only those that failed so; may be given several times. Else all that may work the next time.
    #[arg(long = "code", value_name = "CODE", value_parser = codes())]
    codes: Vec<String>,
    #[command(flatten)]
    watching: Watching,
    #[command(flatten)]
    pub(super) connection: Connection,
}

fn codes() -> PossibleValuesParser {
    ErrorCode::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>().into()
}

/// Watches a batch to its end.
pub(super) async fn watch(wanted: &WatchArguments, remote: &Remote) -> Result<(), Failure> {
    let batch = remote.find(wanted.which).await?;
    finish(batch, wanted.out.as_ref(), remote).await
}

async fn finish(batch: BatchId, out: Option<&PathBuf>, remote: &Remote) -> Result<(), Failure> {
    let folder = match out {
        Some(out) => Some(remote.folder_for(out, batch).await?),
        None => None,
    };
    let watch = remote.watch(batch, folder.as_ref());
    let found = watch.to_the_end("").await?;
    watch.report(&found, None, remote)
}

/// Saves the pictures that there are by now.
pub(super) async fn download(wanted: &DownloadArguments, remote: &Remote) -> Result<(), Failure> {
    let batch = remote.find(wanted.which).await?;
    let out = wanted.out.clone().unwrap_or_else(|| PathBuf::from(batch.to_string()));
    let folder = remote.folder_for(&out, batch).await?;
    let watch = remote.watch(batch, Some(&folder));
    let found =
        watch.sweep(|_| remote.screen.wait(&format!("saving the pictures of {batch} in {}", out.display()))).await?;
    remote.screen.end();
    watch.report(&found, None, remote)
}

/// Stops what has not started.
pub(super) async fn cancel(wanted: &CancelArguments, remote: &Remote) -> Result<(), Failure> {
    let batch = wanted.batch;
    let path = format!("/images/{batch}/cancel");
    // A cancelled batch stays as it is: there is no harm in sending it twice.
    let answer: Value = remote.client.post_again(&path, None).await?;
    if wanted.watching.is_on() {
        let ended = finish(batch, wanted.watching.out.as_ref(), remote).await;
        // Pictures that were not made are what was asked for; those that were made are to be saved.
        return match ended {
            Err(Failure::Incomplete { unsaved: 0, .. }) => Ok(()),
            other => other,
        };
    }
    show(remote, &answer, |counts| {
        format!(
            "{batch} is {}: {} cancelled, {} under way, {} made.",
            counts("state"),
            counts("cancelled"),
            counts("running"),
            counts("completed")
        )
    });
    Ok(())
}

/// Tries failed pictures again.
pub(super) async fn retry(wanted: &RetryArguments, remote: &Remote) -> Result<(), Failure> {
    let batch = remote.find(wanted.which).await?;
    let body = (!wanted.codes.is_empty()).then(|| Body::json(json!({"codes": wanted.codes}).to_string()));
    let name = RandomIds::default().next().to_string();
    let answer: Value = remote.client.post_once(&format!("/images/{batch}/retry"), body, Some(&name)).await?;
    if wanted.watching.is_on() {
        return finish(batch, wanted.watching.out.as_ref(), remote).await;
    }
    show(remote, &answer, |counts| format!("{batch} is {}: waiting again: {}.", counts("state"), counts("queued")));
    Ok(())
}

/// Shows an answer: as it came, or as `line` has it.
fn show(remote: &Remote, answer: &Value, line: impl Fn(&dyn Fn(&str) -> String) -> String) {
    if remote.json {
        let mut answer = answer.clone();
        if let Some(batch) = answer.as_object_mut() {
            batch.retain(|name, _| !["items", "nextCursor"].contains(&name.as_str()));
        }
        say(&answer.to_string());
    } else {
        say(&line(&|name| match &answer["counts"][name] {
            Value::Null => answer[name].as_str().unwrap_or("?").to_owned(),
            count => count.to_string(),
        }));
    }
}

/// Shows what is left of the day's money.
pub(super) async fn budget(remote: &Remote) -> Result<(), Failure> {
    let answer: Value = remote.client.get("/budget").await?;
    if remote.json {
        say(&answer.to_string());
        return Ok(());
    }
    let budget: Budget = serde_json::from_value(answer)
        .map_err(|error| Failure::Unexpected(format!("the service answered something unexpected: {error}")))?;
    let heading = ["US dollars", "limit", "spent", "reserved", "remaining", "unknown"].map(str::to_owned).to_vec();
    let scopes = std::iter::once(("everyone", &budget.everyone)).chain(budget.user.iter().map(|user| ("you", user)));
    let rows: Vec<_> = std::iter::once(heading).chain(scopes.map(|(whose, scope)| row(whose, scope))).collect();
    say(&table(&rows));
    say(&format!(
        "{} in UTC, until {}. Unknown is the part of spent for calls whose outcome nobody knows.",
        budget.day, budget.resets_at
    ));
    budget.message.iter().for_each(|message| say(message));
    Ok(())
}

fn row(whose: &str, scope: &Scope) -> Vec<String> {
    let bound = |amount: Option<MicroUsd>| amount.map_or("none".to_owned(), |amount| amount.to_string());
    vec![
        whose.to_owned(),
        bound(scope.daily_limit),
        scope.spent.to_string(),
        scope.reserved.to_string(),
        bound(scope.remaining),
        scope.unknown.to_string(),
    ]
}
