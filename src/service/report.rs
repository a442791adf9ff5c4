//! Summing the ledger itself, not the database: a piece of a day in memory at a time, however long it is.

use std::sync::Arc;

use super::lines::{DayLines, Line};
use crate::domain::money::MoneyError;
use crate::domain::report::{Grouping, Report};
use crate::domain::time::Day;
use crate::ledger::{LedgerError, LedgerReader};

/// Why there are no sums.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The ledger is away, or holds what is no charge.
    #[error("cannot read the ledger")]
    Ledger(#[from] LedgerError),
    /// The amounts are too large.
    #[error("cannot sum the ledger of {day}")]
    Money {
        /// The day.
        day: Day,
        /// Why not.
        source: MoneyError,
    },
}

/// What a report is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summed {
    /// The sums.
    pub report: Report,
    /// The days that were read, oldest first.
    pub days: Vec<Day>,
    /// Days whose last line does not end; it is not summed.
    pub torn: Vec<Day>,
    /// Lines that were summed and are only in chunks that are not appended yet.
    pub chunked: u64,
}

/// Sums the days of `ledger` that `wanted` chooses.
///
/// # Errors
/// [`ReportError`]; one line that cannot be read makes every sum worthless.
pub async fn sum(
    ledger: &Arc<dyn LedgerReader>,
    wanted: impl Fn(Day) -> bool,
    by: Grouping,
) -> Result<Summed, ReportError> {
    let days: Vec<Day> = ledger.days().await?.into_iter().filter(|day| wanted(*day)).collect();
    let mut summed = Summed { report: Report::new(by), days, torn: Vec::new(), chunked: 0 };
    for day in summed.days.clone() {
        let mut lines = DayLines::open(ledger.clone(), day).await?;
        while let Some(piece) = lines.next().await? {
            for line in piece {
                summed.add(day, line)?;
            }
        }
    }
    Ok(summed)
}

impl Summed {
    fn add(&mut self, day: Day, line: Line) -> Result<(), ReportError> {
        let (number, text) = match line {
            Line::Stored { number, text } => (number, text),
            Line::Chunked { number, text } => {
                self.chunked += 1;
                (number, text)
            }
            Line::Torn { .. } => {
                self.torn.push(day);
                return Ok(());
            }
        };
        let charge = serde_json::from_slice(&text).map_err(|_| LedgerError::Corrupt { day, line: number })?;
        self.report.add(day, &charge).map_err(|source| ReportError::Money { day, source })
    }
}

#[cfg(test)]
mod tests;
