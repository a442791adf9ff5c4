//! Where a reference is: somewhere in the web, or among the pictures of this service.
//!
//! A picture of this service has an address that lasts longer than the name by which the service was reached, so an
//! absolute one is kept as the path alone. Whose it is, and whether it is there, is for the service to say; what leads
//! to a storage that is not ours is refused here, as nobody could ever get it.

use std::borrow::Cow;

use url::{Host, Url};

use crate::domain::spec::ReferenceUrl;

/// Longest address, in characters.
const MAX_CHARS: usize = 2_048;
/// The path below which this service serves pictures.
const OWN: &str = "/assets/";
/// How addresses start that lead to a service's storage and nowhere else.
const STORED: [&str; 3] = [OWN, "gs://", "local:"];

/// The address of a reference.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// As it is kept.
    pub(super) url: ReferenceUrl,
    /// In its normal form: two spellings of one address are one reference, and so are two links to one picture.
    pub(super) normal: String,
}

/// By which addresses the pictures of this service are known.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    /// The name and port by which the client reached this service, if it said so.
    pub host: Option<&'a str>,
    /// The object that a link or an address of its storage leads to; `None` for every other address.
    pub locate: &'a dyn Fn(&str) -> Option<String>,
}

/// Reads an absolute web address without user info, or that of a picture of this service.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(text: &str, here: Here<'_>) -> Result<Address, Cow<'static, str>> {
    check_characters(text)?;
    if let Some(own) = own(text, here) {
        return Ok(own);
    }
    if STORED.iter().any(|start| text.starts_with(start)) {
        return Err(
            "is not where this service keeps pictures: give a url or a uri that it handed out, or upload the picture"
                .into(),
        );
    }
    let url = match Url::parse(text) {
        Err(_) => {
            return Err("must be an absolute URL that starts with https:// or http://, or the url or uri of a picture of this service".into());
        }
        Ok(url) if !is_web(&url) => {
            return Err(
                "only https:// and http:// references are taken, and the url or uri of a picture of this service"
                    .into(),
            );
        }
        Ok(url) => url,
    };
    check_host(&url)?;
    let is_here = url.path().starts_with(OWN) && here.host.is_some_and(|host| is_at(&url, host));
    let path = is_here.then(|| &url[url::Position::BeforePath..url::Position::AfterQuery]);
    let own = path.and_then(|path| own(path, here));
    Ok(own.unwrap_or_else(|| Address { url: text.to_owned().into(), normal: url.into() }))
}

/// Checks an absolute web address without user info.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_web(text: &str) -> Result<(), Cow<'static, str>> {
    check_characters(text)?;
    let url = Url::parse(text).ok().filter(is_web);
    check_host(&url.ok_or("must be an absolute URL that starts with https://")?)
}

fn check_characters(text: &str) -> Result<(), Cow<'static, str>> {
    // The parser would drop white space and control characters in silence.
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if text.chars().count() > MAX_CHARS {
        return Err(format!("must have at most {MAX_CHARS} characters").into());
    }
    if text.chars().any(odd) {
        return Err("must be a URL without white space or control characters".into());
    }
    Ok(())
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

fn check_host(url: &Url) -> Result<(), Cow<'static, str>> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or a password".into());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("must name a host".into());
    }
    Ok(())
}

/// The address of a picture of this service, if `text` is one.
fn own(text: &str, here: Here<'_>) -> Option<Address> {
    let object = (here.locate)(text)?;
    // No address in the web is written like this.
    Some(Address { url: text.to_owned().into(), normal: format!("object {object}") })
}

/// Whether `url` is at the place that a Host header names. One loopback name is as good as another.
fn is_at(url: &Url, host: &str) -> bool {
    let Ok(here) = Url::parse(&format!("{}://{host}", url.scheme())) else { return false };
    let same_host = here.host() == url.host() || (is_loopback(&here) && is_loopback(url));
    same_host && here.port_or_known_default() == url.port_or_known_default()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
