//! PNG, read a row at a time, so that no more of it is held than what goes on.

use image::DynamicImage;
use image::metadata::Orientation;

use super::{MAX_SENT_SIDE, OWN_PAGES, check_pixels, damaged};
use crate::assets::picture::{MAX_SIDE, shrink};
use crate::references::ReferenceError;

/// Decodes and scales down; `None` for an interlaced picture, whose rows come in no order.
pub(super) fn decode(bytes: &[u8], max_pixels: u64) -> Result<Option<(DynamicImage, Orientation)>, ReferenceError> {
    let mut decoder = shrink::png_decoder(bytes);
    let header = decoder.read_header_info().map_err(|_| damaged())?;
    let size = (header.width, header.height);
    check_pixels(size, max_pixels)?;
    if size.0.max(size.1) > MAX_SIDE {
        return Err(ReferenceError::TooLarge(format!("no side may be longer than {MAX_SIDE} pixels")));
    }
    if header.interlaced {
        return Ok(None);
    }
    let mut reader = decoder.read_info().map_err(|_| damaged())?;
    let exif = reader.info().exif_metadata.as_deref();
    // Damaged metadata is no reason to refuse good pixels.
    let orientation = exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let picture = shrink::by_rows(&mut reader, MAX_SENT_SIDE, Vec::with_capacity(OWN_PAGES)).ok_or_else(damaged)?;
    Ok(Some((picture, orientation)))
}
