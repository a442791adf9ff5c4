//! An answer with any other status: what it means for the money and the next try.
//!
//! A body in the provider's own form proves that the provider itself refused, and so that nothing was charged. A 4xx
//! needs no such proof: whoever refused the request, nobody worked on it.

use std::time::Duration;

use serde::Deserialize;

use super::pacific;
use super::words::quote;
use crate::domain::outcome::MAX_THROTTLED;
use crate::domain::state::{ErrorCode, ImageError};
use crate::domain::time::Timestamp;
use crate::provider::ProviderError;

/// The shortest pause that a 429 is believed to ask for: none at all would be a loop.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// An answer whose status is not 200.
pub(super) struct Failure<'a> {
    pub(super) status: u16,
    /// The header of that name.
    pub(super) retry_after: Option<&'a str>,
    /// The body, if it could be read whole.
    pub(super) body: Option<&'a [u8]>,
    /// What no error repeats.
    pub(super) key: &'a str,
    pub(super) now: Timestamp,
}

#[derive(Deserialize)]
struct Body {
    error: OwnError,
}

/// The provider's own error: all three are there, or it is another's.
#[derive(Deserialize)]
struct OwnError {
    code: u16,
    status: String,
    message: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    reason: Option<String>,
    retry_delay: Option<String>,
    violations: Option<Vec<Violation>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Violation {
    quota_id: Option<String>,
}

impl Failure<'_> {
    /// Decides what the answer means.
    pub(super) fn classify(&self) -> ProviderError {
        let own = self.own_error();
        match self.status {
            // The request may have been worked on all the same.
            408 | 499 | 504 => self.unknown("and may have worked on the call all the same"),
            429 => self.throttled(own.as_ref()),
            300..=499 => ProviderError::Refused(self.refused(own.as_ref())),
            500..=599 => match own {
                Some(own) => ProviderError::Failed(self.told(&own)),
                None => self.unknown("without an error of the provider's own"),
            },
            _ => self.unknown("which is no answer to a call"),
        }
    }

    fn own_error(&self) -> Option<OwnError> {
        let Body { error } = serde_json::from_slice(self.body?).ok()?;
        (error.code == self.status && !error.status.is_empty()).then_some(error)
    }

    fn unknown(&self, why: &str) -> ProviderError {
        ProviderError::OutcomeUnknown(format!("the provider answered {} {why}", self.status))
    }

    fn throttled(&self, own: Option<&OwnError>) -> ProviderError {
        let details = own.map(|own| own.details.as_slice()).unwrap_or_default();
        if details.iter().any(Detail::is_daily_quota) {
            return ProviderError::QuotaExhausted { resets_in: pacific::next_midnight(self.now).since(self.now) };
        }
        let told = details.iter().find_map(|detail| detail.retry_delay.as_deref()?.strip_suffix('s'));
        let retry_after = told.or(self.retry_after).and_then(pause);
        ProviderError::Throttled { retry_after }
    }

    fn refused(&self, own: Option<&OwnError>) -> ImageError {
        let told = own.map_or_else(|| format!("the provider answered {}", self.status), |own| self.told(own));
        let error = |advice: &str| ImageError::lasting(ErrorCode::ProviderError, format!("{advice}{told}"));
        let is_key_fault = own.is_some_and(OwnError::is_about_the_key);
        match self.status {
            401 | 403 => {
                ImageError { retryable: true, ..error("the provider refused the key, check GEMINI_API_KEY: ") }
            }
            400 if is_key_fault => {
                ImageError { retryable: true, ..error("the provider refused the key, check GEMINI_API_KEY: ") }
            }
            400 if own.is_some_and(OwnError::is_about_safety) => {
                ImageError::lasting(ErrorCode::SafetyBlocked, format!("the provider refused the prompt: {told}"))
            }
            404 => error("the provider has no such model: "),
            300..=399 => error("redirects are not followed, check GEMINI_BASE_URL: "),
            _ => error("the provider refused the request: "),
        }
    }

    /// What the provider said, bounded.
    fn told(&self, own: &OwnError) -> String {
        quote(&format!("{} {}: {}", own.code, own.status, own.message), self.key)
    }
}

impl OwnError {
    /// An invalid key comes with status 400 and this reason.
    fn is_about_the_key(&self) -> bool {
        self.details.iter().any(|detail| detail.reason.as_deref() == Some("API_KEY_INVALID"))
    }

    fn is_about_safety(&self) -> bool {
        let text = format!("{} {}", self.status, self.message).to_lowercase();
        text.contains("safety") || text.contains("prohibited") || (text.contains("prompt") && text.contains("block"))
    }
}

impl Detail {
    fn is_daily_quota(&self) -> bool {
        let violations = self.violations.as_deref().unwrap_or_default();
        violations.iter().any(|violation| violation.quota_id.as_deref().is_some_and(|id| id.contains("PerDay")))
    }
}

/// A number of seconds, such as `57.238747106`, within what is sensible.
fn pause(seconds: &str) -> Option<Duration> {
    let seconds: f64 = seconds.trim().parse().ok()?;
    let most = MAX_THROTTLED.as_secs_f64();
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(most)).max(SHORTEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AIza-secret_key";

    fn classified(status: u16, retry_after: Option<&str>, body: &str) -> ProviderError {
        let now = Timestamp::from_millis(1_795_512_600_000); // 2026-11-24T09:30:00Z
        Failure { status, retry_after, body: Some(body.as_bytes()), key: KEY, now }.classify()
    }

    fn own(status: u16, name: &str, message: &str, details: &str) -> String {
        format!(r#"{{"error":{{"code":{status},"status":"{name}","message":"{message}","details":[{details}]}}}}"#)
    }

    fn shown(error: &ProviderError) -> String {
        match error {
            ProviderError::Throttled { retry_after } => format!("throttled {retry_after:?}"),
            ProviderError::QuotaExhausted { resets_in } => format!("quota {resets_in:?}"),
            ProviderError::Failed(detail) => format!("failed {detail}"),
            ProviderError::Refused(error) => format!("{} {} {}", error.code.as_str(), error.retryable, error.detail),
            ProviderError::OutcomeUnknown(detail) => format!("unknown {detail}"),
        }
    }

    #[test]
    fn a_429_says_for_how_long_in_one_of_three_ways_or_not_at_all() {
        let info = r#"{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"57.238747106s"}"#;
        let per_minute = r#"{"violations":[{"quotaId":"GenerateRequestsPerMinutePerProject"}]}"#;
        let body = |details: &str| own(429, "RESOURCE_EXHAUSTED", "slow down", details);
        for (header, body, expected) in [
            (None, body(&format!("{per_minute},{info}")), "throttled Some(57.238747106s)"),
            (Some("7"), body(info), "throttled Some(57.238747106s)"),
            (Some("7"), body(""), "throttled Some(7s)"),
            (Some("7"), "<html>".to_owned(), "throttled Some(7s)"),
            (Some("Wed, 21 Oct 2026 07:28:00 GMT"), String::new(), "throttled None"),
            (None, r#"{"error":{"code":429,"status":"X","message":"no details"}}"#.to_owned(), "throttled None"),
            (None, body(r#"{"retryDelay":"0s"}"#), "throttled Some(100ms)"),
            (None, body(r#"{"retryDelay":"-1s"}"#), "throttled None"),
            (None, body(r#"{"retryDelay":"NaNs"}"#), "throttled None"),
            (None, body(r#"{"retryDelay":"1e300s"}"#), "throttled Some(3600s)"),
            (Some("999999999999"), String::new(), "throttled Some(3600s)"),
        ] {
            assert_eq!(shown(&classified(429, header, &body)), expected, "{header:?} {body}");
        }
    }

    #[test]
    fn a_daily_quota_ends_at_the_next_pacific_midnight_whatever_delay_comes_with_it() {
        let details = r#"{"violations":[{"quotaId":"X"},{"quotaId":"GenerateRequestsPerDayPerProject-FreeTier"}]},{"retryDelay":"3s"}"#;
        let error = classified(429, None, &own(429, "RESOURCE_EXHAUSTED", "quota", details));
        // 09:30 UTC is 01:30 in Pacific standard time.
        assert_eq!(shown(&error), "quota 81000s");
    }

    #[test]
    fn what_nobody_can_know_was_charged_stays_unknown() {
        for status in [408, 499, 504] {
            let error = classified(status, None, &own(status, "DEADLINE_EXCEEDED", "late", ""));
            assert!(matches!(error, ProviderError::OutcomeUnknown(_)), "{status} {error:?}");
        }
        for (status, body) in [
            (500, "<html>Bad gateway</html>".to_owned()),
            (503, String::new()),
            (503, r#"{"error":"overloaded"}"#.to_owned()),
            // Of another status: not about this answer.
            (502, own(500, "INTERNAL", "x", "")),
            (201, own(201, "CREATED", "x", "")),
            (600, String::new()),
        ] {
            let error = classified(status, None, &body);
            assert!(matches!(error, ProviderError::OutcomeUnknown(_)), "{status} {body} {error:?}");
        }
        let broken = Failure { status: 500, retry_after: None, body: None, key: KEY, now: Timestamp::default() };
        assert!(matches!(broken.classify(), ProviderError::OutcomeUnknown(_)));
    }

    #[test]
    fn the_providers_own_5xx_may_be_tried_again() {
        let error = classified(503, None, &own(503, "UNAVAILABLE", "The model is overloaded.", ""));
        assert_eq!(shown(&error), "failed 503 UNAVAILABLE: The model is overloaded.");
    }

    #[test]
    fn a_refusal_says_what_to_do_about_it() {
        let reason = r#"{"reason":"API_KEY_INVALID"}"#;
        for (status, body, expected) in [
            (
                400,
                own(400, "INVALID_ARGUMENT", "bad aspect ratio", ""),
                "provider_error false the provider refused the request: 400 INVALID_ARGUMENT: bad aspect ratio",
            ),
            (
                400,
                own(400, "INVALID_ARGUMENT", "The prompt was blocked", ""),
                "safety_blocked false the provider refused the prompt: 400 INVALID_ARGUMENT: The prompt was blocked",
            ),
            (
                400,
                own(400, "INVALID_ARGUMENT", "API key not valid", reason),
                "provider_error true the provider refused the key, check GEMINI_API_KEY: 400 INVALID_ARGUMENT: API key not valid",
            ),
            (
                401,
                String::new(),
                "provider_error true the provider refused the key, check GEMINI_API_KEY: the provider answered 401",
            ),
            (
                403,
                own(403, "PERMISSION_DENIED", "key AIza-secret_key is blocked", ""),
                "provider_error true the provider refused the key, check GEMINI_API_KEY: 403 PERMISSION_DENIED: key [key] is blocked",
            ),
            (
                404,
                own(404, "NOT_FOUND", "models/x is not found", ""),
                "provider_error false the provider has no such model: 404 NOT_FOUND: models/x is not found",
            ),
            (
                302,
                String::new(),
                "provider_error false redirects are not followed, check GEMINI_BASE_URL: the provider answered 302",
            ),
            (
                413,
                "<html>".to_owned(),
                "provider_error false the provider refused the request: the provider answered 413",
            ),
        ] {
            assert_eq!(shown(&classified(status, None, &body)), expected);
        }
    }

    #[test]
    fn no_error_is_longer_than_a_few_lines_whatever_the_provider_says() {
        let long = own(400, "INVALID_ARGUMENT", &"x y ".repeat(10_000), "");
        assert!(shown(&classified(400, None, &long)).len() < 400);
    }
}
