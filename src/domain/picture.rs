//! A stored picture, and the receipt that lies beside it.

use std::{fmt, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ids::AttemptId;
use super::money::MicroUsd;
use super::prices::Usage;
use super::spec::ReferenceMode;

/// The formats that pictures come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PictureFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    Webp,
}

impl PictureFormat {
    /// Every format that a stored picture may have.
    pub const ALL: [Self; 3] = [Self::Png, Self::Jpeg, Self::Webp];

    /// The ending of an object name, without the dot.
    #[must_use]
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }

    /// The media type it is served as.
    #[must_use]
    pub const fn mime_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }

    /// The format that the first bytes of a file say it has.
    #[must_use]
    pub fn of_magic(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if bytes.starts_with(b"\xff\xd8\xff") {
            Some(Self::Jpeg)
        } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            Some(Self::Webp)
        } else {
            None
        }
    }
}

/// The SHA-256 of some bytes. Text form: 64 lowercase hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Hex([u8; 32]);

impl Sha256Hex {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Hashes what `reader` gives until its end, a piece of it in memory at a time.
    ///
    /// # Errors
    /// What reading failed with.
    pub fn of_reader(mut reader: impl io::Read) -> io::Result<Self> {
        use sha2::Digest;
        let (mut hash, mut piece) = (sha2::Sha256::new(), [0; 8 << 10]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(Self(hash.finalize().into())),
                Ok(read) => hash.update(piece.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A picture that is stored, as the database and the events hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// Its object name: `images/{batch}/{ordinal}-{variant}-{attempt}.{png|jpg|webp}`.
    pub object: String,
    /// Its format.
    pub format: PictureFormat,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Its size in bytes.
    pub bytes: u64,
    /// The hash of its bytes.
    pub sha256: String,
    /// The object name of its thumbnail, if one could be made.
    pub thumbnail: Option<String>,
}

/// Lies beside a stored picture, so that one that was paid for is recognised after a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// The paid call that made it.
    pub attempt: AttemptId,
    /// What the answer said was used, if it did.
    pub usage: Option<Usage>,
    /// What the call cost, if its usage told; the reserve counts otherwise.
    pub cost: Option<MicroUsd>,
    /// What the store needs to know of the picture without reading it again.
    pub picture: Picture,
}

/// A reference picture, fetched and checked, ready to be shown to a model.
#[derive(Clone)]
pub struct ReferenceImage {
    /// The encoded picture.
    pub bytes: Bytes,
    /// Its format.
    pub format: PictureFormat,
    /// What of it counts.
    pub mode: ReferenceMode,
}
