//! Stands between a client and the service, and changes what passes: so a gate is seen to close that a right service
//! never closes.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse as _;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::net::TcpListener;

/// What becomes of an answer: its path, its status, and its body.
type Whole = dyn Fn(&str, &mut u16, &mut Vec<u8>) + Send + Sync;
/// What becomes of a request: its path, and its body.
type Asked = dyn Fn(&str, &mut Vec<u8>) -> Fate + Send + Sync;
/// What becomes of an event of a stream: the lines that are sent in its place.
type Event = dyn Fn(&str) -> Vec<String> + Send + Sync;

/// What a client gets for its request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The service's answer.
    Answered,
    /// This status, and the service hears nothing of it.
    Refused(u16),
    /// Nothing, though the service got it.
    Swallowed,
}

/// How requests and answers are changed.
#[derive(Clone)]
pub(crate) struct Tampering {
    request: Arc<Asked>,
    whole: Arc<Whole>,
    event: Arc<Event>,
}

impl Tampering {
    /// Changes nothing.
    pub(crate) fn none() -> Self {
        Self {
            request: Arc::new(|_, _| Fate::Answered),
            whole: Arc::new(|_, _, _| {}),
            event: Arc::new(|event| vec![event.to_owned()]),
        }
    }

    /// Changes requests, or answers them itself.
    pub(crate) fn requests(change: impl Fn(&str, &mut Vec<u8>) -> Fate + Send + Sync + 'static) -> Self {
        Self { request: Arc::new(change), ..Self::none() }
    }

    /// Changes the JSON of the live submission.
    pub(crate) fn submission(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::requests(move |path, body| {
            if is_live(path, body) {
                let mut value = serde_json::from_slice(body).unwrap();
                change(&mut value);
                *body = value.to_string().into_bytes();
            }
            Fate::Answered
        })
    }

    /// Changes answers that are not streams.
    pub(crate) fn whole(change: impl Fn(&str, &mut u16, &mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self { whole: Arc::new(change), ..Self::none() }
    }

    /// Changes the JSON that `path` answers.
    pub(crate) fn json(path: &'static str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::whole(move |asked, _, body| {
            if asked.starts_with(path)
                && let Ok(mut value) = serde_json::from_slice(body)
            {
                change(&mut value);
                *body = value.to_string().into_bytes();
            }
        })
    }

    /// Changes the JSON that `path` answers, from the second answer on.
    pub(crate) fn later_json(path: &'static str, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        let is_first = Mutex::new(true);
        Self::json(path, move |value| {
            if !std::mem::take(&mut *is_first.lock().unwrap()) {
                change(value);
            }
        })
    }

    /// Changes events.
    pub(crate) fn events(change: impl Fn(&str) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self { event: Arc::new(change), ..Self::none() }
    }
}

/// Whether it is the submission of a batch that is made.
pub(crate) fn is_live(path: &str, body: &[u8]) -> bool {
    path == "/images" && String::from_utf8_lossy(body).contains(r#""runMode":"live""#)
}

struct Proxy {
    service: String,
    client: reqwest::Client,
    tampering: Tampering,
}

/// Passes everything on to `service`; the address at which it does. Ends with the runtime.
pub(crate) async fn before(service: &str, tampering: Tampering) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let proxy = Arc::new(Proxy { service: service.to_owned(), client, tampering });
    let router = axum::Router::new().fallback(pass).with_state(proxy);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

async fn pass(State(proxy): State<Arc<Proxy>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut body = axum::body::to_bytes(body, 16 << 20).await.unwrap().to_vec();
    let path = parts.uri.path_and_query().unwrap().as_str().to_owned();
    let fate = (proxy.tampering.request)(&path, &mut body);
    if let Fate::Refused(status) = fate {
        return (StatusCode::from_u16(status).unwrap(), r#"{"code":"forbidden","detail":"no"}"#).into_response();
    }
    let mut headers = parts.headers;
    headers.remove("host");
    headers.remove("content-length");
    let asked = proxy.client.request(parts.method, format!("{}{path}", proxy.service)).headers(headers).body(body);
    let answer = asked.send().await.unwrap();
    if fate == Fate::Swallowed {
        return std::future::pending().await;
    }
    let (mut status, mut headers) = (answer.status().as_u16(), answer.headers().clone());
    headers.remove("content-length");
    headers.remove("transfer-encoding");
    let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let body = if is_stream {
        stream(answer, proxy.tampering.event.clone())
    } else {
        let mut body = answer.bytes().await.unwrap().to_vec();
        (proxy.tampering.whole)(&path, &mut status, &mut body);
        Body::from(body)
    };
    let mut response = body.into_response();
    *response.status_mut() = status.try_into().unwrap();
    response.headers_mut().extend(headers);
    response
}

/// The stream, event by event.
fn stream(answer: reqwest::Response, change: Arc<Event>) -> Body {
    let mut rest = String::new();
    let pieces = answer.bytes_stream().map(move |piece| {
        rest += std::str::from_utf8(&piece?).unwrap();
        let mut changed = String::new();
        while let Some(end) = rest.find("\n\n") {
            let event: String = rest.drain(..end + 2).collect();
            changed.extend(change(&event));
        }
        Ok::<_, reqwest::Error>(changed)
    });
    Body::from_stream(pieces)
}
