//! What must never be in the log, whatever fails and however much is logged; and what always is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ALICE, BOB, key, keys, team};
use crate::engines::{Database, on_both_engines};
use crate::fake_gemini::{Allowed, FakeGemini, Fault};
use crate::process::{Service, batch};
use crate::uploads::{encoded, plain};

on_both_engines!(no_secret_is_in_the_log_on_any_path_at_trace_level);

/// Every way in which a call can end that does not take a minute.
const FAULTS: [Fault; 9] = [
    Fault::None,
    Fault::CloseBefore,
    Fault::CloseWithin,
    Fault::ThrottleBare,
    Fault::Own500,
    Fault::Own503,
    Fault::Html500,
    Fault::Html503,
    Fault::Blocked,
];

/// `whsec_` and the base64 of 24 bytes.
const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn no_secret_is_in_the_log_on_any_path_at_trace_level(database: Arc<Database>) {
    let fake = FakeGemini::start(
        &encoded(&plain(33), image::ImageFormat::Png),
        Duration::ZERO,
        Allowed::default(),
        |prompt, tried| {
            let row = prompt.split("row-").nth(1).and_then(|rest| rest[..1].parse::<usize>().ok()).unwrap_or(0);
            if tried == 0 { FAULTS[row % FAULTS.len()] } else { Fault::None }
        },
    )
    .await;
    let mut url = url::Url::parse(&database.url).unwrap();
    if url.scheme() == "postgres" {
        url.set_password(Some("canary-password")).unwrap();
    }
    let settings = team(database.folder())
        .with("DATABASE_URL", url.as_str())
        .with("BUDGET_LEDGER_ENABLED", "true")
        .with("LOG_LEVEL", "trace")
        .with("PROVIDER", "gemini")
        .with("RUN_MODE", "live")
        .with("GEMINI_API_KEY", "canary-provider-key")
        .with("GEMINI_BASE_URL", fake.url.clone())
        .with("REFERENCE_ALLOW", "127.0.0.1:1")
        .with("REFERENCE_RETRIES", "0");
    let service = settings.start().await;
    let mut canaries: BTreeMap<&str, String> = BTreeMap::from([
        ("a prompt", "canary-prompt".to_owned()),
        ("a reference's signature", "canary-signature".to_owned()),
        ("the provider's key", "canary-provider-key".to_owned()),
        ("the database's password", "canary-password".to_owned()),
        ("a webhook's secret", WEBHOOK_SECRET[6..].to_owned()),
        ("a webhook's address", "canary-hook".to_owned()),
        ("a wrong key", key(99)[17..].to_owned()),
        ("Alice's key", key(ALICE)[17..].to_owned()),
        ("Bob's key", key(BOB)[17..].to_owned()),
        ("a text that is no key", "canary-no-key".to_owned()),
    ]);
    let (made, _) = keys(&settings, &["new", "--name", "alice"]).await;
    canaries.insert("a key of the database", made[17..].to_owned());
    exercise(&service, &mut canaries, &made).await;
    assert!(fake.calls().len() >= FAULTS.len());

    let (_, log) = service.stop_with_log().await;
    assert!(log.lines().count() > 500, "not much was logged");
    for (what, secret) in canaries {
        let shown = log.lines().filter(|line| line.contains(&secret)).take(3).collect::<Vec<_>>();
        assert!(shown.is_empty(), "{what} is in the log: {shown:#?}");
    }
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    audited(&lines);
}

/// Uses every secret where it belongs, and where it does not.
async fn exercise(service: &Service, canaries: &mut BTreeMap<&'static str, String>, made: &str) {
    let alice = key(ALICE);
    for key in [key(99), "canary-no-key".to_owned(), made.to_owned(), key(BOB)] {
        service.ask("GET", "/budget", Some(&key), None).await;
    }
    let session = service.ask("POST", "/session", Some(&alice), None).await.expect(200);
    let cookie = session.header("set-cookie").split(';').next().unwrap().to_owned();
    canaries.insert("a session", cookie.split_once('=').unwrap().1.to_owned());

    let row =
        |number: usize| json!({"sceneId": format!("s-{number}"), "prompt": format!("canary-prompt row-{number}")});
    let mut items: Vec<Value> = (0..FAULTS.len()).map(row).collect();
    let reference = json!({"url": "http://127.0.0.1:1/a.png?X-Signature=canary-signature"});
    items.push(json!({"sceneId": "r", "prompt": "canary-prompt", "references": [reference]}));
    let webhook = json!({"url": "http://127.0.0.1:1/canary-hook?key=canary-hook", "secret": WEBHOOK_SECRET});
    let id = service.submit_as(&alice, &json!({"runMode": "live", "items": items, "webhook": webhook})).await;
    let path = format!("/images/{id}");
    let token = service.ask("POST", &format!("{path}/stream-token"), Some(&alice), None).await.json();
    let token = token["token"].as_str().unwrap();
    canaries.insert("a stream's token", token.to_owned());
    let view = service.finished_as(&alice, &id).await;
    service.get(&format!("{path}/events?token={token}")).await.expect(200);

    let tried = async || {
        let log = service.ask("GET", &format!("{path}/webhooks"), Some(&alice), None).await.expect(200).json();
        !log["deliveries"][0]["lastError"].is_null()
    };
    while !tried().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let link = view["items"][0]["images"][0]["url"].as_str().unwrap();
    let signature = link.split("signature=").nth(1).unwrap();
    canaries.insert("a link's signature", signature.to_owned());
    service.get(link).await.expect(200);
    service.get(&link.replace("expires=1", "expires=2")).await.expect(404);

    // Bodies with faults: what is wrong is told to the client alone.
    for body in [
        json!({"items": [{"sceneId": "canary-prompt !", "prompt": "canary-prompt"}]}),
        json!({"canary-prompt": 1}),
        json!({"items": [], "webhook": {"url": "canary-hook", "secret": WEBHOOK_SECRET[6..], "canary-hook": 1}}),
        json!({"items": [{"sceneId": "a", "prompt": "canary-prompt", "aspectRatio": "canary-prompt"}]}),
        json!({"items": [{"sceneId": "a", "prompt": "canary-prompt", "references": ["ftp://canary-signature/"]}]}),
    ] {
        service.ask("POST", "/images", Some(&alice), Some(&body)).await.expect(400);
    }
    service.ask("POST", &format!("{path}/retry"), Some(&alice), None).await;
    service.ask("POST", &format!("{path}/cancel"), Some(&key(BOB)), None).await.expect(404);
    let request = service.client.delete(format!("{}/session", service.url)).header("cookie", cookie);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 204);
}

/// Each change has its line: who, what, when, from where, and what came of it.
fn audited(log: &[Value]) {
    let changes: Vec<&Value> =
        log.iter().filter(|line| line["target"] == "audit" && line["message"] == "change").collect();
    let found = |user: &str, path: &str, status: u16| {
        let line = changes.iter().find(|line| {
            line["user"] == user && line["path"].as_str().unwrap().ends_with(path) && line["status"] == status
        });
        let line = line.unwrap_or_else(|| panic!("no line for {user} {path} {status}: {changes:#?}"));
        assert!(line["address"] == "127.0.0.1" && !line["timestamp"].is_null(), "{line}");
        (*line).clone()
    };
    assert_eq!(found("alice", "/images", 202)["outcome"], "done");
    assert_eq!(found("alice", "/images", 400)["outcome"], "refused");
    assert_eq!(found("bob", "/cancel", 404)["key"], "020202020202");
    found("alice", "/session", 200);
    found("alice", "/session", 204);
    let refusals = log.iter().filter(|line| line["target"] == "audit" && line["message"] == "a caller was refused");
    assert_eq!(refusals.count(), 2);
}

#[tokio::test]
async fn a_change_is_logged_also_if_it_is_refused_or_nobody_waits_for_the_answer() {
    use tokio::io::AsyncWriteExt as _;
    let folder = tempfile::tempdir().unwrap();
    let entries = [format!("alice={}", key(ALICE)), format!("bob={};scopes=read", key(BOB))];
    let settings = super::keyed(folder.path(), &entries).with("RATE_LIMIT_PER_MINUTE", "1");
    let service = settings.with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h").start().await;
    service.ask("POST", "/images", Some(&key(BOB)), Some(&batch(1, 1))).await.expect_problem(403, "forbidden");
    let login = service.client.post(format!("{}/session", service.url)).header("x-api-key", key(BOB));
    let login = login.header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(login.status().as_u16(), 403);
    let body = batch(1, 1).to_string();
    let head = "POST /images HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nprefer: wait=600\r\n";
    let request = format!("{head}x-api-key: {}\r\ncontent-length: {}\r\n\r\n{body}", key(ALICE), body.len());
    let mut client = tokio::net::TcpStream::connect(service.url.strip_prefix("http://").unwrap()).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    service
        .until_so(async || {
            let list = service.ask("GET", "/images", Some(&key(ALICE)), None).await.expect(200).json();
            !list["batches"].as_array().unwrap().is_empty()
        })
        .await;
    drop(client);
    service.until_so(async || service.log().contains("\"outcome\":\"unknown\"")).await;
    service.ask("POST", "/images", Some(&key(ALICE)), Some(&batch(1, 1))).await.expect_problem(429, "rate_limited");
    let (_, log) = service.stop_and_read().await;
    let changes = log.iter().filter(|line| line["target"] == "audit" && line["message"] == "change");
    let changes: Vec<_> = changes.map(|line| (line["user"].as_str().unwrap(), line["status"].as_u64())).collect();
    assert_eq!(changes, [("bob", Some(403)), ("bob", Some(403)), ("alice", None), ("alice", Some(429))]);
}

#[tokio::test]
async fn an_open_service_has_no_audit_as_it_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let service = crate::process::Settings::new(folder.path()).start().await;
    let id = service.submit(&batch(1, 1)).await;
    service.finished(&id).await;
    let (_, log) = service.stop_and_read().await;
    assert!(log.iter().all(|line| line["target"] != "audit"));
}
