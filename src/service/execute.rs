//! Making one picture: find what was already paid, fetch references, start, call, store, settle.
//!
//! The order is the promise: the start is durable before a byte is sent, and the picture is durable
//! with its receipt before its charge is settled. Whatever happens between, what was paid is found.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Admitted, Permit};
use super::course::{self, Course, Ending};
use super::memory::{PictureMemory, Share, max_answer_bytes};
use super::references::References;
use super::settle::Settler;
use super::start::{Started, Starter};
use super::verdicts::{counted, outcome, verdict};
use crate::assets::picture::{Thumbnailer, inspect, thumbnail_name};
use crate::assets::{AssetError, AssetStore};
use crate::clock::Clock;
use crate::domain::ids::AttemptId;
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{MAX_TRIES, Outcome, Settlement, decide};
use crate::domain::picture::{Picture, Receipt, ReferenceImage, Sha256Hex};
use crate::domain::prices::{PriceTable, Usage};
use crate::domain::state::{ErrorCode, ImageError};
use crate::failpoint;
use crate::provider::{Answer, ImageCall, ImageProvider, ProviderError};
use crate::store::{CallSpec, Job, Store, StoreError};
use crate::telemetry::metrics::{CallOutcome, Metrics};
use crate::telemetry::traces::Traces;

/// Tries to store a picture that was paid for before it is given up.
const STORE_TRIES: u32 = 5;
/// The pause between tries against a store that is away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What an execution must heed.
#[derive(Debug, Clone)]
pub struct Signals {
    /// No call starts any more.
    pub draining: CancellationToken,
    /// Calls under way are given up.
    pub aborting: CancellationToken,
}

/// The parts that making a picture needs.
pub struct Executor {
    /// The truth.
    pub store: Arc<Store>,
    /// Who draws.
    pub provider: Arc<dyn ImageProvider>,
    /// Where pictures go.
    pub assets: Arc<dyn AssetStore>,
    /// Where references come from.
    pub references: References,
    /// What answers cost.
    pub prices: Arc<PriceTable>,
    /// Makes thumbnails; `None` while they are switched off.
    pub thumbnails: Option<Thumbnailer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who records that calls begin.
    pub starter: Starter,
    /// Who writes how attempts ended.
    pub settler: Settler,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where attempts leave their spans.
    pub traces: Traces,
    /// Whether a call may start.
    pub admission: Admission,
    /// What the pictures of all calls may take of the memory.
    pub memory: PictureMemory,
    /// The deadline of one call.
    pub call_timeout: Duration,
    /// The first pause of the backoff.
    pub backoff_step: Duration,
    /// Made when this process started. An older attempt may be a backup's, from before its call.
    pub since: AttemptId,
}

/// A place among the pictures that are made ready or whose call is under way. Given back when the call
/// ended: the next one does not wait for the picture to be stored.
pub struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Slot {
    /// Gives `permit` back and tells `freed` when it is dropped.
    #[must_use]
    pub const fn new(permit: OwnedSemaphorePermit, freed: Arc<Notify>) -> Self {
        Self { permit: Some(permit), freed }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_one();
    }
}

/// How an execution ended.
struct Ended {
    outcome: Outcome,
    request_id: Option<String>,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, request_id: None }
    }
}

impl Executor {
    /// Makes the picture of `job` and settles it; leaves the claim as it is when the service stops first.
    /// A job that was left behind by a dead worker has no `slot`.
    pub async fn run(&self, job: Job, slot: Option<Slot>, signals: &Signals) {
        let begun = self.clock.monotonic();
        let mut course = Course::begin(self.clock.clone(), job.started_at.filter(|_| job.started));
        let ended = if job.started {
            self.reconcile(&job, signals).await
        } else {
            self.attempt(&job, slot, &mut course, signals).await
        };
        if let Some(ended) = ended {
            let is_made = matches!(ended.outcome, Outcome::Made { .. });
            self.settle(&job, ended, course, signals).await;
            if is_made {
                self.metrics.picture_took(&job.model, self.clock.monotonic().saturating_sub(begun));
            }
        }
    }

    /// Finds out what became of a call that a dead worker had started.
    async fn reconcile(&self, job: &Job, signals: &Signals) -> Option<Ended> {
        let found = self.find(job, &[job.claim.attempt], job.number, signals).await?;
        let outcome = if let Some(receipt) = found {
            Outcome::Made { picture: receipt.picture, cost: receipt.cost }
        } else {
            self.metrics.call_ended(&job.model, CallOutcome::Unknown);
            Outcome::Unknown
        };
        let (image, attempt, adopted) = (job.claim.image, job.claim.attempt, outcome != Outcome::Unknown);
        tracing::warn!(%image, %attempt, adopted, "settling a call of a dead worker");
        failpoint::hit("execute.reconciled");
        Some(outcome.into())
    }

    async fn attempt(&self, job: &Job, slot: Option<Slot>, course: &mut Course, signals: &Signals) -> Option<Ended> {
        failpoint::hit("execute.claimed");
        if let Some(receipt) = self.find_earlier(job, signals).await? {
            return Some(Outcome::FoundEarlier { picture: receipt.picture }.into());
        }
        if job.claim.attempt < self.since
            && let Some(receipt) = self.find(job, &[job.claim.attempt], job.number, signals).await?
        {
            return self.adopt(job, receipt, signals).await;
        }
        let spec = match &job.call {
            Ok(spec) => spec,
            Err(fault) => {
                tracing::error!(image = ?job.claim.image, fault, "a picture in the database is damaged");
                let detail = "what was asked for cannot be read from the database any more";
                return Some(Outcome::Refused(ImageError::lasting(ErrorCode::ProviderError, detail)).into());
            }
        };
        if let Some(outcome) = self.admission.forbids(job.claim.image.batch, &job.model).await {
            return Some(outcome.into());
        }
        let mut share = tokio::select! {
            share = self.memory.share(spec.image_size, spec.references.len()) => share,
            () = signals.draining.cancelled() => return None,
        };
        let gathered = self.references.gather(job, &spec.references, &signals.draining);
        let gathered = match spec.references.as_slice() {
            [] => gathered.await?,
            _ => course.step(course::REFERENCES, gathered).await?,
        };
        let references = match gathered {
            Ok(references) => references,
            Err(error) => {
                course.failed(error.code.as_str());
                return Some(Outcome::Refused(error).into());
            }
        };
        share.gathered(references.iter().map(|reference| reference.bytes.len() as u64).sum());
        let call = match self.call(job, spec, references) {
            Ok(call) => call,
            Err(error) => return Some(Outcome::Refused(error).into()),
        };
        let permit = match self.admission.admit(job.claim.image.batch, &job.model, signals).await {
            Admitted::Go(permit) => permit,
            Admitted::Postpone(span) => return Some(Outcome::Postponed(span).into()),
            Admitted::Refuse(error) => return Some(Outcome::Refused(error).into()),
            Admitted::Stop => return None,
        };
        failpoint::hit("execute.prepared");
        let started = self.start(job, signals).await;
        if let Some(Started::Durably) = started {
            return Some(self.send(job, Ready { call, share, permit }, slot, course, signals).await);
        }
        self.admission.unused(permit).await;
        started.map(|_| Outcome::Postponed(RETRY_PAUSE).into())
    }

    /// Takes the picture of a call that the database has forgotten, at its own cost: it was put back to a backup, and
    /// the ledger did not hold the call's line yet.
    async fn adopt(&self, job: &Job, receipt: Receipt, signals: &Signals) -> Option<Ended> {
        tracing::warn!(image = %job.claim.image, attempt = %job.claim.attempt, "a picture was paid for already");
        let outcome = match self.start(job, signals).await? {
            Started::Durably => Outcome::Made { picture: receipt.picture, cost: receipt.cost },
            Started::InDoubt => Outcome::Postponed(RETRY_PAUSE),
        };
        Some(outcome.into())
    }

    /// The stored picture of an earlier attempt whose outcome is not known, or whose picture the store took without
    /// being able to say so. An import guesses the numbers of calls that a backup does not know, so that each name is
    /// looked at that may be one's.
    async fn find_earlier(&self, job: &Job, signals: &Signals) -> Option<Option<Receipt>> {
        let (attempts, numbers): (Vec<AttemptId>, Vec<u32>) = job.earlier_charged.iter().copied().unzip();
        let Some(last) = numbers.into_iter().max() else { return Some(None) };
        let guessed_short = if job.claim.attempt < self.since { MAX_TRIES } else { 0 };
        for number in 1..=last + guessed_short {
            if let Some(receipt) = self.find(job, &attempts, number, signals).await? {
                return Some(Some(receipt));
            }
        }
        Some(None)
    }

    /// The picture stored under `number`, if one of `attempts` made it. Only a definite "not there" is `Some(None)`.
    async fn find(&self, job: &Job, attempts: &[AttemptId], number: u32, signals: &Signals) -> Option<Option<Receipt>> {
        let stem = job.claim.image.object_stem(number);
        loop {
            match self.assets.find(&stem).await {
                Ok(found) => return Some(found.filter(|receipt| attempts.contains(&receipt.attempt))),
                Err(AssetError::Damaged(_)) => {
                    tracing::error!(%stem, "a picture's receipt is damaged: nobody can say which call made it");
                    return Some(None);
                }
                Err(error) => tracing::warn!(%stem, error = %describe(&error), "cannot look for a paid picture"),
            }
            pause(RETRY_PAUSE, &signals.draining).await?;
        }
    }

    fn call(&self, job: &Job, spec: &CallSpec, references: Vec<ReferenceImage>) -> Result<ImageCall, ImageError> {
        let unpriced = || ImageError::lasting(ErrorCode::ProviderError, "the model is not in the price table any more");
        let model = self.prices.get(&job.model).ok_or_else(unpriced)?;
        Ok(ImageCall {
            attempt: job.claim.attempt,
            model: job.model.clone(),
            prompt: job.prompt.clone(),
            variant: job.claim.image.variant,
            aspect_ratio: spec.aspect_ratio,
            image_size: spec.image_size,
            references,
            max_answer_bytes: max_answer_bytes(spec.image_size),
            output_cap: model.output_cap(spec.image_size).map_err(|_| unpriced())?,
        })
    }

    /// Records the start durably. `None` when the service stops first, or the claim was lost.
    async fn start(&self, job: &Job, signals: &Signals) -> Option<Started> {
        if signals.draining.is_cancelled() {
            return None;
        }
        self.starter.start(job.claim).await
    }

    /// Sends the call and stores what it made.
    async fn send(
        &self,
        job: &Job,
        ready: Ready<'_>,
        slot: Option<Slot>,
        course: &mut Course,
        signals: &Signals,
    ) -> Ended {
        failpoint::hit("execute.started");
        let Ready { call, share, mut permit } = ready;
        if !self.admission.send(&mut permit).await {
            return Outcome::Postponed(RETRY_PAUSE).into();
        }
        let flight = self.metrics.call();
        let sent = async {
            tokio::select! {
                answer = tokio::time::timeout(self.call_timeout, self.provider.generate(&call)) => Some(answer),
                () = signals.aborting.cancelled() => None,
            }
        };
        let Some(answer) = course.step(course::CALL, sent).await else {
            self.metrics.call_ended(&job.model, CallOutcome::Unknown);
            course.failed("interrupted");
            return Outcome::Interrupted.into();
        };
        let answer = answer.unwrap_or_else(|_| Err(ProviderError::OutcomeUnknown("no answer in time".to_owned())));
        flight.ended(&job.model);
        failpoint::hit("execute.answered");
        self.metrics.call_ended(&job.model, counted(answer.as_ref().err()));
        let default_pause = self.admission.default_pause();
        let verdict = verdict(answer.as_ref().err(), default_pause);
        self.admission.ended(job.claim.image.batch, &job.model, permit, verdict).await;
        drop((slot, call));
        match answer {
            Ok(answer) => self.answered(job, answer, share, course, signals).await,
            Err(error) => {
                course.failed(course::fault_of(&error));
                // In the provider's own words, which may repeat what it was asked.
                tracing::debug!(image = %job.claim.image, %error, "call failed");
                outcome(error, default_pause).into()
            }
        }
    }

    /// Stores what is in an answer; its share of the memory is what it has, and is given back when that is written.
    async fn answered(
        &self,
        job: &Job,
        answer: Answer,
        mut share: Share,
        course: &mut Course,
        signals: &Signals,
    ) -> Ended {
        share.answered(answer.picture.as_ref().map_or(0, |bytes| bytes.len() as u64));
        let cost = answer.usage.and_then(|usage| self.cost(job, &usage));
        let outcome = match answer.picture {
            Err(error) => {
                course.failed(error.code.as_str());
                Outcome::PaidInVain { error, cost }
            }
            Ok(bytes) => match course.step(course::STORE, self.keep(job, bytes, answer.usage, cost, signals)).await {
                Ok(picture) => Outcome::Made { picture, cost },
                Err(error) => {
                    course.failed(error.code.as_str());
                    Outcome::PaidInVain { error, cost }
                }
            },
        };
        Ended { outcome, request_id: answer.request_id }
    }

    /// What the usage costs; `None`, and so the reserve, if the usage is absurd.
    fn cost(&self, job: &Job, usage: &Usage) -> Option<MicroUsd> {
        self.prices.get(&job.model)?.cost(usage).ok()
    }

    /// Stores a paid picture with its receipt, patiently as long as the service does not have to stop.
    async fn keep(
        &self,
        job: &Job,
        bytes: Bytes,
        usage: Option<Usage>,
        cost: Option<MicroUsd>,
        signals: &Signals,
    ) -> Result<Picture, ImageError> {
        let inspected = inspect(&bytes)
            .map_err(|_| ImageError::passing(ErrorCode::NoImage, "the provider's answer holds no readable picture"))?;
        let stem = job.claim.image.object_stem(job.number);
        let thumbnail = match &self.thumbnails {
            Some(thumbnails) => thumbnails.make(bytes.clone()).await,
            None => None,
        };
        let picture = Picture {
            object: format!("{stem}.{}", inspected.format.ending()),
            format: inspected.format,
            width: inspected.width,
            height: inspected.height,
            bytes: bytes.len() as u64,
            sha256: Sha256Hex::of(&bytes).to_string(),
            thumbnail: thumbnail.as_ref().map(|_| thumbnail_name(&stem)),
        };
        let receipt = Receipt { attempt: job.claim.attempt, usage, cost, picture };
        let mut tries = 1;
        loop {
            match self.assets.store(bytes.clone(), thumbnail.clone(), &receipt).await {
                Ok(()) => {
                    failpoint::hit("execute.stored");
                    return Ok(receipt.picture);
                }
                Err(error) => {
                    tracing::error!(%stem, tries, error = %describe(&error), "cannot store a paid picture");
                    let last = tries >= STORE_TRIES || matches!(error, AssetError::Conflict(_));
                    if last || pause(RETRY_PAUSE * tries, &signals.aborting).await.is_none() {
                        let detail = "the picture was made and paid for, and could not be stored";
                        return Err(ImageError::passing(ErrorCode::StorageError, detail));
                    }
                }
            }
            tries += 1;
        }
    }

    /// Writes the end of an attempt; keeps trying until the service stops.
    async fn settle(&self, job: &Job, ended: Ended, course: Course, signals: &Signals) {
        let ending = Ending::of(&ended.outcome);
        let jitter = rand::random::<f64>();
        let now = self.store.steady_now();
        let decided = decide(job.claim, ended.outcome, job.history, now, self.backoff_step, jitter);
        let settlement = Settlement { request_id: ended.request_id, ..decided };
        let settled = loop {
            let error = match self.settler.settle(job, &settlement).await {
                Ok(settled) => break settled,
                Err(error) => error,
            };
            tracing::error!(image = %job.claim.image, error = %describe(&error), "cannot settle a call");
            if matches!(error, StoreError::Corrupt(_)) {
                // Trying again cannot mend it, and must not keep others from their turn.
                return;
            }
            if pause(RETRY_PAUSE, &signals.aborting).await.is_none() {
                return;
            }
        };
        course.tell(&self.traces, job, &ending, &settlement, settled);
    }
}

/// A call that can be sent, and what it holds meanwhile.
struct Ready<'a> {
    call: ImageCall,
    share: Share,
    permit: Permit<'a>,
}

/// Sleeps; `None` if `stop` comes first.
async fn pause(span: Duration, stop: &CancellationToken) -> Option<()> {
    tokio::select! {
        () = tokio::time::sleep(span) => Some(()),
        () = stop.cancelled() => None,
    }
}

/// An error with its causes, for one log line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
