//! Takes connections and serves them until the service drains.
//!
//! Owns the bounds that hold before a request reaches the router: how many connections, how long
//! and how large a header. `axum::serve` has none of them.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Peer;
use super::connections::{Connection, Connections, Held};

/// Longest time for the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest header that is read at all; the router refuses what is a little smaller with a reason. All connections
/// together may hold so much.
const MAX_HEADER_BYTES: usize = 40 << 10;
/// Most header lines.
const MAX_HEADER_LINES: usize = 128;
/// Most open connections; for one more, the one that has waited longest for its client is closed.
const MAX_CONNECTIONS: usize = 8_192;
/// File descriptors that are left for everything else: database, pictures, calls, references.
const OTHER_FILES: u64 = 512;
/// Fewest connections, whatever the system's limit on files is.
const FEWEST_CONNECTIONS: u64 = 64;
/// Pause after a failed accept, mostly for want of file descriptors: the queue stays full, so
/// trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// When connections end because the service stops.
#[derive(Debug, Clone)]
pub struct Stop {
    /// None is taken any more, and each ends after the request it is at.
    pub draining: CancellationToken,
    /// Those that are still open are cut: a client that is slow must not keep the work from being put down.
    pub cutting: CancellationToken,
}

/// Serves `router` on `listener` until `stop.draining`, each connection on `tracker`.
///
/// Returns when no more connections are taken. Those that are open finish the request they are at;
/// progress streams end by the same token.
///
/// # Errors
/// None today; a listener that can never accept again would be one.
pub async fn serve(listener: TcpListener, router: Router, stop: &Stop, tracker: &TaskTracker) -> io::Result<()> {
    take_connections(listener, router, stop, tracker, &Connections::new(most_connections())).await
}

async fn take_connections(
    listener: TcpListener,
    router: Router,
    stop: &Stop,
    tracker: &TaskTracker,
    connections: &Connections,
) -> io::Result<()> {
    loop {
        let next = async {
            let (stream, peer) = listener.accept().await?;
            let slot = connections.room().await.ok_or_else(|| io::Error::other("no room for connections"))?;
            Ok::<_, io::Error>((stream, Peer(peer.ip()), slot))
        };
        let accepted = tokio::select! {
            biased;
            () = stop.draining.cancelled() => return Ok(()),
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let (router, stop, connection) = (router.clone(), stop.clone(), connections.open(slot));
                tracker.spawn(serve_connection(stream, peer, router, stop, connection));
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::select! {
                    () = stop.draining.cancelled() => return Ok(()),
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Whether an accept failed because the client is gone already.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// As many connections as the system lets this process have files, less those for other uses.
#[must_use]
pub fn most_connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let files = match setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "cannot raise the limit on open files");
            limit.current
        }
    };
    let room = files.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES).max(FEWEST_CONNECTIONS));
    usize::try_from(room).unwrap_or(usize::MAX).min(MAX_CONNECTIONS)
}

async fn serve_connection(stream: TcpStream, peer: Peer, router: Router, stop: Stop, held: Connection) {
    // Events are small and must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let (router, evicted, stream) = (TowerToHyperService::new(router), held.evicted(), held.watch(stream));
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        let busy = held.begin();
        request.extensions_mut().insert(peer);
        let answer = router.call(request);
        async { Ok::<_, std::convert::Infallible>(answer.await?.map(|body| Body::new(Held::new(body, busy)))) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADER_LINES)
        .max_header_size(MAX_HEADER_BYTES)
        // It grows by doubling, and is kept for the next request.
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        biased;
        // First, so that no request begins on a connection that ends.
        () = evicted.cancelled() => return,
        result = connection.as_mut() => result,
        () = stop.draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                () = stop.cutting.cancelled() => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = &error as &(dyn std::error::Error + 'static), "connection broke");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    use super::*;

    struct Served {
        address: std::net::SocketAddr,
        draining: CancellationToken,
        cutting: CancellationToken,
        tracker: TaskTracker,
        accepting: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn start(router: Router) -> Served {
        start_with(router, most_connections()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test has no lifecycle")]
    async fn start_with(router: Router, connections: usize) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (draining, tracker) = (CancellationToken::new(), TaskTracker::new());
        let cutting = CancellationToken::new();
        let (stop, tasks) = (Stop { draining: draining.clone(), cutting: cutting.clone() }, tracker.clone());
        let connections = Connections::new(connections);
        let accepting =
            tokio::spawn(async move { take_connections(listener, router, &stop, &tasks, &connections).await });
        Served { address, draining, cutting, tracker, accepting }
    }

    async fn send(address: std::net::SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_client_that_is_slow_is_cut_off_when_the_stop_can_wait_no_longer() {
        let served = start(Router::new()).await;
        let mut client = send(served.address, "GET / HT").await;
        served.draining.cancel();
        served.accepting.await.unwrap().unwrap();
        served.cutting.cancel();
        served.tracker.close();
        served.tracker.wait().await;
        let mut rest = Vec::new();
        assert!(client.read_to_end(&mut rest).await.map_or(true, |read| read == 0));
    }

    async fn read_all(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn draining_lets_the_open_request_finish_and_takes_no_other() {
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enter, left) = (Arc::clone(&entered), Arc::clone(&leave));
        let handler = move || {
            let (enter, left) = (Arc::clone(&enter), Arc::clone(&left));
            async move {
                enter.notify_one();
                left.notified().await;
                "done"
            }
        };
        let served = start(Router::new().route("/", get(handler))).await;
        let open = send(served.address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        entered.notified().await;
        served.draining.cancel();
        served.accepting.await.unwrap().unwrap();
        assert!(TcpStream::connect(served.address).await.is_err());
        leave.notify_one();
        let answer = read_all(open).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        served.tracker.close();
        served.tracker.wait().await;
    }

    #[tokio::test]
    async fn draining_closes_a_connection_that_waits_for_its_next_request() {
        let served = start(Router::new().route("/", get(|| async { "done" }))).await;
        let mut idle = send(served.address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        served.draining.cancel();
        assert!(read_all(idle).await.ends_with("done"));
        served.tracker.close();
        served.tracker.wait().await;
    }

    #[tokio::test]
    async fn clients_that_do_not_read_their_answers_keep_nobody_out() {
        let endless = || async {
            let piece = axum::body::Bytes::from(vec![0; 64 << 10]);
            let pieces = futures_util::stream::repeat_with(move || Ok::<_, io::Error>(piece.clone()));
            Body::from_stream(pieces)
        };
        let router = Router::new().route("/", get(|| async { "done" })).route("/endless", get(endless));
        let served = start_with(router, 4).await;
        let mut held = Vec::new();
        for _ in 0..8 {
            let mut client = send(served.address, "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
            client.read_exact(&mut [0; 12]).await.unwrap();
            held.push(client);
        }
        let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert!(read_all(send(served.address, request).await).await.ends_with("done"));
        served.draining.cancel();
        served.cutting.cancel();
    }

    #[tokio::test]
    async fn large_answers_that_nobody_reads_are_cut_the_first_ones_first() {
        const LARGE: usize = 8 << 20;
        let served = start(Router::new().route("/", get(|| async { vec![0; LARGE] }))).await;
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = send(served.address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            client.read_exact(&mut [0; 12]).await.unwrap();
            clients.push(client);
        }
        let mut whole = Vec::new();
        for mut client in clients {
            let mut answer = Vec::new();
            whole.push(client.read_to_end(&mut answer).await.is_ok() && answer.len() > LARGE);
        }
        // Four have 32 MiB, and the kernel holds a part of some of the others.
        assert!(!whole[0] && whole[6..].iter().all(|whole| *whole), "{whole:?}");
        served.draining.cancel();
    }

    #[tokio::test]
    async fn a_header_beyond_all_bounds_is_refused_unread() {
        let served = start(Router::new()).await;
        let header = "x".repeat(MAX_HEADER_BYTES);
        let stream = send(served.address, &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {header}\r\n\r\n")).await;
        assert!(read_all(stream).await.starts_with("HTTP/1.1 431"));
        // The same, where its end never comes.
        let stream = send(served.address, &format!("{:x<MAX_HEADER_BYTES$}", "GET / HTTP/1.1\r\nx: ")).await;
        assert!(read_all(stream).await.starts_with("HTTP/1.1 431"));
        served.draining.cancel();
    }
}
