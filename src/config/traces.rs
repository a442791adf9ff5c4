//! Where traces are sent: the variables that OpenTelemetry names, as far as this version reads them.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

use super::reader::Reader;
use super::sections::Secret;

const ENDPOINT: &str = "an http or https URL without user, query and fragment, such as http://127.0.0.1:4318";
const HEADERS: &str = "name=value pairs with commas between them, values percent-encoded";
const SERVICE: &str = "orchestrator";

/// Where traces are sent, and as whose.
#[derive(Clone)]
pub struct TracesConfig {
    /// The collector's base URL; nothing is sent without one.
    pub endpoint: Option<Url>,
    /// Sent with each request to the collector: names and values.
    pub headers: Vec<(String, Secret)>,
    /// What the service is called there.
    pub service: String,
}

impl fmt::Debug for TracesConfig {
    /// Without the endpoint's path, which may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.endpoint.as_ref().map(Url::host_str);
        let mut shown = f.debug_struct("TracesConfig");
        shown.field("host", &host).field("headers", &self.headers).field("service", &self.service).finish()
    }
}

impl TracesConfig {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        let endpoint = from.optional("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT, |text| {
            text.parse().ok().filter(|url: &Url| {
                let has_user = !url.username().is_empty() || url.password().is_some();
                matches!(url.scheme(), "http" | "https")
                    && !has_user
                    && url.query().is_none()
                    && url.fragment().is_none()
            })
        });
        let headers = from.optional("OTEL_EXPORTER_OTLP_HEADERS", HEADERS, headers).unwrap_or_default();
        if !matches!(from.text("OTEL_EXPORTER_OTLP_PROTOCOL"), None | Some("http/protobuf")) {
            from.refuse("OTEL_EXPORTER_OTLP_PROTOCOL", "this version speaks http/protobuf alone");
        }
        let service = from.text("OTEL_SERVICE_NAME").unwrap_or(SERVICE).to_owned();
        Self { endpoint, headers, service }
    }
}

/// Reads `a=b,c=d`.
fn headers(text: &str) -> Option<Vec<(String, Secret)>> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), percent_decode_str(value.trim()).decode_utf8().ok()?);
        let is_name = !name.is_empty() && name.bytes().all(is_token);
        let is_value = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        (is_name && is_value).then(|| (name.to_owned(), Secret::new(value)))
    };
    text.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_pairs_with_commas_between_them() {
        let read = |text: &str| {
            let pairs = headers(text)?.into_iter().map(|(name, value)| format!("{name}: {}", value.expose()));
            Some(pairs.collect::<Vec<_>>())
        };
        assert_eq!(read("api-key=k, authorization=Bearer%20x=,").unwrap(), ["api-key: k", "authorization: Bearer x="]);
        for wrong in ["k", "=v", "a b=c", "a=%0a", "a=%ff", "a=b,c"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
