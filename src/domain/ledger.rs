//! One line of the ledger: the original service's six fields, and what an audit needs beside them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::ids::{AttemptId, BatchId, ChargeId};
use super::money::MicroUsd;
use super::picture::Sha256Hex;
use super::spec::SceneId;
use super::time::Day;

/// Whether the amount of a charge is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChargeOutcome {
    /// The provider's answer said what it cost.
    Charged,
    /// Nobody can know; this is what was reserved.
    Unknown,
}

impl ChargeOutcome {
    /// Its name in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charged => "charged",
            Self::Unknown => "unknown",
        }
    }
}

/// How much of a prompt the ledger holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LedgerPrompts {
    /// All of it.
    #[default]
    Full,
    /// `sha256:` and its hash.
    Hash,
    /// An empty text.
    None,
}

impl LedgerPrompts {
    /// The prompt as the ledger holds it.
    #[must_use]
    pub fn apply(self, prompt: &str) -> String {
        match self {
            Self::Full => prompt.to_owned(),
            Self::Hash => format!("sha256:{}", Sha256Hex::of(prompt.as_bytes())),
            Self::None => String::new(),
        }
    }
}

/// One charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerLine {
    /// The charge.
    pub id: ChargeId,
    /// When it was settled, in Unix milliseconds.
    pub ts: i64,
    /// Whose batch it was.
    pub user_id: String,
    /// The batch.
    pub job_id: BatchId,
    /// The row.
    pub scene_id: SceneId,
    /// The picture in the row.
    pub variant: u32,
    /// The paid call.
    pub attempt_id: AttemptId,
    /// The prompt, as much of it as the ledger is to hold.
    pub prompt: String,
    /// Pictures that the charge bought: 1 or 0.
    pub images: u32,
    /// The amount.
    pub cost: MicroUsd,
    /// The model.
    pub model: String,
    /// Whether the amount is known.
    pub outcome: ChargeOutcome,
    /// The provider's name for the call, if it gave one.
    pub request_id: Option<String>,
}

/// The name of the chunk with lines `from` to `to` of `day`: the name is its content.
#[must_use]
pub fn chunk_name(day: Day, from: u64, to: u64, lines: &[u8]) -> String {
    format!("ledger/chunks/{day}/{from}-{to}-{}", Sha256Hex::of(lines))
}

/// The positions that the last part of a chunk's name says its lines have.
#[must_use]
pub fn chunk_positions(name: &str) -> Option<(u64, u64)> {
    let mut parts = name.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The lines of a day's object or chunk, of which the first is the day's line `first`.
///
/// # Errors
/// The number of the first line in the day that is not one of ours.
pub fn parse_lines(bytes: &[u8], first: u64) -> Result<Vec<LedgerLine>, u64> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n');
    (first..).zip(lines).map(|(line, text)| serde_json::from_slice(text).map_err(|_| line)).collect()
}

/// The lines of a day's object, and behind them those of its stored chunks that are not among them, each once.
#[must_use]
pub fn with_chunks(mut lines: Vec<LedgerLine>, chunks: Vec<Vec<LedgerLine>>) -> Vec<LedgerLine> {
    let mut known: HashSet<ChargeId> = lines.iter().map(|line| line.id).collect();
    lines.extend(chunks.into_iter().flatten().filter(|line| known.insert(line.id)));
    lines
}
