//! References: an item's own and the batch's pack. Only their form is judged here; whether an
//! address may be fetched is decided when it is fetched.

use serde_json::Value;
use url::Url;

use super::at::{At, Faults, Noted};
use super::fields::{Fields, Known, kind};
use crate::domain::spec::{MAX_REFERENCES, Reference, ReferenceMode};

/// Longest address, in characters.
const MAX_URL_CHARS: usize = 2_048;
/// Hex digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
/// The modes, in words.
pub(super) const MODES: &str = "style_only or style_and_composition";

pub(in crate::http) const REFERENCE: Known = &[&["url"], &["mode"], &["sha256"]];

/// A reference whose mode may still come from its row.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    url: String,
    /// The address as the parser understands it: two spellings of one address are one reference.
    normal: String,
    mode: Option<ReferenceMode>,
    sha256: Option<String>,
}

/// The references that every row gets after its own.
pub(super) fn read_pack(value: &Value, at: &At<'_>, faults: &mut Faults) -> Vec<Draft> {
    let mut pack: Vec<Draft> = Vec::new();
    for draft in read_list(value, at, faults) {
        if !pack.iter().any(|earlier| same(earlier, &draft)) {
            pack.push(draft);
        }
    }
    if pack.len() > MAX_REFERENCES {
        faults.add(at, format!("must hold at most {MAX_REFERENCES} different references, not {}", pack.len()));
        pack.clear();
    }
    pack
}

/// The references of a list that have no fault.
pub(super) fn read_list(value: &Value, at: &At<'_>, faults: &mut Faults) -> Vec<Draft> {
    let Value::Array(list) = value else {
        faults.add(at, format!("must be an array, not {}", kind(value)));
        return Vec::new();
    };
    list.iter().enumerate().filter_map(|(index, value)| read_one(value, &at.index(index), faults).ok()).collect()
}

/// An item's own references, then the pack's, each once: the first of two with the same address or
/// the same content stays. `mode` is for those that name none, also for those of the pack.
#[must_use]
pub(super) fn merge(own: Vec<Draft>, pack: &[Draft], mode: ReferenceMode) -> Vec<Reference> {
    let mut merged: Vec<Draft> = Vec::with_capacity(own.len() + pack.len());
    for draft in own.into_iter().chain(pack.iter().cloned()) {
        if !merged.iter().any(|earlier| same(earlier, &draft)) {
            merged.push(draft);
        }
    }
    let finish = |draft: Draft| Reference { url: draft.url, mode: draft.mode.unwrap_or(mode), sha256: draft.sha256 };
    merged.into_iter().map(finish).collect()
}

/// Notes a fault if an item has too many.
pub(super) fn bound(merged: &[Reference], at: &At<'_>, faults: &mut Faults) {
    if merged.len() > MAX_REFERENCES {
        let count = merged.len();
        faults.add(at, format!("at most {MAX_REFERENCES} references after the pack is merged, not {count}"));
    }
}

fn same(one: &Draft, other: &Draft) -> bool {
    one.normal == other.normal || (one.sha256.is_some() && one.sha256 == other.sha256)
}

/// A reference as a bare address or as an object.
fn read_one(value: &Value, at: &At<'_>, faults: &mut Faults) -> Result<Draft, Noted> {
    if let Value::String(text) = value {
        let normal = read_url(text, at, faults)?;
        return Ok(Draft { url: text.clone(), normal, mode: None, sha256: None });
    }
    if !value.is_object() {
        return Err(faults.add(at, format!("must be a URL or an object with one, not {}", kind(value))));
    }
    let fields = Fields::of(value, at, REFERENCE, faults)?;
    let url = fields.required_text("url", faults).and_then(|(text, at)| Ok((text, read_url(text, &at, faults)?)));
    let mode = fields.choice("mode", MODES, faults);
    let sha256 = read_sha256(&fields, faults);
    let (url, normal) = url?;
    Ok(Draft { url: url.to_owned(), normal, mode: mode?, sha256: sha256? })
}

/// The normal form of an absolute web address without user info.
fn read_url(text: &str, at: &At<'_>, faults: &mut Faults) -> Result<String, Noted> {
    // The parser would drop white space and control characters in silence.
    let odd = |c: char| c.is_whitespace() || c.is_control();
    let fault = if text.chars().count() > MAX_URL_CHARS {
        format!("must have at most {MAX_URL_CHARS} characters")
    } else if text.chars().any(odd) {
        "must be a URL without white space or control characters".to_owned()
    } else {
        match Url::parse(text) {
            Err(_) => "must be an absolute URL that starts with https:// or http://".to_owned(),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                "only https:// and http:// references are taken".to_owned()
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                "must not contain a user name or a password".to_owned()
            }
            Ok(url) if url.host_str().is_none_or(str::is_empty) => "must name a host".to_owned(),
            Ok(url) => return Ok(url.into()),
        }
    };
    Err(faults.add(at, fault))
}

/// The hash in lower case, if there is one.
fn read_sha256(fields: &Fields<'_>, faults: &mut Faults) -> Result<Option<String>, Noted> {
    let Some((text, at)) = fields.text("sha256", faults)? else {
        return Ok(None);
    };
    if text.len() != SHA256_DIGITS || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(faults.add(&at, format!("must be {SHA256_DIGITS} hex digits")));
    }
    Ok(Some(text.to_ascii_lowercase()))
}
