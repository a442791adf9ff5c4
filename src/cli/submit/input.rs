//! The files that are submitted: found by name, by pattern or on standard input, and read as they are.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::json;
use crate::cli::failure::{Failure, of_file};

/// Larger files are refused unread; services take 16 MiB unless they are set up otherwise.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The name that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A heading and a row a line, as spreadsheets save it: with commas, semicolons or tabs.
    Csv,
    /// A whole batch as `POST /images` takes it.
    Json,
    /// A row a line, each a JSON object.
    Jsonl,
}

impl Format {
    fn of_ending(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Some(Self::Csv),
            "json" => Some(Self::Json),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }

    /// As `--format` has it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
        }
    }

    /// What the service is told that it is.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Json => "application/json",
            Self::Jsonl => "application/jsonl",
        }
    }
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// How the person calls it.
    pub(super) name: String,
    /// What a folder of its own would be called.
    pub(super) stem: String,
    pub(super) format: Format,
    pub(super) bytes: Vec<u8>,
}

impl Input {
    /// The line of the file in which the part at `pointer` is, where the service does not say it.
    pub(super) fn line_of(&self, pointer: &str) -> Option<u64> {
        let is_place = self.format == Format::Json && !pointer.is_empty();
        is_place.then(|| json::line_of(std::str::from_utf8(&self.bytes).ok()?, pointer)).flatten()
    }
}

/// Reads the files that `names` name, each once, in that order.
pub(super) fn read(names: &[String], format: Option<Format>) -> Result<Vec<Input>, Failure> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in names {
        for path in expand(name)? {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths.iter().map(|path| read_one(path, format)).collect()
}

/// The files that `name` stands for: a shell may have left a pattern as it is.
fn expand(name: &str) -> Result<Vec<PathBuf>, Failure> {
    let path = PathBuf::from(name);
    if name == STANDARD_INPUT || path.exists() {
        return Ok(vec![path]);
    }
    if !name.contains(['*', '?', '[']) {
        return Err(Failure::Usage(format!("there is no file {name}")));
    }
    let found = glob::glob(name).map_err(|error| Failure::Usage(format!("{name} is no pattern: {error}")))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| Failure::File(error.to_string()))?;
    let files: Vec<PathBuf> = found.into_iter().filter(|path| path.is_file()).collect();
    if files.is_empty() { Err(Failure::Usage(format!("no file is like {name}"))) } else { Ok(files) }
}

fn read_one(path: &Path, format: Option<Format>) -> Result<Input, Failure> {
    let is_standard = path == Path::new(STANDARD_INPUT);
    let name = if is_standard { "standard input".to_owned() } else { path.display().to_string() };
    let format = format.or_else(|| Format::of_ending(path)).ok_or_else(|| {
        Failure::Usage(format!("{name}: say how its rows are written with --format csv, json or jsonl"))
    })?;
    let mut bytes = Vec::new();
    let read = if is_standard {
        std::io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::Usage(of_file("read", Path::new(&name))(error).to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Failure::Usage(format!("{name} is larger than {} MiB: split it", MAX_FILE_BYTES >> 20)));
    }
    let stem = if is_standard { "stdin".to_owned() } else { stem_of(path) };
    Ok(Input { name, stem, format, bytes })
}

/// What a folder for the pictures of the file at `path` is called: never a name that means another folder.
fn stem_of(path: &Path) -> String {
    let stem = path.file_stem().filter(|stem| !stem.as_encoded_bytes().iter().all(|byte| *byte == b'.'));
    stem.or(path.file_name()).map_or("stdin".into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(inputs: Result<Vec<Input>, Failure>, folder: &Path) -> Result<Vec<(String, Format)>, String> {
        let place = format!("{}/", folder.display());
        let named = |input: &Input| (input.name.replace(&place, ""), input.format);
        inputs.map(|inputs| inputs.iter().map(named).collect()).map_err(|failure| {
            assert_eq!(failure.exit_code(), 64, "{failure}");
            failure.to_string().replace(&place, "")
        })
    }

    #[test]
    fn files_are_found_by_name_and_by_pattern_each_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.csv", "b.CSV", "c.json", "d.ndjson", "[x].jsonl", "rows.txt"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let ask = |given: &[&str], format| {
            let given: Vec<String> = given.iter().map(|name| format!("{}/{name}", folder.path().display())).collect();
            names(read(&given, format), folder.path())
        };
        let of =
            |pairs: &[(&str, Format)]| Ok(pairs.iter().map(|(name, format)| ((*name).to_owned(), *format)).collect());
        assert_eq!(ask(&["*.csv", "a.csv"], None), of(&[("a.csv", Format::Csv)]));
        assert_eq!(
            ask(&["c.json", "[ab].[cC]*"], None),
            of(&[("c.json", Format::Json), ("a.csv", Format::Csv), ("b.CSV", Format::Csv)])
        );
        assert_eq!(
            ask(&["[x].jsonl", "d.ndjson"], None),
            of(&[("[x].jsonl", Format::Jsonl), ("d.ndjson", Format::Jsonl)])
        );
        assert_eq!(ask(&["rows.txt"], Some(Format::Csv)), of(&[("rows.txt", Format::Csv)]));
        for (given, expected) in [
            ("rows.txt", "rows.txt: say how its rows are written with --format csv, json or jsonl"),
            ("absent.csv", "there is no file absent.csv"),
            ("z*.csv", "no file is like z*.csv"),
        ] {
            assert_eq!(ask(&[given], None), Err(expected.to_owned()));
        }
        assert!(ask(&["."], Some(Format::Csv)).unwrap_err().starts_with("cannot read"));
    }

    #[test]
    fn no_file_has_a_folder_outside_of_the_one_that_was_given() {
        for (path, stem) in [
            ("rows.csv", "rows"),
            ("a/b.c.json", "b.c"),
            (".csv", ".csv"),
            ("..csv", "..csv"),
            ("...csv", "...csv"),
            ("x/....csv", "....csv"),
            (".a.csv", ".a"),
        ] {
            assert_eq!(stem_of(Path::new(path)), stem, "{path}");
        }
    }

    #[test]
    fn a_file_that_no_service_takes_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.csv");
        std::fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let failure = read(&[path.display().to_string()], None).unwrap_err();
        assert!(failure.to_string().contains("larger than 64 MiB"));
    }
}
