//! The image batch orchestrator: takes batches of prompts, calls a paid image model, keeps the
//! money, the pictures and the progress right.
//!
//! Start reading at [`domain`], then [`service`]; `docs/ARCHITECTURE.md` has the map.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod app {
    //! Placeholder.
    pub struct App(crate::lifecycle::Lifecycle);
    impl App {
        pub async fn start(config: crate::config::Config) -> anyhow::Result<Self> {
            Ok(Self(crate::lifecycle::Lifecycle::new(config.work.shutdown_grace)))
        }
        pub fn address(&self) -> std::net::SocketAddr {
            ([127, 0, 0, 1], 1).into()
        }
        pub fn lifecycle(&self) -> &crate::lifecycle::Lifecycle {
            &self.0
        }
        pub async fn run(self) -> anyhow::Result<()> {
            anyhow::bail!("placeholder")
        }
    }
    pub async fn migrate(_: &crate::config::Config) -> anyhow::Result<()> {
        anyhow::bail!("placeholder")
    }
}
pub mod assets;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod durable;
pub mod http;
pub mod ledger;
pub mod lifecycle;
pub mod net;
pub mod provider;
pub mod references;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod worker;
