//! What every asset store needs of a picture: its format and size, and its thumbnail. No I/O.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use tokio::sync::Semaphore;

use crate::domain::picture::PictureFormat;

/// Longest side of a thumbnail, in pixels.
pub const THUMBNAIL_SIDE: u32 = 128;
/// Most pixels of a picture that a provider may answer with: about twice a 4K picture.
pub const MAX_PIXELS: u64 = 32_000_000;
/// Most bytes that decoding one picture may take: 4 bytes a pixel of the largest one.
const MAX_DECODED_BYTES: u64 = 4 * MAX_PIXELS;
/// Pictures decoded at once: a decoded one takes up to [`MAX_DECODED_BYTES`].
const DECODES_AT_ONCE: usize = 1;

/// What the first bytes of a picture say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// Its format.
    pub format: PictureFormat,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// The bytes are no picture this service keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a PNG, JPEG or WebP picture of at most {MAX_PIXELS} pixels")]
pub struct NotAPicture;

/// Reads format and size without decoding the picture.
///
/// # Errors
/// [`NotAPicture`].
pub fn inspect(bytes: &[u8]) -> Result<Inspected, NotAPicture> {
    let format = PictureFormat::of_magic(bytes).ok_or(NotAPicture)?;
    let reader = ImageReader::with_format(Cursor::new(bytes), image_format(format));
    let (width, height) = reader.into_dimensions().map_err(|_| NotAPicture)?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MAX_PIXELS {
        return Err(NotAPicture);
    }
    Ok(Inspected { format, width, height })
}

/// The object name of the thumbnail of the picture named `stem`.
#[must_use]
pub fn thumbnail_name(stem: &str) -> String {
    let rest = stem.strip_prefix("images/").unwrap_or(stem);
    format!("thumbnails/{rest}.png")
}

/// Makes thumbnails off the async threads, a bounded number at a time.
#[derive(Debug, Clone)]
pub struct Thumbnailer {
    permits: Arc<Semaphore>,
}

impl Default for Thumbnailer {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(DECODES_AT_ONCE)) }
    }
}

impl Thumbnailer {
    /// A PNG of at most [`THUMBNAIL_SIDE`] pixels a side; `None` if the picture cannot be read.
    pub async fn make(&self, picture: Bytes) -> Option<Bytes> {
        let _permit = self.permits.acquire().await.ok()?;
        let made = tokio::task::spawn_blocking(move || thumbnail(&picture)).await;
        let thumbnail = made.ok().flatten();
        if thumbnail.is_none() {
            tracing::warn!("a picture has no thumbnail: it cannot be decoded");
        }
        thumbnail
    }
}

fn thumbnail(picture: &[u8]) -> Option<Bytes> {
    let small = decode(picture)?.thumbnail(THUMBNAIL_SIDE, THUMBNAIL_SIDE);
    let mut bytes = Vec::new();
    small.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).ok()?;
    Some(bytes.into())
}

fn decode(picture: &[u8]) -> Option<DynamicImage> {
    let format = inspect(picture).ok()?.format;
    let mut reader = ImageReader::with_format(Cursor::new(picture), image_format(format));
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    reader.decode().ok()
}

const fn image_format(format: PictureFormat) -> ImageFormat {
    match format {
        PictureFormat::Png => ImageFormat::Png,
        PictureFormat::Jpeg => ImageFormat::Jpeg,
        PictureFormat::Webp => ImageFormat::WebP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        DynamicImage::new_rgb8(width, height).write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    #[test]
    fn a_picture_is_known_by_its_bytes() {
        for (format, expected) in [
            (ImageFormat::Png, PictureFormat::Png),
            (ImageFormat::Jpeg, PictureFormat::Jpeg),
            (ImageFormat::WebP, PictureFormat::Webp),
        ] {
            let inspected = inspect(&encoded(30, 20, format)).unwrap();
            assert_eq!(inspected, Inspected { format: expected, width: 30, height: 20 });
        }
        assert_eq!(inspect(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), Err(NotAPicture));
        assert_eq!(inspect(b""), Err(NotAPicture));
        assert_eq!(inspect(&encoded(30, 20, ImageFormat::Png)[..16]), Err(NotAPicture));
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let mut bytes = encoded(1, 1, ImageFormat::Png);
        bytes[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        assert_eq!(inspect(&bytes), Err(NotAPicture));
    }

    #[tokio::test]
    async fn a_thumbnail_keeps_the_shape_and_fails_softly() {
        let thumbnails = Thumbnailer::default();
        let small = thumbnails.make(encoded(512, 256, ImageFormat::Jpeg).into()).await.unwrap();
        assert_eq!(inspect(&small).unwrap(), Inspected { format: PictureFormat::Png, width: 128, height: 64 });
        let broken = encoded(64, 64, ImageFormat::Png);
        assert_eq!(thumbnails.make(broken[..broken.len() / 2].to_vec().into()).await, None);
    }
}
