use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEY: &str = "AIza-secret_key";

/// Bytes that stand for a picture: nothing here looks into it.
fn picture() -> Vec<u8> {
    (0..=255).cycle().take(5_000).collect()
}

fn blob(mime_type: &str, data: &str) -> Value {
    json!({"inlineData": {"mimeType": mime_type, "data": data}})
}

fn drawn() -> Value {
    blob("image/png", &STANDARD.encode(picture()))
}

fn answer(parts: &Value, finish_reason: &str) -> Value {
    json!({"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": finish_reason}]})
}

fn decoded(body: &Value) -> Answer {
    decode(serde_json::to_vec(body).unwrap(), KEY).unwrap()
}

fn error(body: &Value) -> ImageError {
    decoded(body).picture.unwrap_err()
}

fn usage(parts: &Value, usage: &Value) -> Option<Usage> {
    let mut body = answer(parts, "STOP");
    body["usageMetadata"] = usage.clone();
    decoded(&body).usage
}

const fn tokens(input_tokens: u64, image_tokens: u64, text_tokens: u64) -> Usage {
    Usage { input_tokens, image_tokens, text_tokens }
}

#[test]
fn the_first_picture_that_is_no_thought_is_kept_whatever_the_finish_reason() {
    let draft = json!({"thought": true, "inlineData": {"mimeType": "image/png", "data": STANDARD.encode("draft")}});
    let second = blob("image/png", &STANDARD.encode("second"));
    for reason in ["STOP", "MAX_TOKENS", "SAFETY", "SOMETHING_NEW"] {
        let parts = json!([{"text": "Here it is."}, draft, drawn(), second]);
        assert_eq!(decoded(&answer(&parts, reason)).picture.unwrap(), picture(), "{reason}");
    }
}

#[test]
fn escapes_in_base64_are_read() {
    let plain = serde_json::to_string(&answer(&json!([drawn()]), "STOP")).unwrap();
    let escaped = plain.replace('/', r"\/").replace("==", r"\u003d\u003d").replace("=\"", "\\u003d\"");
    assert_ne!(plain, escaped);
    assert_eq!(decode(escaped.into_bytes(), KEY).unwrap().picture.unwrap(), picture());
}

#[test]
fn a_picture_that_cannot_be_decoded_is_paid_and_the_next_one_is_taken() {
    for bad in [blob("image/png", "AAA*"), blob("image/png", ""), blob("image/png", "not base64")] {
        let error = error(&answer(&json!([bad]), "STOP"));
        assert_eq!((error.code, error.retryable), (ErrorCode::NoImage, true));
        assert!(error.detail.contains("decoded"), "{}", error.detail);
        assert_eq!(decoded(&answer(&json!([bad, drawn()]), "STOP")).picture.unwrap(), picture());
    }
}

#[test]
fn what_is_no_picture_is_not_taken_for_one() {
    let data = STANDARD.encode(picture());
    for part in [
        blob("text/plain", &data),
        blob("é", &data),
        json!({"inlineData": {"data": data}}),
        json!({"inlineData": {"mimeType": "image/png"}}),
        json!({"inlineData": {"mimeType": "image/png", "data": 7}}),
        json!({"fileData": {"fileUri": "https://a.test"}}),
        json!({}),
    ] {
        let error = error(&answer(&json!([part]), "STOP"));
        assert_eq!(error.detail, "the provider answered without a picture (STOP)", "{part}");
    }
}

#[test]
fn why_there_is_no_picture_is_told_by_the_finish_reason() {
    let reasons = "STOP MAX_TOKENS SAFETY RECITATION LANGUAGE OTHER BLOCKLIST PROHIBITED_CONTENT SPII IMAGE_SAFETY \
                   IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION IMAGE_OTHER NO_IMAGE SOMETHING_NEW";
    for reason in reasons.split_whitespace() {
        let error = error(&answer(&json!([{"text": "I can't\ndraw that."}]), reason));
        let is_blocked = BLOCKED.contains(&reason);
        let code = if is_blocked { ErrorCode::SafetyBlocked } else { ErrorCode::NoImage };
        assert_eq!((error.code, error.retryable), (code, !is_blocked), "{reason}");
        assert!(error.detail.ends_with(&format!("({reason}): I can't draw that.")), "{}", error.detail);
    }
    for body in [json!({}), json!({"candidates": []}), json!({"candidates": null}), json!({"candidates": [{}]})] {
        let error = error(&body);
        assert_eq!((error.code, error.retryable), (ErrorCode::NoImage, true), "{body}");
    }
    let message = json!({"candidates": [{"finishReason": "IMAGE_OTHER", "finishMessage": "Unable to show it."}]});
    assert!(error(&message).detail.ends_with("(IMAGE_OTHER): Unable to show it."));
}

#[test]
fn a_blocked_prompt_is_refused_for_good() {
    for reason in ["SAFETY", "OTHER", "SOMETHING_NEW"] {
        let error = error(&json!({"promptFeedback": {"blockReason": reason}}));
        assert_eq!((error.code, error.retryable), (ErrorCode::SafetyBlocked, false));
        assert_eq!(error.detail, format!("the provider blocked the prompt ({reason})"));
    }
    let clear = error(&json!({"promptFeedback": {"safetyRatings": []}}));
    assert_eq!(clear.code, ErrorCode::NoImage);
}

#[test]
fn usage_is_counted_by_price() {
    let drawn = json!([drawn()]);
    let full = json!({
        "promptTokenCount": 12, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 1_150, "thoughtsTokenCount": 40,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_000}, {"modality": "TEXT", "tokenCount": 30},
                                    {"modality": "IMAGE", "tokenCount": 120}]});
    assert_eq!(usage(&drawn, &full), Some(tokens(15, 1_120, 70)));
    let bare = json!({"promptTokenCount": 12, "candidatesTokenCount": 1_120, "thoughtsTokenCount": 40});
    assert_eq!(usage(&drawn, &bare), Some(tokens(12, 1_120, 40)));
    assert_eq!(usage(&json!([{"text": "no"}]), &bare), Some(tokens(12, 0, 1_160)));
    assert_eq!(usage(&json!([]), &json!({"promptTokenCount": 12})), Some(tokens(12, 0, 0)));
    assert_eq!(decoded(&answer(&drawn, "STOP")).usage, None);
}

#[test]
fn usage_that_cannot_be_is_no_usage_and_costs_no_picture() {
    let drawn = json!([drawn()]);
    for odd in [
        json!({"promptTokenCount": 12}),
        json!({"promptTokenCount": 12, "thoughtsTokenCount": 9}),
        json!({"candidatesTokenCount": 9, "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 9}]}),
        json!({"candidatesTokenCount": -1}),
        json!({"candidatesTokenCount": "many"}),
        json!([]),
        json!("none"),
    ] {
        assert_eq!(usage(&drawn, &odd), None, "{odd}");
        let mut body = answer(&drawn, "STOP");
        body["usageMetadata"] = odd;
        assert_eq!(decoded(&body).picture.unwrap(), picture());
    }
    let absurd = json!({"candidatesTokenCount": u64::MAX, "thoughtsTokenCount": u64::MAX});
    assert_eq!(usage(&json!([]), &absurd), Some(tokens(0, 0, u64::MAX)));
}

#[test]
fn the_name_of_the_call_is_kept_if_it_is_one() {
    assert_eq!(decoded(&json!({"responseId": "r-1_x"})).request_id.as_deref(), Some("r-1_x"));
    for odd in ["", "a b", "a\u{7}", &"x".repeat(LONGEST_NAME + 1)] {
        assert_eq!(decoded(&json!({"responseId": odd})).request_id, None);
    }
}

#[test]
fn what_is_not_json_of_this_form_is_unreadable_and_says_where() {
    for body in ["", "<html>", "[]", "\"picture\"", r#"{"candidates":7}"#, r#"{"candidates":[{"content":{"parts":[{"#] {
        let error = decode(body.into(), KEY).err().unwrap();
        assert!(error.to_string().starts_with("the answer cannot be read ("), "{error}");
    }
    let not_utf8 = b"{\"candidates\":[{\"content\":{\"parts\":[{\"inlineData\":{\"data\":\"\xff\"}}]}}]}";
    assert!(decode(not_utf8.to_vec(), KEY).is_err());
}

/// Whether `text` repeats 32 characters of the picture's base64.
fn repeats_the_picture(text: &str) -> bool {
    let base64 = STANDARD.encode(picture());
    text.as_bytes().windows(32).any(|piece| std::str::from_utf8(piece).is_ok_and(|piece| base64.contains(piece)))
}

/// Decodes and checks what must hold of every end.
fn check(body: Vec<u8>) {
    let told = match decode(body, KEY) {
        Ok(Answer { picture: Ok(_), .. }) => return,
        Ok(Answer { picture: Err(error), .. }) => error.detail,
        Err(error) => error.to_string(),
    };
    assert!(told.chars().count() < 500, "{told}");
    assert!(!repeats_the_picture(&told) && !told.contains(KEY), "{told}");
}

#[test]
fn an_error_that_would_repeat_the_picture_is_found_by_this_test() {
    let base64 = STANDARD.encode(picture());
    assert!(repeats_the_picture(&format!("expected borrowed string, got {base64}")));
    // A picture in every place whose text an error repeats.
    for body in [
        answer(&json!([{"text": format!("{base64} {KEY}")}]), "STOP"),
        answer(&json!([]), &base64),
        json!({"promptFeedback": {"blockReason": base64, "blockReasonMessage": format!("x{base64}")}}),
        json!({"candidates": [{"finishMessage": base64}]}),
        json!({"candidates": base64}),
        json!({"candidates": [{"content": {"parts": [{"thought": base64}]}}]}),
        json!({"usageMetadata": base64}),
    ] {
        check(serde_json::to_vec(&body).unwrap());
    }
}

fn valid() -> Vec<u8> {
    let mut body = answer(&json!([{"text": "Here it is."}, drawn()]), "STOP");
    body["usageMetadata"] = json!({"promptTokenCount": 12, "candidatesTokenCount": 1_120});
    serde_json::to_vec(&body).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_have_an_end(body in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        check(body);
    }

    #[test]
    fn a_damaged_answer_has_an_end(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut body = valid();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if is_cut {
            body.truncate(cut.index(body.len()));
        }
        check(body);
    }

    #[test]
    fn a_piece_put_elsewhere_has_an_end(from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), size in 1_usize..3_000) {
        let mut body = valid();
        let from = from.index(body.len());
        let piece = body[from..(from + size).min(body.len())].to_vec();
        let to = to.index(body.len());
        body.splice(to..to, piece);
        check(body);
    }
}
