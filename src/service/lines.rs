//! The lines of a day's ledger, one piece of it in memory at a time.
//!
//! Reads through [`LedgerReader`] alone and so changes nothing. Each piece starts where a line starts: a
//! torn line that an exporter cuts and writes anew meanwhile is read anew too.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::time::Day;
use crate::ledger::{LedgerError, LedgerReader, StoredChunk};

/// Bytes that are read at once; a longer line is read as a whole all the same.
const PIECE: usize = 256 << 10;

/// A line as it is stored, without its newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// Of the day's object.
    Stored { number: u64, text: Bytes },
    /// Of a chunk that is not appended yet.
    Chunked { number: u64, text: Bytes },
    /// The object's last one, which does not end.
    Torn { number: u64 },
}

/// Reads a day's object, then the lines that only chunks have.
pub(super) struct DayLines {
    reader: Arc<dyn LedgerReader>,
    day: Day,
    /// Where the next line starts.
    offset: u64,
    /// Lines of the object so far.
    count: u64,
    /// The last position that was given, chunks included.
    given: u64,
    object_ended: bool,
    torn: bool,
    chunks: VecDeque<StoredChunk>,
}

impl DayLines {
    /// Starts at the first line of `day`.
    pub(super) async fn open(reader: Arc<dyn LedgerReader>, day: Day) -> Result<Self, LedgerError> {
        // Before the object: a chunk that is gone later is in the object by then.
        let chunks = reader.chunks(day).await?.into();
        Ok(Self { reader, day, offset: 0, count: 0, given: 0, object_ended: false, torn: false, chunks })
    }

    /// Lines of the day's object so far.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// The next lines; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Line>>, LedgerError> {
        if !self.object_ended {
            let lines = self.next_of_object().await?;
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
            self.object_ended = true;
        }
        while let Some(chunk) = self.chunks.pop_front() {
            if chunk.to <= self.given.max(self.count) {
                continue;
            }
            if let Some(text) = self.reader.read_chunk(&chunk).await? {
                return Ok(Some(self.split_chunk(&chunk, &text)));
            }
            // Appended and swept since; but what a chunk gave is not read again from the object.
            if self.given == 0 {
                let lines = self.next_of_object().await?;
                if !lines.is_empty() {
                    self.object_ended = false;
                    return Ok(Some(lines));
                }
            }
        }
        Ok(std::mem::take(&mut self.torn).then(|| vec![Line::Torn { number: self.count + 1 }]))
    }

    async fn next_of_object(&mut self) -> Result<Vec<Line>, LedgerError> {
        let mut at_most = PIECE;
        loop {
            let piece = self.reader.read_object(self.day, self.offset, at_most).await?;
            if let Some(end) = piece.iter().rposition(|byte| *byte == b'\n') {
                self.torn = false;
                self.offset += end as u64 + 1;
                return Ok(self.split(&piece.slice(..end)));
            }
            if piece.len() < at_most {
                self.torn = !piece.is_empty();
                return Ok(Vec::new());
            }
            at_most = at_most.saturating_mul(2);
        }
    }

    fn split(&mut self, piece: &Bytes) -> Vec<Line> {
        let first = self.count + 1;
        let texts = piece.split(|byte| *byte == b'\n').map(|text| piece.slice_ref(text));
        let lines: Vec<Line> = (first..).zip(texts).map(|(number, text)| Line::Stored { number, text }).collect();
        self.count += lines.len() as u64;
        lines
    }

    /// The lines of a chunk that neither the object nor an earlier chunk has.
    fn split_chunk(&mut self, chunk: &StoredChunk, text: &Bytes) -> Vec<Line> {
        let known = self.given.max(self.count);
        let whole = text.strip_suffix(b"\n").unwrap_or(text);
        let texts = whole.split(|byte| *byte == b'\n').map(|line| text.slice_ref(line));
        let lines = (chunk.from..).zip(texts).filter(|(number, _)| *number > known);
        self.given = known.max(chunk.to);
        lines.map(|(number, text)| Line::Chunked { number, text }).collect()
    }
}

#[cfg(test)]
mod tests;
