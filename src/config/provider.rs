//! Who makes the pictures, what they cost, and whether they may cost anything.

use std::path::Path;
use std::time::Duration;

use url::Url;

use super::reader::Reader;
use super::sections::{Engine, Secret};
use crate::domain::prices::{EMBEDDED, PriceTable};
use crate::domain::spec::RunMode;

const GEMINI_BASE_URL: &str = "https://generativelanguage.googleapis.com";

/// The image providers that this version can call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderKind {
    /// Draws pictures itself: free, offline.
    Synthetic,
    /// Google's Gemini API; costs money.
    Gemini(GeminiConfig),
}

/// How the Gemini API is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeminiConfig {
    /// Where it is: http or https, without user info, query and fragment.
    pub base_url: Url,
    /// Who pays.
    pub api_key: Secret,
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
    /// Whether fewer calls are under way while the provider bears fewer; `concurrency` is the most then.
    pub adaptive: bool,
    /// Most calls a minute.
    pub requests_per_minute: Option<u32>,
    /// The deadline of one call.
    pub timeout: Duration,
    /// How long the synthetic provider takes for a picture.
    pub synthetic_latency: Duration,
}

impl ProviderConfig {
    /// Reads the provider, and leaves of `prices` what it can be asked for.
    pub(super) fn read(from: &mut Reader<'_>, prices: &mut PriceTable) -> Self {
        let kind = provider_kind(from);
        match kind {
            // It rehearses every model.
            ProviderKind::Synthetic => {}
            ProviderKind::Gemini(_) => *prices = std::mem::take(prices).of_provider("gemini"),
        }
        Self {
            model: model(from, &kind, prices),
            kind,
            concurrency: from.number("PROVIDER_CONCURRENCY", 1, 1_024).unwrap_or(8),
            adaptive: from.flag("PROVIDER_ADAPTIVE", false),
            requests_per_minute: from.number("PROVIDER_RPM", 1, 1_000_000),
            timeout: from.duration("PROVIDER_TIMEOUT", Duration::from_mins(2), Duration::from_millis(100)),
            synthetic_latency: from.duration("SYNTHETIC_LATENCY", Duration::from_secs(1), Duration::ZERO),
        }
    }
}

/// The provider; the free one in the place of one that is refused.
fn provider_kind(from: &mut Reader<'_>) -> ProviderKind {
    let base_url = gemini_base_url(from);
    let api_key = from.optional("GEMINI_API_KEY", "visible ASCII characters", |key| {
        key.bytes().all(|byte| byte.is_ascii_graphic()).then(|| Secret::new(key))
    });
    match from.text("PROVIDER") {
        Some("synthetic") => return ProviderKind::Synthetic,
        Some("gemini") if !from.is_set("GEMINI_API_KEY") => from.refuse("GEMINI_API_KEY", "needed by PROVIDER=gemini"),
        Some("gemini") | None => {}
        Some("vertex" | "openai") => {
            from.refuse("PROVIDER", "this version has no adapter for it yet; expected synthetic or gemini");
        }
        Some(_) => from.refuse("PROVIDER", "no such provider; expected synthetic or gemini"),
    }
    match (base_url, api_key) {
        (Some(base_url), Some(api_key)) => ProviderKind::Gemini(GeminiConfig { base_url, api_key }),
        _ => ProviderKind::Synthetic,
    }
}

fn gemini_base_url(from: &mut Reader<'_>) -> Option<Url> {
    let usable = |url: &Url| {
        let has_user = !url.username().is_empty() || url.password().is_some();
        matches!(url.scheme(), "http" | "https") && !has_user && url.query().is_none() && url.fragment().is_none()
    };
    let url = from.text("GEMINI_BASE_URL").unwrap_or(GEMINI_BASE_URL).parse().ok().filter(usable);
    if url.is_none() {
        from.refuse("GEMINI_BASE_URL", "expected an http or https URL without user, query and fragment");
    }
    url
}

fn model(from: &mut Reader<'_>, provider: &ProviderKind, prices: &PriceTable) -> String {
    let default = match provider {
        ProviderKind::Synthetic => "synthetic",
        ProviderKind::Gemini(_) => "gemini-nano-banana-2.1",
    };
    let model = from.text("IMAGE_MODEL").unwrap_or(default);
    if prices.get(model).is_none() {
        let known: Vec<&str> = prices.models().map(|model| model.id.as_str()).collect();
        let known = known.join(", ");
        from.refuse("IMAGE_MODEL", format!("not a model that the provider has a price for; expected one of {known}"));
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
pub(super) fn run_mode(from: &mut Reader<'_>, provider: &ProviderKind, engine: Engine) -> RunMode {
    let default = match provider {
        ProviderKind::Synthetic => RunMode::Live,
        ProviderKind::Gemini(_) => RunMode::DryRun,
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
