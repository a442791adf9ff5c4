//! Whether a call may start now: the gate, the day's money, and the certainty of the claim.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio_util::sync::CancellationToken;

use super::MoneyRules;
use super::claims::Claims;
use super::execute::{Signals, describe};
use super::gate::{Closed, Gate, Pass, Reason, Verdict};
use super::ledger::Exporter;
use super::minute::{Asked, SharedMinute, Taken};
use super::notices::Notices;
use crate::domain::ids::BatchId;
use crate::domain::outcome::Outcome;
use crate::domain::state::{ErrorCode, ImageError};
use crate::store::Store;

/// How long a picture waits that was accepted before the service was told to spend nothing.
const NOT_LIVE_PAUSE: Duration = Duration::from_mins(1);
/// How long a picture waits while charges above their reserve keep the day over its limit.
const OVERRUN_PAUSE: Duration = Duration::from_mins(1);
/// How long a picture waits while the budget cannot be read.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Whether a call starts.
pub(super) enum Admitted<'a> {
    /// It may.
    Go(Permit<'a>),
    /// Not now: this service is not ready for it.
    Postpone(Duration),
    /// It would be in vain.
    Refuse(ImageError),
    /// The service stops.
    Stop,
}

/// The right to send one call.
pub(super) struct Permit<'a> {
    pass: Pass<'a>,
    slot: Option<Taken>,
}

/// Decides over the start of calls.
pub struct Admission {
    store: Arc<Store>,
    claims: Arc<Claims>,
    gate: Arc<Gate>,
    minute: Option<SharedMinute>,
    notices: Notices,
    rules: MoneyRules,
    exporter: Option<Arc<Exporter>>,
}

impl Admission {
    /// Calls pass `gate` under `rules`, while the claims of `claims` are certain, and take a slot of `minute` if
    /// other instances make calls too.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        claims: Arc<Claims>,
        gate: Arc<Gate>,
        minute: Option<SharedMinute>,
        notices: Notices,
        rules: MoneyRules,
    ) -> Self {
        Self { store, claims, gate, minute, notices, rules, exporter: None }
    }

    /// Takes up no picture while `exporter` owes an import: its call may have been made and charged already.
    #[must_use]
    pub fn once_compared(self, exporter: Option<Arc<Exporter>>) -> Self {
        Self { exporter, ..self }
    }

    /// Whether the ledger was compared with the database since the start, where it is to be. Before, not even a call of
    /// a dead worker is settled: the ledger may know its end, and the calls after it.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.exporter.as_ref().is_none_or(|exporter| !exporter.owes_import())
    }

    /// Whether pictures are to be taken up at all: not while nothing may be spent, the day is over its limit, or the
    /// ledger is still to be compared.
    pub async fn takes_work(&self) -> bool {
        self.is_compared() && self.rules.live && matches!(self.store.is_overrun(&self.rules.limits).await, Ok(false))
    }

    /// What becomes of a picture that cannot be called for now, said before anything is fetched for it.
    pub(super) async fn forbids(&self, batch: BatchId, model: &str) -> Option<Outcome> {
        if !self.rules.live {
            return Some(Outcome::Postponed(NOT_LIVE_PAUSE));
        }
        let closed = self.gate.trouble(Some(model)).filter(|closed| closed.reason == Reason::Quota)?;
        self.notices.tell(batch, closed).await;
        Some(Outcome::Refused(quota_exhausted()))
    }

    /// Waits while the gate is closed or the minute's calls are spent; postpones while the day is over its limit,
    /// the claim is in doubt, or the database is away.
    pub(super) async fn admit(&self, batch: BatchId, model: &str, signals: &Signals) -> Admitted<'_> {
        loop {
            let changed = self.gate.changed();
            let pass = match self.gate.pass(model) {
                Ok(pass) => pass,
                Err(closed) => {
                    self.notices.tell(batch, closed).await;
                    if closed.reason == Reason::Quota {
                        return Admitted::Refuse(quota_exhausted());
                    }
                    if self.opens(closed, changed, &signals.draining).await.is_none() {
                        return Admitted::Stop;
                    }
                    continue;
                }
            };
            if let Some(span) = self.doubt().await {
                return Admitted::Postpone(span);
            }
            let Some(minute) = &self.minute else { return Admitted::Go(Permit { pass, slot: None }) };
            let asked = tokio::select! {
                asked = minute.take() => asked,
                () = signals.draining.cancelled() => return Admitted::Stop,
            };
            match asked {
                Ok(Asked::Taken(slot)) => return Admitted::Go(Permit { pass, slot: Some(slot) }),
                // The gate is closed before the pass comes back: who waits there does not ask in vain.
                Ok(Asked::Spent(span)) => self.gate.spent(span),
                Err(error) => {
                    tracing::warn!(error = %describe(&error), "cannot count a call before it starts");
                    return Admitted::Postpone(AWAY_PAUSE);
                }
            }
        }
    }

    /// Waits until the gate may be open; `None` if the service stops first.
    async fn opens(&self, closed: Closed, changed: Notified<'_>, draining: &CancellationToken) -> Option<()> {
        tokio::select! {
            () = tokio::time::sleep(closed.opens_in) => Some(()),
            () = changed => Some(()),
            () = draining.cancelled() => None,
        }
    }

    /// How long a call waits for the day's money or the certainty of its claim; `None` if it need not.
    async fn doubt(&self) -> Option<Duration> {
        match self.store.is_overrun(&self.rules.limits).await {
            Ok(false) if self.claims.may_start() => None,
            Ok(false) => Some(self.claims.beat_every()),
            Ok(true) => Some(OVERRUN_PAUSE),
            Err(error) => {
                tracing::warn!(error = %describe(&error), "cannot read the budget before a call");
                Some(AWAY_PAUSE)
            }
        }
    }

    /// The call is sent now, unless it would be in another minute than the one it was admitted to.
    pub(super) async fn send(&self, permit: &mut Permit<'_>) -> bool {
        if let (Some(minute), Some(slot)) = (&self.minute, &mut permit.slot)
            && !minute.confirm(slot).await
        {
            return false;
        }
        permit.pass.send();
        true
    }

    /// The call is not sent.
    pub(super) async fn unused(&self, permit: Permit<'_>) {
        if let (Some(minute), Some(slot)) = (&self.minute, permit.slot) {
            minute.give_back(slot).await;
            self.gate.spent(Duration::ZERO);
        }
    }

    /// How long a provider is left alone that asks to slow down and does not say for how long.
    pub(super) fn default_pause(&self) -> Duration {
        self.gate.default_pause()
    }

    /// Records how the call of `batch` ended; tells the batch if that closed the gate.
    pub(super) async fn ended(&self, batch: BatchId, model: &str, permit: Permit<'_>, verdict: Verdict) {
        permit.pass.end(verdict);
        if verdict != Verdict::Answered
            && let Some(closed) = self.gate.trouble(Some(model))
        {
            self.notices.tell(batch, closed).await;
        }
    }
}

/// Why a picture fails while the provider's daily quota is used up.
pub(super) fn quota_exhausted() -> ImageError {
    let detail = "the provider's daily quota is used up; retry the picture when it is reset";
    ImageError::passing(ErrorCode::QuotaExhausted, detail)
}
