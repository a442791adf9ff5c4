//! The ends of attempts in the service's own words.

use std::time::Duration;

use orchestrator::domain::money::MicroUsd;
use orchestrator::domain::outcome::Outcome;
use orchestrator::domain::picture::{Picture, PictureFormat};
use orchestrator::domain::state::{ErrorCode, ImageError};

use super::steps::End;

fn picture() -> Picture {
    let (object, sha256) = ("images/x.png".to_owned(), String::new());
    Picture { object, format: PictureFormat::Png, width: 1, height: 1, bytes: 1, sha256, thumbnail: None }
}

/// What `decide` is asked about an end.
pub(crate) fn outcome(end: End) -> Outcome {
    let error = |code| ImageError::passing(code, "x");
    let picture = picture();
    match end {
        End::Made(cost) => Outcome::Made { picture, cost: Some(MicroUsd::from_micros(cost)) },
        End::MadeUnpriced => Outcome::Made { picture, cost: None },
        End::Found => Outcome::FoundEarlier { picture },
        End::Vain(cost) => {
            Outcome::PaidInVain { error: error(ErrorCode::NoImage), cost: Some(MicroUsd::from_micros(cost)) }
        }
        End::Refused => Outcome::Refused(error(ErrorCode::NoImage)),
        End::Failed => Outcome::Failed(error(ErrorCode::ProviderError)),
        End::Throttled => Outcome::Throttled(Duration::ZERO),
        End::Postponed => Outcome::Postponed(Duration::ZERO),
        End::Unknown => Outcome::Unknown,
        End::Interrupted => Outcome::Interrupted,
    }
}
