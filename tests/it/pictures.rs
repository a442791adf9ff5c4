//! Pictures, their links and their references, through the real program.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::books::micros;
use crate::process::{Answer, Settings, batch};
use crate::sse;

#[tokio::test]
async fn a_permanent_address_leads_to_the_picture_that_the_batch_describes() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let id = service.submit(&batch(1, 1)).await;
    let view = service.finished(&id).await;
    let image = &view["items"][0]["images"][0];
    let redirect = service.get(image["permalink"].as_str().unwrap()).await.expect(302);
    assert_eq!(redirect.header("cache-control"), "private, max-age=3600");
    for link in [redirect.header("location"), image["url"].as_str().unwrap()] {
        let response = service.client.get(format!("{}{link}", service.url)).send().await.unwrap();
        let headers = response.headers().clone();
        let bytes = response.bytes().await.unwrap();
        assert_eq!(
            (&headers["content-type"], &headers["x-content-type-options"]),
            (&"image/png".parse().unwrap(), &"nosniff".parse().unwrap())
        );
        assert!(headers["content-disposition"].to_str().unwrap().contains("s-001_v1.png"), "{headers:?}");
        assert_eq!(
            (json!(bytes.len()), json!(headers["content-length"].to_str().unwrap())),
            (image["bytes"].clone(), json!(bytes.len().to_string()))
        );
        let picture = image::load_from_memory(&bytes).unwrap();
        assert_eq!(
            (json!(picture.width()), json!(picture.height())),
            (image["width"].clone(), image["height"].clone())
        );
        assert_eq!(json!(orchestrator::domain::picture::Sha256Hex::of(&bytes).to_string()), image["sha256"]);
    }
    let thumbnail = service.get(&format!("{}/thumbnail", image["permalink"].as_str().unwrap())).await.expect(302);
    let response = service.client.get(format!("{}{}", service.url, thumbnail.header("location"))).send().await.unwrap();
    let small = image::load_from_memory(&response.bytes().await.unwrap()).unwrap();
    assert_eq!((small.width(), small.height()), (128, 128));

    let url = image["url"].as_str().unwrap();
    for broken in [
        url.replace("signature=", "signature=A"),
        url.replace("expires=1", "expires=2"),
        url.split('?').next().unwrap().to_owned(),
    ] {
        service.get(&broken).await.expect_problem(404, "not_found");
    }
    service.get("/assets/../signing.key").await.expect_problem(404, "not_found");
    service.get("/assets/%2e%2e/signing.key?expires=1&name=&signature=AA").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn an_unfinished_picture_is_not_ready_and_an_unknown_one_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let service = settings.start().await;
    let id = service.submit(&batch(1, 1)).await;
    service.get(&format!("/images/{id}/items/s-001/1")).await.expect_problem(404, "not_ready");
    service.get(&format!("/images/{id}/items/s-001/2")).await.expect_problem(404, "not_found");
    service.get(&format!("/images/{id}/items/s-002/1")).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn a_stream_is_on_both_paths_and_takes_its_place_from_header_or_query() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).start().await;
    let id = service.submit(&batch(1, 2)).await;
    service.finished(&id).await;
    for path in ["images", "progress"] {
        let path = if path == "images" { format!("/images/{id}/events") } else { format!("/progress/{id}") };
        let all = service.get(&path).await.expect(200);
        assert!(all.text.starts_with("retry: ") && all.text.contains("id: 1\nevent: started\n"), "{}", all.text);
        assert_eq!((all.header("x-accel-buffering"), all.text.matches("\nid: ").count()), ("no", 5));
        let rest = service.get(&format!("{path}?lastEventId=3")).await.expect(200);
        assert_eq!(rest.text.matches("\nid: ").count(), 2);
        let request = service.client.get(format!("{}{path}?lastEventId=1", service.url)).header("last-event-id", "4");
        let header = Answer::of(request.send().await.unwrap()).await.expect(200);
        assert_eq!(header.text.matches("\nid: ").count(), 1, "the header beats the query");
        service.get(&format!("{path}?lastEventId=5")).await.expect(204);
        service.get(&format!("{path}?lastEventId=five")).await.expect_problem(400, "invalid_request");
        let head = service.client.head(format!("{}{path}", service.url)).send().await.unwrap();
        assert_eq!(
            (head.status().as_u16(), &head.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_service_stops() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("SYNTHETIC_LATENCY", "1h").with("PROVIDER_TIMEOUT", "2h");
    let service = settings.with("SHUTDOWN_GRACE", "2s").start().await;
    let id = service.submit(&batch(1, 1)).await;
    let mut stream = sse::open(&service, &id, None).await;
    assert_eq!(stream.next().await.unwrap().kind, "started");
    service.until(|metrics| metrics["callsStarted"] == 1, "/metrics-lite").await;
    let stopping = tokio::spawn(service.stop());
    assert!(stream.next().await.is_none());
    // The call that is given up is settled as unknown before the process ends cleanly.
    assert_eq!(stopping.await.unwrap(), Some(0));
    let service = Settings::new(folder.path()).start().await;
    let view = service.finished(&id).await;
    assert_eq!((&view["state"], micros(&view["unknownCost"])), (&json!("completed"), 50_000));
}

#[tokio::test]
async fn slow_clients_do_not_keep_a_stop_from_writing_the_ledger() {
    use tokio::io::AsyncWriteExt as _;
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("BUDGET_LEDGER_ENABLED", "true").with("SHUTDOWN_GRACE", "2s");
    let service = settings.start().await;
    let mut clients = Vec::new();
    for request in [
        "POST /images HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
        "GET /images HT",
    ] {
        let mut client = tokio::net::TcpStream::connect(service.url.trim_start_matches("http://")).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let id = service.submit(&batch(3, 1)).await;
    service.finished(&id).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(crate::books::ledger(folder.path()).len(), 3);
}

#[tokio::test]
async fn references_are_fetched_where_allowed_and_refused_elsewhere_at_no_cost() {
    let mut png = Vec::new();
    image::DynamicImage::new_rgb8(32, 32)
        .write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png)
        .unwrap();
    let png: Arc<[u8]> = png.into();
    let router = axum::Router::new().route(
        "/a.png",
        axum::routing::get(move || {
            let png = png.clone();
            async move { png.to_vec() }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("REFERENCE_ALLOW", address.to_string()).start().await;
    let body = json!({"runMode": "live", "items": [
        {"sceneId": "good", "prompt": "x", "references": [format!("http://{address}/a.png")]},
        {"sceneId": "bad", "prompt": "x", "references": ["http://127.0.0.1:1/a.png"]},
        {"sceneId": "metadata", "prompt": "x", "references": ["http://169.254.169.254/latest/meta-data"]},
        {"sceneId": "missing", "prompt": "x", "references": [format!("http://{address}/none.png")]}]});
    let id = service.submit(&body).await;
    let view = service.finished(&id).await;
    let ends: Vec<(&Value, &Value, &Value)> = view["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let image = &item["images"][0];
            (&image["state"], &image["error"]["code"], &image["billing"])
        })
        .collect();
    assert_eq!(ends[0], (&json!("completed"), &Value::Null, &json!("charged")));
    assert_eq!(ends[1], (&json!("failed"), &json!("reference_blocked"), &Value::Null));
    assert_eq!(ends[2], (&json!("failed"), &json!("reference_blocked"), &Value::Null));
    assert_eq!(ends[3], (&json!("failed"), &json!("reference_failed"), &Value::Null));
    let everyone = &service.get("/budget").await.json()["everyone"];
    assert_eq!((micros(&everyone["spent"]), micros(&everyone["reserved"])), (50_000, 0));
}
