//! Money: integer newtypes with checked arithmetic. A float exists only in rendered JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Money in millionths of a US dollar. Never a float; never a bare integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MicroUsd(i64);

/// Money in billionths of a US dollar: the unit in which the parts of one charge are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NanoUsd(i64);

/// Why an amount could not be computed or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The result does not fit 64 bits.
    #[error("amount of money out of range")]
    OutOfRange,
    /// The text is not a decimal number of dollars that is zero or more.
    #[error("not an amount in US dollars with at most {0} decimals")]
    NotAnAmount(u32),
}

impl MicroUsd {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// More than any budget: what a limit is while none is set.
    pub const MAX: Self = Self(i64::MAX);

    /// Wraps a count of millionths of a dollar.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The count of millionths of a dollar.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Adds two amounts.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the sum does not fit.
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyError::OutOfRange)
    }

    /// Subtracts `other`; the result may be negative.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the difference does not fit.
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_sub(other.0).map(Self).ok_or(MoneyError::OutOfRange)
    }

    /// Multiplies by a count.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the product does not fit.
    pub fn times(self, count: u32) -> Result<Self, MoneyError> {
        self.0.checked_mul(i64::from(count)).map(Self).ok_or(MoneyError::OutOfRange)
    }

    /// This amount, or nothing if it is negative.
    #[must_use]
    pub fn or_zero(self) -> Self {
        Self(self.0.max(0))
    }
}

impl NanoUsd {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// Wraps a count of billionths of a dollar.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Adds two amounts.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the sum does not fit.
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyError::OutOfRange)
    }

    /// Multiplies by a count of tokens.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] if the product does not fit.
    pub fn times(self, count: u64) -> Result<Self, MoneyError> {
        let count = i64::try_from(count).map_err(|_| MoneyError::OutOfRange)?;
        self.0.checked_mul(count).map(Self).ok_or(MoneyError::OutOfRange)
    }

    /// Rounds up to whole millionths: the one rounding of a charge.
    #[must_use]
    pub fn round_up(self) -> MicroUsd {
        MicroUsd(self.0.div_euclid(1_000) + i64::from(self.0.rem_euclid(1_000) != 0))
    }
}

/// Reads a decimal number, zero or more, as an integer scaled by `10^decimals`.
fn parse_scaled(text: &str, decimals: u32) -> Result<i64, MoneyError> {
    let bad = MoneyError::NotAnAmount(decimals);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return Err(bad);
    }
    let width = decimals as usize;
    if fraction.len() > width {
        return Err(bad);
    }
    let whole: i64 = whole.parse().map_err(|_| MoneyError::OutOfRange)?;
    let fraction: i64 = format!("{fraction:0<width$}").parse().map_err(|_| bad)?;
    whole
        .checked_mul(10_i64.pow(decimals))
        .and_then(|scaled| scaled.checked_add(fraction))
        .ok_or(MoneyError::OutOfRange)
}

impl FromStr for MicroUsd {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        parse_scaled(text, 6).map(Self)
    }
}

impl FromStr for NanoUsd {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        parse_scaled(text, 9).map(Self)
    }
}

impl fmt::Display for MicroUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (self.0.unsigned_abs() / 1_000_000, self.0.unsigned_abs() % 1_000_000);
        let digits = format!("{fraction:06}");
        let digits = digits.trim_end_matches('0');
        write!(f, "{sign}{whole}{}{digits}", if digits.is_empty() { "" } else { "." })
    }
}

impl Serialize for MicroUsd {
    /// Writes dollars as a JSON number; exact to the micro-dollar below nine billion dollars.
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_precision_loss, reason = "a rendering; 53 bits hold any real budget")]
        to.serialize_f64(self.0 as f64 / 1e6)
    }
}

impl<'de> Deserialize<'de> for MicroUsd {
    /// Reads dollars as a JSON number, rounded to the micro-dollar.
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(from)?;
        format!("{dollars:.6}").parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_and_written_without_loss() {
        for text in ["0", "0.0336", "100", "12.345678", "0.000001"] {
            let amount: MicroUsd = text.parse().unwrap();
            assert_eq!(amount.to_string(), text);
            let json = serde_json::to_string(&amount).unwrap();
            assert_eq!(serde_json::from_str::<MicroUsd>(&json).unwrap(), amount);
        }
        for text in ["", "-1", "1.", ".5", "1e3", "0.0000001", "$5", "9999999999999999"] {
            assert!(text.parse::<MicroUsd>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_charge_is_rounded_up_once() {
        assert_eq!(NanoUsd::from_nanos(1).round_up(), MicroUsd::from_micros(1));
        assert_eq!(NanoUsd::from_nanos(1_000).round_up(), MicroUsd::from_micros(1));
        assert_eq!(NanoUsd::from_nanos(1_001).round_up(), MicroUsd::from_micros(2));
        assert_eq!(NanoUsd::ZERO.round_up(), MicroUsd::ZERO);
    }

    #[test]
    fn arithmetic_that_overflows_is_an_error() {
        assert_eq!(MicroUsd::MAX.plus(MicroUsd::from_micros(1)), Err(MoneyError::OutOfRange));
        assert_eq!(MicroUsd::MAX.times(2), Err(MoneyError::OutOfRange));
    }
}
