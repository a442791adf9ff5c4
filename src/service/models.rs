//! What can be made: the models that may be called today, with what a picture of each size is listed at.
//!
//! Asks nobody: the price table says all of it.

use serde::Serialize;
use utoipa::ToSchema;

use super::batches::Batches;
use crate::domain::money::MicroUsd;
use crate::domain::prices::ModelPrice;
use crate::domain::spec::RunMode;

/// What can be made here.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelsView {
    /// `live`, or `dry_run` while live batches are refused.
    #[schema(value_type = String, example = "live")]
    pub run_mode: RunMode,
    /// Whether the synthetic provider makes all pictures, so that nothing is paid.
    pub rehearsal: bool,
    /// The models that may be called today.
    pub models: Vec<ModelView>,
}

/// A model that may be called.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelView {
    /// Its name, for the `model` of a batch.
    pub id: String,
    /// Whose model it is.
    pub provider: String,
    /// Whether a batch that names no model gets this one.
    pub default: bool,
    /// Why another one should be used; null while nothing speaks against it.
    pub deprecated: Option<String>,
    /// The shapes that it makes, width to height.
    pub aspect_ratios: Vec<String>,
    /// The sizes that it makes, smallest first.
    pub sizes: Vec<SizeView>,
}

/// A size of pictures.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SizeView {
    /// `512`, `1K`, `2K` or `4K`.
    pub size: &'static str,
    /// What the provider lists for one picture, without its prompt and references: a dry run has what is reserved.
    /// US dollars.
    #[schema(value_type = f64)]
    pub price: MicroUsd,
}

impl Batches {
    /// What can be made today; `default` is the model of a batch that names none.
    #[must_use]
    pub fn models(&self, default: &str) -> ModelsView {
        let today = self.clock.now().day();
        let callable = self.prices.models().filter(|model| self.prices.callable(&model.id, today).is_ok());
        ModelsView {
            run_mode: if self.rules.live { RunMode::Live } else { RunMode::DryRun },
            rehearsal: self.rules.own_model.is_some(),
            models: callable.map(|model| model_view(model, default)).collect(),
        }
    }
}

fn model_view(model: &ModelPrice, default: &str) -> ModelView {
    let sizes = model.sizes.iter().map(|(size, price)| SizeView { size: size.as_str(), price: price.listed });
    ModelView {
        id: model.id.clone(),
        provider: model.provider.clone(),
        default: model.id == default,
        deprecated: model.deprecated.clone(),
        aspect_ratios: model.aspect_ratios.iter().map(ToString::to_string).collect(),
        sizes: sizes.collect(),
    }
}
