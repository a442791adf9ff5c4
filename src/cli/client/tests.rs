use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Redirect;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::cli::sse::Frame;

const BATCH: &str = "bat_01KB0000000000000000000000";

fn batch() -> BatchId {
    BATCH.parse().unwrap()
}

/// A service with these routes.
async fn service(routes: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio_util::task::TaskTracker::new().spawn(async { axum::serve(listener, routes).await.unwrap() });
    address
}

async fn client(routes: Router) -> Client {
    Client::local(service(routes).await).unwrap()
}

fn keyed(address: SocketAddr) -> Client {
    let credentials = Credentials { key: Some(&Secret::new("orc_k")), token: None };
    Client::new(&format!("http://{address}/"), credentials, Screen::new()).unwrap()
}

/// A stream of three events that breaks off after each.
async fn one_event_a_time(headers: HeaderMap) -> String {
    let last = headers["last-event-id"].to_str().unwrap().parse::<u32>().unwrap();
    let kind = if last == 2 { "done" } else { "step" };
    format!("retry: 1\n\n: still here\n\nid: {}\nevent: {kind}\ndata: {{}}\n\n", last + 1)
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_resumed_where_it_was_cut() {
    let client = client(Router::new().route("/images/{batch}/events", get(one_event_a_time))).await;
    for (last, expected) in [(0, &["1", "2", "3"][..]), (1, &["2", "3"])] {
        let mut ids = Vec::new();
        client.follow(batch(), last, async |event| ids.push(event.id)).await.unwrap();
        assert_eq!(ids, expected);
    }
}

#[tokio::test]
async fn a_stream_that_is_over_needs_no_events() {
    let client = client(Router::new().route("/images/{batch}/events", get(|| async { StatusCode::NO_CONTENT }))).await;
    client.follow(batch(), 7, async |event| panic!("{event:?}")).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_refused_for_good_ends_with_the_reason() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND] {
        let refused = client(Router::new().route("/images/{batch}/events", get(move || async move { status }))).await;
        let failure = refused.follow(batch(), 0, async |_| {}).await.unwrap_err();
        assert!(matches!(failure, Failure::Refused(refusal) if refusal.status == status));
    }
}

#[tokio::test]
async fn an_error_of_the_service_is_told_in_its_own_words() {
    let problem = (StatusCode::PAYMENT_REQUIRED, r#"{"detail":"only 0.10 is left"}"#);
    let client = client(Router::new().route("/images", post(move || async move { problem }))).await;
    let error = client.post::<Value>("/images", String::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "the service answered 402 Payment Required: only 0.10 is left");
}

#[tokio::test]
async fn a_request_that_is_named_is_sent_again_under_its_name_until_it_is_answered() {
    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let answer = |headers: HeaderMap, body: String| async move {
        let mut seen = SEEN.lock().unwrap();
        seen.push(format!("{} {body}", headers["idempotency-key"].to_str().unwrap()));
        let status = if seen.len() < 3 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::ACCEPTED };
        (status, r#"{"ok":true}"#)
    };
    let client = client(Router::new().route("/images", post(answer))).await;
    let body = Body { content_type: "text/csv", bytes: Bytes::from_static(b"rows") };
    let answered: Value = client.post_once("/images", Some(body), Some("name")).await.unwrap();
    assert_eq!(answered["ok"], true);
    assert_eq!(*SEEN.lock().unwrap(), ["name rows", "name rows", "name rows"]);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_asked_for_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::local(listener.local_addr().unwrap()).unwrap();
    let serving = async {
        for answer in ["Content-Length: 11\r\n\r\n{\"ok\"", "Content-Length: 11\r\n\r\n{\"ok\":true}"] {
            let (mut connection, _) = listener.accept().await.unwrap();
            let asked = connection.read(&mut [0; 4096]).await.unwrap();
            assert!(asked > 0);
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{answer}");
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let (answered, ()) = tokio::join!(client.get::<Value>("/budget"), serving);
    assert_eq!(answered.unwrap()["ok"], true);
}

#[tokio::test]
async fn a_refusal_after_a_try_that_may_have_been_taken_says_so() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let answer = || async {
        let is_first = ASKED.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { StatusCode::BAD_GATEWAY } else { StatusCode::UNPROCESSABLE_ENTITY }
    };
    let client = client(Router::new().route("/images", post(answer))).await;
    for is_repeated in [true, false] {
        let failure = client.post_once::<Value>("/images", None, Some("name")).await.unwrap_err();
        let Failure::Refused(refusal) = failure else { panic!("{failure}") };
        assert_eq!((refusal.status, refusal.is_repeated), (StatusCode::UNPROCESSABLE_ENTITY, is_repeated));
    }
}

#[tokio::test]
async fn what_has_no_name_is_sent_once() {
    static SENT: AtomicU32 = AtomicU32::new(0);
    let answer = || async {
        SENT.fetch_add(1, Ordering::Relaxed);
        StatusCode::SERVICE_UNAVAILABLE
    };
    let client = client(Router::new().route("/images", post(answer))).await;
    assert!(client.post::<Value>("/images", String::new()).await.is_err());
    assert_eq!(SENT.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn nobody_at_the_address_is_an_error_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::local(listener.local_addr().unwrap()).unwrap();
    drop(listener);
    let failure = client.get::<Value>("/budget").await.unwrap_err();
    assert!(matches!(failure, Failure::Unreachable { .. }), "{failure}");
}

#[tokio::test]
async fn the_key_goes_to_the_service_and_never_where_a_picture_is() {
    async fn bytes(headers: HeaderMap) -> Result<&'static str, StatusCode> {
        if headers.contains_key("authorization") { Err(StatusCode::IM_A_TEAPOT) } else { Ok("picture") }
    }
    let bucket = service(Router::new().route("/bucket/s.png", get(bytes))).await;
    let to = format!("http://{bucket}/bucket/s.png");
    let redirect = move |headers: HeaderMap| async move {
        if headers["authorization"] == "Bearer orc_k" { Ok(Redirect::to(&to)) } else { Err(StatusCode::UNAUTHORIZED) }
    };
    let address = service(Router::new().route("/images/{batch}/items/s-1/2", get(redirect))).await;
    let scene = "s-1".parse().unwrap();
    let opened = keyed(address).open_picture(batch(), &scene, 2).await.unwrap();
    assert_eq!(opened.text().await.unwrap(), "picture");
}

#[tokio::test]
async fn redirects_end() {
    let again = || async { Redirect::to("/again") };
    let routes = Router::new().route("/images/{batch}/items/s/1", get(again)).route("/again", get(again));
    let scene = "s".parse().unwrap();
    let failure = client(routes).await.open_picture(batch(), &scene, 1).await.unwrap_err();
    assert!(failure.to_string().contains("redirects"), "{failure}");
}

#[test]
fn an_address_that_is_none_or_holds_a_secret_is_refused() {
    for good in ["http://127.0.0.1:9090", "https://pictures.example/", "https://example.org/prefix/"] {
        assert!(service_url(good).is_ok(), "{good}");
    }
    for bad in
        ["localhost:9090", "127.0.0.1", "ftp://x", "http://", "https://user:secret@example.org", "http://x/?key=1"]
    {
        let failure = service_url(bad).unwrap_err();
        assert_eq!(failure.exit_code(), 64, "{bad}");
        assert!(!failure.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn a_token_of_the_platform_leaves_the_key_a_header_of_its_own() {
    let seen = |headers: HeaderMap| async move {
        let of = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        axum::Json(serde_json::json!([of("authorization"), of("x-api-key")]))
    };
    let address = service(Router::new().route("/budget", get(seen))).await;
    let (key, token) = (Secret::new("orc_k"), Secret::new("ey.J.x"));
    for (key, token, expected) in [
        (None, None, [None, None]),
        (Some(&key), None, [Some("Bearer orc_k"), None]),
        (None, Some(&token), [Some("Bearer ey.J.x"), None]),
        (Some(&key), Some(&token), [Some("Bearer ey.J.x"), Some("orc_k")]),
    ] {
        let client = Client::new(&format!("http://{address}"), Credentials { key, token }, Screen::new()).unwrap();
        assert_eq!(client.get::<Value>("/budget").await.unwrap(), serde_json::json!(expected));
    }
    let broken = Secret::new("a\nb");
    let failure = Credentials { key: None, token: Some(&broken) }.headers().unwrap_err();
    assert!(failure.exit_code() == 64 && failure.to_string().contains("ORCHESTRATOR_TOKEN"), "{failure}");
}

#[tokio::test]
async fn a_stream_that_is_left_on_purpose_goes_on_after_the_last_event() {
    async fn all(headers: HeaderMap) -> String {
        let last = headers["last-event-id"].to_str().unwrap().parse::<u32>().unwrap();
        let event =
            |number| format!("id: {number}\nevent: {}\ndata: {{}}\n\n", if number == 4 { "done" } else { "step" });
        (last + 1..=4).map(event).collect()
    }
    let client = client(Router::new().route("/images/{batch}/events", get(all))).await.measured();
    let mut ids = Vec::new();
    let leave = async |event: Frame| {
        ids.push(event.id);
        Then::Reconnect
    };
    client.follow_as(batch(), 0, leave).await.unwrap();
    assert_eq!(ids, ["1", "2", "3", "4"]);
    assert_eq!(client.tally().answered.len(), 4, "a connection for each");
}

#[tokio::test]
async fn an_event_without_end_is_given_up() {
    let endless = || async { format!("data: {}", "x".repeat(2 << 20)) };
    let client = client(Router::new().route("/images/{batch}/events", get(endless))).await;
    let failure = client.follow(batch(), 0, async |_| {}).await.unwrap_err();
    assert!(matches!(failure, Failure::Unexpected(_)), "{failure}");
}

#[tokio::test]
async fn what_is_asked_of_the_service_is_counted_and_nothing_else() {
    let elsewhere = service(Router::new().route("/s.png", get(|| async { "picture" }))).await;
    let to = format!("http://{elsewhere}/s.png");
    let routes = Router::new()
        .route("/p/images/{batch}/items/s/1", get(move || async move { (StatusCode::FOUND, [("location", to)]) }))
        .route("/p/ok", get(|| async { "{}" }))
        .route("/p/bad", post(|| async { StatusCode::INTERNAL_SERVER_ERROR }));
    let address = service(routes).await;
    let client = Client::new(&format!("http://{address}/p/"), Credentials::default(), Screen::new()).unwrap();
    client.get::<Value>("/ok").await.unwrap();
    assert!(client.tally().answered.is_empty(), "only when it is asked to");
    let client = client.measured();
    client.get::<Value>("/ok?a=b").await.unwrap();
    client.post::<Value>("/bad", String::new()).await.unwrap_err();
    let at = client.redirect_of(&format!("/images/{BATCH}/items/s/1")).await.unwrap();
    assert_eq!(client.open_link(&at).await.unwrap().text().await.unwrap(), "picture");
    assert!(client.redirect_of("/ok").await.is_err());
    let tally = client.tally();
    let paths: Vec<String> = tally.answered.iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    assert_eq!(paths, ["GET /ok", "POST /bad", &format!("GET /images/{BATCH}/items/s/1"), "GET /ok"]);
    assert_eq!((tally.server_errors, tally.unanswered), (1, 0));
}
