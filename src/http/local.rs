//! While no keys exist, the service is for the people at this machine, and not for the web pages that
//! they look at: a page must not reach it by a name of its own (DNS rebinding), nor change anything
//! from another origin.

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::{Code, Problem};

/// Passes requests that were sent to this machine by name, and that no other page made.
pub async fn only_from_here(request: Request, next: Next) -> Response {
    match check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |detail: &'static str| Err(Problem::new(Code::Forbidden, detail));
    let host = text(headers, &HOST);
    if host.is_some_and(|host| !is_loopback(host)) {
        return refused("without API keys only requests to a loopback name are served; use localhost or 127.0.0.1");
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let foreign = text(headers, &ORIGIN).is_some_and(|origin| origin.split_once("://").map(|(_, from)| from) != host);
    if changes && foreign {
        return refused("a web page of another origin may not change anything here");
    }
    Ok(())
}

/// A header; one that is not ASCII counts as an empty text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

fn is_loopback(host: &str) -> bool {
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
        check(method, &headers).is_ok()
    }

    #[test]
    fn only_loopback_names_are_answered() {
        for host in ["localhost:9090", "LOCALHOST", "127.0.0.1:1", "127.1.2.3", "[::1]:9090"] {
            assert!(allowed(&Method::GET, host, None), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1", "user@localhost.example", ""] {
            assert!(!allowed(&Method::GET, host, None), "{host}");
        }
        assert!(check(&Method::POST, &HeaderMap::new()).is_ok(), "a client of HTTP/1.0 names no host");
    }

    #[test]
    fn another_page_may_read_what_its_browser_lets_it_and_change_nothing() {
        let here = "127.0.0.1:9090";
        assert!(allowed(&Method::POST, here, Some("http://127.0.0.1:9090")));
        assert!(allowed(&Method::GET, here, Some("http://evil.example")));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", ""] {
            assert!(!allowed(&Method::POST, here, Some(origin)), "{origin}");
        }
    }
}
