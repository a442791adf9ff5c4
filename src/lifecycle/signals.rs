//! The signals that stop the process, as a stream.

use futures_util::stream::{self, Stream};

/// Listens for SIGTERM and SIGINT from now on; each one that arrives is an item.
///
/// # Errors
/// If the process may not listen for signals.
#[cfg(unix)]
pub fn stop_signals() -> std::io::Result<impl Stream<Item = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let both = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(stream::unfold(both, |(mut terminate, mut interrupt)| async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Some(((), (terminate, interrupt)))
    }))
}

/// Listens for Ctrl-C; each one that arrives is an item.
///
/// # Errors
/// Never here; where signals exist, listening can fail.
#[cfg(not(unix))]
pub fn stop_signals() -> std::io::Result<impl Stream<Item = ()>> {
    Ok(stream::unfold((), |()| async {
        tokio::signal::ctrl_c().await.ok()?;
        Some(((), ()))
    }))
}
