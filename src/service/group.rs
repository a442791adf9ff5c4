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

    /// What is answered where whoever wrote was stopped before it could say what came of it; `None` if the same may
    /// be asked again.
    fn unsaid() -> Option<Self::Answer> {
        None
    }

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

    /// Writes what `request` makes, together with all that is ready; makes it anew if nobody says what came of it.
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
                        Err(_) => match W::unsaid() {
                            Some(answer) => return Ok(answer),
                            None => break,
                        },
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
                for (answer, written) in answers.into_iter().zip(written) {
                    drop(answer.send(Ok(written)));
                }
            }
            // Asking for each would wait as long again each time. The first is told; the answers of the others are
            // dropped.
            Err(error) if requests.len() == 1 || error.is_outage() => {
                if let Some(answer) = answers.into_iter().next() {
                    drop(answer.send(Err(error)));
                }
            }
            Err(_) => {
                for (request, answer) in requests.iter().zip(answers) {
                    let written = self.writer.write(std::slice::from_ref(request)).await;
                    let is_away = written.as_ref().is_err_and(StoreError::is_outage);
                    if let Some(written) = written.map(|written| written.into_iter().next()).transpose() {
                        drop(answer.send(written));
                    }
                    if is_away {
                        break;
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting<W>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join_all;

    use super::*;

    /// Numbers are written a group at a time; 13 spoils its group, and is never written.
    #[derive(Default)]
    struct Numbers {
        groups: Mutex<Vec<Vec<u32>>>,
        /// So many groups are not written, as nothing answers.
        outages: Mutex<u32>,
    }

    impl GroupWriter for Numbers {
        type Request = u32;
        type Answer = u32;
        const MOST: usize = 3;

        async fn write(&self, numbers: &[u32]) -> Result<Vec<u32>, StoreError> {
            // The others come while this one writes.
            tokio::task::yield_now().await;
            self.groups.lock().unwrap().push(numbers.to_vec());
            let outages = *self.outages.lock().unwrap();
            if outages > 0 {
                *self.outages.lock().unwrap() = outages - 1;
                return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
            }
            if numbers.contains(&13) {
                return Err(StoreError::Corrupt("13".into()));
            }
            Ok(numbers.iter().map(|number| number * 10).collect())
        }
    }

    async fn write(groups: &Groups<Numbers>, numbers: &[u32]) -> Vec<Option<u32>> {
        join_all(numbers.iter().map(|number| async { groups.write(|| *number).await.ok() })).await
    }

    #[tokio::test]
    async fn what_comes_while_one_writes_is_the_next_group() {
        let groups = Groups::new(Numbers::default());
        assert_eq!(write(&groups, &[1, 2, 3, 4, 5]).await, [10, 20, 30, 40, 50].map(Some));
        assert_eq!(*groups.writer.groups.lock().unwrap(), [vec![1], vec![2, 3, 4], vec![5]]);
    }

    #[tokio::test]
    async fn one_that_cannot_be_written_spoils_no_other() {
        let groups = Groups::new(Numbers::default());
        assert_eq!(write(&groups, &[1, 2, 13, 3]).await, [Some(10), Some(20), None, Some(30)]);
        let written = groups.writer.groups.lock().unwrap().clone();
        assert_eq!(written, [vec![1], vec![2, 13, 3], vec![2], vec![13], vec![3]]);
    }

    #[tokio::test]
    async fn at_an_outage_one_is_told_and_the_others_come_again_together() {
        let groups = Groups::new(Numbers { outages: Mutex::new(2), ..Numbers::default() });
        assert_eq!(write(&groups, &[1, 2, 3, 4]).await, [None, None, Some(30), Some(40)]);
        assert_eq!(groups.writer.groups.lock().unwrap().last().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_writer_that_is_stopped_leaves_nobody_waiting() {
        let groups = Arc::new(Groups::new(Numbers::default()));
        let (first, second) = (groups.clone(), groups.clone());
        let mut first = Box::pin(async move { first.write(|| 1).await });
        let mut second = Box::pin(async move { second.write(|| 2).await });
        // Both wait before either has its turn, so that the first writes for both.
        let turn = groups.turn.lock().await;
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(turn);
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        drop(first);
        assert_eq!(second.await.unwrap(), 20);
    }
}
