//! The gemini provider against recorded answers: the real program, a raw server, and the table of docs/gemini.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::books::micros;
use crate::process::{Service, Settings};

/// In the environment of the service; the fixture `403` repeats it.
const KEY: &str = "AIza-fixture_key-0123456789abcdefghijklmn";
/// Closes the gate for everybody, so it comes last.
const DAILY_QUOTA: &str = "429-daily-quota";
/// What a call gets that was put off before.
const AFTER_THROTTLE: &str = "picture-png";
/// The length of every prompt, so that every reserve is the same.
const PROMPT_BYTES: usize = 64;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/gemini")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name).with_extension("http")).unwrap()
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    fixture: String,
    state: String,
    billing: String,
    code: String,
    micros: i64,
    calls: usize,
}

/// The table of docs/gemini.md.
fn table() -> Vec<Line> {
    let page = std::fs::read_to_string(root().join("docs/gemini.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with('|')).skip(2);
    let line = |row: &str| {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [fixture, _, state, billing, code, cost, calls] = columns[..] else { panic!("not seven columns: {row}") };
        let [fixture, state, billing, code] = [fixture, state, billing, code].map(str::to_owned);
        let cost: Value = serde_json::from_str(cost).unwrap();
        Line { fixture, state, billing, code, micros: micros(&cost), calls: calls.parse().unwrap() }
    };
    rows.map(line).collect()
}

/// What the prompt of a picture says that is not in the table.
const BETWEEN: &str = "a good one in between";

/// A request as it came in.
#[derive(Clone)]
struct Seen {
    head: String,
    body: String,
}

impl Seen {
    /// The fixture that the prompt asks for.
    fn fixture(&self) -> Option<&str> {
        self.body.split("fixture: ").nth(1)?.split([' ', '"', '\\']).next()
    }
}

/// Answers with fixtures, byte by byte as they were recorded, and closes the connection after each.
struct Fake {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self { address: listener.local_addr().unwrap().to_string(), seen: Arc::default() };
        let seen = fake.seen.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(answer(connection, seen.clone()));
            }
        });
        fake
    }

    fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn calls(&self, fixture: &str) -> usize {
        let asked_for = |seen: &&Seen| seen.fixture() == Some(fixture) && !seen.body.contains(BETWEEN);
        self.requests().iter().filter(asked_for).count()
    }
}

async fn answer(mut connection: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let request = read(&mut connection).await;
    let name = request.fixture().unwrap_or("reference").to_owned();
    let request_path = request.head.split(' ').nth(1).unwrap_or_default().to_owned();
    let is_first = {
        let mut seen = seen.lock().unwrap();
        seen.push(request);
        seen.iter().filter(|seen| seen.fixture() == Some(&name)).count() == 1
    };
    let is_over = name.starts_with("429") && name != DAILY_QUOTA && !is_first;
    let bytes = match name.as_str() {
        "reference" => reference(&request_path),
        name => fixture(if is_over { AFTER_THROTTLE } else { name }),
    };
    connection.write_all(&bytes).await.unwrap();
    connection.shutdown().await.unwrap();
}

/// A reference picture, for the one who fetches it: `/b.png` is another one than all others.
fn reference(path: &str) -> Vec<u8> {
    let png = if path == "/b.png" { other_picture() } else { picture() };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n", png.len());
    [head.into_bytes(), png].concat()
}

/// The base64 in the fixture `picture-png`.
fn base64() -> String {
    let text = String::from_utf8(fixture("picture-png")).unwrap();
    text.split("\"data\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

fn other_picture() -> Vec<u8> {
    let mut png = Vec::new();
    let picture = image::DynamicImage::new_rgb8(9, 9);
    picture.write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    png
}

fn picture() -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64()).unwrap()
}

async fn read(connection: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    loop {
        assert!(connection.read_buf(&mut bytes).await.unwrap() > 0, "half a request");
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
            return Seen { head: head.to_owned(), body: body.to_owned() };
        }
    }
}

fn settings(folder: &Path, fake: &Fake) -> Settings {
    Settings::new(folder)
        .with("PROVIDER", "gemini")
        .with("GEMINI_API_KEY", KEY)
        .with("GEMINI_BASE_URL", format!("http://{}", fake.address))
        .with("RUN_MODE", "live")
        .with("PROVIDER_CONCURRENCY", "1")
        .with("LOG_LEVEL", "trace")
        .with("REFERENCE_ALLOW", fake.address.clone())
}

fn row(fixture: &str) -> Value {
    let prompt = format!("{:x<PROMPT_BYTES$}", format!("fixture: {fixture} "));
    json!({"sceneId": fixture, "prompt": prompt})
}

/// Makes one picture for each line, in one batch, and compares. A good answer comes between any two, so that the
/// breaker, which opens after five failures in a row, stays closed.
async fn play(service: &Service, fake: &Fake, lines: &[Line]) {
    let between =
        |number| json!({"sceneId": format!("between-{number}"), "prompt": format!("{BETWEEN}; fixture: picture-png")});
    let rows: Vec<Value> =
        lines.iter().enumerate().flat_map(|(number, line)| [between(number), row(&line.fixture)]).collect();
    let id = service.submit(&json!({"runMode": "live", "items": rows})).await;
    let view = service.finished(&id).await;
    let found: BTreeMap<&str, &Value> = view["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["sceneId"].as_str().unwrap(), &item["images"][0]))
        .collect();
    let found = lines.iter().map(|line| (line, found[line.fixture.as_str()]));
    let wrong = found.filter_map(|(line, image)| {
        let told = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let actual = Line {
            fixture: line.fixture.clone(),
            state: told(&image["state"]),
            billing: told(&image["billing"]),
            code: told(&image["error"]["code"]),
            micros: micros(&image["cost"]),
            calls: fake.calls(&line.fixture),
        };
        (actual != *line).then(|| format!("documented {line:?}\n    really {actual:?}\n    {}", image["error"]))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let between: i64 = found_between(&view).map(|image| micros(&image["cost"])).sum();
    assert_eq!(micros(&view["actualCost"]), between + lines.iter().map(|line| line.micros).sum::<i64>());
    check_words(&view);
}

/// The pictures between those of the table.
fn found_between(view: &Value) -> impl Iterator<Item = &Value> {
    let is_between = |item: &&Value| item["sceneId"].as_str().unwrap().starts_with("between-");
    view["items"].as_array().unwrap().iter().filter(is_between).map(|item| &item["images"][0])
}

/// What is told of every picture is short, and shows neither the key nor data.
fn check_words(view: &Value) {
    let text = view.to_string();
    assert!(!text.contains(KEY), "the key is shown");
    assert!(!repeats_the_picture(&text), "a piece of a picture is shown");
    for item in view["items"].as_array().unwrap() {
        let detail = item["images"][0]["error"]["detail"].as_str().unwrap_or_default();
        assert!(detail.chars().count() < 400 && !detail.contains('\n'), "{detail}");
    }
}

/// Whether `text` holds 32 characters in a row of the base64 of a picture.
fn repeats_the_picture(text: &str) -> bool {
    let base64 = base64();
    (0..base64.len() - 32).any(|at| text.contains(&base64[at..at + 32]))
}

#[test]
fn the_table_has_a_line_for_every_recorded_answer_and_no_other() {
    let files = std::fs::read_dir(fixtures()).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "http"));
    let files: BTreeSet<String> = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let table = table();
    let listed: BTreeSet<String> = table.iter().map(|line| line.fixture.clone()).collect();
    assert_eq!(listed, files);
    assert_eq!(listed.len(), table.len(), "a line is there twice");
    assert!(table.len() > 50, "only {} lines", table.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_answer_ends_as_documented() {
    let (folder, fake) = (tempfile::tempdir().unwrap(), Fake::start().await);
    let service = settings(folder.path(), &fake).start().await;
    let (last, lines): (Vec<Line>, Vec<Line>) = table().into_iter().partition(|line| line.fixture == DAILY_QUOTA);
    play(&service, &fake, &lines).await;
    play(&service, &fake, &last).await;
    let (code, log) = service.stop_with_log().await;
    assert_eq!(code, Some(0));
    assert!(log.contains("provider refused the request"), "the log is there");
    assert!(!log.contains(KEY), "the key is in the log");
    assert!(!repeats_the_picture(&log), "a piece of a picture is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_is_the_provider_s() {
    let (folder, fake) = (tempfile::tempdir().unwrap(), Fake::start().await);
    let service = settings(folder.path(), &fake).start().await;
    let url = |name: &str| format!("http://{}/{name}.png", fake.address);
    let mut wide = row("picture-png");
    wide["aspectRatio"] = json!("16:9");
    wide["imageSize"] = json!("4K");
    wide["references"] = json!([url("a"), {"url": url("b"), "mode": "style_and_composition"}]);
    let id = service.submit(&json!({"runMode": "live", "items": [wide]})).await;
    assert_eq!(service.finished(&id).await["counts"]["completed"], 1);
    let old = json!({"runMode": "live", "model": "gemini-2.5-flash-image", "items": [row("picture-jpeg")]});
    let id = service.submit(&old).await;
    let view = service.finished(&id).await;
    assert_eq!(view["items"][0]["images"][0]["mimeType"], "image/jpeg");
    let requests = fake.requests();
    let calls: Vec<&Seen> = requests.iter().filter(|seen| seen.fixture().is_some()).collect();
    let head: BTreeSet<&str> = calls[0].head.lines().collect();
    let host = format!("host: {}", fake.address);
    let length = format!("content-length: {}", calls[0].body.len());
    let agent = concat!("user-agent: orchestrator/", env!("CARGO_PKG_VERSION"));
    let key = format!("x-goog-api-key: {KEY}");
    let expected = [
        "POST /v1beta/models/gemini-nano-banana-2.1:generateContent HTTP/1.1",
        "accept: */*",
        "content-type: application/json",
        agent,
        &host,
        &key,
        &length,
    ];
    assert_eq!(head, expected.into());
    assert!(calls[1].head.starts_with("POST /v1beta/models/gemini-2.5-flash-image:generateContent HTTP/1.1\r\n"));
    let other = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, other_picture());
    let bodies = calls.iter().map(|seen| {
        let body = seen.body.replace(&base64(), "(the reference in base64)");
        body.replace(&other, "(the other reference in base64)")
    });
    let bodies: Vec<Value> = bodies.map(|body| serde_json::from_str(&body).unwrap()).collect();
    insta::assert_json_snapshot!(bodies, @r#"
    [
      {
        "contents": [
          {
            "parts": [
              {
                "text": "fixture: picture-png xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
              },
              {
                "text": "Style reference: take over the style of the next picture, not its subject and not its composition."
              },
              {
                "inlineData": {
                  "data": "(the reference in base64)",
                  "mimeType": "image/png"
                }
              },
              {
                "text": "Style and composition reference: take over the style and the composition of the next picture."
              },
              {
                "inlineData": {
                  "data": "(the other reference in base64)",
                  "mimeType": "image/png"
                }
              }
            ],
            "role": "user"
          }
        ],
        "generationConfig": {
          "imageConfig": {
            "aspectRatio": "16:9",
            "imageSize": "4K"
          },
          "maxOutputTokens": 4292,
          "responseModalities": [
            "TEXT",
            "IMAGE"
          ]
        }
      },
      {
        "contents": [
          {
            "parts": [
              {
                "text": "fixture: picture-jpeg xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
              }
            ],
            "role": "user"
          }
        ],
        "generationConfig": {
          "imageConfig": {
            "aspectRatio": "1:1"
          },
          "maxOutputTokens": 1802,
          "responseModalities": [
            "TEXT",
            "IMAGE"
          ]
        }
      }
    ]
    "#);
}

#[tokio::test]
async fn a_model_or_a_shape_that_gemini_does_not_have_is_refused_before_anything_is_reserved() {
    let folder = tempfile::tempdir().unwrap();
    let prices = orchestrator::domain::prices::EMBEDDED
        .replace("max_text_tokens = 2048", "max_text_tokens = 2048\naspect_ratios = [\"1:1\", \"4:3\"]");
    std::fs::write(folder.path().join("prices.toml"), prices).unwrap();
    let fake = Fake::start().await;
    let settings = settings(folder.path(), &fake);
    let service = settings.with("PRICES_FILE", folder.path().join("prices.toml").to_str().unwrap()).start().await;
    let mut body = json!({"runMode": "live", "model": "synthetic", "items": [row("picture-png")]});
    let unknown = service.post("/images", &body, &[]).await.expect_problem(422, "model_unknown");
    assert!(unknown["detail"].as_str().unwrap().contains("gemini-nano-banana-2.1"), "{unknown}");
    body["model"] = json!("gemini-3-pro-image");
    body["items"][0]["aspectRatio"] = json!("21:9");
    let shape = service.post("/images", &body, &[]).await.expect_problem(422, "aspect_ratio_unsupported");
    assert_eq!(shape["detail"], "model \"gemini-3-pro-image\" has no aspect ratio 21:9; it has 1:1, 4:3");
    body["items"][0]["imageSize"] = json!("512");
    body["items"][0]["aspectRatio"] = json!("4:3");
    let size = service.post("/images", &body, &[]).await.expect_problem(422, "size_unpriced");
    assert_eq!(size["detail"], "model \"gemini-3-pro-image\" has no price for size 512; it has 1K, 2K, 4K");
    assert_eq!(micros(&service.get("/budget").await.json()["everyone"]["reserved"]), 0);
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn gemini_without_a_word_about_money_spends_none() {
    let (folder, fake) = (tempfile::tempdir().unwrap(), Fake::start().await);
    let service = settings(folder.path(), &fake).with("RUN_MODE", "").start().await;
    let body = json!({"runMode": "live", "items": [row("picture-png")]});
    service.post("/images", &body, &[]).await.expect_problem(403, "live_disabled");
    assert!(fake.requests().is_empty());
}
