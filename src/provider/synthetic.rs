//! The provider that ships: free, offline, and able to show every way in which a paid one can end.
//!
//! It draws a real picture from the prompt and answers with usage, by the price table: for its own
//! model `synthetic`, and as a rehearsal for any other model that has a price. Markers in a prompt
//! choose another end; see [`MARKERS`].

mod draw;
mod markers;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

pub use self::markers::MARKERS;

use self::markers::{Ending, Markers};
use super::{Answer, ImageCall, ImageProvider, ProviderError};
use crate::domain::prices::{PriceTable, Usage};
use crate::domain::state::{ErrorCode, ImageError};

/// Pictures drawn at once: drawing takes a whole core.
const DRAWN_AT_ONCE: usize = 2;
/// Tokens that a reference counts as, in the usage of a rehearsed model.
const REFERENCE_TOKENS: u64 = 258;
/// Text tokens of an answer, in the usage of a rehearsed model that may answer with text.
const TEXT_TOKENS: u64 = 20;
/// What `[429]` asks to wait.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Draws pictures instead of calling a paid model.
pub struct Synthetic {
    prices: Arc<PriceTable>,
    latency: Duration,
    markers: Markers,
    permits: Semaphore,
}

impl Synthetic {
    /// Answers after `latency`, with usage that `prices` can settle.
    #[must_use]
    pub fn new(prices: Arc<PriceTable>, latency: Duration) -> Self {
        Self { prices, latency, markers: Markers::default(), permits: Semaphore::new(DRAWN_AT_ONCE) }
    }

    /// The usage of an answer with `pictures` pictures: never more than what was reserved for it.
    fn usage(&self, call: &ImageCall, pictures: u64) -> Option<Usage> {
        let model = self.prices.get(&call.model)?;
        let size = model.sizes.get(&call.image_size)?;
        let input = (call.prompt.len() as u64 / 4).max(1) + REFERENCE_TOKENS * call.references.len() as u64;
        Some(Usage {
            input_tokens: input,
            image_tokens: pictures * u64::from(size.tokens),
            text_tokens: TEXT_TOKENS.min(model.max_text_tokens.into()),
        })
    }

    async fn picture(&self, call: &ImageCall) -> Result<Bytes, ProviderError> {
        let failed = |cause: &dyn std::fmt::Display| ProviderError::Failed(format!("cannot draw: {cause}"));
        let _permit = self.permits.acquire().await.map_err(|error| failed(&error))?;
        let call = call.clone();
        let drawn = tokio::task::spawn_blocking(move || draw::picture(&call)).await;
        drawn.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    fn answer(&self, call: &ImageCall, picture: Result<Bytes, ImageError>) -> Answer {
        let usage = self.usage(call, u64::from(picture.is_ok()));
        Answer { picture, usage, request_id: Some(format!("syn-{}", call.attempt)) }
    }
}

#[async_trait]
impl ImageProvider for Synthetic {
    fn name(&self) -> &'static str {
        "synthetic"
    }

    async fn generate(&self, call: &ImageCall) -> Result<Answer, ProviderError> {
        let ending = self.markers.ending(&call.prompt, call.variant);
        tokio::time::sleep(self.latency).await;
        match ending {
            Ending::Picture => Ok(self.answer(call, Ok(self.picture(call).await?))),
            Ending::PictureWithoutUsage => {
                Ok(Answer { usage: None, ..self.answer(call, Ok(self.picture(call).await?)) })
            }
            Ending::Refuse => Ok(self.answer(call, Err(refusal()))),
            Ending::TextOnly => {
                let error = ImageError::passing(ErrorCode::NoImage, "the provider answered with text alone");
                Ok(self.answer(call, Err(error)))
            }
            Ending::RefuseUnpaid => Err(ProviderError::Refused(refusal())),
            Ending::Fail => Err(ProviderError::Failed("the synthetic provider was told to fail".to_owned())),
            Ending::Throttle => Err(ProviderError::Throttled { retry_after: Some(RETRY_AFTER) }),
            Ending::Drop => {
                Err(ProviderError::OutcomeUnknown("the connection was dropped after it was paid".to_owned()))
            }
            Ending::Stall => std::future::pending().await,
        }
    }
}

fn refusal() -> ImageError {
    ImageError::lasting(ErrorCode::SafetyBlocked, "the provider refused the prompt")
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, GenericImageView as _, ImageFormat};
    use ulid::Ulid;

    use super::*;
    use crate::domain::ids::AttemptId;
    use crate::domain::picture::{PictureFormat, ReferenceImage};
    use crate::domain::prices::EMBEDDED;
    use crate::domain::spec::{AspectRatio, ImageSize, ItemSpec, Reference, ReferenceMode};

    fn prices() -> Arc<PriceTable> {
        Arc::new(PriceTable::parse(EMBEDDED).unwrap())
    }

    fn provider() -> Synthetic {
        Synthetic::new(prices(), Duration::ZERO)
    }

    fn call(prompt: &str) -> ImageCall {
        ImageCall {
            attempt: AttemptId::new(Ulid::nil()),
            model: "synthetic".to_owned(),
            prompt: prompt.to_owned(),
            variant: 1,
            aspect_ratio: AspectRatio::default(),
            image_size: ImageSize::default(),
            references: Vec::new(),
            output_cap: 1_000,
        }
    }

    async fn draw(call: &ImageCall) -> Bytes {
        provider().generate(call).await.unwrap().picture.unwrap()
    }

    fn decode(bytes: &Bytes) -> DynamicImage {
        image::load_from_memory_with_format(bytes, ImageFormat::Png).unwrap()
    }

    #[tokio::test]
    async fn the_same_call_draws_the_same_picture_and_another_variant_another() {
        let first = call("a red cup on a table");
        let picture = draw(&first).await;
        assert_eq!(decode(&picture).dimensions(), (1024, 1024));
        assert_eq!(draw(&first).await, picture);
        assert_ne!(draw(&ImageCall { variant: 2, ..first.clone() }).await, picture);
        let wide = ImageCall { aspect_ratio: "16:9".parse().unwrap(), ..first };
        assert_eq!(decode(&draw(&wide).await).dimensions(), (1024, 576));
    }

    #[tokio::test]
    async fn references_are_shown_in_the_picture() {
        let mut green = Vec::new();
        let mut square = image::RgbImage::new(64, 64);
        square.pixels_mut().for_each(|pixel| pixel.0 = [0, 255, 0]);
        DynamicImage::from(square).write_to(&mut Cursor::new(&mut green), ImageFormat::Png).unwrap();
        let reference =
            ReferenceImage { bytes: green.into(), format: PictureFormat::Png, mode: ReferenceMode::StyleOnly };
        let picture = decode(&draw(&ImageCall { references: vec![reference], ..call("a cup") }).await).to_rgb8();
        let shown = picture.pixels().filter(|pixel| pixel.0 == [0, 255, 0]).count();
        assert!(shown > 5_000, "{shown} green pixels");
    }

    #[tokio::test]
    async fn every_marker_has_its_ending() {
        let provider = provider();
        let end = async |prompt: &str| match provider.generate(&call(prompt)).await {
            Ok(Answer { picture: Ok(_), usage: Some(_), .. }) => "picture".to_owned(),
            Ok(Answer { picture: Ok(_), usage: None, .. }) => "picture without usage".to_owned(),
            Ok(Answer { picture: Err(error), .. }) => format!("paid {}", error.code.as_str()),
            Err(ProviderError::Throttled { retry_after }) => format!("throttled {retry_after:?}"),
            Err(ProviderError::Failed(_)) => "failed".to_owned(),
            Err(ProviderError::Refused(error)) => format!("unpaid {}", error.code.as_str()),
            Err(ProviderError::OutcomeUnknown(_)) => "unknown".to_owned(),
        };
        for (prompt, first, second) in [
            ("a cup", "picture", "picture"),
            ("[refuse] a cup", "paid safety_blocked", "paid safety_blocked"),
            ("[refuse-unpaid] a cup", "unpaid safety_blocked", "unpaid safety_blocked"),
            ("a cup [text-only]", "paid no_image", "paid no_image"),
            ("[no-usage]", "picture without usage", "picture without usage"),
            ("[fail]", "failed", "failed"),
            ("[fail-once]", "failed", "picture"),
            ("[429]", "throttled Some(2s)", "picture"),
            ("[429-always]", "throttled Some(2s)", "throttled Some(2s)"),
            ("[drop]", "unknown", "unknown"),
            ("[drop-once]", "unknown", "picture"),
        ] {
            assert_eq!(end(prompt).await, first, "{prompt}");
            assert_eq!(end(prompt).await, second, "{prompt} again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_call_never_ends() {
        let provider = provider();
        let call = call("[stall]");
        let stalled = tokio::time::timeout(Duration::from_hours(24), provider.generate(&call)).await;
        assert!(stalled.is_err());
    }

    #[test]
    fn the_usage_never_costs_more_than_was_reserved() {
        let (prices, provider) = (prices(), provider());
        let reference =
            ReferenceImage { bytes: Bytes::new(), format: PictureFormat::Png, mode: ReferenceMode::StyleOnly };
        for model in prices.models() {
            for &image_size in model.sizes.keys() {
                let references = vec![reference.clone(); 6];
                let call = ImageCall { model: model.id.clone(), image_size, references, ..call("x") };
                let item = ItemSpec {
                    scene_id: "s".parse().unwrap(),
                    prompt: call.prompt.clone(),
                    variants: 1,
                    references: vec![Reference { url: String::new(), mode: ReferenceMode::StyleOnly, sha256: None }; 6],
                    aspect_ratio: call.aspect_ratio,
                    image_size,
                };
                let usage = provider.usage(&call, 1).unwrap();
                assert!(model.cost(&usage).unwrap() <= model.reserve(&item).unwrap(), "{}", model.id);
                assert!(usage.image_tokens + usage.text_tokens <= model.output_cap(image_size).unwrap().into());
            }
        }
    }
}
