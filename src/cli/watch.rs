//! A batch, watched until no picture of it is open, and its pictures saved as they come.
//!
//! The batch itself is the truth and is read first and last; events only tell what changes between. So nothing depends
//! on an event that was missed, on a service that has no streams, or on where an earlier command was stopped.

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::mpsc;

use super::client::Client;
use super::failure::Failure;
use super::found::{Failed, Found};
use super::remote::Remote;
use super::saver::Saver;
use super::screen::Screen;
use super::sse::Frame;
use super::view::{Batch, ImageComplete, Picture};
use crate::domain::ids::BatchId;
use crate::domain::state::BatchState;

/// Pictures that wait to be saved while events go on; then the stream waits.
const MAX_WAITING: usize = 64;
/// Items in a page of a batch: the most that the service gives.
pub(super) const PAGE: u32 = 200;

/// Watches one batch.
pub(super) struct Watch<'a> {
    client: &'a Client,
    screen: &'a Screen,
    batch: BatchId,
    saver: Option<Saver<'a>>,
}

impl<'a> Watch<'a> {
    /// Watches `batch`; saves its pictures, if `saver` is there.
    pub(super) fn new(client: &'a Client, screen: &'a Screen, batch: BatchId, saver: Option<Saver<'a>>) -> Self {
        Self { client, screen, batch, saver }
    }

    /// Watches until no picture is open, and everything there is is saved. `name` tells the batch from others.
    pub(super) async fn to_the_end(&self, name: &str) -> Result<Found, Failure> {
        let mut is_first = true;
        loop {
            let found = self.sweep(|batch| {
                if is_first {
                    self.screen.start(name, &batch.counts);
                } else {
                    self.screen.count(&batch.counts);
                }
            });
            let found = found.await?;
            if found.batch.finished_at.is_some() {
                self.screen.end();
                return Ok(found);
            }
            is_first = false;
            self.follow(found.batch.last_event).await?;
        }
    }

    /// Reads the whole batch, and saves what is there. Calls `first` with its first page.
    pub(super) async fn sweep(&self, mut first: impl FnMut(&Batch)) -> Result<Found, Failure> {
        let mut path = format!("/images/{}?limit={PAGE}", self.batch);
        let (mut head, mut failed, mut pages) = (None, Vec::new(), Pages::default());
        loop {
            let mut body: Value = self.client.get(&path).await?;
            let mut batch = parse(&body)?;
            if head.is_none() {
                first(&batch);
            }
            pages.turn(&batch)?;
            self.take_page(&mut batch, &mut failed).await?;
            let next = batch.next_cursor.take();
            if let Some(body) = body.as_object_mut() {
                body.retain(|name, _| !["items", "nextCursor"].contains(&name.as_str()));
            }
            // The first page has the number of the last event from which nothing after it can be missed.
            let (head, body) = head.get_or_insert((batch, body));
            let Some(cursor) = next else {
                return Ok(Found { batch: head.clone(), body: body.clone(), failed });
            };
            let cursor: String = url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect();
            path = format!("/images/{}?limit={PAGE}&cursor={cursor}", self.batch);
        }
    }

    async fn take_page(&self, batch: &mut Batch, failed: &mut Vec<Failed>) -> Result<(), Failure> {
        let mut pictures = Vec::new();
        for item in std::mem::take(&mut batch.items) {
            for image in item.images {
                if image.state == BatchState::Completed {
                    pictures.extend(Picture::new(&item.scene_id, image.variant, &image.stored));
                } else if let Some(reason) = image.error {
                    failed.push(Failed { scene: item.scene_id.clone(), variant: image.variant, reason });
                }
            }
        }
        match &self.saver {
            Some(saver) => saver.save_all(stream::iter(pictures)).await,
            None => Ok(()),
        }
    }

    /// Says what came of the batch.
    ///
    /// # Errors
    /// If not every picture was made, and saved where that was asked.
    pub(super) fn report(&self, found: &Found, file: Option<&str>, remote: &Remote) -> Result<(), Failure> {
        found.say(self.saver.as_ref(), file, remote);
        found.verdict(self.saver.as_ref())
    }

    /// Shows what happens after event `last`, and saves what is made.
    async fn follow(&self, last: u64) -> Result<(), Failure> {
        let (made, mut waiting) = mpsc::channel(MAX_WAITING);
        let following = async move {
            let on_event = async |event: Frame| {
                self.screen.show(&event);
                if let Some(picture) = picture_of(&event) {
                    // Who saves has failed then, and ends the whole.
                    let _ = made.send(picture).await;
                }
            };
            self.client.follow(self.batch, last, on_event).await
        };
        let saving = async {
            let waiting = stream::poll_fn(|context| waiting.poll_recv(context));
            if let Some(saver) = &self.saver {
                return saver.save_all(waiting).await;
            }
            waiting.for_each(async |_| {}).await;
            Ok(())
        };
        tokio::try_join!(following, saving).map(|_| ())
    }
}

/// The pages of a batch, which end.
#[derive(Debug, Default)]
pub(super) struct Pages {
    rows: usize,
}

impl Pages {
    /// Takes note of a page that was read.
    ///
    /// # Errors
    /// If another one is to follow, and this one is empty or there are more rows already than the batch has pictures.
    pub(super) fn turn(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.rows = self.rows.saturating_add(batch.items.len());
        let goes_on = batch.next_cursor.is_some();
        if goes_on && (batch.items.is_empty() || self.rows > batch.counts.total as usize) {
            return Err(Failure::Unexpected(format!("{} has pages without end", batch.id)));
        }
        Ok(())
    }
}

fn parse(body: &Value) -> Result<Batch, Failure> {
    serde::Deserialize::deserialize(body)
        .map_err(|error| Failure::Unexpected(format!("the service answered something unexpected: {error}")))
}

/// The picture that an event tells of.
fn picture_of(event: &Frame) -> Option<Picture> {
    if event.event != "image_complete" {
        return None;
    }
    let made: ImageComplete = serde_json::from_str(&event.data).ok()?;
    Picture::new(&made.scene_id, made.variant, &made.stored)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(rows: u32, total: u32, next: Option<&str>) -> Batch {
        let counts =
            json!({"total": total, "queued": 0, "running": 0, "completed": total, "failed": 0, "cancelled": 0});
        let items: Vec<Value> =
            (0..rows).map(|row| json!({"sceneId": row.to_string(), "prompt": "", "images": []})).collect();
        parse(&json!({"batchId": "bat_01KB0000000000000000000000", "state": "completed", "estimatedCost": 0,
            "actualCost": 0, "unknownCost": 0, "lastEvent": 1, "counts": counts, "items": items, "nextCursor": next}))
        .unwrap()
    }

    #[test]
    fn pages_that_never_end_are_left() {
        let mut pages = Pages::default();
        pages.turn(&page(200, 401, Some("a"))).unwrap();
        pages.turn(&page(200, 401, Some("a"))).unwrap();
        pages.turn(&page(1, 401, None)).unwrap();
        assert!(pages.turn(&page(1, 401, Some("a"))).is_err(), "more rows than pictures");
        assert!(Pages::default().turn(&page(0, 5, Some("a"))).is_err(), "nothing, and still more");
        assert!(Pages::default().turn(&page(0, 5, None)).is_ok());
    }
}
