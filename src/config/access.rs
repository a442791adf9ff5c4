//! Who may send requests, and how many.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::http::HttpConfig;
use super::reader::Reader;
use crate::domain::access::{KeyRecord, entries};

const DEFAULT_CHANGES: NonZeroU32 = NonZeroU32::new(120).unwrap();
const NOT_LOOPBACK: &str = "is only for a loopback HOST, as anyone who reaches another address could spend money; \
    use keys, and make one with `orchestrator keys new --name NAME`";

/// How callers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// By keys.
    Keys,
    /// Not at all.
    Open,
    /// Not at all while there is no key, on a loopback address; then by keys.
    OpenWithoutKeys,
    /// By Cloud Run, which lets in only those it knows.
    CloudRun,
}

/// Who may send requests, and how many.
#[derive(Clone)]
pub struct AccessConfig {
    /// How callers are told apart.
    pub auth: Auth,
    /// The keys of `API_KEYS`.
    pub keys: Vec<KeyRecord>,
    /// The file of keys, read again when it changes.
    pub keys_file: Option<PathBuf>,
    /// Changing requests of a user in a minute.
    pub changes_per_minute: NonZeroU32,
    /// Open progress streams of a user.
    pub max_streams: u32,
    /// The origins of other pages that may use the service, as browsers write them.
    pub origins: Vec<String>,
    /// Whether Cloud Run stands in front, which adds the client's address.
    pub on_cloud_run: bool,
}

impl fmt::Debug for AccessConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessConfig {{ auth: {:?}, {} keys }}", self.auth, self.keys.len())
    }
}

impl AccessConfig {
    pub(super) fn read(from: &mut Reader<'_>, http: &HttpConfig) -> Self {
        let on_cloud_run = from.is_set("K_SERVICE");
        let keys = from.text("API_KEYS").map(entries).transpose().unwrap_or_else(|error| {
            from.refuse("API_KEYS", error.to_string());
            None
        });
        Self {
            auth: auth(from, http, on_cloud_run),
            keys: keys.unwrap_or_default(),
            keys_file: from.text("API_KEYS_FILE").map(PathBuf::from),
            changes_per_minute: from
                .number("RATE_LIMIT_PER_MINUTE", 1, 1_000_000)
                .and_then(NonZeroU32::new)
                .unwrap_or(DEFAULT_CHANGES),
            max_streams: from.number("MAX_STREAMS_PER_USER", 1, 100_000).unwrap_or(100),
            origins: origins(from),
            on_cloud_run,
        }
    }
}

fn auth(from: &mut Reader<'_>, http: &HttpConfig, on_cloud_run: bool) -> Auth {
    let loopback = http.host.is_loopback();
    let asked = from.optional("AUTH", "keys, open or cloud-run", |text| match text {
        "keys" => Some(Auth::Keys),
        "open" => Some(Auth::Open),
        "cloud-run" => Some(Auth::CloudRun),
        _ => None,
    });
    match asked {
        Some(Auth::Open) if !loopback => from.refuse("AUTH", format!("open {NOT_LOOPBACK}")),
        Some(Auth::CloudRun) if !on_cloud_run => {
            from.refuse("AUTH", "cloud-run trusts Cloud Run's check of callers, and this is not Cloud Run (K_SERVICE is not set); use keys");
        }
        _ => {}
    }
    asked.unwrap_or(if loopback { Auth::OpenWithoutKeys } else { Auth::Keys })
}

/// Origins as browsers send them: scheme, host and port, nothing else.
fn origins(from: &mut Reader<'_>) -> Vec<String> {
    let given = from.text("CORS_ORIGINS").unwrap_or_default().split([',', ' ']).map(str::trim);
    let given: Vec<String> = given.filter(|origin| !origin.is_empty()).map(str::to_owned).collect();
    let exact = |origin: &String| {
        let url = url::Url::parse(origin);
        let plain = !origin.contains('*');
        plain && url.is_ok_and(|url| is_web(&url) && url.origin().ascii_serialization() == *origin)
    };
    if !given.iter().all(exact) {
        from.refuse(
            "CORS_ORIGINS",
            "expected exact origins such as https://app.example with commas between them; * is none",
        );
    }
    given
}

fn is_web(url: &url::Url) -> bool {
    ["http", "https"].contains(&url.scheme())
}
