//! Sessions, stream tokens, and pages of other origins.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::clock::{Clock, FixedClock};
use orchestrator::domain::access::{Scopes, entries};
use orchestrator::domain::ids::BatchId;
use orchestrator::domain::time::Timestamp;
use orchestrator::service::access::{Access, AccessError, AccessMode, AccessRules, STREAM_TOKEN_LIFE, Shown};
use reqwest::header::HeaderMap;

use super::{ALICE, BOB, key, keys, team};
use crate::engines::{Database, on_both_engines};
use crate::process::{Answer, Service, Settings, batch};

impl Service {
    /// Sends a request with these headers and an empty body.
    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.url));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        Answer::of(request.send().await.unwrap()).await
    }

    /// Logs in with a key; what the browser sends from then on.
    async fn log_in(&self, key: &str) -> String {
        let answer = self.send("POST", "/session", &[("authorization", &format!("Bearer {key}"))]).await.expect(200);
        let cookie = answer.header("set-cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        assert!(!cookie.contains("Secure"), "loopback has no TLS");
        assert!(!answer.text.contains("aip_") && !cookie.contains(key));
        cookie.split(';').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_session_reads_and_changes_for_pages_of_this_origin_alone() {
    let folder = tempfile::tempdir().unwrap();
    let service = team(folder.path()).start().await;
    let id = service.submit_as(&key(ALICE), &batch(1, 1)).await;
    service.finished_as(&key(ALICE), &id).await;
    let cookie = service.log_in(&key(ALICE)).await;
    let with = |more: &[(&'static str, &str)]| {
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        more.chain([("cookie", cookie.clone())]).collect::<Vec<_>>()
    };
    let send = async |method: &str, path: &str, more: &[(&'static str, &str)]| {
        let headers = with(more);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        service.send(method, path, &headers).await
    };
    let (batch, cancel) = (format!("/images/{id}"), format!("/images/{id}/cancel"));
    send("GET", &batch, &[]).await.expect(200);
    send("GET", &format!("{batch}/items/s-001/1"), &[]).await.expect(302);
    assert!(send("GET", &format!("{batch}/events"), &[]).await.expect(200).text.contains("event: done"));
    send("POST", &cancel, &[]).await.expect_problem(403, "forbidden");
    for foreign in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        send("POST", &cancel, &[foreign]).await.expect_problem(403, "forbidden");
        send("DELETE", "/session", &[foreign]).await.expect_problem(403, "forbidden");
    }
    send("POST", &cancel, &[("origin", &service.url)]).await.expect(200);
    send("POST", &cancel, &[("sec-fetch-site", "same-origin")]).await.expect(200);
    send("POST", "/session", &[]).await.expect_problem(401, "unauthorized");
    let bob = service.log_in(&key(BOB)).await;
    service.send("GET", &batch, &[("cookie", &bob)]).await.expect_problem(404, "not_found");

    let gone = send("DELETE", "/session", &[("origin", &service.url)]).await.expect(204);
    assert!(gone.header("set-cookie").contains("Max-Age=0"));
    send("GET", &batch, &[]).await.expect_problem(401, "unauthorized");
    send("DELETE", "/session", &[]).await.expect(204);
}

#[tokio::test]
async fn a_login_on_another_machine_keeps_its_cookie_to_tls_and_foreign_pages_cannot_log_in() {
    let folder = tempfile::tempdir().unwrap();
    let service = team(folder.path()).start().await;
    let bearer = format!("Bearer {}", key(ALICE));
    let remote = [("authorization", bearer.as_str()), ("host", "pictures.example")];
    let answer = service.send("POST", "/session", &remote).await.expect(200);
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-") && cookie.contains("; Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    service.send("GET", "/budget", &[("host", "pictures.example"), ("cookie", cookie)]).await.expect(200);
    // What a neighbour in the domain could set is no login.
    let planted = cookie.strip_prefix("__Host-").unwrap();
    let planted = [("host", "pictures.example"), ("cookie", planted)];
    service.send("GET", "/budget", &planted).await.expect_problem(401, "unauthorized");
    let foreign = [("authorization", bearer.as_str()), ("origin", "https://evil.example")];
    service.send("POST", "/session", &foreign).await.expect_problem(403, "forbidden");
}

#[tokio::test]
async fn a_session_ends_with_the_key_that_was_shown_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = team(folder.path());
    let service = settings.start().await;
    let (mine, _) = keys(&settings, &["new", "--name", "dora"]).await;
    let cookie = service.log_in(&mine).await;
    service.send("GET", "/budget", &[("cookie", &cookie)]).await.expect(200);
    service.kill().await;
    let service = settings.start().await;
    service.send("GET", "/budget", &[("cookie", &cookie)]).await.expect(200);
    assert!(keys(&settings, &["revoke", &mine[4..16]]).await.1);
    service.send("GET", "/budget", &[("cookie", &cookie)]).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn a_stream_token_follows_its_batch_and_does_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let service = team(folder.path()).start().await;
    let mine = service.submit_as(&key(ALICE), &batch(1, 1)).await;
    let other = service.submit_as(&key(ALICE), &batch(1, 1)).await;
    for id in [&mine, &other] {
        service.finished_as(&key(ALICE), id).await;
    }
    let path = format!("/images/{mine}/stream-token");
    let token = service.ask("POST", &path, Some(&key(ALICE)), None).await.expect(200).json();
    let token = token["token"].as_str().unwrap();
    for path in [format!("/images/{mine}/events"), format!("/progress/{mine}")] {
        let text = service.get(&format!("{path}?token={token}")).await.expect(200).text;
        assert!(text.contains("event: done"), "{text}");
        service.get(&format!("{path}?token={token}x")).await.expect_problem(401, "unauthorized");
    }
    for path in [
        format!("/images/{other}/events"),
        format!("/images/{mine}"),
        format!("/images/{mine}/items/s-001/1"),
        "/images".to_owned(),
        "/budget".to_owned(),
    ] {
        service.get(&format!("{path}?token={token}")).await.expect_problem(401, "unauthorized");
    }
    for path in [format!("/images/{mine}/cancel"), format!("/images/{mine}/stream-token"), "/session".to_owned()] {
        service.send("POST", &format!("{path}?token={token}"), &[]).await.expect_problem(401, "unauthorized");
    }
    let as_cookie = format!("orchestrator_session={token}");
    service.send("GET", "/budget", &[("cookie", &as_cookie)]).await.expect_problem(401, "unauthorized");
}

on_both_engines!(a_token_lets_its_holder_connect_for_a_minute_and_a_session_lasts_half_a_day);

async fn a_token_lets_its_holder_connect_for_a_minute_and_a_session_lasts_half_a_day(database: Arc<Database>) {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_795_512_370_739)));
    let store = Arc::new(database.open(clock.clone() as Arc<dyn Clock>).await);
    let keys = entries(&format!("alice={}", key(1))).unwrap();
    let rules = AccessRules { mode: AccessMode::Keys, keys, file: None, budgets: true };
    let access = Access::new(store.clone(), clock.clone(), rules).unwrap();
    let alice = access.identify(Shown::Key(&key(1))).await.unwrap();
    let id: BatchId = "bat_01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let token = access.stream_token(&alice, id).await.unwrap();
    let session = access.open_session(&alice).await.unwrap();
    let moment = Duration::from_millis(1);
    let advance_to_just_before = |span: Duration| clock.advance(span.saturating_sub(moment));
    advance_to_just_before(STREAM_TOKEN_LIFE);
    let caller = access.identify(Shown::StreamToken(&token.secret, id)).await.unwrap();
    assert_eq!((caller.user.as_str(), caller.scopes), ("alice", Scopes::READ));
    clock.advance(moment);
    let refused = access.identify(Shown::StreamToken(&token.secret, id)).await.unwrap_err();
    assert!(matches!(refused, AccessError::Refused(_)), "{refused}");
    advance_to_just_before(Duration::from_hours(12).saturating_sub(STREAM_TOKEN_LIFE));
    access.identify(Shown::Session(&session.secret)).await.unwrap();
    clock.advance(moment);
    access.identify(Shown::Session(&session.secret)).await.unwrap_err();
    access.open_session(&alice).await.unwrap();
    assert_eq!(database.number("SELECT COUNT(*) FROM sessions").await, 1 + 1, "those that ended are forgotten");
    store.close().await;
}

#[tokio::test]
async fn pages_of_named_origins_may_use_the_service_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let service = team(folder.path()).with("CORS_ORIGINS", "https://app.example").start().await;
    let preflight = async |origin: &'static str| {
        let asked = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,idempotency-key,content-type"),
        ];
        service.send("OPTIONS", "/images", &asked).await
    };
    let allowed = preflight("https://app.example").await.expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(allowed.header("access-control-allow-credentials"), "", "cookies are for this origin");
    for header in ["authorization", "idempotency-key", "traceparent"] {
        assert!(allowed.header("access-control-allow-headers").contains(header));
    }
    for origin in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"] {
        assert_eq!(preflight(origin).await.header("access-control-allow-origin"), "", "{origin}");
    }
    let bearer = format!("Bearer {}", key(ALICE));
    let read = service.send("GET", "/images", &[("authorization", &bearer), ("origin", "https://app.example")]).await;
    assert_eq!(read.expect(200).header("access-control-allow-origin"), "https://app.example");

    let folder = tempfile::tempdir().unwrap();
    let open = Settings::new(folder.path()).with("CORS_ORIGINS", "https://app.example").start().await;
    open.send("POST", "/images", &[("origin", "https://evil.example")]).await.expect_problem(403, "forbidden");
    open.send("POST", "/images", &[("origin", "https://app.example")]).await.expect(415);
}

#[tokio::test]
async fn every_answer_tells_browsers_to_do_nothing_but_show_it() {
    let folder = tempfile::tempdir().unwrap();
    let service = team(folder.path()).start().await;
    for path in ["/health", "/images", "/nowhere", "/assets/x"] {
        let headers: HeaderMap = service.get(path).await.headers;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert!(headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"), "{path}");
        assert!(!headers.contains_key("strict-transport-security"), "{path}: nobody speaks TLS here");
    }
}
