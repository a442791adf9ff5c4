//! Takes in files that come as multipart/form-data: one after another, each bounded while it streams.
//!
//! Owns how much of a form is in memory: one file, and what is not yet told apart. A file that is too large is
//! read past, so that the faults of the others can be told with its own. What a file holds is not looked at here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};
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
/// How often more is asked for without taking anything out, before that is taken for a form without end.
const MAX_STALLS: u32 = 8;
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
    let mut stalls = 0;
    futures_util::stream::poll_fn(move |context| {
        if in_hand.load(Ordering::Relaxed) > IN_HAND {
            stalls += 1;
            if stalls > MAX_STALLS {
                return Poll::Ready(Some(Err(io::Error::other("too much is read ahead"))));
            }
            // Whoever reads the form takes out first what can be told apart already.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        stalls = 0;
        let piece = ready!(stream.poll_next_unpin(context));
        if let Some(Ok(piece)) = &piece {
            in_hand.fetch_add(piece.len(), Ordering::Relaxed);
        }
        Poll::Ready(piece.map(|piece| piece.map_err(io::Error::other)))
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::HeaderValue;
    use futures_util::stream;

    use super::*;

    const RULES: FormRules = FormRules { field: "images", max_files: 2, max_bytes: 3 << 20 };
    const HEAD: &str = "--b\r\nContent-Disposition: form-data; name=\"images\"; filename=\"a\"\r\n\r\n";

    /// What becomes of a form that comes in pieces, all at once: the size of each file, or where it is refused.
    async fn read(pieces: Vec<Vec<u8>>, budget: &UploadBudget) -> Result<Vec<Result<usize, String>>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=b"));
        let pieces = pieces.into_iter().map(|piece| Ok::<_, io::Error>(Bytes::from(piece)));
        let mut stream = Body::from_stream(stream::iter(pieces)).into_data_stream();
        let mut form = Files::open(&headers, &mut stream, RULES, budget).await?;
        let mut read = Vec::new();
        while let Some(part) = form.next().await? {
            read.push(match part {
                Part::File(place, bytes) => {
                    assert_eq!(place, read.len());
                    form.keep(1 << 20).await?;
                    Ok(bytes.len())
                }
                Part::Refused(code, fault) => Err(format!("{} {}", code.as_str(), fault.pointer.unwrap_or_default())),
            });
        }
        Ok(read)
    }

    /// A form of files with these sizes, in pieces of 64 KiB.
    fn form(sizes: &[usize], end: &str) -> Vec<Vec<u8>> {
        let mut body = Vec::new();
        for size in sizes {
            body.extend(HEAD.bytes());
            body.extend(vec![b'x'; *size]);
            body.extend(b"\r\n");
        }
        body.extend(end.bytes());
        body.chunks(64 << 10).map(<[u8]>::to_vec).collect()
    }

    fn detail(refused: Result<Vec<Result<usize, String>>, Problem>) -> (Code, String) {
        let problem = refused.unwrap_err();
        (problem.code(), serde_json::to_value(&problem).unwrap()["detail"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_file_is_taken_up_to_its_last_allowed_byte_and_a_larger_one_is_read_past() {
        let (most, budget) = (RULES.max_bytes, UploadBudget::default());
        assert_eq!(read(form(&[most, 0], "--b--"), &budget).await.unwrap(), [Ok(most), Ok(0)]);
        let larger = read(form(&[most + 1, 5], "--b--"), &budget).await.unwrap();
        assert_eq!(larger, [Err("payload_too_large /images/0".to_owned()), Ok(5)]);
        let more = read(form(&[1, 2, 3, 4], "--b--"), &budget).await.unwrap();
        assert_eq!(more, [Ok(1), Ok(2), Err("invalid_request /images".to_owned())]);
        assert_eq!(detail(read(form(&[2 * most, FORM_BYTES], "--b--"), &budget).await).0, Code::PayloadTooLarge);
    }

    #[tokio::test]
    async fn a_form_without_an_end_is_refused_before_it_fills_the_memory() {
        let budget = UploadBudget::default();
        for head in ["--b\r\nX: ", "no boundary at all ", "--b "] {
            let pieces = std::iter::once(head.as_bytes().to_vec()).chain(vec![vec![b' '; 64 << 10]; 40]).collect();
            assert_eq!(detail(read(pieces, &budget).await).0, Code::InvalidRequest, "{head}");
        }
        let pieces = std::iter::once(b"--b\r\nX: ".to_vec()).chain(vec![vec![b'x'; 64 << 10]; 40]).collect();
        assert!(detail(read(pieces, &budget).await).1.contains("no end to its header"));
        assert!(detail(read(form(&[9], ""), &budget).await).1.contains("ends before its last boundary"));
        let empty =
            vec!["--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n".repeat(MAX_PARTS + 9).into_bytes()];
        assert_eq!(read(empty, &budget).await.unwrap().len(), MAX_PARTS + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_form_counts_as_one_file_and_what_came_of_the_others() {
        let budget = UploadBudget::default();
        let others = budget.share(&HeaderMap::new(), upload::BYTES_IN_FLIGHT - (5 << 20)).await.unwrap();
        // A file of 3 MiB and what is read ahead leave 1 MiB: enough for what came of one file.
        assert!(read(form(&[1], "--b--"), &budget).await.is_ok());
        assert_eq!(detail(read(form(&[1, 1], "--b--"), &budget).await).0, Code::Unavailable);
        drop(others);
        assert!(read(form(&[1, 1], "--b--"), &budget).await.is_ok());
    }
}
