//! Fresh links: minted at read, kept while they have enough life left, minted again after that. A link may cost a
//! network call, so who asks at the same time for the same shares one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

use crate::assets::{AssetError, AssetStore, SignedLink};
use crate::clock::Clock;
use crate::domain::picture::{Picture, PictureFormat};
use crate::domain::spec::SceneId;
use crate::domain::time::Timestamp;
use crate::telemetry::metrics::Metrics;

/// Most links kept; with more the older half is dropped.
const LINKS_KEPT: usize = 10_000;
/// Links minted at the same time by the whole process, and pictures of a page whose links are asked for at once.
pub(super) const MINTED_AT_ONCE: usize = 16;
/// With so many links on their way, those that nobody waits for any more are forgotten.
const MINTINGS_SWEPT: usize = 1_000;

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
    metrics: Arc<Metrics>,
    rules: LinkRules,
    kept: Arc<Mutex<Kept>>,
    at_once: Arc<Semaphore>,
}

/// A link on its way. Everyone who waits for it carries it on, so one who leaves stops nobody.
type Minting = Shared<BoxFuture<'static, Result<SignedLink, AssetError>>>;

/// The links that are known, by object.
#[derive(Default)]
struct Kept {
    /// The latest.
    young: HashMap<String, SignedLink>,
    /// Those before them; dropped when the young ones take their place.
    old: HashMap<String, SignedLink>,
    /// Those on their way, as long as somebody waits.
    minting: HashMap<String, WeakShared<BoxFuture<'static, Result<SignedLink, AssetError>>>>,
}

impl Kept {
    fn link(&self, object: &str) -> Option<&SignedLink> {
        self.young.get(object).or_else(|| self.old.get(object))
    }

    fn insert(&mut self, object: String, link: SignedLink) {
        if self.young.len() >= LINKS_KEPT / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(object, link);
    }

    /// The minting of `object` that others wait for, unless it has come to its end.
    fn minting(&self, object: &str) -> Option<Minting> {
        self.minting.get(object).and_then(WeakShared::upgrade).filter(|minting| minting.peek().is_none())
    }

    fn start(&mut self, object: &str, minting: &Minting) {
        if self.minting.len() >= MINTINGS_SWEPT {
            self.minting.retain(|_, minting| minting.upgrade().is_some());
        }
        self.minting.extend(minting.downgrade().map(|minting| (object.to_owned(), minting)));
    }
}

impl Links {
    /// Mints with `assets` by `rules`.
    #[must_use]
    pub fn new(assets: Arc<dyn AssetStore>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>, rules: LinkRules) -> Self {
        Self { assets, clock, metrics, rules, kept: Arc::default(), at_once: Arc::new(Semaphore::new(MINTED_AT_ONCE)) }
    }

    /// A link to `object` with at least the promised life left, offered as `file_name` when it is saved.
    ///
    /// However many ask at once, it is minted once. What failed is not kept.
    ///
    /// # Errors
    /// [`AssetError`] where signing needs a network that is away.
    pub async fn fresh(&self, object: &str, file_name: &str) -> Result<SignedLink, AssetError> {
        let minting = {
            let mut kept = lock(&self.kept);
            match (kept.link(object), kept.minting(object)) {
                (Some(link), _) if self.is_fresh(link) => return Ok(link.clone()),
                (_, Some(minting)) => minting,
                (known, None) => {
                    let minting = self.mint(object, file_name, known.is_some());
                    kept.start(object, &minting);
                    minting
                }
            }
        };
        minting.await
    }

    /// Mints a link and keeps it. Nothing happens before somebody waits for it.
    fn mint(&self, object: &str, file_name: &str, again: bool) -> Minting {
        let (assets, metrics, kept) = (self.assets.clone(), self.metrics.clone(), self.kept.clone());
        let (object, file_name, ttl) = (object.to_owned(), file_name.to_owned(), self.rules.ttl);
        let at_once = self.at_once.clone();
        let minting = async move {
            let _permit = at_once.acquire().await.map_err(AssetError::unavailable)?;
            let minted = assets.link(&object, &file_name, ttl).await;
            let mut kept = lock(&kept);
            kept.minting.remove(&object);
            let link = minted?;
            if again {
                metrics.url_refreshes.inc();
            }
            kept.insert(object, link.clone());
            Ok(link)
        };
        minting.boxed().shared()
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
        let file = file_name(scene, variant, picture.format);
        let small = format!("{scene}_v{variant}_thumbnail.png");
        let thumbnail = async {
            match &picture.thumbnail {
                Some(object) => self.fresh(object, &small).await.map(Some),
                None => Ok(None),
            }
        };
        let (link, thumbnail) = futures_util::future::try_join(self.fresh(&picture.object, &file), thumbnail).await?;
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
}

/// The name under which a person saves a picture: `s-001_v1.png`.
#[must_use]
pub fn file_name(scene: &SceneId, variant: u32, format: PictureFormat) -> String {
    format!("{scene}_v{variant}.{}", format.ending())
}

fn lock(kept: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
