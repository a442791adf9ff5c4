//! The image batch orchestrator: takes batches of prompts, calls a paid image model, keeps the
//! money, the pictures and the progress right.
//!
//! Start reading at [`domain`], then [`service`]; `docs/ARCHITECTURE.md` has the map.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod app;
pub mod assets;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod durable;
pub mod failpoint;
pub mod gcs;
pub mod http;
pub mod ledger;
pub mod lifecycle;
pub mod net;
pub mod provider;
pub mod references;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod webhooks;
pub mod worker;
