//! Webhooks over HTTP: the adapter of [`Courier`]. What may be connected to is the business of [`net`](crate::net).

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

use super::{Courier, CourierError, MAX_ANSWER_BYTES, Message, Reply};
use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::net::address::Allowlist;
use crate::net::client::{ClientBuildError, FetchError, GuardConfig, GuardedClient};
use crate::net::lookup::Lookup;
use crate::net::target::Target;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Sends messages over HTTP, under the address rule of references.
pub struct WebCourier {
    client: GuardedClient,
    allow: Allowlist,
    clock: Arc<dyn Clock>,
}

impl WebCourier {
    /// Sets up the client; connects nowhere. A try has `deadline`; `clock` says how far away a date is.
    ///
    /// # Errors
    /// [`ClientBuildError`].
    pub fn new(
        allow: Allowlist,
        deadline: Duration,
        lookup: impl Lookup,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ClientBuildError> {
        let config = GuardConfig {
            allow: allow.clone(),
            deadline,
            max_bytes: MAX_ANSWER_BYTES,
            bodies: MAX_ANSWER_BYTES,
            ..GuardConfig::default()
        };
        Ok(Self { client: GuardedClient::new(config, lookup)?, allow, clock })
    }
}

fn headers(message: &Message) -> Result<HeaderMap, InvalidHeaderValue> {
    Ok(HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ID, message.id.to_string().try_into()?),
        (TIMESTAMP, message.seconds.into()),
        (SIGNATURE, message.signature.as_str().try_into()?),
    ]))
}

#[async_trait]
impl Courier for WebCourier {
    fn check(&self, url: &str) -> Result<(), CourierError> {
        Target::parse(url, &self.allow, false).map(drop).map_err(|refusal| CourierError(refusal.to_string()))
    }

    async fn deliver(&self, url: &str, message: Message) -> Result<Reply, CourierError> {
        let headers = headers(&message).map_err(|_| CourierError("the message has no form".to_owned()))?;
        let posted = self.client.post(url, headers, message.body).await?;
        let retry_after = posted.retry_after.and_then(|text| pause(&text, self.clock.now()));
        Ok(Reply { status: posted.status.as_u16(), retry_after })
    }
}

/// The pause that `Retry-After` asks for: in seconds, or until a date (RFC 9110, 10.2.3). A date that is past asks for
/// none; a text of another form says nothing.
fn pause(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(0).after(date).since(now))
}

impl From<FetchError> for CourierError {
    fn from(error: FetchError) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        // The date of RFC 9110, in its three spellings: 784,111,777 s after 1970.
        let now = Timestamp::from_millis(784_111_700_000);
        for (text, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(77)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(77)),
            ("Sun Nov  6 08:49:37 1994", Some(77)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(pause(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
