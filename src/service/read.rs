//! Looking at batches, pictures and money.

use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::batches::{Batches, Page, PictureLink, ServiceError};
use super::links::MINTED_AT_ONCE;
use super::view::{BatchListView, BatchView, BudgetView, ImageView, ItemView, ReferenceView, ScopeView, WebhookView};
use crate::domain::access::{Caller, Scope};
use crate::domain::ids::{BatchId, UserId};
use crate::domain::money::{MicroUsd, MoneyError};
use crate::domain::spec::{Reference, RunMode, SceneId};
use crate::domain::state::{BatchState, Counts};
use crate::store::{BatchFilter, BatchRow, BudgetRow, EVERYONE, ImageRow, ItemRow, user_scope};

/// A redirect to a picture is cached at most so long.
const REDIRECT_CACHED: Duration = Duration::from_hours(1);
/// How often a waiting request looks, in case a wake-up was lost.
const WAIT_POLL: Duration = Duration::from_secs(5);

impl Batches {
    /// The batch with a page of items, every link fresh.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::BadCursor`] or [`ServiceError::Unavailable`].
    pub async fn get(&self, caller: &UserId, batch: BatchId, page: &Page) -> Result<BatchView, ServiceError> {
        let after = page.after::<u32>()?.unwrap_or(0);
        let found = self.store.load_page(batch, caller, after, page.limit + 1).await?;
        let (row, mut rows) = found.ok_or(ServiceError::NotFound)?;
        let more = rows.len() > page.limit as usize;
        rows.truncate(page.limit as usize);
        let next_cursor = rows.last().filter(|_| more).map(|item| item.ordinal.to_string());
        let items = stream::iter(rows).map(|row| self.item_view(batch, row)).buffered(MINTED_AT_ONCE);
        let items = items.try_collect().await?;
        Ok(BatchView { items: Some(items), next_cursor: Some(next_cursor), ..batch_view(row) })
    }

    /// The caller's batches, newest first; an admin's are everyone's.
    ///
    /// # Errors
    /// [`ServiceError::BadCursor`] or [`ServiceError::Unavailable`].
    pub async fn list(
        &self,
        caller: &Caller,
        state: Option<BatchState>,
        page: &Page,
    ) -> Result<BatchListView, ServiceError> {
        let filter = BatchFilter { state, before: page.after()?, limit: page.limit + 1 };
        let owner = (!caller.scopes.has(Scope::Admin)).then_some(&caller.user);
        let mut rows = self.store.list_batches(owner, &filter).await?;
        let more = rows.len() > page.limit as usize;
        rows.truncate(page.limit as usize);
        let next_cursor = rows.last().filter(|_| more).map(|batch| batch.id.to_string());
        Ok(BatchListView { batches: rows.into_iter().map(batch_view).collect(), next_cursor })
    }

    /// Waits until the batch is finished, at most `span` and not beyond the service's end. Whether it is.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] or [`ServiceError::Unavailable`].
    pub async fn wait(&self, batch: BatchId, span: Duration) -> Result<bool, ServiceError> {
        let mut hints = self.store.hints().batches();
        let deadline = tokio::time::Instant::now() + span;
        loop {
            let (_, finished) = self.store.load_progress(batch).await?.ok_or(ServiceError::NotFound)?;
            if finished || self.draining.is_cancelled() || tokio::time::Instant::now() >= deadline {
                return Ok(finished);
            }
            let poll = deadline.min(tokio::time::Instant::now() + WAIT_POLL);
            let told = hints.heard_of(|other| other == batch);
            tokio::select! {
                () = self.draining.cancelled() => {}
                _ = tokio::time::timeout_at(poll, told) => {}
            }
        }
    }

    /// A fresh link to one picture, or to its thumbnail.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::NoPicture`], [`ServiceError::NotReady`] before the picture is
    /// made, [`ServiceError::NotMade`] if it never will be, [`ServiceError::NoThumbnail`] or
    /// [`ServiceError::Unavailable`].
    pub async fn picture_link(
        &self,
        caller: &UserId,
        batch: BatchId,
        scene: &SceneId,
        variant: u32,
        thumbnail: bool,
    ) -> Result<PictureLink, ServiceError> {
        let Some(image) = self.store.load_image(batch, caller, scene, variant).await? else {
            let batch = self.store.load_batch(batch, caller).await?;
            return Err(batch.map_or(ServiceError::NotFound, |_| ServiceError::NoPicture));
        };
        let picture = match image.picture {
            Some(picture) => picture,
            None if image.state.is_final() => return Err(ServiceError::NotMade(image.error)),
            None => return Err(ServiceError::NotReady),
        };
        let links = self.links.of_picture(scene, variant, &picture).await?;
        let link = if thumbnail { links.thumbnail.ok_or(ServiceError::NoThumbnail)? } else { links.picture };
        let max_age = self.links.cacheable(&link).min(REDIRECT_CACHED);
        Ok(PictureLink { url: link.url, expires_at: link.expires_at, max_age })
    }

    /// The one in whose place `caller` sees and changes the batch: an admin acts for its owner, within the limit that
    /// goes with the batch; others for themselves.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`] or [`ServiceError::Unavailable`].
    pub async fn acting_for(&self, caller: Caller, batch: BatchId) -> Result<Caller, ServiceError> {
        if !caller.scopes.has(Scope::Admin) {
            return Ok(caller);
        }
        let (user, limit) = self.store.owner_of(batch).await?.ok_or(ServiceError::NotFound)?;
        let daily_budget = if user == caller.user { caller.daily_budget } else { limit };
        Ok(Caller { user, daily_budget, ..caller })
    }

    /// The day's money.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn budget(&self, caller: &Caller) -> Result<BudgetView, ServiceError> {
        let limits = self.rules.limits.with_user(caller.daily_budget);
        let everyone = self.store.load_budget(EVERYONE).await?;
        let user = if limits.user.is_some() {
            let row = self.store.load_budget(&user_scope(&caller.user)).await?;
            Some(scope_view(&row, limits.user)?)
        } else {
            None
        };
        let imported = self.store.imported_count(everyone.day).await?;
        let message = (imported > 0).then(|| {
            format!("the database did not know {imported} of today's charges: they were taken in from the ledger")
        });
        Ok(BudgetView {
            day: everyone.day,
            resets_at: everyone.day.end(),
            everyone: scope_view(&everyone, limits.everyone)?,
            user,
            message,
        })
    }

    async fn item_view(&self, batch: BatchId, row: ItemRow) -> Result<ItemView, ServiceError> {
        let mut counts = Counts::default();
        row.images.iter().for_each(|image| counts.add(image.state, 1));
        let images = row.images.into_iter().map(|image| self.image_view(batch, &row.scene_id, image));
        let images = try_join_all(images).await?;
        let error = images.iter().find_map(|image| image.error.clone());
        let reference = |Reference { url, mode, .. }| ReferenceView { url: url.into(), mode };
        Ok(ItemView {
            scene_id: row.scene_id,
            prompt: row.prompt,
            references: row.references.into_iter().map(reference).collect(),
            aspect_ratio: row.aspect_ratio,
            image_size: row.image_size,
            state: counts.state(),
            error,
            images,
        })
    }

    async fn image_view(&self, batch: BatchId, scene: &SceneId, row: ImageRow) -> Result<ImageView, ServiceError> {
        let variant = row.key.variant;
        let mut view = ImageView {
            variant,
            state: row.state.shown(),
            url: None,
            thumbnail_url: None,
            url_expires_at: None,
            permalink: permalink(batch, scene, variant),
            uri: None,
            mime_type: None,
            width: None,
            height: None,
            bytes: None,
            sha256: None,
            cost: row.cost,
            billing: row.billing,
            attempts: row.attempts,
            error: row.error,
        };
        if let Some(picture) = row.picture {
            let links = self.links.of_picture(scene, variant, &picture).await?;
            view.url = Some(links.picture.url);
            view.url_expires_at = Some(links.expires_at);
            view.thumbnail_url = links.thumbnail.map(|link| link.url);
            view.uri = Some(self.links.uri(&picture.object));
            view.mime_type = Some(picture.format.mime_type().to_owned());
            view.width = Some(picture.width);
            view.height = Some(picture.height);
            view.bytes = Some(picture.bytes);
            view.sha256 = Some(picture.sha256);
        }
        Ok(view)
    }
}

/// The address of a picture that lasts as long as it does.
pub(super) fn permalink(batch: BatchId, scene: &SceneId, variant: u32) -> String {
    format!("/images/{batch}/items/{scene}/{variant}")
}

fn batch_view(row: BatchRow) -> BatchView {
    BatchView {
        batch_id: row.id,
        run_mode: RunMode::Live,
        state: row.counts.state(),
        model: row.model,
        created_at: row.created_at,
        finished_at: row.finished_at,
        estimated_cost: row.estimated_cost,
        actual_cost: row.actual_cost,
        unknown_cost: row.unknown_cost,
        last_event: row.last_event,
        message: row.message,
        counts: row.counts,
        webhook: row.webhook.map(WebhookView::without_secret),
        items: None,
        next_cursor: None,
    }
}

fn scope_view(row: &BudgetRow, limit: Option<MicroUsd>) -> Result<ScopeView, MoneyError> {
    let used = row.spent.plus(row.reserved)?;
    let remaining = limit.map(|limit| limit.minus(used)).transpose()?.map(MicroUsd::or_zero);
    Ok(ScopeView { daily_limit: limit, spent: row.spent, reserved: row.reserved, remaining, unknown: row.unknown })
}
