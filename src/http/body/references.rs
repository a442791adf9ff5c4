//! References: an item's own and the batch's pack. Only their form is judged here; whether an
//! address may be fetched is decided when it is fetched.

use serde_json::Value;

use super::address::{self, Address, Here};
use super::at::{At, Faults, Noted};
use super::fields::{Fields, Known, kind};
use crate::domain::spec::{MAX_REFERENCES, Reference, ReferenceMode};

/// Hex digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
/// The modes, in words.
pub(super) const MODES: &str = "style_only or style_and_composition";

pub(in crate::http) const REFERENCE: Known = &[&["url"], &["mode"], &["sha256"]];

/// A reference whose mode may still come from its row.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    address: Address,
    mode: Option<ReferenceMode>,
    sha256: Option<String>,
}

/// The references that every row gets after its own.
pub(super) fn read_pack(value: &Value, at: &At<'_>, here: Here<'_>, faults: &mut Faults) -> Vec<Draft> {
    let mut pack: Vec<Draft> = Vec::new();
    for draft in read_list(value, at, here, faults) {
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
pub(super) fn read_list(value: &Value, at: &At<'_>, here: Here<'_>, faults: &mut Faults) -> Vec<Draft> {
    let Value::Array(list) = value else {
        faults.add(at, format!("must be an array, not {}", kind(value)));
        return Vec::new();
    };
    list.iter().enumerate().filter_map(|(index, value)| read_one(value, &at.index(index), here, faults).ok()).collect()
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
    let finish =
        |draft: Draft| Reference { url: draft.address.url, mode: draft.mode.unwrap_or(mode), sha256: draft.sha256 };
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
    one.address.normal == other.address.normal || (one.sha256.is_some() && one.sha256 == other.sha256)
}

/// A reference as a bare address or as an object.
fn read_one(value: &Value, at: &At<'_>, here: Here<'_>, faults: &mut Faults) -> Result<Draft, Noted> {
    let read =
        |text: &str, at: &At<'_>, faults: &mut Faults| address::read(text, here).map_err(|fault| faults.add(at, fault));
    if let Value::String(text) = value {
        return Ok(Draft { address: read(text, at, faults)?, mode: None, sha256: None });
    }
    if !value.is_object() {
        return Err(faults.add(at, format!("must be a URL or an object with one, not {}", kind(value))));
    }
    let fields = Fields::of(value, at, REFERENCE, faults)?;
    let address = fields.required_text("url", faults).and_then(|(text, at)| read(text, &at, faults));
    let mode = fields.choice("mode", MODES, faults);
    let sha256 = read_sha256(&fields, faults);
    Ok(Draft { address: address?, mode: mode?, sha256: sha256? })
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
