//! What handlers take out of a request: the caller, ids in the path, parameters, an idempotency key.

use std::borrow::Cow;
use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use url::form_urlencoded;

use super::problem::{Fault, Problem};
use crate::domain::access::Caller;
use crate::domain::ids::BatchId;
use crate::domain::spec::SceneId;
use crate::domain::state::BatchState;
use crate::service::batches::Page;

/// The header that names a submission.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// Longest key, in characters. Named by the contract.
const MAX_KEY_CHARS: usize = 255;

/// Who asks, as [`access::check`](super::access::check) found out.
#[derive(Debug, Clone)]
pub struct Identity(pub Caller);

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Caller>().cloned().map(Self).ok_or_else(|| {
            tracing::error!("a handler asks for a caller on a route where nobody looks for one");
            Problem::internal()
        })
    }
}

/// The parameters of the query. Those that a route does not know are ignored.
#[derive(Debug)]
pub struct Parameters {
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
}

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts.uri.query().unwrap_or_default()))
    }
}

impl Parameters {
    /// Reads a query.
    #[must_use]
    pub fn of(query: &str) -> Self {
        Self { pairs: form_urlencoded::parse(query.as_bytes()).into_owned().collect(), faults: Vec::new() }
    }

    /// The value of `name`; an empty one counts as absent.
    pub fn take(&mut self, name: &'static str) -> Option<String> {
        let mut values = self.pairs.iter().filter(|(given, value)| given == name && !value.is_empty());
        let value = values.next().map(|(_, value)| value.clone());
        if values.next().is_some() {
            self.faults.push(Fault::in_query(name, "is given twice"));
        }
        value
    }

    /// `limit` and `cursor`.
    pub fn page(&mut self, default: u32, most: u32) -> Page {
        let limit = self.take("limit").map_or(Some(default), |text| text.parse().ok());
        let limit = limit.filter(|limit| (1..=most).contains(limit)).unwrap_or_else(|| {
            self.refuse("limit", format!("must be a whole number from 1 to {most}"));
            default
        });
        Page { limit, cursor: self.take("cursor") }
    }

    /// `state`.
    pub fn state(&mut self) -> Option<BatchState> {
        let state = self.take("state")?.parse().ok();
        if state.is_none() {
            self.refuse("state", "must be queued, running, completed, partial, failed or cancelled");
        }
        state
    }

    /// Notes that `name` breaks a rule.
    pub fn refuse(&mut self, name: &'static str, detail: impl Into<Cow<'static, str>>) {
        self.faults.push(Fault::in_query(name, detail));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Everything that was refused.
    pub fn finish(self) -> Result<(), Problem> {
        if self.faults.is_empty() { Ok(()) } else { Err(Problem::invalid(self.faults)) }
    }

    /// Ends the reading where more is to be told with it: everything that was refused.
    #[must_use]
    pub fn into_faults(self) -> Vec<Fault> {
        self.faults
    }
}

/// The batch that a path names. A text that is no id names nothing.
///
/// # Errors
/// `not_found`.
pub fn batch_id(text: &str) -> Result<BatchId, Problem> {
    text.parse().map_err(|_| Problem::no_batch())
}

/// The picture of a batch that a path names.
///
/// # Errors
/// `not_found`.
pub fn picture(scene: &str, variant: &str) -> Result<(SceneId, u32), Problem> {
    match (scene.parse(), variant.parse()) {
        (Ok(scene), Ok(variant)) => Ok((scene, variant)),
        _ => Err(Problem::no_picture()),
    }
}

/// The client's name for its submission, if it gave one.
///
/// # Errors
/// The fault, if it is not 1-255 visible ASCII characters, or given twice.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Fault::in_header(IDEMPOTENCY_KEY, "is given twice"));
    }
    let bytes = value.as_bytes();
    if (1..=MAX_KEY_CHARS).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic) {
        Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
    } else {
        let detail = format!("must be 1-{MAX_KEY_CHARS} visible ASCII characters without spaces");
        Err(Fault::in_header(IDEMPOTENCY_KEY, detail))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(value: &[u8]) -> Result<Option<String>, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
        idempotency_key(&headers)
    }

    #[test]
    fn an_idempotency_key_is_visible_ascii_of_at_most_255_characters() {
        assert_eq!(idempotency_key(&HeaderMap::new()), Ok(None));
        assert_eq!(key(b"order-7/a"), Ok(Some("order-7/a".into())));
        assert!(key(&[b'x'; 255]).is_ok());
        for bad in [&b""[..], b"a b", b"caf\xc3\xa9", &[b'x'; 256]] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_page_takes_its_bounds_and_says_everything_that_breaks_them() {
        let mut parameters = Parameters::of("limit=200&cursor=abc&state=running&more=1");
        assert_eq!(parameters.page(50, 200), Page { limit: 200, cursor: Some("abc".into()) });
        assert_eq!(parameters.state(), Some(BatchState::Running));
        assert!(parameters.finish().is_ok());

        for bad in ["0", "201", "-1", "x", "1.5", "99999999999"] {
            let mut parameters = Parameters::of(&format!("limit={bad}&state=sleeping"));
            parameters.page(50, 200);
            parameters.state();
            assert_eq!(parameters.faults.len(), 2, "{bad}");
        }
        let mut parameters = Parameters::of("limit=1&limit=2");
        assert_eq!(parameters.page(50, 200).cursor, None);
        assert!(parameters.finish().is_err());
    }

    #[test]
    fn a_path_that_is_no_id_names_nothing() {
        assert!(batch_id("bat_01KB0000000000000000000000").is_ok());
        assert!(batch_id("bat_").is_err());
        assert!(picture("s-001", "1").is_ok());
        assert!(picture("s-001", "-1").is_err());
        assert!(picture("..", "1").is_err());
    }
}
