//! `Prefer: wait=N` (RFC 7240): how long a client would wait for the end of its batch.

use std::time::Duration;

use axum::http::HeaderMap;

/// Longest wait. A client that asks for more gets this. Named by the contract.
const MAX_WAIT: Duration = Duration::from_mins(10);

/// The wait that a request prefers, if it does. Other preferences, and malformed ones, are ignored,
/// as the RFC wants it; of several the first counts.
#[must_use]
pub fn wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer");
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    let mut waits = texts.flat_map(|text| split_unquoted(text, ',')).filter_map(wait_of);
    waits.next()
}

/// The wait of one preference `name [= word] *(; parameter)`.
fn wait_of(preference: &str) -> Option<Duration> {
    let (name, word) = split_unquoted(preference, ';').next()?.split_once('=')?;
    let word = word.trim();
    let digits = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(word);
    if !name.trim().eq_ignore_ascii_case("wait") || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than fit are more seconds than allowed.
    Some(digits.parse().map_or(MAX_WAIT, Duration::from_secs).min(MAX_WAIT))
}

/// Splits at `separator` where it is not in a quoted string.
fn split_unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        if escaped {
            escaped = false;
        } else if quoted && c == '\\' {
            escaped = true;
        } else if c == '"' {
            quoted = !quoted;
        }
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", value.parse().unwrap());
        }
        wait(&headers).map(|span| span.as_secs())
    }

    #[test]
    fn a_wait_is_found_among_other_preferences_and_bounded() {
        for (values, expected) in [
            (vec![], None),
            (vec!["wait=10"], Some(10)),
            (vec!["wait=0"], Some(0)),
            (vec!["Wait = 10"], Some(10)),
            (vec!["wait=\"10\""], Some(10)),
            (vec!["respond-async, wait=10;x=y"], Some(10)),
            (vec!["respond-async", "wait=10"], Some(10)),
            (vec!["a=\"x, wait=5\", wait=10"], Some(10)),
            (vec!["a=\"\\\", wait=5\", wait=10"], Some(10)),
            (vec!["wait=10, wait=20"], Some(10)),
            (vec!["wait=601"], Some(600)),
            (vec!["wait=99999999999999999999999"], Some(600)),
        ] {
            assert_eq!(seconds(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_malformed_wait_is_ignored() {
        for value in ["wait", "wait=", "wait=-1", "wait=1.5", "wait=ten", "wait=\"", "waiting=5", "=5", ",;="] {
            assert_eq!(seconds(&[value]), None, "{value}");
        }
    }
}
