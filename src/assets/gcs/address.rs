//! Where an object of a bucket is: `gs://…`, and the links that Google or an emulator answers.
//!
//! Proves nothing: the service asks the database about the name that is read here.

use std::borrow::Cow;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;

use crate::assets::LinkedObject;
use crate::domain::time::Timestamp;

/// Where Google answers links.
pub(super) const GOOGLE: &str = "https://storage.googleapis.com";
/// The host of [`GOOGLE`].
const GOOGLE_HOST: &str = "storage.googleapis.com";
/// The start of an address for a person or another program.
const URI: &str = "gs://";

/// The address of `object` for a person or another program.
pub(super) fn uri(bucket: &str, object: &str) -> String {
    format!("{URI}{bucket}/{object}")
}

/// The object that `url` leads to, if it is in `bucket`.
pub(super) fn locate(url: &str, bucket: &str, emulator: Option<&str>) -> Option<LinkedObject> {
    if let Some(path) = url.strip_prefix(URI) {
        let object = within_bucket(path, bucket)?.to_owned();
        return Some(LinkedObject { object, expires_at: None });
    }
    let url = Url::parse(url).ok()?;
    let path = url.path().strip_prefix('/')?;
    let object = if url.host_str() == Some(&format!("{bucket}.{GOOGLE_HOST}")) && is_at_google(&url) {
        path
    } else {
        let there = url.host_str() == Some(GOOGLE_HOST) && is_at_google(&url);
        if !there && !emulator.is_some_and(|emulator| is_at(&url, emulator)) {
            return None;
        }
        within_bucket(path, bucket)?
    };
    let object = percent_decoded(object)?;
    Some(LinkedObject { object, expires_at: end_of(&url) })
}

/// When the link `url` says that it stops working.
pub(super) fn end(url: &str) -> Option<Timestamp> {
    end_of(&Url::parse(url).ok()?)
}

fn end_of(url: &Url) -> Option<Timestamp> {
    let part = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
    let signed = second(&part("X-Goog-Date")?)?;
    let life = Duration::from_secs(part("X-Goog-Expires")?.parse::<u32>().ok()?.into());
    Some(Timestamp::from_millis(signed.checked_mul(1_000)?).after(life))
}

/// The Unix second of a date as a signature writes it: `20261124T160000Z`.
fn second(date: &str) -> Option<i64> {
    let (day, time) = date.split_once('T')?;
    let day = [day.get(..4)?, day.get(4..6)?, day.get(6..)?].join("-");
    let time = [time.get(..2)?, time.get(2..4)?, time.get(4..)?].join(":");
    Some(OffsetDateTime::parse(&format!("{day}T{time}"), &Rfc3339).ok()?.unix_timestamp())
}

fn within_bucket<'a>(path: &'a str, bucket: &str) -> Option<&'a str> {
    path.strip_prefix(bucket)?.strip_prefix('/')
}

fn is_at_google(url: &Url) -> bool {
    url.scheme() == "https" && url.port().is_none()
}

fn is_at(url: &Url, emulator: &str) -> bool {
    Url::parse(emulator).is_ok_and(|emulator| emulator.origin() == url.origin())
}

/// A path as it was before it was written in an address: decoded once, so a name that needs it twice is none of ours.
fn percent_decoded(path: &str) -> Option<String> {
    percent_encoding::percent_decode_str(path).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMULATOR: Option<&str> = Some("http://127.0.0.1:4443");

    fn object(url: &str) -> Option<String> {
        locate(url, "pictures", EMULATOR).map(|link| link.object)
    }

    #[test]
    fn an_object_is_known_by_every_address_that_is_handed_out_for_it() {
        for url in [
            "gs://pictures/images/b/1.png",
            "https://storage.googleapis.com/pictures/images/b/1.png",
            "https://storage.googleapis.com/pictures/images/b/1.png?X-Goog-Signature=00#top",
            "https://Storage.GoogleAPIs.com:443/pictures/images%2Fb%2f1.png",
            "https://pictures.storage.googleapis.com/images/b/1.png",
            "http://127.0.0.1:4443/pictures/images/b/1.png",
        ] {
            assert_eq!(object(url).as_deref(), Some("images/b/1.png"), "{url}");
        }
        assert_eq!(object(&uri("pictures", "images/b/1.png")).as_deref(), Some("images/b/1.png"));
        // One more decoding would make a name of ours.
        assert_eq!(object("gs://pictures/images%2Fb%2F1.png").as_deref(), Some("images%2Fb%2F1.png"));
        assert_eq!(
            object("https://storage.googleapis.com/pictures/images%252Fb/1.png").as_deref(),
            Some("images%2Fb/1.png")
        );
    }

    #[test]
    fn nothing_else_is_an_address_of_the_bucket() {
        for url in [
            "gs://other/images/b/1.png",
            "gs://pictures2/images/b/1.png",
            "gs://pictures",
            "GS://pictures/a",
            "https://storage.googleapis.com/other/images/b/1.png",
            "https://other.storage.googleapis.com/pictures/images/b/1.png",
            "https://storage.googleapis.com.evil.test/pictures/images/b/1.png",
            "https://evil.test/pictures/images/b/1.png",
            "http://storage.googleapis.com/pictures/images/b/1.png",
            "https://storage.googleapis.com:8443/pictures/images/b/1.png",
            "http://127.0.0.1:4444/pictures/images/b/1.png",
            "https://127.0.0.1:4443/pictures/images/b/1.png",
            "https://storage.googleapis.com/pictures/%ff",
            "/assets/images/b/1.png",
            "local:images/b/1.png",
            "",
        ] {
            assert_eq!(object(url), None, "{url}");
        }
        assert_eq!(locate("http://127.0.0.1:4443/pictures/images/b/1.png", "pictures", None), None);
    }

    #[test]
    fn a_link_says_when_it_ends() {
        let url = "https://storage.googleapis.com/pictures/a?X-Goog-Date=20261124T160000Z&X-Goog-Expires=43200";
        let end = Timestamp::from_millis(1_795_536_000_000).after(Duration::from_hours(12));
        assert_eq!(locate(url, "pictures", None).unwrap().expires_at, Some(end));
        for broken in [
            url.replace("43200", "x"),
            url.replace("43200", "-1"),
            url.replace("20261124", "20261324"),
            url.replace("X-Goog-Date", "x-goog-date"),
        ] {
            assert_eq!(locate(&broken, "pictures", None).unwrap().expires_at, None, "{broken}");
        }
    }
}
