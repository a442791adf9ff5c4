//! What came back: bytes of a stranger become a small, plain picture or an error.
//!
//! Takes PNG, JPEG, WebP and the first frame of GIF, told apart by their first bytes and by nothing that anybody
//! claims. Looks at dimensions before it decodes, bounds the decoder, and always encodes anew, so that nothing of
//! the file but its pixels goes on to a provider: no EXIF, no place, no trailing bytes. Synchronous and heavy:
//! [`Preparer`] calls it off the async threads, one at a time.

mod preparer;

mod cost;
mod rows;

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

pub use self::preparer::{Hashed, Preparer};

use super::ReferenceError;
use crate::assets::picture::{MAX_SIDE, shrink};
use crate::domain::picture::PictureFormat;

/// Longest side of a picture that goes on to a provider, in pixels. Larger ones are scaled down.
pub const MAX_SENT_SIDE: u32 = 2_048;
/// What decoding may take where a picture must be held as a whole, in bytes: 25 megapixels as JPEG, 8-12 as
/// progressive JPEG, 15 as WebP (10 lossless, 6 transparent or animated), 18 as GIF or interlaced PNG. A plain PNG
/// is read by rows.
const DECODE_BUDGET: u64 = 72 * 1024 * 1024;
/// Allocators give so large a piece pages of its own, of which only those in use count, and give them back to the
/// system when it is freed. Of smaller ones each thread may keep the most that it ever had.
const OWN_PAGES: usize = (32 << 20) + 1;
const JPEG_QUALITY: u8 = 92;

/// A picture that is safe to hand on.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The picture, encoded by this service.
    pub bytes: Bytes,
    /// JPEG if it came as one, else PNG.
    pub format: PictureFormat,
    /// Pixels across, as it is looked at.
    pub width: u32,
    /// Pixels down, as it is looked at.
    pub height: u32,
}

/// Checks and decodes `bytes`, turns the picture upright, scales it down and encodes it anew.
///
/// # Errors
/// [`ReferenceError::TooLarge`] for more than `max_pixels`, [`ReferenceError::Unusable`] for what is no picture.
pub fn prepare(bytes: impl AsRef<[u8]>, max_pixels: u64) -> Result<Prepared, ReferenceError> {
    let format = sniff(bytes.as_ref())?;
    if format == ImageFormat::Jpeg && !cost::has_end_of_jpeg(bytes.as_ref()) {
        return Err(ReferenceError::Unusable("it is cut off".to_owned()));
    }
    let (mut picture, orientation) = decode(bytes.as_ref(), format, max_pixels)?;
    // What came makes room for what goes on.
    drop(bytes);
    picture.apply_orientation(orientation);
    encode(&picture, format)
}

/// Whether the first bytes are those of a kind of picture that is taken.
#[must_use]
pub fn is_taken(bytes: &[u8]) -> bool {
    sniff(bytes).is_ok()
}

fn sniff(bytes: &[u8]) -> Result<ImageFormat, ReferenceError> {
    match PictureFormat::of_magic(bytes) {
        Some(PictureFormat::Png) => Ok(ImageFormat::Png),
        Some(PictureFormat::Jpeg) => Ok(ImageFormat::Jpeg),
        Some(PictureFormat::Webp) => Ok(ImageFormat::WebP),
        None if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") => Ok(ImageFormat::Gif),
        None => {
            let kind = name_of(bytes);
            Err(ReferenceError::Unusable(format!("it is {kind}; PNG, JPEG, WebP and GIF are taken")))
        }
    }
}

/// What the bytes look like, for the person who must mend the reference. Never quotes them.
fn name_of(bytes: &[u8]) -> &'static str {
    let head = bytes.get(..bytes.len().min(1_024)).unwrap_or_default().to_ascii_lowercase();
    let has = |needle: &[u8]| head.windows(needle.len()).any(|window| window == needle);
    let brand = bytes.get(8..12).filter(|_| bytes.get(4..8) == Some(b"ftyp"));
    match head.as_slice() {
        [] => "empty",
        _ if has(b"<svg") => "an SVG",
        _ if has(b"<!doctype html") || has(b"<html") || has(b"<head") || has(b"<body") => "an HTML page",
        _ if head.trim_ascii_start().starts_with(b"<") => "an XML text",
        _ if brand.is_some_and(|brand| brand.starts_with(b"avi")) => "an AVIF",
        _ if brand.is_some_and(|brand| brand.starts_with(b"he") || brand.starts_with(b"mif")) => "a HEIC",
        [b'%', b'p', b'd', b'f', ..] => "a PDF",
        [b'b', b'm', ..] => "a BMP",
        [b'i', b'i', b'*', 0, ..] | [b'm', b'm', 0, b'*', ..] => "a TIFF",
        [0x1f, 0x8b, ..] => "gzip data",
        _ => "no picture",
    }
}

fn decode(bytes: &[u8], format: ImageFormat, max_pixels: u64) -> Result<(DynamicImage, Orientation), ReferenceError> {
    if format == ImageFormat::Png
        && let Some(decoded) = rows::decode(bytes, max_pixels)?
    {
        return Ok(decoded);
    }
    decode_whole(bytes, format, max_pixels)
}

fn decode_whole(
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<(DynamicImage, Orientation), ReferenceError> {
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(DECODE_BUDGET);

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|error| undecodable(&error))?;
    let size = decoder.dimensions();
    let pixels = check_pixels(size, max_pixels)?;
    let cost = cost::of(bytes, format, pixels, decoder.total_bytes()).ok_or_else(damaged)?;
    if cost > DECODE_BUDGET {
        let (width, height) = size;
        let detail = format!("{width}x{height} in a kind of file that takes much memory to decode; scale it down");
        return Err(ReferenceError::TooLarge(detail));
    }
    limits.reserve(decoder.total_bytes()).map_err(|error| undecodable(&error))?;
    decoder.set_limits(limits).map_err(|error| undecodable(&error))?;
    // Damaged metadata is no reason to refuse good pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = shrink::in_place(shrink::to_eight_bits(read(decoder)?), MAX_SENT_SIDE).ok_or_else(damaged)?;
    Ok((picture, orientation))
}

/// Reads the pixels of a picture with 8 bits a channel into pages of their own.
fn read(decoder: impl ImageDecoder) -> Result<DynamicImage, ReferenceError> {
    let (size, color) = (decoder.dimensions(), decoder.color_type());
    if color.bytes_per_pixel() != color.channel_count() {
        return DynamicImage::from_decoder(decoder).map_err(|error| undecodable(&error));
    }
    let length = usize::try_from(decoder.total_bytes()).map_err(|_| damaged())?;
    let mut samples = Vec::with_capacity(length.max(OWN_PAGES));
    samples.resize(length, 0);
    decoder.read_image(&mut samples).map_err(|error| undecodable(&error))?;
    shrink::of_samples(size, color.channel_count(), samples).ok_or_else(damaged)
}

/// How many pixels a picture of this size has.
fn check_pixels((width, height): (u32, u32), max_pixels: u64) -> Result<u64, ReferenceError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > max_pixels {
        return Err(ReferenceError::TooLarge(format!("{width}x{height} is more than {max_pixels} pixels")));
    }
    Ok(pixels)
}

fn damaged() -> ReferenceError {
    ReferenceError::Unusable("it is damaged, or of a kind that cannot be decoded".to_owned())
}

/// Decoders' messages may quote the file, so none is passed on.
fn undecodable(error: &ImageError) -> ReferenceError {
    match error {
        ImageError::Limits(_) => ReferenceError::TooLarge("it takes too much memory to decode".to_owned()),
        _ => damaged(),
    }
}

fn encode(picture: &DynamicImage, came_as: ImageFormat) -> Result<Prepared, ReferenceError> {
    let mut bytes = Vec::new();
    let (written, format) = if came_as == ImageFormat::Jpeg {
        let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
        (picture.write_with_encoder(encoder), PictureFormat::Jpeg)
    } else {
        (picture.write_with_encoder(PngEncoder::new(&mut bytes)), PictureFormat::Png)
    };
    written.map_err(|error| undecodable(&error))?;
    Ok(Prepared { bytes: bytes.into(), format, width: picture.width(), height: picture.height() })
}

#[cfg(test)]
mod tests;
