//! Pictures as a model makes them.

/// A 1024x1024 PNG of about 1.3 MB: what a model's picture weighs.
pub(crate) fn large_picture() -> Vec<u8> {
    picture(1_024, 5)
}

/// A PNG of about 50 KB.
pub(crate) fn small_picture() -> Vec<u8> {
    picture(200, 5)
}

/// A square picture with some noise, without which it would pack to nothing.
fn picture(side: u32, noise: u32) -> Vec<u8> {
    let value = |x: u32, y: u32, channel: u32| {
        let mut hash = (x * 31 + y * 7_919 + channel * 104_729).wrapping_mul(0x9E37_79B9);
        hash ^= hash >> 15;
        u8::try_from((x + y) / 16 % 200 + hash.wrapping_mul(0x85EB_CA6B) % noise).unwrap()
    };
    let image =
        image::RgbImage::from_fn(side, side, |x, y| image::Rgb([value(x, y, 0), value(x, y, 1), value(x, y, 2)]));
    let mut png = Vec::new();
    image.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}
