//! What a picture costs: the most it can cost before the call, and what it did cost after.
//!
//! The table is data (`prices.toml`); this file reads it, and computes with it. No price, no call.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::money::{MicroUsd, MoneyError, NanoUsd};
use super::spec::{ImageSize, ItemSpec};
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
    #[error("model {model:?} is not in the price table")]
    Unknown {
        /// The model asked for.
        model: String,
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
    #[error("model {model:?} has no price for size {}", size.as_str())]
    SizeUnpriced {
        /// The model asked for.
        model: String,
        /// The size asked for.
        size: ImageSize,
    },
    /// The amount does not fit.
    #[error(transparent)]
    Money(#[from] MoneyError),
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
    /// Prices by size.
    pub sizes: BTreeMap<ImageSize, SizePrice>,
    image_token: NanoUsd,
    input_token: NanoUsd,
    text_token: NanoUsd,
    /// Most text and thinking tokens that the request allows beside the picture.
    pub max_text_tokens: u32,
    prompt_overhead_tokens: u32,
    reference_tokens: u32,
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
            id: raw.id,
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

    fn size(&self, size: ImageSize) -> Result<SizePrice, PriceError> {
        let unpriced = || PriceError::SizeUnpriced { model: self.id.clone(), size };
        self.sizes.get(&size).copied().ok_or_else(unpriced)
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
    /// [`PriceError::SizeUnpriced`], or [`PriceError::Money`] if the table holds absurd numbers.
    pub fn reserve(&self, item: &ItemSpec) -> Result<MicroUsd, PriceError> {
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
        let model = self.models.get(id).ok_or_else(|| PriceError::Unknown { model: id.to_owned() })?;
        match model.shutdown {
            Some(day) if today >= day => {
                Err(PriceError::Retired { model: id.to_owned(), day, replacement: model.replacement.clone() })
            }
            _ => Ok(model),
        }
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
        assert!(matches!(unpriced, PriceError::SizeUnpriced { .. }), "{unpriced:?}");
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
