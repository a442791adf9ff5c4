//! The open connections: how many, and which of them wait for a request.
//!
//! When there is no room, the one that has waited longest is closed for the new one. So whoever holds thousands of
//! connections open without ever sending a whole request keeps nobody out.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// All connections of one listener.
#[derive(Clone)]
pub(super) struct Connections {
    slots: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// Grows with each connection that begins to wait, so that the first entry has waited longest.
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
}

/// One connection; it makes room when it is dropped.
pub(super) struct Connection {
    shared: Arc<State>,
    _slot: OwnedSemaphorePermit,
}

struct State {
    connections: Connections,
    evicted: CancellationToken,
    /// Its place among those that wait; `None` while a request is under way.
    place: Mutex<Option<u64>>,
}

/// A request under way: its connection is not closed for another one.
pub(super) struct Busy(Arc<State>);

impl Connections {
    /// None yet, and at most `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(most)), waiting: Arc::default() }
    }

    /// Waits for room; makes some, if a connection waits for a request.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        if let Some((_, oldest)) = self.lock().by_age.pop_first() {
            oldest.cancel();
        }
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// A connection that waits for its first request.
    pub(super) fn open(&self, slot: OwnedSemaphorePermit) -> Connection {
        let (evicted, place) = (CancellationToken::new(), Mutex::default());
        let state = State { connections: self.clone(), evicted, place };
        state.wait();
        Connection { shared: Arc::new(state), _slot: slot }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// A request begins.
    pub(super) fn begin(&self) -> Busy {
        self.shared.stop_waiting();
        Busy(Arc::clone(&self.shared))
    }

    /// Ends when the connection is to make room for another one.
    pub(super) fn evicted(&self) -> CancellationToken {
        self.shared.evicted.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.stop_waiting();
        // A body that outlives its connection must not put it back among those that wait.
        self.shared.evicted.cancel();
    }
}

impl State {
    fn wait(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() || self.evicted.is_cancelled() {
            return;
        }
        let mut waiting = self.connections.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, self.evicted.clone());
        *place = Some(number);
    }

    fn stop_waiting(&self) {
        let number = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(number) = number {
            self.connections.lock().by_age.remove(&number);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

/// A body that keeps its connection busy until it is sent, or given up.
pub(super) struct Held {
    body: Body,
    _busy: Busy,
}

impl Held {
    pub(super) const fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn opened(connections: &Connections) -> Option<Connection> {
        let slot = connections.room().now_or_never()??;
        Some(connections.open(slot))
    }

    #[test]
    fn the_connection_that_has_waited_longest_makes_room() {
        let connections = Connections::new(3);
        let [first, second, third] = std::array::from_fn(|_| opened(&connections).unwrap());
        let busy = first.begin();
        assert!(opened(&connections).is_none(), "the place is not free yet");
        let evicted = [&first, &second, &third].map(|one| one.evicted().is_cancelled());
        assert_eq!(evicted, [false, true, false]);
        drop(second);
        let fourth = opened(&connections).unwrap();
        drop(busy);
        assert!(opened(&connections).is_none());
        assert!(third.evicted().is_cancelled() && !first.evicted().is_cancelled(), "it has begun to wait just now");
        drop(third);
        let _fifth = opened(&connections).unwrap();
        assert!(opened(&connections).is_none());
        assert!(fourth.evicted().is_cancelled());
    }

    #[test]
    fn a_request_under_way_is_never_closed_for_a_new_connection() {
        let connections = Connections::new(1);
        let only = opened(&connections).unwrap();
        let busy = only.begin();
        assert!(opened(&connections).is_none() && !only.evicted().is_cancelled());
        drop(only);
        drop(busy);
        assert!(connections.lock().by_age.is_empty(), "a closed connection does not wait");
        assert!(opened(&connections).is_some());
    }
}
