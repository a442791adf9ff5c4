//! The seeds of the fuzz targets, played through the same functions: what a target found stays among them.

use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, proptest};

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
fn the_seeds_of_rows_hold() {
    play("rows_csv", checks::rows_csv);
    play("rows_jsonl", checks::rows_jsonl);
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

/// What is put into seeds: what readers of JSON, headers, queries and keys decide by.
const PIECES: [&str; 28] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "\u{0}",
    "\u{feff}",
    "ü",
    "\\ud800",
    "/",
    "~",
    "=",
    "&",
    "%2B",
    "\n",
    "\r",
    "\t",
    ";",
    "\n\n\n",
    " ",
    "aip_",
];

/// Changes a seed in one place: takes out, doubles, puts in, or turns a bit.
fn mutate(bytes: &mut Vec<u8>, (kind, at, length): (u8, usize, usize)) {
    let at = at % (bytes.len() + 1);
    let end = (at + length % 16).min(bytes.len());
    match kind % 4 {
        0 => drop(bytes.drain(at..end)),
        1 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
        2 => drop(bytes.splice(at..at, PIECES[length % PIECES.len()].bytes())),
        _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (length % 8)),
    }
}

/// A target and its seeds.
type Target = (&'static str, Vec<Vec<u8>>);

/// The seeds of every target that takes part, in one order.
static SEEDS: LazyLock<[Target; 6]> = LazyLock::new(|| {
    ["request_body", "rows_csv", "rows_jsonl", "last_event_id", "api_key", "cursor"].map(|target| {
        let mut seeds = seeds(target);
        seeds.sort();
        (target, seeds.into_iter().map(|(_, bytes)| bytes).collect())
    })
});

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What a fuzzer does that does not see which way the program goes; scripts/soak runs one that does.
    #[test]
    fn any_change_of_a_seed_holds(pick in any::<usize>(), changes in vec(any::<(u8, usize, usize)>(), 0..6)) {
        for (target, seeds) in SEEDS.iter() {
            let mut bytes = seeds[pick % seeds.len()].clone();
            for &change in &changes {
                mutate(&mut bytes, change);
            }
            match (*target, std::str::from_utf8(&bytes)) {
                ("request_body", _) => checks::request_body(&bytes),
                ("rows_csv", _) => checks::rows_csv(&bytes),
                ("rows_jsonl", _) => checks::rows_jsonl(&bytes),
                ("last_event_id", Ok(text)) => checks::last_event_id(text),
                ("api_key", Ok(text)) => checks::api_key(text),
                ("cursor", Ok(text)) => checks::cursor(text),
                _ => false,
            };
        }
    }
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
