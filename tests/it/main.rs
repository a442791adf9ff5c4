//! The one integration binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so by ending, and is a program of its own"
)]

mod architecture;
mod books;
mod commands;
mod contract;
mod documents;
mod engines;
mod gemini;
mod links;
mod pictures;
mod process;
mod promises;
mod recovery;
mod sse;
mod store;
