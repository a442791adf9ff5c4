//! Who makes the pictures, what they cost, and whether they may cost anything.

use std::path::Path;
use std::time::Duration;

use super::reader::Reader;
use super::sections::Engine;
use crate::domain::prices::{EMBEDDED, PriceTable};
use crate::domain::spec::RunMode;

/// The image providers that this version can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    /// Draws pictures itself: free, offline.
    Synthetic,
}

/// Which provider is called, and how hard.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// The adapter.
    pub kind: ProviderKind,
    /// The model of a batch that names none; it is in the price table.
    pub model: String,
    /// Most calls in flight.
    pub concurrency: u32,
    /// Most calls a minute.
    pub requests_per_minute: Option<u32>,
    /// The deadline of one call.
    pub timeout: Duration,
    /// How long the synthetic provider takes for a picture.
    pub synthetic_latency: Duration,
}

impl ProviderConfig {
    pub(super) fn read(from: &mut Reader<'_>, prices: &PriceTable) -> Self {
        Self {
            kind: provider_kind(from),
            model: model(from, prices),
            concurrency: from.number("PROVIDER_CONCURRENCY", 1, 1_024).unwrap_or(8),
            requests_per_minute: from.number("PROVIDER_RPM", 1, 1_000_000),
            timeout: from.duration("PROVIDER_TIMEOUT", Duration::from_mins(2), Duration::from_millis(100)),
            synthetic_latency: from.duration("SYNTHETIC_LATENCY", Duration::from_secs(1), Duration::ZERO),
        }
    }
}

fn provider_kind(from: &mut Reader<'_>) -> ProviderKind {
    let has_gemini_key = from.is_set("GEMINI_API_KEY");
    match from.text("PROVIDER") {
        Some("synthetic") => {}
        None if !has_gemini_key => {}
        None => from.refuse(
            "PROVIDER",
            "GEMINI_API_KEY is set, which asks for the gemini provider, and this version has no gemini adapter yet; \
             set PROVIDER=synthetic to run without it",
        ),
        Some("gemini" | "vertex" | "openai") => {
            from.refuse("PROVIDER", "this version has no adapter for it yet; expected synthetic");
        }
        Some(_) => from.refuse("PROVIDER", "no such provider; expected synthetic"),
    }
    ProviderKind::Synthetic
}

fn model(from: &mut Reader<'_>, prices: &PriceTable) -> String {
    let model = from.text("IMAGE_MODEL").unwrap_or("synthetic");
    if prices.get(model).is_none() {
        let known: Vec<&str> = prices.models().map(|model| model.id.as_str()).collect();
        from.refuse("IMAGE_MODEL", format!("not in the price table; expected one of {}", known.join(", ")));
    }
    model.to_owned()
}

/// Reads the price table: the embedded one, or the file that replaces it.
pub(super) fn prices(from: &mut Reader<'_>, read_file: &dyn Fn(&Path) -> std::io::Result<String>) -> PriceTable {
    let text = match from.text("PRICES_FILE") {
        None => EMBEDDED.to_owned(),
        Some(path) => match read_file(Path::new(path)) {
            Ok(text) => text,
            Err(error) => {
                from.refuse("PRICES_FILE", format!("cannot be read: {error}"));
                EMBEDDED.to_owned()
            }
        },
    };
    PriceTable::parse(&text).unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        from.refuse("PRICES_FILE", format!("{error}{cause}").trim_end().replace('\n', " "));
        PriceTable::parse(EMBEDDED).unwrap_or_default()
    })
}

/// Decides whether money may be spent: only in `live`, which is the default while the provider is free.
pub(super) fn run_mode(from: &mut Reader<'_>, provider: ProviderKind, engine: Engine) -> RunMode {
    let default = match provider {
        ProviderKind::Synthetic => RunMode::Live,
    };
    let mode = from.optional("RUN_MODE", "dry_run or live", |text| text.parse().ok()).unwrap_or(default);
    let accepted = from.flag("ALLOW_EPHEMERAL_STATE", false);
    let lost_at_restart = from.is_set("K_SERVICE") && engine == Engine::Sqlite;
    if mode == RunMode::Live && lost_at_restart && !accepted {
        from.refuse(
            "DATABASE_URL",
            "on Cloud Run (K_SERVICE is set) a SQLite file dies with the instance, and accepted work and today's \
             spending with it; use postgres://…, or RUN_MODE=dry_run, or say ALLOW_EPHEMERAL_STATE=true",
        );
    }
    mode
}
