//! The open connections: how many, and which of them wait for their client.
//!
//! When there is no room, the one that has waited longest for a request is closed for the new one; if none does, the one
//! that has waited longest for its client to read. So whoever holds thousands of connections open without sending a
//! whole request, or without taking the answer, keeps nobody out. Nor is the memory filled: answers that are not read,
//! or too slowly, have so much of it together, and beyond that the one is given up whose client has read nothing for
//! the longest.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Most bytes of answers that wait for clients that do not read, of all connections together. A slow one that reads a
/// picture has about 0.1 MB waiting: some three hundred of those have room.
const MOST_UNREAD: usize = 32 << 20;

/// All connections of one listener.
#[derive(Clone)]
pub(super) struct Connections {
    slots: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
    /// Told when a connection begins to wait.
    begun: Arc<Notify>,
}

/// For what of its client a connection waits. The first is closed before the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    /// For a request.
    Request,
    /// For the client to take what was sent to it.
    Reader,
}

/// Grows with each connection that begins to wait: of a kind, the first one has waited longest.
type Place = (Wait, u64);

#[derive(Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<Place, Waiter>,
    /// The bytes of all that wait for their client to read.
    unread: usize,
}

struct Waiter {
    evicted: CancellationToken,
    unread: usize,
}

impl Waiting {
    fn enter(&mut self, place: Place, waiter: Waiter) {
        self.unread += waiter.unread;
        self.by_age.insert(place, waiter);
    }

    fn leave(&mut self, place: Place) -> Option<Waiter> {
        let waiter = self.by_age.remove(&place)?;
        self.unread -= waiter.unread;
        Some(waiter)
    }

    /// The client of `place` is given so many bytes to read by now.
    fn recount(&mut self, place: Place, unread: usize) {
        if let Some(waiter) = self.by_age.get_mut(&place) {
            self.unread = self.unread - waiter.unread + unread;
            waiter.unread = unread;
        }
        self.bound_unread();
    }

    /// Closes those that have not read for longest, until the others have too little to read to matter.
    fn bound_unread(&mut self) {
        while self.unread > MOST_UNREAD && self.evict(Wait::Reader, |waiter| waiter.unread > 0) {}
    }

    /// Closes the first of those that wait for `from` or what comes after it and are meant; whether there is one.
    fn evict(&mut self, from: Wait, is_meant: impl Fn(&Waiter) -> bool) -> bool {
        let mut waiting = self.by_age.range((from, 0)..);
        let place = waiting.find(|(_, waiter)| is_meant(waiter)).map(|(place, _)| *place);
        let waiter = place.and_then(|place| self.leave(place));
        waiter.map(|waiter| waiter.evicted.cancel()).is_some()
    }
}

/// One connection; it makes room when it is dropped.
pub(super) struct Connection {
    shared: Arc<State>,
    _slot: OwnedSemaphorePermit,
}

struct State {
    connections: Connections,
    evicted: CancellationToken,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    /// A request is under way.
    busy: bool,
    /// The client has not taken what was written.
    stalled: bool,
    /// Where it waits; `None` while something is done for it.
    place: Option<Place>,
    /// Bytes of answers that it was given and has not sent.
    unsent: usize,
    /// It is closed, or is about to be.
    over: bool,
}

/// A request under way: its connection is not closed for another one as long as its client reads the answer.
pub(super) struct Busy(Arc<State>);

impl Connections {
    /// None yet, and at most `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(most)), waiting: Arc::default(), begun: Arc::default() }
    }

    /// Waits for room; makes some as soon as a connection waits for its client.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                return Some(slot);
            }
            let evicted = self.lock().evict(Wait::Request, |_| true);
            if evicted {
                return Arc::clone(&self.slots).acquire_owned().await.ok();
            }
            tokio::select! {
                slot = Arc::clone(&self.slots).acquire_owned() => return slot.ok(),
                () = self.begun.notified() => {}
            }
        }
    }

    /// A connection that waits for its first request.
    pub(super) fn open(&self, slot: OwnedSemaphorePermit) -> Connection {
        let (evicted, standing) = (CancellationToken::new(), Mutex::default());
        let state = State { connections: self.clone(), evicted, standing };
        state.change(|_| {});
        Connection { shared: Arc::new(state), _slot: slot }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// A request begins.
    pub(super) fn begin(&self) -> Busy {
        self.shared.change(|standing| standing.busy = true);
        Busy(Arc::clone(&self.shared))
    }

    /// Ends when the connection is to make room for another one.
    pub(super) fn evicted(&self) -> CancellationToken {
        self.shared.evicted.clone()
    }

    /// The same stream, on which it is seen whether the client reads.
    pub(super) fn watch(&self, stream: TcpStream) -> Watched {
        Watched { stream, state: Arc::clone(&self.shared) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A body that outlives its connection must not put it back among those that wait.
        self.shared.change(|standing| standing.over = true);
    }
}

impl State {
    fn change(&self, change: impl FnOnce(&mut Standing)) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut standing);
        let wait = match *standing {
            Standing { over: true, .. } => None,
            Standing { stalled: true, .. } => Some(Wait::Reader),
            Standing { busy, .. } => (!busy).then_some(Wait::Request),
        };
        if standing.place.map(|(wait, _)| wait) == wait {
            if let Some(place @ (Wait::Reader, _)) = standing.place {
                self.connections.lock().recount(place, standing.unsent);
            }
            return;
        }
        let mut waiting = self.connections.lock();
        if let Some(left) = standing.place.take() {
            waiting.leave(left);
        }
        if let Some(wait) = wait {
            let place = (wait, waiting.next);
            waiting.next += 1;
            let unread = if wait == Wait::Reader { standing.unsent } else { 0 };
            waiting.enter(place, Waiter { evicted: self.evicted.clone(), unread });
            waiting.bound_unread();
            standing.place = Some(place);
            self.connections.begun.notify_one();
        }
    }

    fn wrote<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.change(|standing| standing.stalled = written.is_pending());
        written
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|standing| standing.busy = false);
    }
}

/// The stream of a connection.
pub(super) struct Watched {
    stream: TcpStream,
    state: Arc<State>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, read: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.state.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.state.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A body that keeps its connection busy until it is sent, or given up.
pub(super) struct Held {
    body: Body,
    busy: Busy,
}

impl Held {
    pub(super) const fn new(body: Body, busy: Busy) -> Self {
        Self { body, busy }
    }
}

/// A piece of an answer, for as long as its connection has to hold it.
struct Piece {
    bytes: Bytes,
    state: Arc<State>,
}

impl Piece {
    fn of(bytes: Bytes, state: &Arc<State>) -> Bytes {
        state.change(|standing| standing.unsent += bytes.len());
        Bytes::from_owner(Self { bytes, state: Arc::clone(state) })
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.state.change(|standing| standing.unsent -= self.bytes.len());
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| frame.map_data(|bytes| Piece::of(bytes, &self.busy.0)))
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
    fn whoever_does_not_read_makes_room_but_only_if_nobody_else_can() {
        let connections = Connections::new(3);
        let [idle, first, second] = std::array::from_fn(|_| opened(&connections).unwrap());
        let _busy = [first.begin(), second.begin()];
        let wrote = |one: &Connection, pending: bool| {
            drop(one.shared.wrote(if pending { Poll::Pending } else { Poll::Ready(Ok(1)) }));
        };
        wrote(&first, true);
        wrote(&second, true);
        let evicted = || [&idle, &first, &second].map(|one| one.evicted().is_cancelled());
        assert!(opened(&connections).is_none());
        assert_eq!(evicted(), [true, false, false], "it has asked for nothing");
        wrote(&first, false);
        wrote(&first, true);
        assert!(opened(&connections).is_none());
        assert_eq!(evicted(), [true, false, true], "the first one has read something meanwhile");
        wrote(&first, false);
        assert!(opened(&connections).is_none());
        assert_eq!(evicted(), [true, false, true], "who reads is served");
    }

    #[tokio::test]
    async fn room_is_made_as_soon_as_a_connection_begins_to_wait() {
        let connections = Connections::new(1);
        let only = opened(&connections).unwrap();
        let busy = only.begin();
        let mut room = std::pin::pin!(connections.room());
        assert!(room.as_mut().now_or_never().is_none());
        drop(busy);
        assert!(room.as_mut().now_or_never().is_none());
        assert!(only.evicted().is_cancelled(), "it waits for its next request, and another one for its place");
    }

    #[test]
    fn answers_that_nobody_reads_have_so_much_memory_and_the_one_that_waited_longest_is_given_up() {
        let connections = Connections::new(5);
        let [small, first, second, reading, third] = std::array::from_fn(|_| opened(&connections).unwrap());
        // An answer as hyper holds it: taken from its body, and not written.
        let stalled = |one: &Connection, bytes: usize| {
            let mut body = Held::new(Body::from(vec![0; bytes]), one.begin());
            let taken = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).now_or_never();
            drop(one.shared.wrote::<()>(Poll::Pending));
            taken.unwrap()
        };
        let evicted = || [&small, &first, &second, &reading, &third].map(|one| one.evicted().is_cancelled());
        let half = MOST_UNREAD / 2;
        let _held = [stalled(&small, 0), stalled(&first, half), stalled(&second, half)];
        let sent = stalled(&reading, half);
        assert_eq!(evicted(), [false, true, false, false, false], "one that holds nothing is let be");
        drop(reading.shared.wrote(Poll::Ready(Ok(half))));
        drop(sent);
        let _third = stalled(&third, half);
        assert_eq!(evicted(), [false, true, false, false, false], "who reads holds none of it");
        let _again = stalled(&reading, 1);
        assert_eq!(evicted(), [false, true, true, false, false]);
        assert_eq!(connections.lock().unread, half + 1);
        drop((small, first, second, reading, third));
        assert_eq!(connections.lock().unread, 0);
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
