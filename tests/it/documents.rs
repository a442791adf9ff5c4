//! What the documents say and the program does, compared.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use orchestrator::config::{ClientConfig, Config};
use orchestrator::domain::state::ErrorCode;
use orchestrator::http::describe;
use orchestrator::http::problem::Code;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The variables of `.env.example`.
fn example() -> HashMap<String, String> {
    let text = read(".env.example");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_example_environment_lists_exactly_what_is_read() {
    let example = example();
    let listed: BTreeSet<&str> = example.keys().map(String::as_str).collect();
    let read: BTreeSet<&str> = Config::names().into_iter().chain(ClientConfig::names()).collect();
    assert_eq!(listed, read);
}

#[test]
fn the_example_environment_shows_the_defaults() {
    let shown = Config::parse(&example()).unwrap();
    let default = Config::parse(&HashMap::new()).unwrap();
    assert_eq!(format!("{shown:#?}"), format!("{default:#?}"));
    assert_eq!(shown.database.url, default.database.url);
    let shown = ClientConfig::parse(&example());
    assert_eq!((shown.url.as_deref(), shown.key.is_none()), (Some(ClientConfig::DEFAULT_URL), true));
}

#[test]
fn every_document_that_the_readme_links_to_is_there() {
    let readme = read("README.md");
    let links: Vec<&str> = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 5, "{links:?}");
    for link in links.iter().filter(|link| !link.contains("://") && !link.starts_with('#')) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists(), "{link}");
    }
}

#[test]
fn the_readme_lists_every_marker_of_the_synthetic_provider() {
    let readme = read("README.md");
    for (marker, what) in orchestrator::provider::synthetic::MARKERS {
        assert!(readme.contains(&format!("| `{marker}` | {what} |")), "{marker}");
    }
}

#[test]
fn the_commands_that_are_shown_work_after_a_checkout() {
    for document in ["README.md", ".env.example"] {
        let text = read(document).replace("\\\n", " ").replace("|\n", "| ");
        for line in text.lines() {
            let bare = line.split(['`', ';', '$', '#']).any(|part| part.trim_start().starts_with("orchestrator "));
            assert!(!bare, "{document}: nothing put orchestrator on the PATH: {line}");
            let posts = line.contains("curl") && line.contains(" -d ");
            assert!(!posts || line.contains("Content-Type: application/json"), "{document}: {line}");
        }
    }
}

/// Checks that docs/API.md has this table, and shows it where it has not.
#[track_caller]
fn expect_table(heading: &str, rows: impl IntoIterator<Item = String>) {
    let columns = heading.matches('|').count() - 1;
    let table: Vec<String> =
        [format!("{heading}\n"), format!("|{}\n", "---|".repeat(columns))].into_iter().chain(rows).collect();
    let table = table.concat();
    assert!(read("docs/API.md").contains(&format!("\n\n{table}\n")), "docs/API.md needs:\n\n{table}");
}

#[test]
fn the_routes_of_the_document_are_those_of_the_description() {
    let description = serde_json::to_value(describe::routes().1).unwrap();
    let mut rows = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let summary = operation["summary"].as_str().unwrap_or_default();
            assert!(!summary.is_empty(), "{method} {path} has no summary");
            rows.push(format!("| `{} {path}` | {summary} |\n", method.to_uppercase()));
        }
    }
    expect_table("| route | what it does |", rows);
}

#[test]
fn the_error_codes_of_the_document_are_those_that_are_answered() {
    let row = |code: &Code| format!("| `{}` | {} | {} |\n", code.as_str(), code.status().as_u16(), code.meaning());
    expect_table("| code | status | when |", Code::ALL.iter().map(row));
    let row = |code: &ErrorCode| format!("| `{}` | {} |\n", code.as_str(), code.meaning());
    expect_table("| code | why there is no picture |", ErrorCode::ALL.iter().map(row));
}

/// The log's messages in the source, each with its level.
fn messages(folder: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            messages(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let source = text.split("#[cfg(test)]").next().unwrap();
        for line in source.split("tracing::").skip(1) {
            let Some((level, rest)) = line.split_once("!(") else { continue };
            let end = rest.split(");").next().unwrap();
            // The message is the last text: what comes before it are fields.
            let message = end.rsplit('"').nth(1).unwrap_or_default();
            found.insert((message.to_owned(), level.to_owned()));
        }
    }
}

#[test]
fn the_messages_that_alerts_rely_on_are_those_of_the_source() {
    let page = read("docs/OPERATIONS.md");
    let table = page.split("| message | level |").nth(1).unwrap().split("\n\n").next().unwrap();
    let listed: Vec<(String, String)> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(message, rest)| (message.to_owned(), rest.split(" | ").next().unwrap().to_owned()))
        .collect();
    assert!(listed.len() > 25, "{listed:?}");
    let mut said = BTreeSet::new();
    messages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut said);
    for message in listed {
        assert!(said.contains(&message), "the source has no such message: {message:?}");
    }
}
