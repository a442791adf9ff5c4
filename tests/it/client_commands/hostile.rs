//! What a service says is shown, and does nothing else: not to the terminal, and not to a program that reads it.

use serde_json::{Value, json};

use super::{Desk, batch_file, batches, paying};
use crate::proxy::{self, Tampering};

/// Sets a title, rings the bell, colours what follows by a C1 character, and makes a line of its own.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\nall is well";

/// Whether the text would do anything but be read.
fn steers(text: &str) -> bool {
    text.contains(|c: char| c.is_control() && c != '\n')
}

#[tokio::test]
async fn words_of_a_service_do_not_steer_the_terminal() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).start().await;
    let desk = Desk::at(&service.url);
    desk.write("rows.json", &batch_file(&[("bad", "[refuse] a mug", 1)]));
    desk.expect(1, &["submit", "rows.json", "--live", "--watch"]).await;
    let batch = batches(&service).await.remove(0);
    let answers = Tampering::json("/images", |answer| {
        answer["message"] = HOSTILE.into();
        answer["detail"] = HOSTILE.into();
        if let Some(item) = answer.pointer_mut("/items/0") {
            item["sceneId"] = HOSTILE.into();
            item["images"][0]["error"] = json!({"code": HOSTILE, "detail": HOSTILE, "retryable": true});
        }
        // So that it is followed.
        answer["finishedAt"] = Value::Null;
    });
    let url = proxy::before(&service.url, answers).await;
    let hostile = Desk::at(&url);
    let (out, err) = hostile.expect(1, &["download", &batch]).await;
    assert!(out.contains("\\u001b]0;owned\\u0007") && !steers(&out) && !steers(&err), "{out}{err}");
    let row = out.lines().find(|line| line.starts_with("\\u001b")).unwrap();
    assert_eq!(row.matches("\\u000aall is well").count(), 3, "one line for the picture: {out}");
    hostile.write("rows.json", &batch_file(&[("bad", "a mug", 1)]));
    let (_, err) = hostile.expect(64, &["submit", "rows.json", "--model", "nobodys"]).await;
    assert!(err.contains("\\u001b]0;owned") && !steers(&err), "{err}");
    assert!(!err.lines().any(|line| line.starts_with("all is well")), "{err}");
    let answer = hostile.json(1, &["download", &batch]).await;
    assert_eq!(answer[0]["message"], HOSTILE, "a program reads what was sent");
}

#[tokio::test]
async fn an_event_does_not_steer_the_terminal_either() {
    let data = tempfile::tempdir().unwrap();
    let service = paying(data.path()).with("SYNTHETIC_LATENCY", "200ms").start().await;
    let events =
        Tampering::events(|event| vec![event.replace("\"sceneId\":\"mug\"", "\"sceneId\":\"\\u001b[2J\\u009b\"")]);
    let desk = Desk::at(&proxy::before(&service.url, events).await);
    desk.write("rows.json", &batch_file(&[("mug", "a mug", 1)]));
    let (out, err) = desk.expect(0, &["submit", "rows.json", "--live", "--watch"]).await;
    assert!(err.contains("  1/1 \\u001b[2J\\u009b v1 made") && !steers(&err) && !steers(&out), "{err}");
}
