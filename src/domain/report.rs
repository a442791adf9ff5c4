//! Sums of the ledger's lines by one of their properties. Exact: no float, and an overflow is an error.

use std::collections::BTreeMap;

use super::ledger::{ChargeOutcome, LedgerLine};
use super::money::{MicroUsd, MoneyError};
use super::time::Day;

/// What lines are summed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// The day of the ledger that they are in.
    Day,
    /// Whose batch it was.
    User,
    /// The model that was paid.
    Model,
    /// The batch.
    Batch,
    /// Whether the amount is known.
    Outcome,
}

impl Grouping {
    /// Its name, as a heading.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::User => "user",
            Self::Model => "model",
            Self::Batch => "batch",
            Self::Outcome => "outcome",
        }
    }

    fn key(self, day: Day, line: &LedgerLine) -> String {
        match self {
            Self::Day => day.to_string(),
            Self::User => line.user_id.clone(),
            Self::Model => line.model.clone(),
            Self::Batch => line.job_id.to_string(),
            Self::Outcome => line.outcome.as_str().to_owned(),
        }
    }
}

/// What some lines come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// How many there are.
    pub charges: u64,
    /// Pictures that they bought.
    pub pictures: u64,
    /// What they cost, unknown amounts included.
    pub cost: MicroUsd,
    /// How much of that is what was reserved for calls whose outcome nobody can know.
    pub unknown: MicroUsd,
}

impl Sums {
    fn plus(self, line: &LedgerLine) -> Result<Self, MoneyError> {
        let unknown = if line.outcome == ChargeOutcome::Unknown { line.cost } else { MicroUsd::ZERO };
        Ok(Self {
            charges: self.charges + 1,
            pictures: self.pictures + u64::from(line.images),
            cost: self.cost.plus(line.cost)?,
            unknown: self.unknown.plus(unknown)?,
        })
    }
}

/// The sums of some days, in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What they are summed by.
    pub by: Grouping,
    /// The sums of each group, by its name.
    pub groups: BTreeMap<String, Sums>,
    /// The sums of all.
    pub total: Sums,
}

impl Report {
    /// Nothing yet.
    #[must_use]
    pub fn new(by: Grouping) -> Self {
        Self { by, groups: BTreeMap::new(), total: Sums::default() }
    }

    /// Adds a line of the ledger of `day`.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`]; the sums are of no use then.
    pub fn add(&mut self, day: Day, line: &LedgerLine) -> Result<(), MoneyError> {
        let group = self.groups.entry(self.by.key(day, line)).or_default();
        *group = group.plus(line)?;
        self.total = self.total.plus(line)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Day = Day::from_number(20_000);

    fn line(user: &str, cost: i64, outcome: &str) -> LedgerLine {
        let text = format!(
            r#"{{"id":"chg_{id}","ts":1,"userId":"{user}","jobId":"bat_{id}","sceneId":"s","variant":1,
            "attemptId":"att_{id}","prompt":"","images":1,"cost":0,"model":"m","outcome":"{outcome}","requestId":null}}"#,
            id = "00000000000000000000000001"
        );
        let mut line: LedgerLine = serde_json::from_str(&text).unwrap();
        line.cost = MicroUsd::from_micros(cost);
        line
    }

    #[test]
    fn each_group_has_its_sums_and_the_total_is_theirs() {
        let lines = [line("a", 33_600, "charged"), line("b", 1, "unknown"), line("a", 66_400, "unknown")];
        for (by, names) in [
            (Grouping::Day, &["2024-10-04"][..]),
            (Grouping::User, &["a", "b"]),
            (Grouping::Model, &["m"]),
            (Grouping::Batch, &["bat_00000000000000000000000001"]),
            (Grouping::Outcome, &["charged", "unknown"]),
        ] {
            let mut report = Report::new(by);
            for line in &lines {
                report.add(DAY, line).unwrap();
            }
            assert_eq!(report.groups.keys().map(String::as_str).collect::<Vec<_>>(), names);
            let total = report.total;
            assert_eq!((total.charges, total.pictures), (3, 3));
            assert_eq!((total.cost.to_string(), total.unknown.to_string()), ("0.100001".into(), "0.066401".into()));
            let parts: i64 = report.groups.values().map(|sums| sums.cost.micros()).sum();
            assert_eq!(parts, total.cost.micros());
        }
    }

    #[test]
    fn sums_that_do_not_fit_are_an_error() {
        let mut report = Report::new(Grouping::Day);
        report.add(DAY, &line("a", i64::MAX, "charged")).unwrap();
        assert_eq!(report.add(DAY, &line("a", 1, "charged")), Err(MoneyError::OutOfRange));
    }
}
