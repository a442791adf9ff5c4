//! Webhooks, by the real program and a receiver that checks every signature itself.

mod pace;
mod receiver;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::books::on;
use crate::engines::{Database, on_both_engines};
use crate::process::{Service, Settings, batch};
use receiver::{Reaction, Receiver};

on_both_engines!(
    a_batch_tells_what_happens_in_it_signed_and_in_order,
    a_batch_is_told_of_by_its_end_alone_under_a_secret_of_its_own_unless_asked,
    a_batch_that_nobody_is_told_of_writes_nothing,
    a_cancelled_batch_and_a_retried_one_tell_their_ends,
    what_was_sent_and_not_recorded_is_sent_again_after_a_kill,
    a_stop_waits_for_what_is_being_sent,
    the_log_comes_in_pages,
);

const BOTH: [&str; 2] = ["batch.completed", "image.completed"];
/// `whsec_` and the base64 of 24 bytes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A service that may reach `receivers`, and nothing else on this machine.
fn reaching(database: &Database, receivers: &[&Receiver]) -> Settings {
    let allow: Vec<String> = receivers.iter().map(|receiver| receiver.address.to_string()).collect();
    on(database).with("REFERENCE_ALLOW", allow.join(",")).with("LEASE_DURATION", "1s")
}

/// A live batch that is told of.
fn told(rows: usize, webhook: &Value) -> Value {
    let mut body = batch(rows, 1);
    body["webhook"] = webhook.clone();
    body
}

/// Waits until none of the batch's deliveries waits, and there are `count` of them.
async fn told_all(service: &Service, batch: &str, count: usize) -> Vec<Value> {
    let ended = |view: &Value| {
        let deliveries = view["deliveries"].as_array().unwrap();
        deliveries.len() == count && deliveries.iter().all(|delivery| delivery["state"] != "pending")
    };
    let view = service.until(ended, &format!("/images/{batch}/webhooks?limit=200")).await;
    view["deliveries"].as_array().unwrap().clone()
}

/// Whether `body` is what `message` was signed for, by the code in docs/API.md.
fn documented(body: &str, message: &receiver::Received) -> bool {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/API.md")).unwrap();
    let code = document.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let headers = json!({
        "webhook-id": message.id(),
        "webhook-timestamp": message.header("webhook-timestamp"),
        "webhook-signature": message.header("webhook-signature"),
    });
    let check =
        format!("{code}\nimport sys\nsys.exit(0 if verify(sys.argv[1], {headers}, sys.argv[2].encode()) else 7)");
    let status = std::process::Command::new("python3").args(["-c", &check, SECRET, body]).status().unwrap();
    assert!([Some(0), Some(7)].contains(&status.code()), "{status}");
    status.success()
}

async fn a_batch_tells_what_happens_in_it_signed_and_in_order(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(204)).await;
    let service = reaching(&database, &[&receiver]).start().await;
    let body = told(3, &json!({"url": receiver.url(), "events": BOTH, "secret": SECRET}));
    let answer = service.post("/images", &body, &[("Idempotency-Key", "k")]).await.expect(202).json();
    let shown = json!({"url": receiver.url(), "events": BOTH, "secret": SECRET});
    assert_eq!(answer["webhook"], shown);
    let id = answer["batchId"].as_str().unwrap();
    let deliveries = told_all(&service, id, 4).await;

    let messages = receiver.messages();
    assert_eq!(messages.len(), 4, "each event once");
    let kinds: Vec<String> = messages.iter().map(receiver::Received::kind).collect();
    assert_eq!(kinds, ["image.completed", "image.completed", "image.completed", "batch.completed"]);
    for (message, delivery) in messages.iter().zip(&deliveries) {
        assert!(message.is_signed(SECRET) && message.is_of_now(), "{message:?}");
        assert_eq!(message.header("content-type"), "application/json");
        let logged = (&delivery["id"], &delivery["state"], &delivery["attempts"], &delivery["lastStatus"]);
        assert_eq!(logged, (&json!(message.id()), &json!("delivered"), &json!(1), &json!(204)));
        assert_eq!((&delivery["lastError"], &delivery["nextAttemptAt"]), (&Value::Null, &Value::Null));
    }

    let view = service.get(&format!("/images/{id}")).await.json();
    let done = messages[3].json();
    let told = json!({"batchId": id, "state": "completed", "counts": view["counts"], "actualCost": view["actualCost"], "unknownCost": 0.0});
    assert_eq!(done["data"], told);
    assert_eq!(done["timestamp"], view["finishedAt"]);
    for message in &messages[..3] {
        let image = message.json()["data"].clone();
        let item = view["items"].as_array().unwrap().iter().find(|item| item["sceneId"] == image["sceneId"]).unwrap();
        let mut expected = item["images"][0].clone();
        for lost in ["url", "thumbnailUrl", "urlExpiresAt", "attempts"] {
            expected.as_object_mut().unwrap().remove(lost);
        }
        expected["batchId"] = json!(id);
        expected["sceneId"] = item["sceneId"].clone();
        assert_eq!(image, expected);
    }

    let message = &messages[3];
    assert!(documented(&message.text, message) && !documented(&message.text.replace("completed", "failed"), message));

    let hidden = json!({"url": receiver.url(), "events": BOTH});
    assert_eq!(view["webhook"], hidden);
    assert_eq!(service.get(&format!("/images/{id}/webhooks")).await.json()["webhook"], hidden);
    let replayed = service.post("/images", &body, &[("Idempotency-Key", "k")]).await.expect(202);
    assert_eq!((replayed.header("idempotent-replayed"), &replayed.json()["webhook"]), ("true", &shown));
    let (code, log) = service.stop_with_log().await;
    assert_eq!(code, Some(0));
    assert!(log.contains("webhook delivered") && !log.contains(&SECRET[6..]), "{log}");
}

async fn a_batch_is_told_of_by_its_end_alone_under_a_secret_of_its_own_unless_asked(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
    let service = reaching(&database, &[&receiver]).start().await;
    let body = told(2, &json!({"url": receiver.url()}));
    // The answer that shows the end shows the secret too.
    let headers = [("Idempotency-Key", "k"), ("Prefer", "wait=60")];
    let answer = service.post("/images", &body, &headers).await.expect(200).json();
    assert_eq!(answer["webhook"]["events"], json!(["batch.completed"]));
    let secret = answer["webhook"]["secret"].as_str().unwrap();
    let deliveries = told_all(&service, answer["batchId"].as_str().unwrap(), 1).await;
    assert_eq!(deliveries[0]["type"], "batch.completed");
    let messages = receiver.messages();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].is_signed(secret) && !messages[0].is_signed(SECRET));
    let replayed = service.post("/images", &body, &headers).await.expect(200).json();
    assert_eq!(replayed["webhook"]["secret"], secret, "the same one again");
    let other = service.post("/images", &body, &[]).await.expect(202).json();
    assert_ne!(other["webhook"]["secret"], secret, "each batch has its own");
    for webhook in
        [json!({"url": receiver.url(), "secret": SECRET}), json!({"url": receiver.url(), "events": BOTH}), Value::Null]
    {
        let answer = service.post("/images", &told(2, &webhook), &headers).await;
        answer.expect_problem(422, "idempotency_key_reused");
    }
}

async fn a_batch_that_nobody_is_told_of_writes_nothing(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
    let service = reaching(&database, &[&receiver]).start().await;
    let id = service.submit(&batch(2, 1)).await;
    let view = service.finished(&id).await;
    assert!(view.as_object().unwrap().get("webhook").is_none(), "{view}");
    let log = service.get(&format!("/images/{id}/webhooks")).await.expect(200).json();
    assert_eq!(log, json!({"webhook": null, "deliveries": [], "nextCursor": null}));
    // What is wrong with a webhook is told in a dry run too, and one that is right is left alone.
    let mut dry = told(1, &json!({"url": receiver.url()}));
    dry["runMode"] = json!("dry_run");
    service.post("/images", &dry, &[]).await.expect(200);
    for (url, detail) in [
        ("https://127.0.0.1/hook", "messages do not go there"),
        ("https://[::1]/hook", "messages do not go there"),
        ("https://metadata.google.internal/", "messages do not go there"),
        ("http://example.com/hook", "messages do not go there: only https is fetched"),
        ("https://example.com:8443/hook", "messages do not go there"),
        ("https://user:word@example.com/", "must not contain a user name or a password"),
        ("/hook", "must be an absolute URL that starts with https://"),
        ("ftp://example.com/", "must be an absolute URL that starts with https://"),
    ] {
        dry["webhook"]["url"] = json!(url);
        let problem = service.post("/images", &dry, &[]).await.expect_problem(400, "invalid_request");
        let fault = &problem["errors"][0];
        assert_eq!(fault["pointer"], "/webhook/url", "{problem}");
        assert!(fault["detail"].as_str().unwrap().starts_with(detail), "{url}: {fault}");
    }
    for table in ["webhooks", "deliveries"] {
        assert_eq!(database.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0);
    }
    assert_eq!(receiver.connections(), 0);
}

async fn a_cancelled_batch_and_a_retried_one_tell_their_ends(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
    let webhook = json!({"url": receiver.url(), "events": BOTH});
    let slow = reaching(&database, &[&receiver]).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let service = slow.with("PROVIDER_CONCURRENCY", "1").with("SHUTDOWN_GRACE", "2s").start().await;
    let holding = service.submit(&batch(1, 1)).await;
    service.until(|view| view["counts"]["running"] == 1, &format!("/images/{holding}")).await;
    let cancelled = service.submit(&told(2, &webhook)).await;
    service.post(&format!("/images/{cancelled}/cancel"), &json!({}), &[]).await.expect(200);
    told_all(&service, &cancelled, 1).await;
    let end = receiver.messages()[0].json();
    assert_eq!((&end["data"]["state"], &end["data"]["counts"]["cancelled"]), (&json!("cancelled"), &json!(2)));
    drop(service);

    let failing = reaching(&database, &[&receiver]).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "100ms");
    let service = failing.start().await;
    let retried = service.submit(&told(1, &webhook)).await;
    told_all(&service, &retried, 2).await;
    assert_eq!(service.stop().await, Some(0));
    let service = reaching(&database, &[&receiver]).start().await;
    let retry = format!("/images/{retried}/retry");
    let answer = service.post(&retry, &json!({"codes": ["provider_outcome_unknown"]}), &[]).await.expect(202).json();
    assert_eq!(answer["webhook"], webhook, "its secret is for the submission");
    told_all(&service, &retried, 4).await;
    let told: Vec<Value> = receiver.messages()[1..].iter().map(receiver::Received::json).collect();
    let ends: Vec<_> = told.iter().map(|end| (&end["type"], &end["data"]["state"])).collect();
    let (image, batch) = (json!("image.completed"), json!("batch.completed"));
    let (failed, completed) = (json!("failed"), json!("completed"));
    assert_eq!(ends, [(&image, &failed), (&batch, &failed), (&image, &completed), (&batch, &completed)]);
    assert_eq!(told[0]["data"]["error"]["code"], "provider_outcome_unknown");
}

async fn what_was_sent_and_not_recorded_is_sent_again_after_a_kill(database: Arc<Database>) {
    for (point, again) in [("webhook.answered:2", 1), ("webhook.recorded:2", 0)] {
        let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
        let settings = reaching(&database, &[&receiver]);
        let service = settings.clone().with("FAILPOINT", point).start().await;
        let id = service.submit(&told(3, &json!({"url": receiver.url(), "events": BOTH, "secret": SECRET}))).await;
        assert_eq!(service.ended().await, Some(9), "{point}");
        assert_eq!(receiver.messages().len(), 2, "{point}");
        let service = settings.start().await;
        service.finished(&id).await;
        let deliveries = told_all(&service, &id, 4).await;
        let messages = receiver.messages();
        assert!(messages.iter().all(|message| message.is_signed(SECRET)), "{point}");
        let mut ids: Vec<&str> = messages.iter().map(receiver::Received::id).collect();
        assert_eq!(ids.len(), 4 + again, "{point}");
        if again == 1 {
            assert_eq!((ids[1], &messages[1].text), (ids[2], &messages[2].text), "{point}: the same message");
            assert_eq!(deliveries[1]["attempts"], 2);
        }
        ids.dedup();
        let logged: Vec<&str> = deliveries.iter().map(|delivery| delivery["id"].as_str().unwrap()).collect();
        assert_eq!(ids, logged, "{point}: in their order");
        assert_eq!(service.stop().await, Some(0));
    }
}

async fn a_stop_waits_for_what_is_being_sent(database: Arc<Database>) {
    let receiver =
        Receiver::start(|_, before| if before == 0 { Reaction::Silence } else { Reaction::Status(200) }).await;
    let settings = reaching(&database, &[&receiver]);
    let service = settings.clone().with("SHUTDOWN_GRACE", "2s").start().await;
    let id = service.submit(&told(1, &json!({"url": receiver.url()}))).await;
    receiver.until(1).await;
    // It is given up in time, and is due at once for whoever comes next.
    let (code, log) = service.stop_with_log().await;
    assert_eq!(code, Some(0), "{log}");
    let service = settings.start().await;
    let deliveries = told_all(&service, &id, 1).await;
    assert_eq!((&deliveries[0]["state"], &deliveries[0]["attempts"]), (&json!("delivered"), &json!(2)));
    assert_eq!(receiver.messages().len(), 2);
}

async fn the_log_comes_in_pages(database: Arc<Database>) {
    let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
    let service = reaching(&database, &[&receiver]).start().await;
    let id = service.submit(&told(4, &json!({"url": receiver.url(), "events": BOTH}))).await;
    let whole = told_all(&service, &id, 5).await;
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = service.get(&format!("/images/{id}/webhooks?limit=2&cursor={cursor}")).await.expect(200).json();
        pages.push(page["deliveries"].as_array().unwrap().clone());
        let Some(next) = page["nextCursor"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(pages.concat(), whole);
    for query in ["limit=0", "limit=201", "cursor=x"] {
        let answer = service.get(&format!("/images/{id}/webhooks?{query}")).await;
        answer.expect_problem(400, "invalid_request");
    }
}

/// Two instances share a database: what one was sending when it was killed, the other sends.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_was_sending_when_it_was_killed_is_sent_by_another() {
    crate::engines::on_postgres(|database| async move {
        let receiver =
            Receiver::start(|_, before| if before == 0 { Reaction::Silence } else { Reaction::Status(200) }).await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let settings = |number: usize| {
            reaching(&database, &[&receiver]).with("DATA_DIR", folders[number].path().to_str().unwrap())
        };
        let killed = settings(0).start().await;
        let body = told(1, &json!({"url": receiver.url(), "events": BOTH, "secret": SECRET}));
        let id = killed.submit(&body).await;
        receiver.until(1).await;
        let other = settings(1).start().await;
        other.finished(&id).await;
        killed.kill().await;
        let deliveries = told_all(&other, &id, 2).await;
        assert_eq!((&deliveries[0]["attempts"], &deliveries[1]["attempts"]), (&json!(2), &json!(1)));
        let messages = receiver.messages();
        let [first, second, third] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!((first.id(), &first.text), (second.id(), &second.text), "the same message");
        assert_eq!((second.kind(), third.kind()), ("image.completed".to_owned(), "batch.completed".to_owned()));
        assert!(messages.iter().all(|message| message.is_signed(SECRET)));
        assert_eq!(other.stop().await, Some(0));
    })
    .await;
}

/// Two instances share a database: each event goes out once.
#[tokio::test(flavor = "multi_thread")]
async fn two_instances_do_not_tell_the_same() {
    crate::engines::on_postgres(|database| async move {
        let receiver = Receiver::start(|_, _| Reaction::Status(200)).await;
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let settings = |number: usize| {
            let settings = reaching(&database, &[&receiver]);
            settings.with("DATA_DIR", folders[number].path().to_str().unwrap())
        };
        let services = [settings(0).start().await, settings(1).start().await];
        let mut ids = Vec::new();
        for number in 0..8 {
            let body = told(5, &json!({"url": receiver.url(), "events": BOTH}));
            ids.push(services[number % 2].submit(&body).await);
        }
        let mut logged = Vec::new();
        for id in &ids {
            let deliveries = told_all(&services[0], id, 6).await;
            assert!(deliveries.iter().all(|delivery| delivery["attempts"] == 1), "{deliveries:?}");
            logged.extend(deliveries.iter().map(|delivery| delivery["id"].as_str().unwrap().to_owned()));
        }
        let messages = receiver.messages();
        for id in &ids {
            let of_batch = |message: &&str| message.contains(&id[4..]);
            let came: Vec<&str> = messages.iter().map(receiver::Received::id).filter(of_batch).collect();
            let logged: Vec<&str> = logged.iter().map(String::as_str).filter(of_batch).collect();
            assert_eq!(came, logged, "each once, in the batch's order");
        }
        let delivered = |log: &str| log.matches("webhook delivered").count();
        let mut by = Vec::new();
        for service in services {
            by.push(delivered(&service.stop_with_log().await.1));
        }
        eprintln!("delivered by each: {by:?}");
        assert_eq!(by.iter().sum::<usize>(), 48);
    })
    .await;
}
