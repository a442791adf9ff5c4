//! The configuration: one struct a concern, read from environment variables.
//!
//! Owns names, defaults and forms of the variables; [`Config::environment`] is the one place that
//! reads the process's environment. Refuses a configuration with any invalid or contradictory value,
//! naming all of them at once. May call `domain`, and read the price file that a variable names.

mod access;
mod client;
mod http;
mod provider;
mod reader;
mod sections;
mod storage;
mod traces;
mod values;

use std::collections::HashMap;
use std::path::Path;

pub use access::{AccessConfig, Auth};
pub use client::ClientConfig;
pub use http::HttpConfig;
pub use provider::{GeminiConfig, ProviderConfig, ProviderKind};
pub use reader::{ConfigError, ConfigErrors};
pub use sections::{
    BudgetConfig, DataConfig, DatabaseConfig, Engine, FeaturesConfig, LedgerConfig, LimitsConfig, LogFormat,
    LoggingConfig, ReferencesConfig, Secret, UrlsConfig, WorkConfig,
};
pub use storage::StorageConfig;
pub use traces::TracesConfig;
pub use values::{DURATION, duration};

use crate::domain::prices::PriceTable;
use crate::domain::spec::RunMode;
use reader::Reader;

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how requests are taken.
    pub http: HttpConfig,
    /// Who may send requests, and how many.
    pub access: AccessConfig,
    /// Where the service keeps what it keeps itself.
    pub data: DataConfig,
    /// Where the state lives.
    pub database: DatabaseConfig,
    /// Which buckets are used for pictures and ledger.
    pub storage: StorageConfig,
    /// Whether money may be spent.
    pub run_mode: RunMode,
    /// How much may be spent.
    pub budget: BudgetConfig,
    /// What pictures cost, of the models that the provider can be asked for.
    pub prices: PriceTable,
    /// Which provider is called, and how hard.
    pub provider: ProviderConfig,
    /// How reference pictures are fetched.
    pub references: ReferencesConfig,
    /// How long links to pictures live.
    pub urls: UrlsConfig,
    /// Bounds on what is accepted and held.
    pub limits: LimitsConfig,
    /// What can be turned off, or on.
    pub features: FeaturesConfig,
    /// What the ledger holds.
    pub ledger: LedgerConfig,
    /// How work is claimed, and how it is put down.
    pub work: WorkConfig,
    /// What is logged, and how.
    pub logging: LoggingConfig,
    /// Where traces are sent.
    pub traces: TracesConfig,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem there is.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::parse(&Self::environment())
    }

    /// The process's environment, for a caller that adds defaults of its own before it parses it.
    /// A variable that is not Unicode is read with replacement characters.
    #[must_use]
    pub fn environment() -> HashMap<String, String> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        let variables = std::env::vars_os();
        variables
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect()
    }

    /// Reads `variables`; what is not in there has its default, and names nobody asks for are ignored.
    /// Touches nothing but the file that `PRICES_FILE` names.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem there is.
    pub fn parse(variables: &HashMap<String, String>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(variables);
        let config = Self::read(&mut reader, &|path| std::fs::read_to_string(path));
        let (_, errors) = reader.finish();
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// Every variable that this version reads.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        let variables = HashMap::new();
        let mut reader = Reader::new(&variables);
        Self::read(&mut reader, &|_| Ok(String::new()));
        reader.finish().0
    }

    fn read(from: &mut Reader<'_>, read_file: &dyn Fn(&Path) -> std::io::Result<String>) -> Self {
        let http = HttpConfig::read(from);
        let access = AccessConfig::read(from, &http);
        let data = DataConfig::read(from);
        let database = DatabaseConfig::read(from, &data);
        let storage = StorageConfig::read(from);
        let mut prices = provider::prices(from, read_file);
        let provider = ProviderConfig::read(from, &mut prices);
        let run_mode = provider::run_mode(from, &provider.kind, database.engine);
        Self {
            http,
            access,
            data,
            database,
            storage,
            run_mode,
            budget: BudgetConfig::read(from),
            prices,
            provider,
            references: ReferencesConfig::read(from),
            urls: UrlsConfig::read(from),
            limits: LimitsConfig::read(from),
            features: FeaturesConfig::read(from),
            ledger: LedgerConfig::read(from),
            work: WorkConfig::read(from),
            logging: LoggingConfig::read(from),
            traces: TracesConfig::read(from),
        }
    }
}

#[cfg(test)]
mod tests;
