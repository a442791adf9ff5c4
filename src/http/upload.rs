//! Takes in a request body: its type, its size, and the time it may take are bounded.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Code, Fault, Problem};

/// Longest pause between two pieces of a body.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a whole body.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a refused body is read on, so that the client, which is still sending, sees the answer
/// and not a reset connection.
const LINGER: Duration = Duration::from_secs(5);
/// How much of a refused body is read on.
const LINGER_BYTES: u64 = 64 << 20;

/// Most bytes of bodies that are read or checked at the same time, in all requests together.
pub(super) const BYTES_IN_FLIGHT: usize = 64 << 20;
/// How long a request waits for its share of them.
const SHARE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the bodies of all requests may take of the memory. Clones share it.
#[derive(Debug, Clone)]
pub struct UploadBudget(Arc<Semaphore>);

impl Default for UploadBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_IN_FLIGHT)))
    }
}

impl UploadBudget {
    /// Waits for the share of a body of at most `most` bytes.
    pub(super) async fn share(&self, headers: &HeaderMap, most: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let bytes = length(headers).map_or(most, |length| usize::try_from(length).unwrap_or(most));
        self.take(bytes.min(most).min(BYTES_IN_FLIGHT)).await
    }

    /// Adds `bytes` bytes to a share. Who waits for them holds a part, and so gives up in the end.
    pub(super) async fn grow(&self, share: &mut OwnedSemaphorePermit, bytes: usize) -> Result<(), Problem> {
        share.merge(self.take(bytes).await?);
        Ok(())
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = || Problem::new(Code::Unavailable, "too many bodies are being read; send this one again later");
        let bytes = u32::try_from(bytes).map_err(|_| busy())?;
        let share = tokio::time::timeout(SHARE_TIMEOUT, Arc::clone(&self.0).acquire_many_owned(bytes)).await;
        share.map_err(|_| busy())?.map_err(|_| busy())
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `text/csv`.
    Csv,
    /// `application/jsonl`, also `application/x-ndjson`.
    Jsonl,
}

impl Format {
    const fn media_types(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["application/json"],
            Self::Csv => &["text/csv"],
            Self::Jsonl => &["application/jsonl", "application/x-ndjson"],
        }
    }
}

/// A body, and its share of the memory, which is to be held as long as what came of it.
pub struct Upload {
    /// How it is written.
    pub format: Format,
    /// The body.
    pub bytes: Bytes,
    /// Its share.
    pub(super) share: OwnedSemaphorePermit,
}

/// Reads a body of at most `most` bytes in one of `formats`.
///
/// # Errors
/// `unsupported_media_type`, `payload_too_large`, `request_timeout`, `unavailable` while too many bodies
/// are being read, or `invalid_request` if the body breaks off.
pub async fn read(
    headers: &HeaderMap,
    body: Body,
    formats: &[Format],
    most: usize,
    budget: &UploadBudget,
) -> Result<Upload, Problem> {
    let mut stream = body.into_data_stream();
    let format = check_type(headers, formats).and_then(|format| check_length(headers, most).map(|()| format));
    let read = match format {
        Ok(format) => {
            let share = budget.share(headers, most).await?;
            let read = tokio::time::timeout(BODY_TIMEOUT, collect(&mut stream, most)).await;
            read.map(|read| read.map(|bytes| Upload { format, bytes, share }))
        }
        Err(problem) => Ok(Err(problem)),
    };
    let problem = match read {
        Ok(Ok(upload)) => return Ok(upload),
        Ok(Err(problem)) => problem,
        Err(_) => too_slow(),
    };
    linger(headers, &mut stream, &problem).await;
    Err(problem)
}

/// Reads a refused body on for a while, so that its sender sees the answer.
pub(super) async fn linger(headers: &HeaderMap, stream: &mut BodyDataStream, problem: &Problem) {
    // A client that waits for "100 Continue" has sent nothing, and reading would ask it to.
    if problem.code() != Code::RequestTimeout && !headers.contains_key(EXPECT) {
        let _ = tokio::time::timeout(LINGER, discard(stream)).await;
    }
}

/// The next piece of a body, if it comes before the longest pause is over.
pub(super) async fn in_time<T>(piece: impl Future<Output = T>) -> Result<T, Problem> {
    tokio::time::timeout(PIECE_TIMEOUT, piece).await.map_err(|_| too_slow())
}

pub(super) fn too_slow() -> Problem {
    Problem::new(Code::RequestTimeout, "the body did not arrive in time")
}

pub(super) fn too_large(most: usize) -> Problem {
    Problem::new(Code::PayloadTooLarge, format!("the body may have at most {most} bytes"))
}

/// Refuses a body that is compressed.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") else {
        return Ok(());
    };
    let detail = format!("the body must not be encoded, and it is with {encoding:?}");
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

fn check_type(headers: &HeaderMap, formats: &[Format]) -> Result<Format, Problem> {
    check_encoding(headers)?;
    let given = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = given.as_deref().and_then(|text| text.split(';').next()).map(str::trim).unwrap_or_default();
    let is = |format: &&Format| format.media_types().iter().any(|media_type| essence.eq_ignore_ascii_case(media_type));
    formats.iter().find(is).copied().ok_or_else(|| {
        let taken: Vec<&str> = formats.iter().flat_map(|format| format.media_types()).copied().collect();
        let given = if essence.is_empty() { "nothing" } else { essence };
        let detail = format!("send {}; the Content-Type says {given}", taken.join(" or "));
        Problem::new(Code::UnsupportedMediaType, detail)
    })
}

/// Refuses a body that is said to be longer than `most` bytes.
pub(super) fn check_length(headers: &HeaderMap, most: usize) -> Result<(), Problem> {
    if length(headers).is_some_and(|length| length > most as u64) { Err(too_large(most)) } else { Ok(()) }
}

/// How long the client says that its body is.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn collect(stream: &mut BodyDataStream, most: usize) -> Result<Bytes, Problem> {
    let mut body = BytesMut::new();
    loop {
        match in_time(stream.next()).await? {
            None => return Ok(body.freeze()),
            Some(Err(_)) => {
                return Err(Problem::invalid(vec![Fault::in_body(String::new(), "the body broke off")]));
            }
            Some(Ok(piece)) if body.len() + piece.len() > most => return Err(too_large(most)),
            Some(Ok(piece)) => body.extend_from_slice(&piece),
        }
    }
}

async fn discard(stream: &mut BodyDataStream) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(piece)) = stream.next().await {
        left = left.saturating_sub(piece.len() as u64);
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures_util::stream;

    use super::*;

    const FORMATS: &[Format] = &[Format::Json, Format::Jsonl];

    async fn code(content_type: &'static str, encoding: &'static str, body: Body) -> Result<usize, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        let read = read(&headers, body, FORMATS, 10, &UploadBudget::default()).await;
        read.map(|upload| upload.bytes.len()).map_err(|problem| problem.code())
    }

    #[tokio::test]
    async fn a_body_is_taken_up_to_its_last_allowed_byte() {
        assert_eq!(code("application/json", "identity", Body::from("0123456789")).await, Ok(10));
        assert_eq!(code("Application/JSON ; charset=utf-8", "identity", Body::from("{}")).await, Ok(2));
        assert_eq!(code("application/json", "identity", Body::from("0123456789a")).await, Err(Code::PayloadTooLarge));
    }

    #[tokio::test]
    async fn a_body_is_in_the_format_that_its_type_names() {
        for (content_type, format) in [
            ("application/json", Format::Json),
            ("application/jsonl", Format::Jsonl),
            ("application/X-NDJSON; charset=utf-8", Format::Jsonl),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            let upload = read(&headers, Body::from("{}"), FORMATS, 10, &UploadBudget::default()).await.ok().unwrap();
            assert_eq!(upload.format, format, "{content_type}");
        }
    }

    #[tokio::test]
    async fn a_body_of_another_type_or_encoding_is_refused() {
        for content_type in
            ["text/csv", "application/jsonlx", "", "application/x-www-form-urlencoded", "application/jsonx"]
        {
            let refused = code(content_type, "identity", Body::from("{}")).await;
            assert_eq!(refused, Err(Code::UnsupportedMediaType), "{content_type}");
        }
        assert_eq!(code("application/json", "gzip", Body::from("{}")).await, Err(Code::UnsupportedMediaType));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_waits_for_its_share_of_the_memory_and_gives_it_back() {
        let (budget, mut headers) = (UploadBudget::default(), HeaderMap::new());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let whole = budget.share(&HeaderMap::new(), BYTES_IN_FLIGHT).await.unwrap();
        let refused = read(&headers, Body::from("{}"), FORMATS, 10, &budget).await;
        assert_eq!(refused.err().map(|problem| problem.code()), Some(Code::Unavailable));
        drop(whole);
        let upload = read(&headers, Body::from("{}"), FORMATS, 10, &budget).await.ok().unwrap();
        assert_eq!(budget.0.available_permits(), BYTES_IN_FLIGHT - 10);
        drop(upload);
        assert_eq!(budget.0.available_permits(), BYTES_IN_FLIGHT);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_the_clients_fault() {
        let pieces = [Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))];
        let body = Body::from_stream(stream::iter(pieces));
        assert_eq!(code("application/json", "identity", body).await, Err(Code::InvalidRequest));
    }
}
