//! Any bytes as the body of a submission or a retry.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "each target has one of the checks")]
#[path = "../checks.rs"]
mod checks;

fuzz_target!(|body: &[u8]| {
    checks::request_body(body);
});
