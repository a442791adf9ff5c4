//! The use cases, one file each. Knows the ports, never their adapters, and nothing of HTTP or SQL.

pub mod access;
pub mod admission;
pub mod batches;
mod cancel;
pub mod charges;
pub mod claims;
mod course;
mod ended;
pub mod execute;
pub mod feed;
pub mod gate;
mod group;
pub mod health;
pub mod ledger;
mod lines;
pub mod links;
pub mod memory;
pub mod minute;
pub mod models;
pub mod notices;
pub mod overview;
pub mod own_references;
mod read;
pub mod references;
pub mod report;
pub mod results;
mod retry;
pub mod settle;
pub mod start;
mod submit;
mod turns;
pub mod uploads;
mod verdicts;
pub mod verify;
pub mod view;
pub mod webhooks;

use crate::domain::ledger::LedgerPrompts;
use crate::store::Limits;

/// What an operator decided about money.
#[derive(Debug, Clone, Copy)]
pub struct MoneyRules {
    /// The daily limits; none while the budget guard is off.
    pub limits: Limits,
    /// Whether live batches are taken.
    pub live: bool,
    /// How much of a prompt the ledger holds.
    pub prompts: LedgerPrompts,
    /// The only model that a provider which is free makes itself: it rehearses every other one. None
    /// where pictures are paid.
    pub own_model: Option<&'static str>,
}
