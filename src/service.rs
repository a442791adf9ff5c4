//! The use cases, one file each. Knows the ports, never their adapters, and nothing of HTTP or SQL.

pub mod batches;
pub mod feed;
pub mod health;
pub mod view;
