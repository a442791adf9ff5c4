//! Any text as the URL of a reference, and any as where a redirect leads: what passes is a public https URL by
//! another reading of it, and reads the same once more.
//!
//! Start with the known tricks: `cut -f1 tests/fixtures/ssrf_cases.tsv | split -l1 - fuzz/corpus/url_guard/`, then
//! `cargo +nightly fuzz run url_guard`. The first line is the URL, each further one a redirect.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use orchestrator::net::address::{self, Allowlist};
use orchestrator::net::target::{Rule, Target};

#[path = "../oracle.rs"]
mod oracle;

fn check(target: &Target, allow: &Allowlist) {
    oracle::assert_public(target.url().as_str());
    assert_eq!(target.rule(), Rule::Public);
    let again = Target::parse(target.url().as_str(), allow, false).expect("what passed once passes again");
    assert_eq!(&again, target);
}

fuzz_target!(|text: &str| {
    let allow = Allowlist::default();
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    if let Ok(ip) = first.parse::<IpAddr>() {
        assert_eq!(address::verdict(ip).is_err(), oracle::is_special(ip), "{ip}");
    }
    let Ok(mut target) = Target::parse(first, &allow, false) else { return };
    check(&target, &allow);
    for location in lines.take(3) {
        let Ok(next) = target.redirect(location, &allow, false) else { return };
        check(&next, &allow);
        target = next;
    }
});
