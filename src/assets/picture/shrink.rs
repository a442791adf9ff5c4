//! Scaling down by averages, a row at a time: what is large is never held as a whole.

use std::io::{BufRead, Cursor, Seek};

use image::{ColorType, DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use png::Transformations;

/// What reading a PNG by rows may take beside its file, in bytes: two rows, and what it unpacks of metadata.
const SCRATCH: usize = 4 << 20;

/// Averages rows into the rows of a smaller picture. Takes 8 bits a channel.
struct Shrinker {
    size: (u32, u32),
    height: u32,
    channels: usize,
    /// How many pixels become one, for each pixel of a row that comes out.
    across: Vec<u32>,
    /// Of the rows that become one, sample by sample: rows are added as a whole, which is a few instructions for many
    /// samples, and pixels are put together once they are.
    sums: Vec<u32>,
    /// Rows in `sums`.
    rows: u32,
    taken: u32,
    line: Vec<u8>,
}

impl Shrinker {
    /// For a picture of `width` and `height`, whose longest side shall be `longest` at most.
    fn new((width, height): (u32, u32), channels: u8, longest: u32) -> Self {
        let size = fit((width, height), longest);
        let channels = usize::from(channels);
        let start = |x: u32| scale(x, width, size.0, u64::div_ceil);
        let across: Vec<u32> = (0..size.0).map(|x| start(x + 1) - start(x)).collect();
        let (sums, line) = (vec![0; width as usize * channels], vec![0; across.len() * channels]);
        Self { size, height, channels, across, sums, rows: 0, taken: 0, line }
    }

    /// Takes the next row; returns one that is done.
    fn add(&mut self, row: &[u8]) -> Option<&[u8]> {
        for (sum, sample) in self.sums.iter_mut().zip(row) {
            *sum += u32::from(*sample);
        }
        let belongs_to = |row| scale(row, self.size.1, self.height, |a, b| a / b);
        self.rows += 1;
        self.taken += 1;
        if belongs_to(self.taken - 1) == belongs_to(self.taken) {
            return None;
        }
        let mut rest = self.sums.as_slice();
        for (&count, line) in self.across.iter().zip(self.line.chunks_exact_mut(self.channels)) {
            let (block, after) = rest.split_at_checked(count as usize * self.channels)?;
            rest = after;
            // Multiplied, as dividing is the slowest thing that a processor does.
            let share = 1.0 / f64::from(count * self.rows);
            let mut sums = [0_u32; 4];
            for pixel in block.chunks_exact(self.channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, sample)| *sum += sample);
            }
            line.iter_mut().zip(sums).for_each(|(sample, sum)| *sample = rounded(f64::from(sum) * share));
        }
        self.sums.fill(0);
        self.rows = 0;
        Some(&self.line)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an average of bytes is a byte")]
const fn rounded(average: f64) -> u8 {
    (average + 0.5) as u8
}

/// Reads a PNG as [`by_rows`] takes it, and nothing that it does not need.
pub(crate) fn png_decoder(bytes: &[u8]) -> png::Decoder<Cursor<&[u8]>> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: SCRATCH });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder
}

/// What `reader` reads, with a longest side of `longest` at most, written into `samples`. The rows must come in order
/// and with 8 bits a channel. `None` if the file is damaged.
pub(crate) fn by_rows(
    reader: &mut png::Reader<impl BufRead + Seek>,
    longest: u32,
    mut samples: Vec<u8>,
) -> Option<DynamicImage> {
    let channels = u8::try_from(reader.output_color_type().0.samples()).ok()?;
    let mut shrinker = Shrinker::new(reader.info().size(), channels, longest);
    while let Some(row) = reader.next_row().ok()? {
        if let Some(line) = shrinker.add(row.data()) {
            samples.extend_from_slice(line);
        }
    }
    of_samples(shrinker.size, channels, samples)
}

/// `picture` with a longest side of `longest` at most, in the memory that it has.
pub(crate) fn in_place(picture: DynamicImage, longest: u32) -> Option<DynamicImage> {
    let size = (picture.width(), picture.height());
    if size.0.max(size.1) <= longest {
        return Some(picture);
    }
    let channels = picture.color().channel_count();
    let mut shrinker = Shrinker::new(size, channels, longest);
    let mut samples = picture.into_bytes();
    let row_length = size.0 as usize * usize::from(channels);
    // What comes out is written over what was read: it is never longer.
    let mut written = 0;
    for start in (0..samples.len()).step_by(row_length) {
        let Some(line) = shrinker.add(samples.get(start..start + row_length)?) else { continue };
        samples.get_mut(written..written + line.len())?.copy_from_slice(line);
        written += line.len();
    }
    samples.truncate(written);
    of_samples(shrinker.size, channels, samples)
}

/// The picture with 8 bits a channel.
pub(crate) fn to_eight_bits(picture: DynamicImage) -> DynamicImage {
    match picture.color() {
        ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8 => picture,
        color if color.has_alpha() => DynamicImage::ImageRgba8(picture.into_rgba8()),
        _ => DynamicImage::ImageRgb8(picture.into_rgb8()),
    }
}

/// The picture with these samples; `None` if they are not as many as they must be.
pub(crate) fn of_samples((width, height): (u32, u32), channels: u8, samples: Vec<u8>) -> Option<DynamicImage> {
    Some(match channels {
        1 => DynamicImage::ImageLuma8(GrayImage::from_raw(width, height, samples)?),
        2 => DynamicImage::ImageLumaA8(GrayAlphaImage::from_raw(width, height, samples)?),
        3 => DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, samples)?),
        4 => DynamicImage::ImageRgba8(RgbaImage::from_raw(width, height, samples)?),
        _ => return None,
    })
}

/// The size in the same shape, the longest side of which is `longest` at most.
fn fit((width, height): (u32, u32), longest: u32) -> (u32, u32) {
    let side = width.max(height);
    if side <= longest {
        return (width, height);
    }
    let scaled = |length| scale(length, longest, side, |a, b| (a + b / 2) / b).max(1);
    (scaled(width), scaled(height))
}

/// `value * to / from`, divided as `divide` does.
fn scale(value: u32, to: u32, from: u32, divide: impl Fn(u64, u64) -> u64) -> u32 {
    let scaled = divide(u64::from(value) * u64::from(to), u64::from(from.max(1)));
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn each_pixel_is_the_average_of_what_it_stands_for() {
        let picture =
            RgbImage::from_fn(10, 6, |x, y| Rgb([u8::try_from(x * 10).unwrap(), u8::try_from(y * 20).unwrap(), 7]));
        let half = in_place(picture.clone().into(), 5).unwrap().into_rgb8();
        assert_eq!(half.dimensions(), (5, 3));
        for (x, y, pixel) in half.enumerate_pixels() {
            let expected = [x * 20 + 5, y * 40 + 10, 7].map(|value| u8::try_from(value).unwrap());
            assert_eq!(pixel.0, expected, "{x} {y}");
        }
        assert_eq!(in_place(picture.clone().into(), 10).unwrap().into_rgb8(), picture);
    }

    #[test]
    fn every_shape_comes_out_whole() {
        for (width, height) in [(1, 1), (7, 3), (3, 7), (100, 1), (1, 100), (99, 98), (64, 5), (11, 10)] {
            for longest in [1, 2, 3, 5, 10, 63] {
                let picture = RgbImage::from_pixel(width, height, Rgb([1, 128, 255]));
                let small = in_place(picture.into(), longest).unwrap().into_rgb8();
                assert_eq!(small.dimensions(), fit((width, height), longest));
                assert!(small.width().max(small.height()) <= longest.max(1));
                assert!(small.pixels().all(|pixel| pixel.0 == [1, 128, 255]), "{width}x{height} to {longest}");
            }
        }
    }
}
