//! Object names and what follows from them, whoever keeps the objects. No I/O.

use crate::domain::picture::PictureFormat;

/// The folders that objects are in.
pub const FOLDERS: [&str; 3] = ["images", "thumbnails", "references"];

/// Whether `name` is of the form of our object names: two segments below one of the [`FOLDERS`].
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    let segments: Vec<&str> = name.split('/').collect();
    let is_plain = |segment: &&str| {
        segment.starts_with(|first: char| first.is_ascii_alphanumeric())
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    segments.len() == 3 && FOLDERS.contains(&segments[0]) && segments.iter().all(is_plain)
}

/// The fixed media type of an object, by its ending; receipts have none, and are not served.
#[must_use]
pub fn content_type(object: &str) -> Option<&'static str> {
    let (_, ending) = object.rsplit_once('.')?;
    PictureFormat::ALL.into_iter().find(|format| format.ending() == ending).map(PictureFormat::mime_type)
}

/// Shown in place, and saved under `name` (RFC 6266): a plain form for old clients, the exact one
/// beside it where they differ.
#[must_use]
pub fn disposition(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    let fallback: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    if fallback == name {
        return format!("inline; filename=\"{name}\"");
    }
    let exact: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
    // A form writes a space as a plus and leaves a star alone; RFC 8187 knows neither.
    let exact = exact.replace('+', "%20").replace('*', "%2A");
    format!("inline; filename=\"{fallback}\"; filename*=UTF-8''{exact}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_break_out_of_its_header() {
        for (name, expected) in [
            ("s-001_v1.png", "inline; filename=\"s-001_v1.png\""),
            ("two words.png", "inline; filename=\"two words.png\""),
            ("a\"b.png", "inline; filename=\"a_b.png\"; filename*=UTF-8''a%22b.png"),
            ("a\r\nSet-Cookie: x", "inline; filename=\"a__Set-Cookie_ x\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x"),
            ("grün*.png", "inline; filename=\"gr_n_.png\"; filename*=UTF-8''gr%C3%BCn%2A.png"),
        ] {
            assert_eq!(disposition(name), expected);
        }
    }
}
