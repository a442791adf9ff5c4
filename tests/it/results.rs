//! A whole batch as one file: a table, lines, an archive.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};

use futures_util::StreamExt as _;
use orchestrator::domain::picture::Sha256Hex;
use serde_json::{Value, json};

use crate::process::{Service, Settings, batch};

/// The cells of a table without line ends in them, under the names of its columns.
fn table(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines().map(|line| {
        let (mut cells, mut quoted) = (vec![String::new()], false);
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => cells.last_mut().unwrap().push(chars.next().unwrap()),
                '"' => quoted = !quoted,
                ',' if !quoted => cells.push(String::new()),
                c => cells.last_mut().unwrap().push(c),
            }
        }
        cells
    });
    let names = lines.next().unwrap();
    lines.map(|cells| names.iter().cloned().zip(cells).collect()).collect()
}

async fn bytes(service: &Service, path: &str) -> Vec<u8> {
    let response = service.client.get(format!("{}{path}", service.url)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200, "{path}");
    response.bytes().await.unwrap().to_vec()
}

/// The files of an archive, every check of it passed.
fn files(archive: Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    let mut archive = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut files = BTreeMap::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).unwrap();
        let (name, mut content) = (file.name().unwrap().into_owned(), Vec::new());
        file.read_to_end(&mut content).unwrap();
        assert!(files.insert(name.clone(), content).is_none(), "{name} twice");
    }
    files
}

#[tokio::test]
async fn a_batch_of_several_pages_is_one_table_one_list_and_one_archive() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("PROVIDER_CONCURRENCY", "64").start().await;
    let mut body = batch(30, 1);
    body["items"][0]["variants"] = json!(2);
    body["items"][1]["prompt"] = json!("=HYPERLINK(\"http://x.test\"), \"quoted\"");
    body["items"][29]["prompt"] = json!("[refuse] a cup");
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    let counts = (&view["counts"]["completed"], &view["counts"]["failed"]);
    assert_eq!(counts, (&json!(30), &json!(1)));

    let answer = service.get(&format!("/images/{id}/results?format=csv")).await.expect(200);
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(answer.header("content-disposition"), format!("attachment; filename=\"{id}.csv\""));
    assert!(answer.text.ends_with("\r\n") && answer.text.matches("\r\n").count() == 32);
    let rows = table(&answer.text);
    let keys: Vec<String> = rows.iter().map(|row| format!("{} {}", row["sceneId"], row["variant"])).collect();
    assert_eq!(keys[..3], ["s-001 1", "s-001 2", "s-002 1"]);
    assert_eq!((keys.len(), keys.last().unwrap().as_str()), (31, "s-030 1"));
    assert_eq!(rows[2]["prompt"], "'=HYPERLINK(\"http://x.test\"), \"quoted\"");
    assert_eq!(rows[0]["permalink"], format!("{}/images/{id}/items/s-001/1", service.url));
    let redirect = service.client.get(&rows[0]["permalink"]).send().await.unwrap();
    let link = redirect.headers()["location"].to_str().unwrap();
    assert_eq!(bytes(&service, link).await.len().to_string(), rows[0]["bytes"]);
    let refused = &rows[30];
    assert_eq!((refused["state"].as_str(), refused["errorCode"].as_str()), ("failed", "safety_blocked"));
    assert!(!refused["errorDetail"].is_empty() && refused["file"].is_empty());
    let marked = bytes(&service, &format!("/images/{id}/results?format=csv&bom=true")).await;
    assert_eq!(marked, format!("\u{feff}{}", answer.text).into_bytes());

    let answer = service.get(&format!("/images/{id}/results?format=jsonl")).await.expect(200);
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), answer.header("content-type")), (31, "application/jsonl"));
    assert_eq!(lines[2]["prompt"], "=HYPERLINK(\"http://x.test\"), \"quoted\"");
    let shown = &view["items"][0]["images"][1];
    for member in [
        "variant",
        "state",
        "permalink",
        "uri",
        "mimeType",
        "width",
        "height",
        "bytes",
        "sha256",
        "cost",
        "billing",
        "attempts",
        "error",
    ] {
        assert_eq!(lines[1][member], shown[member], "{member}");
    }

    let archive = files(bytes(&service, &format!("/images/{id}/results?format=zip")).await);
    assert_eq!(archive.len(), 31);
    for line in lines.iter().filter(|line| line["state"] == "completed") {
        let file = &archive[line["file"].as_str().unwrap()];
        assert_eq!(Sha256Hex::of(file).to_string(), line["sha256"].as_str().unwrap());
    }
    assert!(archive.contains_key("s-001_v2.png"));
    let manifest = String::from_utf8(archive["manifest.csv"].clone()).unwrap();
    assert_eq!(table(&manifest), rows);
}

#[tokio::test]
async fn an_archive_has_what_is_there_and_says_what_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let mut body = batch(3, 1);
    body["items"][2]["prompt"] = json!("[stall] a cup");
    let id = service.submit(&body).await;
    let two = |view: &Value| view["counts"]["completed"] == 2;
    let view = service.until(two, &format!("/images/{id}")).await;
    let lost = view["items"][0]["images"][0]["uri"].as_str().unwrap().strip_prefix("local:").unwrap();
    std::fs::remove_file(folder.path().join(lost)).unwrap();
    let archive = files(bytes(&service, &format!("/images/{id}/results?format=zip")).await);
    assert_eq!(archive.keys().collect::<Vec<_>>(), ["manifest.csv", "s-002_v1.png"]);
    let manifest = table(&String::from_utf8(archive["manifest.csv"].clone()).unwrap());
    let told: Vec<_> = manifest.iter().map(|row| (row["state"].as_str(), row["file"].as_str())).collect();
    assert_eq!(told, [("completed", ""), ("completed", "s-002_v1.png"), ("running", "")]);
}

#[tokio::test]
async fn an_archive_whose_picture_cannot_be_read_breaks_off() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let id = service.submit(&batch(2, 1)).await;
    let view = service.finished(&id).await;
    let broken = view["items"][1]["images"][0]["uri"].as_str().unwrap().strip_prefix("local:").unwrap();
    let broken = folder.path().join(broken).parent().unwrap().to_owned();
    std::fs::remove_dir_all(&broken).unwrap();
    std::fs::write(&broken, "no folder").unwrap();
    let sent = service.client.get(format!("{}/images/{id}/results?format=zip", service.url)).send().await;
    let is_told = match sent {
        Ok(response) => {
            assert_eq!(response.status().as_u16(), 200);
            let pieces: Vec<_> = response.bytes_stream().collect().await;
            pieces.last().unwrap().is_err()
        }
        // It broke before the head was on its way.
        Err(error) => !error.is_connect(),
    };
    assert!(is_told, "a client is told that the archive is not whole");
}

#[tokio::test]
async fn a_table_is_given_unless_another_format_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let id = service.submit(&batch(1, 1)).await;
    for query in ["?format=xls", "?format=csv&format=zip", "?format=csv&bom=yes"] {
        let problem = service.get(&format!("/images/{id}/results{query}")).await.expect_problem(400, "invalid_request");
        assert!(problem["errors"][0]["parameter"].is_string(), "{query}: {problem}");
    }
    let plain = service.get(&format!("/images/{id}/results")).await.expect(200);
    assert_eq!(plain.header("content-type"), "text/csv; charset=utf-8");
    let other = "/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV/results?format=zip";
    service.get(other).await.expect_problem(404, "not_found");
}
