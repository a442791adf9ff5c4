//! Takes in files that come as multipart/form-data: one after another, each bounded while it streams.
//!
//! Owns how much of a form is in memory: one file, and what is not yet told apart. A file that is too large is
//! read past, so that the faults of the others can be told with its own. What a file holds is not looked at here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use multer::{Constraints, Field, Multipart, SizeLimit};
use tokio::sync::OwnedSemaphorePermit;

use super::problem::{Code, Fault, Problem};
use super::upload::{self, UploadBudget};

/// Most bytes that are read ahead before a part is known by its header.
const IN_HAND: usize = 1 << 20;
/// Most bytes of a form beside its files.
const FORM_BYTES: usize = 64 << 10;
/// Most parts of a form, so that one of very many empty parts ends.
const MAX_PARTS: usize = 32;
/// Longest time for one part.
const PART_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest name of an unknown part that is repeated to its sender.
const MAX_ECHO_CHARS: usize = 100;

/// The bounds of a form with files.
#[derive(Debug, Clone, Copy)]
pub(super) struct FormRules {
    /// The name of every part.
    pub(super) field: &'static str,
    /// Most files.
    pub(super) max_files: usize,
    /// Most bytes of a file.
    pub(super) max_bytes: usize,
}

/// One part of a form.
pub(super) enum Part {
    /// A file and its place among the files, from 0.
    File(usize, Bytes),
    /// What is wrong with a part.
    Refused(Code, Fault),
}

/// The parts of a form as they come in, and their share of the memory.
pub(super) struct Files<'r> {
    form: Multipart<'r>,
    rules: FormRules,
    budget: UploadBudget,
    share: OwnedSemaphorePermit,
    in_hand: Arc<AtomicUsize>,
    parts: usize,
    seen: usize,
}

impl<'r> Files<'r> {
    /// Begins to read a form.
    ///
    /// # Errors
    /// `unsupported_media_type`, `payload_too_large`, or `unavailable` while too many bodies are being read.
    pub(super) async fn open(
        headers: &HeaderMap,
        stream: &'r mut BodyDataStream,
        rules: FormRules,
        budget: &UploadBudget,
    ) -> Result<Self, Problem> {
        upload::check_encoding(headers)?;
        let boundary = boundary(headers)?;
        let most = rules.max_files.saturating_mul(rules.max_bytes).saturating_add(FORM_BYTES);
        upload::check_length(headers, most)?;
        // The rest is for what comes of the files, whatever size of them an operator allows.
        let first = rules.max_bytes.saturating_add(IN_HAND).min(upload::BYTES_IN_FLIGHT / 2);
        let share = budget.share(headers, first).await?;
        let in_hand = Arc::new(AtomicUsize::new(0));
        let limits = Constraints::new().size_limit(SizeLimit::new().whole_stream(most as u64));
        let form = Multipart::with_constraints(bounded(stream, in_hand.clone()), boundary, limits);
        Ok(Self { form, rules, budget: budget.clone(), share, in_hand, parts: 0, seen: 0 })
    }

    /// The next part; `None` behind the last one, and behind one that is one too many.
    ///
    /// # Errors
    /// `request_timeout`, `payload_too_large`, or `invalid_request` if the form breaks off.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, Problem> {
        if self.seen > self.rules.max_files || self.parts > MAX_PARTS {
            return Ok(None);
        }
        let read = tokio::time::timeout(PART_TIMEOUT, self.read_part()).await;
        read.unwrap_or_else(|_| Err(upload::too_slow()))
    }

    /// Files seen so far, also those that were refused.
    pub(super) const fn seen(&self) -> usize {
        self.seen
    }

    /// Goes on counting `bytes` bytes that came of a file, behind the file itself.
    ///
    /// # Errors
    /// `unavailable` while too many bodies are being read.
    pub(super) async fn keep(&mut self, bytes: usize) -> Result<(), Problem> {
        self.budget.grow(&mut self.share, bytes).await
    }

    /// What the form took of the memory, for as long as what came of it is looked at.
    pub(super) fn into_share(self) -> OwnedSemaphorePermit {
        self.share
    }

    async fn read_part(&mut self) -> Result<Option<Part>, Problem> {
        let next = upload::in_time(self.form.next_field()).await?;
        let Some(mut field) = next.map_err(|error| self.broken(&error))? else { return Ok(None) };
        self.parts += 1;
        if self.parts > MAX_PARTS {
            let fault = Fault::in_body(String::new(), format!("a form may have at most {MAX_PARTS} parts"));
            return Ok(Some(Part::Refused(Code::InvalidRequest, fault)));
        }
        let place = self.seen;
        let known = field.name() == Some(self.rules.field);
        if known {
            self.seen += 1;
        }
        if self.seen > self.rules.max_files {
            let fault = self.count_fault("there are more");
            return Ok(Some(Part::Refused(Code::InvalidRequest, fault)));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let most = if known { self.rules.max_bytes } else { 0 };
        match self.read_field(&mut field, most).await? {
            _ if !known => Ok(Some(Part::Refused(Code::InvalidRequest, self.unknown_fault(&name)))),
            Some(bytes) => Ok(Some(Part::File(place, bytes))),
            None => {
                let detail = format!("file {}: it has more than {most} bytes", place + 1);
                let fault = Fault::in_body(format!("/{}/{place}", self.rules.field), detail);
                Ok(Some(Part::Refused(Code::PayloadTooLarge, fault)))
            }
        }
    }

    /// The bytes of a part; `None` if there are more than `most`.
    async fn read_field(&mut self, field: &mut Field<'_>, most: usize) -> Result<Option<Bytes>, Problem> {
        let mut bytes = Some(BytesMut::new());
        loop {
            let piece = upload::in_time(field.chunk()).await?;
            let Some(piece) = piece.map_err(|error| self.broken(&error))? else { break };
            self.in_hand.fetch_sub(piece.len(), Ordering::Relaxed);
            bytes = bytes.filter(|bytes| bytes.len() + piece.len() <= most);
            if let Some(bytes) = &mut bytes {
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(bytes.map(BytesMut::freeze))
    }

    /// What is said of a number of files that is not right.
    pub(super) fn count_fault(&self, how: &str) -> Fault {
        let FormRules { field, max_files, .. } = self.rules;
        Fault::in_body(format!("/{field}"), format!("send 1-{max_files} files as {field}; {how}"))
    }

    fn unknown_fault(&self, name: &str) -> Fault {
        let detail = format!("unknown field; send every file as {}", self.rules.field);
        let short = name.chars().count() <= MAX_ECHO_CHARS && !name.is_empty();
        let pointer = if short { format!("/{}", name.replace('~', "~0").replace('/', "~1")) } else { String::new() };
        Fault::in_body(pointer, detail)
    }

    /// Why the form cannot be read on. Repeats nothing of it.
    fn broken(&self, error: &multer::Error) -> Problem {
        let invalid = |detail| Problem::invalid(vec![Fault::in_body(String::new(), detail)]);
        match error {
            multer::Error::StreamSizeExceeded { limit } => {
                upload::too_large(usize::try_from(*limit).unwrap_or(usize::MAX))
            }
            multer::Error::StreamReadFailed(_) if self.in_hand.load(Ordering::Relaxed) > IN_HAND => {
                invalid("a part of the form has no end to its header")
            }
            multer::Error::StreamReadFailed(_) => invalid("the body broke off"),
            multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
                invalid("the form ends before its last boundary")
            }
            _ => invalid("a part of the form has a header that cannot be read"),
        }
    }
}

/// The pieces of a body, as long as what is read ahead stays within its bound.
fn bounded(
    stream: &mut BodyDataStream,
    in_hand: Arc<AtomicUsize>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + '_ {
    stream.map(move |piece| {
        let piece = piece.map_err(io::Error::other)?;
        if in_hand.fetch_add(piece.len(), Ordering::Relaxed) > IN_HAND {
            return Err(io::Error::other("too much is read ahead"));
        }
        Ok(piece)
    })
}

fn boundary(headers: &HeaderMap) -> Result<String, Problem> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    multer::parse_boundary(given).map_err(|_| {
        let essence = given.split(';').next().map(str::trim).filter(|essence| !essence.is_empty());
        let given = essence.unwrap_or("nothing");
        let detail = format!("send multipart/form-data with a boundary; the Content-Type says {given}");
        Problem::new(Code::UnsupportedMediaType, detail)
    })
}
