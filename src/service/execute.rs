//! Making one picture: find what was already paid, fetch references, start, call, store, settle.
//!
//! The order is the promise: the start is durable before a byte is sent, and the picture is durable
//! with its receipt before its charge is settled. Whatever happens between, what was paid is found.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::MoneyRules;
use super::claims::Claims;
use super::gate::Gate;
use super::memory::PictureMemory;
use super::settle::Settler;
use crate::assets::picture::{Thumbnailer, inspect, thumbnail_name};
use crate::assets::{AssetError, AssetStore};
use crate::clock::Clock;
use crate::domain::ids::AttemptId;
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Outcome, Settlement, decide};
use crate::domain::picture::{Picture, Receipt, ReferenceImage, Sha256Hex};
use crate::domain::prices::{PriceTable, Usage};
use crate::domain::state::{ErrorCode, ImageError};
use crate::provider::{Answer, ImageCall, ImageProvider, ProviderError};
use crate::references::ReferenceSource;
use crate::store::{Job, Store};
use crate::telemetry::Counters;

/// Tries to store a picture that was paid for before it is given up.
const STORE_TRIES: u32 = 5;
/// The pause between tries against a store that is away.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a picture waits that was accepted before the service was told to spend nothing.
const NOT_LIVE_PAUSE: Duration = Duration::from_mins(1);
/// How long a picture waits while charges above their reserve keep the day over its limit.
const OVERRUN_PAUSE: Duration = Duration::from_mins(1);

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
    pub references: Arc<dyn ReferenceSource>,
    /// What answers cost.
    pub prices: Arc<PriceTable>,
    /// Makes thumbnails; `None` while they are switched off.
    pub thumbnails: Option<Thumbnailer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who writes how attempts ended.
    pub settler: Settler,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The claims of this process.
    pub claims: Arc<Claims>,
    /// Whether the provider takes calls.
    pub gate: Gate,
    /// What the pictures of all calls may take of the memory.
    pub memory: PictureMemory,
    /// Limits and the ledger's prompts.
    pub rules: MoneyRules,
    /// The deadline of one call.
    pub call_timeout: Duration,
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
    pub async fn run(&self, job: Job, signals: &Signals) {
        let ended = if job.started { self.reconcile(&job, signals).await } else { self.attempt(&job, signals).await };
        if let Some(ended) = ended {
            self.settle(&job, ended, signals).await;
        }
    }

    /// Finds out what became of a call that a dead worker had started.
    async fn reconcile(&self, job: &Job, signals: &Signals) -> Option<Ended> {
        let found = self.find(job, job.claim.attempt, job.number, signals).await?;
        let outcome = match found {
            Some(receipt) => Outcome::Made { picture: receipt.picture, cost: receipt.cost },
            None => Outcome::Unknown,
        };
        let (image, attempt, adopted) = (job.claim.image, job.claim.attempt, outcome != Outcome::Unknown);
        tracing::warn!(%image, %attempt, adopted, "settling a call of a dead worker");
        Some(outcome.into())
    }

    async fn attempt(&self, job: &Job, signals: &Signals) -> Option<Ended> {
        for &(attempt, number) in &job.earlier_unknown {
            if let Some(receipt) = self.find(job, attempt, number, signals).await? {
                return Some(Outcome::FoundEarlier { picture: receipt.picture }.into());
            }
        }
        let mut share = tokio::select! {
            share = self.memory.share(job.references.len()) => share?,
            () = signals.draining.cancelled() => return None,
        };
        let references = match self.fetch_references(job, signals).await? {
            Ok(references) => references,
            Err(error) => return Some(Outcome::Refused(error).into()),
        };
        share.keep(references.iter().map(|reference| reference.bytes.len() as u64).sum());
        let call = match self.call(job, references) {
            Ok(call) => call,
            Err(error) => return Some(Outcome::Refused(error).into()),
        };
        if let Some(postponed) = self.hold_back(signals).await? {
            return Some(postponed.into());
        }
        if let Some(postponed) = self.start(job, signals).await? {
            return Some(postponed.into());
        }
        Some(self.send(job, &call, signals).await)
    }

    /// The stored picture of an earlier attempt. Only a definite "not there" is `Some(None)`.
    async fn find(&self, job: &Job, attempt: AttemptId, number: u32, signals: &Signals) -> Option<Option<Receipt>> {
        let stem = job.claim.image.object_stem(number);
        loop {
            match self.assets.find(&stem).await {
                Ok(found) => return Some(found.filter(|receipt| receipt.attempt == attempt)),
                Err(AssetError::Damaged(_)) => {
                    tracing::error!(%stem, "a picture's receipt is damaged: nobody can say which call made it");
                    return Some(None);
                }
                Err(error) => tracing::warn!(%stem, error = %describe(&error), "cannot look for a paid picture"),
            }
            pause(RETRY_PAUSE, &signals.draining).await?;
        }
    }

    async fn fetch_references(&self, job: &Job, signals: &Signals) -> Option<Result<Vec<ReferenceImage>, ImageError>> {
        let mut images = Vec::with_capacity(job.references.len());
        for (number, reference) in (1..).zip(&job.references) {
            let fetched = tokio::select! {
                fetched = self.references.fetch(reference) => fetched,
                () = signals.draining.cancelled() => return None,
            };
            match fetched {
                Ok(image) => images.push(image),
                Err(error) => return Some(Err(error.to_image_error(number))),
            }
        }
        Some(Ok(images))
    }

    fn call(&self, job: &Job, references: Vec<ReferenceImage>) -> Result<ImageCall, ImageError> {
        let unpriced = || ImageError::lasting(ErrorCode::ProviderError, "the model is not in the price table any more");
        let model = self.prices.get(&job.model).ok_or_else(unpriced)?;
        Ok(ImageCall {
            attempt: job.claim.attempt,
            model: job.model.clone(),
            prompt: job.prompt.clone(),
            variant: job.claim.image.variant,
            aspect_ratio: job.aspect_ratio,
            image_size: job.image_size,
            references,
            output_cap: model.output_cap(job.image_size).map_err(|_| unpriced())?,
        })
    }

    /// Waits while the gate is closed; postpones while the day is over its limit or the claim is in doubt.
    async fn hold_back(&self, signals: &Signals) -> Option<Option<Outcome>> {
        if !self.rules.live {
            return Some(Some(Outcome::Postponed(NOT_LIVE_PAUSE)));
        }
        while let Err(closed) = self.gate.pass() {
            pause(closed, &signals.draining).await?;
        }
        match self.store.is_overrun(&self.rules.limits).await {
            Ok(false) if self.claims.may_start() => Some(None),
            Ok(false) => Some(Some(Outcome::Postponed(self.claims.beat_every()))),
            Ok(true) => Some(Some(Outcome::Postponed(OVERRUN_PAUSE))),
            Err(error) => {
                tracing::warn!(error = %describe(&error), "cannot read the budget before a call");
                Some(Some(Outcome::Postponed(RETRY_PAUSE)))
            }
        }
    }

    /// Records the start durably. `None` when the service stops first, or the claim was lost.
    async fn start(&self, job: &Job, signals: &Signals) -> Option<Option<Outcome>> {
        if signals.draining.is_cancelled() {
            return None;
        }
        match self.store.start(&job.claim, self.clock.now()).await {
            Ok(true) => {
                self.counters.calls_started.increment();
                Some(None)
            }
            Ok(false) => None,
            Err(error) => {
                // It may have been recorded all the same. Nothing was sent, so the attempt is put back either way.
                tracing::warn!(image = %job.claim.image, error = %describe(&error), "cannot record a call's start");
                Some(Some(Outcome::Postponed(RETRY_PAUSE)))
            }
        }
    }

    /// Sends the call and stores what it made.
    async fn send(&self, job: &Job, call: &ImageCall, signals: &Signals) -> Ended {
        let answer = tokio::select! {
            answer = tokio::time::timeout(self.call_timeout, self.provider.generate(call)) => answer,
            () = signals.aborting.cancelled() => return Outcome::Interrupted.into(),
        };
        match answer {
            Err(_) => {
                tracing::warn!(image = %job.claim.image, "no answer within the deadline");
                Outcome::Unknown.into()
            }
            Ok(Err(error)) => self.failed(job, error).into(),
            Ok(Ok(answer)) => self.answered(job, answer).await,
        }
    }

    fn failed(&self, job: &Job, error: ProviderError) -> Outcome {
        tracing::info!(image = %job.claim.image, %error, "call failed");
        match error {
            ProviderError::Throttled { retry_after } => {
                self.gate.close_for(retry_after);
                Outcome::Throttled { retry_after }
            }
            ProviderError::QuotaExhausted { resets_in } => {
                self.gate.close_for(Some(resets_in));
                let detail = "the provider's daily quota is used up; retry the picture when it is reset";
                Outcome::Refused(ImageError::passing(ErrorCode::QuotaExhausted, detail))
            }
            ProviderError::Failed(detail) => Outcome::Failed(ImageError::passing(ErrorCode::ProviderError, detail)),
            ProviderError::Refused(error) => Outcome::Refused(error),
            ProviderError::OutcomeUnknown(_) => Outcome::Unknown,
        }
    }

    async fn answered(&self, job: &Job, answer: Answer) -> Ended {
        let cost = answer.usage.and_then(|usage| self.cost(job, &usage));
        let outcome = match answer.picture {
            Err(error) => Outcome::PaidInVain { error, cost },
            Ok(bytes) => match self.keep(job, bytes, answer.usage, cost).await {
                Ok(picture) => Outcome::Made { picture, cost },
                Err(error) => Outcome::PaidInVain { error, cost },
            },
        };
        Ended { outcome, request_id: answer.request_id }
    }

    /// What the usage costs; `None`, and so the reserve, if the usage is absurd.
    fn cost(&self, job: &Job, usage: &Usage) -> Option<MicroUsd> {
        self.prices.get(&job.model)?.cost(usage).ok()
    }

    /// Stores a paid picture with its receipt, patiently.
    async fn keep(
        &self,
        job: &Job,
        bytes: Bytes,
        usage: Option<Usage>,
        cost: Option<MicroUsd>,
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
                Ok(()) => return Ok(receipt.picture),
                Err(error) => {
                    tracing::error!(%stem, tries, error = %describe(&error), "cannot store a paid picture");
                    if tries >= STORE_TRIES || matches!(error, AssetError::Conflict(_)) {
                        let detail = "the picture was made and paid for, and could not be stored";
                        return Err(ImageError::passing(ErrorCode::StorageError, detail));
                    }
                }
            }
            tokio::time::sleep(RETRY_PAUSE * tries).await;
            tries += 1;
        }
    }

    /// Writes the end of an attempt; keeps trying until the service stops.
    async fn settle(&self, job: &Job, ended: Ended, signals: &Signals) {
        let jitter = rand::random::<f64>();
        let decided = decide(job.claim, ended.outcome, job.history, self.clock.now(), jitter);
        let settlement = Settlement { request_id: ended.request_id, ..decided };
        while let Err(error) = self.settler.settle(job, &settlement).await {
            tracing::error!(image = %job.claim.image, error = %describe(&error), "cannot settle a call");
            if pause(RETRY_PAUSE, &signals.aborting).await.is_none() {
                return;
            }
        }
    }
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
