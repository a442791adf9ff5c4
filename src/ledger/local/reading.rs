//! Reads the ledger's files as they are: no folder is made, no torn line cut, no file touched.
//!
//! A piece is read under a shared lock of the file, so that an append by another process is not seen
//! half-way, and waits for a moment only.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;

use super::{chunk_folder, day_file, positions};
use crate::domain::time::Day;
use crate::durable;
use crate::ledger::{LedgerError, LedgerReader, StoredChunk};

/// A ledger in a folder, for who only reads it.
#[derive(Debug, Clone)]
pub struct LocalLedgerReader {
    root: PathBuf,
}

impl LocalLedgerReader {
    /// Reads the ledger in `root/ledger`, which may be absent.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Runs file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let root = self.root.clone();
        let done = tokio::task::spawn_blocking(move || work(&root)).await.map_err(LedgerError::unavailable)?;
        done.map_err(LedgerError::unavailable)
    }
}

/// `None` where there is no such file.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_piece(path: &Path, from: u64, at_most: usize) -> io::Result<Vec<u8>> {
    let Some(mut file) = if_there(File::open(path))? else { return Ok(Vec::new()) };
    file.lock_shared()?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(at_most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn days(root: &Path) -> io::Result<Vec<Day>> {
    let files = durable::entries(&root.join("ledger"))?;
    let objects = files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let day = |path: &Path| path.file_stem()?.to_str()?.parse().ok();
    let mut days: Vec<Day> = objects.filter_map(|path| day(path)).collect();
    for folder in durable::entries(&root.join("ledger/chunks"))? {
        if let Some(day) = day(&folder)
            && !durable::entries(&folder)?.is_empty()
        {
            days.push(day);
        }
    }
    days.sort_unstable();
    days.dedup();
    Ok(days)
}

/// The stored chunks of `day`, in order.
pub(super) fn chunks(root: &Path, day: Day) -> io::Result<Vec<StoredChunk>> {
    let named = |path: PathBuf| {
        let (from, to) = positions(&path)?;
        let name = format!("ledger/chunks/{day}/{}", path.file_name()?.to_str()?);
        Some(StoredChunk { from, to, name })
    };
    let mut chunks: Vec<_> = durable::entries(&chunk_folder(root, day))?.into_iter().filter_map(named).collect();
    chunks.sort_unstable();
    Ok(chunks)
}

#[async_trait]
impl LedgerReader for LocalLedgerReader {
    async fn days(&self) -> Result<Vec<Day>, LedgerError> {
        self.blocking(days).await
    }

    async fn read_object(&self, day: Day, from: u64, at_most: usize) -> Result<Bytes, LedgerError> {
        self.blocking(move |root| read_piece(&day_file(root, day), from, at_most).map(Bytes::from)).await
    }

    async fn chunks(&self, day: Day) -> Result<Vec<StoredChunk>, LedgerError> {
        self.blocking(move |root| chunks(root, day)).await
    }

    async fn read_chunk(&self, chunk: &StoredChunk) -> Result<Option<Bytes>, LedgerError> {
        let name = chunk.name.clone();
        self.blocking(move |root| Ok(if_there(fs::read(root.join(name)))?.map(Bytes::from))).await
    }

    fn location(&self, day: Day) -> String {
        day_file(&self.root, day).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Day = Day::from_number(20_000);

    #[tokio::test]
    async fn reading_makes_no_folder_and_cuts_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = LocalLedgerReader::new(folder.path().to_owned());
        assert!(ledger.days().await.unwrap().is_empty());
        assert!(ledger.read_object(DAY, 0, 10).await.unwrap().is_empty());
        assert!(durable::entries(folder.path()).unwrap().is_empty());
        let file = day_file(folder.path(), DAY);
        let chunk = chunk_folder(folder.path(), Day::from_number(20_001)).join("2-3-00");
        fs::create_dir_all(chunk.parent().unwrap()).unwrap();
        fs::write(&chunk, "b\nc\n").unwrap();
        fs::write(&file, "a\nto").unwrap();
        fs::write(folder.path().join("ledger/notes.txt"), "").unwrap();
        let days = ledger.days().await.unwrap();
        assert_eq!(days.iter().map(|day| day.number()).collect::<Vec<_>>(), [20_000, 20_001]);
        assert_eq!(ledger.read_object(DAY, 2, 10).await.unwrap(), "to");
        assert_eq!(ledger.read_object(DAY, 0, 2).await.unwrap(), "a\n");
        let stored = ledger.chunks(days[1]).await.unwrap();
        assert_eq!((stored[0].from, stored[0].to), (2, 3));
        assert_eq!(ledger.read_chunk(&stored[0]).await.unwrap().unwrap(), "b\nc\n");
        fs::remove_file(chunk).unwrap();
        assert_eq!(ledger.read_chunk(&stored[0]).await.unwrap(), None);
        assert_eq!(fs::read(file).unwrap(), b"a\nto");
    }
}
