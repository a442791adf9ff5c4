//! Results as an archive: every picture that is made, under a name that a person chooses, and a table of all.
//!
//! Pictures are stored, not compressed, because they are already. Their checks follow them, so that each goes through
//! in pieces.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use futures_util::future;
use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use super::{Failure, Pages, table};
use crate::assets::AssetStore;
use crate::domain::time::Timestamp;
use crate::service::results::ResultsPage;

/// The table of all pictures, also of those that are not there.
const MANIFEST: &str = "manifest.csv";
/// Pieces that wait for the client.
const PIECES: usize = 4;

/// The archive in pieces, of whose results the first page is at hand.
pub(super) fn stream(
    pages: Pages,
    first: ResultsPage,
    assets: Arc<dyn AssetStore>,
    site: String,
) -> impl Stream<Item = Result<Bytes, Failure>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(PIECES);
    // Written by whoever reads the stream, and so only for as long as somebody does.
    let writing = stream::once(Box::pin(async move {
        let archive = Archive::new(sender, first.created_at);
        Box::pin(write(archive, pages, first, assets.as_ref(), &site)).await
    }));
    let failure = writing.filter_map(|written| future::ready(written.err().map(Err)));
    let pieces = stream::unfold(receiver, |mut receiver| async move { Some((Ok(receiver.recv().await?), receiver)) });
    stream::select(pieces, failure)
}

async fn write(
    mut archive: Archive,
    pages: Pages,
    first: ResultsPage,
    assets: &dyn AssetStore,
    site: &str,
) -> Result<(), Failure> {
    let mut included = HashSet::new();
    let mut pictures = std::pin::pin!(pages.clone().stream(first));
    while let Some(page) = pictures.try_next().await? {
        for row in page.rows {
            let (Some(file), Some(object)) = (row.file, row.object) else { continue };
            // A picture whose object is gone is in the table without a file.
            let Some(mut opened) = assets.open(&object).await? else { continue };
            archive.start(&file)?;
            while let Some(piece) = opened.body.try_next().await? {
                archive.write(&piece).await?;
            }
            included.insert(file);
        }
    }
    archive.start(MANIFEST)?;
    archive.write(table::head(false).as_bytes()).await?;
    let again = pages.load(0).await?;
    let mut rows = std::pin::pin!(pages.stream(again));
    while let Some(mut page) = rows.try_next().await? {
        // The batch may have gone on since its pictures were read.
        page.rows.iter_mut().for_each(|row| row.file = row.file.take().filter(|file| included.contains(file)));
        for row in &page.rows {
            archive.write(table::rows(std::slice::from_ref(row), site).as_bytes()).await?;
        }
    }
    archive.finish().await
}

/// Writes an archive to whoever takes its pieces.
struct Archive {
    writer: ZipWriter<StreamWriter<Written>>,
    written: Written,
    options: SimpleFileOptions,
    sender: mpsc::Sender<Bytes>,
}

impl Archive {
    fn new(sender: mpsc::Sender<Bytes>, made_at: Timestamp) -> Self {
        let written = Written::default();
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let options = options.last_modified_time(dos_time(made_at)).unix_permissions(0o644);
        Self { writer: ZipWriter::new_stream(written.clone()), written, options, sender }
    }

    /// Begins a file, and ends the one before.
    fn start(&mut self, name: &str) -> Result<(), Failure> {
        Ok(self.writer.start_file(name, self.options)?)
    }

    /// Goes on with the file.
    async fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(piece)?;
        send(&self.sender, &self.written).await
    }

    async fn finish(self) -> Result<(), Failure> {
        self.writer.finish()?;
        send(&self.sender, &self.written).await
    }
}

async fn send(sender: &mpsc::Sender<Bytes>, written: &Written) -> Result<(), Failure> {
    Ok(sender.send(written.take()).await?)
}

/// What the archive has written and nobody has taken.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A time as archives have it: to two seconds, here in UTC. One that they cannot say is their first.
fn dos_time(at: Timestamp) -> zip::DateTime {
    let time = time::OffsetDateTime::from_unix_timestamp(at.millis().div_euclid(1000)).ok();
    let parts = time.and_then(|time| {
        let year = u16::try_from(time.year()).ok()?;
        zip::DateTime::from_date_and_time(
            year,
            time.month().into(),
            time.day(),
            time.hour(),
            time.minute(),
            time.second(),
        )
        .ok()
    });
    parts.unwrap_or_default()
}
