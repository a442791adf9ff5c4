//! Where client commands find the service, and the key that they show.

use std::collections::HashMap;

use super::StorageConfig;
use super::reader::Reader;
use super::sections::Secret;

/// What client commands read of the environment. An option of the command line comes before.
#[derive(Debug, Clone, Default)]
pub struct ClientConfig {
    /// The address of the service.
    pub url: Option<String>,
    /// The key to show.
    pub key: Option<Secret>,
    /// What shows a platform in front of the service, such as Cloud Run, who calls.
    pub token: Option<Secret>,
    /// How a ledger in a bucket is reached.
    pub storage: StorageConfig,
}

impl ClientConfig {
    /// Where a service is unless somebody says otherwise.
    pub const DEFAULT_URL: &str = "http://127.0.0.1:9090";

    /// Reads `variables`.
    #[must_use]
    pub fn parse(variables: &HashMap<String, String>) -> Self {
        Self::read(&mut Reader::new(variables))
    }

    /// Every variable that client commands read.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let variables = HashMap::new();
        let mut reader = Reader::new(&variables);
        Self::read(&mut reader);
        reader.finish().0
    }

    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            url: from.text("ORCHESTRATOR_URL").map(str::to_owned),
            key: from.text("ORCHESTRATOR_KEY").map(Secret::new),
            token: from.text("ORCHESTRATOR_TOKEN").map(Secret::new),
            storage: StorageConfig::read(from),
        }
    }
}
