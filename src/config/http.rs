//! Where and how requests are taken.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::reader::Reader;
use super::sections::MIB;
use super::values::{self, DURATION};

/// Streams end themselves this long before the platform's request limit.
const STREAM_MARGIN: Duration = Duration::from_secs(30);

/// Where and how requests are taken.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// Most bytes of a request's body.
    pub max_body_bytes: u64,
    /// The platform's limit on one request, if it has one.
    pub request_limit: Option<Duration>,
}

impl HttpConfig {
    /// Host and port together.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// How long a progress stream may last: it ends itself before the platform ends it.
    #[must_use]
    pub fn stream_limit(&self) -> Option<Duration> {
        self.request_limit.map(|limit| limit.saturating_sub(STREAM_MARGIN))
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        let on_cloud_run = from.is_set("K_SERVICE");
        Self {
            host: host(from, on_cloud_run),
            port: from.number("PORT", 0, u16::MAX).unwrap_or(9090),
            max_body_bytes: from.size("MAX_BODY_BYTES", 16 * MIB, 1_024),
            request_limit: request_limit(from, on_cloud_run),
        }
    }
}

fn host(from: &mut Reader<'_>, on_cloud_run: bool) -> IpAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let default = if on_cloud_run { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { loopback };
    let given = from.optional("HOST", "an IP address or localhost", |text| match text {
        "localhost" => Some(loopback),
        _ => text.parse().ok(),
    });
    given.unwrap_or(default)
}

fn request_limit(from: &mut Reader<'_>, on_cloud_run: bool) -> Option<Duration> {
    let given = from.optional("REQUEST_LIMIT", DURATION, values::duration);
    if given.is_some_and(|limit| limit <= STREAM_MARGIN) {
        from.refuse("REQUEST_LIMIT", "expected more than 30s: streams end themselves 30s before it");
    }
    given.or(on_cloud_run.then_some(Duration::from_mins(15)))
}
