//! Files that survive a power cut: written to a temporary name, synced, linked into place.
//!
//! Blocking; callers run it off the async threads.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The start of every temporary file's name.
const TEMPORARY: &str = ".tmp-";

/// What became of a create-only write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The file is new, and durable.
    New,
    /// A file of that name has these bytes already.
    Same,
    /// A file of that name has other bytes; it was not touched.
    Different,
}

/// Writes `bytes` to `path`, durably and all at once, if there is no such file.
///
/// # Errors
/// What the system said; no part of the file is left under `path` then.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<Created> {
    create_with_mode(path, bytes, 0o644)
}

/// As [`create`], readable by its owner alone from its first byte on.
///
/// # Errors
/// As [`create`].
pub fn create_secret(path: &Path, bytes: &[u8]) -> io::Result<Created> {
    create_with_mode(path, bytes, 0o600)
}

/// A temporary name in `folder` that nobody else uses, in this process or another.
#[must_use]
pub fn temporary_in(folder: &Path) -> PathBuf {
    folder.join(format!("{TEMPORARY}{:016x}", rand::random::<u64>()))
}

fn create_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Created> {
    let folder = parent(path)?;
    create_folder(folder)?;
    let temporary = temporary_in(folder);
    let written = write_synced(&temporary, bytes, mode).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match written {
        Ok(()) => {
            removed?;
            sync_folder(folder)?;
            Ok(Created::New)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let same = fs::read(path)? == bytes;
            // Whoever made it may have died before its name was durable.
            sync_folder(folder)?;
            Ok(if same { Created::Same } else { Created::Different })
        }
        Err(error) => Err(error),
    }
}

/// Makes the change of a folder's entries durable.
///
/// # Errors
/// What the system said.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates `folder` and what is missing above it, durably.
///
/// # Errors
/// What the system said.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_folder(above)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_folder(above)?,
        }
        return Ok(());
    }
    fs::create_dir_all(folder)
}

/// Removes temporary files that a crash left in `folder` and one level below it.
///
/// # Errors
/// What the system said; an absent folder is fine.
pub fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in entries(folder)? {
        if entry.is_dir() {
            entries(&entry)?.iter().filter(|file| is_temporary(file)).try_for_each(fs::remove_file)?;
        } else if is_temporary(&entry) {
            fs::remove_file(&entry)?;
        }
    }
    Ok(())
}

/// The paths in `folder`; none if it is absent.
///
/// # Errors
/// What the system said.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY))
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file needs a folder"))
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_created_once_and_never_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        assert_eq!(create(&path, b"one").unwrap(), Created::New);
        assert_eq!(create(&path, b"one").unwrap(), Created::Same);
        assert_eq!(create(&path, b"two").unwrap(), Created::Different);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(entries(&folder.path().join("a/b")).unwrap(), [path]);
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("batch");
        fs::create_dir(&below).unwrap();
        for path in [folder.path().join(".tmp-1-0"), below.join(".tmp-1-1"), below.join("kept.png")] {
            fs::write(path, b"x").unwrap();
        }
        remove_leftovers(folder.path()).unwrap();
        assert_eq!(entries(folder.path()).unwrap(), std::slice::from_ref(&below));
        assert_eq!(entries(&below).unwrap(), [below.join("kept.png")]);
        assert!(remove_leftovers(&folder.path().join("absent")).is_ok());
    }
}
