//! Reading columns: text forms become types here, and a row that does not parse is an error.

use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::StoreError;
use crate::domain::ids::{BatchId, ImageKey};
use crate::domain::money::MicroUsd;
use crate::domain::time::Timestamp;

/// Rows a statement: 12 columns each stay far below SQLite's 32,766 parameters.
pub(super) const ROWS_A_STATEMENT: usize = 500;

/// Typed access to the columns of a row, by name.
pub(super) trait Columns {
    /// A number.
    fn int(&self, column: &str) -> Result<i64, StoreError>;
    /// A number that may be null.
    fn optional_int(&self, column: &str) -> Result<Option<i64>, StoreError>;
    /// A text that may be null.
    fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError>;

    /// A text.
    fn text(&self, column: &str) -> Result<String, StoreError> {
        self.optional_text(column)?.ok_or_else(|| StoreError::corrupt(format_args!("{column} is null")))
    }

    /// A text that is the form of some type.
    fn parsed<T: FromStr<Err: std::fmt::Debug>>(&self, column: &str) -> Result<T, StoreError> {
        let text = self.text(column)?;
        text.parse().map_err(|error| StoreError::corrupt(format_args!("{column}: {error:?}")))
    }

    /// The same, where the text may be null.
    fn optional_parsed<T: FromStr<Err: std::fmt::Debug>>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let parse =
            |text: String| text.parse().map_err(|error| StoreError::corrupt(format_args!("{column}: {error:?}")));
        self.optional_text(column)?.map(parse).transpose()
    }

    /// JSON.
    fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        self.optional_json(column)?.ok_or_else(|| StoreError::corrupt(format_args!("{column} is null")))
    }

    /// JSON that may be null.
    fn optional_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|error| StoreError::corrupt(format_args!("{column}: {error}")))
        };
        self.optional_text(column)?.map(parse).transpose()
    }

    /// A count.
    fn count(&self, column: &str) -> Result<u32, StoreError> {
        u32::try_from(self.int(column)?).map_err(|_| StoreError::corrupt(format_args!("{column} is no count")))
    }

    /// An amount.
    fn money(&self, column: &str) -> Result<MicroUsd, StoreError> {
        Ok(MicroUsd::from_micros(self.int(column)?))
    }

    /// A point in time.
    fn time(&self, column: &str) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_millis(self.int(column)?))
    }

    /// A point in time that may be null.
    fn optional_time(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.optional_int(column)?.map(Timestamp::from_millis))
    }

    /// `batch_id`, `ordinal` and `variant`.
    fn image_key(&self) -> Result<ImageKey, StoreError> {
        let batch: BatchId = self.parsed("batch_id")?;
        Ok(ImageKey { batch, ordinal: self.count("ordinal")?, variant: self.count("variant")? })
    }
}

impl Columns for AnyRow {
    fn int(&self, column: &str) -> Result<i64, StoreError> {
        self.try_get(column).map_err(StoreError::corrupt)
    }

    fn optional_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.try_get(column).map_err(StoreError::corrupt)
    }

    fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.try_get(column).map_err(StoreError::corrupt)
    }
}

/// The JSON text of a value that is made of texts and numbers only.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::corrupt)
}

/// `($1,$2),($3,$4)…`: the VALUES of an insert of `rows` rows with `columns` columns.
pub(super) fn placeholders(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let columns: Vec<String> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", columns.join(","))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(",")
}

/// `rows`, the last one again up to a power of two, for a statement that does not mind: with few lengths, the prepared
/// statements of a connection serve again and again.
pub(super) fn padded<T>(rows: &[T]) -> impl ExactSizeIterator<Item = &T> {
    let length = if rows.is_empty() { 0 } else { rows.len().next_power_of_two() };
    (0..length).filter_map(|index| rows.get(index).or_else(|| rows.last())).collect::<Vec<_>>().into_iter()
}

/// `rows` in pieces of at most `most` whose lengths are powers of two: the same for a statement that does mind.
pub(super) fn pieces<T>(mut rows: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let length = 1 << rows.len().min(most).checked_ilog2()?;
        let (piece, rest) = rows.split_at_checked(length)?;
        rows = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_few_lengths() {
        assert_eq!(padded::<u8>(&[]).len(), 0);
        assert_eq!(padded(&[1]).collect::<Vec<_>>(), [&1]);
        assert_eq!(padded(&[1, 2, 3, 4, 5]).copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 5, 5, 5]);
        let rows: Vec<u8> = (0..150).collect();
        assert_eq!(pieces(&rows, 100).map(<[u8]>::len).collect::<Vec<_>>(), [64, 64, 16, 4, 2]);
        assert_eq!(pieces(&rows, 100).flatten().count(), 150);
        assert_eq!(pieces::<u8>(&[], 100).count(), 0);
    }

    #[test]
    fn placeholders_count_on_over_rows() {
        assert_eq!(placeholders(2, 3), "($1,$2,$3),($4,$5,$6)");
    }
}
