//! What all client commands share: where the service is, how its answers are shown, what happens on a stop signal.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::task::Poll;

use clap::Args;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::client::{Client, Credentials};
use super::failure::Failure;
use super::folder::Folder;
use super::output::{program, quoted, say};
use super::saver::Saver;
use super::screen::Screen;
use super::watch::Watch;
use crate::config::{ClientConfig, Secret};
use crate::domain::ids::BatchId;

/// How the service is reached.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The service's address; else `ORCHESTRATOR_URL`, else `http://127.0.0.1:9090`.
    #[arg(long, value_name = "URL", help_heading = "Connection")]
    url: Option<String>,
    /// The key to show. `ORCHESTRATOR_KEY` is the better place: others may see what commands are given.
    #[arg(long, value_name = "KEY", help_heading = "Connection")]
    key: Option<String>,
    /// Write what came of it as JSON on standard output, an object a line. Progress goes to standard error.
    #[arg(long)]
    pub(super) json: bool,
}

impl Connection {
    /// The option that a command needs to reach the same service; the key is never repeated.
    pub(super) fn as_option(&self) -> String {
        self.url.as_ref().map(|url| format!(" --url {}", quoted(url))).unwrap_or_default()
    }
}

/// Which batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    /// This one.
    Batch(BatchId),
    /// The newest.
    Last,
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last" => Ok(Self::Last),
            id => id.parse().map(Self::Batch).map_err(|error| format!("{error}, nor the word last")),
        }
    }
}

/// Whether a batch is watched, and where its pictures go.
#[derive(Debug, Clone, Args)]
pub(super) struct Watching {
    /// Show the progress until every picture is made.
    #[arg(long)]
    pub(super) watch: bool,
    /// Save the pictures here as they come, which is watching too.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

impl Watching {
    /// Whether anything but the answer is wanted.
    pub(super) fn is_on(&self) -> bool {
        self.watch || self.out.is_some()
    }
}

/// A service, and the person who asks it.
pub(super) struct Remote {
    pub(super) client: Client,
    pub(super) screen: Screen,
    pub(super) json: bool,
    /// What commands that are printed end with, to reach the same service.
    pub(super) at: String,
    /// How to go on after Ctrl-C, or when the service is given up.
    going_on: RefCell<String>,
}

impl Remote {
    /// Connects to nothing yet.
    pub(super) fn new(connection: &Connection, variables: &HashMap<String, String>) -> Result<Self, Failure> {
        let set = ClientConfig::parse(variables);
        let url = connection.url.clone().or(set.url).unwrap_or_else(|| ClientConfig::DEFAULT_URL.to_owned());
        let key = connection.key.as_ref().map(Secret::new).or(set.key);
        let screen = Screen::new();
        let credentials = Credentials { key: key.as_ref(), token: set.token.as_ref() };
        let client = Client::new(&url, credentials, screen.clone())?;
        Ok(Self { client, screen, json: connection.json, at: connection.as_option(), going_on: RefCell::default() })
    }

    /// Says from now on, when the command is stopped or gives up: `what`.
    pub(super) fn goes_on(&self, what: String) {
        *self.going_on.borrow_mut() = what;
    }

    /// Does `work` until it ends, or Ctrl-C or another signal that ends programs comes.
    pub(super) async fn unless_stopped(&self, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let ended = tokio::select! {
            ended = work => ended,
            () = stop_signal() => Err(Failure::Interrupted("stopped".to_owned())),
        };
        self.screen.end();
        let hint = self.going_on.borrow();
        let is_left = matches!(ended, Err(Failure::Interrupted(_) | Failure::Unreachable { .. } | Failure::File(_)));
        if is_left && !hint.is_empty() {
            self.screen.say(&hint);
        }
        if let (Err(Failure::Refused(refusal)), true) = (&ended, self.json) {
            say(&json!({ "error": refusal.body }).to_string());
        }
        ended
    }

    /// The batch that is meant.
    pub(super) async fn find(&self, which: Which) -> Result<BatchId, Failure> {
        if let Which::Batch(batch) = which {
            return Ok(batch);
        }
        let list: Value = self.client.get("/images?limit=1").await?;
        let newest = BatchId::deserialize(&list["batches"][0]["batchId"]);
        newest.map_err(|_| Failure::Usage("there is no batch yet: `submit FILE --live` makes one".to_owned()))
    }

    /// Opens the folder at `path` for the pictures of `batch`, which has to be there: no folder is claimed for a typo.
    pub(super) async fn folder_for(&self, path: &Path, batch: BatchId) -> Result<Folder, Failure> {
        self.client.get::<IgnoredAny>(&format!("/images/{batch}?limit=1")).await?;
        let mut folder = Folder::open(path)?;
        folder.belong_to(batch)?;
        Ok(folder)
    }

    /// Watches `batch`, saves its pictures in `folder` if it is there, and says how to go on if it is left.
    pub(super) fn watch<'a>(&'a self, batch: BatchId, folder: Option<&'a Folder>) -> Watch<'a> {
        let out =
            folder.map(|folder| format!(" --out {}", quoted(&folder.path().to_string_lossy()))).unwrap_or_default();
        self.goes_on(format!(
            "{batch} goes on without you. To watch it again: {} watch {batch}{out}{}",
            program(),
            self.at
        ));
        let saver = folder.map(|folder| Saver::new(&self.client, &self.screen, batch, folder.path()));
        Watch::new(&self.client, &self.screen, batch, saver)
    }
}

/// Waits for Ctrl-C, for SIGTERM, or for SIGHUP unless it is ignored, as `nohup` has it.
#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};

    let hangup = SignalKind::hangup();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), hangup];
    let heard = kinds.into_iter().filter(|kind| *kind != hangup || !is_ignored(&status, hangup.as_raw_value()));
    // One that cannot be listened for ends the program by itself.
    let mut signals: Vec<_> = heard.filter_map(|kind| signal(kind).ok()).collect();
    std::future::poll_fn(|context| {
        let is_here = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if is_here { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
async fn stop_signal() {
    let _ = tokio::signal::ctrl_c().await;
}

/// Whether a process with this `/proc/self/status` ignores the signal; no, where there is none.
#[cfg(unix)]
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_ignored_is_seen_in_the_mask() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(status, 1) && is_ignored(status, 13) && !is_ignored(status, 2));
        assert!(!is_ignored("", 1));
    }
}
