//! Progress and messages, on standard error: a bar if somebody looks at a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::output::{complain, one_line};
use super::sse::Frame;
use crate::domain::state::Counts;

/// How often the clock of the bar goes on.
const TICK: Duration = Duration::from_secs(1);

/// Where progress is shown. Clones show the same.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    /// Counts also where it is not drawn.
    bar: ProgressBar,
    is_drawn: bool,
}

impl Screen {
    /// Draws a bar if standard error is a terminal.
    pub(super) fn new() -> Self {
        Self::drawn(std::io::stderr().is_terminal())
    }

    fn drawn(is_drawn: bool) -> Self {
        let bar = if is_drawn { ProgressBar::no_length() } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix}{bar:32} {pos}/{len} pictures  {elapsed}  {msg}");
        Self { bar: style.map_or(bar.clone(), |style| bar.with_style(style)), is_drawn }
    }

    /// Starts over at what was counted; `name` tells this batch from others.
    pub(super) fn start(&self, name: &str, counts: &Counts) {
        self.bar.set_prefix(if name.is_empty() { String::new() } else { format!("{} ", one_line(name)) });
        self.bar.set_length(counts.total.into());
        self.bar.reset_elapsed();
        if self.is_drawn {
            self.bar.enable_steady_tick(TICK);
        }
        self.count(counts);
    }

    /// Sets the bar to what was counted.
    pub(super) fn count(&self, counts: &Counts) {
        let open = counts.queued.saturating_add(counts.running);
        self.bar.set_position(counts.total.saturating_sub(open).into());
    }

    /// Shows one event.
    pub(super) fn show(&self, event: &Frame) {
        match describe(event) {
            Some(Told::Picture(line)) => {
                self.bar.inc(1);
                if self.is_drawn {
                    self.bar.set_message(line);
                } else {
                    let (ended, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
                    complain(&format!("{ended:>3}/{total} {line}"));
                }
            }
            Some(Told::Notice(line)) => self.say(&line),
            None => {}
        }
    }

    /// Shows what is being waited for; a line of its own where there is no bar.
    pub(super) fn wait(&self, line: &str) {
        if self.is_drawn {
            self.bar.set_message(one_line(line).into_owned());
        } else {
            complain(line);
        }
    }

    /// Shows a line that stays.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| complain(line));
    }

    /// Puts the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

enum Told {
    /// A picture ended.
    Picture(String),
    /// Something else to know.
    Notice(String),
}

/// What an event tells a person; nothing of most.
fn describe(event: &Frame) -> Option<Told> {
    let data: Value = serde_json::from_str(&event.data).ok()?;
    if event.event == "notice" {
        return data["detail"].as_str().map(|detail| Told::Notice(one_line(detail).into_owned()));
    }
    let picture = format!("{} v{}", one_line(data["sceneId"].as_str()?), data["variant"].as_u64()?);
    match event.event.as_str() {
        "image_complete" => Some(Told::Picture(format!("{picture} made"))),
        "image_failed" => {
            let code = data["error"]["code"].as_str().unwrap_or("?");
            Some(Told::Picture(format!("{picture} failed: {}", one_line(code))))
        }
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
        let screen = Screen::drawn(false);
        screen.start("", &Counts { total: 9, queued: 4, running: 2, completed: 2, failed: 1, cancelled: 0 });
        screen.show(&event("started", r#"{"total":2}"#));
        screen.show(&event("image_complete", r#"{"sceneId":"a","variant":1}"#));
        screen.show(&event("item_complete", r#"{"sceneId":"a","state":"completed"}"#));
        screen.show(&event("something_new", r#"{"sceneId":"a","variant":1}"#));
        assert_eq!(screen.bar.position(), 4);
        let failed = event("image_failed", r#"{"sceneId":"b","variant":2,"error":{"code":"safety_blocked"}}"#);
        assert!(matches!(describe(&failed), Some(Told::Picture(line)) if line == "b v2 failed: safety_blocked"));
        let notice = event("notice", r#"{"detail":"the provider asks to slow down"}"#);
        assert!(matches!(describe(&notice), Some(Told::Notice(line)) if line.ends_with("slow down")));
    }

    #[test]
    fn counts_that_do_not_add_up_are_no_reason_to_fall_over() {
        let screen = Screen::drawn(false);
        let odd = Counts { total: 1, queued: u32::MAX, running: 7, completed: 9, failed: 0, cancelled: 0 };
        screen.start("", &odd);
        assert_eq!(screen.bar.position(), 0);
    }

    #[test]
    fn an_event_steers_no_terminal() {
        let failed = r#"{"sceneId":"a\u001b[2J","variant":1,"error":{"code":"x\u0007\n"}}"#;
        assert!(matches!(describe(&event("image_failed", failed)),
            Some(Told::Picture(line)) if line == "a\\u001b[2J v1 failed: x\\u0007\\u000a"));
        let notice = event("notice", r#"{"detail":"\u009b31mred\ntape"}"#);
        assert!(matches!(describe(&notice), Some(Told::Notice(line)) if line == "\\u009b31mred\\u000atape"));
    }
}
