//! Signed links: the V4 scheme as its specification says, written apart from the library that signs.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::http::request::Parts;
use base64::Engine as _;
use orchestrator::domain::picture::Sha256Hex;
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::query;

const ALGORITHM: &str = "GOOG4-RSA-SHA256";
/// Longest life of a link, in seconds: 7 days.
const LONGEST: i64 = 604_800;

/// An account with a key of its own, made for one test.
#[derive(Debug, Clone)]
pub(crate) struct ServiceAccount {
    /// The key file as Google hands it out.
    pub(crate) key_file: PathBuf,
    pub(crate) email: String,
    public_key: Vec<u8>,
    _folder: Arc<tempfile::TempDir>,
}

impl ServiceAccount {
    pub(crate) fn generate() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let key = base64::engine::general_purpose::STANDARD.encode(pkcs8.as_ref());
        let lines: Vec<&str> = key.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
        let email = "pictures@a-test.iam.gserviceaccount.com".to_owned();
        let file = json!({
            "type": "service_account",
            "project_id": "a-test",
            "private_key_id": "1",
            "private_key": format!("{begin}\n{}\n{end}\n", lines.join("\n")),
            "client_email": email,
            "client_id": "1",
            "token_uri": "http://127.0.0.1:1/token",
        });
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("key.json");
        std::fs::write(&key_file, file.to_string()).unwrap();
        Self { key_file, email, public_key: pair.public_key().as_ref().to_vec(), _folder: Arc::new(folder) }
    }
}

/// Why a link is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkFault {
    /// It is none, or not of this scheme.
    Malformed,
    /// Something in it is not what was signed.
    Signature,
    /// It is over.
    Expired,
}

impl LinkFault {
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::Signature => 403,
            Self::Expired => 400,
        }
    }

    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "AccessDenied",
            Self::Signature => "SignatureDoesNotMatch",
            Self::Expired => "ExpiredToken",
        }
    }
}

/// Whether `account` signed this link, and it lives at `now`.
pub(super) fn verify(account: &ServiceAccount, parts: &Parts, now: Option<i64>) -> Result<(), LinkFault> {
    let raw = parts.uri.query().ok_or(LinkFault::Malformed)?;
    let values = query(&parts.uri);
    let value = |name: &str| values.get(name).ok_or(LinkFault::Malformed);
    let (date, scope) = (value("X-Goog-Date")?, value("X-Goog-Credential")?);
    let scope = scope.strip_prefix(&format!("{}/", account.email)).ok_or(LinkFault::Malformed)?;
    let signed_headers = value("X-Goog-SignedHeaders")?;
    if value("X-Goog-Algorithm")? != ALGORITHM || signed_headers != "host" {
        return Err(LinkFault::Malformed);
    }
    // Sorted by name, each still encoded as it was sent, and the signature left out.
    let mut pairs: Vec<&str> = raw.split('&').filter(|pair| !pair.starts_with("X-Goog-Signature=")).collect();
    pairs.sort_unstable();
    let host = parts.headers["host"].to_str().unwrap();
    // The real one has no port to think of; the library signs the name alone.
    let host = host.split(':').next().unwrap();
    let canonical = format!(
        "{}\n{}\n{}\nhost:{host}\n\n{signed_headers}\nUNSIGNED-PAYLOAD",
        parts.method,
        parts.uri.path(),
        pairs.join("&")
    );
    let hash = Sha256Hex::of(canonical.as_bytes());
    let signed = format!("{ALGORITHM}\n{date}\n{scope}\n{hash}");
    let signature = unhex(value("X-Goog-Signature")?).ok_or(LinkFault::Malformed)?;
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &account.public_key);
    key.verify(signed.as_bytes(), &signature).map_err(|_| LinkFault::Signature)?;
    let life: i64 = value("X-Goog-Expires")?.parse().map_err(|_| LinkFault::Malformed)?;
    let signed_at = seconds(date).ok_or(LinkFault::Malformed)?;
    let now = now.unwrap_or_else(|| OffsetDateTime::now_utc().unix_timestamp());
    if life > LONGEST {
        return Err(LinkFault::Malformed);
    }
    if (signed_at..signed_at + life).contains(&now) { Ok(()) } else { Err(LinkFault::Expired) }
}

/// Unix seconds of a date such as `20260102T030405Z`.
fn seconds(date: &str) -> Option<i64> {
    let part = |from: usize, to: usize| date.get(from..to);
    let (day, clock) = (
        format!("{}-{}-{}", part(0, 4)?, part(4, 6)?, part(6, 8)?),
        format!("{}:{}:{}", part(9, 11)?, part(11, 13)?, part(13, 15)?),
    );
    let parsed = PrimitiveDateTime::parse(&format!("{day}T{clock}Z"), &Rfc3339).ok()?;
    Some(parsed.assume_utc().unix_timestamp())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}
