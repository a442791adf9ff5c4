//! Any text as where a stream goes on.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "each target has one of the checks")]
#[path = "../checks.rs"]
mod checks;

fuzz_target!(|text: &str| {
    checks::last_event_id(text);
});
