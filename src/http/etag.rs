//! Weak tags of batches, so that a client that polls is not sent what it has.
//!
//! A batch is read with fresh links each time, so its bytes always differ. The tag is of all but
//! the links, and carries when the links that went with it die: while they live on for a while the
//! client needs no others, and nothing has to be remembered here.

use axum::http::HeaderMap;
use axum::http::header::IF_NONE_MATCH;

use std::time::Duration;

use crate::domain::picture::Sha256Hex;
use crate::domain::time::Timestamp;
use crate::service::view::BatchView;

/// How long a link must still live to be good enough. Named by the contract.
const LEAST_LEFT: Duration = Duration::from_mins(5);
/// Hex digits of the hash in a tag.
const DIGITS: usize = 32;

/// What a page of a batch is recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    hash: String,
    links_end: Option<Timestamp>,
}

impl Tag {
    /// The tag of a page.
    #[must_use]
    pub fn of(view: &BatchView) -> Self {
        let mut bare = view.clone();
        let mut links_end: Option<Timestamp> = None;
        for image in bare.items.iter_mut().flatten().flat_map(|item| &mut item.images) {
            let end = image.url_expires_at.take();
            links_end = links_end.into_iter().chain(end).min();
            // Whether there is a link is part of what is recognised; which one is not.
            for link in [&mut image.url, &mut image.thumbnail_url].into_iter().flatten() {
                link.clear();
            }
        }
        let mut hash = Sha256Hex::of(&serde_json::to_vec(&bare).unwrap_or_default()).to_string();
        hash.truncate(DIGITS);
        Self { hash, links_end }
    }

    /// The header's value.
    #[must_use]
    pub fn header(&self) -> String {
        format!("W/\"{}-{}\"", self.hash, self.links_end.map_or(0, Timestamp::millis))
    }

    /// The tag that the client has, if it is of the same page and its links live on for a while.
    #[must_use]
    pub fn still_good(&self, headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let mut tags = values.flat_map(|value| value.split(',')).filter_map(Self::parse);
        tags.find(|given| given.hash == self.hash && given.links_last(now) && given.has_links() == self.has_links())
    }

    const fn has_links(&self) -> bool {
        self.links_end.is_some()
    }

    fn links_last(&self, now: Timestamp) -> bool {
        self.links_end.is_none_or(|end| end.since(now) >= LEAST_LEFT)
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let opaque = text.strip_prefix("W/").unwrap_or(text).strip_prefix('"')?.strip_suffix('"')?;
        let (hash, end) = opaque.split_once('-')?;
        let end: i64 = end.parse().ok()?;
        Some(Self { hash: hash.to_owned(), links_end: (end != 0).then(|| Timestamp::from_millis(end)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::BatchId;
    use crate::domain::money::MicroUsd;
    use crate::domain::spec::RunMode;
    use crate::domain::state::{BatchState, Counts};
    use crate::service::view::{ImageView, ItemView};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn view(link: &str, ends_in: Duration, last_event: u64) -> BatchView {
        let image = ImageView {
            variant: 1,
            state: BatchState::Completed,
            url: Some(link.into()),
            thumbnail_url: None,
            url_expires_at: Some(NOW.after(ends_in)),
            permalink: String::new(),
            uri: None,
            mime_type: None,
            width: None,
            height: None,
            bytes: None,
            sha256: None,
            cost: None,
            billing: None,
            attempts: 1,
            error: None,
        };
        BatchView {
            batch_id: BatchId::new(ulid::Ulid::from_parts(1, 1)),
            run_mode: RunMode::Live,
            state: BatchState::Running,
            model: String::new(),
            created_at: NOW,
            finished_at: None,
            estimated_cost: MicroUsd::ZERO,
            actual_cost: MicroUsd::ZERO,
            unknown_cost: MicroUsd::ZERO,
            last_event,
            message: None,
            webhook: None,
            counts: Counts::default(),
            items: Some(vec![ItemView {
                scene_id: "a".parse().unwrap(),
                prompt: String::new(),
                references: Vec::new(),
                aspect_ratio: String::new(),
                image_size: String::new(),
                state: BatchState::Completed,
                error: None,
                images: vec![image],
            }]),
            next_cursor: Some(None),
        }
    }

    fn given(tag: &str) -> HeaderMap {
        HeaderMap::from_iter([(IF_NONE_MATCH, tag.parse().unwrap())])
    }

    #[test]
    fn a_client_keeps_its_links_until_they_have_less_than_five_minutes_left() {
        let had = Tag::of(&view("/assets/old", Duration::from_mins(10), 4));
        let has = Tag::of(&view("/assets/new", Duration::from_hours(1), 4));
        let headers = given(&format!("\"other\", {}", had.header()));
        assert_eq!(has.still_good(&headers, NOW), Some(had.clone()));
        assert_eq!(has.still_good(&headers, NOW.after(Duration::from_mins(5))), Some(had));
        assert_eq!(has.still_good(&headers, NOW.after(Duration::from_mins(6))), None);
    }

    #[test]
    fn a_batch_that_went_on_has_another_tag() {
        let had = Tag::of(&view("/assets/a", Duration::from_hours(1), 4));
        let has = Tag::of(&view("/assets/a", Duration::from_hours(1), 5));
        assert_eq!(has.still_good(&given(&had.header()), NOW), None);
    }

    #[test]
    fn a_tag_that_hides_that_its_links_end_is_not_good() {
        let has = Tag::of(&view("/assets/a", Duration::from_hours(1), 4));
        let forged = format!("W/\"{}-0\"", has.hash);
        assert_eq!(has.still_good(&given(&forged), NOW), None);
        for odd in ["", "*", "W/", "\"", "W/\"x\"", "W/\"-\""] {
            assert_eq!(has.still_good(&given(odd), NOW), None, "{odd}");
        }
    }
}
