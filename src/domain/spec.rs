//! What a client asked for, after it was checked: the type is the proof.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::webhook::WebhookSpec;

/// Longest prompt, in characters. Named by the contract.
pub const MAX_PROMPT_CHARS: usize = 4_000;
/// Most references an item may have after the batch's pack is merged.
pub const MAX_REFERENCES: usize = 6;
/// Longest scene id, in characters.
pub const MAX_SCENE_ID_CHARS: usize = 50;

/// Whether a batch may spend money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// Prices the batch and writes nothing.
    DryRun,
    /// Makes the pictures and spends money.
    Live,
}

impl RunMode {
    /// The text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DryRun => "dry_run",
            Self::Live => "live",
        }
    }
}

impl FromStr for RunMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "dry_run" => Ok(Self::DryRun),
            "live" => Ok(Self::Live),
            _ => Err(()),
        }
    }
}

/// A row's name, chosen by the client: 1-50 of letters, digits, `.`, `_`, `-`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SceneId(String);

/// The text is not a scene id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1-50 letters, digits, '.', '_' or '-', starting with a letter or digit")]
pub struct SceneIdError;

impl SceneId {
    /// The name as the client wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which names are compared: unique in a batch ignoring case.
    #[must_use]
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl FromStr for SceneId {
    type Err = SceneIdError;

    fn from_str(text: &str) -> Result<Self, SceneIdError> {
        let fits = (1..=MAX_SCENE_ID_CHARS).contains(&text.len());
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if fits && starts && allowed { Ok(Self(text.to_owned())) } else { Err(SceneIdError) }
    }
}

impl fmt::Display for SceneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What of a reference the model should take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceMode {
    /// Its style alone.
    #[default]
    StyleOnly,
    /// Its style and how it is composed.
    StyleAndComposition,
}

impl FromStr for ReferenceMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "style_only" => Ok(Self::StyleOnly),
            "style_and_composition" => Ok(Self::StyleAndComposition),
            _ => Err(()),
        }
    }
}

/// Where a reference is. Clones share the text: every row of a batch has the pack's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ReferenceUrl(Arc<str>);

impl ReferenceUrl {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ReferenceUrl {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<ReferenceUrl> for String {
    fn from(url: ReferenceUrl) -> Self {
        url.as_str().to_owned()
    }
}

/// A picture that the model is shown beside the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// Where it is; checked when it is fetched, not before.
    pub url: ReferenceUrl,
    /// What of it counts.
    pub mode: ReferenceMode,
    /// Lowercase hex SHA-256 that its bytes must have, if the client said so.
    pub sha256: Option<String>,
}

/// The size class of a picture: what it is priced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum ImageSize {
    /// 512 pixels.
    #[serde(rename = "512")]
    Half,
    /// About 1024 pixels.
    #[default]
    #[serde(rename = "1K")]
    OneK,
    /// About 2048 pixels.
    #[serde(rename = "2K")]
    TwoK,
    /// About 4096 pixels.
    #[serde(rename = "4K")]
    FourK,
}

impl ImageSize {
    /// Every size, smallest first.
    pub const ALL: [Self; 4] = [Self::Half, Self::OneK, Self::TwoK, Self::FourK];

    /// The name in the contract and on the provider's wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Half => "512",
            Self::OneK => "1K",
            Self::TwoK => "2K",
            Self::FourK => "4K",
        }
    }
}

impl FromStr for ImageSize {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|size| size.as_str() == text).ok_or(())
    }
}

/// Width to height, one of the ratios that image models take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AspectRatio {
    /// The part before the colon.
    pub width: u32,
    /// The part after the colon.
    pub height: u32,
}

impl AspectRatio {
    /// Every ratio of the Gemini image models (their documentation, read 2026-11-24).
    pub const ALL: [(u32, u32); 10] =
        [(1, 1), (2, 3), (3, 2), (3, 4), (4, 3), (4, 5), (5, 4), (9, 16), (16, 9), (21, 9)];

    /// Every ratio.
    pub fn every() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(width, height)| Self { width, height })
    }
}

impl Default for AspectRatio {
    fn default() -> Self {
        Self { width: 1, height: 1 }
    }
}

impl fmt::Display for AspectRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.width, self.height)
    }
}

impl FromStr for AspectRatio {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::every().find(|ratio| ratio.to_string() == text).ok_or(())
    }
}

/// One row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemSpec {
    /// Its name.
    pub scene_id: SceneId,
    /// What to draw: 1-4,000 characters.
    pub prompt: String,
    /// How many pictures: at least 1.
    pub variants: u32,
    /// Its own references, then the batch's pack; at most [`MAX_REFERENCES`].
    pub references: Vec<Reference>,
    /// Width to height.
    pub aspect_ratio: AspectRatio,
    /// The size class.
    pub image_size: ImageSize,
}

/// A batch as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSpec {
    /// Whether it may spend money.
    pub run_mode: RunMode,
    /// The model that makes its pictures.
    pub model: String,
    /// Its rows, in the client's order; at least one.
    pub items: Vec<ItemSpec>,
    /// What is told of it, and where.
    pub webhook: Option<WebhookSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_id_is_a_safe_file_name() {
        for good in ["s-001", "A", "1.b_c-d", &"x".repeat(50)] {
            assert!(good.parse::<SceneId>().is_ok(), "{good}");
        }
        for bad in ["", ".hidden", "-x", "a/b", "a b", "ü", "..", &"x".repeat(51)] {
            assert!(bad.parse::<SceneId>().is_err(), "{bad}");
        }
    }
}
