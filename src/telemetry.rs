//! What an operator sees of a running process: its log, its traces, its metrics, its last hour.
//!
//! May call `domain` and `clock`; knows no port and no use case. Who counts calls a method that is named after what
//! happened; which metrics move by that is decided here alone.

pub mod history;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod traces;
