//! Group commit: what waits at the same time is written in one transaction.
//!
//! Whoever comes first writes for all that wait; the next group gathers meanwhile. Each gets its own answer.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::store::StoreError;

/// Writes groups of requests, each all or nothing.
pub(super) trait GroupWriter: Sync {
    /// What is asked for.
    type Request: Send + Sync;
    /// What became of it.
    type Answer: Send;
    /// Most requests in one group.
    const MOST: usize;

    /// Writes `requests` together; the answers, in their order.
    fn write(&self, requests: &[Self::Request]) -> impl Future<Output = Result<Vec<Self::Answer>, StoreError>> + Send;
}

type Answered<A> = Result<A, StoreError>;
type Waiting<W> = (<W as GroupWriter>::Request, oneshot::Sender<Answered<<W as GroupWriter>::Answer>>);

/// Requests that are written in groups.
pub(super) struct Groups<W: GroupWriter> {
    writer: W,
    waiting: Mutex<VecDeque<Waiting<W>>>,
    turn: tokio::sync::Mutex<()>,
}

impl<W: GroupWriter> Groups<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Writes what `request` makes, together with all that is ready; makes it anew if its group came to nothing.
    ///
    /// # Errors
    /// [`StoreError`]; this request is not written then.
    pub(super) async fn write(&self, request: impl Fn() -> W::Request + Send) -> Answered<W::Answer> {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.lock().push_back((request(), answer));
            loop {
                let turn = tokio::select! {
                    biased;
                    written = &mut answered => match written {
                        Ok(written) => return written,
                        // Whoever wrote for this one was stopped before it could say what came of it: ask again.
                        Err(_) => break,
                    },
                    turn = self.turn.lock() => turn,
                };
                self.write_group().await;
                drop(turn);
            }
        }
    }

    /// Writes what waits, at most [`GroupWriter::MOST`]; if the group cannot be written, each on its own.
    async fn write_group(&self) {
        let (requests, answers): (Vec<W::Request>, Vec<_>) = {
            let mut waiting = self.lock();
            let size = waiting.len().min(W::MOST);
            waiting.drain(..size).unzip()
        };
        if requests.is_empty() {
            return;
        }
        // An answer that nobody waits for any more is not missed: what it tells of is written, or is taken over.
        match self.writer.write(&requests).await {
            Ok(written) => {
                answers.into_iter().zip(written).for_each(|(answer, written)| drop(answer.send(Ok(written))))
            }
            // Asking for each would wait as long again each time. The first is told; the others, whose answers are
            // dropped, come again as a group.
            Err(error) if requests.len() == 1 || error.is_outage() => {
                answers.into_iter().next().map(|answer| answer.send(Err(error)));
            }
            Err(_) => {
                for (request, answer) in requests.iter().zip(answers) {
                    let written = self.writer.write(std::slice::from_ref(request)).await;
                    if let Some(written) = written.map(|written| written.into_iter().next()).transpose() {
                        drop(answer.send(written));
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting<W>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
