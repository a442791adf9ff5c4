//! Takes connections and serves them until the service drains.
//!
//! Owns the bounds that hold before a request reaches the router: how many connections, how long
//! and how large a header. `axum::serve` has none of them.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest time for the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest header that is read at all; the router refuses a quarter of this with a reason.
const MAX_HEADER_BYTES: usize = 128 << 10;
/// Most header lines.
const MAX_HEADER_LINES: usize = 128;
/// Most open connections; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 8_192;
/// Pause after a failed accept, mostly for want of file descriptors: the queue stays full, so
/// trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until `draining`, each connection on `tracker`.
///
/// Returns when no more connections are taken. Those that are open finish the request they are at;
/// progress streams end by the same token.
///
/// # Errors
/// None today; a listener that can never accept again would be one.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    draining: CancellationToken,
    tracker: &TaskTracker,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        let accepted = tokio::select! {
            biased;
            () = draining.cancelled() => return Ok(()),
            accepted = next => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (router, draining) = (router.clone(), draining.clone());
                tracker.spawn(async move {
                    serve_connection(stream, router, draining).await;
                    drop(slot);
                });
            }
            Err(error) if is_of_the_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::select! {
                    () = draining.cancelled() => return Ok(()),
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

async fn serve_connection(stream: TcpStream, router: Router, draining: CancellationToken) {
    // Events are small and must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADER_LINES)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(2 * MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = &error as &(dyn std::error::Error + 'static), "connection broke");
    }
}
