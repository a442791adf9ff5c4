//! The course of a batch as its stream tells it, judged event by event: each once, in order, without a hole.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;

use super::faults::told;
use crate::cli::client::Then;
use crate::cli::sse::Frame;
use crate::domain::ids::BatchId;
use crate::domain::time::Timestamp;

/// What is read of every event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    batch_id: BatchId,
    seq: u64,
    ts: i64,
    scene_id: Option<String>,
    variant: Option<u32>,
    url_expires_at: Option<String>,
}

/// What the stream told so far.
#[derive(Debug)]
pub(super) struct Course {
    batch: BatchId,
    pictures: u32,
    last: u64,
    started: Option<i64>,
    ended: HashSet<(String, u32)>,
    faults: Vec<String>,
    /// `image_complete` events.
    pub(super) completed: u32,
    /// `image_failed` events.
    pub(super) failed: u32,
    /// Whether `done` came.
    pub(super) is_done: bool,
    /// Streams that were left on purpose.
    pub(super) left: u32,
    /// From the batch's start to each picture that was made, by the service's clock.
    pub(super) times: Vec<Duration>,
    /// When the links of each event end.
    pub(super) link_ends: Vec<Timestamp>,
}

impl Course {
    /// Nothing was told yet of `batch`, which has so many `pictures`.
    pub(super) fn new(batch: BatchId, pictures: u32) -> Self {
        Self {
            batch,
            pictures,
            last: 0,
            started: None,
            ended: HashSet::new(),
            faults: Vec::new(),
            completed: 0,
            failed: 0,
            is_done: false,
            left: 0,
            times: Vec::new(),
            link_ends: Vec::new(),
        }
    }

    /// The number of the last event that came.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// What was wrong with events, if anything was.
    pub(super) fn faults(&self) -> Option<String> {
        told(&self.faults)
    }

    /// Takes an event; whether the stream is to be opened again after it: after the first event, and halfway.
    pub(super) fn take(&mut self, event: &Frame) -> Then {
        let is_first = self.last == 0;
        let ended = self.completed + self.failed;
        self.judge(event);
        let half = self.pictures / 2;
        let is_half = ended < half && self.completed + self.failed >= half;
        if !self.is_done && (is_first || is_half) {
            self.left += 1;
            return Then::Reconnect;
        }
        Then::GoOn
    }

    fn judge(&mut self, event: &Frame) {
        let Ok(number) = event.id.parse::<u64>() else {
            return self.faults.push(format!("an event has the number {:?}", event.id));
        };
        if number <= self.last {
            return self.faults.push(format!("event {number} came again after event {}", self.last));
        }
        if number != self.last + 1 {
            self.faults.push(format!("event {number} came after event {}", self.last));
        }
        self.last = number;
        let Ok(told) = serde_json::from_str::<Told>(&event.data) else {
            return self.faults.push(format!("event {number} cannot be read"));
        };
        if (told.seq, told.batch_id, &*told.kind) != (number, self.batch, &*event.event) {
            self.faults.push(format!("event {number} says that it is another one"));
        }
        self.count(told);
    }

    fn count(&mut self, told: Told) {
        match &*told.kind {
            "started" => return self.started = self.started.or(Some(told.ts)),
            "done" => return self.is_done = true,
            "image_complete" => {
                self.completed += 1;
                let took = u64::try_from(told.ts - self.started.unwrap_or(told.ts)).unwrap_or(0);
                self.times.push(Duration::from_millis(took));
                self.link_ends.extend(told.url_expires_at.and_then(|at| at.parse::<Timestamp>().ok()));
            }
            "image_failed" => self.failed += 1,
            _ => return,
        }
        if let (Some(scene), Some(variant)) = (told.scene_id, told.variant)
            && !self.ended.insert((scene.clone(), variant))
        {
            self.faults.push(format!("{scene} v{variant} ended twice"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: &str = "bat_01KB0000000000000000000000";

    fn event(number: u64, kind: &str, scene: &str) -> Frame {
        let data = format!(
            r#"{{"type":"{kind}","batchId":"{BATCH}","seq":{number},"ts":{},"sceneId":"{scene}","variant":1,"urlExpiresAt":"2026-11-24T12:00:00Z"}}"#,
            1_000 + number * 100
        );
        Frame { id: number.to_string(), event: kind.to_owned(), data }
    }

    /// The course of a batch of two pictures.
    fn course(events: &[Frame]) -> (Course, Vec<Then>) {
        let mut course = Course::new(BATCH.parse().unwrap(), 2);
        let then = events.iter().map(|event| course.take(event)).collect();
        (course, then)
    }

    fn right() -> Vec<Frame> {
        vec![
            event(1, "started", ""),
            event(2, "image_complete", "a"),
            event(3, "image_failed", "b"),
            event(4, "done", ""),
        ]
    }

    #[test]
    fn a_course_without_fault_is_counted_and_left_twice() {
        let (course, then) = course(&right());
        assert_eq!(then, [Then::Reconnect, Then::Reconnect, Then::GoOn, Then::GoOn]);
        assert_eq!((course.completed, course.failed, course.left, course.last()), (1, 1, 2, 4));
        assert_eq!((course.is_done, course.faults()), (true, None));
        assert_eq!(course.times, [Duration::from_millis(100)]);
        assert_eq!(course.link_ends, ["2026-11-24T12:00:00Z".parse().unwrap()]);
    }

    #[test]
    fn an_event_that_is_missing_doubled_out_of_order_or_another_ones_is_named() {
        let faults = |events: &[Frame]| course(events).0.faults().unwrap_or_default();
        let mut events = right();
        events.remove(1);
        assert_eq!(faults(&events), "event 3 came after event 1");
        let mut events = right();
        events.insert(2, events[1].clone());
        assert_eq!(faults(&events), "event 2 came again after event 2");
        let mut events = right();
        events.swap(1, 2);
        assert_eq!(faults(&events), "event 3 came after event 1; event 2 came again after event 3");
        let mut events = right();
        events[1].data = events[1].data.replace("\"seq\":2", "\"seq\":7");
        assert_eq!(faults(&events), "event 2 says that it is another one");
        let mut events = right();
        events[1].data.clear();
        assert_eq!(faults(&events), "event 2 cannot be read");
        let mut events = right();
        events[2] = event(3, "image_complete", "a");
        assert_eq!(faults(&events), "a v1 ended twice");
        let garbled: Vec<Frame> = (0..5).map(|_| Frame { id: "x".into(), ..Frame::default() }).collect();
        assert!(faults(&garbled).ends_with("; and 2 more"));
    }
}
