//! An answer with status 200: what is in it, and what it used.
//!
//! The body is held once. Parsing borrows from it, the picture is decoded onto its own base64, and what is returned
//! is a slice of the same memory. No error repeats a piece of the body, because serde's own messages can hold the
//! whole picture.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::data::decode_in_place;
use super::words::quote;
use crate::domain::prices::Usage;
use crate::domain::state::{ErrorCode, ImageError};
use crate::provider::Answer;

/// Why a model stopped, and why a prompt was not taken, where no other try can help.
const BLOCKED: [&str; 8] = [
    "SAFETY",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "RECITATION",
    "IMAGE_SAFETY",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
];
/// Longest name of a call that is kept.
const LONGEST_NAME: usize = 128;

/// The body is not an answer of this provider; nobody can know what was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer cannot be read ({category:?} error in line {line}, column {column})")]
pub struct Unreadable {
    category: serde_json::error::Category,
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for Unreadable {
    /// Takes the place of the error and leaves its text behind.
    fn from(error: serde_json::Error) -> Self {
        Self { category: error.classify(), line: error.line(), column: error.column() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow)]
    candidates: Option<Vec<Candidate<'a>>>,
    prompt_feedback: Option<Feedback>,
    #[serde(borrow)]
    usage_metadata: Option<&'a RawValue>,
    response_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow)]
    content: Option<Content<'a>>,
    finish_reason: Option<String>,
    finish_message: Option<String>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    parts: Option<Vec<Part<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    thought: Option<bool>,
    text: Option<String>,
    #[serde(borrow)]
    inline_data: Option<Blob<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob<'a> {
    mime_type: Option<String>,
    /// As it stands in the body, quotes and escapes included.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
    block_reason_message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UsageMetadata {
    prompt_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
    candidates_tokens_details: Option<Vec<TokenCount>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenCount {
    modality: Option<String>,
    token_count: Option<u64>,
}

/// What of a body is needed once it is no longer borrowed.
struct Read {
    /// Where the base64 of each picture is, in the body.
    pictures: Vec<Range<usize>>,
    usage: Option<Usage>,
    request_id: Option<String>,
    /// Why there is no picture, if there is none.
    reason: ImageError,
}

/// Takes the picture out of `body`, the whole body of an answer with status 200. `key` is not repeated in any error.
///
/// # Errors
/// [`Unreadable`] if it is not JSON of the provider's form.
pub fn decode(mut body: Vec<u8>, key: &str) -> Result<Answer, Unreadable> {
    let Read { pictures, usage, request_id, mut reason } = read(&body, key)?;
    if !pictures.is_empty() {
        reason = no_image("the provider answered with a picture that cannot be decoded".to_owned());
    }
    let mut decoded = None;
    for place in pictures {
        let written = body.get_mut(place.clone()).and_then(decode_in_place);
        if let Some(size) = written.filter(|size| *size > 0) {
            decoded = Some(place.start..place.start + size);
            break;
        }
    }
    let picture = decoded.map(|place| {
        body.truncate(place.end);
        // Base64 is longer by a third, and the picture is kept until it is stored.
        body.shrink_to_fit();
        Bytes::from(body).slice(place.start..)
    });
    Ok(Answer { picture: picture.ok_or(reason), usage, request_id })
}

fn read(body: &[u8], key: &str) -> Result<Read, Unreadable> {
    let answer: Body<'_> = serde_json::from_slice(body)?;
    let candidates = answer.candidates.as_deref().unwrap_or_default();
    let pictures: Vec<_> = parts(candidates).filter_map(|part| part.inline_data.as_ref()?.place_in(body)).collect();
    let usage = answer.usage_metadata.and_then(|usage| serde_json::from_str::<UsageMetadata>(usage.get()).ok());
    Ok(Read {
        usage: usage.and_then(|usage| usage.count(!pictures.is_empty())),
        request_id: answer.response_id.and_then(|id| call_name(&id)),
        reason: why_there_is_no_picture(answer.prompt_feedback.as_ref(), candidates, key),
        pictures,
    })
}

/// The parts that are meant for the client: thoughts are drafts.
fn parts<'a>(candidates: &'a [Candidate<'a>]) -> impl Iterator<Item = &'a Part<'a>> {
    let contents = candidates.iter().filter_map(|candidate| candidate.content.as_ref()?.parts.as_ref());
    contents.flatten().filter(|part| part.thought != Some(true))
}

impl Blob<'_> {
    /// Where the base64 is in `body`, if this is a picture.
    fn place_in(&self, body: &[u8]) -> Option<Range<usize>> {
        let is_picture = self.mime_type.as_ref()?.get(..6)?.eq_ignore_ascii_case("image/");
        let base64 = self.data?.get().strip_prefix('"')?.strip_suffix('"')?;
        let start = base64.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
        is_picture.then_some(start..start + base64.len())
    }
}

impl UsageMetadata {
    /// The tokens by price. `None` if a picture came and no token was counted for it: that cannot be.
    fn count(&self, has_picture: bool) -> Option<Usage> {
        let sum = |a: Option<u64>, b: Option<u64>| a.unwrap_or(0).saturating_add(b.unwrap_or(0));
        let candidates = self.candidates_token_count.unwrap_or(0);
        let details = self.candidates_tokens_details.as_deref().unwrap_or_default();
        let image_tokens = if details.is_empty() {
            if has_picture { candidates } else { 0 }
        } else {
            let of_pictures = details.iter().filter(|count| count.modality.as_deref() == Some("IMAGE"));
            of_pictures.fold(0_u64, |sum, count| sum.saturating_add(count.token_count.unwrap_or(0)))
        };
        let text_tokens = sum(Some(candidates.saturating_sub(image_tokens)), self.thoughts_token_count);
        let input_tokens = sum(self.prompt_token_count, self.tool_use_prompt_token_count);
        (!has_picture || image_tokens > 0).then_some(Usage { input_tokens, image_tokens, text_tokens })
    }
}

/// The provider's name for a call, if it is one: visible ASCII, not too long.
pub(super) fn call_name(text: &str) -> Option<String> {
    let fits = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

fn no_image(detail: String) -> ImageError {
    ImageError::passing(ErrorCode::NoImage, detail)
}

fn why_there_is_no_picture(feedback: Option<&Feedback>, candidates: &[Candidate<'_>], key: &str) -> ImageError {
    let blocked = feedback.and_then(|feedback| Some((feedback.block_reason.as_deref()?, feedback)));
    if let Some((reason, feedback)) = blocked {
        let said = said(feedback.block_reason_message.as_deref().unwrap_or_default(), key);
        let detail = format!("the provider blocked the prompt ({}){said}", quote(reason, key));
        return ImageError::lasting(ErrorCode::SafetyBlocked, detail);
    }
    let reason = candidates.iter().find_map(|candidate| candidate.finish_reason.as_deref());
    let texts = parts(candidates).filter_map(|part| part.text.as_deref());
    let messages = candidates.iter().filter_map(|candidate| candidate.finish_message.as_deref());
    let text = texts.chain(messages).find(|text| !text.trim().is_empty()).unwrap_or_default();
    let said = said(text, key);
    match reason {
        Some(reason) if BLOCKED.contains(&reason) => {
            ImageError::lasting(ErrorCode::SafetyBlocked, format!("the provider blocked the picture ({reason}){said}"))
        }
        Some(reason) => no_image(format!("the provider answered without a picture ({}){said}", quote(reason, key))),
        None => no_image(format!("the provider answered without a picture and without a reason{said}")),
    }
}

/// What the provider said, as the end of a sentence.
fn said(text: &str, key: &str) -> String {
    let text = quote(text, key);
    if text.is_empty() { text } else { format!(": {text}") }
}

#[cfg(test)]
mod tests;
