//! The seeds of the fuzz targets, played through the same functions: what a target found stays among them.

use std::path::Path;

#[path = "../../fuzz/checks.rs"]
mod checks;

/// The contents of `fuzz/seeds/{target}`.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let file = |path: &Path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap());
    files.map(|entry| file(&entry.unwrap().path())).collect()
}

/// Plays a target's seeds. Some are accepted and some are not, or they lead a fuzzer nowhere.
fn play(target: &str, mut check: impl FnMut(&[u8]) -> bool) {
    let (accepted, refused): (Vec<_>, Vec<_>) = seeds(target).into_iter().partition(|(name, bytes)| {
        eprintln!("{target}/{name}");
        check(bytes)
    });
    assert!(accepted.len() >= 2 && refused.len() >= 2, "{} accepted, {} refused", accepted.len(), refused.len());
}

/// As a target does that takes text: other bytes are nothing to it.
fn text(check: impl Fn(&str) -> bool) -> impl Fn(&[u8]) -> bool {
    move |bytes| std::str::from_utf8(bytes).is_ok_and(&check)
}

#[test]
fn the_seeds_of_the_body_hold() {
    play("request_body", checks::request_body);
}

#[test]
fn the_seeds_of_the_last_event_hold() {
    play("last_event_id", text(checks::last_event_id));
}

#[test]
fn the_seeds_of_keys_hold() {
    play("api_key", text(checks::api_key));
}

#[test]
fn the_seeds_of_cursors_hold() {
    play("cursor", text(checks::cursor));
}

#[test]
fn every_target_has_seeds_or_says_where_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for entry in std::fs::read_dir(root.join("fuzz_targets")).unwrap() {
        let path = entry.unwrap().path();
        let target = path.file_stem().unwrap().to_str().unwrap();
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(root.join("seeds").join(target).is_dir() || source.contains("Start with the"), "{target}");
    }
}
