//! From the bytes of `POST /images` to a [`BatchSpec`], or to everything that is wrong with them.
//!
//! Works on values by hand, because a derived reader stops at the first fault and cannot point at
//! it. Pure: reads no clock, calls nobody. Whether the model can be used is for the service to say.
//!
//! Input is camelCase or the original service's names; both at once is a fault. An explicit `null`
//! in an optional field counts as absent. The files: [`at`] where a fault is, [`json`] the strict
//! reader, [`fields`] one object, [`items`] its rows, [`references`] its pictures, [`address`] where those are,
//! [`webhook`] what is told of it, [`hash`] what a repeated request is recognised by. [`rows`] is a body of rows alone,
//! as [`csv`] or [`jsonl`]: both make the values that the same batch as JSON would have, so that one set of rules holds.

mod address;
mod at;
mod csv;
mod fields;
mod hash;
mod items;
mod json;
mod jsonl;
mod references;
mod retry;
mod rows;
mod webhook;

use serde_json::Value;

pub use self::address::Here;
use self::at::{At, Faults, Noted};
use self::fields::{Fields, Known};
pub use self::retry::check_retry;
pub use self::rows::{RowFormat, RowsQuery, check_rows};
#[cfg(test)]
pub(super) use self::{items::ITEM, references::REFERENCE, retry::RETRY, webhook::WEBHOOK};
use super::problem::Fault;
use crate::domain::spec::{BatchSpec, ItemSpec, RunMode};
use crate::domain::webhook::WebhookSpec;

/// Longest name of a model, in characters. Real ones have about 30.
const MAX_MODEL_CHARS: usize = 100;

/// The bounds that a body is checked against.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// Most rows.
    pub max_rows: u32,
    /// Most pictures a row.
    pub max_variants: u32,
    /// The model of a batch that names none.
    pub default_model: &'a str,
    /// By which addresses the pictures of this service are known.
    pub here: Here<'a>,
    /// Why a webhook may not be at an address; `None` if it may.
    pub webhook_refusal: &'a dyn Fn(&str) -> Option<String>,
}

/// A body without faults.
#[derive(Debug)]
pub struct Accepted {
    /// What is asked for.
    pub spec: BatchSpec,
    /// The same for every body that asks for the same, however it is written.
    pub request_hash: String,
}

/// Reads and checks a JSON body.
///
/// # Errors
/// Everything that is wrong with it: at most a hundred faults, and one more that counts the rest.
pub fn check(body: &[u8], rules: Rules<'_>) -> Result<Accepted, Vec<Fault>> {
    let mut faults = Faults::default();
    let value = match json::read(body, rules.max_rows, &mut faults) {
        Ok(value) => value,
        Err(reason) => {
            return Err(vec![Fault::in_body(String::new(), reason)]);
        }
    };
    let batch = read_batch(&value, rules, &mut faults);
    faults.finish()?;
    batch.map_err(|Noted| vec![Fault::in_body(String::new(), "cannot be read as a batch")])
}

pub(super) const BATCH: Known =
    &[&["runMode", "run_mode"], &["model"], &["referencePack", "ref_pack_public_urls"], &["items"], &["webhook"]];

fn read_batch(value: &Value, rules: Rules<'_>, faults: &mut Faults) -> Result<Accepted, Noted> {
    let root = At::Root;
    let fields = Fields::of(value, &root, BATCH, faults)?;
    let run_mode = fields.choice("runMode", "dry_run or live", faults);
    let model = read_model(&fields, faults);
    let pack = fields.get("referencePack");
    let pack = pack.map(|(value, at)| references::read_pack(value, &at, rules.here, faults)).unwrap_or_default();
    let items = items::read(&fields, &pack, rules, faults);

    let webhook = fields.get("webhook");
    let webhook = webhook.map(|(value, at)| webhook::read(value, &at, rules.webhook_refusal, faults)).transpose();

    Ok(accept(run_mode?, model?, items?, webhook?, rules))
}

/// A body whose parts have no faults.
fn accept(
    run_mode: Option<RunMode>,
    model: Option<&str>,
    items: Vec<ItemSpec>,
    webhook: Option<WebhookSpec>,
    rules: Rules<'_>,
) -> Accepted {
    let spec = BatchSpec {
        run_mode: run_mode.unwrap_or(RunMode::DryRun),
        model: model.unwrap_or(rules.default_model).to_owned(),
        items,
        webhook,
    };
    let request_hash = hash::of(&spec, model);
    Accepted { spec, request_hash }
}

/// The model by name, if one is named.
fn read_model<'a>(fields: &Fields<'a>, faults: &mut Faults) -> Result<Option<&'a str>, Noted> {
    let Some((text, at)) = fields.text("model", faults)? else {
        return Ok(None);
    };
    match model_fault(text) {
        Some(fault) => Err(faults.add(&at, fault)),
        None => Ok(Some(text)),
    }
}

/// Why a text cannot be the name of a model.
fn model_fault(text: &str) -> Option<String> {
    let wrong = text.is_empty() || text.chars().count() > MAX_MODEL_CHARS || text.chars().any(char::is_control);
    wrong.then(|| format!("must be the name of a model, at most {MAX_MODEL_CHARS} characters"))
}

#[cfg(test)]
mod tests;
