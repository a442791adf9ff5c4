//! The plain concerns, one struct each, read by its own function. What depends on another concern is given it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Reader;
use crate::domain::ledger::LedgerPrompts;
use crate::domain::money::MicroUsd;

pub(super) const MIB: u64 = 1 << 20;
/// Longest life of a signed URL: that of the V4 scheme. A longer one is cut to it.
const LONGEST_URL_TTL: Duration = Duration::from_hours(7 * 24);

/// A value that no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one who needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where the service keeps what it keeps itself.
#[derive(Debug, Clone)]
pub struct DataConfig {
    /// Holds `orchestrator.db`, `images/…` and `ledger/YYYY-MM-DD.jsonl`.
    pub dir: PathBuf,
}

impl DataConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        Self { dir: PathBuf::from(from.text("DATA_DIR").unwrap_or("./data")) }
    }
}

/// The engines that the one set of SQL runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Embedded: one process, one file.
    Sqlite,
    /// Shared by several processes.
    Postgres,
}

/// Where the state lives.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `sqlite:…` or `postgres://…`, as sqlx reads it; may hold a password.
    pub url: Secret,
    /// What the URL's scheme says.
    pub engine: Engine,
}

impl DatabaseConfig {
    pub(super) fn read(from: &mut Reader<'_>, data: &DataConfig) -> Self {
        let default = sqlite_url(&data.dir.join("orchestrator.db"));
        let Some(url) = from.text("DATABASE_URL") else {
            return Self { url: Secret::new(default), engine: Engine::Sqlite };
        };
        let engine = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Engine::Postgres
        } else {
            Engine::Sqlite
        };
        if engine == Engine::Sqlite && !url.starts_with("sqlite:") {
            from.refuse("DATABASE_URL", "expected sqlite:PATH, postgres://… or postgresql://…");
        } else if engine == Engine::Sqlite && (url.contains(":memory:") || url.contains("mode=memory")) {
            from.refuse(
                "DATABASE_URL",
                "expected a file: a database in memory would lose accepted work and its charges",
            );
        }
        Self { url: Secret::new(url), engine }
    }
}

/// The URL of the SQLite file at `path`; sqlx decodes percent signs, so that any path can be written.
fn sqlite_url(path: &Path) -> String {
    let escape = |byte: u8| match byte {
        b'/' | b'.' | b'_' | b'-' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    format!("sqlite:{}", path.to_string_lossy().bytes().map(escape).collect::<String>())
}

/// How much may be spent.
#[derive(Debug, Clone)]
pub struct BudgetConfig {
    /// The most that all users together may spend on a UTC day.
    pub daily: MicroUsd,
    /// The most that one user may; none is no limit of their own.
    pub user_daily: Option<MicroUsd>,
}

impl BudgetConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        Self {
            daily: from.money("DAILY_BUDGET_USD").unwrap_or(MicroUsd::from_micros(100_000_000)),
            user_daily: from.money("USER_DAILY_BUDGET_USD"),
        }
    }
}

/// How reference pictures are fetched.
#[derive(Debug, Clone)]
pub struct ReferencesConfig {
    /// Most fetches in flight.
    pub concurrency: u32,
    /// The deadline of one fetch, over all hops and the body.
    pub timeout: Duration,
    /// How often a fetch that failed in passing is tried again.
    pub retries: u32,
    /// Most bytes of one reference.
    pub max_bytes: u64,
    /// Most pixels of one reference.
    pub max_pixels: u64,
    /// Most bytes of fetched references that are kept on disk for the rows that share them.
    pub cache_bytes: u64,
    /// CIDRs and host:port pairs exempt from the address rule, as written; `net` reads it.
    pub allow: String,
}

impl ReferencesConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        Self {
            concurrency: from.number("REFERENCE_CONCURRENCY", 1, 256).unwrap_or(4),
            timeout: from.duration("REFERENCE_TIMEOUT", Duration::from_secs(10), Duration::from_millis(100)),
            retries: from.number("REFERENCE_RETRIES", 0, 10).unwrap_or(2),
            max_bytes: from.size("REFERENCE_MAX_BYTES", 10 * MIB, 1),
            max_pixels: from.number("REFERENCE_MAX_PIXELS", 1, 1_000_000_000).unwrap_or(25_000_000),
            cache_bytes: from.size("REFERENCE_CACHE_BYTES", 64 * MIB, 0),
            allow: from.text("REFERENCE_ALLOW").unwrap_or_default().to_owned(),
        }
    }
}

/// How long links to pictures live.
#[derive(Debug, Clone)]
pub struct UrlsConfig {
    /// The life of a new link: what was asked for, or the most that there can be.
    pub ttl: Duration,
    /// What was asked for.
    pub asked_ttl: Duration,
    /// A link with less than this left is minted again before it is handed out.
    pub min_left: Duration,
}

impl UrlsConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        let asked_ttl = from.duration("SIGNED_URL_TTL", Duration::from_hours(12), Duration::from_secs(1));
        let ttl = asked_ttl.min(LONGEST_URL_TTL);
        let min_left = from.duration("SIGNED_URL_MIN_LEFT", Duration::from_mins(5), Duration::ZERO);
        if min_left >= ttl {
            from.refuse("SIGNED_URL_MIN_LEFT", "expected less than SIGNED_URL_TTL, or no link could be handed out");
        }
        Self { ttl, asked_ttl, min_left }
    }
}

/// Bounds on what is accepted and held.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Most rows of a batch.
    pub max_rows_per_batch: u32,
    /// Most variants of a row.
    pub max_variants_per_row: u32,
    /// Most bytes of pictures that are held in memory for calls.
    pub image_bytes_in_flight: u64,
}

impl LimitsConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        Self {
            max_rows_per_batch: from.number("MAX_ROWS_PER_BATCH", 1, 100_000).unwrap_or(1_000),
            max_variants_per_row: from.number("MAX_VARIANTS_PER_ROW", 1, 3).unwrap_or(3),
            image_bytes_in_flight: from.size("IMAGE_BYTES_IN_FLIGHT", 128 * MIB, MIB),
        }
    }
}

/// What can be turned off, or on.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is one switch of the contract, independent of the others")]
pub struct FeaturesConfig {
    /// Whether the daily limits hold.
    pub budget_guard: bool,
    /// Whether charges are exported to the ledger.
    pub budget_ledger: bool,
    /// Whether progress streams are served.
    pub sse: bool,
    /// Whether links are minted again at each read.
    pub url_refresh: bool,
    /// Whether thumbnails are made.
    pub thumbnails: bool,
}

impl FeaturesConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        Self {
            budget_guard: from.flag("BUDGET_GUARD_ENABLED", true),
            budget_ledger: from.flag("BUDGET_LEDGER_ENABLED", false),
            sse: from.flag("SSE_ENABLED", true),
            url_refresh: from.flag("URL_REFRESH_ENABLED", true),
            thumbnails: from.flag("THUMBNAILS_ENABLED", true),
        }
    }
}

/// What the ledger holds.
#[derive(Debug, Clone)]
pub struct LedgerConfig {
    /// How much of each prompt.
    pub prompts: LedgerPrompts,
}

impl LedgerConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        let prompts = from.optional("LEDGER_PROMPTS", "full, hash or none", |text| match text {
            "full" => Some(LedgerPrompts::Full),
            "hash" => Some(LedgerPrompts::Hash),
            "none" => Some(LedgerPrompts::None),
            _ => None,
        });
        Self { prompts: prompts.unwrap_or_default() }
    }
}

/// How work is claimed, and how it is put down.
#[derive(Debug, Clone)]
pub struct WorkConfig {
    /// A process without a new beat for this long counts as dead.
    pub lease: Duration,
    /// From the stop signal to the end of the process.
    pub shutdown_grace: Duration,
}

impl WorkConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        Self {
            lease: from.duration("LEASE_DURATION", Duration::from_secs(30), Duration::from_secs(1)),
            shutdown_grace: from.duration("SHUTDOWN_GRACE", Duration::from_secs(8), Duration::from_millis(100)),
        }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `pretty` where the log goes to a terminal, `json` elsewhere.
    ByTerminal,
    /// For people.
    Pretty,
    /// One JSON object a line, with Cloud Logging's field names.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct LoggingConfig {
    /// The form of a line.
    pub format: LogFormat,
    /// Levels by target, as `tracing-subscriber` reads them: `info`, or `warn,orchestrator=debug`.
    pub filter: String,
    /// The project of Google Cloud in which Cloud Logging looks for the traces that lines name.
    pub project: Option<String>,
}

impl LoggingConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        let format = from.optional("LOG_FORMAT", "pretty or json", |text| match text {
            "pretty" => Some(LogFormat::Pretty),
            "json" => Some(LogFormat::Json),
            _ => None,
        });
        let mut filter = None;
        for name in ["LOG_LEVEL", "RUST_LOG"] {
            let read = from.optional(
                name,
                "a level such as info, or levels by target such as warn,orchestrator=debug",
                |text| is_log_filter(text).then(|| text.to_owned()),
            );
            filter = filter.or(read);
        }
        let project = from.optional("GOOGLE_CLOUD_PROJECT", "the id of a project, such as my-project", |text| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
            (text.len() <= 100 && text.bytes().all(plain)).then(|| text.to_owned())
        });
        Self {
            format: format.unwrap_or(LogFormat::ByTerminal),
            filter: filter.unwrap_or_else(|| "info".to_owned()),
            project,
        }
    }
}

/// Whether `text` is a filter, and each bare word in it a level: the library takes `loud` for the name of
/// a target, and would silence everything else.
fn is_log_filter(text: &str) -> bool {
    let is_said = |directive: &str| {
        directive.contains(['=', '[']) || directive.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
    };
    text.split(',').all(is_said) && tracing_subscriber::EnvFilter::try_new(text).is_ok()
}
