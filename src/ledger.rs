//! The port to where the ledger is exported: a day's object that grows by whole chunks.
//!
//! The steps A to E of the protocol are in `service::ledger`; an adapter does one step at a time. Who
//! only reads has a port of its own, behind which nothing is cut, created or removed.

pub mod gcs;
pub mod local;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::ledger::LedgerLine;
use crate::domain::time::Day;

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Somebody else wrote the day meanwhile; read its head again.
    #[error("the day's object changed meanwhile")]
    Moved,
    /// The ledger is away, full or read-only. Trying again may help.
    #[error("ledger unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A line is not one of ours.
    #[error("line {line} of {day} cannot be read")]
    Corrupt {
        /// The day.
        day: Day,
        /// Counting from 1.
        line: u64,
    },
}

impl LedgerError {
    /// Wraps what the store said.
    pub fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into())
    }
}

/// What a day's object says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DayHead {
    /// Changes with every write; 0 while there is no object.
    pub generation: i64,
    /// Its complete lines.
    pub count: u64,
    /// The chunk that was appended last, where the store can say so: it appends chunks as a whole then.
    pub last_chunk: Option<String>,
}

/// Lines that are to be appended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The day.
    pub day: Day,
    /// The position of its first line, counting from 1.
    pub from: u64,
    /// The position of its last line.
    pub to: u64,
    /// `ledger/chunks/{day}/{from}-{to}-{sha256}`: the name is the content.
    pub name: String,
    /// The lines, each with its newline.
    pub lines: Bytes,
}

/// A chunk that is stored, whether it is appended or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredChunk {
    /// The position of its first line, counting from 1.
    pub from: u64,
    /// The position of its last line.
    pub to: u64,
    /// Its name.
    pub name: String,
}

/// Reads the exported ledger and changes nothing at all, whoever writes to it meanwhile.
#[async_trait]
pub trait LedgerReader: Send + Sync + 'static {
    /// The days that have an object or chunks, oldest first.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn days(&self) -> Result<Vec<Day>, LedgerError>;

    /// The day's object from byte `from` on, `at_most` bytes of it; less only at its end, nothing if it is absent.
    ///
    /// An append that is under way is in it as a whole or not at all.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn read_object(&self, day: Day, from: u64, at_most: usize) -> Result<Bytes, LedgerError>;

    /// The day's stored chunks, by position.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn chunks(&self, day: Day) -> Result<Vec<StoredChunk>, LedgerError>;

    /// The lines of a stored chunk; `None` if it was swept meanwhile, and so is in the day's object.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn read_chunk(&self, chunk: &StoredChunk) -> Result<Option<Bytes>, LedgerError>;

    /// Where `day` is, for a person: a path or `gs://…`.
    fn location(&self, day: Day) -> String;
}

/// Keeps the exported ledger.
#[async_trait]
pub trait LedgerBucket: Send + Sync + 'static {
    /// Step B: what is there. A torn last line is cut first where that can happen.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn head(&self, day: Day) -> Result<DayHead, LedgerError>;

    /// Step B: whether the day's lines from the first of `chunk` up to where the day ends at `head` are those of the
    /// chunk. `head` ends no earlier than before the chunk, and no later than with it.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn holds(&self, chunk: &Chunk, head: &DayHead) -> Result<bool, LedgerError>;

    /// Step C, first half: stores the chunk, create-only; one that is there already is success.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn write_chunk(&self, chunk: &Chunk) -> Result<(), LedgerError>;

    /// Step C, second half: appends the stored chunk to the day whose head is `head`.
    ///
    /// # Errors
    /// [`LedgerError::Moved`] or [`LedgerError::Unavailable`]; either way it may have happened: read the head.
    async fn append(&self, chunk: &Chunk, head: &DayHead) -> Result<(), LedgerError>;

    /// Step E: removes the day's chunks that end at or before `count`. Absent ones are fine.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn sweep(&self, day: Day, count: u64) -> Result<(), LedgerError>;

    /// Whether [`read_day`](Self::read_day) may give lines that somebody who confirmed `known` lines does not know,
    /// without reading what is in them.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    async fn may_hold_more(&self, day: Day, known: u64) -> Result<bool, LedgerError>;

    /// Every line of `day`: those of its object, then those of chunks that are not in it, by charge id, whatever
    /// their positions: they may be those of a database that was lost.
    ///
    /// # Errors
    /// [`LedgerError::Corrupt`] or [`LedgerError::Unavailable`].
    async fn read_day(&self, day: Day) -> Result<Vec<LedgerLine>, LedgerError>;

    /// Where `day` is, for a person: a path or `gs://…`.
    fn location(&self, day: Day) -> String;
}
