//! How long links live, and where permanent addresses lead.

use std::time::Duration;

use serde_json::json;

use super::row;
use crate::process::{Answer, PATIENCE, Service, Settings};

/// Whether a link leads to a picture; one that does not is told so in the documented way.
pub(super) async fn opens(service: &Service, link: &str) -> bool {
    let response = service.client.get(format!("{}{link}", service.url)).send().await.unwrap();
    if response.status().as_u16() == 200 {
        let picture = response.bytes().await.unwrap();
        return image::guess_format(&picture).is_ok();
    }
    Answer::of(response).await.expect_problem(404, "not_found");
    false
}

#[tokio::test]
async fn a_redirect_is_never_kept_until_its_link_is_nearly_dead() {
    let folder = tempfile::tempdir().unwrap();
    let service = Settings::new(folder.path()).with("SIGNED_URL_TTL", "10m").start().await;
    let view = service.post("/images", &row("a cup"), &[("prefer", "wait=60")]).await.expect(200).json();
    let permalink = view["items"][0]["images"][0]["permalink"].as_str().unwrap();
    for path in [permalink.to_owned(), format!("{permalink}/thumbnail")] {
        let redirect = service.get(&path).await.expect(302);
        let kept: u64 = redirect.header("cache-control").strip_prefix("private, max-age=").unwrap().parse().unwrap();
        assert!((1..=300).contains(&kept), "{kept} s of 10 minutes, of which 5 are to be left");
    }
}

#[tokio::test]
async fn an_expired_link_is_gone_and_the_permanent_address_has_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("SIGNED_URL_TTL", "1s").with("SIGNED_URL_MIN_LEFT", "0");
    let service = settings.start().await;
    let view = service.post("/images", &row("a cup"), &[("prefer", "wait=60")]).await.expect(200).json();
    let permalink = view["items"][0]["images"][0]["permalink"].as_str().unwrap();
    let link = service.get(permalink).await.expect(302).header("location").to_owned();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while opens(&service, &link).await {
        assert!(tokio::time::Instant::now() < deadline, "the link outlives its life");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let fresh = service.get(permalink).await.expect(302).header("location").to_owned();
    assert_ne!(fresh, link);
    assert!(opens(&service, &fresh).await);
    assert!(service.get("/metrics-lite").await.json()["urlRefreshes"].as_u64() >= Some(1));
}

/// The detail of a `not_found`.
async fn missing(service: &Service, path: &str) -> String {
    service.get(path).await.expect_problem(404, "not_found")["detail"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_address_that_leads_nowhere_says_what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings::new(folder.path()).with("THUMBNAILS_ENABLED", "false").with("PROVIDER_CONCURRENCY", "1");
    let service = settings.with("SYNTHETIC_LATENCY", "50ms").start().await;
    let body = json!({"runMode": "live", "items": [
        {"sceneId": "made", "prompt": "a cup"}, {"sceneId": "refused", "prompt": "[refuse]"},
        {"sceneId": "blocked", "prompt": "a cup",
         "references": ["https://127.0.0.1/a.png"]}]});
    let view = service.post("/images", &body, &[("prefer", "wait=60")]).await.expect(200).json();
    let address = |item: usize| view["items"][item]["images"][0]["permalink"].as_str().unwrap();
    service.get(address(0)).await.expect(302);
    assert!(missing(&service, &format!("{}/thumbnail", address(0))).await.contains("no thumbnail"));
    let error = &view["items"][1]["error"];
    let reason = format!("{}: {}", error["code"].as_str().unwrap(), error["detail"].as_str().unwrap());
    assert!(missing(&service, address(1)).await.ends_with(&reason), "{reason}");
    assert!(missing(&service, address(2)).await.contains("reference_blocked: reference 1: "));

    let batch = address(0).split("/items").next().unwrap();
    for path in [format!("{batch}/items/made/2"), format!("{batch}/items/other/1"), format!("{batch}/items/made/x")] {
        assert!(missing(&service, &path).await.contains("no such picture"), "{path}");
    }
    let none = "/images/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    for path in [none.to_owned(), format!("{none}/items/made/1"), format!("{none}/events"), "/images/x".to_owned()] {
        assert!(missing(&service, &path).await.contains("no such batch"), "{path}");
    }
    assert!(missing(&service, "/picture").await.contains("/openapi.json"));

    let stopped = service.submit(&crate::process::batch(3, 1)).await;
    service.post(&format!("/images/{stopped}/cancel"), &json!({}), &[]).await.expect(200);
    service.finished(&stopped).await;
    assert!(missing(&service, &format!("/images/{stopped}/items/s-003/1")).await.contains("cancelled"));
}
