//! Any text as the query of a list.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[expect(dead_code, reason = "each target has one of the checks")]
#[path = "../checks.rs"]
mod checks;

fuzz_target!(|query: &str| {
    checks::cursor(query);
});
