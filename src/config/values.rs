//! The forms in which values are written: durations, sizes, booleans. Pure; knows no variable's name.

use std::time::Duration;

/// What [`duration`] reads.
pub const DURATION: &str = "a duration such as 12h, 5m, 10s or 500ms";
/// What [`size`] reads.
pub(super) const SIZE: &str = "a size such as 10MiB, 512KiB or a count of bytes";
/// What [`boolean`] reads.
pub(super) const BOOLEAN: &str = "true or false (also 1 or 0, yes or no)";
/// What an amount of money looks like.
pub(super) const MONEY: &str = "an amount in US dollars such as 100 or 0.05, at most six decimals";

/// Splits `12h` into 12 and `h`. A fraction, a sign or a missing number is no value.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Reads a number with one of the units `ms`, `s`, `m`, `h`, `d`. A bare number other than 0 has no unit and is refused.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let millis_a_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 1,
        _ => return None,
    };
    number.checked_mul(millis_a_unit).map(Duration::from_millis)
}

/// Reads a number of bytes, or of `KiB`, `MiB`, `GiB`, or of `kB`, `MB`, `GB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let bytes_a_unit = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(bytes_a_unit)
}

/// Reads a flag, ignoring case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Some(true),
        "false" | "0" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, millis) in
            [("12h", 43_200_000), ("5m", 300_000), ("10s", 10_000), ("500ms", 500), ("7d", 604_800_000)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("0"), Some(Duration::ZERO));
        for text in
            ["", "s", "10", "-1s", "1.5s", "1h30m", "10 parsecs", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        for (text, bytes) in [("10MiB", 10_485_760), ("16 MiB", 16_777_216), ("512", 512), ("1GB", 1_000_000_000)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5MiB", "-1", "10mib", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_flag_has_six_spellings() {
        for text in ["true", "TRUE", "1", "yes"] {
            assert_eq!(boolean(text), Some(true));
        }
        for text in ["false", "0", "No"] {
            assert_eq!(boolean(text), Some(false));
        }
        for text in ["", "on", "2"] {
            assert_eq!(boolean(text), None, "{text}");
        }
    }
}
