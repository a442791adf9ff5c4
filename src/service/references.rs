//! The references of a picture, each as a picture. Each distinct one is fetched once a batch, however many
//! rows share it: it is in memory while a picture under way needs it, and on the shelf as long as there is room.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio_util::sync::CancellationToken;

use super::own_references::OwnReferences;
use crate::assets::LinkedObject;
use crate::clock::Clock;
use crate::domain::ids::BatchId;
use crate::domain::picture::{PictureFormat, ReferenceImage, Sha256Hex};
use crate::domain::spec::Reference;
use crate::domain::state::ImageError;
use crate::references::{Kept, ReferenceError, ReferenceShelf, ReferenceSource};
use crate::store::Job;
use crate::telemetry::metrics::{Metrics, ReferenceOutcome};

/// A reference that failed is not asked for again before this time: a thousand rows may share it.
const FAILURE_REMEMBERED: Duration = Duration::from_secs(10);
/// Failures that are remembered; with more all are forgotten.
const MAX_FAILURES: usize = 1_000;

/// Gets references.
pub struct References {
    web: Arc<dyn ReferenceSource>,
    own: OwnReferences,
    shelf: Arc<dyn ReferenceShelf>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    flights: Mutex<HashMap<String, Weak<Flight>>>,
    failures: Mutex<HashMap<String, (Duration, ReferenceError)>>,
}

/// What everyone shares who needs the same reference at the same time; lives as long as its picture.
#[derive(Default)]
struct Flight {
    /// Held by the one who fetches; the others wait for it and find the picture.
    picture: tokio::sync::Mutex<Weak<Picture>>,
}

/// A fetched picture, in memory for as long as somebody holds it.
struct Picture {
    bytes: Bytes,
    format: PictureFormat,
    sha256: Sha256Hex,
    /// Where others find it.
    _flight: Arc<Flight>,
}

/// The bytes of a picture that they keep in memory.
struct Held(Arc<Picture>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl References {
    /// What strangers wrote comes from `web`, what is stored here from `own`; both are kept on `shelf`.
    #[must_use]
    pub fn new(
        web: Arc<dyn ReferenceSource>,
        own: OwnReferences,
        shelf: Arc<dyn ReferenceShelf>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { web, own, shelf, clock, metrics, flights: Mutex::default(), failures: Mutex::default() }
    }

    /// All references of `job`, equal ones once, or why the first of the others cannot be had; `None` when
    /// the service stops first.
    pub async fn gather(
        &self,
        job: &Job,
        references: &[Reference],
        draining: &CancellationToken,
    ) -> Option<Result<Vec<ReferenceImage>, ImageError>> {
        let mut pictures: FuturesOrdered<_> = references.iter().map(|reference| self.get(job, reference)).collect();
        let (mut images, mut seen) = (Vec::with_capacity(references.len()), BTreeSet::new());
        for (number, reference) in (1..).zip(references) {
            let picture = tokio::select! {
                picture = pictures.next() => picture?,
                () = draining.cancelled() => return None,
            };
            match picture {
                Ok(picture) if !seen.insert(picture.sha256.to_string()) => {}
                Ok(picture) => {
                    let format = picture.format;
                    images.push(ReferenceImage {
                        bytes: Bytes::from_owner(Held(picture)),
                        format,
                        mode: reference.mode,
                    });
                }
                Err(error) => return Some(Err(error.to_image_error(number))),
            }
        }
        Some(Ok(images))
    }

    async fn get(&self, job: &Job, reference: &Reference) -> Result<Arc<Picture>, ReferenceError> {
        let link = self.own.locate(reference);
        let name = name(job.claim.image.batch, reference, link.as_ref());
        let flight = self.flight(&name);
        let mut slot = flight.picture.lock().await;
        if let Some(picture) = slot.upgrade() {
            return Ok(picture);
        }
        if let Some(error) = self.recent_failure(&name) {
            return Err(error);
        }
        let kept = match self.shelf.take(&name).await {
            Some(kept) => {
                self.metrics.reference(ReferenceOutcome::Cached);
                kept
            }
            None => self.fetch(&name, job, reference, link.as_ref()).await?,
        };
        let sha256 = Sha256Hex::of(&kept.bytes);
        let picture = Arc::new(Picture { bytes: kept.bytes, format: kept.format, sha256, _flight: flight.clone() });
        *slot = Arc::downgrade(&picture);
        Ok(picture)
    }

    async fn fetch(
        &self,
        name: &str,
        job: &Job,
        reference: &Reference,
        link: Option<&LinkedObject>,
    ) -> Result<Kept, ReferenceError> {
        let fetched = match link {
            Some(link) => self.own.get(&job.owner, link, reference).await,
            None => self.web.fetch(reference).await,
        };
        self.metrics.reference(counted(fetched.as_ref().err(), link.is_some()));
        match fetched {
            Ok(image) => {
                let kept = Kept { bytes: image.bytes, format: image.format };
                self.shelf.put(name, kept.clone()).await;
                Ok(kept)
            }
            Err(error) => {
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                if failures.len() >= MAX_FAILURES {
                    failures.clear();
                }
                failures.insert(name.to_owned(), (self.clock.monotonic(), error.clone()));
                Err(error)
            }
        }
    }

    fn flight(&self, name: &str) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(name).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::default();
        flights.insert(name.to_owned(), Arc::downgrade(&flight));
        flight
    }

    fn recent_failure(&self, name: &str) -> Option<ReferenceError> {
        let now = self.clock.monotonic();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (at, _)| now.saturating_sub(*at) < FAILURE_REMEMBERED);
        failures.get(name).map(|(_, error)| error.clone())
    }
}

/// As what a reference counts that came from the service's `own` pictures or from the web, or did not.
const fn counted(error: Option<&ReferenceError>, own: bool) -> ReferenceOutcome {
    match error {
        None if own => ReferenceOutcome::Own,
        None => ReferenceOutcome::Fetched,
        Some(ReferenceError::Blocked) => ReferenceOutcome::Blocked,
        Some(ReferenceError::TooLarge(_)) => ReferenceOutcome::TooLarge,
        Some(ReferenceError::Unreachable(_) | ReferenceError::Unusable(_)) => ReferenceOutcome::Failed,
    }
}

/// What a reference is kept under: the same for the same promise in the same batch, and the same address or, for a
/// picture of our own, the same object.
fn name(batch: BatchId, reference: &Reference, link: Option<&LinkedObject>) -> String {
    let promise = reference.sha256.as_deref().unwrap_or_default();
    let (kind, place) = link.map_or(("web", reference.url.as_str()), |link| ("own", &link.object));
    Sha256Hex::of(format!("{batch}\n{promise}\n{kind}\n{place}").as_bytes()).to_string()
}
