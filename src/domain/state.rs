//! The states of batches, items, images and attempts, and what of them a person is told.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The stored text is not one of the known states: the database is newer or damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {text:?} in the database")]
pub struct StateError {
    kind: &'static str,
    text: String,
}

// The texts are token trees: the derives of a literal fragment would see a group and miss the name in it.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $variant_doc:tt])+ $variant:ident = $text:tt,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum $name {
            $($(#[doc = $variant_doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// The text form, in JSON and in the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($variant_doc),+).trim_ascii(),)+ }
            }

            /// Every value, in the order in which they are declared.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
        }

        impl FromStr for $name {
            type Err = StateError;

            fn from_str(text: &str) -> Result<Self, StateError> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err(StateError { kind: stringify!($name), text: other.to_owned() }),
                }
            }
        }
    };
}

text_enum! {
    /// How far a batch, or one item of it, has come.
    BatchState {
        /// Accepted; no picture was taken up yet.
        Queued = "queued",
        /// At least one picture was taken up.
        Running = "running",
        /// Every picture was made.
        Completed = "completed",
        /// Some pictures were made, others failed.
        Partial = "partial",
        /// No picture was made.
        Failed = "failed",
        /// A cancel stopped at least one picture.
        Cancelled = "cancelled",
    }
}

text_enum! {
    /// How far one picture has come, in the database.
    ImageState {
        /// Waits for a worker, with money held for it.
        Queued = "queued",
        /// A worker prepares the call: fetches references, looks for an earlier picture.
        Claimed = "claimed",
        /// The paid call is under way.
        Running = "running",
        /// The picture is stored.
        Completed = "completed",
        /// It will not be made; the error says why.
        Failed = "failed",
        /// A cancel came first.
        Cancelled = "cancelled",
    }
}

text_enum! {
    /// What a webhook tells of.
    WebhookEvent {
        /// No picture of the batch is open any more; after a retry it is told again.
        BatchCompleted = "batch.completed",
        /// A picture was made, or will not be.
        ImageCompleted = "image.completed",
    }
}

text_enum! {
    /// How far a webhook's message has come.
    DeliveryState {
        /// It waits for its first or for another try, or for those before it.
        Pending = "pending",
        /// The receiver took it.
        Delivered = "delivered",
        /// It was given up; the error says why.
        Failed = "failed",
    }
}

impl ImageState {
    /// Whether nothing will change any more, short of a retry that a user asks for.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Claimed | Self::Running => false,
            Self::Completed | Self::Failed | Self::Cancelled => true,
        }
    }

    /// What a client is told: preparing a call counts as running.
    #[must_use]
    pub const fn shown(self) -> BatchState {
        match self {
            Self::Queued => BatchState::Queued,
            Self::Claimed | Self::Running => BatchState::Running,
            Self::Completed => BatchState::Completed,
            Self::Failed => BatchState::Failed,
            Self::Cancelled => BatchState::Cancelled,
        }
    }
}

text_enum! {
    /// How far one paid call has come. Money is held from the first state to the last three.
    AttemptState {
        /// Money is reserved; nothing was sent.
        Held = "held",
        /// Durably recorded just before the request; it may have been sent.
        Started = "started",
        /// The provider's answer said what it cost.
        Settled = "settled",
        /// Nothing was charged; the reserve went back or on to the next attempt.
        Released = "released",
        /// Nobody can know whether it was charged; charged at the reserve.
        Unknown = "unknown",
    }
}

text_enum! {
    /// Whether a picture's calls cost money.
    Billing {
        /// The provider charged for it.
        Charged = "charged",
        /// No call of it was charged.
        NotCharged = "not_charged",
        /// The outcome of a call is not known; its reserve counts as spent.
        Unknown = "unknown",
    }
}

impl Billing {
    /// What is known after one more call ended with `latest`: money once charged stays charged.
    #[must_use]
    pub const fn then(self, latest: Self) -> Self {
        match (self, latest) {
            (earlier, Self::NotCharged) => earlier,
            (_, latest) => latest,
        }
    }
}

text_enum! {
    /// Why a picture was not made.
    ErrorCode {
        /// The provider refused the prompt or the picture.
        SafetyBlocked = "safety_blocked",
        /// The provider answered without a picture.
        NoImage = "no_image",
        /// A reference points where this service does not go.
        ReferenceBlocked = "reference_blocked",
        /// A reference could not be fetched or is no picture.
        ReferenceFailed = "reference_failed",
        /// A reference has too many bytes or pixels.
        ReferenceTooLarge = "reference_too_large",
        /// The provider's quota is used up.
        QuotaExhausted = "quota_exhausted",
        /// The provider failed or refused the request.
        ProviderError = "provider_error",
        /// The call was sent and its outcome cannot be known.
        ProviderOutcomeUnknown = "provider_outcome_unknown",
        /// A fresh reservation did not fit the budget.
        BudgetExhausted = "budget_exhausted",
        /// The picture was paid for and could not be stored.
        StorageError = "storage_error",
    }
}

/// Why one picture was not made, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageError {
    /// The stable code.
    pub code: ErrorCode,
    /// A sentence for a person; names no internal address.
    pub detail: String,
    /// Whether trying the same again can help.
    pub retryable: bool,
}

impl ImageError {
    /// An error that trying again cannot mend.
    #[must_use]
    pub fn lasting(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retryable: false }
    }

    /// An error that may be gone the next time.
    #[must_use]
    pub fn passing(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retryable: true }
    }
}

/// How many pictures are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// All of them.
    pub total: u32,
    /// Waiting.
    pub queued: u32,
    /// Being made.
    pub running: u32,
    /// Made.
    pub completed: u32,
    /// Not made, with a reason.
    pub failed: u32,
    /// Stopped by a cancel.
    pub cancelled: u32,
}

impl Counts {
    /// Adds `count` pictures in `state`, to the total too.
    pub fn add(&mut self, state: ImageState, count: u32) {
        self.total += count;
        match state.shown() {
            BatchState::Queued => self.queued += count,
            BatchState::Completed => self.completed += count,
            BatchState::Failed => self.failed += count,
            BatchState::Cancelled => self.cancelled += count,
            BatchState::Running | BatchState::Partial => self.running += count,
        }
    }

    /// Moves one waiting picture to a final `state`; another state changes nothing.
    pub fn finish(&mut self, state: ImageState) {
        if state.is_final() {
            self.queued -= 1;
            self.total -= 1;
            self.add(state, 1);
        }
    }

    /// Whether no picture is open.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.queued + self.running == 0
    }

    /// The state of a batch, or an item, whose pictures are counted here.
    #[must_use]
    pub const fn state(&self) -> BatchState {
        let open = self.queued + self.running;
        if open == self.total && self.running == 0 {
            BatchState::Queued
        } else if open > 0 {
            BatchState::Running
        } else if self.cancelled > 0 {
            BatchState::Cancelled
        } else if self.failed == 0 {
            BatchState::Completed
        } else if self.completed == 0 {
            BatchState::Failed
        } else {
            BatchState::Partial
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(ImageState, u32)]) -> Counts {
        let mut counts = Counts::default();
        for &(state, count) in of {
            counts.add(state, count);
        }
        counts
    }

    #[test]
    fn a_batch_is_what_its_pictures_are() {
        use ImageState::{Cancelled, Claimed, Completed, Failed, Queued};
        for (of, state) in [
            (vec![(Queued, 3)], BatchState::Queued),
            (vec![(Queued, 3), (Claimed, 1)], BatchState::Running),
            (vec![(Queued, 3), (Completed, 1)], BatchState::Running),
            (vec![(Completed, 3)], BatchState::Completed),
            (vec![(Completed, 3), (Failed, 1)], BatchState::Partial),
            (vec![(Failed, 1)], BatchState::Failed),
            (vec![(Completed, 3), (Cancelled, 1)], BatchState::Cancelled),
        ] {
            assert_eq!(counts(&of).state(), state, "{of:?}");
        }
    }

    #[test]
    fn money_once_charged_is_not_forgotten() {
        assert_eq!(Billing::Unknown.then(Billing::NotCharged), Billing::Unknown);
        assert_eq!(Billing::Unknown.then(Billing::Charged), Billing::Charged);
        assert_eq!(Billing::NotCharged.then(Billing::Unknown), Billing::Unknown);
    }
}
