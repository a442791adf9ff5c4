//! One run from its first look at the service to its last: sends the batch, follows it to its end or to the deadline, and
//! gathers what the gates are judged by. Judges nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::course::Course;
use super::gates::{End, Lines, Observed, is_charged};
use super::links;
use super::plan::Plan;
use super::view::{Catalogue, Image, Metrics, Row, Rows};
use crate::cli::client::{Body, Tally};
use crate::cli::failure::Failure;
use crate::cli::output::program;
use crate::cli::remote::Remote;
use crate::cli::view::{Batch, Budget, Estimate};
use crate::cli::watch::{PAGE, Pages};
use crate::clock::{IdSource as _, RandomIds};
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
/// The same once the deadline has passed.
const LITTLE_PATIENCE: Duration = Duration::from_secs(10);
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

/// One run.
pub(super) struct Run<'a> {
    remote: &'a Remote,
    wanted: &'a Wanted,
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
        let followed = self.follow().await?;
        submissions.push(followed.submitted_in);
        let (batch, rows, links, charged, after) = if followed.end == End::Done {
            let (batch, rows) = self.read(followed.batch.id).await?;
            let links = if self.wanted.follows_links { Some(self.check_links(&rows).await) } else { None };
            let charged = self.wait_for_ledger(&before, &batch, &rows).await?;
            (batch, rows, links, charged, self.look().await?)
        } else {
            // The service may be stuck altogether, and nothing else is judged.
            (followed.batch, Vec::new(), None, Charged::default(), before.clone())
        };
        let ledger = self.wanted.ledger.as_ref();
        let ledger = ledger.map(|(place, _)| Lines { place: place.clone(), lines: charged.lines });
        let asked = |of: fn(&Look) -> u64| of(&after) - of(&before);
        let streams =
            self.remote.client.tally().answered.iter().filter(|asked| asked.path.ends_with("/events")).count();
        let observed = Observed {
            deadline: self.wanted.deadline,
            took: followed.took,
            watched: after.at - before.at,
            end: followed.end,
            batch,
            course: followed.course,
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
        Ok(Outcome { observed, submissions, tally: self.remote.client.tally() })
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
    async fn read(&self, batch: BatchId) -> Result<(Batch, Vec<Row>), Failure> {
        let (mut head, mut rows, mut pages) = (None, Vec::new(), Pages::default());
        let mut path = format!("/images/{batch}?limit={PAGE}");
        loop {
            let body: Value = self.get(&path).await?;
            let unexpected = |error| Failure::Unexpected(format!("the service answered something unexpected: {error}"));
            let page = Batch::deserialize(&body).map_err(unexpected)?;
            rows.extend(Rows::deserialize(&body).map_err(unexpected)?.items);
            pages.turn(&page)?;
            let next = page.next_cursor.clone();
            let head = head.get_or_insert(page);
            let Some(cursor) = next else { return Ok((head.clone(), rows)) };
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

/// A batch that was followed.
struct Followed {
    /// As it was accepted, or cancelled.
    batch: Batch,
    course: Course,
    end: End,
    submitted_in: Duration,
    took: Duration,
}

impl Run<'_> {
    /// Sends the batch and follows it, until it ends or the deadline is there; then it is cancelled.
    async fn follow(&self) -> Result<Followed, Failure> {
        let begun = Instant::now();
        let mut sent: Batch = match timeout(self.wanted.deadline, self.submit()).await {
            Ok(sent) => sent?,
            Err(_) => return Err(self.silent("the submission was not answered before the deadline")),
        };
        let submitted_in = begun.elapsed();
        self.remote.screen.say(&format!("The batch is {}.", sent.id));
        self.remote.screen.start("", &sent.counts);
        self.remote.goes_on(format!(
            "{} goes on without you. To stop it: {} cancel {}{}",
            sent.id,
            program(),
            sent.id,
            self.remote.at
        ));
        let course = RefCell::new(Course::new(sent.id, sent.counts.total));
        let left = self.wanted.deadline.saturating_sub(begun.elapsed());
        let followed = timeout(left, self.to_the_end(sent.id, &course)).await;
        let took = begun.elapsed();
        self.remote.screen.end();
        let (end, took) = match followed {
            Ok(ended) => (ended.map(|()| End::Done)?, took),
            Err(_) => self.cut(&mut sent, took).await,
        };
        self.remote.goes_on(String::new());
        Ok(Followed { batch: sent, course: course.into_inner(), end, submitted_in, took })
    }

    async fn submit(&self) -> Result<Batch, Failure> {
        let name = RandomIds::default().next().to_string();
        let body = Body::json(self.wanted.plan.body(RunMode::Live));
        self.remote.goes_on("Whether the batch was accepted is not known: GET /images lists what there is.".to_owned());
        self.remote.client.post_once("/images", Some(body), Some(&name)).await
    }

    async fn to_the_end(&self, batch: BatchId, course: &RefCell<Course>) -> Result<(), Failure> {
        loop {
            let last = course.borrow().last();
            let take = async |event| {
                self.remote.screen.show(&event);
                course.borrow_mut().take(&event)
            };
            self.remote.client.follow_as(batch, last, take).await?;
            let found: Batch = self.remote.client.get(&format!("/images/{batch}?limit=1")).await?;
            self.remote.screen.count(&found.counts);
            if found.finished_at.is_some() {
                return Ok(());
            }
        }
    }

    /// The deadline is there: stops the batch, unless it ended and only its stream did not say so.
    async fn cut(&self, batch: &mut Batch, took: Duration) -> (End, Duration) {
        self.remote.screen.say("The deadline is there: stopping the batch.");
        let path = format!("/images/{}/cancel", batch.id);
        // One that ended stays as it is.
        match within(LITTLE_PATIENCE, self.remote.client.post_again::<Batch>(&path, None)).await {
            Ok(found) => *batch = found,
            Err(failure) => return (End::Cut(format!("it could not be cancelled: {failure}")), took),
        }
        match batch.lasted() {
            Some(lasted) if batch.counts.cancelled == 0 => (End::Done, lasted),
            _ => (End::Cut("cancelled".to_owned()), took),
        }
    }

    fn silent(&self, reason: &str) -> Failure {
        Failure::Unreachable { base: self.remote.client.base().to_owned(), reason: reason.to_owned() }
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

async fn within<T>(patience: Duration, asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout(patience, asked).await {
        Ok(answered) => answered,
        Err(_) => Err(Failure::Unexpected(format!("the service gives no answer within {} s", patience.as_secs()))),
    }
}
