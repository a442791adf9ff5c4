//! A body that is rows alone, as CSV or JSONL; the rest of the batch comes with the query.

use std::borrow::Cow;

use serde_json::Value;

use super::at::{At, Faults, Noted};
use super::items::{self, Rows};
use super::{Accepted, Fault, Rules, accept, csv, jsonl, model_fault};
use crate::domain::spec::RunMode;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// A header row with the names, then an item a row.
    Csv,
    /// An item a line.
    Jsonl,
}

/// What the query says of the batch.
#[derive(Debug, Clone, Default)]
pub struct RowsQuery {
    /// `runMode`.
    pub run_mode: Option<String>,
    /// `model`.
    pub model: Option<String>,
}

/// Rows as they were written, each with the line on which it starts.
pub(super) struct Table {
    /// At most as many as a batch may have.
    pub(super) rows: Vec<(u32, Result<Value, Noted>)>,
    /// How many there are.
    pub(super) count: usize,
}

/// Reads and checks rows. A fault has the pointer that the same batch as JSON would have, and its line.
///
/// # Errors
/// Everything that is wrong: at most a hundred faults, and one more that counts the rest.
pub fn check_rows(body: &[u8], format: RowFormat, query: &RowsQuery, rules: Rules<'_>) -> Result<Accepted, Vec<Fault>> {
    let mut faults = Faults::default();
    let run_mode = read_run_mode(query, &mut faults);
    let model = read_model(query, &mut faults);
    let items = decode(body).map_err(|reason| faults.add(&At::Root, reason)).and_then(|text| {
        let table = match format {
            RowFormat::Csv => csv::read(text, rules.max_rows as usize, &mut faults)?,
            RowFormat::Jsonl => jsonl::read(text, rules.max_rows, &mut faults),
        };
        let values = table.rows.iter().map(|(line, row)| (Some(*line), row.as_ref().map_err(|&noted| noted))).collect();
        let rows = Rows { at: &At::Root.key("items"), values, count: table.count };
        items::read_rows(&rows, &[], rules, &mut faults)
    });
    faults.finish()?;
    let accepted = items.and_then(|items| Ok(accept(run_mode?, model?, items, None, rules)));
    accepted.map_err(|Noted| vec![Fault::in_body(String::new(), "cannot be read as rows")])
}

/// The text without a byte order mark.
fn decode(body: &[u8]) -> Result<&str, Cow<'static, str>> {
    if body.starts_with(&[0xff, 0xfe]) || body.starts_with(&[0xfe, 0xff]) {
        return Err("the text is UTF-16; save it as UTF-8 (in Excel: \"CSV UTF-8\")".into());
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = body[..error.valid_up_to()].split(|&byte| byte == b'\n').count();
        format!("the text is not UTF-8, first on line {line}; save it as UTF-8 (in Excel: \"CSV UTF-8\")")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn read_run_mode(query: &RowsQuery, faults: &mut Faults) -> Result<Option<RunMode>, Noted> {
    let run_mode = query.run_mode.as_deref().map(str::parse).transpose();
    run_mode.map_err(|()| faults.add_fault(Fault::in_query("runMode", "must be dry_run or live")))
}

fn read_model<'a>(query: &'a RowsQuery, faults: &mut Faults) -> Result<Option<&'a str>, Noted> {
    let model = query.model.as_deref();
    match model.and_then(model_fault) {
        Some(fault) => Err(faults.add_fault(Fault::in_query("model", fault))),
        None => Ok(model),
    }
}

#[cfg(test)]
mod tests;
