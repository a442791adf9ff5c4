//! Small files that are large pictures, and files that are no picture. Written by hand, so that nothing here
//! needs the memory that it asks for.

/// Just within the 25,000,000 pixels that a reference may have.
pub(crate) const SIDE: u16 = 5_000;

/// A small picture that every reader takes.
pub(crate) fn plain(format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x, y, 90].map(|value| u8::try_from(value).unwrap())))
        .write_to(&mut bytes, format)
        .unwrap();
    bytes.into_inner()
}

/// A PNG of one colour, of any size and kind, in about a thousandth of its pixels' bytes.
pub(crate) fn png(side: u32, colour: png::ColorType, depth: png::BitDepth) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    encoder.set_compression(png::Compression::Balanced);
    encoder.set_filter(png::Filter::NoFilter);
    let line = vec![0x40; colour.samples() * side as usize * (depth as usize) / 8];
    let mut writer = encoder.write_header().unwrap();
    let mut stream = writer.stream_writer().unwrap();
    for _ in 0..side {
        std::io::Write::write_all(&mut stream, &line).unwrap();
    }
    stream.finish().unwrap();
    drop(writer);
    bytes
}

/// The head of a PNG that says it is so large.
pub(crate) fn png_head(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Rgba);
    encoder.write_header().unwrap();
    bytes
}

/// A PNG with as much data as one needs that is a flat half gigabyte; who reads its head does not read on.
pub(crate) fn half_a_gigabyte() -> Vec<u8> {
    let mut bytes = png_head(11_180);
    let data = vec![0x92; 514 << 10];
    bytes.extend([&u32::try_from(data.len()).unwrap().to_be_bytes()[..], b"IDAT", &data].concat());
    bytes
}

/// How the scans of a JPEG are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scans {
    Baseline,
    Progressive,
}

/// A grey JPEG with full chroma: one or two bits a block.
pub(crate) fn jpeg(side: u16, scans: Scans) -> Vec<u8> {
    let [high, low] = side.to_be_bytes();
    let (frame, last, bits) = match scans {
        Scans::Baseline => (0xc0, 63, 2),
        Scans::Progressive => (0xc2, 0, 1),
    };
    let blocks = usize::from(side).div_ceil(8).pow(2) * 3;
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    bytes.extend([1; 64]);
    bytes.extend([0xff, frame, 0, 17, 8, high, low, high, low, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    for class in [0x00, 0x10] {
        // One code, the bit 0, for "no change" and "end of block".
        bytes.extend([0xff, 0xc4, 0, 20, class, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    bytes.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, last, 0]);
    bytes.extend(std::iter::repeat_n(0, (blocks * bits).div_ceil(8)));
    bytes.extend([0xff, 0xd9]);
    bytes
}

/// A black GIF: each LZW code stands for one pixel more than the one before.
pub(crate) fn gif(side: u16) -> Vec<u8> {
    const CLEAR: u32 = 256;
    let [low, high] = side.to_le_bytes();
    let mut bytes = b"GIF89a".to_vec();
    bytes.extend([low, high, low, high, 0xf7, 0, 0]);
    bytes.extend([0; 768]);
    bytes.extend([0x2c, 0, 0, 0, 0, low, high, low, high, 0, 8]);
    let (mut packed, mut waiting, mut filled) = (Vec::new(), 0_u64, 0);
    let mut emit = |code: u32, width: u32| {
        waiting |= u64::from(code) << filled;
        filled += width;
        while filled >= 8 {
            packed.push(waiting.to_le_bytes()[0]);
            waiting >>= 8;
            filled -= 8;
        }
    };
    let (mut left, mut run) = (u64::from(side).pow(2), 0_u64);
    let mut code = 4_096;
    while left > 0 {
        if code == 4_096 {
            emit(CLEAR, if run == 0 { 9 } else { 12 });
            emit(0, 9);
            (run, code) = (1, 258);
            left -= 1;
            continue;
        }
        // Of the last run, as long as is left: a run of n pixels has the code 256 + n.
        run = (run + 1).min(left);
        let width = (32 - u32::leading_zeros(code)).max(9);
        emit(if run == 1 { 0 } else { 256 + u32::try_from(run).unwrap() }, width);
        left -= run;
        code += 1;
    }
    emit(257, 12);
    emit(0, 8);
    for block in packed.chunks(255) {
        bytes.push(u8::try_from(block.len()).unwrap());
        bytes.extend(block);
    }
    bytes.extend([0, 0x3b]);
    bytes
}

/// A lossless WebP of one colour.
pub(crate) fn webp(side: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels = vec![0x40; side as usize * side as usize * 3];
    image::codecs::webp::WebPEncoder::new_lossless(&mut bytes)
        .encode(&pixels, side, side, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}
