//! The labels of the metrics. Each value is of a list, or one that the configuration bounds.

use std::fmt::Write as _;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// A list of label values with their text.
macro_rules! values {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $visibility enum $name { $($(#[$value_doc])* $value,)+ }

        impl $name {
            const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                encoder.write_str(self.as_str())
            }
        }
    };
}

values! {
    /// How a picture ended.
    pub enum PictureOutcome {
        /// It was made.
        Completed = "completed",
        /// It will not be made.
        Failed = "failed",
        /// It was cancelled before its call.
        Cancelled = "cancelled",
    }
}

values! {
    /// How a call of the provider ended.
    pub enum CallOutcome {
        /// With an answer, with a picture or without.
        Answered = "answered",
        /// The provider refused what it was asked for.
        Refused = "refused",
        /// The provider failed, at no cost.
        Failed = "failed",
        /// The provider asked to slow down.
        Throttled = "throttled",
        /// The provider's quota of the day is used up.
        Quota = "quota",
        /// Nobody can know.
        Unknown = "unknown",
    }
}

values! {
    /// Where a reference came from, or why it did not.
    pub enum ReferenceOutcome {
        /// From the web.
        Fetched = "fetched",
        /// From what was fetched before.
        Cached = "cached",
        /// From the service's own pictures.
        Own = "own",
        /// It points where the service does not go.
        Blocked = "blocked",
        /// It has too many bytes or pixels.
        TooLarge = "too_large",
        /// It could not be had, or is no picture.
        Failed = "failed",
    }
}

values! {
    /// Why a progress stream ended.
    pub enum StreamEnd {
        /// The batch is done, and everything was sent.
        Done = "done",
        /// Its time was over; the client comes back.
        TimeLimit = "time_limit",
        /// The service stops.
        Draining = "draining",
        /// The client went away.
        Left = "left",
        /// Progress could not be read.
        Failed = "failed",
    }
}

values! {
    /// Where an error code was told.
    pub(super) enum Source {
        Http = "http",
        Picture = "picture",
    }
}

values! {
    /// The methods that are told apart.
    pub(super) enum Method {
        Get = "GET",
        Head = "HEAD",
        Post = "POST",
        Delete = "DELETE",
        Options = "OPTIONS",
        Other = "other",
    }
}

impl Method {
    pub(super) fn of(method: &str) -> Self {
        let known = [Self::Get, Self::Head, Self::Post, Self::Delete, Self::Options];
        known.into_iter().find(|known| known.as_str() == method).unwrap_or(Self::Other)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) route: String,
    pub(super) method: Method,
    pub(super) status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Route {
    pub(super) route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Error {
    pub(super) source: Source,
    pub(super) code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PictureLabels {
    pub(super) model: String,
    pub(super) outcome: PictureOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Model {
    pub(super) model: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Call {
    pub(super) model: String,
    pub(super) outcome: CallOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reference {
    pub(super) outcome: ReferenceOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Closed {
    pub(super) reason: StreamEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Info {
    pub(super) version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct State {
    pub(super) state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Reason {
    pub(super) reason: &'static str,
}
