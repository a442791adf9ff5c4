//! Webhooks: their messages are made of the events they tell of, sent in the order of each batch, and tried again.
//!
//! At least once: what was sent and not recorded is sent again, under the same id. The store decides what is next and
//! whose it is; [`webhook`](crate::domain::webhook) when it is tried again.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};

use super::batches::{Batches, Page, ServiceError};
use super::execute::{Signals, describe};
use super::links::Links;
use super::read::permalink;
use super::view::{DeliveryView, WebhookLogView, WebhookView};
use crate::clock::Clock;
use crate::domain::event::Event;
use crate::domain::ids::{BatchId, UserId, WorkerId};
use crate::domain::money::MicroUsd;
use crate::domain::picture::Picture;
use crate::domain::spec::SceneId;
use crate::domain::state::{BatchState, Billing, Counts, ImageError, WebhookEvent};
use crate::domain::time::Timestamp;
use crate::domain::webhook::{KEPT_FOR, next_try};
use crate::failpoint;
use crate::store::{ClaimedDelivery, DeliveryEnd, DeliveryRow, NextDelivery, Store, StoreError};
use crate::webhooks::{Courier, CourierError, DEADLINE, Message, Reply};

/// Batches for which a process delivers at once: a slow receiver holds one place.
const AT_ONCE: usize = 4;
/// Of those, as many to one host: name and port.
pub const AT_ONE_HOST: usize = 2;
/// How often a process removes from the log what is old; lines that it removes with one statement.
const FORGET_EVERY: Duration = Duration::from_hours(1);
const FORGOTTEN_AT_ONCE: u32 = 1_000;
/// How often a process looks by itself, in case a hint was lost.
pub const POLL: Duration = Duration::from_secs(5);
/// The least time between two looks: hints come with every picture of every batch.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// The pause after a claim that got nothing, as another process was faster or this one did not beat yet.
const CLAIM_AGAIN: Duration = Duration::from_millis(500);
/// How long a claim holds while its worker lives: a try, and writing what became of it.
const CLAIM: Duration = Duration::from_secs(2 * DEADLINE.as_secs());
/// Tries to write what became of a delivery; the pause between them.
const RECORD_TRIES: u32 = 5;
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// Tells receivers what happened in their batches.
pub struct Webhooks {
    store: Arc<Store>,
    courier: Arc<dyn Courier>,
    links: Arc<Links>,
    clock: Arc<dyn Clock>,
    me: WorkerId,
    poll: Duration,
    /// Whoever has it looks for what is next.
    turn: Mutex<Looked>,
    busy: Hosts,
    /// A delivery ended, and the next one of its batch may go out.
    ended: Notify,
}

/// What whoever looks knows of the looks before.
#[derive(Default)]
struct Looked {
    /// When dead workers were last looked for.
    inherited: Option<Instant>,
    /// When what is old was last removed.
    forgot: Option<Instant>,
}

/// The hosts that are delivered to just now, each as often as deliveries are under way.
#[derive(Default)]
struct Hosts(std::sync::Mutex<Vec<String>>);

impl Hosts {
    /// Those that get no delivery more for now.
    fn full(&self) -> Vec<String> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hosts.sort_unstable();
        hosts.chunk_by(|a, b| a == b).filter(|same| same.len() >= AT_ONE_HOST).map(|same| same[0].clone()).collect()
    }

    fn begin(&self, host: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(host);
    }

    fn end(&self, host: &str) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = hosts.iter().position(|busy| busy == host) {
            hosts.swap_remove(place);
        }
    }
}

/// What is sent.
#[derive(Serialize)]
struct Body<'a> {
    r#type: WebhookEvent,
    timestamp: Timestamp,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Batch(BatchData),
    Image(Box<ImageData<'a>>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchData {
    batch_id: BatchId,
    state: BatchState,
    counts: Counts,
    actual_cost: MicroUsd,
    unknown_cost: MicroUsd,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageData<'a> {
    batch_id: BatchId,
    scene_id: &'a SceneId,
    variant: u32,
    state: BatchState,
    cost: MicroUsd,
    billing: Option<Billing>,
    permalink: String,
    uri: Option<String>,
    mime_type: Option<&'static str>,
    width: Option<u32>,
    height: Option<u32>,
    bytes: Option<u64>,
    sha256: Option<&'a str>,
    error: Option<&'a ImageError>,
}

impl Webhooks {
    /// Delivers as `me` through `courier`, and looks by itself every `poll`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        courier: Arc<dyn Courier>,
        links: Arc<Links>,
        clock: Arc<dyn Clock>,
        me: WorkerId,
        poll: Duration,
    ) -> Self {
        Self {
            store,
            courier,
            links,
            clock,
            me,
            poll,
            turn: Mutex::default(),
            busy: Hosts::default(),
            ended: Notify::new(),
        }
    }

    /// Why nothing may be sent to `url`, as far as can be seen in it.
    #[must_use]
    pub fn refusal(&self, url: &str) -> Option<String> {
        self.courier.check(url).err().map(|error| error.to_string())
    }

    /// Delivers until draining; what is under way then is waited for until aborting.
    pub async fn run(&self, signals: &Signals) {
        join_all((0..AT_ONCE).map(|_| self.deliver_in_turn(signals))).await;
    }

    async fn deliver_in_turn(&self, signals: &Signals) {
        while let Some(claimed) = self.next(signals).await {
            let end = self.deliver(&claimed, signals).await;
            failpoint::hit("webhook.answered");
            self.record(&claimed, &end, signals).await;
            self.busy.end(&claimed.webhook.host());
            self.ended.notify_one();
        }
    }

    /// Waits for the next delivery and claims it; `None` once draining.
    async fn next(&self, signals: &Signals) -> Option<ClaimedDelivery> {
        let mut turn = tokio::select! {
            () = signals.draining.cancelled() => return None,
            turn = self.turn.lock() => turn,
        };
        loop {
            // Listening before looking: what changes in between is heard.
            let mut hints = self.store.hints().batches();
            if signals.draining.is_cancelled() {
                return None;
            }
            let wait = match self.look(&mut turn).await {
                Ok(Look::Claimed(claimed)) => return Some(*claimed),
                Ok(Look::Wait(wait)) => wait.min(self.poll),
                Err(error) => {
                    tracing::warn!(error = %describe(&error), "cannot look for webhooks to deliver");
                    self.poll
                }
            };
            let told = async {
                drop(timeout(wait, hints.heard_of(|_| true)).await);
                sleep(LOOK_PAUSE).await;
            };
            tokio::select! {
                () = signals.draining.cancelled() => return None,
                () = self.ended.notified() => {}
                () = told => {}
            }
        }
    }

    async fn look(&self, looked: &mut Looked) -> Result<Look, StoreError> {
        let now = self.store.steady_now();
        if looked.inherited.is_none_or(|last| last.elapsed() >= self.poll) {
            self.store.inherit_deliveries(now).await?;
            looked.inherited = Some(Instant::now());
        }
        if looked.forgot.is_none_or(|last| last.elapsed() >= FORGET_EVERY) {
            looked.forgot = Some(Instant::now());
            // An old line of a log keeps no message waiting.
            if let Err(error) = self.forget().await {
                tracing::warn!(error = %describe(&error), "cannot remove what is old from the log of webhooks");
            }
        }
        let full = self.busy.full();
        match self.store.next_delivery(self.me, now, &full).await? {
            None => Ok(Look::Wait(self.poll)),
            Some(due) if due > now => Ok(Look::Wait(due.since(now))),
            Some(_) => {
                let claimed = self.store.claim_delivery(self.me, now, now.after(CLAIM), &full).await?;
                let Some(claimed) = claimed else { return Ok(Look::Wait(CLAIM_AGAIN)) };
                self.busy.begin(claimed.webhook.host());
                Ok(Look::Claimed(Box::new(claimed)))
            }
        }
    }

    /// Removes what is old from the log of every batch.
    async fn forget(&self) -> Result<(), StoreError> {
        let before = self.clock.now().before(KEPT_FOR);
        while self.store.forget_deliveries(before, FORGOTTEN_AT_ONCE).await? >= u64::from(FORGOTTEN_AT_ONCE) {}
        Ok(())
    }

    async fn deliver(&self, claimed: &ClaimedDelivery, signals: &Signals) -> DeliveryEnd {
        let Some(body) = self.body(claimed) else {
            let error = Some("its event cannot be read any more".to_owned());
            return DeliveryEnd { status: None, error, next: NextDelivery::GivenUp };
        };
        let seconds = self.clock.now().millis() / 1_000;
        let signature = claimed.webhook.secret.sign(&claimed.id.to_string(), seconds, &body);
        let message = Message { id: claimed.id, seconds, signature, body };
        let answered = tokio::select! {
            () = signals.aborting.cancelled() => {
                let error = Some("the service stopped while it waited for the answer".to_owned());
                return DeliveryEnd { status: None, error, next: NextDelivery::Again(self.store.steady_now()) };
            }
            answered = self.courier.deliver(&claimed.webhook.url, message) => answered,
        };
        end_of(claimed, answered, self.store.steady_now(), rand::random())
    }

    /// Writes what became of a try. What cannot be written is sent again when the claim is over.
    async fn record(&self, claimed: &ClaimedDelivery, end: &DeliveryEnd, signals: &Signals) {
        for _ in 0..RECORD_TRIES {
            match self.store.end_delivery(claimed, end, self.clock.now()).await {
                Ok(written) => {
                    failpoint::hit("webhook.recorded");
                    return log(claimed, end, written);
                }
                Err(error) => {
                    tracing::warn!(delivery = %claimed.id, error = %describe(&error), "cannot record a delivery");
                }
            }
            tokio::select! {
                () = signals.aborting.cancelled() => return,
                () = sleep(RECORD_PAUSE) => {}
            }
        }
    }

    fn body(&self, claimed: &ClaimedDelivery) -> Option<Bytes> {
        let event = claimed.event.as_ref()?;
        let batch_id = claimed.id.batch;
        let data = match event {
            Event::Done { state, counts, cost, unknown_cost, .. } => Data::Batch(BatchData {
                batch_id,
                state: *state,
                counts: *counts,
                actual_cost: *cost,
                unknown_cost: *unknown_cost,
            }),
            Event::ImageComplete { scene_id, variant, cost, billing, picture } => {
                let made = self.image(batch_id, scene_id, *variant, (*cost, *billing), Ok(picture));
                Data::Image(Box::new(made))
            }
            Event::ImageFailed { scene_id, variant, cost, billing, error } => {
                let failed = self.image(batch_id, scene_id, *variant, (*cost, *billing), Err(error));
                Data::Image(Box::new(failed))
            }
            Event::Started { .. } | Event::ItemComplete { .. } | Event::Notice { .. } | Event::Cancelled { .. } => {
                return None;
            }
        };
        let body = Body { r#type: WebhookEvent::of(event)?, timestamp: claimed.at, data };
        serde_json::to_vec(&body).ok().map(Bytes::from)
    }

    fn image<'a>(
        &self,
        batch: BatchId,
        scene: &'a SceneId,
        variant: u32,
        (cost, billing): (MicroUsd, Option<Billing>),
        outcome: Result<&'a Picture, &'a ImageError>,
    ) -> ImageData<'a> {
        let picture = outcome.ok();
        ImageData {
            batch_id: batch,
            scene_id: scene,
            variant,
            state: if picture.is_some() { BatchState::Completed } else { BatchState::Failed },
            cost,
            billing,
            permalink: permalink(batch, scene, variant),
            uri: picture.map(|picture| self.links.uri(&picture.object)),
            mime_type: picture.map(|picture| picture.format.mime_type()),
            width: picture.map(|picture| picture.width),
            height: picture.map(|picture| picture.height),
            bytes: picture.map(|picture| picture.bytes),
            sha256: picture.map(|picture| picture.sha256.as_str()),
            error: outcome.err(),
        }
    }
}

/// What a look found.
enum Look {
    /// This is to be delivered.
    Claimed(Box<ClaimedDelivery>),
    /// Nothing is due before this time, as far as is known.
    Wait(Duration),
}

/// What follows a receiver's answer, or none.
fn end_of(
    claimed: &ClaimedDelivery,
    answered: Result<Reply, CourierError>,
    now: Timestamp,
    random: f64,
) -> DeliveryEnd {
    let (status, error, asked) = match answered {
        Ok(Reply { status: status @ 200..=299, .. }) => {
            return DeliveryEnd { status: Some(status), error: None, next: NextDelivery::Delivered };
        }
        Ok(Reply { status: 410, .. }) => {
            let error = Some("the receiver answered 410 Gone: this batch's webhook is not called any more".to_owned());
            return DeliveryEnd { status: Some(410), error, next: NextDelivery::Gone };
        }
        Ok(Reply { status, retry_after }) => {
            let advice = if (300..400).contains(&status) { "; redirects are not followed" } else { "" };
            let asked = retry_after.filter(|_| matches!(status, 429 | 503));
            (Some(status), format!("the receiver answered {status}{advice}"), asked)
        }
        Err(error) => (None, error.to_string(), None),
    };
    let next = next_try(now, claimed.attempts, asked, claimed.gives_up_at, random);
    let (error, next) = match next {
        Some(due) => (error, NextDelivery::Again(due)),
        None => (format!("given up after {} tries: {error}", claimed.attempts), NextDelivery::GivenUp),
    };
    DeliveryEnd { status, error: Some(error), next }
}

fn log(claimed: &ClaimedDelivery, end: &DeliveryEnd, written: bool) {
    let (delivery, attempts, status) = (claimed.id, claimed.attempts, end.status);
    let error = end.error.as_deref();
    match end.next {
        _ if !written => tracing::warn!(%delivery, "claim lost: another worker delivers for this batch"),
        NextDelivery::Delivered => tracing::info!(%delivery, attempts, status, "webhook delivered"),
        NextDelivery::Again(_) => tracing::info!(%delivery, attempts, status, error, "webhook not delivered"),
        NextDelivery::GivenUp | NextDelivery::Gone => {
            tracing::warn!(%delivery, attempts, status, error, "webhook given up");
        }
    }
}

impl Batches {
    /// The webhook of the batch and a page of what was delivered to it.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], [`ServiceError::BadCursor`] or [`ServiceError::Unavailable`].
    pub async fn deliveries(
        &self,
        caller: &UserId,
        batch: BatchId,
        page: &Page,
    ) -> Result<WebhookLogView, ServiceError> {
        let after = page.after::<u64>()?.unwrap_or(0);
        let row = self.store.load_batch(batch, caller).await?.ok_or(ServiceError::NotFound)?;
        let mut rows = self.store.load_deliveries(batch, after, page.limit + 1).await?;
        let more = rows.len() > page.limit as usize;
        rows.truncate(page.limit as usize);
        let next_cursor = rows.last().filter(|_| more).map(|row| row.id.number.to_string());
        let deliveries = rows.into_iter().map(delivery_view).collect();
        Ok(WebhookLogView { webhook: row.webhook.map(WebhookView::without_secret), deliveries, next_cursor })
    }
}

fn delivery_view(row: DeliveryRow) -> DeliveryView {
    DeliveryView {
        id: row.id.to_string(),
        r#type: row.event,
        state: row.state,
        attempts: row.attempts,
        next_attempt_at: row.due,
        last_status: row.last_status,
        last_error: row.last_error,
        delivered_at: row.delivered_at,
        created_at: row.created_at,
    }
}
