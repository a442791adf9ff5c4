//! A live batch from its submission to its end. Whatever keeps a run from that end, no batch is left behind unsaid: it is
//! cancelled, or how to stop it is said.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::course::Course;
use super::gates::End;
use super::run::{Run, within};
use crate::cli::client::Body;
use crate::cli::failure::Failure;
use crate::cli::output::program;
use crate::cli::view::Batch;
use crate::clock::{IdSource as _, RandomIds};
use crate::domain::ids::BatchId;
use crate::domain::spec::RunMode;

/// How long one question may go without an answer once the deadline has passed, or something broke.
const LITTLE_PATIENCE: Duration = Duration::from_secs(10);

/// A batch that was followed.
pub(super) struct Followed {
    /// As it was accepted, found at its end, or cancelled.
    pub(super) batch: Batch,
    pub(super) course: Course,
    pub(super) end: End,
    pub(super) submitted_in: Duration,
    pub(super) took: Duration,
    /// Why it was not followed to its end, if an error is why.
    pub(super) broken: Option<Failure>,
}

/// Why a batch is not followed any further.
enum Stop {
    Deadline,
    Broken(Failure),
}

impl Run<'_> {
    /// Sends the batch and follows it, until it ends, the deadline is there, or an error; then it is cancelled.
    ///
    /// # Errors
    /// If the batch was not accepted, or nothing tells whether it was.
    pub(super) async fn follow(&self) -> Result<Followed, Failure> {
        let begun = Instant::now();
        let key = RandomIds::default().next().to_string();
        let (batch, broken) = match self.submit_in_time(&key).await {
            Ok(batch) => (batch, None),
            Err(failure) if failure.is_for_certain() => return Err(failure),
            Err(failure) => {
                let Ok(batch) = within(LITTLE_PATIENCE, self.submit(&key)).await else {
                    self.remote.goes_on(String::new());
                    self.remote.screen.say(&self.unknown(&key));
                    return Err(failure);
                };
                (batch, Some(failure))
            }
        };
        let submitted_in = begun.elapsed();
        self.remote.screen.say(&format!("The batch is {}.", batch.id));
        self.remote.screen.start("", &batch.counts);
        self.remote.goes_on(format!("{} goes on without you. {}", batch.id, self.how_to_stop(batch.id)));
        let course = RefCell::new(Course::new(batch.id, batch.counts.total));
        let left = self.wanted.deadline.saturating_sub(begun.elapsed());
        let ended = match broken {
            Some(failure) => Err(Stop::Broken(failure)),
            None => match timeout(left, self.to_the_end(batch.id, &course)).await {
                Ok(ended) => ended.map_err(Stop::Broken),
                Err(_) => Err(Stop::Deadline),
            },
        };
        let (took, course) = (begun.elapsed(), course.into_inner());
        self.remote.screen.end();
        let mut followed = Followed { batch, course, end: End::Done, submitted_in, took, broken: None };
        match ended {
            Ok(found) => followed.batch = found,
            Err(stop) => self.stop(&mut followed, stop).await,
        }
        self.remote.goes_on(String::new());
        Ok(followed)
    }

    async fn submit_in_time(&self, key: &str) -> Result<Batch, Failure> {
        self.remote.goes_on(self.unknown(key));
        match timeout(self.wanted.deadline, self.submit(key)).await {
            Ok(submitted) => submitted,
            Err(_) => Err(Failure::Unreachable {
                base: self.remote.client.base().to_owned(),
                reason: "the submission was not answered before the deadline".to_owned(),
            }),
        }
    }

    /// Submits the batch; the same one, if it is there under this key.
    async fn submit(&self, key: &str) -> Result<Batch, Failure> {
        let body = Body::json(self.wanted.plan.body(RunMode::Live));
        self.remote.client.post_once("/images", Some(body), Some(key)).await
    }

    async fn to_the_end(&self, batch: BatchId, course: &RefCell<Course>) -> Result<Batch, Failure> {
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
                return Ok(found);
            }
        }
    }

    /// Stops the batch, unless it ended and only its stream did not say so.
    async fn stop(&self, followed: &mut Followed, why: Stop) {
        let batch = followed.batch.id;
        self.remote.screen.say(&match &why {
            Stop::Deadline => "The deadline is there: stopping the batch.".to_owned(),
            Stop::Broken(failure) => format!("{failure}\nStopping the batch."),
        });
        let path = format!("/images/{batch}/cancel");
        let mut came = "cancelled".to_owned();
        match within(LITTLE_PATIENCE, self.remote.client.post_again::<Batch>(&path, None)).await {
            Ok(found) => followed.batch = found,
            Err(failure) => {
                self.remote.screen.say(&format!("{batch} goes on. {}", self.how_to_stop(batch)));
                came = format!("it could not be cancelled: {failure}");
            }
        }
        // One that ended stays as it is.
        let lasted = followed.batch.lasted().filter(|_| followed.batch.counts.cancelled == 0);
        followed.took = lasted.unwrap_or(followed.took);
        followed.end = match (&why, lasted) {
            (_, Some(_)) => End::Done,
            (Stop::Deadline, None) => End::Cut(came),
            (Stop::Broken(failure), None) => End::Broken(format!("{failure}; {came}")),
        };
        if let Stop::Broken(failure) = why {
            followed.broken = Some(failure);
        }
    }

    fn how_to_stop(&self, batch: BatchId) -> String {
        format!("To stop it: {} cancel {batch}{}", program(), self.remote.at)
    }

    fn unknown(&self, key: &str) -> String {
        format!(
            "Whether the batch was accepted is not known: it may be running. It was sent with the Idempotency-Key {key}; \
             GET /images lists what there is, and {} cancel BATCH{} stops it.",
            program(),
            self.remote.at
        )
    }
}
