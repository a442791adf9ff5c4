//! What the end of one attempt means: for its picture, and for the money.

use std::collections::BTreeMap;

use super::Settled;
use crate::domain::ids::UserId;
use crate::domain::ledger::{ChargeOutcome, LedgerLine};
use crate::domain::money::MicroUsd;
use crate::domain::outcome::{Charge, Next};
use crate::domain::state::{AttemptState, Billing, ErrorCode, ImageError, ImageState};
use crate::store::budget::{BudgetMove, user_scope};

/// A picture's row, held for the transaction.
pub(super) struct OpenImage {
    pub(super) running: bool,
    pub(super) cost: Option<i64>,
    pub(super) billing: Option<Billing>,
    pub(super) attempts: i64,
}

/// What an attempt cost, and whether the ledger knows it already.
#[derive(Clone, Copy)]
pub(super) struct Paid {
    pub(super) cost: MicroUsd,
    pub(super) billing: Billing,
    /// The charge came into the ledger's table by an import: it is counted there, and must not be again.
    pub(super) recorded: bool,
}

impl Paid {
    pub(super) fn new(charge: Charge, reserved: MicroUsd, recorded: Option<&LedgerLine>) -> Self {
        if let Some(line) = recorded {
            let unknown = line.outcome == ChargeOutcome::Unknown;
            let billing = if unknown { Billing::Unknown } else { Billing::Charged };
            return Self { cost: line.cost, billing, recorded: true };
        }
        let (cost, billing) = match charge {
            Charge::Nothing => (MicroUsd::ZERO, Billing::NotCharged),
            Charge::Known(cost) => (cost, Billing::Charged),
            Charge::Reserve => (reserved, Billing::Unknown),
        };
        Self { cost, billing, recorded: false }
    }

    pub(super) const fn is_unknown(self) -> bool {
        matches!(self.billing, Billing::Unknown)
    }

    /// Whether a line of the ledger is to be written for it.
    pub(super) const fn is_new_charge(self) -> bool {
        !self.recorded && !matches!(self.billing, Billing::NotCharged)
    }

    /// How it changes the budget, `released` aside.
    pub(super) fn spent(self, reserved: MicroUsd) -> BudgetMove {
        if self.recorded {
            return BudgetMove::default();
        }
        let cost = self.cost.micros();
        let unknown = if self.is_unknown() { cost } else { 0 };
        BudgetMove { spent: cost, unknown, overrun: (cost - reserved.micros()).max(0), released: 0 }
    }
}

/// What one attempt's end means, worked out from what the transaction's own updates returned.
pub(super) struct Close {
    pub(super) image: OpenImage,
    pub(super) reserved: MicroUsd,
    pub(super) paid: Paid,
    pub(super) billing: Option<Billing>,
    pub(super) next: Next,
    pub(super) state: ImageState,
}

impl Close {
    /// What `next` means for a picture whose row is `image`. What its attempt reserved is not known yet.
    pub(super) fn new(image: OpenImage, mut next: Next, paid: Paid, is_cancelled: bool) -> Self {
        let state = match &next {
            Next::Complete(_) => ImageState::Completed,
            Next::Fail(_) => ImageState::Failed,
            Next::Wait(_) | Next::Again(_) | Next::AgainReserved if is_cancelled => ImageState::Cancelled,
            Next::Wait(_) | Next::Again(_) | Next::AgainReserved => ImageState::Queued,
        };
        if state == ImageState::Cancelled {
            next = Next::Fail(ImageError::passing(ErrorCode::ProviderError, "the batch was cancelled"));
        }
        let billing = match (image.billing, &next) {
            (earlier, Next::Wait(_)) => earlier,
            (None, _) => image.running.then_some(paid.billing),
            (Some(earlier), _) => Some(earlier.then(paid.billing)),
        };
        Self { image, reserved: MicroUsd::ZERO, paid, billing, next, state }
    }

    /// The state that the attempt must be in, and the one that it gets.
    pub(super) fn attempt_states(&self) -> (AttemptState, AttemptState) {
        let was = if self.image.running { AttemptState::Started } else { AttemptState::Held };
        let state = match (&self.next, self.paid.billing) {
            (Next::Wait(_), _) => AttemptState::Held,
            (_, Billing::NotCharged) => AttemptState::Released,
            (_, Billing::Charged) => AttemptState::Settled,
            (_, Billing::Unknown) => AttemptState::Unknown,
        };
        (was, state)
    }

    /// The picture fails, as there is no money for another call.
    pub(super) fn fail_for_want_of_budget(&mut self) {
        let detail = "the call's outcome is unknown, and the budget has no room for another one";
        self.next = Next::Fail(ImageError::passing(ErrorCode::BudgetExhausted, detail));
        self.state = ImageState::Failed;
    }

    /// Whether the attempt's reserve is free again, or spent; otherwise it goes on to the next try.
    pub(super) fn ends_reserve(&self) -> bool {
        !matches!(self.next, Next::Wait(_) | Next::Again(_))
    }

    pub(super) fn budget_move(&self) -> BudgetMove {
        let released = if self.ends_reserve() { self.reserved.micros() } else { 0 };
        BudgetMove { released, ..self.paid.spent(self.reserved) }
    }

    pub(super) fn written(&self) -> Settled {
        let money = self.paid.spent(self.reserved);
        let error = match &self.next {
            Next::Fail(error) if self.state == ImageState::Failed => Some(error.code),
            _ => None,
        };
        Settled::Written {
            state: self.state,
            overrun: money.overrun > 0,
            unknown: self.paid.is_unknown(),
            cost: MicroUsd::from_micros(money.spent),
            error,
        }
    }
}

/// The money that a group of ends moves.
#[derive(Default)]
pub(super) struct Moves {
    pub(super) everyone: BudgetMove,
    pub(super) users: BTreeMap<String, BudgetMove>,
}

impl Moves {
    pub(super) fn add(&mut self, owner: &UserId, change: BudgetMove) {
        self.everyone.add(change);
        self.users.entry(user_scope(owner)).or_default().add(change);
    }
}
