//! The references of a picture, each as a picture: where each comes from, and what is said if one does not.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::own_references::OwnReferences;
use crate::domain::picture::ReferenceImage;
use crate::domain::spec::Reference;
use crate::domain::state::ImageError;
use crate::references::{ReferenceError, ReferenceSource};
use crate::store::Job;

/// Gets references.
pub struct References {
    web: Arc<dyn ReferenceSource>,
    own: OwnReferences,
}

impl References {
    /// What strangers wrote comes from `web`, what is kept here from `own`.
    #[must_use]
    pub const fn new(web: Arc<dyn ReferenceSource>, own: OwnReferences) -> Self {
        Self { web, own }
    }

    /// All references of `job`, or the first that cannot be had; `None` when the service stops first.
    pub async fn gather(
        &self,
        job: &Job,
        references: &[Reference],
        draining: &CancellationToken,
    ) -> Option<Result<Vec<ReferenceImage>, ImageError>> {
        let mut images = Vec::with_capacity(references.len());
        for (number, reference) in (1..).zip(references) {
            let fetched = tokio::select! {
                fetched = self.get(job, reference) => fetched,
                () = draining.cancelled() => return None,
            };
            match fetched {
                Ok(image) => images.push(image),
                Err(error) => return Some(Err(error.to_image_error(number))),
            }
        }
        Some(Ok(images))
    }

    async fn get(&self, job: &Job, reference: &Reference) -> Result<ReferenceImage, ReferenceError> {
        if let Some(link) = self.own.locate(reference) {
            return self.own.get(&job.owner, &link, reference).await;
        }
        self.web.fetch(reference).await
    }
}
