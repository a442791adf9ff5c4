//! The one integration binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot go on says so by ending, and is a program of its own"
)]

mod access;
mod architecture;
mod assets_gcs;
mod bench;
mod bill;
mod books;
mod chaos;
mod client_commands;
mod clocks;
mod cluster;
mod commands;
mod console;
mod contract;
mod damage;
mod described;
mod documents;
mod engine;
mod engines;
mod examples;
mod failpoints;
mod fake_gemini;
mod feeds;
mod fuzzed;
mod gemini;
mod google;
mod hostile;
mod instances;
mod kills;
mod leases;
mod ledger_gcs;
mod ledger_model;
mod links;
mod loadtest;
mod log;
mod memory;
mod metrics;
mod minute;
mod money_model;
mod outage;
mod overview;
mod own_references;
mod pictures;
mod process;
mod promises;
mod proxy;
mod recovery;
mod references;
mod restored;
mod results;
mod retry;
mod scheduler;
mod silence;
mod sse;
mod stopping;
mod storage_faults;
mod store;
mod switches;
mod three_instances;
mod traces;
mod uploads;
mod verify;
mod webhooks;
