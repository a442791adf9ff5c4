//! The one integration binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

mod architecture;
mod commands;
mod documents;
mod engines;
mod process;
mod promises;
mod sse;
mod store;
