//! Keys as an operator writes them down: one a line, or several with commas between them.
//!
//! ```text
//! # a key itself, or what `keys new` prints for a file: its hash
//! alice=aip_0123456789ab_…
//! bob=aip_0123456789ab_sha256:…;scopes=read;expires=2027-01-31;budget=5
//! ```

use std::collections::HashSet;

use super::{ApiKey, KeyError, KeyId, KeyRecord, Scopes, SecretHash, user_name};
use crate::domain::ids::UserId;
use crate::domain::money::MicroUsd;
use crate::domain::time::{Day, Timestamp};

const HASHED: &str = "sha256:";

/// What is wrong with a list of keys. Never holds any of its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {number}: {problem}")]
pub struct EntryError {
    /// Which entry, counting from 1.
    pub number: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Reads a list of keys.
///
/// # Errors
/// The first entry that cannot be read, and why.
pub fn entries(text: &str) -> Result<Vec<KeyRecord>, EntryError> {
    // Some editors begin a file with a mark that is no text.
    let lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim_start().starts_with('#'));
    let entries = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|entry| !entry.is_empty());
    let (mut keys, mut seen) = (Vec::new(), HashSet::new());
    for (number, entry) in (1..).zip(entries) {
        let key = read(entry).map_err(|problem| EntryError { number, problem })?;
        if !seen.insert(key.id) {
            let problem = format!("the key {} is there twice", key.id);
            return Err(EntryError { number, problem });
        }
        keys.push(key);
    }
    Ok(keys)
}

fn read(entry: &str) -> Result<KeyRecord, String> {
    let mut parts = entry.split(';').map(str::trim);
    let named = parts.next().unwrap_or_default();
    let (user, key) = match named.split_once('=') {
        Some((name, key)) => (Some(user_name(name.trim()).map_err(|error| error.to_string())?), key.trim()),
        None => (None, named),
    };
    let (id, hash) = proof(key)?;
    let user = user.unwrap_or_else(|| UserId::new(id.to_string()));
    let (expires_at, revoked_at, daily_budget) = (None, None, None);
    let mut record = KeyRecord { id, hash, user, scopes: Scopes::USER, expires_at, revoked_at, daily_budget };
    for part in parts.filter(|part| !part.is_empty()) {
        set(&mut record, part)?;
    }
    Ok(record)
}

/// A key's name and hash, from the key itself or from what is kept of it.
fn proof(text: &str) -> Result<(KeyId, SecretHash), String> {
    let kept = text.rsplit_once('_').and_then(|(id, hash)| Some((id, hash.strip_prefix(HASHED)?)));
    if let Some((id, hash)) = kept {
        let id = id.parse().map_err(|error: super::KeyIdError| error.to_string())?;
        return Ok((id, hash.parse().map_err(|error: super::SecretHashError| error.to_string())?));
    }
    let key: ApiKey = text.parse().map_err(|error: KeyError| {
        format!("{error}; expected NAME=KEY, with a key that `orchestrator keys new` made")
    })?;
    Ok((key.id(), key.hash()))
}

fn set(record: &mut KeyRecord, part: &str) -> Result<(), String> {
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    match name.trim() {
        "scopes" => record.scopes = value.parse().map_err(|error: super::ScopesError| error.to_string())?,
        "expires" => record.expires_at = Some(last_day(value).ok_or("expires takes the last day, as 2027-01-31")?),
        "budget" => {
            let budget: MicroUsd = value.trim().parse().map_err(|_| "budget takes US dollars a day, as 5 or 0.50")?;
            record.daily_budget = Some(budget);
        }
        _ => return Err("after the key come scopes=…, expires=… and budget=…, with semicolons between them".to_owned()),
    }
    Ok(())
}

/// The end of the last day on which a key is good.
fn last_day(text: &str) -> Option<Timestamp> {
    text.trim().parse::<Day>().ok().map(Day::end)
}

impl KeyRecord {
    /// The entry that stands for this key in a file, without the key itself.
    #[must_use]
    pub fn entry(&self) -> String {
        let mut text = format!("{}=aip_{}_{HASHED}{};scopes={}", self.user.as_str(), self.id, self.hash, self.scopes);
        if let Some(end) = self.expires_at {
            // An entry ends with a day; one that ends within a day is good for all of it.
            let last = end.before(std::time::Duration::from_millis(1)).day();
            text = format!("{text};expires={last}");
        }
        if let Some(budget) = self.daily_budget {
            text = format!("{text};budget={budget}");
        }
        text
    }
}
