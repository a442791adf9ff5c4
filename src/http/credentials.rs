//! What a request shows of its sender: a key, a session's cookie, a stream's token, the platform's word.
//!
//! Judges nothing: whether a key is good is the service's business.

use axum::http::header::{AUTHORIZATION, COOKIE, HOST};
use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use url::form_urlencoded;

use super::local;
use super::problem::{Code, Problem};
use crate::domain::access::user_name;
use crate::domain::ids::{BatchId, UserId};

/// The cookie that holds a browser's session, where the service is at this machine.
pub const SESSION_COOKIE: &str = "orchestrator_session";
/// The same elsewhere. By its name browsers take it from the host itself alone: no neighbour in the domain can log a
/// browser in as somebody else.
const SECURE_SESSION_COOKIE: &str = "__Host-orchestrator_session";
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Where the platform leaves its token if `Authorization` is used for something else.
const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");
/// The query parameter that holds a stream's token.
const TOKEN: &str = "token";

/// What was shown. Has no `Debug`: most of it is secret.
pub enum Credentials {
    /// Nothing.
    Nothing,
    /// What should be a key.
    Key(String),
    /// A browser's session.
    Session(String),
    /// The right to follow one batch.
    Token(String),
    /// Someone whom the platform let in.
    Platform(UserId),
}

impl Credentials {
    /// Whether a browser sends it along by itself, also for a page that the user did not mean.
    #[must_use]
    pub fn is_ambient(&self) -> bool {
        matches!(self, Self::Session(_))
    }

    /// Reads what the request shows; what was put there on purpose beats what a browser adds.
    ///
    /// # Errors
    /// `unauthorized`, if something is there that is of no known form.
    pub fn of(headers: &HeaderMap, query: Option<&str>, trusts_platform: bool) -> Result<Self, Problem> {
        if let Some(key) = text(headers, &API_KEY)? {
            return Ok(Self::Key(key.to_owned()));
        }
        if trusts_platform && let Some(user) = platform_user(headers)? {
            return Ok(Self::Platform(user));
        }
        if let Some(bearer) = bearer(headers, &AUTHORIZATION)? {
            return Ok(Self::Key(bearer.to_owned()));
        }
        let token = query.and_then(|query| form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == TOKEN));
        if let Some((_, token)) = token {
            return Ok(Self::Token(token.into_owned()));
        }
        Ok(session(headers).map_or(Self::Nothing, |session| Self::Session(session.to_owned())))
    }
}

fn refused(detail: &'static str) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused("a key is given twice"));
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| refused("a key has characters that no key has"))
}

/// The token of a header of the form `Bearer TOKEN`.
fn bearer<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = text(headers, name)? else { return Ok(None) };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(refused("expected `Authorization: Bearer aip_…`")),
    }
}

/// The name of the session's cookie at the host that the request is sent to, and whether it needs TLS.
pub fn session_cookie(headers: &HeaderMap) -> (&'static str, bool) {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(local::is_loopback) { (SESSION_COOKIE, false) } else { (SECURE_SESSION_COOKIE, true) }
}

/// The session's cookie.
pub fn session(headers: &HeaderMap) -> Option<&str> {
    let (wanted, _) = session_cookie(headers);
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| value);
    values.next().filter(|value| !value.is_empty())
}

/// What a platform's ID token says that matters here.
#[derive(Deserialize)]
struct Claims {
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
    sub: Option<String>,
}

/// The caller in the ID token that the platform has checked; a key in its place is none.
fn platform_user(headers: &HeaderMap) -> Result<Option<UserId>, Problem> {
    let token = match bearer(headers, &SERVERLESS)? {
        Some(token) => token,
        None => match bearer(headers, &AUTHORIZATION)? {
            Some(token) if !token.starts_with("aip_") => token,
            _ => return Ok(None),
        },
    };
    let unreadable = || refused("the platform's ID token cannot be read");
    let payload = token.split('.').nth(1).ok_or_else(unreadable)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| unreadable())?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| unreadable())?;
    let name = claims.email.filter(|_| claims.email_verified).or(claims.sub).ok_or_else(unreadable)?;
    user_name(&name).map(Some).map_err(|_| unreadable())
}

/// The batch in the path of a progress stream.
#[must_use]
pub fn batch_of(path: &str) -> Option<BatchId> {
    path.split('/').find_map(|part| part.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn shown(pairs: &[(&'static str, &str)], query: Option<&str>, platform: bool) -> String {
        match Credentials::of(&headers(pairs), query, platform) {
            Ok(Credentials::Nothing) => "nothing".to_owned(),
            Ok(Credentials::Key(key)) => format!("key {key}"),
            Ok(Credentials::Session(secret)) => format!("session {secret}"),
            Ok(Credentials::Token(secret)) => format!("token {secret}"),
            Ok(Credentials::Platform(user)) => format!("platform {}", user.as_str()),
            Err(problem) => problem.code().as_str().to_owned(),
        }
    }

    fn token(claims: &str) -> String {
        format!("Bearer e30.{}.SIGNATURE_REMOVED_BY_GOOGLE", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn what_was_put_there_on_purpose_beats_what_a_browser_adds() {
        let cookie = ("cookie", "a=b; __Host-orchestrator_session=s1; orchestrator_session=s2");
        for (pairs, query, expected) in [
            (vec![], None, "nothing"),
            (vec![cookie], None, "session s1"),
            (vec![cookie], Some("a=1&token=t"), "token t"),
            (vec![cookie, ("authorization", "bearer  k")], Some("token=t"), "key k"),
            (vec![("authorization", "Bearer k"), ("x-api-key", " x ")], None, "key x"),
            (vec![("x-api-key", "x"), ("x-api-key", "y")], None, "unauthorized"),
            (vec![("authorization", "Basic eDp5")], None, "unauthorized"),
            (vec![cookie, ("host", "localhost:9090")], None, "session s2"),
            (vec![cookie, ("host", "o.example")], None, "session s1"),
            (vec![("cookie", "__Host-orchestrator_session=")], None, "nothing"),
            (vec![("cookie", "orchestrator_session=s")], None, "nothing"),
        ] {
            let mut all = HeaderMap::new();
            for (name, value) in &pairs {
                all.append(*name, value.parse().unwrap());
            }
            let shown = match Credentials::of(&all, query, false) {
                Err(problem) => problem.code().as_str().to_owned(),
                Ok(_) => shown(&pairs, query, false),
            };
            assert_eq!(shown, expected, "{pairs:?}");
        }
    }

    #[test]
    fn the_platforms_word_counts_only_where_it_is_trusted() {
        let alice = token(r#"{"email":"alice@example.com","email_verified":true,"sub":"117"}"#);
        assert_eq!(shown(&[("authorization", &alice)], None, true), "platform alice@example.com");
        assert_eq!(shown(&[("x-serverless-authorization", &alice)], None, true), "platform alice@example.com");
        assert!(shown(&[("authorization", &alice)], None, false).starts_with("key "));
        let unverified = token(r#"{"email":"alice@example.com","sub":"117"}"#);
        assert_eq!(shown(&[("authorization", &unverified)], None, true), "platform 117");
        assert_eq!(shown(&[("authorization", "Bearer aip_1")], None, true), "key aip_1");
        assert_eq!(shown(&[("authorization", &alice), ("x-api-key", "k")], None, true), "key k");
        for bad in ["Bearer x", "Bearer a.b.c", &token("{}"), &token(r#"{"sub":"a b"}"#)] {
            assert_eq!(shown(&[("authorization", bad)], None, true), "unauthorized", "{bad}");
        }
    }

    #[test]
    fn a_streams_path_names_its_batch() {
        let id = "bat_01KB0000000000000000000000";
        for path in [format!("/images/{id}/events"), format!("/progress/{id}")] {
            assert_eq!(batch_of(&path), Some(id.parse().unwrap()));
        }
        assert_eq!(batch_of("/progress/x"), None);
    }
}
