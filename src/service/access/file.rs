//! A file of keys, read again when it changes. One that cannot be read any more leaves the keys as they were.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::domain::access::{EntryError, KeyRecord, entries};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysFileError {
    /// It cannot be read.
    #[error("cannot read the file of keys {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("the file of keys {} has a fault", path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// Which, and where.
        source: EntryError,
    },
}

/// What a change of the file shows in.
type Stamp = (SystemTime, u64, u64, (i64, i64));

struct Read {
    looked_at: Duration,
    stamp: Option<Stamp>,
    keys: Arc<Vec<KeyRecord>>,
}

pub(super) struct KeysFile {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    read: Mutex<Read>,
}

impl KeysFile {
    pub(super) fn open(path: PathBuf, clock: Arc<dyn Clock>) -> Result<Self, KeysFileError> {
        let stamp = stamp(&path);
        let keys = Arc::new(keys_in(&path)?);
        let looked_at = clock.monotonic();
        Ok(Self { path, clock, read: Mutex::new(Read { looked_at, stamp, keys }) })
    }

    /// The keys in it now.
    pub(super) fn keys(&self) -> Arc<Vec<KeyRecord>> {
        let mut kept = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        if now.saturating_sub(kept.looked_at) >= LOOK_EVERY {
            kept.looked_at = now;
            let stamp = stamp(&self.path);
            if stamp != kept.stamp {
                kept.stamp = stamp;
                self.take(&mut kept);
            }
        }
        kept.keys.clone()
    }

    fn take(&self, kept: &mut Read) {
        match keys_in(&self.path) {
            Ok(keys) => {
                tracing::info!(file = %self.path.display(), keys = keys.len(), "the file of keys was read again");
                kept.keys = Arc::new(keys);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the file of keys changed and cannot be used: the keys stay as they were");
            }
        }
    }
}

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    // Who copies a file with its times, or puts another one in its place, changes the rest.
    Some((data.modified().ok()?, data.len(), data.ino(), (data.ctime(), data.ctime_nsec())))
}

/// The keys in a file.
///
/// # Errors
/// [`KeysFileError`].
pub fn keys_in(path: &std::path::Path) -> Result<Vec<KeyRecord>, KeysFileError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| KeysFileError::Unreadable { path: path.to_owned(), source })?;
    entries(&text).map_err(|source| KeysFileError::Fault { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::domain::access::ApiKey;
    use crate::domain::time::Timestamp;

    fn entry(seed: u8) -> String {
        format!("user{seed}={}\n", ApiKey::from_random([seed; 6], [seed; 24]).reveal())
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_a_fault_leaves_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        assert!(matches!(KeysFile::open(path.clone(), clock()).err(), Some(KeysFileError::Unreadable { .. })));
        std::fs::write(&path, entry(1)).unwrap();
        let clock = clock();
        let file = KeysFile::open(path.clone(), clock.clone()).unwrap();
        let users = || file.keys().iter().map(|key| key.user.as_str().to_owned()).collect::<Vec<_>>();
        std::fs::write(&path, format!("{}{}", entry(1), entry(2))).unwrap();
        assert_eq!(users(), ["user1"], "not looked at yet");
        clock.advance(LOOK_EVERY);
        assert_eq!(users(), ["user1", "user2"]);
        for fault in ["nonsense", "nonsense too"] {
            std::fs::write(&path, fault).unwrap();
            clock.advance(LOOK_EVERY);
            assert_eq!(users().len(), 2);
        }
        std::fs::remove_file(&path).unwrap();
        clock.advance(LOOK_EVERY);
        assert_eq!(users().len(), 2);
        std::fs::write(&path, entry(3)).unwrap();
        clock.advance(LOOK_EVERY);
        assert_eq!(users(), ["user3"]);
        // Another file of the same size and time, as a link that is turned to it leaves it.
        let (modified, other) = (std::fs::metadata(&path).unwrap().modified().unwrap(), folder.path().join("other"));
        std::fs::write(&other, entry(4)).unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        clock.advance(LOOK_EVERY);
        assert_eq!(users(), ["user4"]);
    }

    fn clock() -> Arc<FixedClock> {
        Arc::new(FixedClock::at(Timestamp::from_millis(0)))
    }
}
