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

/// The model that is ours: nothing goes into it.
pub const OWN_MODEL: &str = "synthetic";
/// Pictures drawn at once: drawing takes a whole core.
const DRAWN_AT_ONCE: usize = 2;
/// Tokens that a reference counts as, in the usage of a rehearsed model.
const REFERENCE_TOKENS: u64 = 258;
/// Text tokens of an answer, in the usage of a rehearsed model that may answer with text.
const TEXT_TOKENS: u64 = 20;
/// What `[429]` asks to wait.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long the day of `[quota]` goes on.
const QUOTA_RESET: Duration = Duration::from_mins(1);

/// Draws pictures instead of calling a paid model.
pub struct Synthetic {
    prices: Arc<PriceTable>,
    latency: Duration,
    markers: Markers,
    permits: Arc<Semaphore>,
}

impl Synthetic {
    /// Answers after `latency`, with usage that `prices` can settle.
    #[must_use]
    pub fn new(prices: Arc<PriceTable>, latency: Duration) -> Self {
        Self { prices, latency, markers: Markers::default(), permits: Arc::new(Semaphore::new(DRAWN_AT_ONCE)) }
    }

    /// The usage of an answer with `pictures` pictures: never more than what was reserved for it.
    fn usage(&self, call: &ImageCall, pictures: u64) -> Option<Usage> {
        let model = self.prices.get(&call.model)?;
        let size = model.sizes.get(&call.image_size)?;
        let read = (call.prompt.len() as u64 / 4).max(1) + REFERENCE_TOKENS * call.references.len() as u64;
        Some(Usage {
            input_tokens: if call.model == OWN_MODEL { 0 } else { read },
            image_tokens: pictures * u64::from(size.tokens),
            text_tokens: TEXT_TOKENS.min(model.max_text_tokens.into()),
        })
    }

    async fn picture(&self, call: &ImageCall) -> Result<Bytes, ProviderError> {
        let call = call.clone();
        let drawn = off_the_async_threads(&self.permits, move || draw::picture(&call)).await?;
        drawn.map_err(|error| cannot_draw(&error))
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
            Ending::Quota => Err(ProviderError::QuotaExhausted { resets_in: QUOTA_RESET }),
            Ending::Drop => {
                Err(ProviderError::OutcomeUnknown("the connection was dropped after it was paid".to_owned()))
            }
            Ending::Stall => std::future::pending().await,
        }
    }
}

/// Does `work` on a blocking thread, within the bound of `permits`.
///
/// The permit goes with the work: a call that is given up at its deadline leaves its drawing behind,
/// which still takes a core.
async fn off_the_async_threads<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ProviderError> {
    let permit = permits.clone().acquire_owned().await.map_err(|error| cannot_draw(&error))?;
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    done.await.map_err(|error| cannot_draw(&error))
}

fn cannot_draw(cause: &dyn std::fmt::Display) -> ProviderError {
    ProviderError::Failed(format!("cannot draw: {cause}"))
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
            max_answer_bytes: 64 << 20,
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

    fn reference(colour: [u8; 3]) -> ReferenceImage {
        let mut bytes = Vec::new();
        let square = image::RgbImage::from_pixel(64, 64, image::Rgb(colour));
        DynamicImage::from(square).write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        ReferenceImage { bytes: bytes.into(), format: PictureFormat::Png, mode: ReferenceMode::StyleOnly }
    }

    #[tokio::test]
    async fn every_reference_is_shown_whatever_the_shape_of_the_picture() {
        let colours = [0, 51, 102, 153, 204, 255].map(|red| [red, 255, 0]);
        for (width, height) in AspectRatio::ALL {
            let aspect_ratio = AspectRatio { width, height };
            let references = colours.map(reference).to_vec();
            let call = ImageCall { aspect_ratio, references, ..call("a cup") };
            let picture = decode(&draw(&call).await).to_rgb8();
            for colour in colours {
                let shown = picture.pixels().filter(|pixel| pixel.0 == colour).count();
                assert!(shown > 1_000, "{aspect_ratio}: {shown} pixels of {colour:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_drawing_that_was_given_up_holds_its_permit_until_it_ends() {
        let permits = Arc::new(Semaphore::new(1));
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let work = off_the_async_threads(&permits, move || {
            started.send(()).unwrap();
            held.recv()
        });
        tokio::select! {
            _ = work => panic!("the work is held"),
            start = has_started => start.unwrap(),
        }
        assert_eq!(permits.available_permits(), 0);
        let_go.send(()).unwrap();
        assert!(permits.acquire().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_takes_the_latency_and_names_its_attempt() {
        let latency = Duration::from_secs(7);
        let (provider, call, start) =
            (Synthetic::new(prices(), latency), call("[refuse]"), tokio::time::Instant::now());
        let answer = provider.generate(&call).await.unwrap();
        assert_eq!(start.elapsed(), latency);
        assert_eq!(answer.request_id, Some(format!("syn-{}", call.attempt)));
    }

    #[test]
    fn the_own_model_reads_no_tokens_and_a_picture_that_was_not_made_has_none() {
        let (provider, prices) = (provider(), prices());
        let own = provider.usage(&call("a red cup"), 1).unwrap();
        assert_eq!((own.input_tokens, own.text_tokens), (0, 0));
        for model in prices.models().filter(|model| model.id != OWN_MODEL) {
            let refused = ImageCall { model: model.id.clone(), ..call("a red cup") };
            let usage = provider.usage(&refused, 0).unwrap();
            assert_eq!((usage.input_tokens, usage.image_tokens, usage.text_tokens), (2, 0, 20), "{}", model.id);
        }
    }

    #[tokio::test]
    async fn every_marker_has_its_ending() {
        let provider = provider();
        let end = async |prompt: &str| match provider.generate(&call(prompt)).await {
            Ok(Answer { picture: Ok(_), usage: Some(_), .. }) => "picture".to_owned(),
            Ok(Answer { picture: Ok(_), usage: None, .. }) => "picture without usage".to_owned(),
            Ok(Answer { picture: Err(error), .. }) => format!("paid {}", error.code.as_str()),
            Err(ProviderError::Throttled { retry_after }) => format!("throttled {retry_after:?}"),
            Err(ProviderError::QuotaExhausted { .. }) => "quota exhausted".to_owned(),
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
            ("[quota]", "quota exhausted", "quota exhausted"),
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
                    references: vec![
                        Reference {
                            url: String::new().into(),
                            mode: ReferenceMode::StyleOnly,
                            sha256: None
                        };
                        6
                    ],
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
