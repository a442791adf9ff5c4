//! The layers of docs/ARCHITECTURE.md, enforced: reads every path in `src` and fails on a forbidden one.
//!
//! Tests inside a source file are exempt: they may wire what they need.

use std::fmt;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What the modules at and below `path` may use beside each other. What is below an allowed path is
/// allowed too, except adapters: only the wiring names those.
struct Layer {
    path: &'static str,
    may_use: &'static [&'static str],
}

const PORTS: [&str; 5] = ["provider", "assets", "references", "ledger", "webhooks"];

/// Code below a port that belongs to the port, not to an adapter: what a picture is, whoever keeps or sends it.
const PARTS_OF_PORTS: [&str; 3] = ["assets::object", "assets::picture", "references::content"];

/// Wiring: may use anything.
const WIRING: [&str; 4] = ["app", "cli", "main", "lib"];

const LAYERS: &[Layer] = &[
    Layer { path: "domain", may_use: &["domain"] },
    Layer { path: "clock", may_use: &["domain"] },
    Layer { path: "durable", may_use: &["domain", "clock"] },
    Layer { path: "failpoint", may_use: &[] },
    // What the two adapters for Google share; nothing else but the wiring may use it.
    Layer { path: "gcs", may_use: &["domain", "clock"] },
    Layer { path: "net", may_use: &["domain", "clock"] },
    Layer { path: "config", may_use: &["domain", "clock"] },
    Layer { path: "lifecycle", may_use: &["domain", "clock"] },
    Layer { path: "telemetry", may_use: &["domain", "clock"] },
    Layer { path: "store", may_use: &["domain", "clock", "failpoint"] },
    // The ports: the trait, its error, its limits.
    Layer { path: "provider", may_use: &["domain", "clock"] },
    Layer { path: "assets", may_use: &["domain", "clock"] },
    Layer { path: "references", may_use: &["assets::picture", "domain", "clock"] },
    Layer { path: "ledger", may_use: &["domain", "clock"] },
    Layer { path: "webhooks", may_use: &["domain", "clock"] },
    // Their adapters: `*` is any one name below the port.
    Layer { path: "provider::*", may_use: &["provider", "domain", "clock", "durable"] },
    Layer { path: "assets::*", may_use: &["assets", "domain", "clock", "durable", "gcs", "failpoint"] },
    Layer { path: "references::*", may_use: &["references", "assets::picture", "net", "domain", "clock", "durable"] },
    Layer { path: "ledger::*", may_use: &["ledger", "domain", "clock", "durable", "gcs"] },
    Layer { path: "webhooks::*", may_use: &["webhooks", "net", "domain", "clock"] },
    Layer {
        path: "service",
        may_use: &[
            "store",
            "provider",
            "assets",
            "references",
            "ledger",
            "webhooks",
            "domain",
            "clock",
            "telemetry",
            "failpoint",
        ],
    },
    // The assets port: `/assets/…` hands a signed query to it and streams what it opens.
    Layer { path: "http", may_use: &["service", "assets", "domain", "clock", "telemetry"] },
    Layer { path: "worker", may_use: &["service", "domain", "clock", "telemetry"] },
];

/// Crates that only the named modules may use.
const CRATES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("axum", &["http", "app"]),
    ("utoipa_axum", &["http", "app"]),
    ("tower", &["http", "app"]),
    ("tower_http", &["http", "app"]),
    ("hyper", &["http", "app"]),
    ("hyper_util", &["http", "app"]),
    (
        "reqwest",
        &["net", "provider::*", "references::*", "assets::*", "ledger::*", "webhooks::*", "telemetry::traces", "cli"],
    ),
    ("opentelemetry_proto", &["telemetry::traces"]),
    ("prost", &["telemetry::traces"]),
    ("google_cloud_storage", &["gcs", "assets::gcs", "ledger::gcs"]),
    ("google_cloud_gax", &["gcs", "assets::gcs", "ledger::gcs"]),
    ("google_cloud_auth", &["gcs", "assets::gcs", "ledger::gcs"]),
    ("anyhow", &["app", "cli", "main"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
];

/// Modules that stay pure: no runtime, no network, no database.
const PURE: [&str; 2] = ["domain", "clock"];
const IMPURE_CRATES: [&str; 3] = ["tokio", "tokio_util", "futures_util"];

/// One use that the layers forbid.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    module: String,
    uses: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must not use {}", self.module, self.uses)
    }
}

/// Whether `module` is `pattern` or below it; a `*` stands for one name.
fn is_within(module: &str, pattern: &str) -> bool {
    let mut names = module.split("::");
    pattern.split("::").all(|part| names.next().is_some_and(|name| part == "*" || part == name))
}

/// The adapter that `path` is in, if it is in one.
fn adapter_of(path: &str) -> Option<String> {
    let mut names = path.split("::");
    let (port, adapter) = (names.next()?, names.next()?);
    // A name below a port that starts with a small letter is a module; the rest are the port's own types.
    let is_module = PORTS.contains(&port) && adapter.starts_with(|c: char| c.is_lowercase());
    let adapter = format!("{port}::{adapter}");
    (is_module && !PARTS_OF_PORTS.contains(&adapter.as_str())).then_some(adapter)
}

/// Whether a module may use `path`, both within this crate.
fn may_use(module: &str, path: &str) -> bool {
    let top = module.split("::").next().unwrap_or_default();
    if WIRING.contains(&top) {
        return true;
    }
    match (adapter_of(module), adapter_of(path)) {
        (own, Some(adapter)) => own.is_some_and(|own| own == adapter),
        (own, None) => {
            let rule = if own.is_some() { format!("{top}::*") } else { top.to_owned() };
            let within_own = own.is_none() && is_within(path, top);
            let layer = LAYERS.iter().find(|layer| layer.path == rule);
            within_own || layer.is_some_and(|layer| layer.may_use.iter().any(|allowed| is_within(path, allowed)))
        }
    }
}

/// Whether a module may use the crate `name`.
fn may_use_crate(module: &str, name: &str) -> bool {
    let pure = PURE.iter().any(|pure| is_within(module, pure));
    if pure && IMPURE_CRATES.contains(&name) {
        return false;
    }
    CRATES
        .iter()
        .find(|(restricted, _)| *restricted == name)
        .is_none_or(|(_, users)| users.iter().any(|user| is_within(module, user)))
}

/// Every path in `tokens` as `crate::…` or `some_crate::…`, trees of `use` spread out.
fn paths(tokens: TokenStream, module: &[String], found: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        if let Some(next) = skip_tests(&tokens, at) {
            at = next;
            continue;
        }
        match &tokens[at] {
            TokenTree::Ident(word) if *word == "mod" => {
                // An inline module: `super` inside means this one.
                let (name, body) = (tokens.get(at + 1), tokens.get(at + 2));
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) = (name, body) {
                    let inner = [module, &[name.to_string()]].concat();
                    paths(body.stream(), &inner, found);
                    at += 3;
                } else {
                    at += 2;
                }
            }
            TokenTree::Ident(_) => {
                at = path(&tokens, at, &[], module, found);
            }
            TokenTree::Group(group) => {
                paths(group.stream(), module, found);
                at += 1;
            }
            _ => at += 1,
        }
    }
}

/// If an item under `#[cfg(test)]` starts at `at`, where it ends.
fn skip_tests(tokens: &[TokenTree], at: usize) -> Option<usize> {
    let (TokenTree::Punct(hash), TokenTree::Group(attribute)) = (tokens.get(at)?, tokens.get(at + 1)?) else {
        return None;
    };
    let is_test = hash.as_char() == '#' && attribute.to_string().replace(' ', "") == "[cfg(test)]";
    let ends_item = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(punct) => punct.as_char() == ';',
        _ => false,
    };
    let length = tokens[at + 2..].iter().position(ends_item)?;
    is_test.then_some(at + 2 + length + 1)
}

fn is_colons(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(at) && is_colon(at + 1)
}

/// Reads the path that starts at `at`, below `prefix`; returns where it ends.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    module: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut names = prefix.to_vec();
    while let Some(TokenTree::Ident(name)) = tokens.get(at) {
        names.push(name.to_string());
        at += 1;
        if !is_colons(tokens, at) {
            break;
        }
        at += 2;
        if let Some(TokenTree::Group(group)) = tokens.get(at)
            && group.delimiter() == Delimiter::Brace
        {
            let branches: Vec<TokenTree> = group.stream().into_iter().collect();
            let mut branch = 0;
            while branch < branches.len() {
                let end = path(&branches, branch, &names, module, found);
                branch = end.max(branch + 1);
            }
            return at + 1;
        }
    }
    if names.len() > 1 {
        found.push(absolute(&names, module));
    }
    at
}

/// Resolves `self` and `super` against `module`.
fn absolute(names: &[String], module: &[String]) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = names;
    match names[0].as_str() {
        "self" => rest = &names[1..],
        "super" => {
            while rest.first().is_some_and(|name| name == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        "orchestrator" => return [&["crate".to_owned()], &names[1..]].concat(),
        _ => return names.to_vec(),
    }
    [&["crate".to_owned()], base.as_slice(), rest].concat()
}

/// Every forbidden use in the source of one module.
fn faults(module: &str, source: &str) -> Vec<Fault> {
    let tokens: TokenStream = source.parse().unwrap();
    let names: Vec<String> = module.split("::").map(str::to_owned).collect();
    let mut found = Vec::new();
    paths(tokens, &names, &mut found);
    let mut faults: Vec<Fault> = found
        .iter()
        .filter(|path| match path[0].as_str() {
            "crate" => !may_use(module, &path[1..].join("::")),
            external => !may_use_crate(module, external),
        })
        .map(|path| Fault { module: module.to_owned(), uses: path.join("::") })
        .collect();
    faults.sort();
    faults.dedup();
    faults
}

/// Every `.rs` file below `folder`.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") && path.file_stem() != Some("tests".as_ref()) {
            into.push(path);
        }
    }
}

#[test]
fn no_module_uses_what_its_layer_must_not_know() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "only {} files found", files.len());
    let mut all = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&root).unwrap().with_extension("");
        let module: Vec<&str> = relative.iter().map(|part| part.to_str().unwrap()).collect();
        all.extend(faults(&module.join("::"), &std::fs::read_to_string(file).unwrap()));
    }
    let list: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "forbidden by the layers:\n{}", list.join("\n"));
}

#[test]
fn every_top_level_module_has_a_layer() {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let homeless: Vec<&str> = modules
        .filter(|module| !WIRING.contains(module) && !LAYERS.iter().any(|layer| layer.path == *module))
        .collect();
    assert!(homeless.is_empty(), "no layer for {homeless:?}");
}

/// What the checker says about `source` in `module`, one fault a line.
fn verdict(module: &str, source: &str) -> String {
    faults(module, source).iter().map(|fault| fault.uses.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn forbidden_uses_are_found_however_they_are_written() {
    for (module, source, expected) in [
        ("domain::money", "use tokio::time::Instant;", "tokio::time::Instant"),
        ("domain::money", "fn f() { let _ = sqlx::query(\"\"); }", "sqlx::query"),
        (
            "service::submit",
            "use crate::{clock::Clock, assets::{AssetStore, local::LocalAssets}};",
            "crate::assets::local::LocalAssets",
        ),
        (
            "service::submit",
            "fn f() { tracing::info!(x = crate::http::problem::name()); }",
            "crate::http::problem::name",
        ),
        ("service::submit", "use axum::Json;", "axum::Json"),
        ("http::batches", "use super::super::worker::Worker;", "crate::worker::Worker"),
        ("http::batches", "use crate::store::Store;", "crate::store::Store"),
        ("worker", "use crate::http::{self};", "crate::http::self"),
        ("provider", "use crate::assets::AssetStore;", "crate::assets::AssetStore"),
        ("provider", "pub use self::synthetic::Synthetic;", "crate::provider::synthetic::Synthetic"),
        ("provider::synthetic", "use crate::service::view::BatchView;", "crate::service::view::BatchView"),
        ("provider::gemini::wire", "use super::super::synthetic::draw;", "crate::provider::synthetic::draw"),
        ("assets::local", "use crate::net::Client;", "crate::net::Client"),
        ("store::work", "use crate::service::claims::Claims;", "crate::service::claims::Claims"),
        ("net::address", "use crate::references::ReferenceError;", "crate::references::ReferenceError"),
        ("telemetry::logs", "use crate::config::LogFormat;", "crate::config::LogFormat"),
        ("service", "mod inner { use super::super::super::app::App; }", "crate::app::App"),
        ("service", "use orchestrator::cli::run;", "crate::cli::run"),
    ] {
        assert_eq!(verdict(module, source), expected, "{module}: {source}");
    }
}

#[test]
fn allowed_uses_and_tests_are_let_through() {
    for (module, source) in [
        (
            "domain::money",
            "use std::fmt; use super::ids::BatchId; /// See tokio::time and [`crate::service`].\nstruct X;",
        ),
        ("domain::money", "#[cfg(test)] mod tests { use tokio::time::sleep; use crate::service::view; }"),
        ("service::execute", "use crate::assets::picture::inspect; use crate::provider::{Answer, ImageProvider};"),
        ("service::execute", "use crate::store::Store; use tokio::time::timeout;"),
        (
            "provider::synthetic",
            "use super::{Answer, ImageProvider}; use self::draw::canvas; use crate::durable::write;",
        ),
        ("provider::synthetic::draw", "use super::script::Script; use crate::domain::prices::Usage;"),
        ("references::web", "use crate::net::Client; use crate::assets::picture::inspect; use reqwest::Url;"),
        ("http::batches", "use axum::Json; use crate::service::batches::Batches; use super::problem::Problem;"),
        ("store", "use sqlx::AnyPool; mod dialect; use self::dialect::Dialect;"),
        ("cli::demo", "use crate::config::Config; use crate::app::App; use reqwest::Client;"),
    ] {
        assert_eq!(verdict(module, source), "", "{module}: {source}");
    }
}
