//! What decoding a picture as a whole would take, found out from its head.
//!
//! The decoders of these formats hold what they decode as a whole, and some hold more beside it, which no limit
//! of theirs knows. Each number was checked with the process's peak memory.

use image::ImageFormat;

/// The head of a JPEG.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Frame {
    progressive: bool,
    /// Bytes of all coefficients, padded to whole blocks: a progressive picture is held as these.
    coefficients: u64,
}

/// Bytes that decoding takes, the picture included; `None` for a head that nobody can read.
pub(super) fn of(bytes: &[u8], format: ImageFormat, pixels: u64, picture_bytes: u64) -> Option<u64> {
    match format {
        ImageFormat::Jpeg => {
            let frame = jpeg_frame(bytes)?;
            Some(picture_bytes + if frame.progressive { frame.coefficients } else { 0 })
        }
        ImageFormat::WebP => Some(picture_bytes + pixels.max(webp_pixels(bytes)) * webp_bytes_per_pixel(bytes)),
        _ => Some(picture_bytes),
    }
}

/// Pixels of the largest lossy frame. The decoder takes the size from the frame and compares it with that of the
/// file only when it is done.
fn webp_pixels(bytes: &[u8]) -> u64 {
    // Wherever the letters are: a frame that the decoder finds has them, however the chunks are nested.
    let frames = bytes.windows(18).filter(|window| window.starts_with(b"VP8 "));
    let size = |at: &[u8]| u64::from(u16::from_le_bytes([at[0], at[1]]) & 0x3fff);
    frames.map(|frame| size(&frame[14..]) * size(&frame[16..])).max().unwrap_or(0)
}

/// What is held beside the picture.
fn webp_bytes_per_pixel(bytes: &[u8]) -> u64 {
    let has = |kind: &[u8]| bytes.windows(4).any(|window| window == kind);
    if has(b"ANMF") || has(b"ALPH") {
        // A frame and its canvas, or the planes of a lossy frame and those of its alpha.
        8
    } else if has(b"VP8L") {
        // A copy with alpha.
        4
    } else {
        // A plane of brightness, and two of a quarter.
        2
    }
}

/// The decoder fills what is missing of a JPEG with grey and calls it done; a paid picture would be made after it.
pub(super) fn has_end_of_jpeg(bytes: &[u8]) -> bool {
    let mut segments = Segments(bytes);
    // Before a scan an end marker may belong to an embedded thumbnail; within one it is nothing else.
    segments.any(|(marker, _)| marker == START_OF_SCAN) && segments.0.windows(2).any(|pair| pair == [0xff, 0xd9])
}

fn jpeg_frame(bytes: &[u8]) -> Option<Frame> {
    let heads = Segments(bytes).take_while(|(marker, _)| *marker != START_OF_SCAN);
    let mut frames =
        heads.filter(|(marker, _)| matches!(marker, 0xc0..=0xc2)).map(|(marker, body)| frame(marker, body));
    let frame = frames.next()??;
    frames.next().is_none().then_some(frame)
}

fn frame(marker: u8, body: &[u8]) -> Option<Frame> {
    let [_, y1, y2, x1, x2, count, components @ ..] = body else { return None };
    let (width, height) = (u16::from_be_bytes([*x1, *x2]), u16::from_be_bytes([*y1, *y2]));
    let factors = |component: &[u8]| component.get(1).map(|packed| (u64::from(packed >> 4), u64::from(packed & 15)));
    let components = components.chunks_exact(3).take(usize::from(*count));
    let factors: Vec<_> = components.filter_map(factors).collect();
    let (across, down) = (factors.iter().map(|f| f.0).max()?, factors.iter().map(|f| f.1).max()?);
    if across == 0 || down == 0 {
        return None;
    }
    let units = u64::from(width).div_ceil(8 * across) * u64::from(height).div_ceil(8 * down);
    let blocks: u64 = factors.iter().map(|(across, down)| across * down * units).sum();
    Some(Frame { progressive: marker == 0xc2, coefficients: blocks * 64 * 2 })
}

const START_OF_SCAN: u8 = 0xda;

/// The segments of a JPEG up to its first scan, each as its marker and its body.
struct Segments<'a>(&'a [u8]);

impl<'a> Iterator for Segments<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.0.windows(2).position(|pair| matches!(pair, [0xff, kind] if !matches!(kind, 0 | 0xff)))?;
        let [_, marker, after @ ..] = self.0.get(start..)? else { return None };
        let length = match (marker, after) {
            (0x01 | 0xd0..=0xd9, _) => 0,
            (_, [high, low, ..]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => after.len(),
        };
        let (segment, rest) = after.split_at_checked(length).unwrap_or((after, &[]));
        self.0 = if *marker == START_OF_SCAN { after } else { rest };
        Some((*marker, segment.get(2..).unwrap_or_default()))
    }
}
