//! How names become addresses. The one door to the name system, so that tests can stand in it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

/// Asks what addresses a name has. Judges none of them.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// Every address of `name`, asked afresh at each call.
    ///
    /// # Errors
    /// The name has none, or they could not be found out; the two cannot be told apart.
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

#[async_trait]
impl<L: Lookup + ?Sized> Lookup for Arc<L> {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        (**self).lookup(name).await
    }
}

/// The machine's own resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let answers = tokio::net::lookup_host((name, 0)).await?;
        Ok(answers.map(|answer| answer.ip()).collect())
    }
}
