//! Follows every link of a batch once: a picture has its bytes by its link and by its lasting address.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use sha2::{Digest as _, Sha256};

use super::faults::told;
use super::view::{Image, Row};
use crate::cli::client::{Client, innermost};
use crate::cli::failure::Failure;
use crate::cli::saver::hex;
use crate::domain::state::BatchState;

/// Pictures that are looked at at once.
const AT_ONCE: usize = 8;
/// A link that takes longer leads nowhere.
const PATIENCE: Duration = Duration::from_mins(1);
/// Most bytes of a thumbnail that are read.
const MAX_THUMBNAIL_BYTES: u64 = 16 << 20;

/// What came of the links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Pictures that arrived as they should.
    pub(super) pictures: u64,
    /// Lasting addresses that led to a live link.
    pub(super) permalinks: u64,
    /// Thumbnails that arrived.
    pub(super) thumbnails: u64,
    /// Pictures that have none.
    pub(super) without_thumbnail: u64,
    /// What did not, and why.
    pub(super) faults: Vec<String>,
}

impl Checked {
    /// The faults in a few words, if there are any.
    pub(super) fn told(&self) -> Option<String> {
        told(&self.faults)
    }

    fn note(&mut self, name: &str, found: Found) {
        let Found { picture, permalink, thumbnail } = found;
        for (count, end) in [(&mut self.pictures, picture), (&mut self.permalinks, permalink)] {
            match end {
                Ok(()) => *count += 1,
                Err(why) => self.faults.push(format!("{name}: {why}")),
            }
        }
        match thumbnail {
            None => self.without_thumbnail += 1,
            Some(Ok(())) => self.thumbnails += 1,
            Some(Err(why)) => self.faults.push(format!("{name}, thumbnail: {why}")),
        }
    }
}

type End = Result<(), String>;

/// What came of the links of one picture.
struct Found {
    picture: End,
    permalink: End,
    thumbnail: Option<End>,
}

/// Follows the links of every picture in `rows` that was made; tells `each` how many are done.
pub(super) async fn check(client: &Client, rows: &[Row], each: impl Fn(u32)) -> Checked {
    let made = rows.iter().flat_map(|row| row.images.iter().map(move |image| (row, image)));
    let made = made.filter(|(_, image)| image.state == BatchState::Completed);
    let looks = made.map(|(row, image)| async move {
        (format!("{} v{}", row.scene_id, image.variant), look_at(client, image).await)
    });
    let mut found = stream::iter(looks).buffer_unordered(AT_ONCE);
    let (mut checked, mut done) = (Checked::default(), 0);
    while let Some((name, of)) = found.next().await {
        checked.note(&name, of);
        done += 1;
        each(done);
    }
    checked.faults.sort();
    checked
}

async fn look_at(client: &Client, image: &Image) -> Found {
    let picture = in_time(picture(client, image)).await;
    let permalink = in_time(permalink(client, image, picture.is_ok())).await;
    let thumbnail = match &image.thumbnail_url {
        Some(link) => Some(in_time(thumbnail(client, link)).await),
        None => None,
    };
    Found { picture, permalink, thumbnail }
}

async fn in_time(look: impl Future<Output = Result<(), Failure>>) -> End {
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(end) => end.map_err(|failure| failure.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn picture(client: &Client, image: &Image) -> Result<(), Failure> {
    let missing = |what: &str| Failure::Unexpected(format!("it was made and has no {what}"));
    let link = image.url.as_ref().ok_or_else(|| missing("url"))?;
    let bytes = image.bytes.ok_or_else(|| missing("bytes"))?;
    let hash = image.sha256.as_ref().ok_or_else(|| missing("sha256"))?;
    let response = client.open_link(&client.resolve(link)?).await?;
    let (length, found) = read(response, bytes).await?;
    if (length, &found) == (bytes, hash) {
        return Ok(());
    }
    Err(Failure::Unexpected(format!("its link gives {length} other bytes, or not all {bytes}")))
}

/// Goes from the lasting address to a link that works. One that was followed just now, with `is_good`, is not again.
async fn permalink(client: &Client, image: &Image, is_good: bool) -> Result<(), Failure> {
    let at = client.redirect_of(&image.permalink).await?;
    let link = image.url.as_ref().map(|link| client.resolve(link)).transpose()?;
    if is_good && link.as_ref() == Some(&at) {
        return Ok(());
    }
    client.open_link(&at).await.map(drop)
}

async fn thumbnail(client: &Client, link: &str) -> Result<(), Failure> {
    let response = client.open_link(&client.resolve(link)?).await?;
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
    let (length, _) = read(response, MAX_THUMBNAIL_BYTES).await?;
    if length > 0 && kind.starts_with("image/") {
        return Ok(());
    }
    Err(Failure::Unexpected(format!("{length} bytes of {kind:?} are no picture")))
}

/// The length and the hash of a body; of no more than one piece behind `at_most` bytes.
async fn read(mut response: Response, at_most: u64) -> Result<(u64, String), Failure> {
    let (mut length, mut hash) = (0, Sha256::new());
    while length <= at_most {
        let piece = response.chunk().await;
        let Some(piece) =
            piece.map_err(|error| Failure::Unexpected(format!("its bytes break off: {}", innermost(&error))))?
        else {
            break;
        };
        hash.update(&piece);
        length += piece.len() as u64;
    }
    Ok((length, hex(hash)))
}
