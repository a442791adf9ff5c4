//! Any bytes as the body of an answer of the Gemini API: no panic, and no error that repeats much of them.
//!
//! Start with the recorded answers: `cargo +nightly fuzz run gemini_answer fuzz/corpus/gemini_answer tests/fixtures/gemini`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use orchestrator::provider::Answer;
use orchestrator::provider::gemini::decode;

/// A key that the bytes may hold by chance or by search, and no error may.
const KEY: &str = "key-0";
/// Longer than any error may be.
const TOO_LONG: usize = 2_000;

fuzz_target!(|body: &[u8]| {
    let told = match decode(body.to_vec(), KEY) {
        Ok(Answer { picture: Ok(_), .. }) => return,
        Ok(Answer { picture: Err(error), .. }) => error.detail,
        Err(error) => error.to_string(),
    };
    assert!(told.len() < TOO_LONG, "an error of {} bytes", told.len());
    assert!(!told.contains(KEY), "an error shows the key");
    let is_data = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let longest = told.as_bytes().split(|byte| !is_data(byte)).map(<[u8]>::len).max();
    assert!(longest.unwrap_or(0) < 32, "an error shows data");
});
