//! The rules of the product as plain values: ids, money, prices, states, outcomes, events.
//!
//! Pure: nothing here reads a clock, opens a socket or knows a database. Every other layer may
//! import this one; this one imports nothing of ours.

pub mod access;
pub mod comparison;
pub mod event;
pub mod ids;
pub mod ledger;
pub mod money;
pub mod outcome;
pub mod picture;
pub mod prices;
pub mod report;
pub mod spec;
pub mod state;
pub mod time;
pub mod webhook;
