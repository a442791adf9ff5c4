use image::codecs::gif::GifEncoder;
use image::{Frame, ImageBuffer, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

const MAX_PIXELS: u64 = 25_000_000;

/// Left half red, right half blue: what is left, right and up can be told.
fn two_halves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) })
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decoded(prepared: &Prepared) -> RgbImage {
    let format = match prepared.format {
        PictureFormat::Png => ImageFormat::Png,
        PictureFormat::Jpeg => ImageFormat::Jpeg,
        PictureFormat::Webp => ImageFormat::WebP,
    };
    image::load_from_memory_with_format(&prepared.bytes, format).unwrap().into_rgb8()
}

/// EXIF with an orientation, a camera and a place.
fn exif(orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0".to_vec();
    exif.extend(b"II*\0\x08\0\0\0\x02\0");
    exif.extend([0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0]);
    exif.extend([0x25, 0x88, 4, 0, 1, 0, 0, 0, 0x26, 0, 0, 0]);
    exif.extend([0, 0, 0, 0]);
    exif.extend(b"GPSLatitude 52.5200 N");
    exif
}

/// A JPEG with an APP1 segment behind its first marker.
fn jpeg_with(picture: &RgbImage, exif: &[u8]) -> Vec<u8> {
    let plain = encoded(&picture.clone().into(), ImageFormat::Jpeg);
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&plain[..2], &[0xff, 0xe1], &length, exif, &plain[2..]].concat()
}

fn png_chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    let mut crc = !0_u32;
    for byte in &body {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    [&u32::try_from(data.len()).unwrap().to_be_bytes()[..], &body, &(!crc).to_be_bytes()].concat()
}

/// A PNG that claims to be so large; its pixels are missing.
fn png_header(width: u32, height: u32, bits: u8) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[bits, 6, 0, 0, 0]].concat();
    let data = png_chunk(*b"IDAT", &[0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
    [b"\x89PNG\r\n\x1a\n".to_vec(), png_chunk(*b"IHDR", &header), data, png_chunk(*b"IEND", b"")].concat()
}

fn unusable(bytes: &[u8]) -> String {
    match prepare(bytes, MAX_PIXELS) {
        Err(ReferenceError::Unusable(detail)) => detail,
        other => panic!("{other:?}"),
    }
}

fn is_too_large(bytes: &[u8], max_pixels: u64) -> bool {
    matches!(prepare(bytes, max_pixels), Err(ReferenceError::TooLarge(_)))
}

#[test]
fn the_four_kinds_are_taken_and_come_out_as_png_or_jpeg() {
    for (format, out) in [
        (ImageFormat::Png, PictureFormat::Png),
        (ImageFormat::Jpeg, PictureFormat::Jpeg),
        (ImageFormat::WebP, PictureFormat::Png),
        (ImageFormat::Gif, PictureFormat::Png),
    ] {
        let prepared = prepare(encoded(&two_halves(64, 32).into(), format), MAX_PIXELS).unwrap();
        assert_eq!((prepared.format, prepared.width, prepared.height), (out, 64, 32), "{format:?}");
        assert_eq!(PictureFormat::of_magic(&prepared.bytes), Some(out));
        let Rgb([red, _, blue]) = *decoded(&prepared).get_pixel(8, 8);
        assert!(red > 200 && blue < 60, "{format:?}");
    }
}

#[test]
fn transparency_is_kept_and_sixteen_bits_become_eight() {
    let clear = DynamicImage::ImageRgba8(RgbaImage::from_pixel(4, 4, Rgba([9, 8, 7, 0])));
    let prepared = prepare(encoded(&clear, ImageFormat::Png), MAX_PIXELS).unwrap();
    assert_eq!(image::load_from_memory(&prepared.bytes).unwrap().into_rgba8().get_pixel(0, 0).0, [9, 8, 7, 0]);
    let deep = DynamicImage::ImageRgb16(ImageBuffer::from_pixel(4, 4, Rgb([65_535, 0, 0])));
    let prepared = prepare(encoded(&deep, ImageFormat::Png), MAX_PIXELS).unwrap();
    assert_eq!(image::load_from_memory(&prepared.bytes).unwrap().color(), image::ColorType::Rgb8);
}

#[test]
fn of_an_animation_the_first_frame_is_taken() {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for colour in [[255, 0, 0, 255], [0, 255, 0, 255]] {
        encoder.encode_frame(Frame::new(RgbaImage::from_pixel(8, 8, Rgba(colour)))).unwrap();
    }
    drop(encoder);
    assert_eq!(decoded(&prepare(&bytes, MAX_PIXELS).unwrap()).get_pixel(0, 0).0, [255, 0, 0]);
}

#[test]
fn everything_else_is_refused_by_name() {
    for (bytes, name) in [
        (&b""[..], "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<SVG>", "an SVG"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"<HTML><body>", "an HTML page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML text"),
        (b"%PDF-1.7", "a PDF"),
        (b"BM\0\0\0\0", "a BMP"),
        (b"II*\0aaaa", "a TIFF"),
        (b"\0\0\0\x20ftypavif\0\0", "an AVIF"),
        (b"\0\0\0\x20ftypheic\0\0", "a HEIC"),
        (b"\x1f\x8b\x08\0", "gzip data"),
        (b"{\"token\":\"secret\"}", "no picture"),
        (b"RIFF\0\0\0\0WAVE", "no picture"),
        (b"GIF86a", "no picture"),
    ] {
        let told = unusable(bytes);
        assert!(told.starts_with(&format!("it is {name};")), "{name}: {told}");
        assert!(!told.contains("secret") && !told.contains("Denied"));
    }
}

#[test]
fn dimensions_are_refused_before_anything_is_decoded() {
    assert!(is_too_large(&png_header(20_000, 20_000, 8), MAX_PIXELS));
    assert!(is_too_large(&png_header(u32::MAX >> 1, u32::MAX >> 1, 8), MAX_PIXELS));
    // Few pixels, but each row is a hundred megabytes.
    assert!(is_too_large(&png_header(25_000_000, 1, 8), MAX_PIXELS));
    let jpeg = encoded(&two_halves(32, 32).into(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let mut lying = jpeg.clone();
    lying[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert!(is_too_large(&lying, MAX_PIXELS));
    let mut gif = encoded(&two_halves(8, 8).into(), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0xff, 0x7f, 0xff, 0x7f]);
    assert!(is_too_large(&gif, MAX_PIXELS));
}

/// A WebP whose head says 10x10, with a lossy frame that says it is as large as can be.
fn webp_with_a_large_frame() -> Vec<u8> {
    let chunk = |kind: &[u8], data: &[u8]| [kind, &u32::try_from(data.len()).unwrap().to_le_bytes(), data].concat();
    let canvas = chunk(b"VP8X", &[0, 0, 0, 0, 9, 0, 0, 9, 0, 0]);
    let frame = chunk(b"VP8 ", &[&[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0x3f, 0xff, 0x3f][..], &[0; 100]].concat());
    chunk(b"RIFF", &[b"WEBP", &canvas[..], &frame].concat())
}

#[test]
fn a_webp_frame_that_is_larger_than_its_canvas_gets_no_memory() {
    assert!(is_too_large(&webp_with_a_large_frame(), MAX_PIXELS));
}

#[test]
fn what_must_be_held_as_a_whole_has_less_room_than_what_is_read_by_rows() {
    let mut interlaced = png_header(4_000, 4_000, 16);
    interlaced[28] = 1;
    let header = png_chunk(*b"IHDR", &interlaced[16..29]);
    interlaced[8..33].copy_from_slice(&header);
    assert!(is_too_large(&interlaced, MAX_PIXELS));
    unusable(&png_header(4_000, 4_000, 8));
    unusable(&png_header(4_000, 4_000, 16));
    // The same size costs more as a progressive JPEG, whose coefficients are kept: its second byte says which.
    let mut jpeg = encoded(&two_halves(32, 32).into(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x0f, 0xa0, 0x0f, 0xa0]);
    assert!(!is_too_large(&jpeg, MAX_PIXELS));
    jpeg[frame + 1] = 0xc2;
    assert!(is_too_large(&jpeg, MAX_PIXELS));
}

#[test]
fn a_jpeg_with_two_heads_is_refused() {
    let jpeg = encoded(&two_halves(32, 32).into(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let twice = [&jpeg[..frame], &jpeg[frame..frame + 19], &jpeg[frame..]].concat();
    unusable(&twice);
}

#[test]
fn an_interlaced_png_is_taken() {
    // One pixel is all of its first pass: filter byte and colour.
    let header = [&1_u32.to_be_bytes()[..], &1_u32.to_be_bytes(), &[8, 2, 0, 0, 1]].concat();
    let data = png_chunk(*b"IDAT", &[0x78, 0x01, 1, 4, 0, 0xfb, 0xff, 0, 9, 8, 7, 0x00, 0x36, 0x00, 0x19]);
    let png = [b"\x89PNG\r\n\x1a\n".to_vec(), png_chunk(*b"IHDR", &header), data, png_chunk(*b"IEND", b"")].concat();
    assert_eq!(decoded(&prepare(&png, MAX_PIXELS).unwrap()).get_pixel(0, 0).0, [9, 8, 7]);
}

#[test]
fn a_gif_frame_that_is_larger_than_its_canvas_gets_no_memory() {
    let mut gif = encoded(&two_halves(8, 8).into(), ImageFormat::Gif);
    let frame = gif.windows(9).position(|window| window == [0x2c, 0, 0, 0, 0, 8, 0, 8, 0]).unwrap();
    gif[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert!(prepare(&gif, MAX_PIXELS).is_err());
}

#[test]
fn the_pixel_limit_itself_fits() {
    let bytes = encoded(&two_halves(40, 30).into(), ImageFormat::Png);
    assert!(prepare(&bytes, 1_200).is_ok());
    assert!(is_too_large(&bytes, 1_199));
}

#[test]
fn a_truncated_picture_is_refused() {
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif] {
        let whole = encoded(&noise(64, 64), format);
        unusable(&whole[..whole.len() / 2]);
        unusable(&whole[..20]);
    }
    unusable(b"\x89PNG\r\n\x1a\n");
    unusable(b"\xff\xd8\xff");
    unusable(&png_header(100, 100, 8));
}

#[test]
fn a_jpeg_that_is_cut_off_is_refused_even_with_a_whole_thumbnail_inside() {
    let thumbnail = encoded(&two_halves(8, 8).into(), ImageFormat::Jpeg);
    let whole = jpeg_with(&noise(64, 64).into_rgb8(), &[&exif(1)[..], &thumbnail].concat());
    assert!(prepare(&whole, MAX_PIXELS).is_ok());
    for left in [whole.len() - 2, whole.len() / 2] {
        assert_eq!(unusable(&whole[..left]), "it is cut off");
    }
}

fn noise(width: u32, height: u32) -> DynamicImage {
    let mut state = 1_u32;
    RgbImage::from_fn(width, height, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = state.to_be_bytes();
        Rgb([a, b, c])
    })
    .into()
}

#[test]
fn orientation_is_applied() {
    // 6: to be turned a quarter clockwise; the left half comes to the top. 3: upside down.
    let turned = prepare(jpeg_with(&two_halves(64, 32), &exif(6)), MAX_PIXELS).unwrap();
    assert_eq!((turned.width, turned.height), (32, 64));
    let Rgb([red, _, blue]) = *decoded(&turned).get_pixel(16, 8);
    assert!(red > 200 && blue < 60);
    let over = prepare(jpeg_with(&two_halves(64, 32), &exif(3)), MAX_PIXELS).unwrap();
    let Rgb([red, _, blue]) = *decoded(&over).get_pixel(8, 8);
    assert!(red < 60 && blue > 200);
}

#[test]
fn metadata_and_trailing_bytes_do_not_go_on() {
    let html = b"<html><script>alert(1)</script></html>";
    let jpeg = [&jpeg_with(&two_halves(32, 32), &exif(1)), &html[..]].concat();
    let plain = encoded(&two_halves(32, 32).into(), ImageFormat::Png);
    let end = plain.len() - 12;
    let text = png_chunk(*b"tEXt", b"Comment\0GPSLatitude 52.5200 N");
    let png = [&plain[..end], &text, &png_chunk(*b"eXIf", &exif(1)[6..]), &plain[end..], html].concat();
    for (bytes, traces) in [(jpeg, &[&b"GPS"[..], b"Exif", b"<html>"]), (png, &[&b"GPS"[..], b"eXIf", b"<html>"])] {
        let prepared = prepare(&bytes, MAX_PIXELS).unwrap();
        for trace in traces {
            let found = |bytes: &[u8]| bytes.windows(trace.len()).any(|window| window == *trace);
            assert!(found(&bytes) && !found(&prepared.bytes));
        }
    }
}

#[test]
fn a_large_picture_is_scaled_down_and_keeps_its_shape() {
    let prepared = prepare(encoded(&two_halves(4_096, 1_024).into(), ImageFormat::Png), MAX_PIXELS).unwrap();
    assert_eq!((prepared.width, prepared.height), (2_048, 512));
    assert_eq!(decoded(&prepared).get_pixel(2_000, 10).0, [0, 0, 255]);
    let strip = prepare(encoded(&two_halves(20_000, 2).into(), ImageFormat::Png), MAX_PIXELS).unwrap();
    assert_eq!((strip.width, strip.height), (2_048, 1));
    let fits = prepare(encoded(&two_halves(2_048, 16).into(), ImageFormat::Png), MAX_PIXELS).unwrap();
    assert_eq!((fits.width, fits.height), (2_048, 16));
}
