//! Draws a picture from a prompt: colours from its hash, its words in a packaged font, the variant's
//! number, and thumbnails of the references.

use std::io::Cursor;

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _, point};
use bytes::Bytes;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops::{self, FilterType as Resize};
use image::{DynamicImage, ImageReader, Limits, Rgb, RgbImage};
use sha2::{Digest as _, Sha256};

use crate::domain::picture::{PictureFormat, ReferenceImage};
use crate::provider::ImageCall;

/// A bold sans-serif; its licence lies beside it.
const FONT: &[u8] = include_bytes!("DejaVuSans-Bold.ttf");
/// The longer side of a picture, in pixels.
const SIDE: u32 = 1024;
/// The free border around the words.
const MARGIN: u32 = 72;
/// A side of the coarse background, which is enlarged smoothly.
const COARSE: u32 = 24;
/// Sizes in which a prompt is tried, in pixels.
const SIZES: [u16; 6] = [92, 72, 56, 44, 34, 26];
/// The size in which any prompt is written.
const SMALLEST: u16 = 20;
/// Longest side of a reference's thumbnail; smaller where many must share a narrow picture.
const THUMBNAIL: u32 = 144;
/// The space between two thumbnails.
const GAP: u32 = 16;
/// Width kept free for the variant's number, right of the thumbnails.
const BADGE: u32 = 96;
/// Most bytes that decoding a reference may take.
const MAX_DECODED_BYTES: u64 = 256 << 20;
const WHITE: Rgb<u8> = Rgb([255, 255, 255]);

/// Why a picture could not be drawn.
#[derive(Debug, thiserror::Error)]
pub(super) enum DrawError {
    #[error("the packaged font is damaged")]
    Font(#[from] ab_glyph::InvalidFont),
    #[error("the picture cannot be encoded")]
    Encode(#[from] image::ImageError),
}

/// Draws the picture of `call` as a PNG. The same call gives the same bytes.
pub(super) fn picture(call: &ImageCall) -> Result<Bytes, DrawError> {
    let font = FontRef::try_from_slice(FONT)?;
    let (width, height) = dimensions(call);
    let seed: [u8; 32] = Sha256::digest(format!("{}\n{}", call.variant, call.prompt)).into();
    let mut canvas = background(&seed, width, height);
    let shown = references(&mut canvas, &call.references);
    words(&mut canvas, &font, &call.prompt, height - MARGIN - shown);
    badge(&mut canvas, &font, &format!("v{}", call.variant));
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Sub);
    DynamicImage::from(canvas).write_with_encoder(encoder)?;
    Ok(bytes.into())
}

fn dimensions(call: &ImageCall) -> (u32, u32) {
    let ratio = call.aspect_ratio;
    let longer = ratio.width.max(ratio.height);
    (SIDE * ratio.width / longer, SIDE * ratio.height / longer)
}

/// A gradient between two hues with three soft spots of light, drawn coarsely and enlarged.
fn background(seed: &[u8; 32], width: u32, height: u32) -> RgbImage {
    let unit = |index: usize| f32::from(seed[index]) / 255.0;
    let hue = unit(0) * 360.0;
    let (from, to) = (colour(hue, 0.62, 0.42), colour(hue + 40.0 + 60.0 * unit(1), 0.58, 0.20));
    let spots = [0, 1, 2].map(|spot: u8| {
        let at = 2 + usize::from(spot) * 4;
        let shade = colour(hue + 160.0 * unit(at), 0.75, 0.62);
        (unit(at + 1), unit(at + 2), 0.18 + 0.22 * unit(at + 3), shade)
    });
    #[expect(clippy::cast_precision_loss, reason = "coordinates below 24")]
    let coarse = RgbImage::from_fn(COARSE, COARSE, |x, y| {
        let (x, y) = (x as f32 / (COARSE - 1) as f32, y as f32 / (COARSE - 1) as f32);
        let mut pixel = mix(from, to, (x * 0.4 + y * 0.6).clamp(0.0, 1.0));
        for (centre_x, centre_y, radius, shade) in spots {
            let distance = (x - centre_x).hypot(y - centre_y) / radius;
            pixel = mix(pixel, shade, 0.55 * (1.0 - distance).max(0.0));
        }
        Rgb(pixel.map(to_byte))
    });
    DynamicImage::from(coarse).resize_exact(width, height, Resize::CatmullRom).into_rgb8()
}

/// A colour by hue in degrees, saturation and lightness.
fn colour(hue: f32, saturation: f32, lightness: f32) -> [f32; 3] {
    let amplitude = saturation * lightness.min(1.0 - lightness);
    [0.0_f32, 8.0, 4.0].map(|offset| {
        let turn = (offset + hue / 30.0).rem_euclid(12.0);
        255.0 * (lightness - amplitude * (turn - 3.0).min(9.0 - turn).clamp(-1.0, 1.0))
    })
}

fn mix(from: [f32; 3], to: [f32; 3], share: f32) -> [f32; 3] {
    [0, 1, 2].map(|channel| from[channel] + (to[channel] - from[channel]) * share)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
fn to_byte(value: f32) -> u8 {
    value.clamp(0.0, 255.0).round() as u8
}

/// Pastes thumbnails of the references along the lower edge, all of them; returns the height they take.
fn references(canvas: &mut RgbImage, references: &[ReferenceImage]) -> u32 {
    let Some(longest) = thumbnail_side(canvas.width(), references.len()) else { return 0 };
    let mut x = MARGIN;
    let bottom = canvas.height() - MARGIN / 2;
    for small in references.iter().filter_map(|reference| thumbnail(reference, longest)) {
        imageops::replace(canvas, &small, x.into(), (bottom - small.height()).into());
        x += small.width() + GAP;
    }
    if x > MARGIN { longest } else { 0 }
}

/// The side at which `count` thumbnails fit beside the variant's number in a picture `width` wide.
fn thumbnail_side(width: u32, count: usize) -> Option<u32> {
    let count = u32::try_from(count).ok()?;
    let gaps = GAP * count.saturating_sub(1);
    let room = width.saturating_sub(MARGIN + MARGIN / 2 + BADGE + gaps);
    room.checked_div(count).map(|side| side.clamp(1, THUMBNAIL))
}

fn thumbnail(reference: &ReferenceImage, longest: u32) -> Option<RgbImage> {
    let format = match reference.format {
        PictureFormat::Png => image::ImageFormat::Png,
        PictureFormat::Jpeg => image::ImageFormat::Jpeg,
        PictureFormat::Webp => image::ImageFormat::WebP,
    };
    let mut reader = ImageReader::with_format(Cursor::new(&reference.bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    Some(reader.decode().ok()?.resize(longest, longest, Resize::Triangle).to_rgb8())
}

/// Writes the prompt in the largest size in which it fits above `bottom`; what does not fit even then is cut.
fn words(canvas: &mut RgbImage, font: &FontRef<'_>, prompt: &str, bottom: u32) {
    let room = canvas.width() - 2 * MARGIN;
    let height = bottom.saturating_sub(MARGIN);
    let lines_of = |size: u16| (height / line_height(size)).max(1) as usize;
    let fits = |size: &u16| wrap(font, prompt, *size, room).len() <= lines_of(*size);
    let size = SIZES.into_iter().find(fits).unwrap_or(SMALLEST);
    let mut y = MARGIN;
    for line in wrap(font, prompt, size, room).iter().take(lines_of(size)) {
        write(canvas, font, line, size, MARGIN, y);
        y += line_height(size);
    }
}

fn badge(canvas: &mut RgbImage, font: &FontRef<'_>, text: &str) {
    let size = 48;
    let x = canvas.width().saturating_sub(MARGIN / 2 + text_width(font, text, size));
    let y = canvas.height() - MARGIN / 2 - line_height(size);
    write(canvas, font, text, size, x, y);
}

const fn line_height(size: u16) -> u32 {
    size as u32 * 5 / 4
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a width in pixels")]
fn text_width(font: &FontRef<'_>, text: &str, size: u16) -> u32 {
    let scaled = font.as_scaled(PxScale::from(f32::from(size)));
    text.chars().map(|letter| scaled.h_advance(scaled.glyph_id(letter))).sum::<f32>().ceil() as u32
}

/// Breaks a text into lines of at most `room` pixels, between words where it can.
fn wrap(font: &FontRef<'_>, text: &str, size: u16, room: u32) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if text_width(font, &longer, size) <= room {
            line = longer;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for letter in word.chars() {
            line.push(letter);
            if text_width(font, &line, size) > room {
                line.pop();
                lines.push(std::mem::replace(&mut line, letter.to_string()));
            }
        }
    }
    lines.push(line);
    lines
}

/// Writes one line with a soft shadow, its upper left corner at `x`, `y`.
fn write(canvas: &mut RgbImage, font: &FontRef<'_>, text: &str, size: u16, x: u32, y: u32) {
    let shift = f32::from(size / 24 + 1);
    for (offset, ink, strength) in [(shift, Rgb([0, 0, 0]), 0.45), (0.0, WHITE, 1.0)] {
        let scaled = font.as_scaled(PxScale::from(f32::from(size)));
        #[expect(clippy::cast_precision_loss, reason = "coordinates of a picture")]
        let mut pen = point(x as f32 + offset, y as f32 + offset + scaled.ascent());
        for letter in text.chars() {
            let glyph = scaled.glyph_id(letter).with_scale_and_position(f32::from(size), pen);
            pen.x += scaled.h_advance(glyph.id);
            if let Some(outline) = font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|dx, dy, coverage| blend(canvas, corner, dx, dy, ink, coverage * strength));
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "coordinates of a picture")]
fn blend(canvas: &mut RgbImage, corner: ab_glyph::Point, dx: u32, dy: u32, ink: Rgb<u8>, coverage: f32) {
    let (x, y) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
    let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
    if let Some(pixel) = canvas.get_pixel_mut_checked(x, y) {
        pixel.0 = mix(pixel.0.map(f32::from), ink.0.map(f32::from), coverage.clamp(0.0, 1.0)).map(to_byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_within_the_room_and_none_is_lost() {
        let font = FontRef::try_from_slice(FONT).unwrap();
        let text = "product on a clean background, and averyveryverylongwordwithoutanybreakinit at the end";
        let lines = wrap(&font, text, 56, 400);
        assert!(lines.iter().all(|line| text_width(&font, line, 56) <= 400), "{lines:?}");
        let joined: String = lines.concat().split_whitespace().collect();
        assert_eq!(joined, text.split_whitespace().collect::<String>());
    }

    #[test]
    fn words_leave_white_ink_on_the_canvas() {
        let font = FontRef::try_from_slice(FONT).unwrap();
        let mut canvas = background(&[7; 32], 512, 512);
        let white = |canvas: &RgbImage| canvas.pixels().filter(|pixel| **pixel == WHITE).count();
        assert_eq!(white(&canvas), 0);
        words(&mut canvas, &font, "a red cup", 440);
        assert!(white(&canvas) > 1_000);
    }
}
