//! The web console: a page and its parts, all of them in the program. It asks this service and nobody else.
//!
//! Pictures may come from the bucket that links lead to. Owns no state: what the page shows it gets from the other
//! routes, as everybody else does.

use std::sync::{Arc, LazyLock};

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::images::header;
use super::problem::Problem;
use crate::assets::AssetStore;
use crate::domain::picture::Sha256Hex;

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file of the console.
struct File {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
    /// Its tag: another one with every other text.
    tag: String,
}

macro_rules! files {
    ($($content_type:ident $name:literal $path:literal,)+) => {
        LazyLock::new(|| vec![$({
            let text = include_str!(concat!("../../web/", $path));
            File { name: $name, content_type: $content_type, text, tag: format!("\"{}\"", Sha256Hex::of(text.as_bytes())) }
        },)+])
    };
}

/// The page's parts, below `/console/`.
static PARTS: LazyLock<Vec<File>> = files! {
    SCRIPT "api.js" "console/api.js",
    SCRIPT "app.js" "console/app.js",
    SCRIPT "board.js" "console/board.js",
    SCRIPT "budget.js" "console/budget.js",
    SCRIPT "charts.js" "console/charts.js",
    SCRIPT "compose.js" "console/compose.js",
    SCRIPT "dom.js" "console/dom.js",
    SCRIPT "draft.js" "console/draft.js",
    SCRIPT "estimate.js" "console/estimate.js",
    SCRIPT "findings.js" "console/findings.js",
    SCRIPT "format.js" "console/format.js",
    SCRIPT "grid.js" "console/grid.js",
    SCRIPT "history.js" "console/history.js",
    SCRIPT "hour.js" "console/hour.js",
    SCRIPT "operations.js" "console/operations.js",
    SCRIPT "picks.js" "console/picks.js",
    SCRIPT "poll.js" "console/poll.js",
    SCRIPT "references.js" "console/references.js",
    SCRIPT "rows.js" "console/rows.js",
    SCRIPT "run.js" "console/run.js",
    SCRIPT "stream.js" "stream.js",
    STYLE "style.css" "console/style.css",
    SCRIPT "table.js" "console/table.js",
    SCRIPT "viewer.js" "console/viewer.js",
    SCRIPT "words.js" "console/words.js",
};

const HTML: &str = "text/html; charset=utf-8";

/// The page itself.
static PAGE: LazyLock<Vec<File>> = files! {
    HTML "" "console/index.html",
};

/// The web console: batches in a browser, from pasted rows to downloaded pictures.
#[utoipa::path(
    get, path = "/", operation_id = "console", tag = "service",
    params(("If-None-Match" = Option<String>, Header, description = "The `ETag` that the client has")),
    responses(
        (status = 200, description = "A page", body = String, content_type = "text/html"),
        (status = 304, description = "The client has it"),
    ),
)]
pub async fn page(State(assets): State<Arc<dyn AssetStore>>, headers: HeaderMap) -> Result<Response, Problem> {
    let mut response = answer(PAGE.first(), &headers)?;
    let pictures = assets.origin().map(|origin| format!(" {origin}")).unwrap_or_default();
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, header(policy(&pictures))?);
    Ok(response)
}

/// A part of the web console.
#[utoipa::path(
    get, path = "/console/{file}", operation_id = "console_part", tag = "service",
    params(
        ("file" = String, Path, description = "Such as `app.js` or `style.css`"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` that the client has"),
    ),
    responses(
        (status = 200, description = "The file", content((String = "text/javascript"), (String = "text/css"))),
        (status = 304, description = "The client has it"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn part(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    answer(PARTS.iter().find(|file| file.name == name), &headers)
}

/// What the page may do: run and show its own parts, show pictures, and ask this service.
fn policy(pictures: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' blob: data:{pictures}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The file, unless the client has it.
fn answer(file: Option<&File>, headers: &HeaderMap) -> Result<Response, Problem> {
    let File { content_type, text, tag, .. } = file.ok_or_else(Problem::no_route)?;
    let cached = [(ETAG, header(tag.clone())?), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    let given = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if given.flat_map(|value| value.split(',')).any(|given| given.trim().trim_start_matches("W/") == tag) {
        return Ok((StatusCode::NOT_MODIFIED, cached).into_response());
    }
    Ok((cached, [(CONTENT_TYPE, HeaderValue::from_static(content_type))], *text).into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::state::ErrorCode;
    use crate::http::problem::Code;

    #[test]
    fn every_file_of_the_console_is_in_the_program_and_every_import_leads_to_one() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web/console");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let served = |name: &String| !name.ends_with(".test.mjs") && name != "index.html";
        let mut there: BTreeSet<String> = names.filter(served).collect();
        there.insert("stream.js".to_owned());
        let listed: BTreeSet<String> = PARTS.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(listed, there);
        for name in listed.iter().filter(|name| name.rsplit('.').next() == Some("js")) {
            assert!(PAGE[0].text.contains(&format!("\"/console/{name}\"")), "{name} is not asked for beforehand");
        }
        for file in PARTS.iter() {
            for import in file.text.lines().filter_map(|line| line.split_once(" from \"")?.1.strip_suffix("\";")) {
                let name = import.strip_prefix("./").unwrap_or_else(|| panic!("{} imports {import}", file.name));
                assert!(listed.contains(name), "{} imports {import}", file.name);
            }
        }
    }

    #[test]
    fn every_code_of_the_service_has_words_for_who_runs_it() {
        let words = PARTS.iter().find(|file| file.name == "words.js").unwrap().text;
        let codes = Code::ALL.iter().map(|code| code.as_str()).chain(ErrorCode::ALL.iter().map(|code| code.as_str()));
        for code in codes {
            assert!(words.contains(&format!("\n  {code}: [")), "{code}");
        }
    }

    #[test]
    fn a_page_shows_pictures_from_here_and_from_the_bucket_alone() {
        assert!(policy("").contains("img-src 'self' blob: data:; "));
        assert!(policy(" https://storage.googleapis.com").contains("data: https://storage.googleapis.com; "));
        assert!(!policy("").contains("unsafe"));
    }
}
