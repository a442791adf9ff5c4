//! What can be wrong between the ledger and the database, in words for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::domain::ids::ChargeId;
use crate::domain::time::Day;

/// Where a line of the ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// In the day's object; lines count from 1.
    Line(u64),
    /// In a chunk that is not appended yet, with the position that it is to have.
    Chunk(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(number) => write!(f, "line {number}"),
            Self::Chunk(number) => write!(f, "line {number}, in a chunk that is not appended yet,"),
        }
    }
}

/// A field that the two sides disagree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The field.
    pub field: String,
    /// Its value in the ledger, cut where it is long; none if it is absent, and for prompts.
    pub ledger: Option<String>,
    /// Its value in the database.
    pub database: Option<String>,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.ledger, &self.database) {
            (None, None) => write!(f, "{}", self.field),
            (ledger, database) => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
                write!(f, "{} ({}, in the database {})", self.field, shown(ledger), shown(database))
            }
        }
    }
}

/// One thing that the ledger and the database disagree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Difference {
    /// It was exported, and is not in the ledger.
    MissingInLedger {
        /// The charge.
        charge: ChargeId,
        /// Where it should be.
        position: u64,
    },
    /// The database does not know it.
    MissingInDatabase {
        /// The charge.
        charge: ChargeId,
        /// Where it is.
        place: Place,
    },
    /// It is in the ledger more than once.
    Twice {
        /// The charge.
        charge: ChargeId,
        /// The line that is too much.
        line: u64,
        /// The line that has it first.
        first: u64,
    },
    /// The two sides say different things of it.
    Altered {
        /// The charge, as the database names it.
        charge: ChargeId,
        /// Its line.
        line: u64,
        /// What differs.
        fields: Vec<FieldChange>,
    },
    /// The last line does not end.
    Torn {
        /// Its line.
        line: u64,
    },
    /// It is not where the database put it.
    Misplaced {
        /// The charge.
        charge: ChargeId,
        /// Its line.
        line: u64,
        /// Its place by the database; none if that holds it for not exported.
        position: Option<u64>,
    },
    /// The line cannot be read at all.
    NotJson {
        /// Where it is.
        place: Place,
    },
    /// The line is JSON, and no charge.
    NotACharge {
        /// Where it is.
        place: Place,
        /// Why not.
        problem: String,
    },
    /// The charge belongs to another day.
    AnotherDay {
        /// The charge.
        charge: ChargeId,
        /// Where it is.
        place: Place,
        /// Its day by the database.
        day: Day,
    },
    /// The database's own text of the charge cannot be read.
    UnreadableRow {
        /// The charge.
        charge: ChargeId,
    },
}

impl Difference {
    /// Its line in the ledger, or the place that it should have there.
    pub(super) const fn number(&self) -> u64 {
        match self {
            Self::MissingInLedger { position, .. } => *position,
            Self::Twice { line, .. }
            | Self::Altered { line, .. }
            | Self::Torn { line }
            | Self::Misplaced { line, .. } => *line,
            Self::MissingInDatabase { place, .. }
            | Self::NotJson { place }
            | Self::NotACharge { place, .. }
            | Self::AnotherDay { place, .. } => match place {
                Place::Line(number) | Place::Chunk(number) => *number,
            },
            Self::UnreadableRow { .. } => 0,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingInLedger { charge, position } => {
                write!(f, "missing in the ledger: {charge}, which was line {position}")
            }
            Self::MissingInDatabase { charge, place } => write!(f, "missing in the database: {place} has {charge}"),
            Self::Twice { charge, line, first } => write!(f, "twice: line {line} has {charge}, as line {first} has"),
            Self::Altered { charge, line, fields } => {
                let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
                write!(f, "altered: line {line}, {charge}, has another {}", fields.join(", "))
            }
            Self::Torn { line } => write!(f, "torn: line {line} does not end; the next export cuts it"),
            Self::Misplaced { charge, line, position: Some(position) } => {
                write!(f, "out of order: line {line} has {charge}, whose place is {position}")
            }
            Self::Misplaced { charge, line, position: None } => {
                write!(f, "out of order: line {line} has {charge}, which the database holds for not exported")
            }
            Self::NotJson { place } => write!(f, "no JSON: {place} cannot be read"),
            Self::NotACharge { place, problem } => write!(f, "no charge: {place} is JSON, but {problem}"),
            Self::AnotherDay { charge, place, day } => {
                write!(f, "of another day: {place} has {charge}, which belongs to {day}")
            }
            Self::UnreadableRow { charge } => write!(f, "unreadable: the database's row of {charge} is damaged"),
        }
    }
}
