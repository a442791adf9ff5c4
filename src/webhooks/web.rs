//! Webhooks over HTTP: the adapter of [`Courier`]. What may be connected to is the business of [`net`](crate::net).

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

use super::{Courier, CourierError, MAX_ANSWER_BYTES, Message, Reply};
use crate::net::address::Allowlist;
use crate::net::client::{ClientBuildError, FetchError, GuardConfig, GuardedClient};
use crate::net::lookup::Lookup;
use crate::net::target::Target;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Sends messages over HTTP, under the address rule of references.
#[derive(Debug)]
pub struct WebCourier {
    client: GuardedClient,
    allow: Allowlist,
}

impl WebCourier {
    /// Sets up the client; connects nowhere. A try has `deadline`.
    ///
    /// # Errors
    /// [`ClientBuildError`].
    pub fn new(allow: Allowlist, deadline: Duration, lookup: impl Lookup) -> Result<Self, ClientBuildError> {
        let config = GuardConfig {
            allow: allow.clone(),
            deadline,
            max_bytes: MAX_ANSWER_BYTES,
            bodies: MAX_ANSWER_BYTES,
            ..GuardConfig::default()
        };
        Ok(Self { client: GuardedClient::new(config, lookup)?, allow })
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
        let seconds = posted.retry_after.and_then(|text| text.parse().ok());
        Ok(Reply { status: posted.status.as_u16(), retry_after: seconds.map(Duration::from_secs) })
    }
}

impl From<FetchError> for CourierError {
    fn from(error: FetchError) -> Self {
        Self(error.to_string())
    }
}
