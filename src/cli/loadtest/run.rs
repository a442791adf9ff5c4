//! One run from its first look at the service to its last: has the batch sent and followed, and gathers what the gates are
//! judged by. Judges nothing.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::follow::Followed;
use super::gates::{End, Lines, Observed, is_charged};
use super::links;
use super::plan::Plan;
use super::view::{Catalogue, Image, Metrics, Row, Rows};
use crate::cli::client::{Body, Tally};
use crate::cli::failure::Failure;
use crate::cli::remote::Remote;
use crate::cli::view::{Batch, Budget, Estimate};
use crate::cli::watch::{PAGE, Pages};
use crate::domain::ids::BatchId;
use crate::domain::ledger::LedgerLine;
use crate::domain::spec::RunMode;
use crate::domain::state::{BatchState, Counts};
use crate::domain::time::Day;
use crate::ledger::LedgerReader;
use crate::service::charges;

/// Dry runs that are sent to see how fast submissions are answered.
const DRY_RUNS: usize = 20;
/// How long one question beside the batch may go without an answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often the counters are looked at while charges are waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const A_DAY: u64 = 86_400;

/// What is to be done.
pub(super) struct Wanted {
    pub(super) plan: Plan,
    pub(super) deadline: Duration,
    /// How long charges have to come to the ledger after the batch ended.
    pub(super) ledger_wait: Duration,
    pub(super) shared: bool,
    /// Whether the links are to be followed.
    pub(super) follows_links: bool,
    /// Whether charges are waited for.
    pub(super) waits_for_ledger: bool,
    /// Where the ledger is, and what it is called.
    pub(super) ledger: Option<(String, Arc<dyn LedgerReader>)>,
}

/// What a run costs at most, and whether that is real money.
pub(super) struct Price {
    pub(super) estimate: Estimate,
    pub(super) is_free: bool,
    /// How long the dry run took.
    took: Duration,
}

/// What came of a run.
pub(super) struct Outcome {
    pub(super) observed: Observed,
    /// How long each submission took to be answered: the dry runs, then the live one.
    pub(super) submissions: Vec<Duration>,
    /// What was asked of the service.
    pub(super) tally: Tally,
    /// Why it did not go to its end, if an error is why.
    pub(super) broken: Option<Failure>,
}

/// Money and counters at one moment.
#[derive(Clone)]
struct Look {
    budget: Budget,
    metrics: Metrics,
    /// Requests that were answered, not answered, and answered with an error, until then.
    asked: (u64, u64, u64),
    at: Instant,
}

/// What came of a batch.
struct Gathered {
    batch: Batch,
    rows: Vec<Row>,
    made_with: String,
    links: Option<links::Checked>,
    charged: Charged,
    after: Look,
}

impl Gathered {
    /// Nothing of `batch` was looked at since `before`.
    fn nothing(batch: Batch, before: Look) -> Self {
        let (rows, made_with) = (Vec::new(), String::new());
        Self { batch, rows, made_with, links: None, charged: Charged::default(), after: before }
    }
}

/// One run.
pub(super) struct Run<'a> {
    pub(super) remote: &'a Remote,
    pub(super) wanted: &'a Wanted,
}

impl<'a> Run<'a> {
    pub(super) fn new(remote: &'a Remote, wanted: &'a Wanted) -> Self {
        Self { remote, wanted }
    }

    /// Asks what it would cost. Spends nothing.
    pub(super) async fn price(&self) -> Result<Price, Failure> {
        let catalogue: Catalogue = self.get("/models").await?;
        let begun = Instant::now();
        let body = self.wanted.plan.body(RunMode::DryRun);
        let estimate: Estimate = soon(self.remote.client.post_again("/images", Some(Body::json(body)))).await?;
        let is_free = catalogue.rehearsal;
        Ok(Price { estimate, is_free, took: begun.elapsed() })
    }

    /// Makes the pictures, and looks at everything that came of it.
    pub(super) async fn make(&self, price: &Price) -> Result<Outcome, Failure> {
        let before = self.look().await?;
        let mut submissions = vec![price.took];
        self.measure_dry_runs(&mut submissions).await?;
        let Followed { batch, course, mut end, submitted_in, took, mut broken } = self.follow().await?;
        submissions.push(submitted_in);
        let gathered = if end == End::Done { self.gather(&before, batch.id).await.map(Some) } else { Ok(None) };
        // Where it did not end the service may be stuck altogether, and nothing else is judged.
        let nothing = || Gathered::nothing(batch, before.clone());
        let gathered = match gathered {
            Ok(gathered) => gathered.unwrap_or_else(nothing),
            Err(failure) => {
                end = End::Unread(failure.to_string());
                broken.get_or_insert(failure);
                nothing()
            }
        };
        let Gathered { batch, rows, made_with, links, charged, after } = gathered;
        let ledger = self.wanted.ledger.as_ref();
        let ledger = ledger.map(|(place, _)| Lines { place: place.clone(), lines: charged.lines });
        let asked = |of: fn(&Look) -> u64| of(&after) - of(&before);
        let streams =
            self.remote.client.tally().answered.iter().filter(|asked| asked.path.ends_with("/events")).count();
        let observed = Observed {
            plan: self.wanted.plan.clone(),
            model: self.wanted.plan.model.clone().unwrap_or_else(|| price.estimate.model.clone()),
            made_with,
            is_rehearsal: price.is_free,
            deadline: self.wanted.deadline,
            took,
            watched: after.at - before.at,
            end,
            batch,
            course,
            streams: u32::try_from(streams).unwrap_or(u32::MAX),
            rows,
            metrics: (before.metrics, after.metrics),
            answered: asked(|look| look.asked.0),
            unanswered: asked(|look| look.asked.1),
            server_errors: asked(|look| look.asked.2),
            budget: (before.budget, after.budget),
            ledger,
            ledger_trouble: charged.trouble,
            links,
            shared: self.wanted.shared,
        };
        Ok(Outcome { observed, submissions, tally: self.remote.client.tally(), broken })
    }

    /// Looks at what came of the batch.
    async fn gather(&self, before: &Look, batch: BatchId) -> Result<Gathered, Failure> {
        let (batch, made_with, rows) = self.read(batch).await?;
        let links = if self.wanted.follows_links { Some(self.check_links(&rows).await) } else { None };
        let charged = self.wait_for_ledger(before, &batch, &rows).await?;
        Ok(Gathered { batch, rows, made_with, links, charged, after: self.look().await? })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        soon(self.remote.client.get(path)).await
    }

    async fn look(&self) -> Result<Look, Failure> {
        let budget = self.get("/budget").await?;
        // Last, so that what was asked before is what the counters count.
        let metrics = self.get("/metrics-lite").await?;
        let tally = self.remote.client.tally();
        let asked = (tally.answered.len() as u64, tally.unanswered, tally.server_errors);
        Ok(Look { budget, metrics, asked, at: Instant::now() })
    }

    /// Sends dry runs one after the other; fewer where the service limits how many it takes.
    async fn measure_dry_runs(&self, submissions: &mut Vec<Duration>) -> Result<(), Failure> {
        self.remote.screen.say("Measuring how fast submissions are answered.");
        let body = self.wanted.plan.body(RunMode::DryRun);
        while submissions.len() < DRY_RUNS {
            let begun = Instant::now();
            match soon(self.remote.client.post::<Value>("/images", body.clone())).await {
                Ok(_) => submissions.push(begun.elapsed()),
                Err(failure) if failure.has_code("rate_limited") => return Ok(()),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Reads the whole batch.
    async fn read(&self, batch: BatchId) -> Result<(Batch, String, Vec<Row>), Failure> {
        let (mut head, mut rows, mut pages) = (None, Vec::new(), Pages::default());
        let mut path = format!("/images/{batch}?limit={PAGE}");
        loop {
            let body: Value = self.get(&path).await?;
            let unexpected = |error| Failure::Unexpected(format!("the service answered something unexpected: {error}"));
            let page = Batch::deserialize(&body).map_err(unexpected)?;
            let Rows { model, items } = Rows::deserialize(&body).map_err(unexpected)?;
            rows.extend(items);
            pages.turn(&page)?;
            let next = page.next_cursor.clone();
            let (head, model) = head.get_or_insert((page, model));
            let Some(cursor) = next else { return Ok((head.clone(), model.clone(), rows)) };
            let cursor: String = url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect();
            path = format!("/images/{batch}?limit={PAGE}&cursor={cursor}");
        }
    }

    async fn check_links(&self, rows: &[Row]) -> links::Checked {
        let screen = &self.remote.screen;
        let made = |image: &&Image| image.state == BatchState::Completed;
        let pictures = rows.iter().flat_map(|row| &row.images).filter(made).count();
        let total = u32::try_from(pictures).unwrap_or(u32::MAX);
        let counts = |done: u32| Counts { total, queued: total.saturating_sub(done), ..Counts::default() };
        screen.say("Following every link.");
        screen.start("links", &counts(0));
        let checked = links::check(&self.remote.client, rows, |done| screen.count(&counts(done))).await;
        screen.end();
        checked
    }
}

/// What the ledger said.
struct Charged {
    lines: Result<Vec<LedgerLine>, String>,
    trouble: Option<String>,
}

impl Default for Charged {
    fn default() -> Self {
        Self { lines: Ok(Vec::new()), trouble: None }
    }
}

/// The part of `/ready` that tells of the ledger.
#[derive(Deserialize)]
struct Ready {
    ledger: Option<String>,
}

impl Run<'_> {
    /// Waits until as many charges are exported as the batch has charged pictures, but not for ever.
    async fn wait_for_ledger(&self, before: &Look, batch: &Batch, rows: &[Row]) -> Result<Charged, Failure> {
        let mut charged = Charged::default();
        if !self.wanted.waits_for_ledger && self.wanted.ledger.is_none() {
            return Ok(charged);
        }
        self.remote.screen.say("Waiting for the ledger.");
        let images = rows.iter().flat_map(|row| &row.images);
        let expected = images.filter(|image| is_charged(image)).count() as u64;
        let until = Instant::now() + self.wanted.ledger_wait;
        loop {
            let now: Metrics = self.get("/metrics-lite").await?;
            let exported = now.ledger_lines.saturating_sub(before.metrics.ledger_lines);
            charged.lines = self.lines(before, batch).await;
            let is_counted = !self.wanted.waits_for_ledger || exported >= expected;
            let is_read = charged.lines.as_ref().is_ok_and(|lines| lines.len() as u64 >= expected);
            if is_counted && (is_read || self.wanted.ledger.is_none()) {
                return Ok(charged);
            }
            if Instant::now() >= until {
                // Whether a service says so or not, the gate tells what is missing.
                charged.trouble = self.get::<Ready>("/ready").await.ok().and_then(|ready| ready.ledger);
                return Ok(charged);
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The batch's lines, of every day that it can have run on.
    async fn lines(&self, before: &Look, batch: &Batch) -> Result<Vec<LedgerLine>, String> {
        let Some((_, ledger)) = &self.wanted.ledger else { return Ok(Vec::new()) };
        let first = before.budget.day.number();
        let whole_days = i64::try_from(self.wanted.deadline.as_secs() / A_DAY).unwrap_or(0);
        let days = (first..=first + whole_days + 1).map(Day::from_number);
        charges::of_batch(ledger, days, batch.id).await.map_err(|error| error.to_string())
    }
}

/// The answer, if it comes in reasonable time.
async fn soon<T>(asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    within(PATIENCE, asked).await
}

/// The answer, if it comes within `patience`.
pub(super) async fn within<T>(
    patience: Duration,
    asked: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match timeout(patience, asked).await {
        Ok(answered) => answered,
        Err(_) => Err(Failure::Unexpected(format!("the service gives no answer within {} s", patience.as_secs()))),
    }
}
