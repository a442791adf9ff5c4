//! Progress as it arrives: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::cli::output::say;
use crate::cli::sse::Frame;

/// Shows events.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: u32,
    ended: u32,
}

impl Progress {
    /// Shows the progress of `total` pictures, as a bar if somebody looks at a terminal.
    pub(super) fn new(total: u32, is_terminal: bool) -> Self {
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} pictures  {elapsed}  {msg}");
        let bar = is_terminal.then(|| {
            let bar = ProgressBar::new(total.into());
            style.map_or(bar.clone(), |style| bar.with_style(style))
        });
        Self { bar, total, ended: 0 }
    }

    /// Shows one event.
    pub(super) fn show(&mut self, event: &Frame) {
        let Some(line) = describe(event) else { return };
        self.ended += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.inc(1);
            }
            None => say(&format!("{:>3}/{} {line}", self.ended, self.total)),
        }
    }

    /// Puts the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What an event says of a picture that ended; nothing for other events.
fn describe(event: &Frame) -> Option<String> {
    let data: Value = serde_json::from_str(&event.data).ok()?;
    let picture = format!("{} v{}", data["sceneId"].as_str()?, data["variant"].as_u64()?);
    match event.event.as_str() {
        "image_complete" => Some(format!("{picture} made")),
        "image_failed" => Some(format!("{picture} failed: {}", data["error"]["code"].as_str().unwrap_or("?"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: &str) -> Frame {
        Frame { id: "1".to_owned(), event: kind.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn only_pictures_that_ended_count() {
        let mut progress = Progress::new(2, false);
        progress.show(&event("started", r#"{"total":2}"#));
        progress.show(&event("image_complete", r#"{"sceneId":"a","variant":1}"#));
        progress.show(&event("item_complete", r#"{"sceneId":"a","state":"completed"}"#));
        progress.show(&event("something_new", r#"{"sceneId":"a","variant":1}"#));
        assert_eq!(progress.ended, 1);
        let failed = event("image_failed", r#"{"sceneId":"b","variant":2,"error":{"code":"safety_blocked"}}"#);
        assert_eq!(describe(&failed).as_deref(), Some("b v2 failed: safety_blocked"));
    }
}
