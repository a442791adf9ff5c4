//! Saves pictures as files, under the names that a person would choose.
//!
//! A file has its name only when it is whole and its hash is right. What is there already and right is left alone; what
//! is there and is not the picture is kept under another name. Nothing is held in memory but the piece that just arrived.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::Response;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::backoff::Backoff;
use super::client::{Client, innermost};
use super::failure::{Failure, of_file};
use super::screen::Screen;
use super::view::Picture;
use crate::domain::ids::BatchId;

/// Pictures that are fetched at once.
const AT_ONCE: usize = 4;
/// Longest picture that is saved, whatever the service says of it.
const MAX_PICTURE_BYTES: u64 = 256 << 20;
/// A picture that arrives broken this often is given up.
const MAX_BROKEN: u32 = 3;

/// Saves the pictures of one batch in one folder.
pub(super) struct Saver<'a> {
    client: &'a Client,
    screen: &'a Screen,
    batch: BatchId,
    folder: &'a Path,
    /// File names, and the hashes of what they hold, or are about to.
    saved: RefCell<HashMap<String, String>>,
    /// File names, and why their pictures cannot be had.
    lost: RefCell<HashMap<String, String>>,
}

impl<'a> Saver<'a> {
    pub(super) fn new(client: &'a Client, screen: &'a Screen, batch: BatchId, folder: &'a Path) -> Self {
        Self { client, screen, batch, folder, saved: RefCell::default(), lost: RefCell::default() }
    }

    /// Where they are saved.
    pub(super) fn folder(&self) -> &Path {
        self.folder
    }

    /// How many are saved.
    pub(super) fn count(&self) -> usize {
        self.saved.borrow().len()
    }

    /// What could not be had, and why.
    pub(super) fn lost(&self) -> Vec<String> {
        let mut lost: Vec<String> = self.lost.borrow().iter().map(|(name, why)| format!("{name}: {why}")).collect();
        lost.sort();
        lost
    }

    /// Saves each of `pictures`, a few at once.
    ///
    /// # Errors
    /// If going on makes no sense: the disk is full, the service is away. What is saved stays.
    pub(super) async fn save_all(&self, pictures: impl Stream<Item = Picture>) -> Result<(), Failure> {
        pictures.map(Ok).try_for_each_concurrent(AT_ONCE, |picture| async move { self.save(&picture).await }).await
    }

    async fn save(&self, picture: &Picture) -> Result<(), Failure> {
        let name = picture.file_name();
        // Noted before it is true: whoever comes with the same meanwhile leaves it alone, and if it does not become true
        // the picture is lost, or everything ends.
        let before = self.saved.borrow_mut().insert(name.clone(), picture.sha256.clone());
        if before.as_ref() == Some(&picture.sha256) {
            return Ok(());
        }
        let path = self.folder.join(&name);
        let there = hash_of(path.clone()).await?;
        if there.as_ref() != Some(&picture.sha256) {
            let part = self.folder.join(format!(".{name}.part"));
            match self.fetch(picture, &part).await {
                Ok(()) => {}
                Err(failure) if failure.is_for_this_alone() => {
                    self.saved.borrow_mut().remove(&name);
                    self.lost.borrow_mut().insert(name, failure.to_string());
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            }
            if let Some(other) = there {
                self.keep_aside(&path, &other)?;
            }
            std::fs::rename(&part, &path).map_err(of_file("write", &path))?;
        }
        self.lost.borrow_mut().remove(&name);
        Ok(())
    }

    /// Somebody may have worked on the file: it is renamed, by what it holds.
    fn keep_aside(&self, path: &Path, hash: &str) -> Result<(), Failure> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}.old", &hash[..8]));
        let aside = PathBuf::from(aside);
        std::fs::rename(path, &aside).map_err(of_file("rename", path))?;
        self.screen.say(&format!("{} was not the picture: it is now {}", path.display(), aside.display()));
        Ok(())
    }

    /// Writes the picture to `part`, and checks it.
    async fn fetch(&self, picture: &Picture, part: &Path) -> Result<(), Failure> {
        let (mut backoff, mut broken) = (Backoff::default(), 0);
        loop {
            let failure = match self.client.open_picture(self.batch, &picture.scene, picture.variant).await {
                Ok(response) => match self.write(response, picture, part).await? {
                    Ok(hash) if hash == picture.sha256 => return Ok(()),
                    Ok(_) => Failure::Unexpected(format!("{} arrives with other bytes", picture.file_name())),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            match failure {
                Failure::Unexpected(_) if broken < MAX_BROKEN => broken += 1,
                failure => self.client.wait_out(failure, &mut backoff).await?,
            }
        }
    }

    /// Writes a body to `part`, no more of it than `picture` has; its hash, or why it broke off.
    async fn write(
        &self,
        response: Response,
        picture: &Picture,
        part: &Path,
    ) -> Result<Result<String, Failure>, Failure> {
        let disk = of_file("write", part);
        let mut left = picture.bytes.unwrap_or(MAX_PICTURE_BYTES).min(MAX_PICTURE_BYTES);
        let mut file = tokio::fs::File::create(part).await.map_err(&disk)?;
        let (mut pieces, mut hash) = (response.bytes_stream(), Sha256::new());
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    let Some(rest) = left.checked_sub(piece.len() as u64) else {
                        let name = picture.file_name();
                        return Ok(Err(Failure::Unexpected(format!("{name} arrives with more bytes than it has"))));
                    };
                    left = rest;
                    hash.update(&piece);
                    file.write_all(&piece).await.map_err(&disk)?;
                }
                Err(error) => {
                    let base = self.client.base().to_owned();
                    return Ok(Err(Failure::Unreachable { base, reason: innermost(&error) }));
                }
            }
        }
        file.flush().await.map_err(&disk)?;
        Ok(Ok(hex(hash)))
    }
}

/// The hash of the file at `path`; `None` if there is none.
async fn hash_of(path: PathBuf) -> Result<Option<String>, Failure> {
    let reading = move || {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(of_file("read", &path)(error)),
        };
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
        loop {
            match file.read(&mut buffer).map_err(of_file("read", &path))? {
                0 => return Ok(Some(hex(hash))),
                length => hash.update(&buffer[..length]),
            }
        }
    };
    tokio::task::spawn_blocking(reading).await.map_err(|error| Failure::Unexpected(error.to_string()))?
}

/// A hash in lowercase hex.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests;
