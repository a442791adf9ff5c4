use std::sync::Mutex;

use async_trait::async_trait;

use super::*;

const DAY: Day = Day::from_number(20_000);

/// A ledger in memory, in which something may happen before each read.
#[derive(Default)]
struct Scripted {
    object: Mutex<Vec<u8>>,
    chunks: Mutex<Vec<(StoredChunk, Bytes)>>,
    /// Appends the first chunk and sweeps it before it is read.
    sweeps: bool,
}

fn chunk(from: u64, to: u64) -> (StoredChunk, Bytes) {
    let lines: Vec<u8> = (from..=to).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    (StoredChunk { from, to, name: format!("{from}-{to}") }, lines.into())
}

#[async_trait]
impl LedgerReader for Scripted {
    async fn days(&self) -> Result<Vec<Day>, LedgerError> {
        Ok(vec![DAY])
    }

    async fn read_object(&self, _: Day, from: u64, at_most: usize) -> Result<Bytes, LedgerError> {
        let object = self.object.lock().unwrap();
        let from = usize::try_from(from).unwrap().min(object.len());
        Ok(Bytes::copy_from_slice(&object[from..object.len().min(from + at_most)]))
    }

    async fn chunks(&self, _: Day) -> Result<Vec<StoredChunk>, LedgerError> {
        Ok(self.chunks.lock().unwrap().iter().map(|(chunk, _)| chunk.clone()).collect())
    }

    async fn read_chunk(&self, chunk: &StoredChunk) -> Result<Option<Bytes>, LedgerError> {
        let mut chunks = self.chunks.lock().unwrap();
        let index = chunks.iter().position(|(stored, _)| stored == chunk).unwrap();
        if self.sweeps {
            let mut object = self.object.lock().unwrap();
            let whole = object.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            object.truncate(whole);
            object.extend_from_slice(&chunks.remove(index).1);
            return Ok(None);
        }
        Ok(Some(chunks[index].1.clone()))
    }

    fn location(&self, _: Day) -> String {
        String::new()
    }
}

/// Every line as it is told, in short.
async fn read(ledger: Scripted) -> Vec<String> {
    let mut lines = DayLines::open(Arc::new(ledger), DAY).await.unwrap();
    let mut told = Vec::new();
    while let Some(piece) = lines.next().await.unwrap() {
        told.extend(piece.into_iter().map(|line| match line {
            Line::Stored { number, text } => format!("{number}:{}", String::from_utf8_lossy(&text)),
            Line::Chunked { number, text } => format!("chunk {number}:{}", String::from_utf8_lossy(&text)),
            Line::Torn { number } => format!("torn {number}"),
        }));
    }
    told
}

#[tokio::test]
async fn lines_have_their_numbers_over_any_number_of_pieces() {
    // Also a line that is longer than a piece, and an empty one.
    let mut object: Vec<u8> = (1..=100_000).flat_map(|number: u32| format!("{number}\n").into_bytes()).collect();
    object.extend(std::iter::repeat_n(b'x', 3 * PIECE));
    object.extend(b"\n\nlast\n");
    let told = read(Scripted { object: object.into(), ..Scripted::default() }).await;
    assert_eq!(told.len(), 100_003);
    let numbered = (1..=100_000).map(|number| format!("{number}:{number}"));
    assert!(told.iter().zip(numbered).all(|(told, expected)| *told == expected));
    assert_eq!(told[100_000].len(), "100001:".len() + 3 * PIECE);
    assert_eq!(told[100_001..], ["100002:", "100003:last"]);
}

#[tokio::test]
async fn nothing_is_no_line() {
    assert!(read(Scripted::default()).await.is_empty());
}

#[tokio::test]
async fn a_last_line_that_does_not_end_is_told_after_all_others() {
    let object = b"1\n2\nto".to_vec().into();
    assert_eq!(read(Scripted { object, ..Scripted::default() }).await, ["1:1", "2:2", "torn 3"]);
}

#[tokio::test]
async fn chunks_give_the_lines_that_nothing_before_them_has() {
    let object = b"1\n2\n3\n".to_vec().into();
    let chunks = vec![chunk(1, 2), chunk(2, 4), chunk(2, 4), chunk(5, 6)].into();
    let told = read(Scripted { object, chunks, sweeps: false }).await;
    assert_eq!(told, ["1:1", "2:2", "3:3", "chunk 4:4", "chunk 5:5", "chunk 6:6"]);
}

#[tokio::test]
async fn a_torn_line_that_is_cut_and_a_chunk_that_is_appended_meanwhile_are_read_as_they_are_then() {
    let object = b"1\n2\nto".to_vec().into();
    let told = read(Scripted { object, chunks: vec![chunk(3, 4)].into(), sweeps: true }).await;
    assert_eq!(told, ["1:1", "2:2", "3:3", "4:4"]);
}
