//! Who may do what: keys, scopes, and the callers that they stand for.
//!
//! A key's text is `aip_<id>_<secret>`: 12 hexadecimal digits that name it, and 56 that prove it, the last
//! 8 of them a checksum, so that a typo is told from a wrong key. Only its hash is kept anywhere.

mod entry;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::ids::UserId;
use super::money::MicroUsd;
use super::time::Timestamp;

pub use entry::{EntryError, entries};

const PREFIX: &str = "aip_";
/// Random bytes of a key's name.
pub const ID_BYTES: usize = 6;
/// Random bytes of a key's proof: 192 bits.
pub const SECRET_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;
/// Longest name of a user.
const MAX_NAME_CHARS: usize = 128;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Submit, cancel and retry batches, and upload references.
    Submit,
    /// Read own batches, pictures and budget, and follow progress.
    Read,
    /// Everything, also of other users.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Submit, Self::Read, Self::Admin];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// A set of scopes; never empty. Text form: names joined by `+`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes {
    submit: bool,
    read: bool,
    admin: bool,
}

impl Scopes {
    /// What a key has unless said otherwise.
    pub const USER: Self = Self { submit: true, read: true, admin: false };
    /// Of who may only look.
    pub const READ: Self = Self { submit: false, read: true, admin: false };
    /// All there are.
    pub const ADMIN: Self = Self { submit: true, read: true, admin: true };

    /// Whether `scope` is granted; an admin has all.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.admin
            || match scope {
                Scope::Submit => self.submit,
                Scope::Read => self.read,
                Scope::Admin => false,
            }
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let granted = [(self.submit, Scope::Submit), (self.read, Scope::Read), (self.admin, Scope::Admin)];
        let names: Vec<&str> = granted.iter().filter(|(has, _)| *has).map(|(_, scope)| scope.as_str()).collect();
        f.write_str(&names.join("+"))
    }
}

/// Why a text is no set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("scopes are submit, read and admin, joined by + or a comma")]
pub struct ScopesError;

impl FromStr for Scopes {
    type Err = ScopesError;

    fn from_str(text: &str) -> Result<Self, ScopesError> {
        let mut scopes = Self { submit: false, read: false, admin: false };
        for name in text.split(['+', ',']) {
            match name.trim() {
                "submit" => scopes.submit = true,
                "read" => scopes.read = true,
                "admin" => scopes.admin = true,
                _ => return Err(ScopesError),
            }
        }
        Ok(scopes)
    }
}

/// Names one key. Public: it is in lists and logs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text does not name a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is named by the 12 hexadecimal digits behind aip_")]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        if let Ok(key) = text.parse::<ApiKey>() {
            return Ok(key.id());
        }
        unhex(text.strip_prefix(PREFIX).unwrap_or(text)).map(Self).ok_or(KeyIdError)
    }
}

/// The SHA-256 of a secret's text. Tells nothing about the secret, which is random.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Hashes a secret.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Whether it is `other`, in a time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq as _;
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hash)")
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Why a text is not the hash of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash has 64 hexadecimal digits")]
pub struct SecretHashError;

impl FromStr for SecretHash {
    type Err = SecretHashError;

    fn from_str(text: &str) -> Result<Self, SecretHashError> {
        unhex(text).map(Self).ok_or(SecretHashError)
    }
}

/// A key as its owner has it. Has no `Debug`, and a text form only for the one who made it.
#[derive(Clone)]
pub struct ApiKey {
    id: KeyId,
    secret: [u8; SECRET_BYTES],
}

/// Why a text is no key. Says nothing about which keys there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It has another form.
    #[error("not a key of this service, which begins with aip_ and has 73 characters")]
    Form,
    /// It has the form, and the checksum is wrong.
    #[error("the key has a typo: its checksum does not match")]
    Checksum,
}

impl ApiKey {
    /// A key of these random bytes.
    #[must_use]
    pub const fn from_random(id: [u8; ID_BYTES], secret: [u8; SECRET_BYTES]) -> Self {
        Self { id: KeyId(id), secret }
    }

    /// Which key it claims to be.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.reveal())
    }

    /// Its text, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> String {
        let text = format!("{PREFIX}{}_{}", self.id, hex(&self.secret));
        let checksum = checksum(&text);
        format!("{text}{}", hex(&checksum))
    }
}

impl FromStr for ApiKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (id, proof) = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(KeyError::Form)?;
        let id = unhex::<ID_BYTES>(id).ok_or(KeyError::Form)?;
        let (secret, given) = proof.split_at_checked(2 * SECRET_BYTES).ok_or(KeyError::Form)?;
        let secret = unhex::<SECRET_BYTES>(secret).ok_or(KeyError::Form)?;
        let given = unhex::<CHECKSUM_BYTES>(given).ok_or(KeyError::Form)?;
        if checksum(&text[..text.len() - 2 * CHECKSUM_BYTES]) != given {
            return Err(KeyError::Checksum);
        }
        Ok(Self { id: KeyId(id), secret })
    }
}

/// The first bytes of the text's SHA-256: finds typos, and keeps no secret.
fn checksum(text: &str) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha256::digest(text).into();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// A key as the service knows it.
#[derive(Debug, Clone)]
pub struct KeyRecord {
    /// Its public name.
    pub id: KeyId,
    /// What a caller's key must hash to.
    pub hash: SecretHash,
    /// Whose it is. Several keys may be one user's.
    pub user: UserId,
    /// What it grants.
    pub scopes: Scopes,
    /// From when on it is refused; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked_at: Option<Timestamp>,
    /// The user's limit of a day when this key submits; `None` is the service's limit for each user.
    pub daily_budget: Option<MicroUsd>,
}

/// Why a key that exists is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// The proof is wrong.
    #[error("the key is not known here")]
    Unknown,
    /// Its time is over.
    #[error("the key has expired")]
    Expired,
    /// It was withdrawn.
    #[error("the key was revoked")]
    Revoked,
}

impl KeyRecord {
    /// Whether a caller that shows `key` is let in at `now`.
    ///
    /// # Errors
    /// [`KeyRefusal`]. Only who has the key itself is told that it expired or was revoked.
    pub fn admit(&self, key: &ApiKey, now: Timestamp) -> Result<(), KeyRefusal> {
        if key.id() != self.id || !self.hash.matches(&key.hash()) {
            return Err(KeyRefusal::Unknown);
        }
        self.is_good(now)
    }

    /// Whether the key is neither revoked nor expired at `now`.
    ///
    /// # Errors
    /// [`KeyRefusal::Expired`] or [`KeyRefusal::Revoked`].
    pub fn is_good(&self, now: Timestamp) -> Result<(), KeyRefusal> {
        if self.revoked_at.is_some() {
            return Err(KeyRefusal::Revoked);
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(KeyRefusal::Expired);
        }
        Ok(())
    }
}

/// Why a text cannot be a user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1-{MAX_NAME_CHARS} letters, digits or any of . _ - + @ and begins with a letter or a digit")]
pub struct NameError;

/// Reads the name of a key's user.
///
/// # Errors
/// [`NameError`].
pub fn user_name(text: &str) -> Result<UserId, NameError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
    let good = text.len() <= MAX_NAME_CHARS && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good && text.chars().all(fits) { Ok(UserId::new(text)) } else { Err(NameError) }
}

/// Someone who was let in, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose batches and money these are.
    pub user: UserId,
    /// What is granted.
    pub scopes: Scopes,
    /// The key that was shown, if one was.
    pub key: Option<KeyId>,
    /// The key's own limit of a day.
    pub daily_budget: Option<MicroUsd>,
    /// Whether nobody was asked who they are: the service is open, and this is its one user.
    pub is_local: bool,
}

impl Caller {
    /// Whoever reaches an open service.
    #[must_use]
    pub fn local() -> Self {
        Self { user: UserId::local(), scopes: Scopes::ADMIN, key: None, daily_budget: None, is_local: true }
    }

    /// The caller that a good key stands for.
    #[must_use]
    pub fn of_key(key: &KeyRecord) -> Self {
        let (user, daily_budget) = (key.user.clone(), key.daily_budget);
        Self { user, scopes: key.scopes, key: Some(key.id), daily_budget, is_local: false }
    }

    /// A caller that the platform let in.
    #[must_use]
    pub const fn of_platform(user: UserId) -> Self {
        Self { user, scopes: Scopes::USER, key: None, daily_budget: None, is_local: false }
    }
}

/// Bytes as lower-case digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes from lower-case digits; nothing else has that meaning, so that a key has one text.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
