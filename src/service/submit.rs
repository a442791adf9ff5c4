//! Submitting a batch: price it, reserve it, accept it.

use std::time::Duration;

use rand::Rng as _;

use super::batches::{Batches, BudgetShortfall, Idempotency, ServiceError, Submitted};
use super::view::{EstimateView, ItemEstimateView, WebhookView};
use crate::domain::access::Caller;
use crate::domain::ids::{AttemptId, BatchId};
use crate::domain::money::MicroUsd;
use crate::domain::prices::ModelPrice;
use crate::domain::spec::{BatchSpec, RunMode};
use crate::domain::webhook::{MADE_SECRET_BYTES, Webhook, WebhookSecret, WebhookSpec};
use crate::store::{BudgetRow, NewBatch, NewItem, SubmitOutcome};

/// How long an idempotency key is remembered.
pub(super) const IDEMPOTENCY_KEPT: Duration = Duration::from_hours(24);

/// What a client is told whose batch looks as if it were paid.
const REHEARSAL: &str = "rehearsal: the synthetic provider makes these pictures, nothing is paid";

/// A batch with the price of each row.
struct Priced<'a> {
    model: &'a ModelPrice,
    /// What one picture of each row reserves.
    reserves: Vec<MicroUsd>,
    total: MicroUsd,
}

impl Batches {
    /// Prices a batch; writes nothing.
    ///
    /// # Errors
    /// [`ServiceError::Price`] if the model is unknown, retired, or not priced at a size that is asked for.
    pub fn estimate(&self, spec: &BatchSpec) -> Result<EstimateView, ServiceError> {
        let priced = self.price(spec)?;
        let mut items = Vec::with_capacity(spec.items.len());
        for (item, reserve) in spec.items.iter().zip(&priced.reserves) {
            items.push(ItemEstimateView {
                scene_id: item.scene_id.clone(),
                variants: item.variants,
                estimated_cost: reserve.times(item.variants)?,
            });
        }
        let advice = "dry run: nothing was written or spent; send runMode \"live\" to make the pictures";
        let remark = self.remark(priced.model).map(|remark| format!("; {remark}"));
        Ok(EstimateView {
            batch_id: None,
            run_mode: RunMode::DryRun,
            model: spec.model.clone(),
            estimated_cost: priced.total,
            items,
            message: format!("{advice}{}", remark.unwrap_or_default()),
        })
    }

    /// Reserves the money and accepts a live batch.
    ///
    /// # Errors
    /// [`ServiceError::Price`], [`ServiceError::LiveDisabled`], [`ServiceError::BudgetExceeded`],
    /// [`ServiceError::KeyReused`], [`ServiceError::KeyInProgress`] or [`ServiceError::Unavailable`];
    /// nothing is written then.
    pub async fn submit(
        &self,
        caller: &Caller,
        spec: BatchSpec,
        idempotency: Option<Idempotency>,
    ) -> Result<Submitted, ServiceError> {
        let priced = self.price(&spec)?;
        let batch = self.new_batch(caller, &priced, idempotency, spec);
        let outcome = if self.rules.live {
            self.store.submit(&batch, &self.rules.limits).await?
        } else {
            self.store.find_submission(&batch).await?.ok_or(ServiceError::LiveDisabled)?
        };
        match outcome {
            SubmitOutcome::Accepted => {
                let (estimated, remark) = (batch.estimated_cost, batch.message.as_deref());
                tracing::info!(batch = %batch.id, model = batch.model, %estimated, remark, "batch accepted");
                let webhook = batch.webhook.map(WebhookView::with_secret);
                Ok(Submitted { batch: batch.id, replayed: false, webhook })
            }
            SubmitOutcome::Replayed(earlier) => {
                let webhook = self.store.load_webhook(earlier).await?.map(WebhookView::with_secret);
                Ok(Submitted { batch: earlier, replayed: true, webhook })
            }
            SubmitOutcome::KeyReused => Err(ServiceError::KeyReused),
            SubmitOutcome::OverBudget { user_limit, budget } => {
                Err(self.shortfall(priced.total, user_limit.then_some(caller), &budget)?)
            }
        }
    }

    fn price(&self, spec: &BatchSpec) -> Result<Priced<'_>, ServiceError> {
        let model = self.prices.callable(&spec.model, self.clock.now().day())?;
        let mut reserves = Vec::with_capacity(spec.items.len());
        let mut total = MicroUsd::ZERO;
        for item in &spec.items {
            let reserve = model.reserve(item)?;
            total = total.plus(reserve.times(item.variants)?)?;
            reserves.push(reserve);
        }
        Ok(Priced { model, reserves, total })
    }

    /// What to know about a batch with this model.
    fn remark(&self, model: &ModelPrice) -> Option<String> {
        let rehearsal = self.rules.own_model.is_some_and(|own| own != model.id).then(|| REHEARSAL.to_owned());
        let remarks: Vec<String> = model.deprecated.clone().into_iter().chain(rehearsal).collect();
        (!remarks.is_empty()).then(|| remarks.join("; "))
    }

    fn new_batch(
        &self,
        caller: &Caller,
        priced: &Priced<'_>,
        idempotency: Option<Idempotency>,
        spec: BatchSpec,
    ) -> NewBatch {
        let now = self.clock.now();
        let mut items = Vec::with_capacity(spec.items.len());
        for (spec, &reserve) in spec.items.into_iter().zip(&priced.reserves) {
            let attempts = (0..spec.variants).map(|_| AttemptId::new(self.ids.next())).collect();
            items.push(NewItem { spec, reserve, attempts });
        }
        NewBatch {
            id: BatchId::new(self.ids.next()),
            owner: caller.user.clone(),
            user_limit: caller.daily_budget,
            model: spec.model,
            message: self.remark(priced.model),
            items,
            estimated_cost: priced.total,
            at: now,
            webhook: spec.webhook.map(with_secret),
            idempotency: idempotency.map(|given| (given.key, given.request_hash)),
            forget_keys_before: now.min(self.store.steady_now()).before(IDEMPOTENCY_KEPT),
        }
    }

    /// The refusal of what does not fit everyone's limit, or that of `user`; with what is left.
    pub(super) fn shortfall(
        &self,
        estimated_cost: MicroUsd,
        user: Option<&Caller>,
        budget: &BudgetRow,
    ) -> Result<ServiceError, ServiceError> {
        let limits = self.rules.limits;
        let limit = user.map_or(limits.everyone, |user| limits.with_user(user.daily_budget).user);
        let daily_limit = limit.unwrap_or(MicroUsd::MAX);
        let remaining = daily_limit.minus(budget.spent.plus(budget.reserved)?)?.or_zero();
        let resets_at = budget.day.end();
        let shortfall =
            BudgetShortfall { estimated_cost, remaining, daily_limit, resets_at, user_limit: user.is_some() };
        Ok(ServiceError::BudgetExceeded(shortfall))
    }
}

/// The webhook that is asked for, with the secret that is given or a fresh one.
fn with_secret(asked: WebhookSpec) -> Webhook {
    let fresh = || {
        let mut bytes = [0; MADE_SECRET_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        WebhookSecret::made_of(bytes)
    };
    Webhook { secret: asked.secret.unwrap_or_else(fresh), url: asked.url, events: asked.events }
}
