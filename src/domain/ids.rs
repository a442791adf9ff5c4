//! Identities: a prefix that says what they name, and a ULID, so that they sort by creation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Why a text is not an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}_ followed by 26 characters")]
pub struct IdError {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Ulid);

        impl $name {
            /// Wraps a ULID made by an [`IdSource`](crate::clock::IdSource).
            #[must_use]
            pub const fn new(ulid: Ulid) -> Self {
                Self(ulid)
            }

            /// The ULID as a number.
            #[must_use]
            pub const fn bits(self) -> u128 {
                self.0.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let ulid = text
                    .strip_prefix(concat!($prefix, "_"))
                    .filter(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()))
                    .and_then(|rest| Ulid::from_string(rest).ok());
                ulid.map(Self).ok_or(IdError { prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Identifies one batch. Text form `bat_` + ULID.
    BatchId,
    "bat"
);
id!(
    /// Identifies one paid call. Text form `att_` + ULID.
    AttemptId,
    "att"
);
id!(
    /// Identifies one charge, in the database and in the ledger. Text form `chg_` + ULID.
    ChargeId,
    "chg"
);
id!(
    /// Identifies one running process. Text form `wrk_` + ULID.
    WorkerId,
    "wrk"
);

/// Names one picture to make: a row of a batch and the number of the variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey {
    /// The batch it belongs to.
    pub batch: BatchId,
    /// The row in the batch, counting from 1.
    pub ordinal: u32,
    /// The variant of the row, counting from 1.
    pub variant: u32,
}

impl ImageKey {
    /// The object name of the picture that attempt `number` makes, without its ending.
    ///
    /// Names are never reused: `number` only grows, also through a retry.
    #[must_use]
    pub fn object_stem(&self, number: u32) -> String {
        format!("images/{}/{}-{}-{number}", self.batch, self.ordinal, self.variant)
    }

    /// The picture that an object name is about, if it is about one. Does not say that the object is there, nor
    /// that this is its only name.
    #[must_use]
    pub fn of_object(object: &str) -> Option<Self> {
        let (batch, rest) = object.strip_prefix("images/")?.split_once('/')?;
        let mut numbers = rest.split('-').map(|number| number.parse().ok());
        Some(Self { batch: batch.parse().ok()?, ordinal: numbers.next()??, variant: numbers.next()?? })
    }
}

impl fmt::Display for ImageKey {
    /// For a log: `bat_…/3-1` is the first variant of the third row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.batch, self.ordinal, self.variant)
    }
}

/// The user that a batch belongs to: the name of a key, or `local` while no key exists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// Wraps the name of an authenticated key.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The only user of an open service on loopback.
    #[must_use]
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form_and_refuses_other_kinds() {
        let id = BatchId::new(Ulid::from_parts(1_795_512_370_739, 0xface));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().parse::<AttemptId>().is_err());
        assert!(id.to_string().to_lowercase().parse::<BatchId>().is_err());
        assert!("bat_".parse::<BatchId>().is_err());
    }

    #[test]
    fn a_picture_is_named_by_batch_row_and_variant() {
        let batch = BatchId::new(Ulid::from_parts(1_795_512_370_739, 0xface));
        let image = ImageKey { batch, ordinal: 3, variant: 1 };
        assert_eq!(image.to_string(), format!("{batch}/3-1"));
        assert_eq!(ImageKey::of_object(&format!("{}.png", image.object_stem(7))), Some(image));
        for other in ["images/x/3-1-7.png", "thumbnails/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/3-1-7.png", "images/", ""] {
            assert_eq!(ImageKey::of_object(other), None, "{other}");
        }
    }
}
