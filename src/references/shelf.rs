//! References on disk, for as long as batches may need them again: a folder with a bound, emptied at each start.
//!
//! A cache and nothing more: it may forget anything at any time, and what goes wrong with it costs another
//! fetch. So nothing here is synced, and errors are logged and swallowed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Kept, ReferenceShelf};
use crate::domain::picture::PictureFormat;
use crate::durable;

/// A shelf in a folder.
#[derive(Debug, Clone)]
pub struct LocalShelf {
    folder: PathBuf,
    max_bytes: u64,
    books: Arc<Mutex<Books>>,
}

/// What is on the shelf.
#[derive(Debug, Default)]
struct Books {
    files: HashMap<String, File>,
    bytes: u64,
    /// Grows with each use, so that the least is what was not used for longest.
    clock: u64,
}

#[derive(Debug, Clone, Copy)]
struct File {
    format: PictureFormat,
    bytes: u64,
    used: u64,
}

impl LocalShelf {
    /// A shelf of at most `max_bytes` in `folder`, which is emptied.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(folder: PathBuf, max_bytes: u64) -> io::Result<Self> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&folder)?,
        }
        Ok(Self { folder, max_bytes, books: Arc::default() })
    }

    fn read(&self, name: &str) -> Option<Kept> {
        let format = self.lock().use_file(name)?.format;
        match fs::read(self.folder.join(name)) {
            Ok(bytes) => Some(Kept { bytes: bytes.into(), format }),
            Err(error) => {
                tracing::warn!(%error, "a kept reference cannot be read; it is fetched again");
                self.lock().forget(name);
                None
            }
        }
    }

    fn write(&self, name: &str, kept: &Kept) -> io::Result<()> {
        let bytes = kept.bytes.len() as u64;
        if bytes > self.max_bytes {
            return Ok(());
        }
        for evicted in self.lock().make_room(self.max_bytes - bytes) {
            fs::remove_file(self.folder.join(evicted))?;
        }
        // A name that is read is whole: it appears all at once.
        let temporary = durable::temporary_in(&self.folder);
        fs::write(&temporary, &kept.bytes)?;
        fs::rename(&temporary, self.folder.join(name))?;
        self.lock().add(name, kept.format, bytes);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn use_file(&mut self, name: &str) -> Option<File> {
        self.clock += 1;
        let file = self.files.get_mut(name)?;
        file.used = self.clock;
        Some(*file)
    }

    fn forget(&mut self, name: &str) {
        if let Some(file) = self.files.remove(name) {
            self.bytes -= file.bytes;
        }
    }

    /// Forgets what was not used for longest, until at most `most` bytes are left; returns what that was.
    fn make_room(&mut self, most: u64) -> Vec<String> {
        let mut evicted = Vec::new();
        while self.bytes > most {
            let Some(oldest) = self.files.iter().min_by_key(|(_, file)| file.used).map(|(name, _)| name.clone()) else {
                break;
            };
            self.forget(&oldest);
            evicted.push(oldest);
        }
        evicted
    }

    fn add(&mut self, name: &str, format: PictureFormat, bytes: u64) {
        self.forget(name);
        self.clock += 1;
        self.bytes += bytes;
        self.files.insert(name.to_owned(), File { format, bytes, used: self.clock });
    }
}

#[async_trait]
impl ReferenceShelf for LocalShelf {
    async fn take(&self, name: &str) -> Option<Kept> {
        let (this, name) = (self.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || this.read(&name)).await.ok().flatten()
    }

    async fn put(&self, name: &str, kept: Kept) {
        let (this, name) = (self.clone(), name.to_owned());
        let written = tokio::task::spawn_blocking(move || this.write(&name, &kept)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "a reference cannot be kept; it may be fetched again");
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn kept(bytes: usize) -> Kept {
        Kept { bytes: Bytes::from(vec![7; bytes]), format: PictureFormat::Png }
    }

    fn bytes_in(folder: &std::path::Path) -> u64 {
        durable::entries(folder).unwrap().iter().map(|path| fs::metadata(path).unwrap().len()).sum()
    }

    #[tokio::test]
    async fn what_was_not_used_for_longest_goes_first_and_the_bound_holds() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = LocalShelf::open(folder.path().to_owned(), 100).unwrap();
        for name in ["a", "b", "c"] {
            shelf.put(name, kept(30)).await;
        }
        assert!(shelf.take("a").await.is_some());
        shelf.put("d", kept(40)).await;
        assert!(bytes_in(folder.path()) <= 100);
        assert!(shelf.take("b").await.is_none(), "not used for longest");
        assert_eq!(shelf.take("a").await, Some(kept(30)));
        assert_eq!(shelf.take("d").await, Some(kept(40)));
        shelf.put("huge", kept(101)).await;
        assert!(shelf.take("huge").await.is_none() && shelf.take("d").await.is_some());
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_a_miss_and_a_start_forgets_everything() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = LocalShelf::open(folder.path().to_owned(), 100).unwrap();
        shelf.put("a", kept(10)).await;
        shelf.put("b", kept(10)).await;
        fs::remove_file(folder.path().join("a")).unwrap();
        assert!(shelf.take("a").await.is_none());
        let again = LocalShelf::open(folder.path().to_owned(), 100).unwrap();
        assert!(again.take("b").await.is_none());
        assert_eq!(bytes_in(folder.path()), 0);
    }
}
