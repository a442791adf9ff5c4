use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use ulid::Ulid;

use super::*;
use crate::clock::FixedClock;
use crate::domain::ids::AttemptId;
use crate::domain::spec::{AspectRatio, ImageSize};
use crate::domain::time::Timestamp;

const KEY: &str = "AIza-secret_key";

fn gemini(base: &str) -> Gemini {
    let clock = Arc::new(FixedClock::at(Timestamp::from_millis(1_795_512_600_000)));
    Gemini::new(base.parse().unwrap(), KEY, Duration::from_mins(2), clock).unwrap()
}

fn call() -> ImageCall {
    ImageCall {
        attempt: AttemptId::new(Ulid::nil()),
        model: "gemini-nano-banana-2.1".to_owned(),
        prompt: "a cup".to_owned(),
        variant: 1,
        aspect_ratio: AspectRatio::default(),
        image_size: ImageSize::default(),
        references: Vec::new(),
        output_cap: 1_632,
        max_answer_bytes: 64 << 20,
    }
}

/// What a call comes to, and how many requests were made, with a server that answers each with `answer` and closes.
async fn answered(answer: impl Into<String>) -> (Result<Answer, ProviderError>, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = gemini(&format!("http://{}", listener.local_addr().unwrap()));
    let (answer, mut requests) = (answer.into(), 0);
    let mut serve = async || loop {
        let (mut connection, _) = listener.accept().await.unwrap();
        requests += 1;
        let mut head = vec![0; 64 << 10];
        let mut read = 0;
        while !head[..read].ends_with(b"}") {
            read += connection.read(&mut head[read..]).await.unwrap();
        }
        connection.write_all(answer.as_bytes()).await.unwrap();
    };
    let call = call();
    let end = tokio::select! {
        end = provider.generate(&call) => end,
        () = serve() => unreachable!(),
    };
    (end, requests)
}

#[test]
fn nothing_that_is_shown_holds_the_key() {
    let gemini = gemini("https://a.test");
    assert_eq!(format!("{gemini:?}"), r#"Gemini { base: "https://a.test/", .. }"#);
    assert!(!format!("{:?}", gemini.client).contains(KEY));
    let clock = Arc::new(FixedClock::at(Timestamp::default()));
    let refused = Gemini::new("https://a.test".parse().unwrap(), "k\ney", Duration::from_mins(2), clock).unwrap_err();
    assert!(matches!(refused, GeminiError::Key), "{refused:?}");
}

#[tokio::test]
async fn a_connection_that_never_opened_cost_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let Err(ProviderError::Failed(detail)) = gemini(&format!("http://{address}")).generate(&call()).await else {
        panic!("not failed")
    };
    assert_eq!(detail, "the connection could not be opened (connection refused)");
}

#[tokio::test]
async fn one_call_is_one_request_whatever_comes_back() {
    for answer in ["", "HTTP/1.1 307 Temporary Redirect\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "SSH-2.0-x\r\n"] {
        let (end, requests) = answered(answer).await;
        assert!(end.is_err());
        assert_eq!(requests, 1, "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_not_read() {
    let length = (64 << 20) + 1;
    let (end, _) = answered(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{{")).await;
    let Err(ProviderError::OutcomeUnknown(detail)) = end else { panic!("not unknown") };
    assert_eq!(detail, "the answer is longer than 67108864 bytes");
}

#[tokio::test]
async fn a_body_without_a_length_grows_to_its_limit_and_no_further() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let body = async |limit| {
        let client = build_client(HeaderMap::new(), CONNECT_TIMEOUT).unwrap();
        let serve = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0; 1_024]).await.unwrap();
            connection.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(100)).as_bytes()).await.unwrap();
        };
        let (response, ()) = tokio::join!(client.get(format!("http://{address}")).send(), serve);
        read_body(response.unwrap(), limit).await
    };
    assert_eq!(body(100).await.unwrap().len(), 100);
    assert!(matches!(body(99).await, Err(BodyFault::TooLong(99))));
}

#[tokio::test]
async fn the_name_of_a_call_is_the_one_in_the_headers() {
    let body = r#"{"responseId":"of-the-body"}"#;
    for (headers, expected) in [
        ("", "of-the-body"),
        ("x-request-id: second\r\n", "second"),
        ("x-request-id: second\r\nx-goog-request-id: first\r\n", "first"),
        ("x-request-id: no name\r\n", "of-the-body"),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
        let (end, _) = answered(format!("{head}{body}")).await;
        assert_eq!(end.ok().unwrap().request_id.as_deref(), Some(expected), "{headers}");
    }
}

#[test]
fn plain_http_is_loopback_or_worth_a_warning() {
    for (base, loopback) in [
        ("http://localhost:1", true),
        ("http://127.8.0.1", true),
        ("http://[::1]:80", true),
        ("http://10.0.0.1", false),
        ("http://localhost.test", false),
    ] {
        assert_eq!(is_loopback(&base.parse().unwrap()), loopback, "{base}");
    }
}
