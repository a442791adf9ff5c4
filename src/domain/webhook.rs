//! Webhooks: what is told of a batch, how a message proves that it is ours, and when it is tried again.
//!
//! Ids, timestamps and signatures are those of Standard Webhooks (<https://www.standardwebhooks.com>, read 2026-11-24).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use url::Url;

use super::event::Event;
use super::ids::BatchId;
use super::state::WebhookEvent;
use super::time::Timestamp;

/// How long a secret is. Named by Standard Webhooks.
pub const SECRET_BYTES: RangeInclusive<usize> = 24..=64;
/// How long a secret is that the service makes.
pub const MADE_SECRET_BYTES: usize = 32;
const SECRET_PREFIX: &str = "whsec_";

/// Pauses after the first failed tries of a message; the last one is repeated.
pub const RETRY_PAUSES: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(1),
];
/// A pause is as much longer or shorter at most, so that messages that failed together do not come back together.
const JITTER: f64 = 0.2;
/// A receiver that asks for a pause gets one of at most this length.
pub const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// A message is tried for as long after its event. One that had to wait for those before it is tried once in any case.
pub const TRIED_FOR: Duration = Duration::from_hours(24);
/// How long after its event a delivery that was taken or given up is in the log.
pub const KEPT_FOR: Duration = Duration::from_hours(30 * 24);

/// What a client wants to be told, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSpec {
    /// The receiver, as the client wrote it.
    pub url: String,
    /// Each once, in the order of [`WebhookEvent::ALL`]; at least one.
    pub events: Vec<WebhookEvent>,
    /// The client's own secret; without one the service makes it.
    pub secret: Option<WebhookSecret>,
}

/// The webhook of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The receiver.
    pub url: String,
    /// What it is told.
    pub events: Vec<WebhookEvent>,
    /// Signs what it is told.
    pub secret: WebhookSecret,
}

impl Webhook {
    /// Name and port of the receiver, by which its deliveries are bounded; empty if the address has none.
    #[must_use]
    pub fn host(&self) -> String {
        let url = Url::parse(&self.url).ok();
        let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
        host.map(|(name, port)| format!("{name}:{port}")).unwrap_or_default()
    }
}

/// The key that signs a batch's messages. Shown by [`expose`](Self::expose) alone.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

/// The text is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be whsec_ and the base64 of 24-64 bytes")]
pub struct WebhookSecretError;

impl WebhookSecret {
    /// Takes bytes that nobody can guess.
    #[must_use]
    pub fn made_of(random: [u8; MADE_SECRET_BYTES]) -> Self {
        Self(random.to_vec())
    }

    /// The text form, for those who may know it.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{SECRET_PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The value of the header `webhook-signature`. `seconds` is the time of the try.
    #[must_use]
    pub fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        // A key of any length is taken: one that is longer than a block is hashed first.
        let Ok(mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        let mac = mac.chain_update(format!("{id}.{seconds}.")).chain_update(body);
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl FromStr for WebhookSecret {
    type Err = WebhookSecretError;

    fn from_str(text: &str) -> Result<Self, WebhookSecretError> {
        let bytes = text.strip_prefix(SECRET_PREFIX).and_then(|rest| BASE64.decode(rest).ok());
        bytes.filter(|bytes| SECRET_BYTES.contains(&bytes.len())).map(Self).ok_or(WebhookSecretError)
    }
}

impl WebhookEvent {
    /// What a receiver is told of `event`, if it is told of it.
    #[must_use]
    pub const fn of(event: &Event) -> Option<Self> {
        match event {
            Event::ImageComplete { .. } | Event::ImageFailed { .. } => Some(Self::ImageCompleted),
            Event::Done { .. } => Some(Self::BatchCompleted),
            Event::Started { .. } | Event::ItemComplete { .. } | Event::Notice { .. } | Event::Cancelled { .. } => None,
        }
    }
}

/// Names one message, the same at each try: the batch and the number of the event that it tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// The batch.
    pub batch: BatchId,
    /// The event's number in the batch.
    pub number: u64,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batch = self.batch.to_string();
        write!(f, "msg_{}_{}", batch.trim_start_matches("bat_"), self.number)
    }
}

/// When a message whose try number `attempts` failed is tried again; `None` if it is given up.
///
/// `asked` is the pause that the receiver asked for, `random` a number from 0 to 1.
#[must_use]
pub fn next_try(
    now: Timestamp,
    attempts: u32,
    asked: Option<Duration>,
    gives_up_at: Timestamp,
    random: f64,
) -> Option<Timestamp> {
    if now >= gives_up_at {
        return None;
    }
    let step = (attempts.max(1) as usize - 1).min(RETRY_PAUSES.len() - 1);
    let pause = RETRY_PAUSES[step].mul_f64(1.0 + JITTER * (2.0 * random - 1.0));
    let pause = pause.max(asked.unwrap_or_default().min(MAX_RETRY_AFTER));
    Some(now.after(pause).min(gives_up_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // The example of the reference libraries: standard-webhooks/libraries, `test_sign_function`.
        let secret: WebhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_a_text_form_and_is_shown_by_nothing_else() {
        let secret = WebhookSecret::made_of([7; MADE_SECRET_BYTES]);
        assert_eq!(secret.expose().parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "(hidden)");
        let of = |bytes: usize| format!("whsec_{}", BASE64.encode(vec![1; bytes])).parse::<WebhookSecret>();
        assert!(of(24).is_ok() && of(64).is_ok());
        assert!(of(23).is_err() && of(65).is_err());
        for other in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64 at all, and long enough"] {
            assert_eq!(other.parse::<WebhookSecret>(), Err(WebhookSecretError), "{other}");
        }
    }

    #[test]
    fn the_spelling_of_an_address_makes_no_other_host() {
        let host = |url: &str| {
            let secret = WebhookSecret::made_of([7; MADE_SECRET_BYTES]);
            Webhook { url: url.to_owned(), events: Vec::new(), secret }.host()
        };
        for url in ["https://Hook.example/a", "https://hook.example:443/b?c", "HTTPS://hook.EXAMPLE"] {
            assert_eq!(host(url), "hook.example:443", "{url}");
        }
        assert_eq!((host("http://127.0.0.1:8080/"), host("no address")), ("127.0.0.1:8080".to_owned(), String::new()));
    }

    #[test]
    fn a_message_is_tried_at_growing_pauses_for_a_day() {
        let start = Timestamp::from_millis(1_795_512_600_000);
        let gives_up_at = start.after(TRIED_FOR);
        let (mut now, mut pauses) = (start, Vec::new());
        while let Some(next) = next_try(now, u32::try_from(pauses.len()).unwrap() + 1, None, gives_up_at, 0.5) {
            pauses.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(pauses[..7], [5, 30, 120, 600, 1_800, 3_600, 3_600]);
        assert_eq!(now, gives_up_at, "the last try is at the end of the day");
        assert_eq!(pauses.len(), 29);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_within_bounds() {
        let start = Timestamp::from_millis(1_795_512_600_000);
        let pause = |attempts, asked: Option<u64>, random| {
            let gives_up_at = start.after(TRIED_FOR);
            let next = next_try(start, attempts, asked.map(Duration::from_secs), gives_up_at, random).unwrap();
            next.since(start).as_secs()
        };
        assert_eq!(pause(1, Some(60), 0.5), 60);
        assert_eq!(pause(3, Some(1), 0.5), 120, "it may not ask for more haste");
        assert_eq!(pause(1, Some(1_000_000), 0.5), 3_600);
        assert_eq!((pause(1, None, 0.0), pause(1, None, 1.0)), (4, 6));
    }
}
