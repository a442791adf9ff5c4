//! The ledger in a bucket: a day's object grows by composing it with the next chunk, so that an append
//! sends the chunk alone, however long the day is.
//!
//! The day's object says in its metadata how many lines it has and which chunk came last; compose
//! replaces object and metadata together, on the condition of the generation that was read. So what
//! the head says is always true of the lines, whoever else writes.

mod pace;

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use google_cloud_gax::error::Error;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::paginator::ItemPaginator as _;
use google_cloud_storage::model::Object;
use google_cloud_storage::model::compose_object_request::SourceObject;
use google_cloud_storage::model_ext::ReadRange;

use self::pace::Pace;
use super::{Chunk, DayHead, LedgerBucket, LedgerError, LedgerReader, StoredChunk};
use crate::domain::ledger::{LedgerLine, chunk_positions, parse_lines, with_chunks};
use crate::domain::time::Day;
use crate::gcs::{Gcs, Meaning, bucket_path, if_there, meaning, within};

/// Least time between two changes of one object. Google takes about one a second.
pub const CHANGE_PACE: Duration = Duration::from_secs(1);
/// Metadata of a day's object: its lines.
const COUNT: &str = "count";
/// Metadata of a day's object: the name of the chunk that was appended last.
const LAST_CHUNK: &str = "lastChunk";
/// One JSON object a line.
const CONTENT_TYPE: &str = "application/jsonl";
/// A day's object changes every few seconds: a copy of it is stale at once.
const CACHE_CONTROL: &str = "no-store";

/// What Google answers to a range that begins behind the end of an object.
const OUT_OF_RANGE: u16 = 416;

/// A ledger in a bucket.
#[derive(Debug)]
pub struct GcsLedger {
    gcs: Gcs,
    bucket: String,
    path: String,
    pace: Pace,
}

impl GcsLedger {
    /// The ledger in `bucket`, whose objects change at most once in `pace` each ([`CHANGE_PACE`] for Google itself).
    #[must_use]
    pub fn new(gcs: Gcs, bucket: &str, pace: Duration) -> Self {
        Self { gcs, bucket: bucket.to_owned(), path: bucket_path(bucket), pace: Pace::new(pace) }
    }

    /// Composes the day of `chunk` anew, from what it was at `head` and the chunk.
    async fn compose(&self, chunk: &Chunk, head: &DayHead) -> Result<(), Error> {
        let day_object = day_object(chunk.day);
        let mut sources = Vec::with_capacity(2);
        if head.generation > 0 {
            sources.push(SourceObject::new().set_name(&day_object).set_generation(head.generation));
        }
        sources.push(SourceObject::new().set_name(&chunk.name));
        let metadata = [(COUNT, chunk.to.to_string()), (LAST_CHUNK, chunk.name.clone())];
        let day = Object::new()
            .set_bucket(&self.path)
            .set_name(&day_object)
            .set_content_type(CONTENT_TYPE)
            .set_cache_control(CACHE_CONTROL)
            .set_metadata(metadata);
        let compose = self.gcs.control.compose_object();
        let compose = compose.set_destination(day).set_source_objects(sources).set_if_generation_match(head.generation);
        compose.send().await?;
        Ok(())
    }

    /// The `range` of `object`, as far as it goes; `None` if it is absent or ends before that.
    async fn read(&self, object: &str, range: ReadRange) -> Result<Option<Bytes>, LedgerError> {
        in_time(Box::pin(async {
            let request = self.gcs.data.read_object(&self.path, object).set_read_range(range);
            let mut response = match if_there(request.send().await) {
                Ok(Some(response)) => response,
                Ok(None) => return Ok(None),
                Err(error) if error.http_status_code() == Some(OUT_OF_RANGE) => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut bytes = BytesMut::new();
            while let Some(piece) = response.next().await.transpose()? {
                bytes.extend_from_slice(&piece);
            }
            Ok(Some(bytes.freeze()))
        }))
        .await
    }

    /// The names of the objects that begin with `prefix`, in no order.
    async fn names(&self, prefix: &str) -> Result<Vec<String>, LedgerError> {
        in_time(Box::pin(async {
            let list = self.gcs.control.list_objects().set_parent(&self.path).set_prefix(prefix);
            let mut items = list.by_item();
            let mut names = Vec::new();
            while let Some(object) = items.next().await.transpose()? {
                names.push(object.name);
            }
            Ok(names)
        }))
        .await
    }
}

/// Runs one step, which ends in bounded time whatever the other side does.
async fn in_time<T>(step: BoxFuture<'_, Result<T, Error>>) -> Result<T, LedgerError> {
    within(step).await.map_err(LedgerError::unavailable)?.map_err(LedgerError::unavailable)
}

fn day_object(day: Day) -> String {
    format!("ledger/{day}.jsonl")
}

fn chunk_prefix(day: Day) -> String {
    format!("ledger/chunks/{day}/")
}

/// What the metadata of a day's object say.
fn read_head(object: &Object) -> Option<DayHead> {
    let count = object.metadata.get(COUNT)?.parse().ok()?;
    let last_chunk = object.metadata.get(LAST_CHUNK)?.clone();
    Some(DayHead { generation: object.generation, count, last_chunk: Some(last_chunk) })
}

#[async_trait]
impl LedgerBucket for GcsLedger {
    async fn head(&self, day: Day) -> Result<DayHead, LedgerError> {
        let get = self.gcs.control.get_object().set_bucket(&self.path).set_object(day_object(day));
        let Some(object) = in_time(Box::pin(async { if_there(get.send().await) })).await? else {
            return Ok(DayHead::default());
        };
        read_head(&object).ok_or_else(|| {
            let place = LedgerBucket::location(self, day);
            LedgerError::unavailable(format!(
                "{place} was not written by this service: its metadata {COUNT} and {LAST_CHUNK} are missing; \
                 move the object away, and its charges are written anew"
            ))
        })
    }

    async fn holds(&self, chunk: &Chunk, head: &DayHead) -> Result<bool, LedgerError> {
        // All of it or nothing: whatever else reaches into it is somebody else's.
        Ok(head.count + 1 == chunk.from || (head.count == chunk.to && head.last_chunk.as_ref() == Some(&chunk.name)))
    }

    async fn write_chunk(&self, chunk: &Chunk) -> Result<(), LedgerError> {
        self.pace.wait(&chunk.name).await;
        let write = self.gcs.data.write_object(&self.path, &chunk.name, chunk.lines.clone());
        let write = write.set_if_generation_match(0).set_content_type(CONTENT_TYPE);
        let written = in_time(Box::pin(async {
            match Box::pin(write.send_buffered()).await {
                // The name is the content: an object of that name is this chunk.
                Err(error) if meaning(&error) == Meaning::Refused => Ok(()),
                other => other.map(drop),
            }
        }))
        .await;
        self.pace.changed(&chunk.name);
        written
    }

    async fn append(&self, chunk: &Chunk, head: &DayHead) -> Result<(), LedgerError> {
        let day_object = day_object(chunk.day);
        self.pace.wait(&day_object).await;
        let composed = within(self.compose(chunk, head)).await;
        self.pace.changed(&day_object);
        match composed.map_err(LedgerError::unavailable)? {
            Ok(()) => Ok(()),
            // Another generation; or a chunk that was swept, so it is in the day already.
            Err(error) if matches!(meaning(&error), Meaning::Refused | Meaning::Absent) => Err(LedgerError::Moved),
            Err(error) => Err(LedgerError::unavailable(error)),
        }
    }

    async fn sweep(&self, day: Day, count: u64) -> Result<(), LedgerError> {
        let mut chunks = self.chunks(day).await?;
        chunks.retain(|chunk| chunk.to <= count);
        for chunk in chunks {
            self.pace.wait(&chunk.name).await;
            let delete = self.gcs.control.delete_object().set_bucket(&self.path).set_object(&chunk.name);
            // A second delete finds nothing: trying again is safe although no generation is named.
            let delete = delete.with_idempotency(true);
            in_time(Box::pin(async { if_there(delete.send().await) })).await?;
            self.pace.changed(&chunk.name);
        }
        Ok(())
    }

    async fn may_hold_more(&self, day: Day, known: u64) -> Result<bool, LedgerError> {
        Ok(self.head(day).await?.count > known || !self.chunks(day).await?.is_empty())
    }

    async fn read_day(&self, day: Day) -> Result<Vec<LedgerLine>, LedgerError> {
        let corrupt = |line| LedgerError::Corrupt { day, line };
        // The chunks first: one that is appended meanwhile is then in both, and never in neither.
        let mut chunks = Vec::new();
        for chunk in self.chunks(day).await? {
            let content = self.read_chunk(&chunk).await?.unwrap_or_default();
            chunks.push(parse_lines(&content, chunk.from).map_err(corrupt)?);
        }
        let object = self.read(&day_object(day), ReadRange::all()).await?.unwrap_or_default();
        let lines = parse_lines(&object, 1).map_err(corrupt)?;
        Ok(with_chunks(lines, chunks))
    }

    fn location(&self, day: Day) -> String {
        format!("gs://{}/{}", self.bucket, day_object(day))
    }
}

#[async_trait]
impl LedgerReader for GcsLedger {
    async fn days(&self) -> Result<Vec<Day>, LedgerError> {
        let names = self.names("ledger/").await?;
        let day = |name: &String| -> Option<Day> {
            let name = name.strip_prefix("ledger/")?;
            match name.strip_prefix("chunks/") {
                Some(chunk) => chunk.split('/').next()?.parse().ok(),
                None => name.strip_suffix(".jsonl")?.parse().ok(),
            }
        };
        let mut days: Vec<Day> = names.iter().filter_map(day).collect();
        days.sort_unstable();
        days.dedup();
        Ok(days)
    }

    async fn read_object(&self, day: Day, from: u64, at_most: usize) -> Result<Bytes, LedgerError> {
        let read = self.read(&day_object(day), ReadRange::segment(from, at_most as u64)).await?;
        Ok(read.unwrap_or_default())
    }

    async fn chunks(&self, day: Day) -> Result<Vec<StoredChunk>, LedgerError> {
        let prefix = chunk_prefix(day);
        let stored = |name: String| {
            let (from, to) = chunk_positions(name.strip_prefix(&prefix)?)?;
            Some(StoredChunk { from, to, name })
        };
        let mut chunks: Vec<_> = self.names(&prefix).await?.into_iter().filter_map(stored).collect();
        chunks.sort_unstable();
        Ok(chunks)
    }

    async fn read_chunk(&self, chunk: &StoredChunk) -> Result<Option<Bytes>, LedgerError> {
        self.read(&chunk.name, ReadRange::all()).await
    }

    fn location(&self, day: Day) -> String {
        LedgerBucket::location(self, day)
    }
}
