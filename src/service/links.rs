//! Fresh links: minted at read, kept while they have enough life left, minted again after that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::assets::{AssetError, AssetStore, SignedLink};
use crate::clock::Clock;
use crate::domain::picture::Picture;
use crate::domain::spec::SceneId;
use crate::domain::time::Timestamp;
use crate::telemetry::Counters;

/// Links kept; with more the oldest knowledge is dropped as a whole.
const LINKS_KEPT: usize = 10_000;

/// How long links live.
#[derive(Debug, Clone, Copy)]
pub struct LinkRules {
    /// The life of a new link.
    pub ttl: Duration,
    /// A link with less life left is not handed out.
    pub min_left: Duration,
    /// Whether links are minted again before they expire; off, one is handed out until it is dead.
    pub refresh: bool,
}

/// The links of one picture.
#[derive(Debug, Clone)]
pub struct PictureLinks {
    /// To the picture.
    pub picture: SignedLink,
    /// To its thumbnail, if it has one.
    pub thumbnail: Option<SignedLink>,
    /// When the first of them stops working.
    pub expires_at: Timestamp,
}

/// Mints links to stored pictures.
pub struct Links {
    assets: Arc<dyn AssetStore>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    rules: LinkRules,
    kept: Mutex<HashMap<String, SignedLink>>,
}

impl Links {
    /// Mints with `assets` by `rules`.
    #[must_use]
    pub fn new(assets: Arc<dyn AssetStore>, clock: Arc<dyn Clock>, counters: Arc<Counters>, rules: LinkRules) -> Self {
        Self { assets, clock, counters, rules, kept: Mutex::default() }
    }

    /// A link to `object` with at least the promised life left, offered as `file_name` when it is saved.
    ///
    /// # Errors
    /// [`AssetError`] where signing needs a network that is away.
    pub async fn fresh(&self, object: &str, file_name: &str) -> Result<SignedLink, AssetError> {
        let kept = self.lock().get(object).cloned();
        if let Some(link) = &kept
            && self.is_fresh(link)
        {
            return Ok(link.clone());
        }
        let link = self.assets.link(object, file_name, self.rules.ttl).await?;
        if kept.is_some() {
            self.counters.url_refreshes.increment();
        }
        let mut links = self.lock();
        if links.len() >= LINKS_KEPT {
            links.clear();
        }
        links.insert(object.to_owned(), link.clone());
        Ok(link)
    }

    /// Fresh links to `picture` and its thumbnail, under file names that a person recognises.
    ///
    /// # Errors
    /// As [`fresh`](Self::fresh).
    pub async fn of_picture(
        &self,
        scene: &SceneId,
        variant: u32,
        picture: &Picture,
    ) -> Result<PictureLinks, AssetError> {
        let name = format!("{scene}_v{variant}");
        let link = self.fresh(&picture.object, &format!("{name}.{}", picture.format.ending())).await?;
        let thumbnail = match &picture.thumbnail {
            Some(object) => Some(self.fresh(object, &format!("{name}_thumbnail.png")).await?),
            None => None,
        };
        let expires_at = thumbnail.iter().fold(link.expires_at, |first, link| first.min(link.expires_at));
        Ok(PictureLinks { picture: link, thumbnail, expires_at })
    }

    /// How long `link` may be kept by whoever got it: it is still good for the promised rest then.
    #[must_use]
    pub fn cacheable(&self, link: &SignedLink) -> Duration {
        link.expires_at.since(self.clock.now()).saturating_sub(self.rules.min_left)
    }

    /// When a link that expires then has only the promised rest left.
    #[must_use]
    pub fn fresh_until(&self, expires_at: Timestamp) -> Timestamp {
        expires_at.before(self.rules.min_left)
    }

    /// Where `object` is, for a person or another program.
    #[must_use]
    pub fn uri(&self, object: &str) -> String {
        self.assets.uri(object)
    }

    fn is_fresh(&self, link: &SignedLink) -> bool {
        let left = link.expires_at.since(self.clock.now());
        !left.is_zero() && (!self.rules.refresh || left >= self.rules.min_left)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, SignedLink>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
