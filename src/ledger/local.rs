//! The ledger as files: `ledger/YYYY-MM-DD.jsonl` grows by whole chunks, each written down first.
//!
//! A file can be appended to, but not all at once: a crash may leave a torn line, or some of a
//! chunk's lines. The torn line is cut when the head is read, and an append goes on after the
//! complete lines that are there. The file's length is its generation, and it is locked while it is
//! looked at or written, so that two processes on one folder do not cut or write into each other.

mod reading;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

pub use self::reading::LocalLedgerReader;
use super::{Chunk, DayHead, LedgerBucket, LedgerError};
use crate::domain::ledger::{LedgerLine, chunk_positions, parse_lines, with_chunks};
use crate::domain::time::Day;
use crate::durable;

/// A ledger in a folder.
#[derive(Debug, Clone)]
pub struct LocalLedger {
    root: PathBuf,
    /// Lines by file length, so that a long day is not counted again for each append.
    counted: Arc<Mutex<HashMap<Day, (u64, u64)>>>,
}

impl LocalLedger {
    /// Opens the ledger in `root/ledger`; what a crash left half-written is removed.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        durable::create_folder(&root.join("ledger"))?;
        durable::remove_leftovers(&root.join("ledger/chunks"))?;
        Ok(Self { root, counted: Arc::default() })
    }

    fn day_file(&self, day: Day) -> PathBuf {
        day_file(&self.root, day)
    }

    /// Runs file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let ledger = self.clone();
        tokio::task::spawn_blocking(move || work(&ledger)).await.map_err(LedgerError::unavailable)?
    }

    fn read_head(&self, day: Day) -> io::Result<DayHead> {
        let mut file = match File::options().read(true).write(true).open(self.day_file(day)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DayHead::default()),
            Err(error) => return Err(error),
        };
        file.lock()?;
        let length = file.metadata()?.len();
        let counted = self.lock().get(&day).copied();
        let (length, count) = match counted {
            Some((known, count)) if known == length => (length, count),
            _ => {
                // Lines that a crash left in the system's memory are confirmed on the strength of this.
                file.sync_all()?;
                count_lines(&mut file, length)?
            }
        };
        self.lock().insert(day, (length, count));
        Ok(DayHead { generation: i64::try_from(length).map_err(io::Error::other)?, count, last_chunk: None })
    }

    /// Whether the file ends with the first lines of `chunk`, as many as `head` has of its positions.
    fn ends_with(&self, chunk: &Chunk, head: &DayHead) -> io::Result<bool> {
        let (expected, _) = split_lines(chunk, head.count)?;
        if expected.is_empty() {
            return Ok(true);
        }
        let length = u64::try_from(head.generation).map_err(io::Error::other)?;
        let Some(start) = length.checked_sub(expected.len() as u64) else { return Ok(false) };
        let mut file = File::open(self.day_file(chunk.day))?;
        file.seek(SeekFrom::Start(start))?;
        let mut found = vec![0; expected.len()];
        file.read_exact(&mut found)?;
        Ok(found == expected)
    }

    fn append_lines(&self, chunk: &Chunk, head: &DayHead) -> Result<(), LedgerError> {
        let path = self.day_file(chunk.day);
        let is_new = !path.exists();
        let mut file = File::options().create(true).append(true).open(&path).map_err(LedgerError::unavailable)?;
        file.lock().map_err(LedgerError::unavailable)?;
        let length = file.metadata().map_err(LedgerError::unavailable)?.len();
        let next = head.count + 1;
        if i64::try_from(length) != Ok(head.generation) || next < chunk.from || next > chunk.to {
            return Err(LedgerError::Moved);
        }
        let (_, rest) = split_lines(chunk, head.count).map_err(LedgerError::unavailable)?;
        file.write_all(rest).and_then(|()| file.sync_all()).map_err(LedgerError::unavailable)?;
        if is_new {
            durable::sync_folder(&self.root.join("ledger")).map_err(LedgerError::unavailable)?;
        }
        self.lock().insert(chunk.day, (length + rest.len() as u64, chunk.to));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Day, (u64, u64)>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn day_file(root: &Path, day: Day) -> PathBuf {
    root.join(format!("ledger/{day}.jsonl"))
}

fn chunk_folder(root: &Path, day: Day) -> PathBuf {
    root.join(format!("ledger/chunks/{day}"))
}

/// The complete lines of a file, and its length once a torn last line is cut.
fn count_lines(file: &mut File, length: u64) -> io::Result<(u64, u64)> {
    let (mut count, mut whole, mut at) = (0, 0, 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        for (offset, _) in buffer[..read].iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            count += 1;
            whole = at + offset as u64 + 1;
        }
        at += read as u64;
    }
    if whole < length {
        tracing::warn!(bytes = length - whole, "cutting a torn line off the ledger");
        file.set_len(whole)?;
        file.seek(SeekFrom::Start(whole))?;
        file.sync_all()?;
    }
    Ok((whole, count))
}

/// The lines of `chunk` up to position `count`, and those behind it.
fn split_lines(chunk: &Chunk, count: u64) -> io::Result<(&[u8], &[u8])> {
    let written = usize::try_from(count + 1 - chunk.from).map_err(io::Error::other)?;
    let lines = chunk.lines.split_inclusive(|byte| *byte == b'\n');
    Ok(chunk.lines.split_at(lines.take(written).map(<[u8]>::len).sum()))
}

/// The positions that a chunk's file name says it has.
fn positions(path: &Path) -> Option<(u64, u64)> {
    chunk_positions(path.file_name()?.to_str()?)
}

#[async_trait]
impl LedgerBucket for LocalLedger {
    async fn head(&self, day: Day) -> Result<DayHead, LedgerError> {
        self.blocking(move |ledger| ledger.read_head(day).map_err(LedgerError::unavailable)).await
    }

    async fn holds(&self, chunk: &Chunk, head: &DayHead) -> Result<bool, LedgerError> {
        let (chunk, head) = (chunk.clone(), head.clone());
        self.blocking(move |ledger| ledger.ends_with(&chunk, &head).map_err(LedgerError::unavailable)).await
    }

    async fn write_chunk(&self, chunk: &Chunk) -> Result<(), LedgerError> {
        let chunk = chunk.clone();
        self.blocking(move |ledger| {
            // The name is the content: a file of that name is this chunk.
            durable::create(&ledger.root.join(&chunk.name), &chunk.lines).map_err(LedgerError::unavailable)?;
            Ok(())
        })
        .await
    }

    async fn append(&self, chunk: &Chunk, head: &DayHead) -> Result<(), LedgerError> {
        let (chunk, head) = (chunk.clone(), head.clone());
        self.blocking(move |ledger| ledger.append_lines(&chunk, &head)).await
    }

    async fn sweep(&self, day: Day, count: u64) -> Result<(), LedgerError> {
        self.blocking(move |ledger| {
            let chunks = reading::chunks(&ledger.root, day).map_err(LedgerError::unavailable)?;
            for chunk in chunks.iter().filter(|chunk| chunk.to <= count) {
                match fs::remove_file(ledger.root.join(&chunk.name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(LedgerError::unavailable(error));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    async fn may_hold_more(&self, day: Day, known: u64) -> Result<bool, LedgerError> {
        self.blocking(move |ledger| {
            let count = ledger.read_head(day).map_err(LedgerError::unavailable)?.count;
            Ok(count > known || !reading::chunks(&ledger.root, day).map_err(LedgerError::unavailable)?.is_empty())
        })
        .await
    }

    async fn read_day(&self, day: Day) -> Result<Vec<LedgerLine>, LedgerError> {
        self.blocking(move |ledger| {
            let corrupt = |line| LedgerError::Corrupt { day, line };
            // A torn last line is cut first.
            ledger.read_head(day).map_err(LedgerError::unavailable)?;
            let lines = match fs::read(ledger.day_file(day)) {
                Ok(bytes) => parse_lines(&bytes, 1).map_err(corrupt)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(LedgerError::unavailable(error)),
            };
            let mut chunks = Vec::new();
            for chunk in reading::chunks(&ledger.root, day).map_err(LedgerError::unavailable)? {
                let content = fs::read(ledger.root.join(&chunk.name)).map_err(LedgerError::unavailable)?;
                chunks.push(parse_lines(&content, chunk.from).map_err(corrupt)?);
            }
            Ok(with_chunks(lines, chunks))
        })
        .await
    }

    fn location(&self, day: Day) -> String {
        self.day_file(day).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::domain::ids::{AttemptId, BatchId, ChargeId};
    use crate::domain::ledger::{ChargeOutcome, chunk_name};
    use crate::domain::money::MicroUsd;

    const DAY: Day = Day::from_number(20_000);

    fn line(number: u64) -> LedgerLine {
        LedgerLine {
            id: ChargeId::new(Ulid::from_parts(1, number.into())),
            ts: 1,
            user_id: "local".to_owned(),
            job_id: BatchId::new(Ulid::nil()),
            scene_id: "s-1".parse().unwrap(),
            variant: 1,
            attempt_id: AttemptId::new(Ulid::from_parts(1, number.into())),
            prompt: "a cup".to_owned(),
            images: 1,
            cost: MicroUsd::from_micros(1),
            model: "synthetic".to_owned(),
            outcome: ChargeOutcome::Charged,
            request_id: None,
        }
    }

    fn chunk(from: u64, to: u64) -> Chunk {
        let text: String = (from..=to).map(|number| serde_json::to_string(&line(number)).unwrap() + "\n").collect();
        let name = chunk_name(DAY, from, to, text.as_bytes());
        Chunk { day: DAY, from, to, name, lines: text.into() }
    }

    async fn export(ledger: &LocalLedger, chunk: &Chunk) -> Result<(), LedgerError> {
        ledger.write_chunk(chunk).await?;
        ledger.append(chunk, &ledger.head(chunk.day).await?).await
    }

    #[tokio::test]
    async fn lines_are_appended_in_order_and_chunks_swept() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = LocalLedger::open(folder.path().to_owned()).unwrap();
        assert_eq!(ledger.head(DAY).await.unwrap(), DayHead::default());
        export(&ledger, &chunk(1, 3)).await.unwrap();
        export(&ledger, &chunk(4, 4)).await.unwrap();
        assert_eq!(ledger.head(DAY).await.unwrap().count, 4);
        let numbers: Vec<_> = ledger.read_day(DAY).await.unwrap();
        assert_eq!(numbers, (1..=4).map(line).collect::<Vec<_>>());
        ledger.sweep(DAY, 3).await.unwrap();
        assert_eq!(durable::entries(&chunk_folder(&ledger.root, DAY)).unwrap().len(), 1);
        ledger.sweep(DAY, 4).await.unwrap();
        assert!(durable::entries(&chunk_folder(&ledger.root, DAY)).unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_append_goes_on_where_a_crash_tore_it() {
        let whole = chunk(1, 4);
        // Every length that a crash can leave, up to all of it but its last byte.
        for torn in 0..whole.lines.len() {
            let folder = tempfile::tempdir().unwrap();
            let ledger = LocalLedger::open(folder.path().to_owned()).unwrap();
            fs::write(ledger.day_file(DAY), &whole.lines[..torn]).unwrap();
            export(&ledger, &whole).await.unwrap();
            assert_eq!(fs::read(ledger.day_file(DAY)).unwrap(), whole.lines, "torn at {torn}");
        }
    }

    #[tokio::test]
    async fn a_day_that_moved_is_not_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = LocalLedger::open(folder.path().to_owned()).unwrap();
        let head = ledger.head(DAY).await.unwrap();
        export(&ledger, &chunk(1, 2)).await.unwrap();
        let late = ledger.append(&chunk(1, 2), &head).await;
        assert!(matches!(late, Err(LedgerError::Moved)), "{late:?}");
        let gap = ledger.append(&chunk(5, 6), &ledger.head(DAY).await.unwrap()).await;
        assert!(matches!(gap, Err(LedgerError::Moved)), "{gap:?}");
        assert_eq!(ledger.read_day(DAY).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_day_is_read_with_chunks_that_are_not_appended_yet() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = LocalLedger::open(folder.path().to_owned()).unwrap();
        export(&ledger, &chunk(1, 2)).await.unwrap();
        ledger.write_chunk(&chunk(3, 5)).await.unwrap();
        let lines = ledger.read_day(DAY).await.unwrap();
        assert_eq!(lines, (1..=5).map(line).collect::<Vec<_>>());
    }
}
