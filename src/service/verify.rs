//! Comparing the exported ledger with the database, beside a running exporter, without changing either.

use std::sync::Arc;

use super::lines::{DayLines, Line};
use crate::domain::comparison::{Comparison, DayFindings};
use crate::domain::time::Day;
use crate::ledger::{LedgerError, LedgerReader};
use crate::store::{Store, StoreError};

/// Why a comparison did not end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database is away, or has no charges to read.
    #[error("cannot read the charges of the database")]
    Store(#[from] StoreError),
    /// The ledger is away.
    #[error("cannot read the ledger")]
    Ledger(#[from] LedgerError),
}

/// Compares the ledger with the database.
pub struct Verifier {
    store: Arc<Store>,
    ledger: Arc<dyn LedgerReader>,
}

impl Verifier {
    /// Compares what `ledger` has with the charges of `store`.
    #[must_use]
    pub fn new(store: Arc<Store>, ledger: Arc<dyn LedgerReader>) -> Self {
        Self { store, ledger }
    }

    /// Every day that the database or the ledger knows, oldest first.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub async fn days(&self) -> Result<Vec<Day>, VerifyError> {
        let mut days = self.ledger.days().await?;
        days.extend(self.store.days_with_charges().await?);
        days.sort_unstable();
        days.dedup();
        Ok(days)
    }

    /// Compares a day, line by line.
    ///
    /// # Errors
    /// [`VerifyError`]; differences are none.
    pub async fn verify(&self, day: Day) -> Result<DayFindings, VerifyError> {
        // The order of these reads is what makes it safe beside an exporter: see `domain::comparison`.
        let mut comparison = Comparison::new(day, self.store.confirmed_count(day).await?);
        let mut lines = DayLines::open(self.ledger.clone(), day).await?;
        let mut booked = 0;
        while let Some(piece) = lines.next().await? {
            for line in piece {
                match line {
                    Line::Stored { number, text } => comparison.line(number, &text),
                    Line::Chunked { number, text } => comparison.chunk_line(number, &text),
                    Line::Torn { number } => comparison.torn(number),
                }
            }
            booked = self.take_positioned(&mut comparison, day, booked, lines.count()).await?;
        }
        self.take_positioned(&mut comparison, day, booked, u64::MAX).await?;
        self.take_unpositioned(&mut comparison, day).await?;
        for (charge, of) in self.store.find_charges(&comparison.strangers()).await? {
            if of == day {
                comparison.charge(charge);
            } else {
                comparison.belongs_to(charge.id, of);
            }
        }
        Ok(comparison.finish())
    }

    /// Takes the charges with positions above `booked`, up to `end`; returns the last position that was taken.
    async fn take_positioned(
        &self,
        comparison: &mut Comparison,
        day: Day,
        mut booked: u64,
        end: u64,
    ) -> Result<u64, VerifyError> {
        while booked < end {
            let page = self.store.load_positioned(day, booked, end).await?;
            let Some(last) = page.last().and_then(|charge| charge.position) else { break };
            booked = last;
            for charge in page {
                comparison.charge(charge);
            }
        }
        Ok(booked)
    }

    async fn take_unpositioned(&self, comparison: &mut Comparison, day: Day) -> Result<(), VerifyError> {
        let mut last = None;
        loop {
            let page = self.store.load_unpositioned(day, last).await?;
            let Some(charge) = page.last() else { return Ok(()) };
            last = Some(charge.id);
            for charge in page {
                comparison.charge(charge);
            }
        }
    }
}
