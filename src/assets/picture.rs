//! What every asset store needs of a picture: its format and size, and its thumbnail. No I/O.

pub(crate) mod shrink;
mod thumbnail;

use std::io::Cursor;

use image::{ImageFormat, ImageReader};

pub use self::thumbnail::{THUMBNAIL_SIDE, Thumbnailer, thumbnail_name};

use crate::domain::picture::PictureFormat;

/// Most pixels of a picture that a provider may answer with: about twice a 4K picture.
pub const MAX_PIXELS: u64 = 32_000_000;
/// Longest side that is decoded, in pixels: a picture may be no strip, as whole rows are held.
pub const MAX_SIDE: u32 = 32_768;

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

const fn image_format(format: PictureFormat) -> ImageFormat {
    match format {
        PictureFormat::Png => ImageFormat::Png,
        PictureFormat::Jpeg => ImageFormat::Jpeg,
        PictureFormat::Webp => ImageFormat::WebP,
    }
}

#[cfg(test)]
mod tests {
    use image::DynamicImage;

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
}
