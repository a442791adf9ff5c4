//! Hints: who waits for a change is woken, in this process at once and, by the relay, in the others.
//!
//! A hint carries nothing that the tables do not hold, and one may be lost: whoever waits for it also
//! looks by itself now and then.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast, watch};

use crate::domain::ids::BatchId;

/// Hints that a slow listener may miss before it reads the table on its own; also the batches that are
/// told to other processes by name.
const HINTS_KEPT: usize = 1_024;
/// The longest payload that Postgres takes is 7,999 bytes.
const MAX_MESSAGE: usize = 7_900;

/// Says that something changed. The tables say what.
#[derive(Debug)]
pub struct Hints {
    /// Charges wait to be exported.
    pub charges: Notify,
    /// A batch ended, and its charges with it.
    pub batch_ended: Notify,
    work: watch::Sender<()>,
    changed: broadcast::Sender<Option<BatchId>>,
    cancelled: broadcast::Sender<Option<BatchId>>,
    /// What the other processes are to be told; `None` where there are none.
    outgoing: Mutex<Option<News>>,
    pub(super) to_send: Notify,
}

/// Follows the batches to which something happened.
#[derive(Debug)]
pub struct BatchHints(broadcast::Receiver<Option<BatchId>>);

/// What changed, gathered until it is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct News {
    kinds: BTreeSet<Kind>,
    /// Batches with new events.
    batches: BTreeSet<BatchId>,
    /// Batches that were cancelled.
    cancelled: BTreeSet<BatchId>,
}

/// What changed beside batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Pictures may have become ready.
    Work,
    /// Charges wait.
    Charges,
    /// A batch ended.
    Ended,
    /// Anything, and any batch.
    Everything,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Work, Self::Charges, Self::Ended, Self::Everything];

    const fn word(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Charges => "charges",
            Self::Ended => "ended",
            Self::Everything => "everything",
        }
    }
}

impl BatchHints {
    /// Ends when a batch that `matters` is hinted at, or may have been.
    pub async fn heard_of(&mut self, matters: impl Fn(BatchId) -> bool) {
        while matches!(self.0.recv().await, Ok(Some(batch)) if !matters(batch)) {}
    }
}

impl Hints {
    /// Without a hint yet; `shared` if other processes wait for them too.
    pub(super) fn new(shared: bool) -> Self {
        Self {
            charges: Notify::new(),
            batch_ended: Notify::new(),
            work: watch::Sender::new(()),
            changed: broadcast::Sender::new(HINTS_KEPT),
            cancelled: broadcast::Sender::new(HINTS_KEPT),
            outgoing: Mutex::new(shared.then(News::default)),
            to_send: Notify::new(),
        }
    }

    /// Changes whenever pictures may have become ready to be taken up.
    #[must_use]
    pub fn work(&self) -> watch::Receiver<()> {
        self.work.subscribe()
    }

    /// Follows the batches that got new events.
    #[must_use]
    pub fn batches(&self) -> BatchHints {
        BatchHints(self.changed.subscribe())
    }

    /// Follows the batches that are cancelled.
    #[must_use]
    pub fn cancels(&self) -> BatchHints {
        BatchHints(self.cancelled.subscribe())
    }

    /// Tells who waits that ends of these batches' pictures are written; `ended` if one was a batch's last.
    pub fn settled(&self, batches: impl IntoIterator<Item = BatchId>, ended: bool) {
        // A picture that waits again is this process's to take up, as soon as it is due; another one that has
        // room would look in vain after each settle.
        self.wake(&News { kinds: BTreeSet::from([Kind::Work]), ..News::default() });
        let mut kinds = BTreeSet::from([Kind::Charges]);
        kinds.extend(ended.then_some(Kind::Ended));
        self.tell(News { kinds, batches: batches.into_iter().collect(), ..News::default() });
    }

    /// Pictures wait to be taken up.
    pub(super) fn queued(&self) {
        self.tell(News { kinds: BTreeSet::from([Kind::Work]), ..News::default() });
    }

    /// `batch` has new events.
    pub(super) fn changed(&self, batch: BatchId) {
        self.tell(News { batches: BTreeSet::from([batch]), ..News::default() });
    }

    /// `batch` has new events, and pictures that wait.
    pub(super) fn retried(&self, batch: BatchId) {
        self.tell(News { kinds: BTreeSet::from([Kind::Work]), batches: BTreeSet::from([batch]), ..News::default() });
    }

    /// `batch` was cancelled.
    pub(super) fn cancelled(&self, batch: BatchId) {
        let batches = BTreeSet::from([batch]);
        self.tell(News { cancelled: batches.clone(), batches, ..News::default() });
    }

    fn tell(&self, news: News) {
        self.wake(&news);
        if let Some(outgoing) = self.lock().as_mut() {
            outgoing.add(news);
            self.to_send.notify_one();
        }
    }

    /// Wakes who waits in this process.
    pub(super) fn wake(&self, news: &News) {
        // Nobody listening is fine: no stream is open.
        for batch in &news.batches {
            drop(self.changed.send(Some(*batch)));
        }
        for batch in &news.cancelled {
            drop(self.cancelled.send(Some(*batch)));
        }
        if news.tells(Kind::Everything) {
            drop(self.changed.send(None));
            drop(self.cancelled.send(None));
        }
        if news.tells(Kind::Work) {
            self.work.send_replace(());
        }
        if news.tells(Kind::Charges) {
            self.charges.notify_one();
        }
        if news.tells(Kind::Ended) {
            self.batch_ended.notify_one();
        }
    }

    /// What was gathered since the last time.
    pub(super) fn take(&self) -> News {
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Puts back what could not be told.
    pub(super) fn put_back(&self, news: News) {
        if let Some(outgoing) = self.lock().as_mut() {
            outgoing.add(news);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<News>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl News {
    /// That nobody knows what changed.
    pub(super) fn everything() -> Self {
        Self { kinds: BTreeSet::from([Kind::Everything]), ..Self::default() }
    }

    fn tells(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind) || self.kinds.contains(&Kind::Everything)
    }

    fn add(&mut self, other: Self) {
        self.kinds.extend(other.kinds);
        self.batches.extend(other.batches);
        self.cancelled.extend(other.cancelled);
        if self.tells(Kind::Everything) || self.batches.len() + self.cancelled.len() > HINTS_KEPT {
            *self = Self::everything();
        }
    }

    /// The news as messages of `from` of at most [`MAX_MESSAGE`] bytes each; one, if there are none.
    pub(super) fn messages(&self, from: &str) -> Vec<String> {
        let kinds = self.kinds.iter().map(|kind| kind.word().to_owned());
        // The most urgent first: who waits for a cancel holds what others could use.
        let cancelled = self.cancelled.iter().map(|batch| format!("cancelled:{batch}"));
        let words = kinds.chain(cancelled).chain(self.batches.iter().map(BatchId::to_string));
        let mut messages = vec![from.to_owned()];
        for word in words {
            if messages.last().is_some_and(|message| message.len() + 1 + word.len() > MAX_MESSAGE) {
                messages.push(from.to_owned());
            }
            if let Some(message) = messages.last_mut() {
                message.push(' ');
                message.push_str(&word);
            }
        }
        messages
    }

    /// Who sent `message`, and what it says. A word of another version may mean anything.
    pub(super) fn parse(message: &str) -> (&str, Self) {
        let (from, words) = message.split_once(' ').unwrap_or((message, ""));
        let mut news = Self::default();
        for word in words.split_whitespace() {
            let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word);
            match (word.strip_prefix("cancelled:").map(str::parse), word.parse()) {
                (Some(Ok(batch)), _) => drop(news.cancelled.insert(batch)),
                (_, Ok(batch)) => drop(news.batches.insert(batch)),
                _ => drop(news.kinds.insert(kind.unwrap_or(Kind::Everything))),
            }
        }
        (from, news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{IdSource as _, RandomIds};

    fn batches(count: usize) -> BTreeSet<BatchId> {
        let ids = RandomIds::default();
        (0..count).map(|_| BatchId::new(ids.next())).collect()
    }

    #[test]
    fn news_of_any_length_come_through_in_messages_that_postgres_takes() {
        for count in [0, 1, 200, HINTS_KEPT / 2] {
            let (cancelled, batches) = (batches(count / 2), batches(count));
            let kinds = BTreeSet::from([Kind::Work, Kind::Ended]);
            let news = News { kinds, batches, cancelled };
            let messages = news.messages("me");
            let mut heard = News::default();
            for message in &messages {
                assert!(message.len() < 8_000);
                let (from, part) = News::parse(message);
                assert_eq!(from, "me");
                heard.add(part);
            }
            assert_eq!(heard, news);
        }
        assert_eq!(News::default().messages("me"), ["me"]);
    }

    #[test]
    fn what_cannot_be_understood_may_be_anything() {
        assert_eq!(News::parse("other a-word-of-a-later-version").1, News::everything());
        assert_eq!(News::parse("other"), ("other", News::default()));
    }

    #[test]
    fn news_that_nobody_fetches_do_not_grow_without_bound() {
        let alone = Hints::new(false);
        alone.changed(batches(1).pop_first().unwrap());
        assert_eq!(alone.take(), News::default(), "nobody is told");
        let hints = Hints::new(true);
        for batch in batches(2 * HINTS_KEPT) {
            hints.changed(batch);
        }
        assert_eq!(hints.take(), News::everything());
        assert_eq!(hints.take(), News::default());
    }
}
