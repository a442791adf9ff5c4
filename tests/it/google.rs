//! Google Cloud Storage for the tests: JSON for bytes and gRPC for everything else, on one port, as the real one has
//! it. Generations and conditions are enforced, and it fails on demand.

mod faults;
mod grpc;
mod json;
mod messages;
mod objects;
mod signed;
mod tests;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) use self::faults::{Call, Fault, Faults};
pub(crate) use self::objects::Objects;
pub(crate) use self::signed::ServiceAccount;

/// A running server, which ends with it.
pub(crate) struct Google {
    address: String,
    state: Arc<State>,
    stop: CancellationToken,
}

/// What a call can see.
struct State {
    objects: Mutex<Objects>,
    faults: Mutex<Faults>,
    /// Whose links are served. Without one, whoever asks gets the object, as with an emulator.
    account: Option<ServiceAccount>,
    /// Unix seconds by which links expire; `None` for the system's clock.
    now: Mutex<Option<i64>>,
}

impl Google {
    /// A server that asks for no signature, as an emulator.
    pub(crate) async fn start() -> Self {
        Self::start_for(None).await
    }

    /// A server whose links are those of `account`.
    pub(crate) async fn start_for(account: Option<ServiceAccount>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state =
            Arc::new(State { objects: Mutex::default(), faults: Mutex::default(), account, now: Mutex::default() });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, state.clone(), stop.clone())));
        Self { address, state, stop }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What goes wrong from now on, and what was counted.
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.state.faults.lock().unwrap()
    }

    /// What is stored.
    pub(crate) fn objects(&self) -> MutexGuard<'_, Objects> {
        self.state.objects.lock().unwrap()
    }

    /// Lets links expire by another clock than the system's.
    pub(crate) fn set_time(&self, unix_seconds: i64) {
        *self.state.now.lock().unwrap() = Some(unix_seconds);
    }
}

impl Drop for Google {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve(stream, state.clone())));
    }
}

/// Serves one connection. A call whose answer is to be lost takes the connection with it.
async fn serve(stream: TcpStream, state: Arc<State>) {
    let lost = CancellationToken::new();
    let cut = lost.clone();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (state, cut) = (state.clone(), cut.clone());
        async move {
            let answer = answer(&state, request.map(Body::new)).await;
            if answer.is_none() {
                cut.cancel();
                // The connection is dropped before this could be sent.
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(answer.unwrap_or_default())
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        () = lost.cancelled() => {}
    }
}

/// Does what `request` asks for; `None` if its answer is to be lost.
async fn answer(state: &State, request: Request) -> Option<Response> {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else { return None };
    let is_grpc =
        parts.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let call = Call::of(&parts, is_grpc);
    let fault = state.faults.lock().unwrap().next(call, body.len() as u64);
    if let Some(Fault::Slow(delay)) = fault {
        tokio::time::sleep(delay).await;
    }
    if fault == Some(Fault::LostBefore) {
        return None;
    }
    let done = match fault {
        Some(Fault::Unavailable) => Err(Refusal::Unavailable),
        Some(Fault::TooFast) => Err(Refusal::TooFast),
        _ => Ok(()),
    };
    let response = if is_grpc {
        grpc::answer(state, parts.uri.path(), &body, done)
    } else {
        json::answer(state, &parts, &body, done, fault == Some(Fault::WrongChecksum))
    };
    (fault != Some(Fault::LostAfter)).then_some(response)
}

/// Why a call was not done. Each kind of wire has its own words for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Unavailable,
    TooFast,
    NotFound,
    Precondition,
    Invalid,
}

/// Base64 of a checksum, as headers and JSON have it.
fn checksum_text(crc32c: u32) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(crc32c.to_be_bytes())
}

/// One part of a path or query, decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// The pairs of a query.
fn query(uri: &axum::http::Uri) -> std::collections::HashMap<String, String> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

/// Bytes in one piece.
fn joined(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        _ => pieces.concat().into(),
    }
}
