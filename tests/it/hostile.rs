//! References on servers that mean harm: what each comes to, what it costs in memory, and that a batch outlives it.

pub(crate) mod pictures;
pub(crate) mod server;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use image::ImageFormat;
use orchestrator::domain::spec::{Reference, ReferenceMode};
use orchestrator::net::lookup::Lookup;
use orchestrator::references::web::{ReferenceLimits, WebReferences};
use orchestrator::references::{ReferenceError, ReferenceSource as _};
use serde_json::{Value, json};

use crate::books::{ledger, micros, on};
use crate::engines::{Database, on_both_engines};
use crate::process::{Settings, batch};
use server::{Case, End, Server};

on_both_engines!(one_bad_reference_costs_nothing_and_keeps_no_other_picture_from_being_made);

/// No name has an address here.
struct NoNames;

#[async_trait::async_trait]
impl Lookup for NoNames {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("no such name"))
    }
}

/// Fetches each case of `server` once and says what is not as it should be.
async fn judge(server: &Server, cases: &[Case]) {
    let within = |timeout| {
        let limits = ReferenceLimits {
            allow: server.address.to_string().parse().unwrap(),
            timeout,
            retries: 0,
            max_bytes: 1 << 20,
            concurrency: cases.len(),
            ..ReferenceLimits::default()
        };
        WebReferences::new(limits, NoNames).unwrap()
    };
    // Only what never ends need run into a deadline, however busy the machine is.
    let (impatient, patient) = (within(Duration::from_secs(2)), within(Duration::from_mins(1)));
    let wrong = join_all(cases.iter().map(|case| async {
        let references = if case.end == End::Passing { &impatient } else { &patient };
        let end = end_of(references, server.url(case)).await;
        (end != case.end).then(|| format!("{}: {end:?} instead of {:?}", case.name, case.end))
    }));
    let wrong: Vec<_> = wrong.await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn end_of(references: &WebReferences, url: String) -> End {
    let reference = Reference { url: url.into(), mode: ReferenceMode::default(), sha256: None };
    match references.fetch(&reference).await {
        Ok(_) => End::Picture,
        Err(ReferenceError::Blocked) => End::Blocked,
        Err(ReferenceError::TooLarge(_)) => End::TooLarge,
        Err(ReferenceError::Unreachable(_)) => End::Passing,
        Err(ReferenceError::Unusable(_)) => End::Lasting,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_the_rules_of_http_ends_its_own_reference() {
    let cases = server::wire();
    judge(&Server::start(&cases).await, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_leads_inside_at_no_hop() {
    let decoy = Server::start(&[]).await;
    let cases = server::redirects(decoy.address);
    judge(&Server::start(&cases).await, &cases).await;
    assert_eq!(decoy.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_picture_or_too_large_a_one_is_refused() {
    let cases = server::files();
    judge(&Server::start(&cases).await, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_in_the_tls_handshake_may_do_better_next_time() {
    let server = Server::start(&[]).await;
    let allow = server.address.to_string().parse().unwrap();
    let limits = ReferenceLimits { allow, retries: 0, ..ReferenceLimits::default() };
    let references = WebReferences::new(limits, NoNames).unwrap();
    assert_eq!(end_of(&references, format!("https://{}/", server.address)).await, End::Passing);
    assert_eq!(server.connections(), 1);
}

/// What the service's memory may grow by, whoever sends it what.
const MOST_GROWTH_KIB: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn all_hostile_servers_at_once_grow_the_process_by_at_most_64_mib() {
    let decoy = Server::start(&[]).await;
    // The largest photograph that is taken is no attack, and is decoded as a whole: 72 MiB for a moment.
    let files = server::files().into_iter().filter(|case| case.name != server::LARGEST_PHOTOGRAPH);
    let cases: Vec<Case> = files.chain(server::redirects(decoy.address)).chain(server::wire()).collect();
    let server = Server::start(&cases).await;
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path())
        .with("REFERENCE_ALLOW", server.address.to_string())
        .with("REFERENCE_TIMEOUT", "5s")
        .with("REFERENCE_RETRIES", "0")
        .with("PROVIDER_CONCURRENCY", "16")
        .with("THUMBNAILS_ENABLED", "false")
        .start()
        .await;
    let with_references = |cases: Vec<&Case>| {
        let mut body = batch(cases.len(), 1);
        for (item, case) in body["items"].as_array_mut().unwrap().iter_mut().zip(cases) {
            item["references"] = json!([server.url(case)]);
        }
        body
    };
    // What the service needs for references at all is not what it grows by.
    let plain = cases.iter().find(|case| case.name == "plain").unwrap();
    let id = service.submit(&with_references(vec![plain; 16])).await;
    assert_eq!(service.finished(&id).await["counts"]["completed"], 16);
    let before = service.most_memory_kib();
    let id = service.submit(&with_references(cases.iter().collect())).await;
    let view = service.finished(&id).await;
    assert!(view["counts"]["failed"].as_u64().unwrap() > 40, "{view}");
    assert!(view["counts"]["completed"].as_u64().unwrap() >= 3, "{view}");
    let grown = service.most_memory_kib() - before;
    eprintln!("{before} KiB before, {grown} KiB more after");
    assert!(grown <= MOST_GROWTH_KIB, "it grew by {grown} KiB");
    assert_eq!(decoy.connections(), 0);
    assert_eq!(service.stop().await, Some(0));
}

async fn one_bad_reference_costs_nothing_and_keeps_no_other_picture_from_being_made(database: Arc<Database>) {
    let cases = [
        Case::file("good", End::Picture, &pictures::plain(ImageFormat::Png)),
        Case::file("page", End::Lasting, b"<html>"),
        Case::file("bomb", End::TooLarge, &pictures::png_head(65_535)),
    ];
    let server = Server::start(&cases).await;
    let [good, page, bomb] = cases.each_ref().map(|case| server.url(case));
    let service = on(&database).with("REFERENCE_ALLOW", server.address.to_string()).start().await;
    let mut body = batch(5, 2);
    for (row, references) in
        [(0, json!([good])), (1, json!([good, page])), (2, json!(["https://10.0.0.1/a.png"])), (3, json!([bomb, good]))]
    {
        body["items"][row]["references"] = references;
    }
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    assert_eq!((&view["counts"]["completed"], &view["counts"]["failed"]), (&json!(4), &json!(6)), "{view}");
    for (row, code, start) in [
        (1, "reference_failed", "reference 2: "),
        (2, "reference_blocked", "reference 1: "),
        (3, "reference_too_large", "reference 1: "),
    ] {
        for image in view["items"][row]["images"].as_array().unwrap() {
            assert_eq!((&image["error"]["code"], &image["billing"]), (&json!(code), &Value::Null), "{image}");
            assert!(image["error"]["detail"].as_str().unwrap().starts_with(start), "{image}");
        }
    }
    assert_eq!(service.get("/metrics-lite").await.json()["callsStarted"], 4);
    assert_eq!(micros(&view["actualCost"]), 4 * 50_000);
    let budget = service.get("/budget").await.json();
    assert_eq!((micros(&budget["everyone"]["spent"]), micros(&budget["everyone"]["reserved"])), (200_000, 0));
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(ledger(database.folder()).len(), 4);
}
