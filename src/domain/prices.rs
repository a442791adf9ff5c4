//! What a picture costs: the most it can cost before the call, and what it did cost after.
//!
//! The table is data (`prices.toml`); this file reads it, and computes with it. No price, no call.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::money::{MicroUsd, MoneyError, NanoUsd};
use super::spec::{AspectRatio, ImageSize, ItemSpec};
use super::time::Day;

/// The table that ships with the program.
pub const EMBEDDED: &str = include_str!("../../prices.toml");

/// Tokens that an answer says were used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, Deserialize)]
pub struct Usage {
    /// Prompt and references.
    pub input_tokens: u64,
    /// Pictures in the answer.
    pub image_tokens: u64,
    /// Text in the answer, thinking included.
    pub text_tokens: u64,
}

/// Why a model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Nobody told us what it costs.
    #[error("model {model:?} is not in the price table; there are {}", listed(known))]
    Unknown {
        /// The model asked for.
        model: String,
        /// The models that may be called.
        known: Vec<String>,
    },
    /// Its provider shut it down.
    #[error("model {model:?} was shut down on {day}")]
    Retired {
        /// The model asked for.
        model: String,
        /// Its last day.
        day: Day,
        /// What its provider says to use in its place.
        replacement: Option<String>,
    },
    /// The model is priced, this size of it is not.
    #[error("model {model:?} has no price for size {}; it has {}", size.as_str(), listed(priced))]
    SizeUnpriced {
        /// The model asked for.
        model: String,
        /// The size asked for.
        size: ImageSize,
        /// The sizes that are priced.
        priced: Vec<&'static str>,
    },
    /// The model does not make pictures of this shape.
    #[error("model {model:?} has no aspect ratio {aspect_ratio}; it has {}", listed(supported))]
    AspectRatioUnsupported {
        /// The model asked for.
        model: String,
        /// The shape asked for.
        aspect_ratio: AspectRatio,
        /// The shapes that it makes.
        supported: Vec<AspectRatio>,
    },
    /// The amount does not fit.
    #[error(transparent)]
    Money(#[from] MoneyError),
}

/// `names` as part of a sentence.
fn listed(names: &[impl ToString]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Why a price table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not TOML, or not of the expected form.
    #[error("cannot read the price table")]
    Syntax(#[from] toml::de::Error),
    /// An amount is not decimal dollars.
    #[error("model {model}: {field} is not an amount in dollars")]
    Amount {
        /// The model with the bad amount.
        model: String,
        /// The field that holds it.
        field: &'static str,
    },
    /// A shape is not one that this service knows.
    #[error("model {model}: no such aspect ratio {ratio:?}")]
    AspectRatio {
        /// The model with the bad shape.
        model: String,
        /// What stands there.
        ratio: String,
    },
    /// Two entries have one name.
    #[error("model {0} is listed twice")]
    Twice(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    model: Vec<RawModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    id: String,
    provider: String,
    source: String,
    read: Day,
    shutdown: Option<Day>,
    replacement: Option<String>,
    deprecated: Option<String>,
    image_out_per_million: String,
    text_in_per_million: String,
    text_out_per_million: String,
    max_text_tokens: u32,
    prompt_overhead_tokens: u32,
    reference_tokens: u32,
    aspect_ratios: Option<Vec<String>>,
    #[serde(default)]
    size: BTreeMap<String, RawSize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSize {
    tokens: u32,
    listed: String,
}

/// The price of a picture of one size.
#[derive(Debug, Clone, Copy)]
pub struct SizePrice {
    /// Output tokens that the picture counts as.
    pub tokens: u32,
    /// The price of one picture on the provider's page.
    pub listed: MicroUsd,
}

/// One model and what it costs.
#[derive(Debug, Clone)]
pub struct ModelPrice {
    /// The provider's name for it.
    pub id: String,
    /// Whose model it is: the name of a provider in the configuration.
    pub provider: String,
    /// The page that the numbers came from.
    pub source: String,
    /// The day that page was read.
    pub read: Day,
    /// The announced last day, if there is one.
    pub shutdown: Option<Day>,
    /// What to use instead.
    pub replacement: Option<String>,
    /// A warning for its users, while it still works.
    pub deprecated: Option<String>,
    /// The shapes that it makes.
    pub aspect_ratios: Vec<AspectRatio>,
    /// Prices by size.
    pub sizes: BTreeMap<ImageSize, SizePrice>,
    image_token: NanoUsd,
    input_token: NanoUsd,
    text_token: NanoUsd,
    /// Most text and thinking tokens that the request allows beside the picture.
    pub max_text_tokens: u32,
    prompt_overhead_tokens: u32,
    /// The most that one reference counts as, with the words that introduce it.
    pub reference_tokens: u32,
}

/// The price of one token, from dollars a million tokens.
fn per_token(model: &str, field: &'static str, dollars: &str) -> Result<NanoUsd, TableError> {
    let bad = || TableError::Amount { model: model.to_owned(), field };
    let per_million: MicroUsd = dollars.parse().map_err(|_| bad())?;
    if per_million.micros() % 1_000 != 0 {
        return Err(bad());
    }
    Ok(NanoUsd::from_nanos(per_million.micros() / 1_000))
}

/// The shapes that a table lists; every one that there is, if it lists none.
fn aspect_ratios(model: &str, listed: Option<Vec<String>>) -> Result<Vec<AspectRatio>, TableError> {
    let Some(listed) = listed else { return Ok(AspectRatio::every().collect()) };
    let bad = |ratio: String| TableError::AspectRatio { model: model.to_owned(), ratio };
    listed.into_iter().map(|ratio| ratio.parse().map_err(|()| bad(ratio))).collect()
}

impl ModelPrice {
    fn read(raw: RawModel) -> Result<Self, TableError> {
        let mut sizes = BTreeMap::new();
        for (name, size) in raw.size {
            let bad = |field| TableError::Amount { model: raw.id.clone(), field };
            let key: ImageSize = name.parse().map_err(|()| bad("size"))?;
            let listed = size.listed.parse().map_err(|_| bad("listed"))?;
            sizes.insert(key, SizePrice { tokens: size.tokens, listed });
        }
        Ok(Self {
            image_token: per_token(&raw.id, "image_out_per_million", &raw.image_out_per_million)?,
            input_token: per_token(&raw.id, "text_in_per_million", &raw.text_in_per_million)?,
            text_token: per_token(&raw.id, "text_out_per_million", &raw.text_out_per_million)?,
            aspect_ratios: aspect_ratios(&raw.id, raw.aspect_ratios)?,
            id: raw.id,
            provider: raw.provider,
            source: raw.source,
            read: raw.read,
            shutdown: raw.shutdown,
            replacement: raw.replacement,
            deprecated: raw.deprecated,
            sizes,
            max_text_tokens: raw.max_text_tokens,
            prompt_overhead_tokens: raw.prompt_overhead_tokens,
            reference_tokens: raw.reference_tokens,
        })
    }

    /// Its announced last day, if that has come.
    fn retired_on(&self, today: Day) -> Option<Day> {
        self.shutdown.filter(|day| today >= *day)
    }

    fn size(&self, size: ImageSize) -> Result<SizePrice, PriceError> {
        let priced = || self.sizes.keys().map(|size| size.as_str()).collect();
        let unpriced = || PriceError::SizeUnpriced { model: self.id.clone(), size, priced: priced() };
        self.sizes.get(&size).copied().ok_or_else(unpriced)
    }

    fn check_aspect_ratio(&self, aspect_ratio: AspectRatio) -> Result<(), PriceError> {
        if self.aspect_ratios.contains(&aspect_ratio) {
            return Ok(());
        }
        let supported = self.aspect_ratios.clone();
        Err(PriceError::AspectRatioUnsupported { model: self.id.clone(), aspect_ratio, supported })
    }

    /// The most output tokens that a call for `size` may ask for: the whole picture and the text beside it.
    ///
    /// # Errors
    /// [`PriceError::SizeUnpriced`].
    pub fn output_cap(&self, size: ImageSize) -> Result<u32, PriceError> {
        Ok(self.size(size)?.tokens + self.max_text_tokens)
    }

    /// The most that one picture of `item` can cost: what is reserved for it.
    ///
    /// A prompt has at most as many tokens as bytes; the picture costs its listed price or its
    /// tokens, whichever is more; text and thinking fill the whole output cap.
    ///
    /// # Errors
    /// [`PriceError::SizeUnpriced`], [`PriceError::AspectRatioUnsupported`], or [`PriceError::Money`] if the table
    /// holds absurd numbers.
    pub fn reserve(&self, item: &ItemSpec) -> Result<MicroUsd, PriceError> {
        self.check_aspect_ratio(item.aspect_ratio)?;
        let size = self.size(item.image_size)?;
        let references = item.references.len() as u64 * u64::from(self.reference_tokens);
        let input = item.prompt.len() as u64 + u64::from(self.prompt_overhead_tokens) + references;
        let picture = self.image_token.times(size.tokens.into())?;
        let listed = NanoUsd::from_nanos(1_000).times(size.listed.micros().unsigned_abs())?;
        let around = self.input_token.times(input)?.plus(self.text_token.times(self.max_text_tokens.into())?)?;
        Ok(around.plus(picture.max(listed))?.round_up())
    }

    /// What an answer with `usage` costs.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the usage is absurd.
    pub fn cost(&self, usage: &Usage) -> Result<MicroUsd, MoneyError> {
        let input = self.input_token.times(usage.input_tokens)?;
        let picture = self.image_token.times(usage.image_tokens)?;
        let text = self.text_token.times(usage.text_tokens)?;
        Ok(input.plus(picture)?.plus(text)?.round_up())
    }
}

/// Every model that may be called; none by default.
#[derive(Debug, Clone, Default)]
pub struct PriceTable {
    models: BTreeMap<String, ModelPrice>,
}

impl PriceTable {
    /// Reads a table in the form of `prices.toml`.
    ///
    /// # Errors
    /// [`TableError`] names the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let raw: RawTable = toml::from_str(text)?;
        let mut models = BTreeMap::new();
        for model in raw.model {
            let model = ModelPrice::read(model)?;
            if let Some(twice) = models.insert(model.id.clone(), model) {
                return Err(TableError::Twice(twice.id));
            }
        }
        Ok(Self { models })
    }

    /// The models, by name.
    pub fn models(&self) -> impl Iterator<Item = &ModelPrice> {
        self.models.values()
    }

    /// The model `id`, if it may be called on `today`.
    ///
    /// # Errors
    /// [`PriceError::Unknown`] or [`PriceError::Retired`].
    pub fn callable(&self, id: &str, today: Day) -> Result<&ModelPrice, PriceError> {
        let Some(model) = self.models.get(id) else {
            let callable = self.models().filter(|model| model.retired_on(today).is_none());
            let known = callable.map(|model| model.id.clone()).collect();
            return Err(PriceError::Unknown { model: id.to_owned(), known });
        };
        match model.retired_on(today) {
            Some(day) => Err(PriceError::Retired { model: id.to_owned(), day, replacement: model.replacement.clone() }),
            None => Ok(model),
        }
    }

    /// The part of the table that `provider` can call.
    #[must_use]
    pub fn of_provider(mut self, provider: &str) -> Self {
        self.models.retain(|_, model| model.provider == provider);
        self
    }

    /// The model `id`, also one that was shut down since its batch was accepted.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ModelPrice> {
        self.models.get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> PriceTable {
        PriceTable::parse(EMBEDDED).unwrap()
    }

    fn item(size: ImageSize) -> ItemSpec {
        ItemSpec {
            scene_id: "s-1".parse().unwrap(),
            prompt: "a cup".to_owned(),
            variants: 1,
            references: Vec::new(),
            aspect_ratio: super::super::spec::AspectRatio::default(),
            image_size: size,
        }
    }

    fn today() -> Day {
        "2026-11-24".parse().unwrap()
    }

    #[test]
    fn the_reserve_covers_an_answer_that_uses_all_it_may() {
        for model in table().models() {
            for &size in model.sizes.keys() {
                let item = item(size);
                let usage = Usage {
                    input_tokens: item.prompt.len() as u64,
                    image_tokens: model.sizes[&size].tokens.into(),
                    text_tokens: model.max_text_tokens.into(),
                };
                assert!(model.reserve(&item).unwrap() >= model.cost(&usage).unwrap(), "{}", model.id);
            }
        }
    }

    #[test]
    fn a_nano_banana_picture_costs_what_its_page_says() {
        let table = table();
        let model = table.callable("gemini-nano-banana-2.1", today()).unwrap();
        let usage = |tokens| Usage { image_tokens: tokens, ..Usage::default() };
        assert_eq!(model.cost(&usage(1120)).unwrap(), "0.0336".parse().unwrap());
        assert_eq!(model.cost(&usage(3780)).unwrap(), "0.1134".parse().unwrap());
        let unpriced = model.reserve(&item(ImageSize::TwoK)).unwrap_err();
        let told = "model \"gemini-nano-banana-2.1\" has no price for size 2K; it has 1K, 4K";
        assert_eq!(unpriced.to_string(), told);
    }

    #[test]
    fn a_shape_is_checked_against_the_model_s_own_list() {
        let listed = "reference_tokens = 0\naspect_ratios = [\"1:1\", \"16:9\"]";
        let text = EMBEDDED.replacen("reference_tokens = 0", listed, 1);
        let table = PriceTable::parse(&text).unwrap();
        let model = table.get("synthetic").unwrap();
        let shaped = |ratio: &str| ItemSpec { aspect_ratio: ratio.parse().unwrap(), ..item(ImageSize::OneK) };
        assert!(model.reserve(&shaped("16:9")).is_ok());
        let refused = model.reserve(&shaped("9:16")).unwrap_err();
        assert_eq!(refused.to_string(), "model \"synthetic\" has no aspect ratio 9:16; it has 1:1, 16:9");
        assert!(PriceTable::parse(&text.replace("16:9", "7:5")).is_err());
        assert!(self::table().get("synthetic").unwrap().reserve(&shaped("9:16")).is_ok());
    }

    #[test]
    fn a_provider_is_asked_for_no_other_provider_s_model() {
        let table = table().of_provider("gemini");
        let refused = table.callable("synthetic", today()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "model \"synthetic\" is not in the price table; \
             there are gemini-2.5-flash-image, gemini-3-pro-image, gemini-nano-banana-2.1"
        );
        assert!(table.callable("gemini-3-pro-image", today()).is_ok());
    }

    #[test]
    fn a_synthetic_picture_reserves_exactly_its_price() {
        let table = table();
        let model = table.callable("synthetic", today()).unwrap();
        assert_eq!(model.reserve(&item(ImageSize::OneK)).unwrap(), "0.05".parse().unwrap());
    }

    #[test]
    fn a_model_is_refused_from_its_announced_last_day_on() {
        let table = table();
        let day = |text: &str| text.parse::<Day>().unwrap();
        assert!(table.callable("gemini-3.1-flash-image", day("2026-10-28")).is_ok());
        let refused = table.callable("gemini-3.1-flash-image", day("2026-10-29")).unwrap_err();
        assert!(
            matches!(&refused, PriceError::Retired { replacement: Some(to), .. } if to == "gemini-nano-banana-2.1")
        );
        assert!(table.callable("gemini-2.5-flash-image", today()).unwrap().deprecated.is_some());
        assert!(matches!(table.callable("dall-e", today()), Err(PriceError::Unknown { .. })));
    }
}
