use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::ledger::StoredChunk;

const DAY: Day = Day::from_number(20_000);
/// Lines of the long day.
const MANY: u64 = 200_000;
/// Two pieces; the day has over 80 times as much, and a longer one makes no difference.
const MOST_HELD: usize = 512 << 10;

/// Bytes that are held by whoever asked for them, and the most that ever were.
#[derive(Default)]
struct Held {
    now: AtomicUsize,
    most: AtomicUsize,
    read: AtomicUsize,
}

/// A piece that counts for as long as any part of it is kept.
struct Piece {
    bytes: Vec<u8>,
    held: Arc<Held>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.held.now.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

/// A day of `MANY` equal lines, of which none exists before it is asked for.
struct Endless {
    line: Vec<u8>,
    held: Arc<Held>,
}

#[async_trait]
impl LedgerReader for Endless {
    async fn days(&self) -> Result<Vec<Day>, LedgerError> {
        Ok(vec![DAY])
    }

    async fn read_object(&self, _: Day, from: u64, at_most: usize) -> Result<Bytes, LedgerError> {
        let (from, length) = (usize::try_from(from).unwrap(), self.line.len());
        let end = (from + at_most).min(length * usize::try_from(MANY).unwrap());
        let lines = self.line.repeat((end - from) / length + 2);
        let bytes = lines[from % length..][..end - from].to_vec();
        self.held.read.fetch_add(bytes.len(), Ordering::SeqCst);
        let now = self.held.now.fetch_add(bytes.len(), Ordering::SeqCst) + bytes.len();
        self.held.most.fetch_max(now, Ordering::SeqCst);
        Ok(Bytes::from_owner(Piece { bytes, held: self.held.clone() }))
    }

    async fn chunks(&self, _: Day) -> Result<Vec<StoredChunk>, LedgerError> {
        Ok(Vec::new())
    }

    async fn read_chunk(&self, _: &StoredChunk) -> Result<Option<Bytes>, LedgerError> {
        Ok(None)
    }

    fn location(&self, _: Day) -> String {
        String::new()
    }
}

fn line() -> Vec<u8> {
    let id = "00000000000000000000000001";
    let line = format!(
        r#"{{"id":"chg_{id}","ts":1,"userId":"a","jobId":"bat_{id}","sceneId":"s","variant":1,"attemptId":"att_{id}","prompt":"p","images":1,"cost":0.000001,"model":"m","outcome":"unknown","requestId":null}}"#
    );
    (line + "\n").into_bytes()
}

#[tokio::test]
async fn a_day_of_any_length_is_summed_with_a_piece_of_it_in_memory() {
    let held = Arc::new(Held::default());
    let ledger: Arc<dyn LedgerReader> = Arc::new(Endless { line: line(), held: held.clone() });
    let summed = sum(&ledger, |_| true, Grouping::User).await.unwrap();
    let total = summed.report.total;
    assert_eq!((total.charges, total.cost.to_string(), total.unknown.to_string()), (MANY, "0.2".into(), "0.2".into()));
    let (read, most) = (held.read.load(Ordering::SeqCst), held.most.load(Ordering::SeqCst));
    let whole = line().len() * usize::try_from(MANY).unwrap();
    assert!(read >= whole && read < whole + whole / 100, "each line is read about once: {read} of {whole}");
    assert!(most <= MOST_HELD && whole > 80 * MOST_HELD, "held {most} of {whole}");
    assert_eq!(held.now.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn days_that_are_not_wanted_are_not_read() {
    let held = Arc::new(Held::default());
    let ledger: Arc<dyn LedgerReader> = Arc::new(Endless { line: line(), held: held.clone() });
    let summed = sum(&ledger, |day| day != DAY, Grouping::User).await.unwrap();
    assert_eq!((summed.days.len(), summed.report.groups.len(), held.read.load(Ordering::SeqCst)), (0, 0, 0));
}

#[tokio::test]
async fn a_line_that_cannot_be_read_is_named_and_nothing_is_summed() {
    let held = Arc::new(Held::default());
    let ledger: Arc<dyn LedgerReader> = Arc::new(Endless { line: b"{}\n".to_vec(), held });
    let error = sum(&ledger, |_| true, Grouping::User).await.unwrap_err();
    assert!(matches!(error, ReportError::Ledger(LedgerError::Corrupt { day: DAY, line: 1 })), "{error:?}");
}
