//! What other web pages may not do. While no keys exist, the service is for the people at this machine, and not
//! for the pages that they look at: a page must not reach it by a name of its own (DNS rebinding), nor change
//! anything from another origin. With a session's cookie, nothing changes but for pages of the service itself.

use axum::http::header::{FORWARDED, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::problem::{Code, Problem};

/// What a browser says of the page that made a request.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What proxies add: whoever is behind one is not at this machine.
const PROXIED: [HeaderName; 3] =
    [FORWARDED, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip")];

fn refused<T>(detail: &'static str) -> Result<T, Problem> {
    Err(Problem::new(Code::Forbidden, detail))
}

const FOREIGN: &str = "a web page of another origin may not change anything here; CORS_ORIGINS names those that may";

/// Whether an open service takes the request: it was sent to this machine by name and by nobody's proxy, and changes
/// nothing for a page that is not in `origins`.
///
/// # Errors
/// `forbidden`.
pub fn check(method: &Method, headers: &HeaderMap, origins: &[HeaderValue]) -> Result<(), Problem> {
    if text(headers, &HOST).is_some_and(|host| !is_loopback(host)) {
        return refused("without API keys only requests to a loopback name are served; use localhost or 127.0.0.1");
    }
    if PROXIED.iter().any(|name| headers.contains_key(name)) {
        return refused("without API keys nothing is served through a proxy: make a key with `orchestrator keys new`");
    }
    let named = headers.get(ORIGIN).is_some_and(|origin| origins.contains(origin));
    if super::access::changes(method) && !named { check_not_foreign(headers) } else { Ok(()) }
}

/// Whether no page of another origin made the request; a client that is no browser says nothing.
///
/// # Errors
/// `forbidden`.
pub fn check_not_foreign(headers: &HeaderMap) -> Result<(), Problem> {
    let site = text(headers, &FETCH_SITE);
    if is_foreign(headers) || site.is_some_and(|site| !["same-origin", "none"].contains(&site)) {
        return refused(FOREIGN);
    }
    Ok(())
}

/// Whether a page of this origin made the request, by its browser's word: what a cookie vouches for needs that.
///
/// # Errors
/// `forbidden`.
pub fn check_same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    check_not_foreign(headers)?;
    if headers.contains_key(ORIGIN) || text(headers, &FETCH_SITE) == Some("same-origin") {
        return Ok(());
    }
    refused("with a session only pages of this origin may change anything; other clients send an API key")
}

/// Whether the request names an origin other than the host that it was sent to.
fn is_foreign(headers: &HeaderMap) -> bool {
    let host = text(headers, &HOST);
    text(headers, &ORIGIN).is_some_and(|origin| origin.split_once("://").map(|(_, from)| from) != host)
}

/// A header; one that is not ASCII counts as an empty text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Whether `host` names this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(method: &Method, host: &'static str, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        check(method, &headers, &[]).is_ok()
    }

    #[test]
    fn only_loopback_names_are_answered() {
        for host in ["localhost:9090", "LOCALHOST", "127.0.0.1:1", "127.1.2.3", "[::1]:9090"] {
            assert!(allowed(&Method::GET, host, None), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1", "user@localhost.example", ""] {
            assert!(!allowed(&Method::GET, host, None), "{host}");
        }
        assert!(check(&Method::POST, &HeaderMap::new(), &[]).is_ok(), "a client of HTTP/1.0 names no host");
        for name in PROXIED {
            let proxied = HeaderMap::from_iter([(name, HeaderValue::from_static("203.0.113.9"))]);
            assert!(check(&Method::GET, &proxied, &[]).is_err());
        }
    }

    #[test]
    fn another_page_may_read_what_its_browser_lets_it_and_change_nothing() {
        let here = "127.0.0.1:9090";
        assert!(allowed(&Method::POST, here, Some("http://127.0.0.1:9090")));
        assert!(allowed(&Method::GET, here, Some("http://evil.example")));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", ""] {
            assert!(!allowed(&Method::POST, here, Some(origin)), "{origin}");
        }
        let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("http://app.example"))]);
        assert!(check(&Method::POST, &headers, &[HeaderValue::from_static("http://app.example")]).is_ok());
    }

    #[test]
    fn what_a_cookie_vouches_for_comes_from_a_page_of_this_origin() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            pairs.iter().map(pair).collect::<HeaderMap>()
        };
        let here = ("host", "o.example");
        for (good, pairs) in [
            (true, vec![here, ("origin", "https://o.example")]),
            (true, vec![here, ("sec-fetch-site", "same-origin")]),
            (false, vec![here]),
            (false, vec![here, ("origin", "https://evil.example")]),
            (false, vec![here, ("origin", "null")]),
            (false, vec![here, ("sec-fetch-site", "none")]),
            (false, vec![here, ("sec-fetch-site", "same-site")]),
            (false, vec![here, ("origin", "https://o.example"), ("sec-fetch-site", "cross-site")]),
        ] {
            assert_eq!(check_same_origin(&of(&pairs)).is_ok(), good, "{pairs:?}");
        }
        assert!(check_not_foreign(&of(&[here])).is_ok(), "curl says nothing");
        assert!(check_not_foreign(&of(&[here, ("sec-fetch-site", "none")])).is_ok());
    }
}
