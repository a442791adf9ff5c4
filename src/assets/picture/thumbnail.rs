//! Thumbnails: small pictures of pictures.

use std::io::Cursor;
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use tokio::sync::Semaphore;

use super::{MAX_PIXELS, MAX_SIDE, image_format, inspect, shrink};
use crate::domain::picture::PictureFormat;

/// Longest side of a thumbnail, in pixels. A smaller picture keeps its size.
pub const THUMBNAIL_SIDE: u32 = 128;
/// Most bytes that decoding one picture as a whole may take: 4 bytes a pixel of the largest one.
const MAX_DECODED_BYTES: u64 = 4 * MAX_PIXELS;

/// The object name of the thumbnail of the picture named `stem`.
#[must_use]
pub fn thumbnail_name(stem: &str) -> String {
    let rest = stem.strip_prefix("images/").unwrap_or(stem);
    format!("thumbnails/{rest}.png")
}

/// Makes thumbnails off the async threads: at the same time as many as there are cores, and one alone of a picture that
/// must be decoded as a whole, which takes up to [`MAX_DECODED_BYTES`].
#[derive(Debug, Clone)]
pub struct Thumbnailer {
    places: Arc<Semaphore>,
    all: u32,
}

impl Default for Thumbnailer {
    fn default() -> Self {
        let all = available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        Self { places: Arc::new(Semaphore::new(all as usize)), all }
    }
}

impl Thumbnailer {
    /// A PNG of at most [`THUMBNAIL_SIDE`] pixels a side; `None` if the picture cannot be read.
    pub async fn make(&self, picture: Bytes) -> Option<Bytes> {
        let places = if has_rows_in_order(&picture) { 1 } else { self.all };
        let _place = self.places.acquire_many(places).await.ok()?;
        let made = tokio::task::spawn_blocking(move || thumbnail(&picture)).await;
        let thumbnail = made.ok().flatten();
        if thumbnail.is_none() {
            tracing::warn!("a picture has no thumbnail: it cannot be decoded");
        }
        thumbnail
    }
}

/// Whether this is a PNG that is not interlaced, by its head.
fn has_rows_in_order(picture: &[u8]) -> bool {
    /// Where a PNG says how it is interlaced; 0 is not at all.
    const INTERLACE: usize = 28;
    PictureFormat::of_magic(picture) == Some(PictureFormat::Png) && picture.get(INTERLACE) == Some(&0)
}

fn thumbnail(picture: &[u8]) -> Option<Bytes> {
    let inspected = inspect(picture).ok().filter(|found| found.width.max(found.height) <= MAX_SIDE)?;
    let small = if has_rows_in_order(picture) { by_rows(picture)? } else { whole(picture, inspected.format)? };
    let mut bytes = Vec::new();
    small.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).ok()?;
    Some(bytes.into())
}

fn by_rows(picture: &[u8]) -> Option<DynamicImage> {
    shrink::by_rows(&mut shrink::png_decoder(picture).read_info().ok()?, THUMBNAIL_SIDE, Vec::new())
}

fn whole(picture: &[u8], format: PictureFormat) -> Option<DynamicImage> {
    let mut reader = ImageReader::with_format(Cursor::new(picture), image_format(format));
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    shrink::in_place(shrink::to_eight_bits(reader.decode().ok()?), THUMBNAIL_SIDE)
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ColorType, ImageEncoder as _};

    use super::super::Inspected;
    use super::*;

    fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Vec::new();
        picture.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_thumbnail_keeps_the_shape_and_fails_softly() {
        let thumbnails = Thumbnailer::default();
        let picture = DynamicImage::new_rgb8(512, 256);
        for format in [ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Png] {
            let small = thumbnails.make(encoded(&picture, format).into()).await.unwrap();
            assert_eq!(inspect(&small).unwrap(), Inspected { format: PictureFormat::Png, width: 128, height: 64 });
        }
        let tiny = thumbnails.make(encoded(&DynamicImage::new_rgb8(9, 5), ImageFormat::Png).into()).await.unwrap();
        assert_eq!(inspect(&tiny).unwrap(), Inspected { format: PictureFormat::Png, width: 9, height: 5 });
        let broken = encoded(&picture, ImageFormat::Png);
        assert_eq!(thumbnails.make(broken[..broken.len() / 2].to_vec().into()).await, None);
    }

    #[test]
    fn a_picture_read_by_rows_looks_as_one_decoded_as_a_whole() {
        let value = |x: u32, y: u32| u8::try_from((x * 7 + y * 3) % 251).unwrap();
        let rgba = image::RgbaImage::from_fn(300, 170, |x, y| {
            image::Rgba([value(x, y), value(y, x), value(x + y, 1), value(x, 2 * y)])
        });
        let rgba = DynamicImage::ImageRgba8(rgba);
        let of_kinds: [DynamicImage; 6] = [
            rgba.to_luma8().into(),
            rgba.to_luma_alpha8().into(),
            rgba.to_rgb8().into(),
            rgba.to_luma16().into(),
            rgba.to_rgba16().into(),
            rgba,
        ];
        for picture in of_kinds {
            let png = encoded(&picture, ImageFormat::Png);
            assert!(has_rows_in_order(&png));
            let (rows, whole) = (by_rows(&png).unwrap(), whole(&png, PictureFormat::Png).unwrap());
            assert_eq!((rows.width(), rows.height()), (128, 73));
            let near = rows.to_rgba8().iter().zip(whole.to_rgba8().iter()).all(|(a, b)| a.abs_diff(*b) <= 1);
            assert!(near, "{:?}", picture.color());
        }
    }

    #[test]
    fn an_interlaced_picture_and_one_with_a_palette_have_thumbnails_too() {
        let mut palette = Vec::new();
        let mut encoder = png::Encoder::new(&mut palette, 256, 2);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::One);
        encoder.set_palette([255, 0, 0, 0, 0, 255].as_slice());
        encoder.write_header().unwrap().write_image_data(&[0xff, 0x00].repeat(32)).unwrap();
        let small = by_rows(&palette).unwrap().to_rgb8();
        assert_eq!((small.get_pixel(0, 0).0, small.get_pixel(127, 0).0), ([0, 0, 255], [255, 0, 0]));

        let mut interlaced = Vec::new();
        PngEncoder::new(&mut interlaced).write_image(&[9; 12], 2, 2, ColorType::Rgb8.into()).unwrap();
        assert!(has_rows_in_order(&interlaced));
        interlaced[28] = 1;
        assert!(!has_rows_in_order(&interlaced));
    }
}
